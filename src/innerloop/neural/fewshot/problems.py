"""Few-shot problems, ready to train on: sine waves, tables, and images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, final

import numpy as np
import torch
from torch import Tensor, nn

from innerloop.data.tasks import TaskSet
from innerloop.distributions import Design, ResampledTasks
from innerloop.neural.algorithms import MAML, Algorithm, Reptile
from innerloop.neural.classes import ClassTasks
from innerloop.neural.fewshot.networks import MLP, Conv4
from innerloop.neural.fewshot.omniglot import SIDE, CharacterTasks
from innerloop.neural.linearized_sweep import linearized_sweep
from innerloop.neural.meta_gradient import query_predictions
from innerloop.neural.rates import Rate
from innerloop.neural.scores import Scores
from innerloop.neural.sources import (
    TASKS_AT_ONCE,
    TEST,
    TRAINING,
    VALIDATION,
    DistributionTasks,
    EpisodeSampler,
    SinusoidTasks,
    Stage,
    TaskSource,
)
from innerloop.neural.storage import Standardization, TrainedNetwork
from innerloop.neural.sweep import sweep
from innerloop.neural.task_model import Loss, TaskModel, accuracy, half_mse
from innerloop.neural.trainer import MetaTrainer
from innerloop.neural.training import Training

if TYPE_CHECKING:
    import xarray as xr

_MOST_SINUSOID_STEPS = 5


@final
@dataclass(frozen=True)
class Method:
    """A usual name of meta-learning for networks with a body and a head.

    Parameters
    ----------
    algorithm
        How tasks adapt.
    learns_rates
        Learn a rate for each weight together with the weights.
    """

    algorithm: Algorithm
    learns_rates: bool = False


METHODS = {
    "maml": Method(MAML()),
    "fomaml": Method(MAML(first_order=True)),
    "anil": Method(MAML(subset=("head",))),
    "meta-sgd": Method(MAML(), learns_rates=True),
    "reptile": Method(Reptile()),
}


def mse(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared error over rows and targets."""
    return 2 * half_mse(prediction, y)


@final
@dataclass(frozen=True)
class Metric:
    """A score of a task, and how it is reported.

    Parameters
    ----------
    key
        Its name in files.
    score
        ``score(prediction, y)``, a number.
    label
        Its name in tables and pictures.
    scale
        What it is multiplied with in tables.
    n_errors, error_label
        Standard errors that tables show, and what they call them.
    best
        The best of several scores: `min` or `max`.
    """

    key: str
    score: Loss
    label: str
    scale: float
    n_errors: float
    error_label: str
    best: Callable[..., float]


MSE = Metric("mse", mse, "MSE", 1.0, 1.0, "± s.e.", min)
ACCURACY = Metric("accuracy", accuracy, "accuracy %", 100.0, 1.96, "± (95 %)", max)


