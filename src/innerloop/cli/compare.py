"""`innerloop compare`: the same table through mixed-model packages."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter
from rich.table import Table

from innerloop.cli._output import console, messages, print_table
from innerloop.cli._tables import check_sizes, print_size, read_tasks
from innerloop.cli.fit import Names
from innerloop.evaluation.other_packages import Contender, best_of
from innerloop.evaluation.other_packages import compare as compare_packages


def compare(
    table: Path,
    /,
    *,
    group: str,
    target: str,
    features: Names = None,
    drop: Names = None,
    slopes: Names = None,
    n_adapt: int = 10,
    min_rows: int | None = None,
    time_limit: float = 120.0,
    seed: int = 0,
    delimiter: str | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Fit the same table with mixed-model packages, and compare errors on unseen groups.

    Three quarters of the groups train; the others have some rows to adapt on and are scored on their other rows.
    MixedLM of statsmodels and, where installed, mixedlm, mixedlm-rs and GPBoost, also with trees: by their predictions
    for new groups, and adapted by hand.

    Parameters
    ----------
    table
        CSV or Parquet file, one row per observation.
    group
        Column with the group ids.
    target
        Column to predict.
    features
        Feature columns; all but group and target unless given.
    drop
        Columns to leave out.
    slopes
        Features with random slopes in the other packages; all that vary within groups unless given.
    n_adapt
        Rows of an unseen group to adapt on.
    min_rows
        Leave out groups with fewer rows.
    time_limit
        Seconds after which another package is stopped.
    seed
        Draws the groups and their rows.
    delimiter
        Between CSV cells.
    json_
        Print the results as JSON instead.
    """
    if not time_limit > 0:
        raise ValueError(f"`--time-limit` must be positive, got {time_limit}.")
    read = read_tasks(table, group, target, features, drop, delimiter, min_rows)
    tasks = read.tasks
    check_sizes(tasks, table)

    def announce(name: str) -> None:
        if messages.is_terminal:
            messages.print(f"Fitting {name} ...", markup=False)

    contenders = compare_packages(tasks, n_adapt, seed, time_limit, announce, slopes)
    if json_:
        plain = [{k: v if v == v else None for k, v in asdict(contender).items()} for contender in contenders]
        print(json.dumps({"contenders": plain, "verdict": best_of(contenders)}, indent=1))
        return
    print_size(table, read)
    console.print(f"{n_adapt} rows of an unseen group to adapt on\n", soft_wrap=True, markup=False)
    print_table(_table(contenders))
    console.print(f"\n[bold]{best_of(contenders)}[/bold]", soft_wrap=not console.is_terminal)


def _table(contenders: list[Contender]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("on unseen groups", no_wrap=True)
    for name in ("MSE", "± s.e.", "excess", "± s.e.", "fit (s)"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for i, c in enumerate(contenders):
        numbers = (c.mse, c.mse_se, c.excess, c.excess_se) if i else (c.mse, c.mse_se, np.nan, np.nan)
        cells = [f"{value:.4g}" if value == value else "" for value in (*numbers, c.seconds)]
        table.add_row(c.name, *cells, c.note, style="" if i else "bold")
    return table
