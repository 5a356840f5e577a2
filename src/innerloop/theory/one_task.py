"""Resolvent traces tr (X D X' + theta)^-1 of one task's Gaussian query rows, to first order in 1/p (11)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
from scipy.optimize import brentq

from innerloop._base.checks import FloatArray

_LOG_RANGE, _HIGHEST_LOG = 70.0, 250.0
LOWEST = float(np.exp(-105.0))
_COMPLEX_STEP = 1e-30
_N_NEWTON = 20
_CONVERGED = 1e-12


@final
@dataclass(frozen=True, eq=False)
class OneTask:
    r"""The rows X of one task, their metric D = A^2, and the pair (k, theta) with theta k + tr kD / (1 + kD) = n_v.

    To leading order E tr (XDX' + theta)^-1 = k. The first-order term is the derivative in theta of
    log(1 - tr u^2 / n_v) / 2, u = kD / (1 + kD), which a real matrix adds to E log det (equation 11.3).

    Parameters
    ----------
    n_query
        n_v.
    kept, weights : (nodes,)
        D on the spectrum of the supports, and its weights.
    """

    n_query: int
    kept: FloatArray
    weights: FloatArray

    @cached_property
    def largest(self) -> float:
        """The k of theta = 0; exp of a large number where that is infinite, for n_v >= p."""
        if self.n_query >= self.weights.sum():
            return self.top
        return root(lambda k: -float(self._unused(k)), self.top)

    @cached_property
    def top(self) -> float:
        """The largest k that can be told from infinity: all directions but those of D = 0 are fitted."""
        smallest = float(self.kept[self.kept > 0].min(initial=1.0))
        return float(np.exp(min(_LOG_RANGE - np.log(smallest), _HIGHEST_LOG)))

    def theta(self, k: Any) -> Any:
        """Return the theta of a k."""
        return self._unused(k) / k

    def dimension(self, k: float) -> float:
        """Return e = tr XDX' (XDX' + theta)^-1, the directions that the task determines."""
        return float(self.weights @ self._shares(k)[0])

    def free_dimension(self, k: float) -> float:
        """Return p - e, without cancellation."""
        return float(self.weights @ self._shares(k)[1])

    def forced(self, k: Any, source: FloatArray) -> Any:
        """E tr (XDX' + theta)^-1 X source X' to leading order."""
        return self.weights @ (k * source * self._shares(k)[1])

    def first_order(self, k: float, source: FloatArray) -> tuple[float, float]:
        """Return the first-order terms of E tr (XDX')^-1 and of `forced`, at theta = 0 (equation 11.4)."""
        u, below = self._shares(k)
        slack, curve = self._slack(k), self.weights @ (u**2 * below)
        n, p = self.n_query, float(self.weights.sum())
        # The last factor, 1 to first order, makes the sum exact for D = I.
        inverse = k * curve / slack**2 * max((p - n) / (p - n - 1), 1.0)
        passed = k * source * below
        first, mixed = self.weights @ (passed * below), self.weights @ (passed * u * below)
        return float(inverse), float((first * curve / slack - mixed) / slack)

    def solve(self, gamma: float) -> float:
        """Return the k with theta = gamma (p - e); the largest where gamma is too small for one."""
        if self.theta(self.largest) > gamma * self.free_dimension(self.largest):
            return self.largest
        return root(lambda k: gamma * self.free_dimension(k) - self.theta(k), self.largest)

    def follow(self, gammas: FloatArray, k: float) -> FloatArray:
        """Return the k of gammas near that of a known k, by Newton's method in log k; NaN where it does not arrive."""
        logs, change = np.full(len(gammas), np.log(k)), np.zeros(len(gammas))
        for _ in range(_N_NEWTON):
            ks = np.exp(logs)
            below = 1 / (1 + ks[:, None] * self.kept)
            free = below @ self.weights
            sensitive = free - (below**2) @ self.weights
            theta = (self.n_query - float(self.weights.sum()) + free) / ks
            change = (gammas * free - theta) / (theta + sensitive / ks - gammas * sensitive)
            logs = logs - np.clip(change, -1, 1)
            if (np.abs(change) < _CONVERGED).all():
                break
        roots: FloatArray = np.where(np.abs(change) < np.sqrt(_CONVERGED), np.exp(logs), np.nan)
        return roots

    def slopes(
        self, k: float, gamma: float, sources: tuple[FloatArray, FloatArray], unit: float
    ) -> tuple[float, float, float]:
        """Return the derivatives in theta = gamma (p - e), at k, that equation 14.3 is made of.

        Returns
        -------
        resolvent
            Minus that of (p - e) / theta.
        noise
            Of theta times (unit k + `forced` by the first source).
        tasks
            Of theta times `forced` by the second source.
        """
        theta = gamma * self.free_dimension(k)
        step = _COMPLEX_STEP * theta
        moved = k - 1j * step * k**2 / self._slack(k)
        at = theta + 1j * step
        free = float(self.weights.sum()) - self.n_query + at * moved
        resolvent = -(free / at).imag / step
        noise = (at * (unit * moved + self.forced(moved, sources[0]))).imag / step
        tasks = (at * self.forced(moved, sources[1])).imag / step
        return float(resolvent), float(noise), float(tasks)

    def _shares(self, k: Any) -> tuple[Any, Any]:
        """Return u = kD / (1 + kD) and 1 - u on the nodes."""
        below = 1 / (1 + k * self.kept)
        return k * self.kept * below, below

    def _unused(self, k: Any) -> Any:
        """n_v - tr u = theta k."""
        return self.n_query - float(self.weights.sum()) + self.weights @ self._shares(k)[1]

    def _slack(self, k: Any) -> Any:
        """n_v - tr u^2."""
        u, below = self._shares(k)
        return self._unused(k) + self.weights @ (u * below)


def root(function: Callable[[float], float], upper: float, lower: float = LOWEST) -> float:
    """Return the root of an increasing function between bounds, or a bound where rounding hides the root."""
    low, high = float(np.log(lower)), float(np.log(upper))
    if function(np.exp(high)) <= 0:
        return float(np.exp(high))
    if function(np.exp(low)) >= 0:
        return float(np.exp(low))
    return float(np.exp(brentq(lambda log: function(np.exp(log)), low, high, xtol=1e-13, rtol=1e-14)))
