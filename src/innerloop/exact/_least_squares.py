"""Least squares of a matrix whose columns may depend on each other, in any units."""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack, solve_triangular

from innerloop._base.checks import FloatArray
from innerloop.exact._factor import triangle
from innerloop.exact._refine import refine

# Above this condition number a triangular factor is not trusted to have full rank without its singular values.
CLEAR_RANK = 1e12
# Relative to the largest, and times the size of the matrix, what rounding leaves of a zero.
ROUNDING = 8 * float(np.finfo(float).eps)
# Solutions whose relative error may exceed this are refined.
REFINE_ABOVE = 1e-9


def least_squares(B: FloatArray, g: FloatArray, ridge: float) -> tuple[FloatArray, int, float]:
    """Return the minimiser of |g - B d|^2 + ridge^2 |d|^2 of least |d|, the rank and the condition.

    Columns are scaled to unit length (by powers of two, so that scaling rounds nothing): rank and accuracy
    then do not depend on the units of a column.
    """
    p = B.shape[1]
    if ridge > 0:
        B = np.concatenate((B, ridge * np.eye(p)))
        g = np.concatenate((g, np.zeros((p, g.shape[1]))))
    largest = np.abs(B).max(axis=0, initial=0.0)
    sizes = largest * np.linalg.norm(B / np.where(largest > 0, largest, 1.0), axis=0)
    unit = np.exp2(-np.round(np.log2(np.where(sizes > 0, sizes, 1.0))))
    A = B * unit
    if len(A) < p:
        return _shortest_solution(A, g, unit)
    factor = triangle(np.concatenate((A, g), axis=1))
    T = factor[:p, :p]
    rcond = lapack.dtrcon(T)[0]
    if rcond * CLEAR_RANK < 1:
        return _shortest_solution(T, factor[:p, p:], unit)
    z = solve_triangular(T, factor[:p, p:])
    size, misfit = np.linalg.norm(z), np.linalg.norm(factor[p:, p:])
    if np.finfo(float).eps * (size + misfit / rcond) / rcond > REFINE_ABOVE * size:
        z = refine(A, g, z)
    return unit[:, None] * z, p, 1 / rcond


def residual_above_rounding(A: FloatArray, z: FloatArray, g: FloatArray) -> FloatArray:
    """Return g - A z, or zeros where it is no larger than what rounding A, z and g to doubles may leave.

    At rates whose steps enlarge residuals by many orders of magnitude, what rounding leaves is large in the units of
    the targets. It says nothing of the minimum.
    """
    residual = g - A @ z
    rounding = max(A.shape) * ROUNDING * np.linalg.norm(np.abs(A) @ np.abs(z) + np.abs(g))
    return residual if np.linalg.norm(residual) > rounding else np.zeros_like(residual)


def _shortest_solution(A: FloatArray, g: FloatArray, unit: FloatArray) -> tuple[FloatArray, int, float]:
    """Return the shortest minimiser d of |g - A (d / unit)|, the rank of A and its condition within it.

    With A = P S W' of rank r, minimisers satisfy W'(d / unit) = S^-1 P'g; the shortest of them lies in the
    span of W / unit = Q T, and is Q T'^-1 S^-1 P'g.
    """
    P, s, Wt = np.linalg.svd(A, full_matrices=False)
    rank = int((s > s.max(initial=0.0) * max(A.shape) * ROUNDING).sum())
    if rank == 0:
        return np.zeros((A.shape[1], g.shape[1])), 0, 1.0
    z = (P[:, :rank].T @ g) / s[:rank, None]
    condition = float(s[0] / s[rank - 1])
    if rank == A.shape[1]:
        return unit[:, None] * (Wt.T @ z), rank, condition
    Q, T = np.linalg.qr(Wt[:rank].T / unit[:, None])
    return Q @ solve_triangular(T, z, trans=1), rank, condition
