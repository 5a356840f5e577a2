"""How well a table's tasks can be predicted, unseen, against plain baselines, and what follows in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np

from innerloop._checks import FloatArray, IntArray
from innerloop._random import stream
from innerloop._threads import one_thread
from innerloop.episodes import Episodes
from innerloop.estimators import MetaTraining, Rates, Settings, mean_and_error
from innerloop.tasks import TaskSet

RIDGE = "ridge adaptation"
PER_FEATURE = "one rate for each feature"
GRADIENT = "best gradient step"
RECOMMENDED = "recommended rates"
GIVEN = "rates as given"
GIVEN_INNER_LR = "inner_lr as given, adapt_lr tuned"
GIVEN_ADAPT_LR = "adapt_lr as given, inner_lr tuned"
NO_INNER_LOOP = "no inner loop in training"
TIED = "tied rates (usual MAML)"
POOLED = "one pooled ridge"
PER_TASK = "one ridge per task"

# How tasks adapt, and where inner_lr and adapt_lr come from, by the name of the first method.
_HOW = {RIDGE: "by ridge", PER_FEATURE: f"with {PER_FEATURE}"}
_ORIGIN = {GIVEN: ("given", "given"), GIVEN_INNER_LR: ("given", "tuned"), GIVEN_ADAPT_LR: ("tuned", "given")}

PER_TASK_L2_GRID = np.logspace(-3, 3, 13)
N_FOLDS = 5
# Errors that differ by less than this part print as 0.0 % apart.
_NO_DIFFERENCE = 5e-4


@final
@dataclass(frozen=True)
class Method:
    """A way to predict new tasks, with its error on unseen ones.

    Parameters
    ----------
    name
    rates
        Its rates when all tasks are used; None where it has none.
    mse, mse_se
        Mean over tasks of the task's mean squared error, and the standard error of that mean.
    excess, excess_se
        By how much `mse` exceeds that of the first method, paired over tasks.
    gain_se, loss_se
        Standard errors of ``excess / mse`` and of ``excess`` as a part of the first method's `mse`: of ratios of means
        over the same tasks, whose errors go together.
    """

    name: str
    rates: Rates | None
    mse: float
    mse_se: float
    excess: float
    excess_se: float
    gain_se: float = np.nan
    loss_se: float = np.nan


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """Errors of all methods on unseen tasks, and the verdict.

    Parameters
    ----------
    methods
        The recommended adaptation first, or the rates that were given.
    per_task : (n_tasks, n_methods)
        Mean squared error of each task.
    n_support, n_steps
        Rows and steps of adaptation.
    verdict
        What to do, in words.
    """

    methods: list[Method]
    per_task: FloatArray = field(repr=False)
    n_support: int
    n_steps: int
    verdict: str

    def __getitem__(self, name: str) -> Method:
        """Return a method by its name."""
        return next(method for method in self.methods if method.name == name)


def evaluate(training: MetaTraining, tasks: TaskSet, tick: Callable[[], None] = lambda: None) -> Evaluation:
    """Score the recommended rates and four baselines on tasks that took no part in any choice.

    Whole tasks are held out in folds; within the others rates and penalties are chosen by cross-validation
    anew, for each method in the same way, so that no number here has seen the tasks it is about.

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
        fold = stream(settings.seed, 2).permutation(np.arange(len(tasks)) % min(N_FOLDS, len(tasks)))
        overall = _choices(training, tasks, tick)
        per_task = np.empty((len(tasks), len(overall) + 1 + (_chosen_way(training) is not None)))
        for f in range(fold.max() + 1):
            rest, unseen = tasks.select(fold != f), tasks.select(fold == f)
            fitted = MetaTraining.prepare(rest, settings, tick, training.n_support)
            # One task tells nothing of how tasks differ: with two in all, what was chosen on both is tested.
            tested, choices = (fitted, _choices(fitted, rest, tick)) if len(rest) > 1 else (training, overall)
            errors = _errors(fitted, rest, unseen, choices)
            if _chosen_way(training) is not None:
                errors = np.column_stack((tested.score_chosen(unseen), errors))
            per_task[fold == f] = errors
    return _summary(training, overall, per_task)


def evaluate_on(training: MetaTraining, tasks: TaskSet, unseen: TaskSet) -> Evaluation:
    """Score the same methods on given unseen tasks, with all choices made on the training tasks."""
    choices = _choices(training, tasks, lambda: None)
    errors = _errors(training, tasks, unseen, choices)
    if _chosen_way(training) is not None:
        errors = np.column_stack((training.score_chosen(unseen), errors))
    return _summary(training, choices, errors)


def _chosen_way(training: MetaTraining) -> str | None:
    """Return the name of the way to adapt that was chosen; None for gradient steps of one rate, and for none."""
    if training.choice.way.kind == "ridge":
        return RIDGE
    return PER_FEATURE if training.settings.per_feature else None


def _errors(fitted: MetaTraining, rest: TaskSet, unseen: TaskSet, choices: dict[str, Rates]) -> FloatArray:
    """Return the unseen tasks' errors under each method, with everything chosen on the rest."""
    best = np.argmin(ridge_per_task(fitted, rest).mean(axis=0))
    own = ridge_per_task(fitted, unseen)[:, best]
    return np.column_stack((fitted.score(unseen, list(choices.values())), own))


