"""The test loss after adaptation for a given error of the meta-parameters, exactly (docs/theory.md, 7)."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import final

import numpy as np
from numpy.polynomial import polynomial
from scipy.optimize import minimize_scalar

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.distributions.mixed_linear import GAUSSIAN_FOURTH_MOMENT
from innerloop.theory.spectrum import wishart_spectrum
from innerloop.theory.wishart import wishart_diagonal, wishart_trace_moment, wishart_word_moment

# Exact moments take a second beyond so many steps: of the spectrum, and of words in Sigma.
_MOST_STEPS, _MOST_GENERAL_STEPS = 12, 4
# The roots of polynomials in the rate lose digits beyond so many steps.
_MOST_ROOTS = 3
_ROUNDING = 1e-9
# Candidates of the best rate where it is no root of a polynomial, in the logarithm.
_SCANNED = np.linspace(-14, 14, 113)


@final
@dataclass(frozen=True, eq=False)
class AdaptedLoss:
    r"""Half the mean squared error after adaptation, a function of the rate r and of E(omega* - w0)_j^2.

    .. math:: L = \tfrac12 \{ \sigma^2 (1 + f(r)) + \sum_j \Omega_j(r) (\tau_j^2 + E(\omega^* - w_0)_j^2) \}

    With isotropic features and tasks there is one direction that stands for all: tau^2 is nu^2, and the error the sum.

    Parameters
    ----------
    noise
        sigma^2.
    spread : (directions,)
        tau_j^2.
    weights : (powers, directions)
        Omega_j as coefficients of powers of r.
    passed_noise : (powers,)
        f as coefficients of powers of r.
    design, n_features
        With a rule that is no polynomial in the rate, or one of high degree: the design and p, from which the loss is
        then computed by the spectrum of equation 11.1.
    """

    noise: float
    spread: FloatArray
    weights: FloatArray
    passed_noise: FloatArray
    design: Design | None = None
    n_features: int = 0

    @classmethod
    def build(cls, dist: MixedLinearRegression, design: Design) -> AdaptedLoss:
        """Return the loss of a distribution and a design, or refuse by name what is not derived."""
        noise = dist.noise_std**2
        if not dist.is_gaussian and design.adapt_rule.degree != 1:
            raise ValueError(
                "`dist` must have Gaussian features unless a new task adapts by one gradient step: no other "
                "expectation is derived; use estimate_loss."
            )
        if not dist.is_isotropic:
            weights, passed = _general(dist, design)
            return cls(noise, dist.task_variances, weights, passed)
        spread = np.array([dist.task_variances.sum()])
        degree = design.adapt_rule.degree
        if degree is None or degree > _MOST_STEPS:
            return cls(noise, spread, np.zeros((1, 1)), np.zeros(1), design, dist.n_features)
        weights, passed = _isotropic(dist, design)
        return cls(noise, spread, weights, passed)

    def __call__(self, adapt_lr: FloatArray, error: FloatArray) -> FloatArray:
        """Return the loss at rates (...,) and errors (..., directions)."""
        weights, passed = self._at(adapt_lr)
        with np.errstate(all="ignore"):
            loss: FloatArray = 0.5 * (self.noise * (1 + passed) + (weights * (self.spread + error)).sum(axis=-1))
            # No estimator is below the noise of a new row, and no error is negative: such numbers are rounding.
            impossible = (loss < 0.5 * self.noise * (1 - _ROUNDING)) | (error < 0).any(axis=-1)
        return np.where(impossible, np.nan, loss)

    def best_rate(self, error: FloatArray) -> float:
        """Return the rate of the lowest loss, for errors (directions,)."""
        if not np.isfinite(error).all():
            return float("nan")
        if self.design is not None or len(self.weights) > 2 * _MOST_ROOTS + 1:
            return _scan_rates(self, error)
        loss = self.noise * self.passed_noise + self.weights @ (self.spread + error)
        slope = polynomial.polytrim(polynomial.polyder(loss), tol=0)
        roots = polynomial.polyroots(slope)
        real = roots.real[np.abs(roots.imag) < 1e-7 * (1 + np.abs(roots.real))]
        return float(real[np.argmin(polynomial.polyval(real, loss))]) if len(real) else 0.0

    def weights_at(self, adapt_lr: FloatArray) -> FloatArray:
        """Return Omega at rates (...,): (..., directions)."""
        return self._at(adapt_lr)[0]

    def _at(self, adapt_lr: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the weights (..., directions) and the noise (...,) at rates."""
        if self.design is None:
            return _evaluate(self.weights, adapt_lr[..., None]), _evaluate(self.passed_noise, adapt_lr)
        spectrum, p = wishart_spectrum(self.design.n_adapt, self.n_features), self.n_features
        kept, passed, log_scale = self.design.adapt_rule.filters(adapt_lr, spectrum.nodes)
        with np.errstate(over="ignore"):  # an infinite loss
            scale = np.exp(log_scale)
        return scale * (kept @ spectrum.weights)[..., None] / p, (
            scale[..., 0] * (passed @ spectrum.weights) / self.design.n_adapt
        )


