"""Meta-gradients agree with a plain loop of double backward, for every algorithm and kind of module."""

from functools import cache
from itertools import permutations

import pytest

torch = pytest.importorskip("torch")

import innerloop as il
import neural_reference as reference
from innerloop.neural import (
    MAML,
    ImplicitMAML,
    MetaTrainer,
    Reptile,
    RidgeHead,
    TaskBatch,
    Training,
    adapt,
    predict,
    task_model,
)
from innerloop.neural.dense import is_dense
from innerloop.neural.module_call import ModuleCall
from innerloop.neural.rates import resolve

MODULES = {
    "mlp": reference.mlp,
    "batch norm": lambda: reference.conv4("batch"),
    "group norm": lambda: reference.conv4("group"),
}
HEAD = {"mlp": "4", "batch norm": "5", "group norm": "5"}
N_TASKS = 3


class Fixed:
    """A source of one batch."""

    def __init__(self, batch):
        self.batch = batch

    def sample(self, n_tasks, n_support, n_query, index):  # noqa: ARG002
        return self.batch


def case(kind):
    """Return a module and tasks."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = MODULES[kind]()
        shape = (2,) if kind == "mlp" else (1, 16, 16)
        n_outputs = 1 if kind == "mlp" else 3
        X_support, X_query = (torch.randn(N_TASKS, n, *shape, dtype=torch.float64) for n in (5, 4))
        y_support, y_query = (torch.randn(N_TASKS, n, n_outputs, dtype=torch.float64) for n in (5, 4))
        for parameter in module.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return module, TaskBatch(X_support, y_support, X_query, y_query)


def signed_rates(module):
    """Return a rate for each element of each parameter, of both signs."""
    rng = torch.Generator().manual_seed(1)
    return {
        name: 0.2 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        for name, parameter in module.named_parameters()
    }


def gradients(module, batch, rates, n_steps, algorithm, by_task, learn=False, compile=False):
    """Return losses and gradients of a trainer's first step."""
    names = algorithm.adapted(dict(module.named_parameters()))
    trainer = MetaTrainer(
        module,
        Fixed(batch),
        il.Design(N_TASKS, 5, 4, n_steps=n_steps),
        {name: rates[name] for name in names} if names else 0.1,
        training=Training(algorithm=algorithm, by_task=by_task, compile=compile),
        learn_inner_lr=learn,
    )
    losses = trainer.step()
    rate_gradients = {name: rate.grad for name, rate in trainer.rate_tensors.items()} if learn else {}
    return losses, {name: p.grad for name, p in trainer.params.items()}, rate_gradients


def assert_same(actual, expected, tolerance=1e-12):
    size = torch.sqrt(sum(value.square().sum() for value in expected.values()))
    error = torch.sqrt(sum((actual[name] - value).square().sum() for name, value in expected.items()))
    assert error <= tolerance * size


def mean(parts):
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


def tasks(batch):
    return list(zip(*batch.tensors, strict=True))


BOTH_WAYS = pytest.mark.parametrize("by_task", [False, True], ids=["batched", "by task"])
SHAPES = {"thin": (2, 1), "formed": (5, 3), "thin, then formed": (4, 2)}
DENSE_RATES = {
    "one": -0.3,
    "per layer": {"0": 0.2, "2": -0.3, "4": 0.1},
    "per parameter": {"": 0.1, "0.weight": -0.2, "2.bias": 0.3},
    "per element": None,
}
STEPS = pytest.mark.parametrize("n_steps", [1, 5])
KINDS = pytest.mark.parametrize("kind", MODULES)


