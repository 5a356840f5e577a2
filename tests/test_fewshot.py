"""Networks and classifiers for few-shot tasks."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from torch import nn

import innerloop as il
from innerloop.neural import TEST, VALIDATION, Adam, MetaTrainer, SinusoidTasks, TaskBatch, Training, accuracy
from innerloop.neural.fewshot.networks import MLP, Conv4
from innerloop.neural.fewshot.problems import ACCURACY, METHODS, FewShot, sinusoids
from innerloop.neural.meta_gradient import query_predictions
from innerloop.neural.prototypes import NearestNeighbour, Prototypes
from innerloop.neural.task_model import TaskModel


class Clouds:
    """Classes of points around random centres."""

    def sample(self, n_tasks, n_support, n_query, index):
        rng = torch.Generator().manual_seed(hash(index) % 2**31)
        centres = 2 * torch.randn(n_tasks, 3, 4, generator=rng)
        y = [torch.arange(3).repeat(n_tasks, n // 3) for n in (n_support, n_query)]
        X = [torch.stack([c[i] for c, i in zip(centres, labels, strict=True)]) for labels in y]
        X = [part + torch.randn(part.shape, generator=rng) for part in X]
        return TaskBatch(X[0], y[0], X[1], y[1])


CLASSIFYING = Training(loss=nn.functional.cross_entropy)


def problem(**changes):
    settings = {
        "source": Clouds(),
        "design": il.Design(4, 6, 9),
        "make_module": lambda: MLP(4, 3, (6,)),
        "metric": ACCURACY,
        "adapt_lrs": (0.0, 0.5),
        "scored_steps": (0, 1),
        "n_classes": 3,
        "training": CLASSIFYING,
        "n_validation": 20,
    }
    return FewShot(**settings | changes)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_four_convolutions_leave_one_row_of_features(norm):
    module = Conv4(5, width=8, norm=norm)
    assert module.body(torch.zeros(2, 1, 28, 28)).shape == (2, 8)
    assert module(torch.zeros(2, 1, 28, 28)).shape == (2, 5)
    assert list(module.buffers()) == []


def test_groups_need_a_width_they_divide():
    with pytest.raises(ValueError, match=r"`width` must be a multiple of 4 with norm='group', got 6"):
        Conv4(5, width=6, norm="group")


def test_dense_layers_have_the_widths_asked_for():
    module = MLP(3, 2, (7, 5))
    assert [tuple(p.shape) for p in module.parameters()] == [(7, 3), (7,), (5, 7), (5,), (2, 5), (2,)]
    assert MLP(3, 2, ())(torch.zeros(4, 3)).shape == (4, 2)


@pytest.mark.parametrize("kind", [Prototypes, NearestNeighbour])
def test_the_nearest_class_by_brute_force(kind):
    batch = Clouds().sample(3, 6, 9, (TEST, 0))
    module = nn.Linear(4, 2)
    params = dict(module.named_parameters())
    found = query_predictions(kind(3), TaskModel(module), params, [], batch)
    for outputs, Xs, ys, Xq, _ in zip(found, *batch.tensors, strict=True):
        support, query = module(Xs), module(Xq)
        for row, output in zip(query, outputs, strict=True):
            for label in range(3):
                points = support[ys == label]
                points = points.mean(dim=0, keepdim=True) if kind is Prototypes else points
                squared = min((row - point).square().sum().item() for point in points)
                assert output[label].item() == pytest.approx(-squared, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_fused_adam_takes_each_gradient_to_its_own_number(compile, monkeypatch):
    """Gradients of dense layers are transposed in memory, where torch's fused Adam does not see it."""
    # Torch imports distutils, which setuptools would replace, and fails to where others have imported it.
    monkeypatch.setenv("SETUPTOOLS_USE_DISTUTILS", "stdlib")
    trained = []
    for optimiser in (Adam(0.01), lambda tensors: torch.optim.Adam(tensors, 0.01, foreach=True)):
        torch.manual_seed(0)
        trainer = MetaTrainer(
            *(MLP(1, 1, (7, 5)), SinusoidTasks(0), il.Design(6, 5, 5), 0.01),
            training=Training(optimiser=optimiser, compile=compile),
        )
        trainer.train(5)
        trained.append(torch.cat([value.detach().ravel() for value in trainer.params.values()]))
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-5)


def test_comparisons_score_the_tasks_that_the_trainer_scores():
    settings = problem()
    trainer = settings.comparison(Prototypes(3))
    assert torch.equal(
        trainer.evaluate(110, metric=accuracy).values,
        settings.scores_without_steps(Prototypes(3), trainer.module, 110).values,
    )


def test_a_prototypical_network_learns():
    trainer = problem(training=replace(CLASSIFYING, optimiser=Adam(0.01))).comparison(Prototypes(3))
    before = trainer.evaluate(100).mean()
    trainer.train(60)
    assert trainer.evaluate(100).mean() < 0.9 * before


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_trains(method):
    training = replace(CLASSIFYING, algorithm=method.algorithm)
    trainer = problem(training=training, learns_rates=method.learns_rates).trainer(0.1)
    before = {name: value.detach().clone() for name, value in [*trainer.params.items(), *trainer.rate_tensors.items()]}
    trainer.train(2)
    moved = {n for n, v in [*trainer.params.items(), *trainer.rate_tensors.items()] if not torch.equal(v, before[n])}
    assert {"head.weight", "head.bias"} <= moved
    assert trainer.learn_inner_lr == (method is METHODS["meta-sgd"])


class Asked(Clouds):
    """Points that record for which stage they were asked."""

    def __init__(self):
        self.stages = set()

    def sample(self, n_tasks, n_support, n_query, index):
        self.stages.add(index[0])
        return super().sample(n_tasks, n_support, n_query, index)


def test_the_adaptation_rate_is_the_best_on_validation_tasks():
    settings = problem(source=Asked())
    trainer = settings.trainer(0.5)
    trainer.train(20)
    settings.source.stages.clear()
    assert settings.best_adapt_lr(trainer) == 0.5
    assert settings.source.stages == {VALIDATION}
    assert problem(adapt_lrs=(0.0, 1e20)).best_adapt_lr(trainer) == 0.0


def test_a_sweep_starts_from_zero_and_reports_the_metric():
    result = sinusoids(5, 5, 6, n_tasks=3, n_validation=4).sweep([-0.01, 0.01], n_seeds=2, n_iterations=2, n_test=4)
    assert result.inner_lr.values.tolist() == [-0.01, 0.0, 0.01]
    torch.testing.assert_close(
        torch.tensor(result.metric.values), torch.tensor(2 * result.loss.values), rtol=1e-6, atol=0
    )


def test_a_sweep_goes_on_where_it_was_cut_off(tmp_path):
    settings = sinusoids(5, 5, 6, n_tasks=3, n_validation=4)
    whole = settings.sweep([0.01], 2, 2, 4)
    settings.sweep([0.01], 1, 2, 4, tmp_path / "s")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("block-*.npz")}
    resumed = settings.sweep([0.01], 2, 2, 4, tmp_path / "s")
    assert resumed.identical(whole)
    assert len(kept) == 1
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    with pytest.raises(ValueError, match="holds the blocks of another plan"):
        sinusoids(5, 5, 6, n_tasks=3, n_validation=4, training=Training(optimiser=Adam(0.1))).sweep(
            [0.01], 2, 2, 4, tmp_path / "s"
        )
