"""Evaluation of methods on unseen tasks by nested cross-validation, or on given ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.progress import no_tick
from innerloop._base.seeds import Stream, stream
from innerloop._base.threads import on_threads, one_thread
from innerloop._blocks.pool import gather
from innerloop._blocks.store import Arrays, MemoryStore
from innerloop.data.episodes import Episodes
from innerloop.data.tasks import TaskSet
from innerloop.evaluation._errors import dealt, episodes_by_size
from innerloop.evaluation._verdict import verdict
from innerloop.evaluation.coverage import LEVELS, Coverage, shares_inside
from innerloop.evaluation.methods import Method, compared_methods
from innerloop.evaluation.scores import Evaluation, Score
from innerloop.tabular.rate_choice import HeldOut, Rates
from innerloop.tabular.settings import Settings
from innerloop.tabular.training import MetaTraining, TrainedTable

N_FOLDS = 5

_NESTED = "Errors: nested cross-validation over tasks. Rates and the first row: chosen on all tasks."
_TWO_TASKS = "Errors: cross-validation, but rates and the ridge were chosen on both tasks, as two are too few for more."
_APART = "Errors: on tasks that had no part in training. Rates: chosen in training."

_ChosenRates = dict[Method, Rates | None]


def evaluate(trained: TrainedTable, tasks: TaskSet, tick: Callable[[], None] = no_tick, n_jobs: int = 1) -> Evaluation:
    """Score the model and plain baselines on held-out tasks, with all choices made on the other tasks.

    Whole tasks are held out, fold by fold. On the others, scales, rates, metrics and penalties are chosen anew by
    cross-validation, in the same way for each method, so that no error depends on the targets of its task.

    Parameters
    ----------
    trained
        Trained on all tasks; its settings and its number of support rows are those of every fold.
    tasks
        The same tasks, in the units of the data.
    tick
        Called about `n_ticks` times.
    n_jobs
        Processes among which folds are divided, -1 for all cores; 1 takes threads of this one.
    """
    training, methods, sizes = trained.training.with_gradient(tick), compared_methods(trained), _support_sizes(trained)
    with one_thread(tasks.n_features):
        settings = training.settings
        names = training.tasks.ids  # numbers by contents: errors depend on what groups hold, not on how they are called
        folds = stream(settings.seed, Stream.NESTED_FOLDS).permutation(np.arange(len(tasks)) % min(N_FOLDS, len(tasks)))
        fold, nameless = folds[names], replace(tasks, ids=names)
        overall, held_out = _choose(training, methods, tick)

        def errors_of_fold(f: int, tick: Callable[[], None] = no_tick) -> Arrays:
            """Return errors and coverage of the fold's tasks with all choices made on the others."""
            rest = nameless.select(fold != f).fit_columns()
            unseen = nameless.select(fold == f).encode(rest.column_map)
            fitted = MetaTraining.prepare(rest, settings, tick, training.n_support)
            if len(rest) > 1:
                fitted = fitted.with_gradient(tick)
                model = scored = fitted.choose()
                chosen = _choose(fitted, methods, tick)[0]
            else:  # nothing can be chosen on one task
                model, chosen = fitted.choose(), overall
                scored = _with_objective_of(training, fold != f).choose()
            return {
                "errors": _errors(scored, chosen, rest, unseen, sizes),
                "shares": shares_inside(model, unseen, sizes),
            }

        numbers = range(int(fold.max()) + 1)
        errors = np.full((1 + len(sizes), len(tasks), len(methods)), np.nan)
        shares = np.full((len(sizes), len(tasks), len(LEVELS)), np.nan)
        if n_jobs == 1:
            of_folds = list(on_threads(lambda f: errors_of_fold(f, tick), numbers))
        else:  # threads would wait for each other: most steps are too short to be taken side by side
            ticks = n_ticks(settings, len(tasks)) // len(numbers)
            of_folds = gather(errors_of_fold, numbers, MemoryStore(1), n_jobs, tick=lambda: _repeat(tick, ticks))
        for f, of_fold in zip(numbers, of_folds, strict=True):
            errors[:, fold == f], shares[:, fold == f] = of_fold["errors"], of_fold["shares"]
    tested = _NESTED if len(tasks) > 2 else _TWO_TASKS
    return _evaluation(trained, tasks, overall, held_out, errors, shares, tested)


