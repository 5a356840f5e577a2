"""Tables of tasks in files, too many rows for memory: what files there are, and their rows, chunk by chunk.

Files are Parquet or CSV. The rows of a task may lie in several files and anywhere in them. Nothing is read but names,
types and numbers of rows until it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray
from innerloop.data.frames import missing_column
from innerloop.data.ids import distinct_ids
from innerloop.data.targets import log_targets
from innerloop.data.words import Words, words_of_ids

if TYPE_CHECKING:
    from innerloop.data.tasks import TaskSet

_PARQUET, _CSV = (".parquet", ".pq"), (".csv",)
# Numbers that are read at once, and that one fragment holds unless a row group holds more.
_NUMBERS_OF_CHUNK, _NUMBERS_OF_FRAGMENT = 2**21, 2**24
_CSV_BLOCK = 2**24


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
    """Rows of a file: their ids, the words of these, and features and then targets as numbers."""

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
    """

    group: str
    targets: tuple[str, ...]
    features: tuple[str, ...]
    single_target: bool
    is_log: bool = False

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return [self.group, *self.features, *self.targets]

    def chunks(self, fragment: Fragment) -> Iterator[Chunk]:
        """Yield the rows of a fragment in their order.

        Raises
        ------
        ValueError
            If the file is not whole, or a cell is missing or no number; the message names file and row.
        """
        first = fragment.first_row
        for batch in batches(fragment, self.columns, self.group):
            if len(batch):
                ids, words = _ids(batch.column(self.group), self.group, fragment.path, first)
                values = [_numbers(batch.column(c), c, fragment.path, first) for c in (*self.features, *self.targets)]
                if self.is_log:
                    for i, target in enumerate(self.targets, len(self.features)):
                        values[i] = log_targets(values[i], f"column {target!r} of {fragment.path}", _place(first))
                yield Chunk(ids, words, np.column_stack(values))
                first += len(batch)


@final
class TaskDataset:
    """A table of many tasks in files that need not fit in memory.

    Only names, types and numbers of rows are read when it is made.

    Parameters
    ----------
    path
        A Parquet or CSV file, a list of them, or a folder, in which files of folders below count too. Rows may come in
        any order, those of a task in several files.
    group
        Name of the column with the task ids.
    target
        Name of the target column, or names for several targets.
    features
        Names of the feature columns; None takes all the others. They hold numbers, and no cell is missing.

    Attributes
    ----------
    files : tuple of str
    features : tuple of str
    n_rows : int
        Number of rows; of CSV files an estimate by their size.

    Raises
    ------
    FileNotFoundError, ValueError
        If there are no such files, or one of them has other columns; the message names it.

    Examples
    --------
    >>> import innerloop as il, pandas as pd, tempfile
    >>> tasks = il.MixedLinearRegression(2).sample_tasks(n_tasks=10, n_rows=6, seed=0)
    >>> frame = pd.DataFrame({"user": tasks.task_of_row, "a": tasks.X[:, 0], "b": tasks.X[:, 1], "y": tasks.y})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     frame.to_parquet(f"{folder}/rows.parquet")
    ...     data = il.TaskDataset(folder, group="user", target="y")
    ...     data.features, data.n_rows, len(data.sample())
    ...
    (('a', 'b'), 60, 10)
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        group: str,
        target: str | Sequence[str],
        features: Sequence[str] | None = None,
    ) -> None:
        need_pyarrow()
        files = list_files(path)
        targets = (target,) if isinstance(target, str) else tuple(target)
        names = column_types(files[0])
        chosen = tuple(features) if features is not None else tuple(c for c in names if c not in (group, *targets))
        taken = (group, *targets, *chosen)
        if not targets or len(set(taken)) < len(taken):
            raise ValueError(
                f"`group`, `target` and `features` must name different columns, one target at least, got {list(taken)}."
            )
        self.table = Table(group, targets, chosen, isinstance(target, str))
        self.files = tuple(str(file) for file in files)
        self.features = chosen
        self.fragments = _check_files(files, self.table, every=features is None)
        self.n_rows = sum(fragment.n_rows for fragment in self.fragments)

    def __repr__(self) -> str:
        return (
            f"TaskDataset({len(self.files)} files, about {self.n_rows:,} rows, group={self.table.group!r}, "
            f"target={self.table.targets if len(self.table.targets) > 1 else self.table.targets[0]!r}, "
            f"{len(self.features)} features)"
        )

    def sample(self, seed: int = 0) -> TaskSet:
        """Return the tasks that `MetaRegressor.fit_dataset` makes its choices on, for `study`, `calibrate`, `compare`.

        They are all tasks where there are at most 2^14, else 2^14 of them (fewer where these have very many rows, but
        at least 2,000), drawn by their ids: neither the order of rows nor that of files matters, and one task more
        changes at most one task of the sample. All files are read.
        """
        from innerloop.data.drawing import sample_of_dataset

        return sample_of_dataset(self, seed)


def check_dataset(data: object) -> None:
    """Refuse what is no `TaskDataset`, and say how to make one."""
    if not isinstance(data, TaskDataset):
        raise TypeError(
            f"`data` must be a TaskDataset, got {type(data).__name__}; make one with TaskDataset(path, group=..., "
            "target=...)."
        )


def need_pyarrow() -> None:
    """Say what is to be installed where pyarrow is not."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ImportError("datasets need pyarrow: pip install 'innerloop[table]'.") from None


