"""Model folders: what goes in comes out, and nothing else is ever loaded."""

import contextlib
import copy
import errno
import io
import json
import os
import stat
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from cases import table
from innerloop._base import sealed_folder
from innerloop._base.files import write_whole
from innerloop._base.memory import archive_of, read_arrays
from innerloop.estimators import storage
from innerloop.estimators.storage import load_details, load_model, save_model

pytestmark = pytest.mark.usefixtures("one_thread")

RATES = {"inner_lr": -0.2, "adapt_lr": 0.3, "l2": 0.01}
UNICODE = ["é", "日本", "𝄞", "a", "ß", "Ω"]


def fitted(seed=0, n_targets=None, ids=None, **params):
    X, y, groups = table([5, 6, 4, 7, 1, 5], 3, n_targets, seed, ids=ids)
    return il.MetaRegressor(**params).fit(X, y, groups), X, y, groups


@pytest.fixture
def folder(tmp_path):
    save_model(fitted(**RATES)[0], tmp_path / "model")
    return tmp_path / "model"


def predictions(model, X, groups):
    unseen = np.roll(groups, 3).astype(groups.dtype if groups.dtype.kind != "U" else "U20")
    unseen[::2] = 10**6
    return model.predict(X, groups), model.predict(X), model.predict(X, unseen)


def assert_same_model(loaded, model, X, groups):
    for mine, theirs in zip(predictions(loaded, X, groups), predictions(model, X, groups), strict=True):
        assert mine.tobytes() == theirs.tobytes()
    for name in ("inner_lr_", "adapt_lr_", "l2_", "n_support_", "n_features_in_"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))  # NaN where there are no rates
    np.testing.assert_array_equal(loaded.groups_, model.groups_)
    np.testing.assert_array_equal(loaded.inner_lr_se_, model.inner_lr_se_)
    assert (loaded.cv_results_ is None) == (model.cv_results_ is None)
    for name, column in (model.cv_results_ or {}).items():
        np.testing.assert_array_equal(loaded.cv_results_[name], column)


@pytest.mark.slow
@pytest.mark.parametrize("n_targets", [None, 1, 3])
@pytest.mark.parametrize("ids", [None, UNICODE, [0.5, 1.5, -2.0, 3.0, 7.0, 8.0]], ids=["int", "text", "float"])
@pytest.mark.parametrize("params", [RATES, {"cv": 2}, {"fit_intercept": False, "n_steps": 2, "cv": 2}], ids=str)
def test_a_loaded_model_predicts_the_same_bits(tmp_path, params, ids, n_targets):
    model, X, y, groups = fitted(1, n_targets, ids, **params)
    save_model(model, tmp_path / "model")
    loaded = load_model(str(tmp_path / "model"))
    assert_same_model(loaded, model, X, groups)
    assert loaded.get_params() == model.get_params()
    before, after = (m.adapt(X[:4], y[:4], groups=groups[2:6]) for m in (model, loaded))
    assert_same_model(after, before, X, groups)
    refitted = il.MetaRegressor(**loaded.get_params()).fit(X, y, groups)
    assert refitted.coef_.tobytes() == model.coef_.tobytes()


@pytest.mark.slow
def test_feature_names_and_the_group_column_are_kept(tmp_path):
    _, X, y, groups = fitted(ids=UNICODE)
    frame = pd.DataFrame(X, columns=["ü", "日本", "x 1"]).assign(who=groups)
    model = il.MetaRegressor(group="who", **RATES).fit(frame, y)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.feature_names_in_.tolist() == ["ü", "日本", "x 1"]
    assert loaded.predict(frame).tobytes() == model.predict(frame).tobytes()
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(frame.rename(columns={"ü": "u"}))


def test_a_model_that_knows_no_groups_is_kept(tmp_path):
    X, y, _ = table([20], 3)
    with pytest.warns(UserWarning, match="neither"):
        model = il.MetaRegressor().fit(X, y)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.predict(X).tobytes() == model.predict(X).tobytes()
    assert len(loaded.groups_) == 0


