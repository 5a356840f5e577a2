"""Tables of tasks in files, too many rows for memory: what files there are, and their rows, chunk by chunk.

Files are Parquet or CSV. The rows of a task may lie in several files and anywhere in them. Nothing is read but names,
types and numbers of rows until it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from innerloop._base.progress import no_tick
from innerloop.data.columns import ColumnMap
from innerloop.data.drawing import Draw
from innerloop.data.encoding import learn_encoding
from innerloop.data.fragments import CSV, PARQUET, Fragment, Table, is_number, is_parquet, not_whole, open_csv
from innerloop.data.frames import missing_column
from innerloop.data.population import sample_size
from innerloop.data.tasks import TaskSet

# Numbers that one fragment holds, unless a row group holds more.
_NUMBERS_OF_FRAGMENT = 2**24


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
        Names of the feature columns; None takes all the others. Columns of any kind become numbers as in
        `MetaRegressor.fit`, by levels and medians that are learned from the tasks of `sample`.
    drop
        Names of columns to leave out.
    weights
        Name of the column with the weights of rows, their precisions; rows of weight 0 or without one are left out.
        None: all rows are equal.

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
        drop: Sequence[str] = (),
        weights: str | None = None,
    ) -> None:
        need_pyarrow()
        files = list_files(path)
        targets = (target,) if isinstance(target, str) else tuple(target)
        names = column_types(files[0])
        used = (group, *targets, *([weights] if weights is not None else []))
        for column in drop:
            if column not in names:
                raise ValueError(missing_column(column, list(names), str(files[0])))
        chosen = tuple(c for c in (names if features is None else features) if c not in drop)
        chosen = chosen if features is not None else tuple(c for c in chosen if c not in used)
        taken = (*used, *chosen)
        if not targets or len(set(taken)) < len(taken):
            raise ValueError(
                "`group`, `target`, `weights` and `features` must name different columns, one target at least, got "
                f"{list(taken)}."
            )
        self.table = Table(group, targets, chosen, isinstance(target, str), weights=weights)
        self.files = tuple(str(file) for file in files)
        self.features = chosen
        self.fragments, self._is_encoded = check_files(files, self.table, every=features is None)
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
        changes at most one task of the sample. All files are read; twice, where columns are to be encoded.
        """
        table = replace(self.table, encoding=self.encoding(seed))
        draw, rows, is_text = Draw(seed, sample_size()), None, False
        for fragment in self.fragments:
            for chunk in table.chunks(fragment):
                is_text |= chunk.ids.dtype.kind == "U"
                new = draw.rows(chunk.words, chunk.ids, chunk.values)
                rows = draw.lowest(new if rows is None else rows.joined(new))
        if rows is None:
            raise no_rows(self.files)
        return draw.tasks(rows, table, is_text)[0]

    def encoding(self, seed: int = 0, tick: Callable[[], None] = no_tick) -> ColumnMap | None:
        """Return how columns become numbers, learned from the tasks of `sample`; None where all are numbers anyway.

        Of CSV files it is always learned: only their last row tells what they hold. `tick` is called after each
        fragment of the files.
        """
        if not self._is_encoded:
            return None
        return learn_encoding(self.fragments, self.table, Draw(seed, sample_size()), tick)


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
        found = [file] if file.is_file() else sorted(tables_in(file))
        if not found:
            raise ValueError(f"{file} is a folder without Parquet or CSV files; name a file, or a folder of them.")
        files += found
    for file in files:
        if file.suffix.lower() not in (*PARQUET, *CSV):
            raise ValueError(f"{file} is no Parquet or CSV file by its name; a dataset takes .parquet, .pq and .csv.")
    if not files:
        raise ValueError("`path` must name at least one file, got an empty list.")
    if len(set(files)) < len(files):
        raise ValueError(
            f"`path` names {next(f for f in files if files.count(f) > 1)} twice; its rows would count twice."
        )
    return sorted(files)


