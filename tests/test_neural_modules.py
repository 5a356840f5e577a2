"""Any module: gradients are those of a plain loop, batched or task by task, and the module stays as it was."""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations

import innerloop as il
import neural_reference as reference
from innerloop.neural import MetaTrainer, Reptile, TaskBatch, Training, adapt, predict
from innerloop.neural.batch import task_of
from test_neural_gradients import Fixed, assert_same, mean, tasks

N_TASKS, N_SUPPORT, N_QUERY, N_CLASSES = 3, 4, 3, 5


def numbers(*shape):
    return lambda: torch.randn(shape, dtype=torch.float64)


def words(*shape):
    return lambda: torch.randint(0, N_CLASSES, shape)


def after(first, layer):
    return lambda: nn.Sequential(first(), layer())


def dense(layer):
    return after(lambda: nn.Linear(3, 4), layer), numbers(3)


def conv(n, layer, size):
    return after(lambda: getattr(nn, f"Conv{n}d")(2, 2, 2), layer), numbers(2, *[size] * n)


class OutputOf(nn.Module):
    """The first output of a layer, for the same inputs given `n_times`."""

    def __init__(self, layer, n_times=1):
        super().__init__()
        self.layer, self.n_times = layer, n_times

    def forward(self, x):
        output = self.layer(*[x] * self.n_times)
        return output[0] if isinstance(output, tuple) else output


class OfTwo(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.first, self.layer = nn.Linear(3, 3), layer

    def forward(self, x):
        return self.layer(self.first(x), torch.tanh(x))


class Unpooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.unpool = nn.Conv2d(2, 2, 1), nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x):
        return self.unpool(*self.pool(self.conv(x)))


class Adaptive(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.layer = nn.Linear(3, 6), nn.AdaptiveLogSoftmaxWithLoss(6, 10, [3, 6])

    def forward(self, x):
        return self.layer.log_prob(self.first(x))


def attention(**options):
    return lambda: OutputOf(nn.MultiheadAttention(4, 2, batch_first=True, **options), 3)


def encoder():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 5, 0.0, batch_first=True), 2)


