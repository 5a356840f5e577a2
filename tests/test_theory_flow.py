"""Gradient flow: the limit of many small steps, and early stopping."""

import math

import numpy as np
import pytest

import innerloop as il
from innerloop.theory.adapting import AdaptedLoss

pytestmark = pytest.mark.usefixtures("one_thread")


def test_gradient_flow_stops_early():
    # theory_next.md, 7: half the loss at the best time, (T, n_r): Monte Carlo .92464, 1.30474.
    for spread, n, time, loss in ((1.0, 20, 0.23, 0.92464), (4.0, 60, 2.5, 1.30474)):
        dist, design = il.MixedLinearRegression(60, 1.0, spread**0.5), il.Design(2, 5, 5, n, n_steps=math.inf)
        adapted = AdaptedLoss.build(dist, design)
        best = adapted.best_rate(np.zeros(1))
        assert best == pytest.approx(time, rel=0.05)
        assert float(adapted(np.array(best), np.zeros(1))) == pytest.approx(loss, rel=3e-4)


def test_gradient_flow_is_the_limit_of_many_steps():
    dist = il.MixedLinearRegression(30, 1.0, 0.7)
    flow = il.expected_loss(dist, il.Design(4, 20, 5, 10, n_steps=math.inf), [-0.5, 0.5], 0.3)
    steps = il.expected_loss(dist, il.Design(4, 20, 5, 10, n_steps=100), np.array([-0.5, 0.5]) / 100, 0.3 / 100)
    np.testing.assert_allclose(flow, steps, rtol=0.02)
    estimate = il.estimate_loss(dist, il.Design(4, 20, 5, 10, n_steps=math.inf), [-0.5, 0.5], [0.3], n_runs=200)
    np.testing.assert_array_less(
        np.abs(flow - estimate["loss"].values[:, 0]), 4 * estimate["stderr"].values[:, 0] + 0.01
    )
