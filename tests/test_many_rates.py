"""Many rates at once, of many features, against each rate by itself, loops over tasks and exact arithmetic."""

import warnings

import numpy as np
import pytest

import innerloop as il
import reference
from cases import RAGGED, SHORT, close, draw
from innerloop.exact import _many_rates
from innerloop.exact.objective import split_columns, step_coefficients
from test_exact_rationals import drawn, exact_minimiser

RATES = np.array([-2.0, -0.5, -0.5, 0.0, 0.1, 0.7, 2.0, 0.3, 0.2, 0.15])  # more than are refined together; one twice
EPS = np.finfo(float).eps
# Rows kept as they are, rows reduced to a triangle, fewer rows than features.
SHAPES = {"under": (RAGGED, 4), "many": (RAGGED * 40, 3), "over": (SHORT, 9)}


def objective(parts, n_steps=1):
    return il.MetaObjective.from_episodes(il.Episodes(parts), n_steps)


@pytest.fixture
def few_features(monkeypatch):
    """Solve problems of few features as those of many are, from two rates on."""
    monkeypatch.setattr(_many_rates, "is_small", lambda _: False)
    monkeypatch.setattr("innerloop.exact.objective.pays", lambda n_rates, *_: n_rates > 1)


def solved_together(problem, rates, l2=0.0):
    """Return which rates are solved together, not each by itself."""
    U, g = split_columns(problem.factor, problem.n_features, problem.n_targets)
    c, scales = (np.array(part) for part in zip(*(step_coefficients(a, problem.n_steps) for a in rates), strict=True))
    ridges = np.sqrt(problem.weight * l2) / scales
    return [one is not None for one in _many_rates.ManyRates(U).solve(c, ridges, np.einsum("nj,ijk->nik", c, g))]


