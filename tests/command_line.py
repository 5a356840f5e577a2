"""The command line run in this process, and a small table to run it on."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

from innerloop import cli

IDS = ["007", "NA", "nan", "schöne Aufgabe", "任务", "a, b", *(f"t{i}" for i in range(6))]
COLUMNS = ["--group", "task", "--target", "y"]
QUICK = [*COLUMNS, "--cv", "2"]


@dataclass(frozen=True)
class Ran:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str


def innerloop(*args: object) -> Ran:
    """Run `innerloop` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["innerloop", *map(str, args)]
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        # cyclopts looks for pytest on the stack, and takes the use of sys.argv there for a slip.
        warnings.filterwarnings("ignore", message="Cyclopts application invoked without tokens")
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    return Ran(0 if code is None else code, out.getvalue(), err.getvalue())


def small_table(seed: int = 0, n_rows: int = 12) -> pd.DataFrame:
    """Return 12 tasks with 3 features, a constant and a collinear column; ids that are easily mistaken."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((len(IDS) * n_rows, 3))
    w = rng.standard_normal(3) + 0.4 * rng.standard_normal((len(IDS), 3))
    y = np.einsum("ij,ij->i", X, np.repeat(w, n_rows, axis=0)) + 0.5 * rng.standard_normal(len(X))
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    frame.insert(0, "task", np.repeat(IDS, n_rows))
    frame.insert(1, "y", y)
    return frame.assign(same=1.5, sum=X[:, 0] + X[:, 1])


def save(frame: pd.DataFrame, path: Path) -> Path:
    """Write a frame as CSV or Parquet, after the path's ending."""
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)
    return path


def tree(folder: Path) -> list[str]:
    """Return all that lies in a folder, hidden files too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
