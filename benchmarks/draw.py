"""Draw a benchmark's JSON as bars: python benchmarks/draw.py results/solve_path.json (writes a PNG beside it)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

LABELS = {
    "loop_of_lstsq": "B task by task,\nlstsq rate by rate",
    "one_lstsq": "ONE lstsq of the\nstacked query rows",
    "exact_path_total": "innerloop: all rates",
}


def draw(source: Path) -> Path:
    """Draw the times of one result and return where."""
    result = json.loads(source.read_text())
    seconds, sizes = result["seconds"], result["sizes"]
    figure = Figure(figsize=(7, 3), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    bars = ax.barh(list(LABELS.values()), [seconds[name] for name in LABELS], color=["#999999", "#999999", "#0072B2"])
    ax.bar_label(bars, [f"{seconds[name]:.3g} s" for name in LABELS], padding=4)
    ax.set(
        xscale="log",
        xlabel="seconds (log scale)",
        title="{n_rates} rates, {n_tasks} tasks of {n_support} + {n_query} rows, {n_features} features".format(**sizes),
    )
    ax.margins(x=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    target = source.with_suffix(".png")
    figure.savefig(target, dpi=150)
    return target


if __name__ == "__main__":
    print(draw(Path(sys.argv[1])))
