r"""Restricted (REML) likelihood of a random-coefficient model.

.. math:: y_i = X_i (\omega + b_i) + e_i, \quad b_i \sim N(0, s^2 \Lambda), \quad e_i \sim N(0, s^2 I), \quad
          \omega \sim N(0, s^2 P^{-1})

Given :math:`\Lambda` and the diagonal P, the population's coefficients :math:`\omega` and :math:`s^2` have closed
forms. With ``V_i = I + X_i Lambda X_i'``, minus twice the log restricted likelihood is, up to a constant, ::

    n log s^2 + sum_i log|V_i| + log|S| - log|P|
    S = sum_i X_i' V_i^-1 X_i + P,   omega = S^-1 sum_i X_i' V_i^-1 y_i,   n s^2 = sum_i y_i' V_i^-1 (y_i - X_i omega)

P holds one precision for each prior that coefficients share, and 0 for a flat prior, which log|P| leaves out; n is the
number of rows minus that of coefficients with a flat prior.
docs/theory.md, section "Random effects".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, final

import numpy as np
from scipy.linalg.blas import dtrsm
from scipy.special import chdtrc

from innerloop._base.checks import FloatArray, IntArray
from innerloop.data.row_blocks import RowBlock

# V^-1/2 dV/dt P y of every parameter t of the tasks' covariance; see `RestrictedLikelihood.information`.
Directions = Callable[[FloatArray, FloatArray], FloatArray]

# Noise below this fraction of the targets' mean square is rounding.
_LEAST_NOISE = 1e-14
# Tasks of more rows are factored by LAPACK one by one, others all at once row by row.
_FEW_ROWS = 12
# Directions of so many numbers are held at once.
_MOST_NUMBERS = 2**22


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


class Sums(NamedTuple):
    """Sums over tasks of X'V^-1 X, X'V^-1 y, y'V^-1 y, log|V| and y'y."""

    moments: FloatArray
    cross: FloatArray
    square: float
    log_det: float
    raw_square: float

    @classmethod
    def none(cls, n_features: int) -> Sums:
        """Return the sums over no tasks."""
        return cls(np.zeros((n_features, n_features)), np.zeros(n_features), 0.0, 0.0, 0.0)

    def with_block(self, block: RowBlock, target: int, task_cov: FloatArray) -> Sums:
        """Return these sums with those over the tasks of a block, for one target, at their covariance, added."""
        rows = _rows_of(block, target)
        return _added(self, _whiten(rows, np.arange(len(task_cov)), task_cov), _square_of_targets(rows))


class _Whitened(NamedTuple):
    """V^-1/2 [X y] of a block's tasks (n_tasks, n_rows, n_features + 1), and the sum of their log|V|."""

    both: FloatArray
    log_det: float

    @property
    def X(self) -> FloatArray:
        return self.both[..., :-1]

    @property
    def y(self) -> FloatArray:
        return self.both[..., -1]


class Evaluation(NamedTuple):
    """The loss at some variances, its derivatives, and what its information is computed from.

    Parameters
    ----------
    loss
        Minus twice the log restricted likelihood, up to a constant.
    by_cov : (n_features, n_features)
        Derivative by the tasks' covariance, zero where that must be zero.
    by_precision : (n_priors,)
        Derivative by the log precision of each prior.
    precision : (n_priors,)
    whitened, sums, solution
        Of all tasks at this covariance.
    """

    loss: float
    by_cov: FloatArray
    by_precision: FloatArray
    precision: FloatArray
    whitened: list[_Whitened]
    sums: Sums
    solution: Solution


