"""Nonlinear tasks, random features and tables as distributions have the moments and the rows they promise."""

from __future__ import annotations

import csv
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

import innerloop as il
from innerloop._base.seeds import stream

SHARED = Path(__file__).parents[2] / "shared" / "data"
N_TASKS, N_ROWS = 400, 30


def rows_of(dist, seed=0):
    tasks = dist.sample_tasks(N_TASKS, N_ROWS, seed=seed)
    return tasks.X.reshape(N_TASKS, N_ROWS, -1), tasks.y.reshape(N_TASKS, N_ROWS)


def within(values, expected):
    """Return whether the mean over tasks is within 4 of its standard errors of what is expected."""
    error = np.std(values, axis=0, ddof=1) / np.sqrt(len(values))
    return (np.abs(np.mean(values, axis=0) - expected) <= 4 * error).all()


@pytest.mark.parametrize(("d", "sigma", "nu", "beta"), [(1, 0.0, 1.0, 0.0), (3, 0.5, 2.0, 0.7), (10, 1.0, 0.0, 1.5)])
def test_quadratic_tasks_have_the_moments_of_their_definition(d, sigma, nu, beta):
    X, y = rows_of(il.QuadraticRegression(d, sigma, nu, beta))
    assert within(X.mean(axis=1), 0)
    assert within((X**2).mean(axis=1), 1)
    # (w'x + b)^2: w'x + b is normal given the row, of variance nu^2 |x|^2 / d + beta^2
    variance = nu**2 * (X**2).mean(axis=2) + beta**2
    assert within((y - variance).mean(axis=1), 0)
    assert within((y**2 - 3 * variance**2).mean(axis=1), sigma**2)


def test_quadratic_tasks_without_noise_are_quadratic():
    X, y = il.QuadraticRegression(2, noise_std=0.0).draw_task(20, stream(3))
    columns = np.column_stack((np.ones(20), X, X**2, X[:, 0] * X[:, 1]))
    coefficients, *_ = np.linalg.lstsq(columns, y)
    np.testing.assert_allclose(columns @ coefficients, y, atol=1e-12)
    constant, *linear, first, second, mixed = coefficients
    np.testing.assert_allclose(mixed**2, 4 * first * second, rtol=1e-9)
    np.testing.assert_allclose(np.square(linear), [4 * constant * first, 4 * constant * second], rtol=1e-9)


def test_sinusoids_have_the_moments_of_their_definition():
    X, y = rows_of(il.Sinusoid(noise_std=0.3))
    assert -5 <= X.min() < -4.9 < 4.9 < X.max() <= 5
    assert within(X.mean(axis=1)[:, 0], 0)
    assert within((X**2).mean(axis=1)[:, 0], 25 / 3)
    # E A = 2.55, E A^2 = (5^3 - 0.1^3) / (3 * 4.9), E sin(x - phi) = -(2 / pi) cos x
    assert within((y + 2.55 * 2 / np.pi * np.cos(X[..., 0])).mean(axis=1), 0)
    squares = (125 - 0.001) / 14.7 * 0.5
    assert within((y**2).mean(axis=1), squares + 0.09)


def test_a_sinusoid_without_noise_is_one():
    X, y = il.Sinusoid().draw_task(20, stream(1))
    columns = np.column_stack((np.sin(X), np.cos(X)))
    sine_cosine, *_ = np.linalg.lstsq(columns, y)
    np.testing.assert_allclose(columns @ sine_cosine, y, atol=1e-12)
    assert 0.1 <= np.linalg.norm(sine_cosine) <= 5
    assert sine_cosine[1] <= 0  # phases from 0 to pi


@pytest.mark.parametrize(
    ("activation", "scale", "kernel"),
    [
        ("cos", 0.7, lambda x, z, s: np.exp(-(s**2) * np.sum((x - z) ** 2) / 2)),
        # The arc-cosine kernel of order 1, of inputs with a constant 1 for the bias.
        ("relu", 1.3, lambda x, z, s: s**2 * arc_cosine(np.append(x, 1), np.append(z, 1))),
    ],
)
def test_random_features_approach_their_kernel(activation, scale, kernel):
    inputs = np.random.default_rng(0).standard_normal((4, 3))
    values = np.array([il.RandomFeatures(3, 500, activation, scale, seed)(inputs) for seed in range(40)])
    products = values @ values.transpose(0, 2, 1)
    expected = np.array([[kernel(x, z, scale) for z in inputs] for x in inputs])
    assert within(products.reshape(40, -1), expected.ravel())


