"""A constant feature, and gradient flow, against Monte Carlo."""

import math

import numpy as np
import pytest

import innerloop as il
from innerloop.theory.adapting import AdaptedLoss
from innerloop.theory.pencil import Episode, Pencil

pytestmark = pytest.mark.usefixtures("one_thread")


def errors_with_constant(p, m, n_t, n_v, rate, constant, tau2, n_draws):
    """Return draws of E|omega* - w0|^2 given features, unit noise, the last feature constant."""
    rng, draws = np.random.default_rng(0), []
    for _ in range(n_draws):
        Bs, Ps = [], []
        for _ in range(m):
            X, V = (np.c_[rng.standard_normal((n, p)), np.full(n, constant**0.5)] for n in (n_t, n_v))
            Ps.append(rate / n_t * V @ X.T)
            Bs.append(V - Ps[-1] @ X)
        gain, total, low = np.linalg.pinv(np.concatenate(Bs)), 0.0, 0
        for B, P in zip(Bs, Ps, strict=True):
            own = gain[:, low : low + n_v]
            low += n_v
            total += (own**2).sum() + ((own @ P) ** 2).sum() + ((own @ B) ** 2 @ tau2).sum()
        draws.append(total)
    return np.array(draws)


@pytest.mark.parametrize(
    ("p", "m", "n_t", "n_v", "spread", "constant", "rate"),
    [(8, 30, 4, 4, 4.0, 1.0, 0.3), (20, 20, 5, 5, 1.0, 1.0, 0.3), (30, 8, 10, 8, 0.3, 10.0, 0.4)],
)
def test_a_constant_feature(p, m, n_t, n_v, spread, constant, rate):
    tau2 = np.append(np.full(p, 1.0 / p), spread)
    draws = errors_with_constant(p, m, n_t, n_v, rate, constant, tau2, 150)
    one = np.ones(1)
    pencil = Pencil(
        (n_t, n_v), (Episode((1,), (0,)),), m, 0.0, 1.0, one, one / p, 0 * one, p * one, (constant, spread, 0.0)
    )
    noise, tasks, _ = (part[0] @ np.array([p, 1.0]) for part in pencil.parts(np.array([rate])))
    error = draws.std(ddof=1) / np.sqrt(len(draws))
    # Leading order: 1 / p is not corrected for.
    assert abs(noise + tasks - draws.mean()) < 4 * error + 0.02 * draws.mean()


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