def evaluate_on(trained: TrainedTable, tasks: TaskSet, unseen: TaskSet) -> Evaluation:
    """Score the same methods on given unseen tasks, with all choices made on the training tasks."""
    training, methods = trained.training.with_gradient(), compared_methods(trained)
    with one_thread(tasks.n_features):
        chosen, held_out = _choose(training, methods, no_tick)
        errors = _errors(replace(trained, training=training), chosen, tasks, unseen, _support_sizes(trained))
        shares = shares_inside(trained, unseen, _support_sizes(trained))
    return _evaluation(trained, tasks, chosen, held_out, errors, shares, _APART)


def n_ticks(settings: Settings, n_tasks: int) -> int:
    """Return about how often `evaluate` calls `tick`."""
    folds = min(N_FOLDS, n_tasks)
    again = 2 if settings.fixes_rates() else 1
    return folds * min(settings.n_folds, n_tasks) * again


def _repeat(tick: Callable[[], None], n: int) -> None:
    for _ in range(n):
        tick()


def _with_objective_of(training: MetaTraining, chosen: FloatArray) -> MetaTraining:
    """Return the training with everything chosen on all tasks and gradient steps trained on the chosen fold."""
    assert training.gradient is not None
    folds = training.gradient.folds
    parts = [objective for f, objective in enumerate(folds.objectives) if chosen[folds.fold == f].all()]
    (objective,) = parts
    return replace(training, gradient=replace(training.gradient, objective=objective))


def _support_sizes(trained: TrainedTable) -> list[int]:
    """Return the numbers of adaptation rows at which kinds of adaptation were compared."""
    return [int(n) for n in np.unique(trained.choice.results["n_support"])]


def _choose(
    training: MetaTraining, methods: Sequence[Method], tick: Callable[[], None]
) -> tuple[_ChosenRates, HeldOut]:
    """Return the rates of all methods, chosen on these tasks, and the losses by which they were chosen."""
    free = training.with_gradient(tick, is_free=True)
    assert free.gradient is not None
    assert free.gradient.held_out is not None  # rates are free, so they were scored
    return {method: method.choose(training, free) for method in methods}, free.gradient.held_out


def _errors(
    trained: TrainedTable, chosen: _ChosenRates, tasks: TaskSet, unseen: TaskSet, sizes: Sequence[int]
) -> FloatArray:
    """Return the errors of unseen tasks after `n_support` rows, and after each number of rows in `sizes`.

    Returns
    -------
    (1 + n_sizes, n_tasks, n_methods)
    """
    training = trained.training
    seed, in_order = training.settings.seed, training.order is not None
    scaled, scaled_unseen = (training.scaling.tasks(training.in_order(part)) for part in (tasks, unseen))
    scorers = [method.fit(trained, rates, scaled) for method, rates in chosen.items()]

    def scores(episodes: Episodes, similar: Episodes | None) -> FloatArray:
        return np.column_stack([score(episodes, similar) for score in scorers])

    errors = np.full((1 + len(sizes), len(unseen), len(scorers)), np.nan)
    errors[0] = scores(*(dealt(part, training.n_support, seed, in_order) for part in (scaled_unseen, scaled)))
    similar: dict[int, Episodes | None] = {0: None}
    similar |= {n: episodes for n, _, episodes in episodes_by_size(scaled, sizes[1:], seed, in_order)}
    for n, members, episodes in episodes_by_size(scaled_unseen, sizes, seed, in_order):
        nearest = similar[max(m for m in similar if m <= n)]  # training tasks may all be shorter
        errors[1 + sizes.index(n), members] = scores(episodes, nearest)
    return errors


def _evaluation(
    trained: TrainedTable,
    tasks: TaskSet,
    chosen: Mapping[Method, Rates | None],
    held_out: HeldOut,
    errors: FloatArray,
    shares: FloatArray,
    tested: str,
) -> Evaluation:
    per_task = errors[0]
    scores = [
        Score.of(method, rates, mse, per_task[:, 0])
        for (method, rates), mse in zip(chosen.items(), per_task.T, strict=True)
    ]
    n_rows = np.array(_support_sizes(trained), dtype=float)
    return Evaluation(
        trained=trained,
        tasks=tasks,
        scores=scores,
        per_task=per_task,
        n_rows=n_rows,
        over_rows=errors[1:],
        coverage=Coverage.of(n_rows, shares),
        held_out=held_out,
        tested=tested,
        verdict=verdict(scores, asked=trained.training.settings.asks_for_pooled_ridge()),
    )
