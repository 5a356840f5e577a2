"""Numbers that are drawn or printed are those that were computed: pictures, and tables of commands and papers."""

import re
from dataclasses import replace

import numpy as np
import pytest

import innerloop as il
from cases import prepared, table
from command_line import innerloop
from innerloop.evaluation import evaluate
from innerloop.evaluation.rate_slices import RateSlice
from innerloop.papers.bernacchia2021 import linear, ratemap, signs
from innerloop.theory.curves import loss_curves
from innerloop.theory.expected import unwarned_loss

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

DIST, DESIGN = il.MixedLinearRegression(20, 1.0, 0.7), il.Design(3, 10, 3, 8)


@pytest.fixture
def ax():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    return Figure().subplots()


def bars_of(container):
    """Return x, y and half the length of each bar."""
    line, _, (bars,) = container
    half = [(segment[1, 1] - segment[0, 1]) / 2 for segment in bars.get_segments()]
    return (*line.get_data(), np.array(half))


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("difference", [False, True])
def test_a_sweep_is_drawn_with_the_errors_of_what_is_drawn(ax, difference, metric):
    import xarray as xr

    from innerloop.plots.sweep import plot_sweep

    rng, rates = np.random.default_rng(0), np.array([-0.1, 0.0, 0.2])
    data = {}
    for i, (name, prefix) in enumerate([("loss", ""), ("metric", "metric_")][: 1 + metric]):
        data[f"{name}_by_seed"] = (("seed", "inner_lr"), rng.random((4, 3)))
        for j, kind in enumerate([name, f"{prefix}stderr", f"{prefix}difference", f"{prefix}difference_stderr"]):
            data[kind] = ("inner_lr", np.arange(3) + 10.0 * j + 100 * i + 1)
    result = xr.Dataset(data, {"inner_lr": rates, "seed": np.arange(4)})
    plot_sweep(result, ax, difference=difference)
    x, y, error = bars_of(ax.containers[0])
    prefix = "metric_" if metric else ""
    value = f"{prefix}difference" if difference else ("metric" if metric else "loss")
    np.testing.assert_array_equal(x, rates)
    np.testing.assert_array_equal(y, result[value])
    np.testing.assert_allclose(error, result[f"{prefix}{'difference_' if difference else ''}stderr"])


def test_a_slice_is_drawn_with_the_error_of_its_difference_to_the_mark(ax):
    rng, rates = np.random.default_rng(1), np.linspace(-1, 1, 9)
    per_task = rng.random((30, 9)) + 1 + rates**2
    losses = RateSlice("adapt_lr", 0.0, "recommended", rates, per_task, per_task[:, 4], None)
    il.plot_rate(losses, ax)
    gap = per_task - per_task[:, [4]]
    band = ax.collections[0].get_paths()[0].vertices
    for rate, y, error in zip(rates, per_task.mean(axis=0), gap.std(axis=0, ddof=1) / np.sqrt(30), strict=True):
        at = band[np.isclose(band[:, 0], rate), 1]
        assert (at.min(), at.max()) == pytest.approx((y - error, y + error))
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), per_task.mean(axis=0))


def test_a_map_shows_percent_above_the_lowest_and_a_curve_the_loss(ax):
    from innerloop.plots.theory import plot_loss_curve, plot_loss_map

    best = il.optimal_rates(DIST, DESIGN)
    curves = loss_curves(DIST, DESIGN, best=best)
    shown = curves.both
    plot_loss_map(shown, ax)
    percent = np.asarray(ax.collections[0].get_array()).reshape(len(shown.adapt_lr), -1).T
    np.testing.assert_allclose(percent, 100 * (shown.loss / best.loss - 1), atol=1e-9)
    i, j = 17, 30
    assert shown.loss[i, j] == pytest.approx(
        unwarned_loss(DIST, DESIGN, shown.inner_lr[i], shown.adapt_lr[j]), rel=1e-10
    )
    ax.clear()
    plot_loss_curve(curves.inner, ax)
    heights = {line.get_label(): float(np.ravel(line.get_ydata())[0]) for line in ax.get_lines()[1:]}
    assert heights["no inner loop in training"] == best.loss_no_inner
    assert heights["no meta-training"] == best.loss_untrained


