"""Errors on unseen tasks against nested loops, no leaks between folds, and the verdict in words."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import innerloop as il
from cases import prepared, table
from innerloop._base.seeds import stream
from innerloop._base.standard_errors import ratio_errors
from innerloop.evaluation import METHODS, Score, _errors, _nested, evaluate, evaluate_on, n_ticks, verdict
from innerloop.evaluation._errors import PER_TASK_L2_GRID
from innerloop.evaluation.methods import (
    GIVEN,
    GRADIENT,
    NO_INNER_LOOP,
    PER_TASK,
    POOLED,
    RIDGE,
    TASK_MEAN,
    TIED,
)
from innerloop.plots.style import PALETTE
from innerloop.tabular import folds as task_folds
from innerloop.tabular.rate_choice import Rates
from innerloop.tabular.training import MetaTraining

pytestmark = pytest.mark.usefixtures("one_thread")

COMPARED = [GRADIENT, NO_INNER_LOOP, TIED, POOLED, PER_TASK, TASK_MEAN]
SETTINGS = [
    {},
    {"n_support": 2, "n_steps": 2, "random_state": 3},
    {"fit_intercept": False, "standardize": False, "cv": 3},
    {"inner_lr": -0.1, "adapt_lr": 0.2},
]


@pytest.fixture(autouse=True)
def _coarse_grids(monkeypatch):
    """Try fewer rates and penalties, for speed; zero stays among both."""
    monkeypatch.setattr(task_folds, "INNER_GRID", task_folds.INNER_GRID[::4])
    monkeypatch.setattr(task_folds, "L2_GRID", task_folds.L2_GRID[::3])


def made(n_targets=None, **settings):
    settings = {"adaptation": "gradient", **settings}
    X, y, groups = table([6, 5, 8, 3, 7, 1, 9, 4, 6, 6, 5, 7], 3, n_targets)
    tasks = il.TaskSet.from_arrays(X + np.array([3.0, 0.0, -1.0]), y + 2.0, groups)
    training = prepared(tasks, **settings)
    return replace(tasks, ids=training.tasks.ids), training  # by which rows are drawn


def folds(tasks, settings):
    n = len(tasks)
    return stream(settings.seed, 2).permutation(np.arange(n) % min(_nested.N_FOLDS, n))[tasks.ids]


@pytest.fixture
def choices(monkeypatch):
    """Record the rates that `evaluate` chooses: one dict per fold, and the last for all tasks."""
    chosen, plain = [], _nested._choose

    def record(*args):
        found = plain(*args)
        chosen.append(found[0])
        return found

    monkeypatch.setattr(_nested, "_choose", record)
    monkeypatch.setattr(_nested, "on_threads", map)  # folds in their order
    return chosen


def errors_of(result, method):
    """Return the errors of tasks under a method."""
    return result.per_task[:, [score.method for score in result.scores].index(method)]


def column(y):
    return y.reshape(len(y), -1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "n_targets"), [*((settings, None) for settings in SETTINGS), (SETTINGS[0], 2)], ids=str
)
def test_the_pooled_ridge_equals_a_loop_of_ridges(settings, n_targets, choices):
    tasks, training = made(n_targets, **settings)
    result = evaluate(training.choose(), tasks)
    fold = folds(tasks, training.settings)
    expected = np.empty(len(tasks))
    for f, chosen in enumerate(choices[1:]):
        rest = tasks.select(fold != f)
        scaling = MetaTraining.prepare(rest, training.settings).scaling
        ridge = Ridge(alpha=rest.n_rows * chosen[POOLED].l2, fit_intercept=False, solver="svd")
        ridge.fit(scaling.design(rest.X), column((rest.y - scaling.y_mean) * scaling.y_rate))
        for t in np.flatnonzero(fold == f):
            _, X, y = next(iter(tasks.select([t])))
            errors = column((y - scaling.y_mean) * scaling.y_rate) - column(ridge.predict(scaling.design(X)))
            expected[t] = np.mean(errors**2)
        assert (chosen[POOLED].inner_lr, chosen[POOLED].adapt_lr) == (0, 0)
    np.testing.assert_allclose(errors_of(result, POOLED), expected, rtol=1e-8)


def ridge_errors(training, tasks):
    """Return each task's error under each penalty, one ridge per set of support rows."""
    episodes = training.scaling.tasks(tasks).deal(training.n_support, training.settings.seed)
    squares = [[[] for _ in PER_TASK_L2_GRID] for _ in range(len(tasks))]
    for (X, y, X_query, y_query), t in zip(episodes, episodes.task, strict=True):
        for own, l2 in zip(squares[t], PER_TASK_L2_GRID, strict=True):
            predicted = 0.0
            if len(X):
                ridge = Ridge(len(X) * l2, fit_intercept=training.settings.fit_intercept, solver="svd")
                predicted = column(ridge.fit(X, column(y)).predict(X_query))
            own.append((column(y_query) - predicted) ** 2)
    return np.array([[np.mean(np.concatenate(own)) for own in task] for task in squares])


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "n_targets"), [(SETTINGS[0], None), (SETTINGS[1], 2), (SETTINGS[2], None)])
def test_the_ridge_per_task_equals_a_loop_over_support_rows(settings, n_targets):
    tasks, training = made(n_targets, **settings)
    result = evaluate(training.choose(), tasks)
    dealt = training.tasks.deal(training.n_support, training.settings.seed)
    own = _errors.ridge_errors(dealt, training.settings.fit_intercept)
    np.testing.assert_allclose(own, ridge_errors(training, tasks), rtol=1e-7)
    fold = folds(tasks, training.settings)
    expected = np.empty(len(tasks))
    for f in range(fold.max() + 1):
        rest, unseen = tasks.select(fold != f), tasks.select(fold == f)
        fitted = MetaTraining.prepare(rest, replace(training.settings, n_support=training.n_support))
        best = np.argmin(ridge_errors(fitted, rest).mean(axis=0))
        expected[fold == f] = ridge_errors(fitted, unseen)[:, best]
    np.testing.assert_allclose(errors_of(result, PER_TASK), expected, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_meta_learned_rates_equal_estimators_fitted_on_the_other_folds(settings, choices):
    tasks, training = made(**settings)
    result = evaluate(training.choose(), tasks)
    fold = folds(tasks, training.settings)
    params = {**settings, "n_support": training.n_support}
    for f, chosen in enumerate(choices[1:]):
        rest = tasks.select(fold != f)
        for method in (next(iter(chosen)), NO_INNER_LOOP, TIED):
            rates = vars(chosen[method])
            model = il.MetaRegressor(**{**params, **rates}).fit(rest.X, rest.y, rest.ids[rest.task_of_row])
            scaled = model._table.scaling.tasks(tasks).deal(training.n_support, training.settings.seed)
            squares = {t: [] for t in np.flatnonzero(fold == f)}
            for i, t in enumerate(scaled.task):
                if fold[t] != f:
                    continue
                support = scaled.support_rows[scaled.n_support[:i].sum() :][: scaled.n_support[i]]
                query = scaled.query_rows[scaled.n_query[:i].sum() :][: scaled.n_query[i]]
                new = np.full(len(support), -1)
                adapted = model.adapt(tasks.X[support], tasks.y[support], new) if len(new) else model
                predicted = adapted.predict(tasks.X[query], np.full(len(query), -1))
                squares[t].extend((tasks.y[query] - predicted) ** 2)
            expected = [np.mean(own) for own in squares.values()]
            np.testing.assert_allclose(errors_of(result, method)[fold == f], expected, rtol=1e-8)


@pytest.mark.slow
def test_choices_for_a_fold_have_not_seen_its_targets(choices, monkeypatch):
    # The same folds, whatever the targets.
    monkeypatch.setattr(il.TaskSet, "nameless", lambda part: replace(part, ids=np.argsort(np.argsort(part.ids))))
    tasks, training = made()
    first = evaluate(training.choose(), tasks)
    recorded = choices.copy()
    fold = folds(tasks, training.settings)
    for f in range(fold.max() + 1):
        choices.clear()
        y = np.where(fold[tasks.task_of_row] == f, 1e3 * tasks.X[:, 0] ** 2, tasks.y)
        other = il.TaskSet.from_arrays(tasks.X, y, tasks.task_of_row)
        second = evaluate(MetaTraining.prepare(other, training.settings).choose(), other)
        assert choices[1 + f] == recorded[1 + f]
        assert choices[0] != recorded[0]
        assert (second.per_task[fold == f, 0] > first.per_task[fold == f, 0]).all()


@pytest.mark.slow
def test_errors_of_unseen_tasks_do_not_depend_on_each_other():
    tasks, training = made()
    first = evaluate(training.choose(), tasks)
    fold = folds(tasks, training.settings)
    changed = np.flatnonzero(fold == 0)[0]
    y = np.where(tasks.task_of_row == changed, tasks.y[::-1], tasks.y)
    other = il.TaskSet.from_arrays(tasks.X, y, tasks.task_of_row)
    second = evaluate(MetaTraining.prepare(other, training.settings).choose(), other)
    same = (fold == 0) & (np.arange(len(tasks)) != changed)
    # Rows are dealt by the values of the whole table, but nothing is dealt where nothing is adapted on.
    before, after = (dict(zip([m.method for m in r.scores], r.over_rows[0].T, strict=True)) for r in (first, second))
    for method in COMPARED:
        np.testing.assert_array_equal(after[method][same], before[method][same])
        assert after[method][changed] != before[method][changed]


def test_learning_curves_go_through_the_errors_of_the_table():
    tasks, training = made()
    result = evaluate(training.choose(), tasks)
    own = int(np.flatnonzero(result.n_rows == training.n_support)[0])
    scored = tasks.sizes > training.n_support
    alike = [
        method is not PER_TASK for method in COMPARED
    ]  # its penalty is chosen on all tasks in the table, on longer ones here
    np.testing.assert_array_equal(result.over_rows[own][scored][:, alike], result.per_task[scored][:, alike])
    for n, errors in zip(result.n_rows, result.over_rows, strict=True):
        np.testing.assert_array_equal(np.isfinite(errors), (tasks.sizes > n)[:, None] & np.ones(len(COMPARED), bool))
        pooled = errors[tasks.sizes > n, COMPARED.index(POOLED)]  # adapts on nothing, so that only rounding differs
        np.testing.assert_allclose(pooled, errors_of(result, POOLED)[tasks.sizes > n], rtol=1e-9)
    for curve, errors in zip(result.curves, result.over_rows[own, scored].T, strict=True):
        i = int(np.flatnonzero(curve.n_rows == training.n_support)[0])
        assert curve.mse[i] == pytest.approx(errors.mean())
        assert curve.mse_se[i] == pytest.approx(errors.std(ddof=1) / np.sqrt(scored.sum()))


@pytest.mark.slow
def test_points_of_the_learning_curve_equal_estimators_adapted_one_by_one():
    X, y, groups = table([12] * 24, 3, task_std=2.0)
    tasks = il.TaskSet.from_arrays(X, y, groups)
    training = prepared(tasks)
    tasks = replace(tasks, ids=training.tasks.ids)  # by which rows are drawn
    result = evaluate(training.choose(), tasks)
    assert result.scores[0].method is RIDGE
    fold = folds(tasks, training.settings)
    rest = tasks.select(fold != 0)
    model = il.MetaRegressor(n_support=training.n_support).fit(rest.X, rest.y, rest.ids[rest.task_of_row])
    own = tasks.select(fold == 0)
    compared = [score.method for score in result.scores]
    for n in (0, 2, 10):
        point = int(np.flatnonzero(result.n_rows == n)[0])
        dealt = own.deal(n, training.settings.seed) if n else None
        for t, errors in enumerate(result.over_rows[point, fold == 0]):
            squares, mean = [], []
            if dealt is None:
                X_t, y_t = own.X[own.task_of_row == t], own.y[own.task_of_row == t]
                squares, mean = (y_t - model.predict(X_t)) ** 2, (y_t - rest.y.mean()) ** 2
            else:
                for i in np.flatnonzero(dealt.task == t):
                    support = dealt.support_rows[dealt.n_support[:i].sum() :][: dealt.n_support[i]]
                    query = dealt.query_rows[dealt.n_query[:i].sum() :][: dealt.n_query[i]]
                    new, asked = (np.full(len(rows), -1) for rows in (support, query))
                    predicted = model.adapt(own.X[support], own.y[support], new).predict(own.X[query], asked)
                    squares.extend((own.y[query] - predicted) ** 2)
                    mean.extend((own.y[query] - own.y[support].mean()) ** 2)
            assert errors[0] == pytest.approx(np.mean(squares), rel=1e-8)
            assert errors[compared.index(TASK_MEAN)] == pytest.approx(np.mean(mean), rel=1e-8)


def test_learning_curves_of_many_long_tasks_are_drawn_from_some(monkeypatch):
    tasks, training = made()
    whole = evaluate(training.choose(), tasks)
    monkeypatch.setattr(_errors, "_MOST_TASKS", 3)
    monkeypatch.setattr(_errors, "_MOST_ROWS", 4)
    some = evaluate(training.choose(), tasks)
    np.testing.assert_array_equal(some.per_task, whole.per_task)
    at_zero = np.isfinite(some.over_rows[0]).all(axis=1)
    n_folds = folds(tasks, training.settings).max() + 1
    assert 0 < at_zero.sum() <= min(3 * n_folds, len(tasks))
    assert np.isnan(some.over_rows[some.n_rows >= 4]).all()


@pytest.mark.slow
def test_given_unseen_tasks_are_scored_with_the_choices_of_the_others():
    tasks, training = made()
    X, y, groups = table([5, 1, 8], 3, seed=5)
    unseen = il.TaskSet.from_arrays(X, y, groups)
    result = evaluate_on(training.choose(), tasks, unseen)
    best = np.argmin(ridge_errors(training, tasks).mean(axis=0))
    np.testing.assert_allclose(errors_of(result, PER_TASK), ridge_errors(training, unseen)[:, best], rtol=1e-7)
    other = evaluate_on(training.choose(), tasks, il.TaskSet.from_arrays(X, 100 * y, groups))
    assert [score.rates for score in other.scores] == [score.rates for score in result.scores]


def test_methods_summarise_the_errors_of_tasks():
    tasks, training = made()
    result = evaluate(training.choose(), tasks)
    assert [score.method for score in result.scores] == COMPARED
    assert result[TIED].rates.inner_lr == result[TIED].rates.adapt_lr
    assert result[NO_INNER_LOOP].rates.inner_lr == 0
    assert result[PER_TASK].rates is None
    assert result[GRADIENT].rates == training.gradient.rates()
    assert result[GRADIENT].excess == result[GRADIENT].excess_se == 0
    root = np.sqrt(len(tasks))
    for score, mse in zip(result.scores, result.per_task.T, strict=True):
        excess = mse - result.per_task[:, 0]
        assert score.mse == pytest.approx(mse.mean())
        assert score.mse_se == pytest.approx(mse.std(ddof=1) / root)
        assert score.excess == pytest.approx(excess.mean())
        assert score.excess_se == pytest.approx(excess.std(ddof=1) / root)
    assert result.verdict == verdict(result.scores)
    assert result.n_support == training.n_support


def test_every_method_says_what_it_is():
    assert len({method.key for method in METHODS}) == len({method.label for method in METHODS}) == len(METHODS)
    for method in METHODS:
        assert method.colour in PALETTE
        assert method.marker


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "n_tasks"), [({}, 12), ({"inner_lr": -0.1}, 12), ({"cv": 3}, 12), ({}, 4)], ids=str
)
def test_ticks_are_about_as_many_as_announced(settings, n_tasks):
    X, y, groups = table([5] * n_tasks, 2)
    tasks, ticks = il.TaskSet.from_arrays(X, y, groups), []
    training = prepared(tasks, **settings)
    evaluate(training.choose(), tasks, lambda: ticks.append(1))
    announced = n_ticks(training.settings, n_tasks)
    assert announced * 0.7 <= len(ticks) <= announced * 1.5


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[5, 6], [4, 1, 5], [1, 1, 6, 5]], ids=str)
def test_few_tasks_are_enough(sizes):
    X, y, groups = table(sizes, 2)
    tasks = il.TaskSet.from_arrays(X, y, groups)
    result = evaluate(prepared(tasks).choose(), tasks)
    assert np.isfinite(result.per_task).all()
    assert result.verdict.endswith(".")


