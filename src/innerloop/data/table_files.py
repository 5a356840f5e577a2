"""Tables of tasks from files as people have them, with messages that name the file, the line and the column.

CSV of any delimiter and encoding, Excel and Parquet; compressed, in folders, from a pipe. Cells are read by pandas. The
delimiter is the one under which the header has the column that must be there: of 15 tables in 7 dialects `csv.Sniffer`
reads all, but none under a comment line and 78 % under a title.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import sys
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, final

import narwhals as nw
import numpy as np
import pandas as pd

from innerloop._base.memory import as_size, check_memory
from innerloop.data.frames import column_names, row_name

# Cells that stand for a missing value, spreadsheets' errors included. A task id may be any of these but the empty one.
MISSING = (
    *("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "NAN", "null", "NULL", "None", "<NA>", ".", "?", "-"),
    *("#DIV/0!", "#NAME?", "#NUM!", "#REF!", "#VALUE!"),
)
_DELIMITERS = (",", "\t", ";", "|", " ")
_DELIMITER_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars", " ": "spaces"}
_COMMA_NUMBER = r"\s*[+-]?(\d+,\d*|,\d+|\d+)([eE][+-]?\d+)?\s*"
_ROW_NAMES = "rownames"
_CHUNK = 2**24
# The header lies within so many bytes and lines.
_HEAD, _MOST_LINES = 2**22, 100
_SUFFIXES = {".csv", ".tsv", ".txt", ".dat", ".parquet", ".pq"}

# How files begin that are tables of another kind, or none.
_OTHERS = (
    (b"\xd0\xcf\x11\xe0", "an old Excel file; save it as .xlsx or CSV"),
    (b"ARROW1", "an Arrow (Feather) file; write it as Parquet"),
    (b"SQLite format 3", "a SQLite database; export the table as CSV"),
    (b"\x89HDF", "an HDF5 file; write the table as Parquet or CSV"),
    (b"$FL2", "an SPSS file; save it as CSV"),
    (b"<stata_dta>", "a Stata file; save it as CSV"),
    (b"RDX", "an R data file; write the table with write.csv"),
    (b"X\n\x00", "an R data file; write the table with write.csv"),
    (b"%PDF", "a PDF; export the table as CSV"),
    (b"{", "JSON; write the table as CSV or Parquet"),
    (b"[", "JSON; write the table as CSV or Parquet"),
    (b"<", "HTML or XML; export the table as CSV"),
    (b"\x93NUMPY", "a numpy array; write it as CSV or Parquet with a header"),
)


@final
@dataclass(frozen=True, eq=False)
class FileTable:
    """A table as read from a file.

    Parameters
    ----------
    frame
        Its rows, numbered from 0.
    name
        What messages call it.
    place
        Says where row i is: its line in a CSV file, its row in a spreadsheet, its number in Parquet.
    notes
        What the reader had to guess or leave out, in sentences without a full stop.
    """

    frame: pd.DataFrame = field(repr=False)
    name: str
    place: Callable[[int], str] = field(repr=False)
    notes: tuple[str, ...] = ()


def read_table(path: Path, text: str, delimiter: str | None = None) -> FileTable:
    r"""Read a table from a CSV, Excel or Parquet file, a folder of them, or standard input.

    Parameters
    ----------
    path
        What it holds is seen from its first bytes, compression (gzip, bz2, xz, zip, zst) too. ``-`` is standard input.
        A folder holds parts of one table; of names such as ``year=2020`` in it columns are made.
    text
        Name of the column that is text whatever it looks like: the task ids. ``007`` and ``NA`` are ids.
    delimiter
        Between CSV cells, ``\t`` for a tab; None looks for the one under which the header has the column `text`.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError, MemoryError
        If it holds no such table, or one that does not fit in memory.
    """
    table = _read(path, text, _as_delimiter(delimiter))
    column_names(nw.from_native(table.frame, eager_only=True), [text], table.name)
    if len(table.frame) == 0:
        raise ValueError(f"{table.name} has a header but no rows.")
    ids = table.frame[text]
    if (nameless := (ids.isna() | (ids.astype(str).str.strip() == "")).to_numpy()).any():
        place = table.place(int(np.argmax(nameless)))
        raise ValueError(f"{table.name} has no task id in column {text!r}, {place}; name the task or drop the row.")
    return table


def _read(path: Path, text: str, delimiter: str | None) -> FileTable:
    if re.match(r"[a-z][a-z0-9+]+:/", str(path)):
        raise ValueError(f"{path} is a web address; download the file and name it.")
    if str(path) in ("-", "/dev/stdin"):
        return _read_bytes(sys.stdin.buffer.read(), "standard input", PurePath(""), text, delimiter)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}.")
    if path.is_dir():
        return _read_folder(path, text, delimiter)
    check_memory(2 * path.stat().st_size, f"reading {path}", "leave out columns or rows")
    return _read_bytes(path.read_bytes(), str(path), path, text, delimiter)


def _read_bytes(content: bytes, name: str, path: PurePath, text: str, delimiter: str | None) -> FileTable:
    """Read a file's content; its name tells only what is said of content that is not whole."""
    if content.startswith(b"PAR1") or path.suffix.lower() in {".parquet", ".pq"}:
        return _read_parquet(content, name)
    if content.startswith(b"PK\x03\x04"):
        return _read_zip(content, name, text, delimiter)
    for method, (magic, _) in _DECOMPRESS.items():
        if content.startswith(magic) or path.suffix.lower() == _SUFFIX_OF[method]:
            return _read_bytes(_decompressed(content, name, method), name, path.with_suffix(""), text, delimiter)
    for magic, what in _OTHERS:
        if content.startswith(magic):
            raise ValueError(f"{name} is {what}.")
    return _read_csv(content, name, text, delimiter, "\t" if path.suffix.lower() == ".tsv" else ",")


