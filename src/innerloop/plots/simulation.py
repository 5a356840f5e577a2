"""The picture of losses estimated by simulation: dots with error bars, and a theory through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from innerloop.plots.style import BLUE, GREY, ORANGE, axes_or_new, legend_below

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

# Values of a rate at which a theory is evaluated, and the most series that the legend names.
_N_RATES, _MOST_NAMED = 241, 7


def plot_simulation(result: xr.Dataset, ax: Axes | None = None, theory: Callable[..., ArrayLike] | None = None) -> Axes:
    """Draw simulated losses against the rate that has more values, one series for each value of the other.

    Losses are half mean squared errors on new tasks, with their standard errors as bars.

    Parameters
    ----------
    result
        From `estimate_loss`. ``result.sel(adapt_lr=0.2)`` draws a part of it.
    ax
        Axes to draw on; None draws on those of a new pyplot figure.
    theory
        The expected loss as a function of (inner_lr, adapt_lr) that broadcasts, drawn as a line through each series:
        ``functools.partial(innerloop.expected_loss, dist, design)``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes that were drawn on.

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import innerloop as il
    >>> dist, design = il.MixedLinearRegression(10), il.Design(n_tasks=5, n_support=5, n_query=5)
    >>> ax = il.plot_simulation(il.estimate_loss(dist, design, [-0.1, 0.0, 0.1], 0.2, n_runs=20))
    """
    ax = axes_or_new(ax)
    result = result.expand_dims([name for name in ("inner_lr", "adapt_lr") if name not in result.dims])
    by_inner = result.sizes["inner_lr"] >= result.sizes["adapt_lr"]
    against, other = ("inner_lr", "adapt_lr") if by_inner else ("adapt_lr", "inner_lr")
    result = result.sortby([against, other])
    rates, n_series = result[against].values, result.sizes[other]
    fine = np.linspace(rates.min(), rates.max(), _N_RATES)
    named = set(np.linspace(0, n_series - 1, min(n_series, _MOST_NAMED)).astype(int))
    for i, colour in enumerate(_colours(n_series)):
        series = result.isel({other: i})
        fixed = float(series[other])
        ax.errorbar(
            rates,
            series["loss"].values,
            series["stderr"].values,
            fmt="o",
            ms=3.5,
            color=colour,
            capsize=2,
            lw=1,
            zorder=3,
            label=f"{other} = {fixed:.3g}" if i in named else None,
        )
        if theory is not None:
            expected = theory(fine, fixed) if by_inner else theory(fixed, fine)
            ax.plot(fine, expected, color=ORANGE if n_series == 1 else colour, label=None if i else "theory (line)")
    ax.axvline(0, color=GREY, lw=0.6, zorder=1.5)
    where = "meta-training" if by_inner else "new task"
    title = f"Monte Carlo, {result.n_runs} runs, ± 1 s.e."
    ax.set(xlabel=f"{against} ({where})", ylabel="test loss (half MSE)", title=title)
    legend_below(ax)
    return ax


def _colours(n: int) -> list[str] | list[tuple[float, float, float, float]]:
    """Return so many colours; several run through a map that is ordered in lightness too."""
    if n == 1:
        return [BLUE]
    import matplotlib as mpl

    return [mpl.colormaps["viridis"](part) for part in np.linspace(0, 0.85, n)]
