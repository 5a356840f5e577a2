"""Predictions of tasks after adaptation on their rows, and their variance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.ragged import padded_ranges, row_starts
from innerloop.adaptation.rules import Adaptation
from innerloop.data.episodes import Episodes
from innerloop.data.row_blocks import reduced, row_blocks
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

    def variance(self, known: TaskSet, task_cov: FloatArray, X: FloatArray, place: IntArray) -> FloatArray:
        """Return the variance of rows around their predictions, relative to the noise: ``alpha + x' C x``.

        Parameters
        ----------
        known
            Tasks with the rows on which they adapted, which may be reduced.
        task_cov : (n_targets, n_features, n_features)
            Covariance of a new task's coefficients around `coef`, relative to the noise variance.
        X : (n_rows, n_features)
        place : (n_rows,)
            Position of each row's task in `known`; -1 for a task without rows.

        Returns
        -------
        (n_rows, n_targets)
            alpha is the task's noise, and C the covariance of its coefficients' error (`Adaptation.uncertainty`); 1 and
            `task_cov` for tasks without rows.
        """
        variance = np.empty((len(X), len(task_cov)))
        without = place < 0
        for k, target_cov in enumerate(task_cov):
            variance[without, k] = 1.0 + np.einsum("ij,ij->i", X[without] @ target_cov, X[without])
        order = np.argsort(place, kind="stable")
        first = np.searchsorted(place[order], np.arange(len(known) + 1))
        used = np.flatnonzero(np.diff(first))
        at_once = max(1, _MOST_NUMBERS // X.shape[1] ** 2)
        for block in row_blocks(known.select(used)):
            members = used[block.members]
            of_target = [
                self.rule.uncertainty(self.coef, block, target_cov, k) for k, target_cov in enumerate(task_cov)
            ]
            for chosen, padded in padded_ranges(first[members], first[members + 1], at_once):
                rows = order[padded]
                for k, (noise, covariance) in enumerate(of_target):
                    of_coef = np.einsum("trj,trj->tr", X[rows] @ covariance[chosen], X[rows])
                    # Rounding may make it negative.
                    variance[rows, k] = noise[chosen, None] + np.maximum(of_coef, 0.0)
        return variance


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
        """Return the variance of rows, as that of a mixture of distributions: (n_rows, n_targets).

        That is ``sum_k w_k (v_k + (f_k - f)^2)`` for members of variance v_k and prediction f_k; for arguments see
        `Predictor.variance`.
        """
        n_rows = np.append(known.original_sizes, 0)
        weight = self.weights(n_rows[place])
        used = np.flatnonzero(weight.any(axis=0)).tolist()
        if len(used) == 1:
            return self._variance(used[0], known, X, place)
        seen = np.unique(place[place >= 0])
        position = np.full(len(known) + 1, len(seen))
        position[seen] = np.arange(len(seen))
        predictions = np.empty((len(used), len(X), self.noise.shape[1]))
        variance = np.zeros(predictions.shape[1:])
        for f, k in zip(predictions, used, strict=True):
            member = self.members[k]
            theta = np.concatenate((member.rule.adapt(member.coef, known.select(seen)), member.coef[None]))
            for i in range(0, len(X), _ROWS_AT_ONCE):
                part = slice(i, i + _ROWS_AT_ONCE)
                f[part] = np.einsum("ij,ijt->it", X[part], theta[position[place[part]]])
            variance = variance + weight[:, k, None] * self._variance(k, known, X, place)
        mean = np.einsum("ik,kit->it", weight[:, used], predictions)
        return np.asarray(variance + np.einsum("ik,kit->it", weight[:, used], np.square(predictions - mean)))

    def episode_variance(self, episodes: Episodes) -> FloatArray:
        """Return the variance of the query rows of episodes around their predictions: (n_rows, n_targets)."""
        place = np.where(episodes.n_support > 0, np.cumsum(episodes.n_support > 0) - 1, -1)
        known = reduced(supports(episodes))
        return self.variance(known, episodes.X[episodes.query_rows], np.repeat(place, episodes.n_query))

    def _variance(self, k: int, known: TaskSet, X: FloatArray, place: IntArray) -> FloatArray:
        """Return the variance by a member and its model."""
        return np.asarray(self.noise[k] * self.members[k].variance(known, self.task_cov[k], X, place))


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
