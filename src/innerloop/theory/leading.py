"""The reconstructed leading-order formulas of Bernacchia (2021): N << p, and N >> p with many tasks (9, 10)."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.polynomial import polynomial

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.theory.wishart import wishart_trace_moment


def leading_error(
    dist: MixedLinearRegression, design: Design, inner_lr: FloatArray, start_squared: float
) -> FloatArray:
    """Return E|omega* - w0|^2 to leading order (equations 9.4 and 10.1).

    Parameters
    ----------
    dist, design
        Isotropic, uniform sizes, one step, no penalty.
    inner_lr
        a, of any shape.
    start_squared
        |omega_0 - w0|^2.

    Returns
    -------
    Array of the shape of `inner_lr`.
    """
    if design.n_query_rows < dist.n_features:
        return _overparameterised(dist, design, inner_lr, start_squared)
    return _underparameterised(dist, design, inner_lr)


def leading_optimum(n_features: int, n_support: int) -> float:
    r"""Return the best inner rate for N << p, :math:`-(n_t + 1 + \sqrt{(n_t + 1)^2 + 4 n_t p}) / (2 p)` (9.5)."""
    half = n_support + 1
    return float(-(half + np.sqrt(half**2 + 4 * n_support * n_features)) / (2 * n_features))


def _sizes(dist: MixedLinearRegression, design: Design) -> tuple[int, int, int, float, float]:
    group = design.groups[0]
    spread = dist.n_features * dist.task_variances[0]
    return dist.n_features, group.n_support, group.n_query, dist.noise_std**2, float(spread)


def _overparameterised(dist: MixedLinearRegression, design: Design, a: FloatArray, start_squared: float) -> FloatArray:
    p, n, _, noise, spread = _sizes(dist, design)
    x = design.n_query_rows / p
    kept = (1 - a) ** 2 + a**2 * (p + dist.fourth_moment - 2) / n
    return (1 - x) * start_squared + x * (spread + noise * (1 + a**2 * p / n) / kept)


def _underparameterised(dist: MixedLinearRegression, design: Design, a: FloatArray) -> FloatArray:
    p, n, n_query, noise, spread = _sizes(dist, design)
    kept = (1 - a) ** 2 + a**2 * (p + 1) / n
    step = a**2 * p / n
    g1, g2, g3, g4 = (polynomial.polyval(a, g) for g in _polynomials(n, p))
    from_noise = p * kept + step * ((n_query + 1) * g3 + p * g4)
    from_tasks = (n_query + 1) * g1 + p * g2
    return (noise * from_noise + spread * from_tasks) / (design.n_query_rows * kept**2)


def _polynomials(n: int, p: int) -> tuple[list[float], list[float], list[float], list[float]]:
    """Return g1 to g4 of equation 10.2 as coefficients of powers of the rate, from exact moments."""

    def moment(*powers: int) -> float:
        return wishart_trace_moment(powers, n, p) / float(n) ** sum(powers)

    g1 = [comb(4, j) * (-1) ** j * moment(j) / p for j in range(5)]
    g2, g4 = [0.0] * 5, [0.0] * 3
    for i in range(3):
        sign_i = comb(2, i) * (-1) ** i
        g4[i] = sign_i * moment(1, i) / p**2
        for j in range(3):
            g2[i + j] += sign_i * comb(2, j) * (-1) ** j * moment(i, j) / p**2
    g3 = [comb(2, j) * (-1) ** j * moment(j + 1) / p for j in range(3)]
    return g1, g2, g3, g4
