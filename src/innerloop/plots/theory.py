"""Pictures of the expected test loss: against each rate, over both, and the best inner rate over N/p."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from innerloop.distributions import Design, MixedLinearRegression
from innerloop.plots.style import BLUE, GREEN, GREY, MAP_RANGE_PERCENT, ORANGE, axes_or_new
from innerloop.theory import RateOptimum
from innerloop.theory.curves import (
    BestRateCurve,
    LossCurve,
    LossMap,
    best_rate_curve,
    loss_curves,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABELS = {"inner_lr": "inner_lr (meta-training)", "adapt_lr": "adapt_lr (new task)"}
_N_TICKS = 6  # of an axis of rates: far rates have long labels


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

    Examples
    --------
    >>> import innerloop as il
    >>> dist, design = il.MixedLinearRegression(60, task_std=0.5), il.Design(3, n_support=30, n_query=2, n_adapt=20)
    >>> figure = il.plot_theory(dist, design, il.optimal_rates(dist, design))
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.5), layout="constrained")
    (inner, adapt), (both, ratio) = figure.subplots(2, 2)
    figure.suptitle(
        f"Expected test loss: {design.n_tasks} tasks, {dist.n_features} features, N/p = "
        f"{design.n_query_rows / dist.n_features:.3g}"
    )
    curves = loss_curves(dist, design, init, best)
    plot_loss_curve(curves.inner, inner)
    plot_loss_curve(curves.adapt, adapt)
    plot_loss_map(curves.both, both)
    plot_best_rate(best_rate_curve(dist, design, init), ratio)
    return figure


def plot_loss_curve(curve: LossCurve, ax: Axes | None = None) -> Axes:
    """Draw the expected loss against one rate, its minimum and the loss without an inner loop."""
    ax, best = axes_or_new(ax), curve.best
    minimum = best.inner_lr if curve.varied == "inner_lr" else best.adapt_lr
    ax.plot(curve.rates, curve.loss, color=BLUE)
    if np.isfinite(minimum):
        ax.plot(minimum, best.loss, "o", color=ORANGE, mec="white", label=f"minimum: {minimum:.3g}")
    if curve.varied == "inner_lr":
        ax.axhline(best.loss_no_inner, color=GREY, lw=1, ls="--", label="no inner loop in training")
        ax.axhline(best.loss_untrained, color=GREEN, lw=1, ls=":", label="no meta-training")
        if curve.references is not None and np.isfinite(curve.references.bayes):
            ax.axhline(curve.references.bayes, color=GREY, lw=1, ls="-.", label="Bayes-optimal")
    ax.axvline(0, color=GREY, lw=0.6)
    other = "adapt_lr" if curve.varied == "inner_lr" else "inner_lr"
    fixed = f"= {curve.fixed:.3g}" if np.isfinite(curve.fixed) else "far from zero"
    ax.set(xlabel=_LABELS[curve.varied], ylabel="expected test loss (half MSE)", title=f"at {other} {fixed}")
    ax.locator_params(axis="x", nbins=_N_TICKS)
    ax.legend(fontsize=8)
    return ax


def plot_loss_map(result: LossMap, ax: Axes | None = None) -> Axes:
    """Draw the loss over both rates, as percent above the lowest."""
    ax, best = axes_or_new(ax), result.best
    inner, adapt = result.inner_lr, result.adapt_lr
    excess = 100 * (result.loss / best.loss - 1)
    image = ax.pcolormesh(
        inner, adapt, excess.T, cmap="viridis_r", vmin=0, vmax=MAP_RANGE_PERCENT, shading="nearest", rasterized=True
    )
    ax.figure.colorbar(image, ax=ax, extend="max").set_label("above the lowest (%)")
    inside = inner[(inner >= adapt.min()) & (inner <= adapt.max())]
    ax.plot(inside, inside, color="white", lw=1, ls=":")
    if np.isfinite(best.inner_lr):
        ax.plot(best.inner_lr, best.adapt_lr, "o", color=ORANGE, mec="white", ms=8)
    ax.set(xlabel="inner_lr", ylabel="adapt_lr", title="Both (dotted: tied rates, usual MAML)")
    ax.locator_params(axis="x", nbins=_N_TICKS)
    return ax


def plot_best_rate(curve: BestRateCurve, ax: Axes | None = None) -> Axes:
    """Draw the best inner rate over N/p."""
    ax = axes_or_new(ax)
    for side in (curve.ratio < 1, curve.ratio >= 1):  # at N = p the best rate jumps
        ax.plot(curve.ratio[side], curve.inner_lr[side], ".-", color=BLUE)
    ax.axvline(1, color=GREY, lw=0.8, ls=":")
    ax.axvline(curve.this_ratio, color=ORANGE, lw=1, label="this design")
    ax.axhline(0, color=GREY, lw=0.6)
    ax.set(xscale="log", xlabel="N/p (by the number of tasks)", ylabel="best inner_lr")
    ax.set_title("The best rate to train with")
    ax.legend(fontsize=8)
    return ax
