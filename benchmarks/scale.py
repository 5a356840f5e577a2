"""Time and memory of fits of very many groups: of datasets, on Dask, and of tables in memory, beside other packages.

    python benchmarks/scale.py --groups 100000 1000000 --out benchmarks/results/scale.json
    python benchmarks/draw.py benchmarks/results/scale.json

Datasets: groups of 10 rows with 8 features in unsorted Parquet, the rows of every group in 10 files. "bare" is the CPU
time of reading the files once with Arrow, and of the sums of one model and of the adaptation of every group with its
rows already in memory; "again" that of a second fit, with other options, which finds the rows in buckets. On Dask the
same by one worker and by two, in seconds of the wall. In memory: groups of 4 to 12 rows (of 10 with 32 features),
fitted with all choices, beside the random-slopes models of mixedlm and mixedlm-rs where these are installed; the median
of three tables. Each fit runs in a process of its own, one thread; seconds are of CPU, except where they are called
"wall", and imports do not count.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from solve_path import environment

import innerloop as il
from innerloop.adaptation.random_effects import sums_at
from innerloop.adaptation.rules import Ridge
from innerloop.data.tasks import TaskSet

N_ROWS, N_FEATURES = 10, 8
MEGABYTE = 2**20


def write(folder: Path, n_groups: int, n_features: int, seed: int = 0) -> None:
    """Write 10 files, in each one row of every group, in random order."""
    rng = np.random.default_rng(seed)
    slopes, level = 1 + 0.5 * rng.standard_normal((n_groups, n_features)), rng.standard_normal(n_groups)
    for i in range(N_ROWS):
        group, X = rng.permutation(n_groups), rng.standard_normal((n_groups, n_features))
        y = level[group] + rng.standard_normal(n_groups)
        for j in range(n_features):
            y += X[:, j] * slopes[group, j]
        columns = {"group": group, **{f"x{j}": X[:, j] for j in range(n_features)}, "y": y}
        pq.write_table(pa.table(columns), folder / f"{i}.parquet")


def bare(folder: Path, n_groups: int, n_features: int) -> dict[str, float]:
    """Return the seconds of a scan, and, from 20,000 groups, those of sums and adaptation of all."""
    start = time.process_time()
    for path in folder.iterdir():
        for batch in pq.ParquetFile(path).iter_batches():
            batch.num_rows  # noqa: B018
    scan, n = time.process_time() - start, 20_000
    rng, p = np.random.default_rng(0), n_features + 1
    X, y = rng.standard_normal((n * N_ROWS, p)), rng.standard_normal(n * N_ROWS)
    tasks, cov = TaskSet(X, y, np.arange(n + 1) * N_ROWS, np.arange(n)), 0.3 * np.eye(p)[None]
    steps = {
        "sums": lambda: sums_at(cov[None], tasks, 2**18),
        "adaptation": lambda: Ridge(cov).adapt(np.zeros((p, 1)), tasks),
    }
    seconds = {"scan": scan}
    for name, step in steps.items():
        times = []
        for _ in range(3):
            start = time.process_time()
            step()
            times.append(time.process_time() - start)
        seconds[name] = min(times) * n_groups / n
    return seconds


def peak() -> float:
    """Return the peak of memory of this process, MB; `ru_maxrss` would be at least that of the process before it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / MEGABYTE


def fit_dataset(folder: Path, out: Path) -> dict[str, Any]:
    """Return the seconds of a fit and the peak of memory of this process."""
    data, model = il.TaskDataset(folder, group="group", target="y"), il.MetaRegressor(basis="linear")
    start, wall = time.process_time(), time.perf_counter()
    model.fit_dataset(data, out=out / "model", work=out / "work")
    return {"seconds": time.process_time() - start, "wall": time.perf_counter() - wall, "peak MB": peak()}


def fit_again(folder: Path, out: Path) -> dict[str, Any]:
    """Return the seconds of a fit with other options, which finds the rows in buckets."""
    data = il.TaskDataset(folder, group="group", target="y")
    model = il.MetaRegressor(basis="linear", adaptation="ridge")
    start = time.process_time()
    model.fit_dataset(data, out=out / "again", work=out / "work")
    return {"seconds again": time.process_time() - start}


def predict_dataset(folder: Path, out: Path) -> dict[str, Any]:
    """Return the seconds of predictions of all rows and the peak of memory of this process."""
    model = il.load_model(out / "model")
    start = time.process_time()
    model.predict_dataset(folder, out=out / "predictions", group="group")
    n_files = len(list((out / "model").rglob("*.npy")))
    return {"predict seconds": time.process_time() - start, "peak of predictions MB": peak(), "files": n_files}