def _as_delimiter(delimiter: str | None) -> str | None:
    if delimiter is None:
        return None
    delimiter = "\t" if delimiter == "\\t" else delimiter
    if len(delimiter) != 1 or delimiter in '\r\n"' or len(delimiter.encode()) > 1:
        raise ValueError(rf"`delimiter` must be one plain character such as ';', or \t for a tab, got {delimiter!r}.")
    return delimiter


# --- folders and compressed files ---------------------------------------------------------------------------------


def _read_folder(folder: Path, text: str, delimiter: str | None) -> FileTable:
    """Read the tables in a folder, and in folders below, as parts of one."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if _SUFFIXES & {suffix.lower() for suffix in path.suffixes}
        and path.is_file()
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise ValueError(f"{folder} is a folder without CSV or Parquet files; name a file, or a folder of them.")
    parts = []
    for path in files:
        keys = dict(part.split("=", 1) for part in path.relative_to(folder).parts[:-1] if "=" in part)
        part = _read(path, text, delimiter)
        parts.append(replace(part, frame=part.frame.assign(**keys)))
    columns = parts[0].frame.columns
    for part in parts[1:]:
        if set(part.frame.columns) != set(columns):
            differing = sorted(set(part.frame.columns) ^ set(columns), key=str)
            raise ValueError(f"{parts[0].name} and {part.name} differ in column {differing[0]!r}; give both the same.")
    ends = np.cumsum([len(part.frame) for part in parts])

    def place(row: int) -> str:
        i = int(np.searchsorted(ends, row, side="right"))
        return f"{parts[i].place(row - int(ends[i]) + len(parts[i].frame))} of {files[i].name}"

    frame = pd.concat([part.frame[columns] for part in parts], ignore_index=True)
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    return FileTable(frame, str(folder), place, notes)


def _open_zst(file: io.BytesIO) -> Any:
    try:
        import pyarrow as pa
    except ImportError:
        raise ValueError("zst files need pyarrow: pip install 'innerloop[table]'.") from None
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")


_DECOMPRESS: dict[str, tuple[bytes, Callable[[io.BytesIO], Any]]] = {
    "gzip": (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    "bz2": (b"BZh", bz2.BZ2File),
    "xz": (b"\xfd7zXZ\x00", lzma.LZMAFile),
    "zst": (b"\x28\xb5\x2f\xfd", _open_zst),
}
_SUFFIX_OF = {"gzip": ".gz", "bz2": ".bz2", "xz": ".xz", "zst": ".zst"}


def _decompressed(content: bytes, name: str, method: str) -> bytes:
    """Return the whole content of a compressed file, or say that it is damaged or too large."""
    return _read_all(lambda: _DECOMPRESS[method][1](io.BytesIO(content)), name, f"{method} file")


def _read_all(opened: Callable[[], Any], name: str, what: str) -> bytes:
    whole = bytearray()
    try:
        with opened() as file:
            while chunk := file.read(_CHUNK):
                whole += chunk
                check_memory(len(whole), f"{name}, unpacked so far to {as_size(len(whole))}, and more,", "split it")
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError) as error:
        raise ValueError(f"{name} is not a whole {what}: {_first_line(error)}.") from None
    return bytes(whole)


def _read_zip(content: bytes, name: str, text: str, delimiter: str | None) -> FileTable:
    """Read the one table of a zip archive, or a spreadsheet, which is one too."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{name} is not a whole zip file: {_first_line(error)}.") from None
    members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith(("__MACOSX", "."))]
    names = [member.filename for member in members]
    size = sum(member.file_size for member in members)
    check_memory(2 * size, f"unpacking {name}", "split it")
    if "xl/workbook.xml" in names:
        return _read_excel(content, name, text)
    if "mimetype" in names:
        raise ValueError(f"{name} is an OpenDocument file; save it as .xlsx or CSV.")
    if len(members) != 1:
        held = ", ".join(names[:5]) or "no file"
        raise ValueError(f"{name} is a zip archive of {len(members)} files ({held}); unpack it and name one.")
    inner = _read_all(lambda: archive.open(members[0]), name, "zip file")
    return _read_bytes(inner, name, PurePath(names[0]), text, delimiter)


