"""Tasks from a table on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from innerloop.cli._output import console
from innerloop.data.table_files import read_table
from innerloop.data.targets import target_notes
from innerloop.data.task_table import TargetCode, read_task_rows
from innerloop.data.tasks import TaskSet

# Names of features that are printed.
_MOST_NAMES = 30


def read_tasks(
    table: Path,
    group: str,
    target: str,
    features: list[str] | None,
    drop: list[str] | None,
    delimiter: str | None,
    min_rows: int | None,
    weights: str | None = None,
    positive: bool = False,
) -> TableTasks:
    """Return the tasks of a file."""
    if group == target:
        raise ValueError(f"--group and --target must be different columns, got {group!r} for both.")
    file = read_table(table, group, delimiter)
    rows = read_task_rows(file.frame, group, target, features, drop or [], file.name, file.place, weights, positive)
    tasks = TaskSet.from_columns(rows.columns, rows.y, rows.ids, rows.task, rows.weights)
    notes = [*file.notes, *rows.notes]
    if min_rows is not None and (few := int((tasks.sizes < min_rows).sum())):
        notes.append(f"{few} tasks of fewer than {min_rows} rows are left out")
        tasks = tasks.select(tasks.sizes >= min_rows).fit_columns()
    columns = tasks.column_map.notes if tasks.column_map else ()
    return TableTasks(tasks, rows.targets[0], (*notes, *columns, *target_notes(tasks.y)), weights)


@final
@dataclass(frozen=True, eq=False)
class TableTasks:
    """The tasks of a file, how its target is a number, what to say of its columns and rows, and the weights' name."""

    tasks: TaskSet
    target: TargetCode
    notes: tuple[str, ...]
    weights: str | None = None

    def details(self, group: str) -> dict[str, Any]:
        """Return what a model folder must know to read another table, beside the model: plain values."""
        weights = {} if self.weights is None else {"weights": self.weights}
        return {"group": group, "target": self.target.to_state(), **weights}


def print_size(table: Path, read: TableTasks) -> None:
    """Print what was read of a table: counts, names of features, and what was made of columns and rows."""
    tasks = read.tasks
    size = f"{len(tasks)} tasks, {tasks.n_rows} rows, {tasks.n_features} features"
    names = tasks.feature_names or ()
    shown = ", ".join(names[:_MOST_NAMES]) + (
        f", ... ({len(names) - _MOST_NAMES} more)" if len(names) > _MOST_NAMES else ""
    )
    lines = [
        f"{table}: {size}",
        f"features: {shown or 'none, the intercept alone'}",
        *(f"- {note}" for note in read.notes),
    ]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def check_sizes(tasks: TaskSet, table: Path, n_support: int | None = None, n_query: int | None = None) -> None:
    """Refuse fewer than two tasks, a constant target, and tasks too small for a split into support and query rows."""
    if len(tasks) < 2:
        what = f"one task, {tasks.ids[0].item()!r}" if len(tasks) else "no task large enough"
        raise ValueError(f"{table} holds {what}; rates are compared on unseen tasks, so at least two are needed.")
    if np.ptp(tasks.y) == 0:
        raise ValueError(f"every target in {table} is {tasks.y[0]:g}, so there is nothing to learn.")
    if n_query is None:  # a small task adapts on all its rows but one
        return
    n_support = n_support or tasks.default_support()
    least = n_support + n_query
    if (small := tasks.sizes < least).any():
        first = int(small.argmax())
        raise ValueError(
            f"task {tasks.ids[first].item()!r} of {table} has {tasks.sizes[first]} row(s) and {int(small.sum())} "
            f"task(s) have fewer than the {least} that a split into {n_support} support and {n_query} query rows "
            f"needs; {_remedy(tasks, n_support, n_query)}."
        )


def _remedy(tasks: TaskSet, n_support: int, n_query: int) -> str:
    """Return the remedy for tasks too small for the split, with which at least two tasks remain."""
    least, second = n_support + n_query, int(np.sort(tasks.sizes)[-2])
    if second >= least:
        return f"pass --min-rows {least} to leave such tasks out"
    if second > n_query:
        return f"the most that two tasks have rows for is --n-support {second - n_query} with --min-rows {second}"
    return f"at least two tasks must have so many, and the second largest has {second}"
