"""Diagnosis of layers that torch cannot differentiate twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from innerloop.neural.batch import TaskBatch, task_of, tensors_of
from innerloop.neural.module_call import differentiable_twice, no_fast_attention
from innerloop.neural.task_model import TaskModel

_SIGNS = ("derivative for", "once_differentiable", "double backward")


def undifferentiable(
    model: TaskModel, params: Mapping[str, Tensor], batch: TaskBatch, error: RuntimeError
) -> str | None:
    """Return a sentence that names the layer which torch cannot differentiate twice, or None for other errors."""
    if not any(sign in str(error) for sign in _SIGNS):
        return None
    calls: list[tuple[nn.Module, Any]] = []
    handle = register_module_forward_hook(lambda part, inputs, _: calls.append((part, inputs)))
    try:
        with torch.no_grad(), no_fast_attention():
            model.call(params, task_of(batch.X_support, 0))
    except RuntimeError:
        pass
    finally:
        handle.remove()
    names = {id(part): name for name, part in model.module.named_modules()}
    layer = next((part for part, inputs in calls if not any(part.children()) and not _twice(part, inputs)), None)
    where = "" if layer is None else f" its layer {names[id(layer)]!r} ({type(layer).__name__}):"
    return (
        f"torch cannot differentiate `module` twice, as this algorithm needs;{where} {str(error).splitlines()[0]}. "
        "Take MAML(first_order=True) or Reptile(), or replace that layer by one made of elementary operations."
    )


def _twice(part: nn.Module, inputs: Any) -> bool:
    """Return whether a layer can be differentiated twice."""
    leaves: list[Tensor] = [p for p in part.parameters() if p.requires_grad]
    inputs = tuple(
        x.detach().clone().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs
    )
    leaves += [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    if not leaves:
        return True
    try:
        with torch.enable_grad(), differentiable_twice():
            slopes = torch.autograd.grad(_size(tensors_of(part(*inputs))), leaves, create_graph=True, allow_unused=True)
            torch.autograd.grad(_size(slopes), leaves, allow_unused=True)
    except RuntimeError as error:
        return not any(sign in str(error) for sign in _SIGNS)
    return True


def _size(tensors: Sequence[Tensor | None]) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in tensors if tensor is not None]).sum()
