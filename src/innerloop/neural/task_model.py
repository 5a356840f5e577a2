"""A module as a function of parameters that differ from task to task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from innerloop._blocks.fingerprint import fingerprint
from innerloop.neural.dense import is_dense

Loss = Callable[[Tensor, Tensor], Tensor]
Tensors = dict[str, Tensor]


def half_mse(prediction: Tensor, y: Tensor) -> Tensor:
    """Return half the mean squared error over rows and targets, the loss of `MetaObjective`.

    As an inner loss it is that of `MetaObjective` for one target. For k targets the mean makes gradients k times as
    small: a rate of k times the size takes the same steps.
    """
    if prediction.shape != y.shape:
        raise ValueError(
            f"the module's output must have the shape of the task's targets, got {tuple(prediction.shape)} and "
            f"{tuple(y.shape)}; reshape one, or give another `loss`."
        )
    return (prediction - y).square().mean() / 2


def accuracy(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the share of rows whose largest output is their class."""
    return (prediction.argmax(dim=-1) == y).to(prediction.dtype).mean()


def check_learnable(module: nn.Module) -> None:
    """Refuse a module without parameters, or with frozen ones, which meta-training would move."""
    parameters = dict(module.named_parameters())
    if not parameters:
        raise ValueError("`module` must have parameters to learn, got none.")
    frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    if frozen:
        raise ValueError(
            f"`module` has frozen parameters ({frozen[0]!r} has requires_grad=False), which meta-training would move; "
            "train the part that learns on the outputs of the frozen one, or let all parameters learn."
        )


