r"""Gradient steps of dense layers as updates of one matrix product that all tasks share.

A layer ``z = x W' + b`` of a task with support rows h has the gradients ``D'h`` and ``D'1``, D those of the loss with
respect to z; after steps of rates a_k its outputs for other rows x are ::

    z(x) = x W' + b - sum_k a_k (x h_k' + 1) D_k        (thin: as many numbers as support rows)
         = x W' + b - x (sum_k a_k D_k'h_k)' - sum_k a_k D_k'1    (formed: as many as weights)

with W and b those of the start, the same for all tasks. The thin form costs n_rows (n_in + n_out) for each support row
and step, and forms no weights; it is used where these rows are fewer than inputs and outputs. Both hold for modules of
dense layers and elementwise functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from innerloop.neural.module_call import ModuleCall

_ELEMENTWISE = {
    *(functional.relu, functional.gelu, functional.silu, functional.softplus, functional.elu, functional.leaky_relu),
    *(torch.relu, torch.tanh, torch.sigmoid, torch.sin, torch.cos),
    *(getattr(torch.Tensor, name).__get__ for name in ("requires_grad", "dtype", "device")),
    *(torch.Tensor.relu, torch.Tensor.tanh, torch.Tensor.sigmoid, torch.Tensor.sin, torch.Tensor.cos),
}


@final
class _Thin(NamedTuple):
    """Update of a layer's outputs by one step: its inputs h, its gradients D and its rates, one number a task."""

    inputs: Tensor
    slopes: Tensor
    minus_weight_rate: Tensor
    minus_bias_rate: Tensor

    def added_to(self, z: Tensor, x: Tensor) -> Tensor:
        gram = _Gram.apply(x, self.inputs)  # type: ignore[no-untyped-call]
        return torch.baddbmm(z, torch.addcmul(self.minus_bias_rate, gram, self.minus_weight_rate), self.slopes)


