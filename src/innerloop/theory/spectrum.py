"""Expected eigenvalue averages of a real Wishart matrix, to first order in 1/p."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from innerloop._base.checks import FloatArray

_N_NODES = 1000


class Spectrum(NamedTuple):
    """Nodes s and weights, so that weights @ f(s) is E tr f(S / n) over p dimensions."""

    nodes: FloatArray
    weights: FloatArray


@lru_cache(maxsize=256)
def wishart_spectrum(n_rows: int, n_features: int, first_order: bool = True, n_nodes: int = _N_NODES) -> Spectrum:
    r"""Return a quadrature of :math:`E\, \mathrm{tr} f(S/n)`, S real Wishart (equation 11.1).

    .. math:: p \int f\, d\mu_{p/n} + \tfrac14 f(a) + \tfrac14 f(b) - \tfrac12 \int f\, d\kappa_{[a, b]}

    with the Marchenko-Pastur law mu on [a, b] and the arcsine law kappa: exact for polynomials up to O(1/p^2).

    Parameters
    ----------
    n_rows, n_features
        n and p.
    first_order
        Whether to add the three terms after the first, which belong to real matrices of finite size.

    n_nodes
        Nodes inside the support.

    Returns
    -------
    Spectrum
        Its weights sum to p; those of the correction may be negative.
    """
    c = n_features / n_rows
    angles = np.arange(n_nodes + 2) * np.pi / (n_nodes + 1)
    nodes = np.maximum(1 + c + 2 * np.sqrt(c) * np.cos(angles), 0.0)
    inner = nodes[1:-1]
    density = np.zeros(len(nodes))
    density[1:-1] = np.sin(angles[1:-1]) ** 2 / inner
    if n_rows == n_features:  # the density is infinite at its end, 0, but its share is not
        density[-1] = 0.5
    weights = min(n_rows, n_features) * density / density.sum()
    if first_order:
        weights -= 0.5 / (n_nodes + 1)
        weights[[0, -1]] += 0.25 + 0.25 / (n_nodes + 1)
    if n_features > n_rows:
        nodes, weights = np.append(nodes, 0.0), np.append(weights, float(n_features - n_rows))
    return Spectrum(nodes, weights)
