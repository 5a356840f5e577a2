"""The rates of gradient steps: their cross-validation against loops that adapt and score task by task."""

import numpy as np
import pandas as pd
import pytest

import innerloop as il
import reference
from cases import prepared, table
from innerloop._base.seeds import stream
from innerloop.tabular.folds import natural_rate
from innerloop.tabular.rate_choice import Candidate, HeldOut, Rates

pytestmark = pytest.mark.usefixtures("one_thread")

COLUMNS = ["inner_lr", "l2", "adapt_lr", "mse", "mse_se", "difference", "difference_se"]
SETTINGS = [
    {},
    {"n_steps": 2},
    {"cv": 3, "random_state": 4, "n_support": 2},
    {"cv": 100},
    {"adapt_lr": 0.25},
    {"inner_lr": 0.1},
    {"l2": 0.0},
    {"adaptation": "none"},
    {"standardize": False},
    {"fit_intercept": False},
    {"n_support": 2, "n_query": 1},
]


def gradient(**settings):
    return il.MetaRegressor(**({"adaptation": "gradient"} | settings))


def small(n_targets=None, seed=0, settings=()):
    sizes = [1, 7, 3, 12, 1, 2, 9, 5, 6, 6] if "n_query" not in settings else [4, 7, 3, 12, 5, 6, 9, 5, 6, 6]
    return table(sizes, 3, n_targets, seed)


def held_out_mse(model, X, y, groups, inner_lr, l2, adapt_lr):
    """Return each task's mean squared error, meta-trained on the other folds of tasks; slowly."""
    tasks = il.TaskSet.from_arrays(
        model._table.scaling.design(X), (y - model._table.scaling.y_mean) * model._table.scaling.y_rate, groups
    ).nameless()
    episodes = shown = tasks.deal(model.n_support_, model.random_state)
    if model.n_query is not None:
        shown = tasks.split(model.n_support_, model.n_query, model.random_state)
    n_tasks = len(tasks)
    fold = stream(model.random_state, 1).permutation(np.arange(n_tasks) % min(model.cv, n_tasks))[tasks.ids]
    squares = [[] for _ in range(n_tasks)]
    for f in range(fold.max() + 1):
        training = [part for part, t in zip(shown, shown.task, strict=True) if fold[t] != f]
        coef = reference.meta_coef(training, inner_lr, model.n_steps, l2=l2)
        for (X_s, y_s, X_q, y_q), t in zip(episodes, episodes.task, strict=True):
            if fold[t] == f:
                theta = reference.adapted(coef, X_s, y_s, adapt_lr, model.n_steps if len(X_s) else 0)
                squares[t].extend(np.ravel((y_q - X_q @ theta) ** 2))
    return np.array([np.mean(s) for s in squares])


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("n_targets", [None, 2])
def test_cv_results_equal_a_loop_over_held_out_tasks(settings, n_targets):
    X, y, groups = small(n_targets, settings=settings)
    model = gradient(**settings).fit(X, y, groups)
    frame = pd.DataFrame(model.cv_results_)
    assert list(frame.columns) == COLUMNS
    rng = np.random.default_rng(0)
    for row in frame.iloc[rng.choice(len(frame), 5)].itertuples():
        mse = held_out_mse(model, X, y, groups, row.inner_lr, row.l2, row.adapt_lr)
        assert row.mse == pytest.approx(mse.mean(), rel=1e-7)
        assert row.mse_se == pytest.approx(mse.std(ddof=1) / np.sqrt(len(mse)), rel=1e-6)


def test_the_natural_rate_is_the_median_over_supports_of_the_best_isotropic_step():
    rng = np.random.default_rng(0)
    supports = [0.01 ** (task == 4) * rng.standard_normal((6, 3)) for task in range(9)]  # one is of other units
    episodes = il.Episodes([(X, np.zeros(6), X, np.zeros(6)) for X in supports])
    rates = np.linspace(0, 2, 20001)
    each = []
    for X in supports:
        S = X.T @ X / 6
        each.append(rates[np.argmin([(np.square(np.eye(3) - a * S)).sum() for a in rates])])
    assert natural_rate(episodes) == pytest.approx(np.median(each), abs=2e-4)


def test_the_error_of_a_gain_is_paired_over_tasks():
    """Tasks differ a hundredfold; each loses the same by the other rates, so chance has no part in the gain."""
    mse = np.logspace(-1, 1, 20)
    gain, error = Candidate(Rates(0.0, 0.5, 0.0), mse).gain_over(Candidate(Rates(0.0, 0.0, 0.0), mse + 0.25))
    assert gain == pytest.approx(0.25)
    assert error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("errors", "adapts"), [(0.7, False), (2.0, True)])