def arc_cosine(x, z):
    lengths = np.linalg.norm(x) * np.linalg.norm(z)
    angle = np.arccos(np.clip(x @ z / lengths, -1, 1))
    return lengths * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi


def test_random_features_are_a_function():
    features, inputs = il.RandomFeatures(2, 5, "tanh", seed=4), np.ones((3, 2))
    np.testing.assert_array_equal(features(inputs), il.RandomFeatures(2, 5, "tanh", seed=4)(inputs))
    assert not np.array_equal(features(inputs), il.RandomFeatures(2, 5, "tanh", seed=5)(inputs))
    with pytest.raises(FrozenInstanceError):
        features.scale = 2.0


@pytest.mark.parametrize("make", [lambda f: il.QuadraticRegression(1, features=f), lambda f: il.Sinusoid(features=f)])
@pytest.mark.parametrize("features", [None, il.RandomFeatures(1, 7), lambda x: np.hstack((x, x**2, x**3))])
def test_features_are_what_the_model_sees(make, features):
    dist, plain = make(features), make(None)
    (X, y), (x, plain_y) = dist.draw_task(9, stream(2)), plain.draw_task(9, stream(2))
    np.testing.assert_array_equal(X, x if features is None else features(x))
    np.testing.assert_array_equal(y, plain_y)
    assert dist.n_features == X.shape[1]


def test_nonlinear_tasks_are_estimated_with_their_features():
    dist, design = il.Sinusoid(0.1, il.RandomFeatures(1, 40, "cos")), il.Design(20, 5, 5, 5, l2=1e-3)
    found = il.estimate_loss(dist, design, [-0.5, 0.0, 1.0], [0.0, 0.5], n_runs=20, n_test_tasks=20, n_test_rows=10)
    assert found.scoring == "sampled"
    assert (found.loss.sel(adapt_lr=0.5) < found.loss.sel(adapt_lr=0.0)).all()


SIZES = [3, 9, 9, 4, 12, 9, 5, 30]


def table(n_targets=None):
    """Return tasks whose rows all differ: the first feature is the task, the second the row."""
    task = np.repeat(np.arange(len(SIZES)), SIZES)
    X = np.column_stack((task, np.arange(len(task)), np.random.default_rng(0).standard_normal(len(task))))
    y = np.sin(5 * X[:, 2])
    if n_targets is not None:
        y = np.repeat(y[:, None], n_targets, axis=1)
    return il.TaskSet.from_arrays(X, y, task)


def test_resampled_tasks_are_different_tasks_with_different_rows():
    dist = il.ResampledTasks(table())
    seen = set()
    for run in range(60):
        drawn = dist.draw_tasks([5, 9, 2, 9], stream(0, run))
        assert [len(X) for X, _ in drawn] == [5, 9, 2, 9]
        tasks = [set(X[:, 0]) for X, _ in drawn]
        assert all(len(task) == 1 for task in tasks)
        assert len(set.union(*tasks)) == 4
        assert all(len(set(X[:, 1])) == len(X) for X, _ in drawn)
        seen |= {row for X, _ in drawn for row in X[:, 1]}
    assert len(seen) == sum(SIZES)


def test_training_and_test_tasks_of_a_run_are_different():
    class Watched(il.TaskDistribution):
        n_features = 3

        def draw_task(self, n_rows, rng):
            raise NotImplementedError

        def draw_tasks(self, sizes, rng):
            drawn = il.ResampledTasks(table()).draw_tasks(sizes, rng)
            assert sizes == [4, 4, 5, 5, 5]
            assert len({X[0, 0] for X, _ in drawn}) == 5
            return drawn

    il.estimate_loss(Watched(), il.Design(2, 2, 2, 2), 0.0, 0.0, n_runs=20, n_test_tasks=3, n_test_rows=3)


