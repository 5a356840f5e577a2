"""What is wrong is said in words: rates, modules, batches."""

import pytest

import innerloop as il
from cases import table

torch = pytest.importorskip("torch")

from torch import nn

from innerloop.neural import (
    MAML,
    ImplicitMAML,
    MetaTrainer,
    RidgeHead,
    SinusoidTasks,
    TaskBatch,
    TaskSetTasks,
    Training,
    adapt,
    sweep,
)

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1)).double()
BATCH = SinusoidTasks().sample(2, 5, 3, (0,))
PARAMS = dict(NET.named_parameters())
DESIGN = il.Design(2, 3, 3)


class Counter(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1).double()
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * self.calls


WRONG_RATES = {
    "nan": (float("nan"), "`inner_lr` must be finite .* got nan for '0.weight' at step 0"),
    "infinite for one": ({"": 0.1, "2.bias": float("inf")}, "got inf for '2.bias'"),
    "one element": ({"": 0.1, "2.bias": torch.tensor([float("nan")])}, "got nan for '2.bias'"),
    "wrong shape": (
        {"": 0.1, "0.weight": torch.zeros(3)},
        r"of '0.weight' must have shape \(\) or \(4, 1\), got \(3,\)",
    ),
    "a matrix for all": (torch.zeros(2, 2), r"of '0.weight' must have shape"),
    "wrong number of steps": ([0.1, 0.2, 0.3], r"one rate per step \(2\), got 3"),
    "a tensor with too many steps": (torch.zeros(3), r"one rate per step \(2\), got 3"),
    "no rate": ({"0": 0.1}, "no rate for '2.weight'"),
    "unknown name": ({"": 0.1, "head": 0.1}, "names 'head', which is no adapted parameter"),
}


@pytest.mark.parametrize(("rate", "message"), WRONG_RATES.values(), ids=WRONG_RATES)
def test_a_wrong_rate_is_refused(rate, message):
    with pytest.raises(ValueError, match=message):
        adapt(NET, PARAMS, BATCH, rate, n_steps=2)
    with pytest.raises(ValueError, match=message):
        MetaTrainer(NET, SinusoidTasks(), il.Design(2, 3, 3, n_steps=2), rate)


@pytest.mark.parametrize("rate", ["0.1", None, [None], {"": "0.1"}, [0.1, "fast"], ...], ids=str)
def test_what_is_no_rate_is_refused(rate):
    message = "`inner_lr` must be a number or a tensor, .* got "
    with pytest.raises(TypeError, match=message):
        adapt(NET, PARAMS, BATCH, rate)
    with pytest.raises(TypeError, match=message):
        MetaTrainer(NET, SinusoidTasks(), DESIGN, rate)


def test_an_optimiser_must_be_made_not_given():
    given = torch.optim.SGD(NET.parameters(), lr=0.1)
    message = r"`optimiser` must be a function that makes an optimiser .* got SGD"
    with pytest.raises(TypeError, match=message):
        Training(optimiser=given)
    with pytest.raises(TypeError, match=r"`scheduler` must be a function that makes a scheduler .* got StepLR"):
        Training(scheduler=torch.optim.lr_scheduler.StepLR(given, 3))


@pytest.mark.parametrize("made", [NET, 3], ids=["module", "number"])
def test_a_sweep_needs_a_function_that_makes_modules(made):
    message = f"`make_module` must be a function that makes a module, .* got {type(made).__name__}; .* lambda"
    with pytest.raises(TypeError, match=message):
        sweep(made, SinusoidTasks(), DESIGN, [0.1], [0.1], n_seeds=1, n_iterations=1)


def test_a_sweep_needs_a_rate_of_adaptation():
    with pytest.raises(ValueError, match="`adapt_lrs` must hold at least one rate, got none"):
        sweep(lambda: NET, SinusoidTasks(), DESIGN, [0.1], [], n_seeds=1, n_iterations=1)


@pytest.mark.parametrize("by_task", [None, False, True])
def test_a_loss_of_several_numbers_is_refused(by_task):
    def squares(prediction, y):
        return (prediction - y) ** 2

    trainer = MetaTrainer(NET, SinusoidTasks(), DESIGN, 0.1, training=Training(loss=squares, by_task=by_task))
    with pytest.raises(ValueError, match=r"`loss` must return one number for a task, got shape \(3, 1\)"):
        trainer.step()
    trainer = MetaTrainer(NET, SinusoidTasks(), DESIGN, 0.1)
    with pytest.raises(ValueError, match=r"`metric` must return one number for a task, got shape \(3, 1\)"):
        trainer.evaluate(2, metric=squares)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.GRU(1, 3, batch_first=True).double(), nn.Linear(3, 1).double()

    def forward(self, x):
        return self.head(self.body(x.unsqueeze(-1))[0][:, -1])


