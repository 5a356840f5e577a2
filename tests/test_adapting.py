"""MetaRegressor's kinds of adaptation and its intervals: choice, closed forms, coverage."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import innerloop as il
from cases import prepared, table
from innerloop.adaptation.random_effects import estimate_effects
from innerloop.estimators.storage import load_model, save_model

pytestmark = pytest.mark.usefixtures("one_thread")

DATA = Path(__file__).parents[2] / "shared" / "data"
BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "held_out.py"


def drawn(m, n, task_std, seed=0, noise=1.0, p=3):
    """Return X, y and groups of tasks whose slopes and intercept differ by task_std[0] and task_std[1]."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(m), n)
    X = rng.standard_normal((m * n, p))
    slopes = 1.0 + task_std[0] * rng.standard_normal((m, p))
    y = np.einsum("ij,ij->i", X, slopes[groups]) + task_std[1] * rng.standard_normal(m)[groups]
    return X, y + noise * rng.standard_normal(m * n), groups


def test_weights_are_interpolated_in_the_logarithm_of_the_number_of_rows():
    parts = il.MetaRegressor().fit(*drawn(30, 8, (1.0, 1.0)))._table.predictor
    mixture = replace(parts, n_rows=np.array([0.0, 1.0, 7.0]), weight=np.array([[0.0], [0.2], [1.0]]))
    np.testing.assert_allclose(mixture.weights(np.array([0, 1, 3, 7, 99]))[:, 0], [0.0, 0.2, 0.6, 1.0, 1.0])


@pytest.mark.slow
def test_a_ridge_adapts_to_the_posterior_means_of_the_random_effects_models_with_their_weights():
    X, y, groups = drawn(40, 8, (0.5, 2.0))
    model = il.MetaRegressor(adaptation="ridge", basis="linear").fit(X, y, groups)
    assert (model.adaptation_, np.isnan(model.inner_lr_), np.isnan(model.adapt_lr_)) == ("ridge", True, True)
    table = model._table
    scaled = table.scaling.tasks(il.TaskSet.from_arrays(X, y, groups))
    diagonal = estimate_effects(scaled)
    effects = [estimate_effects(scaled, "intercept"), diagonal, estimate_effects(scaled, "full", start=diagonal)]
    X_new, y_new, _ = drawn(1, 5, (0.5, 2.0), seed=1)
    design, target = table.scaling.design(X_new), y_new - table.scaling.y_mean
    posteriors = []
    for own in effects:
        cov, mean = own.new_task_cov[0], own.mean[:, 0]
        gain = cov @ design.T @ np.linalg.inv(design @ cov @ design.T + np.eye(5))
        posteriors.append(mean + gain @ (target - design @ mean))
    results = model.adaptation_results_
    weight = results["weight"][(results["n_support"] == 5) & (results["adaptation"] != "chosen")]
    assert weight.sum() == pytest.approx(1.0)
    adapted = model.adapt(X_new, y_new, groups=np.full(5, 99))
    expected = table.scaling.design(X[:9]) @ (weight @ posteriors) + table.scaling.y_mean
    np.testing.assert_allclose(adapted.predict(X[:9], groups=np.full(9, 99)), expected, rtol=1e-5)


@pytest.mark.slow
def test_auto_adapts_where_tasks_differ_and_not_where_they_do_not():
    names = []
    for seed in range(6):
        assert il.MetaRegressor().fit(*drawn(60, 10, (0.5, 2.0), seed)).adaptation_ == "ridge"
        same = il.MetaRegressor().fit(*drawn(60, 10, (0.0, 0.0), seed))
        largest = np.std(same.group_coef_, axis=0).max()
        assert largest < (0.05 if same.adaptation_ == "none" else 0.15)  # one task alone knows them to 0.4
        names.append(same.adaptation_)
    assert names.count("none") >= 4  # by chance adaptation may seem to gain on held-out tasks


