"""Tasks of unequal sizes: what is computed is what each task alone would give, whatever the padding holds."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn

import innerloop as il
from cases import draw
from innerloop.neural import (
    MAML,
    TEST,
    TRAINING,
    ImplicitMAML,
    MetaTrainer,
    Reptile,
    RidgeHead,
    SinusoidTasks,
    TaskBatch,
    Training,
    adapt,
    sweep,
)
from test_neural_gradients import Fixed, assert_same, mean

SIZES = [(5, 3), (2, 4), (5, 3), (3, 3), (2, 4)]


def net(kind):
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(4) if kind == "batch norm" else nn.Tanh()
    return nn.Sequential(nn.Linear(2, 4), middle, nn.Linear(4, 1)).double()


def ragged(padding=0.0):
    """Return tasks of unequal sizes, and each of them as a batch of one."""
    alone = [TaskBatch.from_episodes(il.Episodes([episode])) for episode in draw(SIZES, 2, 1)]
    batch = TaskBatch.padded(alone)
    filled = []
    for tensor, mask in zip(batch.tensors, [m for m in batch.masks for _ in (0, 1)], strict=True):
        filled.append(torch.where(mask.unsqueeze(-1), tensor, padding))
    return TaskBatch(*filled, *batch.masks), alone


def trained(module, batch, algorithm, design=None):
    design = design or il.Design(len(batch), 5, 4, n_steps=2)
    return MetaTrainer(module, Fixed(batch), design, 0.1, training=Training(algorithm=algorithm))


@pytest.mark.slow
@pytest.mark.parametrize("padding", [0.0, 1e6, float("nan")])
@pytest.mark.parametrize("kind", ["dense", "batch norm"])
@pytest.mark.parametrize(
    "algorithm", [MAML(), MAML(first_order=True), MAML(max_norm=0.1), Reptile(), ImplicitMAML(), RidgeHead(1.0)]
)
def test_losses_and_meta_gradients_are_those_of_the_tasks_alone(algorithm, kind, padding):
    batch, alone = ragged(padding)
    found = trained(net(kind), batch, algorithm)
    losses = found.step()
    parts = [trained(net(kind), task, algorithm) for task in alone]
    expected = torch.cat([part.step() for part in parts])
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)
    slopes = [{name: p.grad for name, p in part.params.items()} for part in parts]
    assert_same({name: p.grad for name, p in found.params.items()}, mean(slopes))


def test_scores_and_adapted_parameters_are_those_of_the_tasks_alone():
    batch, alone = ragged(float("nan"))
    scores = trained(net("dense"), batch, MAML()).evaluate(len(SIZES)).values
    expected = [trained(net("dense"), task, MAML()).evaluate(1).values for task in alone]
    torch.testing.assert_close(scores, torch.cat(expected), rtol=1e-12, atol=0)
    module = net("batch norm")
    params = dict(module.named_parameters())
    together = adapt(module, params, batch, 0.1, 2, adapted=["2"])
    assert together["0.weight"] is params["0.weight"]
    for i, task in enumerate(alone):
        expected = adapt(module, params, task, 0.1, 2, adapted=["2"])["2.weight"][0]
        torch.testing.assert_close(together["2.weight"][i], expected)


def test_a_task_of_a_padded_batch_is_a_module():
    batch, alone = ragged(float("nan"))
    found = trained(net("dense"), batch, MAML())
    X = alone[1].X_query[0]
    torch.testing.assert_close(found.module_of(batch[1:2])(X), found.module_of(alone[1])(X))


def test_episodes_of_unequal_sizes_are_padded_in_their_order():
    batch = TaskBatch.from_episodes(il.Episodes(draw(SIZES, 2, 1)))
    assert batch.X_support.shape == (5, 5, 2)
    assert batch.masks[0].sum(dim=1).tolist() == [n for n, _ in SIZES]
    for i, task in enumerate(ragged()[1]):
        assert torch.equal(batch.X_query[i][batch.masks[1][i]], task.X_query[0])
        assert torch.equal(batch.y_support[i][batch.masks[0][i]], task.y_support[0])


def test_a_design_gives_tasks_different_sizes():
    design = il.Design(3, [5, 2, 5], [3, 4, 3], n_adapt=6)
    module = nn.Linear(1, 1).double()
    found = MetaTrainer(module, SinusoidTasks(1), design, 0.05)
    batch = found.sampler.iteration(0)
    assert batch.masks[0].sum(dim=1).tolist() == [2, 5, 5]
    assert batch.masks[1].sum(dim=1).tolist() == [4, 3, 3]
    assert torch.equal(batch.X_query[0], SinusoidTasks(1).sample(1, 2, 4, (TRAINING, 0, 0)).X_query[0])
    found.train(2)
    assert found.iteration == 2
    assert found.sampler.draw(TEST, 2, 0).X_support.shape == (2, 6, 1)
    with pytest.raises(ValueError, match="of a sweep's design must be one number each"):
        sweep(lambda: module, il.Sinusoid(), design, [0.1], [0.1], n_seeds=1, n_iterations=1)


def test_masks_must_fit():
    X, y = torch.zeros(2, 3, 1), torch.zeros(2, 3, 1)
    with pytest.raises(ValueError, match=r"`support_mask` must be of bool and of shape \(2, 3\), got torch.int64"):
        TaskBatch(X, y, X, y, torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="`query_mask` must leave each task a row to score"):
        TaskBatch(X, y, X, y, query_mask=torch.tensor([[True] * 3, [False] * 3]))
