"""Errors on unseen tasks of real tables: python benchmarks/held_out.py --data ../shared/data --out FILE.

Protocol, for each seed and tasks in sorted order of id: three quarters of the tasks, drawn at random, train; of each
other task the first n rows of a random order adapt and all others are scored. The mean over tasks of the task's mean
squared error, then over all seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from solve_path import environment

import innerloop as il
from innerloop._base.standard_errors import mean_and_error

N_ROWS = (0, 1, 2, 5, 10, 20)
PENALTIES = np.logspace(-4, 3, 15)
LEVEL = 0.9

Predict = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class Table(NamedTuple):
    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray

    def of(self, tasks: np.ndarray) -> Table:
        keep = np.isin(self.groups, tasks)
        return Table(self.X[keep], self.y[keep], self.groups[keep])

    def split(self, seed: int) -> Splits:
        return Splits(self, seed)


def school(folder: Path) -> Table:
    frame = pd.read_csv(folder / "school.csv")
    X = frame[[f"x{i}" for i in range(1, 28)]].to_numpy(float)  # x28 is constant
    return Table(X, frame["exam_score"].to_numpy(float), frame["school"].to_numpy())


def parkinsons(folder: Path) -> Table:
    frame = pd.read_csv(folder / "parkinsons.csv")
    X = frame.drop(columns=["subject", "motor_UPDRS", "total_UPDRS"]).to_numpy(float)
    return Table(X, frame["motor_UPDRS"].to_numpy(float), frame["subject"].to_numpy())


TABLES = {"school": school, "parkinsons": parkinsons}


class Splits:
    """Unseen tasks of one seed, their rows in random order."""

    def __init__(self, table: Table, seed: int) -> None:
        rng = np.random.default_rng(seed)
        ids = np.unique(table.groups)
        order = rng.permutation(len(ids))
        n_train = 3 * len(ids) // 4
        self.train = table.of(ids[order[:n_train]])
        self.unseen = []
        for task in ids[order[n_train:]]:
            rows = np.flatnonzero(table.groups == task)
            rows = rows[rng.permutation(len(rows))]
            self.unseen.append((table.X[rows], table.y[rows]))

    def parts(self, n: int):
        """Yield (X, y, X_query, y_query) of every task that has more than n rows."""
        for X, y in self.unseen:
            if len(y) > n:
                yield X[:n], y[:n], X[n:], y[n:]


class Scaled:
    """Standardised features and centred targets of the training rows, for the baselines."""

    def __init__(self, train: Table) -> None:
        self._mean, std = train.X.mean(axis=0), train.X.std(axis=0)
        self._rate = np.where(std > 1e-12 * np.abs(train.X).max(axis=0), 1 / np.where(std > 0, std, 1.0), 0.0)
        self.y_mean = train.y.mean()

    def __call__(self, X: np.ndarray) -> np.ndarray:
        return (X - self._mean) * self._rate


def ridge(X: np.ndarray, y: np.ndarray, X_query: np.ndarray, fallback: float) -> np.ndarray:
    """Return predictions of ridges with an intercept, one for each penalty: (n_penalties, n_query)."""
    if len(y) == 0:
        return np.full((len(PENALTIES), len(X_query)), fallback)
    x_mean, y_mean = X.mean(axis=0), y.mean()
    U, s, Vt = np.linalg.svd(X - x_mean, full_matrices=False)
    shrunk = s * (U.T @ (y - y_mean)) / (s**2 + PENALTIES[:, None] * len(y))
    return shrunk @ (Vt @ (X_query - x_mean).T) + y_mean


def population_ridge(train: Table) -> Predict:
    """One ridge over all training rows, its penalty by cross-validation over tasks."""
    scale, ids = Scaled(train), np.unique(train.groups)
    errors = np.zeros(len(PENALTIES))
    for f in range(5):
        rest, own = train.of(ids[np.arange(len(ids)) % 5 != f]), ids[np.arange(len(ids)) % 5 == f]
        for task in own:
            held = train.of(np.array([task]))
            errors += np.mean((ridge(scale(rest.X), rest.y, scale(held.X), 0.0) - held.y) ** 2, axis=1)
    best = int(errors.argmin())
    return lambda _X, _y, X_query: ridge(scale(train.X), train.y, scale(X_query), 0.0)[best]


def task_ridge(train: Table) -> Predict:
    """One ridge on the task's own rows, its penalty for that number of rows tuned on the training tasks."""
    scale, best = Scaled(train), {}

    def tuned(n: int) -> int:
        rng, errors = np.random.default_rng(0), np.zeros(len(PENALTIES))
        for task in np.unique(train.groups):
            own = train.of(np.array([task]))
            q = rng.permutation(len(own.y))
            if len(q) > n:
                predicted = ridge(scale(own.X[q[:n]]), own.y[q[:n]], scale(own.X[q[n:]]), scale.y_mean)
                errors += np.mean((predicted - own.y[q[n:]]) ** 2, axis=1)
        return int(errors.argmin())

    def predict(X: np.ndarray, y: np.ndarray, X_query: np.ndarray) -> np.ndarray:
        if len(y) not in best:
            best[len(y)] = tuned(len(y))
        return ridge(scale(X), y, scale(X_query), scale.y_mean)[best[len(y)]]

    return predict


