"""Every sentence of a warning or an error of the package, read from its code.

What is filled in at run time is an ellipsis.
"""

from __future__ import annotations

import ast
import builtins
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "innerloop"
_FILLED_IN = "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True, order=True)
class Message:
    """What the package says: the room that says it, the class it comes as, and its sentence, or several of one kind."""

    room: str
    kind: str
    sentences: tuple[str, ...]


@cache
def parse(package: Path = PACKAGE) -> dict[str, ast.Module]:
    """Return the syntax tree of each file of the package, by its room and name."""
    return {
        path.relative_to(package).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(package.rglob("*.py"))
    }


def warnings_of() -> list[Message]:
    """Return what the package warns of: calls of `warnings.warn`, those that say the same once."""
    trees = parse()
    found = {
        Message("", ast.unparse(call.args[1]) if len(call.args) > 1 else "UserWarning", sentences)
        for tree in trees.values()
        for scope, call in _calls(tree)
        if ast.unparse(call.func) == "warnings.warn"
        for words in [_words(call.args[0], scope)]
        for sentences in [(words,) if _says_something(words) else _made_elsewhere(call.args[0], scope, trees)]
    }
    return sorted(found)


def errors_of() -> list[Message]:
    """Return the sentences of errors, each once a room."""
    found = {
        Message(file.split("/")[0].removesuffix(".py"), ast.unparse(call.func), (words,))
        for file, tree in parse().items()
        for scope, call in _calls(tree)
        if _is_error(call)
        for words in [_words(call.args[0], scope)]
        if _says_something(words)
    }
    return sorted(found)


def _says_something(words: str) -> bool:
    return len(re.sub(r"\W", "", words)) > 5


def _made_elsewhere(node: ast.AST, scope: ast.AST, trees: dict[str, ast.Module]) -> tuple[str, ...]:
    """Return the sentences that functions return, or that lists are given, under a name that a warning speaks by."""
    named = [other for other in ast.walk(scope) if isinstance(other, ast.NamedExpr | ast.Assign)]
    used = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    given = [n.value for n in named if used & {ast.unparse(n.target if isinstance(n, ast.NamedExpr) else n.targets[0])}]
    names = {n.attr for start in (node, *given) for n in ast.walk(start) if isinstance(n, ast.Attribute)}
    found = dict[str, None]()
    for tree in trees.values():
        for inner, call in _calls(tree):
            listed, _, method = ast.unparse(call.func).rpartition(".")
            if method == "append" and listed in names:
                found[_words(call.args[0], inner)] = None
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef) and function.name.removeprefix("_") in names:
                for made in ast.walk(function):
                    if isinstance(made, ast.Return) and made.value is not None:
                        many = made.value.elts if isinstance(made.value, ast.List) else [made.value]
                        found |= dict.fromkeys(_words(one, function) for one in many)
    return tuple(words for words in found if _says_something(words))


@cache
def _calls(tree: ast.Module) -> list[tuple[ast.AST, ast.Call]]:
    """Return each call with an argument, and the innermost function that it is in."""
    found = []
    pending: list[tuple[ast.AST, ast.AST]] = [(tree, tree)]
    while pending:
        scope, node = pending.pop()
        if isinstance(node, ast.Call) and node.args:
            found.append((scope, node))
        inner = node if isinstance(node, ast.FunctionDef) else scope
        pending += [(inner, child) for child in ast.iter_child_nodes(node)]
    return found


def _is_error(call: ast.Call) -> bool:
    kind = getattr(builtins, ast.unparse(call.func), None)
    return isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)


def _words(node: ast.AST, scope: ast.AST) -> str:
    """Return the words of a sentence, with an ellipsis for what is filled in."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_words(part, scope) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _words(left, scope) + _words(right, scope)
        case ast.Name(id=name):
            values = [
                given.value
                for given in ast.walk(scope)
                if isinstance(given, ast.Assign) and ast.unparse(given.targets[0]) == name
            ]
            return _words(values[0], ast.Module([], [])) if len(values) == 1 else _FILLED_IN
    return _FILLED_IN
