"""The dual form equals `MetaObjective` on explicit features at every rate; the ReLU kernel is that of wide networks."""

import numpy as np
import pytest

import innerloop as il
from innerloop import KernelObjective, ReluKernel
from innerloop.adaptation.rules import GradientSteps

RATES = [-1.3, -0.2, 0.0, 0.4, 2.0]


def phi(X):
    """Explicit features of three inputs: polynomials, 19 of them."""
    i, j = np.triu_indices(3)
    squares = X[..., i] * X[..., j]
    return np.concatenate((X, squares, squares**2 / 3, np.ones((*X.shape[:-1], 1))), axis=-1)


def kernel(X, Z):
    return phi(X) @ np.swapaxes(phi(Z), -1, -2)


def start(X):
    return np.sin(X).sum(axis=-1)


def draw(sizes, seed=0, n_targets=None):
    rng = np.random.default_rng(seed)
    shape = () if n_targets is None else (n_targets,)
    return il.Episodes(
        (
            rng.standard_normal((t, 3)),
            rng.standard_normal((t, *shape)),
            rng.standard_normal((v, 3)),
            rng.standard_normal((v, *shape)),
        )
        for t, v in sizes
    )


def featured(episodes, with_start):
    return il.Episodes(
        (phi(X), y - with_start * start(X), phi(V), v - with_start * start(V)) for X, y, V, v in episodes
    )


SIZES = {
    "fewer rows than features": [(5, 4), (5, 4), (5, 4)],
    "ragged": [(3, 4), (0, 2), (7, 1), (30, 5)],
    "more rows than features": [(4, 12), (6, 20)],
}


