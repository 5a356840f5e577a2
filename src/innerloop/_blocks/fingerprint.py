"""Fingerprints of plans: JSON values by which a store refuses blocks of another experiment.

A value stands for the results that it would give, so it is recorded with the code that it runs. Three kinds of code are
told apart:

- innerloop's own, by name: its version and the plan's engine number stand for it;
- that of installed packages and of Python, by module and name;
- all other code, the user's: by its syntax tree. Comments, docstrings, layout and the version of Python leave that
  unchanged. Where no source is to be had (typed at a prompt, made by `exec`, edited since it was imported), the
  compiled code is recorded instead, together with the version of Python, which compiles differently.

From user's code the functions, classes and values that it names are followed to their ends.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import linecache
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from types import (
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np

# Arrays of more numbers are recorded by their SHA-256.
_LARGE = 1000
_NOT_PLAIN = object()
# Entries of a class that Python or `dataclass` makes, or that change no result.
_NOT_CODE = {
    *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__annotate__"),
    *("__annotate_func__", "__annotations_cache__", "__firstlineno__", "__static_attributes__", "__slots__"),
    *("__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__", "__type_params__", "__match_args__"),
    *("__dataclass_fields__", "__dataclass_params__", "__repr__", "__eq__", "__hash__", "__replace__"),
    *("__protocol_attrs__", "_is_protocol", "_is_runtime_protocol", "__non_callable_proto_members__"),
}

_SITES = {"site-packages", "dist-packages"}
_GENERATED = {"__init__", "__setattr__", "__delattr__"}


def fingerprint(value: Any, name: str) -> Any:
    """Return JSON values that differ where two values would give different results.

    - numbers, text, None, and lists, sets and mappings of such: as they are;
    - arrays and tensors: their entries, large ones by shape, dtype and SHA-256;
    - functions and methods: their code, their defaults, and what they use;
    - dataclasses: their type and all fields; other objects: their type and all attributes, whatever their `repr` shows;
    - types: by name, and those of the user with the code of all methods, bases included.

    Parameters
    ----------
    value
        A part of a plan.
    name
        What messages call it.

    Raises
    ------
    TypeError
        If an object has neither attributes nor a `repr` that lasts from run to run, or an array holds objects.
    """
    return _Fingerprints().of(value, name)


def difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return the first entry in which two records of fingerprints differ, as text."""
    for name in [*wanted, *stored]:
        old, new = stored.get(name), wanted.get(name)
        if old != new:
            if isinstance(old, dict) and isinstance(new, dict):
                return difference(old, new)
            return f"{name} {_short(old)} there, {_short(new)} asked for"
    return "no difference"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Fingerprints:
    """The fingerprint of one value, in which code that is used again is recorded by the number of its first use."""

    def __init__(self) -> None:
        self._code: dict[int, int] = {}
        self._open: list[int] = []  # the objects around the one at hand
        self._kept: list[Any] = []  # an id is not given to another object while this one lives

    def of(self, value: Any, name: str) -> Any:
        """Return the fingerprint of a value within this one."""
        if isinstance(value, FunctionType | type):
            if id(value) not in self._code:
                self._code[id(value)] = len(self._code)
                self._kept.append(value)
                return self._of_type(value, name) if isinstance(value, type) else self._of_function(value, name)
            return {"code": self._code[id(value)]}
        if id(value) in self._open:  # an object that holds itself
            return {"around": self._open.index(id(value))}
        self._open.append(id(value))
        try:
            if isinstance(value, Enum):
                return [self.of(type(value), name), value.name]
            content = self._of_plain(value, name)
            if content is _NOT_PLAIN:
                return self._of_object(value, name)
            # A user's subclass of tuple, say, has code of its own.
            return [self.of(type(value), name), content] if _is_users(type(value).__module__) else content
        finally:
            self._open.pop()

    def _of_plain(self, value: Any, name: str) -> Any:
        if value is None or isinstance(value, bool | int | float | str | np.generic):
            value = value.item() if isinstance(value, np.generic) else value
            return value if value == value else "nan"  # which differs from itself
        if isinstance(value, list | tuple):
            return [self.of(item, name) for item in value]
        if isinstance(value, Mapping):
            return [[self.of(key, name), self.of(item, name)] for key, item in value.items()]
        if isinstance(value, set | frozenset):
            return sorted((self.of(item, name) for item in value), key=str)
        if hasattr(value, "__array__"):
            return _of_array(np.asarray(value.detach().cpu() if hasattr(value, "detach") else value), name)
        return _NOT_PLAIN

    def _of_object(self, value: Any, name: str) -> Any:
        if isinstance(value, MethodType):
            return ["method", self.of(value.__func__, name), self.of(value.__self__, name)]
        if isinstance(value, partial):
            keywords = dict(sorted(value.keywords.items()))
            return ["partial", *(self.of(part, name) for part in (value.func, value.args, keywords))]
        if isinstance(getattr(value, "__wrapped__", None), FunctionType):  # a cached function, say
            return [_full_name(type(value)), self.of(value.__wrapped__, name)]
        if isinstance(getattr(value, "__qualname__", None), str):  # a built-in function
            return _full_name(value)
        state = {f.name: getattr(value, f.name) for f in fields(value)} if is_dataclass(value) else {}
        if not state or _is_users(type(value).__module__):
            state |= _attributes(value)
        if not state and " at 0x" in repr(value) and not _is_users(type(value).__module__):
            raise _unknown(name, repr(value))
        entries = {key: self.of(item, f"{name}.{key}") for key, item in state.items()}
        shown = {} if state or " at 0x" in repr(value) else {"repr": repr(value)}
        return {"type": self.of(type(value), name), **shown, **entries}

    def _of_function(self, function: FunctionType, name: str) -> Any:
        if not _is_users(function.__module__, function.__code__.co_filename):
            return [_full_name(function), *(self._of_used(part, name) for part in _closure(function))]
        return [
            function.__qualname__,
            *_digest(function.__code__),
            *(self.of(part, name) for part in _closure(function)),
            *(self.of(part, name) for part in (function.__defaults__, function.__kwdefaults__)),
            {key: self._of_used(part, f"{name} ({key})") for key, part in _used(function)},
        ]

    def _of_type(self, value: type, name: str) -> Any:
        if not _is_users(value.__module__):
            return _full_name(value)
        code = {
            key: self._of_used(_unwrapped(item), f"{name}.{key}")
            for key, item in sorted(vars(value).items())
            if key not in _NOT_CODE and not isinstance(item, MemberDescriptorType | GetSetDescriptorType)
            if not (key in _GENERATED and _is_generated(item))
        }
        if is_dataclass(value):
            defaults = [
                [f.name, self._of_used([_default(f.default), _default(f.default_factory)], name)] for f in fields(value)
            ]
            code["fields"] = defaults
        bases = [self.of(base, name) for base in value.__mro__[1:] if base is not object]
        return {"class": value.__qualname__, "bases": bases, "code": code}

    def _of_used(self, value: Any, name: str) -> Any:
        """Return the fingerprint of what code uses; what has none (a logger, a lock) is recorded by its type."""
        try:
            return self.of(value, name)
        except TypeError:
            return _full_name(type(value))


