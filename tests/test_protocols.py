"""Protocols of training on a table: what scores a task, against least squares over rows picked by hand."""

import numpy as np
import pytest

import innerloop as il

RATE = -0.3


def tasks_of(sizes=(3, 5, 1, 4, 7, 2), p=3, seed=0):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return il.TaskSet.from_arrays(rng.normal(size=(len(groups), p)), rng.normal(size=len(groups)), groups)


def folds(protocol, n):
    """Yield support and query rows of a task of n rows."""
    rows = np.arange(n)
    if protocol == "train":
        yield rows, rows
    else:
        for i in rows:
            yield np.delete(rows, i), rows[i : i + 1]


@pytest.mark.parametrize("protocol", ["train", "leave-one-out"])
def test_the_estimator_minimises_the_loss_of_the_protocol(protocol):
    tasks, A, b = tasks_of(), [], []
    for _, X, y in tasks:
        for support, query in folds(protocol, len(y)):
            n = max(len(support), 1)
            A.append(X[query] - RATE / n * X[query] @ X[support].T @ X[support])
            b.append(y[query] - RATE / n * X[query] @ X[support].T @ y[support])
    expected = np.linalg.lstsq(np.concatenate(A), np.concatenate(b), rcond=None)[0]
    model = il.MetaRegressor(
        inner_lr=RATE, adapt_lr=0.1, l2=0.0, protocol=protocol, standardize=False, fit_intercept=False, cv=3
    ).fit(tasks.X, tasks.y, groups=tasks.task_of_row)
    np.testing.assert_allclose(model.coef_, expected, rtol=1e-8)


def test_a_number_of_query_rows_implies_the_split_and_contradicts_the_others():
    tasks = tasks_of((3, 5, 4, 7, 3))
    common = {"inner_lr": RATE, "adapt_lr": 0.1, "l2": 0.1, "n_support": 2}
    fits = [
        il.MetaRegressor(**common, n_query=1, **more).fit(tasks.X, tasks.y, groups=tasks.task_of_row).coef_
        for more in ({}, {"protocol": "split"})
    ]
    np.testing.assert_array_equal(*fits)
    with pytest.raises(ValueError, match="`n_query` is for the protocol 'split'"):
        il.MetaRegressor(**common, n_query=1, protocol="train").fit(tasks.X, tasks.y, groups=tasks.task_of_row)
    with pytest.raises(ValueError, match="`protocol` must be 'split', 'train', 'leave-one-out' or 'deal', got 'all'"):
        il.MetaRegressor(protocol="all").fit(tasks.X, tasks.y, groups=tasks.task_of_row)


def test_the_split_takes_all_other_rows_as_queries():
    tasks = tasks_of((3, 5, 4, 7, 3))
    episodes = tasks.episodes("split", 2)
    assert (episodes.n_support + episodes.n_query == tasks.sizes).all()


def test_rates_are_chosen_with_any_protocol():
    dist = il.MixedLinearRegression(3, noise_std=0.5, task_std=0.5)
    tasks, unseen = dist.sample_tasks(30, 8, seed=0), dist.sample_tasks(30, 8, seed=1)
    mean = np.array([1.0, -2.0, 0.5])
    y, asked = tasks.X @ mean + tasks.y, unseen.X @ mean + unseen.y
    for protocol in ("deal", "split", "train", "leave-one-out"):
        model = il.MetaRegressor(adaptation="gradient", protocol=protocol, n_support=4)
        model.fit(tasks.X, y, groups=tasks.task_of_row)
        assert np.mean((model.predict(unseen.X) - asked) ** 2) < 0.2 * np.var(asked)
