"""What the script of a benchmark says of itself: what it measures, and how to run it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any


def docstring(script: Path) -> list[str]:
    """Return the paragraphs of a script's docstring."""
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").split("\n\n")


def commands(script: Path) -> list[str]:
    """Return the commands that the docstring of a benchmark names, with the file of its result."""
    text = "\n".join(docstring(script))
    found = re.findall(rf"python benchmarks/{script.name}.*", text)
    lines = [re.sub(r" *#.*|\.$", "", line).replace("[N] [--out FILE]", "--out FILE") for line in found]
    result = f"benchmarks/results/{script.stem}.json"
    return [re.sub(r"(?<=--out )FILE|(?<=--out )\.\.\.", result, line) for line in lines]


def explained(script: Path) -> list[str]:
    """Return the paragraphs of the docstring that are no commands."""
    paragraphs = [part for part in docstring(script) if not part.startswith("    ")]
    first = re.sub(r": (python benchmarks/.*|JSON.*|run it.*)", ".", paragraphs[0])
    return [" ".join(part.split()) for part in (first, *paragraphs[1:])]


def environment(result: dict[str, Any]) -> str:
    """Return what a result was measured with, or ""."""
    names = result.get("environment", {})
    packages = [f"{name} {names[name]}" for name in ("numpy", "scipy", "torch") if name in names]
    return f"Measured with Python {names['python']}, {', '.join(packages)} on {names['processor']}." if names else ""
