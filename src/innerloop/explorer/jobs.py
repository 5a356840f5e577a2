"""Work that takes long, in a process each: it is watched, stopped at any moment, and ends with the server."""

from __future__ import annotations

import multiprocessing as mp
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, final

Send = Callable[[dict[str, Any]], None]
# A job is a function of where to send dictionaries, which the page sees merged, and of its arguments. "done" is the
# part that is done, 0 to 1.
Work = Callable[..., None]
_SECONDS_TO_END = 0.5
_MOST_FINISHED = 20
# What a job may need, loaded once by the process that jobs are forked from.
_PRELOADED = ["innerloop.explorer.work"]


@final
class Jobs:
    """The jobs of a server.

    Parameters
    ----------
    kinds
        Work by its name; functions of a module, as other processes must find them.
    """

    def __init__(self, kinds: Mapping[str, Work]) -> None:
        self._kinds = kinds
        self._jobs: dict[str, _Job] = {}
        self._context: Any = None
        self._lock = threading.Lock()

    def start(self, kind: str, *arguments: Any) -> str:
        """Start a job and return its name."""
        with self._lock:
            if self._context is None:
                self._context = _context()
            for name in [name for name, job in self._jobs.items() if job.has_ended][:-_MOST_FINISHED]:
                del self._jobs[name]
            name = secrets.token_urlsafe(8)
            self._jobs[name] = _Job(self._context, self._kinds[kind], arguments)
        return name

    def state(self, name: str) -> dict[str, Any]:
        """Return what is known of a job: what it sent, "ended", and "sentence" where it failed."""
        return self._named(name).state()

    def stop(self, name: str) -> None:
        """End a job; what it sent stays."""
        self._named(name).stop()

    def _named(self, name: str) -> _Job:
        if name not in self._jobs:
            raise ValueError("This work is no longer known; start it again.")
        return self._jobs[name]

    def close(self) -> None:
        """End all jobs."""
        with self._lock:
            for job in self._jobs.values():
                job.stop()


@final
class _Job:
    def __init__(self, context: Any, work: Work, arguments: tuple[Any, ...]) -> None:
        self._state: dict[str, Any] = {"done": 0.0, "ended": False}
        self._lock = threading.Lock()
        here, there = context.Pipe()
        self._here: Connection = here
        self._process = context.Process(target=_run, args=(there, work, arguments), daemon=True)
        self._process.start()
        there.close()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def has_ended(self) -> bool:
        return bool(self._state["ended"])

    def state(self) -> dict[str, Any]:
        with self._lock:
            return dict(self._state)

    def stop(self) -> None:
        with self._lock:
            self._state["ended"] = True
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(_SECONDS_TO_END)
            self._process.kill()

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                news = self._here.recv()
                with self._lock:
                    if not self._state["ended"]:
                        self._state |= news
        self._process.join()
        with self._lock:
            if not self._state["ended"]:
                self._state |= {"ended": True, "sentence": "The process of this work was ended from outside."}


def _context() -> Any:
    """Return how processes are started: forked from a small one where that is possible, as this one has threads."""
    if "forkserver" not in mp.get_all_start_methods():
        return mp.get_context("spawn")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _run(pipe: Connection, work: Work, arguments: tuple[Any, ...]) -> None:
    """Do the work; end at once when nobody listens any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the server, which ends this
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    news: dict[str, Any] = {"ended": True, "done": 1.0}
    try:
        work(pipe.send, *arguments)
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError, OverflowError) as error:
        news["sentence"] = " ".join(str(error).split()) or type(error).__name__
    except Exception as error:  # whatever it is, the page says it
        news["sentence"] = f"This is a mistake in innerloop, not in your input: {type(error).__name__}: {error}"
    with suppress(OSError):
        pipe.send(news)
    sys.stdout.flush()
    os._exit(0)


def _end_with(pipe: Connection) -> None:
    with suppress(EOFError, OSError):
        pipe.recv()
    os._exit(1)
