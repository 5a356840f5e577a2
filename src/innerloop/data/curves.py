"""Curves of features: columns of splines beside a feature's own, orthogonal to a straight line in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np
from sklearn.preprocessing import SplineTransformer

from innerloop._base.checks import FloatArray, IntArray
from innerloop.data.episodes import Episodes
from innerloop.data.tasks import TaskSet

_N_KNOTS = 4
# With fewer different values a feature has no curve.
LEAST_VALUES = 3
# Principal axes are kept down to this part of the largest deviation.
_LEAST_DEVIATION = 1e-3


@final
@dataclass(frozen=True, eq=False)
class Curves:
    """Columns ``B(x) A`` of some features x: cubic B-splines B, of which A takes principal axes of unit mean square.

    Over the rows that they were fitted to, the columns of a feature are orthogonal to 1 and x and to each other: a
    coefficient of x is still that of the best straight line. Beyond the outer knots a curve goes on straight.

    Parameters
    ----------
    feature : (n_curves,)
        Positions of the features among the columns of the design.
    knots : (n_curves, n_knots)
    width : (n_curves,)
        Number of columns of each.
    axes : (n_curves, n_splines, n_splines)
        A, of which the first `width` columns are used.
    """

    feature: IntArray
    knots: FloatArray = field(repr=False)
    width: IntArray
    axes: FloatArray = field(repr=False)

    @classmethod
    def none(cls) -> Curves:
        """Return no curves."""
        n_splines = _N_KNOTS + 2
        integers = np.empty(0, dtype=np.intp)
        return cls(integers, np.empty((0, _N_KNOTS)), integers, np.empty((0, n_splines, n_splines)))

    @classmethod
    def fit(cls, X: FloatArray, features: IntArray) -> Curves:
        """Place knots at quantiles of the different values of each feature of at least `LEAST_VALUES`."""
        knots, axes, used = [], [], []
        for j in features:
            values = np.unique(X[:, j])
            if len(values) >= LEAST_VALUES:
                used.append(j)
                knots.append(np.quantile(values, np.linspace(0, 1, _N_KNOTS)))
                axes.append(_axes(_splines(X[:, j], knots[-1]), X[:, j]))
        if not used:
            return cls.none()
        width = np.array([A.shape[1] for A in axes])
        padded = [np.pad(A, ((0, 0), (0, A.shape[0] - A.shape[1]))) for A in axes]
        return cls(np.array(used), np.array(knots), width, np.array(padded))

    def __len__(self) -> int:
        return len(self.feature)

    @property
    def n_columns(self) -> int:
        """Number of columns of all curves together."""
        return int(self.width.sum())

    @property
    def curve_of_column(self) -> IntArray:
        """The curve that each column belongs to: (n_columns,)."""
        return np.repeat(np.arange(len(self)), self.width)

    def select(self, curves: IntArray) -> Curves:
        """Return some of the curves."""
        return Curves(self.feature[curves], self.knots[curves], self.width[curves], self.axes[curves])

    def columns(self, X: FloatArray) -> FloatArray:
        """Return the columns of all curves: (n_rows, n_columns)."""
        parts = [
            _splines(X[:, j], knots) @ A[:, :width]
            for j, knots, width, A in zip(self.feature, self.knots, self.width, self.axes, strict=True)
        ]
        return np.concatenate(parts, axis=1) if parts else np.empty((len(X), 0))

    def expand(self, X: FloatArray, intercept: bool) -> FloatArray:
        """Return the design X with these columns, before the last one if that is the intercept."""
        if len(self) == 0:
            return X
        end = X.shape[1] - intercept
        return np.concatenate((X[:, :end], self.columns(X), X[:, end:]), axis=1)

    def episodes(self, episodes: Episodes, intercept: bool) -> Episodes:
        """Return the same episodes with these columns too."""
        support, query = (episodes.support_rows, episodes.n_support), (episodes.query_rows, episodes.n_query)
        X = self.expand(episodes.X, intercept)
        return Episodes.from_rows(X, episodes.y, support, query, episodes.task, episodes.n_tasks, episodes.weights)

    def tasks(self, tasks: TaskSet, intercept: bool) -> TaskSet:
        """Return the same tasks with these columns too."""
        return tasks.with_derived(self.expand(tasks.X, intercept))


def _splines(x: FloatArray, knots: FloatArray) -> FloatArray:
    transformer = SplineTransformer(degree=3, knots=knots[:, None], extrapolation="linear").fit(knots[:, None])
    return np.asarray(transformer.transform(x[:, None]))


def _axes(B: FloatArray, x: FloatArray) -> FloatArray:
    """Return A: the splines' combinations that are orthogonal to 1 and x, as principal axes of unit mean square.

    1 and x are combinations B c of splines themselves.
    """
    line = np.column_stack((np.ones(len(x)), x))
    c = np.linalg.lstsq(B, line, rcond=None)[0]
    fit = np.linalg.lstsq(line, B, rcond=None)[0]
    bent = np.eye(B.shape[1]) - c @ fit
    _, deviation, axes = np.linalg.svd(B @ bent / np.sqrt(len(x)), full_matrices=False)
    kept = deviation > _LEAST_DEVIATION * max(deviation[0], np.finfo(float).tiny)
    kept[len(np.unique(x)) - 2 :] = False
    return np.asarray(bent @ axes[kept].T / deviation[kept])
