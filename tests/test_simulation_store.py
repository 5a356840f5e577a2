"""Runs give the same bits wherever they are computed, and survive what happens to processes, disks and files."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import innerloop as il
from cases import table
from innerloop._blocks import pool as worker_pool
from innerloop._blocks import store as block_store
from innerloop._blocks.pool import gather
from innerloop._blocks.store import BlockStore

# The designs here are small: N is near p.
pytestmark = pytest.mark.filterwarnings("ignore:.* the loss of a run has")

RATES = {"inner_lr": [-0.4, 0.1, 0.3], "adapt_lr": [0.0, 0.2]}
N_RUNS = 30


@dataclass(frozen=True)
class Logged(il.QuadraticRegression):
    """Notes every run that is drawn in a file; once, or always, kills the process or fails at some run instead."""

    folder: str = ""
    action: str = ""

    def draw_tasks(self, sizes, rng):
        drawn = super().draw_tasks(sizes, rng)
        marker, log = Path(self.folder) / "acted", Path(self.folder) / "log"
        if self.action and log.exists() and len(log.read_text().split()) > 8 and not marker.exists():
            if "always" not in self.action:
                marker.touch()
            if "kill" in self.action:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt if "interrupt" in self.action else ZeroDivisionError
        time.sleep(0.005)
        with log.open("a") as file:
            file.write(f"{drawn[0][1][0]!r}\n")
        return drawn


def n_drawn(folder):
    return len((folder / "log").read_text().split())


def logged(folder, action="", n_runs=40, **options):
    sizes = {"n_test_tasks": 2, "n_test_rows": 2, "block_size": 4, **options}
    dist = Logged(2, folder=str(folder), action=action)
    return il.estimate_loss(dist, il.Design(2, 3, 2, 3), [0.0, 0.1], 0.1, n_runs, store=folder / "store", **sizes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return logged(tmp_path_factory.mktemp("undisturbed"))


def same(found, expected):
    return all(np.array_equal(found[name], expected[name]) for name in expected.data_vars)


TABLE = table([12] * 9, 5)
PROBLEMS = {
    "over": (il.MixedLinearRegression(8, task_std=0.5), il.Design(2, 5, 2, 4), {}),
    "under": (il.MixedLinearRegression(8), il.Design(7, 5, 4, 4, n_steps=2), {}),
    "general": (il.MixedLinearRegression(8, covariance=np.arange(1, 9) ** -0.5), il.Design(3, (5, 9, 5), 2, 4), {}),
    "signs": (il.MixedLinearRegression(4, fourth_moment=1), il.Design(2, 5, 2, 4), {"init": np.ones(4)}),
    "implicit": (il.MixedLinearRegression(8), il.Design(2, 5, 2, 4, inner_rule="implicit"), {"inner_lr": [0.2]}),
    "sampled": (il.MixedLinearRegression(8), il.Design(3, 5, 4, 4), {"scoring": "sampled", "n_test_tasks": 5}),
    "table": (
        il.TaskSet.from_arrays(*table([12] * 9, 5)),
        il.Design(3, 4, 4, 4),
        {"n_test_tasks": 4, "n_test_rows": 8},
    ),
}


def estimate(name, **options):
    dist, design, own = PROBLEMS[name]
    return il.estimate_loss(dist, design, n_runs=N_RUNS, seed=5, **{**RATES, **own, **options})


@pytest.fixture(scope="module")
def serial():
    return {name: estimate(name) for name in PROBLEMS}


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [1, 7, 64])
def test_blocks_of_any_size_give_the_same_bits(serial, block_size, tmp_path):
    for name, expected in serial.items():
        fresh, resumed = (estimate(name, block_size=block_size, store=tmp_path / name) for _ in range(2))
        assert fresh.identical(expected)
        assert resumed.identical(expected)


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [2, 4])
def test_any_number_of_processes_gives_the_same_bits(serial, n_jobs):
    for name, expected in serial.items():
        assert estimate(name, n_jobs=n_jobs, block_size=4).identical(expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ProcessPoolExecutor, ThreadPoolExecutor])
def test_any_executor_gives_the_same_bits(serial, kind, tmp_path):
    with kind(3) as executor:
        for name, expected in serial.items():
            assert estimate(name, executor=executor, block_size=4, store=tmp_path / name).identical(expected)


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_bits(serial, tmp_path):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": None, "local_directory": str(tmp_path)}
    with distributed.Client(processes=False, **options) as client, client.get_executor() as executor:
        for name, expected in serial.items():
            assert estimate(name, executor=executor, block_size=4).identical(expected)


THREADS = """
import threading
import scipy.linalg
from threadpoolctl import threadpool_info
from innerloop._base.threads import one_thread

def threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

def first():
    with one_thread():
        inside.wait()
        leave.wait()

inside, leave = threading.Barrier(2), threading.Event()
before, thread = threads(), threading.Thread(target=first)
thread.start()
with one_thread():
    inside.wait()
    leave.set()
    thread.join()
    within = threads()
print(set(before), set(within), threads() == before)
"""


@pytest.mark.slow
def test_threads_leave_blas_as_it_was():
    # Workers of Dask leave a number of their own in the environment, and OpenBLAS takes that first.
    threads = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    environment = os.environ | threads | {"PYTHONPATH": str(Path(il.__file__).parents[1])}
    ran = subprocess.run([sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == "{2} {1} True\n"


@pytest.mark.slow
def test_a_longer_sweep_reuses_the_blocks_that_are_there(tmp_path, undisturbed):
    logged(tmp_path, n_runs=20)
    first = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("block-*")}
    assert same(logged(tmp_path, block_size=16), undisturbed)  # the folder keeps its own size
    assert n_drawn(tmp_path) == 40
    assert (
        first.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("block-*")}.items()
    )
    assert same(logged(tmp_path), undisturbed)
    assert n_drawn(tmp_path) == 40


CHILD = """
import sys
from pathlib import Path
from test_simulation_store import logged
if __name__ == "__main__":
    logged(Path(sys.argv[1]), n_runs=120, n_jobs=int(sys.argv[2]))
