"""Pictures of a report, as SVG elements of its page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# In inches; a phone shows a picture at about this width.
_WIDTH, _HEIGHT = 4.4, 4.2


def as_svg(draw: Callable[[Axes], object], title: str, height: float = _HEIGHT) -> str:
    """Return an SVG element that scales with the page.

    Parameters
    ----------
    draw
        Draws the picture on the axes it is given.
    title
        For screen readers; it also makes identifiers unique in the page.
    height
        In inches, for a width of 4.4.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure, buffer = Figure(figsize=(_WIDTH, height), layout="constrained"), io.StringIO()
    draw(figure.subplots())
    with mpl.rc_context({"svg.hashsalt": title, "svg.fonttype": "path"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a box stands for it
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    text, title = buffer.getvalue(), escape(title, quote=True)
    element = text[text.index("<svg") :]
    # Identifiers are one name space for the whole page.
    prefix = re.sub(r"\W+", "-", title)
    for attribute in ('id="', "url(#", 'href="#'):
        element = element.replace(attribute, f"{attribute}{prefix}-")
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.S)
    element = re.sub(r' (width|height)="[^"]*pt"', "", element, count=2)
    return element.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
