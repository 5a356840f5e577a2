"""Meta-training of any module, with inner rates of any sign."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import torch
from torch import Tensor, distributed, nn
from torch.optim.lr_scheduler import LRScheduler

from innerloop._base.checks import as_count
from innerloop._base.progress import progress as progress_bar
from innerloop.neural.algorithms import MAML, Algorithm
from innerloop.neural.batch import TEST, TRAINING, TaskBatch, TaskSource
from innerloop.neural.checkpoint import load_checkpoint, save_checkpoint
from innerloop.neural.compiled import compiled
from innerloop.neural.meta_gradient import by_task as by_task_of
from innerloop.neural.meta_gradient import gradients_of, query_losses, query_predictions
from innerloop.neural.rates import Rate, Tensors, check_finite_rates, check_rate, leaves, rebuild, resolve
from innerloop.neural.task_model import Loss, TaskModel, check_learnable, half_mse

TASKS_AT_ONCE = 100


class Callback(Protocol):
    """Called by `MetaTrainer.train`."""

    def on_step(self, trainer: MetaTrainer, losses: Tensor) -> None:
        """Look at the trainer after a step; `losses` are the query losses of its tasks: (n_tasks,)."""
        ...

    def on_end(self, trainer: MetaTrainer) -> None:
        """Look at the trainer when training ends."""
        ...


@final
@dataclass(frozen=True)
class Adam:
    """Makes Adam with a rate.

    Parameters
    ----------
    lr
        The rate of the outer loop.
    """

    lr: float = 1e-3

    def __call__(self, tensors: Iterable[Tensor]) -> torch.optim.Optimizer:
        """Return the optimiser of these tensors."""
        return torch.optim.Adam(tensors, lr=self.lr, fused=True)


def check_makes(name: str, maker: object) -> None:
    """Refuse what makes no optimiser: an optimiser, for instance."""
    if not callable(maker):
        raise TypeError(
            f"`{name}` must be a function that makes an optimiser of the learned tensors, such as Adam(lr) or "
            f"lambda tensors: torch.optim.SGD(tensors, lr=0.1), got {type(maker).__name__}."
        )


@final
class MetaTrainer:
    """Learns the start of an inner loop, and its rates where asked.

    Iteration i takes the tasks ``source.sample(..., index=(0, i))``, whatever was done before, so that a resumed
    training goes on exactly. In a process group of `torch.distributed` each process takes its share of these tasks.

    Parameters
    ----------
    module
        Any `torch.nn.Module`; read once and not changed until `update_module`.
    source
        Where tasks come from.
    inner_lr
        Rate in training, of any sign; see `innerloop.neural.rates`.
    n_tasks, n_support, n_query
        Tasks of an iteration, and rows of a task.
    n_steps
        Inner steps in training.
    adapt_lr, n_adapt_steps, n_adapt
        Rate, steps and support rows with which `evaluate` adapts; None: as in training.
    learn_inner_lr
        Learn the rate's tensors together with the start. With one tensor per parameter, of its shape, that is Meta-SGD;
        with one per layer and step, LSLR.
    algorithm
        See `innerloop.neural.algorithms`.
    loss
        Loss of one task, ``loss(prediction, y)``, in the inner and the outer loop.
    optimiser
        Makes the outer optimiser from the learned tensors.
    scheduler
        Makes its scheduler, which steps once an iteration.
    device, dtype
        Where and in what to compute; None: as the module's parameters.
    compile
        Compile the whole meta-gradient; worth its seconds where many iterations of the same sizes follow.
    by_task
        See `TaskModel`.
    callbacks
        Called after each iteration.

    Attributes
    ----------
    params
        The start, by name.
    rate_tensors
        The tensors of the inner rate, by name.
    iteration
        Iterations done.
    """

    def __init__(
        self,
        module: nn.Module,
        source: TaskSource,
        inner_lr: Rate,
        *,
        n_tasks: int,
        n_support: int,
        n_query: int,
        n_steps: int = 1,
        adapt_lr: Rate | None = None,
        n_adapt_steps: int | None = None,
        n_adapt: int | None = None,
        learn_inner_lr: bool = False,
        algorithm: Algorithm = MAML(),  # noqa: B008
        loss: Loss = half_mse,
        optimiser: Callable[[Iterable[Tensor]], torch.optim.Optimizer] = Adam(),
        scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        compile: bool = False,
        by_task: bool | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        if not callable(getattr(source, "sample", None)):
            raise TypeError(
                "`source` must have a method `sample`, as SinusoidTasks and TaskSetTasks do, got "
                f"{type(source).__name__}."
            )
        check_rate(inner_lr, "inner_lr")
        check_makes("optimiser", optimiser)
        self.module, self.source, self.algorithm, self.callbacks = module, source, algorithm, callbacks
        self.inner_lr, self.adapt_lr, self.learn_inner_lr = inner_lr, adapt_lr, learn_inner_lr
        self.n_tasks, self.n_support = as_count(n_tasks, "n_tasks"), as_count(n_support, "n_support")
        self.n_query, self.n_steps = as_count(n_query, "n_query"), as_count(n_steps, "n_steps", 0)
        self.n_adapt_steps = n_steps if n_adapt_steps is None else as_count(n_adapt_steps, "n_adapt_steps", 0)
        self.n_adapt = n_support if n_adapt is None else as_count(n_adapt, "n_adapt")
        check_learnable(module)
        self.params: Tensors = {
            name: parameter.detach().to(device, dtype, copy=True).requires_grad_()
            for name, parameter in module.named_parameters()
        }
        first = next(iter(self.params.values()))
        self.device, self.dtype = first.device, first.dtype
        self.rate_tensors: Tensors = {
            name: tensor.detach().to(self.device, self.dtype, copy=True).requires_grad_(learn_inner_lr)
            for name, tensor in leaves(inner_lr).items()
        }
        self.model = TaskModel(module, loss, by_task)
        self._fixed_rates = self._rates(self.rate_tensors)
        check_finite_rates(self._fixed_rates)
        self._adapt_rates()
        self.optimiser = optimiser(self.learned)
        self.scheduler = None if scheduler is None else scheduler(self.optimiser)
        gradients = compiled(gradients_of(self._losses)) if compile else gradients_of(self._losses)
        self._gradients = by_task_of(gradients) if self.model.is_by_task(self.device) else gradients
        self.iteration = 0
        batch = self._batch()
        self.model.inspect(self.params, batch.X_support[0])
        self._rank, self._n_processes = _place()
        if self.n_tasks < self._n_processes:
            raise ValueError(
                f"`n_tasks` must be at least the number of processes ({self._n_processes}), got {n_tasks}."
            )

    @property
    def learned(self) -> list[Tensor]:
        """What the outer optimiser moves."""
        return [*self.params.values(), *(self.rate_tensors.values() if self.learn_inner_lr else ())]

    def train(
        self,
        n_iterations: int,
        *,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 1000,
        progress: bool = False,
    ) -> None:
        """Train until so many iterations are done in all.

        Parameters
        ----------
        n_iterations
            Counted from the first start; a resumed training does the rest.
        checkpoint
            Folder to save to once in `checkpoint_every` iterations and at the end.
        checkpoint_every
            Iterations between two checkpoints.
        progress
            Show a bar.
        """
        as_count(n_iterations, "n_iterations", 0)
        as_count(checkpoint_every, "checkpoint_every")
        with progress_bar("Meta-training", max(0, n_iterations - self.iteration), progress) as tick:
            while self.iteration < n_iterations:
                losses = self.step()
                for callback in self.callbacks:
                    callback.on_step(self, losses)
                if checkpoint is not None and (
                    self.iteration % checkpoint_every == 0 or self.iteration == n_iterations
                ):
                    self.save(checkpoint)
                tick()
        for callback in self.callbacks:
            callback.on_end(self)

    def step(self, batch: TaskBatch | None = None) -> Tensor:
        """Do one iteration and return the query losses: (n_tasks,), of this process's tasks.

        Parameters
        ----------
        batch
            Tasks to take instead of the source's.
        """
        batch = self._batch() if batch is None else batch
        learned = self.learned
        if self._n_processes == 1:
            losses, gradients = self._gradients(learned, batch)
        else:
            own = batch[self._rank :: self._n_processes]
            losses, gradients = self._gradients(learned, own)
            gradients = _summed(gradients, len(own) / len(batch))
        for tensor, gradient in zip(learned, gradients, strict=True):
            tensor.grad = gradient
        self.optimiser.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.iteration += 1
        return losses

    def evaluate(
        self,
        n_tasks: int = 600,
        *,
        adapt_lr: Rate | None = None,
        metric: Loss | None = None,
        stage: int = TEST,
    ) -> Tensor:
        """Adapt to tasks that training never sees, and score their query rows.

        The module is in evaluation mode, in adaptation too: dropout is off. Batch normalisation that was in training
        mode still uses the statistics of the rows at hand; its running statistics are never learned.

        Parameters
        ----------
        n_tasks
            How many.
        adapt_lr
            Another rate than the trainer's.
        metric
            Score of one task, ``metric(prediction, y)``; None: the loss.
        stage
            First number of the tasks' index: `VALIDATION` or `TEST`.

        Returns
        -------
        (n_tasks,)
        """
        as_count(n_tasks, "n_tasks")
        rates, scores = self._adapt_rates(adapt_lr), []
        for k, first in enumerate(range(0, n_tasks, TASKS_AT_ONCE)):
            size = min(TASKS_AT_ONCE, n_tasks - first)
            batch = self.source.sample(size, self.n_adapt, self.n_query, (stage, k)).to(self.device, self.dtype)
            with torch.no_grad(), self.model.testing():
                prediction = query_predictions(self.algorithm, self.model, self.params, rates, batch)
                scores.append(self.model.score(prediction, batch.y_query, metric))
        return torch.cat(scores)

    def update_module(self) -> nn.Module:
        """Copy the learned start into the module, and return it."""
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(self.params[name])
        return self.module

    def save(self, folder: str | Path) -> None:
        """Save all that training needs to go on exactly; in a process group the first process does."""
        if self._rank == 0:
            save_checkpoint(Path(folder), self._state())

    def load(self, folder: str | Path) -> None:
        """Go on from a checkpoint of the same module and the same kind of optimiser.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint.
        ValueError
            If it is damaged, or is one of another module.
        """
        state = load_checkpoint(Path(folder), self._state(), self.device)
        if not self.learn_inner_lr:
            for name, tensor in self.rate_tensors.items():
                if not torch.equal(tensor, state["rate_tensors"][name]):
                    raise ValueError(
                        f"{folder} was trained at inner rate {state['rate_tensors'][name].tolist()}, this training has "
                        f"{tensor.tolist()}; give the same. To go on at another rate, load it at its own, "
                        "`update_module`, and train that module."
                    )
        try:
            self.optimiser.load_state_dict(state["optimiser"])
        except ValueError as error:
            raise ValueError(
                f"{folder} does not fit this training's optimiser ({error}); learn the same parameters and rates."
            ) from error
        with torch.no_grad():
            for kind in ("params", "rate_tensors"):
                for name, tensor in getattr(self, kind).items():
                    tensor.copy_(state[kind][name])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.iteration = state["iteration"]
        torch.set_rng_state(state["random"].cpu())

    def _state(self) -> dict[str, Any]:
        return {
            "params": {name: tensor.detach() for name, tensor in self.params.items()},
            "rate_tensors": {name: tensor.detach() for name, tensor in self.rate_tensors.items()},
            "optimiser": self.optimiser.state_dict(),
            "optimiser_kind": type(self.optimiser).__name__,
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "scheduler_kind": type(self.scheduler).__name__,
            "iteration": self.iteration,
            "random": torch.get_rng_state(),
        }

    def _batch(self) -> TaskBatch:
        batch = self.source.sample(self.n_tasks, self.n_support, self.n_query, (TRAINING, self.iteration))
        return batch.to(self.device, self.dtype)

    def _losses(self, learned: Sequence[Tensor], batch: TaskBatch) -> Tensor:
        params = dict(zip(self.params, learned, strict=False))
        rates = self._fixed_rates
        if self.learn_inner_lr:
            rates = self._rates(dict(zip(self.rate_tensors, learned[len(params) :], strict=True)))
        return query_losses(self.algorithm, self.model, params, rates, batch)

    def _rates(self, tensors: Tensors) -> list[Tensors]:
        return resolve(rebuild(self.inner_lr, tensors), self._stepping(), self.n_steps)

    def _adapt_rates(self, adapt_lr: Rate | None = None) -> list[Tensors]:
        adapt_lr = self.adapt_lr if adapt_lr is None else adapt_lr
        adapt_lr = rebuild(self.inner_lr, self.rate_tensors) if adapt_lr is None else adapt_lr
        rates = resolve(adapt_lr, self._stepping(), self.n_adapt_steps, "adapt_lr")
        check_finite_rates(rates, "adapt_lr")
        return rates

    def _stepping(self) -> Tensors:
        return {name: self.params[name] for name in self.algorithm.adapted(self.params)}


def _place() -> tuple[int, int]:
    """Return this process's number and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _summed(gradients: Sequence[Tensor], weight: float) -> list[Tensor]:
    """Return the weighted sum over all processes, in one message."""
    flat = weight * torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
