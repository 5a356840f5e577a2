"""The pictures of a report, as SVG to put into the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from innerloop._checks import FloatArray
from innerloop._figures import BLUE, GREEN, GREY, ORANGE
from innerloop.report.held_out import LEVELS, Coverage, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = ((BLUE, "-", "o"), (ORANGE, "-", "s"), (GREEN, "-", "^"), (GREY, "--", "v"), ("#CC79A7", "--", "D"))

_LONGEST_IN_TWO_COLUMNS = 28


def learning_curve(curves: Sequence[Curve]) -> str:
    """Draw errors on unseen tasks over the number of rows they adapt on."""
    figure, ax = _figure()
    top = 1.3 * max(float(curve.mse[0]) for curve in curves[:1])
    for curve, (colour, line, marker) in zip(curves, _STYLES, strict=False):
        style: dict[str, Any] = {"color": colour, "ls": line, "marker": marker, "ms": 4, "lw": 1.4}
        ax.errorbar(curve.n_rows, curve.mse, curve.mse_se, capsize=2, label=curve.name, **style)
    ax.set_xscale("symlog", linthresh=1)
    ticks = np.unique(np.concatenate([curve.n_rows for curve in curves]))
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    low = min(float((curve.mse - curve.mse_se).min()) for curve in curves)
    ax.set(xlabel="rows a new task adapts on", ylabel="MSE on unseen tasks, ± 1 s.e.")
    ax.set_ylim(max(0.0, low - 0.05 * (top - low)), top)
    _legend(ax)
    return _svg(figure, "Error on unseen tasks over the number of rows they adapt on")


def coverage_picture(found: Coverage) -> str:
    """Draw the share of targets inside their intervals against what was promised."""
    figure, ax = _figure()
    ax.plot([0.4, 1], [0.4, 1], color=GREY, lw=1, ls="--", label="as promised")
    shown = np.unique(np.linspace(0, len(found.n_rows) - 1, min(4, len(found.n_rows))).astype(int))
    for i, (colour, _, marker) in zip(shown, _STYLES, strict=False):
        n = found.n_rows[i]
        label = f"{n:g} rows to adapt on" if n != 1 else "1 row to adapt on"
        shift = 0.004 * (i - len(found.n_rows) / 2)
        style: dict[str, Any] = {"color": colour, "marker": marker, "ms": 4, "lw": 1}
        ax.errorbar(np.array(LEVELS) + shift, found.share[i], found.share_se[i], capsize=2, label=label, **style)
    ax.set(xlabel="level of the interval", ylabel="targets inside, ± 1 s.e.", xlim=(0.42, 1.0), ylim=(0.35, 1.02))
    _legend(ax)
    return _svg(figure, "Share of targets inside their prediction intervals")


def rate_picture(name: str, measured: Mapping[str, FloatArray], predicted: FloatArray | None, chosen: float) -> str:
    """Draw cross-validated loss against one rate with its band, and the theory's prediction."""
    figure, ax = _figure()
    x, y, error = measured["rate"], measured["mse"], measured["se"]
    ax.plot(x, y, color=BLUE, lw=1.6, label="cross-validated")
    if np.isfinite(error).all():
        band = "± 1 s.e. of the difference to inner_lr = 0"
        ax.fill_between(x, y - error, y + error, color=BLUE, alpha=0.2, lw=0, label=band)
    if predicted is not None:
        ax.plot(x, predicted, color=ORANGE, lw=1.4, ls="--", label="theory, calibrated to this table")
    if np.isfinite(chosen):
        ax.plot(chosen, np.interp(chosen, x, y), "o", color=BLUE, mec="white", ms=8, label=f"best: {chosen:.3g}")
    ax.axvline(0, color=GREY, lw=0.6)
    what = {"inner_lr": "inner_lr (meta-training)", "adapt_lr": "adapt_lr (new task)"}[name]
    ax.set(xlabel=what, ylabel="MSE on unseen tasks")
    low = float(y.min())
    at_zero = float(np.interp(0.0, x, y))
    high = low + max(3 * (at_zero - low), 0.1 * low)
    if predicted is not None and np.isfinite(predicted).any():
        low, high = min(low, float(np.nanmin(predicted))), max(high, float(np.interp(0.0, x, predicted)) * 1.05)
    ax.set_ylim(low - 0.08 * (high - low), high)
    _legend(ax)
    return _svg(figure, f"Error on unseen tasks against {name}")


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
