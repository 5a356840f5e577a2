"""Blocks of work over processes: serial, joblib's workers or any executor, with the same results."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import suppress
from itertools import islice
from threading import Thread
from typing import Any

from innerloop._base.progress import no_tick
from innerloop._blocks.store import Arrays, Store

# Blocks submitted to an executor at a time: so many per worker, or for so many workers where their number is unknown.
_AHEAD, _UNKNOWN_WORKERS = 2, 32
_ATTEMPTS = 4
_SECONDS_BETWEEN_POLLS, _SECONDS_BETWEEN_CHECKS = 0.1, 5.0
# Idle workers end after this time, as those of joblib.Parallel do.
_SECONDS_IDLE = 300

Compute = Callable[[int], Arrays]


def gather(
    compute: Compute,
    blocks: Sequence[int],
    store: Store,
    n_jobs: int = 1,
    executor: Executor | None = None,
    tick: Callable[[], None] = no_tick,
) -> list[Arrays]:
    """Return all blocks in order: read from the store if finished, computed and written to it if not.

    Parameters
    ----------
    compute
        Function of a block's number; picklable for other processes.
    blocks
        Numbers of the blocks.
    store
        Where each block is written as soon as it is finished.
    n_jobs
        Number of processes of joblib's pool; -1 takes all cores. Ignored with an executor.
    executor
        Any `concurrent.futures.Executor`.
    tick
        Called once per block.

    Raises
    ------
    RuntimeError
        If workers die several times in a row.
    """
    done: dict[int, Arrays] = {}
    deaths = 0

    def open_blocks() -> Iterator[int]:
        for block in blocks:
            if block in done or not _take(block, store, done, tick):
                continue
            yield block

    try:
        while len(done) < len(blocks):
            before = len(done)
            try:
                for block, arrays in _unordered(compute, open_blocks(), n_jobs, executor):
                    store.write(block, arrays)
                    done[block] = arrays
                    tick()
            except BrokenExecutor as error:
                deaths = deaths + 1 if len(done) == before else 1
                if deaths == _ATTEMPTS:
                    raise RuntimeError(
                        f"workers died {_ATTEMPTS} times in a row; finished blocks are kept. If memory is short, take "
                        "fewer processes."
                    ) from error
                if executor is not None:
                    warnings.warn("the executor lost a worker and is broken; going on in this process.", stacklevel=3)
                    executor, n_jobs = None, 1
                store.release()
                continue
            if len(done) == before:  # other processes hold all remaining blocks
                time.sleep(_SECONDS_BETWEEN_POLLS)
    finally:
        store.release()
    return [done[block] for block in blocks]


def _take(block: int, store: Store, done: dict[int, Arrays], tick: Callable[[], None]) -> bool:
    """Return whether this process is to compute a block: it is not in the store, and no other process holds it."""
    if (arrays := store.read(block)) is None:
        if not store.claim(block):
            return False
        if (arrays := store.read(block)) is None:
            return True
        store.release(block)  # another process finished it between the two reads
    done[block] = arrays
    tick()
    return False


def _unordered(
    compute: Compute, blocks: Iterator[int], n_jobs: int, executor: Executor | None
) -> Iterator[tuple[int, Arrays]]:
    """Yield (block, arrays) in the order they finish, taking a block only when a worker has room for it."""
    if executor is None and n_jobs == 1:
        for block in blocks:
            yield block, compute(block)
    else:
        yield from _on_executor(compute, blocks, _workers(n_jobs) if executor is None else executor)


def _workers(n_jobs: int) -> Executor:
    # joblib.Parallel itself would take blocks, and their locks, in its own threads; this is the pool under it.
    from joblib import cpu_count
    from joblib.externals.loky import get_reusable_executor

    size = cpu_count() if n_jobs == -1 else n_jobs
    options: dict[str, Any] = {"timeout": _SECONDS_IDLE, "initializer": _end_with, "initargs": (os.getpid(),)}
    workers: Executor = get_reusable_executor(size, **options)
    if _has_ended(workers):  # joblib does not notice, and would return the same dead pool again
        workers = get_reusable_executor(size, **options, reuse=False)
    return workers


def _end_with(parent: int) -> None:
    """End this worker soon after its parent, which may be killed without a word."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def stop_workers() -> None:
    """End all processes that this one started, without waiting for their work."""
    import psutil

    pools = sys.modules.get("joblib.externals.loky.reusable_executor")
    if (workers := getattr(pools, "_executor", None)) is not None:
        workers.shutdown(wait=False, kill_workers=True)
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if not any("resource_tracker" in word for word in child.cmdline()):  # it ends with this process
                child.kill()


def _on_executor(compute: Compute, blocks: Iterator[int], executor: Executor) -> Iterator[tuple[int, Arrays]]:
    room = _AHEAD * getattr(executor, "_max_workers", _UNKNOWN_WORKERS)
    running: dict[Future[Arrays], int] = {}
    try:
        while True:
            for block in islice(blocks, room - len(running)):
                running[executor.submit(compute, block)] = block
            if not running:
                return
            done = wait(running, _SECONDS_BETWEEN_CHECKS, FIRST_COMPLETED).done
            if not done and _is_dead(executor):
                raise BrokenExecutor("the process pool ended without failing the work submitted to it.")
            for future in sorted(done, key=_has_failed):  # finished blocks are yielded before a failed one raises
                yield running.pop(future), future.result()
    finally:
        for future in running:
            future.cancel()


def _is_dead(executor: Executor) -> bool:
    """Return whether a process pool no longer runs its work, as after a worker was killed."""
    return getattr(executor, "_executor_manager_thread", executor) is None or _has_ended(executor)


def _has_ended(executor: Executor) -> bool:
    """Return whether the manager thread of a process pool was started and has ended."""
    manager = getattr(executor, "_executor_manager_thread", None)
    return isinstance(manager, Thread) and not manager.is_alive()


def _has_failed(future: Future[Arrays]) -> bool:
    return future.exception() is not None