# --- CSV ----------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class _Layout:
    """How a CSV file is written: the delimiter, the names of its columns, where its rows begin, in lines and bytes."""

    delimiter: str
    names: list[str]
    n_lines: int
    n_bytes: int


def _read_csv(content: bytes, name: str, text: str, delimiter: str | None, usual: str) -> FileTable:
    content, notes = _as_utf8(content, name)
    layout = _layout(content, name, text, delimiter, usual)
    frame = _parse(content, name, text, layout, ".")
    if layout.delimiter != "," and _has_decimal_commas(frame.drop(columns=text, errors="ignore")):
        frame = _parse(content, name, text, layout, ",")
        notes.append(f"cells separated by {_DELIMITER_NAMES.get(layout.delimiter, layout.delimiter)}, decimal commas")
    absent = frame.isna().to_numpy()
    if text in layout.names:
        absent[:, layout.names.index(text)] |= (frame[text].fillna("").str.strip() == "").to_numpy()
    names = np.array(layout.names, dtype=str)
    frame = frame[names[~(np.char.startswith(names, "Unnamed: ") & absent.all(axis=0))].tolist()]
    empty = absent.all(axis=1)
    record = np.flatnonzero(~empty)
    frame = frame[~empty].reset_index(drop=True) if empty.any() else frame

    def place(row: int) -> str:
        return f"line {_line(content, layout, int(record[row]))}"

    if text in frame.columns:
        swallowed = frame[text].str.contains("\n", regex=False) & frame[text].str.contains(
            layout.delimiter, regex=False
        )
        if swallowed.any():
            row = int(np.argmax(swallowed))
            raise _irregular(name, f"a quote left open in {place(row)} makes one id of {frame[text][row][:40]!r} ...")
    return FileTable(frame, name, place, tuple(notes))


