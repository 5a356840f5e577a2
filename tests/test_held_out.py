"""Held-out losses as polynomials in the adaptation rate, their minima, and the choice between candidates."""

import numpy as np
import pytest
from numpy.polynomial import polynomial

import innerloop as il
import reference
from cases import RAGGED, SHORT, draw
from innerloop._base.standard_errors import mean_and_error
from innerloop.exact import query_loss
from innerloop.exact.query_loss import bundle_size, bundled_curves, held_out_curves, lowest
from innerloop.tabular.rate_choice import HeldOut


def nonnegative(rng, degree, scale=1.0):
    """Return a polynomial that is a sum of two squares, in a variable of the given scale."""
    parts = rng.standard_normal((2, degree // 2 + 1))
    squares = [polynomial.polymul(part, part) for part in parts]
    return (squares[0] + squares[1]) * scale ** -np.arange(degree + 1.0)


@pytest.mark.parametrize("degree", [2, 4, 6])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
def test_lowest_is_below_a_dense_grid(degree, scale):
    rng = np.random.default_rng(degree)
    curves = np.array([nonnegative(rng, degree, scale) for _ in range(60)]).reshape(12, 5, -1)
    places = lowest(curves)
    assert places.shape == (12, 5)
    grid = np.concatenate((np.linspace(-3, 3, 20001), np.geomspace(3, 1e6, 3001), -np.geomspace(3, 1e6, 3001)))
    for curve, place in zip(curves.reshape(60, -1), places.ravel(), strict=True):
        at_place, on_grid = polynomial.polyval(place, curve), polynomial.polyval(grid * scale, curve)
        assert at_place <= on_grid.min() + 1e-9 * curve[0]


@pytest.mark.parametrize("degree", [2, 4, 6])
def test_lowest_finds_known_minima_exactly(degree):
    rng = np.random.default_rng(degree)
    at = rng.uniform(-2, 2, 50)
    curves = []
    for place in at:
        square = np.array([place**2, -2 * place, 1.0])
        other = nonnegative(rng, degree - 2)
        curve = polynomial.polymul(square, other + 0.1)
        curve[0] += 0.5
        curves.append(curve)
    np.testing.assert_allclose(lowest(np.array(curves)), at, atol=1e-5)


@pytest.mark.parametrize("n_coefficients", [3, 5, 7])
def test_a_flat_curve_is_lowest_at_zero(n_coefficients):
    flat = np.zeros((2, n_coefficients))
    flat[1, 0] = 3.0
    np.testing.assert_array_equal(lowest(flat), 0.0)


def test_a_curve_of_vanishing_leading_terms_still_has_its_minimum():
    np.testing.assert_allclose(lowest(np.array([[1.0, -2.0, 1.0]])), [1.0])
    tiny = np.array([[1.0, -2.0, 1.0, 0.0, 1e-9]])
    np.testing.assert_allclose(lowest(tiny), [1.0], atol=1e-6)


TARGETS = pytest.mark.parametrize("n_targets", [None, 1, 3])


@TARGETS
@pytest.mark.parametrize("n_steps", [1, 2, 3])
@pytest.mark.parametrize("sizes", [RAGGED, SHORT])
@pytest.mark.parametrize("unit", [1.0, 0.3])
def test_curves_are_the_errors_of_adapted_models(sizes, n_targets, n_steps, unit):
    parts = draw(sizes, 4, n_targets)
    rng = np.random.default_rng(7)
    coef = rng.standard_normal((3, 4, n_targets or 1))
    tasks, curves = held_out_curves(il.Episodes(parts), coef, n_steps, unit)
    assert tasks.tolist() == list(range(len(sizes)))
    assert curves.shape == (len(sizes), 3, 2 * n_steps + 1)
    for rate in (-0.4, 0.0, 0.07, 0.9):
        for i, (X_s, y_s, X_q, y_q) in enumerate(parts):
            for j, start in enumerate(coef):
                y_support, y_query = (part.reshape(-1, n_targets or 1) for part in (y_s, y_q))
                theta = reference.adapted(start, X_s, y_support, rate, n_steps if len(X_s) else 0)
                expected = np.mean((y_query - X_q @ theta) ** 2)
                value = polynomial.polyval(rate / unit, curves[i, j])
                assert value == pytest.approx(expected, rel=1e-9)


@TARGETS
def test_episodes_of_one_task_are_averaged_by_their_query_rows(n_targets):
    parts = draw([(6, 8), (5, 4), (9, 3)], 3, n_targets)
    X = np.concatenate([part[0] for part in parts])
    y = np.concatenate([part[1] for part in parts])
    tasks = il.TaskSet.from_arrays(X, y, np.repeat([5, 2, 9], [6, 5, 9]))
    episodes = tasks.deal(n_support=2)
    coef = np.random.default_rng(0).standard_normal((2, 3, n_targets or 1))
    _, curves = held_out_curves(episodes, coef, 1, 1.0)
    for rate in (-0.2, 0.3):
        squares = [[] for _ in range(3)]
        for (X_s, y_s, X_q, y_q), t in zip(episodes, episodes.task, strict=True):
            theta = reference.adapted(coef[1], X_s, y_s.reshape(len(X_s), -1), rate, 1)
            squares[t].extend(((y_q.reshape(len(X_q), -1) - X_q @ theta) ** 2).ravel())
        expected = [np.mean(s) for s in squares]
        np.testing.assert_allclose(polynomial.polyval(rate, curves[:, 1].T), expected, rtol=1e-10)


def test_curves_are_only_of_the_tasks_that_occur():
    X = np.random.default_rng(0).standard_normal((20, 2))
    tasks = il.TaskSet.from_arrays(X, X[:, 0], np.repeat(np.arange(5), 4))
    chosen = tasks.deal(2).select([True, False, False, True, False])
    found, curves = held_out_curves(chosen, np.ones((1, 2, 1)), 1, 1.0)
    assert found.tolist() == [0, 3]
    whole = held_out_curves(tasks.deal(2), np.ones((1, 2, 1)), 1, 1.0)[1]
    np.testing.assert_allclose(curves, whole[[0, 3]], rtol=1e-12)


@TARGETS
@pytest.mark.parametrize("n_steps", [1, 2])
@pytest.mark.parametrize("sizes", [[3] * 12, [1, 40, 2, 6, 5, 9, 3, 3, 800, 2, 7, 1]], ids=["short", "ragged"])
def test_bundles_are_means_of_their_tasks(sizes, n_steps, n_targets):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((sum(sizes), 2))
    y = rng.standard_normal((len(X),) if n_targets is None else (len(X), n_targets))
    episodes = il.TaskSet.from_arrays(X, y, np.repeat(np.arange(12), sizes)).deal(2)
    coef = rng.standard_normal((4, 2, n_targets or 1))
    by_task = held_out_curves(episodes, coef, n_steps, 0.7)[1]
    bundle = np.array([2, -1, 0, 1, 2, 0, 1, -1, 0, 2, 1, -1])
    bundled = bundled_curves(episodes, coef, n_steps, 0.7, bundle, 3)
    expected = [by_task[bundle == b].mean(axis=0) for b in range(3)]
    np.testing.assert_allclose(bundled, expected, rtol=1e-10)


def test_bundles_are_single_tasks_until_they_are_many():
    for n_tasks, n_folds, size in ((500, 5, 1), (501, 5, 2), (1_000_000, 5, 2_000), (600, 100, 1), (1_000, 100, 2)):
        assert bundle_size(np.bincount(np.arange(n_tasks) % n_folds)) == size


@pytest.mark.slow
def test_folds_may_be_smaller_than_a_bundle():
    rng = np.random.default_rng(0)
    X, groups = rng.standard_normal((1_503, 1)), np.repeat(np.arange(501), 3)
    y = X[:, 0] + rng.standard_normal(1_503)
    model = il.MetaRegressor(cv=501, adaptation="none", l2=0.0, inner_lr=0.0).fit(X, y, groups=groups)
    assert model.adaptation_results_["mse"][0] == pytest.approx(1.0, rel=0.15)


def test_losses_of_very_many_tasks_are_those_of_their_bundles(monkeypatch):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(1_500), 6)
    X = rng.standard_normal((len(groups), 2))
    y = (X * (1 + rng.standard_normal((1_500, 2))[groups])).sum(axis=1) + rng.standard_normal(len(groups))
    bundled = il.MetaRegressor(adaptation="gradient").fit(X, y, groups=groups)
    monkeypatch.setattr(query_loss, "_MOST_BUNDLES", 1_500)
    single = il.MetaRegressor(adaptation="gradient").fit(X, y, groups=groups)
    for column in ("inner_lr", "l2", "mse", "difference"):
        np.testing.assert_allclose(bundled.cv_results_[column], single.cv_results_[column], rtol=1e-9, atol=1e-9)
    errors = [model.cv_results_["mse_se"] for model in (bundled, single)]
    np.testing.assert_allclose(*errors, rtol=0.15)
    assert bundled.adapt_lr_ == pytest.approx(single.adapt_lr_)
    assert bundled.adapt_lr_se_ == pytest.approx(single.adapt_lr_se_, rel=0.25)


# The choice

INNER = np.array([-0.2, 0.0, 0.2])


def held_out(best, noise=0.0, wander=0.0, adapt_lr=None, l2s=(0.0,), inner=INNER):
    """Return losses of 40 tasks that are parabolas: `best[i]` is the place and level of rate i's lowest mean.

    Levels of tasks differ by +-noise, in patterns that have mean zero and are orthogonal between rates, and
    places by +-wander, in one pattern for all rates.
    """
    task = np.arange(40)
    curves = np.zeros((40, len(inner), len(l2s), 3))
    for i, (place, level) in enumerate(best):
        at = place + wander * (-1.0) ** (task // 4)
        levels = level + noise * (-1.0) ** (task // [1, 2, 8][i])
        curves[:, i] += np.stack((levels + at**2 - wander**2, -2 * at, np.ones(40)), axis=-1)[:, None]
    curves[..., 0] += 0.01 * np.arange(len(l2s))
    return HeldOut(np.asarray(inner), np.asarray(l2s), 1.0, curves, adapt_lr)


def rates(candidate):
    found = candidate.rates
    return pytest.approx((found.inner_lr, found.adapt_lr, found.l2), abs=1e-9)


CHOICES = [
    # a clear winner takes all
    ([(0.5, 1.0), (0.5, 5.0), (0.5, 6.0)], 0.1, 0.0, (-0.2, 0.5)),
    ([(0.5, 5.0), (0.5, 5.0), (0.5, 1.0)], 0.1, 0.0, (0.2, 0.5)),
    # an inner loop that gains less than its error, sqrt(2 / 39), is left out, and adaptation stays
    ([(0.5, 4.78), (0.5, 5.0), (0.5, 5.0)], 1.0, 0.0, (0.0, 0.5)),
    ([(0.5, 4.77), (0.5, 5.0), (0.5, 5.0)], 1.0, 0.0, (-0.2, 0.5)),
    # adaptation that gains less than its error is left out too
    ([(0.0, 5.0), (0.01, 5.0), (0.0, 5.0)], 0.0, 1.0, (0.0, 0.0)),
    ([(0.0, 1.0), (0.0, 5.0), (0.0, 5.0)], 0.1, 0.0, (-0.2, 0.0)),
    # exact ties go to the simplest
    ([(0.0, 5.0), (0.0, 5.0), (0.0, 5.0)], 0.0, 0.0, (0.0, 0.0)),
    ([(0.5, 5.0), (0.5, 5.0), (0.5, 5.0)], 0.0, 0.0, (0.0, 0.5)),
]


@pytest.mark.parametrize(("best", "noise", "wander", "expected"), CHOICES)
def test_the_simplest_candidate_within_one_standard_error_is_chosen(best, noise, wander, expected):
    chosen = held_out(best, noise, wander).choose().rates
    assert (chosen.inner_lr, chosen.adapt_lr) == pytest.approx(expected, abs=1e-9)


def test_within_one_standard_error_is_about_paired_differences():
    for gain, expected in ((0.9, 0.0), (1.1, -0.2)):
        grid = held_out([(0.5, 5.0), (0.5, 5.0), (0.5, 9.0)])
        spread = np.tile([-1.0, 1.0], 20)
        error = mean_and_error(spread)[1]
        curves = grid.curves.copy()
        curves[:, :, 0, 0] += 100 * np.random.default_rng(1).standard_normal((40, 1))  # common to all rates
        curves[:, 0, 0, 0] += spread - gain * error
        chosen = HeldOut(grid.inner_lrs, grid.l2s, grid.unit, curves, None).choose().rates
        assert (chosen.inner_lr, chosen.adapt_lr) == pytest.approx((expected, 0.5))


def test_best_takes_tuned_tied_zero_or_given_adaptation_rates():
    grid = held_out([(0.5, 3.0), (0.3, 2.0), (0.2, 2.5)], l2s=(0.1, 1.0))
    assert rates(grid.best()) == (0.0, 0.3, 0.1)
    assert rates(grid.best("tuned", -0.2)) == (-0.2, 0.5, 0.1)
    assert rates(grid.best("tied", -0.2)) == (-0.2, -0.2, 0.1)
    assert rates(grid.best("tied", 0.2)) == (0.2, 0.2, 0.1)
    assert rates(grid.best("tied")) == (0.0, 0.0, 0.1)
    assert rates(grid.best("none", 0.2)) == (0.2, 0.0, 0.1)
    assert rates(grid.best(0.7)) == (0.0, 0.7, 0.1)
    assert grid.best("tied", -0.2).mse.mean() == pytest.approx(3.0 + 0.7**2)
    assert grid.best("none").mse.mean() == pytest.approx(2.0 + 0.3**2)
    assert grid.best(0.7).mse.mean() == pytest.approx(2.0 + 0.4**2)


def test_a_given_adaptation_rate_stands_in_for_the_tuned_one():
    grid = held_out([(0.5, 3.0), (0.5, 2.0), (0.5, 2.5)], adapt_lr=0.3)
    assert rates(grid.best()) == (0.0, 0.3, 0.0)
    assert rates(grid.choose()) == (0.0, 0.3, 0.0)
    assert rates(grid.best("tied", 0.2)) == (0.2, 0.2, 0.0)
    np.testing.assert_array_equal(grid.table()["adapt_lr"], 0.3)


def test_units_of_the_adaptation_rate_do_not_matter():
    grid = held_out([(0.5, 3.0), (0.3, 2.0), (0.2, 2.5)])
    unit = 0.25
    scaled = HeldOut(grid.inner_lrs, grid.l2s, unit, grid.curves * unit ** np.arange(3), None)
    for adapt in ("tuned", "tied", "none", 0.7):
        assert rates(scaled.best(adapt)) == rates(grid.best(adapt)).expected
        np.testing.assert_allclose(scaled.best(adapt).mse, grid.best(adapt).mse, rtol=1e-12)


def test_without_inner_rate_zero_on_the_grid_there_is_no_difference_to_it():
    grid = held_out([(0.5, 3.0)], noise=0.5, inner=[0.3])
    assert np.isnan(grid.table()["difference"]).all()
    assert rates(grid.choose()) == (0.3, 0.5, 0.0)


def test_standard_errors_shrink_with_the_number_of_tasks_and_repeat():
    def spread(n_tasks):
        rng = np.random.default_rng(3)
        places = 0.4 + 0.3 * rng.standard_normal(n_tasks)
        curves = np.stack((places**2, -2 * places, np.ones(n_tasks)), axis=-1)[:, None, None]
        return HeldOut(np.zeros(1), np.zeros(1), 1.0, curves, None).standard_errors(seed=1, n_resamples=2000)

    for n_tasks in (25, 400):
        assert spread(n_tasks) == spread(n_tasks)
        assert spread(n_tasks) == pytest.approx((0.0, 0.3 / np.sqrt(n_tasks)), rel=0.2)


def test_the_error_of_one_task_is_infinite():
    assert mean_and_error(np.array([2.0])) == (2.0, np.inf)
    assert mean_and_error(np.array([1.0, 3.0])) == pytest.approx((2.0, 1.0))
