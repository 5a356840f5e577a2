"""Expected losses: limits, identities, small Monte Carlo, and what is refused."""

import re

import numpy as np
import pytest

import innerloop as il
from innerloop.theory import deterministic
from innerloop.theory.adapting import AdaptedLoss
from innerloop.theory.anchors import overparameterised_task_part, pooled_task_part
from innerloop.theory.covariance import GeneralError
from innerloop.theory.deterministic import isotropic_parts
from innerloop.theory.spectrum import wishart_spectrum

P = 60
DIST = il.MixedLinearRegression(P, 1.0, 0.5)
DESIGN = il.Design(3, 30, 2, 20)


def features_only(sizes, s, sw, d0, sigma2, rate, n_runs, seed=0):
    """Monte Carlo that averages task weights, noise and the signs of the start exactly: E(omega* - w0)_j^2 by draw."""
    rng, p = np.random.default_rng(seed), len(s)
    draws = []
    for _ in range(n_runs):
        rows, noises = [], []
        for group in sizes.groups:
            for _ in range(group.n_tasks):
                X, B = (rng.standard_normal((n, p)) * np.sqrt(s) for n in (group.n_support, group.n_query))
                passed = np.zeros((group.n_query, group.n_support))
                for _ in range(sizes.n_steps):
                    step = rate / group.n_support * B @ X.T
                    passed, B = passed + step, B - step @ X
                rows.append(B)
                noises.append(passed)
        B = np.concatenate(rows)
        Z = np.linalg.solve(B.T @ B + sizes.l2 * len(B) * np.eye(p), B.T) if sizes.l2 else np.linalg.pinv(B)
        total = (np.eye(p) - Z @ B) ** 2 @ d0 + sigma2 * (Z**2).sum(axis=1)
        low = 0
        for B_i, passed in zip(rows, noises, strict=True):
            part = Z[:, low : low + len(B_i)]
            total += (part @ B_i) ** 2 @ sw + sigma2 * ((part @ passed) ** 2).sum(axis=1)
            low += len(B_i)
        draws.append(total)
    return np.array(draws)


TWO = np.repeat([0.4, 1.6], 20)
SETTINGS = {
    "over": (il.Design(3, 40, 6, 20), np.ones(40), -0.4),
    "over, few support rows": (il.Design(10, 5, 2, 20), np.ones(40), 0.3),
    "under": (il.Design(3, 40, 20, 20), np.ones(40), -0.4),
    "under, three steps": (il.Design(8, 40, 10, 20, n_steps=3), np.ones(40), -0.2),
    "ridge": (il.Design(3, 40, 13, 20, l2=0.05), np.ones(40), 0.3),
    "ragged": (il.Design(3, [20, 50, 80], [4, 8, 12], 20), np.ones(40), -0.5),
    "ragged, under": (il.Design(3, [20, 50, 80], [30, 40, 50], 20), np.ones(40), -0.5),
    "covariance": (il.Design(3, 40, 6, 20), TWO, -0.4),
    "covariance, under, two steps": (il.Design(4, 40, 20, 20, n_steps=2), TWO, 0.1),
    "covariance, ridge": (il.Design(4, 40, 8, 20, l2=0.1), TWO, 0.3),
}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", SETTINGS)
def test_against_monte_carlo(name):
    design, s, rate = SETTINGS[name]
    p, covariance = len(s), None if (s == 1).all() else s
    dist = il.MixedLinearRegression(p, 1.0, 0.7, covariance=covariance)
    init = np.full(p, 0.1)
    draws = features_only(design, s, dist.task_variances, init**2, 1.0, rate, 500)
    directions = AdaptedLoss.build(dist, design)
    if covariance is None:
        draws = draws.sum(axis=1, keepdims=True)
    simulated = directions(np.full(len(draws), 0.2), draws)
    expected = il.expected_loss(dist, design, rate, 0.2, init)
    error = simulated.std(ddof=1) / np.sqrt(len(simulated))
    assert abs(expected - simulated.mean()) < 3 * error + 0.005 * expected


