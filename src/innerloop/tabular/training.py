"""Meta-training of a table of tasks: scaling, objective, and held-out losses to choose rates by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.threads import one_thread
from innerloop.adaptation.predictor import Predictor
from innerloop.adaptation.random_effects import RandomEffects, enough, estimate_effects, update_mean
from innerloop.adaptation.rules import GradientSteps, NoAdaptation
from innerloop.data.episodes import Episodes
from innerloop.data.scaling import Scaling
from innerloop.data.tasks import TaskSet
from innerloop.exact.meta_sgd import RateObjective, solve_meta_sgd
from innerloop.exact.objective import MetaObjective
from innerloop.exact.solve import solve_unwarned
from innerloop.tabular.adaptation_choice import LADDER, Choice, Comparison, Kind
from innerloop.tabular.folds import TaskFolds, cross_validate, folds_as_tasks
from innerloop.tabular.known_rows import KnownRows
from innerloop.tabular.rate_choice import HeldOut, Rates
from innerloop.tabular.settings import Settings
from innerloop.tabular.spread import Spread

# Pulls of the rates of features towards a common one that are compared, and alternating solves for each.
PULLS = (np.inf, 10.0, 1.0, 0.1, 0.01)
N_SWEEPS = 5
# Squares of squared errors, of which standard errors are made, must be finite.
_LARGEST_TARGET = 1e75


def _no_tick() -> None:
    pass


@final
@dataclass(frozen=True, eq=False)
class MetaTraining:
    """Tasks made ready: everything about them that any choice needs.

    Parameters
    ----------
    settings, scaling
        How they were made ready.
    n_support
        Support rows per episode.
    objective
        The meta-training loss of all tasks, in scaled units.
    held_out
        Cross-validated losses over tasks; None where nothing is left to choose.
    tasks
        The tasks, in scaled units.
    folds
        The folds of the cross-validation.
    """

    settings: Settings
    scaling: Scaling
    n_support: int
    objective: MetaObjective
    held_out: HeldOut | None
    tasks: TaskSet
    folds: TaskFolds

    @classmethod
    def prepare(
        cls, tasks: TaskSet, settings: Settings, tick: Callable[[], None] = _no_tick, n_support: int | None = None
    ) -> MetaTraining:
        """Scale the tasks, gather their objectives fold by fold and score every candidate on held-out tasks.

        `tick` is called after each of `settings.n_folds` folds. `n_support` stands in for what is usual for these
        tasks where the settings leave it open.
        """
        if not np.abs(tasks.y).max() < _LARGEST_TARGET:
            raise ValueError(f"`y` must lie between -{_LARGEST_TARGET:g} and {_LARGEST_TARGET:g}; rescale it.")
        with one_thread(tasks.n_features):
            scaling = Scaling.fit(tasks.X, tasks.y, settings.standardize, settings.fit_intercept)
            if scaling.n_columns == 0:
                raise ValueError("`X` holds nothing but zeros, and there is no intercept: nothing can be fitted.")
            n_support = settings.n_support or n_support or tasks.default_support()
            scaled = scaling.tasks(tasks)
            episodes = scaled.deal(n_support, settings.seed)
            shown = episodes
            if settings.n_query is not None:
                shown = scaled.split(n_support, settings.n_query, settings.seed)
            if len(tasks) > 1:
                folds = TaskFolds.of(scaled, shown, settings)
                objective = reduce(add, folds.objectives)
            else:
                objective = MetaObjective.from_episodes(shown, settings.n_steps)
                settings = settings.of_one_task()
                parts = folds_as_tasks(scaled, settings.seed)
                episodes = parts.deal(n_support, settings.seed)
                folds = TaskFolds.of(parts, episodes, settings)
            held_out = cross_validate(folds, episodes, settings, tick) if settings.asks_for_choice() else None
            return cls(settings, scaling, n_support, objective, held_out, scaled, folds)

    def chosen(self) -> Rates:
        """Return the rates of gradient adaptation: those that are fixed, or the choice by held-out loss."""
        return self.settings.fixed_rates() if self.held_out is None else self.held_out.choose().rates

    @property
    def adaptation(self) -> Kind:
        """How tasks adapt: not at all where the rate of the gradient step is 0."""
        kind = self.choice.way.kind
        return kind if kind != "gradient" or self.predictor.adapts() else "none"

    def rates_in_use(self) -> Rates:
        """Return the rates of the chosen kind; for the ridge those of the best gradient step, NaN if it has none."""
        way = self.choice.way
        if way.kind == "ridge":
            l2 = float(self.effects.precision.mean()) / self.tasks.n_rows
            rates = self.chosen() if "gradient" in self.settings.kinds else Rates(np.nan, np.nan, l2)
            return replace(rates, l2=l2)
        return self._rates()[way.kind]

    @cached_property
    def choice(self) -> Choice:
        """How tasks are to adapt."""
        with one_thread(self.tasks.n_features):
            rest = [self._fitted(*parts) for parts in zip(self.folds.rest(), self.folds.rest_episodes(), strict=True)]
            settings, one = self.settings, len(self.tasks) == 1
            ladder = (0,) if one else tuple(sorted({*LADDER, self.n_support}))
            options = {"intercept": settings.fit_intercept, "l2": settings.l2, "seed": settings.seed}
            comparison = Comparison(self.folds.tasks, self.folds.fold, rest, ladder, options)
            return comparison.choose(settings.kinds, settings.n_support)

    @cached_property
    def effects(self) -> RandomEffects:
        """How tasks differ."""
        settings = self.settings
        if len(self.tasks) == 1:
            return estimate_effects(self.tasks, intercept=settings.fit_intercept, l2=settings.l2)
        rows, n_rows = self.rows.as_tasks(), self.tasks.n_rows
        return update_mean(self.choice.effects, rows, n_rows, intercept=settings.fit_intercept, l2=settings.l2)

    @cached_property
    def rows(self) -> KnownRows:
        """The tasks' rows, turned."""
        return KnownRows.of(self.tasks)

    @cached_property
    def spread(self) -> Spread:
        """How far targets lie from predictions."""
        return self.choice.way.spread(self.effects, enough(self.tasks, self.settings.seed))

    @cached_property
    def predictor(self) -> Predictor:
        """The chosen way to predict tasks."""
        fitted = self._fitted(self.objective, self.folds.episodes)
        return self.choice.way.predictor(self.effects, self.spread, fitted)

    def _rates(self) -> dict[Kind, Rates]:
        gradient = self.chosen()
        none = Rates(0.0, 0.0, gradient.l2)
        if self.held_out is not None and (self.held_out.inner_lrs == 0).any():
            none = self.held_out.best("none", 0.0).rates
        return {"none": none, "gradient": gradient}

    @cached_property
    def pull(self) -> float:
        """How strongly the rates of features are drawn to a common one, by held-out loss; see `meta_sgd`."""
        losses = dict.fromkeys(PULLS, 0.0)
        for f, rest in enumerate(self.folds.rest_episodes()):
            own = self.folds.episodes.select(self.folds.fold == f)
            for pull in PULLS:
                coef, rates = self._meta_sgd(rest, pull)
                losses[pull] += RateObjective.of(own, coef)(rates)
        return min(PULLS, key=lambda pull: losses[pull])

    def _meta_sgd(self, episodes: Episodes, pull: float) -> tuple[FloatArray, FloatArray]:
        start = self.chosen()
        return solve_meta_sgd(episodes, start.adapt_lr, start.l2, pull, N_SWEEPS)

    def _fitted(self, objective: MetaObjective, episodes: Episodes) -> dict[Kind, Predictor]:
        """Return the predictors that the rates chosen on all tasks give on some: their objective and episodes."""
        n_steps = self.settings.n_steps
        found = {kind: _predictor(objective, rates, n_steps) for kind, rates in self._rates().items()}
        if self.settings.per_feature:
            coef, feature_rates = self._meta_sgd(episodes, self.pull)
            found["gradient"] = Predictor(coef, coef, GradientSteps(feature_rates))
        return found

    def predictor_at(self, rates: Rates) -> Predictor:
        """Return how tasks are predicted that adapt by gradient steps at these rates, whichever were chosen."""
        return _predictor(self.objective, rates, self.settings.n_steps)

    def predictor_by(self, kind: Kind) -> Predictor:
        """Return how tasks are predicted that adapt in this way, whichever was chosen."""
        way = replace(self.choice.way, kind=kind)
        if way.kind == self.choice.way.kind:
            return self.predictor
        spread = way.spread(self.effects, enough(self.tasks, self.settings.seed))
        return way.predictor(self.effects, spread, self._fitted(self.objective, self.folds.episodes))


def _predictor(objective: MetaObjective, rates: Rates, n_steps: int) -> Predictor:
    coef = _coef(objective, rates)
    return Predictor(coef, coef, GradientSteps(rates.adapt_lr, n_steps) if rates.adapt_lr else NoAdaptation())


def _coef(objective: MetaObjective, rates: Rates) -> FloatArray:
    # Collinear columns are usual here, and harmless for prediction.
    path = solve_unwarned(objective, [rates.inner_lr], l2=rates.l2)
    return path.coef.reshape(objective.n_features, -1)
