"""Triangular factors of tall matrices that arrive block by block.

Rows D of a tall matrix are absorbed into a small factor R with R'R = D'D. Householder QR does that to full
accuracy at an eighth of the machine's speed; a Gram matrix at full speed with half the digits. Here each block
is first divided by the factor so far, Q = D M^-1 with M ~ R, which turns it into a well-conditioned matrix,
and then R <- chol(E'E + Q'Q) M with E = R M^-1: one triangular solve and one symmetric product, both BLAS-3.

The error of Q is that of a triangular solve, backward stable row by row, and the Gram matrix is formed only
of the quotient, whose condition does not depend on that of D or on the units of its columns. Where a block
brings a direction that R hardly holds, so that Q is large, the block goes through Householder QR instead.
The derivation is in docs/theory.md, section "The factor".
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import blas, lapack

from innerloop._checks import FloatArray

# M holds no diagonal entry below this fraction of its column: beneath it lies rounding, which must not be
# blown up. Far above the rounding of a sum over millions of rows, far below any direction of use.
_FLOOR = 1e-12
# Above this size of Q'Q its Cholesky factor would lose more digits than Householder QR does.
_LARGEST_QUOTIENT = 1e4
# As many rows are kept as they are: cheap, and least squares from the rows themselves can be refined to full
# accuracy.
_KEPT_ROWS = 128


class Factor:
    """A matrix R with R'R = the sum of D'D over all blocks D absorbed, of at most `most_rows` rows."""

    def __init__(self, n_columns: int) -> None:
        self._pending: list[FloatArray] = []
        self._n_pending = 0
        self._R: FloatArray | None = None
        self._n_columns = n_columns
        self._most_rows = most_rows(n_columns)

    def absorb(self, block: FloatArray) -> None:
        """Take in more rows: (n_rows, n_columns)."""
        if self._R is None:
            head = block[: self._most_rows - self._n_pending]
            self._pending.append(head.copy())
            self._n_pending += len(head)
            block = block[len(head) :]
            if len(block) == 0:
                return
            self._R = np.linalg.qr(np.concatenate(self._pending), mode="r")
        self._R = _update(self._R, block)

    def result(self) -> FloatArray:
        """Return R: (at most `most_rows`, n_columns)."""
        if self._R is not None:
            return self._R
        return np.concatenate([np.empty((0, self._n_columns)), *self._pending])


def most_rows(n_columns: int) -> int:
    """Return how many rows a factor of so many columns may have before it is reduced to a triangle."""
    return max(2 * n_columns, _KEPT_ROWS)


def reduce_rows(matrix: FloatArray) -> FloatArray:
    """Return R with R'R = matrix'matrix and at most `most_rows` rows."""
    return np.linalg.qr(matrix, mode="r") if len(matrix) > most_rows(matrix.shape[1]) else matrix


def _update(R: FloatArray, block: FloatArray) -> FloatArray:
    """Return the triangular factor of the rows of R and of `block` together."""
    M, E = _divisor(R)
    Q = blas.dtrsm(1.0, M, block.T, trans_a=1)  # Q', column-major: the rows of block M^-1
    gram = blas.dsyrk(1.0, Q)
    if not gram.diagonal().max() <= _LARGEST_QUOTIENT:
        return np.linalg.qr(np.concatenate((R, block)), mode="r")
    gram += np.eye(len(R)) if E is None else E.T @ E
    # Far below rounding where R is well determined, this keeps empty columns from a zero pivot.
    gram[np.diag_indices_from(gram)] += len(R) * np.finfo(float).eps
    C, info = lapack.dpotrf(gram, clean=1)
    if info:
        return np.linalg.qr(np.concatenate((R, block)), mode="r")
    return np.ascontiguousarray(blas.dtrmm(1.0, C, M))


def _divisor(R: FloatArray) -> tuple[FloatArray, FloatArray | None]:
    """Return M, which is R with no diagonal entry too small to divide by, and R M^-1 (None: identity)."""
    diagonal = R.diagonal()
    size = np.sqrt(np.einsum("ij,ij->j", R, R))
    # An empty column gets a divisor so small that any entry sends the block to Householder QR.
    floor = np.where(size > 0, _FLOOR * size, 1e-150)
    small = np.abs(diagonal) < floor
    if not small.any():
        return R, None
    M = R.copy()
    M[np.diag_indices_from(M)] = np.where(small, floor, diagonal)
    return M, blas.dtrsm(1.0, M, R, side=1)