LAYERS = {
    "linear": (lambda: nn.Linear(3, 2), numbers(3)),
    "bilinear": (lambda: OfTwo(nn.Bilinear(3, 3, 2)), numbers(3)),
    "cosine": (lambda: OfTwo(nn.CosineSimilarity()), numbers(3)),
    "distance": (lambda: OfTwo(nn.PairwiseDistance()), numbers(3)),
    "adaptive softmax": (Adaptive, numbers(3)),
    "unpool": (Unpooled, numbers(2, 4, 4)),
    "fold": (after(lambda: nn.Linear(9, 9), lambda: nn.Fold((4, 4), (2, 2))), numbers(4, 9)),
    "embedding": (lambda: nn.Embedding(N_CLASSES, 3), words(3)),
    "embedding, padded": (lambda: nn.Embedding(N_CLASSES, 3, padding_idx=0), words(3)),
    "embedding, padded at the end": (lambda: nn.Embedding(N_CLASSES, 3, padding_idx=-1), words(3)),
    "embedding, by frequency": (lambda: nn.Embedding(N_CLASSES, 3, scale_grad_by_freq=True), words(3)),
    "rnn": (lambda: OutputOf(nn.RNN(3, 4, batch_first=True)), numbers(5, 3)),
    "lstm": (lambda: OutputOf(nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True)), numbers(5, 3)),
    "gru": (lambda: OutputOf(nn.GRU(3, 4, batch_first=True)), numbers(5, 3)),
    "rnn cell": (lambda: nn.RNNCell(3, 4), numbers(3)),
    "lstm cell": (lambda: OutputOf(nn.LSTMCell(3, 4)), numbers(3)),
    "gru cell": (lambda: nn.GRUCell(3, 4), numbers(3)),
    "attention": (attention(), numbers(3, 4)),
    "attention without weights": (lambda: Unweighted().eval(), numbers(3, 4)),
    "attention with more keys": (attention(add_bias_kv=True, add_zero_attn=True), numbers(3, 4)),
    "encoder": (encoder, numbers(3, 4)),
    "encoder, eval": (lambda: encoder().eval(), numbers(3, 4)),
    "transformer": (lambda: OutputOf(nn.Transformer(4, 2, 1, 1, 5, 0.0, batch_first=True), 2), numbers(3, 4)),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(3, 4)), numbers(3)),
    "weight norm of a convolution": (lambda: parametrizations.weight_norm(nn.Conv1d(2, 3, 2)), numbers(2, 5)),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(3, 3)), numbers(3)),
    "spectral norm, eval": (lambda: parametrizations.spectral_norm(nn.Linear(3, 4)).eval(), numbers(3)),
    "local response": (after(lambda: nn.Conv1d(2, 4, 1), lambda: nn.LocalResponseNorm(2)), numbers(2, 5)),
    "layer norm": (lambda: nn.LayerNorm(4), numbers(4)),
    "rms norm": (lambda: nn.RMSNorm(4), numbers(4)),
    "group norm": (lambda: nn.GroupNorm(2, 4), numbers(4, 3)),
    "prelu of each": dense(lambda: nn.PReLU(4)),
    "threshold": dense(lambda: nn.Threshold(0.1, 0.2)),
    "softmax2d": (after(lambda: nn.Conv2d(2, 3, 1), nn.Softmax2d), numbers(2, 3, 3)),
}
LAYERS |= {
    f"conv{'-transpose' * transposed}{n}d {options}": (
        lambda n=n, options=options, kind="ConvTranspose" if transposed else "Conv": getattr(nn, f"{kind}{n}d")(
            2, 2, 2, **options
        ),
        numbers(2, *[4] * n),
    )
    for n in (1, 2, 3)
    for transposed in (False, True)
    for options in ({}, {"groups": 2}, {"stride": 2, "bias": False})
}
LAYERS |= {
    f"{name} {'eval' * (not training)} {options}": (
        lambda name=name, options=options, training=training: getattr(nn, name)(4, **options).train(training),
        numbers(4, *[3] * int(name[-2])),
    )
    for name, choices in {
        **{f"BatchNorm{n}d": ({}, {"track_running_stats": False}, {"momentum": None}) for n in (1, 2, 3)},
        **{f"InstanceNorm{n}d": ({"affine": True}, {"affine": True, "track_running_stats": True}) for n in (1, 2, 3)},
    }.items()
    for options in choices
    for training in (True, False)
}
LAYERS |= {
    name: dense(lambda name=name: getattr(nn, name)())
    for name in (
        *("CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "Mish"),
        *("PReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh"),
        *("Tanhshrink", "Identity", "Flatten"),
    )
}
LAYERS |= {
    f"{name} in place": dense(lambda name=name: getattr(nn, name)(inplace=True))
    for name in ("CELU", "ELU", "Hardswish", "Hardtanh", "LeakyReLU", "Mish", "ReLU", "ReLU6", "SELU", "SiLU")
}
LAYERS |= {name: dense(lambda name=name: getattr(nn, name)(-1)) for name in ("Softmax", "LogSoftmax", "Softmin")}
LAYERS |= {
    f"{name}{n}d": conv(n, lambda name=name, n=n, given=given: getattr(nn, f"{name}{n}d")(*given), 7 - n)
    for n in (1, 2, 3)
    for name, given in {
        **dict.fromkeys(("AvgPool", "MaxPool", "AdaptiveAvgPool", "AdaptiveMaxPool"), (2,)),
        **{"LPPool": (2, 2), "ZeroPad": (1,), "ConstantPad": (1, 0.5), "ReflectionPad": (1,)},
        **{"ReplicationPad": (1,), "CircularPad": (1,)},
    }.items()
}
LAYERS |= {
    name: conv(2, lambda name=name, given=given: getattr(nn, name)(*given), 5)
    for name, given in {
        **{"PixelShuffle": (1,), "PixelUnshuffle": (2,), "ChannelShuffle": (2,), "Unfold": (2,)},
        **{"UpsamplingNearest2d": (None, 2), "UpsamplingBilinear2d": (None, 2)},
    }.items()
}
LAYERS |= {
    f"upsample {mode}": conv(2, lambda mode=mode: nn.Upsample(scale_factor=2, mode=mode), 4)
    for mode in ("bicubic", "bilinear", "area", "nearest-exact")
}


class Unweighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.layer(x, x, x, need_weights=False)[0]


def mean_of_sines(prediction, y):
    weights = torch.arange(1.0, prediction.numel() + 1, dtype=prediction.dtype).view(prediction.shape)
    return (torch.sin(prediction) * weights).mean() + prediction.square().mean() + 0 * y.mean()


def batch_of(row):
    """Return tasks whose rows come from a function."""
    X, X_query = (torch.stack([torch.stack([row() for _ in range(n)]) for _ in range(N_TASKS)]) for n in (4, 3))
    y, y_query = (torch.zeros(N_TASKS, n, dtype=torch.float64) for n in (4, 3))
    return TaskBatch(X, y, X_query, y_query)


def of(name):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        make, row = LAYERS[name]
        return make().double(), batch_of(row)


def gradient(module, batch, loss=mean_of_sines, **training):
    design = il.Design(len(batch), N_SUPPORT, N_QUERY)
    trainer = MetaTrainer(module, Fixed(batch), design, 0.1, training=Training(loss=loss, **training))
    losses = trainer.step()
    return losses, {name: parameter.grad for name, parameter in trainer.params.items()}


def picture(module):
    """Return all that a module is: objects, and the bits of its tensors."""
    seen = [(id(part), part.training, sorted(part.__dict__)) for part in module.modules()]
    tensors = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    return seen, {name: (id(tensor), tensor.detach().clone()) for name, tensor in tensors.items()}


def assert_unchanged(module, before):
    parts, tensors = picture(module)
    assert parts == before[0]
    assert tensors.keys() == before[1].keys()
    for name, (identity, value) in tensors.items():
        assert identity == before[1][name][0], name
        assert torch.equal(value, before[1][name][1]), name


def test_vectorised_attention_does_without_warnings_of_torch():
    module, batch = of("attention without weights")
    design = il.Design(len(batch), N_SUPPORT, N_QUERY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = MetaTrainer(module, Fixed(batch), design, 0.1, training=Training(loss=mean_of_sines))
        trainer.step()
        trainer.evaluate(3)
    assert not trainer.model.is_in_parts(trainer.device)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_the_gradient_of_a_plain_loop_batched_and_task_by_task(name):
    module, batch = of(name)
    before, copied = picture(module), copy.deepcopy(module)
    losses, found = gradient(module, batch)
    assert_unchanged(module, before)
    alone, found_alone = gradient(module, batch, by_task=True)
    assert_same(found, found_alone)
    torch.testing.assert_close(losses, alone, rtol=1e-12, atol=1e-12)
    backwards = TaskBatch(*(part.flip(0) for part in batch.tensors))
    torch.testing.assert_close(gradient(module, backwards)[0].flip(0), losses, rtol=1e-12, atol=1e-12)
    if "weight norm" in name:
        return  # torch's own second derivative is not the reference; see below
    params = dict(copied.named_parameters())
    rates = [{n: torch.tensor(0.1, dtype=torch.float64) for n in params}]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            parts = [
                reference.task_gradient(copied, params, list(params), rates, task, mean_of_sines)
                for task in tasks(batch)
            ]
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert_same(found, mean([part[1] for part in parts]))


def test_weight_norm_has_the_gradient_of_its_formula():
    class ByHand(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.bias = nn.Parameter(layer.bias.detach().clone())
            self.g = nn.Parameter(layer.parametrizations.weight.original0.detach().clone())
            self.v = nn.Parameter(layer.parametrizations.weight.original1.detach().clone())

        def forward(self, x):
            return nn.functional.linear(x, self.v * self.g / self.v.norm(dim=1, keepdim=True), self.bias)

    module, batch = of("weight norm")
    _, found = gradient(module, batch)
    _, expected = gradient(ByHand(module), batch)
    assert_same(dict(zip("bgv", found.values(), strict=True)), dict(zip("bgv", expected.values(), strict=True)))


def repeated():
    block = nn.Linear(3, 3)
    return nn.Sequential(block, nn.Tanh(), block, nn.Tanh(), block)


def same_activation():
    act = nn.PReLU()
    return nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 3), act)


def tied():
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    return module


class Remembers(nn.Module):
    """Keeps what it computes: in an attribute, a new one, and in a list."""

    def __init__(self):
        super().__init__()
        self.layer, self.last, self.all = nn.Linear(3, 3), None, []

    def forward(self, x):
        self.last = self.new = self.layer(x)
        self.all.append(self.last)
        return self.last


class Fails(Remembers):
    def forward(self, x):
        super().forward(x)
        raise KeyError("no such word")


SHARING = {
    **{"repeated layer": repeated, "same activation": same_activation, "tied weights": tied, "memory": Remembers},
    **{"failure": Fails, "batch norm": lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))},
    "lstm": lambda: OutputOf(nn.LSTM(3, 3)),
}


