"""Weights of rows: precisions, by their laws and against repeated rows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy.linalg import block_diag
from sklearn.model_selection import GroupKFold, cross_val_score

import innerloop as il
from innerloop.adaptation.random_effects import update_mean
from innerloop.data.scaling import Scaling

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

RIDGE = {"adaptation": "ridge", "basis": "linear", "cv": 3}
GRADIENT = {"inner_lr": -0.1, "adapt_lr": 0.2, "l2": 0.1}
MODELS = pytest.mark.parametrize("params", [RIDGE, GRADIENT], ids=["ridge", "gradient"])


def rows(seed=0, n_groups=20, n_rows=6):
    """Return rows of groups that differ in level and slope, with weights, of which the noise has the precisions."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), n_rows)
    X = rng.normal([1.0, 0.0], 1.0, (len(groups), 2))
    weights = rng.choice([0.2, 1.0, 5.0], len(groups))
    slopes = 1 + 0.5 * rng.standard_normal(n_groups)
    y = 3 + 2 * rng.standard_normal(n_groups)[groups] + slopes[groups] * X[:, 0]
    return X, y + rng.standard_normal(len(groups)) / np.sqrt(weights), groups, weights


@MODELS
@pytest.mark.parametrize("weight", [1.0, 0.1])
def test_equal_weights_change_no_bit(params, weight):
    X, y, groups, _ = rows()
    plain = il.MetaRegressor(**params).fit(X, y, groups)
    weighted = il.MetaRegressor(**params).fit(X, y, groups, sample_weight=np.full(len(y), weight))
    np.testing.assert_array_equal(weighted.predict(X, groups, return_std=True), plain.predict(X, groups, True))


@MODELS
def test_only_ratios_of_weights_matter(params):
    X, y, groups, weights = rows()
    one, other = (il.MetaRegressor(**params).fit(X, y, groups, a * weights) for a in (1.0, 8.0))
    np.testing.assert_allclose(other.predict(X, groups, True), one.predict(X, groups, True), rtol=1e-6)


@MODELS
def test_rows_of_weight_0_are_as_if_not_there(params):
    X, y, groups, weights = rows()
    kept = np.arange(len(y)) % 5 > 0
    kept[groups == 7] = False  # a whole group
    without = il.MetaRegressor(**params).fit(X[kept], y[kept], groups[kept], weights[kept])
    zero = il.MetaRegressor(**params).fit(X, y, groups, np.where(kept, weights, 0.0))
    assert 7 not in zero.groups_
    np.testing.assert_array_equal(zero.predict(X, groups), without.predict(X, groups))
    frame = pd.DataFrame(X, columns=["a", "b"]).assign(who=groups)
    of_frame = il.MetaRegressor(group="who", **params).fit(frame, y, sample_weight=np.where(kept, weights, 0.0))
    np.testing.assert_allclose(of_frame.predict(frame), zero.predict(X, groups), rtol=1e-12)


def test_given_the_variances_weights_are_repeated_rows():
    """The fixed and the random effects are those of a table that has each row as often as its weight says."""
    X, y, groups, _ = rows()
    weights = np.random.default_rng(1).integers(1, 4, len(y))
    model = il.MetaRegressor(adaptation="ridge", basis="linear").fit(X, y, groups, sample_weight=weights)
    table = model._table
    repeated = il.TaskSet.from_arrays(*(np.repeat(part, weights, axis=0) for part in (X, y, groups)))
    scaled = table.scaling.tasks(repeated)
    # In scaled units weights have mean 1, so that the noise of a row of weight 1 is larger by the mean.
    unit = table.scaling.weight_unit
    effects = table.effects
    same = replace(effects, task_cov=effects.task_cov / unit, precision=effects.precision * unit)
    assert unit == pytest.approx(weights.mean())
    np.testing.assert_allclose(update_mean(same, scaled).mean, effects.mean, rtol=1e-8, atol=1e-10)


