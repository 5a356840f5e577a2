"""What takes long, as jobs: each sends what it has as soon as it has it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from innerloop._base.progress import listening
from innerloop.explorer.jobs import Send, Work
from innerloop.explorer.theory_tab import Settings, dot_rates, plain, plans_as_json
from innerloop.simulation import estimate_loss
from innerloop.theory import optimal_rates
from innerloop.theory.answer import chance_from
from innerloop.theory.planner import plan_design

# Dots appear, and move, so many times while a simulation runs.
_PARTS = 10


def chance(send: Send, value: dict[str, Any]) -> None:
    """Send the probability that the rate that is shown does better than none on one training set."""
    settings = Settings.from_json(value)
    dist, design, init = settings.parts()
    rate = optimal_rates(dist, design, init).inner_lr if settings.inner_lr is None else settings.inner_lr
    send({"chance": float(chance_from(dist, design, rate, init))})


def plans(send: Send, value: dict[str, Any]) -> None:
    """Send the best splits of a budget."""
    settings = Settings.from_json(value)
    dist, design, init = settings.parts()
    send({"plans": plans_as_json(plan_design(dist, design, settings.rows, init))})


def simulate(send: Send, value: dict[str, Any], folder: str) -> None:
    """Send simulated losses of growing numbers of runs, at dots on both curves."""
    settings = Settings.from_json(value)
    dist, design, init = settings.parts()
    inner, adapt = dot_rates(settings, optimal_rates(dist, design, init))
    if not np.isfinite(inner).all():
        raise ValueError("The best inner rate is infinite; choose a rate to simulate at.")
    size = -(-settings.n_runs // _PARTS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        for n in range(size, settings.n_runs + size, size):
            n_runs = min(n, settings.n_runs)
            result = estimate_loss(
                dist, design, inner, adapt, n_runs=max(n_runs, 2), init=init, store=folder, block_size=size
            )
            loss, error = result["loss"].values, result["stderr"].values
            send(
                {
                    "done": n_runs / settings.n_runs,
                    "n_runs": n_runs,
                    "inner": plain({"rates": inner, "loss": loss[:, -1], "stderr": error[:, -1]}),
                    "adapt": plain({"rates": adapt, "loss": loss[-1], "stderr": error[-1]}),
                    "notes": sorted({str(warning.message) for warning in caught}),
                }
            )


def fit(send: Send, table: str, names: tuple[str, str, str], folder: str) -> None:
    """Fit a table that was uploaded, and save the model and its study to a folder.

    Parameters
    ----------
    send
    table
        Path of the file.
    names
        Of the table, of the column with group ids, and of the target.
    folder
        Of the model.
    """
    from innerloop.data.table_files import read_table
    from innerloop.data.task_table import read_task_rows
    from innerloop.data.tasks import TaskSet
    from innerloop.estimators import MetaRegressor
    from innerloop.estimators.storage import save_model
    from innerloop.evaluation.summary import summary
    from innerloop.report import study

    title, group, target = names
    if group == target:
        raise ValueError(f"The group and the target must be different columns, got {group!r} for both.")
    try:
        file = read_table(Path(table), group)
        rows = read_task_rows(file.frame, group, target, None, [], file.name, file.place)
    except ValueError as error:
        raise ValueError(str(error).replace(table, title)) from error
    tasks = TaskSet.from_columns(rows.columns, rows.y, rows.ids, rows.task)
    if np.ptp(tasks.y) == 0:
        raise ValueError(f"Every target in {title} is {tasks.y[0]:g}, so there is nothing to learn.")
    with listening(lambda what, done, of: send({"what": what, "done": done / of})), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = study(tasks, MetaRegressor(group=group), title=title, target=target, group=group)
    details = {"group": group, "target": rows.targets[0].to_state(), "study": summary(result.evaluation)}
    save_model(result.model, folder, details)


KINDS: dict[str, Work] = {"chance": chance, "plans": plans, "simulate": simulate, "fit": fit}
