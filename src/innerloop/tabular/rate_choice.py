"""Choice of rates and penalty by held-out loss.

After meta-training, a held-out task's loss is a polynomial of degree 2K in its adaptation rate (a parabola for one
step). From its coefficients the loss at any adaptation rate, and the best rate, follow exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.standard_errors import mean_and_error
from innerloop.exact.query_loss import lowest, polynomial_values

# Adaptation rates at which losses are tabulated, as multiples of the unit or of the best rate.
ADAPT_GRID = np.arange(-10, 41) / 20

Adapt = Literal["tuned", "tied", "none"] | float


@final
@dataclass(frozen=True)
class Rates:
    """Inner rate, adaptation rate and penalty."""

    inner_lr: float
    adapt_lr: float
    l2: float


@final
@dataclass(frozen=True, eq=False)
class Candidate:
    """Rates, and the held-out mean squared error of each task at them."""

    rates: Rates
    mse: FloatArray = field(repr=False)

    def gain_over(self, other: Candidate) -> tuple[float, float]:
        """Return how much lower the mean error is than the other's, and its standard error, paired over tasks."""
        return mean_and_error(other.mse - self.mse)


@final
@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out loss of many tasks for every inner rate and penalty, as a function of the adaptation rate.

    Parameters
    ----------
    inner_lrs : (n_inner,)
    l2s : (n_l2,)
    unit
        See `held_out_curves`.
    curves : (n_tasks, n_inner, n_l2, 2K + 1)
        See `held_out_curves`.
    adapt_lr
        The adaptation rate if it is given; None if it is to be chosen.
    """

    inner_lrs: FloatArray
    l2s: FloatArray
    unit: float
    curves: FloatArray = field(repr=False)
    adapt_lr: float | None

    @cached_property
    def mean(self) -> FloatArray:
        """The mean curves over tasks: (n_inner, n_l2, 2K + 1)."""
        return np.asarray(self.curves.mean(axis=0))

    @cached_property
    def _tuned(self) -> tuple[FloatArray, FloatArray]:
        """The best adaptation rate (in units) of every candidate, and the mean error there."""
        return self._at_best(self.mean, "tuned")

    def best(self, adapt: Adapt = "tuned", inner_lr: float | None = None) -> Candidate:
        """Return the candidate of lowest mean error.

        Parameters
        ----------
        adapt
            "tuned" for each inner rate, "tied" to it, "none" (zero), or a number. Where `adapt_lr` is given, "tuned"
            means that rate.
        inner_lr
            One inner rate of the grid to choose from; None for all.
        """
        t, loss = self._at_best(self.mean, adapt) if adapt != "tuned" else self._tuned
        if inner_lr is not None:
            loss = np.where(self.inner_lrs[:, None] == inner_lr, loss, np.inf)
        i, j = np.unravel_index(np.argmin(loss), loss.shape)
        rates = Rates(float(self.inner_lrs[i]), float(t[i, j] * self.unit), float(self.l2s[j]))
        return Candidate(rates, polynomial_values(self.curves[:, i, j], t[i, j]))

    def choose(self) -> Candidate:
        """Return the simplest candidate within one standard error of the best.

        From simple to rich: neither an inner loop nor adaptation; adaptation only; an inner loop in training too.
        Standard errors are of differences paired over tasks.
        """
        plain = 0.0 if (self.inner_lrs == 0).any() else None
        pairs: list[tuple[Adapt, float | None]] = [("none", plain), ("tuned", plain), ("tuned", None)]
        candidates = [self.best(*pair) for pair in pairs if pair[0] == "tuned" or self.adapt_lr is None]
        best = min(candidates, key=lambda c: float(c.mse.mean()))
        return next(c for c in candidates if c is best or _within_one_error(best, c))

    def along(self, name: Literal["inner_lr", "adapt_lr"], rates: Rates) -> tuple[FloatArray, FloatArray]:
        """Return each task's loss over values of one rate, with the other and the penalty fixed.

        Returns
        -------
        values : (n_points,)
            Of the rate.
        mse : (n_tasks, n_points)
        """
        at_l2 = self.curves[:, :, int((self.l2s == rates.l2).argmax())]
        if name == "inner_lr":
            return self.inner_lrs, polynomial_values(at_l2, np.array(rates.adapt_lr / self.unit))
        adapt_lrs = max(self.unit, abs(rates.adapt_lr)) * ADAPT_GRID
        at_inner = at_l2[:, int((self.inner_lrs == rates.inner_lr).argmax())]
        return adapt_lrs, polynomial_values(at_inner[:, None], adapt_lrs / self.unit)

    def standard_errors(self, seed: int, n_resamples: int = 200) -> tuple[float, float]:
        """Return bootstrap standard errors of the best inner rate and the best adaptation rate.

        In each resample of the tasks the pair of lowest loss is found anew.
        """
        rng = np.random.default_rng(seed)
        n_tasks = len(self.curves)
        weights = rng.multinomial(n_tasks, np.full(n_tasks, 1 / n_tasks), size=n_resamples) / n_tasks
        means = np.tensordot(weights, self.curves, axes=1)
        t, loss = self._at_best(means, "tuned")
        best = np.argmin(loss.reshape(n_resamples, -1), axis=1)
        inner = self.inner_lrs[best // len(self.l2s)]
        adapt = t.reshape(n_resamples, -1)[np.arange(n_resamples), best] * self.unit
        return float(inner.std(ddof=1)), float(adapt.std(ddof=1))

    def table(self) -> dict[str, FloatArray]:
        """Return held-out losses over the grid of (inner_lr, l2, adapt_lr), one array per column.

        "difference" is to inner_lr = 0 at its best adaptation rate and penalty, paired over tasks, and
        "difference_se" its standard error.
        """
        n_tasks, n_powers = len(self.curves), self.curves.shape[-1]
        scale = max(self.unit, abs(self.best().rates.adapt_lr))
        adapt_lrs = scale * ADAPT_GRID if self.adapt_lr is None else np.array([self.adapt_lr])
        powers = (adapt_lrs[:, None] / self.unit) ** np.arange(n_powers)
        base = self.best("tuned", 0.0).mse if (self.inner_lrs == 0).any() else np.full(n_tasks, np.nan)
        shifted = self.curves.copy()
        shifted[..., 0] -= base[:, None, None]
        grid = np.meshgrid(self.inner_lrs, self.l2s, adapt_lrs, indexing="ij")
        columns = dict(zip(("inner_lr", "l2", "adapt_lr"), (g.ravel() for g in grid), strict=True))
        for name, curves in (("mse", self.curves), ("difference", shifted)):
            mean = curves.mean(axis=0)
            centred = (curves - mean).reshape(n_tasks, -1, n_powers)
            covariance = np.einsum("tcm,tcn->cmn", centred, centred) / max(n_tasks - 1, 1)
            variance = np.einsum("rm,cmn,rn->cr", powers, covariance, powers)
            columns[name] = np.einsum("ijm,rm->ijr", mean, powers).ravel()
            columns[name + "_se"] = np.sqrt(np.maximum(variance, 0.0) / n_tasks).ravel()
        return columns

    def _at_best(self, curves: FloatArray, adapt: Adapt) -> tuple[FloatArray, FloatArray]:
        """Return the adaptation rate (in units) of every candidate, and the error of mean curves there."""
        if adapt == "tuned" and self.adapt_lr is not None:
            adapt = self.adapt_lr
        if adapt == "tuned":
            t = lowest(curves)
        else:
            rate = {"tied": self.inner_lrs, "none": np.zeros(1)}.get(str(adapt), np.array([adapt]))
            t = np.broadcast_to((np.asarray(rate, float) / self.unit)[:, None], curves.shape[:-1])
        return t, polynomial_values(curves, t)


def _within_one_error(best: Candidate, other: Candidate) -> bool:
    gain, error = best.gain_over(other)
    return gain <= error
