r"""Random effects of tasks that differ in scale: each task's noise and covariance have a multiple of their own.

.. math:: b_i \sim N(0, s^2 \alpha_i \rho_i \Lambda), \quad e_i \sim N(0, s^2 \alpha_i I)

in the model of `random_effects`, with normal :math:`(\log \alpha_i, \log \rho_i)` on a grid of pairs. With
``X Lambda X' = U D U'`` and ``z = U'(y - X omega)`` a pair has the likelihood ``N(z; 0, s^2 alpha (I + rho D))``, so
one decomposition serves all pairs. The best prediction averages over pairs by their posterior. It is not linear in the
targets: coefficients of a task whose rows appear noisy change less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, final

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop.adaptation.random_effects import RandomEffects
from innerloop.adaptation.rules import Eigenbasis
from innerloop.data.row_blocks import RowBlock, row_blocks
from innerloop.data.tasks import TaskSet

# Steps of a factor of 4. The largest noise equals the largest spread: a noisy task must not appear to be a distant one.
_ALPHA, _RHO = 4.0 ** np.arange(-5, 6), 4.0 ** np.arange(-4, 6)
# Pairs (log alpha, log rho).
LOG_SCALES = np.log(np.stack(np.meshgrid(_ALPHA, _RHO, indexing="ij")).reshape(2, -1))
# The prior of the scales has the weight of `_PRIOR_TASKS` tasks whose log scales have this standard deviation.
_PRIOR_TASKS, _PRIOR_STD = 5, 0.4
# Probability of a scale drawn uniformly from the grid.
_OUTLIERS = 1e-3
_N_SWEEPS = 30
# Parameters of the distribution of scales: means, variances and a covariance of two logarithms.
N_PARAMETERS = 5
# Bound of standardised residuals, where the training tasks have no noise at all.
_LARGEST = 1e100
_NUMBERS_AT_ONCE = 2**18


@final
@dataclass(frozen=True, eq=False)
class ScaledRidge:
    """Ridges for all pairs of scales, averaged by the posterior probabilities of a task's scales given its rows.

    Parameters
    ----------
    task_cov : (n_targets, n_features, n_features)
        Lambda, relative to the noise variance.
    noise : (n_targets,)
        Noise variance s^2.
    weight : (n_targets, n_pairs)
        Probabilities of the pairs `LOG_SCALES` among tasks.
    """

    task_cov: FloatArray
    noise: FloatArray
    weight: FloatArray = field(repr=False)

    def adapt(self, coef: FloatArray, tasks: TaskSet) -> FloatArray:
        """Return the adapted coefficients of every task; see `GradientSteps.adapt`."""
        start = coef.reshape(tasks.n_features, -1)
        theta = np.empty((len(tasks), *start.shape))
        for block in row_blocks(tasks, _NUMBERS_AT_ONCE):
            for k in range(start.shape[1]):
                basis = self._eigenbasis(start, block, k)
                pi = self._posterior(basis, block.n_rows, k).sum(axis=1)
                mean = (pi[:, None] @ _shrinkage(basis.d))[:, 0]
                theta[block.members, :, k] = start[:, k] + np.einsum("tpj,tj->tp", basis.back, mean * basis.z)
        return theta.reshape(len(tasks), *coef.shape)

    def with_task_cov(self, task_cov: FloatArray) -> ScaledRidge:
        """Return the rule with another covariance Lambda."""
        return replace(self, task_cov=task_cov)

    def posterior(
        self,
        coef: FloatArray,
        rows: RowBlock,
        task_cov: FloatArray,  # noqa: ARG002
        target: int = 0,
    ) -> ScaledPosterior:
        """Return the posterior mean of tasks' coefficients and noise and the covariance of the former, given y too.

        They are for the covariance Lambda of the rule; see `innerloop.adaptation.rules.Adaptation.posterior`.
        """
        basis = self._eigenbasis(coef, rows, target)
        by_pair, shrinkage = self._posterior(basis, rows.n_rows, target), _shrinkage(basis.d)
        pi, beta = by_pair.sum(axis=1), np.einsum("tar,a,r->tr", by_pair, _ALPHA, _RHO)
        mean = pi[:, None] @ shrinkage
        theta = coef[:, target] + np.einsum("tpj,tj->tp", basis.back, mean[:, 0] * basis.z)
        deviation = (shrinkage - mean) * basis.z[:, None]
        inner = (deviation * pi[..., None]).transpose(0, 2, 1) @ deviation / self.noise[target]
        diagonal = np.arange(inner.shape[1])
        inner[:, diagonal, diagonal] -= (beta[:, None] @ shrinkage)[:, 0]
        noise, scale = by_pair.sum(axis=2) @ _ALPHA, beta.sum(axis=1)
        return ScaledPosterior(theta, noise, scale, self.task_cov[target], basis.back, inner)

    def _eigenbasis(self, coef: FloatArray, rows: RowBlock, target: int) -> Eigenbasis:
        return Eigenbasis.of(self.task_cov[target], rows.X, rows.y[..., target] - rows.X @ coef[:, target])

    def _posterior(self, basis: Eigenbasis, n_rows: IntArray, target: int) -> FloatArray:
        """Return each task's posterior probabilities of the pairs: (n_tasks, n_alpha, n_rho)."""
        by_pair = _normalised(_log_likelihood(basis, n_rows, self.noise[target]), self.weight[target])
        return by_pair.reshape(-1, len(_ALPHA), len(_RHO))