def _evaluate(coefficients: FloatArray, rates: FloatArray) -> FloatArray:
    """Return polynomials by Horner's rule: coefficients (powers, ...), lowest first, at rates that broadcast."""
    total: FloatArray = np.zeros_like(rates) + coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        total = total * rates + coefficient
    return total


def _isotropic(dist: MixedLinearRegression, design: Design) -> tuple[FloatArray, FloatArray]:
    """Return E tr A^2K / p and E tr F / n_r (equations 7.2 and 7.3)."""
    p, n, K = dist.n_features, design.n_adapt, int(design.adapt_steps)
    moments = [wishart_trace_moment([k], n, p) / n**k for k in range(2 * K + 1)]
    moments[2] += _beyond_gaussian(dist).sum() / n
    kept = np.array([comb(2 * K, j) * (-1) ** j * moments[j] / p for j in range(2 * K + 1)])
    return kept[:, None], _noise_coefficients(moments, n, K)


def _general(dist: MixedLinearRegression, design: Design) -> tuple[FloatArray, FloatArray]:
    """Return the diagonal of E A^K Sigma A^K and E tr Sigma F / n_r, any covariance (equation 16.3)."""
    if design.adapt_rule.degree is None:
        raise ValueError("`inner_rule` must be 'gradient' unless features are isotropic; use estimate_loss.")
    s, n, K = dist.eigenvalues, design.n_adapt, int(design.adapt_steps)
    if K > _MOST_GENERAL_STEPS:
        raise ValueError(
            f"`n_adapt_steps` must be at most {_MOST_GENERAL_STEPS} unless features and tasks are isotropic, got {K}: "
            "exact moments of more steps take too long; use fewer steps on a new task, or estimate_loss."
        )
    weights = np.zeros((2 * K + 1, len(s)))
    for i in range(K + 1):
        for j in range(K + 1):
            sign = (-1) ** (i + j) * comb(K, i) * comb(K, j)
            weights[i + j] += sign * wishart_diagonal(i, 1, j, n, s) / float(n) ** (i + j)
    weights[2] += _beyond_gaussian(dist) / n
    words = [wishart_word_moment([[0] * (k - 1) + [1]], n, s) / float(n) ** k if k else 0.0 for k in range(2 * K)]
    return weights, _noise_coefficients(words, n, K)


def _beyond_gaussian(dist: MixedLinearRegression) -> FloatArray:
    """Return the diagonal of E (x'Sigma x) x x' minus that of Gaussian rows (equation 28.3)."""
    s = dist.eigenvalues
    beyond = (dist.fourth_moment - GAUSSIAN_FOURTH_MOMENT) * s**3
    if dist.row_dof < np.inf:
        beyond = 2 / (dist.row_dof - 4) * (s * (s @ s) + 2 * s**3)
    if dist.intercept:
        beyond[-1] = (1 - GAUSSIAN_FOURTH_MOMENT) * s[-1] ** 3
    return beyond


def _noise_coefficients(moments: list[float], n: int, K: int) -> FloatArray:
    """Return E tr F(S / n) / n as coefficients of powers of the rate, F(s) = (1 - (1 - r s)^K)^2 / s."""
    passed = np.zeros(2 * K + 1)
    for i in range(1, K + 1):
        for j in range(1, K + 1):
            passed[i + j] += (-1) ** (i + j) * comb(K, i) * comb(K, j) * moments[i + j - 1] / n
    return passed


def _scan_rates(loss: AdaptedLoss, error: FloatArray) -> float:
    """Return the best of positive rates, by a scan and a search around the lowest."""

    def at(log: FloatArray) -> FloatArray:
        values = loss(np.exp(log), error)
        return np.where(np.isfinite(values), values, np.inf)

    unit = 1.0 if loss.design is not None else float(-loss.weights[1].sum() / loss.weights[2].sum())
    scanned = _SCANNED + np.log(unit)
    low = int(np.argmin(at(scanned)))
    bounds = scanned[max(low - 1, 0)], scanned[min(low + 1, len(scanned) - 1)]
    minimum = minimize_scalar(
        lambda log: float(at(np.array(log))), bounds=bounds, method="bounded", options={"xatol": 1e-9}
    )
    return float(np.exp(minimum.x))