def column_types(path: Path) -> dict[str, Any]:
    """Return the Arrow type of each column; of CSV files None."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if is_parquet(path):
            schema = pq.read_schema(path)
            return dict(zip(schema.names, schema.types, strict=True))
        with open_csv(str(path), {}) as reader:
            return dict.fromkeys(reader.schema.names)
    except (pa.ArrowException, OSError) as error:
        raise not_whole(path, error) from None


def tables_in(folder: Path) -> list[Path]:
    """Return the Parquet and CSV files in a folder and those below, but for hidden ones."""
    return [
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in (*PARQUET, *CSV)
        and file.is_file()
        and not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    ]


def check_files(files: Sequence[Path], table: Table, every: bool) -> tuple[tuple[Fragment, ...], bool]:
    """Return the fragments of all files, and whether features need an encoding.

    Raises
    ------
    ValueError
        If a file has other columns than the first, or none that can be used; the message names it.
    """
    first, first_parquet = column_types(files[0]), dict[str, tuple[Path, str]]()
    fragments, is_encoded = list[Fragment](), False
    for file in files:
        types = column_types(file)
        if table.targets and is_parquet(file) != is_parquet(files[0]):
            raise ValueError(
                f"{file} and {files[0]} are of different formats, and one dataset has one; convert some, or name those "
                "of one format."
            )
        for column in table.columns:
            if column not in types:
                raise ValueError(missing_column(column, list(types), str(file)))
        if every and set(types) != set(first):
            differing = sorted(set(types) ^ set(first))[0]
            raise ValueError(
                f"{file} and {files[0]} differ in column {differing!r}; give both the same, or name `features`."
            )
        if is_parquet(file):
            _check_types(file, types, table, first_parquet)
        of_file = list(_fragments(file, table))
        fragments += [fragment for fragment, _ in of_file]
        is_text = not all(types[c] is not None and is_number(types[c]) for c in table.features)
        is_encoded |= is_text or any(lacks for _, lacks in of_file)
    return tuple(fragments), is_encoded


def _check_types(file: Path, types: dict[str, Any], table: Table, first: dict[str, tuple[Path, str]]) -> None:
    """Refuse columns of another kind than `first` has them, with the file; what it does not have yet is added."""
    from pyarrow import types as kinds

    for column in table.columns:
        kind = _kind(types[column])
        if column in (*table.targets, table.weights) and kind not in ("numbers", "null"):
            raise ValueError(f"{file} has {kind} in column {column!r}, where numbers are needed; convert the column.")
        if kinds.is_null(types[column]):
            continue
        before = first.setdefault(column, (file, kind))
        if kind != before[1]:
            raise ValueError(
                f"{file} has {kind} in column {column!r}, where {before[0]} has {before[1]}; give both one type, so "
                "that the same values are equal."
            )


def _kind(kind: Any) -> str:
    """Return what a type is called in messages."""
    from pyarrow import types as kinds

    if kinds.is_dictionary(kind):
        kind = kind.value_type
    if is_number(kind):
        return "numbers"
    if kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind):
        return "text"
    return str(kind)


def _fragments(file: Path, table: Table) -> Iterator[tuple[Fragment, bool]]:
    """Yield the fragments of a file, and whether features lack cells there, as far as the file says.

    A fragment is as many of its row groups as hold no more than so many numbers, at least one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    n_columns = len(table.columns)
    if not is_parquet(file):
        yield Fragment(str(file), None, 0, 1 + file.stat().st_size // (8 * n_columns)), True
        return
    try:
        metadata = pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        raise not_whole(file, error) from None
    groups, n_rows, first, lacks = list[int](), 0, 0, False
    for i in range(metadata.num_row_groups):
        row_group = metadata.row_group(i)
        if groups and (n_rows + row_group.num_rows) * n_columns > _NUMBERS_OF_FRAGMENT:
            yield Fragment(str(file), tuple(groups), first, n_rows), lacks
            groups, first, n_rows, lacks = [], first + n_rows, 0, False
        groups.append(i)
        n_rows += row_group.num_rows
        lacks |= _lacks_cells(row_group, table.features)
    if n_rows:
        yield Fragment(str(file), tuple(groups), first, n_rows), lacks


def _lacks_cells(row_group: Any, features: Sequence[str]) -> bool:
    """Return whether a column has null cells, or does not say that it has none."""
    chosen = set(features)
    for i in range(row_group.num_columns):
        column = row_group.column(i)
        if column.path_in_schema in chosen:
            statistics = column.statistics
            if statistics is None or not statistics.has_null_count or statistics.null_count:
                return True
    return False


def no_rows(files: Sequence[str]) -> ValueError:
    """Return the error that files hold no rows."""
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    return ValueError(f"{files[0]}{more} hold{'' if more else 's'} no rows.")
