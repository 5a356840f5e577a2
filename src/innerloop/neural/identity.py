"""What tells one function, source or module from another, so that a store never mixes two experiments."""

from __future__ import annotations

import hashlib
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

_DEEPEST = 8


def identity(value: Any, name: str, depth: int = 0) -> Any:
    """Return JSON values from which another function or object can be told.

    Functions are known by their code, their defaults and the values they use, everything else by its `repr`.

    Raises
    ------
    TypeError
        If an object has only the default `repr`, which changes from run to run.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, partial):
        parts = [value.func, *value.args, *(item for pair in sorted(value.keywords.items()) for item in pair)]
        return ["partial", *(identity(part, name, depth + 1) for part in parts)]
    if isinstance(value, FunctionType):
        own = [*_used(value), *(value.__defaults__ or ())] if depth < _DEEPEST else []
        return [value.__qualname__, _digest(value.__code__), *(identity(part, name, depth + 1) for part in own)]
    if isinstance(value, type) or not isinstance(getattr(value, "__qualname__", None), str):
        shown = repr(value)
        if " at 0x" in shown:
            raise TypeError(
                f"a store needs a `{name}` that can be told from others, got {shown}; give it a `repr` that says all, "
                "as a frozen dataclass has, or leave out `store`."
            )
        return shown
    return f"{value.__module__}.{value.__qualname__}"  # built in


def _used(function: FunctionType) -> list[Any]:
    """Return what a function closes over, and the plain values and functions of its module that it names."""
    named = (function.__globals__.get(name) for name in function.__code__.co_names)
    plain = [item for item in named if isinstance(item, bool | int | float | str | FunctionType | partial)]
    return [*(cell.cell_contents for cell in function.__closure__ or ()), *plain]


def module_identity(module: nn.Module, X: Tensor) -> dict[str, Any]:
    """Return what tells a module from others: its layers, weights, and what it makes of some inputs."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = torch.func.functional_call(module, _copies(module), (X.to(next(module.parameters())),))
    return {
        "layers": str(module),
        "weights": {
            n: [list(p.shape), f"{p.detach().double().norm().item():.6g}"] for n, p in module.named_parameters()
        },
        "outputs": [f"{value:.4g}" for value in outputs.double().flatten()[:8].tolist()],
    }


def _copies(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of all tensors, so that a call leaves running statistics as they are."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict(keep_vars=True).items()}


def _digest(code: CodeType) -> str:
    constants = [_digest(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return hashlib.sha256(repr((code.co_code, constants, code.co_names)).encode()).hexdigest()[:16]