# The verdict


def score(method, rates, mse, mse_se, excess, excess_se):
    """Return a score beside a first one of error 2, whose error is known exactly."""
    return Score(method, rates, mse, mse_se, excess, excess_se, excess_se / mse, excess_se / 2.0)


def test_errors_of_ratios_are_those_of_the_jackknife():
    rng = np.random.default_rng(0)
    first = rng.gamma(2, 1, 60)
    other = 3 * first + rng.gamma(2, 5, 60)
    gains = np.array([1 - np.delete(first, i).mean() / np.delete(other, i).mean() for i in range(60)])
    jackknife = np.sqrt(59 / 60 * np.square(gains - gains.mean()).sum())
    gain, loss = ratio_errors(other, first)
    assert gain == pytest.approx(jackknife, rel=0.05)
    assert loss == pytest.approx(gain * (other.mean() / first.mean()) ** 2)


def scores(inner_lr=-0.123, adapt_lr=0.456, plain=(0.5, 0.1), tied=(0.3, 0.1), pooled=(1.0, 0.2), alone=(2.0, 0.3)):
    """Return scores of which each exceeds the recommended error, 2, by (excess, its error)."""
    rates = {
        GRADIENT: (Rates(inner_lr, adapt_lr, 0.0), (0.0, 0.0)),
        NO_INNER_LOOP: (Rates(0.0, 0.4, 0.0), plain),
        TIED: (Rates(0.1, 0.1, 0.0), tied),
        POOLED: (Rates(0.0, 0.0, 0.1), pooled),
        PER_TASK: (None, alone),
        TASK_MEAN: (None, (3.0, 0.3)),
    }
    return [score(method, r, 2.0 + excess[0], 0.4, *excess) for method, (r, excess) in rates.items()]


