"""Damaged CSV files are refused by name, or what is read of them is what was written; no value is made up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from innerloop.data.columns import Columns
from innerloop.data.table_files import read_table

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
ROWS = [(f"g{i % 7}", float(x), float(y)) for i, (x, y) in enumerate(RNG.normal(size=(40, 2)).round(6))]
LINES = ["id,x,y", *(f"{group},{x!r},{y!r}" for group, x, y in ROWS)]


def at(draw, text, marks):
    """Draw a place of one of these characters after the header."""
    places = [i for i, c in enumerate(text) if c in marks and i > len(LINES[0])]
    return places[draw(st.integers(0, len(places) - 1))]


def without_a_delimiter(draw, text):
    i = at(draw, text, ",")
    return text[:i] + text[i + 1 :]


def with_a_delimiter(draw, text):
    i = at(draw, text, ",\n")
    return text[:i] + "," + text[i:]


def without_a_line_end(draw, text):
    i = at(draw, text, "\n")
    return text[:i] + text[i + 1 :]


def with_a_line_end(draw, text):
    i = at(draw, text, ",")
    return text[:i] + "\n" + text[i:]


def with_a_stray_mark(draw, text):
    i = at(draw, text, "0123456789.g-")
    return (
        text[:i]
        + draw(st.sampled_from(['"', "'", "\0", "\x1a", "x", "#", "\ufffd", "?", "\u0660", "_", "\x07"]))
        + text[i:]
    )


def cut_off(draw, text):
    """Cut before the last cell of a line: within it, nobody could see that digits are missing."""
    i = at(draw, text, ",")
    return text[:i]


def with_a_second_header(draw, text):
    i = at(draw, text, "\n")
    return text[: i + 1] + LINES[0] + "\n" + text[i + 1 :]


def with_another_table(draw, text):
    i = at(draw, text, "\n")
    return (
        text[: i + 1]
        + draw(st.sampled_from(["a,b\n1,2\n", "a,b,c,d\n1,2,3,4\n", "<html>\n", "-- 40 rows --\n"]))
        + text[i + 1 :]
    )


def with_repeated_lines(draw, text):
    i = draw(st.integers(1, len(LINES) - 1))
    return text + LINES[i] + "\n"


def with_another_delimiter(draw, text):
    i = at(draw, text, ",")
    return text[:i] + draw(st.sampled_from([";", "\t", "|", " "])) + text[i + 1 :]


SORTS = [
    *(without_a_delimiter, with_a_delimiter, without_a_line_end, with_a_line_end, with_a_stray_mark, cut_off),
    *(with_a_second_header, with_another_table, with_repeated_lines, with_another_delimiter),
]


@pytest.mark.parametrize("damage", SORTS, ids=lambda damage: damage.__name__)
@given(data=st.data())
def test_no_row_is_read_that_was_not_written(damage, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("damage") / "a.csv"
    path.write_bytes(damage(data.draw, "\n".join(LINES) + "\n").encode())
    refusal = ""
    try:
        table = read_table(path, "id")
        read = Columns.read(table.frame, np.zeros(len(table.frame), int), ["x", "y"], (), table.name, table.place)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert "a.csv" in refusal
        return
    assert {column.kind for column in read.columns} == {"number"}
    found = zip(*(column.values for column in read.columns), strict=True)  # an id with a mark is another id
    whole = [row for row in found if np.isfinite(row).all()]
    assert set(whole) <= {row[1:] for row in ROWS}
    assert len(whole) >= len(ROWS) - 2 or damage is cut_off
