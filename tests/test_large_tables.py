"""Tables of more tasks than choices are made on: the sample, sums over all tasks, and adaptation of all."""

from __future__ import annotations

import numpy as np
import pytest

import innerloop as il
from innerloop.adaptation.random_effects import update_mean
from innerloop.data import population, words
from innerloop.data.population import SampleSize, TasksInMemory, canonical, canonical_order, leaf_depth
from innerloop.data.words import draws, words_of_ids
from innerloop.tabular import totals
from innerloop.tabular.settings import read_settings
from innerloop.tabular.training import MetaTraining

pytestmark = pytest.mark.usefixtures("one_thread")

N_SAMPLE = 120


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Choose on few tasks, and cut few numbers to a leaf."""
    monkeypatch.setattr(population, "_SAMPLE_SIZE", SampleSize(N_SAMPLE, 2**20, 50))
    monkeypatch.setattr(population, "_NUMBERS_OF_LEAF", 2**9)


def rows(n_tasks=300, n_rows=6, p=2, seed=0, names=lambda task: task):
    rng = np.random.default_rng(seed)
    task = rng.permutation(np.repeat(np.arange(n_tasks), rng.integers(1, 2 * n_rows, n_tasks)))
    X = np.round(rng.standard_normal((len(task), p)), 1)
    slopes = 1 + 0.5 * rng.standard_normal((n_tasks, p))
    y = np.round(np.einsum("ij,ij->i", X, slopes[task]) + rng.standard_normal(n_tasks)[task], 1)
    return X, y + np.round(rng.standard_normal(len(task)), 1), names(task)


def same_bits(a, b, X, groups):
    for of_model in (
        lambda m: m.coef_,
        lambda m: m.predict(X),
        lambda m: m.predict(X, groups),
        lambda m: m.predict_interval(X, groups)[0],
        lambda m: m.group_coef_,
    ):
        assert np.asarray(of_model(a)).tobytes() == np.asarray(of_model(b)).tobytes()


# --- words ------------------------------------------------------------------------------------------------------------


def test_a_whole_number_has_one_word_as_number_and_as_text():
    numbers = [0, 12, -5, 2**63 - 1, -(2**63), 10**18]
    as_text = words_of_ids(np.array([*map(str, numbers), "a"]))
    assert words_of_ids(np.array(numbers)).tolist() == as_text[:-1].tolist()


def test_texts_that_are_other_ids_have_other_words():
    texts = ["007", "7", "-0", "0", "00", str(2**63), str(-(2**63) - 1), "-", "1a", "a1", "é", "1 2", "1-2", "a", "aa"]
    assert len(set(words_of_ids(np.array(texts)).tolist())) == len(texts)


def test_words_do_not_change_between_versions():
    assert words_of_ids(np.array([12])).tolist() == [10682531704454680323]
    assert words_of_ids(np.array(["x"])).tolist() == [13310929233261918826]
    assert words_of_ids(np.array(["x", "longer"])).tolist()[0] == 13310929233261918826
    assert draws(words_of_ids(np.array([12])), 0).tolist() != draws(words_of_ids(np.array([12])), 1).tolist()


# --- the sample -------------------------------------------------------------------------------------------------------


def test_one_task_more_changes_the_sample_by_one_task():
    ids = np.arange(5000)
    size = SampleSize(1000, 10**9, 10)
    numbers = np.full(5001, 7)
    before = set(size.choose(draws(words_of_ids(ids), 3), numbers[:-1]).tolist())
    changes = [
        len(before - set(size.choose(draws(words_of_ids(np.append(ids, new)), 3), numbers).tolist()))
        for new in range(10_000, 10_020)
    ]
    assert len(before) == 1000
    assert max(changes) == 1


def test_a_sample_is_bounded_in_numbers_but_not_below_the_least_tasks():
    drawn, numbers = draws(words_of_ids(np.arange(100)), 0), np.full(100, 10)
    assert len(SampleSize(50, 200, 5).choose(drawn, numbers)) == 20
    assert len(SampleSize(50, 200, 30).choose(drawn, numbers)) == 30
    assert len(SampleSize(100, 200, 30).choose(drawn, numbers)) == 100  # all tasks: today's fit


def test_leaves_hold_about_as_many_numbers_whatever_the_table():
    assert [leaf_depth(n, 4) for n in (1, 2**7, 2**7 + 1, 2**8, 2**8 + 1)] == [0, 0, 1, 1, 2]


def test_the_canonical_order_of_rows_does_not_depend_on_the_given_order():
    rng = np.random.default_rng(0)
    for seed in range(50):
        X, y, groups = rows(6, 8, seed=seed)
        X, y = np.round(X), np.round(y / 3) * np.where(rng.random(len(y)) < 0.5, -1.0, 1.0)  # ties, and -0.0
        order = rng.permutation(len(y))
        one, other = (canonical(il.TaskSet.from_arrays(X[o], y[o], groups[o])) for o in (slice(None), order))
        assert (one.X.tobytes(), one.y.tobytes()) == (other.X.tobytes(), other.y.tobytes())


def test_the_canonical_order_is_that_of_lexsort():
    rng = np.random.default_rng(1)
    task, first, other = rng.integers(0, 4, 200), rng.integers(0, 5, 200) * 1.0, rng.random(200)
    assert canonical_order(task, first, other).tolist() == np.lexsort((other, first, task)).tolist()


# --- fits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [{"basis": "linear"}, {"adaptation": "gradient"}], ids=["ridge", "gradient"])
def test_the_order_of_rows_changes_no_bit_of_a_large_fit(parameters):
    X, y, groups = rows()
    order = np.random.default_rng(1).permutation(len(y))
    one = il.MetaRegressor(**parameters).fit(X, y, groups)
    same_bits(one, il.MetaRegressor(**parameters).fit(X[order], y[order], groups[order]), X, groups)


def test_words_that_collide_are_still_different_tasks(monkeypatch):
    monkeypatch.setattr(words, "mix", lambda w: (w * np.uint64(0x9E3779B97F4A7C15)) & np.uint64(0xFF00000000000000))
    X, y, groups = rows()
    order = np.random.default_rng(1).permutation(len(y))
    one, other = (il.MetaRegressor(basis="linear").fit(X[o], y[o], groups[o]) for o in (slice(None), order))
    assert len(np.unique(words_of_ids(one.groups_))) < len(one.groups_) == 300
    same_bits(one, other, X, groups)


def test_the_population_is_estimated_from_all_tasks():
    X, y, groups = rows()
    tasks = il.TaskSet.from_arrays(X, y, groups)
    sample, extremes = totals.sample_of(tasks, 0)
    assert len(sample) == N_SAMPLE
    training = MetaTraining.prepare(sample, read_settings(il.MetaRegressor(basis="linear").get_params()))
    trained, table = totals.fitted_table(training.choose(), tasks)
    expected = update_mean(trained.effects, trained.expand(tasks))
    np.testing.assert_allclose(table.effects.mean, expected.mean, rtol=1e-10)
    np.testing.assert_allclose(table.effects.mean_cov, expected.mean_cov, rtol=1e-9)
    np.testing.assert_allclose(table.effects.noise, expected.noise, rtol=1e-10)
    assert np.abs(expected.mean - update_mean(trained.effects, trained.tasks).mean).max() > 1e-3
    assert (extremes.X_high == X.max(axis=0)).all()


def test_gradient_steps_start_from_coefficients_of_all_tasks():
    X, y, groups = rows()
    model = il.MetaRegressor(inner_lr=0.0, adapt_lr=0.1, l2=0.0).fit(X, y, groups)
    pooled = np.linalg.lstsq(np.column_stack([X, np.ones(len(y))]), y, rcond=None)[0]
    np.testing.assert_allclose([*model.coef_, model.intercept_], pooled, rtol=1e-8)


def test_known_groups_are_those_that_adapt_anew():
    X, y, groups = rows()
    model = il.MetaRegressor(basis="linear").fit(X, y, groups)
    assert model.groups_.tolist() == sorted(set(groups.tolist()))
    again = model.adapt(X, y, groups)
    np.testing.assert_allclose(again.predict(X, groups), model.predict(X, groups), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(again.predict_interval(X, groups), model.predict_interval(X, groups), rtol=1e-7)


@pytest.mark.parametrize("intercept", [True, False])
def test_a_column_that_is_constant_in_the_sample_alone_is_used(intercept):
    X, y, groups = rows()
    sample = TasksInMemory(il.TaskSet.from_arrays(X, y, groups)).sample(0, population.sample_size())
    rare = np.isin(groups, sample.ids, invert=True) & (np.random.default_rng(2).random(len(y)) < 0.3)
    wide = np.column_stack([X, rare.astype(float) * 5])
    model = il.MetaRegressor(basis="linear", fit_intercept=intercept).fit(wide, y + 3.0 * rare, groups)
    assert model.coef_[2] == pytest.approx(0.6, abs=0.1)


def test_splits_of_the_user_are_taken_of_whole_tasks():
    from sklearn.model_selection import GroupKFold

    X, y, groups = rows()
    model = il.MetaRegressor(basis="linear", cv=GroupKFold(3)).fit(X, y, groups)
    assert model.predict(X, groups).shape == y.shape


def test_equal_weights_change_no_bit_and_others_weigh_rows():
    X, y, groups = rows()
    model, equal = (il.MetaRegressor(basis="linear").fit(X, y, groups, w) for w in (None, np.full(len(y), 2.0)))
    assert equal.coef_.tobytes() == model.coef_.tobytes()
    weights = np.where(np.random.default_rng(3).random(len(y)) < 0.5, 1.0, 1e-9)
    some = il.MetaRegressor(basis="linear", l2=0.0).fit(X, y, groups, weights)
    light = weights < 1
    without = il.MetaRegressor(basis="linear", l2=0.0).fit(X, np.where(light, y + 50.0, y), groups, weights)
    np.testing.assert_allclose(without.coef_, some.coef_, atol=1e-2)


@pytest.mark.slow
def test_a_study_of_a_large_table_evaluates_the_sample_and_fits_all():
    X, y, groups = rows()
    tasks = il.TaskSet.from_arrays(X, y, groups)
    result = il.study(tasks)
    assert len(result.tasks) == N_SAMPLE
    assert len(result.model.groups_) == 300
    assert result.model.coef_.tobytes() == il.MetaRegressor().fit(X, y, groups).coef_.tobytes()
