"""`innerloop update`: new rows and new groups join a saved model, of a table in memory or of a folder of files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from command_line import innerloop

OPTIONS = ["--group", "user", "--target", "y", "--basis", "linear"]


def frame(first, end):
    rng = np.random.default_rng(first)
    user = np.repeat(np.arange(first, end), 6)
    table = pd.DataFrame(rng.standard_normal((len(user), 2)), columns=["a", "b"]).assign(user=user)
    return table.assign(y=table["a"] + rng.standard_normal(end)[user] + 0.1 * rng.standard_normal(len(user)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    frame(0, 30).to_csv(folder / "rows.csv", index=False)
    ran = innerloop("fit", folder / "rows.csv", *OPTIONS, "--out", folder / "model")
    assert ran.code == 0
    return folder / "model"


def test_a_table_joins_the_model_of_a_table(model, tmp_path):
    new = frame(25, 40).assign(w=lambda t: 1.0 + t["user"] % 2)
    new.loc[3, "y"] = np.nan
    new.to_csv(tmp_path / "new.csv", index=False)
    for options, weights in (([], None), (["--weights", "w"], new["w"])):
        ran = innerloop("update", model, tmp_path / "new.csv", "--out", tmp_path / "updated", *options)
        assert (ran.code, ran.err) == (0, "")
        assert "10 new groups; in all 40 groups, 269 rows" in ran.out
        rows = new["y"].notna()
        expected = il.load_model(model).update(
            new.loc[rows, ["a", "b"]],
            new.loc[rows, "y"],
            new.loc[rows, "user"],
            None if weights is None else weights[rows],
            population=True,
        )
        updated = il.load_model(tmp_path / "updated")
        np.testing.assert_allclose(updated.coef_, expected.coef_, rtol=1e-10)
        np.testing.assert_allclose(updated.group_coef_, expected.group_coef_, rtol=1e-10)
        assert f"a {il.load_model(model).coef_[0]:.4g} -> {updated.coef_[0]:.4g}" in ran.out
    ran = innerloop("predict", tmp_path / "updated", tmp_path / "new.csv", "--level", "0.9")
    assert ran.code == 0


def test_files_join_the_model_of_files(tmp_path):
    for name, part in (("old", frame(0, 30)), ("new", frame(25, 40))):
        (tmp_path / name).mkdir()
        part[:50].to_parquet(tmp_path / name / "0.parquet")
        part[50:].to_parquet(tmp_path / name / "1.parquet", index=False)
    ran = innerloop("fit", tmp_path / "old", *OPTIONS, "--groups", "rows", "--out", tmp_path / "model")
    assert (ran.code, ran.err) == (0, "")
    ran = innerloop("update", tmp_path / "model", tmp_path / "new", "--out", tmp_path / "updated")
    assert (ran.code, ran.err) == (0, "")
    assert "10 new groups; in all 40 groups, 270 rows" in ran.out
    X, y, user = (frame(25, 40)[name] for name in (["a", "b"], "y", "user"))
    expected = il.load_model(tmp_path / "model").update(X, y, user, population=True)
    updated = il.load_model(tmp_path / "updated")
    np.testing.assert_allclose(updated.coef_, expected.coef_, rtol=1e-10)
    np.testing.assert_allclose(updated.predict(X, user), expected.predict(X, user), rtol=1e-9)
    again = innerloop("update", tmp_path / "updated", tmp_path / "new" / "1.parquet", "--out", tmp_path / "updated")
    assert (again.code, again.err) == (0, "")
    assert again.out.startswith("0 new groups")


def test_what_cannot_be_added_is_refused_in_a_sentence_and_nothing_is_written(model, tmp_path):
    new = frame(30, 32)
    files = {
        "empty.csv": (new.assign(y=np.nan), "has no row with a value of 'y', so there is nothing to add"),
        "other.csv": (new.drop(columns="a"), "no column 'a'"),
        "text.csv": (new.assign(b="x"), "'b'"),
        "weights.csv": (new, "has no column 'w'"),
    }
    for name, (table, message) in files.items():
        table.to_csv(tmp_path / name, index=False)
        options = ["--weights", "w"] if name == "weights.csv" else []
        ran = innerloop("update", model, tmp_path / name, "--out", tmp_path / "updated", *options)
        assert ran.code == 2
        assert message in ran.err
    assert not (tmp_path / "updated").exists()


def test_weights_and_logarithms_are_those_of_the_fit(tmp_path):
    old, new = (
        frame(*of).assign(w=lambda t: 1.0 + t["a"] ** 2, y=lambda t: np.exp(t["y"])) for of in ((0, 30), (25, 40))
    )
    old.to_csv(tmp_path / "old.csv", index=False)
    new.to_csv(tmp_path / "new.csv", index=False)
    new.drop(columns="w").to_csv(tmp_path / "without.csv", index=False)
    new.assign(y=-new["y"]).to_csv(tmp_path / "negative.csv", index=False)
    options = ["--weights", "w", "--log-target", "--out", tmp_path / "model"]
    assert innerloop("fit", tmp_path / "old.csv", *OPTIONS, *options).code == 0
    model = il.load_model(tmp_path / "model")
    rows = new[["a", "b"]], new["y"], new["user"], new["w"]
    for _ in range(2):  # the updated model is one of weights, too
        model = model.update(*rows, population=True)
        ran = innerloop("update", tmp_path / "model", tmp_path / "new.csv", "--out", tmp_path / "model")
        assert (ran.code, ran.err) == (0, "")
        np.testing.assert_allclose(il.load_model(tmp_path / "model").coef_, model.coef_, rtol=1e-9)
    for name, message in (("without", "has no column 'w'"), ("negative", "column 'y' of")):
        ran = innerloop("update", tmp_path / "model", tmp_path / f"{name}.csv", "--out", tmp_path / "other")
        assert ran.code == 2
        assert message in ran.err
    assert "line 2 and 89 more rows" in ran.err
