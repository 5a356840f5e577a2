"""Meta-training of one module, with inner rates of any sign."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _NormBase

from innerloop._base.checks import as_count
from innerloop._base.progress import progress as progress_bar
from innerloop._blocks.fingerprint import fingerprint
from innerloop.distributions import Design
from innerloop.neural.algorithms import Algorithm
from innerloop.neural.batch import TaskBatch, task_of
from innerloop.neural.checkpoint import CHECKPOINT, load_checkpoint
from innerloop.neural.compiled import compiled
from innerloop.neural.meta_gradient import (
    GradientFunction,
    by_size,
    gradients_of,
    in_order,
    in_parts,
    query_losses,
    query_predictions,
)
from innerloop.neural.module_call import ModuleCall, no_fast_attention
from innerloop.neural.rates import Rate, Tensors, check_finite_rates, check_rate, leaves, rebuild, resolve
from innerloop.neural.scores import Scores
from innerloop.neural.sources import TASKS_AT_ONCE, TEST, EpisodeSampler, Stage, Tasks, as_source
from innerloop.neural.task_model import Loss, TaskModel, learnable
from innerloop.neural.training import Training
from innerloop.neural.twice import undifferentiable


class Callback:
    """Base class of what `MetaTrainer.train` calls; its methods do nothing.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import Callback, MetaTrainer
    >>> class Count(Callback):
    ...     steps = 0
    ...
    ...     def on_step(self, trainer, losses):
    ...         self.steps += 1
    ...
    >>> count, design = Count(), il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> MetaTrainer(torch.nn.Linear(1, 1), il.Sinusoid(), design, 0.01, callbacks=[count]).train(3)
    >>> count.steps
    3
    """

    def on_step(self, trainer: MetaTrainer, losses: Tensor) -> None:
        """Run after each step; `losses` are the query losses of its tasks: (n_tasks,)."""

    def on_end(self, trainer: MetaTrainer) -> None:
        """Run when training ends."""


@final
class MetaTrainer:
    """Meta-training of the initial parameters of an inner loop and, if asked, of its rates.

    Iteration i takes the training tasks number i, whatever was done before, so that a resumed training goes on exactly.
    In a process group of `torch.distributed` each process takes its share of these tasks; all start from the first
    process's parameters, buffers and rates.

    Parameters
    ----------
    module
        Any `torch.nn.Module`; read once and not changed until `update_module`. Frozen parameters
        (``requires_grad=False``) stay as they are.
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

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import MetaTrainer
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> trainer = MetaTrainer(net, il.Sinusoid(), design, inner_lr=-0.01, adapt_lr=0.02)
    >>> trainer.train(3)
    >>> trainer.iteration, len(trainer.evaluate(10))
    (3, 10)
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
        if learn_inner_lr:
            _check_rates_can_be_learned(training.algorithm)
        self.module, self.design, self.training, self.callbacks = module, design, training, callbacks
        self.adapt_lr, self.learn_inner_lr = adapt_lr, learn_inner_lr
        self.params: Tensors = {
            name: parameter.detach().to(training.device, training.dtype, copy=True).requires_grad_()
            for name, parameter in learnable(module).items()
        }
        first = next(iter(self.params.values()))
        self.device, self.dtype = first.device, first.dtype
        self.model = TaskModel(module, training.loss, training.by_task)
        self._rank, self._n_processes = _rank_and_size()
        if design.n_tasks < self._n_processes:
            raise ValueError(
                f"`n_tasks` must be at least the number of processes ({self._n_processes}), got {design.n_tasks}."
            )
        self._set_inner_lr(inner_lr)
        self._adapt_rates()
        self.optimiser = training.optimiser(self.learned)
        if learn_inner_lr:
            _without_decay(self.optimiser, list(self.rate_tensors.values()))
        self.scheduler = None if training.scheduler is None else training.scheduler(self.optimiser)
        self.iteration = 0
        if self._n_processes > 1:
            _broadcast([*self.params.values(), *self.rate_tensors.values()])
            self.model.map_buffers(_from_first_process)
        self.model.inspect(self.params, self._batch())
        self._gradients = self._make_gradients()
        self._stopped = False

    @property
    def inner_lr(self) -> Rate:
        """The rate of training, in the form in which it was given; of a learned one the present values.

        `adapt` takes it too.
        """
        if not self.learn_inner_lr:
            return self._inner_lr
        return rebuild(self._inner_lr, {name: tensor.detach().clone() for name, tensor in self.rate_tensors.items()})

    @inner_lr.setter
    def inner_lr(self, inner_lr: Rate) -> None:
        if self.learn_inner_lr:
            raise ValueError(
                "`inner_lr` is learned in this training; make another `MetaTrainer`, or change `rate_tensors` in place."
            )
        check_rate(inner_lr, "inner_lr")
        self._set_inner_lr(inner_lr)
        self._gradients = self._make_gradients()

    def _set_inner_lr(self, inner_lr: Rate) -> None:
        tensors = {
            name: tensor.detach().to(self.device, self.dtype, copy=True).requires_grad_(self.learn_inner_lr)
            for name, tensor in leaves(inner_lr).items()
        }
        rates = self._resolved(inner_lr, tensors)
        check_finite_rates(rates)
        self._inner_lr, self.rate_tensors, self._fixed_rates = inner_lr, tensors, rates

    def _make_gradients(self) -> GradientFunction:
        gradients = compiled(gradients_of(self._losses)) if self.training.compile else gradients_of(self._losses)
        compile = self.training.compile
        return by_size(in_parts(gradients, lambda batch: self.model.tasks_at_once(batch, self.device, compile)))

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
        """Train up to iteration `n_iterations`, or until a callback calls `stop`.

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

        Raises
        ------
        FloatingPointError
            At the first loss that is not finite; parameters are those before that iteration.
        """
        self._stopped = False
        as_count(n_iterations, "n_iterations", 0)
        as_count(checkpoint_every, "checkpoint_every")
        with progress_bar("Meta-training", max(0, n_iterations - self.iteration), progress) as tick:
            while self.iteration < n_iterations and not self._stopped:
                losses = self.step()
                for callback in self.callbacks:
                    callback.on_step(self, losses)
                is_last = self._stopped or self.iteration == n_iterations
                if checkpoint is not None and (is_last or self.iteration % checkpoint_every == 0):
                    self.save(checkpoint)
                tick()
        for callback in self.callbacks:
            callback.on_end(self)

    def stop(self) -> None:
        """End `train` after this iteration; for callbacks."""
        self._stopped = True

    def step(self, batch: TaskBatch | None = None) -> Tensor:
        """Do one iteration and return the query losses of this process's tasks: (n_tasks,).

        Parameters
        ----------
        batch
            Tasks to use instead of the source's; moved to the trainer's device, numbers to its dtype.
        """
        batch = self._batch() if batch is None else batch.to(self.device, self.dtype)
        learned = self.learned
        share = batch[self._rank :: self._n_processes]
        try:
            losses, gradients = self._gradients(learned, share)
        except RuntimeError as error:
            if (sentence := undifferentiable(self.model, self.params, share, error)) is not None:
                raise NotImplementedError(sentence) from error
            raise
        mean = losses.mean()
        if self._n_processes > 1:
            *gradients, mean = _summed([*gradients, mean], len(share) / len(batch))
        if not mean.isfinite():
            raise FloatingPointError(
                f"the mean loss of iteration {self.iteration + 1} is {mean.item()}, and training stops; take a smaller "
                "`inner_lr` or outer learning rate, or `Training(max_norm=...)` to clip gradients."
            )
        for tensor, gradient in zip(learned, gradients, strict=True):
            tensor.grad = gradient
        if self.training.max_norm is not None:
            nn.utils.clip_grad_norm_(learned, self.training.max_norm)
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
        tasks_at_once: int | None = None,
    ) -> Scores:
        """Adapt to validation or test tasks, and score their query rows.

        The module is in evaluation mode, in adaptation too: dropout is off. Batch normalisation that was in training
        mode still uses the statistics of the rows at hand.

        Parameters
        ----------
        n_tasks
            How many. Of a table with fewer the same tasks come again, with other rows; the interval is then that of
            other rows of these tasks, and not of new tasks.
        adapt_lr
            Another rate than the trainer's.
        n_steps
            Inner steps, 0 for none; None: those of the design for new tasks. Where the trainer's rate has one number
            per step, further steps take the last.
        metric
            Score of one task, ``metric(prediction, y)``; None: the loss.
        stage
            `VALIDATION` or `TEST`.
        tasks_at_once
            Tasks in memory at a time, which changes no result; None: those of an iteration of training.

        Returns
        -------
        Scores
            One number a task, with mean and 95 % interval.
        """
        as_count(n_tasks, "n_tasks")
        most = self.design.n_tasks if tasks_at_once is None else as_count(tasks_at_once, "tasks_at_once")
        rates, scores = self._adapt_rates(adapt_lr, n_steps), []
        for drawn in self.sampler.batches(stage, n_tasks, TASKS_AT_ONCE):
            each = min(most, self.model.tasks_at_once(drawn, self.device))
            for first in range(0, len(drawn), each):
                batch = drawn[first : first + each].to(self.device, self.dtype)
                places, parts = zip(*batch.by_size(), strict=True)
                scores.append(in_order([self._scores(part, rates, metric) for part in parts], places))
        return Scores(torch.cat(scores))

    def _scores(self, batch: TaskBatch, rates: list[Tensors], metric: Loss | None) -> Tensor:
        with torch.no_grad(), self.model.testing():
            prediction = query_predictions(self.training.algorithm, self.model, self.params, rates, batch)
            return self.model.score(prediction, batch.y_query, metric)

    def update_module(self) -> nn.Module:
        """Copy the learned parameters into the module, and return it.

        Warns
        -----
        UserWarning
            If the module has batch normalisation whose running statistics training has not used: in evaluation mode
            it would normalise with those, by which accuracy is lost.
        """
        with torch.no_grad():
            for name, parameter in learnable(self.module).items():
                parameter.copy_(self.params[name])
        if self.model.has_running_statistics:
            warnings.warn(
                "the module was trained with the statistics of the rows at hand, and its running statistics are those "
                "of before: in evaluation mode it does not adapt as it was trained to. Leave its normalisation layers "
                "in training mode, or make them with track_running_stats=False, which .eval() does not change; "
                "`module_of` gives an adapted module for evaluation mode.",
                stacklevel=2,
            )
        return self.module

    def module_of(self, batch: TaskBatch, *, adapt_lr: Rate | None = None, n_steps: int | None = None) -> nn.Module:
        """Return a copy of the module that is adapted to one task, in evaluation mode.

        Batch normalisation that was in training mode gets the statistics of the support rows, so that the prediction of
        a row does not depend on which others are predicted with it; `evaluate` uses the statistics of the query rows.

        Parameters
        ----------
        batch
            One task; only its support rows are used.
        adapt_lr, n_steps
            As in `evaluate`.
        """
        if len(batch) != 1:
            raise ValueError(f"`batch` must hold one task, got {len(batch)}.")
        rates = self._adapt_rates(adapt_lr, n_steps)
        algorithm = self.training.algorithm
        steps = getattr(algorithm, "steps", None)
        if steps is None:
            raise ValueError(f"{type(algorithm).__name__} does not adapt the module's parameters.")
        start = {name: value.unsqueeze(0) for name, value in self.params.items()}
        ((_, task),) = batch.to(self.device, self.dtype).by_size()
        with torch.no_grad(), self.model.testing():
            adapted = steps(self.model, start, rates, task)
        module = deepcopy(self.module).to(self.device, self.dtype)
        with torch.no_grad():
            for name, parameter in learnable(module).items():
                parameter.copy_(adapted[name].squeeze(0))
        _take_statistics(module, task_of(task.X_support, 0))
        return module.eval()

    def save(self, folder: str | Path) -> None:
        """Save a checkpoint from which training resumes exactly; in a process group all processes call this."""
        state = self._state()
        if self._rank == 0:
            CHECKPOINT.write(Path(folder), state)

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
        if len(state["generators"]) == self._n_processes:
            _set_generators(state["generators"][self._rank], self.device)

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
            "generators": _of_all_processes(_generators(self.device)),
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
        return self.sampler.iteration(self.iteration).to(self.device, self.dtype)

    def _losses(self, learned: Sequence[Tensor], batch: TaskBatch) -> Tensor:
        params = dict(zip(self.params, learned, strict=False))
        rates = self._fixed_rates
        if self.learn_inner_lr:
            rates = self._rates(dict(zip(self.rate_tensors, learned[len(params) :], strict=True)))
        return query_losses(self.training.algorithm, self.model, params, rates, batch)

    def _rates(self, tensors: Tensors) -> list[Tensors]:
        return self._resolved(self._inner_lr, tensors)

    def _resolved(self, inner_lr: Rate, tensors: Tensors) -> list[Tensors]:
        return resolve(rebuild(inner_lr, tensors), self._stepping(), int(self.design.n_steps))

    def _adapt_rates(self, adapt_lr: Rate | None = None, n_steps: int | None = None) -> list[Tensors]:
        n_steps = int(self.design.adapt_steps) if n_steps is None else as_count(n_steps, "n_steps", 0)
        adapt_lr = self.adapt_lr if adapt_lr is None else adapt_lr
        if adapt_lr is None:
            rates = self._rates(self.rate_tensors)
            rates = [rates[min(step, len(rates) - 1)] for step in range(n_steps)] if rates else rates
        else:
            rates = resolve(adapt_lr, self._stepping(), n_steps, "adapt_lr")
        check_finite_rates(rates, "adapt_lr")
        return rates

    def _stepping(self) -> Tensors:
        return {name: self.params[name] for name in self.training.algorithm.adapted(self.params)}


