"""Coverage of 90 % intervals on unseen groups of simulated tables, rows at random and in order."""

import numpy as np
import pytest

import innerloop as il
from innerloop.tabular.adaptation_choice import _weights_without
from innerloop.tabular.comparison import Comparison, Model, split_tasks
from innerloop.tabular.kinds import RandomEffectsRidge
from innerloop.tabular.stacking import stack

N_UNSEEN = 40
# Bias that is tolerated beside four standard errors over tables.
TOLERANCE = 0.02


def series(rng, groups, correlation):
    """Return noise of unit variance, autocorrelated within groups."""
    z = rng.standard_normal(len(groups))
    for i in range(1, len(groups)):
        if groups[i] == groups[i - 1]:
            z[i] = correlation * z[i - 1] + np.sqrt(1 - correlation**2) * z[i]
    return z


def covered(X, y, groups, n_training, sizes=(0, 3, 10), order=None):
    """Return the share of the later rows of unseen groups in their intervals after n rows, mean over groups: (n,)."""
    place = np.arange(len(y)) - np.flatnonzero(np.r_[True, np.diff(groups) > 0])[groups]
    unseen, shares = groups >= n_training, []
    model = il.MetaRegressor(order=order).fit(X[~unseen], y[~unseen], groups[~unseen])
    for n in sizes:
        support, query = unseen & (place < n), unseen & (place >= n)
        adapted = model.adapt(X[support], y[support], groups[support]) if n else model
        lower, upper = adapted.predict_interval(X[query], groups[query] if n else None, level=0.9)
        inside, of_group = (lower <= y[query]) & (y[query] <= upper), groups[query] - n_training
        shares.append((np.bincount(of_group, inside) / np.bincount(of_group)).mean())
    return shares


def at_random(kind, n_training, seed):
    rng = np.random.default_rng([seed, n_training])
    groups = np.repeat(np.arange(n_training + N_UNSEEN), 12)

    def each(*shape):
        return rng.standard_normal((n_training + N_UNSEEN, *shape))[groups]

    X, noise = rng.standard_normal((len(groups), 2)), rng.standard_normal(len(groups))
    if kind == "heavy tails":
        noise = rng.standard_t(3, len(groups)) / np.sqrt(3)
    if kind == "unequal noise":
        noise = noise * np.exp(0.7 * each())
    return X, ((1 + 0.5 * each(2)) * X).sum(axis=1) + each() + noise, groups


def in_time(kind, n_training, seed, n_rows=16):
    rng = np.random.default_rng([seed, n_training, 1])
    groups = np.repeat(np.arange(n_training + N_UNSEEN), n_rows)
    t = np.tile(np.arange(n_rows) / 10, n_training + N_UNSEEN)

    def each():
        return rng.standard_normal(n_training + N_UNSEEN)[groups]

    if kind == "curves":
        y = 3 * np.exp(0.3 * each()) / (1 + np.exp(-4 * (t - 0.8 - 0.3 * each()))) + 0.1 * rng.standard_normal(len(t))
    else:
        y = each() + (1 + 0.7 * each()) * t + series(rng, groups, 0.8)
    return t[:, None], y, groups


def check(shares):
    """Check shares (n_tables, n_sizes)."""
    error = np.std(shares, axis=0, ddof=1) / np.sqrt(len(shares))
    assert (np.abs(np.mean(shares, axis=0) - 0.9) < TOLERANCE + 4 * error).all()
    assert error.max() < 0.025  # the check is worth something


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "unequal noise"])
def test_unseen_groups_are_covered_at_random(kind):
    check([covered(*at_random(kind, 8, seed), 8) for seed in range(20)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["autocorrelated", "curves"])
def test_unseen_groups_are_covered_in_time(kind):
    check([covered(*in_time(kind, 8, seed), 8, order=0) for seed in range(40)])


@pytest.mark.slow
def test_all_later_rows_of_long_series_are_covered():
    shares = []
    for seed in range(10):
        rng, n_training = np.random.default_rng([seed, 2]), 24
        groups = np.repeat(np.arange(n_training + N_UNSEEN), 200)
        level, slope = rng.standard_normal((2, n_training + N_UNSEEN))
        t = np.tile(np.arange(200) / 20, n_training + N_UNSEEN)
        y = level[groups] + (1 + 0.3 * slope[groups]) * t + series(rng, groups, 0.95)
        shares.append(covered(t[:, None], y, groups, n_training, order=0))
    check(shares)  # 0.79 where only the next 50 rows are scored


def test_rows_in_order_adapt_on_the_first_and_are_scored_on_all_later_ones():
    rng = np.random.default_rng(0)
    place = np.tile(np.arange(300.0), 10)
    tasks = il.TaskSet.from_arrays(place[:, None], rng.standard_normal(3000), np.repeat(np.arange(10), 300))
    trials = split_tasks(tasks, np.arange(10) % 2, (0, 3, 10), seed=0, in_order=True)
    for n, ((*folds,),) in trials.items():
        for episodes in folds:
            support, query = episodes.X[episodes.support_rows, 0], episodes.X[episodes.query_rows, 0]
            assert np.array_equal(support, np.tile(np.arange(n), len(episodes)))
            assert query.min() >= n
            assert query.mean() == pytest.approx((n + 299) / 2, abs=4 * 87 / np.sqrt(len(query)))


def test_weights_of_a_held_out_fold_are_those_of_the_others():
    rng = np.random.default_rng(0)
    sizes = np.array([5, 5, 3, 3, 5, 3])
    tasks = il.TaskSet.from_arrays(
        rng.standard_normal((24, 1)), rng.standard_normal(24), np.repeat(np.arange(6), sizes)
    )
    fold = np.array([1, 1, 0, 2, 1, 0])
    trials = split_tasks(tasks, fold, (0, 1, 4), seed=0)
    candidates = [RandomEffectsRidge(Model("intercept")), RandomEffectsRidge(Model("diagonal"))]
    roots = rng.standard_normal((6, 4, 2))
    all_products = np.einsum("irp,irq->ipq", roots, roots)
    products = {0: all_products, 1: 2 * all_products[:, ::-1, ::-1], 4: all_products[[0, 1, 4]]}
    found = _weights_without(candidates, Comparison([None] * 3, trials), products)
    assert found.shape == (3, 3, 2)
    for f in range(3):
        np.testing.assert_allclose(found[0, f], stack(products[0][fold != f]))
        np.testing.assert_allclose(found[1, f], stack(products[1][fold != f]))
        last = products[4] if f != 1 else products[1][fold != 1]  # no other task is long enough
        np.testing.assert_allclose(found[2, f], stack(last))
