"""Errors of methods on unseen tasks, and their learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.standard_errors import mean_and_error, ratio_errors
from innerloop.data.tasks import TaskSet
from innerloop.evaluation.coverage import Coverage
from innerloop.evaluation.methods import Method
from innerloop.tabular.rate_choice import HeldOut, Rates
from innerloop.tabular.training import TrainedTable


@final
@dataclass(frozen=True)
class Score:
    """Error of a method on unseen tasks, and its difference to the first method.

    Parameters
    ----------
    method
    rates
        Its rates, chosen on all tasks; None where it has none.
    mse, mse_se
        Mean over tasks of the task's mean squared error, and its standard error.
    excess, excess_se
        Difference of `mse` to that of the first method, paired over tasks.
    gain_se, loss_se
        Standard errors of ``excess / mse`` and of ``excess`` as a part of the first method's `mse`: of ratios of means
        over the same tasks.
    """

    method: Method
    rates: Rates | None
    mse: float
    mse_se: float
    excess: float
    excess_se: float
    gain_se: float = np.nan
    loss_se: float = np.nan

    @classmethod
    def of(cls, method: Method, rates: Rates | None, mse: FloatArray, first: FloatArray) -> Score:
        """Summarise the errors of tasks (n_tasks,), beside those of the first method."""
        return cls(method, rates, *mean_and_error(mse), *mean_and_error(mse - first), *ratio_errors(mse, first))

    @property
    def label(self) -> str:
        """Name of the method in tables."""
        return self.method.label

    def is_pooled(self) -> bool:
        """Return whether it is the pooled ridge, under any name."""
        return self.rates is not None and self.rates.inner_lr == self.rates.adapt_lr == 0


@final
@dataclass(frozen=True, eq=False)
class Curve:
    """Error of a method on unseen tasks against the number of rows they adapt on.

    Parameters
    ----------
    method
    n_rows : (n_points,)
    mse, mse_se : (n_points,)
        As in `Score`, over the tasks that have more rows than that.
    """

    method: Method
    n_rows: FloatArray
    mse: FloatArray
    mse_se: FloatArray

    @classmethod
    def of(cls, method: Method, n_rows: FloatArray, per_task: FloatArray) -> Curve:
        """Summarise errors (n_points, n_tasks), NaN for tasks that are not scored; one task has no standard error."""
        errors = [row[np.isfinite(row)] for row in per_task]
        kept = [i for i, row in enumerate(errors) if len(row) > 1]
        points = np.array([mean_and_error(errors[i]) for i in kept]).reshape(-1, 2)
        return cls(method, n_rows[kept], points[:, 0], points[:, 1])


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """A trained table with the errors of all methods on unseen tasks, and the verdict.

    Parameters
    ----------
    trained
    tasks
        The training tasks, in the units of the data.
    scores
        First that of the model: the recommended adaptation, or the one that was asked for.
    per_task : (n_tasks, n_methods)
        Mean squared error of each unseen task after adaptation on `n_support` rows.
    n_rows : (n_points,)
        Numbers of adaptation rows.
    over_rows : (n_points, n_tasks, n_methods)
        Mean squared error of each unseen task after adaptation on these; NaN where it has no more rows, or where tasks
        are too many to score all.
    coverage
        Of the model's prediction intervals on the same tasks.
    held_out
        Cross-validated losses of gradient steps at all rates, by which the best were chosen.
    tested
        How the errors were computed, in words.
    verdict
        The recommendation, in words.
    """

    trained: TrainedTable = field(repr=False)
    tasks: TaskSet = field(repr=False)
    scores: Sequence[Score]
    per_task: FloatArray = field(repr=False)
    n_rows: FloatArray = field(repr=False)
    over_rows: FloatArray = field(repr=False)
    coverage: Coverage = field(repr=False)
    held_out: HeldOut = field(repr=False)
    tested: str
    verdict: str

    def __getitem__(self, method: Method) -> Score:
        """Return the score of a method."""
        return next(score for score in self.scores if score.method is method)

    @property
    def n_support(self) -> int:
        """Rows that unseen tasks adapt on."""
        return self.trained.training.n_support

    @property
    def curves(self) -> list[Curve]:
        """Learning curves of all methods."""
        return [Curve.of(score.method, self.n_rows, self.over_rows[..., i]) for i, score in enumerate(self.scores)]
