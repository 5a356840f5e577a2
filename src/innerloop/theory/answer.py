"""All that is derived of a design beside its best rates, and in sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, final

import numpy as np
from numpy.typing import ArrayLike

from innerloop.distributions import Design, MixedLinearRegression
from innerloop.theory.bounds import ReferenceLosses, reference_losses
from innerloop.theory.expected import TrainingError
from innerloop.theory.law import LossInterval, chance_of_improvement, loss_interval
from innerloop.theory.optimum import RateOptimum
from innerloop.theory.sign import turning_noise

_T = TypeVar("_T")
# Probability of the interval of the loss on one training set.
LEVEL = 0.9


@final
@dataclass(frozen=True)
class TheoryAnswer:
    """What is known of a design at its best rates; None where it is not derived.

    Parameters
    ----------
    best
        The best rates.
    references
        Losses of other estimators.
    interval
        Where the loss of one training set lies with probability `LEVEL`.
    chance
        Probability that the best inner rate does better than zero on one training set.
    turning_noise
        Label noise at which the sign of the best rate turns.
    """

    best: RateOptimum
    references: ReferenceLosses | None
    interval: LossInterval | None
    chance: float | None
    turning_noise: float | None

    @classmethod
    def of(
        cls, dist: MixedLinearRegression, design: Design, best: RateOptimum, init: ArrayLike | None = None
    ) -> TheoryAnswer:
        """Return all that is derived."""
        pair = best.inner_lr, best.adapt_lr
        return cls(
            best,
            derived(lambda: reference_losses(dist, design, init, best)),
            derived(lambda: loss_interval(dist, design, *pair, level=LEVEL, init=init)),
            derived(lambda: chance_from(dist, design, best.inner_lr, init)),
            derived(lambda: turning_noise(dist, design, best.adapt_lr_no_inner, init)),
        )

    def sentences(self, design: Design) -> list[str]:
        """Return the sign of the best rate and what follows, a sentence or two an entry."""
        best, sign = self.best, {-1: "negative", 0: "zero", 1: "positive"}[self.best.sign]
        side = " from the left" if np.isinf(best.loss_plus_infinity) else ""
        ends = ("negative", best.loss_minus_infinity), ("positive", best.loss_plus_infinity)
        limits = [f"{loss:.5g} ({name})" for name, loss in ends if not np.isnan(loss)]
        lines = [
            f"The best training rate is {sign}; slope at inner_lr = 0{side}: {best.slope_at_zero:+.4g}."
            + (f" Loss far from zero: {' and '.join(limits)}." if limits else "")
        ]
        if self.turning_noise:
            lines.append(f"Near zero the sign turns at a label noise of {self.turning_noise:.3g}: positive below.")
        if best.overshoots:
            lines.append("Steps at that rate overshoot in the steepest directions of a support (inner_lr s > 2).")
        if best.loss_untrained <= best.loss:
            lines.append("Not to train at all is better: start new tasks from the start of meta-training.")
        if np.isinf(best.l2):
            lines.append("The best penalty is infinite: do not train.")
        elif design.l2 > 0:
            lines.append(f"Penalty l2 {design.l2:.4g}.")
        if self.interval is not None:
            lines.append(
                f"On one training set: loss {self.interval.low:.5f} to {self.interval.high:.5f} with probability "
                f"{100 * LEVEL:.0f} %."
            )
        if self.chance is not None:
            lines.append(f"The best rate beats inner_lr = 0 on {100 * self.chance:.0f} % of training sets.")
        return lines


def chance_from(dist: MixedLinearRegression, design: Design, inner_lr: float, init: ArrayLike | None = None) -> float:
    """Return `chance_of_improvement` for a start of meta-training, or refuse where the start matters and is not known.

    Raises
    ------
    ValueError
        As there, and where the start is not the centre of the tasks and it matters.
    """
    start = TrainingError(dist, design, init).at_start().sum()
    if start > 0 and (design.l2 > 0 or design.n_query_rows < dist.n_features):
        raise ValueError("`init` must be the centre of the tasks, where it matters: no other chance is derived.")
    return chance_of_improvement(dist, design, inner_lr)


def derived(compute: Callable[[], _T]) -> _T | None:
    """Return a result, or None where it is refused by name."""
    try:
        return compute()
    except ValueError:
        return None
