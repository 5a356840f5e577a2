"""The report's page: what it says, and its HTML."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any, final

import numpy as np

from innerloop._base.progress import no_tick
from innerloop.estimators.meta_regressor import MetaRegressor
from innerloop.evaluation import Curve, Evaluation
from innerloop.evaluation.advice import further_data
from innerloop.evaluation.calibrated_model import CalibratedModel, calibrate
from innerloop.evaluation.methods import FEATURE_RATES, GRADIENT
from innerloop.evaluation.rate_slices import RateSlice, slices, theory_failures
from innerloop.evaluation.summary import errors_of_groups
from innerloop.plots.effects import (
    caterpillar_height,
    curved_features,
    draw_curve,
    draw_group_effects,
    well_known_coefficients,
)
from innerloop.plots.table import plot_coverage, plot_learning_curves, plot_rate
from innerloop.report.pictures import as_svg
from innerloop.tabular.effects import Effects

if TYPE_CHECKING:
    import pandas as pd

N_RESAMPLES = 30
N_TICKS = N_RESAMPLES
# Tasks in the tables of the best and the worst.
_SHOWN_TASKS = 5
_SHOWN_CORRELATIONS, _SHOWN_CATERPILLARS, _SHOWN_CURVES = 10, 4, 4
# Directions of feature space are called flat if their variance is this much below the largest, and features collinear
# if flat directions make up this share of them.
_CONDITION = 1e4
_LEAST_SHARE = 0.05
_PACKAGES = ("innerloop", "numpy", "scipy", "scikit-learn")


@final
@dataclass(frozen=True)
class Names:
    """What the table, the target and the column of task ids are called."""

    title: str
    target: str
    group: str


def report_page(
    model: MetaRegressor,
    evaluation: Evaluation,
    names: Names,
    command: str = "",
    tick: Callable[[], None] = no_tick,
) -> str:
    """Return a report as one HTML page that needs no other file.

    Parameters
    ----------
    model
        The fitted table.
    evaluation
    names
    command
        By which the report was made.
    tick
        Called `N_TICKS` times.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    trained, tasks = evaluation.trained, evaluation.tasks
    settings = trained.training.settings
    calibrated = _calibrate(evaluation, tick)
    through = slices(evaluation, calibrated)
    svgs = {
        "learning": as_svg(partial(plot_learning_curves, evaluation), "Learning curves of all methods"),
        "coverage": as_svg(
            partial(plot_coverage, evaluation.coverage), "Share of targets inside their prediction intervals"
        ),
    }
    for losses in through:
        svgs[losses.name] = as_svg(partial(plot_rate, losses), f"Error on unseen tasks against {losses.name}")
    effects, groups = model.effects(), model.group_effects()
    template = files("innerloop.report").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = _percent
    page: str = environment.from_string(template).render(
        names=names,
        tasks=tasks,
        adaptation=trained.adaptation,
        units="standardised features" if settings.standardize else "features as they are",
        evaluation=evaluation,
        explanations={s.label: s.method.explanation for s in evaluation.scores if s.method.explanation},
        rates=_rates(evaluation),
        pair=evaluation[GRADIENT].rates,
        feature_rates=_feature_rates(evaluation),
        overshoots=_overshoots(evaluation.curves, evaluation.n_support),
        options=further_data(trained),
        coverage=evaluation.coverage,
        effects=_effects_rows(effects),
        noise=effects.noise["std"].tolist(),
        correlations=_correlations(effects),
        caterpillars=_caterpillars(groups, effects),
        curves=_curves(model, names.target),
        extremes=_extremes(evaluation),
        calibrated=calibrated,
        notes=(*(() if tasks.column_map is None else tasks.column_map.notes), *trained.training.notes),
        constant=_feature_names(evaluation, ~trained.training.scaling.kept),
        collinear=_collinear(evaluation),
        failures=_failures(calibrated, through),
        pictures={name: Markup(svg) for name, svg in svgs.items()},
        command=command,
        seed=settings.seed,
        versions={package: version(package) for package in _PACKAGES} | {"Python": platform.python_version()},
    )
    return page


def _effects_rows(effects: Effects) -> list[dict[str, Any]]:
    """Return the coefficients with their standard errors and standard deviations between groups."""
    rows = zip(effects.population.to_dict("records"), effects.between_groups["std"], strict=True)
    return [{**{str(name): value for name, value in row.items()}, "std": std} for row, std in rows]


def _correlations(effects: Effects) -> list[tuple[str, str, float]]:
    """Return the correlations between groups of two coefficients, the largest ones; none of several targets."""
    between = effects.between_groups
    if "target" in between:
        return []
    names = between["coefficient"].tolist()
    pairs = [(a, b, float(between[b].iloc[i])) for i, a in enumerate(names) for b in names[i + 1 :]]
    known = [pair for pair in pairs if np.isfinite(pair[2]) and pair[2] != 0]
    return sorted(known, key=lambda pair: -abs(pair[2]))[:_SHOWN_CORRELATIONS]


