"""The page: what it says, and its HTML."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import numpy as np

from innerloop.data.tasks import TaskSet
from innerloop.estimators import MetaRegressor
from innerloop.evaluation import (
    GIVEN,
    GIVEN_ADAPT_LR,
    GIVEN_INNER_LR,
    GRADIENT,
    PER_FEATURE,
    PER_TASK,
    POOLED,
    RIDGE,
    TIED,
    Curve,
    Evaluation,
)
from innerloop.evaluation.advice import further_data
from innerloop.evaluation.calibrated_model import CalibratedModel, calibrate
from innerloop.evaluation.coverage import N_FOLDS, coverage
from innerloop.evaluation.rate_slices import Slice, failing, slices
from innerloop.report import pictures
from innerloop.tabular.training import MetaTraining

N_RESAMPLES = 30
N_TICKS = N_RESAMPLES + N_FOLDS
# How many tasks the tables of the best and the worst show.
_SHOWN_TASKS = 5
# Features are called collinear where directions of theirs vary so many times less than others, and where these
# directions make up so much of a feature.
_CONDITION = 1e4
_LEAST_SHARE = 0.05
_PACKAGES = ("innerloop", "numpy", "scipy", "scikit-learn")

# What the words on the page mean, by the method whose row makes them needed.
_WORDS = {
    RIDGE: "starts from what is usual for all tasks and moves towards the new task's own rows, the further the more "
    "rows there are and the more tasks differ.",
    GRADIENT: "moves the shared formula by adapt_lr times the slope of the error on the new task's rows (0: not at "
    "all); inner_lr is the same rate inside training, where it may be negative (0: training without an inner loop).",
    PER_FEATURE: "is a gradient step that moves the coefficient of each feature at a rate of its own.",
    TIED: "is the gradient step with the same rate in training as for new tasks.",
    POOLED: "is one formula for all tasks, the same whatever rows a new task brings.",
    PER_TASK: "and mean of the task use the new task's own rows alone.",
}
_CARD = {
    RIDGE: f"inner_lr / adapt_lr of the {GRADIENT}",
    GRADIENT: "recommended inner_lr / adapt_lr",
    POOLED: "inner_lr / adapt_lr: neither inner loop nor adaptation",
    GIVEN: "inner_lr / adapt_lr, given",
    GIVEN_INNER_LR: "inner_lr, given / adapt_lr, tuned",
    GIVEN_ADAPT_LR: "inner_lr, tuned / adapt_lr, given",
}


def report_page(
    model: MetaRegressor,
    training: MetaTraining,
    evaluation: Evaluation,
    tasks: TaskSet,
    *,
    title: str,
    target: str,
    command: str,
    group: str = "",
    tick: Callable[[], None] = lambda: None,
) -> str:
    """Return a report as one HTML page that needs no other file.

    Parameters
    ----------
    model
        The fitted model.
    training, evaluation, tasks
        What it was fitted from.
    title, target, group
        What the table, the target and the column of task ids are called.
    command
        By which the report was made.
    tick
        Called `N_TICKS` times on the way.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    curves = evaluation.curves
    found = coverage(model, tasks, evaluation.n_rows, tick)
    calibrated = _calibrate(training, tasks, tick)
    pair = evaluation[GRADIENT].rates
    assert pair is not None
    through = slices(training, evaluation.held_out, pair, calibrated)
    own = evaluation.methods[0].name
    mark = "recommended" if own == GRADIENT else GRADIENT
    svgs: dict[str, str] = {
        "learning": pictures.learning_curve(curves),
        "coverage": pictures.coverage_picture(found),
        **{one.name: pictures.rate_picture(one, mark) for one in through},
    }
    template = files("innerloop.report").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = _percent
    page: str = environment.from_string(template).render(
        title=title,
        target=target,
        group=group,
        tasks=tasks,
        model=model,
        evaluation=evaluation,
        words={name: words for name, words in _WORDS.items() if any(m.name == name for m in evaluation.methods)},
        rates=_rates(evaluation),
        pair=pair,
        feature_rates=_feature_rates(model, training, tasks),
        overshoots=_overshoots(curves, training.n_support),
        options=further_data(training),
        coverage=found,
        extremes=_extremes(tasks, evaluation),
        calibrated=calibrated,
        constant=_names(tasks, ~training.scaling.kept),
        collinear=_collinear(training, tasks),
        failing=_failing(calibrated, through),
        pictures={name: Markup(svg) for name, svg in svgs.items()},
        command=command,
        seed=training.settings.seed,
        versions={package: version(package) for package in _PACKAGES} | {"Python": platform.python_version()},
    )
    return page


