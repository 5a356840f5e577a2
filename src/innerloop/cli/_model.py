"""The model of the paper as command-line options, shared by `theory` and `simulate`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from cyclopts import Parameter

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, MixedLinearRegression


@Parameter(name="*")
@dataclass(frozen=True)
class LinearModel:
    """Mixed linear regression, and the sizes of an experiment.

    Parameters
    ----------
    n_tasks
        Training tasks.
    n_features
        Features.
    n_support
        Support rows of a training task.
    n_query
        Query rows of a training task.
    n_adapt
        Rows a new task adapts on.
    noise_std
        Standard deviation of the label noise.
    task_std
        Root mean square distance of a task from the centre.
    n_steps
        Inner steps, in training and on a new task.
    l2
        Ridge penalty on the meta-parameters.
    init_distance
        Distance of the start of meta-training from the centre of the tasks.
    """

    n_tasks: int = 3
    n_features: int = 60
    n_support: int = 30
    n_query: int = 2
    n_adapt: int = 20
    noise_std: float = 1.0
    task_std: float = 0.5
    n_steps: int = 1
    l2: float = 0.0
    init_distance: float = 0.0

    def parts(self) -> tuple[MixedLinearRegression, Design, FloatArray]:
        """Return the distribution, the design and the start of meta-training."""
        dist = MixedLinearRegression(self.n_features, self.noise_std, self.task_std)
        if not np.isfinite(self.init_distance):
            raise ValueError(f"`--init-distance` must be finite, got {self.init_distance}.")
        init = np.full(self.n_features, self.init_distance / np.sqrt(self.n_features))
        return dist, Design(self.n_tasks, self.n_support, self.n_query, self.n_adapt, self.n_steps, l2=self.l2), init
