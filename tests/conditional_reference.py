"""The expected error of meta-training given the features, by applying it to every random number in turn."""

from __future__ import annotations

import numpy as np

from innerloop._base.seeds import stream
from reference import inner_map, minimiser


def drawn_features(dist, design, seed, run):
    """Return (X_support, X_query) of every training task of a run."""
    rng = stream(seed, run)
    tasks = []
    for group in design.groups:
        X = np.empty((group.n_tasks, group.n_support + group.n_query, dist.n_features))
        tasks += [(rows[: group.n_support], rows[group.n_support :]) for rows in dist.draw_features(X, rng)]
    return tasks


def query_rows(tasks, targets, lr, design):
    """Return B and g, for targets (n_support, k) and (n_query, k) of each task."""
    B, g = [], []
    for (X, X_query), (y, y_query) in zip(tasks, targets, strict=True):
        if design.inner_rule == "implicit":
            kernel = np.linalg.inv(np.eye(X.shape[1]) + lr / len(X) * X.T @ X)
            A, b = kernel, kernel @ (lr / len(X) * X.T @ y)
        else:
            A, b = inner_map(X, y, lr, design.n_steps)
        B.append(X_query @ A)
        g.append(y_query - X_query @ b)
    return np.concatenate(B), np.concatenate(g)


def squared_error(dist, design, tasks, lr, start):
    """Return E[(omega* - w0)^2 | X] per direction (p,).

    omega* - w0 is linear in the deviations of the tasks, in the noise and in the start: each gets a column of
    targets, and squares of independent columns add. Columns of `start` (p, k) are starts of meta-training.
    """
    p, noise, spread = dist.n_features, dist.noise_std, np.sqrt(dist.task_variances)
    sizes = [p + len(X) + len(X_query) for X, X_query in tasks]
    first = np.cumsum([0, *sizes])
    targets = []
    for (X, X_query), low in zip(tasks, first, strict=False):
        y, y_query = (np.zeros((len(rows), first[-1] + start.shape[1])) for rows in (X, X_query))
        noise_low, query_low = low + p, low + p + len(X)
        y[:, low:noise_low], y_query[:, low:noise_low] = X * spread, X_query * spread
        y[:, noise_low:query_low] = noise * np.eye(len(X))
        y_query[:, query_low : query_low + len(X_query)] = noise * np.eye(len(X_query))
        targets.append((y, y_query))
    B, g = query_rows(tasks, targets, lr, design)
    init = np.concatenate((np.zeros((p, first[-1])), start), axis=1)
    return (minimiser(B, g, init, design.l2) ** 2).sum(axis=1)
