"""`cv` as a splitter of scikit-learn or a list of splits."""

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GroupKFold, KFold, LeaveOneGroupOut, ShuffleSplit

import innerloop as il
from cases import table

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

PARAMS = {"adaptation": "gradient"}


def data():
    return table([6, 5, 8, 1, 7, 9, 4, 6, 6], 3, ids=[f"task {i}" for i in range(9)])


def test_a_splitter_and_its_splits_are_the_same_folds_in_any_order_of_rows():
    X, y, groups = data()
    order = np.random.default_rng(0).permutation(len(y))
    X, y, groups = X[order], y[order], groups[order]
    splits = GroupKFold(3).split(X, y, groups)
    fitted = [il.MetaRegressor(cv=cv, **PARAMS).fit(X, y, groups) for cv in (GroupKFold(3), list(splits))]
    np.testing.assert_array_equal(fitted[0].cv_results_["mse"], fitted[1].cv_results_["mse"])
    other = il.MetaRegressor(cv=GroupKFold(4), **PARAMS).fit(X, y, groups)
    assert not np.array_equal(other.cv_results_["mse"], fitted[0].cv_results_["mse"])


def test_held_out_losses_are_those_of_the_given_folds():
    """The loss of pooled regression on each group is that of a fit to the rows outside its block."""
    X, y, groups = data()
    block = np.array([int(g[-1]) // 3 for g in groups])
    splits = list(LeaveOneGroupOut().split(X, y, block))
    model = il.MetaRegressor(inner_lr=0.0, l2=0.0, cv=splits, adaptation="gradient").fit(X, y, groups)
    results = model.cv_results_
    at_zero = results["mse"][results["adapt_lr"] == 0][0]
    by_group = []
    for train, test in splits:
        E = np.column_stack((X, np.ones(len(X))))
        coef = np.linalg.lstsq(E[train], y[train], rcond=None)[0]
        by_group += [np.mean((y - E @ coef)[groups == g] ** 2) for g in np.unique(groups[test])]
    assert at_zero == pytest.approx(np.mean(by_group), rel=1e-6)


def test_splits_may_be_given_with_weights_of_zero_and_a_frame():
    X, y, groups = data()
    frame = pd.DataFrame(X, columns=list("abc")).assign(who=groups)
    weights = (np.arange(len(y)) % 4 > 0).astype(float)
    splits = list(GroupKFold(3).split(X, y, groups))
    model = il.MetaRegressor(group="who", cv=splits, **PARAMS).fit(frame, y, sample_weight=weights)
    kept = weights > 0
    position = np.cumsum(kept) - 1
    fewer = [tuple(position[part[kept[part]]] for part in pair) for pair in splits]
    plain = il.MetaRegressor(cv=fewer, **PARAMS).fit(X[kept], y[kept], groups[kept])
    np.testing.assert_allclose(model.cv_results_["mse"], plain.cv_results_["mse"], rtol=1e-10)


BAD = [
    (KFold(3), "`cv` divides the rows of group 'task \\d'"),
    (ShuffleSplit(3, random_state=0), "`cv` must hold every row out once"),
    ([(np.arange(20), np.arange(20, 52))], "`cv` must make at least two splits that hold every row out once"),
    ([(np.arange(60), np.arange(20))], "positions below 52, got split 0"),
    ([1, 2], "`cv` must be a number of folds, a splitter, or pairs of arrays"),
]


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
@pytest.mark.parametrize(("cv", "message"), BAD)
def test_splits_that_do_not_serve_are_refused(cv, message):
    X, y, groups = data()
    with pytest.raises(ValueError, match=message):
        il.MetaRegressor(cv=cv, **PARAMS).fit(X, y, groups)


@pytest.mark.parametrize("cv", ["five", 1, 2.5])
def test_what_is_no_number_of_folds_is_named(cv):
    with pytest.raises((TypeError, ValueError), match="`cv` must be"):
        il.MetaRegressor(cv=cv).fit(*data())


@pytest.mark.slow
def test_a_study_splits_anew_in_every_fold_and_refuses_positions():
    X, y, groups = data()
    tasks = il.TaskSet.from_arrays(X, y, groups)
    assert il.study(tasks, il.MetaRegressor(cv=GroupKFold(3), **PARAMS)).verdict
    with pytest.raises(ValueError, match="`cv` must be a number or a splitter here"):
        il.study(tasks, il.MetaRegressor(cv=list(GroupKFold(3).split(X, y, groups))))


def test_a_model_with_a_splitter_is_saved_and_fitted_again(tmp_path):
    X, y, groups = data()
    model = il.MetaRegressor(cv=GroupKFold(3), varying=[0, 2], basis="linear", **PARAMS).fit(X, y, groups)
    il.save_model(model, tmp_path / "model")
    again = il.load_model(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(X, groups), model.predict(X, groups))
    assert again.varying == [0, 2]
    assert again.fit(X, y, groups).n_features_in_ == 3
