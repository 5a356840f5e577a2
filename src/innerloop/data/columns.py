"""Feature columns of any kind, as a matrix of numbers.

scikit-learn's encoders count the rows of a level, not its groups, and keep what they learnt where only pickle restores
it; skrub's TableVectorizer, built on them, makes thirty unreadable columns of a text that names the group, and keeps
row numbers and missing values. So pandas factorises and reads dates, and the encoding is the little that is below.

The schema of a table is read off all its rows without any estimate (`Columns`): the columns in use, their kinds, and
which of them number the rows or the groups. Medians, the levels that get a column, and constants are estimates:
`ColumnMap.fit` makes them on the rows at hand, for errors on unseen tasks on the training tasks of each fold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Self, final

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop.data.frames import as_frame, column_names, row_name
from innerloop.data.ids import id_text

Kind = Literal["number", "date", "category"]

# A level has a column of its own if so many groups have it: one or two tell a level from a group badly.
MIN_GROUPS = 3
# Levels of a category at most; text of more different numbers is a column of numbers.
MAX_LEVELS = 30
# So many consecutive numbers are no chance.
MIN_RUN = 10

# What CSV readers take for a number: not 2020_01, nor digits of other alphabets, which Python's `float` reads too.
_NUMBER = re.compile(r"\s*[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?)\s*", re.ASCII | re.IGNORECASE)
_ISO_DATE = re.compile(r"\s*\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?\s*", re.ASCII)
_ROW_NUMBER_NAME = re.compile(
    r"(unnamed: \d+|row_?names?|row_?(id|number|num|no)|index|level_0|__index_level_0__|)", re.I
)
_ID_NAME = re.compile(r"(?i:(.*[_. -])?(id|uuid|guid))|.*[a-z]I[dD]")
_US_PER_DAY = 86_400e6


@final
@dataclass(frozen=True, eq=False)
class Column:
    """A column as read: numbers and days with NaN where missing, or codes of levels with -1 where missing."""

    name: str
    kind: Kind
    values: NDArray[Any] = field(repr=False)
    levels: tuple[str, ...] = ()

    @property
    def missing(self) -> Any:
        """Which rows have no value."""
        return self.values < 0 if self.kind == "category" else np.isnan(self.values)

    @property
    def content(self) -> tuple[bool, bytes]:
        """What is the same for columns that tell the same: categories that differ in the names of levels, too."""
        if self.kind != "category":
            return False, self.values.tobytes()
        _, first, position = np.unique(self.values, return_index=True, return_inverse=True)
        return True, first[position].tobytes()

    def take(self, rows: Any) -> Column:
        """Return some rows."""
        return Column(self.name, self.kind, self.values[rows], self.levels)


@final
@dataclass(frozen=True, eq=False)
class Columns:
    """The feature columns of a table, read but not yet encoded.

    Parameters
    ----------
    columns
        In the order of the table.
    n_rows
        Also of a table without features.
    notes
        What was left out and why, in sentences without a full stop.
    """

    columns: tuple[Column, ...]
    n_rows: int
    notes: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        frame: Any,
        task: IntArray,
        features: Sequence[str] | None = None,
        drop: Sequence[str] = (),
        name: str = "`frame`",
        place: Callable[[int], str] = row_name,
    ) -> Columns:
        """Find out the kind of each column of a table.

        Parameters
        ----------
        frame
            Any eager data frame.
        task : (n_rows,)
            Position of each row's task among the tasks.
        features
            Columns to use, whatever they look like; None takes all but those that number rows or groups, and those of
            kinds that cannot be used.
        drop
            Columns to leave out.
        name, place
            What messages call the frame, and its row i.

        Raises
        ------
        ValueError
            If columns do not exist or hold cells that cannot be used; the message names all of them.
        """
        table = as_frame(frame, name)
        column_names(table, [*(features or []), *drop], name)
        chosen = [c for c in (table.columns if features is None else features) if c not in set(drop)]
        columns, notes, problems = [], list[str](), list[str]()
        for column, read in _read_all(table, dict.fromkeys(chosen), place):
            if isinstance(read, Column):
                reason = "" if features is not None else _is_a_number_of(read, task)
                if reason:
                    notes.append(f"{column!r} {reason}: left out")
                else:
                    columns.append(read)
            elif read.unusable and features is None:
                notes.append(f"{column!r} {read}: left out")
            else:
                problems.append(read.of(column))
        refuse(problems, name)
        return cls(tuple(columns), len(task), tuple(notes))

    def take(self, rows: Any) -> Columns:
        """Return some rows."""
        taken = tuple(column.take(rows) for column in self.columns)
        return Columns(taken, len(np.arange(self.n_rows)[rows]), self.notes)


class ProblemError(Exception):
    """What is wrong with a column, a phrase, and where; `unusable` if no cell can be used."""

    def __init__(self, words: str, where: str = "", unusable: bool = False) -> None:
        super().__init__(words)
        self.where, self.unusable = where, unusable

    def of(self, column: str) -> str:
        """Return a phrase that goes on from "has"."""
        if self.unusable:
            return f"{column!r}, which {self}"
        return f"{self} in column {column!r}" + (f", {self.where}" if self.where else "")


def refuse(problems: list[str], name: str) -> None:
    """Raise ValueError where there are problems: phrases that go on from "has"."""
    if problems:
        remedy = "correct or empty such cells, or leave such columns out"
        raise ValueError(f"{name} has {'; '.join(problems[:10])}{' ...' if len(problems) > 10 else ''}; {remedy}.")


# --- reading ------------------------------------------------------------------------------------------------------


def _read_all(
    table: nw.DataFrame[Any], kinds: dict[str, Kind | None], place: Callable[[int], str]
) -> Iterator[tuple[str, Column | ProblemError]]:
    """Yield the name of each column, and it as read or what is wrong with it."""
    numbers = _plain_numbers(table.select(list(kinds)))
    for name, kind in kinds.items():
        try:
            if name in numbers and kind in (None, "number"):
                yield name, _finite(Column(name, "number", numbers[name]), place)
            else:
                yield name, read_column(table.get_column(name), place, kind)
        except ProblemError as problem:
            yield name, problem


def read_column(series: nw.Series[Any], place: Callable[[int], str], wanted: Kind | None = None) -> Column:
    """Read a column, as the kind that is wanted or as what it looks like."""
    values: Any
    kind, values, distinct = _values(series)
    if kind == "text":
        is_number, is_date = (
            [pattern.fullmatch(text) is not None for text in distinct] for pattern in (_NUMBER, _ISO_DATE)
        )
        kind = wanted or _kind_of_text(values, is_number, is_date)
        if kind == "number":
            numbers = np.array(
                [float(t) if ok else np.nan for t, ok in zip(distinct, is_number, strict=True)] + [np.nan]
            )
            _refuse_texts(values, distinct, is_number, place)
            values = numbers[values]
        elif kind == "date":
            _refuse_texts(values, distinct, is_date, place)
            values = np.append(_days(distinct), np.nan)[values]
    if wanted == "category" and kind != "category":
        kind, distinct, values = "category", *_as_levels(series)
    if wanted is not None and kind != wanted and not np.isnan(values).all():
        raise ProblemError(f"{kind}s instead of the {wanted}s that the model was fitted on")
    if kind == "category":
        levels, again = _merged(distinct)
        return Column(series.name, "category", np.append(again, -1)[values], levels)
    return _finite(Column(series.name, kind, values), place)


def _plain_numbers(table: nw.DataFrame[Any]) -> dict[str, NDArray[Any]]:
    """Return the columns of floats and integers, NaN where missing: all at once, as there may be many."""
    names = [name for name, dtype in table.schema.items() if dtype.is_float() or dtype.is_integer()]
    matrix = table.select(names).to_numpy() if names else np.empty(0)
    if matrix.dtype.kind not in "iuf":  # of types that hold missing values as objects
        return {}
    return dict(zip(names, np.ascontiguousarray(matrix.T, dtype=np.float64), strict=True))


def _finite(column: Column, place: Callable[[int], str]) -> Column:
    if np.isinf(column.values).any():
        row = int(np.argmax(np.isinf(column.values)))
        raise ProblemError(f"an infinite value ({column.values[row]})", place(row))
    return column


def _values(series: nw.Series[Any]) -> tuple[Any, Any, list[str]]:
    """Return ("number" or "date", floats) of a column, or ("text" or "category", codes, distinct texts)."""
    dtype = series.dtype
    absent = series.is_null().to_numpy()
    if dtype.is_numeric() or dtype == nw.Boolean:
        values = series.to_numpy()
        if values.dtype.kind not in "iufb":
            values = np.array(
                [np.nan if gone else float(v) for v, gone in zip(values, absent, strict=True)], dtype=float
            )
        return "number", np.where(absent, np.nan, values.astype(np.float64)), []
    if dtype in (nw.Date, nw.Datetime):
        stamps = series.cast(nw.Datetime("us")) if dtype == nw.Date else series
        return "date", _floats(stamps.dt.timestamp("us"), absent) / _US_PER_DAY, []
    if dtype == nw.Duration:
        return "number", _floats(series.dt.total_microseconds(), absent) / _US_PER_DAY, []
    if dtype in (nw.Categorical, nw.Enum):
        return "category", *_codes(series.to_numpy(), absent)
    if dtype not in (nw.String, nw.Object, nw.Unknown):
        raise ProblemError(f"holds values of type {dtype}", unusable=True)
    return _values_of_objects(series.to_numpy(), absent)


def _values_of_objects(values: Any, absent: Any) -> tuple[Any, Any, list[str]]:
    import pandas as pd

    present = values[~absent]
    kind = pd.api.types.infer_dtype(present, skipna=True)
    if kind in ("integer", "floating", "mixed-integer-float", "decimal", "boolean"):
        floats = np.full(len(values), np.nan)
        try:
            floats[~absent] = [float(value) for value in present]
        except OverflowError:
            floats[~absent] = [float(value) if abs(value) < 10**308 else np.inf for value in present]
        return "number", floats, []
    if kind in ("datetime", "datetime64", "date"):
        days = np.full(len(values), np.nan)
        days[~absent] = _days([str(value) for value in present])
        return "date", days, []
    if kind == "empty":
        return "number", np.full(len(values), np.nan), []
    if values.dtype.kind == "c" or kind == "complex":
        raise ProblemError("holds complex numbers", unusable=True)
    if any(isinstance(value, list | tuple | dict | set | bytes | np.ndarray) for value in present):
        raise ProblemError("holds lists, bytes or the like", unusable=True)
    return "text", *_codes(values, absent)


def _floats(series: nw.Series[Any], absent: Any) -> FloatArray:
    return np.array(
        [np.nan if gone else value for value, gone in zip(series.to_list(), absent, strict=True)], dtype=float
    )


def _codes(values: Any, absent: Any) -> tuple[IntArray, list[str]]:
    """Return codes, -1 where absent, and the text of each: one for all forms of a whole number."""
    import pandas as pd

    codes = np.full(len(values), -1)
    codes[~absent], distinct = pd.factorize(np.asarray(values[~absent], dtype=object))
    return codes, [_level_text(value) for value in distinct]


def _as_levels(series: nw.Series[Any]) -> tuple[list[str], IntArray]:
    codes, distinct = _codes(series.to_numpy(), series.is_null().to_numpy())
    return distinct, codes


def _level_text(value: Any) -> str:
    try:
        return id_text(value)
    except (TypeError, ValueError):
        return str(value).strip()


def _merged(distinct: list[str]) -> tuple[tuple[str, ...], IntArray]:
    """Return sorted levels, and the position of each distinct text's among them; empty text is missing."""
    levels = tuple(sorted(set(distinct) - {""}))
    place = {level: i for i, level in enumerate(levels)} | {"": -1}
    return levels, np.array([place[text] for text in distinct], dtype=np.intp)


