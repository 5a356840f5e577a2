"""Tasks of different scales against a plain loop over pairs of scales, and their distribution against the draw."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import innerloop as il
from cases import close
from innerloop.adaptation.random_effects import estimate_effects
from innerloop.adaptation.scale_mixture import LOG_SCALES, N_PARAMETERS, ScaledRidge, estimate_scales
from innerloop.data.row_blocks import RowBlock, reduced, row_blocks
from innerloop.estimators.storage import load_model, save_model

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [1, 2, 3, 4, 5, 9, 40]


def drawn(sizes, log_noise=0.0, log_coef=0.0, n_targets=None, seed=0):
    """Return tasks with a last column of ones, the noise and coefficients of which have these log variances."""
    rng = np.random.default_rng(seed)
    task, m = np.repeat(np.arange(len(sizes)), sizes), len(sizes)
    k = n_targets or 1
    X = np.column_stack((rng.standard_normal((len(task), 2)), np.ones(len(task))))
    b = rng.standard_normal((m, 3, k)) * np.exp(np.broadcast_to(log_coef, m) / 2)[:, None, None]
    noise = rng.standard_normal((len(task), k)) * np.exp(np.broadcast_to(log_noise, m) / 2)[task, None]
    y = np.einsum("ij,ijk->ik", X, 1.0 + b[task]) + noise
    return il.TaskSet.from_arrays(X, y if n_targets else y[:, 0], task)


def rule_and_start(k, seed=1):
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((k, 3, 3))
    weight = rng.dirichlet(np.full(LOG_SCALES.shape[1], 0.3), size=k) + 1e-12
    rule = ScaledRidge(roots @ roots.transpose(0, 2, 1), rng.uniform(0.5, 2.0, k), weight)
    return rule, rng.standard_normal((3, k))


def plain_posterior(rule, coef, X, y, k):
    """Return mean, covariance and noise of one task's coefficients, pair by pair with dense matrices."""
    Lambda, s2 = rule.task_cov[k], rule.noise[k]
    logs, means, covs = [], [], []
    for (alpha, rho), weight in zip(np.exp(LOG_SCALES.T), rule.weight[k], strict=True):
        beta = alpha * rho
        V = alpha * np.eye(len(X)) + beta * X @ Lambda @ X.T
        W = beta * np.linalg.solve(V, X @ Lambda).T
        left = y - X @ coef[:, k]
        logs.append(np.log(weight) + multivariate_normal.logpdf(left, cov=s2 * V))
        means.append(W @ left)
        covs.append(beta * (Lambda - W @ X @ Lambda))
    pi = np.exp(np.array(logs) - max(logs))
    pi /= pi.sum()
    mean = pi @ means
    away = means - mean
    cov = np.einsum("c,cij->ij", pi, covs) + (away * pi[:, None]).T @ away / s2
    return coef[:, k] + mean, cov, pi @ np.exp(LOG_SCALES[0])


@pytest.mark.slow
@pytest.mark.parametrize("n_targets", [None, 2])
def test_tasks_adapt_to_the_posterior_mean_over_all_pairs_of_scales(n_targets):
    tasks = drawn(SIZES, n_targets=n_targets)
    k = n_targets or 1
    rule, coef = rule_and_start(k)
    theta = rule.adapt(coef if n_targets else coef[:, 0], tasks).reshape(len(tasks), 3, k)
    for block in row_blocks(tasks):
        for j in range(k):
            posterior = rule.posterior(coef, block, rule.task_cov[j], j)
            cov = posterior.covariance()
            for i, member in enumerate(block.members):
                _, X, y = list(tasks)[member]
                mean, own_cov, own_noise = plain_posterior(rule, coef, X, y.reshape(len(y), k)[:, j], j)
                assert close(theta[member, :, j], mean, 9)
                assert close(cov[i], own_cov, 8)
                assert close(posterior.coef[i], mean, 9)
                assert posterior.noise[i] == pytest.approx(own_noise, rel=1e-9)
                x = X[None, :2]
                variance = posterior.variance(x, np.array([i]))[0]
                np.testing.assert_allclose(variance, np.einsum("ij,jk,ik->i", x[0], own_cov, x[0]), rtol=1e-7)


