"""Meta-training on a table of tasks: scaling, choice of rates, choice of the adaptation, fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, reduce
from operator import add
from typing import Any, final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.threads import one_thread
from innerloop.adaptation.predictor import Predictor
from innerloop.adaptation.random_effects import RandomEffects, Structure, estimate_effects, update_mean, variance_sample
from innerloop.data.columns import ColumnMap
from innerloop.data.row_blocks import reduced
from innerloop.data.scaling import Scaling
from innerloop.data.tasks import TaskSet
from innerloop.exact.objective import MetaObjective
from innerloop.tabular.adaptation_choice import AdaptationChoice, choose_adaptation
from innerloop.tabular.comparison import (
    SUPPORT_SIZES,
    Comparison,
    Estimates,
    TrainingPart,
    split_tasks,
    training_sample,
)
from innerloop.tabular.fitted_table import FittedTable, Selection
from innerloop.tabular.folds import TaskFolds, cross_validate, folds_as_tasks
from innerloop.tabular.kinds import Kind, RandomEffectsRidge, UsedRates, gradient_predictor, kind_name
from innerloop.tabular.rate_choice import HeldOut, Rates
from innerloop.tabular.settings import Settings

# Squares of squared errors, of which standard errors are made, must be finite.
_LARGEST_TARGET = 1e75


def _no_tick() -> None:
    pass


@final
@dataclass(frozen=True, eq=False)
class MetaTraining:
    """Scaled tasks with their meta-training objective, and held-out losses at all rates.

    Parameters
    ----------
    settings, scaling
    n_support
        Support rows per episode.
    objective
        Meta-training loss of all tasks.
    held_out
        Cross-validated losses over tasks; None where rates and penalty are given.
    tasks
        In scaled units.
    folds
        Folds of tasks for cross-validation.
    columns
        By which the features of the tasks were encoded.
    """

    settings: Settings
    scaling: Scaling
    n_support: int
    objective: MetaObjective
    held_out: HeldOut | None
    tasks: TaskSet
    folds: TaskFolds
    columns: ColumnMap | None

    @classmethod
    def prepare(
        cls, tasks: TaskSet, settings: Settings, tick: Callable[[], None] = _no_tick, n_support: int | None = None
    ) -> MetaTraining:
        """Scale the tasks, gather their objectives fold by fold and compute the held-out loss of every candidate.

        Parameters
        ----------
        tasks
            In the units of the data.
        settings
        tick
            Called after each fold.
        n_support
            Support rows where the settings leave them open; None: `TaskSet.default_support`.

        Raises
        ------
        ValueError
            If targets are too large to square, or all features are zero.
        """
        if not np.abs(tasks.y).max() < _LARGEST_TARGET:
            raise ValueError(f"`y` must lie between -{_LARGEST_TARGET:g} and {_LARGEST_TARGET:g}; rescale it.")
        with one_thread(tasks.n_features):
            scaling = Scaling.fit(tasks.X, tasks.y, settings.standardize, settings.fit_intercept)
            if scaling.n_columns == 0:
                raise ValueError("`X` has only zeros and there is no intercept, so nothing can be fitted.")
            n_support = settings.n_support or n_support or tasks.default_support()
            scaled = scaling.tasks(tasks)
            episodes = scaled.deal(n_support, settings.seed)
            in_training = episodes
            if settings.n_query is not None:
                in_training = scaled.split(n_support, settings.n_query, settings.seed)
            if len(tasks) > 1:
                folds = TaskFolds.of(scaled, in_training, settings)
                objective = reduce(add, folds.objectives)
            else:
                objective = MetaObjective.from_episodes(in_training, settings.n_steps)
                settings = settings.of_one_task()
                parts = folds_as_tasks(scaled, settings.seed)
                episodes = parts.deal(n_support, settings.seed)
                folds = TaskFolds.of(parts, episodes, settings)
            held_out = cross_validate(folds, episodes, settings, tick) if settings.asks_for_choice() else None
            return cls(settings, scaling, n_support, objective, held_out, scaled, folds, tasks.column_map)

    def gradient_rates(self) -> Rates:
        """Return the rates of gradient steps: those that are given, or the choice by held-out loss."""
        return self.settings.fixed_rates() if self.held_out is None else self.held_out.choose().rates

    def predictor_at(self, rates: Rates) -> Predictor:
        """Return the predictor with gradient steps at any rates."""
        return gradient_predictor(self.objective, rates, self.settings.n_steps)

    def fit(self, kind: type[Kind]) -> Predictor:
        """Return the predictor of a kind of adaptation, whether it is the best or not."""
        with one_thread(self.tasks.n_features):
            comparison = self._comparison()
            return kind.tune(comparison).fit(self._whole(comparison, reduced(self.tasks)))

    def choose(self) -> TrainedTable:
        """Choose the kind of adaptation by held-out tasks, and fit it to all."""
        with one_thread(self.tasks.n_features):
            comparison, rows = self._comparison(), reduced(self.tasks)
            choice = choose_adaptation(comparison, self.settings.kinds)
            whole = self._whole(comparison, rows)
            return TrainedTable(self, choice, whole.effects(choice.structure), choice.kind.fit(whole), rows)

    def _comparison(self) -> Comparison:
        """Return the folds of tasks by whose errors kinds of adaptation are compared."""
        settings, folds = self.settings, self.folds
        sizes = (0,) if len(self.tasks) == 1 else tuple(sorted({*SUPPORT_SIZES, self.n_support}))
        overall = Estimates(variance_sample(folds.tasks, settings.seed), self._effects_options())
        trials = split_tasks(folds.tasks, folds.fold, sizes, settings.seed)
        parts = []
        for f, (objective, episodes) in enumerate(zip(folds.rest(), folds.rest_episodes(), strict=True)):
            sample = training_sample(folds.tasks, folds.fold, f, settings.seed)
            effects = Estimates(sample, self._effects_options(), overall)
            parts.append(TrainingPart(objective, episodes, self._pooled(objective), sample, effects))
        has_gradient = settings.kinds != (RandomEffectsRidge,)
        return Comparison(
            parts=parts,
            held_out=[folds.episodes.select(folds.fold == f) for f in range(len(parts))],
            overall=overall,
            trials=trials,
            deciding=[n for n in trials if settings.n_support in (None, n)] or list(trials),
            gradient=self.gradient_rates() if has_gradient else Rates(np.nan, np.nan, np.nan),
            n_steps=settings.n_steps,
            pooled_l2=self._pooled_l2(),
        )

    def _whole(self, comparison: Comparison, rows: TaskSet) -> TrainingPart:
        """Return all tasks as a part to fit to; `rows` are theirs, reduced."""
        settings, sample = self.settings, variance_sample(self.tasks, self.settings.seed)

        @cache
        def effects(structure: Structure) -> RandomEffects:
            if len(self.tasks) == 1:  # the comparison is of folds of rows
                return estimate_effects(self.tasks, intercept=settings.fit_intercept, l2=settings.l2)
            return update_mean(comparison.overall(structure), rows, intercept=settings.fit_intercept, l2=settings.l2)

        return TrainingPart(self.objective, self.folds.episodes, self._pooled(self.objective), sample, effects)

    def _effects_options(self) -> dict[str, Any]:
        settings = self.settings
        return {"intercept": settings.fit_intercept, "l2": settings.l2, "seed": settings.seed}

    def _pooled_l2(self) -> float:
        if self.held_out is not None and (self.held_out.inner_lrs == 0).any():
            return self.held_out.best("none", 0.0).rates.l2
        return self.gradient_rates().l2

    def _pooled(self, objective: MetaObjective) -> FloatArray:
        return gradient_predictor(objective, Rates(0.0, 0.0, self._pooled_l2()), 1).coef


@final
@dataclass(frozen=True, eq=False)
class TrainedTable:
    """A table after the choice of the adaptation, fitted to all tasks.

    Parameters
    ----------
    training
    choice
        The kind of adaptation, and how it compared.
    effects
        Random effects of all tasks.
    predictor
        For tasks in scaled units.
    rows
        The tasks with reduced rows; see `innerloop.data.row_blocks.reduced`.
    """

    training: MetaTraining = field(repr=False)
    choice: AdaptationChoice
    effects: RandomEffects = field(repr=False)
    predictor: Predictor = field(repr=False)
    rows: TaskSet = field(repr=False)

    @property
    def adaptation(self) -> str:
        """Name of the adaptation: "none" also where the rate of the gradient step is 0."""
        return kind_name(self.predictor.rule)

    @property
    def rates(self) -> UsedRates:
        """Rates and penalty in use."""
        return self.choice.kind.rates(self.predictor, self.effects, self.training.tasks.n_rows)

    def table(self, remember: bool = True) -> FittedTable:
        """Return the fitted table; with `remember` it knows the tasks it was trained on."""
        training, n_targets = self.training, self.predictor.coef.shape[1]
        table = FittedTable(
            scaling=training.scaling,
            predictor=self.predictor,
            task_cov=self.effects.new_task_cov,
            noise=self.effects.noise,
            calibration=self.choice.calibration,
            single_target=training.tasks.y.ndim == 1,
            selection=self._selection(),
            known=self.rows.select(np.arange(0)),
            known_coef=np.empty((0, n_targets, len(training.scaling.kept))),
            known_intercept=np.empty((0, n_targets)),
            columns=training.columns,
        )
        return table.remember(training.tasks, self.rows) if remember else table

    def _selection(self) -> Selection:
        training, settings, held_out = self.training, self.training.settings, self.training.held_out
        inner_lr_se, adapt_lr_se = np.nan, np.nan
        results: dict[str, FloatArray] = {}
        if held_out is not None:
            errors = held_out.standard_errors(settings.seed)
            inner_lr_se = errors[0] if settings.inner_lr is None else np.nan
            adapt_lr_se = errors[1] if settings.adapt_lr is None else np.nan
            results = held_out.table()
        return Selection(
            adaptation=self.adaptation,
            rates=self.rates,
            inner_lr_se=inner_lr_se,
            adapt_lr_se=adapt_lr_se,
            n_support=training.n_support,
            cv_results=results,
            adaptation_results=self.choice.results,
        )