def _kind_of_text(codes: IntArray, is_number: list[bool], is_date: list[bool]) -> Kind:
    """Return what text is: numbers also where a few cells of very many are none."""
    counts = np.bincount(codes[codes >= 0], minlength=len(is_number))
    if all(is_number) or (sum(is_number) > MAX_LEVELS and counts[is_number].sum() > counts.sum() / 2):
        return "number"
    return "date" if all(is_date) else "category"


def _refuse_texts(codes: IntArray, distinct: list[str], fine: list[bool], place: Callable[[int], str]) -> None:
    bad = ~np.array([*fine, True])[codes]
    if bad.any():
        row = int(np.argmax(bad))
        more = f" and {int(bad.sum()) - 1} more" if bad.sum() > 1 else ""
        raise ProblemError(f"the text {distinct[codes[row]][:40]!r}", f"{place(row)}{more}")


def _days(texts: Sequence[str]) -> FloatArray:
    """Return days since 1970 of dates in ISO form."""
    import pandas as pd

    stamps = pd.to_datetime(pd.Series(list(texts), dtype=object), format="ISO8601", utc=True)
    return stamps.dt.tz_localize(None).to_numpy().astype("M8[us]").astype(np.int64) / _US_PER_DAY


def _is_a_number_of(column: Column, task: IntArray) -> str:
    """Return why a column is no feature but a number of its rows or groups, or an id; "" if it is a feature."""
    values = column.values
    if column.kind != "number" or not len(values) or not (values == np.trunc(values)).all():
        return ""
    consecutive = len(values) >= MIN_RUN and np.ptp(values) == len(values) - 1
    if (consecutive or _ROW_NUMBER_NAME.fullmatch(column.name)) and len(np.unique(values)) == len(values):
        return "numbers the rows"
    if _ID_NAME.fullmatch(column.name):
        return "is an id by its name"
    n_tasks = int(task.max()) + 1
    of_task = np.zeros(n_tasks)
    of_task[task] = values
    if (
        n_tasks >= MIN_RUN
        and (of_task[task] == values).all()
        and len(np.unique(of_task)) == n_tasks == np.ptp(of_task) + 1
    ):
        return "numbers the groups"
    return ""