def _summary(training: MetaTraining, choices: dict[str, Rates], per_task: FloatArray) -> Evaluation:
    named: list[tuple[str, Rates | None]] = [*choices.items(), (PER_TASK, None)]
    if (way := _chosen_way(training)) is not None:
        named = [(way, None), (GRADIENT, named[0][1]), *named[1:]]
    methods = [
        Method(
            name,
            rates,
            *mean_and_error(mse),
            *mean_and_error(mse - per_task[:, 0]),
            *ratio_errors(mse, per_task[:, 0]),
        )
        for (name, rates), mse in zip(named, per_task.T, strict=True)
    ]
    return Evaluation(methods, per_task, training.n_support, training.settings.n_steps, verdict(methods))


def n_ticks(settings: Settings, n_tasks: int) -> int:
    """Return about how often `evaluate` calls `tick`."""
    folds = min(N_FOLDS, n_tasks)
    again = 2 if settings.fixes_rates() else 1
    return folds * min(settings.n_folds, n_tasks) * again


def verdict(methods: list[Method]) -> str:
    """Return in words what the errors say: rates to use, or that an inner loop does not earn its place.

    A method is better where the difference exceeds two standard errors, and as good where it is within one.
    """
    name = methods[0].name
    if name in _HOW:
        return _verdict_on_way(methods)
    return _verdict_on_given(methods) if name in _ORIGIN else _verdict_on_rates(methods)


def _verdict_on_rates(methods: list[Method]) -> str:
    by_name = {method.name: method for method in methods}
    best, per_task, pooled = methods[0], by_name[PER_TASK], by_name[POOLED]
    rates = best.rates
    assert rates is not None
    if per_task.excess < -2 * per_task.excess_se:
        return (
            f"Do not use an inner loop: {PER_TASK} predicts unseen tasks better "
            f"({_gain_of(per_task, best)} lower error) than this model, which {_does(best)}. Tasks differ more than "
            "gradient steps from a shared start can follow."
        )
    if rates.inner_lr == 0 and rates.adapt_lr == 0:
        return (
            f"Do not use an inner loop: {POOLED} over all tasks, without adaptation, which this model is, predicts "
            "unseen tasks no worse, within a standard error, than the best pair of rates."
        )
    if pooled.excess <= pooled.excess_se:
        return _pooled_is_enough(best)
    adapted = f"{_gain_over(pooled)} lower error than {POOLED}"
    if rates.inner_lr == 0:
        return (
            "Do not use an inner loop in training (inner_lr = 0 is as good as any); let a new task adapt with "
            f"adapt_lr = {rates.adapt_lr:.3g}: {adapted}."
        )
    plain, tied = by_name[NO_INNER_LOOP], by_name[TIED]
    use = f"Train with inner_lr = {rates.inner_lr:.3g}, adapt with adapt_lr = {rates.adapt_lr:.3g}: {adapted}"
    gain = _gain_over(plain)
    if plain.excess <= 2 * plain.excess_se:
        return f"{use}. Against training without an inner loop the gain, {gain}, is not beyond chance."
    against_tied = _gain_over(tied)
    return f"{use}, {gain} lower than without an inner loop in training, {against_tied} lower than with tied rates."


def _verdict_on_way(methods: list[Method]) -> str:
    by_name = {method.name: method for method in methods}
    best, per_task, pooled, gradient = methods[0], by_name[PER_TASK], by_name[POOLED], by_name[GRADIENT]
    if per_task.excess < -2 * per_task.excess_se:
        better = _gain_of(per_task, best)
        return (
            f"Fit each task alone: {PER_TASK} predicts unseen tasks better ({better} lower error) than this model, "
            f"which {_does(best)}."
        )
    if pooled.excess <= pooled.excess_se:
        return _pooled_is_enough(best)
    use = f"Let new tasks adapt {_HOW[best.name]}: {_gain_over(pooled)} lower error than {POOLED}"
    against = _gain_over(gradient)
    assert gradient.rates is not None
    step = f"inner_lr {gradient.rates.inner_lr:.3g}, adapt_lr {gradient.rates.adapt_lr:.3g}"
    if abs(gradient.excess) <= max(gradient.excess_se, _NO_DIFFERENCE * best.mse):
        return f"{use}. The {GRADIENT} ({step}) does as well, within a standard error."
    word = "beats" if gradient.excess > 0 else "does worse on the tested rows than"
    return f"{use}; it {word} the {GRADIENT} ({step}) by {against.removeprefix('-')}."


def _pooled_is_enough(best: Method) -> str:
    return (
        f"Do not use an inner loop: {POOLED} over all tasks, without adaptation, predicts unseen tasks no worse, "
        f"within a standard error, than this model, which {_does(best)} (inner_lr = adapt_lr = 0 gives that ridge)."
    )


def _does(best: Method) -> str:
    """Return what the fitted model does."""
    if best.name in _HOW:
        return f"adapts {_HOW[best.name]}"
    assert best.rates is not None
    return f"has inner_lr = {best.rates.inner_lr:.3g} and adapt_lr = {best.rates.adapt_lr:.3g}"


