"""The model of the paper as command-line options, shared by `theory` and `simulate`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from cyclopts import Parameter

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.distributions.design import Protocol
from innerloop.distributions.inner_rules import InnerRuleName


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
        Ridge penalty on the meta-parameters; "best" minimises over it too.
    init_distance
        Distance of the start of meta-training from the centre of the tasks.
    protocol
        What scores a training task: split (its query rows), or every row once: train (support = query), leave-one-out,
        deal (in folds of n_support rows).
    inner_rule
        Gradient steps, or the implicit rule of implicit MAML (rates from 0).
    n_adapt_steps
        Steps on a new task, if not as many as in training.
    flow
        Gradient flow instead of steps: rates are times.
    covariance
        Text file of feature variances, one a line, or of a covariance matrix. Tasks keep --task-std in the units of
        the coefficients. Ragged sizes and other task covariances: innerloop.Design and MixedLinearRegression in Python.
    """

    n_tasks: int = 3
    n_features: int = 60
    n_support: int = 30
    n_query: int = 2
    n_adapt: int = 20
    noise_std: float = 1.0
    task_std: float = 0.5
    n_steps: int = 1
    l2: float | Literal["best"] = 0.0
    init_distance: float = 0.0
    protocol: Protocol = "split"
    inner_rule: InnerRuleName = "gradient"
    n_adapt_steps: int | None = None
    flow: Annotated[bool, Parameter(negative="")] = False
    covariance: Path | None = None

    def parts(self) -> tuple[MixedLinearRegression, Design, FloatArray]:
        """Return the distribution, the design and the start of meta-training."""
        variances = None if self.covariance is None else _variances(self.covariance)
        n_features = self.n_features if variances is None else len(variances)
        dist = MixedLinearRegression(n_features, self.noise_std, self.task_std, covariance=variances)
        if not np.isfinite(self.init_distance):
            raise ValueError(f"`--init-distance` must be finite, got {self.init_distance}.")
        init = np.full(n_features, self.init_distance / np.sqrt(n_features))
        design = Design(
            self.n_tasks,
            self.n_support,
            self.n_query,
            self.n_adapt,
            math.inf if self.flow else self.n_steps,
            self.n_adapt_steps,
            0.0 if self.l2 == "best" else self.l2,
            self.inner_rule,
            self.protocol,
        )
        return dist, design, init


def _variances(path: Path) -> FloatArray:
    """Read feature variances, or those along the eigenvectors of a covariance matrix."""
    try:
        values = np.loadtxt(path, delimiter="," if "," in path.read_text() else None, ndmin=1)
    except ValueError as error:
        raise ValueError(f"`--covariance` must hold numbers, one a line or a square matrix: {path}: {error}.") from None
    if values.ndim == 2 and values.shape[0] == values.shape[1]:
        return np.asarray(np.linalg.eigvalsh(values)[::-1], dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"`--covariance` must hold one number a line or a square matrix, got shape {values.shape}.")
    return values
