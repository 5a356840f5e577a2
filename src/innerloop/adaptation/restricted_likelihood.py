r"""Restricted (REML) likelihood of a random-coefficient model.

.. math:: y_i = X_i (\omega + b_i) + e_i, \quad b_i \sim N(0, s^2 \Lambda), \quad e_i \sim N(0, s^2 I), \quad
          \omega \sim N(0, (s^2 / \pi) I)

Given :math:`\Lambda` and the precision :math:`\pi`, the population's coefficients :math:`\omega` and :math:`s^2` have
closed forms. With ``V_i = I + X_i Lambda X_i'``, minus twice the log restricted likelihood is, up to a constant, ::

    n log s^2 + sum_i log|V_i| + log|S| - q log pi
    S = sum_i X_i' V_i^-1 X_i + P,   omega = S^-1 sum_i X_i' V_i^-1 y_i,   n s^2 = sum_i y_i' V_i^-1 (y_i - X_i omega)

where P is diagonal, pi for the q penalised coefficients and 0 for the others, and n is the number of rows minus that
of coefficients with a flat prior.
docs/theory.md, section "Random effects".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray
from innerloop.data.row_blocks import RowBlock

# Noise below this fraction of the targets' mean square is rounding.
_LEAST_NOISE = 1e-14


class Solution(NamedTuple):
    """Estimates that have closed forms given the variances, for one target.

    Parameters
    ----------
    mean : (n_features,)
        Generalised-least-squares estimate of the population's coefficients.
    mean_cov : (n_features, n_features)
        Its covariance, relative to the noise variance.
    noise
        Noise variance.
    loss
        Minus twice the log restricted likelihood, up to a constant.
    """

    mean: FloatArray
    mean_cov: FloatArray
    noise: float
    loss: float


class _Sums(NamedTuple):
    """Sums over tasks of X'V^-1 X, X'V^-1 y, y'V^-1 y, log|V| and y'y."""

    moments: FloatArray
    cross: FloatArray
    square: float
    log_det: float
    raw_square: float


class _Whitened(NamedTuple):
    """V^-1/2 X and V^-1/2 y of a block's tasks, and the sum of their log|V|."""

    X: FloatArray
    y: FloatArray
    log_det: float


@final
class RestrictedLikelihood:
    """Minus twice the log restricted likelihood of one target, up to a constant, with its derivatives."""

    def __init__(self, blocks: Iterable[RowBlock], target: int, n_rows: int, penalised: NDArray[np.bool_]) -> None:
        self._blocks, self._target = blocks, target
        self.penalised = penalised
        self.n = max(n_rows - int((~penalised).sum()), 1)

    def sums(self, task_cov: FloatArray, kept: list[_Whitened] | None = None) -> _Sums:
        """Return the sums over all tasks; append whitened blocks to `kept` if it is given."""
        p = len(self.penalised)
        moments, cross, square, log_det, raw_square = np.zeros((p, p)), np.zeros(p), 0.0, 0.0, 0.0
        for block in self._blocks:
            raw_square += float(np.sum(block.y[..., self._target] ** 2))
            white = _whiten(block.X, block.y[..., self._target, None], task_cov)
            X, y = white.X.reshape(-1, p), white.y.ravel()
            moments += X.T @ X
            cross += X.T @ y
            square += float(y @ y)
            log_det += white.log_det
            if kept is not None:
                kept.append(white)
        return _Sums(moments, cross, square, log_det, raw_square)

    def solve(self, sums: _Sums, precision: float) -> Solution:
        """Return omega, the noise and the loss, given the sums at a covariance and a precision."""
        S = sums.moments + np.diag(precision * self.penalised)
        size = np.sqrt(np.where(S.diagonal() > 0, S.diagonal(), 1.0))  # makes ranks independent of units
        values, vectors = np.linalg.eigh(S / np.outer(size, size))
        vectors /= size[:, None]
        used = values > len(S) * np.finfo(float).eps * max(values[-1], np.finfo(float).tiny)
        mean_cov = (vectors[:, used] / values[used]) @ vectors[:, used].T
        mean = mean_cov @ sums.cross
        mean += mean_cov @ (sums.cross - S @ mean)
        least = max(_LEAST_NOISE * sums.raw_square, np.finfo(float).tiny)
        # Rounding errors of omega, large where S is nearly singular, enter this form by their squares alone.
        noise = max(sums.square - 2 * float(mean @ sums.cross) + float(mean @ S @ mean), least) / self.n
        loss = self.n * np.log(noise) + sums.log_det + float(np.log(values[used]).sum() + 2 * np.log(size).sum())
        if precision > 0:
            loss -= int(self.penalised.sum()) * np.log(precision)
        return Solution(mean, mean_cov, noise, loss)

    def loss(self, task_cov: FloatArray, precision: float) -> tuple[float, FloatArray, float]:
        """Return the loss and its derivatives by the tasks' covariance and by the log precision.

        With q_i = X_i' V_i^-1 (y_i - X_i omega) and M_i = X_i' V_i^-1 X_i, the former is
        ``sum_i M_i - M_i S^-1 M_i - q_i q_i' / s^2``.
        """
        p, kept = len(self.penalised), list[_Whitened]()
        sums = self.sums(task_cov, kept)
        mean, mean_cov, noise, loss = self.solve(sums, precision)
        slope = sums.moments.copy()
        for X, y, _ in kept:
            q = np.einsum("trp,tr->tp", X, y - X @ mean)
            known = X @ mean_cov @ X.transpose(0, 2, 1)
            slope -= X.reshape(-1, p).T @ (known @ X).reshape(-1, p) + q.T @ q / noise
        free = self.penalised
        by_precision = precision * (mean_cov.diagonal()[free].sum() + np.sum(mean[free] ** 2) / noise) - free.sum()
        return loss, slope, float(by_precision)

    def curvature(self, variances: FloatArray) -> FloatArray:
        """Return the expected second derivatives of the loss by each variance's logarithm."""
        kept, first, second = list[_Whitened](), np.zeros_like(variances), np.zeros_like(variances)
        self.sums(np.diag(variances), kept)
        for white in kept:
            share = variances * np.einsum("trp,trp->tp", white.X, white.X)
            first += share.sum(axis=0)
            second += np.square(share).sum(axis=0)
        return second - first**2 / self.n


def _whiten(X: FloatArray, y: FloatArray, task_cov: FloatArray) -> _Whitened:
    """Return V^-1/2 of rows (n_tasks, n_rows, ...) by Cholesky factors of all tasks at once.

    Tasks run along the last axis: a step of the factorisation is then one operation on long rows, where LAPACK would
    be called task by task for a few numbers.
    """
    V = np.ascontiguousarray(((X @ task_cov) @ X.transpose(0, 2, 1)).transpose(1, 2, 0))
    V[np.arange(len(V)), np.arange(len(V))] += 1.0
    white = np.ascontiguousarray(np.concatenate((X, y), axis=2).transpose(1, 2, 0))
    log_det = 0.0
    for j in range(len(V)):
        pivot = np.maximum(V[j, j], 1.0)  # at least 1 but for rounding
        log_det += float(np.log(pivot).sum())
        unit = 1 / np.sqrt(pivot)
        white[j] *= unit
        column = V[j + 1 :, j] * unit
        white[j + 1 :] -= column[:, None] * white[j]
        V[j + 1 :, j + 1 :] -= column[:, None] * column
    white = np.ascontiguousarray(white.transpose(2, 0, 1))
    return _Whitened(white[..., :-1], white[..., -1], log_det)