def test_a_module_that_cannot_be_vectorised_goes_task_by_task():
    asked = Training(by_task=False)
    with pytest.raises(ValueError, match=r"torch cannot call `module` for many tasks at once .* leave `by_task` out"):
        MetaTrainer(Recurrent(), SinusoidTasks(), DESIGN, 0.1, training=asked).step()
    trainer = MetaTrainer(Recurrent(), SinusoidTasks(), DESIGN, 0.1)
    assert trainer.model.is_in_parts(trainer.device)
    trainer.step()
    counts = {"n_seeds": 1, "n_iterations": 1, "n_validation": 1, "n_test": 1}
    found = sweep(Recurrent, SinusoidTasks(), DESIGN, [0.1], [0.1], **counts)
    assert found.loss.notnull().all()


def test_what_else_goes_wrong_in_a_module_is_left_as_it_is():
    wrong = nn.Sequential(nn.Linear(1, 4), nn.Softmax(dim=-1), nn.Linear(3, 1)).double()
    with pytest.raises(RuntimeError, match="Expected size"):
        MetaTrainer(wrong, SinusoidTasks(), DESIGN, 0.1, training=Training(by_task=False)).step()


def test_a_wrong_adaptation_rate_is_called_by_its_name():
    with pytest.raises(ValueError, match="`adapt_lr` must be finite"):
        MetaTrainer(NET, SinusoidTasks(), DESIGN, 0.1, adapt_lr=float("nan"))


def test_every_way_to_write_a_rate_means_the_same():
    full = {name: torch.full_like(value, -0.3) for name, value in PARAMS.items()}
    ways = [-0.3, torch.tensor(-0.3), torch.full((2,), -0.3), [-0.3, -0.3], {"": -0.3}, {"0": -0.3, "2": -0.3}, full]
    ways += [[{"": 1.0, **full}, -0.3]]
    expected = adapt(NET, PARAMS, BATCH, torch.tensor(-0.3, dtype=torch.float64), n_steps=2)
    for way in ways:
        found = adapt(NET, PARAMS, BATCH, way, n_steps=2)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)  # a float32 of -0.3 is 1e-8 off


def test_a_buffer_changed_in_place_is_refused():
    module = Counter()
    with pytest.raises(ValueError, match="`module` changes its buffer 'calls' in place"):
        adapt(module, dict(module.named_parameters()), BATCH, 0.1)
    assert module.calls == 0


def test_a_buffer_that_is_only_read_is_fine():
    module = nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3).eval(), nn.Linear(3, 1)).double()
    assert len(adapt(module, dict(module.named_parameters()), BATCH, 0.1)["0.weight"]) == 2


def test_an_unknown_part_cannot_adapt():
    with pytest.raises(ValueError, match="`adapted` names 'head'"):
        adapt(NET, PARAMS, BATCH, 0.1, adapted=["head"])
    with pytest.raises(ValueError, match="must choose at least one parameter"):
        adapt(NET, PARAMS, BATCH, 0.1, adapted=lambda _: False)
    with pytest.raises(ValueError, match="names 'head'"):
        MetaTrainer(NET, SinusoidTasks(), DESIGN, 0.1, training=Training(algorithm=MAML(subset=["head"])))


def test_outputs_of_another_shape_than_the_targets_are_refused():
    with pytest.raises(
        ValueError, match=r"the module's output must have the shape of the task's targets, got \(5, 1\)"
    ):
        adapt(NET, PARAMS, TaskBatch(BATCH.X_support, BATCH.y_support[..., 0], BATCH.X_query, BATCH.y_query), 0.1)


def test_batches_must_fit():
    X, y = torch.zeros(2, 3, 1), torch.zeros(2, 3, 1)
    with pytest.raises(ValueError, match="`X_support` and `y_support` must begin with the same two axes"):
        TaskBatch(X, y[:, :2], X, y)
    with pytest.raises(ValueError, match="`X_support` and `X_query` must have as many tasks"):
        TaskBatch(X, y, X[:1], y[:1])


def test_a_small_task_is_named():
    tasks = TaskSetTasks(il.TaskSet.from_arrays(*table([9, 4], 2)), validation=None, test=None)
    with pytest.raises(ValueError, match=r"task 1 has 4 row\(s\), too few for 3 support and 3 query rows"):
        tasks.sample(2, 3, 3, (0,))


@pytest.mark.parametrize("make", [lambda: RidgeHead(0.0), lambda: RidgeHead(float("nan"))])
def test_a_penalty_must_be_positive(make):
    with pytest.raises(ValueError, match="`l2` must be positive and finite"):
        make()


def test_the_penalty_of_implicit_maml_must_be_positive():
    with pytest.raises(ValueError, match="`l2` must be positive and finite"):
        ImplicitMAML(-1.0)


def test_batches_move_and_keep_class_names():
    batch = TaskBatch(BATCH.X_support, torch.zeros(2, 5, dtype=torch.long), BATCH.X_query, BATCH.y_query)
    moved = batch.to("cpu", torch.float32)
    assert moved.X_support.dtype == torch.float32
    assert moved.y_support.dtype == torch.long
