"""The few rates at which polynomials in the rate are computed, from which all others are interpolated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

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
    def at_rates(cls, coefficients: FloatArray) -> Nodes:
        """Return every rate as a node, for rules that are no polynomials."""
        one = np.ones(len(coefficients))
        return cls(coefficients, one, np.eye(len(coefficients)), one, coefficients)

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
