"""Triangular factor of a tall matrix that arrives block by block.

Rows D of a tall matrix are reduced to a small factor R with R'R = D'D. Householder QR does that to full
accuracy at an eighth of the machine's speed; a Gram matrix at full speed with half the digits. Here each block
is first divided by the current factor, Q = D M^-1 with M ~ R, which is well conditioned, and then
R <- chol(E'E + Q'Q) M with E = R M^-1: one triangular solve and one symmetric product, both BLAS-3.

The error of Q is that of a triangular solve, backward stable row by row, and a Gram matrix is formed only of the
quotient, whose condition does not depend on that of D or on the units of its columns. Where a block has a
component along which R is nearly zero, so that Q is large, the block is reduced by Householder QR instead.
The derivation is in docs/theory.md, section "The factor".
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import blas, lapack

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.threads import one_thread

# Diagonal entries of M are raised to this fraction of their column: smaller ones are rounding errors, by which nothing
# should be divided. Far above the rounding of a sum over millions of rows, far below any component that matters.
_FLOOR = 1e-12
# With a larger diagonal entry of Q'Q its Cholesky factor would lose more digits than Householder QR does.
_LARGEST_QUOTIENT = 1e4
# Up to so many rows are not reduced: that is cheap, and least squares on the rows themselves can be refined to full
# accuracy.
_KEPT_ROWS = 128


Divisor = tuple[FloatArray, FloatArray | None, IntArray]


class Factor:
    """A matrix R with R'R = the sum of D'D over all blocks D absorbed, of at most `most_rows` rows."""

    def __init__(self, n_columns: int) -> None:
        self._n_columns = n_columns
        self._R: FloatArray | None = None
        # Sum of Q'Q over blocks absorbed since R was last updated; None if there were none.
        self._gram: FloatArray | None = None
        self._divisor: Divisor | None = None  # of R, computed when first needed
        self._pending: list[FloatArray] = []
        self._n_pending = 0

    def absorb(self, block: FloatArray) -> None:
        """Add rows (n_rows, n_columns). They are held by reference for a while: do not change them."""
        if self._R is None:
            head = most_rows(self._n_columns) - self._n_pending
            if len(block) > head:
                self._take(block[:head])
                self._R = triangle(self._rows())
                block = block[head:]
        self._take(block)
        if self._R is not None and 2 * self._n_pending >= full_block(self._n_columns):
            self._reduce(self._rows())

    def result(self) -> FloatArray:
        """Return R: (at most `most_rows`, n_columns)."""
        rows = self._rows() if self._n_pending else np.empty((0, self._n_columns))
        if self._R is None:
            self._take(rows)
            return rows
        if len(rows):
            self._reduce(rows)
        return self._up_to_date()

    def _take(self, rows: FloatArray) -> None:
        self._pending.append(rows)
        self._n_pending += len(rows)

    def _rows(self) -> FloatArray:
        """Return the pending rows and clear them."""
        rows = self._pending[0] if len(self._pending) == 1 else np.concatenate(self._pending)
        self._pending, self._n_pending = [], 0
        return rows

    def _reduce(self, block: FloatArray) -> None:
        """Reduce a block into R, or add it to the sum of Q'Q by which R is updated later."""
        assert self._R is not None
        if self._divisor is None:
            self._divisor = _divisor(self._R)
        M, E, small = self._divisor
        Q = blas.dtrsm(1.0, M, block.T, trans_a=1)  # Q', column-major: the rows of block M^-1
        gram = blas.dsyrk(1.0, Q)
        if not gram.diagonal().max() <= _LARGEST_QUOTIENT:
            self._R, self._divisor = triangle(np.concatenate((self._up_to_date(), block))), None
        elif E is not None:
            self._R, self._divisor = _patched_update(self._R, M, E, small, gram, block), None
        else:
            self._gram = gram if self._gram is None else np.add(self._gram, gram, out=self._gram)
            if self._gram.diagonal().max() > _LARGEST_QUOTIENT:
                self._R = self._up_to_date()

    def _up_to_date(self) -> FloatArray:
        """Return R updated by the sum of Q'Q: chol(I + sum Q'Q) R."""
        assert self._R is not None
        if self._gram is not None:
            self._gram[np.diag_indices_from(self._gram)] += 1.0
            C, _ = lapack.dpotrf(self._gram, clean=1)  # all its eigenvalues are at least 1
            self._R, self._gram, self._divisor = np.ascontiguousarray(blas.dtrmm(1.0, C, self._R)), None, None
        return self._R


def full_block(n_columns: int) -> int:
    """Return a number of rows per block that is large enough for BLAS-3 and small enough for the cache."""
    return max(4 * n_columns, 2**19 // n_columns)


def most_rows(n_columns: int) -> int:
    """Return how many rows a factor of `n_columns` columns may have before it is reduced to a triangle."""
    return max(2 * n_columns, _KEPT_ROWS)


def reduce_rows(matrix: FloatArray) -> FloatArray:
    """Return R with R'R = matrix'matrix and at most `most_rows` rows."""
    return triangle(matrix) if len(matrix) > most_rows(matrix.shape[1]) else matrix


def _patched_update(
    R: FloatArray, M: FloatArray, E: FloatArray, small: IntArray, gram: FloatArray, block: FloatArray
) -> FloatArray:
    """Return the factor of R and one block where some columns of R are zero but for rounding."""
    gram += E.T @ E
    # Avoids zero pivots in those columns by less than their rounding error; other columns are unchanged.
    gram[small, small] += len(R) * np.finfo(float).eps
    C, info = lapack.dpotrf(gram, clean=1)
    if info:
        return triangle(np.concatenate((R, block)))
    result = np.ascontiguousarray(blas.dtrmm(1.0, C, M))
    result[:, ~R.any(axis=0)] = 0.0
    return result


def triangle(matrix: FloatArray) -> FloatArray:
    """Return the triangular factor of `matrix` by Householder reflections."""
    with one_thread(matrix.shape[1]):  # its steps are too small for several threads
        return np.asarray(np.linalg.qr(matrix, mode="r"))


def _divisor(R: FloatArray) -> Divisor:
    """Return M (R with small diagonal entries raised), R M^-1 (None: identity), and the positions raised."""
    diagonal = R.diagonal()
    size = np.abs(R).max(axis=0)
    # A zero column gets a divisor so small that any nonzero entry makes the block go through Householder QR.
    floor = np.where(size > 0, _FLOOR * size, 1e-150)
    small = np.flatnonzero(np.abs(diagonal) < floor)
    if len(small) == 0:
        return np.asfortranarray(R), None, small
    M = R.copy(order="F")
    M[small, small] = floor[small]
    return M, blas.dtrsm(1.0, M, R, side=1), small
