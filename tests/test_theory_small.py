"""The theory where its finite-size terms are large, and where a formula has a second way to be computed."""

import numpy as np
import pytest

import innerloop as il
from innerloop.theory import anchors
from innerloop.theory.adapting import AdaptedLoss
from innerloop.theory.anchors import pooled_ridge_parts, pooled_task_part
from innerloop.theory.expected import unwarned_loss
from innerloop.theory.leading import leading_error
from innerloop.theory.spectrum import wishart_spectrum

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def close(draws, expected, beside=0.0):
    """Return whether a number is the mean of draws, within four standard errors and a part of it beside."""
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    return (np.abs(draws.mean(axis=0) - expected) < 4 * error + beside * np.abs(expected)).all()


def resolvents(rng, n_draws, n_tasks, n_query, p, penalty=0.0):
    """Return the rows of tasks (n_draws, n_tasks, n_query, p), and (X'X + penalty)^-1 of all rows of a draw."""
    X = rng.standard_normal((n_draws, n_tasks, n_query, p))
    rows = X.reshape(n_draws, -1, p)
    return X, np.linalg.inv(rows.transpose(0, 2, 1) @ rows + penalty * np.eye(p))


@pytest.mark.parametrize(("p", "n"), [(1, 4), (3, 5), (5, 12), (20, 23)])
def test_one_task_without_an_inner_loop_is_least_squares(p, n):
    noise, spread = 0.7, 1.3
    loss = il.expected_loss(il.MixedLinearRegression(p, noise, spread), il.Design(1, 4, n), 0.0, 0.0)
    assert loss == pytest.approx(0.5 * (noise**2 * (1 + p / (n - p - 1)) + 2 * spread**2), rel=1e-12)


@pytest.mark.parametrize(("n_tasks", "n_query", "p"), [(2, 6, 4), (4, 3, 3), (2, 8, 6)])
def test_the_task_part_of_pooled_regression_is_exact_at_small_sizes(n_tasks, n_query, p):
    X, H = resolvents(np.random.default_rng(0), 60_000, n_tasks, n_query, p)
    W = X.transpose(0, 1, 3, 2) @ X
    draws = ((H[:, None] @ W) ** 2).sum(axis=(2, 3)).mean(axis=1) / p
    assert close(draws, pooled_task_part(n_query, n_query * n_tasks, p))


# Few effective dimensions are where fluctuations of the spectrum matter most.
@pytest.mark.parametrize("share", [0.2, 0.3])
@pytest.mark.parametrize(("n_tasks", "n_query", "p"), [(5, 1, 4), (3, 1, 5), (4, 1, 6), (2, 10, 5)])
def test_the_task_part_of_a_pooled_ridge_is_near_at_small_sizes(n_tasks, n_query, p, share):
    N = n_tasks * n_query
    dimension = share * min(N, p)
    part = pooled_ridge_parts(il.Design(n_tasks, 5, n_query).groups, p, dimension)[1]
    penalty = N * anchors._penalty_of(wishart_spectrum(N, p, first_order=False), dimension)
    X, R = resolvents(np.random.default_rng(1), 60_000, n_tasks, n_query, p, penalty)
    W = X.transpose(0, 1, 3, 2) @ X
    assert close(((R[:, None] @ W) ** 2).sum(axis=(1, 2, 3)) / p, part, 0.005)


@pytest.mark.parametrize("fourth_moment", [1.0, 2.0, 9.0])
@pytest.mark.parametrize("rate", [0.3, -1.0])
def test_a_step_on_correlated_features_of_any_fourth_moment_is_exact(rate, fourth_moment):
    p, n = 4, 3
    dist = il.MixedLinearRegression(
        p, 1.0, np.linspace(0.2, 1, p), covariance=[3.0, 1.0, 0.5, 0.1], fourth_moment=fourth_moment
    )
    X = dist.draw_features(np.empty((100_000, n, p)), np.random.default_rng(2))
    A = np.eye(p) - rate / n * X.transpose(0, 2, 1) @ X
    draws = np.einsum("dij,i,dij->dj", A, dist.eigenvalues, A)
    assert close(draws, AdaptedLoss.build(dist, il.Design(2, 5, 5, n)).weights_at(np.array(rate)))


