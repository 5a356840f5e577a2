"""`innerloop simulate`: the expected test loss by Monte Carlo."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter
from rich.table import Table

from innerloop._base.checks import FloatArray
from innerloop._base.files import check_file, check_new, write_whole
from innerloop.cli._model import LinearModel, sizes_text
from innerloop.cli._output import console, need_matplotlib, print_table
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.plots.style import ENDINGS, save_figure
from innerloop.simulation import estimate_loss
from innerloop.theory import expected_loss, optimal_rates

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

RateList = Annotated[list[float] | None, Parameter(consume_multiple=True, negative="")]
_N_RATES = 21
# Theory is said to disagree beyond so many standard errors and such a part of the loss.
_MOST_SIGMAS, _MOST_OFF = 4.0, 0.01


def simulate(
    *,
    model: LinearModel | None = None,
    inner_lr: RateList = None,
    adapt_lr: RateList = None,
    n_runs: int = 1000,
    rel_error: float | None = None,
    scoring: Literal["auto", "exact", "sampled"] = "auto",
    n_test_tasks: int = 100,
    n_test_rows: int = 50,
    seed: int = 0,
    jobs: int = 1,
    store: Path | None = None,
    out: Path | None = None,
    plot: Path | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Measure the expected test loss by Monte Carlo, at many rates on the same draws.

    For mixed linear regression. Losses are half mean squared errors on new tasks, label noise included. Prints them
    with standard errors beside the theory, and the paired difference to training without an inner loop.

    Parameters
    ----------
    model
        The tasks, and the sizes.
    inner_lr
        Learning rates of the inner loop in meta-training; 21 around zero unless given.
    adapt_lr
        Learning rates with which a new task adapts; the best in theory unless given.
    n_runs
        Runs; with --rel-error the most.
    rel_error
        Stop when all standard errors are this small a part of the loss.
    scoring
        exact: average task weights, noise and new tasks exactly; sampled: draw all of them, as the paper does.
    n_test_tasks
        New tasks of a sampled run.
    n_test_rows
        Rows that score each of them.
    seed
        Run i draws from stream i of it.
    jobs
        Processes; -1 takes all cores.
    store
        Folder for finished runs: a killed simulation goes on from there.
    out
        Save the results as NetCDF.
    plot
        Draw the losses to a .png, .svg or .pdf file.
    force
        Replace files that exist.
    json_
        Print the results as JSON instead.
    """
    given = model or LinearModel()
    dist, design, init = given.parts()
    if given.l2 == "best":
        best = optimal_rates(dist, design, init, l2="best")
        if np.isinf(best.l2):
            raise ValueError("`--l2 best` is infinite here: not to train is best, which needs no simulation.")
        design = replace(design, l2=best.l2)
    if out is not None:
        check_file(out, "--out", (".nc",))
        check_new(out, "--out", force)
    if plot is not None:
        check_file(plot, "--plot", ENDINGS)
        check_new(plot, "--plot", force)
        need_matplotlib("--plot")
    inner, adapt = _rates(dist, design, init, inner_lr, adapt_lr)
    estimate = estimate_loss(
        dist,
        design,
        inner,
        adapt,
        n_runs=n_runs,
        seed=seed,
        n_jobs=jobs,
        store=store,
        progress=True,
        init=init,
        scoring=scoring,
        n_test_tasks=n_test_tasks,
        n_test_rows=n_test_rows,
        rel_error=rel_error,
    )
    if out is not None:
        write_whole(out, bytes(estimate.to_netcdf(engine="scipy")))
    if plot is not None:
        save_figure(_figure(estimate, dist, design, init), plot)
    if json_:
        print(json.dumps(_as_json(estimate), indent=1))
        return
    _show(estimate, dist, design, init)
    for what, path in (("the results", out), ("the picture", plot)):
        if path is not None:
            console.print(f"Saved {what} to {path}", soft_wrap=True, markup=False)


def _rates(
    dist: MixedLinearRegression,
    design: Design,
    init: FloatArray,
    inner_lr: list[float] | None,
    adapt_lr: list[float] | None,
) -> tuple[list[float], list[float]]:
    """Return the rates that were given, or those around the best in theory."""
    if inner_lr and adapt_lr:
        return inner_lr, adapt_lr
    best = optimal_rates(dist, design, init)
    reach = 2 * abs(best.inner_lr) if np.isfinite(best.inner_lr) else 2.0
    around = np.linspace(max(-reach, design.rule.lowest_rate), reach, _N_RATES).round(6).tolist()
    return inner_lr or around, adapt_lr or [round(best.adapt_lr, 6)]


