"""Updates of the population: sums add, against dense generalised least squares over all rows at the same choices."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest

import innerloop as il
from innerloop.adaptation.rules import Ridge
from innerloop.adaptation.scale_mixture import ScaledRidge
from innerloop.data import population
from innerloop.data.population import SampleSize
from innerloop.estimators import storage
from innerloop.exact.objective import MetaObjective
from innerloop.tabular.kinds import gradient_steps
from innerloop.tabular.rate_choice import Rates

N_FIRST, N_TASKS = 40, 60


def table(n_targets=1, seed=0):
    """Return rows of groups that differ in level, slope and scale."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(N_TASKS), rng.integers(1, 9, N_TASKS))
    X = rng.standard_normal((len(groups), 2))
    X[:, 1] += groups / 50  # later groups have other features, so that the population moves
    level, slope, scale = rng.standard_normal((3, N_TASKS, n_targets))
    y = level[groups] + X[:, :1] * (1 + slope[groups]) - X[:, 1:] + np.sin(3 * X[:, :1])
    y = y + np.exp(scale[groups] / 2) * rng.standard_normal((len(groups), n_targets))
    return X, y[:, 0] if n_targets == 1 else y, groups


def fitted(X, y, groups, weights=None, **parameters):
    return il.MetaRegressor(**{"basis": "linear", **parameters}).fit(X, y, groups=groups, sample_weight=weights)


def generalised_least_squares(Z, y, groups, intercept, task_cov, precision):
    """Return mean, its covariance and the noise variance, by the covariance matrix of all rows."""
    V = np.eye(len(Z))
    for group in np.unique(groups):
        rows = np.ix_(groups == group, groups == group)
        V[rows] += Z[groups == group] @ task_cov @ Z[groups == group].T
    S = Z.T @ np.linalg.solve(V, Z) + np.diag(precision)
    mean = np.linalg.solve(S, Z.T @ np.linalg.solve(V, y))
    noise = y @ np.linalg.solve(V, y - Z @ mean) / (len(y) - intercept)
    return mean, np.linalg.inv(S), noise


def completed(model, X, y, groups, weights=None):
    """Return the fitted table with the population of these rows at the model's choices, and all groups adapted."""
    old, y = model._table, np.log(y) if model._is_log else y
    sums, predictor = old.sums, old.predictor
    root = np.ones((len(X), 1)) if weights is None else np.sqrt(weights / old.scaling.weight_unit)[:, None]
    Z = root * old._design(X)
    targets = root * ((y - old.scaling.y_mean) * old.scaling.y_rate).reshape(len(y), -1)
    models = []
    intercept = old.scaling.intercept
    penalty = sums.precision
    if not np.isnan(sums.l2):
        penalty = np.broadcast_to(sums.l2 * len(X) * (np.arange(Z.shape[1]) < Z.shape[1] - intercept), penalty.shape)
    for of_model in zip(sums.task_cov, penalty, strict=True):
        of_targets = zip(targets.T, *of_model, strict=True)
        models.append([generalised_least_squares(Z, t, groups, intercept, *of) for t, *of in of_targets])
    members, cov, noise = list(predictor.members), predictor.task_cov.copy(), predictor.noise.copy()
    for k, (of_mean, of_spread) in enumerate(zip(sums.mean_of, sums.spread_of, strict=True)):
        if of_spread >= 0:
            mean = np.stack([found[0] for found in models[of_mean]], axis=1)
            cov[k] = sums.task_cov[of_spread] + np.array([found[1] for found in models[of_spread]])
            noise[k] = [found[2] for found in models[of_spread]]
            rule = members[k].rule
            if isinstance(rule, Ridge | ScaledRidge):
                rule = replace(rule, task_cov=cov[k], **({"noise": noise[k]} if hasattr(rule, "noise") else {}))
            members[k] = replace(members[k], coef=mean, rule=rule)
    main = models[sums.main]
    effects = replace(old.effects, mean=np.stack([found[0] for found in main], axis=1))
    effects = replace(effects, noise=np.array([found[2] for found in main]))
    new = replace(old, predictor=replace(predictor, members=tuple(members), task_cov=cov, noise=noise), effects=effects)
    return new.forget_groups().adapt(il.TaskSet.from_arrays(X, y, groups, weights=weights))


