"""Draw the pictures of the README and of pages: python docs/pictures.py [name ...].

Each picture has a function here, but those of LONG, which commands on their pages draw in minutes to hours. The site
draws others when it is built: tutorials, benchmarks, the house.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import innerloop as il

IMAGES = Path(__file__).parent / "images"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
COLOURS = ("#999999", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9")
LINES = (":", "-.", "--", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))


def table(n_groups: int = 40, n_rows: int = 14) -> il.TaskSet:
    """Return groups that differ in level and slope."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(n_groups), n_rows)
    X = rng.standard_normal((len(group), 3))
    y = X @ [2.0, 1.0, 0.0] + rng.standard_normal(n_groups)[group] + X[:, 0] * rng.standard_normal(n_groups)[group]
    return il.TaskSet.from_arrays(X, y + rng.standard_normal(len(group)), group)


def draw_choice(picture: Path) -> pd.DataFrame:
    """Draw the held-out error of each candidate, and its weight, against the rows of a group."""
    tasks = table()
    model = il.MetaRegressor(basis="linear").fit(tasks.X, tasks.y, groups=tasks.task_of_row)
    results = pd.DataFrame(model.adaptation_results_)
    fig, (error, weight) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
    names = [name for name in results["adaptation"].unique() if name != "chosen"]
    for name, colour, line in zip(names, COLOURS, LINES, strict=False):
        part = results[results["adaptation"] == name]
        error.plot(part["n_support"], part["mse"], ls=line, color=colour, label=name)
        weight.plot(part["n_support"], part["weight"], ls=line, color=colour, label=name)
    part = results[results["adaptation"] == "chosen"]
    error.plot(part["n_support"], part["mse"], color="black", lw=2, label="the combination")
    error.set(xlabel="rows of the held-out group", ylabel="mean squared error")
    weight.set(xlabel="rows of the held-out group", ylabel="weight in the combination", ylim=(-0.03, 1.03))
    weight.legend(*error.get_legend_handles_labels(), frameon=False, loc="upper right")
    fig.savefig(picture, dpi=110)
    plt.close(fig)
    return results


def draw_by(command: str, drawn: str, picture: Path) -> None:
    """Run a command, and take one of the pictures that it draws."""
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-m", *shlex.split(command)]
        subprocess.run(run, cwd=folder, check=True, capture_output=True)
        shutil.copy(Path(folder) / drawn, picture)


def draw_demo(picture: Path) -> None:
    """Draw held-out loss of the paper's model, of `innerloop demo`."""
    draw_by("innerloop demo --out demo", "demo/paper/held_out_loss.png", picture)


def draw_fig2(picture: Path) -> None:
    """Draw Figure 2 of the paper."""
    draw_by("innerloop reproduce fig2 --out figures", "figures/fig2.png", picture)


def draw_widths(picture: Path) -> None:
    """Draw the distance of networks to their kernel, from the committed result."""
    from network_width import draw

    draw(json.loads((BENCHMARKS / "results" / "network_width.json").read_text()), picture)


def draw_census(picture: Path) -> None:
    """Draw the census, from the committed result."""
    from census import draw

    draw(BENCHMARKS / "results" / "census.csv", picture)


DRAWINGS = {
    "census.png": draw_census,
    "choice.png": draw_choice,
    "demo.png": draw_demo,
    "fig2.png": draw_fig2,
    "network_width.png": draw_widths,
}
LONG = {
    "fig5.png": "innerloop reproduce fig5",
    "sweep_omniglot.png": "innerloop train --task omniglot",
    "sweep_sinusoid.png": "innerloop train --task sinusoid",
}

if __name__ == "__main__":
    sys.path.append(str(BENCHMARKS))
    for name in sys.argv[1:] or DRAWINGS:
        DRAWINGS[name](IMAGES / name)
        print(name, flush=True)