"""


def start(folder, n_jobs=1):
    script = folder / "child.py"
    script.write_text(CHILD)
    paths = os.pathsep.join([str(Path(il.__file__).parents[1]), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), str(n_jobs)],
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,
    )


def wait_for_blocks(folder, n_blocks, child):
    while len(list((folder / "store").glob("block-*"))) < n_blocks:
        assert child.poll() is None
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_killed_sweep_goes_on_where_it_was(n_jobs, tmp_path):
    (tmp_path / "whole").mkdir()
    expected = logged(tmp_path / "whole", n_runs=120)
    for n_blocks in (1, 14):
        child = start(tmp_path, n_jobs)
        wait_for_blocks(tmp_path, n_blocks, child)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("block-*")}
    assert same(logged(tmp_path, n_runs=120), expected)
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
    assert n_drawn(tmp_path) <= 120 + 2 * 4 * 2 * n_jobs  # at most the blocks under way at each kill twice


@pytest.mark.slow
def test_two_processes_share_a_sweep(tmp_path):
    children = [start(tmp_path), start(tmp_path, 2)]
    assert [child.wait(60) for child in children] == [0, 0]
    assert n_drawn(tmp_path) == 120
    assert len(set((tmp_path / "log").read_text().split())) == 120
    assert list((tmp_path / "store" / "locks").glob("block-*")) == []


@pytest.mark.slow
def test_a_killed_worker_does_not_lose_the_run(tmp_path, undisturbed):
    assert same(logged(tmp_path, "kill", n_jobs=2), undisturbed)
    assert (tmp_path / "acted").exists()


@pytest.mark.slow
def test_a_broken_executor_does_not_lose_the_run(tmp_path, undisturbed):
    with ProcessPoolExecutor(2) as executor, pytest.warns(UserWarning, match="the executor lost a worker"):
        assert same(logged(tmp_path, "kill", executor=executor), undisturbed)
    assert (tmp_path / "acted").exists()


@pytest.mark.slow
def test_a_pool_that_stops_without_a_word_is_not_waited_for(tmp_path, undisturbed, monkeypatch):
    class Silent(Executor):
        """Takes work and never does it, as a process pool whose manager has ended."""

        _executor_manager_thread = None

        def submit(self, *_):
            return Future()

    monkeypatch.setattr(worker_pool, "_SECONDS_BETWEEN_CHECKS", 0.01)
    with pytest.warns(UserWarning, match="the executor lost a worker"):
        assert same(logged(tmp_path, executor=Silent()), undisturbed)


@pytest.mark.slow
def test_a_pool_whose_manager_has_ended_is_replaced(tmp_path, undisturbed, monkeypatch):
    pool, ended = worker_pool._workers(2), threading.Thread(target=int)
    ended.start()
    ended.join()
    monkeypatch.setattr(pool, "_executor_manager_thread", ended)
    assert worker_pool._workers(2) is not pool
    assert same(logged(tmp_path, n_jobs=2), undisturbed)
    assert worker_pool._workers(2) is worker_pool._workers(2)


@pytest.mark.slow
def test_workers_that_always_die_end_the_run_with_its_blocks_kept(tmp_path):
    with pytest.raises(RuntimeError, match="workers died 4 times in a row; finished blocks are kept"):
        logged(tmp_path, "always kill", n_jobs=2)
    assert list((tmp_path / "store").glob("block-*"))


@pytest.mark.slow
@pytest.mark.parametrize(("action", "error"), [("fail", ZeroDivisionError), ("interrupt", KeyboardInterrupt)])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_error_inside_a_run_leaves_no_locks(action, error, n_jobs, tmp_path):
    if action == "interrupt" and n_jobs == 2:
        pytest.skip("an interrupt reaches this process, not a worker")
    with pytest.raises(error):
        logged(tmp_path, action, n_jobs=n_jobs)
    assert list((tmp_path / "store" / "locks").glob("block-*")) == []
    before = n_drawn(tmp_path)
    logged(tmp_path, action)
    assert n_drawn(tmp_path) > before


def test_a_full_disk_ends_with_a_sentence_and_a_store_that_resumes(tmp_path, undisturbed, monkeypatch):
    synced = []

    def full(handle):
        synced.append(handle)
        if len(synced) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '[^']*block-00000004.npz'$"):
        logged(tmp_path)
    monkeypatch.undo()
    assert len(list((tmp_path / "store").iterdir())) == 4 + len({"plan.json", "locks"})
    assert list((tmp_path / "store" / "locks").glob("block-*")) == []
    assert same(logged(tmp_path), undisturbed)
    assert n_drawn(tmp_path) == 40 + 4  # one block was lost


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_block_is_noticed_and_computed_again(damage, tmp_path, undisturbed):
    logged(tmp_path)
    path = tmp_path / "store" / "block-00000003.npz"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for place in rng.choice(len(whole), 12 if damage == "flip" else 1, replace=False):
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes({"flip": bytes(content), "cut": whole[:place], "empty": b""}[damage])
        before = n_drawn(tmp_path)
        assert same(logged(tmp_path), undisturbed)
        assert n_drawn(tmp_path) == before + 4
        assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [None, b"", b"[1, 2]", b"{}", b"\xff\xfe", b'{"sha256": 1, "plan": {}}'])
def test_a_damaged_plan_is_refused(content, tmp_path):
    logged(tmp_path, n_runs=4)
    path = tmp_path / "store" / "plan.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 1') if content is None else content)
    with pytest.raises(ValueError, match=r"plan.json is no plan of a store, or is damaged; name another folder"):
        logged(tmp_path, n_runs=4)


def test_another_format_is_refused(tmp_path):
    BlockStore(tmp_path, {"a": 1}, 2)
    content = json.loads((tmp_path / "plan.json").read_text())
    content["version"] = 7
    del content["sha256"]
    (tmp_path / "plan.json").write_text(json.dumps({**content, "sha256": block_store._plan_digest(content)}))
    with pytest.raises(ValueError, match="has store format 7, this version reads 1"):
        BlockStore(tmp_path, {"a": 1}, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 6}, "seed 5 there, 6 asked for"),
        ({"adapt_lr": [0.0, 0.3]}, r"adapt_lrs \[0.0, 0.2\] there, \[0.0, 0.3\] asked for"),
        ({"design": il.Design(2, 5, 2, 9)}, "n_adapt 4 there, 9 asked for"),
        ({"dist": il.MixedLinearRegression(8, task_std=0.6)}, "task_std 0.5 there, 0.6 asked for"),
        ({"scoring": "sampled"}, "scoring exact there, sampled asked for"),
        ({"baseline": 1.0}, "inner_lrs .* asked for"),
        ({"init": np.ones(8)}, "init .* asked for"),
    ],
)
def test_another_plan_is_refused_by_naming_the_difference(change, words, tmp_path):
    dist, design, _ = PROBLEMS["over"]
    first = {"dist": dist, "design": design, **RATES, "n_runs": 4, "seed": 5, "store": tmp_path}
    il.estimate_loss(**first)
    with pytest.raises(ValueError, match=rf"holds the blocks of another plan \({words}\); name another folder"):
        il.estimate_loss(**{**first, **change})


def test_tables_are_told_apart_by_their_numbers(tmp_path):
    tasks, design, own = PROBLEMS["table"]
    il.estimate_loss(tasks, design, **RATES, **own, n_runs=2, store=tmp_path)
    other = il.TaskSet.from_arrays(TABLE[0], TABLE[1] + 1e-12, TABLE[2])
    with pytest.raises(ValueError, match="another plan"):
        il.estimate_loss(other, design, **RATES, **own, n_runs=2, store=tmp_path)


def users_tasks(noise):
    """Return what a user has who edits a number within `draw_task` and runs the script again."""

    @dataclass(frozen=True)
    class Mine(il.TaskDistribution):
        n_features: int = 1

        def draw_task(self, n_rows, rng):
            X = rng.standard_normal((n_rows, 1))
            return X, noise * rng.standard_normal(n_rows)

    return Mine()


@dataclass(frozen=True)
class SameFields(il.TaskDistribution):
    n_features: int = 1

    def draw_task(self, n_rows, rng):
        X = rng.standard_normal((n_rows, 1))
        return X, X[:, 0]


@dataclass(frozen=True)
class OtherName(SameFields):
    pass


@pytest.mark.parametrize(
    ("first", "second"), [(users_tasks(0.1), users_tasks(5.0)), (SameFields(), OtherName())], ids=["edited", "renamed"]
)
def test_a_store_tells_tasks_from_others_by_their_code(first, second, tmp_path):
    sizes = {"n_runs": 2, "n_test_tasks": 2, "n_test_rows": 2, "store": tmp_path}
    il.estimate_loss(first, il.Design(2, 3, 2, 3), 0.0, 0.0, **sizes)
    with pytest.raises(ValueError, match="another plan"):
        il.estimate_loss(second, il.Design(2, 3, 2, 3), 0.0, 0.0, **sizes)


def test_what_cannot_be_told_apart_is_not_stored(tmp_path):
    class Squares:
        def __init__(self):
            self.lock = threading.Lock()

        def __call__(self, x):
            return x**2

    dist = il.Sinusoid(features=Squares())
    with pytest.raises(TypeError, match=r"a store needs a `dist\.features\.lock` that can be told from others, got <"):
        il.estimate_loss(dist, il.Design(2, 3, 2, 3), 0.0, 0.0, 2, store=tmp_path, n_test_tasks=2)
    assert il.estimate_loss(dist, il.Design(2, 3, 2, 3), 0.0, 0.0, 2, n_test_tasks=2).plan == ""


def test_other_folders_and_files_are_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="holds files that are no store; name a new or empty folder"):
        estimate("over", store=tmp_path)
    with pytest.raises(FileExistsError, match=r"thesis.tex is a file; a store is a folder"):
        estimate("over", store=tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_block_that_another_process_holds_is_waited_for(tmp_path):
    mine, other = (BlockStore(tmp_path, {}, 1) for _ in range(2))
    assert other.claim(0)
    assert not mine.claim(0)
    timer = threading.Timer(0.3, other.write, (0, {"x": np.array([7])}))
    timer.start()
    found = gather(lambda block: {"x": np.array([block])}, range(2), mine)
    assert [arrays["x"].tolist() for arrays in found] == [[7], [1]]
    timer.join()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_worker_that_outlives_its_parent_holds_no_lock(tmp_path):
    script = """