def _percent(part: float) -> str:
    """Return a signed percentage; what rounds to nothing has no sign."""
    value = f"{100 * part:+.1f}"
    return f"{'0.0' if value[1:] == '0.0' else value} %"


def _rates(evaluation: Evaluation) -> tuple[str, str] | None:
    """Return the rates to show first, and what they are; None for one rate for each feature."""
    own = evaluation.methods[0]
    rates = own.rates or evaluation[GRADIENT].rates
    if own.name == PER_FEATURE or rates is None:
        return None
    return f"{rates.inner_lr:.3g} / {rates.adapt_lr:.3g}", _CARD[own.name]


def _feature_rates(model: MetaRegressor, training: MetaTraining, tasks: TaskSet) -> list[tuple[str, float]]:
    """Return the rate of each coefficient by its name, where each has its own."""
    if not np.ndim(model.adapt_lr_):
        return []
    names = [*_names(tasks, training.scaling.kept), *["intercept"] * training.scaling.intercept]
    return list(zip(names, np.asarray(model.adapt_lr_).tolist(), strict=True))


def _overshoots(curves: Sequence[Curve], n_support: int) -> bool:
    """Return whether gradient steps do worse on fewer rows than their rates are tuned for than without any."""
    own = next(curve for curve in curves if curve.name == GRADIENT)
    fewer = (own.n_rows > 0) & (own.n_rows < n_support)
    return bool((own.mse[fewer] > own.mse[0]).any())


def _calibrate(training: MetaTraining, tasks: TaskSet, tick: Callable[[], None]) -> CalibratedModel | None:
    settings = training.settings
    if len(tasks) < 2 or tasks.y.ndim > 1:
        return None
    return calibrate(tasks, N_RESAMPLES, settings.seed, settings.standardize, settings.fit_intercept, tick)


def _failing(calibrated: CalibratedModel | None, through: Sequence[Slice]) -> str | None:
    """Return what is to be said of the theory; None where there is none, and where it does well."""
    if calibrated is None:
        return None
    if all(one.predicted is None for one in through):
        return "The theory does not cover this table's sizes."
    return failing(through)


def _names(tasks: TaskSet, chosen: Any) -> list[str]:
    """Return the names of the features where `chosen` is true."""
    names = tasks.feature_names or [f"x{j}" for j in range(tasks.n_features)]
    return [name for name, keep in zip(names, chosen, strict=True) if keep]


def _collinear(training: MetaTraining, tasks: TaskSet) -> tuple[list[str], float] | None:
    """Return the features that others all but determine, and the condition number of all; None where none are."""
    scaling, X = training.scaling, training.tasks.X
    X = X[:, : len(scaling.x_rate)]
    values, vectors = np.linalg.eigh(X.T @ X / len(X))
    flat = values * _CONDITION < values[-1]
    if not flat.any():
        return None
    share = np.square(vectors[:, flat]).sum(axis=1)
    chosen = np.zeros(len(scaling.kept), dtype=bool)
    chosen[scaling.kept] = share > _LEAST_SHARE
    return _names(tasks, chosen), float(values[-1] / max(values[0], np.finfo(float).eps * values[-1]))


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
