"""A module as a function of parameters that differ from task to task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from innerloop._blocks.fingerprint import fingerprint
from innerloop.neural.batch import TaskBatch, device_of, first_tensor, task_of, tree_map
from innerloop.neural.dense import is_dense
from innerloop.neural.module_call import (
    ConvolutionSizes,
    ExactDerivatives,
    ModuleCall,
    no_fast_attention,
    recurrent_kernels,
    vectorised_attention,
)

Loss = Callable[[Any, Any], Tensor]
Tensors = dict[str, Tensor]

# Outputs of a layer that vectorised convolutions on the CPU have at once. A task saves the overhead of its calls, the
# same for any size, by being computed with others, until their numbers no longer stay in the processor's cache: 4 MiB
# is what a core has of it. Four convolutions of 4 to 128 channels on 5 to 25 images of 28 x 28 take 0.4 to 1.0 times
# as long as task by task.
_BYTES_AT_ONCE = 4 * 2**20


def half_mse(prediction: Tensor, y: Tensor) -> Tensor:
    """Return half the mean squared error over rows and targets, the loss of `MetaObjective`.

    As an inner loss it is that of `MetaObjective` for one target. For k targets the mean makes gradients k times as
    small: a rate of k times the size takes the same steps.

    Examples
    --------
    >>> import torch
    >>> from innerloop.neural import half_mse
    >>> half_mse(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0]))
    tensor(2.5000)
    """
    if prediction.shape != y.shape:
        raise ValueError(
            f"the module's output must have the shape of the task's targets, got {tuple(prediction.shape)} and "
            f"{tuple(y.shape)}; reshape one, or give another `loss`."
        )
    return (prediction - y).square().mean() / 2


def accuracy(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the share of rows whose largest output is their class.

    Examples
    --------
    >>> import torch
    >>> from innerloop.neural import accuracy
    >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    tensor(0.5000)
    """
    return (prediction.argmax(dim=-1) == y).to(prediction.dtype).mean()


def learnable(module: nn.Module) -> Tensors:
    """Return the parameters that learn, by name: all but those with ``requires_grad=False``.

    Raises
    ------
    ValueError
        If there is none.
    """
    parameters: Tensors = {name: value for name, value in module.named_parameters() if value.requires_grad}
    if not parameters:
        raise ValueError("`module` must have parameters that learn (requires_grad=True), got none.")
    return parameters


