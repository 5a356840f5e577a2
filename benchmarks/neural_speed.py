"""Meta-steps a second of innerloop.neural, of a per-task loop and of torch.func, side by side in one run.

    python benchmarks/neural_speed.py --out benchmarks/results/neural_speed.json [--learn2learn FOLDER] [--part PART]

FOLDER is an unpacked source of learn2learn (`pip download --no-deps --no-binary :all: learn2learn`), of which only
`algorithms/maml.py` is loaded; without it the peer is the same loop of clone, adapt and backward written here. A round
times one step of everybody in turn, so that other work on the machine meets all alike; ratios are of medians over
rounds, and of the fastest rounds. Each runs with the number of threads that suits it best.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from solve_path import environment
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import innerloop as il
from innerloop.neural import MetaTrainer, SinusoidTasks, Stage, TaskBatch, Training, half_mse
from innerloop.neural.sources import EpisodeSampler
from innerloop.neural.sweep import Lanes, Sweep

N_RATES = 21
SINUSOID = il.Design(n_tasks=25, n_support=10, n_query=10)
BURST = 10
N_CORES = os.cpu_count() or 1


def mlp(width: int = 40) -> nn.Module:
    return nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


def conv4(channels: int = 64, n_classes: int = 5, track: bool = True) -> nn.Module:
    blocks = [
        nn.Sequential(
            nn.Conv2d(1 if i == 0 else channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels, track_running_stats=track),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        for i in range(4)
    ]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(channels, n_classes))


class PlainMAML(nn.Module):
    """What learn2learn's MAML does: clone the module's tensors, then replace them by updated ones."""

    def __init__(self, module: nn.Module, lr: float) -> None:
        super().__init__()
        self.module, self.lr = module, lr

    def clone(self) -> Adapted:
        return Adapted(self.module, {name: p.clone() for name, p in self.module.named_parameters()}, self.lr)


class Adapted:
    def __init__(self, module: nn.Module, params: dict[str, torch.Tensor], lr: float) -> None:
        self.module, self.params, self.lr = module, params, lr

    def __call__(self, X: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(self.module, self.params, (X,))

    def adapt(self, loss: torch.Tensor) -> None:
        gradients = torch.autograd.grad(loss, list(self.params.values()), create_graph=True)
        self.params = {n: p - self.lr * g for (n, p), g in zip(self.params.items(), gradients, strict=True)}


def load_peer(folder: Path | None) -> tuple[str, Any]:
    """Return the peer's name and class."""
    if folder is None:
        return "per-task loop", PlainMAML
    for name, path in (("learn2learn", "learn2learn"), ("learn2learn.algorithms", "learn2learn/algorithms")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder / path)]  # its __init__ would import gym, vision and text
        sys.modules[name] = package
    return "learn2learn", importlib.import_module("learn2learn.algorithms.maml").MAML


def peer_step(peer: Any, module: nn.Module, batch: TaskBatch, loss: Any) -> Callable[[], object]:
    maml = peer(module, lr=0.01)
    optimiser = torch.optim.Adam(maml.parameters(), 1e-3)

    def step() -> None:
        optimiser.zero_grad()
        total = torch.zeros(())
        for X, y, X_query, y_query in zip(*batch.tensors, strict=True):
            learner = maml.clone()
            learner.adapt(loss(learner(X), y))
            total = total + loss(learner(X_query), y_query)
        (total / len(batch)).backward()
        optimiser.step()

    return step


