"""Tasks from a table on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from innerloop.data.table_files import missing, numbers, read_table
from innerloop.data.tasks import TaskSet


def read_tasks(
    table: Path,
    group: str,
    target: str,
    features: list[str] | None,
    drop: list[str] | None,
    delimiter: str | None,
    min_rows: int | None,
) -> tuple[TaskSet, str]:
    """Return the tasks of a file, and a note on tasks that were left out."""
    frame = read_table(table, group, delimiter)
    missing(frame, [group, target, *(features or []), *(drop or [])], table)
    if group == target:
        raise ValueError(f"--group and --target must be different columns, got {group!r} for both.")
    for i, name in enumerate(features or []):
        if name in (group, target, *(features or [])[:i]):
            raise ValueError(
                f"--features names {name!r}, which is the group, the target or named already; leave it out."
            )
    taken = {group, target, *(drop or [])}
    chosen = [str(c) for c in (features or frame.columns) if c not in taken]
    if not chosen:
        raise ValueError(f"{table} has no feature column besides {', '.join(sorted(taken))}.")
    X, y = numbers(frame, chosen, table, delimiter), numbers(frame, [target], table, delimiter)[:, 0]
    tasks = TaskSet.from_arrays(X, y, frame[group].to_numpy(dtype=str), chosen)
    if min_rows is None or (tasks.sizes >= min_rows).all():
        return tasks, ""
    kept = tasks.select(tasks.sizes >= min_rows)
    return kept, f" ({len(tasks) - len(kept)} tasks of fewer than {min_rows} rows left out)"


def check_sizes(tasks: TaskSet, table: Path, n_support: int, n_query: int) -> None:
    """Refuse fewer than two tasks, a constant target, and tasks too small to adapt and be scored."""
    if len(tasks) < 2:
        what = f"one task, {tasks.ids[0].item()!r}" if len(tasks) else "no task large enough"
        raise ValueError(f"{table} holds {what}; rates are compared on unseen tasks, so at least two are needed.")
    if np.ptp(tasks.y) == 0:
        raise ValueError(f"every target in {table} is {tasks.y[0]:g}, so there is nothing to learn.")
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
