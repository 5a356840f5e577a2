"""Tables from files: ids that stay text, numbers to the last bit, and messages that name line and column."""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from innerloop._base import memory
from innerloop.data.columns import ColumnMap, Columns, NumberCode
from innerloop.data.table_files import read_table

PLAIN = "id,x,y\n007,1,2\nNA,3.5,-4e3\n1.0,0.30000000000000004,6\n"
IDS = ["007", "NA", "1.0"]
CELLS = [[1, 2], [3.5, -4e3], [0.1 + 0.2, 6]]


def numbers(table, columns):
    """Return columns of a table as a matrix."""
    read = Columns.read(table.frame, np.zeros(len(table.frame), int), columns, (), table.name, table.place)
    assert {column.kind for column in read.columns} <= {"number"}
    return np.column_stack([column.values for column in read.columns])


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


WRITTEN = [
    ("a.csv", PLAIN, None),
    ("a.txt", PLAIN, None),
    ("A.TSV", PLAIN.replace(",", "\t"), None),
    ("semicolon.csv", PLAIN.replace(",", ";"), ";"),
    ("tab.csv", PLAIN.replace(",", "\t"), "\t"),
    ("bom.csv", b"\xef\xbb\xbf" + PLAIN.encode(), None),
    ("crlf.csv", PLAIN.replace("\n", "\r\n"), None),
    ("spaces.csv", PLAIN.replace(",", ", "), None),
    ("blank.csv", PLAIN.replace("\nNA", "\n\nNA") + "\n", None),
    ("no_newline.csv", PLAIN.strip(), None),
    ("quoted.csv", PLAIN.replace("007", '"007"').replace("x", '"x"'), None),
]
GZIPPED = [
    ("a.csv.gz", gzip.compress(PLAIN.encode(), mtime=0), None),
    ("a.tsv.gz", gzip.compress(PLAIN.replace(",", "\t").encode(), mtime=0), None),
]


DIALECTS = WRITTEN + GZIPPED


@pytest.mark.parametrize(("name", "content", "delimiter"), DIALECTS, ids=[case[0] for case in DIALECTS])
def test_the_same_table_in_many_dialects(tmp_path, name, content, delimiter):
    path = put(tmp_path, name, content)
    for given in (delimiter, None):
        table = read_table(path, "id", given)
        assert table.frame["id"].tolist() == IDS
        assert table.frame.columns.tolist() == ["id", "x", "y"]
        assert table.notes == ()
        np.testing.assert_array_equal(numbers(table, ["x", "y"]), CELLS)
        np.testing.assert_array_equal(numbers(table, ["y"])[:, 0], [row[1] for row in CELLS])


