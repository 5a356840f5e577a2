"""Errors and coverage on unseen tasks of simulated tables: python benchmarks/simulated_tables.py --out FILE.

The protocol is that of `held_out`, but that every seed draws another table, and that all unseen tasks have 40 rows. A
cell is a table at a number of adaptation rows; it is a loss where the error of `MetaRegressor()` exceeds that of the
best baseline there by more than a standard error.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from held_out import BASELINES, N_ROWS, Splits, Table, innerloop, measure, show
from solve_path import environment

N_UNSEEN, ROWS_UNSEEN = 60, 40
# A loss of less than this share of the error is no loss.
LEAST = 0.003


class Tasks(NamedTuple):
    """Features of rows, the task of each, and a stream: what a target is drawn from."""

    X: np.ndarray
    task: np.ndarray
    rng: np.random.Generator

    def each(self, *shape: int) -> np.ndarray:
        """Return standard normal numbers for every task, repeated for its rows."""
        return self.rng.standard_normal((self.task[-1] + 1, *shape))[self.task]

    def rows(self) -> np.ndarray:
        """Return standard normal numbers for every row."""
        return self.rng.standard_normal(len(self.task))

    def linear(self, slope: float = 0.5, level: float = 1.0, mean: float = 1.0) -> np.ndarray:
        """Return targets without noise whose slopes and levels differ between tasks by `slope` and `level`."""
        p = self.X.shape[1]
        return (
            np.einsum("ij,ij->i", self.X, mean / np.sqrt(p) + slope / np.sqrt(p) * self.each(p)) + level * self.each()
        )


class Simulated(NamedTuple):
    """A kind of table: the numbers of tasks, rows a task (or their range) and features, and its targets."""

    n_tasks: int
    rows: int | tuple[int, int]
    p: int
    target: Callable[[Tasks], np.ndarray]
    features: Callable[[Tasks], np.ndarray] = lambda tasks: tasks.X

    def split(self, seed: int) -> Splits:
        rng = np.random.default_rng([seed, 20])
        low, high = self.rows if isinstance(self.rows, tuple) else (self.rows, self.rows)
        sizes = np.append(rng.integers(low, high + 1, self.n_tasks), np.full(N_UNSEEN, ROWS_UNSEEN))
        task = np.repeat(np.arange(len(sizes)), sizes)
        tasks = Tasks(rng.standard_normal((len(task), self.p)), task, rng)
        tasks = tasks._replace(X=self.features(tasks))
        y = self.target(tasks)
        splits = Splits.__new__(Splits)
        splits.train = Table(tasks.X, y, task).of(np.arange(self.n_tasks))
        unseen = [np.flatnonzero(task == i) for i in range(self.n_tasks, len(sizes))]
        splits.unseen = [(tasks.X[rows], y[rows]) for rows in unseen]
        return splits


def plain(slope: float = 0.5, level: float = 1.0, noise: float = 1.0, mean: float = 1.0):
    """Return targets of linear tasks with normal noise."""
    return lambda tasks: tasks.linear(slope, level, mean) + noise * tasks.rows()


def student(degrees: float, slope: float = 0.5, level: float = 1.0):
    return lambda tasks: tasks.linear(slope, level) + tasks.rng.standard_t(degrees, len(tasks.task))


def heavy(tasks: Tasks) -> np.ndarray:
    """Slopes and noise log-normal: a few tasks decide every mean of errors."""
    p = tasks.X.shape[1]
    slopes = np.exp(1.5 * tasks.each(p)) * np.sign(tasks.each(p))
    return np.einsum("ij,ij->i", tasks.X, slopes) + np.exp(1.5 * tasks.each()) * tasks.rows()


def levels_of_features(tasks: Tasks) -> np.ndarray:
    """Targets rise with features within tasks, and fall with their means over tasks."""
    means = np.array([tasks.X[tasks.task == i].mean(axis=0) for i in range(tasks.task[-1] + 1)])[tasks.task]
    return tasks.X.sum(axis=1) - 2 * means.sum(axis=1) + 0.5 * tasks.each() + tasks.rows()


def outliers(tasks: Tasks) -> np.ndarray:
    far = np.where(tasks.rng.random(len(tasks.task)) < 0.02, 30.0, 1.0)
    return tasks.linear() + far * tasks.rows()


def shifted(tasks: Tasks) -> np.ndarray:
    return tasks.X + 2 * tasks.each(tasks.X.shape[1])


def collinear(tasks: Tasks) -> np.ndarray:
    X = tasks.X
    return np.column_stack((X, X, X[:, :1] + X[:, 1:2] + 1e-6 * X[:, 2:3]))


def unscaled(tasks: Tasks) -> np.ndarray:
    return tasks.X * np.logspace(-4, 4, tasks.X.shape[1]) + 5.0


def one_hot(tasks: Tasks) -> np.ndarray:
    return np.eye(tasks.X.shape[1])[tasks.rng.integers(tasks.X.shape[1], size=len(tasks.task))]


TABLES = {
    "8 tasks": Simulated(8, 20, 3, plain()),
    "8 tasks, wide": Simulated(8, 5, 40, plain()),
    "15 tasks, long": Simulated(15, 60, 5, plain()),
    "20 tasks": Simulated(20, 15, 10, plain()),
    "100 tasks, ragged": Simulated(100, (3, 60), 5, plain()),
    "3000 tasks": Simulated(3000, 6, 5, plain()),
    "300 tasks, 3 rows": Simulated(300, 3, 4, plain()),
    "one feature": Simulated(30, 12, 1, plain()),
    "40 features": Simulated(100, 12, 40, plain()),
    "levels only": Simulated(60, 12, 6, plain(slope=0.0, level=2.0)),
    "slopes only": Simulated(60, 12, 6, plain(slope=1.0, level=0.0)),
    "unrelated tasks": Simulated(60, 25, 4, plain(slope=10.0, level=10.0, mean=0.0)),
    "no differences": Simulated(60, 12, 6, plain(slope=0.0, level=0.0)),
    "no differences, 10 tasks": Simulated(10, 12, 6, plain(slope=0.0, level=0.0)),
    "small differences": Simulated(300, 12, 5, plain(slope=0.15, level=0.1)),
    "features without use": Simulated(60, 12, 6, plain(slope=0.0, level=2.0, mean=0.0)),
    "noise only": Simulated(60, 12, 6, plain(slope=0.0, level=0.0, mean=0.0)),
    "little noise": Simulated(60, 12, 4, plain(noise=0.03)),
    "unscaled features": Simulated(
        60, 12, 6, lambda t: t._replace(X=(t.X - 5) / np.logspace(-4, 4, 6)).linear() + t.rows(), unscaled
    ),
    "collinear features": Simulated(60, 12, 4, plain(), collinear),
    "features of tasks": Simulated(60, 15, 4, plain(), shifted),
    "levels of features": Simulated(60, 15, 3, levels_of_features, shifted),
    "one-hot features": Simulated(60, 20, 6, plain(slope=1.0), one_hot),
    "Student's noise": Simulated(100, 15, 4, student(2.5)),
    "noise of tasks": Simulated(100, 15, 4, lambda t: t.linear() + np.exp(t.each()) * t.rows()),
    "slopes of tasks": Simulated(100, 15, 4, lambda t: np.exp(t.each()) * t.linear() + t.rows()),
    "slopes together": Simulated(
        100, 15, 20, lambda t: t.linear() + 2 / np.sqrt(20) * t.X.sum(axis=1) * t.each() + t.rows()
    ),
    "log-normal": Simulated(1000, 15, 3, heavy),
    "outliers": Simulated(100, 15, 4, outliers),
    "waves": Simulated(100, 15, 1, lambda t: np.sin(2 * t.X[:, 0] + t.each()) * (1 + 0.3 * t.each()) + 0.3 * t.rows()),
    "two kinds of tasks": Simulated(80, 15, 4, lambda t: np.sign(t.each()) * t.X.sum(axis=1) + t.rows()),
    "yes or no": Simulated(100, 20, 5, lambda t: (t.linear() + t.rows() > 0).astype(float)),
    "counts": Simulated(
        100, 20, 3, lambda t: t.rng.poisson(np.exp(np.clip(t.linear(0.3, 0.5, 0.5), -5, 4))).astype(float)
    ),
}


def losses(results: dict) -> list[str]:
    """Return the cells where the error is above the best baseline's beyond a standard error, the largest first."""
    found = []
    for name, result in results.items():
        for n, cell in result["MetaRegressor()"].items():
            if isinstance(n, int) and cell["excess"] > max(cell["excess_se"], LEAST * cell["mse"]):
                z, share = cell["excess"] / cell["excess_se"], cell["excess"] / cell["mse"]
                found.append((share, f"{name}, {n} rows: {100 * share:.1f} % of the error, {z:.1f} standard errors"))
    return [text for _, text in sorted(found, reverse=True)]


def coverage(results: dict, n: int) -> np.ndarray:
    return np.array([result["MetaRegressor()"][n]["coverage"] for result in results.values()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--tables", nargs="*", default=list(TABLES), choices=TABLES, metavar="NAME")
    arguments = parser.parse_args()
    seeds, results = range(arguments.first_seed, arguments.first_seed + arguments.seeds), {}
    for name in arguments.tables:
        results[name] = measure(TABLES[name], {"MetaRegressor()": innerloop(), **BASELINES}, seeds)
        show(name, results[name])
    print(f"\nLosses, of {len(results) * len(N_ROWS)} cells:", *losses(results), sep="\n  ")
    print("\nCoverage of 90 % intervals, the mean over tables and the range:")
    for n in N_ROWS:
        found = 100 * coverage(results, n)
        print(f"  {n:2} rows: {found.mean():.1f}  {found.min():.1f} to {found.max():.1f}")
    if arguments.out:
        arguments.out.write_text(json.dumps({"tables": results, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
