r"""Tasks of different scales: random effects whose noise and covariance are multiplied task by task.

.. math:: b_i \sim N(0, s^2 \alpha_i \rho_i \Lambda), \quad e_i \sim N(0, s^2 \alpha_i I)

in the model of `random_effects`, with normal :math:`(\log \alpha_i, \log \rho_i)` on a grid of pairs. With
``X Lambda X' = U D U'`` and ``z = U'(y - X omega)`` a pair has the likelihood ``N(z; 0, s^2 alpha (I + rho D))``: one
decomposition serves all pairs. Averages over pairs by their posterior give the best prediction, which is not linear in
the targets: a task whose rows look noisy moves less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, final

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop.adaptation.random_effects import RandomEffects
from innerloop.adaptation.rules import Eigenbasis
from innerloop.data.row_blocks import RowBlock, row_blocks
from innerloop.data.tasks import TaskSet

# Steps of a factor of 4. Noise reaches as high as the coefficients: a noisy task must not be taken for one that is far.
_ALPHA, _RHO = 4.0 ** np.arange(-5, 6), 4.0 ** np.arange(-4, 6)
# Pairs (log alpha, log rho).
LOG_SCALES = np.log(np.stack(np.meshgrid(_ALPHA, _RHO, indexing="ij")).reshape(2, -1))
# The prior of how scales differ weighs as much as so many tasks whose scales have this deviation.
_PRIOR_TASKS, _PRIOR_STD = 5, 0.4
# A share of all tasks may have any scale.
_OUTLIERS = 1e-3
_N_SWEEPS = 30
# Parameters of how scales differ: means, variances and a covariance of two logarithms.
N_PARAMETERS = 5
# Residuals where the training tasks have no noise at all.
_LARGEST = 1e100
_NUMBERS_AT_ONCE = 2**18


@final
@dataclass(frozen=True, eq=False)
class ScaledRidge:
    """The mean of the ridges of all pairs of scales, by what a task's rows say of its scales.

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
                own = self._eigenbasis(start, block, k)
                pi = self._posterior(own, block.n_rows, k).sum(axis=1)
                mean = (pi[:, None] @ _shrinkage(own.d))[:, 0]
                theta[block.members, :, k] = start[:, k] + np.einsum("tpj,tj->tp", own.back, mean * own.z)
        return theta.reshape(len(tasks), *coef.shape)

    def uncertainty(
        self,
        coef: FloatArray,
        rows: RowBlock,
        task_cov: FloatArray,  # noqa: ARG002
        target: int = 0,
    ) -> tuple[FloatArray, FloatArray]:
        """Return the posterior mean of tasks' noise and the posterior covariance of their coefficients, given y too.

        That is for the covariance Lambda of the rule itself; see `innerloop.adaptation.rules.Adaptation.uncertainty`.
        """
        own = self._eigenbasis(coef, rows, target)
        by_pair, shrinkage = self._posterior(own, rows.n_rows, target), _shrinkage(own.d)
        pi, beta = by_pair.sum(axis=1), np.einsum("tar,a,r->tr", by_pair, _ALPHA, _RHO)
        away = (shrinkage - pi[:, None] @ shrinkage) * own.z[:, None]
        inner = (away * pi[..., None]).transpose(0, 2, 1) @ away / self.noise[target]
        diagonal = np.arange(inner.shape[1])
        inner[:, diagonal, diagonal] -= (beta[:, None] @ shrinkage)[:, 0]
        own_cov = beta.sum(axis=1)[:, None, None] * self.task_cov[target]
        return by_pair.sum(axis=2) @ _ALPHA, own_cov + own.back @ inner @ own.back.transpose(0, 2, 1)

    def _eigenbasis(self, coef: FloatArray, rows: RowBlock, target: int) -> Eigenbasis:
        return Eigenbasis.of(self.task_cov[target], rows.X, rows.y[..., target] - rows.X @ coef[:, target])

    def _posterior(self, own: Eigenbasis, n_rows: IntArray, target: int) -> FloatArray:
        """Return each task's probabilities of pairs: (n_tasks, n_alpha, n_rho)."""
        by_pair = _normalised(_log_likelihood(own, n_rows, self.noise[target]), self.weight[target])
        return by_pair.reshape(-1, len(_ALPHA), len(_RHO))


class Scales(NamedTuple):
    """Probabilities of the pairs `LOG_SCALES` among tasks, (n_targets, n_pairs), and what they are worth.

    `log_ratio` is twice the logarithm of the likelihood's ratio to that of tasks of one scale, of all targets together.
    """

    weight: FloatArray
    log_ratio: float


def estimate_scales(tasks: TaskSet, effects: RandomEffects) -> Scales:
    """Estimate how the scales of tasks differ: by the normal distribution of highest posterior density, by EM.

    Here scales multiply `effects.task_cov`; in the `ScaledRidge` of new tasks `effects.new_task_cov`.

    Notes
    -----
    docs/theory.md, section "Random effects".
    """
    found, log_ratio = [], 0.0
    one_scale = int(np.flatnonzero((LOG_SCALES == 0).all(axis=0))[0])
    for k, noise in enumerate(effects.noise):
        by_task = np.concatenate(
            [
                _log_likelihood(own, n_rows, noise)
                for own, n_rows in _eigenbases(tasks, effects.mean[:, k], effects.task_cov[k], k)
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
            away = LOG_SCALES - mean[:, None]
            weight = _normal(mean, ((away * count) @ away.T + _PRIOR_TASKS * _PRIOR_STD**2 * np.eye(2)) / n)
        found.append(weight)
        log_ratio += 2 * float((np.log(likelihood @ weight) + largest[:, 0]).sum())
    return Scales(np.array(found), log_ratio)


def _shrinkage(d: FloatArray) -> FloatArray:
    """Return rho / (1 + rho d): (n_tasks, n_rho, n_turned)."""
    return np.asarray(_RHO[:, None] / (1 + _RHO[:, None] * d[:, None]))


def _log_likelihood(own: Eigenbasis, n_rows: IntArray, noise: float) -> FloatArray:
    """Return the log-likelihood of each pair, less a constant: (n_tasks, n_pairs)."""
    ratio = 1 + _RHO[:, None] * own.d[:, None]
    z = np.minimum(np.abs(own.z) / np.sqrt(noise), _LARGEST)
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
    """Return probabilities of the pairs, of which some share is alike for all."""
    away = LOG_SCALES - mean[:, None]
    log_density = -np.einsum("ic,ic->c", away, np.linalg.solve(covariance, away)) / 2
    density = np.exp(log_density - log_density.max())
    return np.asarray((1 - _OUTLIERS) * density / density.sum() + _OUTLIERS / len(density))
