"""Datasets in files: the same bits as in memory however rows lie in files, refusals that name the file, resumption."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import innerloop as il
from innerloop.data import buckets, dataset, fragments, population, words
from innerloop.data.population import SampleSize
from innerloop.estimators import dataset_fit, stored_groups
from innerloop.tabular import totals

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def small(monkeypatch):
    """Choose on few tasks, and make leaves, buckets and chunks small."""
    monkeypatch.setattr(population, "_SAMPLE_SIZE", SampleSize(120, 2**20, 50))
    monkeypatch.setattr(population, "_NUMBERS_OF_LEAF", 2**9)
    monkeypatch.setattr(buckets, "_NUMBERS_OF_BUCKET", 2**8)
    monkeypatch.setattr(fragments, "_NUMBERS_OF_CHUNK", 2**9)


def frame(n_tasks=300, seed=0, names=lambda task: task):
    rng = np.random.default_rng(seed)
    task = rng.permutation(np.repeat(np.arange(n_tasks), rng.integers(1, 10, n_tasks)))
    X = np.round(rng.standard_normal((len(task), 2)), 1) * np.where(rng.random((len(task), 1)) < 0.5, 1, -1)
    y = X[:, 0] * (1 + rng.standard_normal(n_tasks)[task]) + rng.standard_normal(n_tasks)[task]
    y = np.round(y + rng.standard_normal(len(task)), 1)
    return pd.DataFrame({"user": names(task), "a": X[:, 0], "b": X[:, 1], "y": y})


def written(folder, table, n_files=3, order=None, kind="parquet", row_group_size=200):
    """Write the rows to files, the rows of every task in all of them, and return the folder."""
    folder.mkdir()
    table = table if order is None else table.iloc[np.random.default_rng(order).permutation(len(table))]
    for i in range(n_files):
        part = table.iloc[i::n_files]
        if kind == "parquet":
            pq.write_table(pa.Table.from_pandas(part, preserve_index=False), folder / f"{i}.parquet", row_group_size)
        else:
            part.to_csv(folder / f"{i}.csv", index=False)
    return folder


def fitted(path, out, parameters=None, **options):
    data = il.TaskDataset(path, group="user", target="y")
    return il.MetaRegressor(**{"basis": "linear", **(parameters or {})}).fit_dataset(data, out=out, **options)


def digests(model, table):
    """Return the bits of a model: of the population, and of its predictions of known and other groups."""
    X = table[["a", "b"]]
    return [
        np.asarray(values).tobytes()
        for values in (model.coef_, model.intercept_, model.predict(X), model.predict(X, groups=table["user"]))
    ]


def in_memory(table, **parameters):
    model = il.MetaRegressor(**{"basis": "linear", **parameters})
    return model.fit(table[["a", "b"]], table["y"], groups=table["user"])


@cache
def expected():
    """Return the bits of the fit in memory of the usual table, with the sizes of `small`."""
    return digests(in_memory(frame()), frame())


# --- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"order": 1, "n_files": 1},
        {"n_files": 7, "order": 2, "row_group_size": 31},
        {"kind": "csv", "order": 3},
    ],
    ids=["three files", "one file", "seven files", "csv"],
)
def test_a_fit_has_the_bits_of_the_fit_in_memory_however_rows_lie_in_files(tmp_path, layout):
    table = frame()
    model = fitted(written(tmp_path / "rows", table, **layout), tmp_path / "model")
    assert digests(model, table) == expected()
    assert digests(il.load_model(tmp_path / "model"), table) == digests(model, table)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("n_bits", [0, 2, 9])
def test_the_number_of_buckets_changes_no_bit(tmp_path, monkeypatch, n_bits):
    monkeypatch.setattr(dataset_fit, "bucket_bits", lambda *_: n_bits)
    table = frame()
    model = fitted(written(tmp_path / "rows", table), tmp_path / "model")
    assert digests(model, table) == expected()


@pytest.mark.usefixtures("small")
def test_text_ids_and_numbers_among_them_have_the_bits_of_the_fit_in_memory(tmp_path):
    table = frame(names=lambda task: np.where(task % 3 == 0, task.astype(str), np.char.add("é", task.astype(str))))
    model = fitted(written(tmp_path / "rows", table, kind="csv", n_files=40), tmp_path / "model")
    assert digests(model, table) == digests(in_memory(table), table)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("parameters", [{"adaptation": "gradient"}, {"basis": "spline"}], ids=["gradient", "spline"])
def test_gradient_steps_and_curves_have_the_bits_of_the_fit_in_memory(tmp_path, parameters):
    table = frame()
    model = fitted(written(tmp_path / "rows", table, order=1), tmp_path / "model", parameters)
    assert digests(model, table) == digests(in_memory(table, **parameters), table)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_words_that_collide_have_the_bits_of_the_fit_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(words, "mix", lambda w: (w * np.uint64(0x9E3779B97F4A7C15)) & np.uint64(0xFF00000000000000))
    table = frame()
    model = fitted(written(tmp_path / "rows", table, order=1), tmp_path / "model")
    assert digests(model, table) == digests(in_memory(table), table)


@pytest.mark.parametrize("layout", [{"order": 1}, {"n_files": 5, "kind": "csv"}], ids=["parquet", "csv"])
def test_a_dataset_of_few_tasks_has_the_bits_of_its_sample_in_memory(tmp_path, layout):
    table = frame(60)
    path = written(tmp_path / "rows", table, **layout)
    sample = il.TaskDataset(path, group="user", target="y").sample()
    rows = pd.DataFrame(sample.X, columns=["a", "b"]).assign(user=sample.ids[sample.task_of_row], y=sample.y)
    assert len(sample) == 60
    assert digests(fitted(path, tmp_path / "model"), table) == digests(in_memory(rows), table)


@pytest.mark.usefixtures("small")
def test_the_sample_does_not_depend_on_files(tmp_path):
    table = frame()
    samples = [
        il.TaskDataset(written(tmp_path / str(i), table, order=i, n_files=i + 1), "user", "y").sample(seed=5)
        for i in range(3)
    ]
    memory = population.TasksInMemory(il.TaskSet.from_table(table, "user", "y")).sample(5, population.sample_size())
    for sample in samples:
        assert (sample.ids.tolist(), sample.X.tobytes()) == (memory.ids.tolist(), memory.X.tobytes())


def test_a_sample_bounded_in_numbers_does_not_depend_on_files(tmp_path, monkeypatch):
    monkeypatch.setattr(population, "_SAMPLE_SIZE", SampleSize(120, 900, 50))
    monkeypatch.setattr(fragments, "_NUMBERS_OF_CHUNK", 2**8)
    table = frame()
    memory = population.TasksInMemory(il.TaskSet.from_table(table, "user", "y")).sample(0, population.sample_size())
    assert 50 <= len(memory) < 120
    for i in range(2):
        sample = il.TaskDataset(written(tmp_path / str(i), table, order=i), "user", "y").sample()
        assert (sample.ids.tolist(), sample.X.tobytes()) == (memory.ids.tolist(), memory.X.tobytes())


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_one_task_with_half_of_all_rows_and_tasks_of_one_row(tmp_path):
    table = frame()
    table.loc[: len(table) // 2, "user"] = 7
    table = pd.concat([table, table.iloc[:200].assign(user=np.arange(1000, 1200))])
    model = fitted(written(tmp_path / "rows", table, order=4), tmp_path / "model")
    assert digests(model, table) == digests(in_memory(table), table)


# --- predictions ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_predictions_of_files_are_those_of_frames_in_the_order_of_rows(tmp_path, kind):
    table = frame()
    path = written(tmp_path / "rows", table, kind=kind)
    fitted(path, tmp_path / "model")
    model = il.load_model(tmp_path / "model")
    files = model.predict_dataset(path, out=tmp_path / "predictions", group="user")
    assert [file.name for file in files] == [f"{i}.{kind}" for i in range(3)]
    for i, file in enumerate(files):
        part = table.iloc[i::3]
        found = pd.read_parquet(file) if kind == "parquet" else pd.read_csv(file)
        assert found["user"].tolist() == part["user"].tolist()
        expected = model.predict(part[["a", "b"]], groups=part["user"])
        np.testing.assert_allclose(found["prediction"], expected, rtol=1e-12)


@pytest.mark.usefixtures("small")
def test_groups_on_disk_adapt_anew_but_have_no_rows_of_their_own(tmp_path):
    table = frame()
    model = fitted(written(tmp_path / "rows", table), tmp_path / "model")
    rows = table[table["user"] == 3]
    X, memory = rows[["a", "b"]], in_memory(table)
    with pytest.raises(ValueError, match=r"keeps no rows of group 3, only its coefficients; call `adapt`"):
        model.predict_interval(X, groups=rows["user"])
    with pytest.raises(ValueError, match="keeps no rows of group 3"):
        model.update(X, rows["y"], groups=rows["user"])
    again, expected = (m.adapt(X, rows["y"], groups=rows["user"]) for m in (model, memory))
    np.testing.assert_allclose(again.predict(X, rows["user"]), expected.predict(X, rows["user"]), rtol=1e-9)
    np.testing.assert_allclose(
        again.predict_interval(X, rows["user"]), expected.predict_interval(X, rows["user"]), rtol=1e-9
    )
    others = table[table["user"] == 5]
    np.testing.assert_allclose(
        again.predict(others[["a", "b"]], others["user"]), memory.predict(others[["a", "b"]], others["user"])
    )


# --- resumption -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_a_second_fit_reads_no_file_again(tmp_path, monkeypatch):
    table = frame()
    path = written(tmp_path / "rows", table)
    first = fitted(path, tmp_path / "model", work=tmp_path / "work")
    monkeypatch.setattr(fragments, "batches", lambda *_: pytest.fail("a file is read again"))
    again = fitted(path, tmp_path / "again", {"l2": 0.1}, work=tmp_path / "work")
    assert again.predict(table[["a", "b"]]).shape == first.predict(table[["a", "b"]]).shape


@pytest.mark.usefixtures("small")
def test_a_fit_that_was_interrupted_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    table = frame()
    path = written(tmp_path / "rows", table, n_files=6)
    calls, plain = [], buckets.DivideFragment.__call__

    def fails(self, number):
        calls.append(number)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(buckets.DivideFragment, "__call__", fails)
        with pytest.raises(KeyboardInterrupt):
            fitted(path, tmp_path / "model", work=tmp_path / "work")
        assert not (tmp_path / "model").exists()
        model = fitted(path, tmp_path / "model", work=tmp_path / "work")
    assert len(calls) == 4 + 3  # the fragments that were not finished
    assert digests(model, table) == expected()


@pytest.mark.usefixtures("small")
def test_a_fragment_whose_buckets_are_not_whole_is_divided_anew(tmp_path):
    table = frame()
    path = written(tmp_path / "rows", table)
    fitted(path, tmp_path / "model", work=tmp_path / "work")
    file = next((tmp_path / "work").rglob("*.buckets"))
    file.write_bytes(file.read_bytes()[:-10])
    model = fitted(path, tmp_path / "model", work=tmp_path / "work")
    assert digests(model, table) == expected()


@pytest.mark.usefixtures("small")
def test_a_flipped_bit_is_noticed(tmp_path):
    table = frame()
    path = written(tmp_path / "rows", table)
    fitted(path, tmp_path / "model", work=tmp_path / "work")
    file = next((tmp_path / "work").rglob("*.buckets"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"fragment-\d+\.buckets is damaged at byte \d+; delete .* and run again"):
        fitted(path, tmp_path / "other", {"l2": 0.1}, work=tmp_path / "work")


@pytest.mark.usefixtures("small")
def test_nothing_is_left_beside_the_model(tmp_path):
    fitted(written(tmp_path / "rows", frame()), tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "rows"]
    for l2 in (0.1, 0.1):  # the same model twice, too
        fitted(tmp_path / "rows", tmp_path / "model", {"l2": l2})
    assert len(list((tmp_path / "model").glob("groups-*"))) == 2  # and those of the model before the last
    il.save_model(il.load_model(tmp_path / "model"), tmp_path / "model", forget_groups=True)
    assert not list((tmp_path / "model").glob("groups-*"))


@pytest.mark.usefixtures("small")
def test_a_model_whose_groups_are_not_whole_is_refused(tmp_path):
    fitted(written(tmp_path / "rows", frame()), tmp_path / "model")
    next((tmp_path / "model").glob("groups-*/coef.npy")).unlink()
    with pytest.raises(ValueError, match=r"coef\.npy is missing or not whole"):
        il.load_model(tmp_path / "model")


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_refusals_name_the_file(tmp_path):
    table = frame(20)
    path = written(tmp_path / "rows", table)

    def refused(match, error=ValueError, **options):
        with pytest.raises(error, match=match):
            sample(**options)

    def sample(**options):
        il.TaskDataset(options.pop("path", path), **{"group": "user", "target": "y", **options}).sample()

    (tmp_path / "empty").mkdir()
    refused(r"empty is a folder without Parquet or CSV files", path=tmp_path / "empty")
    refused(r"there is no file .*nowhere", FileNotFoundError, path=tmp_path / "nowhere")
    refused(r"0\.parquet has no column 'uzer'; did you mean 'user'\?", group="uzer")
    refused(r"must name different columns", features=["a", "y"])
    refused(r"names .*0\.parquet twice", path=[path / "0.parquet", path / "0.parquet"])

    changes = {
        r"1\.parquet and .*0\.parquet differ in column 'd'": lambda t: t.assign(d=1.0),
        r"1\.parquet has no column 'b'": lambda t: t.drop(columns="b"),
        r"1\.parquet has text in column 'a', where .*0\.parquet has numbers": lambda t: t.assign(a=t["a"].astype(str)),
        r"1\.parquet has text in column 'y', where numbers are needed": lambda t: t.assign(y=t["y"].astype(str)),
        r"the dataset has an infinite value \(inf\) in column 'a', row 2 .* of .*1\.parquet": lambda t: t.assign(
            a=t["a"].where(np.arange(len(t)) != 2, np.inf), b=t["b"].where(np.arange(len(t)) != 4)
        ),
        r"1\.parquet has text in column 'user', where .*0\.parquet has numbers": lambda t: t.assign(
            user=t["user"].astype(str)
        ),
        r"1\.parquet has no value in column 'y', row 4": lambda t: t.assign(y=t["y"].where(np.arange(len(t)) != 4)),
        r"1\.parquet has inf in column 'y', row 2": lambda t: t.assign(y=t["y"].where(np.arange(len(t)) != 2, np.inf)),
        r"1\.parquet has no task id in column 'user', row 3": lambda t: t.assign(
            user=t["user"].where(np.arange(len(t)) != 3).astype("Int64")
        ),
    }
    part = table.iloc[1::3].reset_index(drop=True)
    for match, change in changes.items():
        pq.write_table(pa.Table.from_pandas(change(part), preserve_index=False), path / "1.parquet")
        refused(match)
    part.to_parquet(path / "1.parquet")
    content = (path / "1.parquet").read_bytes()
    (path / "1.parquet").write_bytes(content[: len(content) // 2])
    refused(r"1\.parquet is not a whole Parquet file")


def test_a_flipped_bit_in_a_page_with_a_checksum_is_refused(tmp_path):
    table = pa.Table.from_pandas(frame(20), preserve_index=False)
    path = tmp_path / "rows.parquet"
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(table.column_names.index("y"))
    content[column.data_page_offset + column.total_compressed_size - 20] ^= 1  # within the numbers
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"rows\.parquet is not a whole Parquet file"):
        il.TaskDataset(path, group="user", target="y").sample()


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_model_before_the_last_keeps_its_groups(tmp_path):
    """It is what a damaged model is replaced by."""
    table, out = frame(), tmp_path / "model"
    first = fitted(written(tmp_path / "rows", table), out)
    predictions = first.predict(table[["a", "b"]], groups=table["user"])
    fitted(written(tmp_path / "others", frame(seed=1)), out)
    assert len(list(out.glob("groups-*"))) == 2
    last = json.loads((out / "manifest.json").read_text())["files"]["arrays"]["name"]
    (out / last).write_bytes(b"")
    with pytest.warns(UserWarning, match="the one before it is used"):
        loaded = il.load_model(out)
    np.testing.assert_array_equal(loaded.predict(table[["a", "b"]], groups=table["user"]), predictions)
    fitted(tmp_path / "rows", out, {"adaptation": "ridge"})
    fitted(tmp_path / "others", out, {"adaptation": "ridge"})
    assert len(list(out.glob("groups-*"))) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_rows_that_are_in_work_need_no_further_room(tmp_path, monkeypatch):
    path, work = written(tmp_path / "rows", frame()), tmp_path / "work"
    fitted(path, tmp_path / "model", work=work)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=30_000))
    fitted(path, tmp_path / "again", {"adaptation": "ridge"}, work=work)
    with pytest.raises(ValueError, match=r"`work` needs about .* are free"):
        fitted(path, tmp_path / "other", work=tmp_path / "new")


def test_files_of_two_formats_are_refused_by_name(tmp_path):
    path = written(tmp_path / "rows", frame(60))
    frame(60).to_csv(path / "9.csv", index=False)
    with pytest.raises(ValueError, match=r"\.parquet are of different formats|9\.csv and .* are of different formats"):
        fitted(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_csv_files_are_refused_by_name_too(tmp_path):
    path = written(tmp_path / "rows", frame(60), kind="csv")
    lines = (path / "1.csv").read_text().splitlines()
    for match, line in {
        r"1\.csv has no value in column 'y', row 1": "3,1.0,2.0,",
        r"column 'user' of .*1\.csv": ",1.0,2.0,2.0",
        r"the dataset has the text 'one' in column 'a', row 1 .* of .*1\.csv": "3,one,1.0,2.0",
        r"1\.csv cannot be read as CSV: .*invalid value 'one'": "3,1.0,2.0,one",
        r"1\.csv cannot be read as CSV: .*Expected 4 columns": "3,1.0,2.0",
    }.items():
        (path / "1.csv").write_text("\n".join([lines[0], lines[1], line, *lines[2:]]) + "\n")
        with pytest.raises(ValueError, match=match):
            il.TaskDataset(path, group="user", target="y").sample()


def test_files_without_rows_count_for_nothing_and_alone_are_refused(tmp_path):
    table = frame(20)
    path = written(tmp_path / "rows", table, n_files=1)
    data = il.TaskDataset(path, group="user", target="y")
    table[:0].to_parquet(path / "empty.parquet")
    with_empty = il.TaskDataset(path, group="user", target="y").sample()
    assert with_empty.X.tobytes() == data.sample().X.tobytes()
    (path / "0.parquet").unlink()
    nothing = il.TaskDataset(path, group="user", target="y")
    with pytest.raises(ValueError, match=r"empty\.parquet holds no rows"):
        nothing.sample()
    with pytest.raises(ValueError, match=r"empty\.parquet holds no rows"):
        fitted(path, tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows"]


def test_a_folder_cannot_be_both_work_and_model(tmp_path):
    path = written(tmp_path / "rows", frame(20))
    with pytest.raises(ValueError, match="`work` and `out` must be different folders"):
        fitted(path, tmp_path / "model", work=tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    with pytest.raises(ValueError, match="`work` and `out` must be different folders"):
        fitted(path, tmp_path / "model", work=tmp_path / "link")
    with pytest.raises(ValueError, match="`work` must not lie in `out`"):
        fitted(path, tmp_path / "model", work=tmp_path / "link" / "work")
    assert not (tmp_path / "model").exists()


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    path = written(tmp_path / "rows", frame(20))
    full = lambda _: type("", (), {"free": 1000})()  # noqa: E731
    monkeypatch.setattr(dataset_fit.shutil, "disk_usage", full)
    with pytest.raises(ValueError, match=r"`work` needs about .* KiB in .*, where 1000 bytes are free"):
        fitted(path, tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows"]


def test_a_disk_that_fills_is_named(tmp_path, monkeypatch):
    path = written(tmp_path / "rows", frame(20))

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(buckets.DivideFragment, "_batches", fails)
    with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\); make room"):
        fitted(path, tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("n_groups", [2, 20_000], ids="{} groups".format)
def test_a_disk_that_fills_as_groups_are_written_is_named(tmp_path, n_groups):
    (tmp_path / "coef.npy").symlink_to("/dev/full")
    ids = np.arange(n_groups)
    found = {"ids": ids, "n_rows": np.ones_like(ids), "coef": np.ones((n_groups, 3, 1))}
    with (
        pytest.raises(ValueError, match=rf"to {tmp_path} \(No space left on device\); make room"),
        stored_groups.writing(tmp_path, np.int64, (3, 1), keeps_rows=False) as groups,
    ):
        groups.add(found)


def test_predictions_do_not_replace_their_rows(tmp_path):
    path = written(tmp_path / "rows", frame(20))
    model = fitted(path, tmp_path / "model")
    with pytest.raises(ValueError, match=r"`out` would replace .*0\.parquet"):
        model.predict_dataset(path, out=path, group="user")
    pd.read_parquet(path / "0.parquet").drop(columns="b").to_parquet(tmp_path / "0.parquet")
    with pytest.raises(ValueError, match=r"has no column 'b'"):
        model.predict_dataset(tmp_path / "0.parquet", out=tmp_path / "out", group="user")
    assert not (tmp_path / "out").exists()


# --- workers ----------------------------------------------------------------------------------------------------------


SMALL = """
import numpy as np, innerloop as il
from innerloop.data import buckets, population
population._SAMPLE_SIZE = population.SampleSize(120, 2**20, 50)
population._NUMBERS_OF_LEAF = 2**9
buckets._NUMBERS_OF_BUCKET = 2**8
"""


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_processes_of_joblib_give_the_same_bits(tmp_path):
    table = frame()
    path = written(tmp_path / "rows", table, n_files=6)
    model = fitted(path, tmp_path / "model", n_jobs=2)
    assert digests(model, table) == expected()


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_dask_cluster_of_two_processes_gives_the_same_bits(tmp_path):
    distributed = pytest.importorskip("distributed")
    table = frame()
    path = written(tmp_path / "rows", table, n_files=6)
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with (
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor() as executor,
    ):
        model = fitted(path, tmp_path / "model", executor=executor)
    assert digests(model, table) == expected()


@pytest.mark.usefixtures("small")
def test_workers_that_compute_in_different_ways_are_named(tmp_path, monkeypatch):
    kinds = cycle(["openblas Haswell", "openblas SkylakeX"])
    monkeypatch.setattr(totals, "arithmetic", lambda: next(kinds))
    with pytest.warns(UserWarning, match=r"workers compute in 2 ways \(openblas Haswell; openblas SkylakeX\)"):
        fitted(written(tmp_path / "rows", frame()), tmp_path / "model")


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_fit_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    table = frame(600)
    path = written(tmp_path / "rows", table, n_files=20)
    script = (
        SMALL
        + f"""
