r"""Gradient steps of dense layers that never form a task's weights.

A layer ``z = x W' + b`` of a task with support rows h has the gradient ``W: D'h, b: D'1``, D the gradient of the loss
with respect to z; after steps of rates a_k its outputs for other rows x are ::

    z(x) = x W' + b - sum_k (a_k x h_k' + a_k) D_k

W and b being those of the start, the same for all tasks. So all tasks share one multiplication by W, and what is a
task's own is as thin as its support rows: for n of them n (n_in + n_out) numbers a step instead of n_in n_out. This
holds for a module that consists of dense layers and functions of single numbers, and for rates that are one number for
each layer's weights and one for its biases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_OF_SINGLE_NUMBERS = {
    *(functional.relu, functional.gelu, functional.silu, functional.softplus, functional.elu, functional.leaky_relu),
    *(torch.relu, torch.tanh, torch.sigmoid, torch.sin, torch.cos),
    *(torch.Tensor.relu, torch.Tensor.tanh, torch.Tensor.sigmoid, torch.Tensor.sin, torch.Tensor.cos),
}


class _Step(NamedTuple):
    """What one step leaves of one layer: inputs h, slopes D, and the rates of weights and biases with a minus."""

    inputs: Tensor
    slopes: Tensor
    minus_weight_rate: Tensor | None
    minus_bias_rate: Tensor | None


class _NotDenseError(Exception):
    """The module does something else than dense layers and functions of single numbers."""


@final
class _Layers(TorchFunctionMode):
    """Replaces each dense layer by the formula above, with lanes of starts, and notes inputs and outputs.

    Inputs are (n_lanes * n_tasks, n_rows, n_in), weights (n_lanes, n_out, n_in).
    """

    def __init__(self, steps: Mapping[int, Sequence[_Step]]) -> None:
        self.steps = steps
        self.calls: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear:
            return self._linear(*args, **kwargs)
        if func not in _OF_SINGLE_NUMBERS:
            raise _NotDenseError(func)
        return func(*args, **(kwargs | {"inplace": False} if "inplace" in kwargs else kwargs))

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if id(weight) in self.calls or x.ndim != 3 or weight.ndim != 3:
            raise _NotDenseError("a layer is called twice, or its weights are no parameter")
        rows = x.reshape(len(weight), -1, x.shape[-1])
        shared = rows @ weight.mT if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
        z = shared.view(*x.shape[:2], -1)
        for step in self.steps.get(id(weight), ()):
            z = torch.baddbmm(z, _coefficients(x, step), step.slopes)
        if torch.is_grad_enabled() and not z.requires_grad:
            z = z.detach().requires_grad_()
        self.calls[id(weight)] = x, z
        return z


def _coefficients(x: Tensor, step: _Step) -> Tensor:
    """Return - a x h' - a: (n_tasks, n_rows, n_support)."""
    if step.minus_weight_rate is None:
        assert step.minus_bias_rate is not None
        return step.minus_bias_rate.expand(len(x), x.shape[1], step.inputs.shape[1])
    gram = x @ step.inputs.mT
    if step.minus_bias_rate is None:
        return gram * step.minus_weight_rate
    return torch.addcmul(step.minus_bias_rate, gram, step.minus_weight_rate)


def is_dense(module: nn.Module, params: Mapping[str, Tensor], X: Tensor) -> bool:
    """Return whether `predict_after_steps` can stand in for the module; X is (n_rows, n_features)."""
    if X.ndim != 2 or any(True for _ in module.buffers()) or not all(_is_layer(name, params) for name in params):
        return False
    lanes, X = {name: value.detach().unsqueeze(0) for name, value in params.items()}, X.unsqueeze(0)
    mode = _Layers({})
    try:
        with torch.no_grad(), mode:
            functional_call(module, lanes, (X,))
    except _NotDenseError:
        return False
    return len(mode.calls) == sum(value.ndim == 2 for value in params.values())


def _is_layer(name: str, params: Mapping[str, Tensor]) -> bool:
    parent, _, kind = name.rpartition(".")
    weight = f"{parent}.weight".lstrip(".")
    return weight in params and params[name].ndim == {"weight": 2, "bias": 1}.get(kind)


def predict_after_steps(
    module: nn.Module,
    params: Mapping[str, Tensor],
    adapted: Sequence[str],
    rates: Sequence[Mapping[str, Tensor]],
    data: tuple[Tensor, Tensor, Tensor],
    losses: Callable[[Tensor, Tensor], Tensor],
    first_order: bool = False,
) -> Tensor:
    """Take the steps of `inner_loop` from each lane's start, and predict the query rows.

    Parameters
    ----------
    module
        One that `is_dense`.
    params
        Starts: (n_lanes, ...).
    adapted
        Names of the parameters that take steps.
    rates
        For each step, the rate of each adapted parameter: () or (n_lanes * n_tasks,).
    data
        ``X_support, y_support, X_query``: (n_lanes * n_tasks, n_rows, ...), lane after lane.
    losses
        Each task's loss from its predictions.
    first_order
        Take the gradients as constants when differentiating.
    """
    X, y, X_query = data
    differentiable = torch.is_grad_enabled() and not first_order
    weights = {name: params[name] for name in params if params[name].ndim == 3}
    steps: dict[int, list[_Step]] = {id(weight): [] for weight in weights.values()}
    for rate in rates:
        with torch.enable_grad():
            own = params if differentiable else {name: value.detach() for name, value in params.items()}
            layers = _Layers({id(own[name]): steps[id(weight)] for name, weight in weights.items()})
            with layers:
                prediction = functional_call(module, dict(own), (X,))
            calls = {name: layers.calls[id(own[name])] for name in weights}
            outputs = [z for _, z in calls.values()]
            slopes = torch.autograd.grad(losses(prediction, y).sum(), outputs, create_graph=differentiable)
        minus = {name: -rate[name].view(-1, 1, 1) if rate[name].ndim else -rate[name] for name in adapted}
        for (name, weight), (x, _), slope in zip(weights.items(), calls.values(), slopes, strict=True):
            bias = f"{name.removesuffix('weight')}bias"
            if name in minus or bias in minus:
                inputs = x if differentiable else x.detach()
                steps[id(weight)].append(_Step(inputs, slope, minus.get(name), minus.get(bias)))
    with _Layers(steps):
        outputs_query: Tensor = functional_call(module, dict(params), (X_query,))
    return outputs_query
