"""A data frame of many tasks: its ids, targets and features, each row read by what its column holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop.data.columns import Columns, ProblemError, read_column, refuse
from innerloop.data.frames import as_frame, column_names, row_name
from innerloop.data.ids import distinct_ids
from innerloop.data.targets import log_targets


@final
@dataclass(frozen=True)
class TargetCode:
    """How a target column is a number: as it is, or 0 and 1 for two `levels` of text."""

    name: str
    levels: tuple[str, ...] = ()

    @classmethod
    def fit(cls, table: nw.DataFrame[Any], name: str, place: Callable[[int], str]) -> tuple[TargetCode, FloatArray]:
        """Return the code of a column and its values, NaN where there are none."""
        column = read_column(table.get_column(name), place)
        if column.kind == "category" and len(column.levels) != 2:
            raise ProblemError(f"{len(column.levels)} different texts, not numbers nor two classes,")
        if column.kind == "date":
            raise ProblemError("dates, not numbers,")
        code = cls(name, column.levels)
        return code, np.where(column.missing, np.nan, column.values)

    def read(self, frame: Any, name: str, place: Callable[[int], str] = row_name) -> FloatArray:
        """Return the targets in another table, NaN where there are none."""
        table = as_frame(frame, name)
        if self.name not in table.columns:
            return np.full(len(table), np.nan)
        try:
            return self._read(table, place)
        except ProblemError as problem:
            refuse([problem.of(self.name)], name)
            raise

    def _read(self, table: nw.DataFrame[Any], place: Callable[[int], str]) -> FloatArray:
        column = read_column(table.get_column(self.name), place, "category" if self.levels else "number")
        if not self.levels:
            return np.asarray(column.values)
        values = np.array([*(self.levels.index(v) if v in self.levels else np.inf for v in column.levels), np.nan])
        if (unknown := np.isinf(values[column.values])).any():
            row = int(np.argmax(unknown))
            text = column.levels[column.values[row]]
            raise ProblemError(f"the text {text!r}, neither {self.levels[0]!r} nor {self.levels[1]!r},", place(row))
        return np.asarray(values[column.values])

    @property
    def note(self) -> str:
        """What is to be said of it, "" for plain numbers."""
        zero_one = "{0!r} is 1 for {2!r} and 0 for {1!r}: predictions are shares of {2!r}"
        return zero_one.format(self.name, *self.levels) if self.levels else ""

    def to_state(self) -> dict[str, Any]:
        """Return all of it as values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> TargetCode:
        """Return the code that `to_state` described."""
        return cls(state["name"], tuple(state["levels"]))


@final
@dataclass(frozen=True, eq=False)
class TaskRows:
    """The rows of a table that have a target.

    Parameters
    ----------
    columns
        Features, read but not yet encoded.
    y : (n_rows,) or (n_rows, n_targets)
    ids : (n_tasks,)
        See `distinct_ids`.
    task : (n_rows,)
        Position of each row's id.
    targets
        How each target column is a number.
    notes
        What was left out or changed, in sentences without a full stop.
    weights : (n_rows,) or None
        Precisions of the rows, above 0.
    """

    columns: Columns
    y: FloatArray
    ids: NDArray[Any]
    task: IntArray
    targets: tuple[TargetCode, ...]
    notes: tuple[str, ...]
    weights: FloatArray | None = None


