"""Least squares at many rates, by normal matrices that are sums of a few, with solutions refined on the rows.

At a rate a the matrix is ``B(a) = sum_j c_j(a) U_j``. Its normal matrix ``B'B`` (``BB'`` where rows are fewer than
features) is a polynomial in a whose coefficients are formed once, so that a rate costs one Cholesky factorisation: at
most a quarter of the operations of a QR factorisation, which BLAS-3 does faster, too.

A normal matrix has the square of B's condition number. It serves as an approximate inverse only: solutions are
corrected with residuals of the rows until nothing but the rounding of these is left. Where rounding may have hidden the
rank of B, and where a solution is not that good, there is no answer, and the rate is to be factored by itself.
The derivation is in docs/theory.md, section "Solving".
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import comb
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from innerloop._base.checks import FloatArray
from innerloop._base.threads import is_small
from innerloop.exact._least_squares import REFINE_ABOVE, ROUNDING

# So many rates share the passes over the rows that refine them; more would not be faster, and take more memory.
_TOGETHER = 8
_MAX_ROUNDS = 8
_EPS = float(np.finfo(float).eps)


class Solved(NamedTuple):
    """A minimiser: the step (n_features, n_targets), B's condition, and the residual's length and a bound of rounding.

    `rounding` is no less than what `residual_above_rounding` allows for.
    """

    step: FloatArray
    condition: float
    misfit: float
    rounding: float


def pays(n_rates: int, n_rows: int, n_features: int, n_steps: int) -> bool:
    """Return whether the products of all U_j and a Cholesky factor per rate are fewer operations than a QR per rate.

    With s the smaller and l the larger side of B, and K steps, these are ``(K + 1)^2 l s^2 + n s^3 / 3`` and
    ``n (2 l s^2 - 2 s^3 / 3)``. For small matrices calls count, not operations.
    """
    short, long = sorted((n_rows, n_features))
    return not is_small(short) and n_rates * (2 * long - short) > (n_steps + 1) ** 2 * long


class ManyRates:
    """Least squares of ``B(a) = sum_j C(K, j) (-a)^j U_j`` at any rates.

    Parameters
    ----------
    U : (n_rows, K + 1, n_features)
        U_0 .. U_K.
    """

    def __init__(self, U: FloatArray) -> None:
        n_rows, n_orders, n_features = U.shape
        self._K = n_orders - 1
        self._rows = U.reshape(n_rows, n_orders * n_features)
        self._n_features, self._is_tall = n_features, n_rows >= n_features
        parts = [U[:, j] if self._is_tall else U[:, j].T for j in range(n_orders)]
        order = min(n_rows, n_features)
        self._products = np.zeros((2 * self._K + 1, order, order))
        self._sizes = np.empty((n_orders, order))
        filled = [_n_filled(part) for part in parts]  # a triangle is half zeros
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows has no Cholesky factor
            for i, j in combinations_with_replacement(range(n_orders), 2):
                n = min(filled[i], filled[j])
                product = parts[i][:n].T @ parts[j][:n]
                if i == j:
                    self._sizes[i] = np.sqrt(product.diagonal())
                else:
                    product = product + product.T
                product *= comb(self._K, i) * comb(self._K, j)
                self._products[i + j] += product

    def solve(self, c: FloatArray, ridges: FloatArray, targets: FloatArray) -> list[Solved | None]:
        """Return the minimisers d of |g - B d|^2 + ridge^2 |d|^2, the shortest where rows are few.

        Parameters
        ----------
        c : (n_rates, K + 1)
            Coefficients of ``B = sum_j c_j U_j``, from `step_coefficients`.
        ridges : (n_rates,)
        targets : (n_rates, n_rows, n_targets)
            g at each rate.

        Returns
        -------
        list
            None at rates that are to be factored by themselves. At others B has the largest rank it can have.
        """
        found: list[Solved | None] = []
        for first in range(0, len(c), _TOGETHER):
            some = slice(first, first + _TOGETHER)
            found += self._solve_some(c[some], ridges[some], targets[some])
        return found

    def times(self, c: FloatArray, x: FloatArray) -> FloatArray:
        """Return B x at each rate: (n_rates, n_rows, n_targets) of x (n_rates, n_features, n_targets)."""
        steps = np.einsum("nj,npk->jpnk", c, x)
        product: FloatArray = self._rows @ steps.reshape(self._rows.shape[1], -1)
        return product.reshape(-1, *steps.shape[2:]).transpose(1, 0, 2)

    def _transposed_times(self, c: FloatArray, r: FloatArray) -> FloatArray:
        """Return B'r at each rate: (n_rates, n_features, n_targets) of r (n_rates, n_rows, n_targets)."""
        n, n_rows, n_targets = r.shape
        product = self._rows.T @ r.transpose(1, 0, 2).reshape(n_rows, -1)
        result: FloatArray = np.einsum("nj,jpnk->npk", c, product.reshape(c.shape[1], -1, n, n_targets))
        return result

    def _solve_some(self, c: FloatArray, ridges: FloatArray, targets: FloatArray) -> list[Solved | None]:
        # (-a)^(i + j), as c has it divided by a power of the scale, is the same for all i + j.
        powers = c / [comb(self._K, j) for j in range(self._K + 1)]
        powers = np.concatenate((powers * powers[:, :1], powers[:, 1:] * powers[:, -1:]), axis=1)
        order = self._products.shape[-1]
        found: list[Solved | None] = [None] * len(c)
        with np.errstate(over="ignore", invalid="ignore"):
            normal = (powers @ self._products.reshape(len(self._products), -1)).reshape(-1, order, order)
            inverses = {}
            for i, square in enumerate(np.square(ridges)):
                if (inverse := self._inverse(normal[i], c[i], square)) is not None:
                    inverses[i] = inverse
        if clear := list(inverses):
            kept = list(inverses.values())
            for i, solved in zip(clear, self._refined(c[clear], ridges[clear], targets[clear], kept), strict=True):
                found[i] = solved
        return found

    def _inverse(self, normal: FloatArray, c: FloatArray, ridge_square: float) -> _Inverse | None:
        """Return the inverse of a normal matrix, which is overwritten; None where its rank may be due to rounding."""
        diagonal = normal.reshape(-1)[:: len(normal) + 1]
        diagonal += ridge_square
        squares = diagonal.copy()
        factor, status = lapack.dpotrf(normal.T, clean=0, overwrite_a=1)
        if status != 0 or not np.isfinite(squares).all():
            return None
        unit = np.exp2(-np.round(np.log2(squares) / 2))
        factor *= unit
        rcond = float(lapack.dtrcon(factor)[0])
        # What is summed may be far larger than the sum, at rates where steps cancel.
        summed = float(((np.square(np.abs(c) @ self._sizes) + ridge_square) / squares).max())
        if not max(len(self._rows), self._n_features) * ROUNDING * summed <= rcond**2 / 4:
            return None
        return _Inverse(factor, unit, 1 / rcond, float(np.linalg.norm(np.sqrt(squares) * unit)))

    def _refined(
        self, c: FloatArray, ridges: FloatArray, targets: FloatArray, inverses: list[_Inverse]
    ) -> list[Solved | None]:
        """Return minimisers, from zero by corrections with residuals of the rows."""
        n, n_rows, n_targets = targets.shape
        step, residual, slack = np.zeros((n, self._n_features, n_targets)), targets.copy(), np.zeros_like(targets)
        changes: list[list[FloatArray]] = [[] for _ in inverses]
        left = list(range(n))
        for _ in range(_MAX_ROUNDS):
            ridge = ridges[left, None, None]
            if self._is_tall:
                error = self._transposed_times(c[left], residual[left]) - ridge**2 * step[left]
            else:  # the shortest (d, e) with [B ridge] (d, e) = g
                error = residual[left] - ridge * slack[left]
            change = np.stack([inverses[i].times(one) for i, one in zip(left, error, strict=True)])
            if not self._is_tall:
                slack[left] += ridge * change
                change = self._transposed_times(c[left], change)
            step[left] += change
            residual[left] = targets[left] - self.times(c[left], step[left])
            for i, one in zip(left, change, strict=True):
                changes[i].append(self._sizes_of(one, inverses[i]))
            left = [i for i in left if not self._is_done(step[i], residual[i], ridges[i], inverses[i], changes[i])]
            if not left:
                break
        found: list[Solved | None] = []
        for i, inverse in enumerate(inverses):
            reach = inverse.size * np.linalg.norm(self._sizes_of(step[i], inverse)) + np.linalg.norm(targets[i])
            rounding = max(n_rows, self._n_features) * ROUNDING * float(reach)
            solved = Solved(step[i], inverse.condition, float(np.linalg.norm(residual[i])), rounding)
            found.append(None if i in left else solved)
        return found

    def _is_done(
        self, step: FloatArray, residual: FloatArray, ridge: float, inverse: _Inverse, changes: list[FloatArray]
    ) -> bool:
        """Return whether the next correction would be below the last digit, or the last one was rounding errors.

        Solutions that `least_squares` refines with exact residuals are never done.
        """
        size, change = self._sizes_of(step, inverse), changes[-1]
        rounding = _EPS * inverse.condition * size
        if self._is_tall:
            rounding = rounding + _EPS * inverse.condition**2 * np.hypot(
                np.linalg.norm(residual, axis=0), ridge * np.linalg.norm(step, axis=0)
            )
            if (rounding > REFINE_ABOVE * size).any():
                return False
        next_change = change * changes[1] / np.where(changes[0] > 0, changes[0], 1.0) if len(changes) > 1 else np.inf
        return bool(((next_change <= _EPS * size) | (change <= rounding)).all())

    def _sizes_of(self, step: FloatArray, inverse: _Inverse) -> FloatArray:
        """Return the length of each target's step, in units in which columns of B have unit length."""
        sizes: FloatArray = np.linalg.norm(step / inverse.unit[:, None] if self._is_tall else step, axis=0)
        return sizes


class _Inverse(NamedTuple):
    """The inverse of a normal matrix as ``unit (T'T)^-1 unit``, the condition of T and its Frobenius norm."""

    factor: FloatArray
    unit: FloatArray
    condition: float
    size: float

    def times(self, b: FloatArray) -> FloatArray:
        unit = self.unit[:, None]
        solution: FloatArray = unit * lapack.dpotrs(self.factor, unit * b)[0]
        return solution


def _n_filled(matrix: FloatArray) -> int:
    """Return the number of rows without those of zeros at the end."""
    filled = np.flatnonzero(matrix.any(axis=1))
    return int(filled[-1]) + 1 if len(filled) else 0
