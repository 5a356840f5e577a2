"""Random effects against dense marginal likelihoods, generalised least squares and best linear predictors."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

import innerloop as il
from cases import close
from innerloop.adaptation.covariance_roots import NOISE_POWER, DiagonalRoots, FullRoots
from innerloop.adaptation.random_effects import (
    _LOG_SPREAD,
    _UNSHRUNK,
    estimate_effects,
    update_mean,
    variance_sample,
)
from innerloop.adaptation.restricted_likelihood import RestrictedLikelihood
from innerloop.adaptation.rules import GradientSteps, NoAdaptation, Ridge
from innerloop.data.row_blocks import RowBlock, reduced, row_blocks

pytestmark = pytest.mark.usefixtures("one_thread")


def mixed_tasks(sizes, task_std, n_targets=None, noise=0.7, seed=0):
    """Return tasks with a last column of ones, coefficients of which differ by `task_std`."""
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(len(sizes)), sizes)
    tail = () if n_targets is None else (n_targets,)
    p = len(task_std)
    X = np.column_stack((rng.standard_normal((len(task), p - 1)), np.ones(len(task))))
    deviations = np.reshape(task_std, (p, *[1] * len(tail))) * rng.standard_normal((len(sizes), p, *tail))
    coef = rng.standard_normal((p, *tail)) + deviations
    y = np.einsum("ij,ij...->i...", X, coef[task]) + noise * rng.standard_normal((len(task), *tail))
    return il.TaskSet.from_arrays(X, y, task)


def dense(tasks, task_cov, precision, target=0):
    """Return omega, its covariance, the noise and the loss from the covariance of all rows at once."""
    p, n = tasks.n_features, tasks.n_rows
    y = tasks.y.reshape(n, -1)[:, target]
    V = np.eye(n)
    for i in range(len(tasks)):
        rows = slice(tasks.starts[i], tasks.starts[i + 1])
        V[rows, rows] += tasks.X[rows] @ task_cov @ tasks.X[rows].T
    inverse = np.linalg.inv(V)
    S = tasks.X.T @ inverse @ tasks.X + np.diag(np.append(np.full(p - 1, precision), 0.0))
    mean = np.linalg.solve(S, tasks.X.T @ inverse @ y)
    noise = y @ inverse @ (y - tasks.X @ mean) / (n - 1)
    loss = (n - 1) * np.log(noise) + np.linalg.slogdet(V)[1] + np.linalg.slogdet(S)[1] - (p - 1) * np.log(precision)
    return mean, np.linalg.inv(S), noise, loss


SIZES = [1, 7, 3, 12, 1, 2, 30, 5]


def priors(n_features):
    """Return one prior for all coefficients but the last, which has a flat one."""
    return np.append(np.zeros(n_features - 1, dtype=int), -1)


def problem(tasks, target=0):
    return RestrictedLikelihood(list(row_blocks(tasks)), target, tasks.n_rows, priors(tasks.n_features))


@pytest.mark.parametrize("n_targets", [None, 2])
def test_the_restricted_likelihood_is_that_of_all_rows_at_once(n_targets):
    tasks = mixed_tasks(SIZES, [0.5, 0.0, 2.0], n_targets)
    root = np.random.default_rng(1).standard_normal((3, 3))
    for task_cov in (np.zeros((3, 3)), np.diag([0.1, 3.0, 1.0]), root @ root.T):
        own = problem(tasks, (n_targets or 1) - 1)
        solution = own.solve(own.sums(task_cov), own.penalty(np.array([0.3])))
        for mine, theirs in zip(solution, dense(tasks, task_cov, 0.3, (n_targets or 1) - 1), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("precision", [1e-10, 1e-6, 1.0])
def test_noise_is_told_from_rounding_where_features_outnumber_rows(precision):
    tasks = mixed_tasks([5] * 8, [0.5] * 60, noise=1.0)
    own = RestrictedLikelihood(list(row_blocks(tasks)), 0, tasks.n_rows, np.zeros(60, dtype=int))
    found = own.solve(own.sums(np.zeros((60, 60))), np.full(60, precision))
    values, vectors = np.linalg.eigh(tasks.X @ tasks.X.T)
    noise = np.sum(np.square(vectors.T @ tasks.y) / (1 + values / precision)) / tasks.n_rows
    assert found.noise == pytest.approx(noise, rel=1e-4)


def test_its_gradient_is_that_of_small_differences():
    tasks, step = mixed_tasks(SIZES, [0.5, 0.2, 2.0]), 1e-5
    rng = np.random.default_rng(2)
    root = rng.standard_normal((3, 3))
    task_cov, own = root @ root.T, problem(tasks)
    at = own.evaluate(task_cov, np.array([0.3]))
    for _ in range(4):
        way = rng.standard_normal((3, 3))
        way = way + way.T
        up, down = (own.evaluate(task_cov + sign * step * way, np.array([0.3])).loss for sign in (1, -1))
        assert np.sum(at.by_cov * way) == pytest.approx((up - down) / (2 * step), rel=1e-5)
    up, down = (own.evaluate(task_cov, np.array([0.3 * np.exp(sign * step)])).loss for sign in (1, -1))
    assert at.by_precision[0] == pytest.approx((up - down) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("structure", ["diagonal", "shared", "full"])
def test_the_information_is_that_of_all_rows_at_once(structure):
    tasks, precision, varying, step = mixed_tasks(SIZES, [0.5, 0.2, 2.0]), 0.3, np.array([0, 2]), 1e-6
    X, y, n, p = tasks.X, tasks.y, tasks.n_rows, tasks.n_features
    if structure == "full":
        roots, t = FullRoots(p, varying, np.array([0.7, 1.4])), np.array([0.9, -0.4, 1.2])
    else:
        make = DiagonalRoots.separate if structure == "diagonal" else DiagonalRoots.shared
        roots = make(varying, np.array([1.1, 1.0, 0.9]), np.zeros(3, dtype=int), 1.0)
        t = np.array([-0.5, 0.3])[: len(roots.size)]

    def covariance(t, precision):  # of all rows, omega included
        root = roots.root(t)
        same = tasks.task_of_row[:, None] == tasks.task_of_row
        return np.eye(n) + X @ root @ root.T @ X.T * same + X[:, :2] @ X[:, :2].T / precision

    V = covariance(t, precision)
    inverse, ones = np.linalg.inv(V), X[:, 2:]
    P = inverse - inverse @ ones @ np.linalg.solve(ones.T @ inverse @ ones, ones.T @ inverse)
    noise = y @ P @ y / (n - 1)
    directions = [
        (covariance(t + step * e, precision) - covariance(t - step * e, precision)) / (2 * step) for e in np.eye(len(t))
    ]
    directions.append(-X[:, :2] @ X[:, :2].T / precision)  # by the log precision
    u = np.array([direction @ P @ y for direction in directions]).T
    slope = u.T @ P @ y
    expected = (u.T @ P @ u - np.outer(slope, slope) / ((n - 1) * noise)) / noise
    own = RestrictedLikelihood(row_blocks(tasks), 0, n, priors(p), varying)
    root = roots.root(t)
    at = own.evaluate(root @ root.T, np.array([precision]))
    np.testing.assert_allclose(own.information(at, roots.directions(t), len(t)), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_the_diagonal_estimate_is_the_optimum_of_the_dense_likelihood(seed):
    tasks = mixed_tasks([6, 4, 9, 5, 7, 3, 8, 6, 5, 4], [0.8, 0.3, 1.5], seed=seed)
    effects, squares = estimate_effects(tasks), np.mean(tasks.X[:, :2] ** 2, axis=0)

    def loss(t):
        of_rows = t[:2] + np.log(squares)
        prior = np.sum((of_rows - of_rows.mean()) ** 2) / _LOG_SPREAD**2
        noise_share = 1 / ((1 + np.exp(of_rows).sum()) * (1 + squares.sum() / np.exp(t[3])))
        prior -= 2 * NOISE_POWER * np.log(noise_share)
        prior += min(2, _UNSHRUNK) * t[3]
        return dense(tasks, np.diag(np.exp(t[:3])), np.exp(t[3]))[3] + prior

    best = minimize(loss, np.zeros(4), method="Nelder-Mead", options={"maxiter": 4000, "fatol": 1e-10, "xatol": 1e-7})
    found = np.append(np.log(effects.task_cov[0].diagonal()), np.log(effects.precision[0, 0]))
    assert loss(found) <= best.fun + 1e-5
    mean, mean_cov, noise, _ = dense(tasks, effects.task_cov[0], effects.precision[0, 0])
    np.testing.assert_allclose(effects.mean[:, 0], mean, rtol=1e-8)
    np.testing.assert_allclose(effects.mean_cov[0], mean_cov, rtol=1e-8)
    assert effects.noise[0] == pytest.approx(noise, rel=1e-8)


def test_variances_of_many_tasks_are_found_and_correlations_too():
    rng = np.random.default_rng(0)
    truth = np.array([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 4.0]])
    task = np.repeat(np.arange(600), 12)
    X = np.column_stack((rng.standard_normal((len(task), 2)), np.ones(len(task))))
    coef = [1.0, -2.0, 3.0] + rng.standard_normal((600, 3)) @ np.linalg.cholesky(truth).T
    y = np.einsum("ij,ij->i", X, coef[task]) + 0.5 * rng.standard_normal(len(task))
    tasks = il.TaskSet.from_arrays(X, y, task)
    for structure, expected in (("diagonal", np.diag(truth.diagonal())), ("full", truth)):
        effects = estimate_effects(tasks, structure)
        assert effects.noise[0] == pytest.approx(0.25, rel=4 * np.sqrt(2 / 5400))
        error = 4 * np.sqrt((np.outer(truth.diagonal(), truth.diagonal()) + truth**2) / 600)
        assert (np.abs(effects.task_cov[0] * effects.noise[0] - expected) < error).all()
        assert (np.abs(effects.mean[:, 0] - [1.0, -2.0, 3.0]) < 4 * np.sqrt(truth.diagonal() / 600)).all()


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.8, 0.99])
@pytest.mark.parametrize("shape", [(50, 10, 5), (30, 12, 15), (60, 20, 30), (400, 10, 20)], ids=str)
def test_correlations_of_many_features_are_found(shape, correlation):
    n_tasks, n_rows, p = shape
    rng = np.random.default_rng(0)
    truth = (1 - correlation) * np.eye(p + 1) + correlation
    task = np.repeat(np.arange(n_tasks), n_rows)
    X = np.column_stack((rng.standard_normal((len(task), p)), np.ones(len(task))))
    coef = 1 + rng.standard_normal((n_tasks, p + 1)) @ np.linalg.cholesky(truth).T
    y = np.einsum("ij,ij->i", X, coef[task]) + rng.standard_normal(len(task))
    tasks = il.TaskSet.from_arrays(X, y, task)
    diagonal = estimate_effects(tasks)
    full = estimate_effects(tasks, "full", start=diagonal)
    own, precision = problem(tasks), diagonal.precision[0]
    at_truth = own.solve(own.sums(truth), precision).loss  # the deviance, to which the estimate's prior adds
    assert full.deviance < diagonal.deviance
    if correlation < 0.9:  # against nearly equal coefficients the prior says something
        assert full.deviance < at_truth + 1.0
    deviations = np.sqrt(full.task_cov[0].diagonal())
    correlations = (full.task_cov[0] / np.outer(deviations, deviations))[np.tril_indices(p + 1, -1)]
    if correlation:
        assert correlation / 2 < correlations.mean() < 1
    else:
        assert abs(correlations.mean()) < 0.05


ODD = {
    "one task": ([20], [0.5, 1.0]),
    "two tasks": ([9, 1], [0.5, 1.0]),
    "one row each": ([1] * 12, [0.5, 1.0]),
    "more features than rows": ([2, 3, 2], [0.5] * 9),
}


@pytest.mark.parametrize("structure", ["diagonal", "full"])
@pytest.mark.parametrize("name", ODD)
def test_estimates_of_odd_tables_are_finite(name, structure):
    effects = estimate_effects(mixed_tasks(*ODD[name]), structure)
    for value in vars(effects).values():
        assert np.isfinite(value).all()
    assert np.linalg.eigvalsh(effects.task_cov[0]).min() >= 0
    if name == "one task":
        assert not effects.task_cov.any()


@pytest.mark.parametrize("l2", [None, 0.0, 0.1])
@pytest.mark.parametrize("kind", ["exact", "constant target", "repeated column", "zero column"])
def test_degenerate_data_are_harmless(kind, l2):
    tasks = mixed_tasks([5, 8, 6, 7, 9], [0.5, 0.5, 1.0], noise=0.0 if kind == "exact" else 0.5)
    X, y = tasks.X.copy(), tasks.y.copy()
    X[:, 1] = {"repeated column": X[:, 0], "zero column": 0.0}.get(kind, X[:, 1])
    y = np.zeros_like(y) if kind == "constant target" else y
    effects = estimate_effects(il.TaskSet.from_arrays(X, y, tasks.task_of_row), l2=l2)
    assert all(np.isfinite(value).all() for value in vars(effects).values())
    assert np.abs(effects.mean).max() < 10


def test_a_task_that_says_nothing_of_differences_gets_none():
    rng = np.random.default_rng(3)
    X = np.column_stack((rng.standard_normal((900, 2)), np.ones(900)))
    y = X @ [1.0, 2.0, 3.0] + rng.standard_normal(900)
    effects = estimate_effects(il.TaskSet.from_arrays(X, y, np.repeat(np.arange(90), 10)))
    assert effects.task_cov[0].max() < 0.05


@pytest.mark.parametrize("n_targets", [None, 2])
def test_the_ridge_is_the_best_linear_predictor_of_each_task(n_targets):
    tasks = mixed_tasks(SIZES, [0.5, 0.2, 2.0], n_targets)
    k = n_targets or 1
    roots = np.random.default_rng(4).standard_normal((k, 3, 3))
    covs = roots @ roots.transpose(0, 2, 1)
    coef = np.random.default_rng(5).standard_normal((3, *tasks.y.shape[1:]))
    theta = Ridge(covs).adapt(coef, tasks)
    assert theta.shape == (len(tasks), *coef.shape)
    for own, (_, X, y) in zip(theta.reshape(len(tasks), 3, k), tasks, strict=True):
        for j in range(k):
            start, target = coef.reshape(3, k)[:, j], y.reshape(len(y), k)[:, j]
            slow = np.linalg.solve(X.T @ X + np.linalg.inv(covs[j]), X.T @ target + np.linalg.solve(covs[j], start))
            assert close(own[:, j], slow, 9)


RULES = [NoAdaptation(), GradientSteps(0.2), GradientSteps(-0.1, 3), GradientSteps(np.array([0.1, -0.2, 0.3]), 2)]
RULES.append(Ridge(np.diag([0.5, 0.1, 2.0])[None]))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_gains_give_the_adapted_coefficients_whether_rows_are_turned_or_not(rule):
    tasks = mixed_tasks(SIZES, [0.5, 0.2, 2.0])
    coef = np.array([1.0, -1.0, 0.5])
    theta = rule.adapt(coef, tasks)
    for block in row_blocks(tasks):
        W = rule.gain(block.X, block.n_rows)
        left = block.y[..., 0] - block.X @ coef
        np.testing.assert_allclose(coef + np.einsum("tpr,tr->tp", W, left), theta[block.members], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_error_covariances_are_those_of_simulated_tasks(rule):
    rng, cov, n = np.random.default_rng(6), np.diag([0.5, 0.1, 2.0]), 40_000
    X = rng.standard_normal((5, 3))
    true = np.sqrt(cov.diagonal()) * rng.standard_normal((n, 3))
    y = true @ X.T + rng.standard_normal((n, 5))
    tasks = il.TaskSet(np.tile(X, (n, 1)), y.ravel(), np.arange(0, 5 * n + 1, 5), np.arange(n))
    errors = true - rule.adapt(np.zeros(3), tasks)
    rows = RowBlock(np.arange(1), np.array([5]), np.append(X, np.zeros((5, 1)), axis=1)[None], X.shape[1])
    posterior = rule.posterior(np.zeros((3, 1)), rows, cov)
    (expected,) = posterior.covariance()
    assert posterior.noise == 1
    x = rng.standard_normal((1, 7, 3))
    variance = posterior.variance(x, np.zeros(1, dtype=int))
    np.testing.assert_allclose(variance[0], np.einsum("ij,jk,ik->i", x[0], expected, x[0]), rtol=1e-10)
    spread = np.sqrt((np.outer(expected.diagonal(), expected.diagonal()) + expected**2) / n)
    assert (np.abs(errors.T @ errors / n - expected) < 4.5 * spread).all()


def test_turned_rows_say_the_same_as_all_rows():
    tasks = mixed_tasks([1, 50, 3, 4, 200, 5], [0.5, 0.2, 2.0], n_targets=2)
    seen = 0
    for block in row_blocks(tasks, most_numbers=200):
        for i, member in enumerate(block.members):
            _, X, y = list(tasks)[member]
            np.testing.assert_allclose(block.X[i].T @ block.X[i], X.T @ X, rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(block.X[i].T @ block.y[i], X.T @ y, rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(block.y[i].T @ block.y[i], y.T @ y, rtol=1e-10, atol=1e-10)
            assert block.n_rows[i] == len(y)
            assert len(block.X[i]) <= 5
            seen += 1
    assert seen == len(tasks)


def test_of_very_many_tasks_a_random_part_is_used_and_another_seed_takes_others():
    tasks = il.TaskSet.from_arrays(np.ones((6000, 1)), np.zeros(6000), np.repeat(np.arange(3000), 2))
    first, second = (variance_sample(tasks, seed).ids for seed in (0, 1))
    assert len(first) == len(second) == len(np.unique(first)) < 3000
    for ids in (first, second):
        counts = np.histogram(ids, bins=6, range=(0, 3000))[0] / len(ids)
        assert (np.abs(counts - 1 / 6) < 5 * np.sqrt(1 / 6 / len(ids))).all()
    assert len(np.intersect1d(first, second)) < 0.6 * len(first)
    among = np.arange(3000) % 2 == 0
    assert set(variance_sample(tasks, 0, among).ids) <= set(np.flatnonzero(among))


@pytest.mark.parametrize("structure", ["diagonal", "full"])
@pytest.mark.parametrize("task_std", [[0.5, 0.1, 1.0], [0.0, 0.0, 1.0], [0.3, 0.3, 0.0], [0.0, 2.0, 0.0]], ids=str)
def test_a_start_from_like_tasks_ends_where_a_cold_one_does(task_std, structure):
    tasks = mixed_tasks([6] * 60, task_std)
    some = tasks.select(np.arange(48))
    cold = estimate_effects(some, structure)
    near = estimate_effects(tasks) if structure == "diagonal" else estimate_effects(some)
    warm = estimate_effects(some, structure, start=near)
    assert warm.deviance == pytest.approx(cold.deviance, abs=0.1)
    np.testing.assert_allclose(warm.mean, cold.mean, atol=0.01)
    np.testing.assert_allclose(warm.task_cov, cold.task_cov, atol=0.05)


@pytest.mark.parametrize("l2", [None, 0.3])
def test_the_mean_of_further_tasks_is_the_estimate_at_their_covariance(l2):
    tasks = mixed_tasks(SIZES * 3, [0.5, 0.1, 1.0], 2)
    effects = estimate_effects(tasks.select(np.arange(12)))
    updated = update_mean(effects, reduced(tasks), l2=l2)
    for k in range(2):
        precision = float(effects.precision[k, 0]) if l2 is None else l2 * tasks.n_rows
        mean, mean_cov, noise, _ = dense(tasks, effects.task_cov[k], precision, k)
        np.testing.assert_allclose(updated.mean[:, k], mean, rtol=1e-9)
        np.testing.assert_allclose(updated.mean_cov[k], mean_cov, rtol=1e-8, atol=1e-12)
        assert updated.noise[k] == pytest.approx(noise)
        assert updated.precision[k, 0] == pytest.approx(precision)
    np.testing.assert_array_equal(updated.task_cov, effects.task_cov)


@pytest.mark.parametrize("structure", ["diagonal", "full"])
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_units_of_features_and_target_are_those_of_the_estimate(factor, structure):
    tasks = mixed_tasks([8] * 40, [0.8, 0.3, 1.5])
    unit = np.array([factor, factor, 1.0])
    effects = estimate_effects(tasks, structure)
    other = estimate_effects(replace(tasks, X=tasks.X * unit, y=10 * tasks.y), structure)
    np.testing.assert_allclose(other.task_cov[0] * np.outer(unit, unit), effects.task_cov[0], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(other.mean[:, 0] * unit / 10, effects.mean[:, 0], rtol=1e-6)
    assert other.precision[0, 0] / factor**2 == pytest.approx(effects.precision[0, 0], rel=1e-4)


@pytest.mark.parametrize("noise", [0.1, 0.01, 1e-3])
@pytest.mark.parametrize("seed", range(3))
def test_no_lower_minimum_lies_near_the_truth(seed, noise):
    tasks = mixed_tasks([8] * 60, [1.0, 1.0, 1.0, 1.0], noise=noise, seed=seed)
    found, own = estimate_effects(tasks), problem(tasks)
    at_truth = own.solve(own.sums(np.eye(4) / noise**2), own.penalty(np.array([noise**2]))).loss
    assert found.deviance < at_truth


def test_variances_by_themselves_are_often_zero_where_tasks_agree():
    drawn, alone = [], []
    for seed in range(8):
        tasks = mixed_tasks([10] * 40, [1.0, 0.0, 0.0, 1.0], noise=1.0, seed=seed)
        for together, found in ((True, drawn), (False, alone)):
            found.extend(estimate_effects(tasks, shrink_slopes=together).task_cov[0].diagonal()[1:3])
    assert np.mean(np.array(alone) < 1e-3) > 0.3
    assert np.mean(np.array(drawn) < 1e-3) < 0.1


def test_a_curve_has_a_precision_of_its_own_by_which_it_vanishes_where_there_is_none():
    tasks = mixed_tasks([8] * 40, [0.5, 0.0, 0.0, 0.0, 1.0], noise=1.0)  # the coefficients of the population are not 0
    y = tasks.y - tasks.X[:, 1:4] @ estimate_effects(tasks).mean[1:4, 0]
    straight = replace(tasks, y=y)
    apart, together = estimate_effects(straight, n_curves=3), estimate_effects(straight)
    assert np.abs(apart.mean[1:4]).max() < 0.1 * np.abs(together.mean[1:4]).max() + 1e-3
    assert apart.precision[0, 1] > 100 * apart.precision[0, 0]
    bent, plain = estimate_effects(tasks, n_curves=3), estimate_effects(tasks)
    errors = np.sqrt(plain.noise[0] * plain.mean_cov[0].diagonal()[1:4])
    assert (np.abs(bent.mean[1:4, 0] - plain.mean[1:4, 0]) < errors).all()


def test_one_slope_is_not_shrunk():
    tasks = mixed_tasks([6] * 12, [0.7, 1.5], seed=3)
    effects = estimate_effects(tasks)
    mean, mean_cov, noise, _ = dense(tasks, effects.task_cov[0], 1e-12)
    assert effects.mean[0, 0] == pytest.approx(mean[0], abs=0.5 * noise * mean_cov[0, 0] / abs(mean[0]) + 1e-6)


@pytest.mark.parametrize("structure", ["intercept", "diagonal", "full"])
def test_coefficients_that_do_not_vary_have_no_variance_and_others_the_estimate_without_them(structure):
    tasks = mixed_tasks([8] * 40, [0.8, 0.3, 0.5, 1.5])
    varying = np.array([True, False, True, True])
    start = estimate_effects(tasks, varying=varying) if structure == "full" else None
    effects = estimate_effects(tasks, structure, varying=varying, start=start)
    expected = varying & ([False, False, False, True] if structure == "intercept" else True)
    np.testing.assert_array_equal(effects.task_cov[0].diagonal() > 0, expected)
    assert (effects.task_cov[0][~expected] == 0).all()
    own = problem(tasks)
    lowest = own.solve(own.sums(effects.task_cov[0]), effects.precision[0]).loss
    assert effects.deviance == pytest.approx(lowest)
    for factor in (0.8, 1.25):
        other = own.solve(own.sums(factor * effects.task_cov[0]), effects.precision[0]).loss
        assert other > lowest - 0.2  # priors pull, but not far


def test_more_features_than_rows_are_estimated_in_the_space_of_rows_as_in_that_of_features():
    tasks = mixed_tasks([5] * 6, [0.3] * 40 + [1.0], noise=1.0)
    effects = estimate_effects(tasks)
    np.testing.assert_allclose(
        np.diag(effects.task_cov[0][:-1, :-1].diagonal()), effects.task_cov[0][:-1, :-1], atol=1e-9
    )
    assert np.ptp(effects.task_cov[0].diagonal()[:-1]) < 1e-9 * effects.task_cov[0, 0, 0] + 1e-15
    assert np.ptp(effects.precision[0, :-1]) == 0
    mean, mean_cov, noise, _ = dense(tasks, effects.task_cov[0], effects.precision[0, 0])
    np.testing.assert_allclose(effects.mean[:, 0], mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(effects.mean_cov[0], mean_cov, rtol=1e-6, atol=1e-9)
    assert effects.noise[0] == pytest.approx(noise, rel=1e-6)


def test_the_chance_of_a_variance_is_uniform_where_tasks_agree():
    chances = []
    for seed in range(400):
        rng, task = np.random.default_rng(seed), np.repeat(np.arange(30), 8)
        X = np.append(rng.standard_normal((240, 2)), np.ones((240, 1)), axis=1)
        X[task < 3, 0] *= 6  # these tasks weigh most
        y = X @ [1.0, 2.0, 3.0] + rng.standard_normal(30)[task] + rng.standard_normal(240)
        own = problem(il.TaskSet.from_arrays(X, y, task))
        chances.append(own.score(np.diag([0.0, 0.0, 1.0]), own.penalty(np.array([1e-6])))[1][:2])
    for of_column in np.transpose(chances):
        for level in (0.02, 0.1, 0.5):
            error = np.sqrt(level * (1 - level) / len(of_column))
            assert abs(np.mean(of_column < level) - level) < 4 * error
    varied = mixed_tasks([8] * 30, [0.0, 1.0, 1.0], noise=1.0)
    assert problem(varied).score(np.diag([0.0, 0.0, 1.0]), np.zeros(3))[1][1] < 1e-4
