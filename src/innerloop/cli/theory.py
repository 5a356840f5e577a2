"""`innerloop theory`: the best pair of rates and its expected test loss, before any training."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter
from rich.table import Table

from innerloop._base.files import check_file
from innerloop.cli._model import LinearModel, sizes_text
from innerloop.cli._output import console, need_matplotlib, print_table
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.plots.style import ENDINGS, save_figure
from innerloop.theory import optimal_rates
from innerloop.theory.answer import LEVEL, TheoryAnswer
from innerloop.theory.planner import Plan, plan_design

_REFERENCES = {
    "ridge_adaptation": "the best, then a ridge on new tasks",
    "pooled": "least squares on all rows",
    "weighted": "weighted least squares on all rows",
    "bayes": "Bayes-optimal, centre unknown",
    "bayes_known_centre": "Bayes-optimal, centre known",
    "floor": "noise of a new row",
}


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
    given = model or LinearModel()
    dist, design, init = given.parts()
    if plot is not None:
        check_file(plot, "--plot", ENDINGS)
        need_matplotlib("--plot")
    l2: Literal["best"] | None = "best" if given.l2 == "best" else None
    plans = plan_design(dist, design, budget, init, l2=l2) if budget is not None else []
    if plans:
        design, best = plans[0].design, plans[0].best
    else:
        best = optimal_rates(dist, design, init, l2=l2)
    if np.isfinite(best.l2):
        design = replace(design, l2=best.l2)
    answer = TheoryAnswer.of(dist, design, best, init)
    if plot is not None:
        from innerloop.plots.theory import plot_theory

        save_figure(plot_theory(dist, design, best, init), plot)
    if json_:
        print(json.dumps(_as_json(design, answer, plans), indent=1))
        return
    if plans:
        print_table(_plans_table(plans))
        console.print()
    _show(dist, design, answer)
    if plot is not None:
        console.print(f"\nSaved the picture to {plot}", soft_wrap=True, markup=False)


def _show(dist: MixedLinearRegression, design: Design, answer: TheoryAnswer) -> None:
    """Print the optima, what other estimators reach, the sign and how far to trust them."""
    best = answer.best
    console.print(
        f"\n{design.n_tasks} tasks of {sizes_text(design)} rows ({design.protocol}), {dist.n_features} features, N/p = "
        f"{design.n_query_rows / dist.n_features:.3g}, {design.n_adapt} rows to adapt on\n"
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("best rates", no_wrap=True)
    for name in ("inner_lr", "adapt_lr", "loss", "above the best"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [
        ("both free", f"{best.inner_lr:.4g}", f"{best.adapt_lr:.4g}", best.loss),
        ("no inner loop in training", "0", f"{best.adapt_lr_no_inner:.4g}", best.loss_no_inner),
        ("tied rates (usual MAML)", f"{best.lr_tied:.4g}", f"{best.lr_tied:.4g}", best.loss_tied),
        ("no meta-training", "", f"{best.adapt_lr_untrained:.4g}", best.loss_untrained),
    ]
    if answer.references is not None:
        rows += [(_REFERENCES[name], "", "", loss) for name, loss in asdict(answer.references).items()]
    for name, inner, adapt, loss in rows:
        above = "" if name == rows[0][0] else f"{100 * (loss / best.loss - 1):.2f} %"
        if np.isfinite(loss):
            table.add_row(name, inner, adapt, f"{loss:.5f}", above)
    print_table(table)
    verdict = "\n".join(answer.sentences(design))
    console.print(f"\n{verdict}\n{best.method}: {best.trust}", soft_wrap=not console.is_terminal)


def _plans_table(plans: list[Plan]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("n_tasks", "n_support", "n_query", "inner_lr", "adapt_lr", "l2", "loss", "no meta-training"):
        table.add_column(name, justify="right", no_wrap=True)
    for plan in plans:
        group, best = plan.design.groups[0], plan.best
        numbers = (f"{best.inner_lr:.3g}", f"{best.adapt_lr:.3g}", f"{best.l2:.3g}", f"{best.loss:.5f}")
        sizes = str(group.n_tasks), str(group.n_support), str(group.n_query)
        table.add_row(*sizes, *numbers, f"{best.loss_untrained:.5f}")
    return table


def _as_json(design: Design, answer: TheoryAnswer, plans: list[Plan]) -> dict[str, Any]:
    """Return the results as plain values; numbers that are not finite as text."""
    result: dict[str, Any] = {"design": asdict(design), **_plain(asdict(answer.best)), "sign": answer.best.sign}
    result["references"] = None if answer.references is None else _plain(asdict(answer.references))
    result["interval"] = None if answer.interval is None else {"level": LEVEL, **_plain(answer.interval._asdict())}
    result["chance_of_improvement"], result["turning_noise"] = answer.chance, answer.turning_noise
    if plans:
        result["plans"] = [{"design": asdict(plan.design), **_plain(asdict(plan.best))} for plan in plans]
    return result


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, str) or np.isfinite(v) else str(v) for k, v in values.items()}
