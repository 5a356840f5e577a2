"""The pictures of a report, as SVG to put into the page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from innerloop.evaluation import (
    GIVEN,
    GIVEN_ADAPT_LR,
    GIVEN_INNER_LR,
    GRADIENT,
    NO_INNER_LOOP,
    PER_FEATURE,
    PER_TASK,
    POOLED,
    RIDGE,
    TASK_MEAN,
    TIED,
    Curve,
)
from innerloop.evaluation.coverage import LEVELS, Coverage
from innerloop.evaluation.rate_slices import Slice
from innerloop.plots.style import BLUE, GREEN, GREY, ORANGE, rate_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour, line and marker of every method; further shades are of the same palette.
_SKY, _PURPLE, _YELLOW = "#56B4E9", "#CC79A7", "#E69F00"
_STYLES = {
    RIDGE: (BLUE, "-", "o"),
    PER_FEATURE: (BLUE, "-", "P"),
    GRADIENT: (GREEN, "-", "^"),
    GIVEN: (_SKY, "-", "X"),
    GIVEN_INNER_LR: (_SKY, "-", "X"),
    GIVEN_ADAPT_LR: (_SKY, "-", "X"),
    NO_INNER_LOOP: (GREEN, ":", ">"),
    TIED: (_YELLOW, ":", "<"),
    POOLED: (ORANGE, "-", "s"),
    PER_TASK: (GREY, "--", "v"),
    TASK_MEAN: (_PURPLE, "--", "D"),
}
_POINTS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (GREY, "v"))

_LONGEST_IN_TWO_COLUMNS = 28
# Errors that differ by more than this factor are drawn on a logarithmic axis.
_LINEAR = 4.0


def learning_curve(curves: Sequence[Curve]) -> str:
    """Draw errors on unseen tasks over the number of rows they adapt on, the model's own thick."""
    from matplotlib.ticker import LogLocator

    figure, ax = _figure()
    first, least = curves[0].mse, min(float(curve.mse.min()) for curve in curves)
    top = 1.3 * float(first.max())
    for i, curve in enumerate(curves):
        colour, line, marker = _STYLES[curve.name]
        style: dict[str, Any] = {"color": colour, "ls": line, "marker": marker, "ms": 4, "lw": 1.2 if i else 2.2}
        label = curve.name if (curve.mse <= top).any() else f"{curve.name} (above)"
        ax.errorbar(curve.n_rows, curve.mse, curve.mse_se, capsize=2, label=label, zorder=2 if i else 3, **style)
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
    return _svg(figure, "Error on unseen tasks over the number of rows they adapt on")


def coverage_picture(found: Coverage) -> str:
    """Draw the share of targets inside their intervals against what was promised."""
    figure, ax = _figure()
    ax.plot([0.4, 1], [0.4, 1], color=GREY, lw=1, ls="--", label="as promised")
    shown = np.unique(np.linspace(0, len(found.n_rows) - 1, min(4, len(found.n_rows))).astype(int))
    for i, (colour, marker) in zip(shown, _POINTS, strict=False):
        n = found.n_rows[i]
        label = f"{n:g} rows to adapt on" if n != 1 else "1 row to adapt on"
        shift = 0.004 * (i - len(found.n_rows) / 2)
        style: dict[str, Any] = {"color": colour, "marker": marker, "ms": 4, "lw": 1}
        ax.errorbar(np.array(LEVELS) + shift, found.share[i], found.share_se[i], capsize=2, label=label, **style)
    ax.set(xlabel="level of the interval", ylabel="targets inside, ± 1 s.e.", xlim=(0.42, 1.0), ylim=(0.35, 1.02))
    _legend(ax)
    return _svg(figure, "Share of targets inside their prediction intervals")


def rate_picture(found: Slice, mark: str) -> str:
    """Draw cross-validated loss against one rate with its band, and the theory's prediction."""
    figure, ax = _figure()
    x, y, error = found.rates, found.mse, found.difference_se
    at_mark = float(found.at_mark.mean())
    low, at_zero = float(y.min()), float(np.interp(0.0, x, y))
    high = low + max(3 * (max(at_zero, at_mark) - low), 0.1 * low)
    if found.predicted is not None:
        low = min(low, float(found.predicted.min()))
        high = max(high, 1.05 * float(np.interp(0.0, x, found.predicted)))
    ax.plot(x, y, color=BLUE, lw=1.6, label="cross-validated")
    if np.isfinite(error).all():
        band = "± 1 s.e. of the difference to the mark"
        ax.fill_between(x, y - error, y + error, where=y <= 2 * high, color=BLUE, alpha=0.2, lw=0, label=band)
    if found.predicted is not None:
        ax.plot(x, found.predicted, color=ORANGE, lw=1.4, ls="--", label="theory, calibrated to this table")
    ax.plot(found.marked, at_mark, "o", color=BLUE, mec="white", ms=8, label=f"{mark}: {found.marked:.3g}")
    if found.name == "inner_lr":
        rate_axis(ax, x)
        ax.set(xlabel="inner_lr (meta-training)")
    else:
        ax.axvline(0, color=GREY, lw=0.6)
        ax.set(xlabel="adapt_lr (new task)")
    ax.set(ylabel="MSE on unseen tasks", ylim=(low - 0.08 * (high - low), high))
    _legend(ax)
    return _svg(figure, f"Error on unseen tasks against {found.name}")


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 4.2), layout="constrained")  # a phone shows it at about this width
    return figure, figure.subplots()


def _legend(ax: Axes) -> None:
    _, labels = ax.get_legend_handles_labels()
    n_columns = 2 if max(map(len, labels)) <= _LONGEST_IN_TWO_COLUMNS else 1
    ax.legend(fontsize=9.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=n_columns, frameon=False)


def _svg(figure: Figure, title: str) -> str:
    """Return the figure as an SVG element that scales with the page, with a title for screen readers."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": title, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    text = buffer.getvalue()
    element = text[text.index("<svg") :]
    # Identifiers are one name space for the whole page.
    prefix = re.sub(r"\W+", "-", title)
    for attribute in ('id="', "url(#", 'href="#'):
        element = element.replace(attribute, f"{attribute}{prefix}-")
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.S)
    element = re.sub(r' (width|height)="[^"]*pt"', "", element, count=2)
    return element.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
