"""What all pictures share: colours that the colour-blind can tell apart, axes, legends, and how a figure is written."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
# By name, with further shades of the same palette.
PALETTE = {
    **{"blue": BLUE, "orange": ORANGE, "green": GREEN, "grey": GREY},
    **{"sky": "#56B4E9", "purple": "#CC79A7", "yellow": "#E69F00"},
}
# Maps show losses up to this much above the lowest; all that is higher has one colour.
MAP_RANGE_PERCENT = 30.0

ENDINGS = (".png", ".svg", ".pdf")


def axes_or_new(ax: Axes | None, width: float = 6.4, height: float = 5.0) -> Axes:
    """Return `ax`, or the axes of a new pyplot figure of that size in inches, which a notebook shows by itself."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise ImportError("Drawing needs matplotlib: pip install 'innerloop[plot]'.") from error
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


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


def legend_below(ax: Axes) -> None:
    """Put the legend under the axis labels, off the data."""
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)


def title_figure(figure: Figure, name: str) -> None:
    """Write a name that a user chose above a figure, whatever signs it has: none of them is mathematics or TeX."""
    figure.suptitle(plain(name), parse_math=False, usetex=False)


def plain(name: str, longest: int | None = None) -> str:
    """Return a name that a user chose with a replacement for signs that do not print, and maybe cut off."""
    shown = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in name)
    return shown if longest is None or len(shown) <= longest else f"{shown[: longest - 1]}…"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a .png, .svg or .pdf file: whole or not at all, the same bytes for the same figure."""
    write_whole(path, _rendered(figure, path.suffix))


def _rendered(figure: Figure, ending: str) -> bytes:
    """Return the figure as a file of that ending, without a date, so that it depends on the figure alone."""
    import matplotlib as mpl

    undated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[ending]
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "innerloop"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a box stands for it
        figure.savefig(buffer, format=ending[1:], dpi=150, metadata=undated)
    return buffer.getvalue()
