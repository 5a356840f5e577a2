"""The error of the meta-parameters where every row is scored (docs/theory.md, 25)."""

from __future__ import annotations

from functools import cache, cached_property

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.theory.deterministic import Parts, isotropic_parts
from innerloop.theory.free_sum import FreeTask, sum_of_free
from innerloop.theory.pencil import GAUSSIAN_ROWS, Pencil
from innerloop.theory.row_law import is_derived, pencil_of
from innerloop.theory.spectrum import wishart_spectrum

_FAR = 1e8


class ScoredError:
    """E(omega* - w0)_j^2 where every row of a task is scored: with isotropic features and tasks the sum, alone.

    Parameters
    ----------
    dist, design
        The tasks, and the sizes.
    start_squared : (n_features,)
        Squares of omega_0 - w0 in the eigen-directions.
    """

    def __init__(self, dist: MixedLinearRegression, design: Design, start_squared: FloatArray) -> None:
        _check(dist, design)
        self._dist, self._design, self._start_squared = dist, design, start_squared
        scale = float(dist.eigenvalues.mean())
        self._scale, self._l2 = scale, design.l2 / scale
        n_query = [design.n_scored(group) for group in design.groups for _ in range(group.n_tasks)]
        # At inner_lr = 0 all protocols are pooled regression on all rows.
        pooled = Design(design.n_tasks, n_query, n_query, design.n_adapt, l2=self._l2)
        self._leading = cache(self._linearised)
        self._at_zero = isotropic_parts(pooled, dist.n_features, 0.0)
        large = isotropic_parts(pooled, dist.n_features, 0.0, finite=False)
        self._ratio = Parts(*(a / b if b else 1.0 for a, b in zip(self._at_zero, large, strict=True)))

    def __call__(self, inner_lrs: FloatArray) -> FloatArray:
        """Return errors (n_rates, n_directions)."""
        dist, design, p = self._dist, self._design, self._dist.n_features
        if dist.is_isotropic and (design.l2 == 0 and design.n_query_rows < p + 2):
            # All rows are fitted, or no mean exists: the inner rate does not matter (section 6).
            return np.full((len(inner_lrs), 1), self._total(self._at_zero))
        if dist.is_isotropic and design.protocol != "deal":
            return np.array([[self._total(self._scaled(self._free(float(rate))))] for rate in inner_lrs])
        leading = np.array([self._leading(rate) for rate in inner_lrs.tolist()])
        error: FloatArray = np.einsum("k,ikj->ij", np.array(self._ratio), leading)
        return error * p if dist.is_isotropic else error

    def large_p_error(self, rate: float) -> FloatArray:
        """Return the error (n_directions,) for correlated features or folds, without finite-size corrections."""
        return np.asarray(self._leading(rate).sum(axis=0))

    def _linearised(self, rate: float) -> FloatArray:
        """Return what label noise, tasks and start add (3, n_directions) to leading order."""
        noise, tasks, start = (part[0] / self._scale for part in self._pencil.parts(np.array([rate * self._scale])))
        return np.stack([self._dist.noise_std**2 * noise, tasks, start])

    @cached_property
    def _pencil(self) -> Pencil:
        return pencil_of(self._dist, self._design, self._start_squared, slice(None), GAUSSIAN_ROWS)

    def _total(self, parts: Parts) -> float:
        scales = self._dist.noise_std**2, float(self._dist.task_variances.sum()), float(self._start_squared.sum())
        return sum(part * scale for part, scale in zip(parts, scales, strict=True) if scale)

    def _scaled(self, parts: Parts) -> Parts:
        return Parts(*(part * ratio for part, ratio in zip(parts, self._ratio, strict=True)))

    def _free(self, rate: float) -> Parts:
        """Return the parts for "train" and "leave-one-out", sums of functions of free matrices (25.3, 25.4)."""
        design, p = self._design, self._dist.n_features
        tasks = []
        for group in design.groups:
            n = design.n_scored(group)
            own, factor = _as_train(rate, n, p) if design.protocol == "leave-one-out" else (rate, 1.0)
            spectrum = wishart_spectrum(n, p, first_order=False)
            kept, _, log_scale = design.rule.filters(np.array(own), spectrum.nodes)
            h = n * spectrum.nodes * kept
            tasks.append(
                FreeTask(
                    group.n_tasks,
                    h,
                    h * kept,
                    h**2 / p,
                    spectrum.weights / p,
                    float(log_scale[0]) + 2 * np.log(abs(factor)),
                )
            )
        return sum_of_free(tasks, design.l2 * design.n_query_rows, p)


def _check(dist: MixedLinearRegression, design: Design) -> None:
    """Refuse by name what is not derived."""
    name = f"`protocol` {design.protocol!r}"
    one_size, one_step = len(design.groups) == 1, design.rule.degree == 1
    group = design.groups[0]
    if design.protocol == "leave-one-out" and not one_step:
        raise ValueError(f"{name} needs one gradient step in theory; use estimate_loss.")
    if design.protocol == "leave-one-out" and not dist.is_isotropic:
        raise ValueError(f"{name} needs isotropic features and tasks in theory; use estimate_loss.")
    if (design.protocol == "deal" or not dist.is_isotropic) and not (one_size and one_step):
        raise ValueError(f"{name} needs tasks of one size and one gradient step in theory; use estimate_loss.")
    if design.protocol == "deal" and (group.n_support + group.n_query) % group.n_support:
        raise ValueError(
            f"{name} needs folds of `n_support` rows each in theory, got {group.n_support} of "
            f"{group.n_support + group.n_query}; use estimate_loss."
        )
    if not dist.is_gaussian and not is_derived(design):
        raise ValueError(f"{name} needs Gaussian features with these sizes and steps in theory; use estimate_loss.")


def _as_train(rate: float, n: int, p: int) -> tuple[float, float]:
    """Return the rate at which "train" is "leave-one-out" but for a factor of its residuals, and the factor (25.4)."""
    factor, step = 1 + rate * p / (n - 1), rate * n / (n - 1)
    if abs(factor) * _FAR < abs(step):
        factor = abs(step) / _FAR
    return step / factor, factor
