"""The same table through mixed-model packages."""

import importlib.util
import json
import re

import numpy as np
import pytest

import innerloop as il
from command_line import COLUMNS, innerloop, save, small_table
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
def test_a_package_that_is_missing_is_listed(monkeypatch):
    find_spec = importlib.util.find_spec
    missing = ("statsmodels", "gpboost")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find_spec(name))
    listed = compare(DIST.sample_tasks(20, 8), n_adapt=3)[1:]
    notes = [f"not installed: pip install {name}" for name in ("statsmodels", "statsmodels", "gpboost")]
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
    episodes = il.Episodes([(X, y, X[:2], y[:2])])
    design = comparison._Design(np.zeros(1), np.ones(1), np.array([0]))
    error = comparison._errors(Components(beta, spread, noise, ""), design, episodes, adapt=True)
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
        assert ran.out.count("pip install gpboost") == 1
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
