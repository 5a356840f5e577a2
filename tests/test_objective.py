"""The laws of the meta-objective: it adds, scales, and forgets the order of its tasks."""

import dataclasses

import numpy as np
import pytest

import innerloop as il
import reference
from cases import RAGGED, SHORT, close, draw

RATES = [-1.5, 0.0, 0.4]
SIZES = {"few": RAGGED, "many": RAGGED * 40, "over": SHORT}


def gather(parts, n_steps=1):
    return il.MetaObjective.from_episodes(il.Episodes(parts), n_steps)


def assert_same(actual, expected, digits=11):
    assert actual.weight == pytest.approx(expected.weight, rel=1e-14)
    ours, theirs = il.solve_path(actual, RATES), il.solve_path(expected, RATES)
    assert close(ours.coef, theirs.coef, digits)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=10.0**-digits, atol=1e-24)
    np.testing.assert_array_equal(ours.status, theirs.status)


def features(sizes):
    return 9 if sizes is SHORT else 4


@pytest.mark.parametrize("n_steps", [1, 2])
@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_the_objective_of_all_tasks_is_the_sum_over_parts(sizes, n_targets, n_steps):
    parts = draw(sizes, features(sizes), n_targets)
    whole = gather(parts, n_steps)
    cut = len(parts) // 3
    pieces = [gather(parts[:cut], n_steps), gather(parts[cut:], n_steps)]
    assert_same(pieces[0] + pieces[1], whole)
    assert_same(pieces[1] + pieces[0], whole)
    assert (pieces[0] + pieces[1]).n_tasks == len(parts)


def test_sum_adds_any_number_of_objectives():
    parts = draw(RAGGED * 5, 4)
    total = sum([gather([part]) for part in parts])
    assert_same(total, gather(parts))
    assert total.n_tasks == len(parts)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_the_order_of_tasks_and_of_rows_does_not_matter(sizes):
    parts = draw(sizes, features(sizes))
    rng = np.random.default_rng(1)
    mixed = []
    for i in rng.permutation(len(parts)):
        Xs, ys, Xq, yq = parts[i]
        s, q = rng.permutation(len(ys)), rng.permutation(len(yq))
        mixed.append((Xs[s], ys[s], Xq[q], yq[q]))
    assert_same(gather(mixed), gather(parts))


@pytest.mark.parametrize("sizes", [RAGGED, RAGGED * 40], ids=["few", "many"])
def test_twice_an_objective_is_its_sum_with_itself_and_each_task_twice(sizes):
    parts = draw(sizes, 4)
    one = gather(parts)
    assert_same(2.0 * one, one + one)
    assert_same(one * 2, gather(parts + parts))
    once, twice = il.solve_path(one, RATES), il.solve_path(2.0 * one, RATES)
    assert close(twice.coef, once.coef, 12)
    np.testing.assert_allclose(twice.loss, once.loss, rtol=1e-12)


@pytest.mark.parametrize("weight", [0.25, 3.0, np.float64(7.0), 1e-20, 1e20])
def test_a_common_weight_changes_nothing(weight):
    one = gather(draw(RAGGED, 4))
    plain = il.solve_path(one, RATES, np.ones(4), l2=0.1)
    weighted = il.solve_path(weight * one, RATES, np.ones(4), l2=0.1)
    assert close(weighted.coef, plain.coef, 12)
    np.testing.assert_allclose(weighted.loss, plain.loss, rtol=1e-12)


def test_a_task_of_weight_three_counts_like_three_tasks():
    parts = draw(RAGGED, 4)
    weighted = gather(parts[1:]) + 3.0 * gather(parts[:1])
    assert_same(weighted, gather([parts[0]] * 3 + parts[1:]))


def test_weight_zero_drops_a_task():
    parts = draw(RAGGED, 4)
    assert_same(gather(parts[1:]) + 0.0 * gather(parts[:1]), gather(parts[1:]))
    with pytest.raises(ValueError, match="`objective` must have query rows of positive weight, got none"):
        il.solve(0.0 * gather(parts), 0.1)


@pytest.mark.parametrize("change", [lambda one: one + one, lambda one: one + 0.0 * one])
def test_repeated_and_dropped_tasks_leave_an_interpolant_nearest(change):
    one = gather(draw(SHORT, 9))
    assert_same(change(one), il.MetaObjective(**{**vars(one), "weight": change(one).weight}))


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_loss_is_half_the_mean_squared_query_error_after_adaptation(sizes, n_targets, n_steps):
    p = features(sizes)
    parts = draw(sizes, p, n_targets)
    rng = np.random.default_rng(2)
    objective = gather(parts, n_steps)
    for rate in RATES:
        coef = rng.standard_normal((p,) if n_targets is None else (p, n_targets))
        B, g, scale = objective.at(rate)
        residual = scale * (g - B @ coef.reshape(p, -1))
        loss = (residual**2).sum() / (2 * objective.weight * objective.n_targets)
        assert loss == pytest.approx(reference.meta_loss(parts, coef, rate, n_steps), rel=1e-11)


