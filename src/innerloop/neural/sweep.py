"""Meta-training at many inner rates at once, with common random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from innerloop._base.checks import FloatArray, as_count, as_floats, check_finite
from innerloop._base.progress import progress as progress_bar
from innerloop._base.seeds import stream
from innerloop._base.standard_errors import standard_errors
from innerloop._blocks.fingerprint import fingerprint
from innerloop._blocks.pool import gather
from innerloop._blocks.store import Arrays, BlockStore, MemoryStore, Store
from innerloop.distributions import Design
from innerloop.neural.batch import TaskBatch, task_of, tree_map
from innerloop.neural.compiled import compiled
from innerloop.neural.meta_gradient import (
    GradientFunction,
    gradients_of,
    in_parts,
    query_losses,
    query_predictions,
)
from innerloop.neural.sources import TASKS_AT_ONCE, TEST, TRAINING, VALIDATION, EpisodeSampler, Stage, Tasks, as_source
from innerloop.neural.task_model import Loss, TaskModel, learnable, module_identity
from innerloop.neural.training import Training

if TYPE_CHECKING:
    import xarray as xr


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """Settings that determine the results of a `sweep`; see there for the parameters."""

    make_module: Callable[[], nn.Module]
    sampler: EpisodeSampler
    inner_lrs: FloatArray
    adapt_lrs: FloatArray
    n_iterations: int
    n_validation: int
    n_test: int
    metric: Loss | None
    training: Training

    def plan(self) -> dict[str, Any]:
        """Return what identifies the sweep, as JSON can hold it."""
        of_training = ("algorithm", "loss", "optimiser", "scheduler", "seed")
        return {
            "kind": "neural sweep",
            "module": module_identity(self.start(0), task_of(self.sampler.draw(TRAINING, 1, 0, 0).X_support, 0)),
            "source": fingerprint(self.sampler.source, "tasks"),
            "design": fingerprint(self.sampler.design, "design"),
            "inner_lrs": self.inner_lrs.tolist(),
            "adapt_lrs": self.adapt_lrs.tolist(),
            **{name: getattr(self, name) for name in ("n_iterations", "n_validation", "n_test")},
            "metric": fingerprint(self.metric, "metric"),
            **{name: fingerprint(getattr(self.training, name), name) for name in of_training},
            "dtype": str(self.training.dtype),
        }

    def start(self, replicate: int) -> nn.Module:
        """Return the module that replicate number `replicate` starts from."""
        with torch.random.fork_rng():
            torch.manual_seed(int(stream(self.training.seed, replicate).integers(2**62)))
            module = self.make_module()
        learnable(module)
        return module

    def compute_block(self, replicates: range) -> Arrays:
        """Train and score all rates of some replicates.

        Returns
        -------
        dict
            ``validation`` and ``test``, and ``metric`` where there is one: (n_replicates, n_rates, n_adapt_rates).
        """
        return Lanes(self, replicates).compute()


@final
@dataclass(frozen=True, eq=False)
class Lanes:
    """Replicates in training, all rates together.

    A lane is one replicate at one rate; the lanes of a replicate are consecutive.
    """

    sweep: Sweep
    replicates: range

    @property
    def n_lanes(self) -> int:
        """Number of trainings that run together."""
        return len(self.replicates) * len(self.sweep.inner_lrs)

    @cached_property
    def params(self) -> dict[str, Tensor]:
        """The starts: (n_lanes, ...)."""
        sweep = self.sweep
        starts = [learnable(sweep.start(replicate)) for replicate in self.replicates]
        stacked = {name: torch.stack([start[name].detach() for start in starts]) for name in starts[0]}
        return {
            name: value.repeat_interleave(len(sweep.inner_lrs), dim=0).to(sweep.training.device, sweep.training.dtype)
            for name, value in stacked.items()
        }

    @cached_property
    def model(self) -> TaskModel:
        """The module as a function; buffers are those of the first replicate's."""
        training = self.sweep.training
        model = TaskModel(self.sweep.start(self.replicates[0]), training.loss, training.by_task)
        model.inspect({n: v[0] for n, v in self.params.items()}, self.tasks(TRAINING, 0, 1))
        return model

    @property
    def some_param(self) -> Tensor:
        """Any of the parameters, for its device and dtype."""
        return next(iter(self.params.values()))

    def compute(self) -> Arrays:
        """Train all lanes, then score them with each adaptation rate."""
        for iteration in range(self.sweep.n_iterations):
            self.step(self.tasks(TRAINING, iteration, self.sweep.sampler.design.n_tasks))
        shape = (len(self.replicates), len(self.sweep.inner_lrs))
        columns = [self._scores(rate) for rate in self.sweep.adapt_lrs]
        return {kind: np.stack([column[kind].reshape(shape) for column in columns], axis=-1) for kind in columns[0]}

    def tasks(self, stage: Stage, number: int, n_tasks: int) -> TaskBatch:
        """Return the lanes' tasks, the same for all rates of a replicate."""
        sweep = self.sweep
        batches = [sweep.sampler.draw(stage, n_tasks, number, replicate).tensors for replicate in self.replicates]
        copies = len(sweep.inner_lrs)

        def lanes(*parts: Tensor) -> Tensor:
            return torch.cat([part.repeat(copies, *[1] * (part.ndim - 1)) for part in parts])

        batch = TaskBatch(*tree_map(lanes, *batches))
        return batch.to(self.some_param.device, self.some_param.dtype)

    def step(self, batch: TaskBatch) -> Tensor:
        """Do one iteration of every lane and return the losses, lane after lane."""
        learned = list(self.params.values())
        losses, gradients = self._gradients(learned, batch)
        for tensor, gradient in zip(learned, gradients, strict=True):
            tensor.grad = gradient
        optimiser, scheduler = self._outer
        optimiser.step()
        if scheduler is not None:
            scheduler.step()
        return losses

    @cached_property
    def _outer(self) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
        """The optimiser of all lanes, and its scheduler."""
        training = self.sweep.training
        optimiser = training.optimiser([tensor.requires_grad_() for tensor in self.params.values()])
        return optimiser, None if training.scheduler is None else training.scheduler(optimiser)

    @cached_property
    def _gradients(self) -> GradientFunction:
        sweep, training, names = self.sweep, self.sweep.training, list(self.params)
        n_lanes = self.n_lanes
        rates = torch.from_numpy(np.tile(sweep.inner_lrs, len(self.replicates))).to(self.some_param)

        def together(learned: Sequence[Tensor], batch: TaskBatch) -> Tensor:
            params = dict(zip(names, learned, strict=True))
            return query_losses(training.algorithm, self.model, params, self._steps(rates), batch, n_lanes)

        def alone(learned: Sequence[Tensor], batch: TaskBatch) -> Tensor:
            params = dict(zip(names, learned[:-1], strict=True))
            return query_losses(training.algorithm, self.model, params, self._steps(learned[-1]), batch)

        device = self.some_param.device
        by_lane = self.model.is_in_parts(device)
        gradients = gradients_of(alone) if by_lane else gradients_of(together, n_lanes)
        gradients = compiled(gradients) if training.compile else gradients
        if not by_lane:
            return gradients
        one_lane = in_parts(gradients, lambda batch: self.model.tasks_at_once(batch, device, training.compile))

        def in_turn(learned: Sequence[Tensor], batch: TaskBatch) -> tuple[Tensor, list[Tensor]]:
            size = len(batch) // n_lanes
            values, gradients_of_lanes = zip(
                *(
                    one_lane([*(tensor[i] for tensor in learned), rates[i]], batch[i * size : (i + 1) * size])
                    for i in range(n_lanes)
                ),
                strict=True,
            )
            return torch.cat(values), [torch.stack(parts) for parts in list(zip(*gradients_of_lanes, strict=True))[:-1]]

        return in_turn

    def _steps(self, rate: Tensor, n_steps: int | None = None) -> list[dict[str, Tensor]]:
        step = dict.fromkeys(self.sweep.training.algorithm.adapted(self.params), rate)
        return [step] * (int(self.sweep.sampler.design.n_steps) if n_steps is None else n_steps)

    def _scores(self, adapt_lr: float) -> Arrays:
        """Return each lane's mean losses when tasks adapt at a rate."""
        sweep, algorithm = self.sweep, self.sweep.training.algorithm
        rates = self._steps(torch.tensor(adapt_lr).to(self.some_param), int(sweep.sampler.design.adapt_steps))
        stages = {"validation": (VALIDATION, sweep.n_validation), "test": (TEST, sweep.n_test)}
        scores: dict[str, list[FloatArray]] = {}
        for kind, (stage, n_tasks) in stages.items():
            for number, first in enumerate(range(0, n_tasks, TASKS_AT_ONCE)):
                batch = self.tasks(stage, number, min(TASKS_AT_ONCE, n_tasks - first))
                with torch.no_grad(), self.model.testing():
                    prediction = query_predictions(algorithm, self.model, self.params, rates, batch, self.n_lanes)
                    values = {kind: self.model.score(prediction, batch.y_query)}
                    if kind == "test" and sweep.metric is not None:
                        values["metric"] = self.model.score(prediction, batch.y_query, sweep.metric)
                for name, value in values.items():
                    scores.setdefault(name, []).append(value.view(self.n_lanes, -1).double().cpu().numpy())
        return {name: np.concatenate(parts, axis=1).mean(axis=1) for name, parts in scores.items()}