def _closure(function: FunctionType) -> list[Any]:
    cells = function.__closure__ or ()
    return [cell.cell_contents for cell in cells if _is_filled(cell)]


def _is_filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # a function that closes over what is defined later
        return False
    return True


def _is_generated(entry: Any) -> bool:
    """Return whether `dataclass` made a method: of the fields, which are recorded."""
    return isinstance(entry, FunctionType) and entry.__code__.co_filename == "<string>"


def _default(value: Any) -> Any:
    return "none" if value is MISSING else value


def _attributes(value: Any) -> dict[str, Any]:
    """Return an object's attributes, those that are computed on first use left out."""
    slots = chain.from_iterable(
        [names] if isinstance(names := vars(kind).get("__slots__", ()), str) else names for kind in type(value).__mro__
    )
    state = {key: getattr(value, key) for key in slots if not key.startswith("__") and hasattr(value, key)}
    state |= getattr(value, "__dict__", {})
    return {
        key: item
        for key, item in state.items()
        if not isinstance(getattr(type(value), key, None), functools.cached_property)
    }


def _unwrapped(entry: Any) -> Any:
    """Return the functions within an entry of a class."""
    if isinstance(entry, staticmethod | classmethod):
        return [type(entry).__name__, entry.__func__]
    if isinstance(entry, property):
        return ["property", entry.fget, entry.fset, entry.fdel]
    if isinstance(entry, functools.cached_property):
        return ["cached_property", entry.func]
    return entry


def _of_array(array: np.ndarray[Any, Any], name: str) -> Any:
    if array.dtype.kind not in "biufU":
        raise _unknown(name, f"an array of dtype {array.dtype}")
    if array.size <= _LARGE and not (array.dtype.kind == "f" and np.isnan(array).any()):
        return array.tolist()
    content = np.ascontiguousarray(array).tobytes()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": hashlib.sha256(content).hexdigest()}


