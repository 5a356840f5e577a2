"""Pictures of the expected test loss: against each rate, over both, and the best inner rate over N/p."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.plots.style import BLUE, GREY, MAP_RANGE_PERCENT, ORANGE
from innerloop.theory import RateOptimum, expected_loss, optimal_rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_N_RATES = 121


def plot_theory(
    dist: MixedLinearRegression, design: Design, best: RateOptimum, init: ArrayLike | None = None
) -> Figure:
    """Draw expected losses: against inner_lr, against adapt_lr, over both, and the best inner_lr over N/p.

    Parameters
    ----------
    dist, design, init
        As in `expected_loss`.
    best
        What `optimal_rates` gives for them.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.5), layout="constrained")
    (inner, adapt), (both, ratio) = figure.subplots(2, 2)
    figure.suptitle(
        f"Expected test loss: {design.n_tasks} tasks, {dist.n_features} features, N/p = "
        f"{design.n_query_rows / dist.n_features:.3g}"
    )
    plot_inner(dist, design, best, init, inner)
    plot_adapt(dist, design, best, init, adapt)
    plot_map(dist, design, best, init, both)
    plot_ratio(dist, design, init, ratio)
    return figure


def plot_inner(
    dist: MixedLinearRegression, design: Design, best: RateOptimum, init: ArrayLike | None, ax: Axes
) -> None:
    """Draw the loss against the inner rate, at the best adaptation rate."""
    rates = _rates(best.inner_lr, design)
    ax.plot(rates, expected_loss(dist, design, rates, best.adapt_lr, init), color=BLUE)
    if np.isfinite(best.inner_lr):
        ax.plot(best.inner_lr, best.loss, "o", color=ORANGE, mec="white", label=f"minimum: {best.inner_lr:.3g}")
    ax.axhline(best.loss_no_inner, color=GREY, lw=1, ls="--", label="no inner loop in training")
    ax.axvline(0, color=GREY, lw=0.6)
    ax.set(
        xlabel="inner_lr (meta-training)",
        ylabel="expected test loss (half MSE)",
        title=f"at adapt_lr = {best.adapt_lr:.3g}",
    )
    ax.legend(fontsize=8)


def plot_adapt(
    dist: MixedLinearRegression, design: Design, best: RateOptimum, init: ArrayLike | None, ax: Axes
) -> None:
    """Draw the loss against the adaptation rate, at the best inner rate."""
    reach = max(2 * abs(best.adapt_lr), 0.1)
    rates = np.linspace(0.0 if design.inner_rule == "implicit" else -0.5 * reach, 1.5 * reach, _N_RATES)
    inner = _finite(best.inner_lr)
    ax.plot(rates, expected_loss(dist, design, inner, rates, init), color=BLUE)
    ax.plot(best.adapt_lr, best.loss, "o", color=ORANGE, mec="white", label=f"minimum: {best.adapt_lr:.3g}")
    ax.axvline(0, color=GREY, lw=0.6)
    ax.set(
        xlabel="adapt_lr (new task)", ylabel="expected test loss (half MSE)", title=f"at inner_lr = {best.inner_lr:.3g}"
    )
    ax.legend(fontsize=8)


def plot_map(dist: MixedLinearRegression, design: Design, best: RateOptimum, init: ArrayLike | None, ax: Axes) -> None:
    """Draw the loss over both rates, as percent above the lowest."""
    inner = _rates(best.inner_lr, design)
    reach = max(2 * abs(best.adapt_lr), 0.1)
    adapt = np.linspace(0.0 if design.inner_rule == "implicit" else -0.5 * reach, 1.5 * reach, 81)
    excess = 100 * (np.asarray(expected_loss(dist, design, inner[:, None], adapt, init)) / best.loss - 1)
    image = ax.pcolormesh(
        inner, adapt, excess.T, cmap="viridis_r", vmin=0, vmax=MAP_RANGE_PERCENT, shading="nearest", rasterized=True
    )
    ax.figure.colorbar(image, ax=ax, extend="max").set_label("above the lowest (%)")
    inside = inner[(inner >= adapt.min()) & (inner <= adapt.max())]
    ax.plot(inside, inside, color="white", lw=1, ls=":")
    if np.isfinite(best.inner_lr):
        ax.plot(best.inner_lr, best.adapt_lr, "o", color=ORANGE, mec="white", ms=8)
    ax.set(xlabel="inner_lr", ylabel="adapt_lr", title="Both (dotted: tied rates, usual MAML)")


def plot_ratio(dist: MixedLinearRegression, design: Design, init: ArrayLike | None, ax: Axes) -> None:
    """Draw the best inner rate over N/p, with other numbers of tasks of the first task's sizes."""
    points = []
    for ratio in np.geomspace(0.05, 20, 25 if dist.is_isotropic else 9):
        changed = _with_ratio(dist, design, float(ratio))
        if abs(changed.n_query_rows - dist.n_features) > 1 or design.l2 > 0:
            points.append((changed.n_query_rows / dist.n_features, optimal_rates(dist, changed, init).inner_lr))
    x, y = np.array(sorted(set(points))).T
    ax.plot(x, y, ".-", color=BLUE)
    ax.axvline(1, color=GREY, lw=0.8, ls=":")
    ax.axvline(design.n_query_rows / dist.n_features, color=ORANGE, lw=1, label="this design")
    ax.axhline(0, color=GREY, lw=0.6)
    ax.set(xscale="log", xlabel="N/p", ylabel="best inner_lr", title="The best rate to train with")
    ax.legend(fontsize=8)


def _with_ratio(dist: MixedLinearRegression, design: Design, ratio: float) -> Design:
    """Return a design of about so many query rows per feature, with another number of tasks."""
    group = design.groups[0]
    n_tasks = max(2, round(ratio * dist.n_features / group.n_query))
    return replace(design, n_tasks=n_tasks, n_support=group.n_support, n_query=group.n_query)


def _rates(best: float, design: Design) -> FloatArray:
    reach = max(2 * abs(_finite(best)), 0.5)
    return np.linspace(0.0 if design.inner_rule == "implicit" else -reach, reach, _N_RATES)


def _finite(rate: float) -> float:
    return rate if np.isfinite(rate) else float(np.sign(rate) * 1e3)
