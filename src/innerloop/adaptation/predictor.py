"""Predictions of unseen tasks after adaptation on their support rows, with errors and variances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.ragged import row_starts
from innerloop.adaptation.rules import Adaptation
from innerloop.data.episodes import Episodes
from innerloop.data.row_blocks import row_blocks
from innerloop.data.tasks import TaskSet

_ROWS_AT_ONCE = 2**16
_MOST_NUMBERS = 2**22


@final
@dataclass(frozen=True, eq=False)
class Predictor:
    """Coefficients of tasks without rows, and a rule by which tasks with rows adapt from `coef`.

    Both coefficients are (n_features, n_targets), in scaled units. They differ where the means of features differ
    between tasks: `coef` describes how targets depend on features within a task, as rows of a task determine its level.
    """

    coef: FloatArray
    unseen: FloatArray
    rule: Adaptation

    def episode_coef(self, episodes: Episodes) -> FloatArray:
        """Return the coefficients of every episode, after adaptation on its support rows if it has any.

        Returns
        -------
        (n_episodes, n_features, n_targets)
        """
        theta = np.repeat(self.unseen[None], len(episodes), axis=0)
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

    def variance(self, episodes: Episodes, task_cov: FloatArray) -> FloatArray:
        """Return the variance of query rows around their predictions, relative to the noise: (n_rows, n_targets).

        `task_cov` is the covariance of tasks' coefficients, relative to the noise: (n_targets, n_features, n_features).
        """
        X, episode = episodes.X[episodes.query_rows], np.repeat(np.arange(len(episodes)), episodes.n_query)
        task, adapts = (np.cumsum(episodes.n_support > 0) - 1)[episode], episodes.n_support[episode] > 0
        variance = np.empty((len(X), len(task_cov)))
        variance[adapts] = self.known_variance(supports(episodes), task_cov, X[adapts], task[adapts])
        variance[~adapts] = unseen_variance(task_cov, X[~adapts])
        return variance

    def known_variance(self, known: TaskSet, task_cov: FloatArray, X: FloatArray, task_of_row: IntArray) -> FloatArray:
        """Return the variance of rows of tasks that adapted, relative to the noise: ``alpha + x' C x``.

        Parameters
        ----------
        known
            The tasks with the rows on which they adapted, which may be reduced.
        task_cov : (n_targets, n_features, n_features)
            Covariance of tasks' coefficients, relative to the noise.
        X : (n_rows, n_features)
        task_of_row : (n_rows,)
            Position of each row's task in `known`.

        Returns
        -------
        (n_rows, n_targets)
            alpha is the task's noise, and C the covariance of its coefficients' error: `Adaptation.uncertainty`.
        """
        variance = np.empty((len(X), len(task_cov)))
        at_once = max(1, _MOST_NUMBERS // X.shape[1] ** 2)
        used = np.unique(task_of_row)
        place = np.full(len(known), -1)
        for block in row_blocks(known.select(used)):
            members = used[block.members]
            place[members] = np.arange(len(members))
            rows = np.flatnonzero(place[task_of_row] >= 0)
            for k, target_cov in enumerate(task_cov):
                noise, covariance = self.rule.uncertainty(self.coef, block, target_cov, k)
                for i in range(0, len(rows), at_once):
                    part = rows[i : i + at_once]
                    task = place[task_of_row[part]]
                    of_coef = ((X[part, None] @ covariance[task]) @ X[part, :, None])[:, 0, 0]
                    variance[part, k] = noise[task] + np.maximum(of_coef, 0.0)  # rounding may make it negative
            place[members] = -1
        return variance


def unseen_variance(task_cov: FloatArray, X: FloatArray) -> FloatArray:
    """Return the variance of rows of tasks without rows, relative to the noise: ``1 + x' Lambda x``.

    Returns
    -------
    (n_rows, n_targets)
    """
    return np.stack([1.0 + np.einsum("ij,ij->i", X @ target_cov, X) for target_cov in task_cov], axis=1)


def supports(episodes: Episodes) -> TaskSet:
    """Return the support rows of the episodes that have any, as tasks; targets have two dimensions."""
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
    residual = episodes.y[rows].reshape(len(rows), episodes.n_targets)
    for i in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(i, i + _ROWS_AT_ONCE)
        residual[part] -= np.einsum("ij,ijk->ik", episodes.X[rows[part]], theta[episode[part]])
    return residual


def mean_squares(episodes: Episodes, values: FloatArray) -> FloatArray:
    """Return the mean square of values (n_rows, n_targets) of query rows, over each task that occurs: (n_tasks,)."""
    task = np.unique(np.repeat(episodes.task, episodes.n_query), return_inverse=True)[1]
    return np.asarray(np.bincount(task, np.square(values).mean(axis=1)) / np.bincount(task))
