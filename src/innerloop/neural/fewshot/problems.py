"""Two few-shot problems, ready to train on: sine waves, and handwritten characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from torch import Tensor, nn

from innerloop.neural.algorithms import MAML, Algorithm, Reptile
from innerloop.neural.batch import TEST, VALIDATION, SinusoidTasks, TaskSource
from innerloop.neural.fewshot.networks import MLP, Conv4
from innerloop.neural.fewshot.omniglot import SIDE, CharacterTasks
from innerloop.neural.meta_gradient import query_predictions
from innerloop.neural.rates import Rate
from innerloop.neural.sweep import sweep
from innerloop.neural.task_model import Loss, TaskModel, accuracy, half_mse
from innerloop.neural.trainer import TASKS_AT_ONCE, Adam, MetaTrainer

if TYPE_CHECKING:
    import xarray as xr

AlgorithmName = Literal["maml", "fomaml", "anil", "meta-sgd", "reptile"]
_ALGORITHMS: dict[str, Algorithm] = {
    "maml": MAML(),
    "fomaml": MAML(first_order=True),
    "anil": MAML(subset=("head",)),
    "meta-sgd": MAML(),
    "reptile": Reptile(),
}


def mse(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared error over rows and targets."""
    return 2 * half_mse(prediction, y)


@final
@dataclass(frozen=True, kw_only=True)
class FewShot:
    """A few-shot problem with a network, and how it is trained.

    Parameters
    ----------
    source
        Its tasks.
    make_module
        Makes the network, which has a ``body`` and a ``head``.
    loss
        Of one task.
    metric
        What is reported of one task.
    adapt_lrs
        Rates of adaptation to choose from.
    n_support, n_query, n_tasks
        Rows of a task, and tasks of an iteration.
    n_steps
        Inner steps.
    n_validation
        Tasks that choose the rate of adaptation.
    algorithm
        maml, fomaml, anil, meta-sgd or reptile.
    outer_lr
        Rate of Adam in the outer loop.
    seed
        Of the initial weights; a source has its own.
    device, compile
        As in `MetaTrainer`.
    """

    source: TaskSource
    make_module: Callable[[], nn.Module]
    loss: Loss
    metric: Loss
    adapt_lrs: Sequence[float]
    n_support: int
    n_query: int
    n_tasks: int
    n_steps: int = 1
    n_validation: int = 100
    algorithm: AlgorithmName = "maml"
    outer_lr: float = 1e-3
    seed: int = 0
    device: str | None = None
    compile: bool = False

    @property
    def is_classification(self) -> bool:
        """Whether targets name classes."""
        return self.metric is accuracy

    @property
    def n_classes(self) -> int:
        """Classes of a task."""
        assert isinstance(self.source, CharacterTasks)
        return self.source.n_ways

    def module(self) -> nn.Module:
        """Return the network that training starts from."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return self.make_module()

    def trainer(self, inner_lr: float) -> MetaTrainer:
        """Return the trainer of the network at a rate of any sign; with Meta-SGD that is where all rates start."""
        module, learned = self.module(), self.algorithm == "meta-sgd"
        rate: Rate = inner_lr
        if learned:
            rate = {name: torch.full_like(value, inner_lr) for name, value in module.named_parameters()}
        return self._trainer(module, rate, _ALGORITHMS[self.algorithm], learned)

    def comparison(self, algorithm: Algorithm) -> MetaTrainer:
        """Return the trainer of the network's body alone, for an algorithm that takes no steps."""
        return self._trainer(self.module().get_submodule("body"), 0.0, algorithm, learned=False)

    def _trainer(self, module: nn.Module, rate: Rate, algorithm: Algorithm, learned: bool) -> MetaTrainer:
        return MetaTrainer(
            module,
            self.source,
            rate,
            n_tasks=self.n_tasks,
            n_support=self.n_support,
            n_query=self.n_query,
            n_steps=self.n_steps,
            learn_inner_lr=learned,
            algorithm=algorithm,
            loss=self.loss,
            optimiser=Adam(self.outer_lr),
            device=self.device,
            dtype=torch.float32,
            compile=self.compile,
        )

    def best_adapt_lr(self, trainer: MetaTrainer) -> float:
        """Return the rate with the lowest mean loss on validation tasks."""

        def loss(rate: float) -> float:
            mean = trainer.evaluate(self.n_validation, adapt_lr=rate, stage=VALIDATION).mean().item()
            return mean if mean == mean else float("inf")

        return min(self.adapt_lrs, key=loss)

    def scores_without_steps(self, algorithm: Algorithm, module: nn.Module, n_tasks: int) -> Tensor:
        """Score an algorithm that takes no steps on the tasks that `MetaTrainer.evaluate` scores: (n_tasks,)."""
        model = TaskModel(module, self.loss)
        params = {name: value.to(device=self.device) for name, value in module.named_parameters()}
        scores = []
        for k, first in enumerate(range(0, n_tasks, TASKS_AT_ONCE)):
            size = min(TASKS_AT_ONCE, n_tasks - first)
            batch = self.source.sample(size, self.n_support, self.n_query, (TEST, k)).to(self.device, torch.float32)
            with torch.no_grad():
                prediction = query_predictions(algorithm, model, params, [], batch)
                scores.append(model.score(prediction, batch.y_query, self.metric))
        return torch.cat(scores)

    def sweep(
        self,
        inner_lrs: Sequence[float],
        n_seeds: int,
        n_iterations: int,
        n_test: int,
        store: Path | None = None,
    ) -> xr.Dataset:
        """Train at many rates with common random numbers; `n_test` tasks score each seed.

        With a folder as store, a sweep that was cut off goes on after its last finished seed. See `neural.sweep`.
        """
        return sweep(
            self.make_module,
            self.source,
            inner_lrs,
            self.adapt_lrs,
            n_seeds=n_seeds,
            n_iterations=n_iterations,
            n_tasks=self.n_tasks,
            n_support=self.n_support,
            n_query=self.n_query,
            n_steps=self.n_steps,
            n_validation=self.n_validation,
            n_test=n_test,
            algorithm=_ALGORITHMS[self.algorithm],
            loss=self.loss,
            metric=self.metric,
            optimiser=Adam(self.outer_lr),
            seed=self.seed,
            device=self.device,
            dtype=torch.float32,
            compile=self.compile,
            store=store,
            progress=True,
        )


