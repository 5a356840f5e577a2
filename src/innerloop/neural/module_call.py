"""Calls of a module with other parameters and buffers, which leave the module as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


@final
class ModuleCall:
    """A module as a function of its parameters, buffers and inputs.

    Whatever the module does in a call, it is afterwards what it was: attributes, and the members of lists, dicts and
    sets among them, are put back. A layer or tensor registered under several names takes the value of the first.

    Parameters
    ----------
    module
        Any module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._parts = list(module.modules())
        self._containers: list[Any] = [
            value
            for part in self._parts
            for name, value in part.__dict__.items()
            if name not in _HOOKS and isinstance(value, (dict, list, set))
        ]
        self._other_names = _other_names(module)

    def __call__(self, tensors: Mapping[str, Tensor], X: Any) -> Any:
        """Return the module's output.

        Parameters
        ----------
        tensors
            Parameters and buffers by their first names; those left out are the module's.
        X
            The input. A tuple holds positional arguments, a dict keyword arguments.
        """
        args, kwargs = (X, {}) if isinstance(X, tuple) else ((), X) if isinstance(X, dict) else ((X,), {})
        tied = {name: tensors[first] for name, first in self._other_names.items() if first in tensors}
        with self._unchanged():
            return functional_call(self.module, {**tensors, **tied}, args, kwargs, tie_weights=False)

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        attributes = [(part.__dict__, part.__dict__.copy()) for part in self._parts]
        members = [(container, container.copy()) for container in self._containers]
        try:
            yield
        finally:
            for container, content in members:
                if isinstance(container, list):
                    container[:] = content
                elif container or content:
                    container.clear()
                    container.update(content)
            for now, before in attributes:
                if now.keys() != before.keys():
                    now.clear()
                now.update(before)


# What every module has but its tensors and parts: hooks, which no call registers.
_HOOKS = frozenset(nn.Module().__dict__) - {"_parameters", "_buffers", "_modules"}


def _other_names(module: nn.Module) -> dict[str, str]:
    """Return each further name of a parameter or buffer that several layers share, with its first name."""
    first: dict[int, str] = {}
    others: dict[str, str] = {}
    for prefix, part in module.named_modules():
        for attribute, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                name = f"{prefix}.{attribute}".lstrip(".")
                if first.setdefault(id(tensor), name) != name:
                    others[name] = first[id(tensor)]
    return others


@final
class ExactDerivatives(TorchFunctionMode):
    """Replace operations of which torch has wrong derivatives by equal ones with right derivatives.

    - An embedding with `padding_idx`: vectorised over tasks, torch keeps the padding row of the first task alone.
    - Weight normalisation: the second derivative of torch's kernel leaves terms out.

    An embedding with `max_norm` changes its weights in a call, and is refused.
    """

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replaced = _REPLACED.get(func)
        return func(*args, **(kwargs or {})) if replaced is None else replaced(*args, **(kwargs or {}))


def _embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, *args: Any, **kwargs: Any) -> Tensor:
    """Return the rows of the weight; the padding row is a constant."""
    if (args[0] if args else kwargs.get("max_norm")) is not None:
        raise ValueError(
            "`module` has an embedding with `max_norm`, which changes its weights in every call, so that the result "
            "would depend on the order of tasks; leave `max_norm` out, or normalise the weights before training."
        )
    if padding_idx is not None and torch.is_grad_enabled():
        padding = torch.arange(len(weight), device=weight.device) == padding_idx % len(weight)
        weight = torch.where(padding.unsqueeze(1), weight.detach(), weight)
    return functional.embedding(input, weight, None, *args, **kwargs)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    norm: Tensor
    if dim == -1:  # one norm for the whole tensor
        norm = torch.linalg.vector_norm(v)
    else:
        others = [axis for axis in range(v.ndim) if axis != dim]
        norm = torch.linalg.vector_norm(v, dim=others, keepdim=True)
    return v * (g / norm)


_REPLACED: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.embedding: _embedding,
    torch._weight_norm: _weight_norm,
}


_CONVOLUTIONS = frozenset(getattr(torch, f"conv{kind}{n}d") for kind in ("", "_transpose") for n in (1, 2, 3))


@final
class ConvolutionSizes(TorchFunctionMode):
    """Note the bytes of the largest output of a convolution.

    Attributes
    ----------
    largest
        0 without any.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _CONVOLUTIONS:
            self.largest = max(self.largest, output.nbytes)
        return output


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Let attention use the kernel that can be differentiated twice."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def vectorised_attention(device: torch.device) -> AbstractContextManager[None]:
    """Return a context with the kernel of attention that torch can vectorise: on the CPU there is one."""
    return differentiable_twice() if device.type == "cpu" else nullcontext()


def recurrent_kernels(module: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which cuDNN, which has no second derivative of recurrent layers, is off if there are any."""
    if any(isinstance(part, nn.RNNBase) for part in module.modules()):
        return torch.backends.cudnn.flags(enabled=False)
    return nullcontext()


@contextmanager
def no_fast_attention() -> Iterator[None]:
    """Switch off the fast path of attention in evaluation mode, which is neither differentiable nor vectorisable."""
    was_on = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_on)


# Number of the inner step that is computed; None outside of inner loops.
_STEP: ContextVar[int | None] = ContextVar("inner step", default=None)


def inner_step() -> int | None:
    """Return the number of the inner step whose loss is computed, from 0, or after the last their number.

    None outside of adaptation. For layers that differ from step to step.
    """
    return _STEP.get()


@contextmanager
def at_step(step: int) -> Iterator[None]:
    """Let `inner_step` return a number."""
    token = _STEP.set(step)
    try:
        yield
    finally:
        _STEP.reset(token)
