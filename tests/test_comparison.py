"""The same table through mixed-model packages."""

import importlib.util
import json
import re

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from command_line import COLUMNS, innerloop, save, small_table
from innerloop.estimators.meta_regressor import predict_episodes
from innerloop.evaluation import other_packages as comparison
from innerloop.evaluation.other_packages import Components, Contender, best_of, compare

pytest.importorskip("statsmodels")

DIST = il.MixedLinearRegression(2, 1.0, 1.4, mean=[1.0, -1.0])


@pytest.fixture(scope="module")
def found():
    return compare(DIST.sample_tasks(60, 12, seed=1), n_adapt=5, time_limit=240)


@pytest.mark.slow
def test_innerloop_is_no_worse_than_mixed_lm(found):
    assert found[0].name == "innerloop"
    for other in found[1:]:
        assert other.excess > -2 * other.excess_se or np.isnan(other.excess)
    slopes = next(c for c in found if c.name == "statsmodels MixedLM, random slopes: adapted by hand")
    assert abs(slopes.mse / found[0].mse - 1) < 0.1


def test_errors_of_percentages_are_those_of_ratios():
    rng = np.random.default_rng(0)
    ours = rng.gamma(2, 1, 60)
    other = comparison._contender("other", 3 * ours, 1.0, "", first=ours)
    assert (other.gain_se, other.loss_se) == pytest.approx((0, 0), abs=1e-12)  # a ratio of means that never varies


def test_errors_of_differences_are_paired():
    rng = np.random.default_rng(0)
    ours, extra = rng.gamma(2, 1, 60), rng.normal(0.1, 0.01, 60)
    other = comparison._contender("other", ours + extra, 1.0, "", first=ours)
    assert (other.excess, other.excess_se) == pytest.approx((extra.mean(), extra.std(ddof=1) / np.sqrt(60)))


@pytest.mark.slow
def test_fixed_effects_alone_are_worse_where_tasks_differ(found):
    fixed = next(c for c in found if c.name.endswith("slopes: fixed effects"))
    assert fixed.excess > 2 * fixed.excess_se


@pytest.mark.slow
def test_packages_that_fit_the_same_model_agree(found):
    """REML by three implementations; ours is close to them (see above)."""
    slopes = [c for c in found if "random slopes: adapted" in c.name and "GPBoost" not in c.name and not c.note]
    assert slopes
    for contender in slopes:
        assert contender.mse == pytest.approx(slopes[0].mse, rel=0.02)
    for contender in found:
        assert contender.note == "" or contender.note.startswith(("not installed", "did not converge"))


def test_unseen_groups_know_no_rows_of_training_whatever_they_are_called():
    tasks = DIST.sample_tasks(12, 8, seed=2)
    train, unseen = comparison._split(tasks, 3, seed=0)
    params = {"adaptation": "ridge", "basis": "linear", "cv": 2}
    numbers, names = (
        il.MetaRegressor(**params).fit(train.X, train.y, groups=ids[train.task_of_row])
        for ids in (np.arange(len(train)), np.array([f"g{i}" for i in range(len(train))]))
    )
    np.testing.assert_array_equal(predict_episodes(numbers, unseen), predict_episodes(names, unseen))


@pytest.mark.slow
def test_a_table_without_features_is_compared():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 4)
    y = 3 * rng.standard_normal(20)[groups] + rng.standard_normal(80)
    tasks = il.TaskSet.from_table(pd.DataFrame({"g": groups, "y": y, "c": 1.0}), "g", "y")
    assert tasks.n_features == 0
    found = compare(tasks, n_adapt=2)
    assert not any("slopes" in c.name for c in found)
    fitted = [c for c in found if c.name.endswith("intercept: adapted by hand") and "trees" not in c.name]
    for contender in fitted:
        assert contender.mse == pytest.approx(found[0].mse, rel=0.3)


@pytest.mark.slow
def test_trees_follow_a_curve_that_lines_do_not():
    pytest.importorskip("gpboost")
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(80), 10)
    x = rng.uniform(-3, 3, 800)
    y = 3 * np.sin(2 * x) + rng.standard_normal(80)[groups] + 0.3 * rng.standard_normal(800)
    train, unseen = np.arange(800) < 600, np.arange(800) >= 600
    E = np.column_stack((np.ones(800), x))
    given = comparison._Rows(E[train], y[train], groups[train], E[unseen], np.array([0]))
    errors = [np.mean((y[unseen] - fit(given).fixed) ** 2) for fit in (comparison._gpboost_trees, comparison._gpboost)]
    assert errors[0] < 0.5 * errors[1]


