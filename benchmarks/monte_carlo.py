"""Monte Carlo of the expected test loss that samples features only: task weights, label noise and the direction (or
the signs) of the start are averaged exactly. Shares no code with innerloop.theory.

For given features, omega* - w0 = (I - (B'B + lam)^-1 B'B)(omega_0 - w0) + (B'B + lam)^-1 B' xi, where
xi_i = X_v (A^K delta_i - G_i z_t) + z_v has covariance B_i Sw B_i' + sigma^2 (I + P_i P_i'), P_i = X_v G_i.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np

N_TEST = 8000


def estimate(
    sizes: dict[str, Any], inner_lr: float, adapt_lr: float, budget_s: float, target: float, seed: int
) -> dict[str, float]:
    """Return the mean test loss and its standard error; stop at the target (relative) or when time is up.

    Keys of `sizes`: p, m, n_t, n_v (lists for ragged tasks), n_r, K, K_r, l2, sigma, sw (p,), d0_squared (p,), s (p,).
    """
    start, rng = time.perf_counter(), np.random.default_rng(seed)
    s, sw, d0 = (np.asarray(sizes[name], dtype=float) for name in ("s", "sw", "d0_squared"))
    sigma2 = sizes["sigma"] ** 2
    isotropic = sizes.get("rows") != "intercept" and all(np.ptp(v) < 1e-12 * max(v.max(), 1) for v in (s, sw, d0))
    weights, noise = test_side(rng, s, sizes, adapt_lr, N_TEST)
    if isotropic:
        weights = np.repeat(weights.mean(axis=1, keepdims=True), len(s), axis=1)
    weight = weights.mean(axis=0)
    errors: list[np.ndarray] = []
    while True:
        errors.extend(squared_error(rng, sizes, s, sw, d0, sigma2, inner_lr) for _ in range(4))
        M = np.array(errors)
        per_run = M @ weight
        loss = 0.5 * (sigma2 * (1 + noise.mean()) + weight @ sw + per_run.mean())
        test = 0.5 * (sigma2 * noise + weights @ (sw + M.mean(axis=0)))
        se_train, se_test = 0.5 * per_run.std(ddof=1) / np.sqrt(len(M)), test.std(ddof=1) / np.sqrt(len(test))
        if len(M) >= 200 and se_test > 0.5 * target * loss and len(weights) < 100 * N_TEST:
            more, extra = test_side(rng, s, sizes, adapt_lr, N_TEST)
            if isotropic:
                more = np.repeat(more.mean(axis=1, keepdims=True), len(s), axis=1)
            weights, noise = np.concatenate([weights, more]), np.concatenate([noise, extra])
            weight = weights.mean(axis=0)
        se = float(np.hypot(se_train, se_test))
        seconds = time.perf_counter() - start
        if (len(M) >= 200 and se < target * loss) or (seconds > budget_s and len(M) >= 12):
            return {"loss": float(loss), "stderr": se, "n_runs": len(M), "seconds": seconds}


def draw_rows(rng: Any, shape: tuple[int, ...], s: Any, sizes: dict[str, Any]) -> Any:
    """Draw rows (..., p): Gaussian, multivariate t, or Gaussian beside a constant."""
    X = rng.standard_normal((*shape, len(s)))
    if sizes.get("rows") == "t":
        X *= np.sqrt((sizes["row_dof"] - 2) / rng.chisquare(sizes["row_dof"], shape))[..., None]
    if sizes.get("rows") == "intercept":
        X[..., -1] = 1.0
    return X * np.sqrt(s)


def test_side(rng: Any, s: Any, sizes: dict[str, Any], r: float, n_samples: int) -> tuple[Any, Any]:
    """Sample the diagonal of (A^K)' Sigma A^K and tr Sigma G G' of new tasks."""
    p, n, K = len(s), sizes["n_r"], sizes["K_r"]
    weights, noise = np.empty((n_samples, p)), np.empty(n_samples)
    for low in range(0, n_samples, 500):
        X = draw_rows(rng, (min(500, n_samples - low), n), s, sizes)
        # Rows of A^K X-space: A = I - (r/n) X'X acts on the identity from the left.
        B = np.repeat(np.diag(np.sqrt(s))[None], len(X), axis=0)
        P = np.zeros((len(X), p, n))
        for _ in range(K):
            P += (r / n) * B @ X.transpose(0, 2, 1)
            B = B - (r / n) * (B @ X.transpose(0, 2, 1)) @ X
        part = slice(low, low + len(X))
        weights[part], noise[part] = (B**2).sum(axis=1), (P**2).sum(axis=(1, 2))
    return weights, noise


def folds(protocol: str, n_t: int, n_v: int) -> list[tuple[Any, Any]]:
    """Return (query, support) rows of a task of n_t + n_v rows, support first."""
    n, rows = n_t + n_v, np.arange(n_t + n_v)
    if protocol == "split":
        return [(rows[n_t:], rows[:n_t])]
    if protocol == "train":
        return [(rows, rows)]
    if protocol == "leave-one-out":
        return [(rows[i : i + 1], np.delete(rows, i)) for i in range(n)]
    n_folds = max(round(n / n_t), -(-n // n_v))
    ends = [fold * n // n_folds for fold in range(n_folds + 1)]
    return [(rows[i:j], (j + np.arange(n_t)) % n) for i, j in pairwise(ends)]


def squared_error(rng: Any, sizes: dict[str, Any], s: Any, sw: Any, d0: Any, sigma2: float, a: float) -> Any:
    """Return E[(omega* - w0)^2 | X] per direction for one draw of all features."""
    p, K, protocol = len(s), sizes["K"], sizes.get("protocol", "split")
    tasks = zip(np.broadcast_to(sizes["n_t"], sizes["m"]), np.broadcast_to(sizes["n_v"], sizes["m"]), strict=True)
    rows, noises = [], []
    for n_t, n_v in tasks:
        X = draw_rows(rng, (n_t + n_v,), s, sizes)
        parts, passed = [], []
        for query, support in folds(protocol, n_t, n_v):
            B, P = X[query], np.zeros((len(query), n_t + n_v))
            for _ in range(K):
                step = (a / len(support)) * B @ X[support].T
                P[:, support] -= step
                B = B - step @ X[support]
            P[np.arange(len(query)), query] += 1
            parts.append(B)
            passed.append(P)
        rows.append(np.concatenate(parts))
        noises.append(np.concatenate(passed))
    B = np.concatenate(rows)
    lam = sizes["l2"] * len(B)
    if len(B) <= p:
        Z = np.linalg.solve(B @ B.T + lam * np.eye(len(B)), B).T
    elif lam == 0:
        Z = np.linalg.pinv(B)
    else:
        Z = np.linalg.solve(B.T @ B + lam * np.eye(p), B.T)
    kept = np.eye(p) - Z @ B
    total = kept**2 @ d0 if (len(B) < p or lam > 0) else np.zeros(p)
    low = 0
    for B_i, P in zip(rows, noises, strict=True):
        Z_i = Z[:, low : low + len(B_i)]
        low += len(B_i)
        total += (Z_i @ B_i) ** 2 @ sw + sigma2 * ((Z_i @ P) ** 2).sum(axis=1)
    return total
