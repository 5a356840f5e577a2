"""Expected losses at the ends of their range: many steps, far rates, small units, one task, penalties."""

import re

import numpy as np
import pytest

import innerloop as il
from innerloop.theory.covariance import GeneralError
from innerloop.theory.deterministic import isotropic_parts
from innerloop.theory.expected import unwarned_loss

pytestmark = pytest.mark.usefixtures("one_thread")


def designs(n, n_steps, seed):
    rng = np.random.default_rng(seed)

    def spread(low, high):
        return int(np.exp(rng.uniform(np.log(low), np.log(high))))

    while n:
        p, design = spread(5, 80), il.Design(spread(2, 40), spread(3, 200), spread(1, 40), spread(3, 200), n_steps)
        if abs(design.n_query_rows - p) > 2:
            n -= 1
            yield p, design


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The expected loss may be")
@pytest.mark.parametrize(("p", "design"), [*designs(8, 5, 0), *designs(4, 10, 1)], ids=str)
def test_no_loss_of_many_steps_is_below_the_noise_of_a_new_row(p, design):
    best = il.optimal_rates(il.MixedLinearRegression(p, 1.0, 0.7), design)
    losses = [best.loss, best.loss_tied, best.loss_no_inner, best.loss_minus_infinity, best.loss_plus_infinity]
    assert min(losses) >= 0.5
    rates = np.array([-1e4, -30, -1, 1, 30, 1e4])
    assert (il.expected_loss(il.MixedLinearRegression(p, 1.0, 0.7), design, rates, 0.0) >= 0.5).all()


@pytest.mark.parametrize("rate", [3.0, 1e3, -1e3])
def test_far_rates_of_many_steps_reach_their_limit(rate):
    # At +-3 and 5 steps all but the span of 3 support rows is left alone by Monte Carlo: 10.28(25), 10.23 here.
    parts = isotropic_parts(il.Design(17, 3, 9, 9, n_steps=5), 60, rate)
    assert parts.noise + 0.49 * parts.tasks == pytest.approx(10.23, rel=0.01)


@pytest.mark.parametrize("n_steps", [24, 100])
def test_many_steps_come_back(n_steps):
    # Exact moments of this order would not come back.
    loss = il.expected_loss(il.MixedLinearRegression(60, 1.0, 0.5), il.Design(15, 30, 2, 20, n_steps), 0.1, 0.002)
    assert 0.5 < loss < 3