def _as_utf8(content: bytes, name: str) -> tuple[bytes, list[str]]:
    """Return text in UTF-8 without byte order mark, and what was guessed of its encoding."""
    for mark, encoding in (
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if content.startswith(mark):
            try:
                return content.decode(encoding).encode(), []
            except UnicodeError:
                raise ValueError(f"{name} is not whole: it is text in {encoding.upper()}, and cut.") from None
    if (nul := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, nul) + 1
        raise ValueError(f"{name} is no text, or damaged: it has a NUL byte in line {line}; write it anew.")
    while content.startswith(codecs.BOM_UTF8):
        content = content.removeprefix(codecs.BOM_UTF8)
    try:
        decoder = codecs.getincrementaldecoder("utf-8")()
        for start in range(0, len(content), _CHUNK):
            decoder.decode(content[start : start + _CHUNK])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        try:
            return content.decode("cp1252").encode(), ["not UTF-8, so read as Windows-1252 (Western European)"]
        except UnicodeDecodeError:
            return content.decode("latin-1").encode(), ["not UTF-8, so read as Latin-1"]
    return content, []


def _layout(content: bytes, name: str, text: str, delimiter: str | None, usual: str) -> _Layout:
    """Return how a CSV file is written.

    The header is the first line with two cells, comments apart: a table of tasks has a group and a target.
    """
    candidates = [delimiter] if delimiter else sorted(_DELIMITERS, key=lambda d: d != usual)
    head = io.StringIO(content[:_HEAD].decode(errors="ignore"), newline="")
    lines = list(islice(head, _MOST_LINES))
    single: _Layout | None = None
    for first, line in enumerate(lines):
        headers = [_header(lines, first, candidate) for candidate in candidates]
        # Spaces separate words of a title too, so they count where nothing else would do.
        likely = [h for h in headers if h.delimiter != " "] or headers
        layout = next((h for h in headers if text in h.names), max(likely, key=lambda h: sum(map(bool, h.names))))
        n_names = sum(map(bool, layout.names))
        if text in layout.names or (n_names > 1 and not line.lstrip().startswith("#")):
            return _with_first_row(_checked(layout, name), lines[layout.n_lines :])
        single = single or (layout if n_names else None)
    if single is None:
        raise ValueError(f"{name} is empty; it needs a header and rows.")
    return single


def _header(lines: list[str], first: int, delimiter: str) -> _Layout:
    """Return the layout if the header begins with this line."""
    reader = csv.reader(lines[first:], delimiter=delimiter, skipinitialspace=True)
    try:
        names = [name.strip().strip("\ufeff") for name in next(reader, [])]
    except csv.Error:
        names = []
    if delimiter == " " and names and not names[-1]:
        names.pop()
    n_lines = first + reader.line_num
    return _Layout(delimiter, names, n_lines, sum(len(line.encode()) for line in lines[:n_lines]))


def _checked(layout: _Layout, name: str) -> _Layout:
    """Refuse two columns of one name, and call those without a name as pandas does."""
    for column, n in Counter(layout.names).items():
        if n > 1 and column:
            raise ValueError(f"{name} has two columns named {column!r}; rename one.")
    return replace(layout, names=[column or f"Unnamed: {j}" for j, column in enumerate(layout.names)])


def _with_first_row(layout: _Layout, lines: list[str]) -> _Layout:
    """Name the cell that rows have beyond the header: empty after a last delimiter, or R's row names before all."""
    row = next((cells for cells in csv.reader(lines, delimiter=layout.delimiter, skipinitialspace=True) if cells), [])
    if len(row) != len(layout.names) + 1:
        return layout
    names = layout.names
    return replace(layout, names=[*names, f"Unnamed: {len(names)}"] if not row[-1] else [_ROW_NAMES, *names])


def _parse(content: bytes, name: str, text: str, layout: _Layout, decimal: str) -> pd.DataFrame:
    """Return the rows below the header."""
    options: dict[str, Any] = {"sep": r"\s+" if layout.delimiter == " " else layout.delimiter, "decimal": decimal}
    if int(pd.__version__.split(".")[0]) < 3:
        options["float_precision"] = "round_trip"  # from pandas 3 on, the default and deprecated
    options |= {"header": None, "names": layout.names, "index_col": False, "skipinitialspace": True}
    rows = io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # cells beyond the header would be dropped
            rows.seek(layout.n_bytes)
            table: pd.DataFrame = pd.read_csv(
                rows, **options, keep_default_na=False, na_values=list(MISSING), low_memory=False
            )
            if text in layout.names:  # by itself: names of what is missing for each column take long if there are many
                rows.seek(layout.n_bytes)
                table[text] = pd.read_csv(rows, **options, usecols=[text], dtype=str, na_filter=False)[text]
    except pd.errors.ParserWarning:
        raise _irregular(name, f"line {layout.n_lines + 1} has more cells than the header has names") from None
    except pd.errors.ParserError as error:
        # pandas counts lines from the header's end.
        words = re.sub(r"line (\d+)", lambda m: f"line {int(m[1]) + layout.n_lines}", _first_line(error))
        raise _irregular(name, words) from None
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=layout.names)
    if _ROW_NAMES in layout.names and table[_ROW_NAMES].duplicated().any():
        raise _irregular(name, f"line {layout.n_lines + 1} has more cells than the header has names")
    return table


