"""Predictions of tasks after adaptation on their rows, and their variance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.ragged import padded_ranges, row_starts
from innerloop.adaptation.rules import Adaptation, Posterior
from innerloop.data.episodes import Episodes
from innerloop.data.row_blocks import row_blocks
from innerloop.data.tasks import TaskSet

_ROWS_AT_ONCE = 2**16
_MOST_NUMBERS = 2**22


@final
@dataclass(frozen=True, eq=False)
class Predictor:
    """Meta-parameters (n_features, n_targets), in scaled units, and the rule by which tasks adapt from them."""

    coef: FloatArray
    rule: Adaptation

    def episode_coef(self, episodes: Episodes) -> FloatArray:
        """Return the coefficients of every episode, after adaptation on its support rows if it has any.

        Returns
        -------
        (n_episodes, n_features, n_targets)
        """
        theta = np.repeat(self.coef[None], len(episodes), axis=0)
        adapts = np.flatnonzero(episodes.n_support)
        if len(adapts):
            theta[adapts] = self.rule.adapt(self.coef, supports(episodes))
        return theta

    def residuals(self, episodes: Episodes) -> FloatArray:
        """Return target minus prediction of every query row: (n_rows, n_targets)."""
        return residuals(episodes, self.episode_coef(episodes))

    def mse(self, episodes: Episodes) -> FloatArray:
        """Return the mean squared error of each task that occurs, over its query rows and targets: (n_tasks,)."""
        return mean_squares(episodes, self.residuals(episodes))


@final
@dataclass(frozen=True, eq=False)
class Mixture:
    """A convex combination of predictors, with weights that depend on the number of adaptation rows.

    Parameters
    ----------
    members
    task_cov : (n_members, n_targets, n_features, n_features)
        Covariance of a new task's coefficients by the model of each member, relative to the noise variance.
    noise : (n_members, n_targets)
        Noise variance by the model of each member.
    n_rows : (n_points,)
        Numbers of adaptation rows, increasing.
    weight : (n_points, n_members)
        Weights there, which sum to 1; between them they are interpolated in ``log(1 + n)``.
    """

    members: tuple[Predictor, ...]
    task_cov: FloatArray = field(repr=False)
    noise: FloatArray
    n_rows: FloatArray
    weight: FloatArray

    @classmethod
    def of_one(cls, predictor: Predictor, task_cov: FloatArray, noise: FloatArray) -> Mixture:
        """Return a predictor alone, with its model."""
        return cls((predictor,), task_cov[None], noise[None], np.zeros(1), np.ones((1, 1)))

    @property
    def unseen(self) -> FloatArray:
        """Coefficients of tasks without rows: (n_features, n_targets)."""
        return np.asarray(np.einsum("k,kpt->pt", self.weight[0], [member.coef for member in self.members]))

    def weights(self, n_rows: IntArray) -> FloatArray:
        """Return the weights after numbers of rows: (n, n_members)."""
        at, known = np.log1p(n_rows), np.log1p(self.n_rows)
        return np.stack([np.interp(at, known, column) for column in self.weight.T], axis=-1)

    def adapt(self, tasks: TaskSet) -> FloatArray:
        """Return the coefficients of tasks that adapted on all their rows: (n_tasks, n_features, n_targets)."""
        weight = self.weights(tasks.original_sizes)
        theta = np.zeros((len(tasks), *self.members[0].coef.shape))
        for k, member in enumerate(self.members):
            if weight[:, k].any():
                theta += weight[:, k, None, None] * member.rule.adapt(member.coef, tasks)
        return theta

    def residuals(self, episodes: Episodes) -> FloatArray:
        """Return target minus prediction of every query row: (n_rows, n_targets)."""
        weight = self.weights(episodes.n_support)
        theta = np.zeros((len(episodes), *self.members[0].coef.shape))
        for k, member in enumerate(self.members):
            if weight[:, k].any():
                theta += weight[:, k, None, None] * member.episode_coef(episodes)
        return residuals(episodes, theta)

    def mse(self, episodes: Episodes) -> FloatArray:
        """Return the mean squared error of each task that occurs, over its query rows and targets: (n_tasks,)."""
        return mean_squares(episodes, self.residuals(episodes))

    def variance(self, known: TaskSet, X: FloatArray, place: IntArray) -> FloatArray:
        """Return the variance of rows around their predictions: (n_rows, n_targets); see `moments`."""
        return self.moments(known, X, place)[1]

    def moments(self, known: TaskSet, X: FloatArray, place: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return mean and variance of the targets of rows, as those of a mixture of distributions.

        The variance is ``sum_k w_k (v_k + (f_k - f)^2)`` for members of prediction f_k and variance
        ``v_k = s_k^2 (alpha + x' C x)``, where alpha is the task's noise, C the covariance of the error of its
        coefficients (`innerloop.adaptation.rules.Posterior`), and s_k^2 the noise variance by the member's model. For
        a task without rows alpha is 1, and C is `task_cov`.

        Parameters
        ----------
        known
            Tasks with the rows on which they adapted, which may be reduced.
        X : (n_rows, n_features)
        place : (n_rows,)
            Position of each row's task in `known`; -1 for a task without rows.

        Returns
        -------
        mean, variance : (n_rows, n_targets)
        """
        mean, variance = (np.empty((len(X), self.noise.shape[1])) for _ in range(2))
        without = np.flatnonzero(place < 0)
        mean[without], variance[without] = self._moments_without_rows(X[without])
        order = np.argsort(place, kind="stable")
        first = np.searchsorted(place[order], np.arange(len(known) + 1))
        seen = np.flatnonzero(np.diff(first))
        at_once = max(1, _MOST_NUMBERS // (X.shape[1] * len(self.members)))
        for block in row_blocks(known.select(seen)):
            members = seen[block.members]
            weight = self.weights(block.n_rows).T
            used = np.flatnonzero(weight.any(axis=1))
            for t in range(self.noise.shape[1]):
                posteriors = [
                    self.members[k].rule.posterior(self.members[k].coef, block, self.task_cov[k, t], t) for k in used
                ]
                for chosen, padded in padded_ranges(first[members], first[members + 1], at_once):
                    at = order[padded]
                    f, v = zip(*(_moments(posterior, X[at], chosen) for posterior in posteriors), strict=True)
                    noise, w = self.noise[used, t, None, None], weight[np.ix_(used, chosen)][..., None]
                    mean[at, t], variance[at, t] = _mixed(w, np.array(f), noise * np.array(v))
        return mean, variance

    def _moments_without_rows(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return what `moments` does for rows of tasks without rows to adapt on."""
        used, moments = np.flatnonzero(self.weight[0]), []
        for t in range(self.noise.shape[1]):
            f = np.array([X @ self.members[k].coef[:, t] for k in used])
            spread = np.array([np.einsum("ij,ij->i", X @ self.task_cov[k, t], X) for k in used])
            moments.append(_mixed(self.weight[0, used, None], f, self.noise[used, t, None] * (1.0 + spread)))
        mean, variance = (np.stack(values, axis=1) for values in zip(*moments, strict=True))
        return mean, variance

    def episode_moments(self, episodes: Episodes) -> tuple[FloatArray, FloatArray]:
        """Return residuals of the query rows of episodes and their variance: (n_rows, n_targets) each."""
        place = np.where(episodes.n_support > 0, np.cumsum(episodes.n_support > 0) - 1, -1)
        rows = episodes.query_rows
        mean, variance = self.moments(supports(episodes), episodes.X[rows], np.repeat(place, episodes.n_query))
        return episodes.y[rows].reshape(mean.shape) - mean, variance


def _moments(posterior: Posterior, rows: FloatArray, chosen: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return predictions of rows of the chosen tasks, and their variance relative to the noise variance."""
    spread = np.maximum(posterior.variance(rows, chosen), 0.0)  # rounding may make it negative
    return np.einsum("trj,tj->tr", rows, posterior.coef[chosen]), posterior.noise[chosen, None] + spread


def _mixed(weight: FloatArray, f: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and variance of mixtures of distributions of means f and variances v, along the first axis."""
    mean = (weight * f).sum(axis=0)
    return mean, np.asarray((weight * (v + np.square(f - mean))).sum(axis=0))


def supports(episodes: Episodes) -> TaskSet:
    """Return the support rows of the episodes that have some, as tasks; targets have two dimensions."""
    adapts, rows = np.flatnonzero(episodes.n_support), episodes.support_rows
    y = episodes.y[rows].reshape(len(rows), episodes.n_targets)
    return TaskSet(episodes.X[rows], y, row_starts(episodes.n_support[adapts]), adapts)


def residuals(episodes: Episodes, theta: FloatArray) -> FloatArray:
    """Return target minus prediction of every query row, by coefficients theta of every episode.

    Parameters
    ----------
    episodes
    theta : (n_episodes, n_features, n_targets)

    Returns
    -------
    (n_rows, n_targets)
    """
    rows = episodes.query_rows
    episode = np.repeat(np.arange(len(episodes)), episodes.n_query)
    values = episodes.y[rows].reshape(len(rows), episodes.n_targets)
    for i in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(i, i + _ROWS_AT_ONCE)
        values[part] -= np.einsum("ij,ijk->ik", episodes.X[rows[part]], theta[episode[part]])
    return values


def mean_squares(episodes: Episodes, values: FloatArray) -> FloatArray:
    """Return the mean square of values (n_rows, n_targets) of query rows, over each task that occurs: (n_tasks,)."""
    task = np.unique(np.repeat(episodes.task, episodes.n_query), return_inverse=True)[1]
    return np.asarray(np.bincount(task, np.square(values).mean(axis=1)) / np.bincount(task))
