"""Tasks out of data frames of three libraries, and the messages that name rows and columns."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import innerloop as il


def frame_columns(**changes):
    columns = {
        "who": ["b", "a", "é", "a"],
        "u": [1, 2, 3, 4],
        "v": [0.5, 0.25, 1.0, 2.0],
        "flag": [True, False, True, True],
        "y": [5, 6, 7, 8],
    }
    return {**columns, **changes}


FRAME = pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "pyarrow"])


@FRAME
def test_from_table_equals_from_arrays(frame):
    tasks = il.TaskSet.from_table(frame(frame_columns()), group="who", target="y")
    assert tasks.feature_names == ("u", "v", "flag")
    assert tasks.ids.tolist() == ["a", "b", "é"]
    np.testing.assert_array_equal(tasks.X, [[2, 0.25, 0], [4, 2, 1], [1, 0.5, 1], [3, 1, 1]])
    np.testing.assert_array_equal(tasks.y, [6, 8, 5, 7])


@FRAME
def test_from_table_takes_chosen_features_and_several_targets(frame):
    columns = frame_columns(note=["some", "text", "not", "used"])
    tasks = il.TaskSet.from_table(frame(columns), "who", ["y", "flag"], features=["v", "u"])
    assert tasks.feature_names == ("v", "u")
    np.testing.assert_array_equal(tasks.X, [[0.25, 2], [2, 4], [0.5, 1], [1, 3]])
    np.testing.assert_array_equal(tasks.y, [[6, 0], [8, 1], [5, 1], [7, 1]])
    assert il.TaskSet.from_table(frame(columns), "who", ["y"], features=["u"]).y.shape == (4, 1)


BAD_FRAMES = [
    ({}, {"group": "woh"}, ValueError, r"`frame` has no column 'woh'; did you mean 'who'\?"),
    (
        {},
        {"target": "zzzz"},
        ValueError,
        "`frame` has no column 'zzzz'; it has 'who', 'u', 'v', 'flag', 'y'",
    ),
    ({}, {"features": ["u", "flog"]}, ValueError, r"no column 'flog'; did you mean 'flag'\?"),
    ({}, {"features": ["u", "y"]}, ValueError, r"`features` must leave out .* got \['y'\]"),
    ({}, {"features": []}, ValueError, "at least one target and one feature column"),
    ({"u": ["1", "2", "x", "4"]}, {}, TypeError, "`frame` has the text .*'x'.* in column 'u', row 2"),
    ({"v": [1.0, np.nan, 2.0, 3.0]}, {}, ValueError, "`frame` has a missing value in column 'v', row 1"),
    ({"v": [1.0, 2.0, 3.0, None]}, {}, ValueError, "`frame` has a missing value in column 'v', row 3"),
    ({"v": [-np.inf, 2.0, 3.0, 4.0]}, {}, ValueError, r"an infinite value \(-inf\) in column 'v', row 0"),
    ({"flag": [True, None, False, True]}, {}, ValueError, "a missing value in column 'flag', row 1"),
    ({"y": [1.0, 2.0, np.nan, 3.0]}, {}, ValueError, "a missing value in column 'y', row 2"),
    (
        {"v": np.array(["2020-01-01"] * 4, "M8[ms]")},
        {},
        TypeError,
        "column 'v' of `frame` must hold numbers, got Dat",
    ),
    ({"who": ["a", None, "b", "b"]}, {}, ValueError, "`groups` has a missing task id at row 1"),
    ({"who": [1.0, 2.0, np.nan, 2.0]}, {}, ValueError, "`groups` has a missing task id at row 2"),
]


@FRAME
@pytest.mark.parametrize(("changes", "arguments", "error", "message"), BAD_FRAMES)
def test_from_table_names_the_row_and_the_column(frame, changes, arguments, error, message):
    with pytest.raises(error, match=message):
        il.TaskSet.from_table(frame(frame_columns(**changes)), **{"group": "who", "target": "y", **arguments})


@pytest.mark.parametrize("dtype", ["string", "Int64", "category", "object"])
def test_a_missing_id_of_any_pandas_dtype_is_named(dtype):
    ids = pd.Series([1, None, 2, 2] if dtype == "Int64" else ["1", None, "2", "2"], dtype=dtype)
    with pytest.raises(ValueError, match="`groups` has a missing task id at row 1"):
        il.TaskSet.from_table(pd.DataFrame(frame_columns(who=ids)), "who", "y")