@pytest.mark.parametrize("n_targets", [None, 2])
def test_a_table_is_a_distribution(n_targets):
    sizes = {"n_runs": 10, "n_test_tasks": 3, "n_test_rows": 3}
    given = il.estimate_loss(table(n_targets), il.Design(2, 2, 2, 2), [0.0, 0.1], 0.0, **sizes)
    wrapped = il.estimate_loss(il.ResampledTasks(table()), il.Design(2, 2, 2, 2), [0.0, 0.1], 0.0, **sizes)
    np.testing.assert_allclose(given.loss, wrapped.loss, rtol=1e-9)


@pytest.mark.parametrize(
    ("design", "n_test_tasks", "words"),
    [
        (il.Design(4, 2, 2, 2), 5, "`tasks` must have 9 tasks of 4 rows or more for a run, got 7"),
        (il.Design(3, 5, 8, 2), 2, "`tasks` must have 3 tasks of 13 rows or more for a run, got 1"),
    ],
)
def test_a_table_with_too_few_tasks_is_refused(design, n_test_tasks, words):
    with pytest.raises(ValueError, match=words):
        il.estimate_loss(table(), design, 0.0, 0.0, n_runs=2, n_test_tasks=n_test_tasks, n_test_rows=2)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: il.QuadraticRegression(0), ValueError, "`n_inputs` must be at least 1"),
        (lambda: il.QuadraticRegression(2, noise_std=-1), ValueError, "`noise_std` must be zero or positive"),
        (lambda: il.QuadraticRegression(2, bias_std=np.nan), ValueError, "`bias_std` must be finite"),
        (
            lambda: il.QuadraticRegression(2, features=3),
            TypeError,
            "`features` must be a function .*, got int",
        ),
        (
            lambda: il.QuadraticRegression(2, features=il.RandomFeatures(3, 4)),
            ValueError,
            "`features` must take 2",
        ),
        (lambda: il.Sinusoid(-0.1), ValueError, "`noise_std` must be zero or positive"),
        (lambda: il.Sinusoid(features=il.RandomFeatures(2, 4)), ValueError, r"`features` must take 1 input\(s\)"),
        (lambda: il.RandomFeatures(1, 0), ValueError, "`n_features` must be at least 1"),
        (
            lambda: il.RandomFeatures(1, 2, "step"),
            ValueError,
            "`activation` must be one of relu, cos, tanh",
        ),
        (lambda: il.RandomFeatures(1, 2, scale=-1.0), ValueError, "`scale` must be zero or positive"),
        (lambda: il.QuadraticRegression(2, noise_std=[1.0, 2.0]), ValueError, "`noise_std` must be a single number"),
        (lambda: il.RandomFeatures(1, 2, scale=[1.0]), ValueError, "`scale` must be a single number"),
        (lambda: il.RandomFeatures(1, 2, seed=-1), ValueError, "`seed` must be at least 0"),
        (lambda: il.ResampledTasks([1, 2]), TypeError, "`tasks` must be a TaskSet, got list; make one"),
    ],
)
def test_wrong_parameters_are_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the tables are not there")
def test_real_tables_are_resampled():
    with (SHARED / "parkinsons.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in ("subject", "subject#", "motor_UPDRS", "total_UPDRS")]
    X = np.array([[float(row[name]) for name in names] for row in rows])
    y = np.array([float(row["motor_UPDRS"]) for row in rows])
    ids = [row.get("subject", row.get("subject#")) for row in rows]
    tasks = il.TaskSet.from_arrays((X - X.mean(axis=0)) / X.std(axis=0), y - y.mean(), ids)
    design = il.Design(30, 10, 20, 10, l2=1.0)
    found = il.estimate_loss(tasks, design, [-0.02, 0.0, 0.02], [0.0, 0.01], 100, n_test_tasks=10, n_test_rows=20)
    assert 0 < found.loss.sel(inner_lr=0.0, adapt_lr=0.01) < 0.5 * y.var()
    assert (found.stderr < 0.5 * found.loss).all()
