"""Where the best inner rate turns its sign, against differences of Monte Carlo losses and the optimum."""

from dataclasses import replace

import numpy as np
import pytest

import innerloop as il
from innerloop.papers.bernacchia2021.signs import boundary
from innerloop.simulation.conditional import ConditionalRuns
from innerloop.theory import turning_noise
from innerloop.theory.sign import _turning_variance

pytestmark = pytest.mark.usefixtures("one_thread")


def decaying(decay: float, power: float, noise: float, p: int = 20) -> il.MixedLinearRegression:
    s = np.arange(1, p + 1) ** -decay
    s = s / s.mean()
    return il.MixedLinearRegression(p, noise, s ** (power / 2), covariance=s)


def test_the_boundary_is_that_of_the_derivation():
    # theory_next.md, 5: spread over noise, three tasks of 20 query rows.
    expected = {(0.5, 0): 6.16, (0.5, 1): 2.59, (0.8, -0.5): 4.51, (1.2, 0.5): 0.407}
    for (decay, power), value in expected.items():
        assert boundary(decay, power, 0.0) == pytest.approx(value, rel=5e-3)
    assert np.isinf(boundary(0.5, -1, 0.0))


@pytest.mark.slow
@pytest.mark.parametrize("adapt_lr", [0.0, 0.2])
def test_the_slope_turns_at_the_noise(adapt_lr):
    design, step = il.Design(3, 20, [15, 20, 25], 20), 0.02
    noise = turning_noise(decaying(0.5, 0.0, 1.0), design, adapt_lr)
    for factor, sign in ((0.6, -1), (1.6, 1)):
        dist = decaying(0.5, 0.0, factor * noise)
        losses = ConditionalRuns(dist, design, np.array([-step, step]), np.array([adapt_lr]), np.zeros(20))
        gaps = np.diff(losses.losses(0, range(150))[..., 0], axis=1)[:, 0]
        assert sign * gaps.mean() > 3 * gaps.std(ddof=1) / np.sqrt(len(gaps))


@pytest.mark.slow
def test_the_optimum_turns_at_the_noise():
    design = il.Design(3, 20, 20, 20)
    dist = decaying(0.5, 1.0, 1.0)
    noise = turning_noise(dist, design, 0.0)
    slopes = [il.optimal_rates(replace(dist, noise_std=f * noise), design).slope_at_zero for f in (0.5, 2.0)]
    assert slopes[0] < 0 < slopes[1]


@pytest.mark.slow
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.filterwarnings("ignore:The expected loss may be")
def test_the_slope_turns_with_fewer_query_rows_than_features(intercept):
    # Equation 17.4, with a start that is not the centre, against the noise and the noiseless part of the same draws.
    p, step, init = 30, 0.05, np.full(30, 0.1)
    dist = replace(decaying(0.8, 1.0, 1.0, p), intercept=intercept)
    design, adapt_lr = il.Design(4, 20, 4, 20), 0.2
    noise = turning_noise(dist, design, adapt_lr, init)
    slopes = []
    for noise_std in (0.0, noise):
        rates = np.array([-step, step])
        draws = ConditionalRuns(replace(dist, noise_std=noise_std), design, rates, np.array([adapt_lr]), init)
        slopes.append(np.diff(draws.losses(0, range(600))[..., 0], axis=1)[:, 0])
    mean, error = (part(slopes, axis=1) for part in (np.mean, lambda x, axis: np.std(x, axis=axis, ddof=1) / 600**0.5))
    assert mean[0] < -4 * error[0]
    assert abs(mean[1]) < 4 * error[1] + 0.1 * abs(mean[0])  # beside the noise, 10 % of the equivalent


def test_the_root_is_exact_where_the_slope_is_affine():
    assert _turning_variance(lambda v: 3 * v - 6, 1.0) == pytest.approx(2, rel=1e-5)
    assert _turning_variance(lambda v: 3 * v + 6, 1.0) == 0
    with pytest.raises(ValueError, match="a slope at zero that label noise raises"):
        _turning_variance(lambda v: -1 - v, 1.0)


def test_isotropic_tasks_never_turn_and_what_does_not_turn_is_refused():
    assert turning_noise(il.MixedLinearRegression(10), il.Design(3, 5, 8)) == 0
    assert turning_noise(il.MixedLinearRegression(60), il.Design(3, 5, 8)) == 0
    with pytest.raises(ValueError, match="where every row is scored, label noise does not turn the sign"):
        turning_noise(il.MixedLinearRegression(60), il.Design(3, 5, 8, protocol="train"))