def test_the_best_and_the_worst_tasks_have_the_roots_of_their_errors():
    from innerloop.report.page import _extremes

    tasks = il.TaskSet.from_arrays(*table([6, 5, 8, 3, 7, 5, 9, 4], 2))
    evaluation = evaluate(prepared(tasks, adaptation="gradient").choose(), tasks)
    error = dict(zip(tasks.ids.tolist(), evaluation.per_task[:, 0], strict=True))
    shown = _extremes(evaluation)
    for row in [*shown["worst"], *shown["best"]]:
        assert row["rmse"] ** 2 == pytest.approx(error[row["id"]])
        assert row["rows"] == tasks.sizes[tasks.ids.tolist().index(row["id"])]
    in_order = sorted(error, key=error.get)
    assert [row["id"] for row in shown["best"]] == in_order[: len(shown["best"])]
    assert [row["id"] for row in shown["worst"]] == in_order[::-1][: len(shown["worst"])]


def test_the_table_of_a_design_has_the_losses_of_its_rates():
    sizes = ["--n-features", 20, "--n-tasks", 3, "--n-support", 10, "--n-query", 3, "--n-adapt", 8, "--task-std", 0.7]
    ran = innerloop("theory", *sizes)
    best = il.optimal_rates(DIST, DESIGN)
    expected = {
        "both free": best.loss,
        "no inner loop in training": best.loss_no_inner,
        "tied rates (usual MAML)": best.loss_tied,
        "no meta-training": best.loss_untrained,
    }
    for name, loss in expected.items():
        line = next(line for line in ran.out.splitlines() if line.startswith(name))
        numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", line.removeprefix(name))]
        assert f"{loss:.5f}" in line
        if name != "both free":
            assert numbers[-1] == pytest.approx(100 * (loss / best.loss - 1), abs=0.006)


def test_headlines_say_percent_above_the_best():
    arrays = {"inner_lr": [0.1, 0.0, -1.0], "adapt_lr": [0.1, 0.2, 0.3], "theory": np.array([2.2, 2.1, 2.0])}
    rows = linear.headline(arrays | {"loss": [2.3, 2.2, 2.1], "stderr": [0.01, 0.02, 0.03]})
    assert [row[-1] for row in rows] == pytest.approx([10.0, 5.0, 0.0])
    assert [row[1:6] for row in rows] == [
        (0.1, 0.1, 2.2, 2.3, 0.01),
        (0.0, 0.2, 2.1, 2.2, 0.02),
        (-1.0, 0.3, 2.0, 2.1, 0.03),
    ]


def test_the_map_shows_what_the_best_rate_gains_over_none():
    design = ratemap.design_at(0.2, 0.3)
    rate, gain = ratemap.best_rate(design)
    best = il.optimal_rates(ratemap.DIST, design)
    with_it = unwarned_loss(ratemap.DIST, design, rate, best.adapt_lr)
    without = unwarned_loss(ratemap.DIST, design, 0.0, best.adapt_lr_no_inner)
    assert with_it == pytest.approx(without * (1 - gain / 100), rel=1e-6)
    assert gain > 1


@pytest.mark.parametrize("decay", [0.4, 1.2])
def test_the_slope_is_zero_on_the_boundary_of_the_signs(decay):
    s = np.arange(1, signs.N_FEATURES + 1) ** -decay
    s /= s.mean()
    spread = signs.boundary(decay, 0.5, 0.0)
    slopes = []
    for factor in (0.9, 1.0, 1.1):
        dist = il.MixedLinearRegression(signs.N_FEATURES, 1.0, s**0.25, covariance=s)
        noise = np.sqrt(float(s @ dist.task_variances) / (factor * spread))
        slopes.append(_slope(replace(dist, noise_std=noise), signs.DESIGN))
    assert slopes[0] > 0 > slopes[2]
    assert abs(slopes[1]) < 1e-6 * (slopes[0] - slopes[2])


def _slope(dist, design):
    """Return the slope of the loss at inner_lr = 0 without adaptation."""
    from innerloop.theory.sign import exact_slope_parts

    from_noise, from_tasks = exact_slope_parts(dist, design, dist.eigenvalues)
    return dist.noise_std**2 * from_noise - from_tasks