def _irregular(name: str, words: str) -> ValueError:
    return ValueError(f"{name} is not a regular CSV file: {words}.")


def _has_decimal_commas(frame: pd.DataFrame) -> bool:
    """Return whether a text column holds nothing but numbers with decimal commas."""
    for column in frame.columns[[not pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]]:
        cells = frame[column].dropna().astype(str)
        if cells.str.contains(",", regex=False).any() and cells.str.fullmatch(_COMMA_NUMBER).all():
            return True
    return False


def _line(content: bytes, layout: _Layout, record: int) -> int:
    """Return the line on which a record below the header begins: cells may hold line breaks, and lines be empty."""
    rows = io.BytesIO(content)
    rows.seek(layout.n_bytes)
    reader = csv.reader(io.TextIOWrapper(rows, encoding="utf-8", newline=""), delimiter=layout.delimiter)
    begins, n_read = 0, -1
    while n_read < record:
        begins = reader.line_num + 1
        cells = next(reader)
        if any(map(str.strip, cells)) or (len(cells) > 1 and layout.delimiter != " "):  # pandas skips blank lines
            n_read += 1
    return layout.n_lines + begins


# --- Excel and Parquet --------------------------------------------------------------------------------------------


def _read_excel(content: bytes, name: str, text: str) -> FileTable:
    """Read the sheet that has the column `text`."""
    try:
        sheets = pd.read_excel(
            io.BytesIO(content), sheet_name=None, header=None, dtype=object, keep_default_na=False, engine="openpyxl"
        )
    except ImportError:
        raise ValueError(f"{name} is an Excel file, which needs openpyxl: pip install 'innerloop[excel]'.") from None
    except Exception as error:  # openpyxl raises whatever a damaged part of the file leads to
        raise ValueError(f"{name} is not a whole Excel file: {_first_line(error)}.") from None
    first: FileTable | None = None
    for sheet, cells in sheets.items():
        for row in range(min(len(cells), _MOST_LINES)):
            names = [str(cell).strip() for cell in cells.iloc[row]]
            if sum(map(bool, names)) < 2:
                continue
            layout = _checked(_Layout("", names, row + 1, 0), f"sheet {sheet!r} of {name}")
            table = _sheet(cells.iloc[row + 1 :].set_axis(layout.names, axis=1), name, str(sheet), text)
            if text in names:
                return table
            first = first or table
            break
    if first is None:
        raise ValueError(f"{name} is empty; it needs a header and rows.")
    return first


def _sheet(cells: pd.DataFrame, name: str, sheet: str, text: str) -> FileTable:
    cells = cells.loc[:, [not c.startswith("Unnamed: ") or (cells[c] != "").any() for c in cells.columns]]
    cells = cells[(cells != "").any(axis=1)]
    rows = cells.index.to_numpy() + 1
    frame = cells.reset_index(drop=True)
    for column in frame.columns.drop(text, errors="ignore"):
        values = frame[column]
        frame[column] = values.where(~values.isin(MISSING), None).infer_objects()
    return FileTable(frame, name, lambda row: f"row {rows[row]} of sheet {sheet!r}")


def _read_parquet(content: bytes, name: str) -> FileTable:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError(f"{name} is Parquet, which needs pyarrow: pip install 'innerloop[table]'.") from None
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        texts = [f.name for f in file.schema_arrow if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        check_memory(_parquet_bytes(file.metadata), f"reading {name}", "leave out columns or rows")
        # Text as dictionaries: a million equal cells are one text.
        file = pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True, read_dictionary=texts)
        frame: pd.DataFrame = file.read().to_pandas(ignore_metadata=True)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise ValueError(f"{name} is not a whole Parquet file: {_first_line(error)}.") from None
    if not frame.columns.is_unique:
        raise ValueError(f"{name} has two columns named {frame.columns[frame.columns.duplicated()][0]!r}; rename one.")
    return FileTable(frame, name, row_name)


def _parquet_bytes(metadata: Any) -> int:
    """Return the memory that a file's columns take at least: 8 bytes a cell, and the texts."""
    n_bytes = 0
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        for j in range(group.num_columns):
            column = group.column(j)
            n_bytes += 8 * column.num_values
            if column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
                n_bytes += column.total_uncompressed_size
    return n_bytes


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
