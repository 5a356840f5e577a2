"""The page: what it says, and its HTML."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import numpy as np

from innerloop._checks import FloatArray
from innerloop.advising import further_data
from innerloop.calibration import CalibratedModel, calibrate
from innerloop.estimators import MetaRegressor, MetaTraining, mean_and_error
from innerloop.evaluation import Evaluation
from innerloop.report import pictures
from innerloop.report.held_out import N_FOLDS, coverage, learning_curves
from innerloop.tasks import TaskSet

N_RESAMPLES = 30
N_TICKS = N_RESAMPLES + N_FOLDS
# How many tasks the tables of the best and the worst show.
_SHOWN_TASKS = 5
# Theory visibly fails where it misses cross-validation by more than this part, and by more than two standard errors.
_MISSED = 0.15
_PACKAGES = ("innerloop", "numpy", "scipy", "scikit-learn")


def report_page(
    model: MetaRegressor,
    training: MetaTraining,
    evaluation: Evaluation,
    tasks: TaskSet,
    *,
    title: str,
    target: str,
    command: str,
    tick: Callable[[], None] = lambda: None,
) -> str:
    """Return a report as one HTML page that needs no other file.

    Parameters
    ----------
    model
        The fitted model.
    training, evaluation, tasks
        What it was fitted from.
    title, target
        What the table and the target are called.
    command
        By which the report was made.
    tick
        Called `N_TICKS` times on the way.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    curves = learning_curves(training)
    found = coverage(model, tasks, curves[0].n_rows, tick)
    calibrated = None if tasks.y.ndim > 1 else _calibrate(training, tasks, tick)
    svgs = {
        "learning": pictures.learning_curve(curves),
        "coverage": pictures.coverage_picture(found),
        **_rate_pictures(training, calibrated),
    }
    template = files("innerloop.report").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page: str = environment.from_string(template).render(
        title=title,
        target=target,
        verdict=evaluation.verdict,
        tasks=tasks,
        model=model,
        rates=_rates(training),
        n_support=evaluation.n_support,
        methods=evaluation.methods,
        curves=curves,
        options=further_data(training),
        coverage=found,
        extremes=_extremes(tasks, evaluation),
        calibrated=calibrated,
        failing=None if calibrated is None else _failing(training, calibrated),
        pictures={name: Markup(svg) for name, svg in svgs.items()},
        command=command,
        seed=training.settings.seed,
        versions={package: version(package) for package in _PACKAGES} | {"Python": platform.python_version()},
    )
    return page


def _rates(training: MetaTraining) -> str | None:
    """Return the best pair of rates in words; None where gradient steps were not tried."""
    rates = training.rates_in_use()
    return None if np.isnan(rates.inner_lr) else f"{rates.inner_lr:.3g} / {rates.adapt_lr:.3g}"


def _calibrate(training: MetaTraining, tasks: TaskSet, tick: Callable[[], None]) -> CalibratedModel | None:
    settings = training.settings
    if len(tasks) < 2:
        return None
    return calibrate(tasks, N_RESAMPLES, settings.seed, settings.standardize, settings.fit_intercept, tick)


def _rate_pictures(training: MetaTraining, calibrated: CalibratedModel | None) -> dict[str, str]:
    """Return pictures of loss against each rate, where rates were compared."""
    held_out = training.held_out
    if held_out is None or len(held_out.inner_lrs) < 2:
        return {}
    best = held_out.best()
    table = held_out.table()
    at_penalty = table["l2"] == best.rates.l2
    drawn = {}
    inner_rows = at_penalty & (table["inner_lr"] == _nearest(table["inner_lr"], best.rates.inner_lr))
    adapt_rows = at_penalty & (table["adapt_lr"] == _nearest(table["adapt_lr"], best.rates.adapt_lr))
    panels = (("adapt_lr", inner_rows, best.rates.adapt_lr), ("inner_lr", adapt_rows, best.rates.inner_lr))
    for name, rows, chosen in panels:
        if rows.sum() > 1:
            rates = table[name][rows]
            measured = {"rate": rates, "mse": table["mse"][rows], "se": table["difference_se"][rows]}
            predicted = None
            if calibrated is not None:
                predicted = _predicted(training, calibrated, name, rates)
            drawn[name] = pictures.rate_picture(name, measured, predicted, chosen)
    return drawn


def _nearest(values: FloatArray, to: float) -> float:
    return float(values[np.abs(values - to).argmin()])


def _predicted(training: MetaTraining, calibrated: CalibratedModel, name: str, rates: FloatArray) -> FloatArray | None:
    """Return the theory's curve; None where it does not cover the table."""
    settings, held_out = training.settings, training.held_out
    assert held_out is not None
    best = held_out.best().rates
    pair = (rates, best.adapt_lr) if name == "inner_lr" else (best.inner_lr, rates)
    try:
        design = calibrated.design(training.n_support, settings.n_steps, settings.n_query, best.l2)
        predicted = calibrated.predicted_mse(design, *pair)
    except (ValueError, np.linalg.LinAlgError):
        return None
    return predicted if np.isfinite(predicted).all() else None


def _failing(training: MetaTraining, calibrated: CalibratedModel) -> str | None:
    """Return a sentence where theory visibly misses what cross-validation found; None where it does not."""
    held_out = training.held_out
    if held_out is None:
        return None
    best = held_out.best()
    predicted = _predicted(training, calibrated, "adapt_lr", np.array([best.rates.adapt_lr]))
    measured, error = mean_and_error(best.mse)
    if predicted is None:
        return "The theory does not cover this table's sizes."
    missed = float(predicted[0]) - measured
    if abs(missed) <= max(_MISSED * measured, 2 * error):
        return None
    return (
        f"The table does not behave as the theory assumes (Gaussian features that vary alike in all tasks, Gaussian "
        f"coefficients and noise): at the best rates it predicts {float(predicted[0]):.3g}, cross-validation found "
        f"{measured:.3g} ± {error:.2g}. Trust the cross-validation."
    )


def _extremes(tasks: TaskSet, evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """Return the tasks that are predicted worst and best."""
    errors = evaluation.per_task[:, 0]
    order = np.argsort(errors)
    if len(order) != len(tasks):
        return {}
    n = min(_SHOWN_TASKS, len(order) // 2)

    def rows(chosen: Any) -> list[dict[str, Any]]:
        names, sizes = tasks.ids.tolist(), tasks.sizes
        return [{"id": names[i], "rows": int(sizes[i]), "rmse": float(np.sqrt(errors[i]))} for i in chosen]

    return {"worst": rows(order[::-1][:n]), "best": rows(order[:n])}