ALONE = "Use each task's own rows alone: "
NO_LOOP = "Do not use an inner loop: "
IN_TRAINING = "Do not use an inner loop in training "
VERDICTS = [
    ({"alone": (-0.4, 0.1)}, [ALONE + PER_TASK.label, "better (20.0 ± 5.0 % lower error)", "has inner_lr"], []),
    ({"alone": (-0.21, 0.1)}, [ALONE + PER_TASK.label], []),
    ({"alone": (-0.19, 0.1)}, ["Train with inner_lr = -0.12"], [ALONE]),
    ({"alone": (-0.1, 0.2)}, ["Train with inner_lr = -0.12"], ["Do not use"]),
    (
        {"pooled": (0.1, 0.2)},
        [NO_LOOP + POOLED.label, "no worse", "than this model, which has inner_lr = -0.123 and adapt_lr = 0.456"],
        ["Train with"],
    ),
    ({"pooled": (0.15, 0.1)}, ["Train with inner_lr = -0.123"], [NO_LOOP]),
    ({"pooled": (-0.1, 0.01)}, [NO_LOOP + POOLED.label], ["Train with"]),
    ({"inner_lr": 0.0}, [IN_TRAINING, "adapt_lr = 0.456", "33.3 ± 6.7 % lower error than " + POOLED.label], [NO_LOOP]),
    ({"plain": (0.15, 0.1)}, ["Train with inner_lr = -0.123", "adapt_lr = 0.456", "not beyond chance"], ["tied"]),
    (
        {"plain": (-0.1, 0.1)},
        [
            "Train with inner_lr = -0.123",
            "Without an inner loop in training the error is no higher (5.0 ± 5.0 % lower)",
        ],
        ["gain", "tied"],
    ),
    ({"tied": (-0.1, 0.1)}, ["lower than without an inner loop in training, no lower than with tied rates"], []),
    (
        {},
        [
            "Train with inner_lr = -0.123, adapt with adapt_lr = 0.456: 33.3 ± 6.7 % lower error",
            "20.0 ± 4.0 % lower than without an inner loop in training",
            "13.0 ± 4.3 % lower than with tied rates",
        ],
        ["chance", "Do not use"],
    ),
    (
        {"inner_lr": -0.3, "adapt_lr": 0.0},
        ["Train with inner_lr = -0.3", "do not adapt (adapt_lr = 0)"],
        ["Do not use"],
    ),
]


