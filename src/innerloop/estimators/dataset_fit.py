"""A fit of a dataset: one pass over its files into buckets, one over the buckets for sums, one for coefficients."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np

from innerloop._base.memory import as_size
from innerloop._base.progress import progress
from innerloop._blocks.pool import gather
from innerloop._blocks.store import Arrays, BlockStore, MemoryStore
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
from innerloop.estimators.stored_groups import (
    GROUPS,
    Kept,
    StoredGroups,
    check_kept,
    describe,
    move_groups,
    with_groups,
    writing,
)
from innerloop.tabular.fitted_table import FittedTable
from innerloop.tabular.settings import Settings, read_settings
from innerloop.tabular.totals import AdaptLeaves, Plan
from innerloop.tabular.training import MetaTraining, TrainedTable


class GroupsOfUnit(Protocol):
    """From the number of a unit to its groups, as `innerloop.tabular.totals.AdaptLeaves` returns them."""

    @property
    def keeps_rows(self) -> bool:
        """Whether their reduced rows are returned too."""
        ...

    def __call__(self, unit: int) -> Arrays:
        """Return the groups of a unit, in the order of their words."""
        ...


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
    parameters: Mapping[str, Any], data: TaskDataset, out: Path, work: Path | None, workers: Workers, kept: Kept
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
    kept
        What of each group is kept.
    """
    check_kept(kept)
    settings = read_settings(parameters)
    sweep(out)
    check_writable(out)
    with progress("Reading columns", len(data.fragments), workers.shown) as tick:
        encoding = data.encoding(settings.seed, tick)
    table = replace(data.table, is_log=settings.target_transform == "log", encoding=encoding)
    details = details_of(table)
    with work_folder(work, out) as folder:
        divided = divide(data, table, folder, settings, workers)
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
        adapt = AdaptLeaves(divided.population, Plan.design_of(trained), fitted.predictor, kept == "rows")
        p, n_targets = fitted.predictor.unseen.shape
        n_rows = min(divided.population.n_rows, n_groups * (p + n_targets))
        check_room(folder, out, (n_groups, n_rows), fitted, id_type, kept == "rows")
        description = write_groups(adapt, divided.population, folder, out, workers, id_type, (p, n_targets))
        write_folder(out, parameters, fitted, data.features, details, description)
        return with_groups(fitted, out, description)


def details_of(table: Table) -> dict[str, Any]:
    """Return what a model folder says of the columns of its dataset."""
    return {"group": table.group, "target": TargetCode(table.targets[0]).to_state(), "dataset": table.to_state()}


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


def sweep(out: Path) -> None:
    """Delete the groups that a killed fit left in a folder without a model."""
    if out.is_dir() and all(path.is_dir() and path.name.startswith(GROUPS) for path in out.iterdir()):
        for path in out.iterdir():
            shutil.rmtree(path)


@contextmanager
def work_folder(work: Path | None, out: Path) -> Iterator[Path]:
    """Yield the folder for what is finished; without one, a folder beside `out` that is deleted in the end."""
    if work is not None:
        if work.resolve() == out.resolve():
            raise ValueError(f"`work` and `out` must be different folders, got {out} for both.")
        if out.resolve() in work.resolve().parents:  # which would then hold files that are no model
            raise ValueError(f"`work` must not lie in `out`, got {work} in {out}; name another place.")
        if work.exists() and not work.is_dir():
            raise ValueError(f"`work` must name a folder, got the file {work}.")
        work.mkdir(parents=True, exist_ok=True)
        yield work
        return
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.work-", dir=parent) as folder:
        yield Path(folder)


def divide(
    data: TaskDataset, table: Table, folder: Path, settings: Settings, workers: Workers, least_bits: int = 0
) -> Divided:
    """Divide the rows into buckets, and draw the sample, in one pass over the files.

    `least_bits` of words, at least, say which bucket and which leaf a task is in.
    """
    n_bits = max(bucket_bits(data.n_rows, table.width + 1), least_bits)
    draw = Draw(settings.seed, sample_size())
    plan = {
        "files": [_stamp(file) for file in data.files],
        "table": table.to_state(),
        "fragments": [asdict(fragment) for fragment in data.fragments],
        "draw": asdict(draw),
        "n_bits": n_bits,
    }
    buckets = folder / f"buckets-{_digest(repr(plan).encode())}"
    buckets.mkdir(exist_ok=True)
    there = sum(path.stat().st_size for path in buckets.rglob("*") if path.is_file())
    check_space(buckets, data.n_rows * (table.width + 2) * 8 - there, "`work`")
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
    depth = max(leaf_depth(n_rows, table.width), least_bits)
    return Divided(TasksInBuckets(buckets, table, n_rows, n_bits, depth, is_text), sample, extremes, is_part)


