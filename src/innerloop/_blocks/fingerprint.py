"""Fingerprints of plans: JSON values by which a store refuses blocks of another experiment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import numpy as np

# Arrays of more numbers are recorded by their SHA-256.
_LARGE = 1000
# Functions that functions use are followed so far: two may use each other.
_DEEPEST = 8


def fingerprint(value: Any, name: str, depth: int = 0) -> Any:
    """Return JSON values that differ where two values would give different results.

    - numbers, text, None, and lists and mappings of such: as they are;
    - arrays and tensors: their entries, large ones by shape, dtype and SHA-256;
    - dataclasses: their type and all fields;
    - functions: their code, their defaults, and the values and functions that they use;
    - any other object: its `repr`.

    Parameters
    ----------
    value
        A part of a plan.
    name
        What messages call it.
    depth
        Of functions within functions.

    Raises
    ------
    TypeError
        If an object has only the default `repr`, which changes from run to run, or an array holds objects.
    """
    if value is None or isinstance(value, bool | int | float | str | np.generic):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, partial | FunctionType):
        return _of_function(value, name, depth)
    if hasattr(value, "__array__") and not isinstance(value, type):
        return _of_array(np.asarray(value), name)
    if isinstance(value, list | tuple | Mapping):
        return [fingerprint(item, name, depth) for item in (value.items() if isinstance(value, Mapping) else value)]
    if is_dataclass(value) and not isinstance(value, type):
        entries = {f.name: fingerprint(getattr(value, f.name), f"{name}.{f.name}", depth) for f in fields(value)}
        return {"type": type(value).__name__, **entries}
    return _of_object(value, name)


def _of_function(value: partial[Any] | FunctionType, name: str, depth: int) -> list[Any]:
    if isinstance(value, FunctionType):
        record = [value.__qualname__, _digest(value.__code__)]
        parts = [*_used(value), *(value.__defaults__ or ())] if depth < _DEEPEST else []
    else:
        record = ["partial"]
        parts = [value.func, *value.args, *(item for pair in sorted(value.keywords.items()) for item in pair)]
    return [*record, *(fingerprint(part, name, depth + 1) for part in parts)]


def _of_object(value: Any, name: str) -> str:
    if not isinstance(value, type) and isinstance(getattr(value, "__qualname__", None), str):  # a built-in function
        return f"{value.__module__}.{value.__qualname__}"
    if " at 0x" in repr(value):
        raise _unknown(name, repr(value))
    return repr(value)


def _of_array(array: np.ndarray[Any, Any], name: str) -> Any:
    if array.dtype.kind not in "biufU":
        raise _unknown(name, f"an array of dtype {array.dtype}")
    if array.size <= _LARGE:
        return array.tolist()
    content = np.ascontiguousarray(array).tobytes()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": hashlib.sha256(content).hexdigest()}


def _unknown(name: str, what: str) -> TypeError:
    return TypeError(
        f"a store needs a `{name}` that can be told from others, got {what}; make it a frozen dataclass of numbers, "
        "text, arrays and functions, or give it a `repr` that shows all its settings, or leave out `store`."
    )


def _used(function: FunctionType) -> list[Any]:
    """Return what a function closes over, and the plain values and functions of its module that it names."""
    named = (function.__globals__.get(name) for name in function.__code__.co_names)
    plain = [item for item in named if isinstance(item, bool | int | float | str | FunctionType | partial)]
    return [*(cell.cell_contents for cell in function.__closure__ or ()), *plain]


def _digest(code: CodeType) -> str:
    constants = [_digest(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return hashlib.sha256(repr((code.co_code, constants, code.co_names)).encode()).hexdigest()[:16]