def check_equal(updated, expected, X, groups, rtol=1e-10):
    """Check coefficients, noise, predictions and standard deviations of known and other groups."""
    table = updated._table
    for found, wanted in zip(table.meta_parameters(), expected.meta_parameters(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=rtol)
    np.testing.assert_allclose(table.effects.noise, expected.effects.noise, rtol=rtol)
    for ids in (groups, np.full(len(X), -1)):
        place = table.places(ids), expected.places(ids)
        for what in ("predict", "std"):
            found, wanted = (getattr(t, what)(X, p) for t, p in zip((table, expected), place, strict=True))
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=rtol * np.abs(wanted).max())


CASES = {
    "auto": {},
    "ridge": {"adaptation": "ridge"},
    "a given penalty": {"l2": 0.05},
    "curves": {"basis": "spline"},
    "no intercept": {"fit_intercept": False},
    "log": {"target_transform": "log"},
    "one random slope": {"varying": [0]},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n_targets", [1, 2], ids="{} targets".format)
def test_an_updated_population_is_that_of_all_rows_at_the_same_choices(case, n_targets):
    X, y, groups = table(n_targets)
    y = np.exp(y / 4) if case == "log" else y
    first = groups < N_FIRST
    model = fitted(X[first], y[first], groups[first], **CASES[case])
    updated = model.update(X[~first], y[~first], groups[~first], population=True)
    check_equal(updated, completed(model, X, y, groups), X, groups)
    assert (updated.groups_ == np.arange(N_TASKS)).all()
    assert not np.allclose(updated.coef_, model.coef_, rtol=1e-3)


def test_rows_of_known_groups_take_the_place_of_those_they_had():
    X, y, groups = table()
    first = np.random.default_rng(1).random(len(X)) < 0.6  # of most groups some rows
    model = fitted(X[first], y[first], groups[first])
    updated = model.update(X[~first], y[~first], groups[~first], population=True)
    check_equal(updated, completed(model, X, y, groups), X, groups)
    assert updated._table.sums.n_tasks == N_TASKS
    assert updated._table.sums.n_rows == len(X)


def test_weights_of_rows_count():
    X, y, groups = table()
    weights = np.random.default_rng(2).uniform(0.2, 5, len(X))
    first = np.random.default_rng(1).random(len(X)) < 0.6
    model = fitted(X[first], y[first], groups[first], weights[first])
    updated = model.update(X[~first], y[~first], groups[~first], weights[~first], population=True)
    check_equal(updated, completed(model, X, y, groups, weights), X, groups)


def in_parts(model, X, y, groups, order):
    for rows in order:
        model = model.update(X[rows], y[rows], groups[rows], population=True)
    return model


@pytest.mark.parametrize("adaptation", ["auto", "gradient", "none"])
def test_neither_the_number_nor_the_order_of_updates_matters(adaptation):
    X, y, groups = table()
    first = groups < N_FIRST
    model = fitted(X[first], y[first], groups[first], adaptation=adaptation)
    parts = [np.flatnonzero(groups // 3 == third) for third in range(N_FIRST // 3 + 1, N_TASKS // 3)]
    if adaptation == "auto":  # rows of the same groups in several parts
        parts = list(np.array_split(np.random.default_rng(3).permutation(np.flatnonzero(groups > N_FIRST - 5)), 6))
        model = fitted(X[groups <= N_FIRST - 5], y[groups <= N_FIRST - 5], groups[groups <= N_FIRST - 5])
    together = in_parts(model, X, y, groups, [np.concatenate(parts)])
    for apart in (in_parts(model, X, y, groups, parts), in_parts(model, X, y, groups, parts[::-1])):
        check_equal(apart, together._table, X, groups)
        np.testing.assert_allclose(apart.group_coef_, together.group_coef_, rtol=1e-9, atol=1e-11)


def test_rows_that_groups_adapted_on_before_are_counted_once_with_the_next_update_of_the_population():
    X, y, groups = table()
    first, later = groups < N_FIRST, groups >= N_TASKS - 5
    half = np.random.default_rng(4).random(len(X)) < 0.5
    model = fitted(X[first & half], y[first & half], groups[first & half])
    adapted = model
    for rows in (first & ~half, ~first & ~later & half, ~first & ~later & ~half):
        adapted = adapted.update(X[rows], y[rows], groups[rows])
    np.testing.assert_array_equal(adapted.coef_, model.coef_)
    updated = adapted.update(X[later], y[later], groups[later], population=True)
    check_equal(updated, completed(model, X, y, groups), X, groups)


def test_large_rows_that_are_taken_back_leave_the_others_or_are_refused():
    X, y, groups = table()
    first, wrong = groups < N_FIRST, groups == N_FIRST
    model = fitted(X[first], y[first], groups[first])
    expected = model.update(X[wrong], y[wrong], groups[wrong], population=True)
    for size in (1e3, 1e9):
        large = model.update(X[wrong], y[wrong] + size, groups[wrong], population=True)
        adapted = large.adapt(X[wrong], y[wrong], groups[wrong])
        if size == 1e3:
            noise = adapted._table.recounted().effects.noise
            np.testing.assert_allclose(noise, expected._table.effects.noise, rtol=1e-8)
        else:
            with pytest.raises(ValueError, match="rounding hides what is left of it"):
                adapted.update(X[~first & ~wrong], y[~first & ~wrong], groups[~first & ~wrong], population=True)


@pytest.mark.parametrize("protocol", ["deal", "train", "leave-one-out"])
@pytest.mark.parametrize("rates", [{}, {"inner_lr": -0.1, "adapt_lr": 0.2, "n_steps": 2}], ids=["chosen", "given"])
def test_gradient_steps_are_trained_on_the_episodes_of_new_groups_too(protocol, rates):
    X, y, groups = table(2)
    first = groups < N_FIRST
    model = fitted(X[first], y[first], groups[first], adaptation="gradient", protocol=protocol, **rates)
    updated = model.update(X[~first], y[~first], groups[~first], population=True)
    scaling = model._table.scaling
    episodes = [
        tasks.episodes(protocol, model.n_support_, None, 0)
        for tasks in (
            scaling.tasks(il.TaskSet.from_arrays(X[first], y[first], groups[first])).nameless(),
            scaling.tasks(il.TaskSet.from_arrays(X[~first], y[~first], groups[~first])),
        )
    ]
    objective = sum(MetaObjective.from_episodes(part, rates.get("n_steps", 1)) for part in episodes)
    expected = gradient_steps(objective, Rates(model.inner_lr_, model.adapt_lr_, model.l2_), rates.get("n_steps", 1))
    np.testing.assert_allclose(updated._table.predictor.unseen, expected.coef, rtol=1e-10)
    assert (updated.inner_lr_, updated.adapt_lr_, updated.l2_) == (model.inner_lr_, model.adapt_lr_, model.l2_)
    with pytest.raises(ValueError, match="keeps moments only of group 0, and gradient steps are trained"):
        updated.update(X[:3], y[:3], groups[:3], population=True)


def test_a_population_of_many_tasks_is_updated_too(monkeypatch):
    monkeypatch.setattr(population, "_SAMPLE_SIZE", SampleSize(30, 2**20, 30))
    monkeypatch.setattr(population, "_NUMBERS_OF_LEAF", 2**7)
    X, y, groups = table()
    first = groups < N_FIRST
    model = fitted(X[first], y[first], groups[first])
    updated = model.update(X[~first], y[~first], groups[~first], population=True)
    assert model._table.sums.n_tasks == N_FIRST
    check_equal(updated, completed(model, X, y, groups), X, groups)


def test_a_saved_model_goes_on_and_one_that_forgot_its_groups_too(tmp_path):
    X, y, groups = table()
    first, second = groups < N_FIRST, (groups >= N_FIRST) & (groups < N_TASKS - 5)
    model = fitted(X[first], y[first], groups[first]).update(X[second], y[second], groups[second])
    rest = ~first & ~second
    updated = model.update(X[rest], y[rest], groups[rest], population=True)
    il.save_model(model, tmp_path / "model")
    again = il.load_model(tmp_path / "model").update(X[rest], y[rest], groups[rest], population=True)
    check_equal(again, updated._table, X, groups, rtol=1e-14)
    whole = fitted(X[first], y[first], groups[first])
    il.save_model(whole, tmp_path / "model", forget_groups=True)
    forgot = il.load_model(tmp_path / "model").update(X[~first], y[~first], groups[~first], population=True)
    expected = completed(whole, X, y, groups)
    np.testing.assert_allclose(forgot._table.effects.mean, expected.effects.mean, rtol=1e-10)
    assert (forgot.groups_ >= N_FIRST).all()


def test_a_saved_model_of_gradient_steps_goes_on(tmp_path):
    X, y, groups = table()
    first = groups < N_FIRST
    model = fitted(X[first], y[first], groups[first], adaptation="gradient")
    il.save_model(model, tmp_path / "model")
    rows = X[~first], y[~first], groups[~first]
    again = il.load_model(tmp_path / "model").update(*rows, population=True)
    np.testing.assert_allclose(again.coef_, model.update(*rows, population=True).coef_, rtol=1e-12)


def test_a_model_without_sums_is_loaded_and_says_so(tmp_path, monkeypatch):
    X, y, groups = table()
    model = fitted(X, y, groups)
    il.save_model(model, tmp_path / "model")
    description, arrays = storage._read(tmp_path / "model")
    del description["table"]["episodes"]
    older = {name: array for name, array in arrays.items() if not name.startswith(("sums.", "counted."))}
    monkeypatch.setattr(storage, "_read", lambda _: (description, older))
    loaded = il.load_model("folder")
    np.testing.assert_array_equal(loaded.predict(X, groups=groups), model.predict(X, groups=groups))
    loaded = loaded.update(X[:2], y[:2], groups=["new"] * 2)
    with pytest.raises(ValueError, match="the model has no sums over its population: an earlier version saved it"):
        loaded.update(X[:2], y[:2], groups=["other"] * 2, population=True)
    steps = fitted(X, y, groups, adapt_lr="per-feature")
    with pytest.raises(ValueError, match="or it has adapt_lr='per-feature', whose rates need all rows; fit it again"):
        steps.update(X[:2], y[:2], groups=["new"] * 2, population=True)


def test_a_small_update_moves_little_and_leaves_the_model_itself_alone():
    X, y, groups = table()
    model = fitted(X, y, groups)
    before = model.coef_.copy(), model.predict(X, groups=groups), model._table.sums.totals.copy()
    model.update(X[:4], y[:4], groups=["new"] * 4, population=True)
    for one, other in zip(
        before, (model.coef_, model.predict(X, groups=groups), model._table.sums.totals), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_one_task_without_groups_is_joined_by_others():
    X, y, groups = table()
    with pytest.warns(UserWarning, match="all rows count as one task"):
        model = il.MetaRegressor(l2=0.0, adaptation="ridge", basis="linear").fit(X[:50], y[:50])
    updated = model.update(X[50:], y[50:], groups[50:], population=True)
    Z = np.c_[X, np.ones(len(X))]
    np.testing.assert_allclose(np.append(updated.coef_, updated.intercept_), np.linalg.lstsq(Z, y)[0], rtol=1e-9)


@pytest.mark.parametrize("population", [False, True])
def test_weights_in_another_unit_than_those_of_the_fit_are_refused(population):
    X, y, groups = table()
    first = groups < N_FIRST
    model = fitted(X[first], y[first], groups[first])
    weights = np.ones((~first).sum())
    for weights[0], message in ((1e12, None), (1e20, r"average weight in the fit, got 1e\+20 times")):
        with contextlib.nullcontext() if message is None else pytest.raises(ValueError, match=message):
            model.update(X[~first], y[~first], groups[~first], weights, population=population)


def test_numbers_that_no_sum_could_hold_are_refused():
    X, y, groups = table()
    model = fitted(X, y, groups)
    for rows, message in (
        ((X[:2] * 1e80, y[:2]), r"`X` must lie within 1e\+75 standard deviations of the mean of the fit, got \d"),
        ((X[:2], y[:2] * 1e80), r"`y` must lie between -1e\+75 and 1e\+75; rescale it"),
    ):
        with pytest.raises(ValueError, match=message):
            model.update(*rows, groups=["new"] * 2, population=True)