@pytest.mark.parametrize("suffix", [".parquet", ".pq", ".PARQUET"])
def test_parquet_keeps_ids_and_numbers(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    pd.DataFrame({"id": IDS, "x": [1, 3.5, 0.1 + 0.2], "y": [2.0, -4e3, 6]}).to_parquet(path)
    table = read_table(path, "id")
    assert table.frame["id"].tolist() == IDS
    np.testing.assert_array_equal(numbers(table, ["x", "y"]), CELLS)


TEXTS = [
    *("007", "NA", "1.0", "1e5", "nan", "None", "null", "N/A", "-", "True", "inf", "0x1F", "+1"),
    *("é", "e\u0301", "日本", "𝄞", "ß", "a b", "#1", "1,5", 'a "q"', "two\nlines", "2020-01-01", "a;b"),
    "9" * 40,
]


def test_ids_are_text_whatever_they_look_like(tmp_path):
    path = tmp_path / "a.csv"
    pd.DataFrame({"x": range(len(TEXTS)), "id": TEXTS}).to_csv(path, index=False)
    ids = read_table(path, "id").frame["id"]
    assert ids.tolist() == TEXTS


def test_numbers_are_read_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    values = np.ldexp(rng.uniform(-1, 1, 500), rng.integers(-900, 900, 500))
    path = put(tmp_path, "a.csv", "id,x\n" + "".join(f"t,{value!r}\n" for value in values.tolist()))
    np.testing.assert_array_equal(numbers(read_table(path, "id"), ["x"])[:, 0], values)


def test_truth_values_are_numbers(tmp_path):
    path = put(tmp_path, "a.csv", "id,x\na,True\nb,False\n")
    np.testing.assert_array_equal(numbers(read_table(path, "id"), ["x"]), [[1], [0]])


SAME = PLAIN.replace("4e3", "4000")
LAYOUTS = {
    "semicolons": PLAIN.replace(",", ";"),
    "tabs in .csv": PLAIN.replace(",", "\t"),
    "bars": PLAIN.replace(",", "|"),
    "spaces": PLAIN.replace(",", " "),
    "blanks above": "\n\n \n" + PLAIN,
    "comment above": "# made by a, b; c\n" + PLAIN,
    "title above": "Schools in 2024\n\n" + PLAIN,
    "sep= above": "sep=,\n" + PLAIN,
    "delimiter at each end": PLAIN.replace("\n", ",\n"),
    "delimiter at row ends": PLAIN.replace("2\n", "2,\n").replace("3\n", "3,\n").replace("6\n", "6,\n"),
    "blank rows of commas": PLAIN.replace("NA", ",,\nNA") + ",,\n",
    "row of spaces": PLAIN.replace("NA", "   \nNA"),
    "CR": PLAIN.replace("\n", "\r"),
    "CRCRLF": PLAIN.replace("\n", "\r\r\n"),
    "two byte order marks": b"\xef\xbb\xbf\xef\xbb\xbf" + PLAIN.encode(),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16 big end": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "UTF-32": PLAIN.encode("utf-32"),
    "header with spaces": PLAIN.replace("id,x", "id , x "),
    "numbers with spaces": PLAIN.replace("3.5", " 3.5 "),
    "all quoted": "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in PLAIN.split()),
    "gzip without suffix": gzip.compress(PLAIN.encode(), mtime=0),
    "bz2": bz2.compress(PLAIN.encode()),
    "xz": lzma.compress(PLAIN.encode()),
    "zst": pa.compress(PLAIN.encode(), codec="zstd", asbytes=True),
    "gzip of two parts": gzip.compress(PLAIN[:9].encode(), mtime=0) + gzip.compress(PLAIN[9:].encode(), mtime=0),
}


@pytest.mark.parametrize("content", LAYOUTS.values(), ids=LAYOUTS)
def test_the_same_table_in_layouts_that_nobody_names(tmp_path, content):
    table = read_table(put(tmp_path, "a.csv", content), "id")
    assert table.frame["id"].str.strip().tolist() == IDS
    assert table.frame.columns.tolist() == ["id", "x", "y"]
    np.testing.assert_array_equal(numbers(table, ["x", "y"]), CELLS)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("named", [True, False])
def test_decimal_commas_are_numbers_where_cells_are_not_separated_by_commas(tmp_path, delimiter, named):
    content = PLAIN.replace(",", delimiter).replace("0.30000000000000004", "0.30000000000000004").replace(".", ",")
    table = read_table(put(tmp_path, "a.csv", content.replace("1,0", "1.0")), "id", delimiter if named else None)
    np.testing.assert_array_equal(numbers(table, ["x", "y"]), CELLS)
    assert "decimal commas" in table.notes[0]
    assert table.frame["id"].tolist() == IDS


@pytest.mark.parametrize(("encoding", "word"), [("cp1252", "Windows-1252"), ("latin-1", "Latin-1")])
def test_other_encodings_are_read_and_said(tmp_path, encoding, word):
    content = "id,naïve\nschön,1\n".encode(encoding) + (b"\x81,2\n" if encoding == "latin-1" else b"")
    table = read_table(put(tmp_path, "a.csv", content), "id")
    assert table.frame["id"][0] == "schön"
    assert "naïve" in table.frame
    assert table.notes == (f"not UTF-8, so read as {word}{' (Western European)' * (encoding == 'cp1252')}",)


def test_r_row_names_without_a_header_are_a_column(tmp_path):
    lines = ['"id" "x" "y"', '"1" "007" 1 2', '"2" "NA" 3.5 -4000', '"3" "1.0" 0.30000000000000004 6']
    table = read_table(put(tmp_path, "a.txt", "\n".join(lines)), "id")
    assert table.frame.columns.tolist() == ["rownames", "id", "x", "y"]
    assert table.frame["id"].tolist() == IDS


def test_a_zip_archive_of_one_table_is_read_and_of_more_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/a.csv", PLAIN)
        archive.writestr("__MACOSX/a.csv", "x")
    assert read_table(path, "id").frame["id"].tolist() == IDS
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b.csv", PLAIN)
    with pytest.raises(ValueError, match=r"a zip archive of 2 files \(folder/a.csv, b.csv\); unpack it and name one"):
        read_table(path, "id")


@pytest.mark.parametrize("kind", ["fifo", "-"])
def test_a_table_may_come_through_a_pipe(tmp_path, monkeypatch, kind):
    path = tmp_path / "pipe"
    if kind == "-":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PLAIN.encode())))
        path = Path("-")
    else:
        os.mkfifo(path)
        threading.Thread(target=path.write_bytes, args=(PLAIN.encode(),)).start()
    table = read_table(path, "id")
    assert table.frame["id"].tolist() == IDS
    assert table.name == ("standard input" if kind == "-" else str(path))
    assert table.place(1) == "line 3"


