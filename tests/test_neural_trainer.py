"""Training: what agrees with the exact solution, what goes on after a kill, what several processes share."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import innerloop as il
from cases import draw

torch = pytest.importorskip("torch")

from torch import nn

import neural_reference as reference
from innerloop.neural import (
    MAML,
    Callback,
    EarlyStopping,
    ImplicitMAML,
    MetaTrainer,
    Reptile,
    RidgeHead,
    Scores,
    SinusoidTasks,
    TaskBatch,
    TensorBoardCallback,
    Training,
    accuracy,
    adapt,
    predict,
)
from innerloop.neural.training import Adam
from test_neural_gradients import Fixed


def with_dropout(p):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(p), nn.BatchNorm1d(8), nn.Linear(8, 1)).double()


@pytest.mark.parametrize("by_task", [False, True])
def test_test_tasks_are_scored_without_dropout_and_with_their_own_batch_statistics(by_task):
    dropping, plain = (trainer(with_dropout(p), by_task=by_task) for p in (0.5, 0.0))
    scores = dropping.evaluate(6).values
    torch.testing.assert_close(scores, plain.evaluate(6).values, rtol=1e-12, atol=0)
    torch.testing.assert_close(scores, dropping.evaluate(6).values, rtol=0, atol=0)
    assert dropping.step().mean() != plain.step().mean()
    assert all(part.training for part in dropping.module.modules())
    frozen = trainer(with_dropout(0.5), by_task=by_task)
    frozen.module[3].eval()  # its running statistics are those of no data: mean 0, variance 1
    assert not torch.allclose(frozen.evaluate(6).values, scores)


def test_attention_is_scored_as_it_is_trained():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.widen, self.head = nn.Linear(1, 4).double(), nn.Linear(4, 1).double()
            self.body = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True).double()

        def forward(self, x):
            return self.head(self.body(self.widen(x).unsqueeze(0))[0])

    attention = trainer(Attention(), by_task=True)
    expected = attention.evaluate(4).values
    attention.module.eval()
    torch.testing.assert_close(attention.evaluate(4).values, expected)


def test_buffers_follow_the_dtype_of_the_parameters():
    module = nn.Sequential(
        nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4).eval(), nn.Linear(4, 1)
    )
    single, double = (trainer(module, dtype=dtype) for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(double.step().float(), single.step(), rtol=1e-3, atol=1e-4)
    assert double.evaluate(3).values.dtype == torch.float64
    assert module[1].running_mean.dtype == torch.float32


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def trainer(module=None, inner_lr=0.05, design=None, adapt_lr=None, learn_inner_lr=False, callbacks=(), **training):
    return MetaTrainer(
        module or small_net(),
        SinusoidTasks(1),
        design or il.Design(4, 5, 3),
        inner_lr,
        adapt_lr,
        training=Training(**training),
        learn_inner_lr=learn_inner_lr,
        callbacks=callbacks,
    )


def weights(trained):
    return torch.cat([tensor.detach().reshape(-1) for tensor in trained.learned])


@pytest.mark.parametrize("inner_lr", [-0.4, 0.0, 0.3])
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("n_targets", [None, 2])
def test_a_linear_module_has_the_loss_and_gradient_of_the_meta_objective(n_targets, n_steps, inner_lr):
    episodes = il.Episodes(draw([(6, 4)] * 5, 3, n_targets))
    objective = il.MetaObjective.from_episodes(episodes, n_steps)
    module = nn.Linear(3, n_targets or 1, bias=False).double()
    batch = TaskBatch.from_episodes(episodes)
    k = n_targets or 1  # the inner loss is a mean over targets, so that the same step has a rate k times as large
    found = MetaTrainer(module, Fixed(batch), il.Design(5, 6, 4, n_steps=n_steps), k * inner_lr)
    coef = module.weight.detach().numpy().T.copy()
    loss = found.step().mean().item()
    B, g, scale = objective.at(inner_lr)
    residual = scale * (g - B @ coef)
    assert loss == pytest.approx((residual**2).sum() / (2 * objective.weight * k), rel=1e-10)
    expected = -scale * B.T @ residual / (objective.weight * k)
    np.testing.assert_allclose(found.params["weight"].grad.numpy().T, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_training_a_linear_module_reaches_the_exact_solution():
    episodes = il.Episodes(draw([(6, 4)] * 5, 3))
    exact = il.solve(il.MetaObjective.from_episodes(episodes), -0.2)
    found = MetaTrainer(
        nn.Linear(3, 1, bias=False).double(),
        Fixed(TaskBatch.from_episodes(episodes)),
        il.Design(5, 6, 4),
        -0.2,
        training=Training(optimiser=lambda tensors: torch.optim.SGD(tensors, 0.2)),
    )
    found.train(1500)
    np.testing.assert_allclose(found.update_module().weight.detach().numpy()[0], exact.coef, rtol=1e-6)


def test_training_lowers_the_loss_on_unseen_tasks():
    design = il.Design(4, 5, 3, n_steps=2)
    found = trainer(inner_lr=0.01, design=design, optimiser=lambda tensors: torch.optim.Adam(tensors, 0.02))
    before = found.evaluate(100).values
    found.train(60)
    gain = before - found.evaluate(100).values
    assert gain.mean() > 4 * gain.std() / 10


def test_adaptation_has_its_own_rate_steps_and_rows():
    found = trainer(adapt_lr=0.02, design=il.Design(4, 5, 3, n_adapt=7, n_adapt_steps=3))
    batch = SinusoidTasks(1).sample(4, 7, 3, (2, 0))
    params = dict(found.module.named_parameters())
    rates = [{name: torch.tensor(0.02, dtype=torch.float64) for name in params}] * 3
    expected = [
        reference.task_gradient(found.module, params, list(params), rates, task)[0]
        for task in zip(*batch.tensors, strict=True)
    ]
    torch.testing.assert_close(found.evaluate(4).values, torch.stack(expected), rtol=1e-12, atol=0)
    same = trainer(adapt_lr=0.02, design=il.Design(4, 5, 3, n_adapt=7))
    torch.testing.assert_close(same.evaluate(4, n_steps=3).values, found.evaluate(4).values, rtol=0, atol=0)
    torch.testing.assert_close(
        same.evaluate(4, n_steps=0).values, same.evaluate(4, adapt_lr=0.0).values, rtol=1e-12, atol=0
    )


def test_a_learned_rate_crosses_zero():
    found = trainer(inner_lr={"": 0.001}, learn_inner_lr=True, optimiser=lambda tensors: torch.optim.SGD(tensors, 0.0))
    found.optimiser.param_groups[0]["lr"] = 1e-3 / abs(_rate_slope(found)) * 3
    found.rate_tensors[""].data.fill_(0.001 * np.sign(_rate_slope(found)))
    start = found.rate_tensors[""].item()
    found.step()
    assert found.rate_tensors[""].item() * start < 0


def _rate_slope(found):
    probe = trainer(inner_lr={"": 0.0}, learn_inner_lr=True)
    probe.step(found._batch())
    return probe.rate_tensors[""].grad.item()


def test_the_module_is_left_alone_until_asked():
    module = small_net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = trainer(module)
    found.train(2)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert found.update_module() is module
    assert torch.equal(module[0].weight, found.params["0.weight"])


def test_running_statistics_are_left_alone():
    module = reference.conv4("batch")
    before = {name: value.clone() for name, value in module.named_buffers()}
    X, y = torch.randn(4, 3, 1, 16, 16, dtype=torch.float64), torch.randn(4, 3, 3, dtype=torch.float64)
    MetaTrainer(module, Fixed(TaskBatch(X, y, X, y)), il.Design(4, 3, 3), 0.1).train(1)
    assert all(torch.equal(before[name], value) for name, value in module.named_buffers())


def test_classes_are_learned_by_cross_entropy():
    X = torch.randn(4, 6, 2, dtype=torch.float64)
    y = (X[..., 0] > 0).long()
    found = MetaTrainer(
        nn.Linear(2, 2).double(),
        Fixed(TaskBatch(X, y, X, y)),
        il.Design(4, 6, 6),
        0.5,
        training=Training(loss=nn.functional.cross_entropy, optimiser=lambda tensors: torch.optim.Adam(tensors, 0.1)),
    )
    found.train(50)
    assert found.evaluate(4, metric=accuracy).mean() > 0.9


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_gradients_are_the_same(monkeypatch):
    # Torch imports distutils, which setuptools would replace, and fails to where others have imported it.
    monkeypatch.setenv("SETUPTOOLS_USE_DISTUTILS", "stdlib")
    rates = {"0": 0.1, "2": -0.05}
    design = il.Design(4, 5, 3, n_steps=2)
    plain, fast = (trainer(inner_lr=rates, design=design, compile=compile) for compile in (False, True))
    for found in (plain, fast):
        found.train(3)
    torch.testing.assert_close(weights(fast), weights(plain), rtol=1e-12, atol=1e-14)


def test_without_a_compiler_the_message_says_so(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(RuntimeError, match="needs a C\\+\\+ compiler"):
        trainer(compile=True)


TRAINING = """
import sys, torch
from torch import nn
torch.set_num_threads(1)
import innerloop as il
from innerloop.neural import MetaTrainer, Training
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1))
training = Training(seed=1, optimiser=lambda t: torch.optim.AdamW(t, 1e-3, amsgrad=True),
                    scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 100))
