"""The best inner rate, and what it gains, over N/p and n_support/p: theory everywhere, Monte Carlo at points."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.progress import progress as progress_bar
from innerloop._blocks.pool import gather
from innerloop._blocks.store import BlockStore, MemoryStore, Store
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.plots.style import GREY
from innerloop.simulation import estimate_loss
from innerloop.theory import optimal_rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Arrays = dict[str, Any]

DIST = MixedLinearRegression(n_features=60, noise_std=1.0, task_std=0.5)
N_QUERY, N_ADAPT = 3, 20
CAPTION = (
    "60 features, noise 1, task spread 0.5, 3 query rows a task, 20 rows to adapt on, the best adapt_lr everywhere. "
    "Circles: Monte Carlo; where they cannot be seen, theory and Monte Carlo agree. White: next to N = p, where no "
    "mean exists."
)
_RATIOS, _SUPPORTS = (0.05, 20.0), (0.1, 5.0)
_POINT_RATIOS, _POINT_SUPPORTS = (0.1, 0.4, 0.8, 1.5, 4.0, 12.0), (0.2, 0.7, 2.5)
_VERSION = 1


def compute(scale: float = 1.0, store: Path | None = None, n_jobs: int = 1, progress: bool = False) -> Arrays:
    """Return the map and the points.

    Parameters
    ----------
    scale
        Part of the full size, of the map and of the runs at its points.
    store
        Folder for finished rows of the map.
    n_jobs, progress
        As in `estimate_loss`.

    Returns
    -------
    dict
        "ratio" (n,) and "support" (k,), the axes; "inner_lr" and "gain" (k, n), in percent of the loss with
        inner_lr = 0; and "points" (n_points, 5): both coordinates, the rate and the gain by Monte Carlo, and the
        standard error of the gain.
    """
    n_ratios, n_supports = max(5, round(31 * scale)), max(3, round(21 * scale))
    n_runs = max(20, round(400 * scale))
    ratios, supports = np.geomspace(*_RATIOS, n_ratios), np.geomspace(*_SUPPORTS, n_supports)
    points = [(x, y) for y in _POINT_SUPPORTS for x in _POINT_RATIOS]
    plan = {"map": _VERSION, "n_ratios": n_ratios, "n_supports": n_supports, "n_runs": n_runs}
    blocks: Store = MemoryStore(1) if store is None else BlockStore(store, plan, 1)
    compute_block = partial(_block, ratios, supports, points, n_runs)
    n_blocks = n_supports + len(points)
    with progress_bar("Mapping", n_blocks, progress) as tick:
        results = gather(compute_block, range(n_blocks), blocks, n_jobs, tick=tick)
    rows = np.array([part["row"] for part in results[:n_supports]])
    return {
        "ratio": ratios,
        "support": supports,
        "inner_lr": rows[:, 0],
        "gain": rows[:, 1],
        "points": np.array([part["point"] for part in results[n_supports:]]),
    }


def _block(
    ratios: FloatArray, supports: FloatArray, points: list[tuple[float, float]], n_runs: int, block: int
) -> dict[str, FloatArray]:
    """Return one row of the map, or one point."""
    if block < len(supports):
        return {"row": np.array([best_rate(design_at(x, supports[block])) for x in ratios]).T}
    x, y = points[block - len(supports)]
    return {"point": np.array([x, y, *measured_rate(design_at(x, y), n_runs)])}


def design_at(ratio: float, support: float) -> Design:
    """Return the design with so many query and support rows per feature."""
    p = DIST.n_features
    return Design(max(1, round(ratio * p / N_QUERY)), max(1, round(support * p)), N_QUERY, N_ADAPT)


def best_rate(design: Design) -> tuple[float, float]:
    """Return the best inner rate and its gain in percent; NaN where no expectation exists."""
    if abs(design.n_query_rows - DIST.n_features) <= 1:
        return np.nan, np.nan
    best = optimal_rates(DIST, design)
    return best.inner_lr, 100 * (1 - best.loss / best.loss_no_inner)


def measured_rate(design: Design, n_runs: int) -> tuple[float, float, float]:
    """Return the best inner rate by Monte Carlo, and the gain with its standard error."""
    best = optimal_rates(DIST, design)
    rates = best.inner_lr * np.linspace(0.5, 1.5, 41)
    estimate = estimate_loss(DIST, design, rates, [best.adapt_lr, best.adapt_lr_no_inner], n_runs=n_runs)
    free = estimate.isel(adapt_lr=0)
    # With isotropic features both rates decouple, so that the curve has its minimum where each adapt_lr has it.
    lowest = _vertex(rates, free["loss"].values)
    at = estimate_loss(DIST, design, [lowest, 0.0], [best.adapt_lr, best.adapt_lr_no_inner], n_runs=n_runs)
    loss, without = float(at["loss"][0, 0]), float(at["loss"][1, 1])
    error = float(np.hypot(at["stderr"][0, 0], at["stderr"][1, 1]))
    return lowest, 100 * (1 - loss / without), 100 * error / without


def _vertex(rates: FloatArray, losses: FloatArray) -> float:
    """Return where the parabola through the losses around the lowest has its minimum."""
    low = int(np.clip(losses.argmin(), 3, len(rates) - 4))
    near = slice(low - 3, low + 4)
    c2, c1, _ = np.polyfit(rates[near], losses[near], 2)
    inside = sorted((rates[near][0], rates[near][-1]))
    return float(np.clip(-c1 / (2 * c2), *inside)) if c2 > 0 else float(rates[losses.argmin()])


def draw(arrays: Mapping[str, Any], ax: Mapping[str, Axes]) -> None:
    """Draw the best rate and its gain.

    Parameters
    ----------
    arrays
        From `compute`.
    ax
        Axes under "a" and "b".
    """
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import NullLocator

    size = -arrays["inner_lr"]
    panels = (
        ("a", size, -arrays["points"][:, 2], LogNorm(0.01, 10), "minus the best inner_lr", [0.03, 0.1, 0.3, 1, 3]),
        ("b", arrays["gain"], arrays["points"][:, 3], Normalize(0, 30), "gain over inner_lr = 0 (%)", [1, 3, 10, 20]),
    )
    coordinates = arrays["ratio"], arrays["support"]
    for letter, values, points, norm, label, levels in panels:
        axis = ax[letter]
        image = axis.pcolormesh(*coordinates, values, shading="nearest", rasterized=True, cmap="viridis", norm=norm)
        lines = axis.contour(*coordinates, values, levels, colors="white", linewidths=0.8)
        axis.clabel(lines, fmt="%g", fontsize=8, inline=False)
        x, y = arrays["points"][:, :2].T
        axis.scatter(x, y, c=points, s=70, edgecolors="white", linewidths=0.8, zorder=3, cmap="viridis", norm=norm)
        axis.axvline(1, color=GREY, lw=0.8, ls=":")
        axis.set(xscale="log", yscale="log", xlabel="N/p (query rows per feature)", ylabel="n_support/p")
        axis.set_xticks([0.05, 0.1, 0.3, 1, 3, 10], minor=False)
        axis.set_yticks([0.1, 0.3, 1, 3], minor=False)
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_formatter("{x:g}")
            scale.set_minor_locator(NullLocator())
        axis.set_title(letter, loc="left", fontweight="bold")
        bar = axis.figure.colorbar(image, ax=axis, extend="both" if letter == "a" else "max", format="{x:g}")
        bar.set_label(label)