@final
@dataclass(frozen=True, kw_only=True)
class FewShot:
    """A few-shot problem with a network, and how it is trained.

    Parameters
    ----------
    source
        Its tasks.
    design
        Tasks of an iteration, rows and inner steps.
    make_module
        Makes the network, which has a ``body`` and a ``head``.
    metric
        What is reported of a task.
    adapt_lrs
        Rates of adaptation to choose from.
    scored_steps
        Numbers of inner steps after which test tasks are scored.
    n_classes
        Classes of a task; None where targets are numbers.
    training
        As in `MetaTrainer`.
    learns_rates
        Learn a rate for each weight together with the weights (Meta-SGD).
    n_validation
        Tasks that choose the rate of adaptation.
    units
        Units of features and targets, where these were standardised.
    details
        Plain values that a saved network keeps, such as the columns of a table.
    """

    source: TaskSource
    design: Design
    make_module: Callable[[], nn.Module]
    metric: Metric
    adapt_lrs: Sequence[float]
    scored_steps: Sequence[int]
    n_classes: int | None = None
    training: Training = Training()  # noqa: RUF009
    learns_rates: bool = False
    n_validation: int = 100
    units: Standardization | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def module(self) -> nn.Module:
        """Return the network that training starts from."""
        with torch.random.fork_rng():
            torch.manual_seed(self.training.seed)
            return self.make_module()

    def trainer(self, inner_lr: float) -> MetaTrainer:
        """Return the trainer of the network at a rate of any sign: the start of all rates where they are learned."""
        module = self.module()
        rate: Rate = inner_lr
        if self.learns_rates:
            rate = {name: torch.full_like(value, inner_lr) for name, value in module.named_parameters()}
        return MetaTrainer(
            module, self.source, self.design, rate, training=self.training, learn_inner_lr=self.learns_rates
        )

    def network(self, trainer: MetaTrainer, adapt_lr: Rate | None) -> TrainedNetwork:
        """Return the trained network with a rate of adaptation; None: as learned."""
        return TrainedNetwork(
            module=trainer.update_module(),
            adapt_lr=trainer.inner_lr if adapt_lr is None else adapt_lr,
            n_steps=int(self.design.adapt_steps),
            adapted=self.training.algorithm.adapted(trainer.params),
            loss=self.training.loss,
            units=self.units,
            details=self.details,
        )

    def comparison(self, algorithm: Algorithm) -> MetaTrainer:
        """Return the trainer of the network's body alone, for an algorithm that takes no steps."""
        body, training = self.module().get_submodule("body"), replace(self.training, algorithm=algorithm)
        return MetaTrainer(body, self.source, self.design, 0.0, training=training)

    def best_adapt_lr(self, trainer: MetaTrainer) -> float:
        """Return the rate with the lowest mean loss on validation tasks."""

        def loss(rate: float) -> float:
            mean = trainer.evaluate(self.n_validation, adapt_lr=rate, stage=VALIDATION).mean()
            return mean if mean == mean else float("inf")

        return min(self.adapt_lrs, key=loss)

    def scores_without_steps(self, algorithm: Algorithm, module: nn.Module, n_tasks: int) -> Scores:
        """Score an algorithm that takes no steps on the tasks that `MetaTrainer.evaluate` scores."""
        model, device = TaskModel(module, self.training.loss), self.training.device
        params = {name: value.to(device=device) for name, value in module.named_parameters()}
        scores = []
        for drawn in self._sampler.batches(TEST, n_tasks, TASKS_AT_ONCE):
            batch = drawn.to(device, torch.float32)
            with torch.no_grad():
                prediction = query_predictions(algorithm, model, params, [], batch)
                scores.append(model.score(prediction, batch.y_query, self.metric.score))
        return Scores(torch.cat(scores))

    @cached_property
    def _sampler(self) -> EpisodeSampler:
        return EpisodeSampler(self.source, self.design)

    def check_tasks(self) -> None:
        """Refuse what cannot be drawn, before training."""
        for stage in Stage:
            self._sampler.draw(stage, 1, 0)

    def sweep(
        self,
        inner_lrs: Sequence[float],
        n_seeds: int,
        n_iterations: int,
        n_test: int,
        store: Path | None = None,
    ) -> xr.Dataset:
        """Train at many rates with common random numbers; `n_test` tasks score each seed.

        With a folder as store, an interrupted sweep resumes after its last finished seed. See `neural.sweep`.
        """
        return sweep(
            self.make_module,
            self.source,
            self.design,
            inner_lrs,
            self.adapt_lrs,
            n_seeds=n_seeds,
            n_iterations=n_iterations,
            n_validation=self.n_validation,
            n_test=n_test,
            metric=self.metric.score,
            training=self.training,
            store=store,
            progress=True,
        )

    def kernel_sweep(self, inner_lrs: Sequence[float], n_seeds: int, n_test: int) -> xr.Dataset:
        """Return the mean squared errors that the network's tangent kernel predicts, for each number of `sweep`.

        See `neural.linearized_sweep`. Names are those of `sweep` with ``kernel_`` before them.
        """
        predicted = linearized_sweep(
            self.make_module,
            self.source,
            self.design,
            inner_lrs,
            self.adapt_lrs,
            n_seeds=n_seeds,
            n_validation=self.n_validation,
            n_test=n_test,
            training=self.training,
            progress=True,
        )
        squares = {f"metric_{name}": 2 * predicted[name] for name in ("stderr", "difference", "difference_stderr")}
        scored = predicted.assign({"metric": 2 * predicted["loss"], **squares})
        return scored.rename({name: f"kernel_{name}" for name in scored.data_vars})


