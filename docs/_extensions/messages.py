"""Every sentence of a warning or an error, read from the code, for the page of errors.

``:::{warning-says} words of the sentence`` shows all sentences of the one warning that has these words, and its class.
``:::{errors}`` lists the sentences of all errors, room by room. What is filled in at run time is shown as an ellipsis.
"""

from __future__ import annotations

import ast
import builtins
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from built import paragraph
from docutils import nodes
from docutils.parsers.rst import Directive

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PACKAGE = Path(__file__).parents[2] / "src" / "innerloop"
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


def warnings_of(trees: dict[str, ast.Module]) -> list[Message]:
    """Return what the package warns of: calls of `warnings.warn`, those that say the same once."""
    found = {
        Message("", ast.unparse(call.args[1]) if len(call.args) > 1 else "UserWarning", sentences)
        for tree in trees.values()
        for scope, call in _calls(tree)
        if ast.unparse(call.func) == "warnings.warn"
        for words in [_words(call.args[0], scope)]
        for sentences in [(words,) if _says_something(words) else _made_elsewhere(call.args[0], scope, trees)]
    }
    return sorted(found)


def errors_of(trees: dict[str, ast.Module]) -> list[Message]:
    """Return the sentences of errors, each once a file."""
    found = {
        Message(file.split("/")[0].removesuffix(".py"), ast.unparse(call.func), (words,))
        for file, tree in trees.items()
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


class WarningSays(Directive):
    """The class and the sentences of the one warning that has the given words."""

    required_arguments = 1
    final_argument_whitespace = True
    found: ClassVar[list[Message]] = warnings_of(parse())

    def run(self) -> list[nodes.Node]:
        """Return a paragraph for each sentence."""
        fitting = [message for message in self.found if any(self.arguments[0] in text for text in message.sentences)]
        if len(fitting) != 1:
            raise self.error(f"{len(fitting)} warnings of the package say {self.arguments[0]!r}")
        return [_list(fitting)]


class Errors(Directive):
    """The sentences of all errors, a section a room, those with most sentences first."""

    found: ClassVar[list[Message]] = errors_of(parse())

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        rooms: dict[str, list[Message]] = {}
        for message in self.found:
            rooms.setdefault(message.room, []).append(message)
        shown: list[nodes.Node] = []
        for room, messages in sorted(rooms.items(), key=lambda item: -len(item[1])):
            title = f"innerloop.{room}" if room != "__init__" else "innerloop"
            section = nodes.section(ids=[f"errors-{nodes.make_id(room)}"], names=[title])
            section += [nodes.title("", title), _list(messages)]
            shown.append(section)
        return shown


def _list(messages: list[Message]) -> nodes.bullet_list:
    items = nodes.bullet_list(classes=["messages"])
    for message in messages:
        for sentence in message.sentences:
            items += nodes.list_item("", paragraph(f"`{message.kind}`: {' '.join(sentence.split())}"))
    return items


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives."""
    app.add_directive("warning-says", WarningSays)
    app.add_directive("errors", Errors)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
