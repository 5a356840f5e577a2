"""Rows of Parquet and CSV files, fragment by fragment and chunk by chunk, as ids and numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray
from innerloop.data.columns import ColumnMap
from innerloop.data.ids import distinct_ids
from innerloop.data.targets import log_targets
from innerloop.data.words import Words, words_of_ids

PARQUET, CSV = (".parquet", ".pq"), (".csv",)
# Numbers that are read at once, and bytes of text.
_NUMBERS_OF_CHUNK, _CSV_BLOCK = 2**21, 2**24


@final
@dataclass(frozen=True)
class Fragment:
    """A part of a file that is read in one go: a CSV file, or some row groups of a Parquet file.

    Parameters
    ----------
    path
    row_groups
        None for a CSV file.
    first_row
        Number of the file's rows before it.
    n_rows
        Of a CSV file an estimate.
    """

    path: str
    row_groups: tuple[int, ...] | None
    first_row: int
    n_rows: int


@final
@dataclass(frozen=True, eq=False)
class Chunk:
    """Rows of a file: their ids, the words of these, and the numbers of each: features, targets and its weight."""

    ids: NDArray[Any]
    words: Words
    values: FloatArray


@final
@dataclass(frozen=True)
class Table:
    """What of each file is read.

    Parameters
    ----------
    group, targets, features
        Names of columns.
    single_target
        Whether targets have one dimension.
    is_log
        Whether targets are replaced by their logarithms.
    weights
        Name of the column with the weights of rows, or None.
    encoding
        From the feature columns to numbers; None: they are numbers.
    """

    group: str
    targets: tuple[str, ...]
    features: tuple[str, ...]
    single_target: bool
    is_log: bool = False
    weights: str | None = None
    encoding: ColumnMap | None = None

    @property
    def columns(self) -> list[str]:
        """Names of all columns of a file that are read."""
        return [self.group, *self.features, *self.targets, *([self.weights] if self.weights is not None else [])]

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, encoded."""
        return self.features if self.encoding is None else self.encoding.feature_names

    @property
    def width(self) -> int:
        """How many numbers a row holds: features, targets and its weight."""
        return len(self.feature_names) + len(self.targets) + (self.weights is not None)

    def to_state(self) -> dict[str, Any]:
        """Return all of it as values that JSON can hold."""
        state = asdict(replace(self, encoding=None))
        return state | {"encoding": None if self.encoding is None else self.encoding.to_state()}

    def chunks(self, fragment: Fragment) -> Iterator[Chunk]:
        """Yield the rows of a fragment in their order, without those of weight 0.

        Raises
        ------
        ValueError
            If the file is not whole, or a cell cannot be used; the message names file and row.
        """
        first = fragment.first_row
        for batch in batches(fragment, self):
            if len(batch):
                ids, words = ids_and_words(batch.column(self.group), self.group, fragment.path, first)
                values = [_numbers(batch.column(c), c, fragment.path, first) for c in self.targets]
                if self.is_log:
                    values = [
                        log_targets(y, f"column {target!r} of {fragment.path}", _place(first))
                        for y, target in zip(values, self.targets, strict=True)
                    ]
                if self.weights is not None:
                    values.append(_weights(batch.column(self.weights), self.weights, fragment.path, first))
                rows = np.column_stack((read_features(batch, self, fragment.path, first), *values))
                if self.weights is not None and not (used := values[-1] > 0).all():
                    ids, words, rows = ids[used], words[used], rows[used]
                if len(ids):
                    yield Chunk(ids, words, rows)
                first += len(batch)


def is_parquet(path: str | Path) -> bool:
    """Return whether a file is Parquet by its name."""
    return Path(path).suffix.lower() in PARQUET


def not_whole(path: str | Path, error: Exception) -> ValueError:
    """Return the error that a file cannot be read."""
    what = "is not a whole Parquet file" if is_parquet(path) else "cannot be read as CSV"
    return ValueError(f"{path} {what}: {str(error).splitlines()[0].rstrip('.')}.")


