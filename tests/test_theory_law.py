"""The distribution of the loss over training sets, against full simulation."""

import numpy as np
import pytest

import innerloop as il

pytestmark = pytest.mark.usefixtures("one_thread")


def errors_of_training_sets(dist, design, rates, n_features_drawn=150, n_noise=30):
    """Return |omega* - w0|^2 at rates, one row a training set; the start is the centre of the tasks."""
    rng, p, rows = np.random.default_rng(0), dist.n_features, []
    for _ in range(n_features_drawn):
        Bs, noises = [[] for _ in rates], [[] for _ in rates]
        tasks = []
        for group in design.groups:
            tasks += [
                (rng.standard_normal((group.n_support, p)), rng.standard_normal((group.n_query, p)))
                for _ in range(group.n_tasks)
            ]
        draws = [
            (
                np.sqrt(dist.task_variances)[:, None] * rng.standard_normal((p, n_noise)),
                dist.noise_std * rng.standard_normal((len(X), n_noise)),
                dist.noise_std * rng.standard_normal((len(V), n_noise)),
            )
            for X, V in tasks
        ]
        for i, rate in enumerate(rates):
            for (X, V), (b, z, zv) in zip(tasks, draws, strict=True):
                A = np.eye(p) - rate / len(X) * X.T @ X
                power = np.linalg.matrix_power(A, design.n_steps)
                G = sum(np.linalg.matrix_power(A, j) for j in range(design.n_steps)) @ X.T * rate / len(X)
                Bs[i].append(V @ power)
                noises[i].append(V @ (power @ b - G @ z) + zv)
        solved = []
        for B, noise in zip(Bs, noises, strict=True):
            stacked = np.concatenate(B)
            penalty = design.l2 * len(stacked) * np.eye(p)
            gain = np.linalg.solve(stacked.T @ stacked + penalty, stacked.T) if design.l2 else np.linalg.pinv(stacked)
            solved.append(((gain @ np.concatenate(noise)) ** 2).sum(axis=0))
        rows.append(np.array(solved).T)
    return np.array(rows)


def spread_over_draws(values):
    """Return the mean over draws of the features, and its standard error."""
    return values.mean(), values.mean(axis=1).std(ddof=1) / np.sqrt(len(values))


DESIGNS = {
    "N < p": (il.MixedLinearRegression(40, 1.0, 0.5), il.Design(3, 20, 3, 20), -0.6),
    "N > p": (il.MixedLinearRegression(40, 1.0, 1.0), il.Design(3, 40, 25, 20), -0.4),
    "many tasks": (il.MixedLinearRegression(20, 1.0, 1.0), il.Design(30, 5, 20, 10), -0.05),
    "two steps": (il.MixedLinearRegression(40, 0.5, 1.0), il.Design(4, 40, 6, 20, n_steps=2), 0.2),
    "ridge": (il.MixedLinearRegression(40, 1.0, 1.0), il.Design(3, 30, 12, 20, l2=0.2), 0.3),
    "ragged": (il.MixedLinearRegression(40, 1.0, 1.0), il.Design(3, [20, 30, 40], [20, 30, 30], 20), -0.3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DESIGNS)
def test_interval_and_chance_against_full_simulation(name):
    dist, design, rate = DESIGNS[name]
    errors = errors_of_training_sets(dist, design, [rate, 0.0])
    beats, se = spread_over_draws(errors[..., 0] < errors[..., 1])
    assert abs(il.chance_of_improvement(dist, design, rate) - beats) < 4 * se + 0.015
    weight = (1 - 0.1) ** 2 + 0.01 * (dist.n_features + 1) / design.n_adapt
    losses = 0.5 * (
        dist.noise_std**2 * (1 + 0.01 * dist.n_features / design.n_adapt)
        + weight * (float(dist.task_variances.sum()) + errors[..., 0])
    )
    if design.n_steps == 1:
        interval = il.loss_interval(dist, design, rate, 0.1, level=0.9)
        for edge, inside in ((interval.low, losses < interval.low), (interval.high, losses > interval.high)):
            share, se = spread_over_draws(inside)
            assert abs(share - 0.05) < 4 * se + 0.015, edge


@pytest.mark.slow
def test_figure_2b_wins_more_often_with_a_smaller_rate():
    dist, design = il.MixedLinearRegression(60, 1.0, 0.5), il.Design(3, 30, 2, 20)
    chances = [il.chance_of_improvement(dist, design, rate) for rate in (-1.0, -0.05, 0.05)]
    np.testing.assert_allclose(chances, [0.776, 0.872, 0.117], atol=0.006)
    assert il.chance_of_improvement(dist, design, 0.0, over=-1.0) == pytest.approx(1 - chances[0], abs=1e-6)


def test_the_start_widens_the_interval_where_rows_are_few():
    dist, design = il.MixedLinearRegression(60, 1.0, 0.5), il.Design(3, 30, 2, 20)
    near, far = (il.loss_interval(dist, design, -0.5, 0.0, init=np.full(60, d)) for d in (0.0, 1.0))
    assert far.high - far.low > near.high - near.low


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, g: il.loss_interval(d, g, 0.1, 0.1, level=1.0), "`level` must be between 0 and 1"),
        (lambda d, g: il.chance_of_improvement(d, g, 0.1, over=0.1), "`over` must be another rate"),
        (
            lambda _, g: il.loss_interval(il.MixedLinearRegression(2, covariance=[1, 2]), g, 0.1, 0.1),
            "`dist` must be isotropic",
        ),
        (lambda d, _: il.loss_interval(d, il.Design(1, 3, 9, 4), 0.1, 0.1), "has no expected loss"),
        (lambda d, _: il.loss_interval(d, il.Design(3, 3, 9, 4, l2=1.0), 0.1, 0.1, init=[1, 1]), "must be the centre"),
    ],
)
def test_what_has_no_law_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(il.MixedLinearRegression(2), il.Design(3, 3, 3, 4))
