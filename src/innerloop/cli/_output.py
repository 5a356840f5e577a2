"""Printed output of commands: rates, tables, verdicts and messages."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from innerloop.estimators import MetaRegressor
from innerloop.evaluation import Score
from innerloop.plots.held_out import PICTURE, compared, held_out_figure
from innerloop.plots.style import save_figure
from innerloop.report import TableStudy

# Names from tables are printed as they are: ":warning:" is no picture.
console = Console(highlight=False, emoji=False)
messages = Console(highlight=False, emoji=False, soft_wrap=True, stderr=True)


def show(study: TableStudy) -> None:
    """Print the rates, the errors of all methods and the verdict."""
    evaluation = study.evaluation
    console.print(_rates(study))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("on unseen tasks", no_wrap=True)
    for name in ("inner_lr", "adapt_lr", "MSE", "± s.e.", "excess", "± s.e."):
        table.add_column(name, justify="right", no_wrap=True)
    for score in evaluation.scores:
        first = score is evaluation.scores[0]
        table.add_row(*_cells(score, first), style="bold" if first else "")
    print_table(table)
    console.print(evaluation.tested, soft_wrap=not console.is_terminal)
    console.print()
    console.print(f"[bold]{study.verdict}[/bold]", soft_wrap=not console.is_terminal)


def print_table(table: Table) -> None:
    """Print a table whole; a narrow console would cut numbers off."""
    width = Console(width=10_000).measure(table).maximum  # no cell is cut, however narrow the terminal
    Console(highlight=False, emoji=False, width=max(console.width, width)).print(table, crop=False)


def _rates(study: TableStudy) -> str:
    model, settings = study.model, study.evaluation.trained.training.settings
    units = "standardised features" if settings.standardize else "features as they are"
    steps = f"{settings.n_steps} gradient step{'s' if settings.n_steps > 1 else ''}"
    rows = f"{model.n_support_} row{'s' if model.n_support_ > 1 else ''}"
    if model.adaptation_ == "ridge":
        return f"\nadaptation [bold]ridge[/bold]\n({units}; errors after {rows})\n"
    if np.ndim(model.adapt_lr_):
        low, high = np.min(model.adapt_lr_), np.max(model.adapt_lr_)
        return (
            f"\none rate for each feature, in training and for new tasks, from [bold]{low:.3g} to {high:.3g}[/bold]\n"
            f"({units}, one gradient step on {rows})\n"
        )
    inner = f"inner_lr [bold]{_pm(model.inner_lr_, model.inner_lr_se_)}[/bold]   "
    adapt = f"adapt_lr [bold]{_pm(model.adapt_lr_, model.adapt_lr_se_)}[/bold]"
    if model.adaptation == "none":
        inner, adapt = "" if model.inner_lr == "auto" else inner, "no adaptation, as asked"
    edge = "\n(inner_lr is the last of those compared: rates beyond it may do as well)" if is_at_end(model) else ""
    return f"\n{inner}{adapt}   l2 {model.l2_:g}\n(rates for {units}, {steps} on {rows}; ± bootstrap s.e.){edge}\n"


def is_at_end(model: MetaRegressor) -> bool:
    """Return whether the inner rate is the first or last of several that were compared."""
    if model.cv_results_ is None or np.ndim(model.inner_lr_):
        return False
    compared = model.cv_results_["inner_lr"]
    return compared.min() < compared.max() and model.inner_lr_ in (compared.min(), compared.max())


def _pm(value: float, error: float) -> str:
    return f"{value:.3g} ± {error:.2g}" if error == error else f"{value:.3g} (given)"


def _cells(score: Score, first: bool) -> list[str]:
    rates = ["", ""] if score.rates is None else [f"{r:.3g}" for r in (score.rates.inner_lr, score.rates.adapt_lr)]
    errors = [f"{score.mse:.4g}", f"{score.mse_se:.2g}"]
    excess = ["", ""] if first else [f"{score.excess:+.3g}", f"{score.excess_se:.2g}"]
    return [score.label, *rates, *errors, *excess]


def draw_beside(model: MetaRegressor, folder: Path, title: str) -> Path | None:
    """Draw held-out loss into the folder of a saved model; return the picture's path, None where there is none.

    There may be nothing to draw. A picture that cannot be drawn does not end the command: it says why.
    """
    path = folder / PICTURE
    path.unlink(missing_ok=True)  # of the model that was there before
    if not compared(model):
        return None
    try:
        save_figure(held_out_figure(model, title), path)
    except ImportError:
        messages.print("No picture: drawing needs matplotlib (pip install 'innerloop[plot]').", markup=False)
        return None
    except Exception as error:  # whatever matplotlib raises
        messages.print(f"No picture: {type(error).__name__}: {error}", markup=False)
        return None
    return path


def command_line() -> str:
    """Return the command that is running."""
    return shlex.join(["innerloop", *sys.argv[1:]])


def can_draw() -> bool:
    """Return whether the packages for pictures and pages are installed."""
    return all(importlib.util.find_spec(package) is not None for package in ("matplotlib", "jinja2"))


def need_matplotlib(option: str) -> None:
    """Refuse an option that draws if matplotlib or jinja2 is not installed, before any work is done."""
    if not can_draw():
        raise ValueError(f"`{option}` needs matplotlib: pip install 'innerloop[plot]'.")
