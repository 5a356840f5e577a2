"""Parametrisations of a covariance of tasks' coefficients by its root, Lambda = L L', with priors."""

from __future__ import annotations

from typing import NamedTuple, Protocol, final

import numpy as np
from scipy.linalg import solve_triangular

from innerloop._base.checks import FloatArray, IntArray
from innerloop.adaptation.restricted_likelihood import Directions

Bounds = list[tuple[float, float]]

# Bounds of the logarithms of variance ratios, for features of unit mean square: beyond them a variance acts as zero, or
# as infinity.
_LOG_VARIANCES = (-16.0, 20.0)
# The prior is this power of the noise's share of a row's variance (the rest is due to slopes of tasks and of the
# population): variance that rows cannot distinguish from noise is attributed to noise.
NOISE_POWER = 0.25
# Largest entry of the factor of a full covariance relative to the diagonal one; pivots are at least its inverse.
_LARGEST_FACTOR = 1e3


class Roots(Protocol):
    """Roots L by a vector t, with a prior of t."""

    def root(self, t: FloatArray) -> FloatArray:
        """Return L: (n_features, n_varying)."""
        ...

    def chain(self, t: FloatArray, by_root: FloatArray) -> FloatArray:
        """Return the gradient by t of a function with the gradient `by_root` by L."""
        ...

    def bend(self, by_t: FloatArray) -> FloatArray:
        """Return what the curvature of t -> Lambda adds to second derivatives (n_t,), given the gradient by t."""
        ...

    def directions(self, t: FloatArray) -> Directions:
        """Return what the information about t is computed from; see `RestrictedLikelihood.information`."""
        ...

    def prior(self, t: FloatArray) -> tuple[float, FloatArray]:
        """Return the prior's term of the loss, and its gradient by t."""
        ...

    def prior_curvature(self, t: FloatArray) -> FloatArray:
        """Return the second derivatives of the prior's term by t, or expected ones: (n_t, n_t)."""
        ...

    def bounds(self) -> Bounds:
        """Return bounds of t."""
        ...


@final
class DiagonalRoots(NamedTuple):
    """Variances exp(t) of coefficients, for features divided by `unit`, the root of their mean squares.

    The log variances of each prior's coefficients are normal around their mean, with standard deviation `spread`, and
    the noise has the share ``1 / (1 + sum)`` of a row's variance, a prior to the power `NOISE_POWER`; neither concerns
    coefficients with a flat prior.

    Parameters
    ----------
    n_features
    columns : (n_varying,)
        Features whose coefficients vary.
    parameter : (n_varying,)
        Index in t of the log variance of each; several may share one.
    unit : (n_varying,)
    size : (n_parameters,)
        Variance of a row's target for each unit of variance.
    prior_of : (n_parameters,)
        Number of the prior, -1 for a flat one.
    spread
    """

    n_features: int
    columns: IntArray
    parameter: IntArray
    unit: FloatArray
    size: FloatArray
    prior_of: IntArray
    spread: float

    @classmethod
    def separate(cls, columns: IntArray, squares: FloatArray, prior: IntArray, spread: float) -> DiagonalRoots:
        """Return one variance for each coefficient, given the mean squares and the priors of all features."""
        each, unit = np.arange(len(columns)), np.sqrt(np.where(squares > 0, squares, 1.0))[columns]
        return cls(len(squares), columns, each, unit, np.ones(len(columns)), prior[columns], spread)

    @classmethod
    def shared(cls, columns: IntArray, squares: FloatArray, prior: IntArray, spread: float) -> DiagonalRoots:
        """Return one variance for all coefficients of a prior."""
        numbers, parameter = np.unique(prior[columns], return_inverse=True)
        size = np.asarray(np.bincount(parameter, squares[columns], len(numbers)), dtype=float)
        return cls(len(squares), columns, parameter, np.ones(len(columns)), size, numbers, spread)

    def root(self, t: FloatArray) -> FloatArray:
        """Return L."""
        L = np.zeros((self.n_features, len(self.columns)))
        L[self.columns, np.arange(len(self.columns))] = np.exp(t[self.parameter] / 2) / self.unit
        return L

    def chain(self, t: FloatArray, by_root: FloatArray) -> FloatArray:
        """Return the gradient by t."""
        of_column = by_root[self.columns].diagonal() * np.exp(t[self.parameter] / 2) / (2 * self.unit)
        return np.asarray(np.bincount(self.parameter, of_column, len(t)), dtype=float)

    def bend(self, by_t: FloatArray) -> FloatArray:
        """Return the gradient, as the second derivative of exp(t) is the first; 0 for one that is negative."""
        return np.maximum(by_t, 0.0)

    def directions(self, t: FloatArray) -> Directions:
        """Return what the information about t is computed from."""
        variance, of_parameter = np.exp(t[self.parameter]) / self.unit**2, self.parameter[:, None] == np.arange(len(t))

        def directions(Z: FloatArray, q: FloatArray) -> FloatArray:
            of_column = Z * (variance * q)[:, None, :]
            return of_column if len(t) == len(variance) else of_column @ of_parameter

        return directions

    def prior(self, t: FloatArray) -> tuple[float, FloatArray]:
        """Return the prior's term of the loss, and its gradient."""
        loss, by_t = 0.0, np.zeros_like(t)
        for members in self._of_priors():
            deviation = t[members] - t[members].mean()
            loss += float(np.sum(deviation**2)) / self.spread**2
            by_t[members] += 2 * deviation / self.spread**2
        slopes = np.flatnonzero(self.prior_of >= 0)
        if len(slopes):
            total, share = self._of_row(t, slopes)
            loss += 2 * NOISE_POWER * total
            by_t[slopes] += 2 * NOISE_POWER * share
        return loss, by_t

    def prior_curvature(self, t: FloatArray) -> FloatArray:
        """Return the second derivatives of the prior's term."""
        second = np.zeros((len(t), len(t)))
        for members in self._of_priors():
            second[np.ix_(members, members)] += 2 * (np.eye(len(members)) - 1 / len(members)) / self.spread**2
        slopes = np.flatnonzero(self.prior_of >= 0)
        if len(slopes):
            share = self._of_row(t, slopes)[1]
            second[np.ix_(slopes, slopes)] += 2 * NOISE_POWER * (np.diag(share) - np.outer(share, share))
        return second

    def _of_priors(self) -> list[IntArray]:
        """Return the parameters of each prior that is not flat."""
        return [np.flatnonzero(self.prior_of == number) for number in np.unique(self.prior_of[self.prior_of >= 0])]

    def _of_row(self, t: FloatArray, slopes: IntArray) -> tuple[float, FloatArray]:
        """Return the logarithm of a row's variance in units of the noise, and the share of each slope in it."""
        of_row = t[slopes] + np.log(self.size[slopes])
        total = float(np.logaddexp.reduce(np.append(of_row, 0.0)))
        return total, np.exp(of_row - total)

    def bounds(self) -> Bounds:
        """Return bounds of the log variances."""
        return [_LOG_VARIANCES] * len(self.size)

    def from_variances(self, variances: FloatArray, least: float) -> FloatArray:
        """Return t for variances (n_features,), at least `least` in these units."""
        of_column = np.maximum(variances[self.columns] * self.unit**2, least)
        return np.log(np.bincount(self.parameter, of_column) / np.bincount(self.parameter))


