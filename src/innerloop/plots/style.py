"""What all pictures share: colours that the colour-blind can tell apart, and how a figure is written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from innerloop._base.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
# Maps show losses up to this much above the lowest; all that is higher has one colour.
MAP_RANGE_PERCENT = 30.0

ENDINGS = (".png", ".svg", ".pdf")


def axes(ax: Axes | None) -> Axes:
    """Return the axes to draw on: those given, or those of a new figure."""
    from matplotlib.figure import Figure

    return Figure(layout="constrained").subplots() if ax is None else ax


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a .png, .svg or .pdf file: whole or not at all, the same bytes for the same figure."""
    import matplotlib as mpl

    undated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[path.suffix]
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "innerloop"}):
        figure.savefig(buffer, format=path.suffix[1:], dpi=150, metadata=undated)
    write_whole(path, buffer.getvalue())
