"""Options of `innerloop fit` on the use of columns and rows: they reach the model, and do what they say."""

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from command_line import COLUMNS, QUICK, innerloop, save, small_table
from innerloop.estimators.storage import load_model


class Asked(ValueError):
    """Raised in place of a study, which takes long."""


@pytest.fixture
def asked(monkeypatch):
    """Return the tasks and the model that `fit` would study."""
    seen = {}

    def study(tasks, model, **names):
        seen.update(tasks=tasks, model=model, **names)
        raise Asked("seen")

    monkeypatch.setattr("innerloop.cli.fit.study", study)
    return seen


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    weights = np.tile([0.0, 1.0, 2.0, 4.0], 36)
    return save(small_table().assign(w=weights), tmp_path_factory.mktemp("options") / "table.csv")


@pytest.mark.parametrize(
    ("options", "params"),
    [
        ([], {"basis": "auto", "varying": None, "order": None, "target_transform": None}),
        (["--curve", "a"], {"basis": ["a"]}),
        (["--curve", "a", "b"], {"basis": ["a", "b"]}),
        (["--curve", "a", "--curve", "b"], {"basis": ["a", "b"]}),
        (["--basis", "linear"], {"basis": "linear"}),
        (["--basis", "spline"], {"basis": "spline"}),
        (["--varying", "b", "c"], {"varying": ["b", "c"]}),
        (["--order", "c"], {"order": "c"}),
        (["--cv", "3"], {"cv": 3}),
        (["--adapt-lr", "per-feature"], {"adapt_lr": "per-feature"}),
        (["--adaptation", "gradient"], {"adaptation": "gradient"}),
        (["--inner-lr", "-0.5"], {"inner_lr": -0.5}),
        (["--n-support", "3", "--n-query", "2", "--n-steps", "4"], {"n_support": 3, "n_query": 2, "n_steps": 4}),
        (["--no-standardize", "--no-intercept"], {"standardize": False, "fit_intercept": False}),
        (["--seed", "7"], {"random_state": 7}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_reach_the_model(asked, table, options, params):
    ran = innerloop("fit", table, *COLUMNS, *options)
    assert (ran.code, ran.err.strip()[-4:]) == (2, "seen")
    given = asked["model"].get_params()
    assert {name: given[name] for name in params} == params


def test_weights_and_positive_targets_reach_the_tasks(asked, table, tmp_path):
    innerloop("fit", table, *COLUMNS, "--weights", "w")
    tasks = asked["tasks"]
    assert tasks.n_rows == 108
    assert set(tasks.weights) == {1.0, 2.0, 4.0}
    assert "w" not in tasks.feature_names
    positive = save(small_table().assign(y=lambda frame: np.exp(frame["y"])), tmp_path / "t.csv")
    innerloop("fit", positive, *COLUMNS, "--log-target")
    assert asked["model"].target_transform == "log"
    assert (asked["tasks"].y > 0).all()


def test_a_delimiter_and_the_least_number_of_rows_reach_the_tasks(asked, tmp_path):
    frame = small_table().drop(index=range(9))
    frame.to_csv(tmp_path / "t.txt", sep="|", index=False)
    innerloop("fit", tmp_path / "t.txt", *COLUMNS, "--delimiter", "|", "--min-rows", "4")
    assert len(asked["tasks"]) == 11


REFUSED = [
    (["--weights", "ww"], "no column 'ww'; did you mean 'w'?"),
    (["--weights", "y"], "must name different columns"),
    (["--weights", "a"], "the negative weight"),
    (["--weights", "w", "--features", "a", "w"], "`features` names 'w', which is the group, a target, the weights"),
    (["--log-target"], "must be positive for logarithms, got"),
    (["--varying", "zz"], "`varying` must name feature columns"),
    (["--order", "zz"], "`order` must name feature columns"),
    (["--curve", "zz"], "`basis` must name feature columns"),
    (["--basis", "bent"], "bent"),
    (["--cv", "1"], "`cv` must be at least 2"),
]


@pytest.mark.parametrize(
    ("options", "words"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_options_that_do_not_fit_the_table_are_refused_in_one_sentence(table, options, words):
    ran = innerloop("fit", table, *COLUMNS, *options)
    assert ran.code == 2
    assert words in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "params", "weighted"),
    [
        (["--curve", "a"], {"basis": ["a"]}, False),
        (["--varying", "b"], {"varying": ["b"]}, False),
        (["--order", "c"], {"order": "c"}, False),
        (["--weights", "w", "--basis", "linear"], {"basis": "linear"}, True),
    ],
    ids=["curve", "varying", "order", "weights"],
)
def test_the_command_fits_what_the_library_fits(table, tmp_path, options, params, weighted):
    columns = ["--features", "a", "b", "c"]
    ran = innerloop("fit", table, *QUICK, "--adaptation", "ridge", *columns, *options, "--out", tmp_path / "m")
    assert ran.code == 0, ran.err
    frame = pd.read_csv(table, dtype={"task": str}, keep_default_na=False)
    weights = frame["w"].to_numpy() if weighted else None
    model = il.MetaRegressor(group="task", adaptation="ridge", cv=2, **params)
    X = frame[["task", "a", "b", "c"]]
    model.fit(X, frame["y"], sample_weight=weights)
    np.testing.assert_allclose(load_model(tmp_path / "m").predict(X), model.predict(X), rtol=1e-7, atol=1e-9)