@final
class _Formed(NamedTuple):
    """Update of a layer's weights (n_tasks, n_out, n_in) and biases (n_tasks, n_out) by all steps so far."""

    weight: Tensor
    bias: Tensor | None

    def added_to(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.baddbmm(z if self.bias is None else z + self.bias.unsqueeze(1), x, self.weight.mT)

    def after(self, before: _Formed) -> _Formed:
        """Return the sum of this update and an earlier one."""
        biases = [bias for bias in (before.bias, self.bias) if bias is not None]
        return _Formed(before.weight + self.weight, sum(biases[1:], biases[0]) if biases else None)


class _Gram(torch.autograd.Function):
    """``x h'``, with gradients computed in the layout of x and h: twice as fast as transposing afterwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor) -> Tensor:
        ctx.save_for_backward(x, h)
        return x @ h.mT

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        (x, h), (slope,) = ctx.saved_tensors, slopes
        return slope @ h if ctx.needs_input_grad[0] else None, slope.mT @ x if ctx.needs_input_grad[1] else None


class NotDenseError(Exception):
    """The module has other operations than dense layers and elementwise functions."""


@final
class _Layers(TorchFunctionMode):
    """Replaces each dense layer by the formula above, with lanes of starts, and notes inputs and outputs.

    Inputs are (n_lanes * n_tasks, n_rows, n_in), weights (n_lanes, n_out, n_in).
    """

    def __init__(self, steps: Mapping[int, Sequence[_Thin | _Formed]]) -> None:
        self.steps = steps
        self.calls: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear:
            return self._linear(*args, **kwargs)
        if func not in _ELEMENTWISE:
            raise NotDenseError(func)
        return func(*args, **(kwargs | {"inplace": False} if "inplace" in kwargs else kwargs))

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if id(weight) in self.calls or x.ndim != 3 or weight.ndim != 3:
            raise NotDenseError("a layer is called twice, or its weights are no parameter")
        rows = x.reshape(len(weight), -1, x.shape[-1])
        shared = rows @ weight.mT if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
        z = shared.view(*x.shape[:2], -1)
        for step in self.steps.get(id(weight), ()):
            z = step.added_to(z, x)
        if torch.is_grad_enabled() and not z.requires_grad:
            z = z.detach().requires_grad_()
        self.calls[id(weight)] = x, z
        return z


def is_dense(module: ModuleCall, params: Mapping[str, Tensor], X: Any) -> bool:
    """Return whether `predict_after_steps` handles the module; X is (n_rows, n_features)."""
    if not isinstance(X, Tensor) or X.ndim != 2 or any(True for _ in module.module.buffers()):
        return False
    if not all(_is_layer(name, params) for name in params):
        return False
    lanes, X = {name: value.detach().unsqueeze(0) for name, value in params.items()}, X.unsqueeze(0)
    mode = _Layers({})
    try:
        with torch.no_grad(), mode:
            module(lanes, X)
    except NotDenseError:
        return False
    return len(mode.calls) == sum(value.ndim == 2 for value in params.values())


def _is_layer(name: str, params: Mapping[str, Tensor]) -> bool:
    parent, _, kind = name.rpartition(".")
    weight = f"{parent}.weight".lstrip(".")
    return weight in params and params[name].ndim == {"weight": 2, "bias": 1}.get(kind)


def predict_after_steps(
    module: ModuleCall,
    params: Mapping[str, Tensor],
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
    rates
        For each step, the rate of each adapted parameter; broadcasts against (n_lanes * n_tasks, ...).
    data
        ``X_support, y_support, X_query``: (n_lanes * n_tasks, n_rows, ...), lane after lane.
    losses
        Each task's loss from its predictions.
    first_order
        Treat the inner gradients as constants when differentiating.
    """
    X, y, X_query = data
    differentiable = torch.is_grad_enabled() and not first_order
    weights = {name: params[name] for name in params if params[name].ndim == 3}
    steps: dict[int, list[_Thin | _Formed]] = {id(weight): [] for weight in weights.values()}
    for rate in rates:
        with torch.enable_grad():
            start = params if differentiable else {name: value.detach() for name, value in params.items()}
            layers = _Layers({id(start[name]): steps[id(weight)] for name, weight in weights.items()})
            with layers:
                prediction = module(start, X)
            calls = {name: layers.calls[id(start[name])] for name in weights}
            outputs = [z for _, z in calls.values()]
            slopes = torch.autograd.grad(losses(prediction, y).sum(), outputs, create_graph=differentiable)
        for (name, weight), (x, _), slope in zip(weights.items(), calls.values(), slopes, strict=True):
            inputs = x if differentiable else x.detach()
            of_bias = rate.get(f"{name.removesuffix('weight')}bias")
            step = _step(inputs, slope, rate.get(name), of_bias, len(rates) * x.shape[1])
            of_layer = steps[id(weight)]
            before = of_layer[-1] if of_layer else None
            if isinstance(step, _Formed) and isinstance(before, _Formed):
                of_layer[-1] = step.after(before)  # one product of all steps, not one of each
            elif step is not None:
                of_layer.append(step)
    with _Layers(steps):
        outputs_query: Tensor = module(params, X_query)
    return outputs_query


def _step(
    x: Tensor, slope: Tensor, weight_rate: Tensor | None, bias_rate: Tensor | None, n_rows: int
) -> _Thin | _Formed | None:
    """Return the update of a step; `n_rows` counts the support rows of all steps."""
    if weight_rate is None and bias_rate is None:
        return None
    if weight_rate is not None and bias_rate is not None:
        per_task = weight_rate.ndim in (0, 3) and bias_rate.ndim in (0, 2)
        if per_task and n_rows <= min(x.shape[2], slope.shape[2]):
            return _Thin(x, slope, -weight_rate, -(bias_rate.unsqueeze(-1) if bias_rate.ndim else bias_rate))
    weight = torch.zeros_like(slope.mT @ x) if weight_rate is None else -weight_rate * (slope.mT @ x)
    return _Formed(weight, None if bias_rate is None else -bias_rate * slope.sum(dim=1))
