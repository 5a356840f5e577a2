"""Samples of the mixed linear regression have the moments of its definition."""

from __future__ import annotations

import numpy as np
import pytest

from innerloop import MixedLinearRegression

N_TASKS, N_ROWS = 300, 60
# n_features, noise_std, task_std
CASES = [(3, 0.5, 2.0), (1, 1.0, 0.3), (20, 0.2, 1.0), (4, 0.0, 1.5), (5, 2.0, 0.0)]


@pytest.fixture(scope="module", params=CASES, ids=str)
def sample(request):
    """The distribution and a sample, with each task's least squares coefficients and residual variance."""
    p, noise, spread = request.param
    model = MixedLinearRegression(p, noise_std=noise, task_std=spread, mean=np.linspace(-1, 2, p))
    tasks = model.sample_tasks(N_TASKS, N_ROWS, seed=4)
    X, y = tasks.X.reshape(N_TASKS, N_ROWS, p), tasks.y.reshape(N_TASKS, N_ROWS)
    gram = np.linalg.inv(X.transpose(0, 2, 1) @ X)
    w = np.einsum("tij,trj,tr->ti", gram, X, y)
    variance = np.square(y - np.einsum("trj,tj->tr", X, w)).sum(axis=1) / (N_ROWS - p)
    return model, X, y, w, variance, np.trace(gram, axis1=1, axis2=2)


def within(values, expected, n_errors=4):
    """Return whether a mean over tasks is within so many of its standard errors of what is expected."""
    values = np.asarray(values)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return (np.abs(values.mean(axis=0) - expected) <= n_errors * error + 1e-12).all()


def test_features_are_standard_normal(sample):
    _, X, *_ = sample
    p = X.shape[2]
    assert within(X.mean(axis=1), 0)
    assert within(np.einsum("tri,trj->tij", X, X).reshape(len(X), -1) / N_ROWS, np.eye(p).ravel())
    assert within(np.mean(X**4, axis=1), 3)


def test_targets_have_mean_zero_and_the_variance_of_signal_and_noise(sample):
    model, _, y, *_ = sample
    assert within(y.mean(axis=1), 0)
    expected = np.sum(np.square(model.mean)) + model.task_std**2 + model.noise_std**2
    assert within(np.mean(y**2, axis=1), expected)


def test_coefficients_are_centred_on_the_mean(sample):
    model, _, _, w, *_ = sample
    assert within(w, model.mean)


def test_coefficients_are_spread_by_task_std_in_all_directions_alike(sample):
    model, _, _, w, variance, trace = sample
    distance = np.sum(np.square(w - model.mean), axis=1)
    assert within(distance - variance * trace, model.task_std**2)
    p = w.shape[1]
    share = np.square(w - model.mean) - (variance * trace / p)[:, None]
    assert within(share, model.task_std**2 / p, n_errors=5)


def test_labels_have_the_noise_of_noise_std(sample):
    model, *_, variance, _ = sample
    assert within(variance, model.noise_std**2)


def test_no_mean_is_a_mean_of_zero():
    first, second = (MixedLinearRegression(3, mean=mean).sample_tasks(4, 5) for mean in (None, np.zeros(3)))
    np.testing.assert_array_equal(first.y, second.y)


@pytest.mark.parametrize("n_tasks", [1, 2, 5])
def test_a_task_is_the_same_whatever_the_number_of_tasks(n_tasks):
    model = MixedLinearRegression(3, mean=[1.0, 2.0, 3.0])
    few, many = model.sample_tasks(n_tasks, 7, seed=2), model.sample_tasks(11, 7, seed=2)
    np.testing.assert_array_equal(few.X, many.X[: n_tasks * 7])
    np.testing.assert_array_equal(few.y, many.y[: n_tasks * 7])
    assert few.ids.tolist() == many.ids[:n_tasks].tolist()


def test_tasks_and_seeds_differ():
    model = MixedLinearRegression(3)
    first, other = model.sample_tasks(5, 7, seed=0), model.sample_tasks(5, 7, seed=1)
    samples = np.concatenate((first.y, other.y))
    assert len(np.unique(samples)) == len(samples)


def test_sizes_are_those_asked_for():
    tasks = MixedLinearRegression(3).sample_tasks(5, 7)
    assert (len(tasks), tasks.n_features, tasks.sizes.tolist()) == (5, 3, [7] * 5)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"n_features": 0}, ValueError, "`n_features` must be at least 1"),
        ({"n_features": 2.5}, TypeError, "`n_features` must be a whole number"),
        ({"n_features": 2, "noise_std": -1}, ValueError, "`noise_std` must be zero or positive"),
        ({"n_features": 2, "task_std": -1}, ValueError, "`task_std` must be zero or positive"),
        ({"n_features": 2, "task_std": np.nan}, ValueError, "`task_std` must be finite"),
        ({"n_features": 2, "noise_std": [1, 2]}, ValueError, "`noise_std` must be a single number"),
        ({"n_features": 2, "noise_std": "loud"}, TypeError, "`noise_std` must hold numbers"),
        ({"n_features": 2, "mean": [1.0]}, ValueError, r"`mean` must have shape \(2,\), got \(1,\)"),
        ({"n_features": 2, "mean": 1.0}, ValueError, r"`mean` must have shape \(2,\)"),
        ({"n_features": 2, "mean": [1.0, np.inf]}, ValueError, "`mean` must be finite"),
    ],
)
def test_bad_parameters_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        MixedLinearRegression(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((0, 5), ValueError, "`n_tasks` must be at least 1"),
        ((5, 0), ValueError, "`n_rows` must be at least 1"),
        ((5, 1.5), TypeError, "`n_rows` must be a whole number"),
        ((5, 5, -1), ValueError, "at least 0|non-negative"),
    ],
)
def test_bad_samples_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        MixedLinearRegression(3).sample_tasks(*arguments)
