"""Networks as linear models: exact where they are linear, exact ANIL on a frozen body, and the limit of great width."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import innerloop as il
from innerloop.neural import TaskBatch, adapt, features, half_mse, linearize, predict
from innerloop.papers.bernacchia2021 import fig5, network

FOLDER = Path(__file__).parents[1] / "benchmarks"
RATES = [-0.7, 0.0, 0.3]


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batch(n_outputs=1, n_tasks=4, n_support=5, n_query=6):
    rng = torch.Generator().manual_seed(0)
    shapes = [(n_support, 3), (n_support, n_outputs), (n_query, 3), (n_query, n_outputs)]
    return TaskBatch(*(torch.randn(n_tasks, *shape, generator=rng, dtype=torch.float64) for shape in shapes))


def make(*layers):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(*(layer() for layer in layers)).double()


def linear(n_inputs, n_outputs):
    return lambda: torch.nn.Linear(n_inputs, n_outputs)


def query_loss(module, params, tasks, rate, n_steps=1, adapted=None):
    after = adapt(module, params, tasks, torch.tensor(rate, dtype=torch.float64), n_steps, adapted=adapted)
    return half_mse(predict(module, after, tasks.X_query), tasks.y_query)


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_a_linear_module_is_met_exactly(n_outputs, n_steps):
    tasks, module = batch(n_outputs), make(linear(3, n_outputs))
    linear_model = linearize(module)
    objective = il.MetaObjective.from_episodes(linear_model.episodes(tasks), n_steps)
    for rate in RATES:
        solution = il.solve(objective, rate)
        params = {name: value.requires_grad_() for name, value in linear_model.params_at(solution.coef).items()}
        loss = query_loss(module, params, tasks, rate, n_steps)
        assert abs(loss.item() / solution.loss - 1) < 1e-10
        gradients = torch.autograd.grad(loss, list(params.values()))
        assert max(g.abs().max().item() for g in gradients) < 1e-10


@pytest.mark.parametrize("adapted", [None, "2"])
def test_derivatives_and_kernel_are_those_of_the_outputs(adapted):
    module = make(linear(3, 6), torch.nn.Tanh, linear(6, 2))
    model, X = linearize(module, adapted=adapted), np.random.default_rng(0).standard_normal((4, 3))
    d = np.random.default_rng(1).standard_normal(model.n_features)
    ahead, behind = (linearize(module, model.params_at(h * d)).start(X) for h in (1e-5, -1e-5))
    np.testing.assert_allclose(model.features(X) @ d, ((ahead - behind) / 2e-5).ravel(), rtol=1e-7)
    one = linearize(make(linear(3, 6), torch.nn.Tanh, linear(6, 1)), adapted=adapted)
    np.testing.assert_allclose(one.kernel(X, X[:2]), one.features(X) @ one.features(X[:2]).T, rtol=1e-12)
    np.testing.assert_allclose(one.kernel(X.reshape(2, 2, 3), X[:1]), one.kernel(X, X[:1]).reshape(2, 2, 1), rtol=1e-12)


def test_the_tangent_kernel_gives_what_its_features_give(monkeypatch):
    monkeypatch.setattr("innerloop.neural.linear._NUMBERS_AT_ONCE", 1000)  # several pieces
    tasks, module = batch(), make(linear(3, 12), torch.nn.Tanh, linear(12, 1))
    raw = il.Episodes(tuple(part.numpy() for part in task) for task in zip(*tasks.tensors, strict=True))
    model, new = linearize(module), np.random.default_rng(0).standard_normal((5, 3))
    primal = il.solve_path(il.MetaObjective.from_episodes(model.episodes(raw)), RATES)
    dual = il.solve_path(il.KernelObjective.from_episodes(raw, model.kernel, start=model.start), RATES)
    expected = primal.coef @ model.features(new).T + model.start(new)
    np.testing.assert_allclose(dual.predict(new)[..., 0], expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(model.episodes(tasks).X, model.episodes(raw).X)


def test_a_frozen_body_with_an_exact_head_is_anil():
    tasks, body = batch(n_outputs=2), make(linear(3, 4), torch.nn.Tanh)
    whole = torch.nn.Sequential(body, torch.nn.Linear(4, 2).double())
    objective = il.MetaObjective.from_episodes(features(body).episodes(tasks), n_steps=2)
    for rate in RATES:
        solution = il.solve(objective, rate / 2)  # per target, where half_mse is a mean over the two
        params = dict(whole.named_parameters())
        head = torch.from_numpy(solution.coef)
        params |= {"1.weight": head[:-1].T.clone(), "1.bias": head[-1].clone()}
        loss = query_loss(whole, params, tasks, rate, n_steps=2, adapted="1")
        assert abs(loss.item() / solution.loss - 1) < 1e-10
    assert features(body, constant=False)(np.ones((7, 3), dtype=np.float32)).shape == (7, 4)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ((linear(3, 4), lambda: torch.nn.BatchNorm1d(4), linear(4, 1)), "`module` has BatchNorm1d in training mode"),
        ((linear(3, 4), torch.nn.Dropout, linear(4, 1)), "`module` has Dropout in training mode"),
    ],
)
def test_rows_must_not_depend_on_each_other(layers, sentence):
    for function in (linearize, features):
        with pytest.raises(ValueError, match=sentence):
            function(make(*layers))
        function(make(*layers).eval())


def test_bad_input_is_one_sentence():
    with pytest.raises(ValueError, match="`kernel` takes modules with one output, got 2"):
        linearize(make(linear(3, 2))).kernel(np.ones((4, 3)), np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"`coef` must have shape \(4,\), got \(3,\)"):
        linearize(make(linear(3, 1))).params_at(np.ones(3))
    with pytest.raises(ValueError, match="`adapted` names 'body'"):
        linearize(make(linear(3, 1)), adapted="body")


class ReluNetwork(torch.nn.Module):
    """The network of Figure 5, written as a module."""

    def __init__(self, hidden, output, bias):
        super().__init__()
        self.hidden, self.output, self.bias = (torch.nn.Parameter(part) for part in (hidden, output, bias))

    def forward(self, X):
        units = torch.relu(X @ self.hidden)
        return units @ self.output * (2 / self.hidden.shape[1]) ** 0.5 + fig5.BIAS_STD * self.bias


def test_the_fast_losses_are_those_of_the_module():
    rng, lanes = torch.Generator().manual_seed(0), 3
    params = [torch.randn(lanes, *shape, generator=rng, dtype=torch.float64) for shape in ((4, 8), (8, 1), (1, 1))]
    shapes = [(5, 4), (5, 1), (6, 4), (6, 1)]
    tasks = network.Tasks(*(torch.randn(lanes, 2, *shape, generator=rng, dtype=torch.float64) for shape in shapes))
    rates = torch.tensor([-0.4, 0.0, 0.3], dtype=torch.float64)
    points = [part.clone().requires_grad_() for part in params]
    losses = network.losses(points, tasks, rates, fig5.BIAS_STD)
    gradients = torch.autograd.grad(losses.sum(), points)
    for i in range(lanes):
        module = ReluNetwork(*(part[i] for part in params))
        loss = query_loss(
            module, dict(module.named_parameters()), TaskBatch(*(part[i] for part in tasks)), rates[i].item()
        )
        assert abs(loss.item() / losses[i].item() - 1) < 1e-12
        for found, expected in zip(gradients, torch.autograd.grad(loss, list(module.parameters())), strict=True):
            torch.testing.assert_close(found[i], expected, rtol=1e-11, atol=1e-13)


@pytest.mark.slow
def test_wider_networks_come_closer_to_their_kernel():
    widths = [32, 128, 512, 2048]
    result = benchmark("network_width").measure(widths, n_seeds=2, letters="a", rates=[-0.4])
    distances = result["distance"]["a"]
    slope = np.polyfit(np.log(widths), np.log(distances), 1)[0]
    assert (np.diff(distances, axis=0) < 0).all()
    assert -0.75 < slope < -0.25