@pytest.mark.slow
@BOTH_WAYS
@STEPS
@KINDS
@pytest.mark.parametrize("name", ["maml", "first order", "anil", "learned rates"])
def test_gradients_through_the_steps(kind, n_steps, name, by_task):
    module, batch = case(kind)
    algorithm = MAML(first_order=name == "first order", subset=[HEAD[kind]] if name == "anil" else None)
    params, rates = dict(module.named_parameters()), signed_rates(module)
    names = algorithm.adapted(params)
    learn = name == "learned rates"
    losses, found, found_rates = gradients(module, batch, rates, n_steps, algorithm, by_task, learn)
    own = [{n: rates[n] for n in names}] * n_steps
    parts = [
        reference.task_gradient(module, params, names, own, task, first_order=algorithm.first_order)
        for task in tasks(batch)
    ]
    torch.testing.assert_close(losses, torch.stack([part[0] for part in parts]), rtol=1e-12, atol=0)
    assert_same(found, mean([part[1] for part in parts]))
    if learn:
        over_steps = [{n: sum(step[n] for step in part[2]) for n in names} for part in parts]
        assert_same(found_rates, mean(over_steps))


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_convolutions_on_the_cpu_go_in_parts_by_their_sizes_alone(at_once, monkeypatch):
    """Support rows of the largest layer: 5 images of 4 channels of 16 x 16, 40 KiB."""
    monkeypatch.setattr(task_model, "_BYTES_AT_ONCE", at_once * 5 * 4 * 16 * 16 * 8)
    module, batch = case("batch norm")
    trainer = MetaTrainer(module, Fixed(batch), il.Design(N_TASKS, 5, 4, n_steps=2), 0.1)
    assert trainer.model.tasks_at_once(batch, trainer.device) == at_once
    assert trainer.model.tasks_at_once(batch, trainer.device, compiled=True) == 1
    calls, vmap = [], task_model.vmap
    monkeypatch.setattr(task_model, "vmap", lambda *args, **kwargs: calls.append(1) or vmap(*args, **kwargs))
    losses = trainer.step()
    assert len(calls) == (0 if at_once == 1 else 3)  # two steps and query rows; of three tasks, 1 + 2, one goes alone
    training = Training(by_task=True)
    alone = MetaTrainer(module, Fixed(batch), il.Design(N_TASKS, 5, 4, n_steps=2), 0.1, training=training)
    torch.testing.assert_close(losses, alone.step(), rtol=1e-12, atol=0)
    assert_same(*({name: p.grad for name, p in one.params.items()} for one in (trainer, alone)))
    scores = [one.evaluate(7).values for one in (trainer, alone)]
    torch.testing.assert_close(*scores, rtol=1e-9, atol=0)
    theta, expected = (
        adapt(module, dict(module.named_parameters()), batch, 0.1, by_task=by_task) for by_task in (None, True)
    )
    assert_same(theta, expected)


@BOTH_WAYS
@STEPS
@KINDS
def test_gradients_of_reptile(kind, n_steps, by_task):
    module, batch = case(kind)
    params, rates = dict(module.named_parameters()), signed_rates(module)
    _, found, _ = gradients(module, batch, rates, n_steps, Reptile(), by_task)
    assert_same(found, mean([reference.reptile_gradient(module, params, [rates] * n_steps, t) for t in tasks(batch)]))


@pytest.mark.slow
@BOTH_WAYS
@STEPS
@KINDS
def test_gradients_of_implicit_maml(kind, n_steps, by_task):
    module, batch = case(kind)
    rates = {name: rate / 20 for name, rate in signed_rates(module).items()}
    _, found, _ = gradients(module, batch, rates, n_steps, ImplicitMAML(40.0, n_cg_steps=60), by_task)
    assert_same(found, implicit_reference(kind, n_steps))


@cache
def implicit_reference(kind, n_steps):
    """Return the implicit gradient by dense Hessians, which cost most of the time and do not depend on `by_task`."""
    module, batch = case(kind)
    params, rates = dict(module.named_parameters()), {n: rate / 20 for n, rate in signed_rates(module).items()}
    return mean([reference.implicit_gradient(module, params, [rates] * n_steps, task, 40.0) for task in tasks(batch)])


