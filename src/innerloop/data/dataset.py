"""Tables of tasks in files, too many rows for memory: what files there are, and their rows, chunk by chunk.

Files are Parquet or CSV. The rows of a task may lie in several files and anywhere in them. Nothing is read but names,
types and numbers of rows until it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

from innerloop.data.drawing import Draw
from innerloop.data.fragments import CSV, PARQUET, Fragment, Table, is_parquet, not_whole, open_csv
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
        draw, rows, is_text = Draw(seed, sample_size()), None, False
        for fragment in self.fragments:
            for chunk in self.table.chunks(fragment):
                is_text |= chunk.ids.dtype.kind == "U"
                new = draw.rows(chunk.words, chunk.ids, chunk.values)
                rows = draw.lowest(new if rows is None else rows.joined(new))
        if rows is None:
            raise no_rows(self.files)
        return draw.tasks(rows, self.table, is_text)[0]


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
            kind = _kind(types[table.group])
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
                f"{file} has {_kind(kind)} in column {column!r}, and a dataset takes numbers; encode the column, or "
                "leave it out by features=[...]."
            )


def _kind(kind: Any) -> str:
    """Return what a type is called in messages."""
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


def no_rows(files: Sequence[str]) -> ValueError:
    """Return the error that files hold no rows."""
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    return ValueError(f"{files[0]}{more} hold{'' if more else 's'} no rows.")
