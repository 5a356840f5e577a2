"""The paper's curves, and the Monte Carlo tables measured before this code was written (se in the tables)."""

import numpy as np
import pytest

import innerloop as il
from innerloop.theory.deterministic import isotropic_parts
from innerloop.theory.leading import leading_optimum

FIGURE_2 = (il.MixedLinearRegression(60, 1.0, 0.5), il.Design(3, 30, 2, 20))
FIGURE_3 = (il.MixedLinearRegression(30, 1.0, 1.0), il.Design(40, 5, 25, 10))


def test_leading_order_figure_2b_to_the_last_printed_digit():
    rates = [-2, -1, -0.5, 0, 0.2, 0.5, 1, 2]
    printed = [0.6848, 0.6837, 0.6855, 0.7029, 0.7218, 0.7401, 0.7210, 0.7023]
    assert np.round(il.expected_loss(*FIGURE_2, rates, 0.2, method="leading-order"), 4).tolist() == printed


def test_leading_order_figure_3b_to_the_last_printed_digit():
    rates = [-0.5, -0.2, 0, 0.2, 0.4, 0.5]
    printed = [1.0382, 0.9891, 0.9749, 0.9822, 1.0219, 1.0521]
    assert np.round(il.expected_loss(*FIGURE_3, rates, 0.2, method="leading-order"), 4).tolist() == printed


def test_closed_form_optimum_and_the_loss_there():
    best = leading_optimum(60, 30)
    assert round(best, 6) == -1.011152
    assert round(il.expected_loss(*FIGURE_2, best, 0.2, method="leading-order"), 6) == 0.683719


