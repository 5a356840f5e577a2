"""`innerloop explore`: a local page with sliders for theory, and for a fitted table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from innerloop.explorer import explore as serve


def explore(
    folder: Path | None = None,
    /,
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
) -> None:
    """Open a live page: theory by sliders, a fitted table, a sweep of a network.

    Prints the page's address and serves it until Ctrl-C. Nothing leaves this machine, and the page needs no network.

    Parameters
    ----------
    folder
        Model made by `innerloop fit --out`, or sweep made by `innerloop train --sweep ... --out`; theory alone, and
        tables that are dropped on the page, unless given.
    port
        8765, or a free port if that is taken, unless given.
    host
        The one IP address to listen on; with any but a loopback address all who have the token can use the page.
    browser
        Whether to open the page in the system's browser.
    """
    serve(folder, host=host, port=port, browser=browser, say=lambda line: print(line, flush=True))
