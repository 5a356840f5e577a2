"""Pictures of held-out loss against the two learning rates."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.plots.style import BLUE, GREY, MAP_RANGE_PERCENT, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from innerloop.estimators import MetaRegressor

PICTURE = "held_out_loss.png"
_BAND = "± 1 s.e. of the difference to inner_lr = 0"


def plot_held_out(model: MetaRegressor, title: str | None = None) -> Figure:
    """Draw a fitted model's cross-validated loss: against each rate, and against both.

    Parameters
    ----------
    model
        A fitted `MetaRegressor` that has `cv_results_`.
    title
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If nothing was chosen in `fit`, so that there is nothing to draw.
    """
    from matplotlib.figure import Figure

    if not has_picture(model):
        raise ValueError("`model` compared no rates: they were given, or there was one task, so nothing can be drawn.")
    losses = _best_penalty(model.cv_results_ or {})
    inner, adapt, name = model.inner_lr_, model.adapt_lr_, "recommended"
    if model.adaptation_ == "ridge":
        name = "best gradient step"
    if np.ndim(inner):  # one rate for each feature has no place in the picture
        inner, adapt, name = *_lowest(losses), "best single rate"
    n_inner, n_adapt = losses["mse"].shape
    panels: list[Callable[[Axes], None]] = []
    if n_inner > 1:
        panels.append(lambda ax: plot_inner_lr(losses, inner, ax, name))
    if n_adapt > 1:
        panels.append(lambda ax: plot_adapt_lr(losses, inner, adapt, ax, name))
    if len(panels) == 2:
        panels.append(lambda ax: plot_both(losses, inner, adapt, ax, name))
    figure = Figure(figsize=(1 + 4 * len(panels), 5.4), layout="constrained")
    if title:
        figure.suptitle(title)
    for draw, ax in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        draw(ax)
    return figure


def has_picture(model: MetaRegressor) -> bool:
    """Return whether `fit` compared several inner rates or several adaptation rates."""
    results = model.cv_results_
    return results is not None and any(len(np.unique(results[name])) > 1 for name in ("inner_lr", "adapt_lr"))


def as_png(figure: Figure) -> bytes:
    """Return the figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def plot_inner_lr(losses: Mapping[str, FloatArray], chosen: float, ax: Axes, name: str = "recommended") -> None:
    """Draw held-out loss against the inner rate, each at its best adaptation rate."""
    best = losses["mse"].argmin(axis=1)
    rows = np.arange(len(best))
    x, y = losses["inner_lr"][:, 0], losses["mse"][rows, best]
    error = losses["difference_se"][rows, best]
    ax.plot(x, y, color=BLUE, label="at the best adapt_lr")
    if np.isfinite(error).all():
        ax.fill_between(
            x,
            y - error,
            y + error,
            color=BLUE,
            alpha=0.2,
            lw=0,
            label=_BAND,
        )
    if (x == 0).any():
        ax.axhline(y[x == 0][0], color=GREY, lw=1, ls="--", label="no inner loop in training")
    _mark(ax, chosen, float(np.interp(chosen, x, y)), f"{name}: {chosen:.3g}")
    rate_axis(ax, x)
    ax.set(xlabel="inner_lr (meta-training)", ylabel="held-out MSE", title="Which rate to train with")
    _focus(ax, y, error, float(np.median(y)))
    _legend_below(ax)


def plot_adapt_lr(
    losses: Mapping[str, FloatArray], inner_lr: float, adapt_lr: float, ax: Axes, name: str = "recommended"
) -> None:
    """Draw held-out loss against the adaptation rate, at the chosen inner rate."""
    row = int(np.abs(losses["inner_lr"][:, 0] - inner_lr).argmin())
    x, y, error = losses["adapt_lr"][row], losses["mse"][row], losses["difference_se"][row]
    ax.plot(x, y, color=BLUE, label=f"trained with inner_lr = {inner_lr:.3g}")
    if np.isfinite(error).all():
        ax.fill_between(x, y - error, y + error, color=BLUE, alpha=0.2, lw=0, label=_BAND)
    if (np.abs(x) < 1e-12).any():
        ax.axhline(y[np.abs(x).argmin()], color=GREY, lw=1, ls="--", label="no adaptation")
    _mark(ax, adapt_lr, float(np.interp(adapt_lr, x, y)), f"{name}: {adapt_lr:.3g}")
    ax.set(xlabel="adapt_lr (new task)", ylabel="held-out MSE", title="Which rate to adapt with")
    _focus(ax, y, error, float(y[np.abs(x).argmin()]))
    _legend_below(ax)


