"""Iterative refinement of least squares, with residuals computed exactly and rounded once."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import solve_triangular

from innerloop._base.checks import FloatArray

_MAX_ROUNDS = 5


def refine(A: FloatArray, b: FloatArray, x: FloatArray) -> FloatArray:
    """Return the minimiser of |b - A x| with the rounding errors of `x` removed.

    Solution and residual r are refined together as the solution of ``r + A x = b, A'r = 0`` (Björck, 1967): a
    round gains as many digits as A's condition number permits. Rounds end when corrections no longer shrink.

    Parameters
    ----------
    A : (n_rows, n_columns)
        Of full column rank, columns of about unit length.
    b : (n_rows, n_targets)
        Right-hand sides.
    x : (n_columns, n_targets)
        Approximate solutions.
    """
    Q, R = np.linalg.qr(A)
    r = b - A @ x
    previous = np.inf
    for _ in range(_MAX_ROUNDS):
        f = exact_residual(A, x, b, -r)
        d = Q.T @ f - solve_triangular(R, exact_residual(A.T, r), trans=1)
        dx = solve_triangular(R, d)
        size = float(np.linalg.norm(dx))
        if not size < previous / 2:
            break
        x, r, previous = x + dx, r + f - Q @ d, size
    return x


def exact_residual(A: FloatArray, x: FloatArray, *terms: FloatArray) -> FloatArray:
    """Return sum(terms) - A x, each entry computed exactly and rounded once."""
    columns = []
    for k in range(x.shape[1]):
        product = A * -x[:, k]
        parts = [product, _product_error(A, -x[:, k], product), *(t[:, k : k + 1] for t in terms)]
        columns.append([math.fsum(row) for row in np.concatenate(parts, axis=1).tolist()])
    return np.array(columns).T


def _product_error(a: FloatArray, b: FloatArray, product: FloatArray) -> FloatArray:
    """Return a * b - product without error (Dekker, 1971; Veltkamp's splitting)."""
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _split(a: FloatArray) -> tuple[FloatArray, FloatArray]:
    scaled = 134217729.0 * a  # 2**27 + 1
    high = scaled - (scaled - a)
    return high, a - high
