"""Meta-training on rows that are not Gaussian: t rows, fourth moments, an intercept (docs/theory.md, 28)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.distributions.mixed_linear import GAUSSIAN_FOURTH_MOMENT
from innerloop.theory.pencil import GAUSSIAN_ROWS, Lengths, Pencil, episodes_of

_N_NODES = 12


def is_derived(design: Design) -> bool:
    """Return whether the law of the rows enters meta-training: one gradient step, tasks of one size, whole folds."""
    (group, *others) = design.groups
    folds = design.protocol != "deal" or (group.n_support + group.n_query) % group.n_support == 0
    return not others and design.rule.degree == 1 and design.protocol != "leave-one-out" and folds


@final
class RowLaw:
    """E(omega* - w0)_j^2 for the rows of a distribution, over that for Gaussian rows of the same second moments.

    Both are leading orders of the linearised equations; their ratio multiplies errors that have finite-size terms.

    Parameters
    ----------
    dist, design
        The tasks, and the sizes.
    start_squared : (n_features,)
        Squares of omega_0 - w0 in the eigen-directions.
    gaussian
        Errors (n_directions,) of Gaussian rows at a rate to leading order, where they are known otherwise; None solves
        the linearised equations for them too.
    """

    def __init__(
        self,
        dist: MixedLinearRegression,
        design: Design,
        start_squared: FloatArray,
        gaussian: Callable[[float], FloatArray] | None = None,
    ) -> None:
        self._dist, self._scale = dist, float(dist.eigenvalues.mean())
        lengths, self._power = row_lengths(dist)
        rows = slice(0, -1) if dist.intercept else slice(None)
        self._ratios: dict[float, FloatArray] = {}
        self._actual = pencil_of(dist, design, start_squared, rows, lengths)
        self._gaussian = gaussian
        self._solved = pencil_of(dist, design, start_squared, slice(None), GAUSSIAN_ROWS)

    def ratio(self, inner_lrs: FloatArray) -> FloatArray:
        """Return the ratio at rates (n_rates,): (n_rates, n_directions); NaN where the equations are not solved."""
        new = np.array([rate for rate in inner_lrs.tolist() if rate not in self._ratios])
        self._ratios |= dict(zip(new.tolist(), self._at(new), strict=True))
        return np.array([self._ratios[rate] for rate in inner_lrs.tolist()])

    def _at(self, inner_lrs: FloatArray) -> FloatArray:
        actual = self._total(self._actual, inner_lrs)
        if self._gaussian is None:
            gaussian = self._total(self._solved, inner_lrs)
        else:
            known = [self._gaussian(rate) for rate in inner_lrs.tolist()]
            gaussian = np.reshape(known, actual.shape) * self._scale
        with np.errstate(all="ignore"):
            ratio = np.where(gaussian > 0, actual / gaussian, 1.0)
        return np.where(np.isnan(gaussian), np.nan, ratio**self._power)

    def _total(self, pencil: Pencil, inner_lrs: FloatArray) -> FloatArray:
        noise, tasks, start = pencil.parts(inner_lrs * self._scale)
        return self._dist.noise_std**2 * noise + tasks + start


def row_lengths(dist: MixedLinearRegression) -> tuple[Lengths, int]:
    """Return a quadrature of the law of |x|^2 / E|x|^2 beyond that of Gaussian rows, and the power of its effect.

    Independent coordinates of another fourth moment have rows of other lengths, whose excess variance is that of a
    gamma law. Where lengths vary less than those of Gaussian rows, the effect of the same excess is inverted.
    """
    if dist.row_dof < math.inf:
        nodes, weights = _gamma_quadrature(dist.row_dof / 2)
        return Lengths((dist.row_dof / 2 - 1) / nodes, weights), 1
    s = dist.eigenvalues
    excess = (dist.fourth_moment - GAUSSIAN_FOURTH_MOMENT) * float(s @ s) / float(s.sum()) ** 2
    if excess == 0:
        return GAUSSIAN_ROWS, 1
    shape = 1 / abs(excess)
    nodes, weights = _gamma_quadrature(shape)
    return Lengths(nodes / shape, weights), int(np.sign(excess))


def _gamma_quadrature(shape: float) -> tuple[FloatArray, FloatArray]:
    """Return Gauss quadrature of a gamma law of unit scale, from the Jacobi matrix of Laguerre's polynomials."""
    k = np.arange(_N_NODES)
    off = np.sqrt(k[1:] * (k[1:] + shape - 1))
    nodes, vectors = np.linalg.eigh(np.diag(2 * k + shape) + np.diag(off, 1) + np.diag(off, -1))
    return nodes, vectors[0] ** 2


def pencil_of(
    dist: MixedLinearRegression, design: Design, start_squared: FloatArray, rows: slice, lengths: Lengths
) -> Pencil:
    """Return the linearised equations of a design, in units in which features have mean variance one.

    Parameters
    ----------
    dist, design, start_squared
        As in `RowLaw`.
    rows
        The features whose directions are Gaussian; the one left out is constant.
    lengths
        The law of the rows' squared lengths.
    """
    p, scale = dist.n_features, float(dist.eigenvalues.mean())
    over = design.l2 == 0 and design.n_query_rows < p
    penalty = 1.0 if over else design.l2 / scale * design.n_query_rows
    s, tau2, start2 = dist.eigenvalues / scale, dist.task_variances * scale, start_squared * scale
    constant = None if rows == slice(None) else (float(s[-1]), float(tau2[-1]), float(start2[-1]))
    s, tau2, start2, counts = s[rows], tau2[rows], start2[rows], np.ones(len(s[rows]))
    if dist.is_isotropic:
        s, tau2, start2, counts = np.ones(1), tau2[:1], np.array([start2.mean()]), np.array([float(p)])
    sizes, episodes = episodes_of(design)
    return Pencil(sizes, episodes, design.n_tasks, penalty, float(not over), s, tau2, start2, counts, constant, lengths)
