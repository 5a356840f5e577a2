"""The model of the paper as command-line options, shared by `theory` and `simulate`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from cyclopts import Parameter

from innerloop._base.checks import FloatArray
from innerloop.data.episodes import Protocol
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.distributions.inner_rules import InnerRuleName
from innerloop.distributions.mixed_linear import power_law_variances

SizeList = Annotated[list[int], Parameter(consume_multiple=True, negative="")]


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
        Support rows of a training task; for ragged tasks one number each.
    n_query
        Query rows of a training task; for ragged tasks one number each.
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
        Feature variances j^-D along p directions, of mean 1, for a number D; or a text file of variances, one a line,
        or of a covariance matrix. Tasks keep --task-std in the units of the coefficients. Other task covariances:
        innerloop.MixedLinearRegression(task_std=...) in Python.
    row_dof
        Degrees of freedom of features that are multivariate t; Gaussian unless given.
    intercept
        The last feature is the same in all rows.
    """

    n_tasks: int = 3
    n_features: int = 60
    n_support: SizeList = field(default_factory=lambda: [30])
    n_query: SizeList = field(default_factory=lambda: [2])
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
    covariance: str | None = None
    row_dof: float = math.inf
    intercept: Annotated[bool, Parameter(negative="")] = False

    def parts(self) -> tuple[MixedLinearRegression, Design, FloatArray]:
        """Return the distribution, the design and the start of meta-training."""
        variances = None if self.covariance is None else _variances(self.covariance, self.n_features)
        n_features = self.n_features if variances is None else len(variances)
        dist = MixedLinearRegression(
            n_features,
            self.noise_std,
            self.task_std,
            covariance=variances,
            row_dof=self.row_dof,
            intercept=self.intercept,
        )
        if not np.isfinite(self.init_distance):
            raise ValueError(f"`--init-distance` must be finite, got {self.init_distance}.")
        init = np.full(n_features, self.init_distance / np.sqrt(n_features))
        design = Design(
            self.n_tasks,
            _sizes(self.n_support),
            _sizes(self.n_query),
            self.n_adapt,
            math.inf if self.flow else self.n_steps,
            self.n_adapt_steps,
            0.0 if self.l2 == "best" else self.l2,
            self.inner_rule,
            self.protocol,
        )
        return dist, design, init


def sizes_text(design: Design) -> str:
    """Return the sizes of training tasks, support + query."""
    return ", ".join(
        f"{group.n_support} + {group.n_query}" + (f" ({group.n_tasks}x)" if len(design.groups) > 1 else "")
        for group in design.groups
    )


def _sizes(sizes: list[int]) -> int | list[int]:
    """Return one size for all tasks, or one for each."""
    return sizes[0] if len(sizes) == 1 else sizes


def _variances(text: str, n_features: int) -> FloatArray:
    """Return variances that fall as a power, those of a file, or those along the eigenvectors of a matrix in a file."""
    try:
        decay = float(text)
    except ValueError:
        return _variances_of_file(Path(text))
    return power_law_variances(n_features, decay, "--covariance")


def _variances_of_file(path: Path) -> FloatArray:
    if not path.is_file():
        raise ValueError(f"`--covariance` must be a number or a text file that exists, got {path}.")
    try:
        values = np.loadtxt(path, delimiter="," if "," in path.read_text() else None, ndmin=1)
    except ValueError as error:
        raise ValueError(f"`--covariance` must hold numbers, one a line or a square matrix: {path}: {error}.") from None
    if values.ndim == 2 and values.shape[0] == values.shape[1]:
        if not np.allclose(values, values.T):
            raise ValueError(f"`--covariance` must hold a symmetric matrix: {path}.")
        return np.asarray(np.linalg.eigvalsh(values)[::-1], dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"`--covariance` must hold one number a line or a square matrix, got shape {values.shape}.")
    return values
