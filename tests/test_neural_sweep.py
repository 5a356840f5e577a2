"""A sweep is many trainings side by side: the same numbers as one by one, and differences that are paired."""

import sys
from functools import partial
from threading import Lock

import numpy as np
import pytest

from innerloop._base.seeds import stream

torch = pytest.importorskip("torch")

from torch import nn

import innerloop as il
import neural_reference as reference
from innerloop.neural import MAML, TEST, TRAINING, VALIDATION, MetaTrainer, SinusoidTasks, Training, sweep
from innerloop.neural.batch import TaskBatch
from innerloop.neural.sweep import Sweep

RATES = [-0.05, 0.0, 0.1]
DESIGN = il.Design(4, 5, 4)


def tanh_net():
    return nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).double()


class Images:
    """Random images whose mean brightness is to be told."""

    def sample(self, n_tasks, n_support, n_query, index):
        rng = np.random.default_rng([9, *index])
        X = [torch.from_numpy(rng.standard_normal((n_tasks, n, 1, 16, 16))) for n in (n_support, n_query)]
        y = [part.mean(dim=(2, 3, 4)).unsqueeze(-1).expand(-1, -1, 3) for part in X]
        return TaskBatch(X[0], y[0], X[1], y[1])

    def __repr__(self):
        return "Images()"


class Seed:
    """The tasks that a sweep shows to one of its seeds."""

    def __init__(self, source, seed):
        self.source, self.seed = source, seed

    def sample(self, n_tasks, n_support, n_query, index):
        return self.source.sample(n_tasks, n_support, n_query, (*index, self.seed))


def small(**changes):
    settings = {"n_seeds": 2, "n_iterations": 3, "n_validation": 6, "n_test": 5} | changes
    return sweep(tanh_net, SinusoidTasks(3), DESIGN, RATES, [-0.05, 0.02, 0.1], **settings)


@pytest.fixture(scope="module")
def result():
    return small()


LANES = {
    "maml": (tanh_net, SinusoidTasks(3), MAML(), 1),
    "two steps": (tanh_net, SinusoidTasks(3), MAML(), 2),
    "thick steps": (tanh_net, SinusoidTasks(3), MAML(), 8),
    "head only": (tanh_net, SinusoidTasks(3), MAML(subset=["2"]), 1),
    "first order": (tanh_net, SinusoidTasks(3), MAML(first_order=True), 2),
    "convolutions": (lambda: reference.conv4("batch"), Images(), MAML(), 1),
}


@pytest.mark.slow
@pytest.mark.parametrize(("make", "source", "algorithm", "n_steps"), LANES.values(), ids=LANES)
def test_each_lane_is_a_training_of_its_own(make, source, algorithm, n_steps):
    design = il.Design(4, 5, 4, n_steps=n_steps)
    training = Training(
        algorithm=algorithm, scheduler=lambda optimiser: torch.optim.lr_scheduler.StepLR(optimiser, 1, 0.5)
    )
    counts = {"n_seeds": 2, "n_iterations": 3, "n_test": 5, "n_validation": 2}
    found = sweep(make, source, design, RATES, [0.02], training=training, **counts)
    for seed in range(2):
        for rate in RATES:
            with torch.random.fork_rng():
                torch.manual_seed(int(stream(0, seed).integers(2**62)))
                module = make()
            trainer = MetaTrainer(module, Seed(source, seed), design, rate, adapt_lr=0.02, training=training)
            trainer.train(3)
            loss = trainer.evaluate(5, stage=TEST).mean()
            assert found.loss_by_seed.sel(seed=seed, inner_lr=rate).item() == pytest.approx(loss, rel=1e-10)


def test_differences_are_paired_over_seeds(result):
    by_seed = result.loss_by_seed
    difference = by_seed - by_seed.sel(inner_lr=0.0)
    np.testing.assert_allclose(result.difference, difference.mean("seed"))
    np.testing.assert_allclose(result.difference_stderr, difference.std("seed", ddof=1) / np.sqrt(2))
    np.testing.assert_allclose(result.stderr, by_seed.std("seed", ddof=1) / np.sqrt(2))
    assert result.difference.sel(inner_lr=0.0) == 0


def test_validation_losses_are_those_of_validation_tasks():
    found = sweep(tanh_net, SinusoidTasks(3), DESIGN, RATES, [-0.05, 0.1], n_seeds=1, n_iterations=2, n_validation=6)
    for rate in RATES:
        with torch.random.fork_rng():
            torch.manual_seed(int(stream(0, 0).integers(2**62)))
            module = tanh_net()
        trainer = MetaTrainer(module, Seed(SinusoidTasks(3), 0), DESIGN, rate)
        trainer.train(2)
        losses = [trainer.evaluate(6, adapt_lr=adapt_lr, stage=VALIDATION).mean() for adapt_lr in (-0.05, 0.1)]
        np.testing.assert_allclose(found.validation_loss.sel(inner_lr=rate), losses, rtol=1e-10)
        assert found.adapt_lr.sel(inner_lr=rate) == [-0.05, 0.1][int(np.argmin(losses))]


class Asked:
    """Tasks that record what was asked for."""

    def __init__(self):
        self.sizes, self.indices = {}, set()

    def sample(self, n_tasks, n_support, n_query, index):
        self.sizes.setdefault(index[0], set()).add((n_support, n_query))
        self.indices.add(index)
        return SinusoidTasks(3).sample(n_tasks, n_support, n_query, index)


