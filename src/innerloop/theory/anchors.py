"""Exact finite-size values at inner_lr = 0, used to rescale the deterministic equivalent (docs/theory.md, 13, 14)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.optimize import brentq

from innerloop.distributions import Group
from innerloop.theory.spectrum import Spectrum, wishart_spectrum
from innerloop.theory.wishart import wishart_trace_moment

_LOG_RANGE = 60.0
# The first-order term is resummed as 1 / (1 - x), which is exact at its ends, while x is small.
_LARGEST_TERM = 0.5


def overparameterised_task_part(n_query: int, n_rows: int, n_features: int) -> float:
    """Return the contribution of one task to the task part for N < p - 1, exactly (equation 12.3)."""
    p = n_features
    return n_query / p if n_query == n_rows else n_query / p * (p - n_query - 1) / (p - n_rows - 1)


@lru_cache(maxsize=4096)
def pooled_task_part(n_query: int, n_rows: int, n_features: int) -> float:
    """Return E tr H^-1 W^2 H^-1 / p exactly, H = W + the other tasks' Wishart matrix (equation 13.3).

    Parameters
    ----------
    n_query
        Rows of W.
    n_rows
        Rows of H, more than p + 1.
    n_features
        p.

    Returns
    -------
    float
    """
    x, y = mean_projection(n_query, n_rows, n_features)
    return x + y + y * (n_rows * n_features - 2) / (n_rows - n_features - 1)


def mean_projection(n_query: int, n_rows: int, n_features: int) -> tuple[float, float]:
    """Return x and y of E U_ij U_kl = x d_ij d_kl + y (d_ik d_jl + d_il d_jk), U = H^-1/2 W H^-1/2, a matrix beta."""
    p = n_features
    # U is independent of H, so that the moments of W are those of H^1/2 U H^1/2.
    two, one = (float(wishart_trace_moment(powers, n_rows, p)) for powers in ([1, 1], [2]))
    known = [float(wishart_trace_moment(powers, n_query, p)) for powers in ([1, 1], [2])]
    if p == 1:  # only x + 2 y is determined
        return known[1] / two, 0.0
    x, y = np.linalg.solve(np.array([[two, 2 * one], [one, one + two]]), np.array(known))
    return float(x), float(y)


def pooled_ridge_parts(groups: tuple[Group, ...], n_features: int, dimension: float) -> tuple[float, float, float]:
    """Return the parts of E|omega* - w0|^2 of pooled ridge regression, inner_lr = 0 (equations 14.4 to 14.6).

    Parameters
    ----------
    groups
        The tasks' sizes.
    n_features
        p.
    dimension
        Effective degrees of freedom of the ridge at which to compare, below N and p.

    Returns
    -------
    noise, tasks, start
        As in `Parts`.
    """
    n_rows = sum(group.n_query * group.n_tasks for group in groups)
    large = wishart_spectrum(n_rows, n_features, first_order=False)
    finite = wishart_spectrum(n_rows, n_features)
    penalty = _penalty_of(large, dimension)
    s = large.nodes
    resolvent = 1 / (s + penalty)
    noise, start = s * resolvent**2, resolvent**2
    tasks = [
        sum(g.n_tasks * _ridge_task_part(g.n_query, n_rows, n_features, (spectrum, penalty), exact) for g in groups)
        for spectrum, exact in ((finite, True), (large, False))
    ]
    return (
        _resummed(float(finite.weights @ noise), float(large.weights @ noise)) / n_rows,
        _resummed(*tasks) / n_features,
        _resummed(float(finite.weights @ start), float(large.weights @ start)) * penalty**2 / n_features,
    )


def _penalty_of(spectrum: Spectrum, dimension: float) -> float:
    """Return the penalty, in units of N, at which ridge regression has so many degrees of freedom."""

    def excess(log_penalty: float) -> float:
        return float(spectrum.weights @ (spectrum.nodes / (spectrum.nodes + np.exp(log_penalty)))) - dimension

    if excess(-_LOG_RANGE) <= 0:
        return float(np.exp(-_LOG_RANGE))
    if excess(_LOG_RANGE) >= 0:
        return float(np.exp(_LOG_RANGE))
    return float(np.exp(brentq(excess, -_LOG_RANGE, _LOG_RANGE, xtol=1e-10)))


def _ridge_task_part(n_query: int, n_rows: int, n_features: int, ridge: tuple[Spectrum, float], exact: bool) -> float:
    """Return E tr R W^2 R, R = (H + lam)^-1, from E U X U = (x + y) X + y tr X and the spectrum of H / N."""
    (s, weights), penalty = ridge
    resolvent = 1 / (s + penalty)
    square = float(weights @ (s * resolvent) ** 2)
    values = s * resolvent**2
    # E tr H tr f(H) = N p E tr f + 2 E tr H f'(H) by Stein's identity.
    product = n_features * float(weights @ values)
    if not exact:
        share = n_query / n_rows
        return share**2 * square + share * (1 - share) / n_rows * product
    product += 2 / n_rows * float(weights @ (s * (penalty - s) * resolvent**3))
    x, y = (_projection if n_rows < n_features else mean_projection)(n_query, n_rows, n_features)
    return (x + y) * square + y * product


def _projection(n_query: int, n_rows: int, n_features: int) -> tuple[float, float]:  # noqa: ARG001
    """Return x and y of a random projection on `n_query` of `n_rows` dimensions."""
    if n_rows == 1:
        return 1.0, 0.0
    system = [[n_rows**2, 2 * n_rows], [n_rows, n_rows**2 + n_rows]]
    x, y = np.linalg.solve(np.array(system, dtype=np.float64), np.array([n_query**2, n_query], dtype=np.float64))
    return float(x), float(y)


def _resummed(finite: float, large: float) -> float:
    """Return large (1 + x) as large / (1 - x)."""
    return large / (1 - min(finite / large - 1, _LARGEST_TERM))