def list_files(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files of a dataset, sorted."""
    given = [Path(path)] if isinstance(path, str | Path) else [Path(file) for file in path]
    files: list[Path] = []
    for file in given:
        if not file.exists():
            raise FileNotFoundError(f"there is no file {file}.")
        found = [file] if file.is_file() else sorted(f for f in file.rglob("*") if _is_table(f, file))
        if not found:
            raise ValueError(f"{file} is a folder without Parquet or CSV files; name a file, or a folder of them.")
        files += found
    for file in files:
        if file.suffix.lower() not in (*_PARQUET, *_CSV):
            raise ValueError(f"{file} is no Parquet or CSV file by its name; a dataset takes .parquet, .pq and .csv.")
    if not files:
        raise ValueError("`path` must name at least one file, got an empty list.")
    if len(set(files)) < len(files):
        raise ValueError(
            f"`path` names {next(f for f in files if files.count(f) > 1)} twice; its rows would count twice."
        )
    return sorted(files)


def is_parquet(path: str | Path) -> bool:
    """Return whether a file is Parquet by its name."""
    return Path(path).suffix.lower() in _PARQUET


def column_types(path: Path) -> dict[str, Any]:
    """Return the Arrow type of each column; of CSV files None."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if is_parquet(path):
            schema = pq.read_schema(path)
            return dict(zip(schema.names, schema.types, strict=True))
        with _open_csv(str(path), {}) as reader:
            return dict.fromkeys(reader.schema.names)
    except (pa.ArrowException, OSError) as error:
        raise not_whole(path, error) from None


def not_whole(path: str | Path, error: Exception) -> ValueError:
    """Return the error that a file cannot be read."""
    what = "Parquet" if is_parquet(path) else "CSV"
    return ValueError(f"{path} is not a whole {what} file: {str(error).splitlines()[0].rstrip('.')}.")


def batches(fragment: Fragment, columns: Sequence[str], group: str) -> Iterator[Any]:
    """Yield the record batches of a fragment with these columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if fragment.row_groups is None:
            types = {c: pa.string() if c == group else pa.float64() for c in columns}
            with _open_csv(fragment.path, types) as reader:
                yield from reader
        else:
            size = max(1, _NUMBERS_OF_CHUNK // len(columns))
            with pq.ParquetFile(fragment.path) as file:
                yield from file.iter_batches(size, row_groups=list(fragment.row_groups), columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise not_whole(fragment.path, error) from None


def _is_table(file: Path, folder: Path) -> bool:
    is_hidden = any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    return file.is_file() and not is_hidden and file.suffix.lower() in (*_PARQUET, *_CSV)


def _open_csv(path: str, types: dict[str, Any]) -> Any:
    from pyarrow import csv

    options = csv.ConvertOptions(column_types=types, include_columns=list(types), strings_can_be_null=False)
    return csv.open_csv(path, csv.ReadOptions(block_size=_CSV_BLOCK, use_threads=False), convert_options=options)


def _check_files(files: Sequence[Path], table: Table, every: bool) -> tuple[Fragment, ...]:
    """Return the fragments of all files, or say which has other columns than the first, or none that can be used."""
    first = column_types(files[0])
    kind_of_ids: tuple[Path, str] | None = None
    fragments: list[Fragment] = []
    for file in files:
        types = column_types(file)
        for column in table.columns:
            if column not in types:
                raise ValueError(missing_column(column, list(types), str(file)))
        if every and set(types) != set(first):
            differing = sorted(set(types) ^ set(first))[0]
            raise ValueError(
                f"{file} and {files[0]} differ in column {differing!r}; give both the same, or name `features`."
            )
        if is_parquet(file):
            _check_types(file, types, table)
            kind = _kind_of_id(types[table.group])
            kind_of_ids = kind_of_ids or (file, kind)
            if kind != kind_of_ids[1]:
                raise ValueError(
                    f"{file} has {kind} in column {table.group!r}, where {kind_of_ids[0]} has {kind_of_ids[1]}; give "
                    "both one type, so that the same ids are equal."
                )
        fragments += _fragments(file, len(table.columns))
    return tuple(fragments)


def _check_types(file: Path, types: dict[str, Any], table: Table) -> None:
    from pyarrow import types as kinds

    for column in (*table.features, *table.targets):
        kind = types[column]
        tests = (kinds.is_integer, kinds.is_floating, kinds.is_boolean, kinds.is_decimal, kinds.is_null)
        if not any(test(kind) for test in tests):
            raise ValueError(
                f"{file} has {kind} in column {column!r}, and a dataset takes numbers; encode the column, or leave it "
                "out by features=[...]."
            )


def _kind_of_id(kind: Any) -> str:
    from pyarrow import types as kinds

    if kinds.is_dictionary(kind):
        kind = kind.value_type
    if kinds.is_integer(kind) or kinds.is_floating(kind):
        return "numbers"
    if kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind):
        return "text"
    return str(kind)


def _fragments(file: Path, n_columns: int) -> Iterator[Fragment]:
    """Yield the fragments of a file: as many of its row groups as hold no more than so many numbers, at least one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not is_parquet(file):
        yield Fragment(str(file), None, 0, 1 + file.stat().st_size // (8 * n_columns))
        return
    try:
        metadata = pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        raise not_whole(file, error) from None
    groups, n_rows, first = list[int](), 0, 0
    for i in range(metadata.num_row_groups):
        of_group = metadata.row_group(i).num_rows
        if groups and (n_rows + of_group) * n_columns > _NUMBERS_OF_FRAGMENT:
            yield Fragment(str(file), tuple(groups), first, n_rows)
            groups, first, n_rows = [], first + n_rows, 0
        groups.append(i)
        n_rows += of_group
    if n_rows:
        yield Fragment(str(file), tuple(groups), first, n_rows)


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


def _ids(column: Any, name: str, path: str, first: int) -> tuple[NDArray[Any], Words]:
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


def read_features(batch: Any, table: Table, path: str, first: int) -> FloatArray:
    """Return the features of a record batch."""
    columns = [_numbers(batch.column(name), name, path, first) for name in table.features]
    return np.column_stack(columns) if columns else np.empty((len(batch), 0))