# --- encoding -----------------------------------------------------------------------------------------------------


def _are(values: Iterable[Any], kind: Any) -> bool:
    return all(isinstance(value, kind) for value in values)


@final
@dataclass(frozen=True)
class NumberCode:
    """How a column of numbers, or of dates in days, is encoded.

    Missing values are set to the median; where `indicator` holds, a further column is 1 for them and 0 otherwise.
    `filled`: whether some of the rows of `fit` were missing.
    """

    name: str
    kind: Kind
    median: float
    varies: bool
    indicator: bool
    filled: bool

    @classmethod
    def fit(cls, column: Column, counts: Counts, is_sample: bool = False) -> tuple[Self, list[str]]:
        """Return the code of a column and what to say of it; one of a sample may vary elsewhere."""
        present = column.values[~column.missing]
        varies = is_sample or (len(present) > 0 and bool(present.min() < present.max()))
        indicator = 0 < len(present) < len(column.values) and counts.n_groups(column.missing) >= counts.least
        median = float(np.median(present)) if len(present) else 0.0
        notes = []
        if not varies:
            known = f"{present[0]:g} wherever it is known" if len(present) else "empty"
            notes.append(f"{column.name!r} is {known}: left out")
        if len(present) and (n := len(column.values) - len(present)):
            beside = ", with a column that says where" if indicator else ""
            rows = "1 row" if n == 1 else f"{n} rows"
            notes.append(f"{column.name!r} is missing in {rows}: set to the median {median:g}{beside}")
        if column.kind == "date" and varies:
            notes.append(f"{column.name!r} is a date: in days")
        return cls(column.name, column.kind, median, varies, indicator, len(present) < len(column.values)), notes

    def is_whole(self) -> bool:
        """Return whether all is of its type, as what came from a file may not be."""
        flags = (self.varies, self.indicator, self.filled)
        is_number = isinstance(self.median, int | float) and math.isfinite(self.median)
        return isinstance(self.name, str) and self.kind in ("number", "date") and is_number and _are(flags, bool)

    @property
    def names(self) -> list[str]:
        """Names of its columns."""
        days = f"{self.name} (days)" if self.kind == "date" else self.name
        return [days] * self.varies + [f"{self.name} is missing"] * self.indicator

    def encode(self, column: Column) -> FloatArray:
        """Return its columns: (n_rows, n_columns)."""
        missing = column.missing
        filled = np.where(missing, self.median, column.values)
        return np.column_stack([filled, missing])[:, [self.varies, self.indicator]]


