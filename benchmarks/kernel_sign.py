"""Where the best inner rate of Figure 5's kernels lies, and how label noise turns its sign: JSON.

    python benchmarks/kernel_sign.py --out benchmarks/results/kernel_sign.json

Differences are paired: test loss (half MSE) minus that of inner_lr = 0 for the same tasks and the same start.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

import innerloop as il
from innerloop import theory
from innerloop._base.standard_errors import standard_errors
from innerloop.papers.bernacchia2021 import fig5

FAR = {
    "a": [-16.0, -8.0, -4.0, -2.0, -1.0],
    "b": [-16.0, -8.0, -4.0, -2.0, -1.0],
    "c": [0.2, 0.4, 0.6, 0.8, 1.2, 2.0],
}
NOISES, NEAR, N_SEEDS, SEEDS_AT_ONCE = [0.2, 0.5, 1.0, 1.5, 2.0, 3.0], [-0.4, 0.2], 400, 20
FIRST = 10_000  # seeds that Figure 5 does not have
STEP = 0.05  # of the slope at inner_lr = 0


def measure(n_seeds: int = N_SEEDS) -> dict[str, Any]:
    """Return differences and errors: far from zero, and near it for c at other noises; and where the slope turns."""
    far = {letter: against_zero(fig5.SETTINGS[letter], rates, n_seeds) for letter, rates in FAR.items()}
    c = fig5.SETTINGS["c"]
    noisy = {
        f"{noise:g}": against_zero(
            dataclasses.replace(c, dist=dataclasses.replace(c.dist, noise_std=noise)), NEAR, n_seeds
        )
        for noise in NOISES
    }
    turning = {letter: turning_noise(setting, n_seeds) for letter, setting in fig5.SETTINGS.items()}
    return {"n_seeds": n_seeds, "far": far, "c_by_noise_std": noisy, "turning_noise": turning}


def turning_noise(setting: fig5.Setting, n_seeds: int) -> dict[str, float]:
    """Return the label noise at which the slope at inner_lr = 0 turns, by theory and of kernels (docs/theory.md, 17.4).

    Kernels are linear in the labels, so that the expected slope is that of tasks without noise, and of the start, plus
    the variance times that of labels that are nothing but unit noise.
    """
    quiet = dataclasses.replace(setting.dist, noise_std=0.0)
    only_noise = dataclasses.replace(setting.dist, noise_std=1.0, task_std=0.0, bias_std=0.0)
    parts = []
    for dist, started in ((quiet, True), (only_noise, False)):
        losses = []
        for first in range(FIRST, FIRST + n_seeds, SEEDS_AT_ONCE):
            runs = fig5.prepare(dataclasses.replace(setting, dist=dist), range(first, first + SEEDS_AT_ONCE))
            objective = runs.objective
            if not started:
                objective = il.KernelObjective.from_episodes(runs.training, objective.kernel)
            losses.append(il.solve_path(objective, [-STEP, STEP]).test_loss(runs.test, setting.adapt_lr))
        parts.append(np.diff(np.concatenate(losses, axis=1), axis=0)[0] / (2 * STEP))
    (rest, noise), errors = np.mean(parts, axis=1), standard_errors(np.transpose(parts))
    variance = max(-rest / noise, 0.0)
    error = standard_errors((parts[0] + variance * parts[1])[:, None])[0] / noise
    started, silent = (
        theory.turning_noise(fig5.linear_model(setting, started=start), setting.design, setting.adapt_lr)
        for start in (True, False)
    )
    return {
        "slope_without_noise": rest,
        "slope_without_noise_stderr": errors[0],
        "slope_of_unit_noise": noise,
        "slope_of_unit_noise_stderr": errors[1],
        "kernel": variance**0.5,
        "kernel_stderr": error / (2 * variance**0.5) if variance > 0 else 0.0,
        "theory": started,
        "theory_from_a_start_at_zero": silent,
    }


def against_zero(setting: fig5.Setting, rates: list[float], n_seeds: int) -> dict[str, list[float]]:
    """Return the paired differences to rate 0 and their standard errors."""
    losses = []
    for first in range(FIRST, FIRST + n_seeds, SEEDS_AT_ONCE):
        runs = fig5.prepare(setting, range(first, first + SEEDS_AT_ONCE))
        losses.append(il.solve_path(runs.objective, [*rates, 0.0]).test_loss(runs.test, setting.adapt_lr))
    gain = np.concatenate(losses, axis=1)
    gain = gain[:-1] - gain[-1]
    return {
        "inner_lr": rates,
        "difference": gain.mean(axis=1).tolist(),
        "stderr": standard_errors(gain.T).tolist(),
    }


def main() -> None:
    from solve_path import environment

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    result = {**measure(), "environment": environment()}
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