@pytest.mark.slow
@pytest.mark.parametrize("state", [None, np.random.RandomState(3), np.int64(3), 3], ids=str)
def test_a_random_state_that_is_no_number_does_not_prevent_saving(tmp_path, state):
    model, X, _, groups = fitted(random_state=state)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert_same_model(loaded, model, X, groups)
    assert loaded.random_state == (3 if isinstance(state, int | np.integer) else None)


def test_details_are_kept(tmp_path):
    details = {"target": "größe", "n": 3, "list": [1.5, None]}
    save_model(fitted(**RATES)[0], tmp_path / "a" / "b", details)
    assert load_details(tmp_path / "a" / "b") == details


def test_saving_over_a_model_keeps_the_one_before_and_no_other(folder):
    for seed in (1, 2, 1, 3):
        model, X, _, groups = fitted(seed, **RATES)
        save_model(model, folder, {"seed": seed})
        assert_same_model(load_model(folder), model, X, groups)
        manifests = {"manifest.json", "manifest.previous.json"}
        named = {
            entry["name"]
            for manifest in manifests
            for entry in json.loads((folder / manifest).read_bytes())["files"].values()
        }
        assert {path.name for path in folder.iterdir()} == manifests | named
        assert len(named) == 4


@pytest.mark.slow
@pytest.mark.parametrize("part", ["manifest.json", "model", "arrays"])
@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_damaged_save_falls_back_to_the_one_before_with_a_warning(folder, part, damage):
    first, X, _, groups = fitted(1, **RATES)
    save_model(first, folder, {"seed": 1})
    save_model(fitted(2, **RATES)[0], folder, {"seed": 2})
    files = {k: v["name"] for k, v in json.loads((folder / "manifest.json").read_bytes())["files"].items()}
    path = folder / files.get(part, part)
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content) if damage == "flipped" else path.unlink()
    with pytest.warns(UserWarning, match=r"the last save in .* is damaged \(.*\); the one before it is used"):
        loaded = load_model(folder)
    assert_same_model(loaded, first, X, groups)


def test_of_two_saves_at_once_one_waits_and_a_reader_sees_a_whole_model(folder, monkeypatch):
    first, X, _, groups = fitted(1, **RATES)
    second = fitted(2, **RATES)[0]
    plain, threads, seen = sealed_folder.write_whole, [], []

    def write(path, content):
        if path.name == "manifest.json" and not threads:  # the parts of the first save are there, its manifest is not
            for action in (lambda: save_model(second, folder), lambda: seen.append(load_model(folder))):
                threads.append(threading.Thread(target=action))
                threads[-1].start()
            threads[0].join(0.3)
        plain(path, content)

    monkeypatch.setattr(sealed_folder, "write_whole", write)
    save_model(first, folder)
    for thread in threads:
        thread.join()
    assert len(seen) == 1
    assert_same_model(load_model(folder), second, X, groups)
    for path in folder.glob("*.npz"):
        assert path.stat().st_size


def test_a_file_is_flushed_before_it_is_synchronised(tmp_path, monkeypatch):
    sizes = []
    plain = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size) or plain(handle))
    write_whole(tmp_path / "file", b"x" * 1000)
    assert sizes == [1000]


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_files_have_the_permissions_of_the_process_and_keep_those_that_they_have(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"1")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
        (tmp_path / "file").chmod(0o600)
        write_whole(tmp_path / "file", b"2")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    finally:
        os.umask(before)


# Privacy


def everything_in(folder):
    """Return the arrays in a model folder, of any save, and all its text."""
    arrays, text = [], ""
    for path in folder.iterdir():
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                arrays += [archive[name] for name in archive.files]
        else:
            text += path.read_text()
    return arrays, text


def rows_held(arrays, rows):
    """Return how many of some rows of numbers are rows of some array, in any sign."""
    found = 0
    for row in rows:
        held = (a for a in arrays if a.dtype.kind == "f" and a.ndim == 2 and a.shape[1] == len(row))
        found += any((np.abs(np.abs(a) - np.abs(row)).max(axis=1, initial=0) < 1e-9).any() for a in held if len(a))
    return found


