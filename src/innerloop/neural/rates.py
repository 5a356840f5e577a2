"""Inner learning rates of any sign: shared, or per layer, parameter, element or step.

A rate is

- a number or a tensor of shape (): for all parameters and steps;
- a tensor of shape (n_steps,): one per step;
- a mapping from names to tensors of shape () or of the parameter's shape. A name is a parameter's
  (``"0.weight"``) or a module's (``"0"``: all parameters below it; ``""``: all). The longest name wins;
- a list or tuple with one number, tensor of shape () or mapping per step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

OneStep = float | Tensor | Mapping[str, float | Tensor]
Rate = OneStep | Sequence[OneStep]
Tensors = dict[str, Tensor]


def resolve(inner_lr: Rate, like: Mapping[str, Tensor], n_steps: int, name: str = "inner_lr") -> list[Tensors]:
    """Expand a rate to one tensor per step and parameter, of shape () or of the parameter's.

    Parameters
    ----------
    inner_lr
        See the module.
    like
        The parameters that take steps, without a task axis.
    n_steps
        How many steps.
    name
        Argument name for error messages.

    Raises
    ------
    ValueError
        If a rate is not finite, has a wrong shape, is missing, or names nothing.
    """
    check_rate(inner_lr, name)
    steps: list[OneStep]
    if isinstance(inner_lr, Mapping):
        steps = [inner_lr] * n_steps
    elif isinstance(inner_lr, Sequence) or as_tensor(inner_lr).ndim == 1:
        steps = list(inner_lr)  # type: ignore[arg-type]
        if len(steps) != n_steps:
            raise ValueError(f"`{name}` must have one rate per step ({n_steps}), got {len(steps)}.")
    else:
        steps = [inner_lr] * n_steps
    return [_of_step(step, like, name) for step in steps]


def check_rate(rate: Any, name: str) -> None:
    """Raise a TypeError unless `rate` has one of the forms above; text and None have not."""
    if isinstance(rate, Mapping | Sequence) and not isinstance(rate, str):
        for part in rate.values() if isinstance(rate, Mapping) else rate:
            check_rate(part, name)
        return
    try:
        as_tensor(rate)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"`{name}` must be a number or a tensor, a mapping from names to these, or a list with one of these per "
            f"step, got {rate!r}."
        ) from None


def check_finite_rates(rates: Sequence[Tensors], name: str = "inner_lr") -> None:
    """Refuse NaN and infinity, naming the parameter."""
    for step, of_parameters in enumerate(rates):
        for parameter, rate in of_parameters.items():
            if not torch.isfinite(rate).all():
                bad = rate[~torch.isfinite(rate)][0].item()
                raise ValueError(
                    f"`{name}` must be finite (zero and negative are fine), got {bad} for {parameter!r} at step {step}."
                )


def as_tensor(rate: Any) -> Tensor:
    """Return a rate as a tensor; a plain number keeps all its digits."""
    return rate if isinstance(rate, Tensor) else torch.as_tensor(rate, dtype=torch.float64)


def leaves(inner_lr: Rate) -> Tensors:
    """Return the tensors of a rate by name, so that they can be learned and saved."""
    if isinstance(inner_lr, Mapping):
        return {key: as_tensor(value) for key, value in inner_lr.items()}
    if isinstance(inner_lr, Sequence):
        steps = [leaves(step) for step in inner_lr]
        return {f"{k}/{key}": value for k, step in enumerate(steps) for key, value in step.items()}
    return {"": as_tensor(inner_lr)}


def rebuild(inner_lr: Rate, tensors: Mapping[str, Tensor]) -> Rate:
    """Return a rate of the same structure with other tensors, the inverse of `leaves`."""
    if isinstance(inner_lr, Sequence):
        return [_rebuild_step(step, tensors, f"{k}/") for k, step in enumerate(inner_lr)]
    return _rebuild_step(inner_lr, tensors, "")


def _rebuild_step(rate: OneStep, tensors: Mapping[str, Tensor], prefix: str) -> OneStep:
    return {key: tensors[prefix + key] for key in rate} if isinstance(rate, Mapping) else tensors[prefix]


def _of_step(rate: OneStep, like: Mapping[str, Tensor], name: str) -> Tensors:
    if not isinstance(rate, Mapping):
        return {parameter: _of_parameter(rate, tensor, parameter, name) for parameter, tensor in like.items()}
    for key in rate:
        if not any(_covers(key, parameter) for parameter in like):
            raise ValueError(
                f"`{name}` names {key!r}, which is no adapted parameter and no module of any; "
                f"these take steps: {', '.join(map(repr, like))}."
            )
    resolved = {}
    for parameter, tensor in like.items():
        keys = [key for key in rate if _covers(key, parameter)]
        if not keys:
            raise ValueError(f"`{name}` has no rate for {parameter!r}; name it, a module above it, or '' for all.")
        resolved[parameter] = _of_parameter(rate[max(keys, key=len)], tensor, parameter, name)
    return resolved


def _covers(key: str, parameter: str) -> bool:
    return key in ("", parameter) or parameter.startswith(f"{key}.")


def _of_parameter(rate: float | Tensor, like: Tensor, parameter: str, name: str) -> Tensor:
    tensor = as_tensor(rate).to(device=like.device, dtype=like.dtype)
    if tensor.ndim and tensor.shape != like.shape:
        raise ValueError(
            f"`{name}` of {parameter!r} must have shape () or {tuple(like.shape)}, got {tuple(tensor.shape)}."
        )
    return tensor
