r"""Numbered equations of Markdown pages as link targets, and links to them.

``$$ ... \tag{2.1} $$`` becomes an equation with the number 2.1 and an anchor. "(2.1)" in a page then links to it. In a
docstring "docs/theory.md" links to the page, and numbers beside it to equations. "section 5", there and in pages of the
theory, links to the section of that number.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docutils import nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

_TAG = re.compile(r"\\tag\{(\d+\.\d+)\}")
_THEORY = "docs/theory.md"
_NUMBER = r"\d+\.\d+"
_SECTION = r"(?P<section>(?<=[Ss]ection )\d+)\b(?!\.\d)"
_IN_PAGES = re.compile(rf"(?<=\()(?P<equation>{_NUMBER})(?=\))")
_IN_THEORY = re.compile(rf"(?<=\()(?P<equation>{_NUMBER})(?=\))|{_SECTION}")
_IN_DOCSTRINGS = re.compile(rf"(?P<page>{re.escape(_THEORY)})|{_SECTION}|\b(?P<equation>{_NUMBER})\b")


def number_equations(app: Sphinx, doctree: nodes.document) -> None:
    """Move the tag of an equation from its TeX, which MathJax would draw, to Sphinx, which makes an anchor of it."""
    equations = app.env.domains.math_domain.equations
    for block in doctree.findall(nodes.math_block):
        if tag := _TAG.search(block.astext()):
            number = tag[1]
            text = _TAG.sub("", block.astext())
            block.clear()
            block.append(nodes.Text(text))
            block.rawsource = text
            identifier = f"equation-{number.replace('.', '-')}"
            block.update_basic_atts({"ids": [identifier]})
            block["number"], block["docname"], block["label"] = number, app.env.docname, number
            equations[number] = (app.env.docname, number)  # type: ignore[assignment]  # a number may be text


def number_sections(app: Sphinx, doctree: nodes.document) -> None:
    """Remember where the numbered sections of the theory are."""
    if app.env.docname.startswith("theory"):
        sections = app.env.__dict__.setdefault("theory_sections", {})
        for section in doctree.findall(nodes.section):
            if match := re.match(r"(\d+)\. ", section[0].astext()):
                sections[match[1]] = (app.env.docname, section["ids"][0])


def link_equations(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Make links of the numbers of equations, and of the name of the page with the theory."""
    equations = app.env.domains.math_domain.equations
    sections = app.env.__dict__.get("theory_sections", {})

    def uri(page: str, anchor: str = "") -> str:
        return app.builder.get_relative_uri(docname, page) + anchor

    def pieces(text: str, pattern: re.Pattern[str]) -> Iterator[nodes.Node]:
        end = 0
        for match in pattern.finditer(text):
            groups = match.groupdict()
            if groups.get("page"):
                target = uri("theory")
            elif groups.get("section") in sections:
                page, anchor = sections[groups["section"]]
                target = uri(page, f"#{anchor}")
            elif groups["equation"] in equations:
                target = uri(equations[groups["equation"]][0], f"#equation-{groups['equation'].replace('.', '-')}")
            else:
                continue
            yield nodes.Text(text[end : match.start()])
            yield nodes.reference("", match[0], internal=True, refuri=target)
            end = match.end()
        yield nodes.Text(text[end:])

    for text in list(doctree.findall(nodes.Text)):
        parent = text.parent
        if isinstance(parent, nodes.literal | nodes.math | nodes.math_block | nodes.reference | nodes.literal_block):
            continue
        paragraph = parent.astext()
        pattern = _IN_THEORY if docname.startswith("theory") else _IN_PAGES
        pattern = _IN_DOCSTRINGS if _THEORY in paragraph else pattern
        if pattern.search(text):
            parent.replace(text, list(pieces(text.astext(), pattern)))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the steps."""
    app.connect("doctree-read", number_equations)
    app.connect("doctree-read", number_sections)
    app.connect("doctree-resolved", link_equations)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