@pytest.mark.parametrize(("changes", "said", "unsaid"), VERDICTS, ids=str)
def test_the_verdict_says_what_the_errors_say(changes, said, unsaid):
    text = verdict(scores(**changes))
    for words in said:
        assert words in text
    for words in unsaid:
        assert words not in text
    assert text.endswith(".")


@pytest.mark.parametrize(
    ("excess", "words"),
    [
        (-0.5, "are not the best: no inner loop in training"),
        (-0.21, "are not the best: no inner loop in training"),
        (-0.19, "do as well"),
        (0.01, "do as well"),
        (0.19, "do as well"),
        (0.21, "lower error on unseen tasks than"),
        (0.5, "lower error on unseen tasks than"),
    ],
)
def test_the_verdict_on_given_rates_compares_them_with_the_best_of_the_others(excess, words):
    given, other = Rates(-0.3, -0.1, 0.0), Rates(0.0, 0.4, 0.0)
    text = verdict(
        [
            score(GIVEN, given, 2.0, 0.1, 0.0, 0.0),
            score(NO_INNER_LOOP, other, 2.0 + excess, 0.1, excess, 0.1),
            score(PER_TASK, None, 9.0, 0.1, 7.0, 0.1),
        ]
    )
    assert words in text
    assert "inner_lr = -0.3" in text


