"""Time and memory of a fit of a dataset, beside what it cannot do without: a scan, sums, and adaptation.

    python benchmarks/scale.py --groups 100000 1000000 --out benchmarks/results/scale.json

Groups of 10 rows with 8 features in unsorted Parquet, the rows of every group in 10 files. Each fit runs in a process
of its own, one thread; "bare" is the CPU time of reading the files once with Arrow, and of the sums of one model and of
the adaptation of every group with its rows already in memory. Seconds are of CPU, except where they are called "wall".
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
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


def write(folder: Path, n_groups: int, seed: int = 0) -> None:
    """Write 10 files, in each one row of every group, in random order."""
    rng = np.random.default_rng(seed)
    slopes, level = 1 + 0.5 * rng.standard_normal((n_groups, N_FEATURES)), rng.standard_normal(n_groups)
    for i in range(N_ROWS):
        group, X = rng.permutation(n_groups), rng.standard_normal((n_groups, N_FEATURES))
        y = np.einsum("ij,ij->i", X, slopes[group]) + level[group] + rng.standard_normal(n_groups)
        columns = {"group": group, **{f"x{j}": X[:, j] for j in range(N_FEATURES)}, "y": y}
        pq.write_table(pa.table(columns), folder / f"{i}.parquet")


def bare(folder: Path, n_groups: int) -> dict[str, float]:
    """Return the seconds of a scan, and, from 20,000 groups, those of sums and adaptation of all."""
    start = time.process_time()
    for path in folder.iterdir():
        for batch in pq.ParquetFile(path).iter_batches():
            batch.num_rows  # noqa: B018
    scan, n = time.process_time() - start, 20_000
    rng, p = np.random.default_rng(0), N_FEATURES + 1
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


def fit(folder: Path, out: Path) -> dict[str, Any]:
    """Return the seconds and the peak of memory of a fit and of predictions, in this process."""
    data = il.TaskDataset(folder, group="group", target="y")
    start, wall = time.process_time(), time.perf_counter()
    model = il.MetaRegressor(basis="linear").fit_dataset(data, out=out / "model")
    found = {"seconds": time.process_time() - start, "wall": time.perf_counter() - wall, "peak MB": peak()}
    start = time.process_time()
    model.predict_dataset(folder, out=out / "predictions", group="group")
    n_files = len(list((out / "model").rglob("*.npy")))
    return found | {"predict seconds": time.process_time() - start, "peak with predict MB": peak(), "files": n_files}


def measure(n_groups: int, where: Path | None) -> dict[str, Any]:
    """Return what a table of so many groups costs."""
    with tempfile.TemporaryDirectory(dir=where) as folder:
        rows, out = Path(folder) / "rows", Path(folder) / "out"
        rows.mkdir()
        out.mkdir()
        write(rows, n_groups)
        command = [sys.executable, __file__, "--fit", str(rows), "--out", str(out)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = bare(rows, n_groups)
        found = json.loads(done.stdout)
        least = sum(seconds.values())
        return {"groups": n_groups, **found, "bare": seconds, "times the bare work": found["seconds"] / least}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--groups", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--where", type=Path, help="folder with room for the rows")
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit is not None:
        print(json.dumps(fit(arguments.fit, arguments.out)))
        return
    tables = [measure(n, arguments.where) for n in arguments.groups]
    result = {"rows a group": N_ROWS, "features": N_FEATURES, "tables": tables, "environment": environment()}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for table in tables:
        print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
