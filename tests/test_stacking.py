"""Stacking against brute force, and its laws."""

import numpy as np
import pytest
from scipy.optimize import minimize

from innerloop.tabular.stacking import _PRIOR_TASKS, stack


def products_of(n_tasks, n_predictors, n_rows=6, seed=0):
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((n_tasks, n_rows, 1))
    residuals = common + rng.uniform(0.3, 1.5, n_predictors) * rng.standard_normal((n_tasks, n_rows, n_predictors))
    residuals *= np.exp(rng.standard_normal((n_tasks, 1, 1)))
    return np.einsum("irp,irq->ipq", residuals, residuals) / n_rows


def loss(products, w):
    least = products.diagonal(axis1=1, axis2=2).min(axis=1)
    scaled = products / (least + least.mean())[:, None, None]
    best = scaled.diagonal(axis1=1, axis2=2).mean(axis=0).min()
    prior = _PRIOR_TASKS / len(products) * best * np.sum((w - 1 / len(w)) ** 2)
    return np.mean(np.einsum("p,ipq,q->i", w, scaled, w)) + prior


@pytest.mark.parametrize("n_tasks", [1, 3, 40])
@pytest.mark.parametrize("seed", range(3))
def test_weights_are_the_minimum_over_the_simplex(n_tasks, seed):
    products = products_of(n_tasks, 4, seed=seed)
    weight = stack(products)
    assert (weight >= 0).all()
    assert weight.sum() == pytest.approx(1.0)
    simplex = {"type": "eq", "fun": lambda w: w.sum() - 1}
    best = minimize(lambda w: loss(products, w), np.full(4, 0.25), bounds=[(0, 1)] * 4, constraints=simplex, tol=1e-12)
    assert loss(products, weight) <= best.fun * (1 + 1e-3)  # weights below 1 % are left out


def test_no_predictor_alone_is_better_on_the_tasks_that_weigh_them():
    products = products_of(200, 5)
    weight = stack(products)
    assert loss(products, weight) <= min(loss(products, corner) for corner in np.eye(5)) + 1e-9


@pytest.mark.parametrize("factor", [1e-120, 1e-6, 1e100])
def test_units_of_the_target_do_not_matter(factor):
    products = products_of(12, 3)
    np.testing.assert_allclose(stack(products * factor), stack(products), atol=1e-6)


def test_a_predictor_without_error_has_all_weight_where_others_err():
    products = products_of(50, 3)
    products[:, 1, :] = products[:, :, 1] = 0.0
    np.testing.assert_allclose(stack(products), [0, 1, 0], atol=0.02)


def test_equal_predictors_share_their_weight_and_few_tasks_hardly_move_it():
    same = np.ones((5, 3, 3))
    np.testing.assert_allclose(stack(same), 1 / 3, atol=1e-6)
    assert np.abs(stack(products_of(1, 3)) - 1 / 3).max() < 0.4
    np.testing.assert_array_equal(stack(np.ones((4, 1, 1))), [1.0])


def test_no_errors_at_all_are_no_trouble():
    np.testing.assert_allclose(stack(np.zeros((4, 3, 3))), 1 / 3, atol=1e-6)


@pytest.mark.parametrize("n_tasks", [4, 12, 60])
def test_weights_of_two_predictors_minimise_the_documented_sum(n_tasks):
    rng = np.random.default_rng(n_tasks)
    residuals = rng.standard_normal((n_tasks, 9, 2)) * [1.0, 1.3] + 0.5 * rng.standard_normal((n_tasks, 9, 1))
    products = np.einsum("irp,irq->ipq", residuals, residuals) / 9
    least = products.diagonal(axis1=1, axis2=2).min(axis=1)
    A = (products / (least + least.mean())[:, None, None]).mean(axis=0)
    weights = np.stack([np.linspace(0, 1, 20001), np.linspace(1, 0, 20001)], axis=-1)
    prior = 3 / n_tasks * A.diagonal().min() * np.square(weights - 0.5).sum(axis=1)
    best = weights[np.argmin(np.einsum("gp,pq,gq->g", weights, A, weights) + prior)]
    np.testing.assert_allclose(stack(products), best, atol=1e-3)
