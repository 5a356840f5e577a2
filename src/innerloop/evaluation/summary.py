"""What a study found, as plain values: a model folder keeps it beside the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop.evaluation.rate_slices import slices
from innerloop.evaluation.scores import Evaluation

# Groups that are predicted worst.
N_WORST = 20


def summary(evaluation: Evaluation, with_groups: bool = True) -> dict[str, Any]:
    """Return verdict, errors of methods, learning curves, losses against each rate and the worst groups as JSON values.

    Parameters
    ----------
    evaluation
    with_groups
        Whether to name groups; `False` leaves out all that is of single ones.
    """
    tasks = evaluation.tasks
    return {
        "verdict": evaluation.verdict,
        "tested": evaluation.tested,
        "n_tasks": len(tasks),
        "n_rows": tasks.n_rows,
        "n_support": evaluation.n_support,
        "methods": [
            {
                "label": score.label,
                "explanation": score.method.explanation,
                "inner_lr": None if score.rates is None else score.rates.inner_lr,
                "adapt_lr": None if score.rates is None else score.rates.adapt_lr,
                **{name: _number(getattr(score, name)) for name in ("mse", "mse_se", "excess", "excess_se")},
            }
            for score in evaluation.scores
        ],
        "curves": [
            {
                "label": curve.method.label,
                "n_rows": _numbers(curve.n_rows),
                "mse": _numbers(curve.mse),
                "mse_se": _numbers(curve.mse_se),
            }
            for curve in evaluation.curves
        ],
        "slices": [
            {
                "name": losses.name,
                "mark": losses.mark,
                "marked": losses.marked,
                "at_mark": float(losses.at_mark.mean()),
                "rates": _numbers(losses.rates),
                "mse": _numbers(losses.mse),
                "difference_se": _numbers(losses.difference_se),
            }
            for losses in slices(evaluation)
        ],
        "worst": _worst(evaluation) if with_groups else [],
    }


def _worst(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the groups of largest error; none where other groups were scored."""
    tasks, errors = evaluation.tasks, evaluation.per_task[:, 0]
    if len(errors) != len(tasks):
        return []
    return errors_of_groups(evaluation, np.argsort(-errors)[:N_WORST])


def errors_of_groups(evaluation: Evaluation, chosen: IntArray) -> list[dict[str, Any]]:
    """Return ids, numbers of rows and root mean squared errors of groups at these positions."""
    tasks, errors = evaluation.tasks, evaluation.per_task[:, 0]
    ids, sizes = tasks.ids.tolist(), tasks.sizes.tolist()
    return [{"id": ids[i], "rows": sizes[i], "rmse": float(np.sqrt(errors[i]))} for i in chosen]


def _numbers(values: FloatArray) -> list[float | None]:
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | None:
    """Return a number; None, which JSON has, for one that is not finite."""
    return float(value) if np.isfinite(value) else None
