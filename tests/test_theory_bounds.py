"""Losses without an inner loop: pooled, weighted and Bayes-optimal, against Monte Carlo given the features."""

import numpy as np
import pytest

import innerloop as il
from innerloop.theory import reference_losses

pytestmark = pytest.mark.usefixtures("one_thread")


def simulated(p, m, n, n_adapt, noise, spread, n_draws=60):
    """Return 2 L of the Bayes estimate with a flat prior and with the centre known, and the error of weighted rows."""
    rng, ratio, draws = np.random.default_rng(0), spread / (p * noise), []
    for _ in range(n_draws):
        S = np.zeros((p, p))
        for _ in range(m):
            X = rng.standard_normal((n, p))
            S += X.T @ np.linalg.solve(np.eye(n) + ratio * X @ X.T, X)
        X, inverse = rng.standard_normal((n_adapt, p)), np.linalg.inv(S)
        losses = [
            noise * (1 + np.trace(np.linalg.inv(np.linalg.inv(metric) + X.T @ X)))
            for metric in (ratio * np.eye(p) + inverse, ratio * np.eye(p))
        ]
        draws.append([*losses, noise * np.trace(inverse)])
    return np.mean(draws, axis=0), np.std(draws, axis=0, ddof=1) / np.sqrt(n_draws)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("p", "m", "n", "n_adapt", "noise", "nu"),
    [(60, 15, 32, 20, 1.0, 0.5), (30, 40, 30, 10, 1.0, 1.0), (60, 3, 90, 60, 1.0, 1.0), (40, 10, 10, 10, 0.25, 1.0)],
)
def test_bounds_against_monte_carlo(p, m, n, n_adapt, noise, nu):
    (bayes, known, weighted), error = simulated(p, m, n, n_adapt, noise, nu**2)
    dist, design = il.MixedLinearRegression(p, noise**0.5, nu), il.Design(m, n // 2, n - n // 2, n_adapt)
    found = reference_losses(dist, design)
    assert abs(2 * found.bayes - bayes) < 4 * error[0] + 0.003 * bayes
    assert abs(2 * found.bayes_known_centre - known) < 4 * error[1] + 0.003 * known
    pooled = reference_losses(dist, design)
    adapted = pooled.weighted
    assert found.floor < found.bayes_known_centre < found.bayes <= adapted <= found.pooled
    spread = nu**2 + weighted
    best = spread - spread**2 / (spread * (1 + (p + 1) / n_adapt) + noise * p / n_adapt)
    assert 2 * found.weighted - noise == pytest.approx(best, rel=0.01)


def test_the_table_of_what_each_estimator_reaches():
    dist, design = il.MixedLinearRegression(60, 1.0, 0.5), il.Design(15, 30, 2, 20)
    best, found = il.optimal_rates(dist, design), reference_losses(dist, design)
    values = [best.loss_tied, best.loss_no_inner, best.loss, found.ridge_adaptation, found.pooled, found.weighted]
    np.testing.assert_allclose(values, [1.251, 1.138, 0.934, 0.929, 0.701, 0.700], atol=1.1e-3)
    np.testing.assert_allclose([found.bayes, found.bayes_known_centre, found.floor], [0.699, 0.617, 0.5], atol=1e-3)


def test_fewer_rows_than_features_know_no_centre():
    found = reference_losses(il.MixedLinearRegression(60, 1.0, 0.5), il.Design(1, 30, 2, 20))
    assert np.isnan(found.bayes)
    assert np.isnan(found.weighted)
    assert found.bayes_known_centre > found.floor


def test_what_is_not_derived_is_refused():
    with pytest.raises(ValueError, match="`dist` must have isotropic"):
        reference_losses(il.MixedLinearRegression(2, covariance=[1, 2]), il.Design(3, 2, 2, 2))


@pytest.mark.slow
def test_ragged_tasks_are_weighted_as_equal_ones_nearly():
    dist = il.MixedLinearRegression(60, 1.0, 0.5)
    ragged = il.reference_losses(dist, il.Design(3, [10, 20, 30], [2, 2, 5], 20))
    equal = il.reference_losses(dist, il.Design(3, 20, 3, 20))
    assert ragged.weighted == pytest.approx(equal.weighted, rel=0.05)
    assert ragged.weighted <= 1.05 * ragged.pooled
