"""Estimates by simulation: exact given the features, right on average, and refused where they would be wrong."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

import innerloop as il
from conditional_reference import drawn_features, squared_error
from innerloop._base.seeds import stream
from innerloop.exact.query_loss import adapted_losses
from innerloop.simulation.conditional import ConditionalRuns
from innerloop.simulation.nodes import Nodes
from innerloop.simulation.run import _precise
from innerloop.theory.adapting import AdaptedLoss
from reference import adapted, meta_coef

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.* the loss of a run has an infinite variance"),
    pytest.mark.filterwarnings("ignore:.* the loss of a run has no mean"),
]

P = 6
S, TAU, MEAN = np.array([2, 1.5, 1, 0.7, 0.4, 0.2]), np.array([0.1, 0.5, 1, 0.3, 0, 0.7]), np.arange(P) / 3
INIT = np.array([1, -2, 0.5, 0, 3, 1.0])
RATES = np.array([-1e3, -30, -2, -0.5, -1e-4, 0, 1e-4, 0.03, 0.4, 1.3, 20, 1e3, *np.linspace(-1, 1, 6)])
ADAPT = np.array([-0.2, 0.0, 0.3])

ISOTROPIC = il.MixedLinearRegression(P, 0.7, 1.3, mean=MEAN)
GENERAL = il.MixedLinearRegression(P, 0.7, TAU, mean=MEAN, covariance=S)
SPREAD = il.MixedLinearRegression(P, 0.0, TAU)
SIGNS = il.MixedLinearRegression(P, 0.7, 1.3, mean=MEAN, fourth_moment=1)  # N = 2 of 2^6 rows may coincide
HEAVY = il.MixedLinearRegression(P, 0.7, TAU, mean=MEAN, covariance=S, fourth_moment=4)
DESIGNS = {
    "over": il.Design(2, 4, 2, 3),
    "over, 2 steps": il.Design(2, 4, 2, 3, n_steps=2),
    "over, 3 steps, 1 on a new task": il.Design(2, 4, 2, 3, n_steps=3, n_adapt_steps=1),
    "over, many support rows": il.Design(2, 9, 2, 3),
    "over, ridge": il.Design(2, 4, 2, 3, l2=0.1),
    "over, ragged": il.Design(3, (3, 7, 3), (1, 2, 2), 3),
    "N = p": il.Design(3, 8, 2, 3),
    "N = p, ridge": il.Design(3, 8, 2, 3, l2=0.1),
    "under": il.Design(5, 4, 3, 3),
    "under, 2 steps": il.Design(5, 9, 3, 3, n_steps=2),
    "under, 3 steps": il.Design(5, 9, 3, 3, n_steps=3, n_adapt_steps=1),
    "under, ridge, 2 steps": il.Design(5, 4, 3, 3, n_steps=2, l2=0.3),
    "under, ragged": il.Design(4, (3, 7, 3, 9), (1, 6, 2, 8), 3),
    "under, wide tasks": il.Design(2, 8, 9, 3),
    "under, few support rows": il.Design(5, 2, 3, 3, n_steps=2),
    "over, implicit": il.Design(2, 4, 2, 3, inner_rule="implicit"),
    "under, implicit, ridge": il.Design(5, 4, 3, 3, inner_rule="implicit", l2=0.2),
}


def expected_by_brute_force(dist, design, rates, adapt, seed, runs):
    """Return the losses of runs from the expected error, every random number taken in turn."""
    offset = INIT - dist.centre
    alike = dist.is_isotropic and dist.fourth_moment == 3
    # Rotations, or reflections, leave the features as they are: starts are averaged over them.
    start = np.linalg.norm(offset) / np.sqrt(P) * np.eye(P) if alike else np.diag(offset)
    losses = []
    for run in runs:
        tasks = drawn_features(dist, design, seed, run)
        error = np.array([squared_error(dist, design, tasks, rate, start) for rate in rates])
        if dist.is_isotropic:
            error = error.sum(axis=1, keepdims=True)
        losses.append(AdaptedLoss.build(dist, design)(adapt, error[:, None, :]))
    return np.array(losses)


def cases():  # every distribution with every design
    for name, design in DESIGNS.items():
        for dist in (ISOTROPIC, GENERAL, SPREAD):
            if design.inner_rule == "gradient" or dist.is_isotropic:
                yield pytest.param(dist, design, 1e-9 if design.n_steps == 1 else 1e-7, id=f"{name}-{dist.task_std}")
        if design.n_steps == 1 and design.inner_rule == "gradient":
            yield pytest.param(SIGNS, design, 1e-5, id=f"{name}-signs")
            yield pytest.param(HEAVY, design, 1e-5, id=f"{name}-heavy")


@pytest.mark.parametrize(("dist", "design", "accuracy"), [*cases()])
def test_runs_are_the_expectation_over_tasks_noise_and_start_given_the_features(dist, design, accuracy):
    rates, adapt = (RATES, ADAPT) if design.inner_rule == "gradient" else (np.abs(RATES), np.abs(ADAPT))
    actual = ConditionalRuns(dist, design, rates, adapt, INIT).losses(3, range(5, 7))
    expected = expected_by_brute_force(dist, design, rates, adapt, 3, range(5, 7))
    np.testing.assert_allclose(actual, expected, rtol=accuracy)


@pytest.mark.parametrize(
    ("dist", "design"),
    [
        (GENERAL, DESIGNS["under, implicit, ridge"]),
        (HEAVY, DESIGNS["over, 2 steps"]),
        (SIGNS, DESIGNS["over, implicit"]),
    ],
    ids=["implicit", "two steps", "signs"],
)
def test_a_new_task_whose_expectation_is_not_derived_is_drawn(dist, design):
    losses = ConditionalRuns(dist, design, np.array([0.3]), np.array([0.0, 0.2]), INIT).losses(3, range(2))
    start = np.diag(INIT - dist.centre)
    errors = [squared_error(dist, design, drawn_features(dist, design, 3, run), 0.3, start) for run in range(2)]
    unadapted = [0.5 * (0.7**2 + dist.eigenvalues @ (dist.task_variances + error)) for error in errors]
    np.testing.assert_allclose(losses[:, 0, 0], unadapted, rtol=1e-6)
    assert (losses[:, 0, 1] > 0.5 * 0.7**2).all()


def test_drawn_new_tasks_have_the_derived_expectation():
    runs = ConditionalRuns(GENERAL, DESIGNS["over, 2 steps"], np.array([0.3]), ADAPT, INIT)
    derived, drawn = runs.losses(3, range(300)), None
    runs._adapted = None
    drawn = runs.losses(3, range(300)) - derived
    assert within(drawn.mean(axis=0), 0, standard_error(drawn))


def standard_error(runs):
    return runs.std(axis=0, ddof=1) / np.sqrt(len(runs))


def within(value, expected, *errors):
    """Return whether values are within 4 combined standard errors of what is expected."""
    return (np.abs(value - expected) <= 4 * np.sqrt(sum(np.square(error) for error in errors))).all()


@pytest.mark.parametrize("rates", [RATES, RATES[:2], RATES[::-1]], ids=["many", "few", "reversed"])
@pytest.mark.parametrize("degree", [1, 2, 6])
def test_polynomials_of_the_rate_are_interpolated_exactly(rates, degree):
    scale, j = 0.37, np.arange(2 * degree + 1)
    nodes, coefficients = Nodes.build(rates, 1, degree, scale), np.random.default_rng(degree).standard_normal(len(j))

    def value(steps):  # of a polynomial made homogeneous; steps are [cos, -scale sin]
        cosine, sine = steps[:, :1], -steps[:, 1:] / scale
        return (cosine ** (2 * degree - j) * sine**j) @ coefficients

    np.testing.assert_allclose(nodes.weights @ value(nodes.steps), value(nodes.rate_steps), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(nodes.rate_steps[:, 1] / nodes.rate_steps[:, 0], -rates, rtol=1e-12)


@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_adapted_losses_are_those_of_plain_gradient_steps(n_steps, n_targets):
    rng = np.random.default_rng(0)
    tail = () if n_targets is None else (n_targets,)
    sizes = [(3, 4), (5, 2), (3, 4), (1, 7)]
    episodes = [tuple(rng.standard_normal(shape) for n in task for shape in ((n, P), (n, *tail))) for task in sizes]
    coef, rates = rng.standard_normal((3, P, *tail)), np.array([-0.3, 0.0, 0.7, 40.0])
    expected = [
        [
            np.concatenate([np.ravel(yv - Xv @ adapted(c, X, y, r, n_steps)) ** 2 for X, y, Xv, yv in episodes]).mean()
            / 2
            for r in rates
        ]
        for c in coef
    ]
    np.testing.assert_allclose(adapted_losses(il.Episodes(episodes), coef, rates, n_steps), expected, rtol=1e-10)


@pytest.mark.parametrize("n_adapt_steps", [None, 3])
def test_a_sampled_run_trains_and_scores_on_the_tasks_of_its_stream(n_adapt_steps):
    dist = il.QuadraticRegression(4, features=il.RandomFeatures(4, 9))
    design = il.Design(3, 4, 5, 6, l2=0.1, n_adapt_steps=n_adapt_steps)
    runs = il.estimate_loss(dist, design, [0.3], [0.2], n_runs=5, seed=8, n_test_tasks=4, n_test_rows=3)
    losses = []
    for run in range(5):
        rows = dist.draw_tasks([9] * 3 + [9] * 4, stream(8, run))
        train = [(X[:4], y[:4], X[4:], y[4:]) for X, y in rows[:3]]
        coef = meta_coef(train, 0.3, l2=0.1)
        test = [(X[:6], y[:6], X[6:], y[6:]) for X, y in rows[3:]]
        residuals = [yv - Xv @ adapted(coef, X, y, 0.2, n_adapt_steps or 1) for X, y, Xv, yv in test]
        losses.append(np.mean(np.square(residuals)) / 2)
    np.testing.assert_allclose(runs.loss.item(), np.mean(losses), rtol=1e-9)
    np.testing.assert_allclose(runs.stderr.item(), np.std(losses, ddof=1) / np.sqrt(5), rtol=1e-9)
    quantiles = [runs[name].item() for name in ("low", "median", "high")]
    np.testing.assert_allclose(quantiles, np.quantile(losses, [0.05, 0.5, 0.95]), rtol=1e-9)


SAMPLED = {
    "over": (ISOTROPIC, il.Design(2, 4, 2, 9)),
    "under, ragged, 2 steps": (ISOTROPIC, il.Design(4, (3, 7, 3, 9), (4, 6, 4, 8), 9, n_steps=2)),
    "general": (GENERAL, il.Design(2, 4, 2, 9, l2=0.1)),
    "signs": (il.MixedLinearRegression(P, 0.7, 1.3, fourth_moment=1), il.Design(4, 9, 1, 9)),
    "heavy tails": (HEAVY, il.Design(2, 9, 2, 9)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_runs_have_the_mean_of_exact_ones(name):
    dist, design = SAMPLED[name]
    inner = [-0.3, 0.0, 0.2]
    exact = il.estimate_loss(dist, design, inner, ADAPT, n_runs=2000, init=INIT)
    sampled = il.estimate_loss(dist, design, inner, ADAPT, 300, 1, init=INIT, scoring="sampled", n_test_tasks=30)
    assert within(sampled.loss, exact.loss, sampled.stderr, exact.stderr)
    assert within(sampled.difference, exact.difference, sampled.difference_stderr + 1e-15, exact.difference_stderr)


FIGURE_2 = il.MixedLinearRegression(60, 1.0, 0.5), il.Design(3, 30, 2, 20)
FIGURE_3 = il.MixedLinearRegression(30, 1.0, 1.0), il.Design(40, 5, 25, 10)
# Rates, and Monte Carlo losses with their standard errors, measured elsewhere.
MEASURED = {
    "figure 2": (FIGURE_2, [-2, -1, 0, 0.5, 1, 2], [0.6881, 0.6873, 0.7081, 0.7530, 0.7314, 0.7107],
                 [2e-4, 2e-4, 4e-4, 7e-4, 5e-4, 4e-4]),
    "figure 2, given the features": (
        FIGURE_2,
        [-0.4, -0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3, 0.4],
        [0.69074, 0.69295, 0.69634, 0.70133, 0.70864, 0.71855, 0.73076, 0.74225, 0.74958],
        [2e-5, 3e-5, 3e-5, 4e-5, 4e-5, 5e-5, 7e-5, 8e-5, 9e-5],
    ),
    "figure 3": (FIGURE_3, [-0.5, -0.2, 0, 0.2, 0.4, 0.5], [1.0351, 0.9884, 0.9752, 0.9823, 1.0135, 1.0387],
                 [10e-4, 5e-4, 4e-4, 4e-4, 8e-4, 11e-4]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scoring", "n_runs"), [
    ("figure 2", "exact", 1000), ("figure 2", "sampled", 60), ("figure 2, given the features", "exact", 3000),
    ("figure 3", "exact", 300), ("figure 3", "sampled", 60),
])  # fmt: skip
def test_the_figures_of_the_paper_come_out(name, scoring, n_runs):
    problem, rates, losses, errors = MEASURED[name]
    found = il.estimate_loss(*problem, rates, 0.2, n_runs, scoring=scoring)
    assert within(found.loss[:, 0], losses, found.stderr[:, 0], errors)


@pytest.mark.slow
def test_paired_differences_see_what_single_losses_cannot():
    found = il.estimate_loss(*FIGURE_3, [-0.03], 0.2, n_runs=600)
    assert within(found.difference.item(), -3.75e-4, found.difference_stderr.item(), 0.41e-4)
    assert found.difference.item() < -4 * found.difference_stderr.item()
    assert found.difference_stderr.item() < 0.5 * found.stderr.item()


@pytest.mark.slow
def test_the_best_pairs_of_figure_2_come_out():
    rates = np.linspace(-1.5, 1, 126).round(3)
    found = il.estimate_loss(*FIGURE_2, [*rates, -1.01], rates, n_runs=600)
    losses, errors, zero = found.loss.values, found.stderr.values, int(np.argmin(np.abs(rates)))
    columns = {"tied": (np.diag(losses), np.diag(errors), 0.6873, 5e-4)}
    columns["no inner loop"] = losses[zero], errors[zero], 0.6786, 5e-4
    columns["best pair"] = losses[-1], errors[-1], 0.6540, 3e-4
    for loss, error, measured, its_error in columns.values():
        assert within(loss.min(), measured, error[loss.argmin()], its_error)


def test_the_result_is_made_of_the_runs():
    dist, design = ISOTROPIC, DESIGNS["over"]
    found = il.estimate_loss(dist, design, [0.2, -0.4], ADAPT, n_runs=50, seed=3, baseline=0.1, init=INIT)
    runs = ConditionalRuns(dist, design, np.array([0.2, -0.4, 0.1]), ADAPT, INIT).losses(3, range(50))
    np.testing.assert_array_equal(found.loss, runs[:, :2].mean(axis=0))
    np.testing.assert_array_equal(found.stderr, standard_error(runs[:, :2]))
    np.testing.assert_array_equal(found.difference, (runs[:, :2] - runs[:, 2:]).mean(axis=0))
    np.testing.assert_array_equal(found.difference_stderr, standard_error(runs[:, :2] - runs[:, 2:]))
    np.testing.assert_array_equal(found["expected_median"], np.median(runs[:, :2], axis=0))
    assert found.loss.dims == ("inner_lr", "adapt_lr")
    assert found.inner_lr.values.tolist() == [0.2, -0.4]
    assert {name: found.attrs[name] for name in ("n_runs", "seed", "scoring", "baseline")} == {
        "n_runs": 50, "seed": 3, "scoring": "exact", "baseline": 0.1,
    }  # fmt: skip


def test_one_rate_is_a_grid_of_one():
    found = il.estimate_loss(ISOTROPIC, DESIGNS["over"], 0.0, 0.2, n_runs=20)
    assert found.loss.shape == (1, 1)
    assert found.difference.item() == found.difference_stderr.item() == 0


@pytest.mark.slow
@pytest.mark.parametrize(("scoring", "rel_error"), [("exact", 0.003), ("sampled", 0.02)])
def test_rel_error_stops_after_the_same_runs_whatever_the_blocks(scoring, rel_error):
    options = {"rel_error": rel_error, "scoring": scoring, "n_test_tasks": 20}
    found = [
        il.estimate_loss(ISOTROPIC, il.Design(6, 9, 4, 9), [0.1], [0.2], 2000, block_size=size, **options)
        for size in (1, 7, 64, None)
    ]
    assert 32 < found[0].n_runs < 2000
    assert all(other.identical(found[0]) for other in found)
    assert (found[0].stderr <= rel_error * found[0].loss).all()


@pytest.mark.parametrize("n_noisy", [0, 1, 2])
def test_a_precision_is_reached_where_it_is_at_all_rates(n_noisy):
    noise = np.random.default_rng(0).standard_normal((400, 2))
    noise = (noise - noise.mean(axis=0)) / noise.std(axis=0, ddof=1) * 20  # standard errors of 1
    losses = 100 + noise * np.where(np.arange(2) < n_noisy, 1.0, 0.1)
    assert _precise(losses, 0.005) == (n_noisy == 0)


def test_a_precision_out_of_reach_is_told():
    with pytest.warns(UserWarning, match="`rel_error` 1e-06 is not reached after 40 runs .*`n_runs`"):
        found = il.estimate_loss(ISOTROPIC, DESIGNS["over"], 0.1, 0.2, n_runs=40, rel_error=1e-6)
    assert found.n_runs == 40


def test_runs_near_interpolation_warn_of_their_mean_only():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".* the loss of a run has no mean")
        il.estimate_loss(ISOTROPIC, il.Design(6, 4, 1, 9), [0.0, 1.0], 0.2, n_runs=50, scoring="sampled")


# Rows of the tasks, and what is left for new tasks beside 6 training tasks of 5 rows: how many, and rows beside 4.
TABLES = {
    "small": ([9] * 16, (10, 5)),
    "ragged": ([5] * 6 + [6] * 5 + [9] * 6, (6, 5)),
    "hardly enough": ([5] * 7, (1, 1)),
    "large": ([80] * 300, (100, 50)),
}


@pytest.mark.parametrize(("sizes", "expected"), TABLES.values(), ids=TABLES)
def test_a_table_scores_on_what_it_has_beside_the_training_tasks(sizes, expected):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((sum(sizes), 2))
    tasks = il.TaskSet.from_arrays(X, X @ [1.0, -1.0], np.repeat(np.arange(len(sizes)), sizes))
    found = il.estimate_loss(tasks, il.Design(6, 4, 1, 4), 0.1, 0.2, n_runs=3)
    plan = json.loads(found.plan)
    assert (plan["n_test_tasks"], plan["n_test_rows"]) == expected
    one = il.estimate_loss(tasks, il.Design(6, 4, 1, 4), 0.1, 0.2, n_runs=3, n_test_tasks=1)
    assert json.loads(one.plan)["n_test_tasks"] == 1


LINEAR = {"dist": ISOTROPIC, "design": DESIGNS["over"], "inner_lr": 0.1, "adapt_lr": 0.2, "n_runs": 4}
IMPLICIT = DESIGNS["over, implicit"]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"dist": 3}, TypeError, "`dist` must be a TaskDistribution, .* or a TaskSet, got int"),
        ({"design": 3}, TypeError, "`design` must be innerloop.Design, got int"),
        ({"inner_lr": []}, ValueError, "`inner_lr` must be one rate or a list of rates"),
        ({"inner_lr": [[1.0]]}, ValueError, r"`inner_lr` must be one rate or a list .* got shape \(1, 1\)"),
        ({"inner_lr": [0.1, np.nan]}, ValueError, "`inner_lr` must be finite .* got nan"),
        ({"adapt_lr": np.inf}, ValueError, "`adapt_lr` must be finite .* got inf"),
        ({"adapt_lr": "fast"}, TypeError, "`adapt_lr` must hold numbers"),
        ({"n_runs": 1}, ValueError, "`n_runs` must be at least 2, got 1"),
        ({"n_runs": 2.5}, TypeError, "`n_runs` must be a whole number"),
        ({"seed": -1}, ValueError, "`seed` must be at least 0"),
        ({"n_jobs": 0}, ValueError, "`n_jobs` must be a number of processes, or -1"),
        ({"n_jobs": -2}, ValueError, "`n_jobs` must be at least -1"),
        ({"init": [1.0]}, ValueError, r"`init` must have shape \(6,\), one per feature, got \(1,\)"),
        ({"init": [np.nan] * 6}, ValueError, "`init` must be finite"),
        ({"baseline": np.nan}, ValueError, "`baseline` must be a finite number"),
        ({"baseline": [0.0]}, ValueError, "`baseline` must be a single number"),
        ({"scoring": "fair"}, ValueError, "`scoring` must be 'auto', 'exact' or 'sampled', got 'fair'"),
        ({"dist": il.Sinusoid(), "scoring": "exact"}, ValueError, "`scoring` must be 'sampled' for Sinusoid"),
        ({"design": IMPLICIT, "scoring": "sampled"}, ValueError, "`inner_rule` must be 'gradient' with sampled"),
        ({"design": IMPLICIT, "inner_lr": -0.1}, ValueError, "`inner_lr` must be zero or positive with inner_rule"),
        ({"design": IMPLICIT, "baseline": -0.1}, ValueError, "`baseline` must be zero or positive with inner_rule"),
        ({"n_test_tasks": 0}, ValueError, "`n_test_tasks` must be at least 1"),
        ({"n_test_rows": 0}, ValueError, "`n_test_rows` must be at least 1"),
        ({"rel_error": 0.0}, ValueError, "`rel_error` must be positive, got 0.0"),
        ({"rel_error": np.inf}, ValueError, "`rel_error` must be a finite number"),
        ({"block_size": 0}, ValueError, "`block_size` must be at least 1"),
        ({"executor": 3}, TypeError, "`executor` must be a concurrent.futures.Executor, got int; `n_jobs`"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        il.estimate_loss(**{**LINEAR, **arguments})


def test_standard_errors_that_say_little_are_said_to():
    dist = il.MixedLinearRegression(6)
    for n_tasks, tail in ((2, "infinite variance"), (3, "no mean")):
        with pytest.warns(UserWarning, match=tail):
            il.estimate_loss(dist, il.Design(n_tasks, 4, 2, 3), 0.1, 0.1, n_runs=4)
    il.estimate_loss(dist, il.Design(1, 4, 2, 3), 0.1, 0.1, n_runs=4)
    il.estimate_loss(dist, il.Design(3, 4, 2, 3, l2=0.1), 0.1, 0.1, n_runs=4)


def test_runs_can_be_kept():
    found = il.estimate_loss(
        il.MixedLinearRegression(6), il.Design(1, 4, 2, 3), [0.1, 0.2], 0.1, n_runs=7, keep_runs=True
    )
    assert found["runs"].dims == ("run", "inner_lr", "adapt_lr")
    np.testing.assert_allclose(found["runs"].mean("run"), found["loss"])
