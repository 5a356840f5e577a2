"""Times of the theory, and of a Monte Carlo of the same accuracy: python benchmarks/theory_speed.py --out FILE."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
from pathlib import Path

import numpy as np
from monte_carlo import estimate
from solve_path import environment, timed

import innerloop as il

N_REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    over = (il.MixedLinearRegression(60, 1.0, 0.5), il.Design(3, 30, 2, 20))
    under = (il.MixedLinearRegression(30, 1.0, 1.0), il.Design(40, 5, 25, 10))
    ridge = (over[0], il.Design(3, 30, 20, 20, l2=0.1))
    s = np.arange(1, 61) ** -0.5
    general = (il.MixedLinearRegression(60, 1.0, 0.5, covariance=s / s.mean()), il.Design(3, 60, 10, 20, n_steps=3))
    curve, many = np.linspace(-2, 2, 81), np.linspace(-2, 2, 1000)
    seconds = {
        "a million pairs, leading order": timed(
            lambda: il.expected_loss(*over, many[:, None], many, method="leading-order"), N_REPEATS
        ),
        "81 rates, N < p": timed(lambda: il.expected_loss(*over, curve, 0.2), N_REPEATS),
        "81 rates, N > p": timed(lambda: il.expected_loss(*under, curve, 0.2), N_REPEATS),
        "81 rates, ridge": timed(lambda: il.expected_loss(*ridge, curve, 0.2), N_REPEATS),
        "a general-covariance point, p = 60, K = 3": timed(lambda: il.expected_loss(*general, -0.2, 0.2), N_REPEATS),
        "optimal_rates, N < p": timed(lambda: il.optimal_rates(*over), N_REPEATS),
    }
    one = np.ones(60)
    sizes = {"p": 60, "m": 3, "n_t": 30, "n_v": 2, "n_r": 20, "K": 1, "K_r": 1, "l2": 0.0, "sigma": 1.0}
    sizes |= {"sw": 0.25 / 60 * one, "d0_squared": 0 * one, "s": one}
    point = estimate(sizes, -0.3, 0.2, 60.0, 0.003, 0)
    seconds["one rate by features-only Monte Carlo at 0.3 %"] = point["seconds"]
    ratio = 81 * point["seconds"] / seconds["81 rates, N < p"]
    result = {"seconds": seconds, "monte_carlo_over_theory_81_rates": ratio, "environment": environment()}
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