@pytest.mark.parametrize("n_targets", [None, 2])
def test_reduced_rows_leave_the_same_uncertainty(n_targets):
    tasks = drawn(SIZES, n_targets=n_targets)
    rule, coef = rule_and_start(n_targets or 1)
    known = reduced(tasks)
    for (_, X, y), (_, X_known, y_known), n in zip(tasks, known, known.original_sizes, strict=True):
        rows = RowBlock(np.arange(1), np.array([n]), np.column_stack((X, y))[None], X.shape[1])
        whole, of_reduced = (
            rule.posterior(coef, block, rule.task_cov[0])
            for block in (rows, replace(rows, both=np.column_stack((X_known, y_known))[None]))
        )
        for values in (lambda p: p.coef, lambda p: p.noise, lambda p: p.covariance()):
            np.testing.assert_allclose(values(whole), values(of_reduced), rtol=1e-8, atol=1e-10)


SPREADS = [(0.0, 0.0), (2.0, 0.0), (0.0, 1.5), (1.5, 1.0)]


@pytest.mark.parametrize(("noise_std", "coef_std"), SPREADS, ids=str)
def test_the_distribution_of_scales_is_found_again(noise_std, coef_std):
    rng = np.random.default_rng(3)
    m = 400
    logs = noise_std * rng.standard_normal(m), coef_std * rng.standard_normal(m)
    tasks = drawn([30] * m, *logs)
    weight = estimate_scales(tasks, estimate_effects(tasks)).weight
    assert weight.shape == (1, LOG_SCALES.shape[1])
    assert weight.sum() == pytest.approx(1.0)
    mean = weight[0] @ LOG_SCALES.T
    std = np.sqrt(weight[0] @ (LOG_SCALES.T - mean) ** 2)
    # A grid whose steps are log 4 = 1.4, and some tasks of any scale.
    np.testing.assert_allclose(std, (noise_std, np.hypot(noise_std, coef_std)), atol=0.5)


@pytest.mark.parametrize(("noise_std", "coef_std"), SPREADS, ids=str)
def test_scales_are_worth_their_parameters_only_where_they_differ(noise_std, coef_std):
    rng = np.random.default_rng(4)
    tasks = drawn([10] * 100, noise_std * rng.standard_normal(100), coef_std * rng.standard_normal(100))
    log_ratio = estimate_scales(tasks, estimate_effects(tasks)).log_ratio
    assert (log_ratio > 2 * N_PARAMETERS) == (noise_std + coef_std > 0)


@pytest.mark.slow
def test_what_scales_are_worth_is_a_ratio_of_likelihoods():
    tasks = drawn([5] * 40, np.linspace(-1, 1, 40), np.zeros(40))
    effects = estimate_effects(tasks)
    scales = estimate_scales(tasks, effects)

    def likelihood(weight):
        total = 0.0
        for _, X, y in tasks:
            densities = []
            for alpha, rho in np.exp(LOG_SCALES[:, weight > 0]).T:
                V = alpha * (np.eye(len(y)) + rho * X @ effects.task_cov[0] @ X.T) * effects.noise[0]
                densities.append(multivariate_normal(X @ effects.mean[:, 0], V).logpdf(y))
            total += logsumexp(densities, b=weight[weight > 0])
        return total

    one = (LOG_SCALES == 0).all(axis=0).astype(float)
    assert scales.log_ratio == pytest.approx(2 * (likelihood(scales.weight[0]) - likelihood(one)), rel=1e-6)


def errors_on_unseen(model, X, y, groups, n):
    place = np.arange(len(X)) % 30
    few, rest = place < n, place >= n
    predicted = model.adapt(X[few], y[few], groups=groups[few]).predict(X[rest], groups=groups[rest])
    return ((predicted - y[rest]) ** 2).reshape(-1, 30 - n).mean(axis=1)


def table_of(m, noise_std, seed):
    rng = np.random.default_rng(seed)
    tasks = drawn([30] * m, noise_std * rng.standard_normal(m), seed=seed + 1)
    return tasks.X[:, :2], tasks.y, tasks.task_of_row


def uses_scales(model):
    table = model._table.predictor
    weights = table.weight.sum(axis=0)
    return any(isinstance(m.rule, ScaledRidge) and w > 0 for m, w in zip(table.members, weights, strict=True))


