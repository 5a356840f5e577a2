"""Query rows of tasks after adaptation, at the rates from which all others follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from scipy.special import comb

from innerloop._base.checks import FloatArray


@final
@dataclass(frozen=True, eq=False)
class Nodes:
    r"""Rates at which polynomials are computed, and how to get from there to all rates.

    A rate is a = scale tan(phi). Homogenised by cos(phi), a polynomial of degree 2D in the rate is a trigonometric
    polynomial of degree D in 2 phi, which 2D + 1 equally spaced nodes determine, as well for large rates as for small.

    Parameters
    ----------
    steps : (n_nodes, n_steps + 1)
        What multiplies U_0 .. U_K in the homogenised rows, ``cos(phi)^K B``.
    cosine : (n_nodes,)
        cos(phi)^K at the nodes.
    weights : (n_rates, n_nodes)
        The interpolation.
    rate_cosine : (n_rates,)
        cos(phi)^K at the rates.
    rate_steps : (n_rates, n_steps + 1)
        `steps` at the rates.
    """

    steps: FloatArray
    cosine: FloatArray
    weights: FloatArray
    rate_cosine: FloatArray
    rate_steps: FloatArray

    @classmethod
    def build(cls, rates: FloatArray, n_steps: int, degree: int, scale: float) -> Nodes:
        """Return the nodes for polynomials of degree 2 `degree`; the rates themselves where these are fewer."""
        angles, n = np.arctan(rates / scale), 2 * degree + 1
        if len(rates) <= n:
            nodes, weights = angles, np.eye(len(rates))
        else:
            nodes = np.pi * np.arange(n) / n
            gap = np.sin(angles[:, None] - nodes)
            close = np.abs(gap) < 1e-14
            weights = np.where(close, 1.0, np.sin(n * (angles[:, None] - nodes)) / np.where(close, 1.0, n * gap))
        return cls(
            _steps(nodes, n_steps, scale),
            np.cos(nodes) ** n_steps,
            weights,
            np.cos(angles) ** n_steps,
            _steps(angles, n_steps, scale),
        )


def _steps(angles: FloatArray, n_steps: int, scale: float) -> FloatArray:
    j = np.arange(n_steps + 1)
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
    coefficients: FloatArray = comb(n_steps, j) * cosine ** (n_steps - j) * (-scale * sine) ** j
    return coefficients


class Rows(NamedTuple):
    """Query rows of some tasks at some rates, (..., n_query, n_features): of B, and of D and E with cov P = D E'.

    P is what the noise of the support rows becomes in the query residuals; E is divided by n_support.
    """

    B: FloatArray
    D: FloatArray
    E: FloatArray


def gradient_rows(X_support: FloatArray, X_query: FloatArray, steps: FloatArray) -> Rows:
    """Return the rows after gradient steps: (..., n_nodes, n_query, n_features).

    Parameters
    ----------
    X_support, X_query : (..., n_support, n_features), (..., n_query, n_features)
        Features.
    steps : (n_nodes, n_steps + 1)
        From `Nodes`.
    """
    n, p = X_support.shape[-2:]
    Xt = X_support.swapaxes(-1, -2)
    moments = Xt @ X_support / n if n > p else None
    U = [X_query]
    for _ in range(steps.shape[1] - 1):
        U.append(U[-1] @ moments if moments is not None else (U[-1] @ Xt) @ X_support / n)
    c = steps[:, :, None, None]
    taken = [U_j[..., None, :, :] for U_j in U]
    E = sum((c[:, j] * taken[j] for j in range(1, len(U))), np.zeros(1))
    D = sum((c[:, j] * taken[j - 1] for j in range(1, len(U))), np.zeros(1))
    return Rows(c[:, 0] * taken[0] + E, D, E / n)


def implicit_rows(X_support: FloatArray, X_query: FloatArray, rates: FloatArray) -> Rows:
    """Return the rows of the implicit rule, X_query (I + a S)^-1 with S = X_support'X_support / n_support."""
    n, p = X_support.shape[-2:]
    S = X_support.swapaxes(-1, -2) @ X_support / n
    a = rates[:, None, None]
    B = np.linalg.solve(np.eye(p) + a * S[..., None, :, :], X_query.swapaxes(-1, -2)[..., None, :, :])
    B = np.ascontiguousarray(B.swapaxes(-1, -2))
    return Rows(B, a * B, (X_query[..., None, :, :] - B) / n)
