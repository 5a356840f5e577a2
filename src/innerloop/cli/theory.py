"""`innerloop theory`: the best pair of rates and its expected test loss, before any training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from rich.table import Table

from innerloop._base.checks import FloatArray
from innerloop._base.files import check_file
from innerloop.cli._model import LinearModel
from innerloop.cli._output import console, need_matplotlib, print_table
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.plots.style import ENDINGS, save_figure
from innerloop.theory import RateOptimum, optimal_rates
from innerloop.theory.planner import Plan, plan_design


def theory(
    *,
    model: LinearModel | None = None,
    budget: int | None = None,
    plot: Path | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Predict the best learning rates and their expected test loss, before any training.

    For mixed linear regression. Losses are half mean squared errors on new tasks, label noise included.

    Parameters
    ----------
    model
        The tasks, and the sizes.
    budget
        Instead of the sizes of training tasks: split so many labelled rows in the best way.
    plot
        Draw the losses to a .png, .svg or .pdf file.
    json_
        Print the results as JSON instead.
    """
    dist, design, init = (model or LinearModel()).parts()
    if plot is not None:
        check_file(plot, "--plot", ENDINGS)
        need_matplotlib("--plot")
    plans = plan_design(dist, design, budget, init) if budget is not None else []
    if plans:
        design, best = plans[0].design, plans[0].best
    else:
        best = optimal_rates(dist, design, init)
    if plot is not None:
        _draw(dist, design, best, init, plot)
    if json_:
        print(json.dumps(_as_json(design, best, plans), indent=1))
        return
    if plans:
        print_table(_plans_table(plans))
        console.print()
    _show(dist, design, best)
    if plot is not None:
        console.print(f"\nSaved the picture to {plot}", soft_wrap=True, markup=False)


def _show(dist: MixedLinearRegression, design: Design, best: RateOptimum) -> None:
    """Print the optima, the gains, the sign and how far to trust them."""
    group = design.groups[0]
    console.print(
        f"\n{design.n_tasks} tasks of {group.n_support} + {group.n_query} rows, {dist.n_features} features, "
        f"N/p = {design.n_query_rows / dist.n_features:.3g}, {design.n_adapt} rows to adapt on\n"
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("best rates", no_wrap=True)
    for name in ("inner_lr", "adapt_lr", "loss", "above the best"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = (
        ("both free", best.inner_lr, best.adapt_lr, best.loss),
        ("no inner loop in training", 0.0, best.adapt_lr_no_inner, best.loss_no_inner),
        ("tied rates (usual MAML)", best.lr_tied, best.lr_tied, best.loss_tied),
    )
    for name, inner, adapt, loss in rows:
        above = "" if name == rows[0][0] else f"{100 * (loss / best.loss - 1):.2f} %"
        table.add_row(name, f"{inner:.4g}", f"{adapt:.4g}", f"{loss:.5f}", above)
    print_table(table)
    console.print(f"\n{_verdict(best)}\n{best.method}: {best.trust}", soft_wrap=not console.is_terminal)


def _verdict(best: RateOptimum) -> str:
    sign = {-1: "negative", 0: "zero", 1: "positive"}[best.sign]
    return (
        f"The best training rate is {sign}; slope at inner_lr = 0: {best.slope_at_zero:+.4g}. "
        f"Loss for inner_lr to -inf {best.loss_minus_infinity:.5g}, to +inf {best.loss_plus_infinity:.5g}."
    )


def _plans_table(plans: list[Plan]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("n_tasks", "n_support", "n_query", "inner_lr", "adapt_lr", "loss"):
        table.add_column(name, justify="right", no_wrap=True)
    for plan in plans:
        group = plan.design.groups[0]
        rates = (f"{plan.best.inner_lr:.3g}", f"{plan.best.adapt_lr:.3g}", f"{plan.best.loss:.5f}")
        table.add_row(str(group.n_tasks), str(group.n_support), str(group.n_query), *rates)
    return table


def _as_json(design: Design, best: RateOptimum, plans: list[Plan]) -> dict[str, Any]:
    """Return the results as plain values; numbers that are not finite as text."""
    result: dict[str, Any] = {"design": asdict(design), **_plain(best), "sign": best.sign}
    if plans:
        result["plans"] = [{"design": asdict(plan.design), **_plain(plan.best)} for plan in plans]
    return result


def _plain(best: RateOptimum) -> dict[str, Any]:
    return {k: v if isinstance(v, str) or np.isfinite(v) else str(v) for k, v in asdict(best).items()}


def _draw(dist: MixedLinearRegression, design: Design, best: RateOptimum, init: FloatArray, path: Path) -> None:
    from innerloop.plots.theory import plot_theory

    save_figure(plot_theory(dist, design, best, init), path)