def test_broadcasting_and_scalars():
    assert isinstance(il.expected_loss(DIST, DESIGN, 0.1, 0.2), float)
    grid = il.expected_loss(DIST, DESIGN, np.linspace(-1, 1, 5)[:, None], np.linspace(0, 1, 3))
    assert grid.shape == (5, 3)
    assert grid[4, 1] == il.expected_loss(DIST, DESIGN, 1.0, 0.5)
    per_direction = il.MixedLinearRegression(4, 1.0, [0.1, 0.2, 0.3, 0.4])
    grid = il.expected_loss(per_direction, il.Design(2, 3, 8, 5), np.zeros((2, 1)), np.zeros(3))
    assert grid.shape == (2, 3)


@pytest.mark.parametrize(
    ("design", "rate"),
    [
        (il.Design(3, 60, 10, 20), 0.3),
        (il.Design(3, 60, 30, 20), -0.4),
        (il.Design(3, 60, 10, 20, n_steps=3), 0.2),
        (il.Design(3, 30, 30, 20, n_steps=2), -0.1),
        (il.Design(3, 60, 20, 20, l2=0.08), 0.2),
        (il.Design(2, [20, 80], [5, 15], 20), 0.2),
        (il.Design(3, [20, 20, 80], [10, 10, 50], 20), -0.2),
        (il.Design(1, 60, 90, 20), -0.3),
    ],
    ids=str,
)
def test_general_covariance_reproduces_the_identity(design, rate):
    dist = il.MixedLinearRegression(P, 1.0, 1.0)
    general = GeneralError(dist, design, np.full(P, 1 / P)).large_p_parts(rate)
    for values, part in zip(general, isotropic_parts(design, P, rate, finite=False), strict=True):
        assert values.sum() == pytest.approx(part, rel=1e-12, abs=1e-12)


def test_an_array_of_equal_task_stds_is_the_number():
    array = il.MixedLinearRegression(P, 1.0, np.full(P, 0.5 / np.sqrt(P)), covariance=np.ones(P))
    assert il.expected_loss(array, DESIGN, -0.3, 0.2) == pytest.approx(
        il.expected_loss(DIST, DESIGN, -0.3, 0.2), rel=1e-13
    )


def test_units_of_the_features_do_not_matter():
    scaled = il.MixedLinearRegression(P, 1.0, 0.5 / 2, covariance=np.full(P, 4.0))
    for design in (DESIGN, il.Design(3, 60, 30, 20, n_steps=2)):
        assert il.expected_loss(scaled, design, -0.3 / 4, 0.2 / 4) == pytest.approx(
            il.expected_loss(DIST, design, -0.3, 0.2), rel=1e-10
        )


@pytest.mark.parametrize(
    "design", [il.Design(4, 30, 5, 20), il.Design(4, 30, 40, 20), il.Design(4, 30, 15, 20, l2=0.1)]
)
def test_ragged_with_equal_sizes_is_uniform(design):
    ragged = il.Design(4, [30] * 4, [design.n_query] * 4, 20, l2=design.l2)
    nearly = il.Design(4, [30, 30, 30, 31], [design.n_query] * 4, 20, l2=design.l2)
    uniform = il.expected_loss(DIST, design, -0.4, 0.2)
    assert il.expected_loss(DIST, ragged, -0.4, 0.2) == uniform
    assert il.expected_loss(DIST, nearly, -0.4, 0.2) == pytest.approx(uniform, rel=5e-3)


def test_small_penalties_lead_to_none():
    for design in (il.Design(3, 30, 10, 20), il.Design(3, 30, 60, 20)):
        none = il.expected_loss(DIST, design, -0.4, 0.2)
        small = il.Design(3, 30, design.n_query, 20, l2=1e-12)
        assert il.expected_loss(DIST, small, -0.4, 0.2) == pytest.approx(none, rel=2e-3)