@pytest.mark.parametrize("l2", [0.0, 0.03])
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("with_start", [False, True])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_the_dual_equals_the_primal(sizes, with_start, n_steps, l2):
    # Large rates at three steps have condition numbers that the dual squares.
    rates = RATES if n_steps == 1 else [-0.02, 0.0, 0.03]
    episodes = draw(sizes)
    primal = il.solve_path(il.MetaObjective.from_episodes(featured(episodes, with_start), n_steps), rates, l2=l2)
    objective = KernelObjective.from_episodes(episodes, kernel, n_steps, start if with_start else None)
    dual = il.solve_path(objective, rates, l2=l2)
    new = np.random.default_rng(1).standard_normal((9, 3))
    expected = primal.coef @ phi(new).T + (start(new) if with_start else 0.0)
    size = np.abs(expected).max(axis=1, keepdims=True)
    is_squared = len(primal.coef[0]) < sum(v for _, v in sizes) and l2 == 0
    np.testing.assert_allclose(dual.predict(new) / size, expected / size, rtol=0, atol=1e-8 if is_squared else 1e-10)
    np.testing.assert_allclose(dual.loss, primal.loss, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("n_steps", [1, 2])
def test_new_tasks_adapt_as_explicit_coefficients_do(n_steps):
    path = il.solve_path(KernelObjective.from_episodes(draw(SIZES["fewer rows than features"]), kernel), RATES)
    coef = il.solve_path(
        il.MetaObjective.from_episodes(featured(draw(SIZES["fewer rows than features"]), False)), RATES
    ).coef
    new, adapt_lrs, expected = draw([(6, 3), (2, 5)], seed=7), [-0.1, 0.02], np.zeros((len(RATES), 2))
    for i, one in enumerate(coef):
        for j, rate in enumerate(adapt_lrs):
            errors = []
            for X, y, V, v in new:
                task = il.TaskSet.from_arrays(phi(X), y, np.zeros(len(X)))
                theta = GradientSteps(rate, n_steps).adapt(one, task)[0]
                errors.extend(v - phi(V) @ theta)
                found = path.adapt(V, X, y, rate, n_steps)[i]
                np.testing.assert_allclose(found, phi(V) @ theta, rtol=1e-7, atol=1e-7)
            expected[i, j] = np.mean(np.square(errors)) / 2
    np.testing.assert_allclose(path.test_loss(new, adapt_lrs, n_steps), expected, rtol=1e-8)


def test_runs_side_by_side_equal_runs_alone():
    runs, new = [draw([(3, 4), (5, 2)], seed) for seed in range(3)], [draw([(2, 6)], seed) for seed in range(3, 6)]
    together = il.solve_path(KernelObjective.from_episodes(runs, ReluKernel(), start=start), RATES, l2=0.1)
    losses = together.test_loss(new, [0.0, 0.3])
    assert losses.shape == (len(RATES), 2, 3)
    for i in range(3):
        alone = il.solve_path(KernelObjective.from_episodes(runs[i], ReluKernel(), start=start), RATES, l2=0.1)
        np.testing.assert_allclose(together.loss[:, i], alone.loss, rtol=1e-10)
        np.testing.assert_allclose(losses[..., i], alone.test_loss(new[i], [0.0, 0.3]), rtol=1e-10)


def test_several_targets_are_solved_side_by_side():
    episodes = draw([(3, 4), (5, 2)], n_targets=2)
    both = il.solve(KernelObjective.from_episodes(episodes, kernel), 0.3)
    assert both.predict(np.ones((4, 3))).shape == (4, 2)
    for k in range(2):
        one = il.Episodes((X, y[:, k], V, v[:, k]) for X, y, V, v in episodes)
        single = il.solve(KernelObjective.from_episodes(one, kernel), 0.3)
        np.testing.assert_allclose(both.predict(np.ones((4, 3)))[:, k], single.predict(np.ones((4, 3))), rtol=1e-8)


@pytest.mark.parametrize("trained", ["all", "last"])
def test_the_relu_kernel_is_the_mean_over_wide_networks(trained):
    rng, d, n, beta = np.random.default_rng(0), 3, 200_000, 0.7
    X = rng.standard_normal((4, d))
    W, b, v = rng.standard_normal((d, n)), rng.standard_normal(n), rng.standard_normal(n)
    u = X @ W / np.sqrt(d) + beta * b
    parts = 2 * np.maximum(u, 0)[:, None] * np.maximum(u, 0)
    if trained == "all":
        parts += 2 * (v**2 * (u > 0))[:, None] * (u > 0) * (X @ X.T / d + beta**2)[..., None]
    error = parts.std(axis=-1) / np.sqrt(n)
    assert (np.abs(parts.mean(axis=-1) + beta**2 - ReluKernel(beta, trained)(X, X)) < 4 * error).all()


def test_the_relu_kernel_of_opposite_and_of_zero_inputs():
    X = np.array([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    gram = ReluKernel(bias_std=0.0)(X, X)
    np.testing.assert_allclose(gram, np.diag([2.0, 2.0, 0.0]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"bias_std": -1.0}, "`bias_std` must be zero or positive"),
        ({"trained": "first"}, "`trained` must be 'all' or 'last', got 'first'"),
    ],
)
def test_a_bad_kernel_is_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        ReluKernel(**arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n_steps": 0}, "`n_steps` must be at least 1"),
        ({"kernel": lambda X, _: X}, r"`kernel` must return shape \(9, 9\) for these rows, got \(9, 3\)"),
        ({"kernel": lambda X, _: np.full((len(X), len(X)), np.nan)}, "`kernel` must be finite"),
        ({"start": lambda X: X}, r"`start` must return shape \(9, 1\)"),
        (
            {"episodes": [draw([(5, 4)]), draw([(1, 1)])]},
            "`episodes` of all runs must agree .* got other sizes in run 1",
        ),
        ({"episodes": []}, "`episodes` must hold at least one run, got none"),
    ],
)
def test_bad_tasks_are_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        KernelObjective.from_episodes(**{"episodes": draw([(5, 4)]), "kernel": kernel} | arguments)


@pytest.mark.parametrize(
    ("rates", "l2", "sentence"),
    [
        (np.inf, 0.0, "`inner_lrs` must be finite"),
        (0.1, -1.0, "`l2` must be zero or positive"),
        ([0.1, 0.2, 0.3], [1.0, 2.0], "`l2` must broadcast with `inner_lrs`"),
    ],
)
def test_bad_rates_are_one_sentence(rates, l2, sentence):
    with pytest.raises(ValueError, match=sentence):
        il.solve_path(KernelObjective.from_episodes(draw([(5, 4)]), kernel), rates, l2=l2)


