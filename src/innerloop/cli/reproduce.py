"""`innerloop reproduce`: the paper's figures."""

from __future__ import annotations

import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from innerloop._base.files import check_new
from innerloop.cli._output import console, need_matplotlib, print_table
from innerloop.papers.bernacchia2021 import fig2, fig3, fig5, ratemap, signs
from innerloop.papers.bernacchia2021.linear import LinearFigure, headline
from innerloop.plots.style import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Name = Literal["fig2", "fig3", "fig5", "map", "signs"]
_DRAWN: tuple[Name, ...] = ("fig2", "fig3", "map", "signs")
_LINEAR: dict[str, LinearFigure] = {"fig2": fig2.FIGURE, "fig3": fig3.FIGURE}


def reproduce(
    *names: Name,
    out: Path = Path("figures"),
    scale: float = 1.0,
    jobs: int = 1,
    ending: Literal["png", "svg", "pdf"] = "png",
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Draw the figures of Bernacchia (2021), with theory that passes through the dots.

    fig2 and fig3 have the paper's protocol (100 or 1000 runs, each scored on 100 new tasks of 50 rows), its
    leading-order theory and the deterministic equivalent. fig5 trains networks, 200 paired seeds at three choices of
    sizes, beside their kernel prediction; it needs PyTorch. Ours are map, the best inner_lr over both ratios, and
    signs, where its sign turns.

    Parameters
    ----------
    names
        Figures to draw; all but fig5 unless given.
    out
        Folder for the figures. Finished runs are kept in its folder `runs`: what was killed goes on from there.
    scale
        Part of the runs, and of the points of map; signs is exact.
    jobs
        Processes; -1 takes all cores.
    ending
        png, svg or pdf.
    force
        Replace figures that this command did not draw: those in a folder without `runs`.
    """
    if not 0 < scale <= 100:
        raise ValueError(f"`--scale` must be above 0 and at most 100 (1 is the paper's number of runs), got {scale}.")
    need_matplotlib("innerloop reproduce")
    if not (out / "runs").is_dir():
        for name in names or _DRAWN:
            check_new(out / f"{name}.{ending}", "--out", force)
    out.mkdir(parents=True, exist_ok=True)
    for name in names or _DRAWN:
        store = out / "runs" / f"{name}-{scale:g}"
        console.rule(name)
        figure = _linear(name, scale, store, jobs) if name in _LINEAR else _OTHERS[name](scale, store, jobs)
        path = out / f"{name}.{ending}"
        save_figure(figure, path)
        console.print(f"Saved {path}", soft_wrap=True, markup=False)


def _linear(name: str, scale: float, store: Path, jobs: int) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 6.6), layout="constrained")
    ax = figure.subplot_mosaic([["a", "b"], ["table", "table"]], height_ratios=[3, 1])
    arrays = _LINEAR[name].compute(scale, store, jobs, progress=True)
    _LINEAR[name].draw(arrays, ax)
    _caption(figure, _LINEAR[name].caption)
    print_table(_table(arrays["table"]))
    return figure


def _map(scale: float, store: Path, jobs: int) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    ax = figure.subplot_mosaic([["a", "b"]])
    ratemap.draw(ratemap.compute(scale, store, jobs, progress=True), ax)
    _caption(figure, ratemap.CAPTION)
    return figure


def _networks(scale: float, store: Path, jobs: int) -> Figure:
    from matplotlib.figure import Figure

    if find_spec("torch") is None:
        raise ValueError("`reproduce fig5` needs PyTorch: pip install 'innerloop[neural]'.")
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    arrays = fig5.compute(scale, store, jobs, progress=True)
    expected = {letter: fig5.expected_gain(setting, fig5.RATES) for letter, setting in fig5.SETTINGS.items()}
    turns = {letter: fig5.turning(setting) for letter, setting in fig5.SETTINGS.items()}
    fig5.draw(arrays, figure.subplot_mosaic([list(fig5.SETTINGS)]), expected, turns)
    _caption(figure, fig5.CAPTION)
    print_table(_answers(arrays))
    for letter, noise in turns.items():
        here = fig5.SETTINGS[letter].dist.noise_std
        console.print(f"{letter}: label noise {here:g}; theory: {fig5.turn_text(noise)}.", soft_wrap=True, markup=False)
    return figure


def _signs(scale: float, store: Path, jobs: int) -> Figure:  # noqa: ARG001
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    signs.draw(signs.compute(), figure.subplot_mosaic([["a", "b"]]))
    _caption(figure, signs.CAPTION)
    return figure


_OTHERS = {"fig5": _networks, "map": _map, "signs": _signs}


def _caption(figure: Figure, text: str) -> None:
    figure.suptitle("\n".join(textwrap.wrap(text, 130)), fontsize=9, x=0.01, ha="left")


def _answers(arrays: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("best rate of each sign", no_wrap=True)
    for name in ("inner_lr", "kernel", "± s.e.", "networks", "± s.e.", "s.e.s"):
        table.add_column(name, justify="right", no_wrap=True)
    for a in fig5.answers(arrays):
        name = f"{a.letter}: {'negative' if a.inner_lr < 0 else 'positive'}"
        numbers = (f"{a.kernel:+.5f}", f"{a.kernel_stderr:.5f}", f"{a.network:+.5f}", f"{a.network_stderr:.5f}")
        table.add_row(name, f"{a.inner_lr:g}", *numbers, f"{a.network / a.network_stderr:+.1f}")
    table.caption = "loss minus that of inner_lr = 0; rates chosen on the kernel for other seeds"
    return table


def _table(arrays: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("best rates", no_wrap=True)
    for name in ("inner_lr", "adapt_lr", "theory", "Monte Carlo", "± s.e.", "above the best"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, inner, adapt, theory, loss, error, above in headline(arrays):
        numbers = (f"{inner:.4g}", f"{adapt:.4g}", f"{theory:.5f}", f"{loss:.5f}", f"{error:.1g}", f"{above:.2f} %")
        table.add_row(name, *numbers)
    return table