@final
class FullRoots(NamedTuple):
    """L = diag(scale) C with lower triangular C, t its entries, and an inverse-Wishart prior whose mode is C = I.

    Parameters
    ----------
    n_features
    columns, scale : (n_varying,)
        Features whose coefficients vary, and the standard deviation of each in a diagonal covariance.
    """

    n_features: int
    columns: IntArray
    scale: FloatArray

    def root(self, t: FloatArray) -> FloatArray:
        """Return L."""
        L = np.zeros((self.n_features, len(self.columns)))
        L[self.columns] = self.scale[:, None] * self._triangle(t)
        return L

    def chain(self, t: FloatArray, by_root: FloatArray) -> FloatArray:  # noqa: ARG002
        """Return the gradient by t."""
        return (self.scale[:, None] * by_root[self.columns])[np.tril_indices(len(self.scale))]

    def bend(self, by_t: FloatArray) -> FloatArray:
        """Return zeros: at a minimum the prior's part, not in `prior_curvature` either, cancels that of the loss."""
        return np.zeros_like(by_t)

    def directions(self, t: FloatArray) -> Directions:
        """Return what the information about t is computed from."""
        L, (row, column) = self.scale[:, None] * self._triangle(t), np.tril_indices(len(self.scale))

        def directions(Z: FloatArray, q: FloatArray) -> FloatArray:
            scaled, of_scaled = Z * self.scale, q * self.scale
            return scaled[..., row] * (q @ L)[:, None, column] + (Z @ L)[..., column] * of_scaled[:, None, row]

        return directions

    def prior(self, t: FloatArray) -> tuple[float, FloatArray]:
        """Return the prior's term of the loss, and its gradient."""
        C, inverse, weight = self._triangle(t), self._inverse(t), len(self.scale)
        by_C = 2 * weight * (np.diag(1 / C.diagonal()) - inverse.T @ inverse @ inverse.T)
        loss = weight * (2 * float(np.log(C.diagonal()).sum()) + float(np.sum(inverse**2)))
        return loss, by_C[np.tril_indices(weight)]

    def prior_curvature(self, t: FloatArray) -> FloatArray:
        """Return the expected second derivatives of a Wishart's."""
        inverse, weight = self._inverse(t), len(self.scale)
        row, column = np.tril_indices(weight)
        second = (inverse.T @ inverse)[np.ix_(row, row)] * (column[:, None] == column)
        second += inverse[np.ix_(column, row)] * inverse[np.ix_(column, row)].T
        return np.asarray(2 * weight * second)

    def _inverse(self, t: FloatArray) -> FloatArray:
        # Pivots may differ by all that numbers hold.
        return np.asarray(solve_triangular(self._triangle(t), np.eye(len(self.scale)), lower=True))

    def bounds(self) -> Bounds:
        """Return bounds of the entries of C."""
        entries = np.eye(len(self.scale))[np.tril_indices(len(self.scale))]
        return [((1 / _LARGEST_FACTOR) if pivot else -_LARGEST_FACTOR, _LARGEST_FACTOR) for pivot in entries]

    def start(self, similar: FloatArray | None) -> FloatArray:
        """Return t for the diagonal covariance or, where one is given, for a similar CC' (n_features, n_features)."""
        C = np.eye(len(self.scale))
        if similar is not None:
            product = similar[np.ix_(self.columns, self.columns)]
            C = np.linalg.cholesky(product + 1e-9 * np.trace(product) * C)
        low, high = np.array(self.bounds()).T
        return np.clip(C[np.tril_indices(len(C))], low, high)

    def _triangle(self, t: FloatArray) -> FloatArray:
        C = np.zeros((len(self.scale), len(self.scale)))
        C[np.tril_indices(len(self.scale))] = t
        return C