@pytest.mark.slow
def test_rows_are_noise_where_they_cannot_be_told_from_slopes():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        X, groups = rng.standard_normal((40, 20)), np.repeat(np.arange(8), 5)
        y = X @ rng.standard_normal(20) / np.sqrt(20) + rng.standard_normal(8)[groups] + rng.standard_normal(40)
        model = il.MetaRegressor(adaptation="ridge").fit(X, y, groups)
        width = np.subtract(*model.predict_interval(X, groups=groups)[::-1])
        assert 1.0 < np.median(width) < 6.0  # the noise alone has 3.3


def test_auto_takes_the_gradient_where_a_rate_is_given():
    X, y, groups = drawn(30, 8, (0.5, 2.0))
    for rates in ({"inner_lr": 0.1}, {"adapt_lr": 0.2}):
        assert il.MetaRegressor(**rates).fit(X, y, groups).adaptation_ == "gradient"
    assert il.MetaRegressor(inner_lr=0.1, adapt_lr=0.0).fit(X, y, groups).adaptation_ == "none"
    assert il.MetaRegressor(adaptation="none").fit(X, y, groups).adaptation_ == "none"


def test_results_tell_the_error_and_the_weight_of_every_candidate_at_every_number_of_rows():
    X, y, groups = drawn(30, 8, (0.5, 2.0))
    results = il.MetaRegressor(basis="linear").fit(X, y, groups).adaptation_results_
    ridges = {"ridge, intercept", "ridge, diagonal", "ridge, full"}
    assert set(results["adaptation"]) == {"chosen", "none", *ridges}
    assert set(results["n_support"]) == {0, 1, 2, 3, 4, 5}
    assert (results["difference"][results["adaptation"] == "chosen"] == 0).all()
    assert (results["mse"] > 0).all()
    for n in (0, 1, 5):
        weights = results["weight"][(results["n_support"] == n) & (results["adaptation"] != "chosen")]
        assert weights.sum() == pytest.approx(1.0)


def test_unseen_tasks_are_predicted_by_the_pooled_ridge_where_levels_depend_on_features():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 10)
    centre = 3 * rng.standard_normal(60)
    x = centre[groups] + rng.standard_normal(600)
    y = x - 2 * centre[groups] + 0.3 * rng.standard_normal(600)  # slope 1 within tasks, -1 between
    model = il.MetaRegressor().fit(x[:, None], y, groups)
    pooled = il.MetaRegressor(inner_lr=0, adapt_lr=0).fit(x[:, None], y, groups)
    grid = np.linspace(-3, 3, 5)[:, None]
    slope = np.polyfit(grid[:, 0], model.predict(grid), 1)[0]
    assert slope == pytest.approx(pooled.coef_[0], abs=0.15)
    assert model.coef_[0] == pytest.approx(1.0, abs=0.1)  # the population's
    assert model.group_coef_[:, 0] == pytest.approx(np.ones(60), abs=0.2)


KINDS = ["none", "gradient", "ridge"]
TABLES = {
    "normal": lambda seed: drawn(120, 12, (0.5, 1.0), seed),
    "heavy tails": lambda seed: drawn(120, 12, (0.5, 1.0), seed, noise=0.0),
    "two targets": lambda seed: drawn(120, 12, (0.5, 1.0), seed),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TABLES)
def test_intervals_hold_what_they_promise_on_unseen_tasks(name, kind):
    covered = {0: [], 1: [], 4: []}
    for seed in range(2):
        X, y, groups = TABLES[name](seed)
        rng = np.random.default_rng(seed)
        if name == "heavy tails":
            y = y + rng.standard_t(3, len(y)) * rng.uniform(0.5, 2.0, 120)[groups]
        if name == "two targets":
            y = np.column_stack((y, -3 * y + rng.standard_normal(len(y))))
        train = groups < 80
        model = il.MetaRegressor(adaptation=kind).fit(X[train], y[train], groups[train])
        place = np.arange(len(X)) % 12
        for n, found in covered.items():
            few, rest = ~train & (place < n), ~train & (place >= n)
            adapted = model.adapt(X[few], y[few], groups=groups[few]) if n else model
            lower, upper = adapted.predict_interval(X[rest], groups=groups[rest], level=0.8)
            inside = ((lower <= y[rest]) & (y[rest] <= upper)).reshape(40, -1)
            found.extend(inside.mean(axis=1))
    for found in covered.values():
        assert np.mean(found) == pytest.approx(0.8, abs=4 * np.std(found) / np.sqrt(len(found)))