@final
class RestrictedLikelihood:
    """Minus twice the log restricted likelihood of one target, up to a constant, with its derivatives.

    Parameters
    ----------
    blocks
        Rows of all tasks; an iterator serves for one evaluation.
    target
    n_rows
        Number of rows before they were reduced.
    prior : (n_features,)
        Number of the prior of each population coefficient; negative for a flat one.
    varying
        Positions of the coefficients that may vary between tasks, where these are known beforehand: other rows and
        columns of covariances must be zero, and are zero in derivatives. A rotation of each task's rows then leaves as
        many rows in which V is not the identity as coefficients vary; the others are summed once.
    """

    def __init__(
        self, blocks: Iterable[RowBlock], target: int, n_rows: int, prior: IntArray, varying: IntArray | None = None
    ) -> None:
        self.prior = prior
        self.n_priors = int(prior.max(initial=-1)) + 1
        self.n = max(n_rows - int((prior < 0).sum()), 1)
        self._varying = np.arange(len(prior)) if varying is None else varying
        self._constant = Sums.none(len(prior))
        self._blocks, self._target = blocks, target
        self._parts: list[FloatArray] | None = None
        if varying is not None:
            self._parts = [self._separated(rows) for rows in self._rows()]

    def _rows(self) -> Iterable[FloatArray]:
        """Return the rows [X y] of all tasks, without those that are summed in the constant."""
        if self._parts is not None:
            return self._parts
        return (_rows_of(block, self._target) for block in self._blocks)

    def _separated(self, rows: FloatArray) -> FloatArray:
        """Return the rows in which V may differ from the identity, after a rotation; add the others to the constant."""
        p, q = len(self.prior), len(self._varying)
        if rows.shape[1] <= q:
            return rows
        order = np.append(self._varying, np.setdiff1d(np.arange(p + 1), self._varying))
        rows = rows[..., order]
        rows = np.asarray(np.linalg.qr(rows, mode="r"))[..., np.argsort(order)] if q else rows
        rest = rows[:, q:]
        self._constant = _added(self._constant, _Whitened(rest, 0.0), _square_of_targets(rest))
        return rows[:, :q]

    def counts(self) -> IntArray:
        """Return how many coefficients share each prior."""
        return np.bincount(self.prior[self.prior >= 0], minlength=self.n_priors)

    def penalty(self, precision: FloatArray) -> FloatArray:
        """Return the diagonal of P, given the precision of each prior."""
        return np.where(self.prior >= 0, np.append(precision, 0.0)[self.prior], 0.0)

    def sums(self, task_cov: FloatArray, kept: list[_Whitened] | None = None) -> Sums:
        """Return the sums over all tasks; append whitened blocks to `kept` if it is given."""
        sums, varying = self._constant, self._varying
        for rows in self._rows():
            white = _whiten(rows, varying, task_cov[np.ix_(varying, varying)])
            sums = _added(sums, white, _square_of_targets(rows))
            if kept is not None:
                kept.append(white)
        return sums

    def solve(self, sums: Sums, penalty: FloatArray) -> Solution:
        """Return omega, the noise and the loss, given the sums at a covariance, and the diagonal of P.

        Coefficients of infinite penalty are zero.
        """
        if (free := np.isfinite(penalty)).all():
            return self._solve(sums, penalty)
        square = np.ix_(free, free)
        found = self._solve(sums._replace(moments=sums.moments[square], cross=sums.cross[free]), penalty[free])
        mean, mean_cov = np.zeros(len(free)), np.zeros((len(free), len(free)))
        mean[free], mean_cov[square] = found.mean, found.mean_cov
        return found._replace(mean=mean, mean_cov=mean_cov)

    def _solve(self, sums: Sums, penalty: FloatArray) -> Solution:
        S = sums.moments + np.diag(penalty)
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
        loss -= float(np.log(penalty[penalty > 0]).sum())
        return Solution(mean, mean_cov, noise, loss)

    def evaluate(self, task_cov: FloatArray, precision: FloatArray) -> Evaluation:
        """Return the loss and its derivatives by the tasks' covariance and by the log precision of each prior.

        With q_i = X_i' V_i^-1 (y_i - X_i omega) and M_i = X_i' V_i^-1 X_i, the former is
        ``sum_i M_i - M_i S^-1 M_i - q_i q_i' / s^2``.
        """
        kept = list[_Whitened]()
        sums = self.sums(task_cov, kept)
        solution = self.solve(sums, self.penalty(precision))
        squares = (solution.mean_cov.diagonal() + solution.mean**2 / solution.noise)[self.prior >= 0]
        by_prior = np.bincount(self.prior[self.prior >= 0], squares, self.n_priors)
        by_cov, by_precision = self._slope(kept, solution), precision * by_prior - self.counts()
        return Evaluation(solution.loss, by_cov, by_precision, precision, kept, sums, solution)

    def information(self, at: Evaluation, directions: Directions, n_parameters: int) -> FloatArray:
        """Return the average information about parameters of the tasks' covariance and the log precisions.

        The mean of the observed and the expected second derivatives of the loss, less a term that is zero where the
        model holds, and positive semi-definite: ``(u_j' P u_k - u_j'Py u_k'Py / (n s^2)) / s^2`` with
        ``u_j = dV/dt_j P y`` for every parameter t_j and ``P y = V^-1 (y - X omega)``.

        Parameters
        ----------
        at
        directions
            From ``V^-1/2 Z`` (n_tasks, n_rows, n_varying) and ``q = Z' P y`` (n_tasks, n_varying) of some tasks,
            V^-1/2 u of every parameter of the covariance: (n_tasks, n_rows, n_parameters). Z are the columns of X
            whose coefficients vary.
        n_parameters
            Of the covariance.

        Returns
        -------
        (n_parameters + n_priors, n_parameters + n_priors)
        """
        mean, noise, mean_cov = at.solution.mean, at.solution.noise, at.solution.mean_cov
        square, cross = np.zeros((n_parameters, n_parameters)), np.zeros((n_parameters, len(mean)))
        slope = np.zeros(n_parameters)
        at_once = max(1, _MOST_NUMBERS // max(1, n_parameters * len(self._varying)))
        for white in at.whitened:
            for i in range(0, len(white.X), at_once):
                X, y = white.X[i : i + at_once], white.y[i : i + at_once]
                Z, residual = X[..., self._varying], y - X @ mean
                u = directions(Z, np.einsum("trv,tr->tv", Z, residual)).reshape(residual.size, n_parameters)
                square += u.T @ u
                cross += u.T @ X.reshape(-1, len(mean))
                slope += u.T @ residual.ravel()
        own = np.where(self.prior[:, None] == np.arange(self.n_priors), -mean[:, None], 0.0)  # u = X own
        of_priors, penalty = own.T @ at.sums.moments, self.penalty(at.precision)
        square = np.block([[square, cross @ own], [own.T @ cross.T, of_priors @ own]])
        cross = np.concatenate((cross, of_priors))
        slope = np.append(slope, own.T @ (penalty * mean))
        return np.asarray((square - cross @ mean_cov @ cross.T - np.outer(slope, slope) / (self.n * noise)) / noise)

    def _slope(self, kept: list[_Whitened], solution: Solution) -> FloatArray:
        """Return the derivative of the loss by the tasks' covariance, zero where that must be zero."""
        varying = self._varying
        inner = np.zeros((len(varying), len(varying)))
        for white in kept:
            X, y = white.X, white.y
            Z = X[..., varying]
            q = np.einsum("trv,tr->tv", Z, y - X @ solution.mean)
            unknown = np.eye(X.shape[1]) - X @ solution.mean_cov @ X.transpose(0, 2, 1)
            inner += np.tensordot(Z, unknown @ Z, ((0, 1), (0, 1))) - q.T @ q / solution.noise
        slope = np.zeros((len(self.prior), len(self.prior)))
        slope[np.ix_(varying, varying)] = inner
        return slope

    def score(self, task_cov: FloatArray, penalty: FloatArray) -> tuple[Solution, FloatArray]:
        """Return the estimates given the variances, and how likely chance alone is to ask for more of each variance.

        Rao's score statistic of a variance of zero is ``T = sum_i q_ij^2 / s^2``, the loss's derivative less its
        expectation M, ``sum_i M_ijj``. Where tasks do not differ in the coefficient it is a sum of ``M_ijj chi^2_1``,
        about ``M / f`` times chi^2 of ``f = M^2 / sum_i M_ijj^2`` degrees of freedom (Satterthwaite), which few tasks
        may dominate: a normal distribution would not do.

        Returns
        -------
        solution
        chance : (n_features,)
        """
        kept = list[_Whitened]()
        sums = self.sums(task_cov, kept)
        solution = self.solve(sums, penalty)
        total, squares = np.zeros(len(self.prior)), np.zeros(len(self.prior))
        for white in kept:
            M = np.einsum("trp,trp->tp", white.X, white.X)
            total += M.sum(axis=0)
            squares += np.square(M).sum(axis=0)
        has = squares > 0
        chance, slope = np.ones(len(self.prior)), self._slope(kept, solution).diagonal()
        freedom = total[has] ** 2 / squares[has]
        chance[has] = chdtrc(freedom, freedom * np.maximum(1 - slope[has] / total[has], 0.0))
        return solution, chance


def _rows_of(block: RowBlock, target: int) -> FloatArray:
    """Return the rows [X y] of some tasks for one target: (n_tasks, n_rows, n_features + 1)."""
    if block.both.shape[-1] == block.n_features + 1:
        return block.both
    return np.concatenate((block.X, block.y[..., target, None]), axis=2)


def _square_of_targets(rows: FloatArray) -> float:
    return float(np.square(rows[..., -1]).sum())


def _added(sums: Sums, white: _Whitened, raw_square: float) -> Sums:
    """Return sums with those of whitened rows added, given the sum of their squared targets."""
    rows = white.both.reshape(-1, white.both.shape[2])
    products = rows.T @ rows
    return Sums(
        sums.moments + products[:-1, :-1],
        sums.cross + products[:-1, -1],
        sums.square + float(products[-1, -1]),
        sums.log_det + white.log_det,
        sums.raw_square + raw_square,
    )


def _whiten(rows: FloatArray, varying: IntArray, task_cov: FloatArray) -> _Whitened:
    """Return V^-1/2 of rows, by a Cholesky factor of each task, given the covariance of the varying coefficients."""
    if not task_cov.any():  # V is the identity
        return _Whitened(rows, 0.0)
    Z = rows[..., :-1] if len(varying) == rows.shape[2] - 1 else rows[..., varying]
    V = (Z @ task_cov) @ Z.transpose(0, 2, 1)
    V[:, np.arange(V.shape[1]), np.arange(V.shape[1])] += 1.0
    if V.shape[1] <= _FEW_ROWS:
        return _Whitened(*_whiten_together(V, rows))
    try:
        factor = np.linalg.cholesky(V)
    except np.linalg.LinAlgError:  # rounding, where variances are enormous
        return _Whitened(*_whiten_together(V, rows))
    white = rows.copy()
    for L, of_task in zip(factor, white, strict=True):  # BLAS writes to transposes, which have its order
        dtrsm(1.0, L.T, of_task.T, side=1, lower=0, overwrite_b=1)
    return _Whitened(white, 2 * float(np.log(factor.diagonal(axis1=1, axis2=2)).sum()))


def _whiten_together(V: FloatArray, both: FloatArray) -> tuple[FloatArray, float]:
    """Return V^-1/2 times `both` and the sum of log|V|, by a factorisation of all tasks at once.

    Tasks run along the last axis: a step of the factorisation is then one operation on long rows, where LAPACK would
    be called task by task for a few numbers.
    """
    V = np.ascontiguousarray(V.transpose(1, 2, 0))
    white = both.transpose(1, 2, 0).copy()
    log_det = 0.0
    for j in range(len(V)):
        pivot = np.maximum(V[j, j], 1.0)  # at least 1 but for rounding
        log_det += float(np.log(pivot).sum())
        unit = 1 / np.sqrt(pivot)
        white[j] *= unit
        column = V[j + 1 :, j] * unit
        white[j + 1 :] -= column[:, None] * white[j]
        V[j + 1 :, j + 1 :] -= column[:, None] * column
    return np.ascontiguousarray(white.transpose(2, 0, 1)), log_det