@final
@dataclass(frozen=True, eq=False)
class ScaledPosterior:
    """Coefficients by a `ScaledRidge`; the covariance of their error is ``scale Lambda + B M B'``.

    Parameters
    ----------
    coef, noise
        See `innerloop.adaptation.rules.Posterior`.
    scale : (n_tasks,)
    task_cov : (n_features, n_features)
        Lambda.
    back : (n_tasks, n_features, n_reduced)
        B, the map from a task's eigenbasis to coefficients.
    inner : (n_tasks, n_reduced, n_reduced)
        M.
    """

    coef: FloatArray
    noise: FloatArray
    scale: FloatArray
    task_cov: FloatArray
    back: FloatArray
    inner: FloatArray

    def covariance(self) -> FloatArray:
        """Return the covariance of the error, relative to the noise variance: (n_tasks, n_features, n_features)."""
        return np.asarray(
            self.scale[:, None, None] * self.task_cov + self.back @ self.inner @ self.back.transpose(0, 2, 1)
        )

    def variance(self, rows: FloatArray, chosen: IntArray) -> FloatArray:
        """Return the variance of predictions; see `innerloop.adaptation.rules.Posterior.variance`."""
        on_rows = rows @ self.back[chosen]
        prior = self.scale[chosen, None] * np.einsum("trj,trj->tr", rows @ self.task_cov, rows)
        return np.asarray(prior + np.einsum("trj,trj->tr", on_rows @ self.inner[chosen], on_rows))


class Scales(NamedTuple):
    """Probabilities of the pairs `LOG_SCALES` among tasks, (n_targets, n_pairs), and their likelihood ratio.

    `log_ratio` is twice the log-likelihood minus that of tasks of one scale, summed over targets.
    """

    weight: FloatArray
    log_ratio: float


def estimate_scales(tasks: TaskSet, effects: RandomEffects) -> Scales:
    """Estimate the distribution of tasks' scales: the normal one of highest posterior density, by EM.

    Here scales multiply `effects.task_cov`; in the `ScaledRidge` of new tasks they multiply `effects.new_task_cov`.

    Notes
    -----
    docs/theory.md, section "Random effects".
    """
    weights, log_ratio = [], 0.0
    one_scale = int(np.flatnonzero((LOG_SCALES == 0).all(axis=0))[0])
    for k, noise in enumerate(effects.noise):
        by_task = np.concatenate(
            [
                _log_likelihood(basis, n_rows, noise)
                for basis, n_rows in _eigenbases(tasks, effects.mean[:, k], effects.task_cov[k], k)
            ]
        )
        by_task -= by_task[:, [one_scale]]
        largest = by_task.max(axis=1, keepdims=True)
        likelihood = np.exp(by_task - largest)
        weight = _normal(np.zeros(2), np.log(4) ** 2 * np.eye(2))
        for _ in range(_N_SWEEPS):
            count = weight * ((1 / (likelihood @ weight)) @ likelihood)
            n = len(by_task) + _PRIOR_TASKS
            mean = LOG_SCALES @ count / n
            deviation = LOG_SCALES - mean[:, None]
            weight = _normal(mean, ((deviation * count) @ deviation.T + _PRIOR_TASKS * _PRIOR_STD**2 * np.eye(2)) / n)
        weights.append(weight)
        log_ratio += 2 * float((np.log(likelihood @ weight) + largest[:, 0]).sum())
    return Scales(np.array(weights), log_ratio)


def differ_in_scale(tasks: TaskSet, effects: RandomEffects) -> bool:
    """Return whether scales raise the likelihood by more than their parameters do by chance (Akaike)."""
    return estimate_scales(tasks, effects).log_ratio > 2 * N_PARAMETERS * len(effects.noise)


def _shrinkage(d: FloatArray) -> FloatArray:
    """Return rho / (1 + rho d): (n_tasks, n_rho, n_reduced)."""
    return np.asarray(_RHO[:, None] / (1 + _RHO[:, None] * d[:, None]))


def _log_likelihood(basis: Eigenbasis, n_rows: IntArray, noise: float) -> FloatArray:
    """Return the log-likelihood of each pair, up to a constant: (n_tasks, n_pairs)."""
    ratio = 1 + _RHO[:, None] * basis.d[:, None]
    z = np.minimum(np.abs(basis.z) / np.sqrt(noise), _LARGEST)
    squares = (1 / ratio @ (z**2)[..., None]).transpose(0, 2, 1) / _ALPHA[:, None]
    log_det = np.log(ratio).sum(axis=-1)[:, None] + n_rows[:, None, None] * np.log(_ALPHA)[:, None]
    return np.asarray(-(log_det + squares).reshape(len(n_rows), -1) / 2)


def _eigenbases(
    tasks: TaskSet, mean: FloatArray, task_cov: FloatArray, target: int
) -> Iterator[tuple[Eigenbasis, IntArray]]:
    for block in row_blocks(tasks, _NUMBERS_AT_ONCE):
        yield Eigenbasis.of(task_cov, block.X, block.y[..., target] - block.X @ mean), block.n_rows


def _normalised(log_likelihood: FloatArray, weight: FloatArray) -> FloatArray:
    log_joint = log_likelihood + np.log(weight)
    joint = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    return np.asarray(joint / joint.sum(axis=1, keepdims=True))


def _normal(mean: FloatArray, covariance: FloatArray) -> FloatArray:
    """Return probabilities of the pairs: a normal density, mixed with a uniform one."""
    deviation = LOG_SCALES - mean[:, None]
    log_density = -np.einsum("ic,ic->c", deviation, np.linalg.solve(covariance, deviation)) / 2
    density = np.exp(log_density - log_density.max())
    return np.asarray((1 - _OUTLIERS) * density / density.sum() + _OUTLIERS / len(density))