@final
class TaskModel:
    """Predictions and losses of many tasks with different parameters.

    Parameters are dicts of tensors. One with an axis more than the module's holds one value per task; one without
    is shared by all tasks. Those left out, frozen ones above all, are the module's.

    Parameters
    ----------
    module
        Any module; it is never changed. Its input is a task's part of `TaskBatch.X_support` or `X_query`: a tensor, or
        a tree of tensors, of which a tuple holds positional and a dict keyword arguments.
    loss
        Loss of one task, ``loss(prediction, y)``, a number.
    by_task
        Loop over the tasks rather than vectorise. None: loop where torch cannot vectorise the module or the loss.
        Convolutions on the CPU are vectorised over as many tasks as have together 4 MiB of outputs of a layer: for
        small ones calls cost more than arithmetic, for large ones a grouped convolution more than as many plain ones.
    """

    def __init__(self, module: nn.Module, loss: Loss = half_mse, by_task: bool | None = None) -> None:
        self.module, self.loss, self.by_task = module, loss, by_task
        self.call = ModuleCall(module)
        self._ndim = {name: parameter.ndim for name, parameter in module.named_parameters()}
        self._has_convolutions = any(isinstance(part, _ConvNd) for part in module.modules())
        self._bytes_of_row: int | None = None  # of the largest output of a convolution, known once a task was seen
        self._dtype = next((parameter.dtype for parameter in module.parameters()), None)
        self._statistics = _running_statistics(module)
        frozen = {name: value.detach() for name, value in module.named_parameters() if not value.requires_grad}
        buffers = {name: value for name, value in module.named_buffers() if name not in self._statistics}
        self._others = {**frozen, **buffers}
        self._cannot_vectorise = False
        self.is_dense = False  # until `inspect` has seen the module at work

    @property
    def has_running_statistics(self) -> bool:
        """Whether normalisation layers write running statistics."""
        return bool(self._statistics)

    def map_buffers(self, function: Callable[[Tensor], Tensor]) -> None:
        """Replace buffers and frozen parameters, for this model only, by a function's values."""
        self._statistics = {name: function(value) for name, value in self._statistics.items()}
        self._others = {name: function(value) for name, value in self._others.items()}

    def is_in_parts(self, device: torch.device) -> bool:
        """Return whether tasks on this device are computed in parts rather than all together."""
        if self.by_task is not None:
            return self.by_task
        return self._cannot_vectorise or (self._has_convolutions and device.type == "cpu")

    def tasks_at_once(self, batch: TaskBatch, device: torch.device, compiled: bool = False) -> int:
        """Return how many of these tasks are computed together on a device; 1: task by task, without `vmap`.

        Compiled code has no overhead of calls to save, and takes parts task by task.
        """
        if compiled and self.is_in_parts(device):
            return 1
        return min(self._tasks_at_once(X, device) for X in (batch.X_support, batch.X_query))

    def _tasks_at_once(self, X: Any, device: torch.device) -> int:
        """Return the number of tasks of one call, by sizes alone, so that a resumed training has the same bits."""
        n_tasks, n_rows = first_tensor(X).shape[:2]
        if not self.is_in_parts(device):
            return n_tasks
        if self.by_task or self._cannot_vectorise or self._bytes_of_row is None:
            return 1
        return max(1, min(n_tasks, _BYTES_AT_ONCE // max(1, n_rows * self._bytes_of_row)))

    def inspect(self, params: Mapping[str, Tensor], batch: TaskBatch) -> None:
        """Look at the module at work: what it changes, whether it is dense, its sizes, whether torch can vectorise it.

        Parameters
        ----------
        params
            Without a task axis.
        batch
            Tasks, of which the first two are used.

        Raises
        ------
        ValueError
            If the module changes parameters in place, or buffers other than running statistics.
        """
        self.refuse_changes(params, batch)
        self.is_dense = self.by_task is None and is_dense(self.call, params, task_of(batch.X_support, 0))
        if not (self.is_dense or self.by_task):
            two = batch[:2]  # one of them would not be vectorised if tasks are computed in parts
            with torch.no_grad(), _forked_generators(device_of(batch.X_support)), suppress(Exception):
                self.losses(params, two.X_support, two.y_support)  # notes whether it can be vectorised

    def refuse_changes(self, params: Mapping[str, Tensor], batch: TaskBatch) -> None:
        """Refuse a module that changes parameters in place, or buffers other than running statistics.

        On the way note the sizes of its convolutions.
        """
        everything = {**dict(self.module.named_buffers()), **self._others, **params}
        copies = {name: self._like(params, value).detach().clone() for name, value in everything.items()}
        before = {name: copy._version for name, copy in copies.items()}
        X = task_of(batch.X_support, 0)
        with torch.no_grad(), _forked_generators(device_of(X)), suppress(RuntimeError), ConvolutionSizes() as sizes:
            self._call(copies, X)
        self._bytes_of_row = sizes.largest // max(1, len(first_tensor(X)))
        changed = [n for n, copy in copies.items() if n not in self._statistics and copy._version != before[n]]
        if changed:
            kind = "parameter" if changed[0] in params else "buffer"
            raise ValueError(
                f"`module` changes its {kind} {changed[0]!r} in place on every call, so that the result would depend "
                "on the order of tasks; call .eval() on that part, or replace it by one without state."
            )

    @contextmanager
    def testing(self) -> Iterator[None]:
        """Put the module in evaluation mode for a while, but for normalisation layers, which keep theirs.

        So dropout is off, and batch normalisation in training mode uses the statistics of the rows at hand.
        """
        modes = {part: part.training for part in self.module.modules()}
        try:
            for part in modes:
                part.training = part.training and isinstance(part, _NormBase)
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode

    def predict(self, params: Mapping[str, Tensor], X: Any) -> Any:
        """Return each task's outputs: (n_tasks, n_rows, ...)."""
        return self._over_tasks(self._call, params, X)

    def losses(self, params: Mapping[str, Tensor], X: Any, y: Any) -> Tensor:
        """Return each task's loss: (n_tasks,)."""
        values = self._over_tasks(lambda params, X, y: self.loss(self._call(params, X), y), params, X, y)
        return _numbers(values, "loss")

    def score(self, prediction: Any, y: Any, metric: Loss | None = None) -> Tensor:
        """Return each task's loss, or another metric, from its predictions: (n_tasks,)."""
        name, metric = ("loss", self.loss) if metric is None else ("metric", metric)
        if metric is half_mse and prediction.shape == y.shape:
            errors: Tensor = (prediction - y).square().flatten(1).mean(dim=1) / 2
            return errors
        try:
            values = vmap(metric)(prediction, y)
        except Exception:  # what is wrong with the metric itself, the loop says
            scores = [metric(task_of(prediction, i), task_of(y, i)) for i in range(len(first_tensor(y)))]
            values = torch.stack([torch.as_tensor(score, device=device_of(y)) for score in scores])
        return _numbers(values, name)

    def _call(self, params: Mapping[str, Tensor], X: Any) -> Any:
        with ExactDerivatives():
            return self.call(params, X)

    def _over_tasks(self, function: Callable[..., Any], params: Mapping[str, Tensor], *data: Any) -> Any:
        n_tasks, device = len(first_tensor(data)), device_of(data)
        at_once = self._tasks_at_once(data[0], device)
        everything = {**self._copies(params, n_tasks), **params}
        per_task = {name for name, value in everything.items() if value.ndim > self._ndim.get(name, value.ndim)}
        per_task |= self._statistics.keys()
        with no_fast_attention(), recurrent_kernels(self.module):
            if vectorised := at_once > 1 or not self.is_in_parts(device):
                axes = ({name: 0 if name in per_task else None for name in everything}, *(0 for _ in data))
                chunk_size = at_once if at_once < n_tasks else None
                try:
                    with vectorised_attention(device):
                        return vmap(function, axes, randomness="different", chunk_size=chunk_size)(everything, *data)
                except (RuntimeError, TypeError) as error:
                    self._check_can_loop(error)
            columns = {
                name: value.unbind() if name in per_task else (value,) * n_tasks for name, value in everything.items()
            }
            tasks = [{name: column[i] for name, column in columns.items()} for i in range(n_tasks)]
            outputs = [function(task, *(task_of(part, i) for part in data)) for i, task in enumerate(tasks)]
            self._cannot_vectorise |= vectorised
            return tree_map(lambda *parts: torch.stack(parts), *outputs)

    def _check_can_loop(self, error: Exception) -> None:
        """Raise what a loop over tasks would not help with."""
        if isinstance(error, torch.OutOfMemoryError):
            raise error
        if self.by_task is False:
            if "Batching rule" not in str(error) and "vmap" not in str(error):
                raise error
            raise ValueError(
                f"torch cannot call `module` for many tasks at once ({str(error).splitlines()[0].rstrip('.')}); leave "
                "`by_task` out to compute them one at a time."
            ) from error

    def _copies(self, params: Mapping[str, Tensor], n_tasks: int) -> Tensors:
        """Return other tensors for one call: a copy of running statistics for each task to write to, the rest shared.

        A parameter that is given is not among them.
        """
        copies = {
            n: self._like(params, value).repeat(n_tasks, *[1] * value.ndim) for n, value in self._statistics.items()
        }
        others = {name: self._like(params, value) for name, value in self._others.items() if name not in params}
        return {**copies, **others}

    def _like(self, params: Mapping[str, Tensor], buffer: Tensor) -> Tensor:
        """Return a buffer on the device of the parameters, and in their dtype if it had the module's."""
        first = next(iter(params.values()), buffer)
        return buffer.to(first.device, first.dtype if buffer.dtype == self._dtype else buffer.dtype)


@contextmanager
def _forked_generators(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=_accelerator(device)):
        yield


def _accelerator(device: torch.device) -> str:
    return "cuda" if device.type == "cpu" else device.type


def _numbers(values: Any, name: str) -> Tensor:
    assert isinstance(values, Tensor)
    if values.ndim != 1:
        raise ValueError(
            f"`{name}` must return one number for a task, got shape {tuple(values.shape[1:])}; take the mean over rows."
        )
    return values


def _running_statistics(module: nn.Module) -> Tensors:
    """Return the buffers that normalisation layers write to in training without reading them."""
    return {
        f"{prefix}.{name}".lstrip("."): value
        for prefix, part in module.named_modules()
        if isinstance(part, _NormBase) and part.training
        for name, value in part.named_buffers(recurse=False)
    }


def module_identity(module: nn.Module, X: Any) -> dict[str, Any]:
    """Return what identifies a module: its layers, their code, weights, and outputs for some inputs of one task."""
    dtype = next(module.parameters()).dtype
    X = tree_map(lambda part: part.to(dtype) if part.is_floating_point() else part, X)
    copies = {name: tensor.detach().clone() for name, tensor in module.state_dict(keep_vars=True).items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = first_tensor(ModuleCall(module)(copies, X))
    return {
        "layers": str(module),
        "code": fingerprint(list(dict.fromkeys(type(part) for part in module.modules())), "module"),
        "weights": {
            n: [list(p.shape), f"{p.detach().double().norm().item():.6g}"] for n, p in module.named_parameters()
        },
        "outputs": [f"{value:.4g}" for value in outputs.double().flatten()[:8].tolist()],
    }