@pytest.mark.parametrize("by_task", [None, True])
@pytest.mark.parametrize("name", SHARING)
def test_every_public_call_leaves_the_module_as_it_was(name, by_task):
    module, batch = SHARING[name]().double(), batch_of(numbers(3))
    before, params = picture(module), dict(module.named_parameters())

    def everything():
        theta = adapt(module, params, batch, 0.1, loss=mean_of_sines, by_task=by_task)
        predict(module, theta, batch.X_query, by_task)
        training = Training(loss=mean_of_sines, by_task=by_task)
        trainer = MetaTrainer(module, Fixed(batch), il.Design(N_TASKS, 4, 3), 0.1, training=training)
        trainer.train(1)
        trainer.evaluate(N_TASKS)

    if name == "failure":
        for call in (everything, lambda: predict(module, params, batch.X_query, by_task)):
            with pytest.raises(KeyError):
                call()
    else:
        everything()
    assert_unchanged(module, before)
    assert getattr(module, "all", []) == []


@pytest.mark.parametrize("make", [repeated, same_activation, tied])
def test_layers_that_share_have_the_gradient_of_a_plain_loop(make):
    module, batch = make().double(), batch_of(numbers(3))
    _, found = gradient(module, batch)
    params = dict(module.named_parameters())
    values = []
    for Xs, _, Xq, _ in tasks(batch):
        own = copy.deepcopy(module)
        leaves = dict(own.named_parameters())
        slopes = torch.autograd.grad(mean_of_sines(own(Xs), torch.zeros(1)), list(leaves.values()), create_graph=True)
        stepped = {n: p - 0.1 * g for (n, p), g in zip(leaves.items(), slopes, strict=True)}
        value = mean_of_sines(called(own, stepped, Xq), torch.zeros(1))
        values.append(dict(zip(params, torch.autograd.grad(value, list(leaves.values())), strict=True)))
    assert_same(found, mean(values))


