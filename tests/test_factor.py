"""Factors gathered block by block against numpy's QR and exact arithmetic."""

import numpy as np
import pytest

import innerloop as il
import reference
from cases import close, draw
from innerloop.exact import _factor, _refine, objective

RAGGED_BLOCKS = [(1, 3), (2, 60), (0, 7), (4, 1), (3, 200), (5, 2)]


def absorb(blocks):
    factor = _factor.Factor(blocks[0].shape[1])
    for block in blocks:
        factor.absorb(block)
    return factor.result()


def assert_factor_of(R, rows, n_blocks):
    """R'R = rows'rows in columns of unit length, to a few roundings per block."""
    size = np.linalg.norm(rows, axis=0)
    unit = 1 / np.where(size > 0, size, 1)
    tolerance = 1e-13 + n_blocks * rows.shape[1] * np.finfo(float).eps
    gram, expected = (R * unit).T @ (R * unit), (rows * unit).T @ (rows * unit)
    np.testing.assert_allclose(gram, expected, rtol=0, atol=tolerance)


BLOCKS = {
    "one": [500],
    "even": [100] * 30,
    "ragged": [1, 3, 700, 2, 50, 1, 1, 400, 0, 128, 127, 129],
    "rows one by one": [1] * 400,
}


@pytest.mark.parametrize("sizes", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("n_columns", [1, 4, 70])
def test_factor_has_the_gram_matrix_of_all_rows(sizes, n_columns):
    rng = np.random.default_rng(0)
    blocks = [rng.standard_normal((n, n_columns)) for n in sizes]
    R = absorb(blocks)
    assert_factor_of(R, np.concatenate(blocks), len(blocks))
    assert len(R) <= _factor.most_rows(n_columns)


def test_few_rows_are_kept_as_they_are():
    blocks = [np.random.default_rng(0).standard_normal((n, 5)) for n in (3, 0, 60, 20)]
    np.testing.assert_array_equal(absorb(blocks), np.concatenate(blocks))


def late(blocks):
    for block in blocks[:-2]:
        block[:, 2] = 0.0
    return blocks


def vanishing(blocks):
    for block in blocks[3:]:
        block[:, 2] = 0.0
    return blocks


def growing(blocks):
    return [block * 10.0 ** (2 * i) for i, block in enumerate(blocks)]


def shrinking(blocks):
    return [block * 10.0 ** (-2 * i) for i, block in enumerate(blocks)]


def zero(blocks):
    return [block * [1.0, 1.0, 0.0, 1.0] for block in blocks]


def scales(blocks):
    return [block * [1e-8, 1.0, 1e8, 1e3] for block in blocks]


def shifted(blocks):
    return [block + np.array([0.0, 1e8, 1.0, -1e8]) for block in blocks]


def repeated(blocks):
    return [block[:, [0, 1, 0, 3]] for block in blocks]


def late_difference(blocks):
    return [block[:, [0, 1, 0, 3]] for block in blocks[:-1]] + blocks[-1:]


def nearly_repeated_at_first(blocks):
    for block in blocks[:-1]:
        block[:, 1] = block[:, 0] + 1e-6 * block[:, 1]
    return blocks


def faint_late(blocks):
    return [block * [1.0, 1.0, 1e-30 if i < 5 else 1.0, 1.0] for i, block in enumerate(blocks)]


AWKWARD = [
    late,
    vanishing,
    growing,
    shrinking,
    zero,
    scales,
    shifted,
    repeated,
    late_difference,
    nearly_repeated_at_first,
    faint_late,
]


@pytest.mark.parametrize("change", AWKWARD)
def test_awkward_columns_keep_their_gram_matrix(change):
    rng = np.random.default_rng(0)
    blocks = change([rng.standard_normal((150, 4)) for _ in range(12)])
    R = absorb(blocks)
    assert np.isfinite(R).all()
    assert_factor_of(R, np.concatenate(blocks), len(blocks))


def test_empty_columns_stay_empty():
    rng = np.random.default_rng(0)
    R = absorb(zero([rng.standard_normal((150, 4)) for _ in range(12)]))
    np.testing.assert_array_equal(R[:, 2], 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [late, vanishing, scales, growing, shrinking, late_difference, nearly_repeated_at_first, shifted],
)
def test_awkward_columns_keep_the_least_squares_solution(change):
    rng = np.random.default_rng(1)
    blocks = change([rng.standard_normal((150, 4)) for _ in range(12)])
    X = np.concatenate(blocks)
    y = X @ (1 / np.abs(X).max(axis=0)) + 0.1 * rng.standard_normal(len(X))
    exact = reference.exact_least_squares(X, y)
    cuts = np.cumsum([len(block) for block in blocks])[:-1]
    R = absorb(np.split(np.column_stack((X, y)), cuts))
    size = np.linalg.norm(R[:, :4], axis=0)
    found = np.linalg.lstsq(R[:, :4] / size, R[:, 4], rcond=1e-15)[0]
    assert close(found, exact * size, 7 if change is shifted else 10)


@pytest.mark.parametrize("n_rows", [20, 3000], ids=["few", "many"])
def test_a_mean_of_1e8_leaves_seven_digits(n_rows):
    rng = np.random.default_rng(2)
    X = np.column_stack((np.round(1e8 + rng.standard_normal(n_rows), 3), np.ones(n_rows)))
    y = 3.0 * (X[:, 0] - 1e8) + rng.standard_normal(n_rows)
    exact = reference.exact_least_squares(X, y)
    pieces = np.array_split(np.arange(n_rows), 10)
    parts = il.Episodes([(X[:2], y[:2], X[rows], y[rows]) for rows in pieces])
    solution = il.solve(il.MetaObjective.from_episodes(parts), 0.0)
    np.testing.assert_allclose(solution.coef, exact, rtol=1e-7)


@pytest.mark.parametrize("n_rows", [40, 4000], ids=["few", "many"])
def test_columns_of_every_scale_keep_twelve_digits(n_rows):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((n_rows, 5)) * np.logspace(-8, 8, 5)
    y = X @ np.logspace(8, -8, 5) + rng.standard_normal(n_rows)
    exact = np.linalg.lstsq(X / np.logspace(-8, 8, 5), y)[0] / np.logspace(-8, 8, 5)
    parts = il.Episodes([(X[:0], y[:0], X[i::7], y[i::7]) for i in range(7)])
    solution = il.solve(il.MetaObjective.from_episodes(parts), 0.0)
    np.testing.assert_allclose(solution.coef, exact, rtol=1e-12)


@pytest.mark.parametrize("n_steps", [1, 2])
def test_rows_cut_into_many_blocks_give_the_solution_of_the_loop_over_tasks(monkeypatch, n_steps):
    parts = draw(RAGGED_BLOCKS * 20, 4)
    episodes = il.Episodes(parts)
    whole = il.MetaObjective.from_episodes(episodes, n_steps)
    blocks = il.Episodes.blocks
    monkeypatch.setattr(il.Episodes, "blocks", lambda self, max_rows: blocks(self, min(max_rows, 37)))
    assert len(list(objective.residual_columns(episodes, n_steps))) > 50
    cut = il.MetaObjective.from_episodes(episodes, n_steps)
    for rate in (-0.5, 0.0, 0.3):
        expected = reference.meta_coef(parts, rate, n_steps)
        assert close(il.solve(cut, rate).coef, expected, 11)
        assert close(il.solve(whole, rate).coef, expected, 11)


def test_a_feature_that_is_seen_in_the_last_tasks_only_is_fitted():
    parts = draw([(2, 30)] * 40, 4)
    parts = [(Xs * [1, 1, 0, 1], ys, Xq * [1, 1, 0, 1], yq) for Xs, ys, Xq, yq in parts] + draw([(3, 31)] * 3, 4)
    objective = il.MetaObjective.from_episodes(il.Episodes(parts))
    for rate in (-0.5, 0.0, 0.3):
        assert close(il.solve(objective, rate).coef, reference.meta_coef(parts, rate), 11)


def test_a_million_rows_worth_of_tasks_reduce_like_numpy_qr():
    rng = np.random.default_rng(4)
    blocks = [rng.standard_normal((20_000, 6)) for _ in range(8)]
    ours, theirs = absorb(blocks), np.linalg.qr(np.concatenate(blocks), mode="r")
    np.testing.assert_allclose(np.abs(ours.diagonal()), np.abs(theirs.diagonal()), rtol=1e-12)


@pytest.mark.parametrize("n_targets", [1, 3])
def test_refinement_gains_the_digits_that_the_condition_number_took(n_targets):
    rng = np.random.default_rng(5)
    x = rng.standard_normal(12)
    A = np.vander(x, 6, increasing=True)
    A[:, 5] += 1e3
    A /= np.linalg.norm(A, axis=0)
    b = rng.standard_normal((12, n_targets))
    exact = np.column_stack([reference.exact_least_squares(A, column) for column in b.T])
    rough = exact * (1 + 1e-6 * rng.standard_normal(exact.shape))
    np.testing.assert_allclose(_refine.refine(A, b, rough), exact, rtol=1e-14)


def test_residuals_are_exact_before_rounding():
    A, x = np.array([[1.0, 1e16, -1e16], [1 + 2.0**-30, 0.0, 0.0]]), np.array([[1.0], [1.0], [1.0]])
    terms = np.array([[1.0], [(1 + 2.0**-30) ** 2]])
    scaled = x * [[1 + 2.0**-30], [1.0], [1.0]]
    residual = _refine.exact_residual(A, scaled, terms)
    assert residual.tolist() == [[-(2.0**-30)], [-(2.0**-60)]]
