"""Batch normalisation: what an adapted module normalises with, and layers that differ from step to step."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn

import innerloop as il
import neural_reference  # noqa: F401  one torch thread
from innerloop.neural import (
    MAML,
    TEST,
    TRAINING,
    ImplicitMAML,
    MetaTrainer,
    Reptile,
    StepBatchNorm,
    TaskBatch,
    Training,
)
from innerloop.neural.module_call import at_step
from test_neural_gradients import assert_same


class Shifted:
    """Regression tasks whose inputs are far from zero, so that statistics of no data would ruin the network."""

    def sample(self, n_tasks, n_support, n_query, index):
        rng = torch.Generator().manual_seed(hash(index) % 2**31)
        w = torch.randn(n_tasks, 1, 1, generator=rng, dtype=torch.float64)
        X = [20 + 5 * torch.randn(n_tasks, n, 1, generator=rng, dtype=torch.float64) for n in (n_support, n_query)]
        y = [w * (x - 20) / 5 for x in X]
        return TaskBatch(X[0], y[0], X[1], y[1])


def net(layer):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 8), layer(), nn.Tanh(), nn.Linear(8, 1)).double()


def step_norm(n_steps=2):
    return lambda: StepBatchNorm(8, n_steps)


def trainer(module, design=None, **training):
    optimiser = {"optimiser": lambda tensors: torch.optim.Adam(tensors, 0.01)}
    return MetaTrainer(
        module, Shifted(), design or il.Design(4, 20, 20, n_steps=2), 0.1, training=Training(**optimiser, **training)
    )


@pytest.mark.parametrize("layer", [lambda: nn.BatchNorm1d(8), step_norm()], ids=["one", "each step"])
def test_running_statistics_that_training_does_not_use_are_warned_of(layer):
    found = trainer(net(layer))
    with pytest.warns(UserWarning, match="its running statistics are those of before: in evaluation mode it does not"):
        found.update_module()


@pytest.mark.slow
@pytest.mark.parametrize("layer", [lambda: nn.BatchNorm1d(8), step_norm()], ids=["one", "each step"])
def test_an_adapted_module_predicts_single_rows_with_the_statistics_of_its_support_rows(layer):
    found = trainer(net(layer))
    found.train(150)
    at_hand, single = found.evaluate(200).mean(), []
    for number in range(2):
        batch = Shifted().sample(100, 20, 20, (TEST, number))
        for i in range(100):
            module = found.module_of(batch[i : i + 1])
            assert not any(part.training for part in module.modules())
            outputs = torch.cat([module(row.unsqueeze(0)) for row in batch.X_query[i]])
            single.append((outputs - batch.y_query[i]).square().mean().item() / 2)
    assert sum(single) / 200 < 1.5 * at_hand
    hidden = module[0](batch.X_support[-1])
    torch.testing.assert_close(module[1].running_mean, hidden.mean(dim=0))
    torch.testing.assert_close(module[1].running_var, hidden.var(dim=0))
    assert module[1].momentum == 0.1
    assert torch.equal(found.module[1].running_mean, torch.zeros(8).double())


@pytest.mark.parametrize("algorithm", [MAML(), MAML(first_order=True), Reptile(), ImplicitMAML()])
def test_each_step_has_scales_of_its_own(algorithm):
    found = trainer(net(step_norm()), algorithm=algorithm)
    found.train(3)
    scales = found.params["1.weight"]
    moved = {k for k in range(3) if not torch.equal(scales[k], torch.ones(8).double())}
    assert moved >= ({0, 1} if algorithm in (MAML(), Reptile()) else {2})  # rows of a step act by second derivatives


def test_a_layer_of_each_step_is_batch_normalisation_where_its_rows_are_equal():
    """One step, as rows are adapted apart."""
    batch, losses, slopes = Shifted().sample(4, 20, 20, (TRAINING, 0)), [], []
    for layer in (lambda: nn.BatchNorm1d(8), step_norm(0)):
        found = trainer(net(layer), il.Design(4, 20, 20))
        losses.append(found.step(batch))
        slopes.append({name: value.grad.squeeze(0) for name, value in found.params.items() if not name.startswith("1")})
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    assert_same(*slopes)


@pytest.mark.parametrize("by_task", [None, True])
def test_a_layer_of_each_step_has_the_gradient_of_a_plain_loop(by_task):
    module, batch = net(step_norm()), Shifted().sample(3, 20, 20, (TRAINING, 0))
    found = trainer(module, il.Design(3, 20, 20, n_steps=2), by_task=by_task)
    found.step(batch)
    params, total = dict(module.named_parameters()), 0.0
    for X, y, X_query, y_query in zip(*batch.tensors, strict=True):
        theta = params
        for k in range(2):
            with at_step(k):
                loss = (torch.func.functional_call(module, theta, (X,)) - y).square().mean() / 2
            slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=True, allow_unused=True)
            theta = {n: p if g is None else p - 0.1 * g for (n, p), g in zip(theta.items(), slopes, strict=True)}
        outputs = torch.func.functional_call(module, theta, (X_query,))
        total = total + (outputs - y_query).square().mean() / 2
    expected = torch.autograd.grad(total / 3, list(params.values()))
    assert_same({n: p.grad for n, p in found.params.items()}, dict(zip(params, expected, strict=True)))