def test_slopes_are_those_of_features_that_vary_within_groups_or_those_named():
    X, groups = np.zeros((12, 3)), np.repeat(np.arange(4), 3)
    X[:, 0], X[:, 1], X[:, 2] = np.arange(12), groups, np.arange(12) % 3
    tasks = il.TaskSet.from_arrays(X, np.arange(12.0), groups, ["time", "size", "place"])
    assert comparison._slopes(tasks, None).tolist() == [0, 2]
    assert comparison._slopes(tasks, ["place"]).tolist() == [2]
    assert comparison._slopes(tasks, [0]).tolist() == [0]
    for wrong in ("palce", 3, -1):
        with pytest.raises(ValueError, match="`slopes` must name features"):
            comparison._slopes(tasks, [wrong])


@pytest.mark.slow
def test_a_package_that_is_missing_is_listed(monkeypatch):
    find_spec = importlib.util.find_spec
    missing = ("statsmodels", "gpboost", "mixedlm", "mixedlm_rs")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find_spec(name))
    listed = compare(DIST.sample_tasks(20, 8), n_adapt=3)[1:]
    packages = ("statsmodels", "statsmodels", "mixedlm", "mixedlm-rs", "gpboost", "gpboost", "gpboost")
    notes = [f"not installed: pip install {name}" for name in packages]
    assert [contender.note for contender in listed] == notes
    assert all(np.isnan(contender.mse) for contender in listed)


@pytest.mark.slow
def test_a_package_that_takes_too_long_is_stopped():
    contenders = compare(DIST.sample_tasks(20, 8), n_adapt=3, time_limit=0.01)
    assert all(c.note.startswith(("stopped after 0.01 s", "not installed")) for c in contenders[1:])
    assert best_of(contenders) == "No other package fitted the table."


def test_the_prediction_by_hand_is_the_best_linear_one():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((4, 1)), rng.standard_normal(4)
    beta, spread, noise = np.array([0.3, -0.2]), np.array([[0.5, 0.1], [0.1, 0.4]]), 0.7
    episodes = il.Episodes([(X[2:], y[2:], X, y), (X, y, X[:2], y[:2])])
    rows = comparison._Design(np.zeros(1), np.ones(1), np.array([0]))(episodes.X)
    error = comparison._errors(Components(rows @ beta, spread, noise), rows, episodes, adapt=True)[1:]
    E = np.column_stack((np.ones(4), X))
    posterior = np.linalg.solve(E.T @ E / noise + np.linalg.inv(spread), E.T @ (y - E @ beta) / noise)
    assert np.isclose(error[0], np.mean((y[:2] - E[:2] @ (beta + posterior)) ** 2))


@pytest.mark.parametrize(
    ("excess", "words"),
    [
        (-5.0, "other has 50.0 ± 20.0 % lower error on unseen groups than innerloop"),
        (0.1, "does as well"),
        (5.0, "innerloop has 33.3 ± 10.0 % lower error"),
    ],
)
def test_the_result_in_words(excess, words):
    ours = Contender("innerloop", 10.0, 1.0, 0.0, 0.0, 1.0)
    assert words in best_of([ours, Contender("other", 10.0 + excess, 1.0, excess, 1.0, 30.0, "", 0.1, 0.2)])


@pytest.mark.slow
@pytest.mark.parametrize("missing", [[], ["gpboost"]], ids=["as installed", "one package missing"])
def test_the_command(tmp_path, monkeypatch, missing):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find_spec(name))
    table = save(small_table(), tmp_path / "table.csv")
    options = [*COLUMNS, "--n-adapt", 4, "--features", "a", "b"]
    ran = innerloop("compare", table, *options)
    assert ran.code == 0, ran.err
    assert re.search(r"^statsmodels MixedLM, random intercept: adapted by hand +\d", ran.out, flags=re.M)
    assert "…" not in ran.out
    if missing:
        assert ran.out.count("pip install gpboost") == 3
        return
    values = json.loads(innerloop("compare", table, *options, "--json").out)
    assert values["contenders"][0]["name"] == "innerloop"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--n-adapt", 40], "adapt on fewer rows"),
        (["--n-adapt", 0], "`n_adapt` must be at least 1"),
        (["--time-limit", 0], "`--time-limit` must be positive"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, options, sentence):
    ran = innerloop("compare", save(small_table(), tmp_path / "table.csv"), *COLUMNS, *options)
    assert ran.code == 2
    assert sentence in ran.err
