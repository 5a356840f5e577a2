"""Draw the pictures of the pages that explain: python docs/pictures.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import innerloop as il

IMAGES = Path(__file__).parent / "images"
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


if __name__ == "__main__":
    print(draw_choice(IMAGES / "choice.png").to_string())