def func_step(module: nn.Module, batch: TaskBatch, loss: Any, n_steps: int, vectorised: bool) -> Callable[[], object]:
    """What a few lines of torch.func do: one task as a function, mapped over the tasks."""
    params = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    optimiser = torch.optim.Adam(params.values(), 1e-3, fused=True)

    def loss_of(theta: dict[str, torch.Tensor], X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = loss(torch.func.functional_call(module, theta, (X,)), y)
        return value

    def of_task(theta: dict[str, torch.Tensor], *task: torch.Tensor) -> torch.Tensor:
        X, y, X_query, y_query = task
        for _ in range(n_steps):
            slopes = torch.func.grad(loss_of)(theta, X, y)
            theta = {name: p - 0.01 * slopes[name] for name, p in theta.items()}
        return loss_of(theta, X_query, y_query)

    def step() -> None:
        optimiser.zero_grad()
        if vectorised:
            losses = torch.func.vmap(of_task, (None, 0, 0, 0, 0))(params, *batch.tensors)
        else:
            losses = torch.stack([of_task(params, *task) for task in zip(*batch.tensors, strict=True)])
        losses.mean().backward()
        optimiser.step()

    def with_kernel() -> None:
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            step()

    return with_kernel


class Attention(nn.Module):
    """Words, attention between them, and a score."""

    def __init__(self, n_words: int = 50, width: int = 32) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(n_words, width), nn.Linear(width, 1)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        words = self.words(x)
        attended = self.attention(words, words, words, need_weights=False)[0]
        score: torch.Tensor = self.head(attended.mean(dim=1))
        return score


class Fixed:
    """A source of one batch, so that drawing tasks is not timed."""

    def __init__(self, batch: TaskBatch) -> None:
        self.batch = batch

    def sample(self, n_tasks: int, *_: Any) -> TaskBatch:
        return self.batch[:n_tasks]


def our_step(module: nn.Module, batch: TaskBatch, loss: Any, compile: bool, n_steps: int = 1) -> Callable[[], object]:
    design = il.Design(len(batch), batch.X_support.shape[1], batch.X_query.shape[1], n_steps=n_steps)
    trainer = MetaTrainer(module, Fixed(batch), design, 0.01, training=Training(loss=loss, compile=compile))
    return lambda: trainer.step(batch)


def our_rates(batch: TaskBatch, loss: Any, compile: bool) -> Callable[[], object]:
    """Return one step of all rates together."""
    settings = Sweep(
        make_module=mlp,
        sampler=EpisodeSampler(Fixed(batch), SINUSOID),
        inner_lrs=np.linspace(-0.05, 0.05, N_RATES),
        adapt_lrs=np.zeros(1),
        n_iterations=0,
        n_validation=1,
        n_test=1,
        metric=None,
        training=Training(loss=loss, compile=compile),
    )
    lanes = Lanes(settings, range(1))
    tasks = lanes.tasks(Stage.TRAINING, 0, len(batch))
    return lambda: lanes.step(tasks)


def rounds(steps: dict[str, tuple[Callable[[], object], int]], n_rounds: int) -> dict[str, dict[str, float]]:
    """Return median and shortest seconds of a step of each, in bursts as in a training, with its number of threads."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(-(-n_rounds // BURST) + 1):
        for name, (step, n_threads) in steps.items():
            torch.set_num_threads(n_threads)
            start = time.perf_counter()
            for _ in range(BURST):
                step()
            if i > 0:  # the first warms up
                seconds[name].append((time.perf_counter() - start) / BURST)
    return {name: {"median": statistics.median(values), "best": min(values)} for name, values in seconds.items()}


def sgemm_rate(n_threads: int, n: int = 2000) -> float:
    """Return the machine's rate of matrix multiplication in single precision, in flop/s."""
    torch.set_num_threads(n_threads)
    A, times = torch.randn(n, n), []
    for _ in range(8):
        start = time.perf_counter()
        A @ A
        times.append(time.perf_counter() - start)
    return 2 * n**3 / min(times)


def best_threads(step: Callable[[], object], n_times: int) -> int:
    """Return the number of threads, one or all, with which a step takes less."""
    seconds = {}
    for n_threads in (1, N_CORES):
        seconds[n_threads] = rounds({"": (step, n_threads)}, n_times)[""]["best"]
    return min(seconds, key=seconds.__getitem__)


def measured(steps: dict[str, Callable[[], object]], n_rounds: int) -> dict[str, Any]:
    """Time all steps, the peer's first, and put them in relation."""
    threads = {name: best_threads(step, max(3, n_rounds // 10)) for name, step in steps.items()}
    seconds = rounds({name: (step, threads[name]) for name, step in steps.items()}, n_rounds)
    result = {name: {"threads": threads[name], **seconds[name]} for name in steps}
    peak = sgemm_rate(N_CORES)
    for name, step in steps.items():
        if "compiled" not in name:  # a compiled step hides its operations; they are those of the plain one
            with FlopCounterMode(display=False) as counter:
                step()
            flops = counter.get_total_flops()
        result[name]["matmul_mflop"] = flops / 1e6
        result[name]["fraction_of_sgemm"] = flops / seconds[name]["best"] / peak
    return {"steps": result, "sgemm_gflops": peak / 1e9}


def ratios(result: dict[str, Any], peer: str, name: str, times: int = 1) -> dict[str, float]:
    steps = result["steps"]
    return {kind: times * steps[peer][kind] / steps[name][kind] for kind in ("median", "best")}


def sinusoid(peer: tuple[str, Any], n_rounds: int) -> dict[str, Any]:
    """25 sine waves, 10 + 10 rows, one second-order step, Adam outside."""
    batch = SinusoidTasks(0).sample(25, 10, 10, index=(0,)).to(dtype=torch.float32)
    name, maml = peer
    mse = nn.functional.mse_loss
    steps = {
        name: peer_step(maml, mlp(), batch, mse),
        "default": our_step(mlp(), batch, half_mse, False),
        "compiled": our_step(mlp(), batch, half_mse, True),
        "rates, default": our_rates(batch, half_mse, False),
        "rates, compiled": our_rates(batch, half_mse, True),
    }
    result = measured(steps, n_rounds)
    result["speed_over_peer"] = {
        key: ratios(result, name, key, N_RATES if "rates" in key else 1) for key in steps if key != name
    }
    return result


def images(peer: tuple[str, Any], n_rounds: int) -> dict[str, Any]:
    """Conv4-64 on 8 tasks of 5 ways, 1 shot and 1 query row a class, 28 x 28."""
    rng = torch.Generator().manual_seed(0)
    X = [torch.randn(8, 5, 1, 28, 28, generator=rng) for _ in range(2)]
    y = torch.arange(5).expand(8, 5)
    batch = TaskBatch(X[0], y, X[1], y)
    name, maml = peer
    loss = nn.functional.cross_entropy
    steps = {
        name: peer_step(maml, conv4(), batch, loss),
        "default": our_step(conv4(), batch, loss, False),
        "compiled": our_step(conv4(), batch, loss, True),
    }
    result = measured(steps, n_rounds)
    result["speed_over_peer"] = {key: ratios(result, name, key) for key in steps if key != name}
    return result


def functions(_: tuple[str, Any], n_rounds: int) -> dict[str, Any]:
    """Five problems beside torch.func: vectorised over tasks and in a loop, of which the faster counts."""
    sines = SinusoidTasks(0).sample(25, 10, 10, index=(0,)).to(dtype=torch.float32)
    rng = torch.Generator().manual_seed(0)
    X = [torch.randn(4, 5, 1, 28, 28, generator=rng) for _ in range(2)]
    y = torch.arange(5).expand(4, 5)
    words = [torch.randint(0, 50, (25, 10, 6), generator=rng) for _ in range(2)]
    scores = [part.float().mean(dim=-1, keepdim=True) / 25 for part in words]
    mse, entropy = nn.functional.mse_loss, nn.functional.cross_entropy
    problems: dict[str, tuple[Callable[[], nn.Module], TaskBatch, Any, int]] = {
        "sinusoid, 1 step": (mlp, sines, mse, 1),
        "sinusoid, 5 steps": (mlp, sines, mse, 5),
        "sinusoid, width 256": (lambda: mlp(256), sines, mse, 1),
        "Conv4-16": (lambda: conv4(16, track=False), TaskBatch(X[0], y, X[1], y), entropy, 1),
        "embedding and attention": (Attention, TaskBatch(words[0], scores[0], words[1], scores[1]), mse, 1),
    }
    result: dict[str, Any] = {}
    for name, (make, batch, loss, n_steps) in problems.items():
        steps = {
            "torch.func, vmap": func_step(make(), batch, loss, n_steps, True),
            "torch.func, loop": func_step(make(), batch, loss, n_steps, False),
            "default": our_step(make(), batch, loss, False, n_steps),
        }
        threads = {key: best_threads(step, max(3, n_rounds // 10)) for key, step in steps.items()}
        seconds = rounds({key: (step, threads[key]) for key, step in steps.items()}, n_rounds)
        peer = min(("torch.func, vmap", "torch.func, loop"), key=lambda key: seconds[key]["median"])
        ratio = {kind: seconds[peer][kind] / seconds["default"][kind] for kind in ("median", "best")}
        result[name] = {"threads": threads, "seconds": seconds, "faster peer": peer, "speed_over_peer": ratio}
    return result


PARTS = {"sinusoid": (sinusoid, 1), "conv4": (images, 10), "torch.func": (functions, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--learn2learn", type=Path)
    parser.add_argument("--n-rounds", type=int, default=200)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    arguments = parser.parse_args()
    peer = load_peer(arguments.learn2learn)
    result: dict[str, Any] = {
        "peer": peer[0],
        "load_average": os.getloadavg()[0],
        "environment": environment() | {"torch": torch.__version__, "cores": N_CORES},
    }
    for part in arguments.part:
        work, n_rounds = PARTS[part]
        result[part] = work(peer, max(5, arguments.n_rounds // n_rounds))
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "environment"}, indent=1))


if __name__ == "__main__":
    main()
