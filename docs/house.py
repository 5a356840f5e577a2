"""Draw the rooms of the package by what they import: python docs/house.py [picture].

A room is a folder of src/innerloop, or a file beside them. It stands one floor above the highest room that it imports.
An arrow points from a room to one that it imports, unless it imports that by way of another anyway.
"""

from __future__ import annotations

import ast
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

PACKAGE = Path(__file__).parents[1] / "src" / "innerloop"
BLUE, INK, PAPER = "#0072B2", "#222222", "#E8F1F8"


@dataclass(frozen=True)
class Room:
    """A part of the package: its files, its lines, and the rooms that it imports."""

    name: str
    n_files: int
    n_lines: int
    imports: frozenset[str]


def rooms(package: Path = PACKAGE) -> dict[str, Room]:
    """Return the rooms by name, with what each imports anywhere in its files."""
    files: dict[str, list[Path]] = {}
    for path in sorted(package.rglob("*.py")):
        files.setdefault(path.relative_to(package).parts[0].removesuffix(".py"), []).append(path)
    found = {}
    for name, paths in files.items():
        texts = [path.read_text(encoding="utf-8") for path in paths]
        used = frozenset(room for text in texts for room in _imported(ast.parse(text), set(files)))
        found[name] = Room(name, len(paths), sum(len(text.splitlines()) for text in texts), used - {name})
    return found


def _imported(tree: ast.Module, names: set[str]) -> set[str]:
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts = [module.split(".") for module in modules if module.split(".")[0] == "innerloop"]
        used |= {part[1] if len(part) > 1 and part[1] in names else "__init__" for part in parts}
    return used


def floors(house: dict[str, Room]) -> dict[str, int]:
    """Return the floor of each room: 0 imports none, and each stands above all that it imports."""
    level: dict[str, int] = {}

    def floor(name: str) -> int:
        if name not in level:
            level[name] = 1 + max((floor(other) for other in house[name].imports), default=-1)
        return level[name]

    return {name: floor(name) for name in house}


def direct(house: dict[str, Room]) -> list[tuple[str, str]]:
    """Return the imports that are not also made by way of another room."""
    reached: dict[str, frozenset[str]] = {}

    def below(name: str) -> frozenset[str]:
        if name not in reached:
            used = house[name].imports
            reached[name] = used.union(*(below(other) for other in used))
        return reached[name]

    return [
        (name, used)
        for name, room in house.items()
        for used in sorted(room.imports)
        if not any(used in below(other) for other in room.imports - {used})
    ]


def places(house: dict[str, Room], n_columns: int = 5) -> dict[str, tuple[int, int]]:
    """Return the column and the floor of each room, by a search for few arrows behind rooms and few that cross."""
    level, arrows = floors(house), direct(house)
    rng = random.Random(0)

    def cost(column: dict[str, int]) -> float:
        lines = [(column[a], level[a], column[b], level[b]) for a, b in arrows]
        behind = sum(
            abs(x + (u - x) * (y - level[name]) / (y - v) - column[name]) < 0.55
            for x, y, u, v in lines
            for name in house
            if v < level[name] < y
        )
        crossings = sum(_cross(one, other) for i, one in enumerate(lines) for other in lines[:i])
        return 20 * behind + 3 * crossings + 0.5 * sum((x - u) ** 2 for x, _, u, _ in lines)

    best: dict[str, int] = {}
    for _ in range(12):
        column = {}
        for k in range(max(level.values()) + 1):
            names = [name for name in house if level[name] == k]
            column |= dict(zip(names, rng.sample(range(n_columns), len(names)), strict=True))
        better, least = True, cost(column)
        while better:
            better = False
            for name in house:
                for to in range(n_columns):
                    moved = {n: column[name] if (level[n], c) == (level[name], to) else c for n, c in column.items()}
                    moved[name] = to
                    if (new := cost(moved)) < least:
                        column, least, better = moved, new, True
        if not best or least < cost(best):
            best = column
    return {name: (best[name], level[name]) for name in house}


def _cross(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two arrows (from x, y down to u, v) cross between floors that both pass."""
    high, low = min(one[1], other[1]), max(one[3], other[3])
    if high <= low:
        return False
    gaps = []
    for y in (high, low):
        at = [x + (u - x) * (top - y) / (top - bottom) for x, top, u, bottom in (one, other)]
        gaps.append(at[0] - at[1])
    return gaps[0] * gaps[1] < -1e-9


def draw(picture: Path) -> None:
    """Draw the house, the ground floor at the bottom."""
    house = rooms()
    place = {name: (1.6 * x, 1.1 * y) for name, (x, y) in places(house).items()}
    xs, ys = zip(*place.values(), strict=True)
    figure = Figure(figsize=(7.5, 0.8 * (1 + max(ys))), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    for start, end in direct(house):
        (x, y), (u, v) = place[start], place[end]
        look = {"arrowstyle": "-|>", "mutation_scale": 9, "color": "#777777", "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
        ax.add_patch(FancyArrowPatch((x, y - 0.3), (u, v + 0.3), zorder=1, **look))
    for name, (x, y) in place.items():
        box = {"boxstyle": "round,pad=0.15", "fc": PAPER, "ec": BLUE}
        said = f"{name}\n{house[name].n_lines:,} lines"
        ax.text(x, y, said, ha="center", va="center", fontsize=9, color=INK, bbox=box, zorder=2)
    ax.set(xlim=(min(xs) - 0.9, max(xs) + 0.9), ylim=(-0.5, max(ys) + 0.5))
    ax.set_axis_off()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    draw(Path(sys.argv[1] if sys.argv[1:] else "house.png"))
