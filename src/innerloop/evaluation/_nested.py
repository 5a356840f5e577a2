"""Scoring methods on unseen tasks, with everything chosen on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.seeds import Stream, stream
from innerloop._base.threads import one_thread
from innerloop.adaptation.predictor import Predictor
from innerloop.data.episodes import Episodes
from innerloop.data.tasks import TaskSet
from innerloop.evaluation._errors import adapted_errors, mean_errors, ridge_errors, rungs
from innerloop.evaluation._verdict import verdict
from innerloop.evaluation.methods import (
    GIVEN,
    GIVEN_ADAPT_LR,
    GIVEN_INNER_LR,
    GRADIENT,
    NO_INNER_LOOP,
    PER_FEATURE,
    PER_TASK,
    POOLED,
    RIDGE,
    TASK_MEAN,
    TIED,
    Evaluation,
    Method,
)
from innerloop.tabular.rate_choice import HeldOut, Rates
from innerloop.tabular.settings import Settings
from innerloop.tabular.training import MetaTraining

N_FOLDS = 5

_NESTED = "errors: all choices made anew on the other tasks; rates shown, and which method comes first: chosen on all"
_TWO_TASKS = "two tasks are too few to test choices on others: these were made on both, and the ridge fitted on both"
_APART = "errors: on tasks that had no part in training; rates shown: chosen in training"


def evaluate(training: MetaTraining, tasks: TaskSet, tick: Callable[[], None] = lambda: None) -> Evaluation:
    """Score the model and plain baselines on tasks that took no part in any choice.

    Whole tasks are held out in folds; within the others scales, rates, metrics and penalties are chosen by
    cross-validation anew, for each method in the same way, so that no number here has seen the tasks it is about.

    Parameters
    ----------
    training
        All tasks made ready; its settings, and the number of support rows, hold for every fold.
    tasks
        The same tasks.
    tick
        Called about `n_ticks` times on the way.
    """
    with one_thread(tasks.n_features):
        settings = training.settings
        fold = stream(settings.seed, Stream.NESTED_FOLDS).permutation(np.arange(len(tasks)) % min(N_FOLDS, len(tasks)))
        overall, held_out = _choices(training, tasks, tick)
        names, ladder = _names(training, overall), _ladder(training)
        scores = np.full((1 + len(ladder), len(tasks), len(names)), np.nan)
        for f in range(fold.max() + 1):
            rest, unseen = tasks.select(fold != f), tasks.select(fold == f)
            if len(rest) > 1:
                fitted = MetaTraining.prepare(rest, settings, tick, training.n_support)
                choices = _choices(fitted, rest, tick)[0]
            else:  # one task tells nothing of how tasks differ
                fitted, choices = _with_objective_of(training, fold != f), overall
            scores[:, fold == f] = _scores(fitted, choices, fitted.scaling.tasks(rest), unseen, names, ladder)
    tested = _NESTED if len(tasks) > 2 else _TWO_TASKS
    return _summary(training, overall, held_out, names, scores, tested)


def evaluate_on(training: MetaTraining, tasks: TaskSet, unseen: TaskSet) -> Evaluation:
    """Score the same methods on given unseen tasks, with all choices made on the training tasks."""
    with one_thread(tasks.n_features):
        choices, held_out = _choices(training, tasks, lambda: None)
        names = _names(training, choices)
        scores = _scores(training, choices, training.tasks, unseen, names, _ladder(training))
    return _summary(training, choices, held_out, names, scores, _APART)


def n_ticks(settings: Settings, n_tasks: int) -> int:
    """Return about how often `evaluate` calls `tick`."""
    folds = min(N_FOLDS, n_tasks)
    again = 2 if settings.fixes_rates() else 1
    return folds * min(settings.n_folds, n_tasks) * again


def _with_objective_of(training: MetaTraining, chosen: FloatArray) -> MetaTraining:
    """Return the training with everything chosen on all tasks and gradient steps trained on some."""
    folds = training.folds
    parts = [own for f, own in enumerate(folds.objectives) if chosen[folds.fold == f].all()]
    (objective,) = parts
    return replace(training, objective=objective)


def _ladder(training: MetaTraining) -> list[int]:
    """Return the numbers of adaptation rows at which ways to adapt were compared."""
    return [int(n) for n in np.unique(training.choice.results["n_support"])]


def _choices(training: MetaTraining, tasks: TaskSet, tick: Callable[[], None]) -> tuple[dict[str, Rates], HeldOut]:
    """Return the rates of all methods that have some, chosen on these tasks, and the losses that chose them."""
    free = training
    if training.settings.fixes_rates():
        free_settings = replace(training.settings, inner_lr=None, adapt_lr=None)
        free = MetaTraining.prepare(tasks, free_settings, tick, training.n_support)
    held_out = free.held_out
    assert held_out is not None  # rates are free, so they were scored
    chosen = {
        GRADIENT: free.chosen(),
        NO_INNER_LOOP: held_out.best("tuned", 0.0).rates,
        TIED: held_out.best("tied").rates,
        POOLED: held_out.best("none", 0.0).rates,
    }
    given = _given(training.settings)
    return ({} if given is None else {given: training.chosen()}) | chosen, held_out


def _given(settings: Settings) -> str | None:
    """Return the name of gradient steps of which the user gave a rate other than 0; None where none was given."""
    if "gradient" not in settings.kinds or not settings.fixes_rates() or _asks_for_pooled(settings):
        return None
    if settings.inner_lr is None:
        return GIVEN_ADAPT_LR
    return GIVEN_INNER_LR if settings.adapt_lr is None else GIVEN


def _asks_for_pooled(settings: Settings) -> bool:
    """Return whether the user wants neither an inner loop nor adaptation."""
    return settings.kinds == ("gradient",) and settings.inner_lr == settings.adapt_lr == 0


def _names(training: MetaTraining, choices: dict[str, Rates]) -> list[str]:
    """Return the names of all methods, the model's own first."""
    settings = training.settings
    ways = [RIDGE] * ("ridge" in settings.kinds) + [PER_FEATURE] * settings.per_feature
    return list(dict.fromkeys([_own_name(training), *ways, *choices, PER_TASK, TASK_MEAN]))


