"""Losses that no inner loop reaches: all rows pooled, weighted, and Bayes-optimal (docs/theory.md, 26)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.theory.adapting import AdaptedLoss
from innerloop.theory.expected import TrainingError
from innerloop.theory.free_sum import FreeTask, free_resolvent, sum_of_free
from innerloop.theory.optimum import RateOptimum, optimal_rates
from innerloop.theory.spectrum import wishart_spectrum

_LEAST_NOISE = 1e-12


@final
@dataclass(frozen=True)
class ReferenceLosses:
    """What other estimators reach on the same rows: HALF mean squared errors on new tasks.

    Parameters
    ----------
    ridge_adaptation
        Meta-training at the best inner rate, and a ridge of the best strength on new tasks in place of gradient steps.
    pooled
        Least squares on all rows of all tasks, support and query, and the best adaptation rate.
    weighted
        The same with generalised least squares, the best linear unbiased meta-parameters.
    bayes
        The Bayes-optimal estimate, for a flat prior on the centre: generalised least squares and a ridge whose metric
        knows how well the centre is known. With fewer rows than features no flat prior is possible: NaN, as `weighted`.
    bayes_known_centre
        The same where the centre is known.
    floor
        The noise of a new row.

    Examples
    --------
    >>> import innerloop as il
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> losses = il.reference_losses(il.MixedLinearRegression(4), design)
    >>> bool(losses.floor < losses.bayes_known_centre < losses.bayes)
    True
    """

    ridge_adaptation: float
    pooled: float
    weighted: float
    bayes: float
    bayes_known_centre: float
    floor: float


def reference_losses(
    dist: MixedLinearRegression, design: Design, init: ArrayLike | None = None, best: RateOptimum | None = None
) -> ReferenceLosses:
    """Return the losses of estimators without an inner loop, to compare a design's best rates with.

    Parameters
    ----------
    dist, design, init
        As in `expected_loss`; features and tasks isotropic.
    best
        What `optimal_rates` gives for them, if it is known already.

    Returns
    -------
    ReferenceLosses

    Raises
    ------
    ValueError
        Unless features and tasks are isotropic and features Gaussian.

    Notes
    -----
    Equations 26.1 to 26.3 of docs/theory.md.

    Examples
    --------
    >>> import innerloop as il
    >>> dist, design = il.MixedLinearRegression(4), il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> losses = il.reference_losses(dist, design)
    >>> bool(losses.bayes < il.optimal_rates(dist, design).loss)
    True
    """
    if not dist.is_isotropic or not dist.is_gaussian:
        raise ValueError("`dist` must have isotropic tasks and isotropic Gaussian features: no other bound is derived.")
    best = best or optimal_rates(dist, design, init)
    own = design if not np.isfinite(best.l2) else replace(design, l2=best.l2)
    errors = TrainingError(dist, own, init)
    trained = errors.at_start() if np.isinf(best.l2) else errors(np.array(np.clip(best.inner_lr, -1e4, 1e4)))
    problem = _Problem.of(dist, design)
    pooled = TrainingError(dist, replace(design, protocol="train", n_steps=1, n_adapt_steps=1, l2=0.0), init)
    pooled_error = float(pooled(np.array(0.0))[0])
    return ReferenceLosses(
        ridge_adaptation=problem.ridge(float(trained[0])),
        pooled=_adapted(dist, design, pooled_error),
        weighted=_adapted(dist, design, problem.weighted(pooled_error)),
        bayes=problem.bayes,
        bayes_known_centre=problem.ridge(0.0),
        floor=0.5 * dist.noise_std**2,
    )


def _adapted(dist: MixedLinearRegression, design: Design, error: float) -> float:
    """Return the loss of new tasks at their best rate, from an error of the meta-parameters."""
    loss = AdaptedLoss.build(dist, design)
    rate = loss.best_rate(np.array([error]))
    return float(loss(np.array(rate), np.array([error])))


@final
@dataclass(frozen=True)
class _Problem:
    """All rows of the tasks, a new task's, and the variance ratio."""

    tasks: tuple[FreeTask, ...]
    plain: tuple[FloatArray, ...]  # n s, without weights
    n_rows: int
    n_adapt: int
    n_features: int
    noise: float
    spread: float

    @classmethod
    def of(cls, dist: MixedLinearRegression, design: Design) -> _Problem:
        p, spread = dist.n_features, float(dist.task_variances.sum())
        noise = max(dist.noise_std**2, _LEAST_NOISE * spread, np.finfo(float).tiny)
        ratio, tasks, plain, n_rows = spread / (p * noise), [], [], 0
        for group in design.groups:
            n = group.n_support + group.n_query
            spectrum = wishart_spectrum(n, p)
            plain.append(n * spectrum.nodes)
            h = plain[-1] / (1 + ratio * plain[-1])
            tasks.append(FreeTask(group.n_tasks, h, 0 * h, 0 * h, spectrum.weights / p, 0.0))
            n_rows += n * group.n_tasks
        return cls(tuple(tasks), tuple(plain), n_rows, design.n_adapt, p, noise, spread)

    def weighted(self, pooled: float) -> float:
        """E|omega - w0|^2 of generalised least squares (26.1), from that of least squares, which is exact."""
        if self.n_rows < self.n_features + 2:
            return float("nan")
        p = self.n_features
        plain = [task._replace(h=h, noise=h, tasks=h**2 / p) for task, h in zip(self.tasks, self.plain, strict=True)]
        noise, tasks, _ = sum_of_free(plain, 0.0, p)
        best = self.noise * p * free_resolvent(list(self.tasks), 0.0)[0]
        return pooled * best / (self.noise * noise + self.spread * tasks)

    @property
    def bayes(self) -> float:
        """Half the mean squared error of the Bayes estimate (26.2)."""
        if self.n_rows < self.n_features + 2:
            return float("nan")
        p, ratio = self.n_features, self.spread / (self.n_features * self.noise)

        def excess(log: float) -> float:
            delta = float(np.exp(log))
            kappa = self.n_adapt / (1 + delta)
            shrunk = 1 + ratio * kappa
            g = free_resolvent(list(self.tasks), kappa / shrunk)[0]
            return delta - p * ratio / shrunk - p * g / shrunk**2

        return 0.5 * self.noise * (1 + _root(excess))

    def ridge(self, error: float) -> float:
        """Return the loss of a ridge of the best strength around meta-parameters that err by `error` (26.3)."""
        p, ratio = self.n_features, (self.spread + error) / (self.n_features * self.noise)
        if not np.isfinite(ratio):
            return float(ratio)

        def excess(log: float) -> float:
            delta = float(np.exp(log))
            return delta - p * ratio / (1 + ratio * self.n_adapt / (1 + delta))

        return 0.5 * self.noise * (1 + (_root(excess) if ratio > 0 else 0.0))


def _root(excess: object) -> float:
    """Return the root of an increasing function of a logarithm."""
    return float(np.exp(brentq(excess, -60.0, 90.0, xtol=1e-12)))
