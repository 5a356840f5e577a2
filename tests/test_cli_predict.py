"""`innerloop predict`: which rows it predicts, from what, and where it writes."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from command_line import IDS, QUICK, innerloop, save, small_table, tree
from innerloop.estimators.storage import load_model, save_model

FEATURES = ["a", "b", "c"]
ADAPTED, SEEN, NEW, META = ["007", "NA"], ["nan", "任务"], ["n1", "n2"], ["n3"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    ran = innerloop(
        "fit", save(small_table(), folder / "t.csv"), *QUICK, "--features", *FEATURES, "--out", folder / "m"
    )
    assert ran.code == 0
    return folder / "m"


def half_empty():
    """Rows of known and new tasks, shuffled; some tasks have targets in about half of their rows."""
    frame = small_table(seed=1)
    frame = frame.assign(task=frame["task"].replace(dict(zip(IDS, [*ADAPTED, *SEEN, *NEW, *META], strict=False))))
    frame = frame[frame["task"].isin([*ADAPTED, *SEEN, *NEW, *META])]
    has_target = frame["task"].isin([*ADAPTED, *NEW]) & (np.arange(len(frame)) % 2 == 0)
    return frame.assign(y=frame["y"].where(has_target)).sample(frac=1, random_state=0).reset_index(drop=True)


def predict(model, table, *options):
    ran = innerloop("predict", model, table, *options)
    assert ran.code == 0
    assert not ran.err
    return ran.out


def read(text):
    return pd.read_csv(io.StringIO(text), dtype={"group": str}, keep_default_na=False)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_every_row_without_a_target_is_predicted_in_the_order_of_the_file(model, tmp_path, ending):
    frame = half_empty()
    found = read(predict(model, save(frame, tmp_path / f"t.{ending}")))
    rows = np.flatnonzero(frame["y"].isna())
    assert found.columns.tolist() == ["group", "row", "prediction", "based_on"]
    assert found["row"].tolist() == (rows + 1).tolist()
    assert found["group"].tolist() == frame["task"][rows].tolist()


@pytest.mark.slow
def test_predictions_say_what_they_rest_on(model, tmp_path):
    found = read(predict(model, save(half_empty(), tmp_path / "t.csv")))
    based_on = found.groupby("group")["based_on"].agg(set).to_dict()
    expected = {**dict.fromkeys([*ADAPTED, *NEW], "adapted"), **dict.fromkeys(SEEN, "seen"), META[0]: "meta"}
    assert based_on == {group: {word} for group, word in expected.items()}


def test_rows_of_groups_of_training_are_added_if_asked(model, tmp_path):
    frame = half_empty()
    found = read(predict(model, save(frame, tmp_path / "t.csv"), "--update"))
    known, asked = frame[frame["y"].notna()], frame[frame["y"].isna()]
    updated = load_model(model).update(known[FEATURES], known["y"], known["task"].to_numpy(str))
    np.testing.assert_allclose(found["prediction"], updated.predict(asked[FEATURES], asked["task"].to_numpy(str)))


def test_predictions_are_those_of_the_library(model, tmp_path):
    frame = half_empty()
    found = read(predict(model, save(frame, tmp_path / "t.csv")))
    known, asked = frame[frame["y"].notna()], frame[frame["y"].isna()]
    adapted = load_model(model).adapt(known[FEATURES], known["y"], known["task"].to_numpy(str))
    expected = adapted.predict(asked[FEATURES], groups=asked["task"].to_numpy(str))
    np.testing.assert_allclose(found["prediction"], expected, rtol=1e-12)
    apart = load_model(model).predict(asked[FEATURES], groups=["nobody"] * len(asked))
    meta = (found["based_on"] == "meta").to_numpy()
    np.testing.assert_allclose(found["prediction"][meta], apart[meta], rtol=1e-12)
    assert not np.isclose(found["prediction"][~meta], apart[~meta], rtol=1e-6).any()


def test_an_interval_is_around_its_prediction_and_of_the_row_that_is_named(model, tmp_path):
    frame = half_empty()
    found = read(predict(model, save(frame, tmp_path / "t.csv"), "--level", 0.8))
    assert (found["lower"] < found["prediction"]).all()
    assert (found["prediction"] < found["upper"]).all()
    rows = frame.iloc[found["row"].to_numpy() - 1]
    assert rows["y"].isna().all()
    assert found["group"].tolist() == rows["task"].tolist()
    wide = read(predict(model, tmp_path / "t.csv", "--level", 0.99))
    assert (wide["upper"] - wide["lower"] > found["upper"] - found["lower"]).all()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("empty", [False, True], ids=["absent", "empty"])
def test_without_any_target_no_task_adapts(model, tmp_path, ending, empty):
    frame = half_empty().drop(columns="y")
    frame = frame.assign(y=np.nan) if empty else frame
    found = read(predict(model, save(frame, tmp_path / f"t.{ending}")))
    assert len(found) == len(frame)
    assert (found["based_on"] == "adapted").sum() == 0
    assert set(found["group"][found["based_on"] == "seen"]) == {*ADAPTED, *SEEN}
    expected = load_model(model).predict(frame[FEATURES], groups=frame["task"].to_numpy(str))
    np.testing.assert_allclose(found["prediction"], expected, rtol=1e-12)


def test_the_order_of_columns_does_not_matter_nor_do_further_ones(model, tmp_path):
    frame = half_empty()
    turned = frame[frame.columns[::-1]].assign(note="text")
    assert predict(model, save(turned, tmp_path / "u.csv")) == predict(model, save(frame, tmp_path / "t.csv"))


def test_out_holds_what_would_be_printed(model, tmp_path):
    table = save(half_empty(), tmp_path / "t.csv")
    assert predict(model, table, "--out", tmp_path / "p.csv") == ""
    assert (tmp_path / "p.csv").read_bytes().decode() == predict(model, table)
    assert tree(tmp_path) == ["p.csv", "t.csv"]


def test_out_replaces_an_earlier_file(model, tmp_path):
    table = save(half_empty(), tmp_path / "t.csv")
    (tmp_path / "p.csv").write_text("old\n" * 10_000)
    predict(model, table, "--out", tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_bytes().decode() == predict(model, table)


@pytest.mark.slow
@pytest.mark.parametrize("delimiter", [";", "|"])
def test_other_delimiters_give_the_same_predictions(model, tmp_path, delimiter):
    frame = half_empty()
    frame.to_csv(tmp_path / "u.csv", index=False, sep=delimiter)
    expected = predict(model, save(frame, tmp_path / "t.csv"))
    assert predict(model, tmp_path / "u.csv", "--delimiter", delimiter) == expected


@pytest.fixture
def table(tmp_path):
    return save(half_empty(), tmp_path / "t.csv")


def refused(tmp_path, *args):
    """Run `predict`, check that it refused in one line and wrote nothing, and return the line."""
    before = tree(tmp_path)
    ran = innerloop("predict", *args)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("innerloop: ")
    assert tree(tmp_path) == before
    return ran.err


def test_every_target_present_leaves_nothing_to_predict(model, tmp_path):
    message = refused(tmp_path, model, save(small_table(), tmp_path / "full.csv"), "--out", tmp_path / "p.csv")
    assert "full.csv has a value of 'y'" in message
    assert "there is no row to predict" in message


def test_missing_feature_column_is_named(model, tmp_path):
    table = save(half_empty().drop(columns="b"), tmp_path / "u.csv")
    assert "u.csv has no column 'b'" in refused(tmp_path, model, table, "--out", tmp_path / "p.csv")


def test_missing_group_column_is_named(model, tmp_path):
    table = save(half_empty().rename(columns={"task": "tusk"}), tmp_path / "u.csv")
    assert "u.csv has no column 'task'; did you mean 'tusk'?" in refused(tmp_path, model, table)


@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        ("a", "high", "the text 'high' in column 'a', line 6"),
        ("a", "inf", "an infinite value (inf) in column 'a', line 6"),
        ("y", "high", "the text 'high' in column 'y', line 6"),
        ("y", "-inf", "an infinite value (-inf) in column 'y', line 6"),
        ("task", "", "no task id in column 'task', line 6"),
    ],
)
def test_a_bad_cell_is_named_by_its_line_and_column(model, tmp_path, column, cell, words):
    frame = half_empty().astype(object)
    frame.loc[4, column] = cell
    message = refused(tmp_path, model, save(frame, tmp_path / "u.csv"), "--out", tmp_path / "p.csv")
    assert "u.csv" in message
    assert words in message


@pytest.mark.parametrize("damage", ["no manifest", "changed arrays", "lost arrays", "cut model", "later version"])
def test_a_damaged_model_is_refused(model, table, tmp_path, damage):
    folder = tmp_path / "m"
    folder.mkdir()
    for path in model.iterdir():
        content = path.read_bytes()
        if damage == "changed arrays" and path.suffix == ".npz":
            content = content[:100] + bytes([content[100] ^ 1]) + content[101:]
        elif damage == "cut model" and path.name.startswith("model-"):
            content = content[:-10]
        elif damage == "later version" and path.name == "manifest.json":
            content = content.replace(b'"version": 3', b'"version": 4')
        if (damage, path.suffix) == ("lost arrays", ".npz") or (damage, path.name) == ("no manifest", "manifest.json"):
            continue
        (folder / path.name).write_bytes(content)
    message = refused(tmp_path, folder, table, "--out", tmp_path / "p.csv")
    assert str(folder) in message
    words = {
        "no manifest": "is not an innerloop model folder",
        "later version": "has model format 4, this version reads 3",
    }
    assert words.get(damage, "is damaged") in message


def test_no_model_folder_says_how_to_make_one(table, tmp_path):
    assert "innerloop fit ... --out" in refused(tmp_path, tmp_path / "none", table)


def test_a_model_saved_by_the_library_says_that_its_columns_are_unknown(model, table, tmp_path):
    save_model(load_model(model), tmp_path / "m")
    assert "was not made by `innerloop fit`" in refused(tmp_path, tmp_path / "m", table)


@pytest.mark.parametrize("place", ["file", "folder", "nowhere"])
def test_out_that_cannot_be_written_is_named_itself(model, table, tmp_path, place):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    out = {"file": tmp_path / "file" / "p.csv", "folder": tmp_path / "folder", "nowhere": tmp_path / "no" / "p.csv"}
    words = {"file": "there is no folder", "folder": "`--out` must name a file, got the folder", "nowhere": "make it"}
    message = refused(tmp_path, model, table, "--out", out[place])
    assert str(out["folder"] if place == "folder" else out[place].parent) in message
    assert words[place] in message
    assert ".tmp" not in message


FORMULAS = ["=1+2", "+cmd|x", "-x", "@sum", "'=x", "' =x", "''+1a", "\uff1dx"]
TEXTS = ["-1", "+1.5", "-.5e3", "x=1", "'quoted", "a-b", "7"]


def test_no_id_is_a_formula_to_a_spreadsheet_and_all_come_back(model, tmp_path):
    frame = small_table(n_rows=2)[["a", "b", "c"]].iloc[: len(FORMULAS + TEXTS)].assign(task=FORMULAS + TEXTS)
    ran = innerloop("predict", model, save(frame, tmp_path / "t.csv"))
    found = read(ran.out)["group"].tolist()
    assert found == [f"'{text}" for text in FORMULAS] + TEXTS
    # One quote off what is a quote before a formula, and ids are as they were.
    assert [re.sub(r"^'(?=[\s']*[=+\-@\uff1d])", "", text) for text in found] == FORMULAS + TEXTS


@pytest.mark.slow
def test_no_part_of_an_id_is_a_cell_where_cells_end_at_semicolons(model, tmp_path):
    ids = ["a;=1+1", "b;;@x", 'c";=2', "plain"]
    frame = pd.DataFrame({"task": ids, "a": 0.0, "b": 0.0, "c": 0.0})
    text = innerloop("predict", model, save(frame, tmp_path / "t.csv")).out
    assert read(text)["group"].tolist() == ids
    cells = [cell for row in csv.reader(io.StringIO(text), delimiter=";") for cell in row]
    assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in cells)
    assert '"' not in innerloop("predict", model, save(frame[-1:], tmp_path / "u.csv")).out


def test_a_model_that_forgot_its_groups_adapts_to_labelled_rows(tmp_path):
    table = save(small_table(), tmp_path / "t.csv")
    options = [*QUICK, "--features", *FEATURES, "--basis", "linear", "--adaptation", "ridge"]
    assert "give --out too" in innerloop("fit", table, *options, "--forget-groups").err
    for flag in ([], ["--forget-groups"]):
        assert innerloop("fit", table, *options, "--out", tmp_path / "m", *flag).code == 0
    everything = b"".join(path.read_bytes() for path in (tmp_path / "m").glob("*.json"))
    assert "schöne".encode() not in everything
    assert len(load_model(tmp_path / "m").groups_) == 0
    found = read(predict(tmp_path / "m", save(half_empty(), tmp_path / "u.csv")))
    assert set(found["based_on"]) == {"adapted", "meta"}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_whole_numbers_name_the_same_tasks_in_files_and_in_arrays(tmp_path, ending):
    frame = small_table().drop(columns=["same", "sum"])
    frame["task"] = np.repeat(np.arange(len(IDS)), 12)
    assert innerloop("fit", save(frame, tmp_path / f"t.{ending}"), *QUICK, "--out", tmp_path / "m").code == 0
    X, y, groups = frame[["a", "b", "c"]], frame["y"], frame["task"].to_numpy()
    in_arrays = il.MetaRegressor(cv=2).fit(X, y, groups)
    loaded = load_model(tmp_path / "m")
    np.testing.assert_array_equal(loaded.groups_, in_arrays.groups_)
    np.testing.assert_array_equal(loaded.group_coef_, in_arrays.group_coef_)
    as_floats = frame.drop(columns="y").assign(task=groups.astype(float))
    found = read(predict(tmp_path / "m", save(as_floats, tmp_path / f"floats.{ending}")))
    assert set(found["based_on"]) == {"seen"}
    assert found["group"].tolist() == groups.astype(float).astype(str).tolist()
    np.testing.assert_allclose(found["prediction"], in_arrays.predict(X, groups), rtol=1e-12)
