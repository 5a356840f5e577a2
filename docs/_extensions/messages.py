"""Every sentence of a warning or an error, for the page of errors.

``:::{warning-says} words of the sentence`` shows all sentences of the one warning that has these words, and its class.
``:::{errors}`` lists the sentences of all errors, room by room. What is filled in at run time is shown as an ellipsis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from built import paragraph
from docutils import nodes
from docutils.parsers.rst import Directive
from sentences import Message, errors_of, warnings_of

if TYPE_CHECKING:
    from sphinx.application import Sphinx


class WarningSays(Directive):
    """The class and the sentences of the one warning that has the given words."""

    required_arguments = 1
    final_argument_whitespace = True
    found: ClassVar[list[Message]] = warnings_of()

    def run(self) -> list[nodes.Node]:
        """Return a paragraph for each sentence."""
        fitting = [message for message in self.found if any(self.arguments[0] in text for text in message.sentences)]
        if len(fitting) != 1:
            raise self.error(f"{len(fitting)} warnings of the package say {self.arguments[0]!r}")
        return [_list(fitting)]


class Errors(Directive):
    """The sentences of all errors, a section a room, those with most sentences first."""

    found: ClassVar[list[Message]] = errors_of()

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