CHANGES = [
    {"noise_std": 3.0},
    {"task_std": 2.0},
    {"n_query": 5},
    {"n_tasks": 7},
    {"init": 1.0},
    {"n_adapt": 50},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_the_closed_form_minimises_whatever_else_is_changed(change):
    sizes = {"n_tasks": 3, "n_query": 2, "n_adapt": 20, "noise_std": 1.0, "task_std": 0.5, "init": 0.0} | change
    dist = il.MixedLinearRegression(60, sizes["noise_std"], sizes["task_std"])
    design = il.Design(sizes["n_tasks"], 30, sizes["n_query"], sizes["n_adapt"])
    best = leading_optimum(60, 30)
    near = best + np.array([-1e-3, 0, 1e-3])
    losses = il.expected_loss(dist, design, near, 0.2, np.full(60, sizes["init"]), method="leading-order")
    assert losses[1] < min(losses[0], losses[2])
    assert il.optimal_rates(dist, design, method="leading-order").inner_lr == pytest.approx(best, abs=1e-12)


# theory_beyond.md, 7: E over task weights and noise given the features; standard errors 2e-5 to 9e-5.
FIGURE_2B = [0.69074, 0.69295, 0.69634, 0.70133, 0.70864, 0.71855, 0.73076, 0.74225, 0.74958]


def test_figure_2b_within_five_hundredths_of_a_percent():
    losses = il.expected_loss(*FIGURE_2, np.linspace(-0.4, 0.4, 9), 0.2)
    np.testing.assert_allclose(losses, FIGURE_2B, rtol=5e-4)


def test_figure_3b_within_monte_carlo_error():
    losses = il.expected_loss(*FIGURE_3, [-0.5, -0.2, 0, 0.2, 0.4, 0.5], 0.2)
    simulated = [1.0351, 0.9884, 0.9752, 0.9823, 1.0135, 1.0387]
    assert (np.abs(losses - simulated) < 3 * np.array([10, 5, 4, 4, 8, 11]) * 1e-4).all()


def test_figure_3b_paired_gain():
    gain = il.expected_loss(*FIGURE_3, -0.03, 0.2) - il.expected_loss(*FIGURE_3, 0.0, 0.2)
    assert abs(gain - -3.75e-4) < 3 * 0.41e-4


# theory_beyond.md, 3.1: n_tasks, n_query, n_support, inner_lr, sigma, nu, V, its relative se in percent.
OVER = [(1, 0.0607, 0.63), (3, 0.1982, 0.45), (9, 0.7727, 0.32), (15, 1.809, 0.38), (24, 7.663, 0.76)]
UNDER = [(40, 5.561, 0.44), (60, 1.787, 0.17), (120, 0.5904, 0.08), (300, 0.1964, 0.08), (600, 0.0929, 0.04)]
CASE_I = [(m, 2, 30, 0.2, 1.0, 0.5, v, se) for m, v, se in OVER + UNDER]
QUERIES = (1, 5, 10, 15, 18, 22, 25, 30, 40, 60, 120, 400)
POSITIVE = (0.1723, 1.099, 3.347, 10.55, 35.52, 41.46, 15.12, 7.537, 4.011, 2.295, 1.277, 0.7776)
NEGATIVE = (0.0813, 0.4947, 1.422, 4.210, 13.54, 15.34, 5.725, 2.984, 1.694, 1.060, 0.6829, 0.4984)
CASE_II = [
    (3, n, 60, rate, 1.0, 1.0, v, 0.4)
    for rate, column in ((0.4, POSITIVE), (-0.4, NEGATIVE))
    for n, v in zip(QUERIES, column, strict=True)
]


@pytest.mark.parametrize("case", CASE_I + CASE_II, ids=str)
def test_error_of_the_meta_parameters(case):
    n_tasks, n_query, n_support, rate, sigma, nu, simulated, se_percent = case
    parts = isotropic_parts(il.Design(n_tasks, n_support, n_query, 20), 60, rate)
    error = sigma**2 * parts.noise + nu**2 * parts.tasks
    near_peak = abs(n_tasks * n_query - 60) < 8
    # The table of case II has no standard errors: 0.5 percent assumed, twice that near the peak.
    assert abs(error / simulated - 1) < max(0.015, 3 * se_percent / 100) * (2 if near_peak else 1)


RIDGE = [  # m, n_v, n_t, a, lam, K, V, se, bias
    (3, 10, 60, 0.3, 1, 1, 2.323, 0.004, 0.5031),
    (3, 10, 60, -0.3, 10, 1, 0.8669, 0.0006, 0.5177),
    (3, 30, 60, 0.3, 10, 1, 1.594, 0.0005, 0.1319),
    (3, 20, 60, 0.2, 5, 1, 2.351, 0.001, 0.1811),
    (6, 10, 30, 0.2, 5, 1, 2.485, 0.002, 0.1744),
    (3, 10, 60, 0.1, 3, 4, 1.705, 0.001, 0.5175),
    (3, 10, 60, 0.2, 0, 3, 3.755, 0.012, 0.5),
    (3, 10, 60, -0.1, 0, 5, 1.290, 0.003, 0.5),
    (3, 40, 60, 0.2, 0, 3, 4.664, 0.008, 0.0),
    (6, 20, 30, -0.1, 0, 5, 2.053, 0.003, 0.0),
]


@pytest.mark.parametrize("case", RIDGE, ids=str)
def test_ridge_and_several_steps(case):
    m, n_query, n_support, rate, lam, K, variance, se, bias = case
    design = il.Design(m, n_support, n_query, 20, n_steps=K, l2=lam / (m * n_query))
    parts = isotropic_parts(design, 60, rate)
    assert abs(parts.noise + parts.tasks - variance) < 3 * se + 0.008 * variance
    assert parts.start == pytest.approx(bias, rel=0.008, abs=1e-12)


@pytest.mark.parametrize(
    ("rho", "m", "n_query", "n_support", "simulated"),
    [(0.5, 3, 10, 60, 5.650), (2, 3, 10, 30, 2.627), (0.5, 3, 40, 60, 7.414), (0.2, 6, 30, 120, 12.267)],
)
def test_implicit_maml(rho, m, n_query, n_support, simulated):
    design = il.Design(m, n_support, n_query, 20, inner_rule="implicit")
    parts = isotropic_parts(design, 60, 1 / rho)
    assert parts.noise + parts.tasks == pytest.approx(simulated, rel=0.012)
