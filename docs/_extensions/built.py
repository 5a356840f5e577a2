"""Parts of pages that are made as the site is built: the house, the benchmarks with figures, the files of tests.

``:::{house}`` draws the rooms of the package. ``:::{benchmarks}`` has a section for each file of benchmarks/results:
what is measured, the figure of its numbers, and how to run it again. ``:::{files-of-tests}`` says what each checks.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "docs"), str(ROOT / "benchmarks")]

import draw  # noqa: E402
import house  # noqa: E402
from described import commands, environment, explained  # noqa: E402

FIGURES = "generated/figures"


def paragraph(text: str) -> nodes.paragraph:
    """Return a paragraph, in which what is between backticks is code."""
    pieces = enumerate(text.split("`"))
    return nodes.paragraph("", "", *(nodes.literal("", piece) if k % 2 else nodes.Text(piece) for k, piece in pieces))


class Built(SphinxDirective):
    """A part of a page that is made of files of the project."""

    def figure(self, name: str, made_of: list[Path], make: Callable[[Path], object], says: str) -> nodes.image:
        """Draw a picture, unless it is newer than what it is made of, and return it."""
        picture = Path(self.env.srcdir) / FIGURES / f"{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        for path in made_of:
            self.env.note_dependency(str(path))
        if not picture.exists() or picture.stat().st_mtime < max(path.stat().st_mtime for path in made_of):
            make(picture)
        return nodes.image(uri=f"/{FIGURES}/{name}.png", alt=says)


class House(Built):
    """The rooms of the package, drawn from its imports."""

    def run(self) -> list[nodes.Node]:
        """Return the picture."""
        files = sorted(house.PACKAGE.rglob("*.py"))
        says = "The rooms of the package by floor, each with its lines, and arrows to the rooms that it imports"
        return [self.figure("house", [*files, Path(house.__file__)], house.draw, says)]


class Benchmarks(Built):
    """A section for each committed result."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        return [self._section(source) for source in sorted((ROOT / "benchmarks" / "results").glob("*.json"))]

    def _section(self, source: Path) -> nodes.section:
        script = source.parents[1] / f"{source.stem}.py"
        said = explained(script)
        title = source.stem.replace("_", " ").replace("monte carlo", "Monte Carlo")
        section = nodes.section(ids=[nodes.make_id(source.stem)], names=[title])
        section += [nodes.title("", title[0].upper() + title[1:]), paragraph(said[0])]
        files = [source, script, Path(draw.__file__)]
        section += self.figure(source.stem, files, lambda picture: draw.draw(source, picture), f"Results of {title}")
        machine = environment(json.loads(source.read_text(encoding="utf-8")))
        section += [paragraph(text) for text in (*said[1:], machine) if text]
        code = "\n".join(commands(script))
        section += nodes.literal_block(code, code, language="none")
        return section


class FilesOfTests(Built):
    """A table of the files of tests: what each checks, and how many tests it defines."""

    def run(self) -> list[nodes.Node]:
        """Return a line on all of them, and the table."""
        rows = []
        for path in sorted((ROOT / "tests").glob("test_*.py")):
            self.env.note_dependency(str(path))
            tree = ast.parse(path.read_text(encoding="utf-8"))
            tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
            n_tests = sum(node.name.startswith("test_") for node in tests)
            rows.append((path.name, " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split()), n_tests))
        line = (
            f"{len(rows)} files with {sum(n for *_, n in rows):,} test functions, most of them run for several cases:"
        )
        return [nodes.paragraph("", line), _table(["file", "checks", "tests"], rows)]


def _table(head: list[str], rows: list[tuple[str, str, int]]) -> nodes.table:
    group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for width in (30, 60, 10)), cols=len(head))
    top = nodes.row("", *(nodes.entry("", nodes.paragraph("", name)) for name in head))
    lines = [
        nodes.row(
            "",
            nodes.entry("", nodes.paragraph("", "", nodes.literal("", file))),
            nodes.entry("", paragraph(says)),
            nodes.entry("", nodes.paragraph("", str(n))),
        )
        for file, says, n in rows
    ]
    group += [nodes.thead("", top), nodes.tbody("", *lines)]
    return nodes.table("", group)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives."""
    app.add_directive("house", House)
    app.add_directive("benchmarks", Benchmarks)
    app.add_directive("files-of-tests", FilesOfTests)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
