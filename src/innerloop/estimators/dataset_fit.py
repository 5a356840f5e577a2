"""A fit of a dataset: one pass over its files into buckets, one over the buckets for sums, one for coefficients."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from innerloop._base.memory import as_size
from innerloop._base.progress import progress
from innerloop._blocks.pool import gather
from innerloop._blocks.store import BlockStore, MemoryStore
from innerloop.data.buckets import (
    DivideFragment,
    FragmentStore,
    TasksInBuckets,
    bucket_bits,
    rows_of_fragment,
    write_index,
)
from innerloop.data.columns import ColumnMap, NumberCode
from innerloop.data.dataset import TaskDataset, no_rows
from innerloop.data.drawing import Draw, DrawnRows
from innerloop.data.fragments import Table
from innerloop.data.population import Extremes, leaf_depth, sample_size
from innerloop.data.task_table import TargetCode
from innerloop.data.tasks import TaskSet
from innerloop.estimators.model_folder import check_writable, write_folder
from innerloop.estimators.stored_groups import GROUPS, describe, move_groups, with_groups, writing
from innerloop.tabular.fitted_table import FittedTable
from innerloop.tabular.settings import Settings, read_settings
from innerloop.tabular.totals import AdaptLeaves, Plan
from innerloop.tabular.training import MetaTraining, TrainedTable

# Fragments, or units, of which results are held at once.
_AT_ONCE = 16


@final
@dataclass(frozen=True, eq=False)
class Workers:
    """Who computes, and whether progress is shown."""

    n_jobs: int = 1
    executor: Executor | None = None
    shown: bool = True


@final
@dataclass(frozen=True, eq=False)
class Divided:
    """A dataset in buckets, and the sample of its tasks.

    Parameters
    ----------
    population
    sample
    extremes
        Of all rows.
    is_part
        Whether the population has more tasks than the sample.
    """

    population: TasksInBuckets
    sample: TaskSet
    extremes: Extremes
    is_part: bool


def fit_dataset(
    parameters: Mapping[str, Any], data: TaskDataset, out: Path, work: Path | None, workers: Workers
) -> FittedTable:
    """Fit a dataset and write the model to a folder; see `MetaRegressor.fit_dataset`.

    Parameters
    ----------
    parameters
        Of the `MetaRegressor`.
    data
    out
        Folder of the model.
    work
        Folder for what is finished, which a later call goes on with; None: one beside `out`, deleted in the end.
    workers
    """
    settings = read_settings(parameters)
    _sweep(out)
    check_writable(out)
    with progress("Reading columns", len(data.fragments), workers.shown) as tick:
        encoding = data.encoding(settings.seed, tick)
    table = replace(data.table, is_log=settings.target_transform == "log", encoding=encoding)
    details = {"group": table.group, "target": TargetCode(table.targets[0]).to_state(), "dataset": table.to_state()}
    with _work_folder(work, out) as folder:
        divided = _divide(data, table, folder, settings, workers)
        extremes = divided.extremes if divided.is_part else None
        with progress("Choosing", settings.n_folds, workers.shown) as tick:
            sample = divided.sample
            if encoding is None:
                sample = replace(sample, column_map=_columns(sample))
            trained = MetaTraining.prepare(sample, settings, tick, extremes=extremes).choose()
        if not divided.is_part:
            fitted = trained.table()
            write_folder(out, parameters, fitted, data.features, details)
            return fitted
        trained, n_groups, id_type = _completed(trained, divided.population, folder, workers)
        fitted = trained.table(remember=False)
        out.mkdir(parents=True, exist_ok=True)
        shape = fitted.predictor.unseen.shape
        for place, what in ((folder, "`work`"), (out, "`out`")):
            _check_space(place, n_groups * (8 * (2 + shape[0] * shape[1]) + id_type.itemsize), what)
        written, name = _write_groups(trained, fitted, divided.population, folder, workers, n_groups, id_type)
        move_groups(written, out / name)
        description = describe(out / name)
        write_folder(out, parameters, fitted, data.features, details, description)
        return with_groups(fitted, out, description)


def _columns(sample: TaskSet) -> ColumnMap:
    """Return the map that takes the columns of a frame as they are; medians are for frames that lack cells."""
    medians = np.median(sample.X, axis=0).tolist()
    names = sample.feature_names or ()
    return ColumnMap(
        tuple(
            NumberCode(name, "number", median, varies=True, indicator=False, filled=False)
            for name, median in zip(names, medians, strict=True)
        )
    )


def _sweep(out: Path) -> None:
    """Delete the groups that a killed fit left in a folder without a model."""
    if out.is_dir() and all(path.is_dir() and path.name.startswith(GROUPS) for path in out.iterdir()):
        for path in out.iterdir():
            shutil.rmtree(path)


@contextmanager
def _work_folder(work: Path | None, out: Path) -> Iterator[Path]:
    if work is not None:
        if work.absolute() == out.absolute():
            raise ValueError(f"`work` and `out` must be different folders, got {out} for both.")
        if work.exists() and not work.is_dir():
            raise ValueError(f"`work` must name a folder, got the file {work}.")
        work.mkdir(parents=True, exist_ok=True)
        yield work
        return
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.work-", dir=parent) as folder:
        yield Path(folder)


def _divide(data: TaskDataset, table: Table, folder: Path, settings: Settings, workers: Workers) -> Divided:
    """Divide the rows into buckets, and draw the sample, in one pass over the files."""
    n_bits, draw = bucket_bits(data.n_rows, table.width + 1), Draw(settings.seed, sample_size())
    plan = {
        "files": [_stamp(file) for file in data.files],
        "table": table.to_state(),
        "fragments": [asdict(fragment) for fragment in data.fragments],
        "draw": asdict(draw),
        "n_bits": n_bits,
    }
    buckets = folder / f"buckets-{_digest(repr(plan).encode())}"
    buckets.mkdir(exist_ok=True)
    _check_space(buckets, data.n_rows * (table.width + 2) * 8, "`work`")
    store = FragmentStore(BlockStore(buckets / "finished", plan, 1), buckets)
    extremes: Extremes | None = None
    rows: DrawnRows | None = None
    indices, n_rows = [], 0
    with progress("Reading files", len(data.fragments), workers.shown, rows=data.n_rows) as tick:
        for numbers in _groups_of(len(data.fragments)):
            highest = int(rows.drawn.max()) if rows is not None and rows.n_left_out else 2**64 - 1
            divide = DivideFragment(data.fragments, table, buckets, n_bits, draw, highest)
            for found in gather(divide, numbers, store, workers.n_jobs, workers.executor, tick):
                indices.append(found["index"])
                n_rows += int(found["size"][1])
                if (part := rows_of_fragment(found)) is not None:
                    extremes = part[0] if extremes is None else extremes.joined(part[0])
                    rows = draw.lowest(part[1] if rows is None else rows.joined(part[1]))
    if rows is None or extremes is None:
        raise no_rows(data.files)
    write_index(buckets, indices)
    is_text = any(index[:, 5].any() for index in indices)
    sample, is_part = draw.tasks(rows, table, is_text)
    depth = leaf_depth(n_rows, table.width)
    return Divided(TasksInBuckets(buckets, table, n_rows, n_bits, depth, is_text), sample, extremes, is_part)


def _completed(
    trained: TrainedTable, population: TasksInBuckets, folder: Path, workers: Workers
) -> tuple[TrainedTable, int, np.dtype[Any]]:
    """Return the table trained on the sample, completed by all tasks, their number and the type of their ids."""
    plan = Plan.of(trained)
    sum_leaves = plan.sum_leaves(population)
    digest = _digest(population.folder.name.encode(), *_contents(sum_leaves))
    store = BlockStore(folder / f"sums-{digest}", {"sums": digest}, 1)
    with progress("Summing over tasks", population.n_units, workers.shown, rows=population.n_rows) as tick:
        units = gather(sum_leaves, range(population.n_units), store, workers.n_jobs, workers.executor, tick)
    kinds = {str(kind) for unit in units for kind in unit["arithmetic"]}
    if len(kinds) > 1:
        warnings.warn(
            f"workers compute in {len(kinds)} ways ({'; '.join(sorted(kinds))}), so that another fit may differ in the "
            "last digits; take machines of one kind, or set OPENBLAS_CORETYPE for all.",
            UserWarning,
            stacklevel=4,
        )
    counts = np.concatenate([unit["counts"] for unit in units])
    id_type = np.dtype(f"<U{counts[:, 2].max() // 4}" if population.is_text else np.int64)
    return plan.complete(sum_leaves.covariances, units), int(counts[:, 0].sum()), id_type


def _write_groups(
    trained: TrainedTable,
    fitted: FittedTable,
    population: TasksInBuckets,
    folder: Path,
    workers: Workers,
    n_groups: int,
    id_type: np.dtype[Any],
) -> tuple[Path, str]:
    """Write the coefficients of all tasks, and return the folder that holds them and the name that it is to have."""
    shape = fitted.predictor.unseen.shape
    adapt_leaves = AdaptLeaves(population, Plan.design_of(trained), fitted.predictor, False)
    written = folder / GROUPS.rstrip("-")
    shutil.rmtree(written, ignore_errors=True)  # what a fit that was killed left
    with (
        progress("Adapting", population.n_units, workers.shown, rows=population.n_rows) as tick,
        writing(written, n_groups, id_type, (shape[0], shape[1])) as groups,
    ):
        for units in _groups_of(population.n_units):
            for found in gather(adapt_leaves, units, MemoryStore(1), workers.n_jobs, workers.executor, tick):
                groups.add(found)
    return written, groups.name


def _groups_of(n: int) -> Iterator[range]:
    """Yield the numbers below n, some at once."""
    for first in range(0, n, _AT_ONCE):
        yield range(first, min(first + _AT_ONCE, n))


def _stamp(file: str) -> list[Any]:
    """Return what tells whether a file is the one that was read."""
    stat = Path(file).stat()
    return [str(Path(file).absolute()), stat.st_size, stat.st_mtime_ns]


def _check_space(folder: Path, n_bytes: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise ValueError(
            f"{what} needs about {as_size(n_bytes)} in {folder}, where {as_size(free)} are free; make room, or name a "
            "folder on another disk."
        )


def _digest(*contents: bytes) -> str:
    found = hashlib.sha256()
    for content in contents:
        found.update(content)
    return found.hexdigest()[:12]


def _contents(value: Any) -> Iterator[bytes]:
    """Yield the numbers of nested dataclasses, for a digest; paths do not count."""
    if isinstance(value, np.ndarray):
        yield value.tobytes()
    elif isinstance(value, tuple):
        for part in value:
            yield from _contents(part)
    elif isinstance(value, TasksInBuckets):
        return
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield name.encode()
            yield from _contents(getattr(value, name))
    else:
        yield repr(value).encode()