def plot_both(
    losses: Mapping[str, FloatArray], inner_lr: float, adapt_lr: float, ax: Axes, name: str = "recommended"
) -> None:
    """Draw held-out loss as a map over both rates."""
    excess = 100 * (losses["mse"] / losses["mse"].min() - 1)
    x, y = losses["inner_lr"][:, 0], losses["adapt_lr"][0]
    if len(x) > 1 and len(y) > 1:
        image = ax.pcolormesh(
            x,
            y,
            excess.T,
            cmap="viridis_r",
            vmin=0,
            vmax=MAP_RANGE_PERCENT,
            shading="nearest",
            rasterized=True,
        )
        bar = ax.figure.colorbar(image, ax=ax, extend="max")
        bar.set_label("held-out MSE above the lowest (%)")
    low = np.unravel_index(excess.argmin(), excess.shape)
    ax.plot(x[low[0]], y[low[1]], "x", color=ORANGE, mec=ORANGE, mew=2, ms=9, zorder=3, label="lowest")
    ax.plot(inner_lr, adapt_lr, "o", color=ORANGE, mec="white", ms=8, zorder=4, label=name)
    inside = x[(x >= y.min()) & (x <= y.max())]
    ax.plot(inside, inside, color="white", lw=1, ls=":")
    rate_axis(ax, x)
    ax.set(
        xlabel="inner_lr (meta-training)",
        ylabel="adapt_lr (new task)",
        title="Both (dotted: tied rates, usual MAML)",
        ylim=(y.min(), y.max()),
    )
    _legend_below(ax)


def _lowest(losses: Mapping[str, FloatArray]) -> tuple[float, float]:
    """Return the pair of rates with the lowest loss."""
    low = np.unravel_index(losses["mse"].argmin(), losses["mse"].shape)
    return float(losses["inner_lr"][low]), float(losses["adapt_lr"][low])


def _best_penalty(results: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Return the columns of `cv_results_` as (n_inner, n_adapt), each pair at its best penalty."""
    sizes = [len(np.unique(results[name])) for name in ("inner_lr", "l2", "adapt_lr")]
    cubes = {name: column.reshape(sizes) for name, column in results.items()}
    best = cubes["mse"].argmin(axis=1, keepdims=True)
    return {name: np.take_along_axis(cube, best, axis=1)[:, 0] for name, cube in cubes.items()}


def rate_axis(ax: Axes, rates: FloatArray) -> None:
    """Spread an axis of signed rates as their grid is spread: dense around zero."""
    largest = float(np.abs(rates).max())
    if len(rates) > 2 and largest > 0:
        ax.set_xscale("asinh", linear_width=largest / 25)
        ticks = [float(f"{largest * part:.1g}") for part in (0.12, 0.8)]
        places = [-t for t in reversed(ticks)] + [0.0, *ticks]
        ax.set_xticks(places, [f"{t:g}".replace("-", "\N{MINUS SIGN}") for t in places])
        ax.minorticks_off()
    ax.axvline(0, color=GREY, lw=0.6, zorder=1.5)


def _legend_below(ax: Axes) -> None:
    """Put the legend under the axis labels, off the data."""
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1, frameon=False)


def _mark(ax: Axes, x: float, y: float, label: str) -> None:
    ax.plot(x, y, "o", color=ORANGE, mec="white", ms=8, zorder=3, label=label)


def _focus(ax: Axes, y: FloatArray, error: FloatArray, reference: float) -> None:
    """Keep runaway losses from flattening the part that matters: from the lowest to past the reference."""
    error = np.nan_to_num(error)  # without inner_lr = 0 in the grid there is no difference to it
    lowest = int(y.argmin())
    low, high = float(y[lowest] - error[lowest]), float((y + error).max())
    top = min(high, low + max(3 * (reference - low), 0.02 * abs(low)))
    if top > low:
        ax.set_ylim(low - 0.05 * (top - low), top + 0.05 * (top - low))
