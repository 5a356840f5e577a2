"""Figure 2b, 81 rates and 1000 runs: `estimate_loss` beside a plain loop that calls pinv for every rate and run.

    python benchmarks/simulation_speed.py --out benchmarks/results/simulation_speed.json

Both on one thread of one process. The loop is timed on some of the rates, all of which cost the same, and
scaled to 81. It draws, builds B and g, and scores by the exact loss of its omega*; `estimate_loss` averages weights and
noise exactly besides, so that its standard errors are smaller.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from solve_path import environment, timed

import innerloop as il
from innerloop._base.standard_errors import standard_errors

P, M, N_T, N_V, N_R, SIGMA, NU, ADAPT = 60, 3, 30, 2, 20, 1.0, 0.5, 0.2
DIST, DESIGN = il.MixedLinearRegression(P, SIGMA, NU), il.Design(M, N_T, N_V, N_R)
RATES, N_RUNS, N_TIMED, N_REPEATS = np.linspace(-2, 2, 81), 1000, 3, 5


def plain_loop(rates: np.ndarray, n_runs: int) -> np.ndarray:
    """Return the losses (n_runs, n_rates)."""
    losses = np.empty((n_runs, len(rates)))
    kept = (1 - ADAPT) ** 2 + ADAPT**2 * (P + 1) / N_R
    for i, a in enumerate(rates):
        rng = np.random.default_rng(i)
        for run in range(n_runs):
            B, g = [], []
            for _ in range(M):
                w = NU / np.sqrt(P) * rng.standard_normal(P)
                X, V = rng.standard_normal((N_T, P)), rng.standard_normal((N_V, P))
                y, v = X @ w + SIGMA * rng.standard_normal(N_T), V @ w + SIGMA * rng.standard_normal(N_V)
                step = a / N_T * (V @ X.T)
                B.append(V - step @ X)
                g.append(v - step @ y)
            omega = np.linalg.pinv(np.concatenate(B)) @ np.concatenate(g)
            error = NU**2 + omega @ omega
            losses[run, i] = 0.5 * (SIGMA**2 * (1 + ADAPT**2 * P / N_R) + kept * error)
    return losses


def measure(n_runs: int = N_RUNS, n_repeats: int = N_REPEATS) -> dict[str, Any]:
    """Return seconds, the ratio, and how the two estimates compare."""
    some = RATES[:: len(RATES) // N_TIMED][:N_TIMED]
    estimate = il.estimate_loss(DIST, DESIGN, some, ADAPT, n_runs=n_runs)
    losses = plain_loop(some, n_runs)
    error = standard_errors(losses)
    gap = np.abs(losses.mean(axis=0) - estimate["loss"].values[:, 0]) / np.hypot(error, estimate["stderr"].values[:, 0])
    precise = il.estimate_loss(DIST, DESIGN, RATES, ADAPT, rel_error=0.003)
    seconds = {
        "estimate_loss, 81 rates": timed(lambda: il.estimate_loss(DIST, DESIGN, RATES, ADAPT, n_runs), n_repeats),
        "plain loop, 81 rates": timed(lambda: plain_loop(some, n_runs), n_repeats) * len(RATES) / N_TIMED,
        "estimate_loss to 0.3 %": timed(
            lambda: il.estimate_loss(DIST, DESIGN, RATES, ADAPT, rel_error=0.003), n_repeats
        ),
    }
    return {
        "n_runs": n_runs,
        "seconds": seconds,
        "plain_loop_over_estimate_loss": seconds["plain loop, 81 rates"] / seconds["estimate_loss, 81 rates"],
        "standard_error_plain_over_ours": float(np.median(error / estimate["stderr"].values[:, 0])),
        "largest_gap_in_standard_errors": float(gap.max()),
        "runs_to_0.3_percent": int(precise.n_runs),
        "environment": environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    result = measure()
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
