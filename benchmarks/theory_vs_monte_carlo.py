"""Expected test losses against Monte Carlo on a random grid of hard settings.

    python benchmarks/theory_vs_monte_carlo.py --out benchmarks/results/theory_vs_monte_carlo.json
    python benchmarks/theory_vs_monte_carlo.py --reuse --out ...     # the theory again, the Monte Carlo from the file

A setting passes when |theory - Monte Carlo| <= max(3 standard errors, 1 %). Settings: p 40, 60, 100; N/p 0.05 to 20
without 0.93 to 1.07; n_t/p 0.1 to 5; n_v 1 to 2p; m 1 to 200; K 1 to 3; both rates in [-2, 2]; the start away from the
centre; l2 zero or not; features isotropic, of two variances, or of variances j^-1/2. One task with N > p, a > 0 and no
penalty is left out: infinite.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from monte_carlo import estimate

import innerloop as il
from innerloop.theory import choose_method, expected_loss

ACCURACY = 0.003


def draw_settings(n_settings: int, seed: int) -> list[dict[str, Any]]:
    """Return settings of a random grid, uniform in the logarithm of most sizes."""
    rng, settings = np.random.default_rng(seed), []

    def spread(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    while len(settings) < n_settings:
        p = int(rng.choice([40, 60, 100]))
        ratio, m = spread(0.05, 20), round(spread(1, 200))
        n_v = round(ratio * p / m)
        x = n_v * m / p
        if not 1 <= n_v <= 2 * p or not 0.05 <= x <= 20 or 0.93 <= x <= 1.07:
            continue
        i = len(settings)
        rates = rng.uniform(-2, 2, 2).round(3).tolist()
        l2 = [0.0, 0.0, round(spread(1e-3, 1), 4)][i % 3]
        if m == 1 and n_v > p and rates[0] > 0 and l2 == 0:
            continue
        settings.append(
            {
                "p": p,
                "m": m,
                "n_t": max(1, round(spread(0.1, 5) * p)),
                "n_v": n_v,
                "n_r": max(1, round(spread(0.1, 5) * p)),
                "K": 1 + i % 3 if i % 2 else 1,
                "l2": l2,
                "sigma": round(spread(0.2, 2), 3),
                "nu": round(spread(0.2, 2), 3),
                "d0": round(float(rng.uniform(0.2, 2)), 3),
                "covariance": ["isotropic", "isotropic", "two", "power"][(i // 3) % 4],
                "inner_lr": rates[0],
                "adapt_lr": rates[1],
            }
        )
    return settings


def spectra(setting: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return feature variances, task variances and the offset of the start."""
    p = setting["p"]
    s = {
        "isotropic": np.ones(p),
        "two": np.repeat([0.4, 1.6], p // 2),
        "power": np.arange(1, p + 1) ** -0.5,
    }[setting["covariance"]]
    s = s / s.mean()
    sw = setting["nu"] ** 2 / p / (s if setting["m"] % 2 else 1) * np.ones(p)
    offset = setting["d0"] / np.sqrt(p) / (s if setting["K"] % 2 else 1) * np.ones(p)
    return s, sw, offset


def simulate(setting: dict[str, Any], budget_s: float, seed: int) -> dict[str, float]:
    s, sw, offset = spectra(setting)
    sizes = {**setting, "K_r": setting["K"], "s": s, "sw": sw, "d0_squared": offset**2}
    return estimate(sizes, setting["inner_lr"], setting["adapt_lr"], budget_s, ACCURACY, seed)


def predict(setting: dict[str, Any]) -> dict[str, Any]:
    s, sw, offset = spectra(setting)
    p, sigma = setting["p"], setting["sigma"]
    covariance = None if setting["covariance"] == "isotropic" else s
    spread = setting["nu"] if covariance is None else np.sqrt(sw)
    dist = il.MixedLinearRegression(p, sigma, spread, covariance=covariance)
    design = il.Design(setting["m"], setting["n_t"], setting["n_v"], setting["n_r"], setting["K"], l2=setting["l2"])
    start = time.perf_counter()
    loss = expected_loss(dist, design, setting["inner_lr"], setting["adapt_lr"], init=offset)
    return {
        "theory": loss,
        "theory_seconds": time.perf_counter() - start,
        "method": choose_method(dist, design).name,
    }


def judge(row: dict[str, Any]) -> dict[str, Any]:
    relative = row["theory"] / row["loss"] - 1
    allowed = max(3 * row["stderr"] / row["loss"], 0.01)
    return {
        "relative_error": relative,
        "relative_stderr": row["stderr"] / row["loss"],
        "accurate": row["stderr"] <= ACCURACY * row["loss"],
        "passes": bool(abs(relative) <= allowed),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    errors = np.abs([row["relative_error"] for row in rows])
    accurate = [row for row in rows if row["accurate"]]
    return {
        "settings": len(rows),
        "pass": sum(row["passes"] for row in rows),
        "monte_carlo_within_0.3_percent": len(accurate),
        "pass_among_those": sum(row["passes"] for row in accurate),
        "median_relative_error": float(np.median(errors)),
        "misses": [row for row in rows if not row["passes"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-settings", type=int, default=120)
    parser.add_argument("--budget", type=float, default=6.0, help="seconds of Monte Carlo per setting")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reuse", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.reuse:
        kept = ("theory", "relative", "accurate", "passes", "method")
        rows = json.loads(arguments.out.read_text())["rows"]
        rows = [{k: v for k, v in row.items() if not k.startswith(kept)} for row in rows]
    else:
        rows = []
        for i, setting in enumerate(draw_settings(arguments.n_settings, arguments.seed)):
            rows.append({**setting, **simulate(setting, arguments.budget, i)})
            arguments.out.with_suffix(".partial").write_text(json.dumps({"rows": rows}))
    for row in rows:
        row.update(predict(row))
        row.update(judge(row))
    result = {"summary": summary(rows), "rows": rows}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    arguments.out.with_suffix(".partial").unlink(missing_ok=True)
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    main()
