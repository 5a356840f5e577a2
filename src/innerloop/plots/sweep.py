"""The picture of a sweep: test scores against the inner rate of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from innerloop.plots.style import BLUE, GREEN, GREY, ORANGE

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


# Standard errors over fewer seeds than this are neither drawn nor printed.
FEWEST_SEEDS = 3


def plot_sweep(result: xr.Dataset, ax: Axes, label: str | None = None, difference: bool = False) -> Axes:
    """Draw the test score of each inner rate of training: the metric, or the loss where there is none.

    Where the result holds what `innerloop.neural.linearized_sweep` found, its names with ``kernel_`` before them, that
    is drawn too.

    Parameters
    ----------
    result
        From `innerloop.neural.sweep`.
    ax
        Axes to draw on.
    label
        What the score is called; None: "metric", or "loss".
    difference
        Draw the paired difference to inner_lr = 0 instead.

    Returns
    -------
    matplotlib.axes.Axes
        The axes that were drawn on.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import sweep
    >>> rates = [-0.01, 0.0, 0.01]
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> sizes = {"n_seeds": 2, "n_iterations": 3, "n_validation": 8, "n_test": 8}
    >>> result = sweep(lambda: torch.nn.Linear(1, 1), il.Sinusoid(), design, rates, [0.01, 0.03], **sizes)
    >>> import matplotlib.pyplot as plt
    >>> ax = il.plot_sweep(result, plt.figure().add_subplot())
    """
    score = "metric" if "metric" in result else "loss"
    prefix, label = "metric_" if score == "metric" else "", score if label is None else label
    rates, n_seeds = result["inner_lr"].values, result.sizes["seed"]
    has_errors = n_seeds >= FEWEST_SEEDS
    for values in result[f"{score}_by_seed"].values:
        baseline = values[rates == 0] if difference else 0.0
        ax.plot(rates, values - baseline, color=GREY, lw=0.5, alpha=0.5)
    mean, error = (f"{prefix}difference", f"{prefix}difference_stderr") if difference else (score, f"{prefix}stderr")
    ax.errorbar(
        rates,
        result[mean].values,
        yerr=result[error].values if has_errors else None,
        fmt="o-",
        ms=3.5,
        color=ORANGE if difference else BLUE,
        capsize=2,
        lw=1,
    )
    if f"kernel_{mean}" in result:
        ax.plot(rates, result[f"kernel_{mean}"].values, "--", color=GREEN, lw=1.2, label="tangent kernel")
        ax.legend(frameon=False, fontsize=8)
    ax.axvline(0, color=GREY, lw=0.6)
    if difference:
        ax.axhline(0, color=GREY, lw=0.6)
    seeds = f"{n_seeds} seed{'s' if n_seeds > 1 else ''}{' ± 1 s.e.' if has_errors else ''}"
    ax.set(xlabel="inner_lr (meta-training)", ylabel=f"{label} minus inner_lr = 0" if difference else label)
    ax.set_title("paired over seeds" if difference else f"mean over {seeds} (grey: each seed)", fontsize=9)
    return ax