def test_each_stage_has_its_sizes_and_each_seed_its_tasks():
    asked = Asked()
    sweep(tanh_net, asked, il.Design(4, 5, 4, n_adapt=7), RATES, [0.1], n_seeds=3, n_iterations=2, n_test=5)
    assert asked.sizes == {TRAINING: {(5, 4)}, VALIDATION: {(7, 4)}, TEST: {(7, 4)}}
    assert {index[-1] for index in asked.indices} == {0, 1, 2}


def test_seeds_at_once_do_not_change_the_numbers(result):
    np.testing.assert_allclose(small(seeds_at_once=2).loss_by_seed, result.loss_by_seed, rtol=1e-11)


def test_zero_is_added_to_compare_with():
    counts = {"n_seeds": 1, "n_iterations": 1, "n_test": 2, "n_validation": 2}
    found = sweep(tanh_net, SinusoidTasks(), DESIGN, [0.1], [0.0], **counts)
    assert found.inner_lr.values.tolist() == [0.0, 0.1]
    assert np.isnan(found.stderr).all()


def test_a_sweep_goes_on_where_it_was_cut_off(result, tmp_path, monkeypatch):
    computed, compute = [], Sweep.compute_block

    def cut_off_after(n):
        def logged(self, replicates):
            if len(computed) == n:
                raise KeyboardInterrupt
            computed.append(replicates)
            return compute(self, replicates)

        monkeypatch.setattr(Sweep, "compute_block", logged)

    cut_off_after(1)
    with pytest.raises(KeyboardInterrupt):
        small(store=tmp_path / "store")
    cut_off_after(10)
    assert small(store=tmp_path / "store").identical(result)
    assert computed == [range(0, 1), range(1, 2)]
    with pytest.raises(ValueError, match="holds the blocks of another plan"):
        small(store=tmp_path / "store", training=Training(seed=3))


def test_a_metric_is_scored_beside_the_loss(result):
    found = small(metric=lambda prediction, y: (prediction - y).square().mean())
    np.testing.assert_allclose(found.metric, 2 * found.loss)
    assert found[["loss", "stderr", "adapt_lr"]].identical(result[["loss", "stderr", "adapt_lr"]])


def test_a_rate_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="`inner_lrs` must be finite"):
        sweep(tanh_net, SinusoidTasks(), DESIGN, [np.nan], [0.0], n_seeds=1, n_iterations=1)


RATE = 1e-3


def at_global_rate(tensors):
    return torch.optim.SGD(tensors, RATE)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": lambda prediction, y: (prediction - y).abs().mean()},
        {"optimiser": lambda tensors: torch.optim.SGD(tensors, 0.01)},
        {"optimiser": at_global_rate},
        {"loss": partial(nn.functional.huber_loss, delta=0.5)},
        {"algorithm": MAML(first_order=True)},
        {"scheduler": lambda optimiser: torch.optim.lr_scheduler.StepLR(optimiser, 1)},
        {"loss": nn.HuberLoss(delta=0.5)},
    ],
)
def test_a_store_never_mixes_two_experiments(tmp_path, changes, monkeypatch):
    tiny = {"n_seeds": 1, "n_iterations": 1, "store": tmp_path / "s"}
    small(**tiny)
    with pytest.raises(ValueError, match="holds the blocks of another plan"):
        small(**tiny, training=Training(**changes))
    if changes.get("optimiser") is at_global_rate:
        other = {**tiny, "store": tmp_path / "t"}
        small(**other, training=Training(**changes))
        monkeypatch.setattr(sys.modules[__name__], "RATE", 0.1)
        with pytest.raises(ValueError, match="holds the blocks of another plan"):
            small(**other, training=Training(**changes))


def test_a_source_that_cannot_be_told_from_others_cannot_be_stored(tmp_path):
    class Locked:
        sample = SinusoidTasks(3).sample

        def __init__(self):
            self.lock = Lock()

    counts = {"n_seeds": 1, "n_iterations": 1, "n_test": 2, "n_validation": 2}
    with pytest.raises(TypeError, match=r"a store needs a `tasks\.lock` that can be told from others"):
        sweep(tanh_net, Locked(), DESIGN, [0.1], [0.0], store=tmp_path / "s", **counts)


@pytest.mark.parametrize(
    "make",
    [
        lambda value: il.TaskSet.from_arrays(
            value + np.arange(240.0)[:, None] % 7, np.arange(240.0), np.arange(240) % 24
        ),
        lambda value: il.MixedLinearRegression(1, mean=[value]),
        lambda value: il.Sinusoid(features=lambda x: value * x),
    ],
)
def test_a_store_tells_tasks_from_others_by_all_their_numbers(tmp_path, make):
    counts = {"n_seeds": 1, "n_iterations": 1, "n_test": 2, "n_validation": 2, "store": tmp_path / "s"}
    sweep(tanh_net, make(1.0), DESIGN, [0.1], [0.0], **counts)
    sweep(tanh_net, make(1.0), DESIGN, [0.1], [0.0], **counts)
    with pytest.raises(ValueError, match="holds the blocks of another plan"):
        sweep(tanh_net, make(2.0), DESIGN, [0.1], [0.0], **counts)
