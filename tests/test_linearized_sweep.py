"""The sweep of a linearised network: against normal equations by hand, and against the sweep of the network."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

import innerloop as il
from innerloop.neural import TEST, TRAINING, Training, half_mse, linearized_sweep, sweep
from innerloop.neural.sources import DistributionTasks
from innerloop.neural.sweep import sweep_settings

RATES, ADAPT = [-0.1, 0.0, 0.3], [0.0, 0.2, 0.5]
DESIGN = il.Design(5, 4, 6)
TASKS = il.MixedLinearRegression(2, noise_std=0.3, mean=[1.0, -2.0])
SIZES = {"n_seeds": 3, "n_validation": 30, "n_test": 20}


def line():
    return nn.Linear(2, 1).double()


def by_hand(seed, l2):
    """Return test losses (n_rates, n_adapt_rates) of a line, its constant as a feature."""
    source = DistributionTasks(TASKS, 0)

    def drawn(stage, sizes):
        batches = [source.sample(n, 4, 6, (stage, number, seed)) for number, n in enumerate(sizes)]
        for batch in batches:
            for X, y, Z, z in zip(*(part.numpy() for part in batch.tensors), strict=True):
                yield np.column_stack((X, np.ones(len(X)))), y[:, 0], np.column_stack((Z, np.ones(len(Z)))), z[:, 0]

    start = sweep_settings(
        line, TASKS, DESIGN, RATES, ADAPT, n_iterations=1, n_validation=1, n_test=1, metric=None, training=Training()
    ).start(seed)
    theta_0 = torch.cat([start.weight.detach().flatten(), start.bias.detach()]).numpy()
    losses = np.empty((3, 3))
    for i, a in enumerate(RATES):
        rows, targets, features = [], [], []
        for X, y, Z, z in drawn(TRAINING, [5, 5, 5]):
            rows.append(Z - a * Z @ X.T @ X / len(X))
            targets.append(z - a * Z @ X.T @ y / len(X))
            features.append(Z)
        A, b = np.concatenate(rows), np.concatenate(targets)
        penalty = l2 * np.square(np.concatenate(features)).sum(axis=1).mean()
        d = np.linalg.solve(A.T @ A / len(A) + penalty * np.eye(3), A.T @ (b - A @ theta_0) / len(A))
        for j, r in enumerate(ADAPT):
            squares = []
            for X, y, Z, z in drawn(TEST, [20]):
                theta = theta_0 + d
                theta = theta - r * X.T @ (X @ theta - y) / len(X)
                squares.extend((z - Z @ theta) ** 2)
            losses[i, j] = np.mean(squares) / 2
    return losses


def test_a_line_has_the_losses_of_the_normal_equations():
    result = linearized_sweep(line, TASKS, DESIGN, RATES, ADAPT, penalties=0.02, n_training=15, **SIZES)
    for seed in range(3):
        expected = by_hand(seed, 0.02)
        chosen = [ADAPT.index(rate) for rate in result.adapt_lr.values]
        np.testing.assert_allclose(result.loss_by_seed[seed], expected[range(3), chosen], rtol=1e-9)
    gap = result.loss_by_seed.values - result.loss_by_seed.values[:, [1]]
    np.testing.assert_allclose(result.difference, gap.mean(axis=0))
    np.testing.assert_allclose(result.difference_stderr, gap.std(axis=0, ddof=1) / np.sqrt(3))


def test_more_parameters_than_rows_are_solved_as_few_are():
    """Copies of a line's parameters change the kernel by a factor only, which the penalty's unit takes out."""

    class Copies(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.lines = nn.ModuleList(line() for _ in range(n))
            with torch.no_grad():
                for part in self.lines:
                    part.weight.fill_(0.1)
                    part.bias.fill_(0.1)

        def forward(self, X):
            return sum(part(X) for part in self.lines) / len(self.lines)

    few, many = (
        linearized_sweep(
            lambda n=n: Copies(n),
            TASKS,
            DESIGN,
            np.array(RATES) * n,
            np.array(ADAPT) * n,
            penalties=0.02,
            n_training=10,
            **SIZES,
        )
        for n in (1, 30)
    )
    np.testing.assert_allclose(many.loss_by_seed, few.loss_by_seed, rtol=1e-8)


def test_without_training_it_is_the_sweep_without_training():
    """Starts, validation tasks and test tasks are the same, so that curves lie under each other."""
    expected = sweep(line, TASKS, DESIGN, RATES, ADAPT, n_iterations=0, training=Training(loss=half_mse), **SIZES)
    result = linearized_sweep(line, TASKS, DESIGN, RATES, ADAPT, penalties=1e15, **SIZES)
    for name in ("loss_by_seed", "validation_loss", "adapt_lr"):
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-5)


def test_the_penalty_is_the_best_on_validation_tasks():
    def found(*penalties):
        return linearized_sweep(line, TASKS, DESIGN, RATES, ADAPT, penalties=penalties, **SIZES)

    lowest = {penalty: found(penalty) for penalty in (1e-3, 1e3)}
    both = found(1e-3, 1e3)
    best = min(lowest, key=lambda penalty: float(lowest[penalty].validation_loss.min("adapt_lr_tried").mean()))
    assert both.attrs["penalty"] == best == 1e-3
    np.testing.assert_allclose(both.loss, lowest[best].loss, rtol=1e-12)


def test_modules_whose_rows_see_each_other_are_refused():
    def make_module():
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))

    with pytest.raises(ValueError, match="BatchNorm1d in training mode"):
        linearized_sweep(make_module, TASKS, DESIGN, RATES, ADAPT, n_seeds=1)


@pytest.mark.parametrize("penalties", [[], 0.0, [-1.0, 1.0], np.nan])
def test_penalties_are_positive(penalties):
    with pytest.raises(ValueError, match="`penalties` must hold positive numbers"):
        linearized_sweep(line, TASKS, DESIGN, RATES, ADAPT, penalties=penalties, n_seeds=1)