def batches(fragment: Fragment, table: Table, as_text: bool = False) -> Iterator[Any]:
    """Yield the record batches of a fragment with the columns of a table; features of CSV `as_text` if asked for."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if fragment.row_groups is None:
            kinds = {} if table.encoding is None else {code.name: code.kind for code in table.encoding.codes}
            is_text = {
                c: c in table.features and (as_text or kinds.get(c, "number") != "number") for c in table.columns
            }
            types = {c: pa.string() if c == table.group or is_text[c] else pa.float64() for c in table.columns}
            with open_csv(fragment.path, types) as reader:
                yield from reader
        else:
            size = max(1, _NUMBERS_OF_CHUNK // len(table.columns))
            with pq.ParquetFile(fragment.path, page_checksum_verification=True) as file:
                yield from file.iter_batches(size, row_groups=list(fragment.row_groups), columns=table.columns)
    except (pa.ArrowException, OSError) as error:
        raise not_whole(fragment.path, error) from None


def open_csv(path: str, types: dict[str, Any]) -> Any:
    """Return a reader of the batches of a CSV file, given the types of the columns; of all where there are none."""
    from pyarrow import csv

    options = csv.ConvertOptions(column_types=types, include_columns=list(types), strings_can_be_null=False)
    return csv.open_csv(path, csv.ReadOptions(block_size=_CSV_BLOCK, use_threads=False), convert_options=options)


def features_frame(batch: Any, table: Table, is_csv: bool) -> Any:
    """Return the feature columns of some rows as a data frame, without value where the text of a CSV file has none."""
    from pyarrow import csv

    frame = batch.select(list(table.features)).to_pandas()
    # An id may well be NA, so that the reader is not told.
    return frame.where(~frame.isin(csv.ConvertOptions().null_values), None) if is_csv else frame


def _place(first: int) -> Callable[[int], str]:
    """Return what says where a row of a chunk is, given how many rows of the file come before the chunk."""
    return lambda row: f"row {first + row} (counted from 0)"


def read_ids(column: Any, name: str, path: str, first: int) -> NDArray[Any]:
    """Return the id of each row, as `innerloop.data.ids.distinct_ids` has them."""
    import pyarrow as pa

    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise ValueError(
            f"{path} has no task id in column {name!r}, {_place(first)(row)}; name the task or drop the row."
        )
    if pa.types.is_integer(column.type) and not pa.types.is_uint64(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False).astype(np.int64))
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    codes = coded.indices.to_numpy(zero_copy_only=False)
    values = coded.dictionary.to_pylist()

    def place(i: int) -> str:
        return _place(first)(int(np.argmax(codes == i)))

    try:
        ids, position = distinct_ids(values, f"column {name!r} of {path}", len(values), place)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return np.asarray(ids[position][codes])


def ids_and_words(column: Any, name: str, path: str, first: int) -> tuple[NDArray[Any], Words]:
    """Return the id of each row, and its word."""
    ids = read_ids(column, name, path, first)
    if ids.dtype.kind != "U":
        return ids, words_of_ids(ids)
    distinct, position = np.unique(ids, return_inverse=True)
    return ids, words_of_ids(distinct)[position]


def _numbers(column: Any, name: str, path: str, first: int) -> FloatArray:
    """Return a column as floats, all of them finite."""
    import pyarrow as pa

    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise ValueError(f"{path} has no value in column {name!r}, {_place(first)(row)}; fill it in or drop the row.")
    values = column if pa.types.is_floating(column.type) else column.cast(pa.float64(), safe=False)
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
    if not np.isfinite(numbers).all():
        row = int(np.argmin(np.isfinite(numbers)))
        raise ValueError(f"{path} has {numbers[row]} in column {name!r}, {_place(first)(row)}; numbers must be finite.")
    return np.asarray(numbers)


def _weights(column: Any, name: str, path: str, first: int) -> FloatArray:
    """Return the weights of rows, 0 where there is none."""
    weights = _numbers(column.fill_null(0), name, path, first)
    if (weights < 0).any():
        row = int(np.argmax(weights < 0))
        raise ValueError(
            f"{path} has the weight {weights[row]:g} in column {name!r}, {_place(first)(row)}; weights are at least 0."
        )
    return weights


def read_features(batch: Any, table: Table, path: str, first: int) -> FloatArray:
    """Return the features of a record batch, encoded."""
    encoding = table.encoding
    if encoding is not None and not (encoding.is_plain and all(_are_numbers(batch.column(c)) for c in table.features)):
        frame = features_frame(batch, table, not is_parquet(path))
        return encoding.transform(encoding.read(frame, path, _place(first)))
    columns = [_numbers(batch.column(name), name, path, first) for name in table.features]
    return np.column_stack(columns) if columns else np.empty((len(batch), 0))


def is_number(kind: Any) -> bool:
    """Return whether an Arrow type is one of numbers; truth values are 0 and 1."""
    from pyarrow import types as kinds

    tests = (kinds.is_integer, kinds.is_floating, kinds.is_boolean, kinds.is_decimal)
    return any(test(kind) for test in tests)


def _are_numbers(column: Any) -> bool:
    return is_number(column.type) and not column.null_count
