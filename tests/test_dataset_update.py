"""Updates by datasets in files: the model of `update` in memory, however rows lie in files; rows of groups on disk."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from innerloop.data import buckets, fragments, population
from innerloop.data.population import SampleSize
from innerloop.estimators.stored_groups import StoredGroups

pytestmark = pytest.mark.usefixtures("one_thread", "small")
N_FIRST, N_TASKS = 200, 300


@pytest.fixture
def small(monkeypatch):
    """Choose on few tasks, and make leaves, buckets and chunks small."""
    monkeypatch.setattr(population, "_SAMPLE_SIZE", SampleSize(60, 2**20, 50))
    monkeypatch.setattr(population, "_NUMBERS_OF_LEAF", 2**9)
    monkeypatch.setattr(buckets, "_NUMBERS_OF_BUCKET", 2**8)
    monkeypatch.setattr(fragments, "_NUMBERS_OF_CHUNK", 2**9)


def frame(names=lambda task: task):
    rng = np.random.default_rng(0)
    task = rng.permutation(np.repeat(np.arange(N_TASKS), rng.integers(1, 10, N_TASKS)))
    X = np.round(rng.standard_normal((len(task), 2)), 1)
    y = X[:, 0] * (1 + rng.standard_normal(N_TASKS)[task]) + task / 100 + rng.standard_normal(N_TASKS)[task]
    y = np.round(y + rng.standard_normal(len(task)), 1)
    return pd.DataFrame({"user": names(task), "a": X[:, 0], "b": X[:, 1], "y": y, "task": task})


def parts(kind, table):
    """Return the rows of the fit and those of the update: of new groups, or of known ones too."""
    first = table["task"] < N_FIRST
    if kind == "known":
        first &= np.random.default_rng(1).random(len(table)) < 0.7
    return table[first], table[~first]


def written(folder, table, n_files=3, kind="parquet"):
    folder.mkdir()
    for i in range(n_files):
        part = table.drop(columns="task").iloc[i::n_files]
        if kind == "parquet":
            part.to_parquet(folder / f"{i}.parquet", row_group_size=50, index=False)
        else:
            part.to_csv(folder / f"{i}.csv", index=False)
    return il.TaskDataset(folder, group="user", target="y")


def regressor(**parameters):
    return il.MetaRegressor(**{"basis": "linear", "group": "user", **parameters})


def given(table):
    return table[["user", "a", "b"]], table["y"]


@cache
def in_memory(kind, **parameters):
    old, new = parts(kind, frame())
    model = regressor(**parameters).fit(*given(old))
    return model, model.update(*given(new), population=True)


def check_equal(model, expected, table, intervals=True, rtol=1e-10):
    for name in ("coef_", "intercept_", "l2_"):
        np.testing.assert_allclose(getattr(model, name), getattr(expected, name), rtol=rtol)
    X = table[["user", "a", "b"]]
    for rows in (X, X.assign(user="another")):
        np.testing.assert_allclose(model.predict(rows), expected.predict(rows), rtol=1e-9, atol=1e-11)
        if intervals:
            for found, wanted in zip(model.predict_interval(rows), expected.predict_interval(rows), strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)
    assert sorted(model.groups_.tolist()) == sorted(expected.groups_.tolist())


@pytest.fixture
def model_of(tmp_path):
    """Fit the old rows of a kind of update, and return the model, the new rows and all."""

    def fit(kind, kept="rows", names=lambda task: task, **parameters):
        table = frame(names)
        old, new = parts(kind, table)
        data = written(tmp_path / "old", old)
        return regressor(**parameters).fit_dataset(data, out=tmp_path / "model", groups=kept), new, table

    return fit


# --- rows of groups on disk -------------------------------------------------------------------------------------------


def test_groups_with_rows_on_disk_do_what_groups_in_memory_do(model_of, tmp_path):
    fitted, new, table = model_of("known")
    expected, old = in_memory("known")[0], parts("known", table)[0]
    for model in (fitted, il.load_model(tmp_path / "model")):
        check_equal(model, expected, old)
        both = [m.update(*given(new)) for m in (model, expected)]
        check_equal(*both, table)
        both = [m.update(*given(new), population=True) for m in (model, expected)]
        check_equal(*both, table)
    effects = [m.group_effects().set_index(["group", "coefficient"]).sort_index() for m in (fitted, expected)]
    np.testing.assert_allclose(*(e.to_numpy(dtype=float) for e in effects), rtol=1e-9)
    assert isinstance(fitted._table.known.tasks.X, np.memmap)


def test_rows_on_disk_change_no_bit_of_the_coefficients(model_of, tmp_path):
    fitted, *_ = model_of("known")
    data = il.TaskDataset(tmp_path / "old", group="user", target="y")
    coef = regressor().fit_dataset(data, out=tmp_path / "coef")
    np.testing.assert_array_equal(fitted.group_coef_, coef.group_coef_)


def test_what_is_kept_of_groups_is_one_of_two_words(tmp_path):
    data = written(tmp_path / "old", frame())
    with pytest.raises(ValueError, match="`groups` must be 'coef' or 'rows', got 'all'"):
        regressor().fit_dataset(data, out=tmp_path / "model", groups="all")
    assert not (tmp_path / "model").exists()


def test_rows_that_are_not_whole_are_refused(model_of, tmp_path):
    model_of("new")
    next((tmp_path / "model").glob("groups-*/X.npy")).unlink()
    with pytest.raises(ValueError, match=r"X\.npy is missing or not whole"):
        il.load_model(tmp_path / "model")


# --- updates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [{}, {"n_files": 1}, {"kind": "csv"}], ids=["three files", "one file", "csv"])
@pytest.mark.parametrize("kind", ["new", "known"])
def test_an_update_by_files_is_that_in_memory(model_of, tmp_path, kind, layout):
    model, new, table = model_of(kind)
    updated = model.update_dataset(written(tmp_path / "new", new, **layout), out=tmp_path / "updated")
    for one in (updated, il.load_model(tmp_path / "updated")):
        check_equal(one, in_memory(kind)[1], table)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "new", "old", "updated"]


def test_curves_join_too(model_of, tmp_path):
    model, new, table = model_of("known", basis="spline")
    updated = model.update_dataset(written(tmp_path / "new", new), out=tmp_path / "updated")
    check_equal(updated, in_memory("known", basis="spline")[1], table)


def test_without_rows_known_groups_keep_their_coefficients_and_new_ones_adapt(model_of, tmp_path):
    model, new, table = model_of("new", kept="coef")
    updated = model.update_dataset(written(tmp_path / "new", new), out=tmp_path / "updated")
    old, expected = parts("new", table)[0], in_memory("new")[1]
    check_equal(updated, expected, new, intervals=False)
    np.testing.assert_array_equal(updated.predict(given(old)[0]), model.predict(given(old)[0]))


def test_rows_of_groups_without_rows_are_refused_by_name(model_of, tmp_path):
    model, new, _ = model_of("known", kept="coef")
    n_known = len(set(new["user"]) & set(model.groups_.tolist()))
    message = rf"keeps no rows of group \d+ and {n_known - 1} more, so that further ones cannot update its population"
    with pytest.raises(ValueError, match=message):
        model.update_dataset(written(tmp_path / "new", new), out=tmp_path / "updated")
    with pytest.raises(ValueError, match=message):
        model.update(*given(new), population=True)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "large") == ["model", "new", "old"]


def test_several_updates_are_one(model_of, tmp_path):
    model, new, table = model_of("known")
    for i, rows in enumerate(np.array_split(np.random.default_rng(3).permutation(len(new)), 3)):
        model = model.update_dataset(written(tmp_path / str(i), new.iloc[rows]), out=tmp_path / "model")
    check_equal(model, in_memory("known")[1], table)
    assert len(list((tmp_path / "model").glob("groups-*"))) == 2  # and those of the model before the last update


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_bits_do_not_depend_on_who_computes_nor_on_files(model_of, tmp_path, n_jobs):
    model, new, _ = model_of("known")
    new = new.sample(frac=1, random_state=n_jobs)
    updated = model.update_dataset(written(tmp_path / "new", new, 4), out=tmp_path / "updated", n_jobs=n_jobs)
    one = model.update_dataset(written(tmp_path / "one", new, 1), out=tmp_path / "again")
    for found in ("coef_", "intercept_", "group_coef_"):
        np.testing.assert_array_equal(getattr(updated, found), getattr(one, found))


def test_an_update_that_was_interrupted_goes_on(model_of, tmp_path, monkeypatch):
    model, new, table = model_of("known")
    data, calls = written(tmp_path / "new", new), []
    plain = buckets.TasksInBuckets.leaves

    def fails(self, unit):
        calls.append(unit)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return plain(self, unit)

    with monkeypatch.context() as patch:
        patch.setattr(buckets.TasksInBuckets, "leaves", fails)
        with pytest.raises(KeyboardInterrupt):
            model.update_dataset(data, out=tmp_path / "updated", work=tmp_path / "work")
        assert not (tmp_path / "updated").exists()
    updated = model.update_dataset(data, out=tmp_path / "updated", work=tmp_path / "work")
    check_equal(updated, in_memory("known")[1], table)


def test_a_model_whose_folder_was_updated_can_be_updated_again(model_of, tmp_path):
    model, new, table = model_of("known")
    data = written(tmp_path / "new", new)
    for _ in range(2):
        updated = model.update_dataset(data, out=tmp_path / "model")
        check_equal(updated, in_memory("known")[1], table)


def test_an_update_of_a_loaded_model_leaves_its_groups_on_disk(model_of, tmp_path, monkeypatch):
    _, new, _ = model_of("known")
    data = written(tmp_path / "new", new)
    monkeypatch.setattr(
        StoredGroups, "of", lambda known, folder, of=StoredGroups.of: found.append(of(known, folder)) or found[-1]
    )
    found = []
    il.load_model(tmp_path / "model").update_dataset(data, out=tmp_path / "updated")
    assert [stored.folder.parent for stored in found] == [tmp_path / "model"]


def test_weights_logarithms_and_several_targets_join(tmp_path):
    rng = np.random.default_rng(5)
    table = frame().assign(w=lambda t: rng.uniform(0.5, 2, len(t)), z=lambda t: np.exp(t["a"] + t["y"] / 9))
    table["y"] = np.exp(table["y"] / 9)
    old, new = parts("known", table)
    model = regressor(target_transform="log").fit(*both(old), sample_weight=old["w"])
    expected = model.update(*both(new), sample_weight=new["w"], population=True)
    written(tmp_path / "new", new)
    data = il.TaskDataset(tmp_path / "new", group="user", target=["y", "z"], weights="w")
    check_equal(model.update_dataset(data, out=tmp_path / "updated"), expected, table)


def both(table):
    return table[["user", "a", "b"]], table[["y", "z"]].to_numpy()


@pytest.mark.filterwarnings("ignore:(overflow|invalid):RuntimeWarning")
@pytest.mark.parametrize(("name", "value"), [("X", np.nan), ("X", 1e200), ("y", np.inf)])
def test_rows_on_disk_that_are_no_numbers_end_in_a_sentence(model_of, tmp_path, name, value):
    model, new, _ = model_of("known")
    (path,) = (tmp_path / "model").glob(f"groups-*/{name}.npy")
    rows = np.load(path, mmap_mode="r+")
    rows[:] = value
    rows.flush()
    with pytest.raises(ValueError, match="hold numbers that are not finite, so its folder is damaged"):
        model.update_dataset(written(tmp_path / "new", new), out=tmp_path / "updated")
    assert not (tmp_path / "updated").exists()
    with pytest.raises(ValueError, match="hold numbers that are not finite, so its folder is damaged"):
        model.update(*given(new), population=True)


def test_weights_in_another_unit_are_refused_in_files(model_of, tmp_path):
    model, new, _ = model_of("known")
    new.drop(columns="task").assign(w=1e20).to_parquet(tmp_path / "new.parquet", index=False)
    data = il.TaskDataset(tmp_path / "new.parquet", group="user", target="y", weights="w")
    with pytest.raises(ValueError, match=r"average weight in the fit, got 1e\+20 times"):
        model.update_dataset(data, out=tmp_path / "updated", work=tmp_path / "work")
    assert not (tmp_path / "updated").exists()


def test_text_joins_numbers(model_of, tmp_path):
    model, new, table = model_of("new", names=lambda task: task)
    text = new.assign(user=np.char.add("é", new["user"].to_numpy().astype(str)))
    updated = model.update_dataset(written(tmp_path / "new", text), out=tmp_path / "updated")
    expected = in_memory("new")[0].update(*given(text), population=True)
    check_equal(updated, expected, table)
    check_equal(updated, expected, text)


def test_gradient_steps_are_trained_on_files_too(model_of, tmp_path):
    model, new, table = model_of("new", adaptation="gradient")
    updated = model.update_dataset(written(tmp_path / "new", new), out=tmp_path / "updated")
    check_equal(updated, in_memory("new", adaptation="gradient")[1], table)
    again = il.TaskDataset(tmp_path / "new", group="user", target="y")
    with pytest.raises(ValueError, match=r"keeps moments only of group \d+ and \d+ more, and gradient steps"):
        updated.update_dataset(again, out=tmp_path / "again")


def test_a_model_of_a_table_in_memory_is_updated_by_files(tmp_path):
    table = frame()
    first = table["task"] < 40
    model = regressor().fit(*given(table[first])).update(*given(table[table["task"] == 40]))
    new = table[~first & (table["task"] != 40)]
    updated = model.update_dataset(written(tmp_path / "new", new), out=tmp_path / "updated")
    check_equal(updated, model.update(*given(new), population=True), table)


def test_groups_that_join_a_model_without_groups_keep_their_rows(model_of, tmp_path):
    model, new, _ = model_of("new")
    il.save_model(model, tmp_path / "model", forget_groups=True)
    expected, model = in_memory("new")[1], il.load_model(tmp_path / "model")
    for i, rows in enumerate(np.array_split(np.random.default_rng(3).permutation(len(new)), 2)):
        model = model.update_dataset(written(tmp_path / str(i), new.iloc[rows]), out=tmp_path / "updated")
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-10)
    for found, wanted in zip(*(m.predict_interval(given(new)[0]) for m in (model, expected)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)
    assert set(model.groups_) == set(new["user"])


def test_tables_without_features_join(tmp_path):
    rows = pd.DataFrame({"user": np.repeat(np.arange(600), 4)})
    rows["y"] = np.random.default_rng(0).standard_normal(600)[rows["user"]]
    rows["y"] += np.random.default_rng(1).standard_normal(len(rows))
    old, new = rows[:1200], rows[1200:]
    expected = regressor().fit(old[["user"]], old["y"]).update(new[["user"]], new["y"], population=True)
    data = [written(tmp_path / name, part.assign(task=0), n_files=1) for name, part in (("old", old), ("new", new))]
    updated = regressor().fit_dataset(data[0], out=tmp_path / "model", groups="rows")
    updated = updated.update_dataset(data[1], out=tmp_path / "updated")
    np.testing.assert_allclose(updated.intercept_, expected.intercept_, atol=0.01)  # other groups are drawn for folds
    assert sorted(updated.groups_.tolist()) == expected.groups_.tolist()


def test_datasets_unlike_that_of_the_fit_are_refused(model_of, tmp_path):
    model, new, _ = model_of("new")
    data = written(tmp_path / "new", new)
    without = il.TaskDataset(tmp_path / "new", group="user", target="y", drop=["b"])
    for other, message in {
        without: r"`data` has no column 'b'",
        il.TaskDataset(tmp_path / "new", group="user", target=["y"]): r"must have the 1 target\(s\) seen in fit",
    }.items():
        with pytest.raises(ValueError, match=message):
            model.update_dataset(other, out=tmp_path / "updated")
    written(tmp_path / "large", new.assign(a=1e80))
    with pytest.raises(ValueError, match=r"`X` must lie within 1e\+75 standard deviations"):
        model.update_dataset(il.TaskDataset(tmp_path / "large", group="user", target="y"), out=tmp_path / "updated")
    arrays = il.MetaRegressor(basis="linear").fit(np.c_[new["a"], new["b"]], new["y"], groups=new["user"])
    with pytest.raises(ValueError, match="`update_dataset` needs the names of the features"):
        arrays.update_dataset(data, out=tmp_path / "updated")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "large") == ["model", "new", "old"]
