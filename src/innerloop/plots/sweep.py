"""Pictures of sweeps: what many training rates come to, and by how much they differ from none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from innerloop.plots.style import BLUE, GREY, ORANGE

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


# Fewer do not tell a standard error.
ENOUGH_SEEDS = 3


def plot_sweep(result: xr.Dataset, what: str) -> Figure:
    """Draw the metric of each training rate, and its paired difference to inner_lr = 0.

    Parameters
    ----------
    result
        From `innerloop.neural.sweep`, with a metric.
    what
        What the metric is called.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    rates, n_seeds = result["inner_lr"].values, result.sizes["seed"]
    has_errors = n_seeds >= ENOUGH_SEEDS
    for ax, name, label, colour in (
        (left, "", what, BLUE),
        (right, "_difference", f"{what} minus inner_lr = 0", ORANGE),
    ):
        for values in result["metric_by_seed"].values:
            baseline = values[rates == 0] if name else 0.0
            ax.plot(rates, values - baseline, color=GREY, lw=0.5, alpha=0.5)
        ax.errorbar(
            *(rates, result[f"metric{name}"].values),
            yerr=result[f"metric{name}_stderr"].values if has_errors else None,
            **{"fmt": "o-", "ms": 3.5, "color": colour, "capsize": 2, "lw": 1},
        )
        ax.axvline(0, color=GREY, lw=0.6)
        ax.set(xlabel="inner_lr in training", ylabel=label)
    right.axhline(0, color=GREY, lw=0.6)
    seeds = f"{n_seeds} seed{'s' if n_seeds > 1 else ''}{' ± 1 s.e.' if has_errors else ''}"
    left.set_title(f"mean over {seeds} (grey: each seed)", fontsize=9)
    right.set_title("paired over seeds", fontsize=9)
    return figure