def called(module, tensors, x):
    """Call a sequence with other tensors, by the objects that hold them."""
    values = {id(parameter): tensors[name] for name, parameter in module.named_parameters()}
    for layer in module:
        own = {name: values[id(p)] for name, p in layer._parameters.items() if p is not None}
        if isinstance(layer, nn.Linear):
            x = nn.functional.linear(x, **own)
        elif isinstance(layer, nn.PReLU):
            x = nn.functional.prelu(x, **own)
        else:
            x = layer(x)
    return x


def test_frozen_parameters_stay_out():
    module, batch = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double(), batch_of(numbers(3))
    module[0].requires_grad_(False)
    _, found = gradient(module, batch)
    assert list(found) == ["2.weight", "2.bias"]
    head = copy.deepcopy(module)[2]
    with torch.no_grad():
        features = TaskBatch(*(module[1](module[0](part)) if part.ndim == 3 else part for part in batch.tensors))
    _, expected = gradient(head, features)
    assert_same(found, {f"2.{name}": value for name, value in expected.items()})
    params = dict(module.named_parameters())
    theta = adapt(module, params, batch, 0.1, loss=mean_of_sines)
    assert theta["0.weight"] is params["0.weight"]
    with pytest.raises(ValueError, match="`module` must have parameters that learn"):
        gradient(nn.Linear(3, 1).double().requires_grad_(False), batch)


class Named(nn.Module):
    """Takes numbers and words by name, and returns a dict."""

    def __init__(self):
        super().__init__()
        self.words, self.numbers = nn.Embedding(N_CLASSES, 3), nn.Linear(3, 3)

    def forward(self, numbers, words):
        return {"sum": self.numbers(numbers) + self.words(words), "more": torch.tanh(self.numbers(numbers))}


