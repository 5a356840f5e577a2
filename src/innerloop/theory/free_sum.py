"""Sums of independently rotated matrices that are functions of one Wishart matrix each (docs/theory.md, 25)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.theory.deterministic import Parts
from innerloop.theory.one_task import LOWEST, root

# Roots below this part of their bound are zero; the outer search stays where inner roots are not.
_LEAST = 1e-40


class FreeTask(NamedTuple):
    """Tasks of one size: H and the covariance of the error as functions on the spectrum, scaled by A^2's scale."""

    n_tasks: int
    h: FloatArray
    noise: FloatArray
    tasks: FloatArray
    weights: FloatArray
    log_scale: float

    def resolvent(self, theta: float) -> float:
        """Return E tr (H + theta)^-1 / p."""
        return float(self.weights @ (1 / (self.h + theta)))

    def theta(self, g: float) -> float:
        """Return the theta at which the resolvent is g; 1 / g bounds it."""
        return root(lambda theta: g - self.resolvent(theta), 1 / g, _LEAST / g)


def free_resolvent(tasks: list[FreeTask], penalty: float) -> tuple[float, list[float]]:
    """Return g = E tr (sum_i H_i + penalty)^-1 / p to leading order, and the theta at which each task's own is g."""
    m = sum(task.n_tasks for task in tasks)
    if len(tasks) == 1:
        task = tasks[0]

        def excess(theta: float) -> float:
            return m * theta - (m - 1) / task.resolvent(theta) - penalty

        theta = root(excess, float(m * task.h.max() + penalty + LOWEST))
        return task.resolvent(theta), [theta]

    def short(inverse: float) -> float:
        return sum(task.n_tasks * task.theta(1 / inverse) for task in tasks) - (m - 1) * inverse - penalty

    largest = float(sum(task.n_tasks * task.h.max() for task in tasks) + penalty)
    inverse = root(short, largest, np.sqrt(_LEAST) * largest)
    return 1 / inverse, [task.theta(1 / inverse) for task in tasks]


def sum_of_free(tasks: list[FreeTask], penalty: float, p: int) -> Parts:
    """Return the parts from the resolvents of the tasks (equation 25.3)."""
    largest = max(task.log_scale for task in tasks)
    tasks = [
        task._replace(
            h=task.h * np.exp(task.log_scale - largest),
            noise=task.noise * np.exp(2 * (task.log_scale - largest)),
            tasks=task.tasks * np.exp(2 * (task.log_scale - largest)),
        )
        for task in tasks
    ]
    penalty, m = penalty * float(np.exp(-largest)), sum(task.n_tasks for task in tasks)
    g, thetas = free_resolvent(tasks, penalty)
    total = noise = spread = 0.0
    for task, theta in zip(tasks, thetas, strict=True):
        square = (task.h + theta) ** -2.0
        slope = float(task.weights @ square)
        total += task.n_tasks / slope
        noise += task.n_tasks * float(task.weights @ (task.noise * square)) / slope
        spread += task.n_tasks * float(task.weights @ (task.tasks * square)) / slope
    remaining = total - (m - 1) / g**2
    return Parts(p * noise / remaining, p * spread / remaining, penalty**2 / remaining)
