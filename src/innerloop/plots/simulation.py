"""Pictures of estimated losses: dots with error bars, and theory through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from innerloop.distributions import Design, MixedLinearRegression
from innerloop.plots.style import BLUE, GREY, ORANGE
from innerloop.theory import expected_loss

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_N_RATES = 241


def plot_estimate(
    estimate: xr.Dataset, dist: MixedLinearRegression, design: Design, init: ArrayLike | None = None
) -> Figure:
    """Draw estimated losses against the rate that varies, and the predicted ones.

    Parameters
    ----------
    estimate
        From `estimate_loss`.
    dist, design, init
        As given to it.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    inner = estimate.sizes["inner_lr"] > 1 or estimate.sizes["adapt_lr"] == 1
    lines = estimate.isel(adapt_lr=0) if inner else estimate.isel(inner_lr=0)
    varied, fixed = ("inner_lr", "adapt_lr") if inner else ("adapt_lr", "inner_lr")
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    ax = figure.subplots()
    rates, at = lines[varied].values, float(lines[fixed])
    plot_dots(ax, rates, lines["loss"].values, lines["stderr"].values, f"Monte Carlo, {estimate.n_runs} runs, ± 1 s.e.")
    fine = np.linspace(rates.min(), rates.max(), _N_RATES)
    try:
        predicted = (
            expected_loss(dist, design, fine, at, init) if inner else expected_loss(dist, design, at, fine, init)
        )
        ax.plot(fine, predicted, color=ORANGE, label="theory")
    except ValueError:  # not derived for this design: there are the dots
        pass
    ax.axvline(0, color=GREY, lw=0.6)
    ax.set(xlabel=varied, ylabel="test loss (half MSE)", title=f"{fixed} = {at:.3g}")
    ax.legend(fontsize=8)
    return figure


def plot_dots(ax: Axes, rates: ArrayLike, losses: ArrayLike, errors: ArrayLike, label: str) -> None:
    """Draw losses as dots with error bars."""
    ax.errorbar(rates, losses, errors, fmt="o", ms=3.5, color=BLUE, capsize=2, lw=1, label=label, zorder=3)