@final
@dataclass(frozen=True)
class CategoryCode:
    """How a category is encoded: a column of 0 and 1 for each slot but one.

    Slots are the levels that enough groups have, all rarer levels together, and missing cells, the last two where
    enough groups have such. The reference, the slot of most rows (the first of several), has no column: coefficients
    are differences to it, as in a mixed model. A level that has no slot, as one never seen, is the average row: the
    slots' shares of the rows.
    """

    name: str
    levels: list[str]
    rare: bool
    missing: bool
    reference: int
    shares: list[float]

    kind: ClassVar[Kind] = "category"

    @classmethod
    def fit(cls, column: Column, counts: Counts) -> tuple[Self, list[str]]:
        """Return the code of a column and what to say of it."""
        n_levels = len(column.levels)
        n_groups = counts.n_groups_of(column.values, n_levels)
        n_rows = np.bincount(column.values + 1, minlength=n_levels + 1)[1:]
        common = [i for i in np.argsort(-n_rows, kind="stable")[:MAX_LEVELS] if n_groups[i] >= counts.least]
        levels = [column.levels[i] for i in sorted(common)]
        pooled = (column.values >= 0) & ~np.isin(column.values, common)
        rare, missing = (counts.n_groups(rows) >= counts.least for rows in (pooled, column.missing))
        code = cls(column.name, levels, rare, missing, 0, [])
        slot = code._slot(column)
        shares = np.bincount(slot[slot >= 0], minlength=code.n_slots) / max((slot >= 0).sum(), 1)
        reference = int(np.argmax(shares)) if code.n_slots else 0
        code = cls(column.name, levels, rare, missing, reference, shares.tolist())
        return code, code._notes(n_levels)

    def is_whole(self) -> bool:
        """Return whether all is of its type and size, as what came from a file may not be."""
        if not (_are((self.name, *self.levels), str) and _are((self.rare, self.missing), bool)):
            return False
        shares_are_numbers = _are(self.shares, int | float) and len(self.shares) == self.n_slots
        place = isinstance(self.reference, int) and 0 <= self.reference < max(self.n_slots, 1)
        return shares_are_numbers and place and len(set(self.levels)) == len(self.levels)

    @property
    def n_slots(self) -> int:
        """Number of slots."""
        return len(self.levels) + self.rare + self.missing

    @property
    def _slot_names(self) -> list[str]:
        return [*self.levels, *["(other)"] * self.rare, *["(missing)"] * self.missing]

    @property
    def names(self) -> list[str]:
        """Names of its columns."""
        return [f"{self.name}={slot}" for i, slot in enumerate(self._slot_names) if i != self.reference]

    def _slot(self, column: Column) -> IntArray:
        """Return each row's slot, -1 for none."""
        place = {level: i for i, level in enumerate(self.levels)}
        other = len(self.levels) if self.rare else -1
        of_level = [place.get(level, other) for level in column.levels]
        slot = np.array([*of_level, self.n_slots - 1 if self.missing else -1], dtype=np.intp)
        return np.asarray(slot[column.values])

    def encode(self, column: Column) -> FloatArray:
        """Return its columns: (n_rows, n_columns)."""
        rows = np.vstack([np.eye(self.n_slots), self.shares]) if self.n_slots else np.zeros((1, 0))
        kept = np.arange(self.n_slots) != self.reference
        return np.asarray(rows[self._slot(column)][:, kept])

    def _notes(self, n_levels: int) -> list[str]:
        if not self.names:
            why = "has one level" if n_levels == 1 else "has no level that several groups share"
            return [f"{self.name!r} {why}: left out"]
        pooled = n_levels - len(self.levels)
        rare = f"{pooled} rare level{'s' if pooled > 1 else ''}"
        rest = f"; {rare} {'together' if self.rare else 'as the average row'}" if pooled else ""
        return [
            f"{self.name!r} is a category: {', '.join(self.names)} against {self._slot_names[self.reference]}{rest}"
        ]