def _own_name(training: MetaTraining) -> str:
    settings = training.settings
    if (given := _given(settings)) is not None:
        return given
    if settings.per_feature:
        return PER_FEATURE
    if _asks_for_pooled(settings) or training.choice.way.kind == "none":
        return POOLED
    if training.choice.way.kind == "ridge":
        return RIDGE
    rates = training.chosen()
    return POOLED if rates.inner_lr == rates.adapt_lr == 0 else GRADIENT


def _scores(
    fitted: MetaTraining,
    choices: dict[str, Rates],
    rest: TaskSet,
    unseen: TaskSet,
    names: Sequence[str],
    ladder: Sequence[int],
) -> FloatArray:
    """Return the unseen tasks' errors at `n_support` rows, and at each of the ladder.

    Parameters
    ----------
    fitted, choices
        Everything fitted and chosen on the rest.
    rest
        In scaled units.
    unseen
    names
        Of the methods.
    ladder
        Numbers of adaptation rows.

    Returns
    -------
    (1 + n_points, n_tasks, n_methods)
    """
    settings, scaled = fitted.settings, fitted.scaling.tasks(unseen)
    predictors = [_predictor(fitted, choices, name) for name in names if name not in (PER_TASK, TASK_MEAN)]
    population = rest.y.mean(axis=0)

    def penalty(episodes: Episodes) -> int:
        return int(ridge_errors(episodes, settings.fit_intercept).mean(axis=0).argmin())

    def errors(episodes: Episodes, l2: int) -> FloatArray:
        own = ridge_errors(episodes, settings.fit_intercept)[:, l2], mean_errors(episodes, population)
        return np.column_stack((adapted_errors(episodes, predictors), *own))

    scores = np.full((1 + len(ladder), len(unseen), len(names)), np.nan)
    dealt, others = (tasks.deal(fitted.n_support, settings.seed) for tasks in (scaled, rest))
    scores[0] = errors(dealt, penalty(others))
    l2s = {0: 0}  # without rows all penalties are alike
    l2s |= {n: penalty(episodes) for n, _, episodes in rungs(rest, ladder[1:], settings.seed)}
    for n, members, episodes in rungs(scaled, ladder, settings.seed):
        l2 = l2s[max(m for m in l2s if m <= n)]  # the rest may have no task so long
        scores[1 + ladder.index(n), members] = errors(episodes, l2)
    return scores


def _predictor(fitted: MetaTraining, choices: dict[str, Rates], name: str) -> Predictor:
    if name == RIDGE:
        return fitted.predictor_by("ridge")
    return fitted.predictor_by("gradient") if name == PER_FEATURE else fitted.predictor_at(choices[name])


def _summary(
    training: MetaTraining,
    choices: dict[str, Rates],
    held_out: HeldOut,
    names: Sequence[str],
    scores: FloatArray,
    tested: str,
) -> Evaluation:
    per_task = scores[0]
    methods = [
        Method.of(name, choices.get(name), mse, per_task[:, 0]) for name, mse in zip(names, per_task.T, strict=True)
    ]
    settings = training.settings
    return Evaluation(
        methods=methods,
        per_task=per_task,
        n_rows=np.array(_ladder(training), dtype=float),
        over_rows=scores[1:],
        held_out=held_out,
        n_support=training.n_support,
        n_steps=settings.n_steps,
        tested=tested,
        verdict=verdict(methods, asked=_asks_for_pooled(settings)),
    )
