"""Pictures of a fitted model's cross-validated loss against the two learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.plots.style import (
    BLUE,
    GREY,
    MAP_RANGE_PERCENT,
    ORANGE,
    axes_or_new,
    legend_below,
    rate_axis,
    title_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from innerloop.estimators import MetaRegressor

Against = Literal["inner_lr", "adapt_lr", "both"]

PICTURE = "held_out_loss.png"
_BAND = "± 1 s.e. of the difference to inner_lr = 0"


def plot_held_out(model: MetaRegressor, ax: Axes | None = None, against: Against | None = None) -> Axes:
    """Draw a fitted model's cross-validated loss against the learning rates that `fit` compared.

    The loss is the mean squared error on tasks that were held out, in squared units of the target, at the best `l2`
    of each pair of rates.

    Parameters
    ----------
    model
        A fitted `MetaRegressor` that compared rates in `fit`.
    ax
        Axes to draw on; None draws on those of a new pyplot figure.
    against
        "inner_lr": a curve, each rate with its best `adapt_lr`. "adapt_lr": a curve at the chosen `inner_lr`. "both":
        a map. None: the map, or the curve of the one rate of which several were compared.

    Returns
    -------
    matplotlib.axes.Axes
        The axes that were drawn on.

    Raises
    ------
    ValueError
        If `fit` compared no rates, or none of those that `against` names.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import innerloop as il
    >>> tasks = il.MixedLinearRegression(2, task_std=2.0).sample_tasks(20, 10, seed=0)
    >>> model = il.MetaRegressor(adaptation="gradient").fit(tasks.X, tasks.y, groups=tasks.task_of_row)
    >>> ax = il.plot_held_out(model)
    """
    shown = compared(model)
    if not shown:
        raise ValueError("`model` compared no rates: they were given, or there was one task, so nothing can be drawn.")
    against = shown[-1] if against is None else against
    if against not in ("inner_lr", "adapt_lr", "both"):
        raise ValueError(f"`against` must be 'inner_lr', 'adapt_lr', 'both' or None, got {against!r}.")
    if against not in shown:
        raise ValueError(f"`against` is {against!r}, but `model` compared several values of {shown[0]} only.")
    ax = axes_or_new(ax)
    {"inner_lr": _draw_inner, "adapt_lr": _draw_adapt, "both": _draw_both}[against](_HeldOut.of(model), ax)
    return ax


def held_out_figure(model: MetaRegressor, title: str) -> Figure:
    """Return a figure of every picture of held-out loss that the model has, side by side."""
    from matplotlib.figure import Figure

    shown = compared(model)
    figure = Figure(figsize=(1 + 4 * len(shown), 5.4), layout="constrained")
    title_figure(figure, title)
    for against, ax in zip(shown, figure.subplots(1, len(shown), squeeze=False)[0], strict=True):
        plot_held_out(model, ax, against)
    return figure


def compared(model: MetaRegressor) -> list[Against]:
    """Return what held-out loss can be drawn against: the rates of which `fit` compared several, and both."""
    results = model.cv_results_ or {}
    rates = [name for name in ("inner_lr", "adapt_lr") if name in results and len(np.unique(results[name])) > 1]
    return cast("list[Against]", [*rates, "both"] if len(rates) == 2 else rates)


@dataclass(frozen=True)
class _HeldOut:
    """Held-out losses as (n_inner, n_adapt), and the pair of rates to mark in them."""

    inner_lr: FloatArray
    adapt_lr: FloatArray
    mse: FloatArray
    difference_se: FloatArray
    marked: tuple[float, float]
    name: str

    @classmethod
    def of(cls, model: MetaRegressor) -> _HeldOut:
        """Return the losses of a model, each pair of rates at its best penalty."""
        results = model.cv_results_ or {}
        sizes = [len(np.unique(results[name])) for name in ("inner_lr", "l2", "adapt_lr")]
        cubes = {name: column.reshape(sizes) for name, column in results.items()}
        best = cubes["mse"].argmin(axis=1, keepdims=True)
        losses = {name: np.take_along_axis(cube, best, axis=1)[:, 0] for name, cube in cubes.items()}
        if np.ndim(model.inner_lr_):  # one rate for each feature has no place in the picture
            low = np.unravel_index(losses["mse"].argmin(), losses["mse"].shape)
            marked = (float(losses["inner_lr"][low]), float(losses["adapt_lr"][low]))
            name = "best single rate"
        else:
            marked = (model.inner_lr_, model.adapt_lr_)
            name = "best gradient step" if model.adaptation_ == "ridge" else "recommended"
        return cls(losses["inner_lr"][:, 0], losses["adapt_lr"], losses["mse"], losses["difference_se"], marked, name)


def _draw_inner(losses: _HeldOut, ax: Axes) -> None:
    """Draw held-out loss against the inner rate, each at its best adaptation rate."""
    best = losses.mse.argmin(axis=1)
    rows = np.arange(len(best))
    x, y, error = losses.inner_lr, losses.mse[rows, best], losses.difference_se[rows, best]
    _draw_curve(ax, x, y, error, "at the best adapt_lr")
    if (x == 0).any():
        ax.axhline(y[x == 0][0], color=GREY, lw=1, ls="--", label="no inner loop in training")
    _mark(ax, losses.marked[0], float(np.interp(losses.marked[0], x, y)), losses.name)
    rate_axis(ax, x)
    ax.set(xlabel="inner_lr (meta-training)", ylabel="held-out MSE", title="Which rate to train with")
    _focus(ax, y, error, float(np.median(y)))
    legend_below(ax)


def _draw_adapt(losses: _HeldOut, ax: Axes) -> None:
    """Draw held-out loss against the adaptation rate, at the chosen inner rate."""
    inner_lr, adapt_lr = losses.marked
    row = int(np.abs(losses.inner_lr - inner_lr).argmin())
    x, y, error = losses.adapt_lr[row], losses.mse[row], losses.difference_se[row]
    _draw_curve(ax, x, y, error, f"trained with inner_lr = {inner_lr:.3g}")
    if (np.abs(x) < 1e-12).any():
        ax.axhline(y[np.abs(x).argmin()], color=GREY, lw=1, ls="--", label="no adaptation")
    _mark(ax, adapt_lr, float(np.interp(adapt_lr, x, y)), losses.name)
    ax.set(xlabel="adapt_lr (new task)", ylabel="held-out MSE", title="Which rate to adapt with")
    _focus(ax, y, error, float(y[np.abs(x).argmin()]))
    legend_below(ax)


def _draw_both(losses: _HeldOut, ax: Axes) -> None:
    """Draw held-out loss as a map over both rates."""
    excess = 100 * (losses.mse / losses.mse.min() - 1)
    x, y = losses.inner_lr, losses.adapt_lr[0]
    image = ax.pcolormesh(
        x, y, excess.T, cmap="viridis_r", vmin=0, vmax=MAP_RANGE_PERCENT, shading="nearest", rasterized=True
    )
    ax.figure.colorbar(image, ax=ax, extend="max").set_label("held-out MSE above the lowest (%)")
    low = np.unravel_index(excess.argmin(), excess.shape)
    ax.plot(x[low[0]], y[low[1]], "x", color=ORANGE, mec=ORANGE, mew=2, ms=9, zorder=3, label="lowest")
    ax.plot(*losses.marked, "o", color=ORANGE, mec="white", ms=8, zorder=4, label=losses.name)
    inside = x[(x >= y.min()) & (x <= y.max())]
    ax.plot(inside, inside, color="white", lw=1, ls=":")
    rate_axis(ax, x)
    ax.set(
        xlabel="inner_lr (meta-training)",
        ylabel="adapt_lr (new task)",
        title="Both (dotted: tied rates, usual MAML)",
        ylim=(y.min(), y.max()),
    )
    legend_below(ax)


def _draw_curve(ax: Axes, x: FloatArray, y: FloatArray, error: FloatArray, label: str) -> None:
    ax.plot(x, y, color=BLUE, label=label)
    if np.isfinite(error).all():
        ax.fill_between(x, y - error, y + error, color=BLUE, alpha=0.2, lw=0, label=_BAND)


def _mark(ax: Axes, x: float, y: float, name: str) -> None:
    ax.plot(x, y, "o", color=ORANGE, mec="white", ms=8, zorder=3, label=f"{name}: {x:.3g}")


def _focus(ax: Axes, y: FloatArray, error: FloatArray, reference: float) -> None:
    """Keep runaway losses from flattening the part that matters: from the lowest to past the reference."""
    error = np.nan_to_num(error)  # without inner_lr = 0 in the grid there is no difference to it
    lowest = int(y.argmin())
    low, high = float(y[lowest] - error[lowest]), float((y + error).max())
    top = min(high, low + max(3 * (reference - low), 0.02 * abs(low)))
    if top > low:
        ax.set_ylim(low - 0.05 * (top - low), top + 0.05 * (top - low))
