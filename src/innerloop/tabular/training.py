"""Training on a table of tasks: scaling, curves, choice of rates, choice of the adaptation, fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import add
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.progress import no_tick
from innerloop._base.threads import one_thread
from innerloop.adaptation.predictor import Mixture, Predictor
from innerloop.adaptation.random_effects import RandomEffects, variance_sample
from innerloop.adaptation.rules import GradientSteps
from innerloop.adaptation.scale_mixture import differ_in_scale
from innerloop.data.columns import ColumnMap
from innerloop.data.curves import Curves
from innerloop.data.episodes import Episodes
from innerloop.data.population import Extremes
from innerloop.data.row_blocks import reduced
from innerloop.data.scaling import Scaling
from innerloop.data.targets import check_size, target_notes
from innerloop.data.tasks import TaskSet
from innerloop.exact.objective import MetaObjective
from innerloop.tabular.adaptation_choice import AdaptationChoice, choose_adaptation
from innerloop.tabular.comparison import (
    SUPPORT_SIZES,
    Comparison,
    Estimates,
    Model,
    Terms,
    TrainingPart,
    split_tasks,
    training_sample,
)
from innerloop.tabular.curvature import evident, varies_within
from innerloop.tabular.fitted_table import FittedTable, Selection, mean_penalty
from innerloop.tabular.folds import (
    TaskFolds,
    cross_validate,
    fold_of_rows,
    fold_of_tasks,
    folds_as_tasks,
    folds_of_tasks,
)
from innerloop.tabular.kinds import (
    FeatureGradient,
    Gradient,
    Kind,
    RandomEffectsRidge,
    Unadapted,
    UsedRates,
    gradient_steps,
)
from innerloop.tabular.known_groups import KnownGroups
from innerloop.tabular.population_sums import PopulationSums, Protocols, TotalSums, flat_sums
from innerloop.tabular.rate_choice import HeldOut, Rates
from innerloop.tabular.settings import Columns, Settings

# Correlations are not estimated between more coefficients than this.
_MOST_CORRELATED = 32


@final
@dataclass(frozen=True, eq=False)
class GradientTraining:
    """Training of gradient steps: episodes, their loss, and held-out losses at all rates.

    Parameters
    ----------
    settings
    objective
        Meta-training loss of all tasks.
    held_out
        Cross-validated losses over tasks; None where nothing is left to choose.
    folds
        Folds of tasks for cross-validation.
    """

    settings: Settings
    objective: MetaObjective
    held_out: HeldOut | None
    folds: TaskFolds

    @classmethod
    def prepare(
        cls, scaled: TaskSet, fold: IntArray, n_support: int, settings: Settings, tick: Callable[[], None]
    ) -> GradientTraining:
        """Gather objectives fold by fold and compute the held-out loss of every candidate."""
        episodes = scaled.deal(n_support, settings.seed)
        in_training = episodes
        if settings.protocol != "deal":
            in_training = scaled.episodes(settings.protocol, n_support, settings.n_query, settings.seed)
        if len(scaled) > 1:
            folds = TaskFolds.of(scaled, fold, in_training, settings)
            objective = reduce(add, folds.objectives)
        else:
            objective = MetaObjective.from_episodes(in_training, settings.n_steps)
            parts, fold_of_part = folds_as_tasks(scaled, fold, settings)
            episodes = parts.deal(n_support, settings.seed)
            folds = TaskFolds.of(parts, fold_of_part, episodes, settings)
        held_out = cross_validate(folds, episodes, settings, tick) if settings.asks_for_choice() else None
        return cls(settings, objective, held_out, folds)

    def rates(self) -> Rates:
        """Return the rates of gradient steps: those that are given, or the choice by held-out loss."""
        return self.settings.fixed_rates() if self.held_out is None else self.held_out.choose().rates


@final
@dataclass(frozen=True, eq=False)
class MetaTraining:
    """Scaled tasks in folds.

    Parameters
    ----------
    settings, scaling
    n_support
        Support rows per episode.
    tasks
        In scaled units; where rows have an order, in that. Their ids are numbers that follow from their contents, so
        that no choice depends on names.
    ids : (n_tasks,)
        Their ids in the data.
    varying : (n_columns,)
        Whether each coefficient may vary between tasks.
    bendable
        Positions of the columns that curves may be fitted in.
    order
        Position of the feature that the rows of a task are in order of.
    fold : (n_tasks,)
        Of the cross-validation over tasks; of one task with given splits, over its rows: (n_rows,).
    gradient
        Training of gradient steps; None where it was not asked for.
    columns
        By which the features of the tasks were encoded.
    notes
        On the targets; see `innerloop.data.targets.target_notes`.
    """

    settings: Settings
    scaling: Scaling
    n_support: int
    tasks: TaskSet
    ids: NDArray[Any]
    varying: NDArray[np.bool_]
    bendable: IntArray
    order: int | None
    fold: IntArray
    gradient: GradientTraining | None
    columns: ColumnMap | None
    notes: tuple[str, ...]

    @classmethod
    def prepare(
        cls,
        tasks: TaskSet,
        settings: Settings,
        tick: Callable[[], None] = no_tick,
        n_support: int | None = None,
        row_fold: IntArray | None = None,
        extremes: Extremes | None = None,
    ) -> MetaTraining:
        """Scale the tasks and assign them to folds; for gradient steps, compute the held-out loss of every candidate.

        Parameters
        ----------
        tasks
            In the units of the data.
        settings
        tick
            Called after each fold.
        n_support
            Support rows where the settings leave them open; None: `TaskSet.default_support`.
        row_fold : (n_rows,)
            The fold that holds each row out; None: by the settings.
        extremes
            Of all rows, where the tasks are a sample of more; None: those of the tasks.

        Raises
        ------
        ValueError
            If targets are too large to square, all features are zero, or a column that is named does not exist.
        """
        largest = np.abs(tasks.y if extremes is None else (extremes.y_low, extremes.y_high)).max()
        check_size(float(largest))
        with one_thread(tasks.n_features):
            of_features = None if extremes is None else (extremes.X_low, extremes.X_high)
            scaling = Scaling.fit(tasks, settings.standardize, settings.fit_intercept, of_features)
            if scaling.n_columns == 0:
                raise ValueError("`X` has only zeros and there is no intercept, so nothing can be fitted.")
            n_support = settings.n_support or n_support or tasks.default_support()
            if row_fold is None and settings.splits is not None:
                row_fold = _fold_of_rows(settings.splits, tasks)
            order = None
            if settings.order is not None:
                order = int(_positions((settings.order,), tasks, "order")[0])
                if row_fold is not None and len(tasks) == 1:
                    row_fold = row_fold[np.argsort(tasks.X[:, order], kind="stable")]
                tasks = tasks.sorted_by(order)
            varying, bendable = _uses_of_columns(tasks, scaling, settings)
            scaled = scaling.tasks(tasks).nameless()
            if len(tasks) == 1:
                settings = settings.of_one_task()
            if row_fold is None:
                fold = folds_of_tasks(len(tasks), settings)[scaled.ids]
            else:
                fold = fold_of_tasks(row_fold, tasks)
            uses = varying, bendable, order
            notes = target_notes(tasks.y)
            training = cls(settings, scaling, n_support, scaled, tasks.ids, *uses, fold, None, tasks.column_map, notes)
            return training.with_gradient(tick) if settings.takes_gradient_steps() else training

    def with_gradient(self, tick: Callable[[], None] = no_tick, is_free: bool = False) -> MetaTraining:
        """Return it with the training of gradient steps; with `is_free` of steps of which no rate is given."""
        settings = self.settings
        if is_free and settings.fixes_rates():
            settings = replace(settings, inner_lr=None, adapt_lr=None)
        elif self.gradient is not None:
            return self
        with one_thread(self.tasks.n_features):
            gradient = GradientTraining.prepare(self.tasks.whitened(), self.fold, self.n_support, settings, tick)
        return replace(self, settings=settings, gradient=gradient)

    def in_order(self, tasks: TaskSet) -> TaskSet:
        """Return tasks in the units of the data with the rows of each in order, where one is given."""
        return tasks if self.order is None else tasks.sorted_by(self.order)

    def predictor_at(self, rates: Rates) -> Predictor:
        """Return the predictor with gradient steps at any rates; needs the training of such steps."""
        assert self.gradient is not None
        return gradient_steps(self.gradient.objective, rates, self.settings.n_steps)

    def choose(self) -> TrainedTable:
        """Fit the candidates and weigh them by held-out tasks."""
        with one_thread(self.tasks.n_features):
            settings, options = self.settings, self.options()
            intercept = settings.fit_intercept
            straight = Terms(np.zeros(self.tasks.n_features, dtype=bool), self.varying, intercept)
            sample = variance_sample(self.tasks, settings.seed)
            estimates = Estimates(reduced(sample.whitened()), straight, options)
            curves = self._curves(sample, estimates)
            tasks, terms = curves.tasks(self.tasks, intercept).whitened(), _with_curves(straight, curves)
            wide = estimates.widened(reduced(curves.tasks(sample, intercept).whitened()), terms)
            rows = reduced(tasks)
            comparison, candidates = self._comparison(tasks, terms, wide)
            n_rows = int(rows.original_sizes.sum())
            sums = TotalSums(partial(flat_sums, tasks=rows), len(rows), n_rows, intercept, settings.l2)
            whole = TrainingPart(wide, options, sums.update, self._gradient_part())
            choice = choose_adaptation(comparison, candidates, whole)
            population = PopulationSums.of(choice, whole, sums, self.protocols())
            return TrainedTable(self, curves, choice, whole.effects(choice.main.model), tasks, rows, wide, population)

    def _curves(self, sample: TaskSet, estimates: Estimates) -> Curves:
        """Return the curves that are to be tried, given a sample of the tasks and the estimates from it."""
        settings = self.settings
        if settings.basis == "linear" or settings.takes_gradient_steps() or len(self.bendable) == 0:
            return Curves.none()
        curves = Curves.fit(sample.X, self.bendable)
        if settings.basis == "spline":
            return curves
        return evident(curves, sample, estimates(Model("diagonal")), settings.fit_intercept)

    def _comparison(self, tasks: TaskSet, terms: Terms, similar: Estimates) -> tuple[Comparison, Sequence[Kind]]:
        """Return the folds of tasks on which candidates are compared, and the candidates."""
        settings, options, fold, folds = self.settings, self.options(), self.fold, None
        if settings.takes_gradient_steps():  # its folds are of rows where there is one task
            assert self.gradient is not None
            folds = self.gradient.folds
            tasks, fold = folds.tasks, folds.fold
        sizes = (0,) if len(self.tasks) == 1 else tuple(sorted({*SUPPORT_SIZES, self.n_support}))
        trials = split_tasks(tasks, fold, sizes, settings.seed, in_order=settings.order is not None)
        gradients = (
            [None] * (int(fold.max()) + 1)
            if folds is None
            else zip(folds.training_episodes(), folds.training_objectives(), strict=True)
        )
        parts, rows = [], reduced(tasks)
        for f, gradient in enumerate(gradients):
            sample = training_sample(rows, fold, f, settings.seed)
            parts.append(TrainingPart(Estimates(sample, terms, options, similar), options, gradient=gradient))
        comparison = Comparison(parts, trials)
        if not settings.takes_gradient_steps():
            return comparison, self._ridges(terms, similar)
        assert self.gradient is not None
        rates = self.gradient.rates()
        if not settings.per_feature:
            return comparison, [Gradient(rates, settings.n_steps)]
        held_out = [self.gradient.folds.episodes.select(fold == f) for f in range(len(parts))]
        return comparison, [FeatureGradient.tune(rates, parts, held_out)]

    def _ridges(self, terms: Terms, estimates: Estimates) -> list[Kind]:
        """Return random-effects ridges, from simple to rich, and the pooled ridge where it is to be compared."""
        settings, candidates = self.settings, list[Kind]()
        if settings.adaptation == "auto":
            candidates.append(Unadapted())
        bases = [True] if settings.basis == "spline" else [False, True]
        for is_curved in bases if terms.curved.any() else [False]:
            columns = terms.columns(Model("diagonal", is_curved))
            n_varying = int(terms.varying[columns].sum())
            structures = [Model("intercept", is_curved)] if settings.fit_intercept else []
            if n_varying > settings.fit_intercept or not structures:
                structures.append(Model("diagonal", is_curved))
            if 1 < n_varying <= _MOST_CORRELATED:
                structures.append(Model("full", is_curved))
            has_scales = differ_in_scale(estimates.tasks, estimates(structures[-1]))
            candidates += [RandomEffectsRidge(model, has_scales and model == structures[-1]) for model in structures]
        return candidates

    def _gradient_part(self) -> tuple[Episodes, MetaObjective] | None:
        return None if self.gradient is None else (self.gradient.folds.episodes, self.gradient.objective)

    def protocols(self) -> Protocols:
        """Return how episodes are made for the objective of gradient steps."""
        settings = self.settings
        return Protocols(settings.protocol, self.n_support, settings.n_query, settings.n_steps, settings.seed)

    def options(self) -> dict[str, Any]:
        """Return the options of estimates and of training parts."""
        settings = self.settings
        return {"intercept": settings.fit_intercept, "l2": settings.l2, "seed": settings.seed}


def _fold_of_rows(splits: Any, tasks: TaskSet) -> IntArray:
    if isinstance(splits, list):
        raise ValueError("`cv` must be a number or a splitter here: a list of splits counts the rows given to `fit`.")
    return fold_of_rows(splits, tasks.X, tasks.y, tasks.task_of_row)


def _positions(columns: Columns, tasks: TaskSet, parameter: str) -> IntArray:
    """Return the positions of the features that a parameter names; a category stands for all its features."""
    names = tasks.feature_names or ()
    codes = () if tasks.column_map is None else tasks.column_map.codes
    features = {code.name: code.names for code in codes} | {name: [name] for name in names}
    chosen = list[int]()
    for column in columns:
        positions = [names.index(name) for name in features.get(str(column), ())]
        if isinstance(column, int) and 0 <= column < tasks.n_features:
            positions = [column]
        if not positions:
            known = ", ".join(map(repr, features)) if features else f"0 to {tasks.n_features - 1}"
            raise ValueError(f"`{parameter}` must name feature columns ({known}), got {column!r}.")
        chosen += positions
    return np.array(chosen, dtype=np.intp)


def _uses_of_columns(tasks: TaskSet, scaling: Scaling, settings: Settings) -> tuple[NDArray[np.bool_], IntArray]:
    """Return whether each column's coefficient may vary between tasks, and the columns that may have curves.

    A column that is constant within every task has no slope to vary.
    """
    within = varies_within(tasks)
    varying = within.copy()
    if settings.varying is not None:
        varying[:] = False
        varying[_positions(settings.varying, tasks, "varying")] = True
        varying &= within
    bendable = within.copy()
    if settings.curved is not None:
        bendable[:] = False
        bendable[_positions(settings.curved, tasks, "basis")] = True
    kept = scaling.kept
    return np.append(varying[kept], np.ones(int(settings.fit_intercept), dtype=bool)), np.flatnonzero(bendable[kept])


def _with_curves(straight: Terms, curves: Curves) -> Terms:
    """Return the columns with those of curves, which may vary where those of their features may."""
    end = len(straight.curved) - straight.intercept
    of_curves = straight.varying[curves.feature][curves.curve_of_column]
    return Terms(
        np.insert(straight.curved, end, np.ones(curves.n_columns, dtype=bool)),
        np.insert(straight.varying, end, of_curves),
        straight.intercept,
    )


@final
@dataclass(frozen=True, eq=False)
class TrainedTable:
    """A table after the choice of the adaptation, fitted to all tasks.

    Parameters
    ----------
    training
    curves
        Of the features in scaled units.
    choice
        The candidates with their weights.
    effects
        Random-effects model of the candidate of largest weight.
    tasks
        In scaled units, with the columns of curves; rows are multiplied by the roots of their weights.
    rows
        The same with reduced rows; see `innerloop.data.row_blocks.reduced`.
    estimates
        Random-effects models from a sample of the tasks.
    sums
        Sums over all tasks, from which the population follows; None with rates of each feature.
    n_all_rows
        Rows of all tasks, where these are a sample of them; None: those of the tasks.
    """

    training: MetaTraining = field(repr=False)
    curves: Curves
    choice: AdaptationChoice
    effects: RandomEffects = field(repr=False)
    tasks: TaskSet = field(repr=False)
    rows: TaskSet = field(repr=False)
    estimates: Estimates = field(repr=False)
    sums: PopulationSums | None = field(repr=False)
    n_all_rows: int | None = None

    @property
    def predictor(self) -> Mixture:
        """What predicts tasks in scaled units, with the columns of curves."""
        return self.choice.predictor

    @property
    def adaptation(self) -> str:
        """Name of the adaptation: "none" also where the rate of the gradient step is 0."""
        return self.choice.adaptation

    @property
    def rates(self) -> UsedRates:
        """Rates and penalty in use; of a ridge those of the best gradient step, NaN where none was trained."""
        gradient = self.training.gradient
        if not self.training.settings.takes_gradient_steps():
            best = Rates(np.nan, np.nan, np.nan) if gradient is None else gradient.rates()
            l2 = mean_penalty(self.effects, self.n_all_rows or self.tasks.n_rows)
            return UsedRates(best.inner_lr, best.adapt_lr, l2)
        assert gradient is not None
        rates, rule = gradient.rates(), self.predictor.members[0].rule
        if self.training.settings.per_feature:
            assert isinstance(rule, GradientSteps)
            return UsedRates(rule.lr, rule.lr, rates.l2)
        return UsedRates(rates.inner_lr, rates.adapt_lr, rates.l2)

    def expand(self, tasks: TaskSet) -> TaskSet:
        """Return tasks in the units of the data as the predictor takes them, in order where one is given."""
        training = self.training
        scaled = training.scaling.tasks(training.in_order(tasks))
        return self.curves.tasks(scaled, training.settings.fit_intercept).whitened()

    def mse(self, episodes: Episodes) -> FloatArray:
        """Return the mean squared error of each task that occurs, in scaled units: (n_tasks,)."""
        return self.predictor.mse(self.curves.episodes(episodes, self.training.settings.fit_intercept).whitened())

    def table(self, remember: bool = True) -> FittedTable:
        """Return the fitted table; with `remember` it knows the tasks it was trained on."""
        training, predictor = self.training, self.predictor
        table = FittedTable(
            scaling=training.scaling,
            curves=self.curves,
            predictor=predictor,
            effects=self.effects,
            calibration=self.choice.calibration,
            single_target=training.tasks.y.ndim == 1,
            selection=self._selection(),
            known=KnownGroups.none(*predictor.unseen.shape),
            columns=training.columns,
            target_notes=training.notes,
            sums=self.sums,
        )
        return table.knowing(self.tasks, replace(self.rows, ids=training.ids)) if remember else table

    def _selection(self) -> Selection:
        training, settings = self.training, self.training.settings
        held_out = None if training.gradient is None else training.gradient.held_out
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
