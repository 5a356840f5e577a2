"""Tables of `innerloop demo`, made without downloads."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from innerloop._base.seeds import stream
from innerloop.data.tasks import TaskSet
from innerloop.distributions import MixedLinearRegression

IMAGES_PER_CLASS = 15
TASKS_PER_PAIR = 6

# With so few query rows (four times the features in all), support rows that are not query rows are missing.
PAPER_N_FEATURES, PAPER_N_TASKS, PAPER_N_SUPPORT, PAPER_N_QUERY = 60, 60, 30, 4


def digit_pairs(digits: range, seed: int = 0) -> TaskSet:
    """Return few-shot tasks "which of two digits is this?" on scikit-learn's 8 x 8 images.

    A task has `IMAGES_PER_CLASS` images of either digit of a pair, one of which, by chance, is +1 and the other
    -1. Every pair comes `TASKS_PER_PAIR` times, with other images.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    rows, targets, groups = [], [], []
    for i, pair in enumerate(combinations(digits, 2)):
        rng = stream(seed, i)
        shuffled = [rng.permutation(np.flatnonzero(labels == digit)) for digit in pair]
        for k in range(TASKS_PER_PAIR):
            part = slice(k * IMAGES_PER_CLASS, (k + 1) * IMAGES_PER_CLASS)
            for sign, chosen in zip(rng.permutation([-1.0, 1.0]), shuffled, strict=True):
                rows.append(images[chosen[part]] / 16)
                targets.append(np.full(IMAGES_PER_CLASS, sign))
                groups.append(np.full(IMAGES_PER_CLASS, f"{pair[0]} or {pair[1]}, no. {k + 1}"))
    return TaskSet.from_arrays(np.concatenate(rows), np.concatenate(targets), np.concatenate(groups))


def paper_table(seed: int = 0) -> TaskSet:
    """Return a table simulated from the paper's model; see the module's constants for its sizes."""
    centre = np.full(PAPER_N_FEATURES, 0.25)
    model = MixedLinearRegression(PAPER_N_FEATURES, noise_std=1.0, task_std=0.5, mean=centre)
    return model.sample_tasks(PAPER_N_TASKS, PAPER_N_SUPPORT + PAPER_N_QUERY, seed)