def sinusoids(
    n_shots: int = 10,
    n_query: int = 10,
    width: int = 40,
    *,
    n_tasks: int = 25,
    n_steps: int = 1,
    training: Training = Training(),  # noqa: B008
    learns_rates: bool = False,
    n_validation: int = 100,
) -> FewShot:
    """Return the sine waves of Finn, Abbeel and Levine (2017) with a network of 1-width-width-1 units.

    Parameters
    ----------
    n_shots, n_query
        Support and query rows.
    width
        Hidden units of each of two layers.
    n_tasks, n_steps
        Tasks of an iteration, and inner steps.
    training, learns_rates, n_validation
        As in `FewShot`; the loss is half the mean squared error, and the seed also draws the tasks.
    """
    return FewShot(
        source=SinusoidTasks(training.seed),
        design=Design(n_tasks, n_shots, n_query, n_steps=n_steps),
        make_module=partial(MLP, 1, 1, (width, width)),
        metric=MSE,
        adapt_lrs=(-0.03, -0.01, 0.0, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5),
        scored_steps=range(max(_MOST_SINUSOID_STEPS, n_steps) + 1),
        training=replace(training, loss=half_mse),
        learns_rates=learns_rates,
        n_validation=n_validation,
    )


def regression(
    tasks: TaskSet,
    n_shots: int = 10,
    n_query: int = 10,
    width: int = 40,
    *,
    n_tasks: int = 25,
    n_steps: int = 1,
    training: Training = Training(),  # noqa: B008
    learns_rates: bool = False,
    n_validation: int = 100,
) -> FewShot:
    """Return the tasks of a table with a network of two hidden layers.

    Features and targets are centred and scaled by the rows of training tasks; scores are of scaled targets, so that
    their variance, 1, is the error of a constant.

    Parameters
    ----------
    tasks
        The table, with one target.
    n_shots, n_query
        Support and query rows.
    width
        Hidden units of each of two layers.
    n_tasks, n_steps
        Tasks of an iteration, and inner steps.
    training, learns_rates, n_validation
        As in `FewShot`; the loss is half the mean squared error, and the seed also splits the tasks.
    """
    seen = cast(ResampledTasks, DistributionTasks(tasks, training.seed).by_stage[TRAINING]).tasks
    units = Standardization.fit(seen.X, seen.y)
    scaled = TaskSet.from_arrays(units.features(tasks.X), units.targets(tasks.y), np.repeat(tasks.ids, tasks.sizes))
    problem = FewShot(
        source=DistributionTasks(scaled, training.seed),
        design=Design(n_tasks, n_shots, n_query, n_steps=n_steps),
        make_module=partial(MLP, tasks.X.shape[1], 1, (width, width)),
        metric=replace(MSE, label="MSE / variance"),
        adapt_lrs=(-0.03, -0.01, 0.0, 0.003, 0.01, 0.03, 0.1, 0.3),
        scored_steps=range(max(_MOST_SINUSOID_STEPS, n_steps) + 1),
        training=replace(training, loss=half_mse),
        learns_rates=learns_rates,
        n_validation=n_validation,
        units=units,
    )
    problem.check_tasks()
    return problem


def characters(
    source: CharacterTasks | ClassTasks,
    n_shots: int = 1,
    n_queries: int = 3,
    width: int = 64,
    norm: Literal["batch", "group"] = "batch",
    *,
    n_tasks: int = 4,
    n_steps: int = 1,
    training: Training = Training(),  # noqa: B008
    learns_rates: bool = False,
    n_validation: int = 100,
) -> FewShot:
    """Return images of 28 x 28 to tell apart, with a `Conv4`, or on flat pixels an `MLP` of two layers.

    Parameters
    ----------
    source
        The tasks.
    n_shots, n_queries
        Support and query rows of each class.
    width
        Channels, or hidden units.
    norm
        Of a `Conv4`.
    n_tasks, n_steps
        Tasks of an iteration, and inner steps.
    training, learns_rates, n_validation
        As in `FewShot`; the loss is the cross-entropy.
    """
    make_mlp = partial(MLP, SIDE * SIDE, source.n_ways, (width, width))
    is_flat = isinstance(source, CharacterTasks) and source.flat
    problem = FewShot(
        source=source,
        design=Design(n_tasks, n_shots * source.n_ways, n_queries * source.n_ways, n_steps=n_steps),
        make_module=make_mlp if is_flat else partial(Conv4, source.n_ways, width, norm),
        metric=ACCURACY,
        adapt_lrs=(-1.0, -0.1, 0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        scored_steps=(0, n_steps),
        n_classes=source.n_ways,
        training=replace(training, loss=nn.functional.cross_entropy),
        learns_rates=learns_rates,
        n_validation=n_validation,
    )
    problem.check_tasks()
    return problem