def test_a_start_is_given_to_the_kernel_objective_and_not_to_solve():
    with pytest.raises(ValueError, match=r"`init` must be None for a KernelObjective.*start="):
        il.solve(KernelObjective.from_episodes(draw([(5, 4)]), kernel), 0.1, init=np.ones(9))


def test_a_place_on_the_path_is_the_solution_there():
    objective = KernelObjective.from_episodes(draw(SIZES["ragged"]), ReluKernel(), start=start)
    penalties = np.array([0.01, 0.1])
    path, new = il.solve_path(objective, np.array(RATES)[:, None], l2=penalties), draw([(3, 4)], 5)
    assert path.loss.shape == path.rank.shape == path.status.shape == (len(RATES), 2)
    alone = il.solve(objective, RATES[3], l2=penalties[1])
    assert alone.inner_lr.shape == alone.loss.shape == ()
    for one in (path[3, 1], alone):
        np.testing.assert_array_equal(one.coef, path.coef[3, 1])
        np.testing.assert_array_equal(one.predict(np.ones((2, 3))), path.predict(np.ones((2, 3)))[3, 1])
        np.testing.assert_allclose(one.test_loss(new, 0.2), path.test_loss(new, 0.2)[3, 1], rtol=1e-12)
    with pytest.raises(IndexError, match="must name one solution"):
        path[3]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_rank_and_condition_are_those_of_the_primal(sizes):
    episodes = draw(sizes)
    primal = il.solve(il.MetaObjective.from_episodes(featured(episodes, False)), 0.1)
    objective = KernelObjective.from_episodes(episodes, kernel)
    dual = il.solve(objective, 0.1)
    assert dual.rank == primal.rank
    s = np.linalg.svd(phi_after_adaptation(episodes, 0.1), compute_uv=False)[: primal.rank]
    expected = (s[0] / s[-1]) ** 2
    if dual.rank < objective.targets.shape[-2]:  # then the kernel of all rows is factored, and not squared
        eigenvalues = np.linalg.eigvalsh(kernel(objective.rows.X, objective.rows.X))
        expected = max(s[0] / s[-1], eigenvalues[-1] / eigenvalues[-primal.rank])
    assert 0.2 < dual.condition / expected < 5  # an estimate, of the 1-norm
    assert dual.status == "nearest"
    assert il.solve(objective, 0.1, l2=0.1).status == "unique"


def phi_after_adaptation(episodes, rate):
    """Return the rows that one inner step makes of the query features."""
    return np.concatenate([phi(V) - rate * phi(V) @ phi(X).T @ phi(X) / max(1, len(X)) for X, _, V, _ in episodes])


def test_rows_that_nearly_agree_are_a_warning():
    X = np.random.default_rng(0).standard_normal((4, 3))
    V = np.concatenate((X, X[:1] + 1e-6))
    objective = KernelObjective.from_episodes(il.Episodes([(X[:1], np.ones(1), V, np.arange(5.0))]), kernel)
    with pytest.warns(
        il.IllConditionedWarning, match=r"at inner_lr=0 the kernel matrix .* condition number \d\.\de\+1\d"
    ):
        il.solve(objective, 0.0)


def test_a_task_set_is_dealt_or_split_as_asked():
    tasks = il.TaskSet.from_arrays(
        np.random.default_rng(0).standard_normal((40, 3)), np.arange(40.0), np.arange(40) % 4
    )
    dealt, split = tasks.deal(3, seed=5), tasks.split(3, 2, seed=5)
    for expected, sizes in ((dealt, {"n_support": 3}), (split, {"n_support": 3, "n_query": 2})):
        one = KernelObjective.from_episodes(expected, kernel)
        other = KernelObjective.from_tasks(tasks, kernel, seed=5, **sizes)
        np.testing.assert_array_equal(one.gram, other.gram)
    np.testing.assert_array_equal(
        KernelObjective.from_tasks([split, split], kernel).gram,
        KernelObjective.from_episodes([split, split], kernel).gram,
    )
