"""Loss against each learning rate, by cross-validation and by theory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray
from innerloop._base.standard_errors import mean_and_error, standard_errors
from innerloop.evaluation.calibrated_model import CalibratedModel
from innerloop.evaluation.methods import GRADIENT
from innerloop.evaluation.scores import Evaluation
from innerloop.tabular.training import MetaTraining

Name = Literal["adapt_lr", "inner_lr"]
NAMES: tuple[Name, ...] = ("adapt_lr", "inner_lr")
# Theory is said to fail where it differs from cross-validation by more than this part and by two standard errors.
_LARGEST_ERROR = 0.15
# Only rates are compared at which the loss is at most this multiple of the lowest: further away it varies more from
# training set to training set than its standard error over tasks says.
_COMPARED = 1.5
# Theory, which takes long, is evaluated only at rates whose loss is at most this multiple of that at rate 0.
_EVALUATED = 3.0


@final
@dataclass(frozen=True, eq=False)
class RateSlice:
    """Mean squared error on unseen tasks against one rate, the other rate and the penalty fixed.

    Parameters
    ----------
    name
        The rate that varies.
    marked
        Its value at the pair of rates that the slice goes through.
    mark
        What that pair is.
    rates : (n_points,)
    per_task : (n_tasks, n_points)
        Cross-validated errors.
    at_mark : (n_tasks,)
        Cross-validated errors at the marked pair.
    predicted : (n_points,) or None
        Errors by theory, NaN at rates whose loss is far above the lowest; None where it does not cover the table.
    """

    name: Name
    marked: float
    mark: str
    rates: FloatArray
    per_task: FloatArray = field(repr=False)
    at_mark: FloatArray = field(repr=False)
    predicted: FloatArray | None = field(repr=False)

    @property
    def mse(self) -> FloatArray:
        """Mean over tasks: (n_points,)."""
        return np.asarray(self.per_task.mean(axis=0))

    @property
    def difference_se(self) -> FloatArray:
        """Standard errors of the differences to the marked pair, paired over tasks: (n_points,)."""
        return standard_errors(self.per_task - self.at_mark[:, None])

    def worst_prediction(self) -> int | None:
        """Return the position of lowest loss among those at which theory fails; None if it fails nowhere."""
        if self.predicted is None:
            return None
        mse = self.mse
        most = np.maximum(_LARGEST_ERROR * mse, 2 * standard_errors(self.per_task))
        failed = self._compared() & (np.abs(self.predicted - mse) > most)
        return int(np.where(failed, mse, np.inf).argmin()) if failed.any() else None

    def misplaced_optimum(self) -> tuple[float, float] | None:
        """Return the best rates by theory and by cross-validation if the former has too high a loss; else None."""
        if self.predicted is None:
            return None
        by_theory = int(np.where(self._compared(), self.predicted, np.inf).argmin())
        best = int(self.mse.argmin())
        cost, error = mean_and_error(self.per_task[:, by_theory] - self.per_task[:, best])
        if cost <= max(_LARGEST_ERROR * self.mse[best], 2 * error):
            return None
        return float(self.rates[by_theory]), float(self.rates[best])

    def _compared(self) -> NDArray[np.bool_]:
        near = np.asarray(self.mse <= _COMPARED * self.mse.min())
        return near if self.predicted is None else near & np.isfinite(self.predicted)


def slices(evaluation: Evaluation, calibrated: CalibratedModel | None = None) -> list[RateSlice]:
    """Return the losses against adapt_lr, and against inner_lr, through the rates of the best gradient step.

    Parameters
    ----------
    evaluation
    calibrated
        Of the same table, for the theory's prediction; None leaves that out.
    """
    held_out, pair = evaluation.held_out, evaluation[GRADIENT].rates
    assert pair is not None
    mark = "recommended" if evaluation.scores[0].method is GRADIENT else GRADIENT.label
    at_pair = held_out.along("inner_lr", pair)[1][:, held_out.inner_lrs == pair.inner_lr][:, 0]
    results = []
    for name in NAMES:
        rates, per_task = held_out.along(name, pair)
        mse = per_task.mean(axis=0)
        near = mse <= _EVALUATED * float(np.interp(0.0, rates, mse))
        predicted = _predicted(evaluation.trained.training, calibrated, asdict(pair) | {name: rates[near]})
        if predicted is not None:
            predicted = np.where(near, np.interp(rates, rates[near], predicted), np.nan)
        results.append(RateSlice(name, getattr(pair, name), mark, rates, per_task, at_pair, predicted))
    return results


def theory_failures(through: Sequence[RateSlice]) -> str | None:
    """Return a sentence on where theory differs from cross-validation; None where it agrees."""
    failures: list[str] = []
    for losses in through:
        if not failures and (i := losses.worst_prediction()) is not None:
            assert losses.predicted is not None
            measured, error = mean_and_error(losses.per_task[:, i])
            failures.append(
                f"at {losses.name} {losses.rates[i]:.2g} it predicts {losses.predicted[i]:.3g}, cross-validation found "
                f"{measured:.3g} ± {error:.2g}"
            )
        if (best := losses.misplaced_optimum()) is not None:
            failures.append(f"the best {losses.name} is {best[0]:.2g} by theory, {best[1]:.2g} by cross-validation")
    if not failures:
        return None
    return (
        "The table does not satisfy the assumptions of the theory (Gaussian features with one covariance for all "
        f"tasks, Gaussian coefficients and noise): {'; '.join(failures)}. Use the cross-validation."
    )


def _predicted(
    training: MetaTraining, calibrated: CalibratedModel | None, rates: Mapping[str, Any]
) -> FloatArray | None:
    """Return the loss by theory at these rates, one of them maybe an array; None where it does not cover the table."""
    if calibrated is None:
        return None
    settings = training.settings
    try:
        design = calibrated.design(training.n_support, settings.n_steps, settings.n_query, rates["l2"])
        n_folds = int(training.fold.max()) + 1
        design = replace(design, n_tasks=len(training.tasks) - len(training.tasks) // n_folds)  # as each fold trains on
        predicted = calibrated.predicted_mse(design, rates["inner_lr"], rates["adapt_lr"])
    except (ValueError, np.linalg.LinAlgError):
        return None
    return predicted if np.isfinite(predicted).all() else None