import os, signal, sys, time
from innerloop._blocks.store import BlockStore
store = BlockStore(sys.argv[1], {}, 1)
assert store.claim(0)
if os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(60)
time.sleep(0.1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with child.stdout:
        orphan = int(child.stdout.readline())
    child.wait()
    try:
        assert BlockStore(tmp_path, {}, 1).claim(0)
    finally:
        os.kill(orphan, signal.SIGKILL)


PLAN = {"of": "a test"}


def test_a_block_that_appears_between_the_looks_is_not_computed_again(tmp_path, monkeypatch):
    mine, other = BlockStore(tmp_path, PLAN, 1), BlockStore(tmp_path, PLAN, 1)
    plain = BlockStore.claim

    def claim(store, block):
        if store is mine and not other._locks:  # another process is faster, just before the claim
            plain(other, block)
            other.write(block, {"x": np.array([7])})
        return plain(store, block)

    monkeypatch.setattr(BlockStore, "claim", claim)
    computed = []
    found = gather(lambda block: computed.append(block) or {"x": np.array([block])}, range(1), mine)
    assert (computed, found[0]["x"].tolist()) == ([], [7])


def test_who_takes_a_block_while_it_is_given_up_keeps_others_out(tmp_path, monkeypatch):
    first, second, third = (BlockStore(tmp_path, PLAN, 1) for _ in range(3))
    taken = []
    plain = Path.unlink

    def unlink(path, *arguments, **options):
        taken.append(second.claim(0))  # at the moment when the first gives the block up
        plain(path, *arguments, **options)
        taken.append(second.claim(0) if not taken[0] else True)
        taken.append(third.claim(0))

    assert first.claim(0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        first.release(0)
    assert taken[-2:] == [True, False]
    assert not third.claim(0)  # nor once the first has let go


def test_what_was_finished_when_a_worker_died_is_kept(tmp_path):
    class Broken(Executor):
        """Finishes three blocks, and fails one with all that follow, in one look."""

        def submit(self, compute, block):
            future = Future()
            if block == 0:
                future.set_exception(BrokenExecutor())
            else:
                future.set_result(compute(block))
            return future

    computed = []
    with pytest.warns(UserWarning, match="the executor lost a worker"):
        gather(
            lambda block: computed.append(block) or {"x": np.array([block])},
            range(4),
            BlockStore(tmp_path, PLAN, 1),
            executor=Broken(),
        )
    assert sorted(computed) == [0, 1, 2, 3]  # none twice


def test_a_plan_is_written_while_its_lock_is_held(tmp_path):
    from filelock import FileLock

    (tmp_path / "locks").mkdir()
    lock = FileLock(tmp_path / "locks" / "plan.lock")
    opened = threading.Thread(target=BlockStore, args=(tmp_path, PLAN, 1))
    with lock:
        opened.start()
        opened.join(0.3)
        assert not (tmp_path / "plan.json").exists()
    opened.join()
    assert (tmp_path / "plan.json").exists()