@pytest.fixture(scope="module")
def ragged():
    """A model of tasks of one to nine rows, whose ids lie between others."""
    sizes = [1, 9, 2, 6, 4, 8, 1, 5, 7, 3, 9, 6]
    X, y, groups = table(sizes, 2, seed=3, ids=[10 * i for i in range(len(sizes))])
    return il.MetaRegressor(adaptation="ridge", basis="linear").fit(X, y, groups), X, groups


@pytest.mark.parametrize("others", [[-5], [55], [999], [-5, 55, 999], [20, 35], [30]], ids=str)
def test_intervals_of_a_group_do_not_depend_on_which_others_adapt(ragged, others):
    model, X, groups = ragged
    rng = np.random.default_rng(4)
    lower, upper = model.predict_interval(X, groups)
    X_new, y_new = rng.standard_normal((7, 2)), rng.standard_normal(7)
    asked = rng.standard_normal((4, 2))
    sizes = [2 + i for i in range(len(others))]
    rows = np.concatenate([np.arange(size) for size in sizes])
    together = model.adapt(X_new[rows], y_new[rows], np.repeat(others, sizes))
    for other, size in zip(others, sizes, strict=True):
        own = np.full(4, other)
        alone = model.adapt(X_new[:size], y_new[:size], np.full(size, other))
        np.testing.assert_allclose(together.predict(asked, own), alone.predict(asked, own), rtol=1e-9)
        expected = alone.predict_interval(asked, own)
        np.testing.assert_allclose(together.predict_interval(asked, own), expected, rtol=1e-9)
    kept = ~np.isin(groups, others)
    after = together.predict_interval(X[kept], groups[kept])
    np.testing.assert_allclose(after, (lower[kept], upper[kept]), rtol=1e-9)


def test_intervals_say_how_wide_they_are(ragged):
    model, X, groups = ragged
    table = model._table
    place = table.places(groups)
    for level in (0.5, 0.9):
        lower, upper = model.predict_interval(X, groups, level)
        np.testing.assert_allclose((lower + upper) / 2, model.predict(X, groups), atol=1e-12)
        np.testing.assert_allclose(upper - lower, 2 * table.half_width(X, place, level), rtol=1e-9)
        assert (upper > lower).all()


def test_the_variance_of_a_new_task_counts_how_well_the_population_is_known():
    X, y, groups = table([6] * 6, 2, seed=5)
    trained = prepared(il.TaskSet.from_arrays(X, y, groups), adaptation="ridge", basis="linear").choose()
    mixture, effects = trained.predictor, trained.effects
    main = list(trained.choice.candidates).index(trained.choice.main)
    np.testing.assert_allclose(mixture.task_cov[main], effects.task_cov + effects.mean_cov, rtol=1e-9)
    Z = trained.training.scaling.design(X[:5])
    member = mixture.of_one(mixture.members[main], mixture.task_cov[main], mixture.noise[main])
    stated = member.variance(trained.rows, Z, np.full(5, -1))[:, 0]
    spread = effects.task_cov[0] + effects.mean_cov[0]
    np.testing.assert_allclose(stated, effects.noise[0] * (1 + np.einsum("ij,jk,ik->i", Z, spread, Z)), rtol=1e-9)