def _show(estimate: xr.Dataset, dist: MixedLinearRegression, design: Design, init: FloatArray) -> None:
    """Print losses, differences, theory and the lowest loss."""
    console.print(
        f"\n{design.n_tasks} tasks of {sizes_text(design)} rows ({design.protocol}), {dist.n_features} features, "
        f"{design.n_adapt} rows to adapt on; {estimate.n_runs} runs, {estimate.scoring} scoring\n"
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("inner_lr", "adapt_lr", "loss", "± s.e.", "theory", "minus inner_lr = 0", "± s.e."):
        table.add_column(name, justify="right", no_wrap=True)
    lowest = np.unravel_index(int(np.argmin(estimate["loss"].values)), estimate["loss"].shape)
    predicted = _predicted(estimate, dist, design, init)
    for place in np.ndindex(estimate["loss"].shape):
        at = estimate.isel(inner_lr=place[0], adapt_lr=place[1])
        loss, error, gap, gap_error = (
            float(at[name]) for name in ("loss", "stderr", "difference", "difference_stderr")
        )
        table.add_row(
            f"{float(at.inner_lr):.4g}",
            f"{float(at.adapt_lr):.4g}",
            f"{loss:.5f}",
            f"{error:.1g}",
            f"{predicted[place]:.5f}",
            f"{gap:+.5f}",
            f"{gap_error:.1g}",
            style="bold" if place == lowest else "",
        )
    print_table(table)
    best = estimate.isel(inner_lr=int(lowest[0]), adapt_lr=int(lowest[1]))
    console.print(f"\n[bold]{_verdict(best)}[/bold]", soft_wrap=not console.is_terminal)
    if disagreement := _disagreement(estimate, predicted):
        console.print(disagreement, soft_wrap=not console.is_terminal)


def _predicted(estimate: xr.Dataset, dist: MixedLinearRegression, design: Design, init: FloatArray) -> FloatArray:
    try:
        rates = estimate.inner_lr.values[:, None], estimate.adapt_lr.values
        return np.asarray(expected_loss(dist, design, *rates, init))
    except ValueError:  # not derived for this design
        return np.full(estimate["loss"].shape, np.nan)


def _figure(estimate: xr.Dataset, dist: MixedLinearRegression, design: Design, init: FloatArray) -> Figure:
    """Return the picture of the losses, with the theory where there is one for this design."""
    from matplotlib.figure import Figure

    from innerloop.plots.simulation import plot_simulation

    derived = np.isfinite(_predicted(estimate, dist, design, init)).any()
    figure = Figure(figsize=(7, 4.9), layout="constrained")
    plot_simulation(estimate, figure.subplots(), partial(expected_loss, dist, design, init=init) if derived else None)
    return figure


def _disagreement(estimate: xr.Dataset, predicted: FloatArray) -> str:
    """Return a sentence where theory and simulation differ by more than chance and one percent."""
    loss, error = estimate["loss"].values, estimate["stderr"].values
    with np.errstate(all="ignore"):
        off, sigmas = np.abs(predicted / loss - 1), np.abs(predicted - loss) / error
    wrong = np.where((sigmas > _MOST_SIGMAS) & np.isfinite(off), off, 0.0)
    if wrong.max() <= _MOST_OFF:
        return ""
    i, j = np.unravel_index(int(wrong.argmax()), wrong.shape)
    return (
        f"Theory and simulation differ by up to {100 * wrong.max():.2g} % ({sigmas[i, j]:.0f} standard errors), at "
        f"inner_lr = {float(estimate.inner_lr[i]):.4g}, adapt_lr = {float(estimate.adapt_lr[j]):.4g}: trust the "
        "simulation."
    )


def _verdict(best: xr.Dataset) -> str:
    rate, gap, error = float(best.inner_lr), float(best["difference"]), float(best["difference_stderr"])
    if rate == best.baseline:
        return f"Of these rates inner_lr = {rate:.4g} has the lowest loss: train without an inner loop."
    sigmas = f"{abs(gap) / error:.1f} standard errors" if error > 0 else "without error"
    return (
        f"Of these rates inner_lr = {rate:.4g} has the lowest loss: {abs(gap):.2g} ± {error:.1g} "
        f"{'below' if gap < 0 else 'above'} inner_lr = 0 ({sigmas})."
    )


def _as_json(estimate: xr.Dataset) -> dict[str, Any]:
    """Return the results as plain values."""
    values: dict[str, Any] = {name: estimate[name].values.tolist() for name in ("inner_lr", "adapt_lr")}
    values |= {str(name): estimate[name].values.tolist() for name in estimate.data_vars}
    plan = str(estimate.plan)
    return values | {**estimate.attrs, "plan": json.loads(plan) if plan else None}
