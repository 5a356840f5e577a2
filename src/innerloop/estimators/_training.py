"""Meta-training of a table of tasks: scaling, objective, and held-out losses to choose rates by."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import final

import numpy as np

from innerloop._checks import FloatArray
from innerloop._random import stream
from innerloop.episodes import Episodes
from innerloop.estimators._heldout import HeldOut, Rates, held_out_curves
from innerloop.estimators._scaling import Scaling
from innerloop.objective import MetaObjective
from innerloop.solve import IllConditionedWarning, solve_path
from innerloop.tasks import TaskSet

# Multiples of the natural rate that "auto" tries: dense near zero, out to 8 on either side, where the
# isotropic theory puts the optimum of long supports.
INNER_GRID = 8 * np.sinh(np.linspace(-4, 4, 41)) / np.sinh(4)
L2_GRID = np.append(0.0, np.logspace(-4, 2, 7))
# More held-out tasks than this do not sharpen a choice; they are sampled.
_MOST_SCORED_TASKS = 10_000
_LARGEST_TARGET = 1e150


def _no_tick() -> None:
    pass


@final
@dataclass(frozen=True)
class Settings:
    """What the user fixed: None stands for "choose by cross-validation"."""

    inner_lr: float | None = None
    adapt_lr: float | None = None
    l2: float | None = None
    n_support: int | None = None
    n_query: int | None = None
    n_steps: int = 1
    n_folds: int = 5
    standardize: bool = True
    fit_intercept: bool = True
    seed: int = 0

    def asks_for_choice(self) -> bool:
        """Return whether anything is left to choose."""
        return self.inner_lr is None or self.adapt_lr is None or self.l2 is None

    def fixes_rates(self) -> bool:
        """Return whether a rate is fixed."""
        return self.inner_lr is not None or self.adapt_lr is not None

    def fixed_rates(self) -> Rates:
        """Return the rates where none is left to choose."""
        return Rates(self.inner_lr or 0.0, self.adapt_lr or 0.0, self.l2 or 0.0)

    def without_inner_loop(self) -> Settings:
        """Return the same with every rate zero that is not fixed: one task tells nothing of rates."""
        inner_lr, adapt_lr = (0.0 if rate is None else rate for rate in (self.inner_lr, self.adapt_lr))
        return replace(self, inner_lr=inner_lr, adapt_lr=adapt_lr)


@final
@dataclass(frozen=True, eq=False)
class MetaTraining:
    """Tasks made ready: everything about them that any choice of rates needs.

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
    """

    settings: Settings
    scaling: Scaling
    n_support: int
    objective: MetaObjective
    held_out: HeldOut | None

    @classmethod
    def prepare(cls, tasks: TaskSet, settings: Settings, tick: Callable[[], None] = _no_tick) -> MetaTraining:
        """Scale the tasks, gather their objectives fold by fold and score every candidate on held-out tasks.

        `tick` is called after each of `settings.n_folds` folds.
        """
        if not np.abs(tasks.y).max() < _LARGEST_TARGET:
            raise ValueError("`y` holds numbers too large to square; rescale it.")
        scaling = Scaling.fit(tasks.X, tasks.y, settings.standardize, settings.fit_intercept)
        n_support = tasks.default_support() if settings.n_support is None else settings.n_support
        scaled = scaling.tasks(tasks)
        episodes = scaled.deal(n_support, settings.seed)
        shown = episodes
        if settings.n_query is not None:
            shown = scaled.split(n_support, settings.n_query, settings.seed)
        held_out = None
        if not settings.asks_for_choice():
            objective = MetaObjective.from_tasks(shown, settings.n_steps)
        elif len(tasks) == 1:
            objective = MetaObjective.from_tasks(shown, settings.n_steps)
            settings = settings.without_inner_loop()
            episodes = _folds_as_tasks(scaled, settings.seed).deal(n_support, settings.seed)
            _, held_out = _cross_validate(episodes, episodes, settings, tick)
        else:
            objective, held_out = _cross_validate(shown, episodes, settings, tick)
        return cls(settings, scaling, n_support, objective, held_out)

    def chosen(self) -> Rates:
        """Return the rates to use: those that are fixed, or the choice by held-out loss."""
        return self.settings.fixed_rates() if self.held_out is None else self.held_out.choose().rates

    def coef(self, rates: Rates) -> FloatArray:
        """Return the meta-parameters at these rates, in scaled units: (n_columns, n_targets)."""
        path = _solve_quietly(self.objective, np.array([rates.inner_lr]), np.array([rates.l2]))
        return path.reshape(self.objective.n_features, -1)

    def score(self, tasks: TaskSet, choices: list[Rates]) -> FloatArray:
        """Return the mean squared error of new tasks under each choice: (n_tasks, n_choices).

        Tasks are dealt as in training: every row is scored once, after adaptation on `n_support` others.
        """
        episodes = self.scaling.tasks(tasks).deal(self.n_support, self.settings.seed)
        coef = np.array([self.coef(rates) for rates in choices])
        _, curves = held_out_curves(episodes, coef, self.settings.n_steps, 1.0)
        powers = np.array([rates.adapt_lr for rates in choices])[:, None] ** np.arange(curves.shape[-1])
        return np.asarray(np.einsum("tcm,cm->tc", curves, powers))


def natural_rate(episodes: Episodes) -> float:
    """Return the rate at which one gradient step removes most of an isotropic error.

    For one support it minimises ``|I - a S|^2`` with ``S = X'X / n``: ``tr S / tr S^2``, about
    1 / (1 + (p + 1) / n) for isotropic unit features. Of all supports the median is taken, so that a few rows
    far out do not set the scale of the search.
    """
    ratios = [np.ones(1)]
    for block in episodes.blocks(max_rows=2**14):
        X = block.X_support
        if n := X.shape[1]:
            gram = X @ X.transpose(0, 2, 1) if n <= X.shape[2] else X.transpose(0, 2, 1) @ X
            trace, square = np.einsum("ijk,ijk->i", X, X), np.einsum("ijk,ijk->i", gram, gram)
            ratios.append(n * trace[square > 0] / square[square > 0])
    return float(np.median(np.concatenate(ratios[1:] if len(ratios) > 1 else ratios)))


def _folds_as_tasks(tasks: TaskSet, seed: int) -> TaskSet:
    """Let folds of rows stand in for tasks, to choose a penalty where there is only one task."""
    folds = stream(seed, 0).permutation(np.arange(tasks.n_rows) % 10)
    return TaskSet.from_arrays(tasks.X, tasks.y, folds)


def _cross_validate(
    shown: Episodes, episodes: Episodes, settings: Settings, tick: Callable[[], None]
) -> tuple[MetaObjective, HeldOut]:
    """Return the objective of the episodes shown in training, and every candidate's losses on all rows."""
    n_tasks = int(episodes.task.max()) + 1
    unit = natural_rate(episodes)
    inner = unit * INNER_GRID if settings.inner_lr is None else np.array([settings.inner_lr])
    l2s = L2_GRID if settings.l2 is None else np.array([settings.l2])
    rng = stream(settings.seed, 1)
    fold = rng.permutation(np.arange(n_tasks) % min(settings.n_folds, n_tasks))
    folds = [fold == f for f in range(fold.max() + 1)]
    objectives = [MetaObjective.from_tasks(shown.select(part), settings.n_steps) for part in folds]
    scored = rng.permutation(n_tasks) < _MOST_SCORED_TASKS
    curves = []
    for f, part in enumerate(folds):
        rest = [other for other in objectives if other is not objectives[f]] or objectives
        coef = _solve_quietly(reduce(add, rest), inner[:, None], l2s).reshape(
            -1, episodes.n_features, episodes.n_targets
        )
        curves.append(held_out_curves(episodes.select(part & scored), coef, settings.n_steps, unit)[1])
        tick()
    shape = (-1, len(inner), len(l2s), 2 * settings.n_steps + 1)
    held_out = HeldOut(inner, l2s, unit, np.concatenate(curves).reshape(shape), settings.adapt_lr)
    return reduce(add, objectives), held_out


def _solve_quietly(objective: MetaObjective, inner_lrs: FloatArray, l2: FloatArray) -> FloatArray:
    """Return coefficients on the path: collinear columns are usual here, and harmless for prediction."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IllConditionedWarning)
        return solve_path(objective, inner_lrs, l2=l2).coef
