"""Tables of tasks from CSV and Parquet files, with messages that name the file, the line and the column."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from innerloop._checks import FloatArray
from innerloop._frames import column_names, numeric_columns

_PARQUET = {".parquet", ".pq"}


def read_table(path: Path, text: str, delimiter: str | None = None) -> pd.DataFrame:
    """Read a CSV or Parquet file.

    Parameters
    ----------
    path
        A file ending in .parquet or .pq is Parquet; any other is CSV in UTF-8, with a header.
    text
        Name of the column that is text whatever it looks like: the task ids. ``007`` and ``NA`` are ids.
    delimiter
        Between CSV cells; None is a tab for .tsv files and a comma for all others.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it holds no such table.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; name a CSV or Parquet file.")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}.")
    if path.suffix.lower() in _PARQUET:
        table = _read_parquet(path)
    else:
        table = _read_csv(path, text, delimiter or ("\t" if path.suffix.lower() == ".tsv" else ","))
    column_names(nw.from_native(table, eager_only=True), [text], str(path))
    if len(table) == 0:
        raise ValueError(f"{path} has a header but no rows.")
    ids = table[text]
    if ids.isna().any() or (ids.astype(str).str.strip() == "").any():
        row = int(np.argmax(ids.isna() | (ids.astype(str).str.strip() == "")))
        raise ValueError(
            f"{path} has no task id in column {text!r}, {line_of(path)(row)}; name the task or drop the row."
        )
    if not pd.api.types.is_string_dtype(ids):
        table[text] = ids.astype(str)
    return table


def line_of(path: Path) -> Callable[[int], str]:
    """Return how to call row i of the table in words: by its line in a CSV file, by its number in Parquet."""
    if path.suffix.lower() in _PARQUET:
        return lambda row: f"row {row} (counted from 0)"
    return lambda row: f"line {row + 2}"


def numbers(table: pd.DataFrame, columns: Sequence[str], path: Path) -> FloatArray:
    """Return columns as a finite matrix, or name the file, line and column where a cell is no number."""
    return numeric_columns(nw.from_native(table, eager_only=True), columns, str(path), line_of(path))


def missing(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Refuse columns that the table does not have."""
    column_names(nw.from_native(table, eager_only=True), columns, str(path))


def _read_csv(path: Path, text: str, delimiter: str) -> pd.DataFrame:
    options: dict[str, Any] = {"sep": delimiter, "encoding": "utf-8-sig", "skipinitialspace": True}
    try:
        header = _header(path, delimiter)
        if text not in header and len(header) == 1 and len(header[0].split(";")) > 1:
            raise ValueError(f"{path} seems to be separated by semicolons; pass --delimiter ';'.")
        table: pd.DataFrame = pd.read_csv(
            path,
            **options,
            converters={text: str} if text in header else None,
            float_precision="round_trip",
            low_memory=False,
            index_col=False,
        )
        return table
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a CSV file in UTF-8; save it as UTF-8, or as Parquet.") from None
    except pd.errors.ParserError as error:
        raise ValueError(f"{path} is not a regular CSV file: {_first_line(error)}.") from None
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty; it needs a header and rows.") from None


def _header(path: Path, delimiter: str) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file, delimiter=delimiter, skipinitialspace=True), None)
    if not names:
        raise ValueError(f"{path} is empty; it needs a header and rows.")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path} has two columns named {name!r}; rename one.")
    return names


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError(f"{path} is Parquet, which needs pyarrow: pip install 'innerloop[table]'.") from None
    try:
        table: pd.DataFrame = pq.read_table(path).to_pandas()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, EOFError) as error:
        raise ValueError(f"{path} is not a whole Parquet file: {_first_line(error)}.") from None
    return table


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