@pytest.mark.parametrize("title", [False, True])
def test_a_sheet_of_excel_is_found_by_its_column(tmp_path, title):
    path = tmp_path / "a.xlsx"
    frame = pd.DataFrame({"id": ["007", 7, 8.0], "x": [1, None, 0.5], "y": [1.5, "#DIV/0!", 2], "t": ["a", "b", "NA"]})
    with pd.ExcelWriter(path) as writer:
        pd.DataFrame({"other": [1]}).to_excel(writer, sheet_name="notes", index=False)
        frame.to_excel(writer, sheet_name="data", index=False, startrow=3 if title else 0)
        if title:
            writer.sheets["data"]["A1"] = "A table of schools"
    table = read_table(path, "id")
    assert table.frame["id"].tolist() == ["007", 7, 8]
    np.testing.assert_array_equal(table.frame["x"].to_numpy(float), [1, np.nan, 0.5])
    np.testing.assert_array_equal(table.frame["y"].to_numpy(float), [1.5, np.nan, 2])
    assert table.place(1) == f"row {6 if title else 3} of sheet 'data'"
    with pytest.raises(ValueError, match=r"no column 'idd'; did you mean 'id'\?|no column 'idd'; it has 'other'"):
        read_table(path, "idd")


def test_a_folder_holds_parts_of_one_table(tmp_path):
    for i, year in enumerate((2020, 2021)):
        part = tmp_path / f"year={year}"
        part.mkdir()
        pd.DataFrame({"id": ["a", "b"], "x": [i, i + 0.5]}).to_parquet(part / "p.parquet")
        (part / "_SUCCESS").touch()
    table = read_table(tmp_path, "id")
    assert table.frame["id"].tolist() == ["a", "b"] * 2
    assert table.frame["x"].tolist() == [0, 0.5, 1, 1.5]
    assert table.frame["year"].tolist() == ["2020", "2020", "2021", "2021"]
    assert table.place(2) == "row 0 (counted from 0) of p.parquet"
    put(tmp_path, "c.csv", "id,x\nc,5\n")
    with pytest.raises(ValueError, match=r"c.csv and .*p.parquet differ in column 'year'"):
        read_table(tmp_path, "id")


def test_a_folder_of_csv_names_file_and_line(tmp_path):
    put(tmp_path, "1.csv", "id,x\na,1\nb,2\n")
    put(tmp_path, "2.csv.gz", gzip.compress(b"x,id\n3,c\nno,d\n"))
    table = read_table(tmp_path, "id")
    assert table.frame["id"].tolist() == ["a", "b", "c", "d"]
    assert [table.place(i) for i in range(4)] == [f"line {i} of {f}" for f in ("1.csv", "2.csv.gz") for i in (2, 3)]


def test_columns_without_a_name_are_called_as_pandas_calls_them(tmp_path):
    table = read_table(put(tmp_path, "a.csv", ",id,,x\n0,a,,1\n1,b,,2\n"), "id")
    assert table.frame.columns.tolist() == ["Unnamed: 0", "id", "x"]


@pytest.mark.slow
def test_a_wide_header_is_read_in_linear_time(tmp_path):
    names = [f"column {i}" for i in range(20_000)]
    path = put(tmp_path, "a.csv", "id," + ",".join(names) + "\na" + ",1" * 20_000 + "\n")
    table = read_table(path, "id")
    assert table.frame.columns.tolist() == ["id", *names]