def read_task_rows(
    frame: Any,
    group: str,
    target: str | Sequence[str],
    features: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    name: str = "`frame`",
    place: Callable[[int], str] = row_name,
    weights: str | None = None,
    positive: bool = False,
) -> TaskRows:
    """Read the ids, targets and features of a data frame; see `TaskSet.from_table`.

    `name` is what messages call the frame, and ``place(i)`` its row i. With `positive`, other targets are refused.
    """
    table = as_frame(frame, name)
    targets = [_as_name(target, "target")] if isinstance(target, str | int) else [_as_name(t, "target") for t in target]
    group = _as_name(group, "group")
    features, drop = None if features is None else [str(f) for f in features], [str(d) for d in drop]
    of_weights = [] if weights is None else [_as_name(weights, "weights")]
    column_names(table, [group, *targets, *of_weights, *(features or []), *drop], name)
    taken = [group, *targets, *of_weights]
    if not targets or len(set(taken)) < len(taken):
        what = "`group`, `target` and `weights`" if of_weights else "`group` and `target`"
        raise ValueError(f"{what} must name different columns, one target at least, got {taken}.")
    for i, feature in enumerate(features or []):
        if feature in (*taken, *(features or [])[:i]):
            raise ValueError(
                f"`features` names {feature!r}, which is the group, a target, the weights or named already; leave it "
                "out."
            )
    unused = {*taken, *drop}
    chosen = [c for c in (table.columns if features is None else features) if c not in unused]
    ids, task = read_ids(table, group, name, place)
    columns = Columns.read(table.select(chosen), task, None if features is None else chosen, (), name, place)
    codes, y = _read_targets(table, targets, name, place)
    if positive:
        log_targets(y, f"column {targets[0]!r} of {name}", place)
    notes = [code.note for code in codes if code.note]
    known = ~np.isnan(y).any(axis=1)
    if not known.any():
        raise ValueError(f"{name} has no value of {targets[0]!r} in any row, so there is nothing to learn from.")
    if gone := int((~known).sum()):
        notes.append(
            f"{gone} row{'s' if gone > 1 else ''} without target left out, first {place(int(np.argmin(known)))}"
        )
    row_weights = read_weights(table, of_weights[0], name, place) if of_weights else None
    if row_weights is not None:
        if gone := int((row_weights[known] == 0).sum()):
            notes.append(f"{gone} row{'s' if gone > 1 else ''} of weight 0 or without weight left out")
        known &= row_weights > 0
        if not known.any():
            raise ValueError(f"{name} has no row with a target and a positive weight in {of_weights[0]!r}.")
    if not known.all():
        columns, y, task = columns.take(known), y[known], task[known]
        row_weights = None if row_weights is None else row_weights[known]
        present, task = np.unique(task, return_inverse=True)
        ids = ids[present]
    y = y[:, 0] if isinstance(target, str | int) else y
    return TaskRows(columns, y, ids, task, tuple(codes), tuple(notes), row_weights)


def read_ids(
    table: nw.DataFrame[Any], group: str, name: str, place: Callable[[int], str] = row_name
) -> tuple[NDArray[Any], IntArray]:
    """Return the distinct ids in the column `group`, and the position of each row's among them."""
    return distinct_ids(table.get_column(group).to_numpy(), f"column {group!r} of {name.strip('`')}", len(table), place)


def _read_targets(
    table: nw.DataFrame[Any], targets: Sequence[str], name: str, place: Callable[[int], str]
) -> tuple[list[TargetCode], FloatArray]:
    codes, values, problems = [], [], []
    for target in targets:
        try:
            code, y = TargetCode.fit(table, target, place)
            codes.append(code)
            values.append(y)
        except ProblemError as problem:
            problems.append(problem.of(target))
    refuse(problems, name)
    return codes, np.column_stack(values)


def read_weights(table: nw.DataFrame[Any], column: str, name: str, place: Callable[[int], str]) -> FloatArray:
    """Return the weights of rows, 0 where there is none."""
    try:
        weights: FloatArray = np.nan_to_num(read_column(table.get_column(column), place, "number").values)
        if (negative := weights < 0).any():
            row = int(np.argmax(negative))
            raise ProblemError(f"the negative weight {weights[row]:g}", place(row))
    except ProblemError as problem:
        refuse([problem.of(column)], name)
        raise
    return weights


def _as_name(value: Any, name: str) -> str:
    if not isinstance(value, str | int):
        raise TypeError(f"`{name}` must be the name of a column, got {value!r}.")
    return str(value)