def _caterpillars(groups: pd.DataFrame, effects: Effects) -> list[Any]:
    """Return pictures of the coefficients of groups, of those in which groups differ; none of several targets."""
    from markupsafe import Markup

    if "target" in groups or groups.empty:
        return []
    between = effects.between_groups
    differ = set(between.loc[between["std"] > 0, "coefficient"])
    shown = [name for name in well_known_coefficients(groups) if name in differ][:_SHOWN_CATERPILLARS]
    height = caterpillar_height(groups["group"].nunique())
    return [
        Markup(as_svg(partial(draw_group_effects, groups, effects.population, name), f"Groups: {name}", height))
        for name in shown
    ]


def _curves(model: MetaRegressor, target: str) -> list[Any]:
    """Return pictures of the population's curves and those of some groups; none of several targets."""
    from markupsafe import Markup

    table = model._table
    if not table.single_target:
        return []
    labels = [name for name, keep in zip(model.feature_labels(), table.scaling.kept, strict=True) if keep]
    pictures = []
    for i in curved_features(table)[:_SHOWN_CURVES]:
        feature = labels[int(table.curves.feature[i])]
        pictures.append(Markup(as_svg(partial(draw_curve, table, i, (feature, target)), f"Curve: {feature}")))
    return pictures


def _percent(part: float) -> str:
    """Return a signed percentage; what rounds to 0 has no sign."""
    value = f"{100 * part:+.1f}"
    return f"{'0.0' if value[1:] == '0.0' else value} %"


def _rates(evaluation: Evaluation) -> tuple[str, str] | None:
    """Return the rates to show first, and their caption; None for one rate for each feature."""
    model = evaluation.scores[0]
    rates = model.rates or evaluation[GRADIENT].rates
    if model.method is FEATURE_RATES or rates is None:
        return None
    return f"{rates.inner_lr:.3g} / {rates.adapt_lr:.3g}", model.method.rates_caption


def _feature_rates(evaluation: Evaluation) -> list[tuple[str, float]]:
    """Return the rate of each coefficient by its name, where each has its own."""
    rates, scaling = evaluation.trained.rates, evaluation.trained.training.scaling
    if not np.ndim(rates.adapt_lr):
        return []
    names = [*_feature_names(evaluation, scaling.kept), *["intercept"] * scaling.intercept]
    return list(zip(names, np.asarray(rates.adapt_lr).tolist(), strict=True))


def _overshoots(curves: Sequence[Curve], n_support: int) -> bool:
    """Return whether gradient steps on fewer rows than their rates are tuned for increase the error."""
    gradient = next(curve for curve in curves if curve.method is GRADIENT)
    fewer = (gradient.n_rows > 0) & (gradient.n_rows < n_support)
    return bool((gradient.mse[fewer] > gradient.mse[0]).any())


def _calibrate(evaluation: Evaluation, tick: Callable[[], None]) -> CalibratedModel | None:
    """Return the theory's model of the table; None for several targets."""
    settings, tasks = evaluation.trained.training.settings, evaluation.tasks
    if tasks.y.ndim > 1:
        return None
    return calibrate(tasks, N_RESAMPLES, settings.seed, settings.standardize, settings.fit_intercept, tick)


def _failures(calibrated: CalibratedModel | None, through: Sequence[RateSlice]) -> str | None:
    """Return a sentence on where the theory fails; None where there is no theory, and where it does not fail."""
    if calibrated is None:
        return None
    if all(losses.predicted is None for losses in through):
        return "The theory does not cover this table's sizes."
    return theory_failures(through)


def _feature_names(evaluation: Evaluation, chosen: Any) -> list[str]:
    """Return the names of the features where `chosen` is true."""
    tasks = evaluation.tasks
    names = tasks.feature_names or [f"x{j}" for j in range(tasks.n_features)]
    return [name for name, keep in zip(names, chosen, strict=True) if keep]


def _collinear(evaluation: Evaluation) -> tuple[list[str], float] | None:
    """Return the features that others nearly determine, and the condition number of all; None where there are none."""
    scaling, X = evaluation.trained.training.scaling, evaluation.trained.training.tasks.X
    X = X[:, : len(scaling.x_rate)]
    values, vectors = np.linalg.eigh(X.T @ X / len(X))
    flat = values * _CONDITION < values[-1]
    if not flat.any():
        return None
    share = np.square(vectors[:, flat]).sum(axis=1)
    chosen = np.zeros(len(scaling.kept), dtype=bool)
    chosen[scaling.kept] = share > _LEAST_SHARE
    condition = float(values[-1] / max(values[0], np.finfo(float).eps * values[-1]))
    return _feature_names(evaluation, chosen), condition


def _extremes(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """Return the tasks that are predicted worst and best; nothing where other tasks were scored."""
    tasks, errors = evaluation.tasks, evaluation.per_task[:, 0]
    order = np.argsort(errors)
    if len(order) != len(tasks):
        return {}
    n = min(_SHOWN_TASKS, len(order) // 2)
    return {"worst": errors_of_groups(evaluation, order[::-1][:n]), "best": errors_of_groups(evaluation, order[:n])}