def test_where_members_disagree_the_variance_is_that_of_their_mixture():
    X, y, groups = drawn(20, 6, (0.5, 2.0), seed=6)
    trained = prepared(il.TaskSet.from_arrays(X, y, groups), adaptation="ridge", basis="linear").choose()
    mixture, known = trained.predictor, trained.rows
    equal = replace(mixture, weight=np.full_like(mixture.weight, 1 / len(mixture.members)))
    Z, place = trained.tasks.X[:9], np.array([0, 0, 1, 1, 5, 5, 9, -1, -1])
    members = zip(mixture.members, mixture.task_cov, mixture.noise, strict=True)
    alone = [mixture.of_one(*member) for member in members]
    means = []
    for one in alone:
        theta = np.concatenate((one.adapt(known), one.unseen[None]))[..., 0]
        means.append(np.einsum("ij,ij->i", Z, theta[place]))
    variances = np.array([one.variance(known, Z, place)[:, 0] for one in alone])
    expected = variances.mean(axis=0) + np.var(means, axis=0)
    assert np.var(means, axis=0).max() > 1e-3 * variances.max()
    mean, variance = equal.moments(known, Z, place)
    np.testing.assert_allclose(mean[:, 0], np.mean(means, axis=0), rtol=1e-10)
    np.testing.assert_allclose(variance[:, 0], expected, rtol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_standard_deviations_are_those_of_unseen_targets(kind):
    X, y, groups = drawn(400, 12, (0.5, 1.0))
    train, few = groups < 200, np.arange(len(X)) % 12 < 4
    model = il.MetaRegressor(adaptation=kind).fit(X[train], y[train], groups[train])
    adapted = model.adapt(X[~train & few], y[~train & few], groups=groups[~train & few])
    rest = ~train & ~few
    mean, std = adapted.predict(X[rest], groups=groups[rest], return_std=True)
    np.testing.assert_array_equal(mean, adapted.predict(X[rest], groups=groups[rest]))
    squares = (((y[rest] - mean) / std) ** 2).reshape(200, -1).mean(axis=1)
    assert squares.mean() == pytest.approx(1.0, abs=4 * squares.std() * np.sqrt(1 / 200 + 1 / 200))
    if kind == "ridge":
        assert std.mean() < model.predict(X[rest], return_std=True)[1].mean()


@pytest.mark.slow
def test_intervals_of_seen_tasks_narrow_with_their_rows_and_widen_with_the_level():
    X, y, groups = drawn(40, 8, (0.5, 2.0))
    model = il.MetaRegressor(adaptation="ridge").fit(X, y, groups)
    widths = [np.subtract(*model.predict_interval(X, groups=g, level=0.9)[::-1]).mean() for g in (None, groups)]
    assert widths[1] < 0.8 * widths[0]
    by_level = [np.subtract(*model.predict_interval(X[:1], level=level)[::-1])[0] for level in (0.5, 0.8, 0.99)]
    assert (np.diff(by_level) > 0).all()


@pytest.mark.parametrize("level", [0, 1, -0.1, 1.5, 0.99999, np.nan])
def test_a_level_that_is_no_probability_is_refused(level):
    X, y, groups = drawn(10, 4, (0.5, 1.0))
    with pytest.raises(ValueError, match=r"`level` must be above 0 and at most 0\.9999, got"):
        il.MetaRegressor(inner_lr=0.1, adapt_lr=0.1).fit(X, y, groups).predict_interval(X, level=level)


def test_one_task_has_intervals_too():
    X, y, _ = drawn(1, 200, (0.0, 0.0))
    model = il.MetaRegressor().fit(X, y, np.zeros(200))
    rng = np.random.default_rng(9)
    X = rng.standard_normal((4000, 3))
    y = X.sum(axis=1) + rng.standard_normal(4000) + model.intercept_
    lower, upper = model.predict_interval(X)
    assert np.mean((lower <= y) & (y <= upper)) == pytest.approx(0.9, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, {"adaptation": "ridge"}, {"inner_lr": -0.1, "adapt_lr": 0.2}], ids=str)