@final
class TaskModel:
    """Predictions and losses of many tasks with different parameters.

    Parameters are dicts of tensors. One with an axis more than the module's holds one value per task; one without
    is shared by all tasks.

    Parameters
    ----------
    module
        Any module; it is called through `torch.func.functional_call` and never changed.
    loss
        Loss of one task, ``loss(prediction, y)``, a number.
    by_task
        Loop over the tasks rather than vectorise. None: loop where the module has convolutions and is on the CPU, on
        which a grouped convolution is slower than as many plain ones.
    """

    def __init__(self, module: nn.Module, loss: Loss = half_mse, by_task: bool | None = None) -> None:
        self.module, self.loss, self.by_task = module, loss, by_task
        self._ndim = {name: parameter.ndim for name, parameter in module.named_parameters()}
        self._has_convolutions = any(isinstance(part, _ConvNd) for part in module.modules())
        self._dtype = next((parameter.dtype for parameter in module.parameters()), None)
        self._statistics = _running_statistics(module)
        self._others = {name: value for name, value in module.named_buffers() if name not in self._statistics}
        self._has_ties = len(list(module.parameters())) < len(list(module.named_parameters(remove_duplicate=False)))
        self.is_dense = False  # until `inspect` has seen the module at work

    def is_by_task(self, device: torch.device) -> bool:
        """Return whether tasks on this device are computed one by one."""
        return (self._has_convolutions and device.type == "cpu") if self.by_task is None else self.by_task

    def inspect(self, params: Mapping[str, Tensor], X: Tensor) -> None:
        """Refuse a module that changes buffers in place, other than running statistics; recognise dense modules.

        Parameters
        ----------
        params
            Without a task axis.
        X : (n_rows, ...)
            Inputs of one task.
        """
        self.is_dense = self.by_task is None and is_dense(self.module, params, X)
        if not self._others:
            return
        copies = {name: self._like(params, value).detach().clone() for name, value in self.module.named_buffers()}
        before = {name: copy._version for name, copy in copies.items()}
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            functional_call(self.module, {**params, **copies}, (X,))
        changed = [name for name in self._others if copies[name]._version != before[name]]
        if changed:
            raise ValueError(
                f"`module` changes its buffer {changed[0]!r} in place on every call, so that the result would depend "
                "on the order of tasks; call .eval() on that part, or replace it by one without state."
            )

    @contextmanager
    def testing(self) -> Iterator[None]:
        """Put the module in evaluation mode for a while, but for normalisation layers, which keep theirs.

        So dropout is off, and batch normalisation in training mode uses the statistics of the rows at hand. The fast
        path of attention in evaluation mode can neither be differentiated nor vectorised; it is switched off.
        """
        modes = {part: part.training for part in self.module.modules()}
        had_fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            for part in modes:
                part.training = part.training and isinstance(part, _NormBase)
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode
            torch.backends.mha.set_fastpath_enabled(had_fast_path)

    def predict(self, params: Mapping[str, Tensor], X: Tensor) -> Tensor:
        """Return each task's outputs: (n_tasks, n_rows, ...)."""
        return self._over_tasks(self._call, params, X)

    def losses(self, params: Mapping[str, Tensor], X: Tensor, y: Tensor) -> Tensor:
        """Return each task's loss: (n_tasks,)."""
        values = self._over_tasks(lambda params, X, y: self.loss(self._call(params, X), y), params, X, y)
        return _numbers(values, "loss")

    def score(self, prediction: Tensor, y: Tensor, metric: Loss | None = None) -> Tensor:
        """Return each task's loss, or another metric, from its predictions: (n_tasks,)."""
        name, metric = ("loss", self.loss) if metric is None else ("metric", metric)
        if metric is half_mse and prediction.shape == y.shape:
            return (prediction - y).square().flatten(1).mean(dim=1) / 2
        return _numbers(vmap(metric)(prediction, y), name)

    def _call(self, params: Tensors, X: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self.module, params, (X,), tie_weights=self._has_ties)
        return outputs

    def _over_tasks(self, function: Callable[..., Tensor], params: Mapping[str, Tensor], *data: Tensor) -> Tensor:
        everything, n_tasks = {**params, **self._copies(params, len(data[0]))}, len(data[0])
        per_task = {name for name, value in everything.items() if value.ndim > self._ndim.get(name, value.ndim)}
        per_task |= self._statistics.keys()
        if self.is_by_task(data[0].device):
            columns = {
                name: value.unbind() if name in per_task else (value,) * n_tasks for name, value in everything.items()
            }
            tasks = ({name: column[i] for name, column in columns.items()} for i in range(n_tasks))
            return torch.stack([function(task, *(part[i] for part in data)) for i, task in enumerate(tasks)])
        axes = {name: 0 if name in per_task else None for name in everything}
        try:
            return vmap(function, (axes, *(0 for _ in data)), randomness="different")(everything, *data)
        except RuntimeError as error:
            if "Batching rule" not in str(error) and "vmap" not in str(error):
                raise
            raise ValueError(
                f"torch cannot call `module` for many tasks at once ({str(error).splitlines()[0].rstrip('.')}); pass "
                "by_task=True to compute them one at a time."
            ) from error

    def _copies(self, params: Mapping[str, Tensor], n_tasks: int) -> Tensors:
        """Return buffers for one call: a copy of running statistics for each task to write to, all others shared."""
        copies = {
            n: self._like(params, value).repeat(n_tasks, *[1] * value.ndim) for n, value in self._statistics.items()
        }
        return {**copies, **{name: self._like(params, value) for name, value in self._others.items()}}

    def _like(self, params: Mapping[str, Tensor], buffer: Tensor) -> Tensor:
        """Return a buffer on the device of the parameters, and in their dtype if it had the module's."""
        first = next(iter(params.values()), buffer)
        return buffer.to(first.device, first.dtype if buffer.dtype == self._dtype else buffer.dtype)


def _numbers(values: Tensor, name: str) -> Tensor:
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


def module_identity(module: nn.Module, X: Tensor) -> dict[str, Any]:
    """Return what identifies a module: its layers, their code, weights, and outputs for some inputs."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = torch.func.functional_call(module, _copies(module), (X.to(next(module.parameters())),))
    return {
        "layers": str(module),
        "code": fingerprint(list(dict.fromkeys(type(part) for part in module.modules())), "module"),
        "weights": {
            n: [list(p.shape), f"{p.detach().double().norm().item():.6g}"] for n, p in module.named_parameters()
        },
        "outputs": [f"{value:.4g}" for value in outputs.double().flatten()[:8].tolist()],
    }


def _copies(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of all tensors, so that a call does not change running statistics."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict(keep_vars=True).items()}