def test_the_rows_in_a_folder_are_no_rows_of_groups_of_three_or_more(tmp_path):
    X, y, groups = table([4, 5, 3, 4, 5, 6, 3], 6, seed=2)
    model = il.MetaRegressor(adaptation="ridge", basis="linear", cv=3).fit(X, y, groups)
    save_model(model, tmp_path / "m")
    scaling = model._table.scaling
    assert rows_held(everything_in(tmp_path / "m")[0], scaling.design(X)) == 0
    known = model._table.known.tasks
    assert known.sizes.tolist() == [4, 5, 3, 4, 5, 6, 3]
    for i in range(7):  # but the moments are those of the group
        Z, mine = scaling.design(X[groups == i]), known.X[known.starts[i] : known.starts[i + 1]]
        np.testing.assert_allclose(mine.T @ mine, Z.T @ Z, rtol=0, atol=1e-12)


def test_a_save_that_forgets_the_groups_leaves_nothing_of_them_and_no_save_before(tmp_path):
    ids = [f"secret {i}" for i in range(6)]
    model, X, y, groups = fitted(1, ids=ids, **RATES)
    save_model(fitted(2, ids=ids, **RATES)[0], tmp_path / "m")
    save_model(model, tmp_path / "m")
    assert "manifest.previous.json" in {path.name for path in (tmp_path / "m").iterdir()}
    save_model(model, tmp_path / "m", {"group": "who"}, forget_groups=True)
    arrays, text = everything_in(tmp_path / "m")
    assert sorted(path.suffix for path in (tmp_path / "m").iterdir()) == [".json", ".json", ".npz"]
    assert "secret" not in text
    assert not [a for a in arrays if a.dtype.kind == "U" and "secret" in "".join(a.ravel().tolist())]
    assert not [a for a in arrays if a.dtype.kind == "f" and 6 in a.shape[:1]]  # nothing group by group
    loaded = load_model(tmp_path / "m")
    assert len(loaded.groups_) == 0
    assert loaded.predict(X).tobytes() == model.predict(X).tobytes()
    again = loaded.adapt(X, y, groups)
    np.testing.assert_allclose(again.predict(X, groups), model.adapt(X, y, groups).predict(X, groups), rtol=1e-12)
    assert model.groups_.tolist() == ids  # the model itself forgets nothing


def test_nothing_in_a_folder_is_pickled(folder, monkeypatch):
    for path in folder.glob("*.npz"):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                array = np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
                assert array.dtype.kind in "iufbU"
    assert {path.suffix for path in folder.iterdir()} == {".json", ".npz"}
    plain, seen = np.load, []
    monkeypatch.setattr(np, "load", lambda *a, **k: seen.append(k["allow_pickle"]) or plain(*a, **k))
    load_model(folder)
    assert seen == [False]


def test_archives_hold_the_arrays_that_are_given_and_no_objects():
    content = archive_of({"a": np.arange(3.0), "b": np.array("text")})
    assert read_arrays(content, "it").keys() == {"a", "b"}
    with pytest.raises(TypeError, match="c holds objects"):
        archive_of({"c": np.array([{}], dtype=object)})


# Refusals


def test_folders_of_others_are_neither_overwritten_nor_loaded(tmp_path):
    model = fitted(**RATES)[0]
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds files that are no innerloop model"):
        save_model(model, tmp_path)
    with pytest.raises(FileExistsError, match="is a file; a model is saved to a folder"):
        save_model(model, tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="is not an innerloop model folder"):
            load_model(place)
    with pytest.raises(FileNotFoundError, match=r"there is no model folder .*none"):
        load_model(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    save_model(model, tmp_path / "empty")
    load_model(tmp_path / "empty")


MANIFESTS = [
    (b"", "is not an innerloop model folder"),
    (b"[]", "is not an innerloop model folder"),
    (b"{}", "is not an innerloop model folder"),
    (b'{"format": "other", "version": 1}', "is not an innerloop model folder"),
    (b'{"format": "innerloop-model", "version": 1}', "has model format 1, this version reads 3; fit the model again"),
    (b'{"format": "innerloop-model"}', "has model format None"),
    (b'{"format": "innerloop-model", "version": 3}', "is damaged"),
    (b'{"format": "innerloop-model", "version": 3, "files": []}', "is damaged"),
    (b'{"format": "innerloop-model", "version": 3, "files": {"model": {}, "arrays": {}}}', "is damaged"),
]


@pytest.mark.parametrize(("manifest", "message"), MANIFESTS)
def test_other_manifests_are_refused(folder, manifest, message):
    (folder / "manifest.json").write_bytes(manifest)
    for load in (load_model, load_details):
        with pytest.raises(ValueError, match=message):
            load(folder)


PARTS = ["manifest.json", "model-*.json", "arrays-*.npz"]


def part(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PARTS)
def test_a_flipped_bit_is_noticed(folder, pattern):
    path = part(folder, pattern)
    content = path.read_bytes()
    # Each bit of the manifest, which has no checksum itself, and some of the others.
    places = range(len(content)) if pattern == PARTS[0] else np.linspace(0, len(content) - 1, 40).astype(int)
    for place in places:
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"is damaged|is not an innerloop model|has model format"):
                load_model(folder)
    path.write_bytes(content)
    load_model(folder)