PARQUET = b"".join([b"PAR1", bytes(range(60)), b"PAR1"])
REFUSED = [
    ("a.csv", "idd,x\na,1\n", ValueError, r"a\.csv.? has no column 'id'; did you mean 'idd'\?"),
    ("a.csv", "u,x\na,1\n", ValueError, r"a\.csv.? has no column 'id'; it has 'u', 'x'"),
    ("a.csv", "id,x,x\na,1,2\n", ValueError, "has two columns named 'x'; rename one"),
    ("a.csv", "id,x,x \na,1,2\n", ValueError, "has two columns named 'x'; rename one"),
    ("a.csv", "id,id,x\na,1,2\n", ValueError, "has two columns named 'id'"),
    ("a.csv", "", ValueError, r"a\.csv is empty"),
    ("a.csv", "\n\n", ValueError, r"a\.csv is empty"),
    ("a.csv", b"\xef\xbb\xbf", ValueError, r"a\.csv is empty"),
    ("a.csv", "id,x,y\n", ValueError, "has a header but no rows"),
    ("a.csv", "id,x,y", ValueError, "has a header but no rows"),
    ("a.csv", "id,x\na,1\n,2\n", ValueError, "has no task id in column 'id', line 3"),
    ("a.csv", "id,x\na,1\n  ,2\n", ValueError, "has no task id in column 'id', line 3"),
    ("a.csv", "id,x,y\na,1,2\nb,3,4,9\n", ValueError, "is not a regular CSV file: .*line 3"),
    ("a.csv", "id,x,y\na,1,2,9\na,3,4,9\n", ValueError, "not a regular CSV file: line 2 has more cells"),
    ("a.csv", 'id,x,y\n"a,1,2\nb,3,4\n', ValueError, "is not a regular CSV file"),
    ("a.csv", "id,x\na,1\nb\0,2\n", ValueError, "has a NUL byte in line 3"),
    ("a.csv.gz", gzip.compress(PLAIN.encode(), mtime=0)[:-20], ValueError, r"a\.csv\.gz is not a whole gzip file"),
    ("a.csv.bz2", bz2.compress(PLAIN.encode())[:-20], ValueError, r"a\.csv\.bz2 is not a whole bz2 file"),
    ("a.csv.gz", PLAIN, ValueError, r"a\.csv\.gz is not a whole gzip file"),
    ("a.parquet", b"", ValueError, r"a\.parquet is not a whole Parquet file"),
    ("a.parquet", PLAIN, ValueError, r"a\.parquet is not a whole Parquet file"),
    ("a.parquet", PARQUET, ValueError, r"a\.parquet is not a whole Parquet file"),
    ("a.xlsx", b"PK\x03\x04 and no more", ValueError, r"a\.xlsx is not a whole zip file"),
    ("a.xls", b"\xd0\xcf\x11\xe0\xa1", ValueError, r"a\.xls is an old Excel file; save it as .xlsx or CSV"),
    ("a.json", json.dumps({"id": [1]}), ValueError, r"a\.json is JSON; write the table as CSV or Parquet"),
    ("a.html", "<html></html>", ValueError, r"a\.html is HTML or XML; export the table as CSV"),
    ("a.feather", b"ARROW1\0\0", ValueError, r"is an Arrow \(Feather\) file; write it as Parquet"),
]


@pytest.mark.parametrize(("name", "content", "error", "message"), REFUSED)
def test_files_that_are_no_tables_are_refused_in_words(tmp_path, name, content, error, message):
    with pytest.raises(error, match=message):
        read_table(put(tmp_path, name, content), "id")


@pytest.mark.parametrize("delimiter", ["", "||", "\n", '"', "é"])
def test_delimiters_that_are_none_are_refused(tmp_path, delimiter):
    with pytest.raises(ValueError, match="`delimiter` must be one plain character"):
        read_table(put(tmp_path, "a.csv", PLAIN), "id", delimiter)


def test_a_delimiter_may_be_written_as_backslash_t(tmp_path):
    table = read_table(put(tmp_path, "a.csv", PLAIN.replace(",", "\t")), "id", "\\t")
    assert table.frame["id"].tolist() == IDS


def test_a_place_without_a_table_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.csv"):
        read_table(tmp_path / "none.csv", "id")
    with pytest.raises(ValueError, match="is a folder without CSV or Parquet files; name a file"):
        read_table(tmp_path, "id")
    with pytest.raises(ValueError, match="is a web address; download the file and name it"):
        read_table(Path("https://example.com/a.csv"), "id")


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.99])
def test_a_truncated_parquet_file_is_refused(tmp_path, cut):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"id": IDS * 50, "x": np.arange(150.0)}).to_parquet(path)
    content = path.read_bytes()
    put(tmp_path, "a.parquet", content[: int(cut * len(content))])
    with pytest.raises(ValueError, match=r"a\.parquet is not a whole Parquet file"):
        read_table(path, "id")