GIVEN_RATES = [
    ({"inner_lr": -0.1, "adapt_lr": 0.2}, "rates as given", "inner_lr = -0.1 (given) and adapt_lr = 0.2 (given)"),
    ({"inner_lr": -0.1}, "inner_lr as given, adapt_lr tuned", r"inner_lr = -0.1 (given) and adapt_lr = "),
    ({"adapt_lr": 0.2}, "adapt_lr as given, inner_lr tuned", r"(tuned) and adapt_lr = 0.2 (given)"),
    ({"adaptation": "none"}, POOLED.label, "No adaptation, as asked (one pooled ridge),"),
    ({"adaptation": "none", "inner_lr": 0.1}, "rates as given", "inner_lr = 0.1 (given) without adaptation"),
]


@pytest.mark.parametrize(("settings", "label", "words"), GIVEN_RATES, ids=str)
def test_it_is_said_which_rate_was_given(settings, label, words):
    tasks, training = made(**settings)
    result = evaluate_on(training.choose(), tasks, tasks)
    assert result.scores[0].label == label
    assert words in result.verdict


@pytest.mark.slow
def test_two_tasks_are_tested_at_the_rates_chosen_on_both():
    tasks = il.MixedLinearRegression(3, noise_std=0.1, task_std=2.0).sample_tasks(2, 40, seed=1)
    training = prepared(tasks)
    result = evaluate(training.choose(), tasks)
    assert result[GRADIENT].rates.adapt_lr > 0
    assert result[GRADIENT].mse < result[POOLED].mse