@pytest.mark.parametrize("fourth_moment", [1.0, 3.0, 9.0])
def test_the_leading_order_with_few_rows_divides_noise_by_what_adaptation_keeps(fourth_moment):
    p, n, rates = 12, 4, np.array([-0.7, 0.2, 0.5])
    dist = il.MixedLinearRegression(p, 1.0, 0.0, fourth_moment=fourth_moment)
    error = leading_error(dist, il.Design(3, n, 2), rates, 0.0)
    kept = 6 / p * (1 + rates**2 * p / n) / error
    X = dist.draw_features(np.empty((20_000, n, p)), np.random.default_rng(3))
    A = np.eye(p) - rates[:, None, None, None] / n * X.transpose(0, 2, 1) @ X
    assert close((A**2).sum(axis=(2, 3)).T / p, kept)


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("sizes", [(4, 8, 5), (4, 8, 2)])
def test_units_of_features_do_not_matter_with_a_penalty(sizes, unit):
    s, tau, rates = np.linspace(0.3, 2, 6), np.full(6, 0.4), np.array([-0.3, 0.0, 0.4])
    plain = il.MixedLinearRegression(6, 1.0, tau, covariance=s)
    scaled = il.MixedLinearRegression(6, 1.0, tau / np.sqrt(unit), covariance=s * unit)
    expected = unwarned_loss(plain, il.Design(*sizes, 9, l2=0.2), rates, 0.1, np.full(6, 0.5))
    init = np.full(6, 0.5 / np.sqrt(unit))
    found = unwarned_loss(scaled, il.Design(*sizes, 9, l2=0.2 * unit), rates / unit, 0.1 / unit, init)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


LAWS = {
    "Gaussian": {},
    "t rows": {"row_dof": 7},
    "fourth moment 9": {"fourth_moment": 9},
    "intercept": {"intercept": True},
    "correlated": {"covariance": np.linspace(0.3, 2, 8)},
}


@pytest.mark.parametrize(
    "design", [il.Design(4, 8, 5, 6), il.Design(4, 8, 1, 6), il.Design(4, 8, 5, 6, l2=0.1)], ids=str
)
@pytest.mark.parametrize("law", LAWS)
def test_units_of_the_target_do_not_matter(law, design):
    tau, init, rates = np.full(8, 0.5), np.full(8, 0.7), np.array([-0.3, 0.0, 0.2])
    small, large = (il.MixedLinearRegression(8, unit, unit * tau, **LAWS[law]) for unit in (1e-3, 3.0))
    expected = unwarned_loss(large, design, rates, 0.1, 3.0 * init)
    np.testing.assert_allclose(9e6 * unwarned_loss(small, design, rates, 0.1, 1e-3 * init), expected, rtol=1e-7)


DESIGNS = {
    "few rows": (il.MixedLinearRegression(30, 1.0, 0.5), il.Design(3, 15, 2, 10)),
    "many rows": (il.MixedLinearRegression(10, 0.5, 1.0), il.Design(6, 5, 8, 5)),
    "two steps": (il.MixedLinearRegression(12, 1.0, 1.0), il.Design(4, 8, 2, 6, n_steps=2)),
    "a penalty": (il.MixedLinearRegression(12, 1.0, 1.0), il.Design(4, 8, 6, 6, l2=0.1)),
    "implicit": (il.MixedLinearRegression(12, 1.0, 1.0), il.Design(4, 8, 6, 6, inner_rule="implicit")),
    "implicit, far": (il.MixedLinearRegression(40, 1.0, 2.0), il.Design(3, 20, 3, 20, inner_rule="implicit")),
    "implicit, few": (il.MixedLinearRegression(20, 0.1, 2.0), il.Design(8, 30, 6, 30, inner_rule="implicit")),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_the_best_rates_are_lowest_and_so_is_the_best_tied_one(name):
    dist, design = DESIGNS[name]
    best = il.optimal_rates(dist, design)
    sizes = np.geomspace(1e-3, 1e6, 91)
    rates = sizes if design.inner_rule == "implicit" else np.concatenate([-sizes[::-1], sizes])
    losses = unwarned_loss(dist, design, rates, best.adapt_lr)
    tied = unwarned_loss(dist, design, rates, rates)
    assert best.loss <= np.nanmin(losses) * (1 + 1e-6)
    assert best.loss_tied <= np.nanmin(tied) * (1 + 1e-6)
    assert best.loss_tied == pytest.approx(unwarned_loss(dist, design, best.lr_tied, best.lr_tied), rel=1e-9)
    if np.isinf(best.inner_lr):
        assert best.loss == pytest.approx(losses[-1 if best.inner_lr > 0 else 0], rel=1e-3)
        assert (np.diff(losses[-20:]) <= 1e-9 * losses[-1]).all()
    else:
        assert best.loss == pytest.approx(unwarned_loss(dist, design, best.inner_lr, best.adapt_lr), rel=1e-9)
