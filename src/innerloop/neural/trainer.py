"""Meta-training of one module, with inner rates of any sign."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, final

import torch
from torch import Tensor, distributed, nn

from innerloop._base.checks import as_count
from innerloop._base.progress import progress as progress_bar
from innerloop._blocks.fingerprint import fingerprint
from innerloop.distributions import Design
from innerloop.neural.batch import TaskBatch
from innerloop.neural.checkpoint import load_checkpoint, save_checkpoint
from innerloop.neural.compiled import compiled
from innerloop.neural.meta_gradient import by_task as by_task_of
from innerloop.neural.meta_gradient import gradients_of, query_losses, query_predictions
from innerloop.neural.rates import Rate, Tensors, check_finite_rates, check_rate, leaves, rebuild, resolve
from innerloop.neural.sources import TEST, TRAINING, EpisodeSampler, Stage, Tasks, as_source
from innerloop.neural.task_model import Loss, TaskModel, learnable
from innerloop.neural.training import Training

TASKS_AT_ONCE = 100


class Callback(Protocol):
    """Called by `MetaTrainer.train`."""

    def on_step(self, trainer: MetaTrainer, losses: Tensor) -> None:
        """Run after each step; `losses` are the query losses of its tasks: (n_tasks,)."""
        ...

    def on_end(self, trainer: MetaTrainer) -> None:
        """Run when training ends."""
        ...


@final
class MetaTrainer:
    """Meta-training of the initial parameters of an inner loop and, if asked, of its rates.

    Iteration i takes the training tasks number i, whatever was done before, so that a resumed training goes on exactly.
    In a process group of `torch.distributed` each process takes its share of these tasks.

    Parameters
    ----------
    module
        Any `torch.nn.Module`; read once and not changed until `update_module`.
    tasks
        A `TaskDistribution`, a `TaskSet`, of which parts are kept for validation and test, or an object with a method
        `sample`; see `innerloop.neural.sources`.
    design
        How many tasks an iteration has, the rows of training and of new tasks, and the inner steps.
    inner_lr
        Rate in training, of any sign; see `innerloop.neural.rates`.
    adapt_lr
        Rate with which `evaluate` adapts; None: `inner_lr`, as learned.
    training
        Algorithm, loss, optimiser, and where to compute.
    learn_inner_lr
        Learn the rate's tensors together with the start. With one tensor per parameter, of its shape, that is Meta-SGD;
        with one per layer and step, LSLR.
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
        tasks: Tasks,
        design: Design,
        inner_lr: Rate,
        adapt_lr: Rate | None = None,
        *,
        training: Training = Training(),  # noqa: B008
        learn_inner_lr: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.sampler = EpisodeSampler(as_source(tasks, training.seed), design)
        check_rate(inner_lr, "inner_lr")
        self.module, self.design, self.training, self.callbacks = module, design, training, callbacks
        self.inner_lr, self.adapt_lr, self.learn_inner_lr = inner_lr, adapt_lr, learn_inner_lr
        self.params: Tensors = {
            name: parameter.detach().to(training.device, training.dtype, copy=True).requires_grad_()
            for name, parameter in learnable(module).items()
        }
        first = next(iter(self.params.values()))
        self.device, self.dtype = first.device, first.dtype
        self.rate_tensors: Tensors = {
            name: tensor.detach().to(self.device, self.dtype, copy=True).requires_grad_(learn_inner_lr)
            for name, tensor in leaves(inner_lr).items()
        }
        self.model = TaskModel(module, training.loss, training.by_task)
        self._fixed_rates = self._rates(self.rate_tensors)
        check_finite_rates(self._fixed_rates)
        self._adapt_rates()
        self.optimiser = training.optimiser(self.learned)
        self.scheduler = None if training.scheduler is None else training.scheduler(self.optimiser)
        self.iteration = 0
        self.model.inspect(self.params, self._batch())
        gradients = compiled(gradients_of(self._losses)) if training.compile else gradients_of(self._losses)
        self._gradients = by_task_of(gradients) if self.model.is_by_task(self.device) else gradients
        self._rank, self._n_processes = _rank_and_size()
        if design.n_tasks < self._n_processes:
            raise ValueError(
                f"`n_tasks` must be at least the number of processes ({self._n_processes}), got {design.n_tasks}."
            )

    @property
    def learned(self) -> list[Tensor]:
        """The tensors that the outer optimiser updates."""
        return [*self.params.values(), *(self.rate_tensors.values() if self.learn_inner_lr else ())]

    def train(
        self,
        n_iterations: int,
        *,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 1000,
        progress: bool = False,
    ) -> None:
        """Train up to iteration `n_iterations`.

        Parameters
        ----------
        n_iterations
            Iterations since the first start; a resumed training does the remaining ones.
        checkpoint
            Folder to save to every `checkpoint_every` iterations and at the end.
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
        """Do one iteration and return the query losses of this process's tasks: (n_tasks,).

        Parameters
        ----------
        batch
            Tasks to use instead of the source's.
        """
        batch = self._batch() if batch is None else batch
        learned = self.learned
        if self._n_processes == 1:
            losses, gradients = self._gradients(learned, batch)
        else:
            share = batch[self._rank :: self._n_processes]
            losses, gradients = self._gradients(learned, share)
            gradients = _summed(gradients, len(share) / len(batch))
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
        n_steps: int | None = None,
        metric: Loss | None = None,
        stage: Stage = TEST,
    ) -> Tensor:
        """Adapt to validation or test tasks, and score their query rows.

        The module is in evaluation mode, in adaptation too: dropout is off. Batch normalisation that was in training
        mode still uses the statistics of the rows at hand; its running statistics are never learned.

        Parameters
        ----------
        n_tasks
            How many. Of a table with fewer the same tasks come again, with other rows.
        adapt_lr
            Another rate than the trainer's.
        n_steps
            Inner steps, 0 for none; None: those of the design for new tasks.
        metric
            Score of one task, ``metric(prediction, y)``; None: the loss.
        stage
            `VALIDATION` or `TEST`.

        Returns
        -------
        (n_tasks,)
        """
        as_count(n_tasks, "n_tasks")
        rates, scores = self._adapt_rates(adapt_lr, n_steps), []
        for drawn in self.sampler.batches(stage, n_tasks, TASKS_AT_ONCE):
            batch = drawn.to(self.device, self.dtype)
            with torch.no_grad(), self.model.testing():
                prediction = query_predictions(self.training.algorithm, self.model, self.params, rates, batch)
                scores.append(self.model.score(prediction, batch.y_query, metric))
        return torch.cat(scores)

    def update_module(self) -> nn.Module:
        """Copy the learned parameters into the module, and return it."""
        with torch.no_grad():
            for name, parameter in learnable(self.module).items():
                parameter.copy_(self.params[name])
        return self.module

    def save(self, folder: str | Path) -> None:
        """Save a checkpoint from which training resumes exactly; in a process group the first process does."""
        if self._rank == 0:
            save_checkpoint(Path(folder), self._state())

    def load(self, folder: str | Path) -> None:
        """Resume from a checkpoint of the same training.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint.
        ValueError
            If it is damaged, or was made with another module, other tasks or sizes, another algorithm, loss, optimiser,
            scheduler or inner rate.
        """
        state = load_checkpoint(Path(folder), self._state(), self.device)
        if not self.learn_inner_lr:
            for name, tensor in self.rate_tensors.items():
                if not torch.equal(tensor, state["rate_tensors"][name]):
                    raise ValueError(
                        f"{folder} was trained at inner rate {state['rate_tensors'][name].tolist()}, this training has "
                        f"{tensor.tolist()}; give the same. To continue at another rate, load it at the rate it "
                        "was trained at, `update_module`, and train that module."
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
            "identity": json.dumps(self._identity()),
            "iteration": self.iteration,
            "random": torch.get_rng_state(),
        }

    def _identity(self) -> dict[str, Any]:
        """Return what the next iterations depend on beside the state; parts that cannot be described by their type."""
        parts = {
            "code of the layers": list(dict.fromkeys(type(part) for part in self.module.modules())),
            "tasks": self.sampler.source,
            "design": self.design.groups,
            "n_steps": self.design.n_steps,
            "dtype": str(self.dtype),
            "learn_inner_lr": self.learn_inner_lr,
            **{name: getattr(self.training, name) for name in ("algorithm", "loss", "optimiser", "scheduler")},
        }
        layers = {name: str(part) for name, part in self.module.named_modules() if not [*part.children()]}
        identity: dict[str, Any] = {"layers": layers}
        for name, part in parts.items():
            try:
                identity[name] = fingerprint(part, name)
            except TypeError:
                identity[name] = type(part).__qualname__
        return identity

    def _batch(self) -> TaskBatch:
        return self.sampler.draw(TRAINING, self.design.n_tasks, self.iteration).to(self.device, self.dtype)

    def _losses(self, learned: Sequence[Tensor], batch: TaskBatch) -> Tensor:
        params = dict(zip(self.params, learned, strict=False))
        rates = self._fixed_rates
        if self.learn_inner_lr:
            rates = self._rates(dict(zip(self.rate_tensors, learned[len(params) :], strict=True)))
        return query_losses(self.training.algorithm, self.model, params, rates, batch)

    def _rates(self, tensors: Tensors) -> list[Tensors]:
        return resolve(rebuild(self.inner_lr, tensors), self._stepping(), int(self.design.n_steps))

    def _adapt_rates(self, adapt_lr: Rate | None = None, n_steps: int | None = None) -> list[Tensors]:
        n_steps = int(self.design.adapt_steps) if n_steps is None else as_count(n_steps, "n_steps", 0)
        adapt_lr = self.adapt_lr if adapt_lr is None else adapt_lr
        adapt_lr = rebuild(self.inner_lr, self.rate_tensors) if adapt_lr is None else adapt_lr
        rates = resolve(adapt_lr, self._stepping(), n_steps, "adapt_lr")
        check_finite_rates(rates, "adapt_lr")
        return rates

    def _stepping(self) -> Tensors:
        return {name: self.params[name] for name in self.training.algorithm.adapted(self.params)}


def _rank_and_size() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _summed(gradients: Sequence[Tensor], weight: float) -> list[Tensor]:
    """Return the weighted sum over all processes, by a single all-reduce."""
    flat = weight * torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
