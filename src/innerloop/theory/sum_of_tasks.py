"""First-order finite-size terms of the sum of many tasks (docs/theory.md, 14)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.theory.one_task import OneTask

_N_NODES = 9
# A first-order term beyond this size is outside the range where first order means anything.
_LARGEST_TERM = 0.5
# Half-widths of the window in log gamma on which functions are differentiated: the first in which all roots are found.
_HALF_WIDTHS = (0.2, 0.05, 0.01, 2e-3)


class Source(NamedTuple):
    """Tasks of one size: F / n_t and A^2 / p on the nodes of the spectrum, the saddle point k, and the noise's unit."""

    task: OneTask
    n_tasks: int
    noise: FloatArray
    spread: FloatArray
    k: float
    unit: float


def first_order_terms(sources: list[Source], gamma: float) -> tuple[float, float, float]:
    r"""Return the first-order parts over the leading ones: of label noise, of tasks, of the start (equation 14.8).

    At the saddle point of the leading order, E log det of the sum gains

    .. math:: \sum_i \{ \tfrac12 \log(1 - \mathrm{tr} u_i^2 / n_i) + \tfrac12 \log x_i \}
        + \tfrac12 \log(\sum_i 1 / x_i - m + 1), \quad x_i = -F_i' / g^2

    Parameters
    ----------
    sources
        The tasks.
    gamma
        1 / (p g) at the saddle point.

    Returns
    -------
    noise, tasks, start
    """
    with np.errstate(all="ignore"):
        terms = np.array(_terms(sources, gamma))
    noise, tasks, start = np.clip(np.nan_to_num(terms), -_LARGEST_TERM, _LARGEST_TERM).tolist()
    return noise, tasks, start


def _terms(sources: list[Source], gamma: float) -> tuple[float, float, float]:
    p = float(sources[0].task.weights.sum())
    for width in _HALF_WIDTHS:
        nodes, matrix = (part * factor for part, factor in zip(_differences(), (width, 1 / width), strict=True))
        gammas = gamma * np.exp(nodes)
        roots = [source.task.follow(gammas, source.k) for source in sources]
        if np.isfinite(roots).all():
            break
    g = 1 / (p * gammas)
    locals_ = [_Local.of(source, gammas, ks, matrix) for source, ks in zip(sources, roots, strict=True)]
    m = sum(local.n_tasks for local in locals_)
    penalty = sum((local.n_tasks * local.thetas for local in locals_), -(m - 1) / g)
    rest = sum((local.n_tasks / local.x for local in locals_), np.full_like(g, 1.0 - m))
    one_loop = sum((local.n_tasks * local.gain for local in locals_), 0.5 * np.log(rest))
    along_penalty = matrix @ penalty
    results = []
    for which in (0, 1):
        moves = [local.moved(matrix, which) for local in locals_]
        shift = sum(local.n_tasks * move.shift for local, move in zip(locals_, moves, strict=True))
        gain = sum(local.n_tasks * move.gain for local, move in zip(locals_, moves, strict=True))
        closer = sum(local.n_tasks * move.x / local.x**2 for local, move in zip(locals_, moves, strict=True))
        dg = -shift * (matrix @ g) / along_penalty
        total = gain - 0.5 * closer / rest + (matrix @ one_loop) / (matrix @ g) * dg
        results.append(float(((matrix @ total) / along_penalty / (p * dg))[_N_NODES // 2]))
    curved = matrix @ ((matrix @ one_loop) / along_penalty)
    return results[0], results[1], float((curved / (p * (matrix @ g)))[_N_NODES // 2])


class _Moved(NamedTuple):
    """Derivatives in a source, at fixed g."""

    shift: FloatArray
    gain: FloatArray
    x: FloatArray


@dataclass(frozen=True, eq=False)
class _Local:
    """One kind of task along the nodes; primes are derivatives in its theta."""

    source: Source
    thetas: FloatArray
    ks: FloatArray
    below: FloatArray
    slack: FloatArray
    curve: FloatArray
    slope_of_theta: FloatArray
    x: FloatArray

    @classmethod
    def of(cls, source: Source, gammas: FloatArray, ks: FloatArray, matrix: FloatArray) -> _Local:
        task = source.task
        below = 1 / (1 + ks[:, None] * task.kept)
        thetas = gammas * (below @ task.weights)
        u = 1 - below
        unused = thetas * ks
        slack = unused + (u * below) @ task.weights
        curve = (u**2 * below) @ task.weights / slack
        slope_of_theta = matrix @ thetas
        p = float(task.weights.sum())
        g = 1 / (p * gammas)
        return cls(source, thetas, ks, below, slack, curve, slope_of_theta, -(matrix @ g) / slope_of_theta / g**2)

    @property
    def n_tasks(self) -> int:
        return self.source.n_tasks

    @property
    def gain(self) -> FloatArray:
        values: FloatArray = 0.5 * np.log(self.slack / self.source.task.n_query) + 0.5 * np.log(self.x)
        return values

    @property
    def first(self) -> FloatArray:
        """E tr (XDX' + theta)^-1 beyond k."""
        return self.ks * self.curve / self.slack

    def moved(self, matrix: FloatArray, which: int) -> _Moved:
        """Return the derivatives along label noise (0) or task spread (1)."""
        weights = self.source.task.weights
        own = self.source.unit * (1.0 - which)
        disturbance = (self.source.noise, self.source.spread)[which]
        passed = self.ks[:, None] * disturbance * self.below
        mixed = (passed * self.below * (1 - self.below)) @ weights
        forced = ((passed * self.below) @ weights * self.curve - mixed) / self.slack
        p = float(weights.sum())
        # F = (p - n + theta k) / (p theta), which equals g on the nodes.
        F1 = -self.x * self._g(p) ** 2
        flux = -(matrix @ (self.thetas * (own * self.ks + passed @ weights))) / self.slope_of_theta / p
        shift = -flux / F1
        bend = matrix @ F1 / self.slope_of_theta
        x = -(matrix @ flux / self.slope_of_theta + bend * shift) / self._g(p) ** 2
        gain = -self.thetas * (own * self.first + forced) + self.first * shift + 0.5 * x / self.x
        return _Moved(shift, gain, x)

    def _g(self, p: float) -> FloatArray:
        values: FloatArray = (p - self.source.task.n_query + self.thetas * self.ks) / (p * self.thetas)
        return values


@lru_cache(maxsize=1)
def _differences() -> tuple[FloatArray, FloatArray]:
    """Return Chebyshev nodes on [-1, 1] and their differentiation matrix (Trefethen, 2000, chapter 6)."""
    order = _N_NODES - 1
    x = np.cos(np.pi * np.arange(_N_NODES) / order)
    scale = np.where(np.isin(np.arange(_N_NODES), (0, order)), 2.0, 1.0) * (-1.0) ** np.arange(_N_NODES)
    difference = x[:, None] - x + np.eye(_N_NODES)
    matrix = np.outer(scale, 1 / scale) / difference
    matrix -= np.diag(matrix.sum(axis=1))
    return x, matrix
