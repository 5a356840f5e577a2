"""Scores of tasks, with mean, standard error and confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class Scores:
    """One score for each of several tasks.

    Parameters
    ----------
    values : (n_tasks,)
        The scores.

    Examples
    --------
    >>> import torch
    >>> from innerloop.neural import Scores
    >>> scores = Scores(torch.tensor([1.0, 2.0, 3.0]))
    >>> print(scores)
    2 ± 1.1 (95 %, 3 tasks)
    >>> scores.mean()
    2.0
    """

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __str__(self) -> str:
        """Return mean and half width of the interval in a line."""
        return f"{self.mean():.4g} ± {1.96 * self.stderr():.2g} (95 %, {len(self)} tasks)"

    def mean(self) -> float:
        """Return the mean over tasks."""
        return float(self.values.double().mean())

    def stderr(self) -> float:
        """Return the standard error of the mean; NaN for one task."""
        if len(self) < 2:
            return float("nan")
        return float(self.values.double().std()) / math.sqrt(len(self))

    def interval(self) -> tuple[float, float]:
        """Return the 95 % confidence interval of the mean over all such tasks, mean ± 1.96 standard errors."""
        mean, half = self.mean(), 1.96 * self.stderr()
        return mean - half, mean + half