@pytest.mark.slow
@pytest.mark.parametrize("n_steps", [1, 4])
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_of_correlated_features_do_not_matter(n_steps, unit):
    s, tau = np.linspace(0.3, 2, 12), np.full(12, 0.2)
    design = il.Design(4, 8, 5, 9, n_steps, n_adapt_steps=1)
    rates = np.array([-0.3, 0.2])
    scaled = il.MixedLinearRegression(12, 1.0, tau / np.sqrt(unit), covariance=s * unit)
    plain = il.expected_loss(il.MixedLinearRegression(12, 1.0, tau, covariance=s), design, rates, 0.1)
    np.testing.assert_allclose(il.expected_loss(scaled, design, rates / unit, 0.1 / unit), plain, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("n_steps", [4])
def test_correlated_features_and_many_steps_have_best_rates(n_steps):
    dist = il.MixedLinearRegression(16, 1.0, 0.5, covariance=np.arange(1, 17) ** -0.5)
    best = il.optimal_rates(dist, il.Design(4, 10, 9, 9, n_steps, n_adapt_steps=1))
    assert 0.5 < best.loss <= best.loss_no_inner


def test_one_task_with_a_penalty_is_smooth_in_the_rate():
    parts = np.array([isotropic_parts(il.Design(1, 60, 80, 9, l2=0.05), 40, a) for a in np.linspace(0.15, 0.25, 21)])
    second = np.abs(parts[2:] - 2 * parts[1:-1] + parts[:-2]) / parts[1:-1]
    assert second.max() < 0.02
    # Monte Carlo at 0.2: noise 1.081, tasks .7591.
    assert parts[10, 0] == pytest.approx(1.081, rel=0.02)
    assert parts[10, 1] == pytest.approx(0.759, rel=0.01)


@pytest.mark.parametrize("covariance", [None, np.linspace(0.5, 1.5, 10)], ids=["isotropic", "correlated"])
def test_the_mean_is_infinite_where_nothing_else_determines_a_direction(covariance):
    # A direction that a task's A removes has other rows: 0 or 1 leave an infinite mean, 2 do not.
    dist = il.MixedLinearRegression(10, 1.0, 0.5, covariance=covariance)
    for others, infinite in ((1, True), (2, False)):
        design = il.Design(2, 8, [14, others], 9)
        assert np.isinf(il.expected_loss(dist, design, 0.3, 0.1)) == infinite
        assert np.isfinite(il.expected_loss(dist, design, [-0.3, 0.0], 0.1)).all()


@pytest.mark.slow
def test_the_untrained_start_and_the_best_penalty():
    dist, design, init = il.MixedLinearRegression(60, 1.0, 0.5), il.Design(60, 30, 2, 20), np.full(60, 60**-0.5)
    plain, best = (il.optimal_rates(dist, design, init, l2=l2) for l2 in (None, "best"))
    assert plain.loss == pytest.approx(0.948, abs=5e-4)
    assert best.loss == pytest.approx(0.7752, abs=2e-4)
    assert best.loss < min(best.loss_no_inner, best.loss_tied, best.loss_untrained)
    # The untrained start errs by |init - w0|^2 = 1: a parabola in the rate of section 7.
    spread = 1 + 0.25
    assert plain.loss_untrained == pytest.approx(0.5 * (1 + spread - spread**2 / (spread * (1 + 61 / 20) + 3)))
    near = [
        il.expected_loss(dist, il.Design(60, 30, 2, 20, l2=best.l2 * f), best.inner_lr, best.adapt_lr, init)
        for f in (0.9, 1.1)
    ]
    assert min(near) > best.loss


@pytest.mark.slow
def test_not_to_train_at_all_is_an_answer():
    # In the paper's Figure 2 design the start is the centre of the tasks, and all training moves away from it.
    best = il.optimal_rates(il.MixedLinearRegression(60, 1.0, 0.5), il.Design(3, 30, 2, 20), l2="best")
    assert best.l2 == np.inf
    assert best.loss == best.loss_untrained == pytest.approx(0.61721, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: il.optimal_rates(il.MixedLinearRegression(5), il.Design(2, 3, 5, 4), l2="most"),
            "`l2` must be 'best'",
        ),
        (
            lambda: il.expected_loss(
                il.MixedLinearRegression(3, covariance=[1, 2, 3]), il.Design(2, 3, 1, 4, n_steps=6), 0, 0
            ),
            "`n_adapt_steps` must be at most 4 unless",
        ),
        (
            lambda: il.expected_loss(il.MixedLinearRegression(3), il.Design(2, 3, 1, 4, 101), 0, 0),
            "`n_steps` must be at",
        ),
    ],
)
def test_what_is_refused_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.slow
@pytest.mark.parametrize(("n_steps", "nearest", "farthest"), [(3, 5.0, 1000.0), (5, 3.0, 30.0)])
def test_far_rates_of_many_steps_go_to_their_limit_or_are_not_a_number(n_steps, nearest, farthest):
    """Unknowns grow as the rate to the power of twice the steps, beyond the digits of a number."""
    dist = il.MixedLinearRegression(8, 1.0, 0.5, covariance=np.arange(1, 9) ** -0.5)
    rates = np.geomspace(0.1, farthest, 24)
    far = rates > nearest
    for sign in (-1, 1):
        losses = unwarned_loss(dist, il.Design(10, 15, 6, 15, n_steps, 1), sign * rates, 0.3)
        finite = np.isfinite(losses)
        assert finite[~far].all()
        assert not finite[-2:].any()
        assert finite.sum() == np.argmin(finite)  # none beyond the first that is not
        changes = np.abs(np.diff(losses[finite & far]))
        assert len(changes) > 0
        assert (changes[1:] <= 1.05 * changes[:-1]).all()


def test_the_root_does_not_depend_on_the_way_to_it():
    # A large eigenvalue: Newton's method from the first rate may end at a root with the same k and half the error.
    dist = il.MixedLinearRegression(40, task_std=np.full(40, 0.2), covariance=np.append(np.ones(39), 10.0))
    design = il.Design(5, 10, 10, 10)
    rates = np.array([-0.374, -0.8577, -3.74])
    errors = [GeneralError(dist, design, np.zeros(40)) for _ in range(2)]
    far_apart = np.array([errors[0](rates[i : i + 1])[0] for i in range(3)])
    on_the_way = errors[1](np.append(rates, np.linspace(-4, 0, 41)))[:3]
    np.testing.assert_allclose(far_apart, on_the_way, rtol=1e-4)


def test_a_penalty_that_far_rates_leave_no_say_is_none():
    # One task, N > p, four steps: the degrees of freedom are p up to rounding.
    far = [isotropic_parts(il.Design(1, 135, 30, 10, 4, l2=0.093), 26, rate).noise for rate in (-31.6, -1e3, -1e6)]
    np.testing.assert_allclose(far, far[0], rtol=1e-3)
