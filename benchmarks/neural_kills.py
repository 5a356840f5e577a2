"""Kill a training at random moments, resume it, and compare every bit: python benchmarks/neural_kills.py [N_KILLS]."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import innerloop as il
from innerloop.neural import MetaTrainer

N_ITERATIONS = 400


def train(folder: Path) -> MetaTrainer:
    """Train on from the folder's checkpoint, or from the start where there is none."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Dropout(0.1), nn.Linear(40, 1))
    trainer = MetaTrainer(module, il.Sinusoid(), il.Design(5, 5, 5), 0.01, learn_inner_lr=True)
    if (folder / "manifest.json").exists():
        trainer.load(folder)
    print("ready", flush=True)
    trainer.train(N_ITERATIONS, checkpoint=folder, checkpoint_every=7)
    return trainer


def run_and_kill(folder: Path, after: float) -> bool:
    """Start a training in a process and kill it some seconds later; return whether it was still at work."""
    command = [sys.executable, __file__, "--train", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
    return process.returncode == -signal.SIGKILL


def main() -> None:
    if sys.argv[1:2] == ["--train"]:
        train(Path(sys.argv[2]))
        return
    n_kills, moments = int(sys.argv[1]) if sys.argv[1:] else 10, random.Random(0)
    with tempfile.TemporaryDirectory() as root:
        whole = train(Path(root) / "whole")
        killed = sum(run_and_kill(Path(root) / "killed", moments.uniform(0, 0.3)) for _ in range(n_kills))
        resumed = train(Path(root) / "killed")
    same = all(torch.equal(a, b) for a, b in zip(whole.learned, resumed.learned, strict=True))
    print(f"{killed} kills at work, resumed weights bit-identical: {same}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