@pytest.mark.parametrize("pattern", PARTS)
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_noticed(folder, pattern, kept):
    path = part(folder, pattern)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"is damaged|is not an innerloop model"):
        load_model(folder)


@pytest.mark.parametrize("pattern", PARTS)
def test_a_missing_file_is_noticed(folder, pattern):
    part(folder, pattern).unlink()
    with pytest.raises(ValueError, match=r"is damaged \(.* is missing\)|has no readable manifest"):
        load_model(folder)


def ways_to_break(name, array):
    """Return arrays that differ from one in shape or kind, or hold what is no number."""
    longer = np.concatenate((array, array[:1] if len(array) else np.zeros((1, *array.shape[1:]), array.dtype)))
    ways = [longer, array[None]]
    if array.dtype.kind != "U":
        ways.append(array.astype(complex))
    if array.dtype.kind == "f":
        ways.append(array.astype(np.str_))
        if array.size and not name.startswith(("rates.", "errors.", "effects.deviance")):
            ways.append(np.where(np.arange(array.size).reshape(array.shape) == 0, np.nan, array))
    if array.ndim > 1 and array.shape[-1]:
        ways.append(array[..., :-1])
    return ways


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Contents of folders of models of every kind."""
    root = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.standard_normal(60), "b": list("xyz") * 20, "c": rng.standard_normal(60)})
    frame.loc[::7, "c"] = np.nan
    groups = np.repeat(np.arange(10), 6)
    y = frame["a"].to_numpy() * (1 + groups % 3) + rng.standard_normal(60)
    models = {
        "ridge": il.MetaRegressor(adaptation="ridge").fit(frame, y, groups),
        "per-feature": il.MetaRegressor(adapt_lr="per-feature").fit(frame, y, groups),
        "several": il.MetaRegressor(adaptation="gradient").fit(frame, np.column_stack((y, -y, y**2)), groups),
    }
    for name, model in models.items():
        save_model(model, root / name)
    return {name: storage._read(root / name) for name in models}


@pytest.fixture
def loaded(monkeypatch):
    """Load a model from contents, as from a folder that whoever can write there has sealed."""

    def load(description, arrays, read=load_model):
        monkeypatch.setattr(storage, "_read", lambda _: (description, dict(arrays)))
        return read("folder")

    return load


@pytest.mark.parametrize("kind", ["ridge", "per-feature", "several"])
def test_hostile_arrays_are_refused(whole, kind, loaded):
    description, arrays = whole[kind]
    assert loaded(*whole[kind]).n_features_in_ == 3
    for name, array in arrays.items():
        if name == "feature_names" or name.split(".")[0].endswith("results"):
            continue
        without = {key: value for key, value in arrays.items() if key != name}
        for changed in (without, *({**arrays, name: wrong} for wrong in ways_to_break(name, np.atleast_1d(array)))):
            with pytest.raises(ValueError, match=r"^folder is damaged \("):
                loaded(description, changed)
    with pytest.raises(ValueError, match=r"an unknown part, new"):
        loaded(description, {**arrays, "new": np.zeros(3)})


ORDERS = {
    "known.starts": lambda a: a[::-1],
    "known.ids": np.zeros_like,
    "known.reduced_from": np.zeros_like,
    "predictor.n_rows": lambda a: a[::-1],
    "predictor.weight": lambda a: -a,
    "calibration.n_rows": lambda a: a[::-1],
    "calibration.quantiles": lambda a: a[..., ::-1],
    "curves.feature": lambda a: np.append(a, 99),
    "scaling.kept": lambda a: ~a,
    "counted.starts": lambda a: a + 1,
    "counted.ids": lambda a: np.arange(len(a) + 1),
    "sums.mean_of": lambda a: a - 2,
    "sums.spread_of": lambda a: a + 99,
    "sums.main": lambda a: a - 99,
    "sums.totals": lambda a: a[..., :-1],
    "sums.n_tasks": np.zeros_like,
    "sums.n_rows": lambda a: -a,
    "sums.precision": lambda a: -1 - a,
    "sums.l2": lambda a: np.full_like(a, -1),
}


def test_groups_that_begin_in_disorder_are_refused(whole, loaded):
    description, arrays = whole["ridge"]
    starts = arrays["known.starts"].copy()
    starts[[1, 2]] = starts[[2, 1]]
    enough = np.maximum(arrays["known.reduced_from"], np.diff(starts))
    with pytest.raises(ValueError, match=r"known.starts is not in order"):
        loaded(description, {**arrays, "known.starts": starts, "known.reduced_from": enough})


@pytest.mark.parametrize("name", ORDERS)
def test_hostile_orders_are_refused(whole, name, loaded):
    description, arrays = whole["ridge"]
    with pytest.raises(ValueError, match=r"^folder is damaged \("):
        loaded(description, {**arrays, name: ORDERS[name](arrays[name])})


@pytest.mark.parametrize("name", ["sums.task_cov", "sums.totals", "objective.factor", "objective.weight"])
def test_sums_that_are_infinite_are_refused(whole, name, loaded):
    description, arrays = whole["several"]
    with pytest.raises(ValueError, match=rf"{name} holds infinite numbers"):
        loaded(description, {**arrays, name: np.full_like(arrays[name], np.inf)})


@pytest.mark.parametrize("name", ["objective.weight", "objective.n_tasks"])
def test_episodes_that_score_nothing_are_refused(whole, name, loaded):
    description, arrays = whole["several"]
    with pytest.raises(ValueError, match=rf"{name} is not in order"):
        loaded(description, {**arrays, name: np.zeros_like(arrays[name])})


@pytest.mark.parametrize(
    ("name", "value"),
    [("protocol", "other"), ("n_support", 0), ("n_support", None), ("n_query", -1), ("n_steps", 1.0), ("seed", "x")],
)
def test_episodes_that_no_fit_makes_are_refused(whole, name, value, loaded):
    description, arrays = copy.deepcopy(whole["several"][0]), whole["several"][1]
    description["table"]["episodes"][name] = value
    with pytest.raises(ValueError, match=r"^folder is damaged \("):
        loaded(description, arrays)


def places_of(value, path=()):
    """Yield the path to every part of JSON values but the parameters, the details and notes."""
    if path in (("params",), ("details",)) or "notes" in path:
        return
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places_of(part, (*path, key))


@pytest.mark.parametrize("wrong", [None, 7.5, "x", [], {}, [[]], {"a": 1}], ids=str)
def test_a_hostile_description_ends_in_no_other_error(whole, wrong, loaded):
    description, arrays = whole["ridge"]
    rows = pd.DataFrame({"a": [1.0], "b": ["x"], "c": [np.nan]})
    for *above, last in places_of(description):
        changed = copy.deepcopy(description)
        place = changed
        for key in above:
            place = place[key]
        place[last] = wrong
        with contextlib.suppress(ValueError):  # a name that is another text is a column that the rows do not have
            loaded(changed, arrays).predict(rows)


@pytest.mark.parametrize("part", ["params", "table", "details"])
@pytest.mark.parametrize("wrong", [None, 3, "x", [1], "gone"], ids=str)
def test_a_description_without_its_parts_is_refused(whole, part, wrong, loaded):
    description, arrays = whole["ridge"]
    changed = {name: value for name, value in description.items() if name != part}
    changed |= {} if wrong == "gone" else {part: wrong}
    with pytest.raises(ValueError, match=r"^folder is damaged \("):
        loaded(changed, arrays, load_details if part == "details" else load_model)


def test_a_manifest_cannot_reach_outside_its_folder(folder, tmp_path):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    name = manifest["files"]["model"]["name"]
    (folder / name).rename(tmp_path / name)
    manifest["files"]["model"]["name"] = f"../{name}"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="is missing"):
        load_model(folder)


def test_a_model_is_saved_as_it_was_fitted_whatever_its_parameters_are_for_a_next_fit(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.standard_normal(60), "user": np.repeat(np.arange(10), 6)})
    model = il.MetaRegressor(group="user", target_transform="log").fit(frame, np.exp(frame["a"]))
    expected = model.predict(frame)
    save_model(model.set_params(group=None, target_transform=None), tmp_path / "model")
    np.testing.assert_array_equal(load_model(tmp_path / "model").predict(frame), expected)
    frame.assign(y=np.exp(frame["a"]), user=frame["user"] + 10).to_parquet(tmp_path / "new.parquet")
    data = il.TaskDataset(tmp_path / "new.parquet", group="user", target="y")
    updated = model.update_dataset(data, out=tmp_path / "updated")
    np.testing.assert_array_equal(load_model(tmp_path / "updated").predict(frame), updated.predict(frame))


# Interruptions


def fail_at(monkeypatch, function, call):
    plain, calls = getattr(os, function), []

    def fails(*args):
        calls.append(args)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(*args)

    monkeypatch.setattr(os, function, fails)


DISK_FULL = [(function, call) for function in ("fsync", "replace", "fdopen") for call in (1, 2, 3, 4)]


@pytest.mark.slow
@pytest.mark.parametrize(("function", "call"), DISK_FULL)
def test_a_full_disk_leaves_the_model_that_was_there(folder, monkeypatch, function, call):
    first, X, _, groups = fitted(**RATES)
    second = fitted(7, **RATES)[0]
    with monkeypatch.context() as patch:
        fail_at(patch, function, call)
        with pytest.raises(OSError, match="No space left"):
            save_model(second, folder)
    assert not list(folder.glob("*.tmp"))
    assert not list(folder.glob(".*"))
    assert_same_model(load_model(folder), first, X, groups)
    save_model(second, folder)
    assert_same_model(load_model(folder), second, X, groups)
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("call", [2, 3])
def test_a_first_save_that_failed_can_be_repeated(tmp_path, monkeypatch, call):
    model = fitted(**RATES)[0]
    with monkeypatch.context() as patch:
        fail_at(patch, "fsync", call)
        with pytest.raises(OSError, match="No space left"):
            save_model(model, tmp_path / "model")
    save_model(model, tmp_path / "model")
    load_model(tmp_path / "model")


KILLED_SAVES = """
import os, random, signal, sys, time
from innerloop.estimators.storage import load_model, save_model
target, *places = sys.argv[1:]
models = [load_model(place) for place in places]
expected = {model.coef_.tobytes() for model in models}
save_model(models[0], target)
random.seed(0)
loaded = []
for _ in range(25):
    child = os.fork()
    while not child:
        for model in models:
            save_model(model, target)
    time.sleep(random.uniform(0.0, 0.4))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    loaded.append(load_model(target).coef_.tobytes())
assert set(loaded) == expected, "each of the models should have been there after some kill, and no other"
print("survived", len(loaded))
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_a_model(tmp_path):
    places = [str(tmp_path / name) for name in ("one", "two")]
    for seed, place in enumerate(places):
        save_model(fitted(seed, **RATES)[0], place)
    target = tmp_path / "target"
    command = [sys.executable, "-c", KILLED_SAVES, str(target), *places]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=180, check=False)
    assert done.stdout == "survived 25\n", done.stderr
    save_model(load_model(places[1]), target)
    assert load_model(target).coef_.tobytes() == load_model(places[1]).coef_.tobytes()
    assert len([path for path in target.iterdir() if path.suffix != ".tmp"]) <= 6
