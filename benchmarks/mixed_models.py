"""Errors on unseen groups and times beside statsmodels' MixedLM, and the time of very many groups.

    python benchmarks/mixed_models.py --data ../shared/data --out benchmarks/results/mixed_models.json

School data and simulated groups of 10 rows, 3 features, random intercept and slopes; 10 (simulated: 5) rows of an
unseen group to adapt on. Each package is stopped after --time-limit seconds. 125,066 groups are fitted by innerloop
alone, choices included: the size of a complaint about MixedLM, which took 41 minutes there.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from solve_path import environment

import innerloop as il

SLOPES, SPREAD, LEVEL_SPREAD = np.array([1.0, -0.5, 0.3]), 0.3, 0.7
N_ROWS, N_MANY = 10, 125_066


def groups_of(n_groups: int, seed: int = 0) -> il.TaskSet:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), N_ROWS)
    X = rng.standard_normal((len(group), 3))
    slopes = SLOPES + SPREAD * rng.standard_normal((n_groups, 3))
    level = LEVEL_SPREAD * rng.standard_normal(n_groups)
    y = (X * slopes[group]).sum(axis=1) + level[group] + rng.standard_normal(len(group))
    return il.TaskSet.from_arrays(X, y, group)


def many(n_groups: int) -> dict[str, Any]:
    """Return the time of one fit, choices included."""
    tasks = groups_of(n_groups)
    groups = tasks.task_of_row
    start = time.perf_counter()
    model = il.MetaRegressor().fit(tasks.X, tasks.y, groups=groups)
    return {"groups": n_groups, "seconds": time.perf_counter() - start, "adaptation": model.adaptation_}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--time-limit", type=float, default=200.0)
    arguments = parser.parse_args()
    tables = {f"{n:,} simulated groups": (groups_of(n), 5) for n in (1_000, 10_000)}
    if arguments.data is not None:
        frame = pd.read_csv(arguments.data / "school.csv")
        tables = {"139 schools": (il.TaskSet.from_table(frame, "school", "exam_score"), 10), **tables}
    many(50)  # imports
    result: dict[str, Any] = {"many": many(N_MANY)}
    for name, (tasks, n_adapt) in tables.items():
        found = il.compare(tasks, n_adapt, time_limit=arguments.time_limit)
        result[name] = [asdict(contender) for contender in found]
        for c in found:
            print(f"{name}  {c.name:55} {c.mse:9.4g} {c.excess:+9.3g} ± {c.excess_se:.2g} {c.seconds:8.2f} s  {c.note}")
    result["environment"] = environment()
    print(result["many"])
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
