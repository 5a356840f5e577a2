"""Most memory held by tensors in training and in evaluation, in MiB: python benchmarks/neural_memory.py."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import accumulate
from operator import itemgetter
from pathlib import Path

import torch
from torch import nn

import innerloop as il
from innerloop.neural import MAML, ClassTasks, MetaTrainer, Reptile, Training


def conv4(width: int = 16) -> nn.Module:
    blocks: list[nn.Module] = []
    for n_in in (1, width, width, width):
        norm = nn.BatchNorm2d(width, track_running_stats=False)
        blocks += [nn.Conv2d(n_in, width, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(width, 5))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(28, 4, 256, batch_first=True)
    return nn.Sequential(nn.Flatten(1, 2), nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(784, 5))


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.LayerNorm(512), nn.ReLU(), nn.Linear(512, 5))


CASES = {
    **{"conv4": (conv4, MAML(), 3), "encoder": (encoder, MAML(), 3), "dense": (dense, MAML(), 3)},
    "dense, first order": (dense, MAML(first_order=True), 3),
    "dense, Reptile": (dense, Reptile(), 3),
}


def peak(call: Callable[[], object]) -> float:
    """Return the most memory in MiB that tensors allocated in a call held at one time.

    The resident memory of the process would add what the allocator keeps, which differs by 10 MiB from run to run.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event for event in events if event.get("name") == "[memory]"), key=itemgetter("ts"))
    return max(accumulate(event["args"]["Bytes"] for event in changes)) / 2**20


def measure(name: str) -> dict[str, float]:
    """Train, then evaluate many more tasks, with more steps."""
    torch.set_num_threads(1)
    make, algorithm, n_steps = CASES[name]
    X = torch.randint(0, 256, (400, 1, 28, 28), dtype=torch.uint8)
    source = ClassTasks(X, torch.arange(20).repeat_interleave(20).numpy(), n_ways=5, validation=0.25, test=0.25)
    training = Training(loss=nn.functional.cross_entropy, algorithm=algorithm)
    design = il.Design(4, 10, 10, n_steps=n_steps)
    trainer = MetaTrainer(make(), source, design, 0.01, training=training)
    steps = 2 * n_steps
    return {
        "training": peak(lambda: trainer.train(2)),
        "evaluation of 8 tasks": peak(lambda: trainer.evaluate(8, n_steps=steps)),
        "evaluation of 30 tasks": peak(lambda: trainer.evaluate(30, n_steps=steps)),
    }


def main() -> None:
    if sys.argv[1:]:
        print(json.dumps(measure(sys.argv[1])))
        return
    for name in CASES:
        ran = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True)
        print(f"{name:20s}", {key: round(value, 1) for key, value in json.loads(ran.stdout).items()})


if __name__ == "__main__":
    main()