def each_by_itself(problem, rates, init=None, l2=0.0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [il.solve(problem, a, init, b) for a, b in zip(rates, np.broadcast_to(l2, np.shape(rates)), strict=True)]


def assert_same(path, alone, digits=12, loss_atol=1e-28):
    for i, one in enumerate(alone):
        assert close(path.coef[i], one.coef, digits), (one.inner_lr, path.condition[i])
        assert (path.rank[i], path.status[i]) == (one.rank, one.status), one.inner_lr
        assert path.loss[i] == pytest.approx(one.loss, rel=1e-10, abs=loss_atol)


@pytest.mark.usefixtures("few_features")
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("n_targets", [None, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_minimisers_are_those_of_the_loop_over_tasks(n_steps, shape, n_targets, l2):
    sizes, p = SHAPES[shape]
    parts = draw(sizes, p, n_targets, seed=n_steps)
    init = np.random.default_rng(7).standard_normal(p if n_targets is None else (p, n_targets))
    problem = objective(parts, n_steps)
    assert sum(solved_together(problem, RATES, l2)) >= 6
    penalties = np.where(np.arange(len(RATES)) % 3, l2, 2 * l2)
    path = il.solve_path(problem, RATES, init, penalties)
    for rate, penalty, coef in zip(RATES, penalties, path.coef, strict=True):
        assert close(coef, reference.meta_coef(parts, rate, n_steps, init, penalty), 10)
    assert_same(path, each_by_itself(problem, RATES, init, penalties), digits=10)


@pytest.mark.usefixtures("few_features")
@pytest.mark.filterwarnings("ignore:at inner_lr")
@pytest.mark.parametrize("rates", [[-0.3, 0.0, 0.5], [100.0, -1e4, 1e4]], ids=["small", "large"])
@pytest.mark.parametrize(("n_tasks", "n_rows", "n_features"), [(4, 4, 3), (3, 2, 4)])
@pytest.mark.parametrize("spectrum", [0, 2, 4, 6, 8, 10, 12])
def test_solutions_have_as_many_digits_as_their_condition_says(spectrum, n_tasks, n_rows, n_features, rates):
    rng = np.random.default_rng(spectrum)
    parts, _ = drawn(rng, n_tasks, n_rows, n_features, spectrum)
    path = il.solve_path(objective(parts), rates)
    for one in path:
        if one.rank < min(n_tasks * n_rows, n_features):
            assert spectrum == 12
            continue
        coef, loss = exact_minimiser(parts, one.inner_lr, 1)
        assert np.abs(one.coef - coef).max() < 50 * EPS * one.condition * np.abs(coef).max()
        np.testing.assert_allclose(one.loss, loss, rtol=max(1e-9, 100 * EPS * one.condition))


@pytest.mark.parametrize("spectrum", [0, 1, 2, 3, 5, 6])
@pytest.mark.parametrize("n_steps", [1, 2])
def test_what_is_solved_together_is_as_good_as_least_squares(n_steps, spectrum):
    p = 12
    parts = draw([(6, 8)] * 20, p, seed=2, spectrum=np.logspace(0, -spectrum, p))
    problem = objective(parts, n_steps)
    U, g = split_columns(problem.factor, p, 1)
    c = np.array([step_coefficients(a, n_steps)[0] for a in RATES])
    found = _many_rates.ManyRates(U).solve(c, np.zeros(len(c)), np.einsum("nj,ijk->nik", c, g))
    assert any(found) or spectrum > 3
    for rate, one in zip(RATES, found, strict=True):
        B, targets, _ = problem.at(rate)
        if one is not None:
            expected = np.linalg.lstsq(B, targets, rcond=None)[0]
            assert close(one.step, expected, 14 - np.log10(one.condition))
            assert one.condition == pytest.approx(il.solve(problem, rate).condition, rel=2)


@pytest.mark.usefixtures("few_features")
@pytest.mark.parametrize("sizes", [[(4, 9)] * 3, [(4, 9)] * 40], ids=["few", "many"])
def test_a_rate_at_which_steps_cancel_a_feature_is_solved_by_itself(sizes):
    rng = np.random.default_rng(3)
    support = np.diag([2.0, 1.0, 1.0, 0.5])  # of every task: the step of rate 1 leaves nothing of the first feature
    parts = [(support, rng.standard_normal(4), rng.standard_normal((n, 4)), rng.standard_normal(n)) for _, n in sizes]
    problem, rates = objective(parts), np.array([-1.0, 0.5, 1.0, 1 + 1e-9, 1 + 1e-15, 3.0])
    alone = each_by_itself(problem, rates)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = il.solve_path(problem, rates)
    if len(sizes) == 3:
        assert (path.rank[2], path.status[2]) == (3, "deficient")
    assert_same(path, alone)
    np.testing.assert_array_equal(path.coef[2], alone[2].coef)
    assert [*np.flatnonzero(solved_together(problem, rates))] == [0, 1, 5]


@pytest.mark.usefixtures("few_features")
@pytest.mark.parametrize("gap", [0.0, 1e-13, 1e-9, 1e-7, 1e-4, 1e-2])
def test_a_rate_at_which_steps_nearly_cancel_a_direction_is_solved_by_itself(gap):
    rng = np.random.default_rng(4)
    turn = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    support = (turn * np.sqrt([0.9, 1.0, 2.0, 0.3, 3.0])) @ turn.T * np.sqrt(5)
    parts = [(support, rng.standard_normal(5), rng.standard_normal((8, 5)), rng.standard_normal(8)) for _ in range(30)]
    problem, rate = objective(parts), (1 + gap) / 3.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = il.solve_path(problem, [rate, 0.1])
    alone = each_by_itself(problem, [rate, 0.1])
    assert solved_together(problem, [rate, 0.1]) == [gap > 1e-6, True]
    if gap > 1e-12:  # else the direction is rounding, and solutions are arbitrary along it
        assert_same(path, alone, 12 + np.log10(gap))
    if gap < 1e-6:
        np.testing.assert_array_equal(path.coef[0], alone[0].coef)
        assert path.status[0] == alone[0].status


def test_no_rank_is_told_of_products_that_cancel():
    """Targets of zero have a solution of zero at once, whatever is wrong with the matrix."""
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    for vectors in (np.eye(4), turn):
        support = vectors * np.sqrt([0.9, 0.3, 2.0, 3.0]) @ vectors.T * 2
        parts = [(support, np.zeros(4), rng.standard_normal((9, 4)), np.zeros(9)) for _ in range(40)]
        near = (1 + np.array([1e-8, -1e-8, 1e-9, -1e-9, 1e-12, -1e-12, 1e-15, 0.0])) / 3
        assert not any(solved_together(objective(parts), near))
        assert all(solved_together(objective(parts), [0.0, 0.3, 0.35, 1.0]))


@pytest.mark.parametrize(("noise", "expected"), [(1e-3, True), (1e5, False)])
def test_solutions_to_be_refined_exactly_are_left_to_it(noise, expected):
    Q = np.linalg.qr(np.random.default_rng(8).standard_normal((30, 5)))[0]
    U = np.stack((Q[:, :4] * [1.0, 0.1, 1e-2, 1e-3] @ Q[:4, :4], np.zeros((30, 4))), axis=1)
    targets = U[:, 0].sum(axis=1) + noise * Q[:, 4]
    (found,) = _many_rates.ManyRates(U).solve(np.array([[1.0, -0.3]]), np.zeros(1), targets[None, :, None])
    assert (found is not None) == expected
    if found is not None:
        assert close(found.step[:, 0], np.ones(4), 11)


@pytest.mark.usefixtures("few_features")
@pytest.mark.parametrize("sizes", [RAGGED, RAGGED * 40], ids=["few", "many"])
def test_dependent_columns_are_told_at_every_rate(sizes):
    parts = [(Xs[:, [0, 1, 0]], ys, Xq[:, [0, 1, 0]], yq) for Xs, ys, Xq, yq in draw(sizes, 3)]
    problem, init = objective(parts), np.arange(3.0)
    with pytest.warns(il.IllConditionedWarning, match=r"rank 2 of 3"):
        path = il.solve_path(problem, RATES, init)
    assert_same(path, each_by_itself(problem, RATES, init))
    assert not any(solved_together(problem, RATES))


@pytest.mark.usefixtures("few_features")
@pytest.mark.parametrize("l2", [0.0, 1e-12, 1e-6, 1.0, 1e6, 1e300, 1e305])
@pytest.mark.parametrize("sizes", [SHORT, RAGGED], ids=["few", "many"])
def test_any_penalty_gives_the_minimiser(sizes, l2):
    parts, init = draw(sizes, 9), np.arange(9.0)
    problem = objective(parts)
    path = il.solve_path(problem, RATES, init, l2)
    assert_same(path, each_by_itself(problem, RATES, init, l2), 9, 1e-13)


@pytest.mark.usefixtures("few_features")
@pytest.mark.parametrize("n_steps", [1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_rates_of_any_size_are_solved(shape, n_steps):
    sizes, p = SHAPES[shape]
    # A support row of zeros is none, also to the exact minimiser.
    parts = [p if len(p[1]) else (np.zeros((1, p[2].shape[1])), np.zeros(1), *p[2:]) for p in draw(sizes, p)[:7]]
    problem, rates = objective(parts, n_steps), [-1e20, -1e8, -30.0, 1e-300, 30.0, 1e8, 1e20]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = il.solve_path(problem, rates)
    for i, (together, one) in enumerate(
        zip(solved_together(problem, rates), each_by_itself(problem, rates), strict=True)
    ):
        if together:  # where rows are few and of unlike sizes these keep digits that solving each by itself loses
            coef, _ = exact_minimiser(parts, rates[i], n_steps)
            assert close(path.coef[i], coef, 14 - np.log10(max(path.condition[i], 10.0)))
            assert path.rank[i] == min(sum(len(part[3]) for part in parts), p)
        else:
            np.testing.assert_array_equal(path.coef[i], one.coef)


@pytest.mark.usefixtures("few_features")
@pytest.mark.parametrize("exponent", [2, 4, 8, 20])
@pytest.mark.parametrize("shape", SHAPES)
def test_units_of_features_do_not_matter(shape, exponent):
    sizes, p = SHAPES[shape]
    scale = np.logspace(-exponent, exponent, p)
    parts = [(Xs * scale, ys, Xq * scale, yq) for Xs, ys, Xq, yq in draw(sizes, p)]
    problem = objective(parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = il.solve_path(problem, [0.0, 1e-3])
    for i, one in enumerate(each_by_itself(problem, [0.0, 1e-3])):
        assert close(path.coef[i] * scale, one.coef * scale, 9)
        assert (path.rank[i], path.status[i]) == (one.rank, one.status)


@pytest.mark.usefixtures("few_features")
def test_a_fit_up_to_rounding_has_no_loss():
    w, rng = np.arange(1.0, 4.0), np.random.default_rng(0)
    X = rng.standard_normal((30, 8, 3))
    problem = objective([(x[:4], x[:4] @ w, x[4:], x[4:] @ w) for x in X])
    path = il.solve_path(problem, RATES)
    assert all(solved_together(problem, RATES))
    np.testing.assert_array_equal(path.loss, 0.0)
    np.testing.assert_allclose(path.coef, np.broadcast_to(w, path.coef.shape), rtol=1e-12)


@pytest.mark.usefixtures("few_features")
def test_a_small_target_keeps_its_digits_beside_a_large_one():
    parts = draw(RAGGED * 10, 4, 2)
    scale = np.array([1e12, 1e-12])
    problem = objective([(Xs, ys * scale, Xq, yq * scale) for Xs, ys, Xq, yq in parts])
    path = il.solve_path(problem, RATES)
    for rate, coef in zip(RATES, path.coef, strict=True):
        expected = reference.meta_coef(parts, rate)
        assert close(coef[:, 0] / scale[0], expected[:, 0], 12)
        assert close(coef[:, 1] / scale[1], expected[:, 1], 12)


@pytest.mark.usefixtures("few_features")
def test_no_data_and_zeros_are_no_special_cases():
    rows = [(np.zeros((2, 3)), np.zeros(2), np.zeros((5, 3)), np.arange(5.0))] * 3
    with pytest.warns(il.IllConditionedWarning, match="rank 0 of 3"):
        path = il.solve_path(objective(rows), RATES)
    np.testing.assert_array_equal(path.coef, 0.0)
    targets = [(Xs, 0 * ys, Xq, 0 * yq) for Xs, ys, Xq, yq in draw(RAGGED, 3)]
    path = il.solve_path(objective(targets), RATES)
    np.testing.assert_array_equal(path.coef, 0.0)
    np.testing.assert_array_equal(path.loss, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("l2", [0.0, 1e-2])
@pytest.mark.parametrize("n_tasks", [30, 120, 260], ids=["over", "rows", "triangle"])
def test_many_features_are_solved_together_whichever_other_rates_there_are(n_tasks, l2):
    p, n, rng = 410, 8, np.random.default_rng(5)
    X = rng.standard_normal((n_tasks, 2 * n, p))
    y = np.einsum("ijk,ik->ij", X, 1 + 0.1 * rng.standard_normal((n_tasks, p))) + rng.standard_normal(X.shape[:2])
    problem = objective([(x[:n], t[:n], x[n:], t[n:]) for x, t in zip(X, y, strict=True)])
    rates = np.linspace(-2, 2, 11) * n / p
    if n_tasks == 30:  # fewer rows than count as many
        assert not _many_rates.pays(11, *problem.at(0.0)[0].shape, 1)
        return
    path, some = il.solve_path(problem, rates, l2=l2), il.solve_path(problem, rates[::2], l2=l2)
    assert all(solved_together(problem, rates, l2))
    assert_same(path, each_by_itself(problem, rates, l2=l2))
    for coef, again in zip(path.coef[::2], some.coef, strict=True):
        assert close(again, coef, 13)
    np.testing.assert_array_equal(il.solve_path(problem, rates, l2=l2).coef, path.coef)


@pytest.mark.parametrize("size", [1e160, 1e-170, 0.0])
def test_numbers_whose_squares_leave_the_range_are_left_to_each_rate(size):
    U = size * np.random.default_rng(0).standard_normal((7, 2, 3))
    c, targets = np.array([[1.0, -0.3], [1.0, 0.2]]), np.ones((2, 7, 1))
    assert _many_rates.ManyRates(U).solve(c, np.zeros(2), targets) == [None, None]


def test_the_products_are_formed_where_they_save_operations():
    assert not _many_rates.pays(1, 4002, 2000, 1)  # one rate is factored by itself
    assert _many_rates.pays(3, 4002, 2000, 1)
    assert not _many_rates.pays(40, 22011, 2000, 10)
    assert _many_rates.pays(80, 22011, 2000, 10)
    assert not _many_rates.pays(1000, 400, 2000, 1)  # few rows or features: the same bits alone and with others
    assert not _many_rates.pays(1000, 4000, 400, 1)
