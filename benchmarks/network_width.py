"""How far trained networks are from their kernel prediction, at several widths: JSON and a picture.

    python benchmarks/network_width.py --out benchmarks/results/network_width.json

The networks of Figure 5 are trained to nearly zero meta-training loss, then adapted to new tasks. Distance: root mean
square difference of their outputs to those of the infinite-width kernel that starts from the same function, as a part
of the root mean square of the latter.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import innerloop as il
from innerloop.papers.bernacchia2021 import fig5, network

WIDTHS, RATES, N_SEEDS, SEEDS_AT_ONCE = [32, 128, 512, 2048], [-0.4, 0.0, 0.4], 8, 2


def measure(
    widths: Sequence[int] = WIDTHS, n_seeds: int = N_SEEDS, letters: str = "abc", rates: Sequence[float] = RATES
) -> dict[str, Any]:
    """Return the distance (n_widths, n_rates) for each setting of Figure 5."""
    return {
        "widths": list(widths),
        "inner_lr": list(rates),
        "n_seeds": n_seeds,
        "distance": {letter: [distance(letter, width, n_seeds, rates) for width in widths] for letter in letters},
    }


def distance(letter: str, width: int, n_seeds: int, rates: Sequence[float]) -> list[float]:
    """Return the distance at each rate, over all seeds."""
    setting, error, size = fig5.SETTINGS[letter], np.zeros(len(rates)), np.zeros(len(rates))
    for first in range(0, n_seeds, SEEDS_AT_ONCE):
        runs = fig5.prepare(setting, range(first, first + SEEDS_AT_ONCE), width)
        params, _ = fig5.train_networks(runs, np.array(rates))
        path, tests = il.solve_path(runs.objective, rates), [list(run)[:10] for run in runs.test]
        tasks = network.Tasks(*(part[:, :10] for part in fig5.as_tensors(runs.test, len(rates))))
        adapt_lrs = torch.full((len(tasks.X_query),), setting.adapt_lr)
        found = network.predict(params, tasks, adapt_lrs, fig5.BIAS_STD).double().numpy()
        found = found.reshape(SEEDS_AT_ONCE, len(rates), 10, -1)
        for i in range(10):
            X, y, V, _ = (np.stack(parts) for parts in zip(*(run[i] for run in tests), strict=True))
            expected = path.adapt(V, X, y, setting.adapt_lr)
            error += np.square(found[:, :, i].swapaxes(0, 1) - expected).sum(axis=(1, 2))
            size += np.square(expected).sum(axis=(1, 2))
    return np.sqrt(error / size).tolist()


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the distances against width."""
    from matplotlib.figure import Figure

    from innerloop.plots.style import BLUE, GREEN, GREY, ORANGE, save_figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, len(result["distance"]), sharey=True, squeeze=False)[0]
    for ax, (letter, distances) in zip(axes, result["distance"].items(), strict=True):
        looks = zip((BLUE, GREEN, ORANGE), "osv", strict=True)
        for line, (colour, marker), rate in zip(np.transpose(distances), looks, result["inner_lr"], strict=True):
            ax.loglog(result["widths"], line, marker=marker, color=colour, ms=4, label=f"inner_lr = {rate:g}")
        guide = 0.5 * np.min(distances[0]) * np.sqrt(result["widths"][0] / np.array(result["widths"]))
        ax.loglog(result["widths"], guide, color=GREY, ls=":", label=r"$1/\sqrt{\mathrm{width}}$")
        ax.set(xlabel="width", xticks=result["widths"])
        ax.set_xticklabels([f"{width:g}" for width in result["widths"]])
        ax.minorticks_off()
        ax.set_title(letter, loc="left", fontweight="bold")
    axes[0].set(ylabel="distance to the kernel prediction", yticks=[0.05, 0.1, 0.2, 0.5])
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].minorticks_off()
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4, frameon=False)
    save_figure(figure, path)


def main() -> None:
    from solve_path import environment

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    result = measure()
    out.write_text(json.dumps({**result, "environment": environment()}, indent=1) + "\n")
    draw(result, out.with_suffix(".png"))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
