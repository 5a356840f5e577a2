"""Tables of tasks from CSV and Parquet files, with messages that name the file, the line and the column."""

from __future__ import annotations

import csv
import gzip
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import narwhals as nw
import numpy as np
import pandas as pd

from innerloop._base.checks import FloatArray
from innerloop.data.frames import column_names, numeric_columns

# Cells that stand for a missing number. A task id may be any of these but the empty one.
_MISSING = ["", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "null", "NULL", "None", "<NA>"]


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
    csv_delimiter = delimiter or _usual_delimiter(path)
    table = _read_parquet(path) if _is_parquet(path) else _read_csv(path, text, csv_delimiter)
    column_names(nw.from_native(table, eager_only=True), [text], str(path))
    if len(table) == 0:
        raise ValueError(f"{path} has a header but no rows.")
    ids = table[text]
    if ids.isna().any() or (ids.astype(str).str.strip() == "").any():
        row = int(np.argmax(ids.isna() | (ids.astype(str).str.strip() == "")))
        raise ValueError(
            f"{path} has no task id in column {text!r}, {line_of(path, delimiter)(row)}; name the task or drop the row."
        )
    if not pd.api.types.is_string_dtype(ids):
        table[text] = ids.astype(str)
    return table


def line_of(path: Path, delimiter: str | None = None) -> Callable[[int], str]:
    """Return what calls row i of the table by its line in a CSV file, or by its number in Parquet."""
    return lambda row: f"row {row} (counted from 0)" if _is_parquet(path) else f"line {_line(path, delimiter, row)}"


def _line(path: Path, delimiter: str | None, row: int) -> int:
    """Return the line on which row i of a CSV file begins: cells may hold line breaks, and lines be empty."""
    with _open_text(path) as file:
        reader = csv.reader(file, delimiter=delimiter or _usual_delimiter(path))
        record, begins = -1, 0  # the header is record 0
        while record <= row:
            begins = reader.line_num + 1
            if next(reader):
                record += 1
    return begins


def numbers(table: pd.DataFrame, columns: Sequence[str], path: Path, delimiter: str | None = None) -> FloatArray:
    """Return columns as a finite matrix, or name the file, line and column where a cell is no number."""
    return numeric_columns(nw.from_native(table, eager_only=True), columns, str(path), line_of(path, delimiter))


def missing(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Refuse columns that the table does not have."""
    column_names(nw.from_native(table, eager_only=True), columns, str(path))


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in {".parquet", ".pq"}


def _usual_delimiter(path: Path) -> str:
    return "\t" if ".tsv" in [suffix.lower() for suffix in path.suffixes] else ","


def _read_csv(path: Path, text: str, delimiter: str) -> pd.DataFrame:
    options: dict[str, Any] = {"sep": delimiter, "encoding": "utf-8-sig", "skipinitialspace": True}
    if int(pd.__version__.split(".")[0]) < 3:
        options["float_precision"] = "round_trip"  # from pandas 3 on, the default and deprecated
    try:
        header = _header(path, delimiter)
        if text not in header and len(header) == 1 and len(header[0].split(";")) > 1:
            raise ValueError(f"{path} seems to be separated by semicolons; pass --delimiter ';'.")
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # cells beyond the header would be dropped
            table: pd.DataFrame = pd.read_csv(
                path,
                **options,
                dtype={text: str} if text in header else None,
                keep_default_na=False,
                na_values={column: _MISSING for column in header if column != text},
                low_memory=False,
                index_col=False,
            )
        return table
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {_first_line(error)}.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a CSV file in UTF-8; save it as UTF-8, or as Parquet.") from None
    except pd.errors.ParserWarning:
        raise ValueError(
            f"{path} is not a regular CSV file: line 2 has more cells than the header has names."
        ) from None
    except pd.errors.ParserError as error:
        raise ValueError(f"{path} is not a regular CSV file: {_first_line(error)}.") from None
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty; it needs a header and rows.") from None


def _header(path: Path, delimiter: str) -> list[str]:
    with _open_text(path) as file:
        names = next(csv.reader(file, delimiter=delimiter, skipinitialspace=True), None)
    if not names:
        raise ValueError(f"{path} is empty; it needs a header and rows.")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path} has two columns named {name!r}; rename one.")
    return names


def _open_text(path: Path) -> IO[str]:
    """Open a CSV file, compressed or not, as text."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError(f"{path} is Parquet, which needs pyarrow: pip install 'innerloop[table]'.") from None
    try:
        table: pd.DataFrame = pq.read_table(path).to_pandas(ignore_metadata=True)
    except (pa.ArrowException, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path} is not a whole Parquet file: {_first_line(error)}.") from None
    return table


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
