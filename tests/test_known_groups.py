"""Known groups: those that adapt one by one are kept in front of the others, and nothing shows it."""

import numpy as np
import pytest

import innerloop as il
from innerloop.data.words import words_of_ids
from innerloop.tabular.known_groups import KnownGroups

N_KNOWN = 60


def rows(ids, seed, n_rows=5):
    rng = np.random.default_rng(seed)
    groups = np.repeat(ids, n_rows)
    X = rng.standard_normal((len(groups), 2))
    return X, X @ [1.0, -1.0] + rng.standard_normal(len(ids)).repeat(n_rows) + rng.standard_normal(len(groups)), groups


@pytest.fixture(scope="module")
def model():
    return il.MetaRegressor(adaptation="ridge", basis="linear").fit(*rows(np.arange(N_KNOWN), 0))


def one_by_one(model, X, y, groups, method="adapt"):
    for group in dict.fromkeys(groups.tolist()):
        of_group = groups == group
        model = getattr(model, method)(X[of_group], y[of_group], groups=groups[of_group])
    return model


@pytest.mark.parametrize("n_new", [1, 3, 30], ids="{} new".format)
@pytest.mark.parametrize("method", ["adapt", "update"])
def test_groups_that_adapt_one_by_one_are_those_that_adapt_together(model, n_new, method):
    X, y, groups = rows(np.arange(-3, -3 + 7 * n_new, 7), 1)  # some known, some not
    apart, together = one_by_one(model, X, y, groups, method), getattr(model, method)(X, y, groups=groups)
    asked = np.concatenate((groups, np.arange(N_KNOWN), [10_000]))
    X = np.random.default_rng(2).standard_normal((len(asked), 2))
    np.testing.assert_allclose(apart.predict(X, groups=asked), together.predict(X, groups=asked), rtol=1e-12)
    np.testing.assert_allclose(
        apart.predict_interval(X, groups=asked), together.predict_interval(X, groups=asked), rtol=1e-10
    )
    np.testing.assert_array_equal(apart.groups_, together.groups_)
    np.testing.assert_allclose(apart.group_coef_, together.group_coef_, rtol=1e-12)
    near = apart.nearest_groups(groups[0]), together.nearest_groups(groups[0])
    np.testing.assert_array_equal(*near)
    assert groups[0] not in near[0]
    np.testing.assert_allclose(apart.group_effects()["estimate"], together.group_effects()["estimate"], rtol=1e-9)


def test_a_few_new_groups_leave_the_others_where_they_are(model):
    X, y, groups = rows(np.array([3, 1000, 2000]), 3)
    adapted = one_by_one(model, X, y, groups)
    assert adapted._table.known.coef is model._table.known.coef
    assert adapted._table.known.tasks.X is model._table.known.tasks.X
    assert len(adapted.groups_) == N_KNOWN + 2
    assert len(model.groups_) == N_KNOWN


def test_ids_are_found_as_text_and_as_numbers_whoever_is_in_front(model):
    X, y, _ = rows(np.arange(2), 4)
    adapted = model.adapt(X, y, groups=["a"] * 5 + ["7"] * 5)
    np.testing.assert_array_equal(adapted.predict(X, groups=[7] * 10), adapted.predict(X, groups=["7"] * 10))
    assert (adapted.predict(X, groups=[7] * 10) != model.predict(X, groups=[7] * 10)).all()
    np.testing.assert_array_equal(adapted.predict(X, groups=["8"] * 10), model.predict(X, groups=[8] * 10))
    assert len(adapted.groups_) == N_KNOWN + 1


def test_groups_in_the_order_of_words_are_found_behind_new_ones(model):
    known = model._table.known
    order = np.argsort(words_of_ids(known.tasks.ids))
    words = words_of_ids(known.tasks.ids)[order]
    sorted_by_word = KnownGroups(known.tasks.select(order), known.coef[order], words)
    new = known.with_groups(known.tasks.select([4]), known.coef[[4]] + 1)
    also = sorted_by_word.with_groups(known.tasks.select([4]), known.coef[[4]] + 1)
    ids = np.array([59, 4, 0, 77])
    np.testing.assert_array_equal(new.places(ids) >= 0, [True, True, True, False])
    at = also.places(ids)[:3]
    np.testing.assert_array_equal(also.coef_of(at), new.coef_of(new.places(ids)[:3]))
    np.testing.assert_array_equal(also.rows_of(at).ids, ids[:3])
    np.testing.assert_array_equal(also.whole.coef, new.whole.coef)


def test_a_saved_model_knows_the_groups_in_front(model, tmp_path):
    X, y, groups = rows(np.array([5, 1000]), 5)
    adapted = one_by_one(model, X, y, groups)
    il.save_model(adapted, tmp_path / "model")
    again = il.load_model(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(X, groups=groups), adapted.predict(X, groups=groups))
    np.testing.assert_array_equal(again.groups_, adapted.groups_)
