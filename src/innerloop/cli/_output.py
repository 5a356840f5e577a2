"""What commands print: tables and verdicts."""

from __future__ import annotations

import importlib.util
import shlex
import sys

import numpy as np
from rich.console import Console
from rich.table import Table

from innerloop._base.progress import progress
from innerloop.data.tasks import TaskSet
from innerloop.estimators import MetaRegressor
from innerloop.evaluation import Evaluation, Method
from innerloop.plots.held_out import PICTURE, compared, held_out_figure
from innerloop.plots.style import as_png
from innerloop.tabular.training import MetaTraining

console = Console(highlight=False)
messages = Console(highlight=False, soft_wrap=True, stderr=True)


def show(model: MetaRegressor, evaluation: Evaluation) -> None:
    """Print the rates, the errors of all methods and the verdict."""
    console.print(_rates(model, evaluation))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("on unseen tasks", no_wrap=True)
    for name in ("inner_lr", "adapt_lr", "MSE", "± s.e.", "excess", "± s.e."):
        table.add_column(name, justify="right", no_wrap=True)
    for method in evaluation.methods:
        first = method is evaluation.methods[0]
        table.add_row(*_cells(method, first), style="bold" if first else "")
    print_table(table)
    console.print(f"({evaluation.tested})", soft_wrap=not console.is_terminal)
    console.print()
    console.print(f"[bold]{evaluation.verdict}[/bold]", soft_wrap=not console.is_terminal)


def print_table(table: Table) -> None:
    """Print a table whole; a narrow console would cut numbers off."""
    Console(highlight=False, width=max(console.width, 120)).print(table, crop=False)


def _rates(model: MetaRegressor, evaluation: Evaluation) -> str:
    steps = f"{evaluation.n_steps} gradient step{'s' if evaluation.n_steps > 1 else ''}"
    edge = ""
    if at_the_end(model):
        edge = "\n(inner_lr is the last of those compared: rates beyond it may do as well)"
    rows = f"{evaluation.n_support} row{'s' if evaluation.n_support > 1 else ''}"
    if model.adaptation_ == "ridge":
        return f"\nadaptation [bold]ridge[/bold]\n({_scaled(model)}; errors after {rows})\n"
    if np.ndim(model.adapt_lr_):
        low, high = np.min(model.adapt_lr_), np.max(model.adapt_lr_)
        return (
            f"\none rate for each feature, in training and for new tasks, from [bold]{low:.3g} to {high:.3g}[/bold]\n"
            f"({_scaled(model)}, one gradient step on {rows})\n"
        )
    inner = f"inner_lr [bold]{_pm(model.inner_lr_, model.inner_lr_se_)}[/bold]   "
    adapt = f"adapt_lr [bold]{_pm(model.adapt_lr_, model.adapt_lr_se_)}[/bold]"
    if model.adaptation == "none":
        inner, adapt = "" if model.inner_lr == "auto" else inner, "no adaptation, as asked"
    return (
        f"\n{inner}{adapt}   l2 {model.l2_:g}\n"
        f"(rates for {_scaled(model)}, {steps} on {rows}; ± bootstrap s.e.){edge}\n"
    )


def at_the_end(model: MetaRegressor) -> bool:
    """Return whether the inner rate is the first or last of several that were compared."""
    if model.cv_results_ is None or np.ndim(model.inner_lr_):
        return False
    compared = model.cv_results_["inner_lr"]
    return compared.min() < compared.max() and model.inner_lr_ in (compared.min(), compared.max())


def _scaled(model: MetaRegressor) -> str:
    return "standardised features" if model.standardize else "features as they are"


def _pm(value: float, error: float) -> str:
    return f"{value:.3g} ± {error:.2g}" if error == error else f"{value:.3g} (given)"


def _cells(method: Method, first: bool) -> list[str]:
    rates = ["", ""] if method.rates is None else [f"{r:.3g}" for r in (method.rates.inner_lr, method.rates.adapt_lr)]
    errors = [f"{method.mse:.4g}", f"{method.mse_se:.2g}"]
    above = ["", ""] if first else [f"{method.excess:+.3g}", f"{method.excess_se:.2g}"]
    return [method.name, *rates, *errors, *above]


def pictures_of(model: MetaRegressor, title: str) -> dict[str, bytes]:
    """Return the picture of held-out loss, where there is one to draw and matplotlib to draw it."""
    if not compared(model):
        return {}
    try:
        picture = as_png(held_out_figure(model, title))
    except ImportError:
        messages.print("No picture: drawing needs matplotlib (pip install 'innerloop[plot]').", markup=False)
        return {}
    return {PICTURE: picture}


def report_of(
    model: MetaRegressor, training: MetaTraining, evaluation: Evaluation, tasks: TaskSet, **names: str
) -> bytes:
    """Return the report as a file's contents, given what the table, the target and the group are called."""
    from innerloop.report import N_TICKS, report_page

    command = shlex.join(["innerloop", *sys.argv[1:]])
    with progress("Writing the report", N_TICKS) as tick:
        return report_page(model, training, evaluation, tasks, command=command, tick=tick, **names).encode()


def can_draw() -> bool:
    """Return whether what pictures and pages need is installed."""
    return all(importlib.util.find_spec(package) is not None for package in ("matplotlib", "jinja2"))


def need_matplotlib(option: str) -> None:
    """Say what to install where there is nothing to draw with, before any work is done."""
    if not can_draw():
        raise ValueError(f"`{option}` needs matplotlib: pip install 'innerloop[plot]'.")
