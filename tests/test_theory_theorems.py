"""The theorems on the sign of the best rate, checked in random settings."""

import math

import numpy as np
import pytest

import innerloop as il
from innerloop.theory.deterministic import isotropic_parts

pytestmark = pytest.mark.usefixtures("one_thread")


def random_designs(n, seed, over, **options):
    rng = np.random.default_rng(seed)
    while n:
        m, n_t, n_v = (
            int(np.exp(rng.uniform(np.log(low), np.log(high)))) for low, high in ((2, 40), (3, 300), (1, 60))
        )
        if (m * n_v <= 57) == over and m * n_v != 60 and abs(m * n_v - 60) > 3:
            n -= 1
            yield il.Design(m, n_t, n_v, 20, **options), float(np.exp(rng.uniform(-2, 2)))


def test_one_step_and_fewer_rows_a_negative_rate_beats_its_positive_on_every_draw():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p, n_t, n_v, a = 12, int(rng.integers(2, 30)), int(rng.integers(1, 8)), float(np.exp(rng.uniform(-3, 2)))
        X, V = rng.standard_normal((n_t, p)), rng.standard_normal((n_v, p))
        M = X.T @ X / n_t
        noise = np.eye(n_v) + a**2 / n_t * V @ M @ V.T
        positive, negative = (
            np.trace(np.linalg.solve(V @ np.linalg.matrix_power(np.eye(p) - rate * M, 2) @ V.T, noise))
            for rate in (a, -a)
        )
        assert negative < positive


@pytest.mark.slow
@pytest.mark.parametrize("over", [True, False])
def test_one_step_the_infimum_is_negative(over):
    for design, nu2 in random_designs(10, 1, over):
        rates = np.geomspace(1e-3, 30, 60)

        def error(rate, design=design, nu2=nu2):
            parts = isotropic_parts(design, 60, rate, finite=False)
            return parts.noise + nu2 * parts.tasks

        positive = min(error(rate) for rate in rates)
        assert min(error(-rate) for rate in rates) < positive * (1 + 1e-12)


@pytest.mark.parametrize("options", [{"inner_rule": "implicit"}, {"n_steps": math.inf}], ids=str)
@pytest.mark.parametrize("over", [True, False])
def test_rules_that_contract_never_help(options, over):
    for design, nu2 in random_designs(8, 2, over, **options):
        errors = []
        for rate in (0.0, 0.01, 0.3, 3.0, 50.0):
            parts = isotropic_parts(design, 60, rate, finite=False)
            errors.append(parts.noise + nu2 * parts.tasks)
        assert min(errors[1:]) >= errors[0] * (1 - 1e-9)


def test_the_formula_of_the_paper_is_lowest_at_a_negative_rate():
    rng = np.random.default_rng(3)
    for _ in range(30):
        p, n_t = (int(np.exp(rng.uniform(0, 5))) for _ in range(2))
        dist, design = il.MixedLinearRegression(p, 1.0, float(np.exp(rng.uniform(-2, 2)))), il.Design(30, n_t, 9 * p, 5)
        rates = np.geomspace(1e-3, 100, 400)
        losses = [il.expected_loss(dist, design, side * rates, 0.0, method="leading-order").min() for side in (-1, 1)]
        assert losses[0] <= losses[1]


@pytest.mark.parametrize(("sizes", "better"), [((18, 306, 1), 3.31), ((4, 96, 5), 2.70)])
def test_two_steps_want_a_positive_rate(sizes, better):
    m, n_t, n_v = sizes
    best = il.optimal_rates(il.MixedLinearRegression(60, 1.0, 0.15), il.Design(m, n_t, n_v, 20, n_steps=2))
    assert best.inner_lr == pytest.approx(better, rel=0.06)  # the minimum is flat
    assert best.overshoots
    assert not il.optimal_rates(il.MixedLinearRegression(60, 1.0, 0.15), il.Design(m, n_t, n_v, 20)).overshoots


@pytest.mark.slow
def test_no_number_of_steps_beats_the_best_spectral_rule():
    # N << p, c = 2: noise relative to no inner loop, .500 .423 .384 .362 and (24.3) .343.
    p, n_t = 4000, 2000
    found = []
    for n_steps in (1, 2, 4, 8):
        best = il.optimal_rates(il.MixedLinearRegression(p, 1.0, 0.5), il.Design(2, n_t, 1, 20, n_steps))
        noise = [
            isotropic_parts(il.Design(2, n_t, 1, 20, n_steps), p, rate, finite=False).noise
            for rate in (best.inner_lr, 0)
        ]
        found.append(noise[0] / noise[1])
    np.testing.assert_allclose(found, [0.500, 0.423, 0.384, 0.362], atol=2e-3)
    assert min(found) > 2 / (1 + np.sqrt(2)) ** 2


@pytest.mark.slow
@pytest.mark.parametrize("power", [-1.0, 0.0, 1.0])
def test_the_slope_for_any_covariance_is_that_of_paired_draws(power):
    p, m, n_v, n_t, step = 12, 3, 14, 10, 0.01
    s = np.arange(1, p + 1) ** -0.5
    s /= s.mean()
    tau2 = s**power / p
    dist = il.MixedLinearRegression(p, 1.0, np.sqrt(tau2), covariance=s)
    design = il.Design(m, n_t, n_v, 20)
    best = il.optimal_rates(dist, design)
    from innerloop.simulation.conditional import ConditionalRuns

    runs = ConditionalRuns(dist, design, np.array([-step, step]), np.array([best.adapt_lr_no_inner]), np.zeros(p))
    losses = runs.losses(0, range(3000))[..., 0]
    slopes = (losses[:, 1] - losses[:, 0]) / (2 * step)
    error = slopes.std(ddof=1) / np.sqrt(len(slopes))
    assert abs(best.slope_at_zero - slopes.mean()) < 4 * error + 2e-3 * abs(best.slope_at_zero)