RIDGE_VERDICTS = [
    ({}, ["adapt by ridge: 33.3 ± 6.7 % lower error", "it beats the best gradient step", "by 20.0 ± 4.0 %"]),
    ({"gradient": (0.05, 0.1)}, ["adapt by ridge", "does as well, within a standard error"]),
    ({"gradient": (-0.5, 0.1)}, ["does worse on the tested rows than the best gradient step", "by 33.3 ± 6.7 %"]),
    ({"pooled": (0.1, 0.2)}, [NO_LOOP + POOLED.label, "no worse", "than this model, which adapts by ridge"]),
    ({"alone": (-0.4, 0.1)}, [ALONE + PER_TASK.label, "20.0 ± 5.0 % lower", "which adapts by ridge"]),
    ({"alone": (-0.4, 0.3)}, ["adapt by ridge", f"of {PER_TASK.label} is 20.0 ± 15.0 % lower, which may be chance."]),
]


@pytest.mark.parametrize(("changes", "said"), RIDGE_VERDICTS, ids=str)
def test_the_verdict_on_the_ridge_compares_it_with_the_best_gradient_step(changes, said):
    excesses = {"gradient": (0.5, 0.1), "pooled": (1.0, 0.2), "alone": (2.0, 0.3), **changes}
    named = {RIDGE: (0.0, 0.0), **{n: excesses[k] for k, n in (("gradient", GRADIENT), ("pooled", POOLED))}}
    named |= {PER_TASK: excesses["alone"], TASK_MEAN: (3.0, 0.3)}
    rates = {GRADIENT: Rates(-0.1, 0.4, 0.0), POOLED: Rates(0.0, 0.0, 0.1)}
    text = verdict([score(method, rates.get(method), 2.0 + e[0], 0.4, *e) for method, e in named.items()])
    for words in said:
        assert words in text