def fit_on_dask(folder: Path, out: Path) -> dict[str, float]:
    """Return the seconds of the wall of a fit by one worker of Dask and by two."""
    import dask
    from distributed import Client, LocalCluster

    dask.config.set({"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None})
    data, found = il.TaskDataset(folder, group="group", target="y"), {}
    for n in (1, 2):
        options = {"n_workers": n, "threads_per_worker": 1, "dashboard_address": None, "memory_limit": 0}
        with LocalCluster(**options) as cluster, Client(cluster) as client, client.get_executor() as executor:
            list(executor.map(_warmed, range(4 * n)))
            start = time.perf_counter()
            il.MetaRegressor(basis="linear").fit_dataset(data, out=out / f"model{n}", executor=executor)
            found[f"wall of {n}"] = time.perf_counter() - start
    return found


def _warmed(_: int) -> str:
    import pyarrow.parquet

    from innerloop.estimators import MetaRegressor

    return f"{MetaRegressor.__name__} {pyarrow.__version__}"


def table_in_memory(n_groups: int, n_features: int, seed: int) -> tuple[Any, Any, Any]:
    """Return features, targets and groups."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(4, 13, n_groups) if n_features < 10 else np.full(n_groups, 10)
    group = np.repeat(np.arange(n_groups), sizes)
    X, y = rng.standard_normal((len(group), n_features)), rng.standard_normal(len(group))
    for x in X.T:
        y += x * (1 + 0.5 * rng.standard_normal(n_groups))[group]
    return X, y + rng.standard_normal(n_groups)[group], group


def _fit_innerloop(X: Any, y: Any, group: Any) -> None:
    il.MetaRegressor().fit(X, y, groups=group)


def _fit_mixedlm_rs(X: Any, y: Any, group: Any) -> None:
    from mixedlm_rs import MixedLM

    E = np.column_stack((np.ones(len(X)), X))
    MixedLM(y, E, group, exog_re=E).fit()


def _fit_mixedlm(X: Any, y: Any, group: Any) -> None:
    import mixedlm
    import pandas as pd

    names = [f"x{j}" for j in range(X.shape[1])]
    terms = " + ".join(["1", *names])
    frame = pd.DataFrame(X, columns=names).assign(y=y, g=group.astype(str))
    mixedlm.lmer(f"y ~ {terms} + ({terms} | g)", frame)


PACKAGES = {"innerloop": _fit_innerloop, "mixedlm-rs": _fit_mixedlm_rs, "mixedlm": _fit_mixedlm}


def fit_in_memory(package: str, n_groups: int, n_features: int) -> dict[str, float]:
    """Return the median seconds of fits by a package, and by how much its peak of memory exceeds the first table."""
    PACKAGES[package](*table_in_memory(300, n_features, 0))
    seconds, adds = list[float](), list[float]()
    for seed in range(3):
        X, y, group = table_in_memory(n_groups, n_features, seed)
        before, start = peak(), time.process_time()
        PACKAGES[package](X, y, group)
        seconds.append(time.process_time() - start)
        adds.append(peak() - before)
    return {"seconds": statistics.median(seconds), "adds MB": adds[0], "MB of X": X.nbytes / MEGABYTE}


def in_a_process(what: str, **arguments: Any) -> Any:
    """Return what a function of this file returns in a process of its own."""
    given = json.dumps({name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()})
    command = [sys.executable, __file__, "--run", what, given]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def run(what: str, given: dict[str, Any]) -> Any:
    """Return what a function of this file returns."""
    if what == "in memory":
        return fit_in_memory(**given)
    steps = {"fit": fit_dataset, "again": fit_again, "predict": predict_dataset, "dask": fit_on_dask}
    return steps[what](Path(given["folder"]), Path(given["out"]))


def measure(n_groups: int, n_features: int, where: Path | None, steps: Sequence[str]) -> dict[str, Any]:
    """Return what a dataset of so many groups costs in some steps, "fit" among them."""
    with tempfile.TemporaryDirectory(dir=where) as folder:
        rows, out = Path(folder) / "rows", Path(folder) / "out"
        rows.mkdir()
        out.mkdir()
        write(rows, n_groups, n_features)
        found: dict[str, Any] = {"groups": n_groups, "features": n_features}
        for step in steps:
            of_step = in_a_process(step, folder=rows, out=out)
            found |= {"dask": of_step} if step == "dask" else of_step
        found["bare"] = bare(rows, n_groups, n_features)
        least = sum(found["bare"].values())
        found["times the bare work"] = found["seconds"] / least
        if "seconds again" in found:
            found["times the bare work, again"] = found["seconds again"] / least
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--groups", type=int, nargs="*", default=[100_000, 1_000_000], help="of datasets")
    parser.add_argument(
        "--wide", nargs="*", default=[], help="datasets of more features, groups x features: 10000000x32"
    )
    parser.add_argument("--dask", type=int, nargs="*", default=[1_000_000], help="those that are fitted on Dask, too")
    sizes = ["10000x3", "100000x3", "1000000x3", "100000x32"]
    parser.add_argument("--in-memory", nargs="*", default=sizes, help="groups x features")
    parser.add_argument("--where", type=Path, help="folder with room for the rows")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run is not None:
        print(json.dumps(run(arguments.run[0], json.loads(arguments.run[1]))))
        return
    if arguments.out is None:
        parser.error("--out is required")
    tables, in_memory = list[dict[str, Any]](), list[dict[str, Any]]()
    for n in arguments.groups:
        steps = ["fit", "again", "predict", *(["dask"] if n in arguments.dask else [])]
        tables.append(measure(n, N_FEATURES, arguments.where, steps))
        print(json.dumps(tables[-1], indent=1), flush=True)
    wide = [measure(*map(int, size.split("x")), arguments.where, ["fit"]) for size in arguments.wide]
    for size in arguments.in_memory:
        n, p = map(int, size.split("x"))
        row: dict[str, Any] = {"groups": n, "features": p}
        for package in PACKAGES:
            is_there = importlib.util.find_spec(package.replace("-", "_")) is not None
            if is_there and (p < 10 or package == "innerloop"):  # the others do not end with 33 slopes
                row[package] = in_a_process("in memory", package=package, n_groups=n, n_features=p)
        in_memory.append(row)
        print(json.dumps(row, indent=1), flush=True)
    result = {"rows a group": N_ROWS, "features": N_FEATURES, "tables": tables, "wide": wide, "in memory": in_memory}
    arguments.out.write_text(json.dumps(result | {"environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
