"""Pictures of a study of a table: learning curves, coverage of intervals, loss against each rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from innerloop.evaluation.coverage import LEVELS, Coverage
from innerloop.evaluation.rate_slices import RateSlice
from innerloop.evaluation.scores import Curve
from innerloop.plots.style import BLUE, GREEN, GREY, ORANGE, PALETTE, axes_or_new, rate_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (GREY, "v"))
# Size of a new figure in inches: about the width of a phone.
_WIDTH, _HEIGHT = 4.4, 4.2
_LONGEST_IN_TWO_COLUMNS = 28
# Errors that differ by more than this factor are drawn on a logarithmic axis.
_LINEAR = 4.0


class HasCurves(Protocol):
    """An `Evaluation`, or a `TableStudy`."""

    @property
    def curves(self) -> Sequence[Curve]:
        """Learning curves of all methods, that of the model first."""
        ...


def plot_learning_curves(study: HasCurves, ax: Axes | None = None) -> Axes:
    """Draw the errors of all methods on unseen tasks against the number of rows they adapt on.

    Parameters
    ----------
    study
        From `innerloop.study`. The line of its model is thick.
    ax
        Axes to draw on; None draws on those of a new pyplot figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes that were drawn on.

    Examples
    --------
    >>> import innerloop as il
    >>> tasks = il.MixedLinearRegression(1, task_std=2.0).sample_tasks(n_tasks=8, n_rows=6, seed=0)
    >>> ax = il.plot_learning_curves(il.study(tasks, il.MetaRegressor(adaptation="gradient")))
    """
    from matplotlib.ticker import LogLocator

    ax, curves = axes_or_new(ax, _WIDTH, _HEIGHT), study.curves
    first, least = curves[0].mse, min(float(curve.mse.min()) for curve in curves)
    top = 1.3 * float(first.max())
    for i, curve in enumerate(curves):
        method = curve.method
        style: dict[str, Any] = {"color": PALETTE[method.colour], "ls": method.line, "marker": method.marker}
        style |= {"ms": 4, "lw": 1.2 if i else 2.2, "zorder": 2 if i else 3}
        label = method.label if (curve.mse <= top).any() else f"{method.label} (above)"
        ax.errorbar(curve.n_rows, curve.mse, curve.mse_se, capsize=2, label=label, **style)
    ax.set_xscale("symlog", linthresh=1)
    ticks = np.unique(np.concatenate([curve.n_rows for curve in curves]))
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set(xlabel="rows a new task adapts on", ylabel="MSE on unseen tasks, ± 1 s.e.")
    if top > _LINEAR * least > 0:
        ax.set_yscale("log", subs=[])
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_ylim(0.7 * least, top)
    else:
        low = min(float((curve.mse - curve.mse_se).min()) for curve in curves)
        ax.set_ylim(max(0.0, low - 0.05 * (top - low)), top)
    _legend(ax)
    return ax


def plot_coverage(coverage: Coverage, ax: Axes | None = None) -> Axes:
    """Draw the share of targets inside their prediction intervals against the level of the intervals.

    Parameters
    ----------
    coverage
        From `TableStudy.coverage`.
    ax
        Axes to draw on; None draws on those of a new pyplot figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes that were drawn on.

    Examples
    --------
    >>> import innerloop as il
    >>> tasks = il.MixedLinearRegression(1, task_std=2.0).sample_tasks(n_tasks=8, n_rows=6, seed=0)
    >>> ax = il.plot_coverage(il.study(tasks, il.MetaRegressor(adaptation="gradient")).coverage())
    """
    ax = axes_or_new(ax, _WIDTH, _HEIGHT)
    ax.plot([0.4, 1], [0.4, 1], color=GREY, lw=1, ls="--", label="exact")
    shown = np.unique(np.linspace(0, len(coverage.n_rows) - 1, min(4, len(coverage.n_rows))).astype(int))
    for i, (colour, marker) in zip(shown, _POINTS, strict=False):
        n = coverage.n_rows[i]
        label = f"{n:g} rows to adapt on" if n != 1 else "1 row to adapt on"
        shift = 0.004 * (i - len(coverage.n_rows) / 2)
        style: dict[str, Any] = {"color": colour, "marker": marker, "ms": 4, "lw": 1}
        ax.errorbar(np.array(LEVELS) + shift, coverage.share[i], coverage.share_se[i], capsize=2, label=label, **style)
    ax.set(xlabel="level of the interval", ylabel="targets inside, ± 1 s.e.", xlim=(0.42, 1.0), ylim=(0.35, 1.02))
    _legend(ax)
    return ax


def plot_rate(losses: RateSlice, ax: Axes | None = None) -> Axes:
    """Draw cross-validated loss against one rate with its error band, and the theory's prediction where there is one.

    Parameters
    ----------
    losses
        One of `TableStudy.rate_slices`.
    ax
        Axes to draw on; None draws on those of a new pyplot figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes that were drawn on.

    Examples
    --------
    >>> import innerloop as il
    >>> tasks = il.MixedLinearRegression(1, task_std=2.0).sample_tasks(n_tasks=8, n_rows=6, seed=0)
    >>> for losses in il.study(tasks, il.MetaRegressor(adaptation="gradient")).rate_slices():
    ...     ax = il.plot_rate(losses)
    ...
    """
    ax = axes_or_new(ax, _WIDTH, _HEIGHT)
    x, y, error = losses.rates, losses.mse, losses.difference_se
    at_mark = float(losses.at_mark.mean())
    low, at_zero = float(y.min()), float(np.interp(0.0, x, y))
    high = low + max(3 * (max(at_zero, at_mark) - low), 0.1 * low)
    if losses.predicted is not None:
        low = min(low, float(np.nanmin(losses.predicted)))
        high = max(high, 1.05 * float(np.interp(0.0, x, losses.predicted)))
    ax.plot(x, y, color=BLUE, lw=1.6, label="cross-validated")
    if np.isfinite(error).all():
        band = "± 1 s.e. of the difference to the mark"
        ax.fill_between(x, y - error, y + error, where=y <= 2 * high, color=BLUE, alpha=0.2, lw=0, label=band)
    if losses.predicted is not None:
        ax.plot(x, losses.predicted, color=ORANGE, lw=1.4, ls="--", label="theory, calibrated to this table")
    mark = f"{losses.mark}: {losses.marked:.3g}"
    ax.plot(losses.marked, at_mark, "o", color=BLUE, mec="white", ms=8, label=mark)
    if losses.name == "inner_lr":
        rate_axis(ax, x)
        ax.set(xlabel="inner_lr (meta-training)")
    else:
        ax.axvline(0, color=GREY, lw=0.6)
        ax.set(xlabel="adapt_lr (new task)")
    ax.set(ylabel="MSE on unseen tasks", ylim=(low - 0.08 * (high - low), high))
    _legend(ax)
    return ax


def _legend(ax: Axes) -> None:
    """Put the legend under the axis labels, in as many columns as a phone shows."""
    _, labels = ax.get_legend_handles_labels()
    n_columns = 2 if max(map(len, labels)) <= _LONGEST_IN_TWO_COLUMNS else 1
    ax.legend(fontsize=9.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=n_columns, frameon=False)