@pytest.mark.parametrize("sizes", [RAGGED, RAGGED * 40], ids=["few", "many"])
def test_rate_zero_is_pooled_least_squares_on_the_query_rows(sizes):
    parts = draw(sizes, 4)
    X, y = np.concatenate([part[2] for part in parts]), np.concatenate([part[3] for part in parts])
    pooled, squares, *_ = np.linalg.lstsq(X, y)
    for n_steps in (1, 2):
        solution = il.solve(gather(parts, n_steps), 0.0)
        assert close(solution.coef, pooled, 12)
        assert solution.loss == pytest.approx(squares[0] / (2 * len(y)), rel=1e-11)


@pytest.mark.parametrize("scale", [1e8, 1e-8, 1e30])
@pytest.mark.parametrize("sizes", [RAGGED, RAGGED * 40], ids=["few", "many"])
def test_the_units_of_a_feature_change_its_coefficient_only(sizes, scale):
    parts = draw(sizes, 4)
    units = np.array([1.0, scale, 1.0, 1.0])
    scaled = [(Xs * units, ys, Xq * units, yq) for Xs, ys, Xq, yq in parts]
    plain, other = il.solve(gather(parts), 0.0), il.solve(gather(scaled), 0.0)
    np.testing.assert_allclose(other.coef * units, plain.coef, rtol=1e-12)
    assert other.loss == pytest.approx(plain.loss, rel=1e-12)
    assert (other.status, other.rank) == (plain.status, plain.rank)
    assert other.condition == pytest.approx(plain.condition, rel=2)


@pytest.mark.parametrize("rate", RATES)
def test_the_units_of_a_column_of_the_factor_change_its_coefficient_only(rate):
    objective = gather(draw(RAGGED, 4), n_steps=2)
    units = np.array([1.0, 1e8, 1e-8, 1.0])
    factor = objective.factor * np.concatenate((np.tile(units, 3), np.ones(3)))
    plain, other = (il.solve(o, rate) for o in (objective, dataclasses.replace(objective, factor=factor)))
    np.testing.assert_allclose(other.coef * units, plain.coef, rtol=1e-11)
    assert other.loss == pytest.approx(plain.loss, rel=1e-12)


@pytest.mark.parametrize("unit", [1e8, 1e-8])
def test_the_units_of_the_target_scale_the_coefficients(unit):
    parts = draw(RAGGED, 4)
    scaled = [(Xs, unit * ys, Xq, unit * yq) for Xs, ys, Xq, yq in parts]
    plain, other = il.solve_path(gather(parts), RATES), il.solve_path(gather(scaled), RATES)
    assert close(other.coef / unit, plain.coef, 12)
    np.testing.assert_allclose(other.loss / unit**2, plain.loss, rtol=1e-11)


def test_every_target_is_solved_as_if_alone():
    parts = draw(RAGGED, 4, 3)
    together = il.solve_path(gather(parts), RATES, l2=0.1)
    losses = []
    for k in range(3):
        alone = il.solve_path(gather([(a, b[:, k], c, d[:, k]) for a, b, c, d in parts]), RATES, l2=0.1)
        assert close(together.coef[:, :, k], alone.coef, 12)
        losses.append(alone.loss)
    np.testing.assert_allclose(together.loss, np.mean(losses, axis=0), rtol=1e-12)


@pytest.mark.parametrize("n_steps", [1, 2, 3])
@pytest.mark.parametrize("rate", [1e20, -1e100, 1e300, -1.7e308])
def test_huge_rates_give_finite_coefficients(rate, n_steps):
    parts = [part for part in draw(RAGGED, 4) if len(part[0]) >= 4]
    solution = il.solve(gather(parts, n_steps), rate)
    assert np.isfinite(solution.coef).all()
    assert solution.loss > 0
    assert solution.status == "unique"
    assert close(solution.coef, il.solve(gather(parts, n_steps), np.sign(rate) * 1e18).coef, 9)


@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_a_perfect_fit_has_loss_zero_at_huge_rates(n_steps):
    parts = [(Xs, 0 * ys, Xq, 0 * yq) for Xs, ys, Xq, yq in draw(RAGGED, 4)]
    solution = il.solve(gather(parts, n_steps), 1e300)
    assert solution.loss == 0.0
    np.testing.assert_array_equal(solution.coef, np.zeros(4))


