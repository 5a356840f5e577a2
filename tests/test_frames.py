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
    ({}, {"target": "zzzz"}, ValueError, "`frame` has no column 'zzzz'; it has 'who', 'u', 'v', 'flag', 'y'"),
    ({}, {"features": ["u", "flog"]}, ValueError, r"no column 'flog'; did you mean 'flag'\?"),
    ({}, {"drop": ["flog"]}, ValueError, r"no column 'flog'; did you mean 'flag'\?"),
    ({}, {"features": ["u", "y"]}, ValueError, "`features` names 'y', which is the group, a target"),
    ({}, {"features": ["u", "u"]}, ValueError, "`features` names 'u', which is .* named already"),
    ({}, {"target": []}, ValueError, "`group` and `target` must name different columns, one target at least"),
    ({}, {"target": "who"}, ValueError, "must name different columns"),
    ({}, {"group": ["who"]}, TypeError, r"`group` must be the name of a column, got \['who'\]"),
    ({"v": [-np.inf, 2.0, 3.0, 4.0]}, {}, ValueError, r"has an infinite value \(-inf\) in column 'v', row 0"),
    ({"y": [np.inf, 2.0, 3.0, 4.0]}, {}, ValueError, r"an infinite value \(inf\) in column 'y', row 0"),
    ({"y": ["a", "b", "c", "a"]}, {}, ValueError, "has 3 different texts, not numbers nor two classes, in column 'y'"),
    ({"y": [None] * 4}, {}, ValueError, "`frame` has no value of 'y' in any row"),
    ({"who": ["a", None, "b", "b"]}, {}, ValueError, "`column 'who' of frame` has a missing task id at row 1"),
    ({"who": [1.0, 2.0, np.nan, 2.0]}, {}, ValueError, "`column 'who' of frame` has a missing task id at row 2"),
]


@FRAME
@pytest.mark.parametrize(("changes", "arguments", "error", "message"), BAD_FRAMES)
def test_from_table_names_the_row_and_the_column(frame, changes, arguments, error, message):
    with pytest.raises(error, match=message):
        il.TaskSet.from_table(frame(frame_columns(**changes)), **{"group": "who", "target": "y", **arguments})


def test_all_bad_columns_are_named_in_one_message():
    values = [str(i) for i in range(50)]
    frame = pd.DataFrame({"who": np.arange(50) % 5, "y": 1.0, "a": [*values[:-1], "high"], "b": [np.inf, *range(49)]})
    with pytest.raises(
        ValueError, match=r"'high' in column 'a', row 49 .*; an infinite value .* in column 'b', row 0 .*; correct"
    ):
        il.TaskSet.from_table(frame, "who", "y")


@pytest.mark.parametrize("dtype", ["string", "Int64", "category", "object"])
def test_a_missing_id_of_any_pandas_dtype_is_named(dtype):
    ids = pd.Series([1, None, 2, 2] if dtype == "Int64" else ["1", None, "2", "2"], dtype=dtype)
    with pytest.raises(ValueError, match="`column 'who' of frame` has a missing task id at row 1"):
        il.TaskSet.from_table(pd.DataFrame(frame_columns(who=ids)), "who", "y")


NO_FRAMES = [
    (pl.LazyFrame({"a": [1]}), TypeError, r"a data frame in memory .*, got polars LazyFrame; collect it first"),
    ({"a": [1]}, TypeError, r"`frame` must be a data frame, got builtins dict; pandas.DataFrame\(...\) makes one"),
    (np.ones((2, 2)), TypeError, "`frame` must be a data frame, got numpy ndarray"),
    (pd.DataFrame([[1, 2]], columns=["a", "a"]), ValueError, "`frame` has two columns of one name"),
]


@pytest.mark.parametrize(("value", "error", "message"), NO_FRAMES)
def test_what_is_no_frame_in_memory_is_refused_with_a_remedy(value, error, message):
    with pytest.raises(error, match=message):
        il.TaskSet.from_table(value, "a", "b")


def test_columns_may_be_named_by_numbers():
    frame = pd.DataFrame({0: [1.0, 2.0, 4.0, 8.0], 1: [0, 0, 1, 1], 2: [1.0, 2.0, 3.0, 5.0]})
    tasks = il.TaskSet.from_table(frame, 1, 2)
    assert tasks.feature_names == ("0",)
    assert tasks.y.tolist() == [1, 2, 3, 5]