def task_mean(train: Table) -> Predict:
    """The mean of the task's own rows; of all training rows where it has none."""
    mean = train.y.mean()
    return lambda _X, y, X_query: np.full(len(X_query), y.mean() if len(y) else mean)


def innerloop(**parameters) -> Callable[[Table], Predict]:
    """Return what fits a `MetaRegressor`; its predictor keeps the share of targets within intervals in `covered`."""

    def fit(train: Table) -> Predict:
        model = il.MetaRegressor(**parameters).fit(train.X, train.y, groups=train.groups)

        def predict(X: np.ndarray, y: np.ndarray, X_query: np.ndarray) -> np.ndarray:
            adapted, groups = model, None
            if len(y):
                adapted = model.adapt(X, y, groups=np.repeat("unseen", len(y)))
                groups = np.repeat("unseen", len(X_query))
            predict.interval = adapted.predict_interval(X_query, groups=groups, level=LEVEL)
            return adapted.predict(X_query, groups=groups)

        predict.model = model
        return predict

    return fit


BASELINES = {"population ridge": population_ridge, "ridge per task": task_ridge, "task mean": task_mean}
METHODS = {
    "MetaRegressor()": innerloop(),
    "adaptation='ridge'": innerloop(adaptation="ridge"),
    "adaptation='gradient'": innerloop(adaptation="gradient"),
}


def measure(table, methods: dict[str, Callable[[Table], Predict]], seeds: range, n_rows=N_ROWS) -> dict:
    """Return for each method, by number of adaptation rows, the error, its excess and the intervals' coverage.

    The excess is over the best baseline at that number of rows, paired over tasks; standard errors are over tasks.
    ``table.split(seed)`` gives the training rows and the unseen tasks.
    """
    errors = {name: {n: [] for n in n_rows} for name in methods}
    covered = {name: {n: [] for n in n_rows} for name in methods}
    seconds = dict.fromkeys(methods, 0.0)
    chosen = {name: [] for name in methods}
    for seed in seeds:
        splits = table.split(seed)
        for name, fit in methods.items():
            start = time.perf_counter()
            predict = fit(splits.train)
            seconds[name] += (time.perf_counter() - start) / len(seeds)
            if hasattr(predict, "model"):
                chosen[name].append(predict.model.adaptation_)
            for n in n_rows:
                for X, y, X_query, y_query in splits.parts(n):
                    errors[name][n].append(np.mean((predict(X, y, X_query) - y_query) ** 2))
                    if hasattr(predict, "interval"):
                        lower, upper = predict.interval
                        covered[name][n].append(np.mean((lower <= y_query) & (y_query <= upper)))
    result = {}
    for name in methods:
        result[name] = {"fit_seconds": seconds[name], "chosen": chosen[name]}
        for n in n_rows:
            if not errors[name][n]:
                continue
            best = min((b for b in methods if b in BASELINES), key=lambda b: np.mean(errors[b][n]), default=name)
            excess = np.array(errors[name][n]) - errors[best][n]
            result[name][n] = {
                "mse": float(np.mean(errors[name][n])),
                **dict(zip(("excess", "excess_se"), mean_and_error(excess), strict=True)),
                **({"coverage": None} if not covered[name][n] else share(covered[name][n])),
            }
    return result


def share(covered: list[float]) -> dict[str, float]:
    return dict(zip(("coverage", "coverage_se"), mean_and_error(np.array(covered)), strict=True))


def show(title: str, result: dict) -> None:
    """Print the errors, and the coverage of 90 % intervals."""
    print(f"\n{title}: mean squared error (excess over the best baseline in standard errors; coverage)")
    for name, row in result.items():
        cells = []
        for n, cell in row.items():
            if isinstance(n, int):
                z = cell["excess"] / cell["excess_se"] if cell["excess_se"] > 0 else 0.0
                cover = "" if cell["coverage"] is None else f" {100 * cell['coverage']:4.1f}"
                cells.append(f"{n}: {cell['mse']:.4g} ({z:+.1f}{cover})")
        print(f"  {name:22} {row['fit_seconds']:5.1f} s  " + "  ".join(cells), *set(row["chosen"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with school.csv and parkinsons.csv")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    results = {}
    for name, read in TABLES.items():
        results[name] = measure(read(arguments.data), {**METHODS, **BASELINES}, range(arguments.seeds))
        show(name, results[name])
    if arguments.out:
        arguments.out.write_text(json.dumps({"tables": results, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
