"""Folders of files that need not fit in memory: their fit and their predictions on the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from innerloop._base.memory import available_memory
from innerloop.cli._output import console
from innerloop.data.dataset import TaskDataset, tables_in
from innerloop.estimators import MetaRegressor
from innerloop.estimators.storage import load_details, load_model
from innerloop.estimators.stored_groups import Kept

# A fit in memory takes about so many times the bytes of its files.
_TIMES_THE_FILES = 5


def is_large(table: Path) -> bool:
    """Return whether a folder holds Parquet and CSV files that would not fit in memory."""
    if not table.is_dir():
        return False
    return _TIMES_THE_FILES * sum(path.stat().st_size for path in tables_in(table)) > available_memory()


def fit_files(
    model: MetaRegressor,
    data: TaskDataset,
    out: Path | None,
    work: Path | None,
    n_jobs: int,
    scheduler: str | None,
    groups: Kept,
    unused: Mapping[str, Any],
) -> None:
    """Fit a dataset and save the model; `unused` are options that this cannot take, with their values."""
    if out is None:
        raise ValueError("a fit of files that are not read into memory saves its model; give --out.")
    refuse_options(unused)
    with _executor(scheduler) as executor:
        model.fit_dataset(data, out=out, work=work, n_jobs=n_jobs, executor=executor, groups=groups, progress=True)
    names = model.feature_labels()
    coef = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, model.coef_.reshape(-1)[:10], strict=False))
    for line in (
        f"{len(model.groups_)} tasks in {len(data.files)} files, {len(names)} features",
        *(f"{note}." for note in model.notes_),
        f"adaptation {model.adaptation_}",
        f"population: intercept {float(model.intercept_):.4g}, {coef}{', ...' if len(names) > 10 else ''}",
        f"\nSaved the model to {out}",
    ):
        console.print(line, soft_wrap=True, markup=False)


def update_files(
    model: MetaRegressor,
    data: TaskDataset,
    out: Path,
    work: Path | None,
    n_jobs: int,
    scheduler: str | None,
    unused: Mapping[str, Any],
) -> MetaRegressor:
    """Update a model by a dataset and save it; `unused` are options that this cannot take, with their values."""
    refuse_options(unused)
    with _executor(scheduler) as executor:
        return model.update_dataset(data, out=out, work=work, n_jobs=n_jobs, executor=executor, progress=True)


def predicts_files(model: Path, table: Path) -> bool:
    """Return whether a folder is to be predicted by a model of a dataset, file by file."""
    return table.is_dir() and "dataset" in load_details(model)


def predict_files(model: Path, folder: Path, out: Path | None, unused: Mapping[str, Any]) -> None:
    """Write predictions for every file in a folder; `unused` are options that this cannot take, with their values."""
    if out is None:
        raise ValueError("predictions of a folder are files; give a folder by --out.")
    refuse_options(unused)
    names = load_details(model)
    written = load_model(model).predict_dataset(folder, out=out, group=names["group"], progress=True)
    console.print(f"Wrote {len(written)} file{'s' if len(written) > 1 else ''} to {out}", soft_wrap=True, markup=False)


def refuse_options(unused: Mapping[str, Any]) -> None:
    """Refuse options that were given to work on files that are not read into memory."""
    if given := [option for option, value in unused.items() if value]:
        raise ValueError(f"`{given[0]}` needs a table that is read into memory; leave it out, or name one file.")


@contextmanager
def _executor(scheduler: str | None) -> Iterator[Executor | None]:
    """Yield the executor of a Dask cluster, or None."""
    if scheduler is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("`--scheduler` needs Dask: pip install 'innerloop[distributed]'.") from None
    with (
        Client(scheduler) as client,  # type: ignore[no-untyped-call]
        client.get_executor() as executor,
    ):
        yield executor
