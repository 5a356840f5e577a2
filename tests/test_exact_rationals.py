"""`solve`, for both objectives, against the minimiser in exact rational arithmetic."""

import warnings
from contextlib import nullcontext
from fractions import Fraction
from math import comb

import numpy as np
import pytest

import innerloop as il


def rationals(matrix):
    return [[Fraction(float(v)) for v in row] for row in np.asarray(matrix).reshape(len(matrix), -1)]


def product(A, B):
    return [[sum(a * b for a, b in zip(row, column, strict=True)) for column in zip(*B, strict=True)] for row in A]


def transposed(A):
    return [list(column) for column in zip(*A, strict=True)]


def eliminated(A, b):
    """Return A^-1 b by Gauss-Jordan elimination."""
    rows = [[*left, *right] for left, right in zip(A, b, strict=True)]
    n = len(A)
    for c in range(n):
        pivot = next(r for r in range(c, n) if rows[r][c] != 0)
        rows[c], rows[pivot] = rows[pivot], rows[c]
        rows[c] = [value / rows[c][c] for value in rows[c]]
        for r in range(n):
            if r != c:
                rows[r] = [x - rows[r][c] * y for x, y in zip(rows[r], rows[c], strict=True)]
    return [row[n:] for row in rows]


def exact_minimiser(parts, rate, n_steps, l2=0.0):
    """Return the coefficients and the loss of the minimiser nearest to zero, as floats."""
    B, g = [], []
    for part in parts:
        X, y, X_query, y_query = map(rationals, part)
        U, targets = [X_query], [y_query]
        for _ in range(n_steps):
            P = [[value / len(X) for value in row] for row in product(U[-1], transposed(X))]
            U.append(product(P, X))
            targets.append(product(P, y))
        c = [comb(n_steps, j) * (-Fraction(rate)) ** j for j in range(n_steps + 1)]
        for i in range(len(X_query)):
            B.append([sum(cj * Uj[i][f] for cj, Uj in zip(c, U, strict=True)) for f in range(len(X[0]))])
            g.append([sum(cj * tj[i][0] for cj, tj in zip(c, targets, strict=True))])
    Bt = transposed(B)
    if len(B) >= len(B[0]) or l2:
        normal = product(Bt, B)
        for i in range(len(normal)):
            normal[i][i] += len(g) * Fraction(l2)
        coef = eliminated(normal, product(Bt, g))
    else:
        coef = product(Bt, eliminated(product(B, Bt), g))
    residual = [y[0] - f[0] for y, f in zip(g, product(B, coef), strict=True)]
    return np.array([float(row[0]) for row in coef]), float(sum(r * r for r in residual) / (2 * len(g)))


def drawn(rng, n_tasks, n_rows, n_features, spectrum=0.0, noise=0.3):
    """Return parts of tasks whose features have standard deviations from 1 to 10^-spectrum in rotated directions."""
    left, right = (np.linalg.qr(rng.standard_normal((n_features, n_features)))[0] for _ in range(2))
    mix = left * 10.0 ** -np.linspace(0, spectrum, n_features) @ right.T
    parts = []
    for _ in range(n_tasks):
        X = rng.standard_normal((2 * n_rows, n_features)) @ mix
        y = X @ rng.standard_normal(n_features) + noise * rng.standard_normal(2 * n_rows)
        parts.append((X[:n_rows], y[:n_rows], X[n_rows:], y[n_rows:]))
    return parts, mix


def linear(A, B):
    return A @ np.swapaxes(B, -1, -2)


@pytest.mark.parametrize("rate", [-1e4, -0.3, 0.0, 0.5, 100.0, 1e4])
@pytest.mark.parametrize(("n_tasks", "n_rows", "n_features"), [(3, 2, 4), (2, 2, 6), (4, 4, 3)])
@pytest.mark.parametrize("n_steps", [1, 2, 4])
def test_solve_is_the_exact_minimiser_at_any_rate(n_steps, n_tasks, n_rows, n_features, rate):
    parts, _ = drawn(np.random.default_rng(n_tasks), n_tasks, n_rows, n_features)
    coef, loss = exact_minimiser(parts, rate, n_steps)
    solution = il.solve(il.MetaObjective.from_episodes(il.Episodes(parts), n_steps), rate)
    np.testing.assert_allclose(solution.coef, coef, rtol=0, atol=1e-10 * np.abs(coef).max())
    np.testing.assert_allclose(solution.loss, loss, rtol=1e-9)  # 0 for 0, whatever rounding leaves at large rates


@pytest.mark.parametrize("rate", [100.0, -1e3])
@pytest.mark.parametrize("n_steps", [1, 4])
def test_a_fit_up_to_rounding_has_no_loss_at_rates_that_enlarge_rounding(n_steps, rate):
    rng = np.random.default_rng(0)
    w = rng.standard_normal(3)
    X = rng.standard_normal((4, 8, 3))
    episodes = il.Episodes([(x[:4], x[:4] @ w, x[4:], x[4:] @ w) for x in X])
    solution = il.solve(il.MetaObjective.from_episodes(episodes, n_steps), rate)
    np.testing.assert_allclose(solution.coef, w, rtol=1e-10)
    assert (solution.loss, solution.status) == (0.0, "unique")
    kernel = il.solve(il.KernelObjective.from_episodes(episodes, linear, n_steps), rate)
    assert kernel.loss == 0.0


