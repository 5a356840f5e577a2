"""`innerloop fit`: fit a table of many small tasks, and compare methods on unseen ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter

from innerloop._base.checks import as_count
from innerloop._base.files import check_file
from innerloop.cli._datasets import fit_files, is_large
from innerloop.cli._output import command_line, console, draw_beside, need_matplotlib, show
from innerloop.cli._tables import check_sizes, print_size, read_tasks
from innerloop.data.dataset import TaskDataset
from innerloop.data.episodes import Protocol
from innerloop.estimators import MetaRegressor
from innerloop.estimators.storage import check_writable, save_model
from innerloop.evaluation import Score
from innerloop.evaluation.summary import summary
from innerloop.report import TableStudy, study
from innerloop.tabular.kinds import Adaptations
from innerloop.tabular.settings import Basis, read_settings

Names = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]
Rate = float | Literal["auto"]


def fit(
    table: Path,
    /,
    *,
    group: str,
    target: str,
    out: Path | None = None,
    forget_groups: Annotated[bool, Parameter(negative="")] = False,
    report: Path | None = None,
    features: Names = None,
    drop: Names = None,
    weights: str | None = None,
    n_support: int | None = None,
    protocol: Protocol = "deal",
    n_query: int | None = None,
    n_steps: int = 1,
    inner_lr: Rate = "auto",
    adapt_lr: Rate | Literal["per-feature"] = "auto",
    l2: Rate = "auto",
    adaptation: Adaptations = "auto",
    basis: Basis = "auto",
    curve: Names = None,
    varying: Names = None,
    order: str | None = None,
    cv: int = 5,
    min_rows: int | None = None,
    standardize: bool = True,
    intercept: bool = True,
    log_target: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 0,
    delimiter: str | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
    work: Path | None = None,
    n_jobs: int = 1,
    scheduler: str | None = None,
) -> None:
    """Meta-train on a table of many small tasks and recommend how new tasks should adapt.

    Prints the adaptation, with the rates of gradient steps and their standard errors; the errors of methods on unseen
    tasks; and a recommendation.

    Parameters
    ----------
    table
        CSV or Parquet file, one row per observation, or a folder of such files. A folder that would not fit in memory,
        or with `work`, `n_jobs` or `scheduler`, is not read into memory, and the model is saved without a comparison
        of methods.
    group
        Column with the task ids.
    target
        Column to predict.
    out
        Folder to save the model and a picture of held-out loss to.
    forget_groups
        Save the model without the ids of the groups and what their rows say of them, and without the model saved there
        before; all groups are then new to it.
    report
        Write a report, one HTML file that needs no other.
    features
        Feature columns; all but group and target unless given.
    drop
        Columns to leave out.
    weights
        Column with the precisions of the rows: a row of weight w has noise of 1 / w times the variance. Rows of weight
        0 are left out.
    n_support
        Rows a new task will adapt on; half of the median task, at most 10, unless given.
    protocol
        What scores a training task of gradient steps: every row once after n_support others (deal), n_query rows
        (split), every row after all rows (train), or after all others (leave-one-out).
    n_query
        Query rows of a training task with the protocol split, which it implies.
    n_steps
        Gradient steps of adaptation.
    inner_lr
        Learning rate of the inner loop in meta-training; any sign.
    adapt_lr
        Learning rate with which a new task adapts; per-feature learns one for each.
    l2
        Ridge penalty on the meta-parameters.
    adaptation
        How tasks adapt: by a ridge with a learned metric, by gradient steps, or not; "auto" compares them.
    basis
        Whether the target may be a curve in a feature: "auto" lets held-out tasks weigh curves against straight lines.
    curve
        Features in which the target is a curve; instead of --basis.
    varying
        Features whose coefficients may differ between tasks; all that vary within tasks unless given.
    order
        Feature, such as a date, by which the rows of a task come: a new task then adapts on its first rows.
    cv
        Folds of tasks in the cross-validation that chooses the rates.
    min_rows
        Leave out tasks with fewer rows.
    standardize
        Whether to bring features to unit standard deviation.
    intercept
        Whether to fit an intercept.
    log_target
        Fit the logarithm of a positive target, and report errors of it; the saved model predicts the target's median.
    seed
        Deals rows into support and query and tasks into folds.
    delimiter
        Between CSV cells.
    json_
        Print the results as JSON instead.
    work
        Folder for what is finished of a folder of files, from which a fit that was stopped goes on.
    n_jobs
        Processes for a folder of files; -1 takes all cores.
    scheduler
        Address of a Dask scheduler, whose workers then compute: tcp://host:8786.
    """
    model = MetaRegressor(
        inner_lr=inner_lr,
        adapt_lr=adapt_lr,
        adaptation=adaptation,
        l2=l2,
        group=group,
        random_state=seed,
        n_support=n_support,
        protocol=protocol,
        n_query=n_query,
        n_steps=n_steps,
        cv=cv,
        standardize=standardize,
        fit_intercept=intercept,
        basis=list(curve) if curve else basis,
        varying=list(varying) if varying else None,
        order=order,
        target_transform="log" if log_target else None,
    )
    read_settings(model.get_params())
    if work is not None or n_jobs != 1 or scheduler is not None or is_large(table):
        in_memory: dict[str, object] = {"--report": report, "--min-rows": min_rows, "--json": json_}
        in_memory |= {"--forget-groups": forget_groups, "--delimiter": delimiter}
        data = TaskDataset(table, group, target, features, drop or (), weights)
        fit_files(model, data, out, work, n_jobs, scheduler, in_memory)
        return
    if forget_groups and out is None:
        raise ValueError("`--forget-groups` says what `--out` saves; give --out too.")
    if out is not None:
        check_writable(out)
    if report is not None:
        check_file(report, "--report", (".html", ".htm"))
        need_matplotlib("--report")
    if min_rows is not None:
        as_count(min_rows, "min_rows")
    read = read_tasks(table, group, target, features, drop, delimiter, min_rows, weights, log_target)
    check_sizes(read.tasks, table, n_support, n_query)
    result = study(read.tasks, model, title=table.name, target=target, group=group, progress=True)
    if out is not None:  # first, so that nothing that follows can lose it
        found = {"study": summary(result.evaluation, with_groups=not forget_groups)}
        save_model(result.model, out, read.details(group) | found, forget_groups=forget_groups)
    if json_:
        print(json.dumps(as_json(result), indent=1))
    else:
        print_size(table, read)
        show(result)
    written = []
    if out is not None:
        picture = draw_beside(result.model, out, table.name)
        written.append(f"\nSaved the model to {out}" + (f", the picture to {picture}" if picture else ""))
    if report is not None:
        result.report(report, command_line(), progress=True)
        written.append(f"Wrote the report to {report}")
    if not json_:
        for line in written:
            console.print(line, soft_wrap=True, markup=False)


def as_json(result: TableStudy) -> dict[str, Any]:
    """Return the results as plain values."""
    model, training = result.model, result.evaluation.trained.training
    return {
        "adaptation": model.adaptation_,
        "inner_lr": _plain(model.inner_lr_),
        "inner_lr_se": _plain(model.inner_lr_se_),
        "adapt_lr": _plain(model.adapt_lr_),
        "adapt_lr_se": _plain(model.adapt_lr_se_),
        "l2": model.l2_,
        "n_support": training.n_support,
        "n_steps": training.settings.n_steps,
        "methods": [_score(score) for score in result.evaluation.scores],
        "verdict": result.verdict,
        "notes": list(model.notes_),
    }


def _score(score: Score) -> dict[str, Any]:
    errors = ("mse", "mse_se", "excess", "excess_se", "gain_se", "loss_se")
    rates = None if score.rates is None else asdict(score.rates)
    return {"name": score.label, "rates": rates, **{name: getattr(score, name) for name in errors}}


def _plain(number: Any) -> float | list[float] | None:
    """Return a number, or an array, as JSON has it; None for NaN."""
    if np.ndim(number):
        return [float(value) for value in number]
    return None if np.isnan(number) else float(number)
