"""The methods that are compared, by name, and their errors on unseen tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.standard_errors import mean_and_error, ratio_errors
from innerloop.tabular.rate_choice import HeldOut, Rates

RIDGE = "ridge adaptation"
PER_FEATURE = "one rate for each feature"
GRADIENT = "best gradient step"
GIVEN = "rates as given"
GIVEN_INNER_LR = "inner_lr as given, adapt_lr tuned"
GIVEN_ADAPT_LR = "adapt_lr as given, inner_lr tuned"
NO_INNER_LOOP = "no inner loop in training"
TIED = "tied rates (usual MAML)"
POOLED = "one pooled ridge"
PER_TASK = "one ridge per task"
TASK_MEAN = "mean of the task"


@final
@dataclass(frozen=True)
class Method:
    """A way to predict new tasks, with its error on unseen ones.

    Parameters
    ----------
    name
    rates
        Its rates when all tasks are used; None where it has none.
    mse, mse_se
        Mean over tasks of the task's mean squared error, and the standard error of that mean.
    excess, excess_se
        By how much `mse` exceeds that of the first method, paired over tasks.
    gain_se, loss_se
        Standard errors of ``excess / mse`` and of ``excess`` as a part of the first method's `mse`: of ratios of means
        over the same tasks, whose errors go together.
    """

    name: str
    rates: Rates | None
    mse: float
    mse_se: float
    excess: float
    excess_se: float
    gain_se: float = np.nan
    loss_se: float = np.nan

    @classmethod
    def of(cls, name: str, rates: Rates | None, mse: FloatArray, first: FloatArray) -> Method:
        """Summarise the errors of tasks, beside those of the first method."""
        return cls(name, rates, *mean_and_error(mse), *mean_and_error(mse - first), *ratio_errors(mse, first))

    def is_pooled(self) -> bool:
        """Return whether it is the pooled ridge, under whatever name."""
        return self.rates is not None and self.rates.inner_lr == self.rates.adapt_lr == 0


@final
@dataclass(frozen=True, eq=False)
class Curve:
    """A method's error on unseen tasks over the number of rows they adapt on.

    Parameters
    ----------
    name
    n_rows : (n_points,)
    mse, mse_se : (n_points,)
        As in `Method`, over the tasks that have more rows than that.
    """

    name: str
    n_rows: FloatArray
    mse: FloatArray
    mse_se: FloatArray

    @classmethod
    def of(cls, name: str, n_rows: FloatArray, per_task: FloatArray) -> Curve:
        """Summarise errors (n_points, n_tasks), NaN for tasks that are not scored; one task has no standard error."""
        errors = [own[np.isfinite(own)] for own in per_task]
        kept = [i for i, own in enumerate(errors) if len(own) > 1]
        points = np.array([mean_and_error(errors[i]) for i in kept]).reshape(-1, 2)
        return cls(name, n_rows[kept], points[:, 0], points[:, 1])


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """Errors of all methods on unseen tasks, and the verdict.

    Parameters
    ----------
    methods
        First the model: the recommended adaptation, or the one that was asked for.
    per_task : (n_tasks, n_methods)
        Mean squared error of each task after adaptation on `n_support` rows.
    n_rows : (n_points,)
        Numbers of adaptation rows.
    over_rows : (n_points, n_tasks, n_methods)
        Mean squared error of each task after adaptation on so many rows; NaN where it has no more than these, or where
        tasks are too many to score all.
    held_out
        Cross-validated losses of gradient steps at all rates, by which the best were chosen.
    n_support, n_steps
        Rows and steps of adaptation.
    tested
        How the errors came about, in words.
    verdict
        What to do, in words.
    """

    methods: list[Method]
    per_task: FloatArray = field(repr=False)
    n_rows: FloatArray = field(repr=False)
    over_rows: FloatArray = field(repr=False)
    held_out: HeldOut = field(repr=False)
    n_support: int
    n_steps: int
    tested: str
    verdict: str

    def __getitem__(self, name: str) -> Method:
        """Return a method by its name."""
        return next(method for method in self.methods if method.name == name)

    @property
    def curves(self) -> list[Curve]:
        """Learning curves of all methods."""
        return [Curve.of(m.name, self.n_rows, self.over_rows[..., i]) for i, m in enumerate(self.methods)]
