"""Inner rules against a plain loop over tasks."""

import numpy as np
import pytest

import innerloop as il
import reference
from cases import close
from innerloop.adaptation import rules as adaptation
from innerloop.adaptation.rules import GradientSteps, NoAdaptation


def ragged_tasks(n_targets, sizes=(1, 7, 3, 40, 2, 2, 11), p=4):
    rng = np.random.default_rng(0)
    n, tail = sum(sizes), () if n_targets is None else (n_targets,)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    order = rng.permutation(n)
    X, y = rng.standard_normal((n, p)), rng.standard_normal((n, *tail))
    return il.TaskSet.from_arrays(X[order], y[order], groups[order]), rng.standard_normal((p, *tail))


@pytest.mark.parametrize("rows_at_once", [1, 8, 30, 2**17])
@pytest.mark.parametrize("n_targets", [None, 1, 3])
@pytest.mark.parametrize("n_steps", [1, 2, 5])
@pytest.mark.parametrize("lr", [-0.3, 0.0, 0.2])
def test_gradient_steps_equal_a_plain_loop(monkeypatch, lr, n_steps, n_targets, rows_at_once):
    monkeypatch.setattr(adaptation, "_ROWS_AT_ONCE", rows_at_once)
    tasks, coef = ragged_tasks(n_targets)
    before = coef.copy()
    theta = GradientSteps(lr, n_steps).adapt(coef, tasks)
    assert theta.shape == (len(tasks), *coef.shape)
    for own, (_, X, y) in zip(theta, tasks, strict=True):
        assert close(own, reference.adapted(coef, X, y, lr, n_steps), 13)
    np.testing.assert_array_equal(coef, before)


def test_how_many_rows_are_handled_at_once_does_not_change_the_result(monkeypatch):
    tasks, coef = ragged_tasks(2, sizes=[3, 9, 1] * 50)
    whole = GradientSteps(0.1, 3).adapt(coef, tasks)
    for rows_at_once in (1, 2, 13, 100, 649, 650, 651):
        monkeypatch.setattr(adaptation, "_ROWS_AT_ONCE", rows_at_once)
        np.testing.assert_array_equal(GradientSteps(0.1, 3).adapt(coef, tasks), whole)


def test_each_task_adapts_on_its_own_rows_only():
    tasks, coef = ragged_tasks(None)
    chosen = [1, 4, 6]
    alone = GradientSteps(0.2, 2).adapt(coef, tasks.select(chosen))
    np.testing.assert_array_equal(alone, GradientSteps(0.2, 2).adapt(coef, tasks)[chosen])


def test_a_small_rate_lowers_the_loss_and_its_negative_raises_it():
    tasks, coef = ragged_tasks(None)
    losses = [
        [np.mean((y - X @ own) ** 2) for own, (_, X, y) in zip(rule.adapt(coef, tasks), tasks, strict=True)]
        for rule in (GradientSteps(0.02), NoAdaptation(), GradientSteps(-0.02))
    ]
    assert (np.diff(losses, axis=0) > 0).all()


def test_many_small_steps_end_at_least_squares():
    tasks, coef = ragged_tasks(None, sizes=(30, 40))
    theta = GradientSteps(0.5, 500).adapt(coef, tasks)
    for own, (_, X, y) in zip(theta, tasks, strict=True):
        assert close(own, np.linalg.lstsq(X, y)[0], 10)


@pytest.mark.parametrize("n_targets", [None, 3])
def test_no_adaptation_repeats_the_meta_parameters(n_targets):
    tasks, coef = ragged_tasks(n_targets)
    theta = NoAdaptation().adapt(coef, tasks)
    np.testing.assert_array_equal(theta, np.stack([coef] * len(tasks)))
    theta[0] = 0.0
    assert coef.all()


@pytest.mark.parametrize("rule", [GradientSteps(0.1), NoAdaptation()])
def test_no_tasks_give_no_coefficients(rule):
    tasks, coef = ragged_tasks(None)
    assert rule.adapt(coef, tasks.select(np.arange(0))).shape == (0, 4)


REFUSED = [
    ({"lr": np.nan}, ValueError, "`lr` must be a finite number"),
    ({"lr": np.inf}, ValueError, "`lr` must be a finite number"),
    ({"lr": "fast"}, TypeError, "`lr` must hold numbers only"),
    ({"lr": [0.1]}, ValueError, r"`lr` must be a single number, got shape \(1,\)"),
    ({"lr": 0.1, "n_steps": 0}, ValueError, "`n_steps` must be at least 1, got 0"),
    ({"lr": 0.1, "n_steps": 1.0}, TypeError, "`n_steps` must be a whole number, got 1.0"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED)
def test_gradient_steps_say_what_is_wrong_with_an_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        GradientSteps(**arguments)
