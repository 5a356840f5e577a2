"""The best pair of rates, the planner and the command."""

import json
import subprocess
import sys

import numpy as np
import pytest

import innerloop as il
from command_line import innerloop
from innerloop.theory.planner import plan_design

# theory_beyond.md, 6.5: p m nv nt nr s nu D0 | a* r* L* L(a=0).
TABLE = [
    (60, 3, 2, 30, 20, 1, 0.5, 0, -1.04, 0.077, 0.6541, 0.6786),
    (60, 15, 2, 30, 20, 1, 0.5, 0, -1.04, 0.143, 0.9357, 1.1395),
    (60, 3, 10, 60, 20, 1, 1, 1, -1.90, 0.194, 1.606, 1.854),
    (60, 3, 18, 60, 60, 1, 1, 0, -2.20, 0.477, 3.763, 5.500),
    (60, 3, 22, 60, 60, 1, 1, 0, -1.67, 0.479, 4.254, 6.014),
    (60, 3, 30, 60, 60, 1, 1, 0, -0.84, 0.440, 1.590, 1.820),
    (60, 10, 30, 30, 30, 1, 1, 0, -0.18, 0.231, 1.0915, 1.1053),
    (60, 60, 20, 20, 20, 1, 2, 0, -0.05, 0.211, 2.2062, 2.2072),
    (200, 20, 5, 10, 10, 0.5, 1, 1, -0.26, 0.044, 1.4125, 1.4340),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", TABLE, ids=str)
def test_table_of_optima(case):
    p, m, n_query, n_support, n_adapt, sigma, nu, d0, inner, adapt, loss, no_inner = case
    dist, design = il.MixedLinearRegression(p, sigma, nu), il.Design(m, n_support, n_query, n_adapt)
    best = il.optimal_rates(dist, design, init=np.full(p, np.sqrt(d0 / p)))
    assert best.inner_lr == pytest.approx(inner, rel=0.04, abs=0.005)
    assert best.adapt_lr == pytest.approx(adapt, rel=0.01, abs=6e-4)
    assert best.loss == pytest.approx(loss, rel=0.015)
    assert best.loss_no_inner == pytest.approx(no_inner, rel=0.015)
    assert best.sign == -1
    assert best.loss < best.loss_no_inner < best.loss_tied


@pytest.mark.slow
@pytest.mark.parametrize(("nu", "sign"), [(1.0, -1), (3.0, 1)])
def test_sign_with_correlated_features(nu, sign):
    # 6.4 (b): positive where nu^2 (1 - 1/m) (tr Sigma^2 / p - 1) > sigma^2.
    dist = il.MixedLinearRegression(P := 60, 1.0, nu, covariance=np.repeat([0.4, 1.6], P // 2))
    best = il.optimal_rates(dist, il.Design(3, 60, 40, 20))
    assert best.sign == sign == -np.sign(best.slope_at_zero)


@pytest.mark.slow
@pytest.mark.parametrize(("nu", "l2", "best"), [(3.0, 0.5, 0.42), (1.0, 5.0, 0.09), (0.3, 0.5, -0.55)])
def test_sign_with_a_penalty(nu, l2, best):
    found = il.optimal_rates(il.MixedLinearRegression(60, 1.0, nu), il.Design(3, 60, 20, 20, l2=l2 / 60))
    assert found.inner_lr == pytest.approx(best, abs=0.03)


@pytest.mark.slow
def test_the_pair_is_a_minimum():
    dist = il.MixedLinearRegression(40, 1.0, 0.7, covariance=np.repeat([0.4, 1.6], 20))
    design = il.Design(3, 40, 20, 20)
    best = il.optimal_rates(dist, design)
    near = np.array([-0.02, 0, 0.02])
    grid = il.expected_loss(dist, design, best.inner_lr + near[:, None], best.adapt_lr + near)
    assert np.unravel_index(grid.argmin(), (3, 3)) == (1, 1)
    assert best.loss == pytest.approx(grid[1, 1], rel=1e-12)


@pytest.mark.slow
def test_rates_decouple():
    dist = il.MixedLinearRegression(60, 1.0, 0.5)
    rates = [il.optimal_rates(dist, il.Design(3, 30, 2, n)).inner_lr for n in (5, 20, 100)]
    assert np.ptp(rates) < 1e-4


def test_limits_of_the_inner_rate():
    dist, design = il.MixedLinearRegression(60, 1.0, 0.5), il.Design(3, 30, 2, 20)
    best = il.optimal_rates(dist, design)
    assert best.loss_minus_infinity == pytest.approx(best.loss_plus_infinity, rel=1e-4)
    assert best.loss < best.loss_minus_infinity < best.loss_tied
    far = il.expected_loss(dist, design, -1e4, best.adapt_lr)
    assert far == pytest.approx(best.loss_minus_infinity, rel=1e-2)


@pytest.mark.parametrize(("n_query", "l2"), [(3, 0.5), (10, 0.5), (3, 500.0)])
def test_the_best_rate_is_infinite_where_a_penalty_only_hurts(n_query, l2):
    # Equal tasks without noise: the penalty keeps the start, and loses its say as residuals grow with the rate.
    dist, init = il.MixedLinearRegression(20, 0.0, 0.0, np.full(20, 0.5)), np.zeros(20)
    design = il.Design(4, 10, n_query, 10, l2=l2)
    best = il.optimal_rates(dist, design, init)
    assert np.isinf(best.inner_lr)
    sizes = np.geomspace(1e-3, 1e6, 70)
    losses = il.expected_loss(dist, design, np.concatenate([-sizes[::-1], sizes]), best.adapt_lr, init)
    assert best.loss <= losses.min() * (1 + 1e-9) + 1e-15
    assert best.loss < 0.9 * best.loss_no_inner
    assert best.loss == pytest.approx(il.optimal_rates(dist, il.Design(4, 10, n_query, 10), init).loss, abs=1e-9)


@pytest.mark.parametrize(
    ("dist", "design", "low", "high"),
    [
        (il.MixedLinearRegression(48, 0.28, 0.05, np.full(48, 3.0)), il.Design(20, 119, 2, 10, l2=170), -3000, -300),
        (il.MixedLinearRegression(7, 0.14, 0.35), il.Design(1, 103, 5, 10), -300, -30),
    ],
    ids=["a strong penalty", "one task"],
)
def test_the_best_rate_may_lie_far_from_zero(dist, design, low, high):
    init = np.zeros(dist.n_features)
    best = il.optimal_rates(dist, design, init)
    sizes = np.geomspace(1e-3, 1e6, 300)
    losses = il.expected_loss(dist, design, np.concatenate([-sizes, sizes]), best.adapt_lr, init)
    assert low < best.inner_lr < high
    assert best.loss <= losses.min() * (1 + 1e-9)


def test_of_rates_without_effect_zero_is_best():
    # Every row scored and fitted: the loss is the same at every rate (section 6).
    best = il.optimal_rates(il.MixedLinearRegression(60, 1.0, 0.5), il.Design(3, 5, 5, 10, protocol="train"))
    assert best.inner_lr == 0
    assert best.loss == best.loss_no_inner


@pytest.mark.slow
def test_plans_keep_the_budget():
    dist = il.MixedLinearRegression(20, 1.0, 0.5)
    plans = plan_design(dist, il.Design(2, 1, 1, 10), 24)
    losses = [plan.best.loss for plan in plans]
    assert losses == sorted(losses)
    for plan in plans:
        group = plan.design.groups[0]
        assert group.n_tasks * (group.n_support + group.n_query) <= 24


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("distance", [0.0, 2.0])
def test_the_best_plan_is_as_good_as_any(distance):
    dist, budget, init = il.MixedLinearRegression(6, 1.0, 0.5), 14, np.full(6, distance / np.sqrt(6))
    every = [
        il.Design(n_tasks, n_support, budget // n_tasks - n_support, 10)
        for n_tasks in range(2, budget // 2 + 1)
        for n_support in range(1, budget // n_tasks)
    ]
    losses = [il.optimal_rates(dist, own, init).loss for own in every if abs(own.n_query_rows - 6) > 1]
    assert plan_design(dist, il.Design(2, 1, 1, 10), budget, init)[0].best.loss == min(losses)


SIZES = [
    "--n-tasks",
    "3",
    "--n-features",
    "60",
    "--n-support",
    "30",
    "--n-query",
    "2",
    "--n-adapt",
    "20",
    "--noise-std",
    "1",
    "--task-std",
    "0.5",
]


def run(*arguments):
    code = "from innerloop.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "theory", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_command_prints_the_table():
    done = innerloop("theory", *SIZES)
    assert done.code == 0
    for word in ("both free", "tied rates", "no inner loop", "-1.058", "negative", "deterministic-equivalent"):
        assert word in done.out


@pytest.mark.slow
def test_command_writes_json_and_the_same_picture_twice(tmp_path):
    paths = [tmp_path / name for name in ("a.svg", "b.svg")]
    another_process = run(*SIZES, "--json", "--plot", str(paths[0]))
    innerloop("theory", *SIZES, "--json", "--plot", paths[1])
    assert json.loads(another_process.stdout)["sign"] == -1
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n-tasks", "60", "--n-query", "1"], "no best rates to find"),
        (["--n-tasks", "0"], "`n_tasks` must be at least 1"),
        (["--noise-std", "nan"], "`noise_std` must be finite"),
        (["--plot", "picture.gif"], "must end in .png or .svg"),
        (["--plot", "."], "`--plot` must name a file, got the folder ."),
    ],
)
def test_command_refuses_in_a_sentence(arguments, message):
    done = innerloop("theory", *arguments)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def noise_part(supports, queries, rate, n_steps):
    """Return E|omega* - w0|^2 per unit of label noise, given the features: B^+ Cov(xi) B^+'."""
    B, blocks = [], []
    for X, Xq in zip(supports, queries, strict=True):
        A = np.eye(X.shape[1]) - rate / len(X) * X.T @ X
        G = sum(np.linalg.matrix_power(A, j) for j in range(n_steps)) @ X.T * (rate / len(X))
        B.append(Xq @ np.linalg.matrix_power(A, n_steps))
        blocks.append(np.eye(len(Xq)) + Xq @ G @ G.T @ Xq.T)
    inverse = np.linalg.pinv(np.concatenate(B))
    sizes = np.cumsum([0, *map(len, queries)])
    return sum(
        np.trace(inverse[:, i:j] @ block @ inverse[:, i:j].T)
        for i, j, block in zip(sizes[:-1], sizes[1:], blocks, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("p", "m", "n_query", "n_support", "n_steps"), [(12, 4, 1, 6, 1), (8, 2, 10, 6, 1), (12, 4, 1, 6, 2)]
)
def test_the_slope_at_zero_is_that_of_paired_draws(p, m, n_query, n_support, n_steps):
    rng = np.random.default_rng(5)
    step, slopes = 0.01, []
    for _ in range(1500):
        supports, queries = rng.standard_normal((m, n_support, p)), rng.standard_normal((m, n_query, p))
        up, down = (noise_part(supports, queries, side * step, n_steps) for side in (1, -1))
        slopes.append((up - down) / (2 * step))
    mean, error = np.mean(slopes), np.std(slopes) / np.sqrt(len(slopes))
    exact = 2 * n_steps * min(m * n_query, p) / (abs(p - m * n_query) - 1)
    assert abs(mean - exact) < 4 * error + 2e-3 * exact
    assert error < 0.05 * exact