def _take_statistics(module: nn.Module, X: Any) -> None:
    """Set the running statistics of normalisation layers in training mode to those of some rows."""
    layers = {part: part.momentum for part in module.modules() if isinstance(part, _NormBase) and part.training}
    if not layers:
        return
    module.eval()
    for part in layers:
        part.training, part.momentum = True, 1.0
    with torch.no_grad(), no_fast_attention():
        ModuleCall(module)({}, X)
    for part, momentum in layers.items():
        part.momentum = momentum


def _check_rates_can_be_learned(algorithm: Algorithm) -> None:
    if not getattr(algorithm, "differentiates_rates", True):
        raise ValueError(
            f"`learn_inner_lr` cannot be True with {type(algorithm).__name__}, whose meta-gradient does not depend on "
            "the rates, so that they would never move; take MAML, or fix the rates."
        )


def _without_decay(optimiser: torch.optim.Optimizer, rates: Sequence[Tensor]) -> None:
    """Put learned rates into a group without weight decay, which would shrink them towards zero."""
    of_rates = {id(rate) for rate in rates}
    for group in list(optimiser.param_groups):
        decayed = [tensor for tensor in group["params"] if id(tensor) in of_rates]
        if group.get("weight_decay") and decayed:
            group["params"] = [tensor for tensor in group["params"] if id(tensor) not in of_rates]
            optimiser.add_param_group({**group, "params": decayed, "weight_decay": 0.0})


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


def _broadcast(tensors: Sequence[Tensor]) -> None:
    """Give the first process's values to all."""
    with torch.no_grad():
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


def _from_first_process(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    _broadcast([copy])
    return copy


def _generators(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's generators of this process."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_generators(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


def _of_all_processes(value: Any) -> list[Any]:
    """Return the values of all processes, in the order of their ranks."""
    if (n_processes := _rank_and_size()[1]) == 1:
        return [value]
    values: list[Any] = [None] * n_processes
    distributed.all_gather_object(values, value)
    return values
