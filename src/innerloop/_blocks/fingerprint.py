"""What tells one experiment from another: JSON values of its parts, so that a store never mixes two."""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import numpy as np


def describe(value: Any) -> Any:
    """Return a value as JSON values from which another one can be told.

    Raises
    ------
    TypeError
        If it has no description: an object that is no dataclass.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufU":
        if value.size <= 1000:
            return value.tolist()
        content = np.ascontiguousarray(value).tobytes()
        return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": hashlib.sha256(content).hexdigest()}
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **{f.name: describe(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    raise TypeError(
        f"a store needs distributions that can be told from each other, got {type(value).__name__}; make it a frozen "
        "dataclass of numbers, arrays and text, or leave out `store`."
    )


_DEEPEST = 8


def identity(value: Any, name: str, depth: int = 0) -> Any:
    """Return JSON values from which another function or object can be told.

    Functions are known by their code, their defaults and the values they use, dataclasses by their fields, arrays as
    in `describe`, and everything else by its `repr`.

    Raises
    ------
    TypeError
        If an object has only the default `repr`, which changes from run to run.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        return describe(value)
    parts = _parts(value, depth)
    if parts is not None:
        labels, members = parts
        return [*labels, *(identity(member, name, depth + 1) for member in members)]
    if isinstance(value, type) or not isinstance(getattr(value, "__qualname__", None), str):
        shown = repr(value)
        if " at 0x" in shown:
            raise TypeError(
                f"a store cannot tell this `{name}` from others, got {shown}; give it a `repr` that says all, or make "
                "it a frozen dataclass, or leave out `store`."
            )
        return shown
    return f"{value.__module__}.{value.__qualname__}"  # built in


def _parts(value: Any, depth: int) -> tuple[list[str], list[Any]] | None:
    """Return the labels and the members of what is known by its members; None for anything else."""
    if isinstance(value, list | tuple):
        return [], list(value)
    if isinstance(value, partial):
        keywords = [item for pair in sorted(value.keywords.items()) for item in pair]
        return ["partial"], [value.func, *value.args, *keywords]
    if isinstance(value, FunctionType):
        members = [*_used(value), *(value.__defaults__ or ())] if depth < _DEEPEST else []
        return [value.__qualname__, _digest(value.__code__)], members
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__qualname__], [item for f in fields(value) for item in (f.name, getattr(value, f.name))]
    return None


def _used(function: FunctionType) -> list[Any]:
    """Return what a function closes over, and the plain values and functions of its module that it names."""
    named = (function.__globals__.get(name) for name in function.__code__.co_names)
    plain = [item for item in named if isinstance(item, bool | int | float | str | FunctionType | partial)]
    return [*(cell.cell_contents for cell in function.__closure__ or ()), *plain]


def _digest(code: CodeType) -> str:
    constants = [_digest(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return hashlib.sha256(repr((code.co_code, constants, code.co_names)).encode()).hexdigest()[:16]
