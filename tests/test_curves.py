"""Columns of curves: their laws, and what they are worth on curved and on straight tables."""

import numpy as np
import pytest

import innerloop as il
from innerloop.data.curves import Curves
from innerloop.estimators.storage import load_model, save_model


def design(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack((rng.gamma(2.0, size=n), rng.integers(0, 6, n), np.ones(n)))


def test_columns_are_orthogonal_to_a_line_and_to_each_other_and_of_unit_mean_square():
    X = design()
    curves = Curves.fit(X, np.array([0, 1]))
    Z = curves.columns(X)
    for i in range(2):
        own = Z[:, curves.curve_of_column == i]
        line = np.column_stack((np.ones(len(X)), X[:, i]))
        np.testing.assert_allclose(line.T @ own / len(X), 0, atol=1e-8)
        np.testing.assert_allclose(own.T @ own / len(X), np.eye(own.shape[1]), atol=1e-8)


def test_a_feature_of_few_values_is_fitted_at_each_of_them_and_one_of_two_has_no_curve():
    rng = np.random.default_rng(0)
    values = np.array([3.0, 5.0, 10.0, 15.0, 20.0])
    place = rng.integers(0, 5, 300)
    X = np.column_stack((values[place], place % 2, np.ones(300)))
    curves = Curves.fit(X, np.array([0, 1]))
    assert curves.feature.tolist() == [0]
    target = rng.standard_normal(5)[place]
    wide = curves.expand(X, True)
    assert wide.shape[1] == 3 + 3
    assert np.linalg.norm(target - wide @ np.linalg.lstsq(wide, target, rcond=None)[0]) < 1e-8


def test_beyond_the_outer_knots_curves_go_on_straight():
    curves = Curves.fit(design(), np.array([0]))
    last, step = curves.knots[0, -1], 1e-4
    at = np.column_stack((np.array([last - step, last, last + step, 30.0, 40.0, 50.0]), np.zeros((6, 2))))
    columns = curves.columns(at)
    np.testing.assert_allclose(np.diff(columns[3:], 2, axis=0), 0, atol=1e-6)
    slope = (columns[5] - columns[4]) / 10
    np.testing.assert_allclose((columns[1] - columns[0]) / step, slope, atol=1e-3)  # that with which they get there
    np.testing.assert_allclose((columns[2] - columns[1]) / step, slope, atol=1e-6)
    assert np.abs(slope).max() > 0.1


def test_columns_go_before_the_intercept():
    X = design()
    curves = Curves.fit(X, np.array([0]))
    wide = curves.expand(X, True)
    np.testing.assert_array_equal(wide[:, [0, 1, -1]], X)
    np.testing.assert_array_equal(wide[:, 2:-1], curves.columns(X))
    assert Curves.none().expand(X, True) is X


def curved_table(n_tasks, n_rows, seed=0, curvature=1.0):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_tasks), n_rows)
    t = rng.uniform(0, 3, len(groups))
    size, height = np.exp(0.3 * rng.standard_normal((2, n_tasks)))
    y = height[groups] * (curvature * np.exp(-((t - size[groups]) ** 2)) + 0.3 * t)
    return t[:, None], y + 0.05 * rng.standard_normal(len(y)), groups


def error_on_unseen(model, n, curvature=1.0):
    X, y, groups = curved_table(60, 12, seed=99, curvature=curvature)
    place = np.arange(len(y)) % 12
    first, rest = place < n, place >= n
    known = model.adapt(X[first], y[first], groups=groups[first]) if n else model
    return np.mean((known.predict(X[rest], groups=groups[rest]) - y[rest]) ** 2)


@pytest.mark.slow
def test_curves_lower_the_error_where_there_are_some():
    data = curved_table(40, 12)
    auto, straight, curved = (il.MetaRegressor(basis=basis).fit(*data) for basis in ("auto", "linear", "spline"))
    for n in (3, 6):
        assert error_on_unseen(auto, n) < 0.5 * error_on_unseen(straight, n)
        assert error_on_unseen(auto, n) < 1.1 * error_on_unseen(curved, n)