def _unknown(name: str, what: str) -> TypeError:
    return TypeError(
        f"a store needs a `{name}` that can be told from others, got {what}; make it a frozen dataclass of numbers, "
        "text, arrays and functions, or leave out `store`."
    )


def _full_name(value: Any) -> str:
    """Return the name of a type or function of a package; innerloop's own without the module, as files may move."""
    name = getattr(value, "__qualname__", type(value).__qualname__)
    module = getattr(value, "__module__", None)
    return name if _package(module) == "innerloop" else f"{module}.{name}"


def _package(module: str | None) -> str:
    return (module or "").partition(".")[0]


@lru_cache(maxsize=1)
def _installed() -> tuple[Path, ...]:
    return tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib"))


def _is_users(module: str | None, file: str | None = None) -> bool:
    """Return whether a module is neither innerloop's, nor Python's, nor of an installed package."""
    if _package(module) == "innerloop" or _package(module) in sys.stdlib_module_names - {"__main__"}:
        return False
    file = getattr(sys.modules.get(module or ""), "__file__", None) if file is None else file
    if file is None:  # a prompt, or a module written in C
        return module in (None, "__main__")
    path = Path(file).resolve()
    # Packages also lie in the site folders of the user, of the system, and of what a .pth file names.
    return not (_SITES.intersection(path.parts) or any(path.is_relative_to(folder) for folder in _installed()))


def _used(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what a function names of its module, and what it names of the user's modules, by name."""
    names = sorted(_names(function.__code__))
    for name in names:
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        if not isinstance(value, ModuleType):
            yield name, value
        elif _is_users(value.__name__):
            yield from ((f"{name}.{part}", vars(value)[part]) for part in names if part in vars(value))


def _names(code: CodeType) -> set[str]:
    return {*code.co_names}.union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))


def _digest(code: CodeType) -> list[str]:
    """Return the SHA-256 of a function's syntax tree; without source, of its compiled code with the Python version."""
    for _ in range(2):
        node = _node(code, "".join(linecache.getlines(code.co_filename)))
        if node is not None:
            return [hashlib.sha256(_syntax(node).encode()).hexdigest()[:16]]
        linecache.checkcache(code.co_filename)  # the file may have changed, and its code have been imported again
    version = f"compiled by Python {sys.version_info.major}.{sys.version_info.minor}"
    return [hashlib.sha256(_compiled(code).encode()).hexdigest()[:16], version]


@lru_cache(maxsize=64)
def _parsed(file: str, source: str) -> tuple[ast.Module, frozenset[CodeType]] | None:
    """Return the syntax tree of a file, and all that it compiles to."""
    try:
        tree = ast.parse(source)
        return tree, frozenset(_codes(compile(source, file, "exec", dont_inherit=True)))
    except (SyntaxError, ValueError, RecursionError):
        return None


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _node(code: CodeType, source: str) -> ast.AST | None:
    """Return the part of the source that a function was compiled from; None if it is not there, or not alone."""
    parsed = _parsed(code.co_filename, source) if source else None
    if parsed is None or code not in parsed[1]:
        return None
    nodes = [node for node in ast.walk(parsed[0]) if _is_of(node, code)]
    return nodes[0] if len(nodes) == 1 else None


def _is_of(node: ast.AST, code: CodeType) -> bool:
    if isinstance(node, ast.Lambda):
        return code.co_name == "<lambda>" and node.lineno == code.co_firstlineno
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return node.name == code.co_name and first == code.co_firstlineno
    return False


def _syntax(node: Any) -> str:
    """Return a syntax tree as text: no positions, no docstrings, nothing that one Python version has and another not.

    `ast.dump` and `ast.unparse` differ from version to version; empty fields, which versions add, are left out here.
    """
    if isinstance(node, list):
        return f"[{','.join(map(_syntax, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for key, value in ast.iter_fields(node):
        if value is None or value == [] or key in ("ctx", "kind", "type_comment"):
            continue
        documented = key == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        body = value[1:] if documented and ast.get_docstring(node, clean=False) is not None else value  # type: ignore[arg-type]
        parts.append(f"{key}={_syntax(body)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _compiled(code: CodeType) -> str:
    constants = [_compiled(c) if isinstance(c, CodeType) else _constant(c) for c in code.co_consts]
    return repr((code.co_code, constants, code.co_names))


def _constant(value: Any) -> str:
    # The order of a set of text differs from process to process.
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
