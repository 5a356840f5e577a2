"""Rates for each feature: exact solves against dense least squares, and what they are good for."""

import json

import numpy as np
import pytest

import innerloop as il
from cases import RAGGED, draw, prepared, table
from command_line import QUICK, innerloop, save, small_table
from innerloop.exact.meta_sgd import RateObjective, solve_coef, solve_meta_sgd

pytestmark = pytest.mark.usefixtures("one_thread")


def residuals(parts, coef, rates):
    """Return the query residuals after one step from `coef` with these rates, task by task."""
    found = []
    for X, y, X_query, y_query in parts:
        gradient = X.T @ (X @ coef - y) / max(len(X), 1)
        found.append(y_query - X_query @ (coef - (rates * gradient.T).T))
    return np.concatenate(found)


@pytest.mark.parametrize("n_targets", [1, 2])
def test_the_loss_is_a_quadratic_in_the_rates(n_targets):
    parts = draw(RAGGED, 3, n_targets)
    coef = np.random.default_rng(0).standard_normal((3, n_targets))
    objective = RateObjective.of(il.Episodes(parts), coef)
    for rates in ([0.0, 0.0, 0.0], [0.1, -0.3, 2.0]):
        slow = np.sum(residuals(parts, coef, np.array(rates)) ** 2)
        assert objective(np.array(rates)) == pytest.approx(slow, rel=1e-10)


@pytest.mark.parametrize("rho", [0.0, 0.5, np.inf])
def test_the_best_rates_minimise_the_penalised_loss(rho):
    parts = draw(RAGGED, 3, 1)
    objective = RateObjective.of(il.Episodes(parts), np.ones((3, 1)))

    def loss(rates):
        away = rates - np.average(rates, weights=objective.Q.diagonal())
        penalty = 0.0 if np.isinf(rho) else rho * np.sum(objective.Q.diagonal() * away**2)
        return objective(rates) + penalty

    best, rng = objective.best(rho), np.random.default_rng(1)
    for _ in range(50):
        step = 1e-3 * rng.standard_normal(1 if np.isinf(rho) else 3)
        assert loss(best) <= loss(best + step)
    if np.isinf(rho):
        assert np.ptp(best) == 0


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_meta_parameters_minimise_the_penalised_loss_of_given_rates(l2):
    parts, rates = draw(RAGGED, 3, 2), np.array([0.1, -0.3, 0.5])
    coef = solve_coef(il.Episodes(parts), rates, l2)

    def loss(at):
        left = residuals(parts, at, rates)
        return np.sum(left**2) / len(left) + l2 * np.sum(at**2)

    rng = np.random.default_rng(1)
    for _ in range(50):
        assert loss(coef) <= loss(coef + 1e-4 * rng.standard_normal(coef.shape))
    common = solve_coef(il.Episodes(parts), np.full(3, 0.2), l2)
    exact = il.solve(il.MetaObjective.from_episodes(il.Episodes(parts)), 0.2, l2=l2)
    np.testing.assert_allclose(common, exact.coef, rtol=1e-8)


def test_every_sweep_lowers_the_loss():
    parts = draw(RAGGED, 3, 1)
    losses = [
        np.sum(residuals(parts, *solve_meta_sgd(il.Episodes(parts), 0.1, 0.0, 0.0, sweeps)) ** 2)
        for sweeps in (1, 2, 4, 8, 16)
    ]
    assert (np.diff(losses) <= 1e-9 * losses[0]).all()


@pytest.mark.slow
def test_a_random_intercept_gets_a_rate_of_its_own():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(80), 12)
    X = rng.standard_normal((960, 4))
    y = X.sum(axis=1) + 3 * rng.standard_normal(80)[groups] + rng.standard_normal(960)
    train = groups < 50
    errors = {}
    for adapt_lr in ("auto", "per-feature"):
        model = il.MetaRegressor(adaptation="gradient", adapt_lr=adapt_lr).fit(X[train], y[train], groups[train])
        few = np.arange(960) % 12 < 6
        adapted = model.adapt(X[~train & few], y[~train & few], groups=groups[~train & few])
        rest = ~train & ~few
        errors[adapt_lr] = np.mean((adapted.predict(X[rest], groups=groups[rest]) - y[rest]) ** 2)
    assert model.adaptation_ == "gradient"
    assert model.adapt_lr_.shape == (5,)
    assert model.adapt_lr_[-1] > 0.7
    assert np.abs(model.adapt_lr_[:-1]).max() < 0.2
    assert errors["per-feature"] < 0.8 * errors["auto"]


def test_rates_that_do_not_differ_are_shrunk_to_one_by_held_out_tasks():
    chosen = []
    for seed in range(4):  # training tasks alone would always take the weakest
        tasks = il.TaskSet.from_arrays(*table([6] * 25, 6, seed=seed))
        trained = prepared(tasks, adapt_lr="per-feature", fit_intercept=False).choose()
        chosen.append(trained.choice.main.shrinkage)
    assert min(chosen) > 0.01
    assert np.median(chosen) >= 10


@pytest.mark.parametrize("changes", [{"inner_lr": 0.1}, {"n_steps": 2}, {"adaptation": "ridge"}], ids=str)
def test_rates_of_features_are_those_of_one_tied_step(changes):
    X, y, groups = table([5, 6, 4, 7], 3)
    with pytest.raises(ValueError, match="'per-feature' learns the rates of one gradient step"):
        il.MetaRegressor(**{"adapt_lr": "per-feature", **changes}).fit(X, y, groups)


@pytest.mark.slow
def test_rates_of_features_are_saved(tmp_path):
    X, y, groups = table([5, 6, 4, 7, 1, 8], 3)
    model = il.MetaRegressor(adapt_lr="per-feature").fit(X, y, groups)
    il.save_model(model, tmp_path / "model")
    loaded = il.load_model(tmp_path / "model")
    np.testing.assert_array_equal(loaded.adapt_lr_, model.adapt_lr_)
    for m in (model, loaded):
        again = m.adapt(X[:5], y[:5], groups=groups[:5])
        np.testing.assert_allclose(again.predict(X, groups), model.predict(X, groups), rtol=1e-12)


@pytest.mark.slow
def test_one_rate_for_each_feature_on_the_command_line(tmp_path):
    table = save(small_table(), tmp_path / "t.csv")
    options = [*QUICK, "--adapt-lr", "per-feature", "--features", "a", "b", "c"]
    ran = innerloop("fit", table, *options, "--out", tmp_path / "m")
    assert ran.code == 0, ran.err
    assert "one rate for each feature" in ran.out
    values = json.loads(innerloop("fit", table, *options, "--json").out)
    assert len(values["adapt_lr"]) == 4  # the intercept has one too
    assert values["inner_lr"] == values["adapt_lr"]
    assert values["methods"][0]["name"] == "one rate for each feature"
    assert il.load_model(tmp_path / "m").adapt_lr_.tolist() == values["adapt_lr"]