@pytest.mark.slow
def test_curves_are_harmless_where_lines_are_straight():
    X, y, groups = curved_table(40, 12, curvature=0.0)
    straight, curved = (il.MetaRegressor(basis=basis).fit(X, y, groups=groups) for basis in ("linear", "auto"))
    for n in (0, 1, 3, 6):
        assert error_on_unseen(curved, n, 0.0) < 1.1 * error_on_unseen(straight, n, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("l2", ["auto", 1e-3])
def test_candidates_without_curves_have_none_after_the_fit_either(l2):
    X, y, groups = curved_table(30, 10)
    model = il.MetaRegressor(basis="spline", l2=l2).fit(X, y, groups=groups)
    both = il.MetaRegressor(l2=l2).fit(X, y, groups=groups)
    assert len(model._table.curves) == len(both._table.curves) == 1
    is_straight = [not member.coef[1:-1].any() for member in both._table.predictor.members]
    # The pooled ridge, and those of three structures of the covariance.
    assert is_straight == [True] * 4 + [False] * 3
    for of_member, noise in zip(both._table.predictor.task_cov[:4], both._table.predictor.noise[:4], strict=True):
        assert not of_member[:, 1:-1].any()
        assert noise > 0


@pytest.mark.slow
def test_named_features_alone_are_curved():
    X, y, groups = curved_table(20, 8)
    X = np.column_stack((X, np.random.default_rng(0).standard_normal(len(X))))
    assert il.MetaRegressor(basis=[0]).fit(X, y, groups=groups)._table.curves.feature.tolist() == [0]
    assert il.MetaRegressor(basis="spline").fit(X, y, groups=groups)._table.curves.feature.tolist() == [0, 1]
    assert len(il.MetaRegressor(basis="linear").fit(X, y, groups=groups)._table.curves) == 0


@pytest.mark.slow
def test_a_loaded_curved_model_predicts_the_same(tmp_path):
    X, y, groups = curved_table(20, 8)
    model = il.MetaRegressor().fit(X, y, groups=groups)
    assert len(model._table.curves)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(X, groups), model.predict(X, groups))
    for mine, theirs in zip(model.predict_interval(X, groups), loaded.predict_interval(X, groups), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    adapted = [m.adapt(X[:5], y[:5], groups=np.full(5, 99)).predict(X, np.full(len(X), 99)) for m in (model, loaded)]
    np.testing.assert_array_equal(*adapted)


@pytest.mark.slow
@pytest.mark.parametrize("varying", [[], [0]])
def test_slopes_vary_where_they_are_named(varying):
    X, y, groups = curved_table(20, 8)
    y = y + 3 * np.random.default_rng(1).standard_normal(20)[groups] * X[:, 0]
    model = il.MetaRegressor(varying=varying, basis="linear").fit(X, y, groups=groups)
    assert (model._table.effects.task_cov[0, 0, 0] > 0) == bool(varying)


@pytest.mark.slow
def test_in_order_trials_adapt_on_the_first_rows():
    """Where a task's level drifts, its first rows say less of its last ones than random rows do."""
    rng = np.random.default_rng(0)
    groups, t = np.repeat(np.arange(60), 12), np.tile(np.arange(12.0), 60)
    y = np.cumsum(rng.standard_normal((60, 12)), axis=1).ravel()
    X = t[:, None]
    shuffle = rng.permutation(len(y))
    ordered = il.MetaRegressor(order=0).fit(X[shuffle], y[shuffle], groups=groups[shuffle])
    dealt = il.MetaRegressor().fit(X, y, groups=groups)
    new_groups, walk = np.repeat(np.arange(80), 12), np.cumsum(rng.standard_normal((80, 12)), axis=1).ravel()
    first = np.tile(np.arange(12), 80) < 3
    T = np.tile(t[:12], 80)[:, None]
    share = []
    for model in (ordered, dealt):
        known = model.adapt(T[first], walk[first], groups=new_groups[first])
        low, high = known.predict_interval(T[~first], groups=new_groups[~first])
        share.append(np.mean((low <= walk[~first]) & (walk[~first] <= high)))
    assert share[0] == pytest.approx(0.9, abs=0.05)
    assert share[1] < share[0] - 0.02
