"""Where the best inner rate turns its sign, against differences of Monte Carlo losses and the optimum."""

from dataclasses import replace

import numpy as np
import pytest

import innerloop as il
from innerloop.papers.bernacchia2021.signs import boundary
from innerloop.simulation.conditional import ConditionalRuns
from innerloop.theory import turning_noise

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


def test_isotropic_tasks_never_turn_and_what_is_not_exact_is_refused():
    assert turning_noise(il.MixedLinearRegression(10), il.Design(3, 5, 8)) == 0
    with pytest.raises(ValueError, match="the slope at zero is not known exactly"):
        turning_noise(il.MixedLinearRegression(60), il.Design(3, 5, 8))