def _completed(
    trained: TrainedTable, population: TasksInBuckets, folder: Path, workers: Workers
) -> tuple[TrainedTable, int, np.dtype[Any]]:
    """Return the table trained on the sample, completed by all tasks, their number and the type of their ids."""
    plan = Plan.of(trained)
    sum_leaves = plan.sum_leaves(population)
    units = gather_sums(sum_leaves, population, folder, workers)
    counts = np.concatenate([unit["counts"] for unit in units])
    id_type = np.dtype(f"<U{counts[:, 2].max() // 4}" if population.is_text else np.int64)
    return plan.complete(sum_leaves.covariances, units), int(counts[:, 0].sum()), id_type


def gather_sums(
    sums_of_unit: Callable[[int], Arrays], population: TasksInBuckets, folder: Path, workers: Workers
) -> list[Arrays]:
    """Return what a function of a unit's number has of all units; those that are finished are kept in a folder."""
    digest = _digest(population.folder.name.encode(), *_contents(sums_of_unit))
    store = BlockStore(folder / f"sums-{digest}", {"sums": digest}, 1)
    with progress("Summing over tasks", population.n_units, workers.shown, rows=population.n_rows) as tick:
        units = gather(sums_of_unit, range(population.n_units), store, workers.n_jobs, workers.executor, tick)
    kinds = {str(kind) for unit in units for kind in unit["arithmetic"]}
    if len(kinds) > 1:
        warnings.warn(
            f"workers compute in {len(kinds)} ways ({'; '.join(sorted(kinds))}), so that another fit may differ in the "
            "last digits; take machines of one kind, or set OPENBLAS_CORETYPE for all.",
            UserWarning,
            stacklevel=5,
        )
    return units


def write_groups(
    adapt: GroupsOfUnit,
    population: TasksInBuckets,
    folder: Path,
    out: Path,
    workers: Workers,
    id_type: np.dtype[Any],
    shape: tuple[int, int],
) -> dict[str, Any]:
    """Write the groups of all units to a folder of the model's, by way of the work folder; return what it holds."""
    written = folder / GROUPS.rstrip("-")
    shutil.rmtree(written, ignore_errors=True)  # what a fit that was killed left
    with (
        progress("Adapting", population.n_units, workers.shown, rows=population.n_rows) as tick,
        writing(written, id_type, shape, adapt.keeps_rows) as groups,
    ):
        for units in _groups_of(population.n_units):
            for found in gather(adapt, units, MemoryStore(1), workers.n_jobs, workers.executor, tick):
                groups.add(found)
    move_groups(written, out / groups.name)
    return describe(out / groups.name)


def check_room(
    folder: Path, out: Path, n: tuple[int, int], table: FittedTable, id_type: np.dtype[Any], keeps_rows: bool
) -> None:
    """Refuse disks without room for n[0] groups, with at most n[1] reduced rows if these are kept."""
    (n_groups, n_rows), (p, n_targets) = n, table.predictor.unseen.shape
    n_bytes = n_groups * (8 * (2 + p * n_targets) + id_type.itemsize)
    n_bytes += 8 * (n_groups + n_rows * (p + n_targets)) if keeps_rows else 0
    out.mkdir(parents=True, exist_ok=True)
    for place, what in ((folder, "`work`"), (out, "`out`")):
        check_space(place, n_bytes, what)


def _groups_of(n: int) -> Iterator[range]:
    """Yield the numbers below n, some at once."""
    for first in range(0, n, _AT_ONCE):
        yield range(first, min(first + _AT_ONCE, n))


def _stamp(file: str) -> list[Any]:
    """Return what tells whether a file is the one that was read."""
    stat = Path(file).stat()
    return [str(Path(file).absolute()), stat.st_size, stat.st_mtime_ns]


def check_space(folder: Path, n_bytes: int, what: str) -> None:
    """Refuse a disk without room."""
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
    elif isinstance(value, StoredGroups):
        yield value.folder.name.encode()
    elif isinstance(value, TasksInBuckets):
        return
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield name.encode()
            yield from _contents(getattr(value, name))
    else:
        yield repr(value).encode()