@pytest.mark.parametrize("n_steps", [1, 2])
def test_memory_is_bounded_whatever_the_number_of_tasks(n_steps):
    width = (n_steps + 1) * 5
    shapes = {gather(draw(RAGGED * times, 4), n_steps).factor.shape for times in (20, 60, 180)}
    assert max(rows for rows, _ in shapes) <= max(2 * width, 128)
    assert {columns for _, columns in shapes} == {width}
    added = sum([gather(draw(RAGGED * 3, 4, seed=i), n_steps) for i in range(30)])
    assert len(added.factor) <= max(2 * width, 128)


OTHERS = [
    lambda: gather(draw(RAGGED, 3)),
    lambda: gather(draw(RAGGED, 4, 2)),
    lambda: gather(draw(RAGGED, 4, 1)),
    lambda: gather(draw(RAGGED, 4), n_steps=2),
]


@pytest.mark.parametrize("other", OTHERS, ids=["features", "targets", "target shape", "steps"])
def test_objectives_of_different_kinds_do_not_add(other):
    with pytest.raises(ValueError, match=r"must agree in \(n_features, n_targets, n_steps, single_target\)"):
        gather(draw(RAGGED, 4)) + other()


REFUSED = [
    (lambda one: -1.0 * one, ValueError, "`weight` must be zero or positive, got -1"),
    (lambda one: np.nan * one, ValueError, "`weight` must be finite"),
    (lambda one: "two" * one, TypeError, "`weight` must hold numbers only"),
    (lambda one: one + 1, TypeError, "unsupported operand"),
    (
        lambda _: il.MetaObjective.from_episodes([1]),
        TypeError,
        r"`episodes` must be innerloop.Episodes, got list",
    ),
    (lambda _: il.MetaObjective.from_tasks([1]), TypeError, r"`tasks` must be a TaskSet or Episodes, got list"),
    (
        lambda _: il.MetaObjective.from_tasks(il.Episodes(draw(RAGGED, 2)), n_query=3),
        ValueError,
        "`n_support` and `n_query` are sizes of episodes still to be made of a TaskSet; got Episodes",
    ),
    (lambda _: gather(draw(RAGGED, 2), 0), ValueError, "`n_steps` must be at least 1, got 0"),
    (lambda _: gather(draw(RAGGED, 2), 1.5), TypeError, "`n_steps` must be a whole number, got 1.5"),
    (lambda _: gather(draw(RAGGED, 2), True), TypeError, "`n_steps` must be a whole number, got True"),
]


@pytest.mark.parametrize(("use", "error", "message"), REFUSED)
def test_misuse_is_refused_with_a_message(use, error, message):
    one = gather(draw(RAGGED, 4))
    with pytest.raises(error, match=message):
        use(one)


def test_operations_leave_their_operands_as_they_were():
    one, two = gather(draw(RAGGED, 4)), gather(draw(RAGGED, 4, seed=1))
    before = one.factor.copy(), two.factor.copy()
    _ = one + two, 3.0 * one, il.solve_path(one, RATES, l2=0.1)
    np.testing.assert_array_equal(one.factor, before[0])
    np.testing.assert_array_equal(two.factor, before[1])


@pytest.mark.parametrize("n_steps", [1, 2])
def test_below_the_threshold_dealt_rows_have_one_solution_at_every_rate(n_steps):
    tasks = il.MixedLinearRegression(n_features=40).sample_tasks(n_tasks=5, n_rows=6)
    objective = il.MetaObjective.from_episodes(tasks.deal(n_support=3), n_steps)
    path = il.solve_path(objective, [-1.0, -0.2, 0.0, 0.3, 1.0], init=np.ones(40))
    for coef in path.coef:
        assert close(coef, path.coef[2], 9)
    assert list(path.status) == ["nearest"] * 5


def test_a_numpy_weight_is_a_weight():
    objective = il.MetaObjective.from_episodes(il.MixedLinearRegression(3).sample_tasks(4, 6).deal(2))
    for weighted in (np.float64(2.0) * objective, objective * np.float32(2.0), np.int64(2) * objective):
        assert weighted.weight == 2 * objective.weight
        assert il.solve(weighted, -0.1).loss == pytest.approx(il.solve(objective, -0.1).loss)


@pytest.mark.parametrize("sizes", [{}, {"n_support": 4}, {"n_support": 4, "n_query": 3}, {"n_query": 3}])
def test_a_task_set_is_dealt_or_split_as_asked(sizes):
    tasks = il.MixedLinearRegression(3).sample_tasks(6, 9)
    episodes = tasks.split(seed=2, **sizes) if "n_query" in sizes else tasks.deal(seed=2, **sizes)
    expected = il.MetaObjective.from_episodes(episodes, n_steps=2)
    for found in (
        il.MetaObjective.from_tasks(tasks, n_steps=2, seed=2, **sizes),
        il.MetaObjective.from_tasks(episodes, n_steps=2),
    ):
        np.testing.assert_array_equal(found.factor, expected.factor)
        assert (found.weight, found.n_tasks) == (expected.weight, expected.n_tasks)