def sinusoids(n_shots: int = 10, n_query: int = 10, width: int = 40, seed: int = 0, **settings: Any) -> FewShot:
    """Return the sine waves of Finn, Abbeel and Levine (2017) with a network of 1-width-width-1 units.

    Parameters
    ----------
    n_shots, n_query
        Support and query rows.
    width
        Hidden units of each of two layers.
    seed
        Of tasks and weights.
    settings
        Others of `FewShot`.
    """
    return FewShot(
        source=SinusoidTasks(seed),
        make_module=partial(MLP, 1, 1, (width, width)),
        loss=half_mse,
        metric=mse,
        adapt_lrs=(-0.03, -0.01, 0.0, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5),
        n_support=n_shots,
        n_query=n_query,
        seed=seed,
        **settings,
    )


def characters(
    source: CharacterTasks,
    n_shots: int = 1,
    n_queries: int = 3,
    width: int = 64,
    norm: Literal["batch", "group"] = "batch",
    **settings: Any,
) -> FewShot:
    """Return characters to tell apart, with a `Conv4`, or on flat pixels an `MLP` of two layers.

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
    settings
        Others of `FewShot`.
    """
    n_support, n_query = n_shots * source.n_ways, n_queries * source.n_ways
    for stage in source.split:
        source.sample(1, n_support, n_query, (stage,))  # what cannot be drawn is refused before training
    make_mlp = partial(MLP, SIDE * SIDE, source.n_ways, (width, width))
    return FewShot(
        source=source,
        make_module=make_mlp if source.flat else partial(Conv4, source.n_ways, width, norm),
        loss=nn.functional.cross_entropy,
        metric=accuracy,
        adapt_lrs=(-1.0, -0.1, 0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        n_support=n_support,
        n_query=n_query,
        seed=source.seed,
        **settings,
    )
