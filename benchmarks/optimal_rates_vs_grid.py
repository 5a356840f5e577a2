"""Best rates in theory against a dense grid of rates, on random designs.

    python benchmarks/optimal_rates_vs_grid.py --out benchmarks/results/optimal_rates_vs_grid.json

A design passes when `optimal_rates` is not above the lowest loss of the grid by more than 1e-4 of it, and no loss is
below the noise of a new row. Designs: p 10 to 60, m 1 to 60, K 1 to 10 (1 to 3 for correlated features), protocols,
penalties, the start away from the centre. Refusals by name are counted.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import innerloop as il

PROTOCOLS = ("split", "split", "split", "train", "leave-one-out")
TOLERANCE = 1e-4
N_GRID = 61


def draw(rng: np.random.Generator) -> tuple[il.MixedLinearRegression, il.Design, np.ndarray, dict[str, Any]]:
    """Return a random design, and what it is in words."""
    p, m = int(rng.choice([10, 20, 40, 60])), round(float(np.exp(rng.uniform(0, np.log(60)))))
    protocol, correlated = str(rng.choice(PROTOCOLS)), bool(rng.random() < 0.3)
    K = int(rng.choice([1, 1, 2, 3, 5, 8, 10]))
    if correlated:
        K, protocol = min(K, 3), "split"
    if protocol == "leave-one-out":
        K = 1
    n_t, n_v = (max(1, round(float(np.exp(rng.uniform(*np.log([2, 3 * p])))))) for _ in range(2))
    l2 = float(rng.choice([0.0, 0.0, 0.01, 0.1, 1.0]))
    spread, sigma = (float(np.exp(rng.uniform(-1.5, 1.5))) for _ in range(2))
    s = np.arange(1, p + 1) ** -float(rng.uniform(0.2, 1.0)) if correlated else None
    dist = il.MixedLinearRegression(p, sigma, spread, covariance=s)
    design = il.Design(m, n_t, n_v, max(1, n_t), K, min(K, 3), l2=l2, protocol=protocol)
    start = np.full(p, float(rng.uniform(0, 2)) / np.sqrt(p))
    words = {"p": p, "m": m, "n_t": n_t, "n_v": n_v, "K": K, "l2": l2, "protocol": protocol, "correlated": correlated}
    return dist, design, start, words | {"sigma": sigma, "nu": spread}


def lowest_of_grid(dist: il.MixedLinearRegression, design: il.Design, start: np.ndarray, best: Any) -> float:
    """Return the lowest loss at many inner rates, each at adaptation rates around the best."""
    n = min(group.n_support for group in design.groups)
    natural = 1 / (float(dist.eigenvalues.mean()) * (1 + (dist.n_features + 1) / n))
    sizes = np.geomspace(1e-3, 1e3, N_GRID // 2) * natural
    inner = np.concatenate([-sizes[::-1], [0.0], sizes, np.linspace(-4, 4, N_GRID) * natural])
    adapt = np.union1d(np.geomspace(0.2, 5, 21) * max(best.adapt_lr, 1e-6), [best.adapt_lr, best.adapt_lr_no_inner])
    loss = np.asarray(il.expected_loss(dist, design, inner[:, None], adapt, start))
    return float(np.nanmin(loss))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-designs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rng, rows, begun = np.random.default_rng(arguments.seed), [], time.perf_counter()
    while len(rows) < arguments.n_designs and time.perf_counter() - begun < arguments.seconds:
        dist, design, start, row = draw(rng)
        clock = time.perf_counter()
        try:
            best = il.optimal_rates(dist, design, start)
        except ValueError as error:
            rows.append({**row, "refused": str(error)})
            continue
        seconds = time.perf_counter() - clock
        grid = lowest_of_grid(dist, design, start, best)
        low = min(grid, best.loss)
        passes = best.loss <= grid * (1 + TOLERANCE) and low >= 0.5 * row["sigma"] ** 2 * (1 - 1e-9)
        row |= {"inner_lr": best.inner_lr, "adapt_lr": best.adapt_lr, "loss": best.loss, "grid": grid}
        rows.append({**row, "seconds": seconds, "passes": bool(passes)})
    tried = [row for row in rows if "passes" in row]
    summary = {
        "designs": len(rows),
        "refused_by_name": len(rows) - len(tried),
        "not_above_the_grid": sum(row["passes"] for row in tried),
        "of": len(tried),
        "median_seconds": float(np.median([row["seconds"] for row in tried])),
        "misses": [row for row in tried if not row["passes"]],
    }
    plain = [{k: v if not isinstance(v, float) or np.isfinite(v) else str(v) for k, v in row.items()} for row in rows]
    arguments.out.write_text(json.dumps({"summary": summary, "rows": plain}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