@final
class Counts:
    """How many groups have what."""

    def __init__(self, task: IntArray) -> None:
        self.task = task
        self.n_tasks = int(task.max()) + 1 if len(task) else 0
        self.least = max(1, min(MIN_GROUPS, self.n_tasks))

    def n_groups(self, rows: Any) -> int:
        """Return the number of groups that have one of these rows."""
        return len(np.unique(self.task[rows]))

    def n_groups_of(self, codes: IntArray, n_codes: int) -> IntArray:
        """Return the number of groups that have each code."""
        has = codes >= 0
        pairs = np.unique(codes[has].astype(np.int64) * max(self.n_tasks, 1) + self.task[has])
        return np.bincount(pairs // max(self.n_tasks, 1), minlength=n_codes)


@final
@dataclass(frozen=True)
class ColumnMap:
    """A fitted map from columns of any kind to a matrix of numbers.

    Make one with `fit`.

    Parameters
    ----------
    codes
        How each input column is encoded.
    notes
        What was done and left out, in sentences without a full stop.
    """

    codes: tuple[NumberCode | CategoryCode, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def fit(cls, columns: Columns, task: IntArray, *, is_sample: bool = False) -> ColumnMap:
        """Estimate medians and levels on the rows given.

        Parameters
        ----------
        columns
            Of the training tasks.
        task : (n_rows,)
            Position of each row's task.
        is_sample
            Whether there are more rows, so that columns are kept that do not vary or repeat others in these.
        """
        counts, codes, notes = Counts(task), [], list(columns.notes)
        seen: dict[tuple[bool, bytes], str] = {}
        for column in columns.columns:
            if not is_sample and (other := seen.setdefault(column.content, column.name)) != column.name:
                notes.append(f"{column.name!r} repeats {other!r}: left out")
                continue
            code, said = (
                CategoryCode.fit(column, counts)
                if column.kind == "category"
                else NumberCode.fit(column, counts, is_sample)
            )
            codes.append(code)
            notes += said
        return cls(tuple(codes), tuple(notes))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of the matrix."""
        return tuple(name for code in self.codes for name in code.names)

    @property
    def estimates(self) -> bool:
        """Whether anything but the columns in use depends on the rows of `fit`."""
        return any(not isinstance(code, NumberCode) or code.filled for code in self.codes)

    @property
    def is_plain(self) -> bool:
        """Whether all columns are numbers, taken as they are."""
        return all(isinstance(code, NumberCode) and code.names == [code.name] for code in self.codes)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the columns that a table must have."""
        return tuple(code.name for code in self.codes if code.names)

    def read(self, frame: Any, name: str = "`X`", place: Callable[[int], str] = row_name) -> Columns:
        """Read the columns that the map needs of a table, as the kinds that they were in `fit`.

        Raises
        ------
        ValueError
            If columns are missing or hold cells of another kind; the message names all of them.
        """
        table = as_frame(frame, name)
        column_names(table, self.inputs, name)
        kinds: dict[str, Kind | None] = {code.name: code.kind for code in self.codes if code.names}
        reads = list(_read_all(table, kinds, place))
        columns = [read for _, read in reads if isinstance(read, Column)]
        problems = [read.of(column) for column, read in reads if not isinstance(read, Column)]
        refuse(problems, name)
        return Columns(tuple(columns), len(table))

    def transform(self, columns: Columns) -> FloatArray:
        """Return the matrix: (n_rows, n_features), finite."""
        by_name = {column.name: column for column in columns.columns}
        parts = [code.encode(by_name[code.name]) for code in self.codes if code.names]
        return np.hstack([np.empty((columns.n_rows, 0)), *parts])

    def to_state(self) -> dict[str, Any]:
        """Return all of it as values that JSON can hold."""
        return {"codes": [asdict(code) for code in self.codes], "notes": list(self.notes)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ColumnMap:
        """Return the map that `to_state` described.

        Raises
        ------
        ValueError, TypeError, KeyError
            If it is none.
        """
        codes = [(NumberCode if "median" in code else CategoryCode)(**code) for code in state["codes"]]
        for code in codes:
            if not code.is_whole():
                raise ValueError(f"the column {code.name!r} has no code")
        if len({code.name for code in codes}) < len(codes):
            raise ValueError("two columns have one name")
        return cls(tuple(codes), tuple(state["notes"]))
