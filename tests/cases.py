"""Random tasks that several test modules draw from."""

from __future__ import annotations

import numpy as np

import innerloop as il
from innerloop.tabular.settings import read_settings
from innerloop.tabular.training import MetaTraining

RAGGED = [(3, 4), (0, 5), (7, 2), (1, 1), (12, 6), (3, 4), (9, 9)]
SHORT = [(3, 1), (0, 2), (5, 1), (2, 2)]


def draw(sizes, p, n_targets=None, seed=0, spectrum=None, noise=0.3):
    """Return episodes as tuples; sizes are (support rows, query rows), spectrum singular values of X."""
    rng = np.random.default_rng(seed)
    tail = () if n_targets is None else (n_targets,)
    mix = np.eye(p)
    if spectrum is not None:
        turn = np.linalg.qr(rng.standard_normal((p, p)))[0]
        mix = turn * spectrum @ np.linalg.qr(rng.standard_normal((p, p)))[0]
    centre = rng.standard_normal((p, *tail))

    def rows(n, w):
        X = rng.standard_normal((n, p)) @ mix
        return X, X @ w + noise * rng.standard_normal((n, *tail))

    episodes = []
    for n_support, n_query in sizes:
        w = centre + 0.5 * rng.standard_normal((p, *tail))
        episodes.append((*rows(n_support, w), *rows(n_query, w)))
    return episodes


def close(actual, expected, digits):
    """Return whether two arrays agree to so many digits of the expected one's length."""
    expected = np.asarray(expected)
    return np.linalg.norm(np.asarray(actual) - expected) <= 10.0**-digits * np.linalg.norm(expected)


def table(sizes, p, n_targets=None, seed=0, noise=0.5, task_std=0.5, ids=None):
    """Return X, y, groups of tasks of the given sizes around one centre; ids name the tasks."""
    rng = np.random.default_rng(seed)
    tail = () if n_targets is None else (n_targets,)
    centre = rng.standard_normal((p, *tail))
    X = rng.standard_normal((sum(sizes), p))
    task = np.repeat(np.arange(len(sizes)), sizes)
    w = centre + task_std * rng.standard_normal((len(sizes), *centre.shape))
    y = np.einsum("ij,ij...->i...", X, w[task]) + noise * rng.standard_normal((len(X), *tail))
    return X, y, task if ids is None else np.asarray(ids)[task]


def prepared(tasks, tick=lambda: None, **parameters):
    """Return the training on tasks that `MetaRegressor` with these parameters starts with."""
    settings = read_settings(il.MetaRegressor(**parameters).get_params())
    return MetaTraining.prepare(tasks, settings, tick).with_gradient(tick)
