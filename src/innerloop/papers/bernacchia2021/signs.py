"""Where the best inner rate turns its sign: exact boundaries over the spectrum, the tasks' covariance and the test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.plots.style import BLUE, GREEN, GREY, ORANGE
from innerloop.theory import turning_noise

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_FEATURES, DESIGN = 20, Design(3, 20, 20, 20)
POWERS, ADAPT_LRS = (-0.5, 0.0, 0.5, 1.0), (0.0, 0.2, 0.4)
CAPTION = (
    "Three tasks of 20 query rows, 20 features with variances j^-decay: exact at finite size. Above a line a slightly "
    "positive inner_lr is better than none, below it a slightly negative one. Tasks differ by the covariance T; with T "
    "proportional to the inverse of that of the features, or equal variances (decay 0), the best rate is negative at "
    "any spread."
)
_DECAYS = np.linspace(0.1, 1.5, 57)


def compute() -> dict[str, FloatArray]:
    """Return the spread of the tasks over the noise, tr(Sigma T) / sigma^2, at which the sign turns.

    Returns
    -------
    dict
        "decay" (n,); "by_tasks" (n_powers, n), for T proportional to Sigma^g, g in `POWERS`, without adaptation; and
        "by_test" (n_rates, n), for equal variances of the tasks and adaptation rates `ADAPT_LRS`.
    """
    return {
        "decay": _DECAYS,
        "by_tasks": np.array([[boundary(d, g, 0.0) for d in _DECAYS] for g in POWERS]),
        "by_test": np.array([[boundary(d, 0.0, r) for d in _DECAYS] for r in ADAPT_LRS]),
    }


def boundary(decay: float, power: float, adapt_lr: float) -> float:
    """Return the spread over the noise at which the sign turns; infinite where it does not."""
    s = np.arange(1, N_FEATURES + 1) ** -decay
    s = s / s.mean()
    dist = MixedLinearRegression(N_FEATURES, 1.0, s ** (power / 2), covariance=s)
    noise = turning_noise(dist, DESIGN, adapt_lr)
    return float(s @ dist.task_variances / noise**2) if noise > 0 else np.inf


def draw(arrays: Mapping[str, Any], ax: Mapping[str, Axes]) -> None:
    """Draw the boundaries: over the tasks' covariance under "a", over the adaptation rate under "b"."""
    colors = (GREY, BLUE, GREEN, ORANGE)
    panels = (
        ("a", "by_tasks", [f"T ~ Sigma^{g:g}" for g in POWERS], "adapt_lr = 0"),
        ("b", "by_test", [f"adapt_lr = {r:g}" for r in ADAPT_LRS], "T ~ I"),
    )
    for letter, name, labels, title in panels:
        for values, label, color in zip(arrays[name], labels, colors, strict=False):
            ax[letter].plot(arrays["decay"], values, color=color, label=label)
        ax[letter].set(yscale="log", ylim=(0.1, 300), xlabel="decay of the feature variances", title=title)
        ax[letter].text(0.97, 0.93, "positive rate", transform=ax[letter].transAxes, ha="right")
        ax[letter].text(0.03, 0.05, "negative rate", transform=ax[letter].transAxes)
        ax[letter].set_title(letter, loc="left", fontweight="bold")
        ax[letter].legend(fontsize=8, loc="center right")
    ax["a"].set_ylabel("spread of the tasks over the noise")