def test_a_parquet_file_that_is_damaged_inside_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"id": IDS * 50, "x": np.arange(150.0)}).to_parquet(path)
    content = path.read_bytes()
    put(tmp_path, "a.parquet", content[:4] + bytes(100) + content[104:])
    with pytest.raises(ValueError, match=r"a\.parquet"):
        read_table(path, "id")


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_no_flipped_bit_of_a_page_with_a_checksum_is_read(tmp_path, compression):
    path = tmp_path / "a.parquet"
    rng = np.random.default_rng(0)
    table = pa.table({"id": rng.integers(0, 50, 500).astype(str), "x": rng.standard_normal(500), "k": np.arange(500)})
    pq.write_table(table, path, compression=compression, write_page_checksum=True)
    content = path.read_bytes()
    whole = read_table(path, "id").frame.astype({"id": str})
    size_of_footer = int.from_bytes(content[-8:-4], "little")
    for bit in rng.integers(32, 8 * (len(content) - size_of_footer - 8), 200):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):  # else in the header of a page, where no value depends on it
            pd.testing.assert_frame_equal(read_table(path, "id").frame.astype({"id": str}), whole)


CASES = Path(__file__).parents[2] / "shared" / "cases"


@pytest.mark.skipif(not CASES.exists(), reason="needs the shared cases")
@pytest.mark.parametrize("name", ["arrow_exception", "flipped_bit_with_checksums"])
def test_damaged_parquet_files_that_were_met_are_refused(name):
    group = read_table(CASES / "whole_with_checksums.parquet", pq.read_schema(CASES / f"{name}.parquet").names[0])
    assert len(group.frame) > 0
    with pytest.raises(ValueError, match="is not a whole Parquet file"):
        read_table(CASES / f"{name}.parquet", group.frame.columns[0])


def bombs(folder):
    """Return small files of large tables, and the bytes that each takes."""
    n = 4_000_000
    zeros = pa.table({"id": pa.array(["a"] * n).dictionary_encode(), "x": np.zeros(n), "y": np.zeros(n)})
    pq.write_table(zeros, folder / "bomb.parquet")
    row = "t,1234567,7654321\n"
    (folder / "bomb.csv.gz").write_bytes(gzip.compress(("id,x,y\n" + row * n).encode(), 1))
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.csv", "id,x,y\n" + row * n)
    return {"bomb.parquet": 8 * 3 * n, "bomb.csv.gz": len(row) * n, "bomb.zip": len(row) * n}


@pytest.mark.slow
def test_tables_that_do_not_fit_in_memory_are_refused_with_the_bytes_needed(tmp_path, monkeypatch):
    for name, n_bytes in bombs(tmp_path).items():
        assert (tmp_path / name).stat().st_size < n_bytes / 4
        with monkeypatch.context() as patch:
            patch.setattr(memory, "available_memory", lambda n=n_bytes: n // 2)
            with pytest.raises(MemoryError, match=rf"{name}.* takes about .* of memory, and .* are available"):
                read_table(tmp_path / name, "id")


BAD_CELLS = [
    ("id,x,y\na,1,2\nb,nope,4\n", "has the text 'nope' in column 'x', line 3"),
    ("id,x,y\na,1,2\nb,3,1+2j\n", r"has the text '1\+2j' in column 'y', line 3"),
    ('id,x,y\na,"1,5",2\n', "has the text '1,5' in column 'x', line 2"),
    ("id,x,y\na,1,2\nb,3,-inf\n", r"has an infinite value \(-inf\) in column 'y', line 3"),
    ("id,x,y\na,1e400,2\n", r"has an infinite value \(inf\) in column 'x', line 2"),
    ('id,x,y\n"a\nb",1,2\nc,no,4\n', "has the text 'no' in column 'x', line 4"),
    ("id,x,y\na,1,2\n\n\nc,no,4\n", "has the text 'no' in column 'x', line 5"),
    ("# a\n\nid,x,y\na,1,2\n,,\nc,no,4\n", "has the text 'no' in column 'x', line 6"),
    ("id,x,y\na,2020_01,2\n", "has the text '2020_01' in column 'x', line 2"),
    ("id,x,y\na,١٢,2\n", "has the text '١٢' in column 'x', line 2"),
    ("id,x,y\na,1_000,no\n", "has the text '1_000' in column 'x', line 2; the text 'no' in column 'y', line 2"),
]


@pytest.mark.parametrize(("content", "message"), BAD_CELLS)
def test_cells_that_are_no_numbers_are_named_by_line_and_column(tmp_path, content, message):
    table = read_table(put(tmp_path, "a.csv", content), "id")
    code = NumberCode("x", "number", 0.0, True, False, False), NumberCode("y", "number", 0.0, True, False, False)
    with pytest.raises(ValueError, match=rf"a\.csv.? {message}"):
        ColumnMap(code).read(table.frame, table.name, table.place)


def test_cells_of_parquet_are_named_by_row(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"id": ["a", None], "x": [1.0, 2.0]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"has no task id in column 'id', row 1 \(counted from 0\)"):
        read_table(path, "id")