def test_leading_order_is_the_limit():
    dist = il.MixedLinearRegression(4000, 1.0, 0.5)
    few = il.Design(2, 2000, 2, 20)
    exact, leading = (isotropic_parts(few, 4000, 0.4), il.expected_loss(dist, few, 0.4, 0.0, method="leading-order"))
    assert 0.5 * (1 + 0.25 + exact.noise + 0.25 * exact.tasks) == pytest.approx(leading, rel=1e-5)
    dist = il.MixedLinearRegression(20, 1.0, 0.5)
    many = il.Design(4000, 20, 20, 20)
    error = il.expected_loss(dist, many, 0.4, 0.0) - 0.5 * 1.25
    assert error == pytest.approx(il.expected_loss(dist, many, 0.4, 0.0, method="leading-order") - 0.625, rel=0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_task_parts_without_inner_loop_are_exact():
    p, rng = 8, np.random.default_rng(0)
    for n_query, n_tasks in ((2, 2), (8, 3)):
        draws = []
        for _ in range(20_000):
            X = rng.standard_normal((n_tasks, n_query, p))
            Z = np.linalg.pinv(X.reshape(-1, p))
            draws.append(((Z[:, :n_query] @ X[0]) ** 2).sum() / p)
        part = overparameterised_task_part if n_query * n_tasks < p else pooled_task_part
        error = np.std(draws) / np.sqrt(len(draws))
        assert abs(np.mean(draws) - part(n_query, n_query * n_tasks, p)) < 4 * error


def test_the_task_part_does_not_depend_on_the_rate_with_fewer_rows_than_features():
    parts = [isotropic_parts(il.Design(3, 30, 10, 20, n_steps=2), P, rate).tasks for rate in (-2, 0, 0.3, 1)]
    assert len(set(parts)) == 1


@pytest.mark.parametrize(
    ("sizes", "simulated", "se"),
    [
        ((20, 3, 3, 8), 1.804, 0.014),
        ((20, 2, 30, 10), 1.0283, 0.0018),
        ((12, 5, 1, 5), 1.679, 0.018),
        ((60, 3, 30, 60), 4.136, 0.004),
    ],
)
def test_slope_at_zero_against_paired_monte_carlo(sizes, simulated, se):
    p, n_tasks, n_query, n_support = sizes
    n_rows = n_tasks * n_query
    exact = 2 * min(n_rows, p) / (abs(p - n_rows) - 1)
    assert abs(exact - simulated) < 3 * se
    design, dist = il.Design(n_tasks, n_support, n_query, 20), il.MixedLinearRegression(p, 1.0, 0.7)
    best = il.optimal_rates(dist, design)
    weight = AdaptedLoss.build(dist, design).weights[:, 0] @ best.adapt_lr_no_inner ** np.arange(3)
    assert best.slope_at_zero == pytest.approx(0.5 * weight * exact, rel=1e-12)
    step = 1e-4
    losses = il.expected_loss(dist, design, [-step, step], best.adapt_lr_no_inner)
    assert (losses[1] - losses[0]) / (2 * step) == pytest.approx(best.slope_at_zero, rel=0.02)


def test_in_context_learning_is_one_step_at_the_best_rate():
    # Linear attention's in-context regression with endless data: 2 L at the best rate, known centre, T = 1.
    for alpha, rho, known in ((1, 0.1, 0.62381), (2, 0.25, 0.63462)):
        loss = AdaptedLoss(rho, np.ones(1), np.array([[1.0], [-2.0], [1 + 1 / alpha]]), np.array([0, 0, 1 / alpha]))
        rate = loss.best_rate(np.zeros(1))
        twice = 2 * float(loss(np.array(rate), np.zeros(1)))
        assert round(twice, 5) == known
        assert twice == pytest.approx(rho + 1 - 1 / (1 + (1 + rho) / alpha), rel=1e-14)


@pytest.mark.usefixtures("one_thread")
def test_adaptation_with_several_steps_against_monte_carlo():
    p, n, K, r = 10, 15, 3, 0.4
    s = np.linspace(0.3, 1.7, p)
    rng, draws = np.random.default_rng(0), []
    X = rng.standard_normal((40_000, n, p)) * np.sqrt(s)
    S = np.einsum("rni,rnj->rij", X, X) / n
    A = np.linalg.matrix_power(np.eye(p) - r * S, K)
    draws = np.einsum("rij,i,rij->rj", A, s, A)
    loss = AdaptedLoss.build(
        il.MixedLinearRegression(p, 1.0, np.full(p, 0.1), covariance=s), il.Design(2, 5, 5, n, n_adapt_steps=K)
    )
    weights, passed = loss._at(np.array(r))
    assert (np.abs(draws.mean(axis=0) - weights) < 4 * draws.std(axis=0) / 200).all()
    G = r * sum(np.linalg.matrix_power(np.eye(p) - r * S, k) for k in range(K)) @ X.transpose(0, 2, 1) / n
    noise = np.einsum("i,rij,rij->r", s, G, G)
    assert abs(noise.mean() - passed) < 4 * noise.std() / 200


@pytest.mark.usefixtures("one_thread")
def test_fourth_moment_of_the_features():
    p, n, r = 12, 6, 0.3
    for fourth_moment in (1.0, 9.0):
        dist = il.MixedLinearRegression(p, 1.0, 0.5, fourth_moment=fourth_moment)
        rng = np.random.default_rng(1)
        X = dist.draw_features(np.empty((30_000 * n, p)), rng).reshape(-1, n, p)
        A = np.eye(p) - r / n * np.einsum("rni,rnj->rij", X, X)
        draws = (A**2).sum(axis=(1, 2)) / p
        weight = AdaptedLoss.build(dist, il.Design(2, 5, 2, n)).weights[:, 0] @ r ** np.arange(3)
        assert abs(draws.mean() - weight) < 4 * draws.std() / np.sqrt(len(draws))


def test_where_there_is_no_mean():
    one_task = il.Design(1, 30, 90, 20)
    assert il.expected_loss(DIST, one_task, 0.1, 0.2) == np.inf
    assert np.isfinite(il.expected_loss(DIST, one_task, [0.0, -0.1], 0.2)).all()
    assert "infinite" in il.choose_method(DIST, one_task).trust
    for n_query in (59, 60, 61):
        at_peak = il.Design(n_query, 30, 1, 20)
        assert np.isnan(il.expected_loss(DIST, at_peak, 0.1, 0.2))
        assert "does not exist" in il.choose_method(DIST, at_peak).trust
        with pytest.raises(ValueError, match="no best rates to find"):
            il.optimal_rates(DIST, at_peak)


@pytest.mark.parametrize("p", [6, 40, 100, 400])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_the_accuracy_is_claimed_where_it_was_measured(p, l2):
    trust = il.choose_method(il.MixedLinearRegression(p), il.Design(10, 5, p, 20, l2=l2)).trust
    assert "within about 1 % of the loss in simulations of 40 to 100 features" in trust
    assert (f"not measured at {p}" in trust) == (p in (6, 400))


BAD = [
    (lambda: il.expected_loss(DIST, DESIGN, np.nan, 0.2), "`inner_lr` must be finite"),
    (lambda: il.expected_loss(DIST, DESIGN, 0.1, [0.1, np.inf]), "`adapt_lr` must be finite"),
    (lambda: il.expected_loss(DIST, DESIGN, [0.1, 0.2], [1, 2, 3]), "shapes that broadcast"),
    (lambda: il.expected_loss(DIST, DESIGN, 0.1, 0.2, np.zeros(3)), "`init` must have shape (60,)"),
    (lambda: il.expected_loss(DIST, DESIGN, 0.1, 0.2, method="exact"), "`method` must be one of"),
    (lambda: il.expected_loss(DIST, il.Design(3, 30, 2, 20, l2=1), 0, 0, method="leading-order"), "no penalty"),
    (
        lambda: il.expected_loss(il.MixedLinearRegression(5, fourth_moment=2), il.Design(2, 3, 1, 4, 2), 0, 0),
        "use estimate_loss",
    ),
    (lambda: il.expected_loss(DIST, il.Design(3, 30, 2, 20, inner_rule="implicit"), -1, 0), "zero or positive"),
    (lambda: il.Design(0, 30, 2, 20), "`n_tasks` must be at least 1"),
    (lambda: il.Design(3, [30, 20], 2, 20), "`n_support` must be one number or one per task (3)"),
    (lambda: il.Design(3, 30, [2, 0, 1], 20), "`n_query` must be at least 1"),
    (lambda: il.Design(3, 30, 2, 20, l2=-1), "`l2` must be zero or positive"),
    (lambda: il.Design(3, 30, 2, 20, inner_rule="newton"), "`inner_rule` must be"),
    (lambda: il.MixedLinearRegression(3, covariance=[1, 2]), "`covariance` must have shape (3,)"),
    (lambda: il.MixedLinearRegression(2, covariance=[1, 0]), "`covariance` must hold positive eigenvalues"),
    (lambda: il.MixedLinearRegression(2, task_std=[1, 1, 1]), "`task_std` must have shape (2,)"),
    (lambda: il.MixedLinearRegression(2, fourth_moment=0.5), "`fourth_moment` must be at least 1"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_a_sentence(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("n_tasks", [2, 5, 40])
@pytest.mark.parametrize("l2", [0.0, 0.02, 1.0])
def test_the_first_order_term_is_that_of_pooled_regression_without_inner_loop(n_tasks, l2):
    p, n_query = 400, round(1.5 * 400 / n_tasks)
    design = il.Design(n_tasks, 30, n_query, 20, l2=l2)
    fields = deterministic._fields_at_zero(design.groups, p)
    parts = deterministic._sum_of_tasks(fields, l2 * design.n_query_rows, p, True).parts
    spectrum = wishart_spectrum(design.n_query_rows, p)
    exact = spectrum.weights @ (spectrum.nodes / (spectrum.nodes + l2) ** 2) / design.n_query_rows
    assert parts.noise == pytest.approx(exact, rel=1e-3 / 200)
    large = deterministic._sum_of_tasks(fields, l2 * design.n_query_rows, p, False).parts
    assert abs(large.noise / exact - 1) > 10 * abs(parts.noise / exact - 1)


EXTREME = [
    (1, il.Design(5, 3, 3, 1, 2, l2=1.0), 1.0),
    (1, il.Design(20, 1, 3, 1, 2), 0.01),
    (10, il.Design(1, 1, 1, 10, l2=0.01), -0.3),
    (40, il.Design(1, 38, 78, 16, 3, l2=100.0), 0.9),
    (40, il.Design(3, 2, [1, 2, 3], 65, l2=1.0), 2.0),
    (3, il.Design(2, [2, 5], [4, 1], 2, l2=100.0), 1.7),
    (100, il.Design(1, 313, 23, 239, 3, l2=1e-6), 13.0),
    (100, il.Design(19, 25, 5, 14, 2, l2=1.0), -3.6),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The expected loss may be")
@pytest.mark.parametrize(("p", "design", "rate"), EXTREME, ids=str)
@pytest.mark.parametrize("correlated", [False, True])
def test_extreme_designs_have_a_loss(p, design, rate, correlated):
    covariance = np.linspace(0.1, 4, p) if correlated else None
    loss = il.expected_loss(il.MixedLinearRegression(p, 1.0, 0.5, np.ones(p), covariance), design, rate, 0.1)
    assert np.isfinite(loss)
    assert loss > 0.5


def test_a_loss_that_may_be_off_says_so():
    # By Monte Carlo 33 % off at -1.5.
    design = il.Design(60, 1, 1, 9)
    assert il.choose_method(il.MixedLinearRegression(40), design).accuracy > 0.33
    with pytest.warns(UserWarning, match="may be 40 % off"):
        il.expected_loss(il.MixedLinearRegression(40), design, -1.5, 0.0)
    il.expected_loss(il.MixedLinearRegression(40), design, 0.0, 0.0)
    for ordinary in (
        il.Design(15, 30, 2, 20),
        il.Design(40, 5, 25, 10, l2=0.1),
        il.Design(4, 40, 40, 9, protocol="train"),
    ):
        assert il.choose_method(il.MixedLinearRegression(60), ordinary).accuracy == 0.01