@pytest.mark.slow
def test_scales_are_used_where_noise_differs_between_tasks_and_lower_the_error_there(monkeypatch):
    X, y, groups = table_of(260, 2.0, 5)
    train = groups < 60
    model = il.MetaRegressor(adaptation="ridge").fit(X[train], y[train], groups[train])
    assert uses_scales(model)
    monkeypatch.setattr("innerloop.tabular.training.differ_in_scale", lambda *_: False)
    plain = il.MetaRegressor(adaptation="ridge").fit(X[train], y[train], groups[train])
    assert not uses_scales(plain)
    for n in (5, 10, 20):
        mine, theirs = (errors_on_unseen(m, X[~train], y[~train], groups[~train], n) for m in (model, plain))
        gain = np.log(theirs / mine)
        assert gain.mean() > 4 * gain.std() / np.sqrt(len(gain))


@pytest.mark.slow
def test_scales_are_left_out_where_tasks_have_one():
    chosen = [il.MetaRegressor(adaptation="ridge").fit(*table_of(60, 0.0, seed)) for seed in range(3)]
    assert sum(map(uses_scales, chosen)) <= 1


@pytest.mark.slow
def test_a_task_that_differs_from_others_without_any_noise_is_no_trouble():
    X, y, groups = table_of(12, 0.0, 5)
    for own in (np.zeros(len(y)), X.sum(axis=1)):
        model = il.MetaRegressor(adaptation="ridge").fit(X, np.where(groups == 3, y, own), groups)
        lower, upper = model.predict_interval(X, groups=groups)
        assert np.isfinite(model.predict(X, groups=groups)).all()
        assert (lower <= upper).all()


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 5, 15])
def test_intervals_are_narrow_for_tasks_of_little_noise_and_hold_what_they_promise(n):
    X, y, groups = table_of(300, 2.0, 5)
    train = groups < 150
    model = il.MetaRegressor(adaptation="ridge").fit(X[train], y[train], groups[train])
    few, rest = ~train & (np.arange(len(X)) % 30 < n), ~train & (np.arange(len(X)) % 30 >= n)
    adapted = model.adapt(X[few], y[few], groups=groups[few])
    lower, upper = adapted.predict_interval(X[rest], groups=groups[rest], level=0.8)
    covered = ((lower <= y[rest]) & (y[rest] <= upper)).reshape(150, -1).mean(axis=1)
    assert covered.mean() == pytest.approx(0.8, abs=4 * covered.std() * np.sqrt(2 / 150))
    if n == 15:
        spread = np.abs(y[rest] - adapted.predict(X[rest], groups=groups[rest])).reshape(150, -1).mean(axis=1)
        width = (upper - lower).reshape(150, -1).mean(axis=1)
        assert np.corrcoef(np.log(width), np.log(spread))[0, 1] > 0.8


@pytest.mark.slow
def test_a_loaded_model_of_scales_predicts_the_same(tmp_path):
    X, y, groups = table_of(60, 2.0, 5)
    model = il.MetaRegressor(adaptation="ridge").fit(X, y, groups)
    assert uses_scales(model)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    for before, after in ((model, loaded), [m.adapt(X[:9], y[:9], groups=groups[:9] + 999) for m in (model, loaded)]):
        np.testing.assert_array_equal(before.predict(X, groups=groups), after.predict(X, groups=groups))
        for mine, theirs in zip(before.predict_interval(X, groups), after.predict_interval(X, groups), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("noise_std", [20.0, 30.0])
def test_a_task_of_much_noise_is_not_taken_for_one_that_is_far(noise_std):
    rng = np.random.default_rng(0)
    tasks = drawn([12] * 200, log_noise=rng.standard_normal(200), log_coef=-1.0)
    effects = estimate_effects(tasks)
    rule = ScaledRidge(effects.new_task_cov, effects.noise, estimate_scales(tasks, effects))
    noisy = drawn([10] * 200, log_noise=2 * np.log(noise_std), log_coef=-1.0, seed=1)
    theta = rule.adapt(effects.mean[:, 0], noisy)
    least_squares = [np.linalg.lstsq(X, y, rcond=None)[0] for _, X, y in noisy]
    moved, furthest = (np.abs(coef - effects.mean[:, 0]).max(axis=1) for coef in (theta, np.array(least_squares)))
    assert np.mean(moved) < 0.3 * np.mean(furthest)