data = il.TaskDataset({str(path)!r}, group="user", target="y")
print("begins", flush=True)
il.MetaRegressor(basis="linear").fit_dataset(data, out={str(tmp_path / "model")!r}, work={str(tmp_path / "work")!r})
"""
    )
    for seconds in (0.05, 0.3, 0.8, 1.5, 2.5):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ)
        process.stdout.readline()
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
    assert digests(il.load_model(tmp_path / "model"), table) == digests(in_memory(table), table)


# --- columns of any kind and weights ----------------------------------------------------------------------------------


def mixed(n_tasks=300, seed=0):
    """Return a table with a category, a date, missing cells and weights."""
    table = frame(n_tasks, seed)
    rng = np.random.default_rng(seed + 1)
    region = np.array(["north", "south", "NA", "west"])[table["user"] % 4]
    table["region"] = np.where(region == "NA", None, region)
    table["day"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, len(table)), unit="D")
    table["a"] = table["a"].where(rng.random(len(table)) > 0.1)
    table["w"] = rng.integers(0, 4, len(table)) / 2
    table["y"] += 2.0 * (region == "south") + 0.01 * (table["day"] - table["day"].min()).dt.days
    return table.astype({"day": "datetime64[us]"})


FEATURES = ["a", "b", "region", "day"]


def fit_mixed(path, out, **options):
    data = il.TaskDataset(path, group="user", target="y", features=FEATURES, weights="w")
    return il.MetaRegressor(basis="linear").fit_dataset(data, out=out, **options)


def bits(model, table):
    return [
        np.asarray(values).tobytes()
        for values in (model.coef_, model.intercept_, model.predict(table[FEATURES], groups=table["user"]))
    ]


@pytest.mark.usefixtures("small")
def test_columns_of_any_kind_have_the_same_bits_however_rows_lie_in_files(tmp_path):
    table = mixed()
    models = [
        fit_mixed(written(tmp_path / f"rows{i}", table, **layout), tmp_path / f"model{i}")
        for i, layout in enumerate(
            [{}, {"order": 1, "n_files": 1}, {"n_files": 7, "order": 2, "row_group_size": 31}, {"kind": "csv"}]
        )
    ]
    for model in models[1:]:
        assert bits(model, table) == bits(models[0], table)
        assert model.columns_.to_state() == models[0].columns_.to_state()
    names = models[0].feature_labels()
    assert names == ["a", "a is missing", "b", "region=north", "region=south", "region=(missing)", "day (days)"]
    assert bits(il.load_model(tmp_path / "model0"), table) == bits(models[0], table)


@pytest.mark.usefixtures("small")
def test_weights_have_the_bits_of_the_fit_in_memory(tmp_path):
    table = mixed()[["user", "b", "y", "w"]]
    data = il.TaskDataset(written(tmp_path / "rows", table), group="user", target="y", weights="w")
    model = il.MetaRegressor(basis="linear").fit_dataset(data, out=tmp_path / "model")
    memory = il.MetaRegressor(basis="linear").fit(
        table[["b"]], table["y"], groups=table["user"], sample_weight=table["w"]
    )
    X, user = table[["b"]], table["user"]
    assert model.coef_.tobytes() == memory.coef_.tobytes()
    assert model.predict(X, groups=user).tobytes() == memory.predict(X, groups=user).tobytes()
    unweighted = il.MetaRegressor(basis="linear").fit(table[["b"]], table["y"], groups=table["user"])
    assert model.coef_ != unweighted.coef_
    table["w"] -= 1
    with pytest.raises(ValueError, match=r"0\.parquet has the weight -.* in column 'w', row .* weights are at least 0"):
        il.TaskDataset(written(tmp_path / "bad", table), group="user", target="y", weights="w").sample()


def test_a_small_dataset_of_any_columns_is_fitted_as_its_frame(tmp_path):
    table = mixed(80)
    model = fit_mixed(written(tmp_path / "rows", table), tmp_path / "model")
    memory = il.MetaRegressor(basis="linear").fit(
        table[FEATURES], table["y"], groups=table["user"], sample_weight=table["w"]
    )
    assert model.feature_labels() == memory.feature_labels()
    np.testing.assert_allclose(model.coef_, memory.coef_, rtol=0.2, atol=0.05)
    X, user = table[FEATURES], table["user"]
    np.testing.assert_allclose(model.predict(X, groups=user), memory.predict(X, groups=user), atol=0.3)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_files_are_predicted_as_their_frame_unseen_levels_and_gaps_too(tmp_path, kind):
    table = mixed(80)
    model = fit_mixed(written(tmp_path / "rows", table), tmp_path / "model")
    new = mixed(120, seed=5)
    new.loc[3, "region"] = "elsewhere"
    new.loc[5, "b"] = np.nan  # no cell of b was missing in training
    path = written(tmp_path / "new", new, kind=kind)
    for i, file in enumerate(model.predict_dataset(path, out=tmp_path / "out", group="user")):
        found = pd.read_parquet(file) if kind == "parquet" else pd.read_csv(file)
        part = new.iloc[i::3]
        expected = model.predict(part[FEATURES], groups=part["user"])
        np.testing.assert_allclose(found["prediction"], expected, rtol=1e-12)


def test_a_model_of_a_frame_predicts_files(tmp_path):
    table = mixed(60)
    model = il.MetaRegressor(basis="linear", group="user").fit(table[["user", *FEATURES]], table["y"])
    (file,) = model.predict_dataset(written(tmp_path / "rows", table, n_files=1), out=tmp_path / "out")
    expected = model.predict(table[["user", *FEATURES]])
    np.testing.assert_allclose(pd.read_parquet(file)["prediction"], expected, rtol=1e-12)
    of_array = il.MetaRegressor(adaptation="none").fit(table[["b"]].to_numpy(), table["y"], groups=table["user"])
    with pytest.raises(ValueError, match="needs the names of the features"):
        of_array.predict_dataset(tmp_path / "rows", out=tmp_path / "out", group="user")


@pytest.mark.usefixtures("small")
def test_a_number_that_varies_outside_the_sample_only_is_used_and_not_said_to_be_left_out(tmp_path):
    table = mixed().assign(c=1.0, day=pd.Timestamp("2024-01-01")).astype({"day": "datetime64[us]"})
    sampled = il.TaskDataset(written(tmp_path / "first", table), group="user", target="y").sample().ids
    others = ~table["user"].isin(sampled)
    table["d"] = table["c"]
    table.loc[others, "c"] = np.arange(others.sum()) % 3
    table.loc[others, "d"] = np.arange(others.sum()) % 4
    path = written(tmp_path / "rows", table)
    model = il.MetaRegressor(basis="linear").fit_dataset(
        il.TaskDataset(path, group="user", target="y", features=["a", "c", "d", "day"]), out=tmp_path / "model"
    )
    assert model.feature_labels() == ["a", "a is missing", "c", "d", "day (days)"]
    assert (model.coef_[2:4] != 0).all()
    assert not any("left out" in note for note in model.notes_)


def test_columns_are_left_out_by_name(tmp_path):
    path = written(tmp_path / "rows", mixed(20))
    data = il.TaskDataset(path, group="user", target="y", weights="w", drop=["day", "region"])
    assert data.features == ("a", "b")
    with pytest.raises(ValueError, match=r"no column 'dy'; did you mean"):
        il.TaskDataset(path, group="user", target="y", drop=["dy"])
    with pytest.raises(ValueError, match=r"must name different columns.*'w'"):
        il.TaskDataset(path, group="user", target="y", features=["a", "w"], weights="w")


def test_columns_that_cannot_be_numbers_are_refused_by_name(tmp_path):
    table = mixed(20)
    table["list"] = [[1.0]] * len(table)
    data = il.TaskDataset(written(tmp_path / "rows", table), group="user", target="y", features=["a", "list"])
    with pytest.raises(ValueError, match=r"the dataset has 'list', which holds"):
        data.sample()


def test_a_dataset_says_what_it_is(tmp_path):
    data = il.TaskDataset(written(tmp_path / "rows", frame(20)), group="user", target="y", features=["a"])
    assert repr(data) == f"TaskDataset(3 files, about {data.n_rows:,} rows, group='user', target='y', 1 features)"
    assert data.features == ("a",)
    assert dataset.is_parquet(data.files[0])
    with pytest.raises(TypeError, match="`data` must be a TaskDataset, got str; make one with"):
        il.MetaRegressor().fit_dataset("rows", out=tmp_path / "model")
