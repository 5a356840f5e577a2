"""`innerloop fit` and `innerloop predict` on folders of files that are not read into memory."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from command_line import innerloop
from innerloop.cli import _datasets
from innerloop.estimators.storage import load_model

OPTIONS = ["--group", "user", "--target", "y", "--basis", "linear"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A folder of two files with 40 tasks."""
    folder = tmp_path_factory.mktemp("files") / "rows"
    folder.mkdir()
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.standard_normal((240, 2)), columns=["a", "b"]).assign(user=np.arange(240) % 40)
    frame["y"] = frame["a"] + 0.5 * rng.standard_normal(40)[frame["user"]] + 0.1 * rng.standard_normal(240)
    frame[:100].to_parquet(folder / "0.parquet")
    frame[100:].to_parquet(folder / "1.parquet")
    return folder


@pytest.fixture(scope="module")
def model(rows):
    ran = innerloop("fit", rows, *OPTIONS, "--out", rows.parent / "model", "--work", rows.parent / "work")
    assert (ran.code, ran.err) == (0, "")
    assert "40 tasks in 2 files, 2 features" in ran.out
    assert "adaptation ridge" in ran.out
    return rows.parent / "model"


def test_every_file_of_a_folder_is_predicted_in_the_order_of_its_rows(rows, model, tmp_path):
    ran = innerloop("predict", model, rows, "--out", tmp_path / "predictions")
    assert (ran.code, ran.out.strip()) == (0, f"Wrote 2 files to {tmp_path / 'predictions'}")
    regressor = load_model(model)
    for name in ("0.parquet", "1.parquet"):
        given, found = pd.read_parquet(rows / name), pd.read_parquet(tmp_path / "predictions" / name)
        expected = regressor.predict(given[["a", "b"]], groups=given["user"])
        np.testing.assert_allclose(found["prediction"], expected, rtol=1e-12)


def test_one_file_is_predicted_as_by_any_model(rows, model, tmp_path):
    new = pd.read_parquet(rows / "0.parquet").assign(user=lambda t: t["user"] + 100)
    new.loc[new.index % 2 == 0, "y"] = np.nan
    new.to_csv(tmp_path / "new.csv", index=False)
    ran = innerloop("predict", model, tmp_path / "new.csv", "--out", tmp_path / "p.csv", "--level", "0.9")
    assert (ran.code, ran.err) == (0, "")
    assert {"lower", "upper"} <= set(pd.read_csv(tmp_path / "p.csv").columns)


def test_a_large_folder_is_not_read_into_memory(rows, monkeypatch, tmp_path):
    monkeypatch.setattr(_datasets, "available_memory", lambda: 10_000)
    ran = innerloop("fit", rows, *OPTIONS, "--out", tmp_path / "m")
    assert ran.code == 0
    assert "in 2 files" in ran.out


def test_options_that_need_memory_are_refused(rows, model, tmp_path):
    work = ["--work", tmp_path / "w"]
    for given, message in [
        ([*work, "--out", tmp_path / "m", "--min-rows", "2"], "`--min-rows` needs a table that is read into memory"),
        (work, "saves its model; give --out"),
    ]:
        ran = innerloop("fit", rows, *OPTIONS, *given)
        assert ran.code == 2
        assert message in ran.err
    for given, message in [
        (["--out", tmp_path / "p", "--level", "0.9"], "`--level` needs a table"),
        ([], "give a folder by --out"),
    ]:
        ran = innerloop("predict", model, rows, *given)
        assert ran.code == 2
        assert message in ran.err
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
def test_the_workers_of_a_dask_scheduler_fit(rows, model, tmp_path):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        ran = innerloop("fit", rows, *OPTIONS, "--out", tmp_path / "m", "--scheduler", cluster.scheduler_address)
    assert ran.code == 0, ran.err
    assert load_model(tmp_path / "m").coef_.tobytes() == load_model(model).coef_.tobytes()