def _verdict_on_given(methods: list[Method]) -> str:
    given, best = methods[0], min(methods[1:], key=lambda method: method.mse)
    assert given.rates is not None
    inner, adapt = _ORIGIN[given.name]
    rates = (
        f"The rates inner_lr = {given.rates.inner_lr:.3g} ({inner}) and adapt_lr = {given.rates.adapt_lr:.3g} ({adapt})"
    )
    if best.excess < -2 * best.excess_se:
        tuned = (
            "" if best.rates is None else f" (inner_lr {best.rates.inner_lr:.3g}, adapt_lr {best.rates.adapt_lr:.3g})"
        )
        better = _gain_of(best, given)
        return f"{rates} are not the best: {best.name}{tuned} has {better} lower error on unseen tasks."
    if best.excess <= 2 * best.excess_se:
        return (
            f"{rates} do as well on unseen tasks, within two standard errors, as the best of the others, {best.name}."
        )
    worse = _gain_over(best)
    return f"{rates} have {worse} lower error on unseen tasks than the best of the others, {best.name}."


def ratio_errors(mse: FloatArray, first: FloatArray) -> tuple[float, float]:
    """Return the standard errors of mean(first) / mean(mse) and of its inverse, by linearisation; see `Method`."""
    own, other = float(mse.mean()), float(first.mean())
    if own <= 0 or other <= 0:
        return np.nan, np.nan
    gain, loss = (
        mean_and_error(first - mse * other / own)[1] / own,
        mean_and_error(mse - first * own / other)[1] / other,
    )
    return gain, loss


def _gain_over(method: Method) -> str:
    """Return how far the first method's error is below this one's."""
    return f"{100 * method.excess / method.mse:.1f} ± {100 * method.gain_se:.1f} %"


def _gain_of(method: Method, first: Method) -> str:
    """Return how far this method's error is below the first one's."""
    return f"{-100 * method.excess / first.mse:.1f} ± {100 * method.loss_se:.1f} %"


def _choices(training: MetaTraining, tasks: TaskSet, tick: Callable[[], None]) -> dict[str, Rates]:
    """Return the rates of the methods that share the meta-training, chosen on these tasks."""
    free = training
    if training.settings.fixes_rates():
        free_settings = replace(training.settings, inner_lr=None, adapt_lr=None)
        free = MetaTraining.prepare(tasks, free_settings, tick, training.n_support)
    held_out = free.held_out
    assert held_out is not None  # rates are free, so they were scored
    name = _given(training.settings)
    if name is not None:
        first = training.chosen()
    else:  # zero where no adaptation was chosen, as in the model that is fitted
        first = free.chosen() if _chosen_way(training) is not None else training.rates_in_use()
    return {
        name or RECOMMENDED: first,
        NO_INNER_LOOP: held_out.best("tuned", 0.0).rates,
        TIED: held_out.best("tied").rates,
        POOLED: held_out.best("none", 0.0).rates,
    }


def _given(settings: Settings) -> str | None:
    """Return the name of gradient steps of which the user gave a rate; None where none was given."""
    if "gradient" not in settings.kinds or not settings.fixes_rates():
        return None
    if settings.inner_lr is None:
        return GIVEN_ADAPT_LR
    return GIVEN_INNER_LR if settings.adapt_lr is None else GIVEN


def ridge_per_task(training: MetaTraining, tasks: TaskSet) -> FloatArray:
    """Return each task's mean squared error when a ridge is fitted to its support rows alone.

    Returns
    -------
    (n_tasks, len(PER_TASK_L2_GRID))
    """
    episodes = training.scaling.tasks(tasks).deal(training.n_support, training.settings.seed)
    total = np.zeros((len(tasks), len(PER_TASK_L2_GRID)))
    for members, errors in ridge_errors(episodes, training.settings.fit_intercept):
        np.add.at(total, episodes.task[members], errors)
    return total / tasks.sizes[:, None]


def ridge_errors(episodes: Episodes, intercept: bool) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield summed squared query errors of ridges on support rows: (n_members, n_penalties) a block."""
    for block in episodes.blocks(max_rows=2**12):
        X, y, X_query, error = block.X_support, block.y_support, block.X_query, block.y_query
        n = X.shape[1]
        if intercept and n:
            error = error - y.mean(axis=1, keepdims=True)
            X_query = X_query - X.mean(axis=1, keepdims=True)
            y = y - y.mean(axis=1, keepdims=True)
            X = X - X.mean(axis=1, keepdims=True)
        Xt = X.transpose(0, 2, 1)
        values, vectors = np.linalg.eigh(X @ Xt)
        projected = vectors.transpose(0, 2, 1) @ y
        query = (X_query @ Xt) @ vectors
        scores = [
            np.square(error - query @ (projected / (np.maximum(values, 0) + l2 * max(n, 1))[..., None]))
            .mean(axis=2)
            .sum(axis=1)
            for l2 in PER_TASK_L2_GRID
        ]
        yield block.members, np.stack(scores, axis=1)
