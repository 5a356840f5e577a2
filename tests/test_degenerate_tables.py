"""Random tables without noise, and with noise in the groups of one fold only: errors and widths stay in proportion."""

import numpy as np
import pytest

import innerloop as il

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_exactly_linear_in_each_group_is_learned_exactly(seed):
    rng = np.random.default_rng(seed)
    n_groups, p = int(rng.integers(8, 40)), int(rng.integers(1, 4))
    n = int(rng.integers(p + 2, 10))
    groups = np.repeat(np.arange(n_groups), n)
    X = rng.standard_normal((n_groups * n, p)) * 10.0 ** rng.uniform(-2, 2, p)
    spread = 10.0 ** rng.uniform(-2, 1, p)
    slopes = (3 * rng.standard_normal(p) + spread * rng.standard_normal((n_groups, p))) / X.std(axis=0)
    y = np.einsum("ij,ij->i", X, slopes[groups]) + (rng.choice([0.0, 1.0, 5.0]) * rng.standard_normal(n_groups))[groups]
    model = il.MetaRegressor().fit(X, y, groups)
    assert model.adaptation_ == "ridge"
    assert np.mean((model.predict(X, groups) - y) ** 2) < 1e-10 * np.var(y)
    rows, target = X[: n + 6], X[: n + 6] @ (3 * rng.standard_normal(p) / X.std(axis=0))
    adapted = model.adapt(rows[:n], target[:n], ["new"] * n)
    assert np.mean((adapted.predict(rows[n:], ["new"] * 6) - target[n:]) ** 2) < 1e-6 * np.var(target)


@pytest.mark.parametrize("seed", range(6))
def test_noise_in_few_groups_does_not_set_the_width_of_all_intervals(seed):
    rng = np.random.default_rng(seed)
    n_groups, n = int(rng.integers(5, 15)), int(rng.integers(5, 12))
    groups = np.repeat(np.arange(n_groups), n)
    X = rng.standard_normal((n_groups * n, 2))
    noisy = np.isin(groups, rng.permutation(n_groups)[: max(1, n_groups // 5)])
    y = np.where(noisy, X @ [1.0, 2.0] + rng.standard_normal(len(groups)), 7.0)
    model = il.MetaRegressor().fit(X, y, groups)
    for known in (groups, None):
        low, high = model.predict_interval(X, known)
        assert np.isfinite(high - low).all()
        assert (high - low).max() < 15 * np.std(y)


def test_intervals_hold_on_average_where_one_group_alone_is_noisy():
    covered = []
    for seed in range(6):
        rng = np.random.default_rng(6 + seed)
        groups, noisy = np.repeat(np.arange(12), rng.integers(5, 12)), rng.integers(12)
        parts = []
        for _ in range(2):
            X = rng.standard_normal((len(groups), 2))
            parts.append((X, np.where(groups == noisy, X @ [1.0, 2.0] + rng.standard_normal(len(groups)), 7.0)))
        model = il.MetaRegressor().fit(*parts[0], groups)
        X, y = parts[1]
        lower, upper = model.predict_interval(X, groups)
        covered.append(((lower <= y) & (y <= upper)).mean())
    assert np.mean(covered) > 0.9
    assert min(covered) > 0.75