@pytest.mark.filterwarnings("ignore:at inner_lr")
@pytest.mark.parametrize("l2", [1e-6, 0.1, 1e4])
@pytest.mark.parametrize("rate", [100.0, -1e4])
@pytest.mark.parametrize("n_steps", [1, 4])
def test_a_penalty_makes_the_minimiser_unique_at_any_rate(n_steps, rate, l2):
    parts, _ = drawn(np.random.default_rng(1), 2, 2, 6)
    solution = il.solve(il.MetaObjective.from_episodes(il.Episodes(parts), n_steps), rate, l2=l2)
    coef, _ = exact_minimiser(parts, rate, n_steps, l2)
    np.testing.assert_allclose(solution.coef, coef, rtol=0, atol=1e-8 * np.abs(coef).max())
    assert (solution.rank, solution.status) == (6, "unique")
    assert il.solve(il.KernelObjective.from_episodes(il.Episodes(parts), linear, n_steps), rate, l2=l2).rank == 4


@pytest.mark.parametrize("rate", [-0.3, 0.5, 100.0])
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("spectrum", [0, 2, 4, 6, 7])
def test_a_kernel_solution_has_as_many_digits_as_its_condition_says(spectrum, n_steps, rate):
    rng = np.random.default_rng(spectrum)
    for _ in range(3):
        parts, mix = drawn(rng, 3, 2, 3, spectrum)
        coef, _ = exact_minimiser(parts, rate, n_steps)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            path = il.solve(il.KernelObjective.from_episodes(il.Episodes(parts), linear, n_steps), rate)
        X = rng.standard_normal((20, 3)) @ mix
        error = np.abs(path.predict(X) - X @ coef).max() / np.abs(X @ coef).max()
        assert error < 50 * np.finfo(float).eps * path.condition
        assert error < 1e-4 or caught


@pytest.mark.parametrize("gap", [1e-1, 1e-3, 1e-5])
def test_nearly_equal_columns_lose_no_digits(gap):
    rng = np.random.default_rng(2)
    parts = []
    for _ in range(3):
        X = rng.standard_normal((4, 2))
        X[:, 1] = X[:, 0] + gap * X[:, 1]
        parts.append((X[:2], X[:2, 0], X[2:], rng.standard_normal(2)))
    coef, _ = exact_minimiser(parts, -0.3, 1)
    solution = il.solve(il.MetaObjective.from_episodes(il.Episodes(parts)), -0.3)
    assert np.abs(solution.coef - coef).max() < max(1e-12, 10 * np.finfo(float).eps / gap) * np.abs(coef).max()


@pytest.mark.parametrize(("noise", "status"), [(1e-3, "deficient"), (1e-8, "deficient"), (0.0, "nearest")])
def test_a_repeated_column_is_told_where_the_fit_is_close_but_not_exact(noise, status):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((40, 2))[:, [0, 1, 0]]
    y = X[:, 0] + noise * rng.standard_normal(40)
    episodes = il.Episodes([(X[:5], y[:5], X[5:], y[5:])])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solution = il.solve(il.MetaObjective.from_episodes(episodes), 0.1)
    assert (solution.status, len(caught), solution.loss > 0) == (status, int(status == "deficient"), noise > 0)


@pytest.mark.parametrize("gap", [1e-9, 1e-10, 1e-11, 1e-12])
def test_nearly_equal_columns_keep_their_rank_and_are_told(gap):
    rng = np.random.default_rng(4)
    X = rng.standard_normal((40, 2))
    X[:, 1] = X[:, 0] + gap * X[:, 1]
    episodes = il.Episodes([(X[:5], X[:5, 0], X[5:], rng.standard_normal(35))])
    with pytest.warns(il.IllConditionedWarning) if gap < 5e-10 else nullcontext():
        solution = il.solve(il.MetaObjective.from_episodes(episodes), 0.0)
    assert solution.rank == 2
    assert 0.1 / gap < solution.condition < 10 / gap


@pytest.mark.parametrize("adapt_lr", [-40.0, -3.0, 0.3, 2.0, 40.0])
def test_one_step_of_a_kernel_is_linear_in_the_rate_and_its_loss_a_parabola(adapt_lr):
    rng = np.random.default_rng(5)
    parts, mix = drawn(rng, 3, 3, 4)
    path = il.solve(il.KernelObjective.from_episodes(il.Episodes(parts), linear), 0.1)
    X, (X_support, y_support, *_) = rng.standard_normal((5, 4)) @ mix, parts[0]
    still, moved = path.predict(X), path.adapt(X, X_support, y_support, 1.0)
    np.testing.assert_allclose(
        path.adapt(X, X_support, y_support, adapt_lr), still + adapt_lr * (moved - still), rtol=1e-10, atol=1e-10
    )
    new = il.Episodes(drawn(rng, 2, 3, 4)[0])
    left, middle, right, there = path.test_loss(new, [-1.0, 0.0, 1.0, adapt_lr])
    parabola = middle + adapt_lr * (right - left) / 2 + adapt_lr**2 * (left + right - 2 * middle) / 2
    np.testing.assert_allclose(there, parabola, rtol=1e-9)


@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_early_rows_that_hardly_tell_columns_apart_cost_no_digits(gap, rate):
    rng = np.random.default_rng(6)
    X = rng.standard_normal((500, 3))
    X[:200, 1] = X[:200, 0] + gap * X[:200, 1]  # more rows than are kept before they are reduced
    y = X @ [1.0, -2.0, 0.5] + rng.standard_normal(500)
    parts = [(X[:4], y[:4], X[4:], y[4:])]
    coef, _ = exact_minimiser(parts, rate, 1)
    solution = il.solve(il.MetaObjective.from_episodes(il.Episodes(parts)), rate)
    np.testing.assert_allclose(solution.coef, coef, rtol=0, atol=1e-13 * np.abs(coef).max())