def test_estimates_agree_with_generalised_least_squares():
    """Given the variances, fixed effects and a group's coefficients are those of y = X (w + b) + e / sqrt(weight)."""
    X, y, groups, weights = rows(3, n_groups=6)
    model = il.MetaRegressor(adaptation="ridge", basis="linear", cv=2).fit(X, y, groups, sample_weight=weights)
    table = model._table
    E = table.scaling.design(X)
    target = y - table.scaling.y_mean
    noise, cov = table.effects.noise[0], table.effects.noise[0] * table.effects.task_cov[0]
    V = [
        E[groups == g] @ cov @ E[groups == g].T + np.diag(noise * weights.mean() / weights[groups == g])
        for g in range(6)
    ]
    W = np.linalg.inv(block_diag(*V))
    precision = np.diag(table.effects.precision[0] / noise)
    mean = np.linalg.solve(E.T @ W @ E + precision, E.T @ W @ target)
    np.testing.assert_allclose(table.effects.mean[:, 0], mean, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_weights_lower_the_error_and_intervals_follow_them():
    """Where the noise has these precisions, coefficients are better known, and intervals cover at every weight."""
    gains, inside = [], []
    for seed in range(8):
        X, y, groups, weights = rows(seed, n_groups=60)
        train, first = groups < 40, (groups >= 40) & (np.arange(len(y)) % 6 < 3)
        later = ~train & ~first
        errors = []
        for with_weights in (False, True):
            model = il.MetaRegressor(**RIDGE)
            model.fit(X[train], y[train], groups[train], weights[train] if with_weights else None)
            w = weights[first] if with_weights else None
            new = model.adapt(X[first], y[first], groups[first], sample_weight=w)
            errors.append(np.mean(weights[later] * (y[later] - new.predict(X[later], groups[later])) ** 2))
        low, high = new.predict_interval(X[later], groups[later], 0.9, sample_weight=weights[later])
        covers = (low <= y[later]) & (y[later] <= high)
        inside.append([covers[weights[later] == w].mean() for w in (0.2, 1.0, 5.0)])
        gains.append(np.log(errors[0] / errors[1]))
    error = np.std(gains, ddof=1) / np.sqrt(len(gains))
    assert np.mean(gains) > 2 * error
    np.testing.assert_allclose(np.mean(inside, axis=0), 0.9, atol=0.05)
    with pytest.raises(ValueError, match="a row of weight 0 has no interval"):
        new.predict_interval(X[:2], groups[:2], sample_weight=[0.0, 1.0])


def test_scales_are_weighted_means_and_deviations():
    X, y, groups, weights = rows()
    tasks = il.TaskSet.from_arrays(X, y, groups, weights=weights)
    scaled = Scaling.fit(tasks, True, True).tasks(tasks).whitened()
    moments = scaled.X.T @ scaled.X / scaled.n_rows
    np.testing.assert_allclose(moments.diagonal(), 1.0, atol=1e-3)
    np.testing.assert_allclose(moments[-1, :-1], 0.0, atol=1e-3)


BAD = [
    ([1.0, 2.0], "`sample_weight` must have one number for each of the 120 rows"),
    (np.r_[-1.0, np.ones(119)], "`sample_weight` must be zero or positive, got -1 at row 0"),
    (np.r_[1.0, np.nan, np.ones(118)], "`sample_weight` must be finite, got a value that is missing .* at row 1"),
    (np.zeros(120), "`sample_weight` must be positive in some row"),
]


@pytest.mark.parametrize(("weights", "message"), BAD)
def test_weights_that_are_none_are_refused(weights, message):
    X, y, groups, _ = rows()
    with pytest.raises(ValueError, match=message):
        il.MetaRegressor(**GRADIENT).fit(X, y, groups, sample_weight=weights)


def test_routing_hands_weights_to_fit():
    X, y, groups, weights = rows(n_groups=9)
    model = il.MetaRegressor(**GRADIENT)
    with sklearn.config_context(enable_metadata_routing=True):
        model = model.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        params = {"groups": groups, "sample_weight": weights}
        scores = cross_val_score(model, X, y, cv=GroupKFold(3), params=params, error_score="raise")
    expected = []
    for train, test in GroupKFold(3).split(X, y, groups):
        fitted = il.MetaRegressor(**GRADIENT).fit(X[train], y[train], groups[train], weights[train])
        expected.append(fitted.score(X[test], y[test], sample_weight=weights[test], groups=groups[test]))
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_a_column_of_a_table_holds_the_weights():
    X, y, groups, weights = rows(n_groups=8)
    frame = pd.DataFrame(X, columns=["a", "b"]).assign(who=groups, y=y, w=weights)
    frame.loc[3, "w"], frame.loc[4, "w"] = 0.0, np.nan
    with pytest.warns(UserWarning, match="2 rows of weight 0 or without weight left out"):
        tasks = il.TaskSet.from_table(frame, "who", "y", weights="w")
    assert tasks.feature_names == ("a", "b")
    np.testing.assert_array_equal(tasks.weights, np.delete(weights, [3, 4]))
    np.testing.assert_array_equal(tasks.select([2, 1]).weights, tasks.weights[np.r_[10:16, 4:10]])
    with pytest.raises(ValueError, match="the negative weight -2 in column 'w', row 5"):
        il.TaskSet.from_table(frame.assign(w=np.where(np.arange(48) == 5, -2.0, 1.0)), "who", "y", weights="w")
    with pytest.raises(ValueError, match="`weights` must name different columns"):
        il.TaskSet.from_table(frame, "who", "y", weights="y")


@pytest.mark.slow
def test_a_study_takes_weights_and_every_method_is_scored_by_them():
    X, y, groups, weights = rows(n_groups=8)
    tasks = il.TaskSet.from_arrays(X, y, groups, weights=weights)
    result = il.study(tasks)
    assert np.isfinite([score.mse for score in result.evaluation.scores]).all()
    plain = il.study(il.TaskSet.from_arrays(X, y, groups))
    assert result.evaluation.scores[0].mse != plain.evaluation.scores[0].mse


def test_what_takes_no_weights_says_so():
    X, y, groups, weights = rows(n_groups=4)
    tasks = il.TaskSet.from_arrays(X, y, groups, weights=weights)
    for call in (il.ResampledTasks, il.compare, lambda t: il.KernelObjective.from_tasks(t, lambda a, b: a @ b.T)):
        with pytest.raises(ValueError, match="takes no weights of rows"):
            call(tasks)


def test_an_objective_weighs_squared_errors():
    X, y, groups, weights = rows(n_groups=4)
    tasks = il.TaskSet.from_arrays(X, y, groups, weights=weights)
    root = np.sqrt(weights)
    by_hand = il.Episodes.from_rows(
        X * root[:, None], y * root, *((part, n) for part, n in _split_of(tasks.split(3, 3))), np.arange(4)
    )
    found, expected = (il.MetaObjective.from_episodes(e) for e in (tasks.split(3, 3), by_hand))
    np.testing.assert_allclose(il.solve(found, -0.2).coef, il.solve(expected, -0.2).coef, rtol=1e-12)


def _split_of(episodes):
    return (episodes.support_rows, episodes.n_support), (episodes.query_rows, episodes.n_query)


def test_a_saved_model_adapts_by_weights_as_before(tmp_path):
    X, y, groups, weights = rows(n_groups=8)
    model = il.MetaRegressor(**GRADIENT).fit(X, y, groups, weights)
    il.save_model(model, tmp_path / "model")
    new = [m.adapt(X[:4], y[:4], ["new"] * 4, weights[:4]) for m in (model, il.load_model(tmp_path / "model"))]
    intervals = [m.predict_interval(X[4:8], ["new"] * 4, sample_weight=weights[4:8]) for m in new]
    np.testing.assert_array_equal(*intervals)
