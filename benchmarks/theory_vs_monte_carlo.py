"""Expected test losses against Monte Carlo on a random grid of hard settings.

    python benchmarks/theory_vs_monte_carlo.py --out benchmarks/results/theory_vs_monte_carlo.json
    python benchmarks/theory_vs_monte_carlo.py --reuse --out ...     # the theory again, the Monte Carlo from the file

A setting passes when |theory - Monte Carlo| <= what `choose_method(...).accuracy` says, within 3 standard errors of the
Monte Carlo. Where the theory's equations are not solved it gives NaN, and the setting is counted as refused.
Settings: protocols split, train, leave-one-out and deal; p 20, 40, 60; N/p 0.05 to 15 but for N within 3 of p; n_t/p
0.1 to 4; m 1 to 100; K 1 to 8; rates in [-2, 2], for several steps in natural units; the start away from the centre; l2
zero or not; features isotropic, of two variances, or of variances j^-1/2 or j^-3/2; Gaussian rows, t rows of 6 or 10
degrees of freedom, or an intercept of square 1 or 4 (one step).
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


PROTOCOLS = ("split", "split", "split", "train", "leave-one-out", "deal")


def draw_settings(n_settings: int, seed: int) -> list[dict[str, Any]]:
    """Return settings of a random grid, uniform in the logarithm of most sizes."""
    rng, settings = np.random.default_rng(seed), []

    def spread(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    while len(settings) < n_settings:
        i = len(settings)
        p, m, protocol = int(rng.choice([20, 40, 60])), round(spread(1, 100)), PROTOCOLS[i % len(PROTOCOLS)]
        n_t, x = max(1, round(spread(0.1, 4) * p)), spread(0.05, 15)
        n_v = round(x * p / m)
        l2 = [0.0, 0.0, round(spread(1e-3, 1), 4)][i // 2 % 3]
        covariance = ["isotropic", "isotropic", "two", "power", "steep"][i // 6 % 5]
        K = int(rng.choice([1, 1, 1, 2, 3, 5, 8])) if protocol in ("split", "train") else 1
        if covariance != "isotropic":
            K = min(K, 3) if protocol == "split" else 1
        rows = str(rng.choice(["Gaussian", "Gaussian", "t", "intercept"]))
        if K > 1 or protocol == "leave-one-out":
            rows = "Gaussian"
        if protocol == "deal":
            n_t = n_v = max(1, n_v // 2)
        if protocol != "split":
            n_t, n_v, covariance = n_v // 2, n_v - n_v // 2, "isotropic" if protocol == "leave-one-out" else covariance
            if protocol == "deal":
                n_v = n_t
        scored = n_v if protocol == "split" else n_t + n_v
        if min(n_v, n_t) < 1 or scored > 3 * p or (l2 == 0 and abs(scored * m - p) < 4) or m * scored > 1500:
            continue
        natural = 1 / (1 + (p + 1) / (n_t if protocol == "split" else scored))
        a = round(float(rng.uniform(-2, 2) * (natural if K > 1 else 1)), 4)
        if l2 == 0 and a > 0 and scored * m > p and scored * (m - 1) <= 1 and protocol == "split":
            continue
        settings.append(
            {
                "p": p,
                "m": m,
                "n_t": n_t,
                "n_v": n_v,
                "n_r": max(1, round(spread(0.1, 4) * p)),
                "K": K,
                "l2": l2,
                "sigma": round(spread(0.2, 2), 3),
                "nu": round(spread(0.2, 2), 3),
                "d0": round(float(rng.uniform(0.2, 2)), 3),
                "covariance": covariance,
                "protocol": protocol,
                "rows": rows,
                "row_dof": int(rng.choice([6, 10])),
                "square": float(rng.choice([1.0, 4.0])),
                "inner_lr": a,
                "adapt_lr": round(float(rng.uniform(-1, 1)), 3),
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
        "steep": np.arange(1, p + 1) ** -1.5,
    }[setting["covariance"]]
    s = s / s.mean()
    if setting["rows"] == "intercept":
        s[-1] = setting["square"]
    sw = setting["nu"] ** 2 / p / (s if setting["m"] % 2 else 1) * np.ones(p)
    offset = setting["d0"] / np.sqrt(p) / (s if setting["K"] % 2 else 1) * np.ones(p)
    return s, sw, offset


def simulate(setting: dict[str, Any], budget_s: float, seed: int) -> dict[str, float]:
    s, sw, offset = spectra(setting)
    sizes = {**setting, "K_r": 1, "s": s, "sw": sw, "d0_squared": offset**2}
    return estimate(sizes, setting["inner_lr"], setting["adapt_lr"], budget_s, ACCURACY, seed)


def predict(setting: dict[str, Any]) -> dict[str, Any]:
    s, sw, offset = spectra(setting)
    p, sigma = setting["p"], setting["sigma"]
    isotropic = setting["covariance"] == "isotropic" and setting["rows"] != "intercept"
    law = {"t": {"row_dof": setting["row_dof"]}, "intercept": {"intercept": True}}.get(setting["rows"], {})
    covariance, spread = (None, setting["nu"]) if isotropic else (s, np.sqrt(sw))
    dist = il.MixedLinearRegression(p, sigma, spread, covariance=covariance, **law)
    sizes = (setting[name] for name in ("m", "n_t", "n_v", "n_r", "K"))
    design = il.Design(*sizes, n_adapt_steps=1, l2=setting["l2"], protocol=setting["protocol"])
    start = time.perf_counter()
    loss = expected_loss(dist, design, setting["inner_lr"], setting["adapt_lr"], init=offset)
    return {
        "theory": loss,
        "theory_seconds": time.perf_counter() - start,
        "accuracy": choose_method(dist, design).accuracy,
    }


def judge(row: dict[str, Any]) -> dict[str, Any]:
    relative = row["theory"] / row["loss"] - 1
    allowed = row["accuracy"] + 3 * row["stderr"] / row["loss"]
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
        "refused": sum(bool(np.isnan(row["theory"])) for row in rows),
        "pass": sum(row["passes"] for row in rows),
        "monte_carlo_within_0.3_percent": len(accurate),
        "pass_among_those": sum(row["passes"] for row in accurate),
        "trusted_to_1_percent": sum(row["accuracy"] <= 0.01 for row in rows),
        "pass_of_those": sum(row["passes"] for row in rows if row["accuracy"] <= 0.01),
        "within_3_stderr_or_1_percent": sum(
            abs(row["relative_error"]) <= max(3 * row["relative_stderr"], 0.01) for row in rows
        ),
        "median_relative_error": float(np.nanmedian(errors)),
        "misses": [row for row in rows if not row["passes"] and not np.isnan(row["theory"])],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-settings", type=int, default=150)
    parser.add_argument("--budget", type=float, default=2.0, help="seconds of Monte Carlo per setting")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reuse", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.reuse:
        kept = ("theory", "relative", "accurate", "accuracy", "passes")
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