@pytest.mark.parametrize("n_targets", [None, 2])
def test_a_loaded_model_has_the_same_intervals(tmp_path, params, n_targets):
    X, y, groups = table([5, 6, 4, 7, 1, 5, 8, 30], 3, n_targets)
    model = il.MetaRegressor(**params).fit(X, y, groups)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.adaptation_ == model.adaptation_
    for name, column in model.adaptation_results_.items():
        np.testing.assert_array_equal(loaded.adaptation_results_[name], column)
    for before, after in ((model, loaded), [m.adapt(X[:9], y[:9], groups=groups[:9] + 3) for m in (model, loaded)]):
        for mine, theirs in zip(before.predict_interval(X, groups), after.predict_interval(X, groups), strict=True):
            assert mine.tobytes() == theirs.tobytes()


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="the tables are not part of the project")
@pytest.mark.parametrize("name", ["school", "parkinsons"])
def test_unseen_tasks_of_real_tables_are_predicted_better_than_by_their_own_rows_alone(name, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARK.parent)
    spec = importlib.util.spec_from_file_location("held_out", BENCHMARK)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    alone = {name: bench.BASELINES[name] for name in ("ridge per task", "task mean")}
    methods = {"ridge": bench.innerloop(adaptation="ridge"), **alone}
    result = bench.measure(bench.TABLES[name](DATA), methods, range(1), (5, 20))
    for n in (5, 20):
        assert result["ridge"][n]["mse"] < min(result[other][n]["mse"] for other in alone)
        assert 0.7 < result["ridge"][n]["coverage"] < 0.99  # of few tasks


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 1e-10, 1e-6])
@pytest.mark.parametrize("shape", [(20, 6, 3), (50, 8, 3), (60, 6, 4), (100, 5, 3)], ids=str)
def test_tables_without_noise_have_exact_predictions_and_narrow_intervals(shape, noise):
    n_tasks, n_rows, p = shape
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(n_tasks), n_rows)
    X = rng.standard_normal((len(groups), p))
    y = (X * (1 + rng.standard_normal((n_tasks, p)))[groups]).sum(axis=1) + noise * rng.standard_normal(len(groups))
    model = il.MetaRegressor().fit(X, y, groups=groups)
    assert model.adaptation_ == "ridge"
    lower, upper = model.predict_interval(X, groups=groups)
    assert (np.abs(model.predict(X, groups=groups) - y) < 1e-2).all()
    assert ((upper >= lower) & (upper - lower < 0.1)).all()


@pytest.mark.slow
def test_one_long_task_does_not_decide_for_all():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        groups = np.append(np.repeat(np.arange(60), 5), np.full(50, 60))
        X = rng.standard_normal((len(groups), 2))
        coef = 1 + rng.standard_normal((61, 2))
        coef[60] = 1.0  # as the population
        y = (X * coef[groups]).sum(axis=1) + rng.standard_normal(len(groups))
        assert il.MetaRegressor().fit(X, y, groups=groups).adaptation_ == "ridge"


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, {"adaptation": "gradient"}, {"adapt_lr": "per-feature"}], ids=str)
def test_parameters_that_are_set_after_fitting_change_nothing(params):
    X, y, groups = drawn(30, 8, (0.5, 2.0))
    model = il.MetaRegressor(**params).fit(X, y, groups)

    def results():
        adapted = model.adapt(X[:5], y[:5], groups=np.full(5, 99))
        return (
            *(model.predict(X, groups), model.predict(X), *model.predict_interval(X, groups)),
            *adapted.predict(X[:9], groups=np.full(9, 99), return_std=True),
        )

    before = results()
    model.set_params(
        **{"inner_lr": 0.3, "adapt_lr": -5.0, "adaptation": "none", "l2": 9.0, "group": "school", "random_state": 3},
        **{"n_support": 1, "n_query": 2, "n_steps": 9, "cv": 2, "standardize": False, "fit_intercept": False},
    )
    for mine, theirs in zip(results(), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)