found = MetaTrainer(net, il.Sinusoid(), il.Design(3, 4, 3), {"": torch.full((), 0.05)},
                    training=training, learn_inner_lr=True)
folder = sys.argv[1]
try:
    found.load(folder)
except FileNotFoundError:
    pass
print("ready", flush=True)
found.train(100, checkpoint=folder, checkpoint_every=10)
print("done", flush=True)
"""


def run_training(folder, kill_after=None):
    """Run the training in a process, kill it after so many seconds, and return whether it got to the end."""
    environment = os.environ | {"PYTHONPATH": str(Path(il.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(folder)], stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        if kill_after is not None:
            process.stdout.readline()
            time.sleep(kill_after)
            process.send_signal(signal.SIGKILL)
        return "done" in process.stdout.read()


def tensors_of(folder):
    from safetensors.torch import load_file

    manifest = json.loads((folder / "manifest.json").read_text())
    return load_file(folder / manifest["files"]["tensors"]["name"])


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_bits(tmp_path):
    assert run_training(tmp_path / "whole")
    for seconds in (0.05, 0.2):
        run_training(tmp_path / "killed", seconds)
    assert run_training(tmp_path / "killed")
    whole, killed = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_a_checkpoint_holds_all_that_goes_on(tmp_path):
    settings = {"scheduler": lambda optimiser: torch.optim.lr_scheduler.StepLR(optimiser, 2)}
    whole, first, second = (trainer(**settings) for _ in range(3))
    whole.train(6)
    first.train(3, checkpoint=tmp_path)
    second.load(tmp_path)
    second.train(6)
    assert torch.equal(weights(whole), weights(second))
    assert second.scheduler.get_last_lr() == whole.scheduler.get_last_lr()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".json", ".safetensors"]


@pytest.mark.parametrize("part", ["tensors", "state"])
def test_a_damaged_checkpoint_is_refused(tmp_path, part):
    found = trainer()
    found.train(1, checkpoint=tmp_path)
    (file,) = tmp_path.glob(f"{part}-*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read .*does not have the checksum"):
        found.load(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"cannot be read .*is missing"):
        found.load(tmp_path)


@pytest.mark.parametrize("manifest", [b"", b"{}", b"[1]", b'{"format": "other", "version": 1}'])
def test_a_damaged_manifest_is_refused(tmp_path, manifest):
    (tmp_path / "manifest.json").write_bytes(manifest)
    with pytest.raises(ValueError, match="cannot be read"):
        trainer().load(tmp_path)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    trainer().train(1, checkpoint=tmp_path)
    with pytest.raises(
        ValueError, match=r"another module: its parameter '0.bias' has shape \(8,\), this one has shape \(9,\)"
    ):
        trainer(nn.Sequential(nn.Linear(1, 9), nn.Tanh(), nn.Linear(9, 1))).load(tmp_path)
    with pytest.raises(ValueError, match="its inner rate '' has shape \\(\\), this one has none"):
        trainer(inner_lr={"0": 0.1, "2": 0.1}).load(tmp_path)
    with pytest.raises(ValueError, match="optimiser Adam, this training has SGD"):
        trainer(optimiser=lambda tensors: torch.optim.SGD(tensors, 0.1)).load(tmp_path)


def rectified(prediction, y):
    return (prediction - y).abs().mean()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": SinusoidTasks(1)}, "seed 0 there, 1 asked for"),
        ({"design": il.Design(4, 5, 5, n_steps=3)}, "n_steps 1 there, 3 asked for"),
        ({"design": il.Design(9, 2, 5)}, "design .* asked for"),
        ({"training": Training(algorithm=MAML(first_order=True))}, "first_order False there, True asked for"),
        ({"training": Training(optimiser=Adam(1e-5))}, "lr 0.001 there, 1e-05 asked for"),
        ({"training": Training(loss=rectified)}, "loss .* asked for"),
        (
            {"module": nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))},
            r"1 Tanh\(\) there, ReLU\(\) asked for",
        ),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_by_name(tmp_path, changes, words):
    same = {
        "module": nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)),
        "tasks": SinusoidTasks(0),
        "design": il.Design(4, 5, 5),
    }
    MetaTrainer(**same, inner_lr=0.01).save(tmp_path)
    MetaTrainer(**same, inner_lr=0.01, adapt_lr=0.5).load(tmp_path)
    with pytest.raises(ValueError, match=rf"checkpoint of another training \(({words})\); give the same"):
        MetaTrainer(**{**same, **changes}, inner_lr=0.01).load(tmp_path)


@pytest.mark.parametrize(
    ("rate", "other"), [(0.01, -0.01), (0.01, 0.010001), ({"0": 0.1, "2": 0.0}, {"0": 0.1, "2": 0.2})], ids=str
)
def test_a_checkpoint_is_resumed_at_its_inner_rate_alone(tmp_path, rate, other):
    trainer(inner_lr=rate).save(tmp_path)
    trainer(inner_lr=rate).load(tmp_path)
    with pytest.raises(ValueError, match="was trained at inner rate"):
        trainer(inner_lr=other).load(tmp_path)


def test_a_folder_of_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(FileExistsError, match="no innerloop checkpoint"):
        trainer().save(tmp_path)


def test_no_checkpoint_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint in"):
        trainer().load(tmp_path)


SHARED = """
import sys, torch
from torch import distributed, nn
distributed.init_process_group("gloo")
import innerloop as il
from innerloop.neural import MetaTrainer, SinusoidTasks
torch.manual_seed(distributed.get_rank())
net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
rate = 0.05 if distributed.get_rank() == 0 else 0.5
found = MetaTrainer(net, SinusoidTasks(1), il.Design(5, 5, 3), rate, learn_inner_lr=True)
found.train(5, checkpoint=sys.argv[1])
net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1)).double()
whole, first, second = (MetaTrainer(net, SinusoidTasks(1), il.Design(2, 5, 3), 0.05) for _ in range(3))
torch.manual_seed(7 + distributed.get_rank())
whole.train(4)
torch.manual_seed(7 + distributed.get_rank())
first.train(2, checkpoint=sys.argv[1] + "-dropout")
torch.manual_seed(99)
second.load(sys.argv[1] + "-dropout")
second.train(4)
assert all(torch.equal(a, b) for a, b in zip(whole.learned, second.learned))
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    (tmp_path / "shared.py").write_text(SHARED)
    environment = os.environ | {"PYTHONPATH": str(Path(il.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(tmp_path / "shared.py"), str(tmp_path / "out")]
    ran = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    alone, shared = (trainer(inner_lr=0.05, design=il.Design(5, 5, 3), learn_inner_lr=True) for _ in range(2))
    alone.train(5)
    shared.load(tmp_path / "out")
    torch.testing.assert_close(weights(shared), weights(alone), rtol=1e-13, atol=1e-15)


class Recorder(Callback):
    def __init__(self):
        self.seen, self.ended = [], 0

    def on_step(self, trainer, losses):
        self.seen.append((trainer.iteration, len(losses)))

    def on_end(self, trainer):  # noqa: ARG002
        self.ended += 1


def test_callbacks_see_every_iteration():
    recorder = Recorder()
    trainer(callbacks=[recorder]).train(3)
    assert recorder.seen == [(1, 4), (2, 4), (3, 4)]
    assert recorder.ended == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_loss_and_learned_rates(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(learn_inner_lr=True, callbacks=[TensorBoardCallback(tmp_path, every=2)]).train(4)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"meta-training loss", "inner_lr/all"}
    assert [event.step for event in events.Scalars("meta-training loss")] == [2, 4]


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="`n_steps` must be at least 0"):
        trainer().evaluate(1, n_steps=-1)


def test_anil_moves_the_head_only():
    module, batch = small_net(), SinusoidTasks().sample(3, 5, 5, (0,))
    params = dict(module.named_parameters())
    theta = adapt(module, params, batch, 0.1, adapted=["2"])
    assert theta["0.weight"] is params["0.weight"]
    assert theta["2.weight"].shape == (3, 1, 8)
    assert MAML(subset=lambda name: name.startswith("2")).adapted(params) == ["2.weight", "2.bias"]


@pytest.mark.slow
@pytest.mark.parametrize("by_task", [None, False, True])
def test_training_stops_at_the_first_loss_that_is_not_finite(by_task):
    found = trainer(inner_lr=1e200, by_task=by_task)
    before = weights(found).clone()
    with pytest.raises(FloatingPointError, match=r"the mean loss of iteration 1 is (nan|inf), and training stops"):
        found.train(3)
    assert torch.equal(weights(found), before)
    assert found.iteration == 0


@pytest.mark.parametrize("algorithm", [Reptile(), ImplicitMAML(), RidgeHead()])
def test_rates_that_would_never_move_are_not_learned(algorithm):
    with pytest.raises(ValueError, match=f"`learn_inner_lr` cannot be True with {type(algorithm).__name__}"):
        trainer(algorithm=algorithm, learn_inner_lr=True)


def test_weight_decay_leaves_learned_rates_alone():
    settings = {"learn_inner_lr": True, "inner_lr": 0.05}
    plain, decayed = (
        trainer(optimiser=lambda t, decay=decay: torch.optim.AdamW(t, 1e-3, weight_decay=decay), **settings)
        for decay in (0.0, 0.5)
    )
    for found in (plain, decayed):
        found.step()
    assert torch.equal(plain.rate_tensors[""], decayed.rate_tensors[""])
    assert not torch.equal(plain.params["0.weight"], decayed.params["0.weight"])


def test_a_rate_that_is_set_is_the_rate_of_training():
    changed, made = trainer(inner_lr=0.05), trainer(inner_lr=-0.3)
    changed.inner_lr = -0.3
    torch.testing.assert_close(changed.step(), made.step(), rtol=0, atol=0)
    torch.testing.assert_close(changed.evaluate(3).values, made.evaluate(3).values, rtol=0, atol=0)
    with pytest.raises(ValueError, match="`inner_lr` must be finite"):
        changed.inner_lr = float("nan")
    with pytest.raises(ValueError, match="`inner_lr` is learned in this training"):
        trainer(learn_inner_lr=True).inner_lr = 0.1


def test_a_batch_that_is_given_is_cast_as_that_of_the_source():
    found = trainer()
    losses = found.step(SinusoidTasks(1).sample(4, 5, 3, (0, 0)).to(dtype=torch.float32))
    torch.testing.assert_close(losses, trainer().step(), rtol=1e-4, atol=1e-5)


def test_the_meta_gradient_is_clipped():
    free, clipped = (trainer(max_norm=max_norm) for max_norm in (None, 1e-3))
    for found in (free, clipped):
        found.step()
    slopes = [torch.cat([p.grad.flatten() for p in found.params.values()]) for found in (free, clipped)]
    torch.testing.assert_close(slopes[1], 1e-3 * slopes[0] / slopes[0].norm(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_a_task_takes_no_step_longer_than_the_clipped_gradient(max_norm):
    module, batch = small_net(), SinusoidTasks(1).sample(3, 5, 3, (0, 0))
    found = MetaTrainer(
        module, Fixed(batch), il.Design(3, 5, 3), 0.05, training=Training(algorithm=MAML(max_norm=max_norm))
    )
    losses, params, values = found.step(), dict(module.named_parameters()), []
    for X, y, X_query, y_query in zip(*batch.tensors, strict=True):
        slopes = torch.autograd.grad(reference.half_mse(module(X), y), list(params.values()), create_graph=True)
        norm = torch.sqrt(sum(slope.square().sum() for slope in slopes))
        factor = min(1.0, max_norm / norm)
        theta = {n: p - 0.05 * factor * slope for (n, p), slope in zip(params.items(), slopes, strict=True)}
        values.append(reference.half_mse(torch.func.functional_call(module, theta, (X_query,)), y_query))
    torch.testing.assert_close(losses, torch.stack(values).detach(), rtol=1e-12, atol=0)
    expected = torch.autograd.grad(sum(values) / 3, list(params.values()))
    for slope, tensor in zip(expected, found.params.values(), strict=True):
        torch.testing.assert_close(tensor.grad, slope, rtol=1e-10, atol=1e-14)


def test_scores_have_a_mean_and_an_interval():
    scores = Scores(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert scores.mean() == 3.0
    error = np.std([1, 2, 3, 6], ddof=1) / 2
    assert scores.interval() == pytest.approx((3 - 1.96 * error, 3 + 1.96 * error))
    assert str(scores) == f"3 ± {1.96 * error:.2g} (95 %, 4 tasks)"


@pytest.mark.parametrize("module", [small_net, lambda: with_dropout(0.5)])
def test_how_many_tasks_are_in_memory_changes_no_score(module):
    found = trainer(module())
    scores = [found.evaluate(9, tasks_at_once=n).values for n in (None, 1, 2, 100)]
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], rtol=1e-12, atol=0)


def test_more_steps_than_in_training_take_the_last_rate():
    per_step = trainer(inner_lr=[0.05, -0.02], design=il.Design(4, 5, 3, n_steps=2))
    more = per_step.evaluate(4, n_steps=4).values
    torch.testing.assert_close(more, per_step.evaluate(4, n_steps=4, adapt_lr=[0.05, -0.02, -0.02, -0.02]).values)
    torch.testing.assert_close(
        per_step.evaluate(4, n_steps=1).values, per_step.evaluate(4, n_steps=1, adapt_lr=0.05).values
    )


def test_early_stopping_ends_and_goes_back_to_the_best():
    stopping = EarlyStopping(every=2, patience=2, n_tasks=10)
    found = trainer(callbacks=[stopping], optimiser=lambda tensors: torch.optim.SGD(tensors, 0.05, maximize=True))
    found.train(1000)  # climbs, so that the first look is the best
    assert found.iteration == 6
    assert stopping.best_iteration == 2
    again = trainer(optimiser=lambda tensors: torch.optim.SGD(tensors, 0.05, maximize=True))
    again.train(2)
    assert torch.equal(weights(found), weights(again))


@pytest.mark.parametrize("rate", [0.05, {"0": 0.05, "2": -0.02}, [0.05, {"": 0.1, "2.bias": torch.zeros(1)}]])
def test_learned_rates_adapt_new_tasks(rate):
    found = trainer(inner_lr=rate, learn_inner_lr=True, design=il.Design(4, 5, 3, n_steps=2))
    before = [tensor.detach().clone() for tensor in found.rate_tensors.values()]
    found.train(3)
    assert not any(torch.equal(a, b) for a, b in zip(before, found.rate_tensors.values(), strict=True))
    batch = SinusoidTasks(1).sample(4, 5, 3, (2, 0))
    params = adapt(found.module, found.params, batch, found.inner_lr, n_steps=2)
    outputs = predict(found.module, params, batch.X_query)
    errors = (outputs - batch.y_query).square().mean(dim=(1, 2)) / 2
    torch.testing.assert_close(errors, found.evaluate(4).values, rtol=1e-12, atol=0)


def test_the_module_of_a_task_predicts_as_the_trainer_does():
    found, batch = trainer(), SinusoidTasks(1).sample(1, 5, 3, (2, 0))
    found.train(2)
    module = found.module_of(batch, n_steps=3)
    params = adapt(found.module, found.params, batch, 0.05, n_steps=3)
    torch.testing.assert_close(module(batch.X_query[0]), predict(found.module, params, batch.X_query)[0])
    assert torch.equal(found.module[0].weight, small_net()[0].weight)
    with pytest.raises(ValueError, match="`batch` must hold one task, got 2"):
        found.module_of(SinusoidTasks(1).sample(2, 5, 3, (2, 0)))
    exported = torch.export.export(module, (batch.X_query[0],))
    torch.testing.assert_close(exported.module()(batch.X_query[0]), module(batch.X_query[0]))


def test_statistics_that_are_not_tracked_are_those_of_the_rows_at_hand_in_evaluation_mode():
    module = nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 1)).double()
    found = trainer(module)
    scores = found.evaluate(4).values
    found.update_module()
    found.module.eval()
    torch.testing.assert_close(found.evaluate(4).values, scores, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize(
    ("layer", "name"), [(nn.Hardsigmoid, "1"), (lambda: nn.EmbeddingBag(5, 3), "")], ids=["hardsigmoid", "bag"]
)
def test_a_layer_that_torch_cannot_differentiate_twice_is_named(layer, name):
    made = layer() if name == "" else nn.Sequential(nn.Linear(2, 3), layer())
    module = nn.Sequential(made, nn.Linear(3, 1)).double()
    X = torch.randint(0, 5, (2, 4, 2)) if name == "" else torch.randn(2, 4, 2, dtype=torch.float64)
    y = torch.randn(2, 4, 1, dtype=torch.float64)
    source, kind = Fixed(TaskBatch(X, y, X, y)), "EmbeddingBag" if name == "" else "Hardsigmoid"
    found = MetaTrainer(module, source, il.Design(2, 4, 4), 0.1)
    with pytest.raises(NotImplementedError, match=rf"cannot differentiate `module` twice.* its layer '0.*' \({kind}\)"):
        found.step()
    MetaTrainer(module, source, il.Design(2, 4, 4), 0.1, training=Training(algorithm=MAML(first_order=True))).step()
