"""Slow, obvious reference implementations, written without the package."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def adapted(coef, X, y, lr, n_steps):
    """Take plain gradient steps on half the mean squared error of one task."""
    theta = np.array(coef, dtype=float)
    for _ in range(n_steps):
        theta = theta - lr / len(X) * X.T @ (X @ theta - y)
    return theta


def inner_map(X, y, lr, n_steps):
    """Return A and b with adapted coefficients A omega + b."""
    p = X.shape[1]
    b = np.zeros((p, *y.shape[1:]))
    if len(X) == 0:
        return np.eye(p), b
    step = np.eye(p) - lr / len(X) * X.T @ X
    for _ in range(n_steps):
        b = step @ b + lr / len(X) * X.T @ y
    return np.linalg.matrix_power(step, n_steps), b


def query_problem(episodes, lr, n_steps=1):
    """Return B and g, task after task, with query residuals g - B omega."""
    B, g = [], []
    for X_support, y_support, X_query, y_query in episodes:
        A, b = inner_map(X_support, y_support, lr, n_steps)
        B.append(X_query @ A)
        g.append(y_query - X_query @ b)
    return np.concatenate(B), np.concatenate(g)


def minimiser(B, g, init=None, l2=0.0):
    """Return the minimiser of |g - B w|^2 / (2 N) + l2 / 2 |w - init|^2 that is nearest to init."""
    N, p = B.shape
    init = np.zeros((p, *g.shape[1:])) if init is None else np.asarray(init, dtype=float)
    rows = np.concatenate((B, np.sqrt(N * l2) * np.eye(p)))
    targets = np.concatenate((g - B @ init, np.zeros_like(init)))
    return init + np.linalg.lstsq(rows, targets, rcond=1e-13)[0]


def meta_coef(episodes, lr, n_steps=1, init=None, l2=0.0):
    """Return the exact meta-parameters of a list of episodes."""
    return minimiser(*query_problem(episodes, lr, n_steps), init, l2)


def meta_loss(episodes, coef, lr, n_steps=1):
    """Return half the mean squared query error after adaptation, over rows and targets."""
    squares = []
    for X_support, y_support, X_query, y_query in episodes:
        theta = adapted(coef, X_support, y_support, lr, n_steps if len(X_support) else 0)
        squares.append(((y_query - X_query @ theta) ** 2).ravel())
    return np.concatenate(squares).mean() / 2


def exact_least_squares(X, y):
    """Return the least-squares coefficients in rational arithmetic, rounded once."""
    rows = [[Fraction(float(v)) for v in (*row, target)] for row, target in zip(X, y, strict=True)]
    p = len(rows[0]) - 1
    system = [[sum(row[i] * row[j] for row in rows) for j in range(p + 1)] for i in range(p)]
    for i in range(p):
        pivot = next(k for k in range(i, p) if system[k][i] != 0)
        system[i], system[pivot] = system[pivot], system[i]
        system[i] = [v / system[i][i] for v in system[i]]
        for k in range(p):
            if k != i:
                system[k] = [v - system[k][i] * w for v, w in zip(system[k], system[i], strict=True)]
    return np.array([float(row[p]) for row in system])