@BOTH_WAYS
@KINDS
@pytest.mark.parametrize("n_support", [5, 2])
def test_gradients_through_a_ridge_head(kind, by_task, n_support):
    module, batch = case(kind)
    batch = TaskBatch(batch.X_support[:, :n_support], batch.y_support[:, :n_support], batch.X_query, batch.y_query)
    losses, found, _ = gradients(module, batch, {}, 1, RidgeHead(0.3), by_task)
    params = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    values = []
    for Xs, ys, Xq, yq in tasks(batch):
        support, query = (torch.func.functional_call(module, params, (X,)) for X in (Xs, Xq))
        gram = support.T @ support / n_support + 0.3 * torch.eye(support.shape[1], dtype=torch.float64)
        head = torch.linalg.inv(gram) @ support.T @ ys / n_support
        values.append(reference.half_mse(query @ head, yq))
    torch.testing.assert_close(losses, torch.stack(values).detach(), rtol=1e-12, atol=0)
    expected = torch.autograd.grad(sum(values) / N_TASKS, list(params.values()))
    assert_same(found, dict(zip(params, expected, strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize("subset", [None, ["4"], ["0.weight", "2.bias"]], ids=["all", "head", "parts"])
@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize(("n_support", "n_steps"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("rate", DENSE_RATES.values(), ids=DENSE_RATES)
def test_gradients_of_dense_layers_without_their_weights(rate, n_support, n_steps, first_order, subset):
    module, batch = case("mlp")
    batch = TaskBatch(batch.X_support[:, :n_support], batch.y_support[:, :n_support], batch.X_query, batch.y_query)
    params, algorithm = dict(module.named_parameters()), MAML(first_order, subset)
    names = algorithm.adapted(params)
    if rate is None:
        rate = {name: value for name, value in signed_rates(module).items() if name in names}
    if isinstance(rate, dict) and subset is not None:
        rate = {name: resolve(rate, params, 1)[0][name] for name in names} if set(rate) != set(names) else rate
    trainer = MetaTrainer(
        module,
        Fixed(batch),
        il.Design(N_TASKS, n_support, 4, n_steps=n_steps),
        rate,
        training=Training(algorithm=algorithm),
        learn_inner_lr=True,
    )
    assert trainer.model.is_dense
    trainer.step()
    own = resolve(rate, {name: params[name] for name in names}, n_steps)
    parts = [
        reference.task_gradient(module, params, names, own, task, first_order=first_order) for task in tasks(batch)
    ]
    assert_same({name: p.grad for name, p in trainer.params.items()}, mean([part[1] for part in parts]))
    slopes = sum(value.sum() for part in parts for step in part[2] for value in step.values()) / N_TASKS
    found = sum(tensor.grad.sum() for tensor in trainer.rate_tensors.values())
    torch.testing.assert_close(found, slopes, rtol=1e-11, atol=1e-13)


class Own(torch.nn.Module):
    """Two layers written by hand; `skip` adds the input, which is no function of single numbers."""

    def __init__(self, skip):
        super().__init__()
        self.skip, self.first, self.second = skip, torch.nn.Linear(2, 2), torch.nn.Linear(2, 1, bias=False)

    def forward(self, x):
        hidden = torch.sin(self.first(x))
        return self.second(hidden + x if self.skip else hidden)


class Twice(torch.nn.Module):
    """The same layer two times."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


WHETHER_DENSE = {
    "by hand": (Own(skip=False), True),
    "skip": (Own(skip=True), False),
    "twice": (Twice(), False),
    "in place": (torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(inplace=True), torch.nn.Linear(3, 1)), True),
    "dropout": (torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout(), torch.nn.Linear(3, 1)), False),
    "layer norm": (torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 1)), False),
}


@pytest.mark.parametrize(("module", "expected"), WHETHER_DENSE.values(), ids=WHETHER_DENSE)
def test_dense_modules_are_known_by_what_they_do(module, expected):
    assert is_dense(ModuleCall(module), dict(module.named_parameters()), torch.zeros(4, 2)) is expected


@BOTH_WAYS
@KINDS
def test_adapt_can_be_differentiated_by_start_and_rate(kind, by_task):
    module, batch = case(kind)
    params, rates = dict(module.named_parameters()), signed_rates(module)
    leaf = {name: rate.clone().requires_grad_() for name, rate in rates.items()}
    theta = adapt(module, params, batch, leaf, n_steps=2, by_task=by_task)
    prediction = predict(module, theta, batch.X_query, by_task)
    loss = (prediction - batch.y_query).square().mean() / 2
    found = torch.autograd.grad(loss, [*params.values(), *leaf.values()])
    parts = [reference.task_gradient(module, params, list(params), [rates] * 2, task) for task in tasks(batch)]
    assert_same(dict(zip(params, found, strict=False)), mean([part[1] for part in parts]))
    expected = mean([{n: part[2][0][n] + part[2][1][n] for n in params} for part in parts])
    assert_same(dict(zip(leaf, found[len(params) :], strict=True)), expected)


@pytest.mark.parametrize("order", list(permutations(("", "body", "body.0", "body.0.weight"))), ids=str)
def test_the_longest_name_of_a_rate_wins_in_any_order(order):
    like = {name: torch.zeros(2) for name in ("body.0.weight", "body.0.bias", "body.1.weight", "head")}
    rates = {"": 0.1, "body": 0.2, "body.0": 0.3, "body.0.weight": 0.4}
    (found,) = resolve({name: rates[name] for name in order}, like, 1)
    assert [round(rate.item(), 6) for rate in found.values()] == [0.4, 0.3, 0.2, 0.1]
