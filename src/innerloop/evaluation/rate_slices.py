"""Loss against each learning rate: what cross-validation found, and what theory predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray
from innerloop._base.standard_errors import mean_and_error, standard_errors
from innerloop.evaluation.calibrated_model import CalibratedModel
from innerloop.tabular.rate_choice import HeldOut, Rates
from innerloop.tabular.training import MetaTraining

Name = Literal["adapt_lr", "inner_lr"]
NAMES: tuple[Name, ...] = ("adapt_lr", "inner_lr")
# Theory visibly fails where it misses cross-validation by more than this part, and by more than two standard errors.
_MISSED = 0.15
# It is judged where the loss is at most so many times the lowest.
_JUDGED = 2.0


@final
@dataclass(frozen=True, eq=False)
class Slice:
    """Mean squared error on unseen tasks against one rate, the other and the penalty held.

    Parameters
    ----------
    name
        The rate that varies.
    marked
        Its value at the pair of rates that the slice goes through.
    rates : (n_points,)
    per_task : (n_tasks, n_points)
        Cross-validated errors.
    at_mark : (n_tasks,)
        The same at the marked pair.
    predicted : (n_points,) or None
        By theory, where it covers the table.
    """

    name: Name
    marked: float
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
        """Standard errors of the differences to the marked pair, by task: (n_points,)."""
        return standard_errors(self.per_task - self.at_mark[:, None])

    def where_theory_misses(self) -> int | None:
        """Return the place of lowest loss at which theory is off by more than chance and `_MISSED`; None for none."""
        if self.predicted is None:
            return None
        mse = self.mse
        most = np.maximum(_MISSED * mse, 2 * standard_errors(self.per_task))
        missed = self._judged() & (np.abs(self.predicted - mse) > most)
        return int(np.where(missed, mse, np.inf).argmin()) if missed.any() else None

    def misplaced(self) -> tuple[float, float] | None:
        """Return the best rates by theory and by cross-validation where the former costs as much; None elsewhere."""
        if self.predicted is None:
            return None
        theirs = int(np.where(self._judged(), self.predicted, np.inf).argmin())
        ours = int(self.mse.argmin())
        cost, error = mean_and_error(self.per_task[:, theirs] - self.per_task[:, ours])
        if cost <= max(_MISSED * self.mse[ours], 2 * error):
            return None
        return float(self.rates[theirs]), float(self.rates[ours])

    def _judged(self) -> NDArray[np.bool_]:
        return np.asarray(self.mse <= _JUDGED * self.mse.min())


def slices(training: MetaTraining, held_out: HeldOut, pair: Rates, calibrated: CalibratedModel | None) -> list[Slice]:
    """Return the losses over adapt_lr, and over inner_lr, through a pair of rates that was compared."""
    at_pair = held_out.along("inner_lr", pair)[1][:, held_out.inner_lrs == pair.inner_lr][:, 0]
    found = []
    for name in NAMES:
        rates, per_task = held_out.along(name, pair)
        predicted = _predicted(training, calibrated, asdict(pair) | {name: rates})
        found.append(Slice(name, getattr(pair, name), rates, per_task, at_pair, predicted))
    return found


def failing(found: Sequence[Slice]) -> str | None:
    """Return a sentence where theory visibly misses what cross-validation found; None where it does not."""
    said: list[str] = []
    for own in found:
        if not said and (i := own.where_theory_misses()) is not None:
            assert own.predicted is not None
            measured, error = mean_and_error(own.per_task[:, i])
            said.append(
                f"at {own.name} {own.rates[i]:.2g} it predicts {own.predicted[i]:.3g}, cross-validation found "
                f"{measured:.3g} ± {error:.2g}"
            )
        if (places := own.misplaced()) is not None:
            said.append(f"the best {own.name} is {places[0]:.2g} by theory, {places[1]:.2g} by cross-validation")
    if not said:
        return None
    return (
        "The table does not behave as the theory assumes (Gaussian features that vary alike in all tasks, Gaussian "
        f"coefficients and noise): {'; '.join(said)}. Trust the cross-validation."
    )


def _predicted(
    training: MetaTraining, calibrated: CalibratedModel | None, rates: Mapping[str, Any]
) -> FloatArray | None:
    """Return the theory's loss at these rates, of which one may be many; None where it does not cover the table."""
    if calibrated is None:
        return None
    settings = training.settings
    try:
        design = calibrated.design(training.n_support, settings.n_steps, settings.n_query, rates["l2"])
        n_folds = int(training.folds.fold.max()) + 1
        design = replace(design, n_tasks=len(training.tasks) - len(training.tasks) // n_folds)  # as each fold trains on
        predicted = calibrated.predicted_mse(design, rates["inner_lr"], rates["adapt_lr"])
    except (ValueError, np.linalg.LinAlgError):
        return None
    return predicted if np.isfinite(predicted).all() else None
