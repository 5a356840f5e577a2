"""Tables from files: ids that stay text, numbers to the last bit, and messages that name line and column."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from innerloop.data.table_files import missing, numbers, read_table

PLAIN = "id,x,y\n007,1,2\nNA,3.5,-4e3\n1.0,0.30000000000000004,6\n"
IDS = ["007", "NA", "1.0"]
CELLS = [[1, 2], [3.5, -4e3], [0.1 + 0.2, 6]]


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
    table = read_table(path, "id", delimiter)
    assert table["id"].tolist() == IDS
    assert table.columns.tolist() == ["id", "x", "y"]
    np.testing.assert_array_equal(numbers(table, ["x", "y"], path), CELLS)
    np.testing.assert_array_equal(numbers(table, ["y"], path)[:, 0], [row[1] for row in CELLS])


@pytest.mark.parametrize("suffix", [".parquet", ".pq", ".PARQUET"])
def test_parquet_keeps_ids_and_numbers(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    pd.DataFrame({"id": IDS, "x": [1, 3.5, 0.1 + 0.2], "y": [2.0, -4e3, 6]}).to_parquet(path)
    table = read_table(path, "id")
    assert table["id"].tolist() == IDS
    np.testing.assert_array_equal(numbers(table, ["x", "y"], path), CELLS)


def test_ids_that_are_numbers_in_parquet_become_text(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"id": [7, -8], "x": [1, 2]}).to_parquet(path)
    assert read_table(path, "id")["id"].tolist() == ["7", "-8"]


TEXTS = [
    *("007", "NA", "1.0", "1e5", "nan", "None", "null", "N/A", "-", "True", "inf", "0x1F", "+1"),
    *("é", "e\u0301", "日本", "𝄞", "ß", "a b", "#1", "1,5", 'a "q"', "two\nlines", "2020-01-01", "a;b"),
    "9" * 40,
]


def test_ids_are_text_whatever_they_look_like(tmp_path):
    path = tmp_path / "a.csv"
    pd.DataFrame({"x": range(len(TEXTS)), "id": TEXTS}).to_csv(path, index=False)
    table = read_table(path, "id")
    assert table["id"].tolist() == TEXTS
    assert len(set(table["id"])) == len(TEXTS)


def test_numbers_are_read_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    values = np.ldexp(rng.uniform(-1, 1, 500), rng.integers(-900, 900, 500))
    path = put(tmp_path, "a.csv", "id,x\n" + "".join(f"t,{value!r}\n" for value in values.tolist()))
    np.testing.assert_array_equal(numbers(read_table(path, "id"), ["x"], path)[:, 0], values)


def test_truth_values_are_numbers(tmp_path):
    path = put(tmp_path, "a.csv", "id,x\na,True\nb,False\n")
    np.testing.assert_array_equal(numbers(read_table(path, "id"), ["x"], path), [[1], [0]])


PARQUET = b"".join([b"PAR1", bytes(range(60)), b"PAR1"])
REFUSED = [
    ("a.csv", "idd,x\na,1\n", ValueError, r"a\.csv.? has no column 'id'; did you mean 'idd'\?"),
    ("a.csv", "u,x\na,1\n", ValueError, r"a\.csv.? has no column 'id'; it has 'u', 'x'"),
    ("a.csv", "id,x,x\na,1,2\n", ValueError, "has two columns named 'x'; rename one"),
    ("a.csv", "id,id,x\na,1,2\n", ValueError, "has two columns named 'id'"),
    ("a.csv", "id;x;y\na;1;2\n", ValueError, r"separated by semicolons; pass --delimiter ';'"),
    ("a.csv", "", ValueError, r"a\.csv is empty"),
    ("a.csv", "\n\n", ValueError, r"a\.csv is empty"),
    ("a.csv", b"\xef\xbb\xbf", ValueError, r"a\.csv is empty"),
    ("a.csv", "id,x,y\n", ValueError, "has a header but no rows"),
    ("a.csv", "id,x,y", ValueError, "has a header but no rows"),
    ("a.csv", "id,x\nä,1\n".encode("latin-1"), ValueError, "is not a CSV file in UTF-8; save it as UTF-8"),
    ("a.csv", "id,ä\na,1\n".encode("latin-1"), ValueError, "is not a CSV file in UTF-8; save it as UTF-8"),
    ("a.csv", "id,x\na,1\n".encode("utf-16"), ValueError, "is not a CSV file in UTF-8; save it as UTF-8"),
    ("a.csv", "id,x\na,1\n,2\n", ValueError, "has no task id in column 'id', line 3"),
    ("a.csv", "id,x\na,1\n  ,2\n", ValueError, "has no task id in column 'id', line 3"),
    ("a.csv", "id,x,y\na,1,2\nb,3,4,9\n", ValueError, "is not a regular CSV file: .*line 3"),
    ("a.csv", 'id,x,y\n"a,1,2\nb,3,4\n', ValueError, "is not a regular CSV file"),
    ("a.parquet", b"", ValueError, r"a\.parquet is not a whole Parquet file"),
    ("a.parquet", PLAIN, ValueError, r"a\.parquet is not a whole Parquet file"),
    ("a.parquet", PARQUET, ValueError, r"a\.parquet is not a whole Parquet file"),
]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        *REFUSED,
        ("a.csv", "id,x,y\na,1,2,9\nb,3,4\n", ValueError, "not a regular"),
        ("a.csv.gz", PLAIN, ValueError, r"a\.csv\.gz"),
    ],
)
def test_files_that_are_no_tables_are_refused_in_words(tmp_path, name, content, error, message):
    with pytest.raises(error, match=message):
        read_table(put(tmp_path, name, content), "id")


def test_a_place_without_a_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.csv"):
        read_table(tmp_path / "none.csv", "id")
    with pytest.raises(IsADirectoryError, match="is a directory; name a CSV or Parquet file"):
        read_table(tmp_path, "id")


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


BAD_CELLS = [
    ("id,x,y\na,1,2\nb,nope,4\n", TypeError, "has the text 'nope' in column 'x', line 3"),
    ("id,x,y\na,1,2\nb,3,1+2j\n", TypeError, r"has the text '1\+2j' in column 'y', line 3"),
    ('id,x,y\na,"1,5",2\n', TypeError, "has the text '1,5' in column 'x', line 2"),
    ("id,x,y\na,1,2\nb,,4\n", ValueError, "has a missing value in column 'x', line 3"),
    ("id,x,y\na,1,NaN\nb,3,4\n", ValueError, "has a missing value in column 'y', line 2"),
    ("id,x,y\na,1,NA\nb,3,4\n", ValueError, "has a missing value in column 'y', line 2"),
    ("id,x,y\na,1,2\nb,3,-inf\n", ValueError, r"has an infinite value \(-inf\) in column 'y', line 3"),
    ("id,x,y\na,1e400,2\n", ValueError, r"has an infinite value \(inf\) in column 'x', line 2"),
    ("id,x,y\na,1\nb,3,4\n", ValueError, "has a missing value in column 'y', line 2"),
    ("id,x,y\na,1,2\nb\n", ValueError, "has a missing value in column 'x', line 3"),
]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        *BAD_CELLS,
        ('id,x,y\n"a\nb",1,2\nc,no,4\n', TypeError, "has the text 'no' in column 'x', line 4"),
        ("id,x,y\na,1,2\n\n\nc,no,4\n", TypeError, "has the text 'no' in column 'x', line 5"),
    ],
)
def test_cells_that_are_no_numbers_are_named_by_line_and_column(tmp_path, content, error, message):
    path = put(tmp_path, "a.csv", content)
    with pytest.raises(error, match=rf"a\.csv.? {message}"):
        numbers(read_table(path, "id"), ["x", "y"], path)


def test_cells_of_parquet_are_named_by_row(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"id": ["a", "b"], "x": [1.0, np.nan], "y": ["1", "no"]}).to_parquet(path)
    table = read_table(path, "id")
    with pytest.raises(ValueError, match=r"has a missing value in column 'x', row 1 \(counted from 0\)"):
        numbers(table, ["x"], path)
    with pytest.raises(TypeError, match=r"has the text 'no' in column 'y', row 1 \(counted from 0\)"):
        numbers(table, ["y"], path)
    pd.DataFrame({"id": ["a", None], "x": [1.0, 2.0]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"has no task id in column 'id', row 1 \(counted from 0\)"):
        read_table(path, "id")


def test_other_columns_that_are_missing_get_a_suggestion():
    table = pd.DataFrame({"id": ["a"], "weight": [1.0]})
    missing(table, ["weight"], Path("a.csv"))
    with pytest.raises(ValueError, match=r"a\.csv.? has no column 'wieght'; did you mean 'weight'\?"):
        missing(table, ["weight", "wieght"], Path("a.csv"))
