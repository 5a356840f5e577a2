"""Every inner rate at once against least squares rate by rate: run it, get JSON with the environment.

    python benchmarks/solve_path.py --out benchmarks/results/solve_path.json
    python benchmarks/draw.py benchmarks/results/solve_path.json

Measured side by side in one process: the exact path (gather, then solve), a plain loop that builds B task by task
and calls numpy.linalg.lstsq for every rate, ONE lstsq of the stacked query rows, and the machine's dgemm rate.

Then, for many features, a path beside `solve` at one rate, from the episodes and from the objective, with and without a
penalty: processor time of one thread, each size in a process of its own for the peak of its memory.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from threadpoolctl import threadpool_limits

import innerloop as il

# Tasks of 20 support and 20 query rows: fewer query rows than 2,000 features; rows that are kept; a triangle of rows.
MANY_FEATURES = {"over": 50, "under, few rows": 200, "under": 800}
PENALTIES = {"l2 = 0": 0.0, "l2 = 0.001": 1e-3}


def measure(
    n_tasks: int, n_support: int, n_query: int, n_features: int, n_rates: int, n_repeats: int
) -> dict[str, Any]:
    """Return times in seconds, ratios, and the largest relative difference between the two solutions."""
    rng = np.random.default_rng(0)
    X_support, X_query = (rng.standard_normal((n_tasks, n, n_features)) for n in (n_support, n_query))
    w = 1.0 + rng.standard_normal((n_tasks, n_features)) / np.sqrt(n_features)
    y_support, y_query = (
        np.einsum("ijk,ik->ij", X, w) + rng.standard_normal(X.shape[:2]) for X in (X_support, X_query)
    )
    episodes = il.Episodes(zip(X_support, y_support, X_query, y_query, strict=True))
    rates = np.linspace(-2, 2, n_rates)
    stacked = X_query.reshape(-1, n_features)

    gather = timed(lambda: il.MetaObjective.from_episodes(episodes), n_repeats)
    objective = il.MetaObjective.from_episodes(episodes)
    path = timed(lambda: il.solve_path(objective, rates), n_repeats)
    one = timed(lambda: np.linalg.lstsq(stacked, y_query.ravel(), rcond=None), n_repeats)
    start = time.perf_counter()
    reference = [rate_by_rate(X_support, y_support, X_query, y_query, rate) for rate in rates]
    loop = time.perf_counter() - start
    coef = il.solve_path(objective, rates).coef
    columns = 2 * (n_features + 1)
    flops = 2 * len(stacked) * columns**2
    peak = dgemm_rate()
    return {
        "sizes": {
            "n_tasks": n_tasks,
            "n_support": n_support,
            "n_query": n_query,
            "n_features": n_features,
            "n_rates": n_rates,
        },
        "seconds": {
            "gather": gather,
            "solve_path": path,
            "exact_path_total": gather + path,
            "loop_of_lstsq": loop,
            "one_lstsq": one,
        },
        "ratios": {
            "loop_of_lstsq / exact_path": loop / (gather + path),
            "exact_path / one_lstsq": (gather + path) / one,
        },
        "dgemm_gflops": peak / 1e9,
        "gather_fraction_of_dgemm": flops / gather / peak,
        "largest_relative_difference": float(
            max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(coef, reference, strict=True))
        ),
        "environment": environment(),
    }


def measure_many_features(n_tasks: int, n_features: int, n_rates: int, n_rows: int = 20) -> dict[str, Any]:
    """Return times of a path and of one solve, how far they agree, and the peak of memory of this process in GB."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_tasks, 2 * n_rows, n_features))
    w = (1.0 + rng.standard_normal((n_tasks, n_features))) / np.sqrt(n_features)
    y = np.einsum("ijk,ik->ij", X, w) + rng.standard_normal(X.shape[:2])
    episodes = il.Episodes([(x[:n_rows], t[:n_rows], x[n_rows:], t[n_rows:]) for x, t in zip(X, y, strict=True)])
    del X
    # In units of the rate that minimises |I - a S|.
    rates = np.linspace(-2, 2, n_rates) * n_rows / (n_features + n_rows + 1)
    result: dict[str, Any] = {
        "sizes": {"n_tasks": n_tasks, "n_query_rows": n_tasks * n_rows, "n_features": n_features, "n_rates": n_rates}
    }
    some = range(0, n_rates, n_rates // 2)
    with threadpool_limits(1):
        objective, gather = processor_time(lambda: il.MetaObjective.from_episodes(episodes))
        result["gather"] = gather
        for name, l2 in PENALTIES.items():
            path, many = processor_time(lambda l2=l2: il.solve_path(objective, rates, l2=l2))
            ones, alone = processor_time(lambda l2=l2: [il.solve(objective, rates[i], l2=l2).coef for i in some])
            one = alone / len(some)
            errors = [np.linalg.norm(path.coef[i] - x) / np.linalg.norm(x) for i, x in zip(some, ones, strict=True)]
            result[name] = {
                "solve_path": many,
                "solve": one,
                "path / solve, from episodes": (gather + many) / (gather + one),
                "path / solve, from the objective": many / one,
                "largest_relative_difference": float(max(errors)),
            }
    return result | {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def processor_time(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns and the processor time it took, which others on the machine change little."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def rate_by_rate(X_support: Any, y_support: Any, X_query: Any, y_query: Any, rate: float) -> Any:
    """Return the meta-parameters the plain way: build B and g task by task, then least squares."""
    B, g = [], []
    for Xs, ys, Xq, yq in zip(X_support, y_support, X_query, y_query, strict=True):
        P = (Xq @ Xs.T) * (rate / len(ys))
        B.append(Xq - P @ Xs)
        g.append(yq - P @ ys)
    return np.linalg.lstsq(np.concatenate(B), np.concatenate(g), rcond=None)[0]


def timed(work: Callable[[], object], n_repeats: int) -> float:
    """Return the median time of some runs after one that warms up."""
    work()
    times = []
    for _ in range(n_repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def dgemm_rate(n: int = 3000) -> float:
    """Return the machine's rate of matrix multiplication, in flop/s."""
    A = np.random.default_rng(1).standard_normal((n, n))
    return 2 * n**3 / timed(lambda: A @ A, 3)


def environment() -> dict[str, Any]:
    """Return what the numbers depend on."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[call-overload,index]
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "blas": f"{blas.get('name')} {blas.get('version')}",
        "innerloop": il.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def main() -> None:
    """Measure at the sizes given and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("n-tasks", 4000),
        ("n-support", 20),
        ("n-query", 20),
        ("n-features", 200),
        ("n-rates", 41),
        ("n-repeats", 5),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--many-features", type=int, default=2000)
    parser.add_argument("--only-many-features", action="store_true", help="leave the rest of OUT as it is")
    parser.add_argument("--out", type=Path, required=True)
    arguments = vars(parser.parse_args())
    out, many, only = (arguments.pop(name) for name in ("out", "many_features", "only_many_features"))
    result = json.loads(out.read_text()) if only else measure(**arguments)
    sizes = {}
    for name, n_tasks in MANY_FEATURES.items():
        with ProcessPoolExecutor(1, get_context("spawn")) as process:  # its peak of memory is its own
            sizes[name] = process.submit(measure_many_features, n_tasks, many, arguments["n_rates"]).result()
    result["many_features"] = sizes | {"environment": environment()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "environment"}, indent=1))


if __name__ == "__main__":
    main()