class InOrder(Named):
    def forward(self, *given):
        return super().forward(*given)


@pytest.mark.parametrize("by_task", [None, True])
def test_inputs_and_outputs_are_trees_of_tensors(by_task):
    def loss(prediction, y):
        return (prediction["sum"] * y[0].unsqueeze(-1)).square().mean() + prediction["more"].sum() * y[1].float().mean()

    def rows(n):
        X = {"numbers": torch.randn(N_TASKS, n, 3, dtype=torch.float64), "words": torch.randint(0, 5, (N_TASKS, n))}
        return X, (torch.randn(N_TASKS, n, dtype=torch.float64), torch.ones(N_TASKS, n, dtype=torch.int32))

    batch = TaskBatch(*rows(4), *rows(3))
    module = Named().double()
    losses, found = gradient(module, batch, loss, by_task=by_task)
    ordered = InOrder().double()
    ordered.load_state_dict(module.state_dict())
    as_tuples = TaskBatch(
        tuple(batch.X_support.values()), batch.y_support, tuple(batch.X_query.values()), batch.y_query
    )
    same, _ = gradient(ordered, as_tuples, loss, by_task=by_task)
    torch.testing.assert_close(losses, same, rtol=1e-12, atol=0)
    params, values = dict(module.named_parameters()), []
    for i in range(N_TASKS):
        X, y, X_query, y_query = (task_of(part, i) for part in batch.tensors)
        value = loss(module(**X), y)
        slopes = torch.autograd.grad(value, list(params.values()), create_graph=True)
        theta = {n: p - 0.1 * g for (n, p), g in zip(params.items(), slopes, strict=True)}
        outer = loss(torch.func.functional_call(module, theta, (), X_query), y_query)
        values.append(dict(zip(params, torch.autograd.grad(outer, list(params.values())), strict=True)))
    assert_same(found, mean(values))
    outputs = predict(module, params, batch.X_query, by_task)
    assert outputs["sum"].shape == (N_TASKS, 3, 3)
    with pytest.raises(TypeError, match="`X_support` and `y_support` must be tensors, or trees of tensors, got int"):
        TaskBatch({"a": 1}, *batch.tensors[1:])


def test_a_loss_and_a_metric_that_cannot_be_vectorised_go_task_by_task():
    def loss(prediction, y):
        return prediction.square().mean() * (2.0 if prediction.sum().item() > 0 else 1.0) + 0 * y.mean()

    def metric(prediction, y):  # noqa: ARG001
        return float(prediction.detach().numpy().max())

    module, batch = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 1)).double(), batch_of(numbers(3))
    _, found = gradient(module, batch, loss)
    _, expected = gradient(module, batch, loss, by_task=True)
    assert_same(found, expected)
    trainer = MetaTrainer(
        module, Fixed(batch), il.Design(N_TASKS, 4, 3), 0.1, training=Training(loss=loss, algorithm=Reptile())
    )
    assert trainer.evaluate(N_TASKS, metric=metric).values.shape == (N_TASKS,)


def test_an_embedding_that_renormalises_is_refused():
    module, batch = nn.Embedding(N_CLASSES, 3, max_norm=1.0).double(), batch_of(words(2))
    before = picture(module)
    with pytest.raises(ValueError, match="`module` has an embedding with `max_norm`, which changes its weights"):
        adapt(module, dict(module.named_parameters()), batch, 0.1, loss=mean_of_sines)
    assert_unchanged(module, before)


def test_recurrent_layers_do_without_cudnn():
    """On a CUDA device cuDNN has no second derivative of them."""
    seen = []

    class Watched(OutputOf):
        def forward(self, x):
            seen.append(torch.backends.cudnn.enabled)
            return super().forward(x)

    module, batch = Watched(nn.LSTM(3, 3)).double(), batch_of(numbers(3))
    before = torch.backends.cudnn.enabled
    adapt(module, dict(module.named_parameters()), batch, 0.1, loss=mean_of_sines)
    assert seen
    assert not seen[-1]
    assert torch.backends.cudnn.enabled == before
