"""The exact solver against slow references, and what it reports and refuses."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import innerloop as il
import reference
from cases import RAGGED, SHORT, close, draw
from innerloop.exact.solve import ridge_candidates

RATES = [-2.0, -0.5, 0.0, 0.1, 0.7, 2.0]
SHAPES = {"under": (RAGGED, 4), "many": (RAGGED * 40, 3), "over": (SHORT, 9)}


def objective(parts, n_steps=1):
    return il.MetaObjective.from_episodes(il.Episodes(parts), n_steps)


def some_init(p, n_targets, given):
    tail = () if n_targets is None else (n_targets,)
    return np.random.default_rng(7).standard_normal((p, *tail)) if given else None


@pytest.mark.slow
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("with_init", [False, True])
@pytest.mark.parametrize("n_targets", [None, 1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_path_equals_the_loop_over_tasks(n_steps, shape, n_targets, with_init, l2):
    sizes, p = SHAPES[shape]
    parts = draw(sizes, p, n_targets, seed=n_steps)
    init = some_init(p, n_targets, with_init)
    path = il.solve_path(objective(parts, n_steps), RATES, init, l2)
    for rate, coef, loss in zip(RATES, path.coef, path.loss, strict=True):
        assert coef.shape == ((p,) if n_targets is None else (p, n_targets))
        assert close(coef, reference.meta_coef(parts, rate, n_steps, init, l2), 10)
        direct = reference.meta_loss(parts, coef, rate, n_steps)
        assert loss == pytest.approx(direct, rel=1e-10, abs=1e-20)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_path_loses_no_more_digits_than_the_condition_number_has(n_steps, shape):
    sizes, p = SHAPES[shape]
    parts = draw(sizes, p, seed=3, spectrum=np.logspace(0, -6, p))
    path = il.solve_path(objective(parts, n_steps), RATES)
    if n_steps == 1 and shape != "over":
        assert path.condition.max() > 1e5
    for rate, coef, condition in zip(RATES, path.coef, path.condition, strict=True):
        digits = 14 - np.log10(max(condition, 1e4))
        assert close(coef, reference.meta_coef(parts, rate, n_steps), digits), rate


@pytest.mark.parametrize("n_targets", [None, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_candidates_are_the_minimisers(shape, n_targets):
    sizes, p = SHAPES[shape]
    own, penalties = objective(draw(sizes, p, n_targets), 2), np.array([0.0, 0.01, 3.0])
    expected = il.solve_path(own, np.array(RATES)[:, None], l2=penalties).coef
    found = ridge_candidates(own, np.array(RATES), penalties)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-7, atol=1e-9)


def test_path_takes_rates_and_penalties_of_any_shape():
    parts = draw(RAGGED, 3)
    rates, penalties = np.array([[0.1], [-0.4]]), np.array([0.0, 0.2, 1.0])
    path = il.solve_path(objective(parts), rates, l2=penalties)
    assert path.coef.shape == (2, 3, 3)
    assert path.loss.shape == path.rank.shape == path.condition.shape == path.status.shape == (2, 3)
    assert len(path) == 2
    for i, j in np.ndindex(2, 3):
        alone = il.solve(objective(parts), rates[i, 0], l2=penalties[j])
        entry = path[i, j]
        assert (entry.inner_lr, entry.l2) == (alone.inner_lr, alone.l2)
        np.testing.assert_array_equal(entry.coef, alone.coef)
        assert (entry.loss, entry.rank, entry.status) == (alone.loss, alone.rank, alone.status)
    with pytest.raises(IndexError, match=r"`index` must name one solution of a path of shape \(2, 3\)"):
        path[0]


def test_repeated_calls_give_the_same_bits():
    parts = draw(RAGGED * 30, 5)
    first, second = (il.solve_path(objective(parts), RATES).coef for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize("rate", [-0.5, 0.0, 0.3])
def test_too_few_rows_give_the_interpolant_nearest_to_init(rate, n_targets):
    parts = draw(SHORT, 9, n_targets)
    init = some_init(9, n_targets, given=True)
    solution = il.solve(objective(parts), rate, init)
    B, g = reference.query_problem(parts, rate)
    assert close(solution.coef, init + np.linalg.pinv(B) @ (g - B @ init), 11)
    assert close(B @ solution.coef, g, 12)
    assert (solution.status, solution.rank) == ("nearest", len(B))
    assert solution.loss < 1e-24


def test_nearest_is_meant_in_the_units_of_the_features():
    parts = draw(SHORT, 9)
    scale = np.logspace(-4, 4, 9)
    scaled = [(Xs * scale, ys, Xq * scale, yq) for Xs, ys, Xq, yq in parts]
    B, g = reference.query_problem(scaled, 0.0)
    expected = np.linalg.lstsq(B, g, rcond=1e-15)[0]
    assert close(il.solve(objective(scaled), 0.0).coef, expected, 8)


def test_enough_rows_give_a_unique_solution_whatever_the_init():
    problem = objective(draw(RAGGED, 4))
    plain, started = il.solve(problem, 0.2), il.solve(problem, 0.2, init=np.full(4, 100.0))
    assert close(started.coef, plain.coef, 12)
    assert (plain.status, plain.rank) == ("unique", 4)


@pytest.mark.parametrize("rate", [-1.0, 0.0, 0.4])
def test_a_growing_penalty_leads_from_the_unpenalised_solution_to_init(rate):
    problem, init = objective(draw(RAGGED, 4)), np.arange(4.0)
    assert close(il.solve(problem, rate, init, l2=1e-14).coef, il.solve(problem, rate).coef, 9)
    assert close(il.solve(problem, rate, init, l2=1e14).coef, init, 9)
    path = il.solve_path(problem, rate, init, l2=np.logspace(-3, 3, 7))
    assert (np.diff(np.linalg.norm(path.coef - init, axis=1)) < 0).all()
    assert (np.diff(path.loss) > 0).all()


def test_a_penalty_makes_the_solution_unique():
    solution = il.solve(objective(draw(SHORT, 9)), 0.1, l2=0.1)
    assert (solution.status, solution.rank, solution.l2) == ("unique", 9, 0.1)


@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-8])
def test_condition_is_that_of_columns_of_unit_length(gap):
    X = np.random.default_rng(0).standard_normal((60, 2))
    X[:, 1] = X[:, 0] + gap * X[:, 1]
    parts = [(X[:1], X[:1, 0], X * [1e6, 1e-6], X[:, 0])]
    assert 0.5 / gap < il.solve(objective(parts), 0.0).condition < 8 / gap


def test_orthogonal_columns_have_condition_one():
    X = np.kron(np.ones((5, 1)), np.eye(4)) * [1.0, 1e3, 1e-3, 7.0]
    solution = il.solve(objective([(X[:1], np.ones(1), X, np.arange(20.0))]), 0.0)
    assert 1.0 <= solution.condition < 2.0


def dependent(kind, sizes):
    def widen(X):
        if kind == "repeated":
            return np.column_stack((X, X[:, 0]))
        if kind == "zero":
            return np.column_stack((X, np.zeros(len(X))))
        if kind == "dummies":
            first = (np.arange(len(X)) % 2).astype(float)
            return np.column_stack((X[:, :1], first, 1 - first, np.ones(len(X))))
        return np.column_stack((X, X @ [1e-7, 1.0, 1e7]))

    return [(widen(Xs), ys, widen(Xq), yq) for Xs, ys, Xq, yq in draw(sizes, 3)]


@pytest.mark.parametrize("rate", [-0.5, 0.0, 0.1])
@pytest.mark.parametrize("sizes", [RAGGED, RAGGED * 40], ids=["few", "many"])
@pytest.mark.parametrize("kind", ["repeated", "zero", "dummies"])
def test_dependent_columns_warn_and_give_the_minimiser_nearest_to_init(kind, sizes, rate):
    parts, init = dependent(kind, sizes), np.arange(4.0)
    with pytest.warns(il.IllConditionedWarning, match=r"depend on each other \(rank 3 of 4\).*drop a column"):
        solution = il.solve(objective(parts), rate, init)
    assert (solution.status, solution.rank) == ("deficient", 3)
    assert solution.condition < 1e6
    assert close(solution.coef, reference.meta_coef(parts, rate, init=init), 9)


@pytest.mark.parametrize("sizes", [RAGGED, RAGGED * 40], ids=["few", "many"])
def test_a_sum_of_columns_of_unlike_units_is_recognised(sizes):
    with pytest.warns(il.IllConditionedWarning, match="rank 3 of 4"):
        solution = il.solve(objective(dependent("sum", sizes)), 0.0)
    assert np.isfinite(solution.coef).all()


def test_nearly_dependent_columns_warn_with_the_condition_number():
    X = np.random.default_rng(0).standard_normal((60, 2))
    X[:, 1] = X[:, 0] + 1e-11 * X[:, 1]
    with pytest.warns(il.IllConditionedWarning, match=r"at inner_lr=0 .* condition number \d\.\de\+1\d"):
        solution = il.solve(objective([(X[:1], X[:1, 0], X, X[:, 0])]), 0.0)
    assert solution.status == "unique"


def test_one_warning_serves_all_rates():
    problem = objective(dependent("repeated", RAGGED))
    with pytest.warns(il.IllConditionedWarning) as caught:
        il.solve_path(problem, RATES)
    assert len(caught) == 1


@pytest.mark.parametrize("call", [il.solve, il.solve_path])
def test_the_warning_points_at_the_caller(call):
    with pytest.warns(il.IllConditionedWarning) as caught:
        call(objective(dependent("repeated", RAGGED)), 0.1)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("sizes", [RAGGED, SHORT])
def test_well_conditioned_problems_do_not_warn(sizes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        il.solve_path(objective(draw(sizes, 8 if sizes is SHORT else 4)), RATES)


def test_the_penalty_that_the_warning_advises_silences_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        il.solve(objective(dependent("repeated", RAGGED)), 0.1, l2=1e-3)


@pytest.mark.slow
def test_a_collinear_solve_warns_before_and_after_fits_in_threads(monkeypatch):
    problem, rng = objective(dependent("repeated", RAGGED)), np.random.default_rng(0)
    X = rng.standard_normal((120, 3))
    X, y, groups = np.concatenate((X, X[:, :1]), axis=1), X.sum(axis=1) + rng.standard_normal(120), np.arange(120) % 12
    filtered = []

    def fit(_):
        il.MetaRegressor(adaptation="gradient", inner_lr=0.1, l2=0.0).fit(X, y, groups=groups)

    def simplefilter(action, category=Warning, **options):
        filtered.append(category)
        plain(action, category, **options)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plain = warnings.simplefilter
        monkeypatch.setattr(warnings, "simplefilter", simplefilter)
        il.solve(problem, 0.1)
        assert [w.category for w in caught] == [il.IllConditionedWarning]
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(fit, range(4)))
        il.solve(problem, 0.1)
        assert [w.category for w in caught] == [il.IllConditionedWarning] * 2
    # Filters are the whole process's: threads that set one and restore it may leave it set, if seldom.
    assert il.IllConditionedWarning not in filtered


REFUSED = [
    (
        {"inner_lr": np.nan},
        ValueError,
        r"`inner_lr` must be a finite number \(zero and negative are fine\), got nan",
    ),
    ({"inner_lr": -np.inf}, ValueError, "`inner_lr` must be a finite number .* got -inf"),
    ({"inner_lr": [0.1, 0.2]}, ValueError, r"`inner_lr` must be a single number, got shape \(2,\)"),
    ({"inner_lr": "fast"}, TypeError, "`inner_lr` must hold numbers only"),
    ({"inner_lr": 1j}, TypeError, "`inner_lr` must hold real numbers, got dtype complex"),
    ({"l2": -0.5}, ValueError, "`l2` must be zero or positive, got -0.5"),
    ({"l2": np.nan}, ValueError, "`l2` must be finite"),
    ({"l2": [0.1, 0.2]}, ValueError, "`l2` must be a single number"),
    (
        {"init": np.ones(3)},
        ValueError,
        r"`init` must have the shape of the coefficients, \(4,\), got \(3,\)",
    ),
    ({"init": np.ones((4, 1))}, ValueError, r"`init` must have the shape .* \(4,\), got \(4, 1\)"),
    ({"init": [0, 0, np.inf, 0]}, ValueError, "`init` must be finite, .* infinite at row 2"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED)
def test_solve_says_what_is_wrong_with_an_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        il.solve(objective(draw(RAGGED, 4)), **{"inner_lr": 0.1, **arguments})


@pytest.mark.parametrize("call", [il.solve, il.solve_path])
def test_what_is_no_objective_is_refused(call):
    episodes = il.Episodes(draw(RAGGED, 4))
    with pytest.raises(TypeError, match=r"must be a MetaObjective or a KernelObjective, got Episodes; .*from_episodes"):
        call(episodes, 0.1)


REFUSED_PATHS = [
    ({"inner_lrs": []}, "`inner_lrs` must hold at least one rate, got none"),
    ({"inner_lrs": [0.0, np.nan]}, r"`inner_lrs` must be finite, .* missing \(NaN\) at row 1"),
    ({"l2": [0.0, 1.0, 2.0]}, r"`l2` must broadcast with `inner_lrs`, got shapes \(3,\) and \(2,\)"),
    ({"l2": [0.0, -1.0]}, "`l2` must be zero or positive, got -1"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED_PATHS)
def test_solve_path_says_what_is_wrong_with_an_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        il.solve_path(objective(draw(RAGGED, 4)), **{"inner_lrs": [0.1, 0.2], **arguments})


def test_init_of_several_targets_has_a_column_for_each():
    with pytest.raises(ValueError, match=r"`init` .* \(4, 2\), got \(4,\)"):
        il.solve(objective(draw(RAGGED, 4, 2)), 0.1, init=np.ones(4))