def sweep(
    make_module: Callable[[], nn.Module],
    tasks: Tasks,
    design: Design,
    inner_lrs: ArrayLike,
    adapt_lrs: ArrayLike,
    *,
    n_seeds: int,
    n_iterations: int,
    n_validation: int = 100,
    n_test: int = 400,
    metric: Loss | None = None,
    training: Training = Training(),  # noqa: B008
    seeds_at_once: int = 1,
    store: str | Path | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Meta-train at many inner rates together, and test each with its best adaptation rate.

    All rates of a seed share initial weights and tasks, so that differences between rates are far better known than
    the losses themselves. The adaptation rate of each inner rate is the one with the lowest mean loss
    over the validation tasks of all seeds; losses are those of test tasks.

    Parameters
    ----------
    make_module
        Makes a module; called once for each seed, with torch's generator seeded for it.
    tasks
        As in `MetaTrainer`; an object with a method `sample` is asked for the index (stage, number, seed's number).
    design
        As in `MetaTrainer`.
    inner_lrs
        Rates of training, of any sign; 0, the baseline, is added if missing.
    adapt_lrs
        Rates of adaptation to choose from.
    n_seeds
        Independent repetitions.
    n_iterations
        Length of each training.
    n_validation, n_test
        Tasks to choose the adaptation rate on, and to score, for each seed.
    metric
        Another score of test predictions, such as `accuracy`.
    training
        As in `MetaTrainer`. The optimiser must treat each number by itself, as SGD and Adam do, for all rates share
        tensors.
    seeds_at_once
        Seeds trained together: a block. An existing store keeps its block size.
    store
        Folder for finished blocks: an interrupted sweep resumes from there, and one with more seeds reuses them.
    progress
        Show a bar.

    Returns
    -------
    xarray.Dataset
        Over ``inner_lr``: ``loss``, ``stderr`` over seeds, ``difference`` to inner_lr = 0 and its
        ``difference_stderr``, paired over seeds, ``adapt_lr``; over (``seed``, ``inner_lr``): ``loss_by_seed``; over
        (``inner_lr``, ``adapt_lr_tried``): ``validation_loss``. With a metric also ``metric``, ``metric_stderr``,
        ``metric_difference``, ``metric_difference_stderr`` and ``metric_by_seed``.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import sweep
    >>> rates = [-0.01, 0.0, 0.01]
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> sizes = {"n_seeds": 2, "n_iterations": 3, "n_validation": 8, "n_test": 8}
    >>> result = sweep(lambda: torch.nn.Linear(1, 1), il.Sinusoid(), design, rates, [0.01, 0.03], **sizes)
    >>> result.difference.dims, result.difference.shape  # to inner_lr = 0, on the same tasks from the same weights
    (('inner_lr',), (3,))
    """
    settings = sweep_settings(
        make_module,
        tasks,
        design,
        inner_lrs,
        adapt_lrs,
        n_iterations=n_iterations,
        n_validation=n_validation,
        n_test=n_test,
        metric=metric,
        training=training,
    )
    wanted, at_once = as_count(n_seeds, "n_seeds"), as_count(seeds_at_once, "seeds_at_once")
    at_once = min(at_once, wanted)
    blocks: Store = MemoryStore(at_once) if store is None else BlockStore(store, settings.plan(), at_once)
    numbers = range(-(-wanted // blocks.block_size))
    with progress_bar("Sweeping", len(numbers), progress) as tick:
        arrays = gather(partial(_block, settings, blocks.block_size), numbers, blocks, tick=tick)
    return summary(settings, {kind: np.concatenate([block[kind] for block in arrays])[:wanted] for kind in arrays[0]})


def sweep_settings(
    make_module: Callable[[], nn.Module],
    tasks: Tasks,
    design: Design,
    inner_lrs: ArrayLike,
    adapt_lrs: ArrayLike,
    *,
    n_iterations: int,
    n_validation: int,
    n_test: int,
    metric: Loss | None,
    training: Training,
) -> Sweep:
    """Return the settings of a sweep, checked; see there."""
    if isinstance(make_module, nn.Module) or not callable(make_module):
        raise TypeError(
            f"`make_module` must be a function that makes a module, as each seed starts from other weights, got "
            f"{type(make_module).__name__}; pass the function, or lambda: ... around what makes it."
        )
    given, adapt = (np.atleast_1d(as_floats(r, n)) for r, n in ((inner_lrs, "inner_lrs"), (adapt_lrs, "adapt_lrs")))
    check_finite(given, "inner_lrs")
    check_finite(adapt, "adapt_lrs")
    if adapt.size == 0:
        raise ValueError("`adapt_lrs` must hold at least one rate, got none.")
    if len(design.groups) > 1:
        raise ValueError(
            "`n_support` and `n_query` of a sweep's design must be one number each, as all rates are computed "
            f"together, got {len(design.groups)} different sizes."
        )
    settings = Sweep(
        make_module=make_module,
        sampler=EpisodeSampler(as_source(tasks, training.seed), design),
        inner_lrs=np.unique(np.append(given, 0.0)),
        adapt_lrs=np.unique(adapt),
        n_iterations=as_count(n_iterations, "n_iterations", 0),
        n_validation=as_count(n_validation, "n_validation"),
        n_test=as_count(n_test, "n_test"),
        metric=metric,
        training=training,
    )
    for stage in Stage:
        settings.sampler.draw(stage, 1, 0, 0)  # what cannot be drawn is refused before hours of training
    return settings


def _block(settings: Sweep, seeds_at_once: int, number: int) -> Arrays:
    return settings.compute_block(range(number * seeds_at_once, (number + 1) * seeds_at_once))


def summary(settings: Sweep, arrays: Arrays) -> xr.Dataset:
    """Choose the adaptation rates and summarise over seeds what `Sweep.compute_block` returns."""
    import xarray as xr

    validation = arrays["validation"].mean(axis=0)
    best = np.argmin(np.where(np.isnan(validation), np.inf, validation), axis=1)
    baseline = int(np.flatnonzero(settings.inner_lrs == 0)[0])
    data: dict[str, Any] = {
        "adapt_lr": ("inner_lr", settings.adapt_lrs[best]),
        "validation_loss": (("inner_lr", "adapt_lr_tried"), validation),
    }
    for kind, prefix in (("test", ""), ("metric", "metric_")):
        if kind in arrays:
            values = np.take_along_axis(arrays[kind], best[None, :, None], axis=2)[:, :, 0]
            difference = values - values[:, [baseline]]
            name = prefix.rstrip("_") or "loss"
            data[name] = ("inner_lr", values.mean(axis=0))
            data[f"{prefix}stderr"] = ("inner_lr", standard_errors(values))
            data[f"{prefix}difference"] = ("inner_lr", difference.mean(axis=0))
            data[f"{prefix}difference_stderr"] = ("inner_lr", standard_errors(difference))
            data[f"{name}_by_seed"] = (("seed", "inner_lr"), values)
    n_seeds = len(arrays["test"])
    coords = {"inner_lr": settings.inner_lrs, "adapt_lr_tried": settings.adapt_lrs, "seed": np.arange(n_seeds)}
    return xr.Dataset(data, coords)