POOLED_VERDICTS = [
    ({}, ["which this model is", "no worse, within two standard errors, than any that adapts."]),
    (
        {GRADIENT: (-0.5, 0.1)},
        ["best over all numbers of rows", f"ones {GRADIENT.label} has 25.0 ± 5.0 % lower"],
    ),
    ({GRADIENT: (-0.1, 0.1)}, ["than any that adapts."]),
    ({TASK_MEAN: (-0.5, 0.1)}, [ALONE + TASK_MEAN.label, "which does not adapt"]),
]


@pytest.mark.parametrize(("changes", "said"), POOLED_VERDICTS, ids=str)
def test_the_verdict_on_the_pooled_ridge_says_that_no_inner_loop_is_needed(changes, said):
    alike = {POOLED: (0.0, 0.0), RIDGE: (0.1, 0.1), GRADIENT: (0.1, 0.1), PER_TASK: (1.0, 0.1), TASK_MEAN: (1.0, 0.1)}
    rates = {GRADIENT: Rates(0.0, 0.4, 0.0), POOLED: Rates(0.0, 0.0, 0.1)}
    text = verdict([score(method, rates.get(method), 2.0 + e[0], 0.4, *e) for method, e in (alike | changes).items()])
    for words in (*said, NO_LOOP) if TASK_MEAN not in changes else said:
        assert words in text


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", ["auto", "ridge"])
def test_the_ridge_is_scored_as_an_estimator_fitted_on_the_other_folds(adaptation):
    X, y, groups = table([12] * 24, 3, task_std=2.0)
    tasks = il.TaskSet.from_arrays(X, y, groups)
    training = prepared(tasks, adaptation=adaptation, basis="linear")
    tasks = replace(tasks, ids=training.tasks.ids)  # by which rows are drawn
    result = evaluate(training.choose(), tasks)
    methods = [RIDGE, GRADIENT, NO_INNER_LOOP, TIED, POOLED, PER_TASK, TASK_MEAN]
    assert [score.method for score in result.scores] == methods
    fold = folds(tasks, training.settings)
    rest = tasks.select(fold != 0)
    params = {"adaptation": adaptation, "n_support": training.n_support, "basis": "linear"}
    model = il.MetaRegressor(**params).fit(rest.X, rest.y, rest.ids[rest.task_of_row])
    for t in np.flatnonzero(fold == 0):
        own, squares = tasks.select([t]), []
        for X_s, y_s, X_q, y_q in model._table.scaling.tasks(own).deal(training.n_support, 0):
            theta = model._table.predictor.adapt(il.TaskSet(X_s, y_s[:, None], np.array([0, len(y_s)]), np.zeros(1)))
            squares.extend((y_q - X_q @ theta[0, :, 0]) ** 2)
        assert result.per_task[t, 0] == pytest.approx(np.mean(squares), rel=1e-8)