def test_the_richer_candidate_is_chosen_where_it_gains_more_than_a_standard_error(errors, adapts):
    """Without adaptation the loss is 3; one step at the best rate, 1, takes off 1 in the mean over tasks."""
    n_tasks = 50
    noise = np.random.default_rng(0).standard_normal(n_tasks)
    noise = (noise - noise.mean()) / noise.std(ddof=1) * np.sqrt(n_tasks) / errors  # 1 / errors of the mean
    curves = np.stack([np.full(n_tasks, 3.0), -2 * (1 + noise), 1 + noise], axis=1)[:, None, None]
    chosen = HeldOut(np.zeros(1), np.zeros(1), 1.0, curves, adapt_lr=None).choose()
    assert chosen.rates.adapt_lr == pytest.approx(1.0 if adapts else 0.0)
    assert chosen.mse.mean() == pytest.approx(2.0 if adapts else 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_differences_are_paired_with_the_best_of_inner_rate_zero(settings):
    X, y, groups = small(seed=1, settings=settings)
    model = gradient(**settings).fit(X, y, groups)
    frame = pd.DataFrame(model.cv_results_)
    if "inner_lr" in settings:
        assert frame[["difference", "difference_se"]].isna().all(axis=None)
        return
    plain = frame[frame.inner_lr == 0].sort_values("mse").iloc[0]

    def mean_at(adapt_lr):
        return held_out_mse(model, X, y, groups, 0.0, plain.l2, adapt_lr).mean()

    # Three values give the parabola of one step, and its minimum, for any unit.
    rate = plain.adapt_lr
    if "adapt_lr" not in settings and "adaptation" not in settings and "n_steps" not in settings:
        at = np.array([mean_at(r) for r in (-1.0, 0.0, 1.0)])
        rate = (at[0] - at[2]) / (at[0] - 2 * at[1] + at[2]) / 2
    elif "n_steps" in settings:
        near = np.linspace(rate - 0.1, rate + 0.1, 9)
        quartic = np.polynomial.Polynomial.fit(near, [mean_at(r) for r in near], 4)
        roots = quartic.deriv().roots()
        real = roots.real[np.abs(roots.imag) < 1e-9]
        rate = real[np.argmin(quartic(real))]
    base = held_out_mse(model, X, y, groups, 0.0, plain.l2, rate)
    rng = np.random.default_rng(0)
    for row in frame.iloc[rng.choice(len(frame), 3)].itertuples():
        paired = held_out_mse(model, X, y, groups, row.inner_lr, row.l2, row.adapt_lr) - base
        assert row.difference == pytest.approx(paired.mean(), rel=1e-5)
        assert row.difference_se == pytest.approx(paired.std(ddof=1) / np.sqrt(len(base)), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("n_steps", [1, 2, 3])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_the_adaptation_rate_is_where_held_out_loss_is_lowest(n_steps, l2):
    X, y, groups = small(seed=2)
    model = il.MetaRegressor(inner_lr=0.05, l2=l2, n_steps=n_steps).fit(X, y, groups)
    tasks = il.TaskSet.from_arrays(X, y, groups)
    best = prepared(tasks, **model.get_params()).gradient.held_out.best().rates.adapt_lr
    assert model.adapt_lr_ in (0.0, best)

    def loss(adapt_lr):
        return held_out_mse(model, X, y, groups, 0.05, l2, adapt_lr).mean()

    at_choice = loss(best)
    on_grid = [loss(rate) for rate in np.linspace(-1, 1.5, 101)]
    nearby = [loss(best + step) for step in (-1e-3, -1e-4, 1e-4, 1e-3)]
    assert at_choice <= min(on_grid + nearby) * (1 + 1e-12)
    assert min(nearby) - at_choice < 1e-3 * at_choice


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_pure_noise_there_is_no_inner_loop_in_training(seed):
    X, _, groups = table([8] * 40, 3, seed=seed)
    y = np.random.default_rng(100 + seed).standard_normal(len(X))
    assert gradient().fit(X, y, groups).inner_lr_ == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_negative_rate_is_found_where_query_rows_are_as_few_as_isotropic_features(seed):
    X, y, groups = table([21] * 100, 60, seed=seed, noise=1.0, task_std=0.5 / np.sqrt(60))
    model = gradient(l2=0.0, n_support=20, n_query=1).fit(X, y, groups)
    assert model.inner_lr_ < 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_standard_errors_of_the_rates_are_finite_where_they_were_chosen(seed):
    X, y, groups = table([8] * 20, 3, seed=seed)
    model = gradient().fit(X, y, groups)
    assert 0 < model.adapt_lr_se_ < 1
    assert 0 <= model.inner_lr_se_ < 10
    fixed = il.MetaRegressor(inner_lr=0.1).fit(X, y, groups)
    assert np.isnan(fixed.inner_lr_se_)
    assert np.isfinite(fixed.adapt_lr_se_)


def test_one_task_gets_no_inner_loop_but_a_penalty():
    X, y, _ = table([60], 3)
    model = gradient().fit(X, y, np.zeros(60))
    assert (model.inner_lr_, model.adapt_lr_) == (0, 0)
    assert model.groups_.tolist() == [0]
    assert len(set(model.cv_results_["l2"])) > 1
    fixed = il.MetaRegressor(adapt_lr=0.2).fit(X, y, np.zeros(60))
    assert (fixed.inner_lr_, fixed.adapt_lr_) == (0, 0.2)


def test_preparing_ticks_once_a_fold():
    X, y, groups = small()
    ticks = []
    tasks = il.TaskSet.from_arrays(X, y, groups)
    prepared(tasks, lambda: ticks.append(1), cv=4)
    assert len(ticks) == 4
