"""Kill a training at random moments, resume it, and compare every bit: python benchmarks/neural_kills.py.

With --processes 2 it runs under torchrun, and each kill is of one of the two, in turn.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import distributed, nn

import innerloop as il
from innerloop.neural import MetaTrainer


def train(folder: Path, n_iterations: int) -> None:
    """Train on from the folder's checkpoint, or from the start where there is none."""
    if distributed.is_torchelastic_launched():
        distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    torch.manual_seed(int(os.environ.get("RANK", "0")))
    module = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Dropout(0.1), nn.Linear(40, 1))
    trainer = MetaTrainer(module, il.Sinusoid(), il.Design(5, 5, 5), 0.01, learn_inner_lr=True)
    if (folder / "manifest.json").exists():
        trainer.load(folder)
    print(f"ready {os.getpid()}\n", end="", flush=True)
    trainer.train(n_iterations, checkpoint=folder, checkpoint_every=7)
    if distributed.is_torchelastic_launched():
        distributed.destroy_process_group()


def weights(folder: Path) -> list[torch.Tensor]:
    """Return the learned tensors of a finished training."""
    module = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Dropout(0.1), nn.Linear(40, 1))
    trainer = MetaTrainer(module, il.Sinusoid(), il.Design(5, 5, 5), 0.01, learn_inner_lr=True)
    trainer.load(folder)
    return trainer.learned


def run(folder: Path, n_processes: int, n_iterations: int, kill: tuple[int, float] | None = None) -> bool:
    """Train in processes of their own; with a rank and seconds, kill that process so long after all are ready.

    Returns
    -------
    bool
        Whether the process was still at work.
    """
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}"]
    command = [sys.executable, *(launch if n_processes > 1 else []), __file__]
    command += ["--train", str(folder), "--iterations", str(n_iterations)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        ready = sorted(int(process.stdout.readline().split()[1]) for _ in range(n_processes))
        if kill is not None:
            rank, seconds = kill
            time.sleep(seconds)
            with suppress(ProcessLookupError):
                os.kill(ready[rank], signal.SIGKILL)
    return process.returncode != 0


def compare(
    root: Path, n_kills: int, n_processes: int, n_iterations: int = 400, longest: float = 0.3
) -> tuple[int, bool]:
    """Return how many kills met a training at work, and whether the resumed one has the bits of an undisturbed one."""
    moments = random.Random(0)
    run(root / "whole", n_processes, n_iterations)
    kills = ((i % n_processes, moments.uniform(0, longest)) for i in range(n_kills))
    killed = sum(run(root / "killed", n_processes, n_iterations, kill) for kill in kills)
    run(root / "killed", n_processes, n_iterations)
    pairs = zip(weights(root / "whole"), weights(root / "killed"), strict=True)
    return killed, all(torch.equal(a, b) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n_kills", nargs="?", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--train", type=Path, help="folder of the training that this process is to do")
    parser.add_argument("--iterations", type=int, default=400)
    options = parser.parse_args()
    if options.train is not None:
        train(options.train, options.iterations)
        return
    with tempfile.TemporaryDirectory() as root:
        killed, same = compare(Path(root), options.n_kills, options.processes, options.iterations)
    print(f"{killed} kills at work, resumed weights bit-identical: {same}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
