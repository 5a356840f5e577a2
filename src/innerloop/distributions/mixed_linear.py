"""Mixed linear regression: the task distribution of Bernacchia (2021)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import ArrayLike

from innerloop._checks import FloatArray, as_count, as_floats, as_nonnegative, check_finite
from innerloop._random import stream
from innerloop.tasks import TaskSet


@final
@dataclass(frozen=True, eq=False)
class MixedLinearRegression:
    r"""Linear tasks around a common centre, with isotropic Gaussian features.

    .. math:: w_i \sim N(w_0, (\nu^2 / p) I), \quad x \sim N(0, I_p), \quad y = w_i'x + z, \quad
        z \sim N(0, \sigma^2)

    Parameters
    ----------
    n_features
        p.
    noise_std
        sigma, the standard deviation of the label noise.
    task_std
        nu, the root mean square distance of a task's coefficients from the centre.
    mean : (n_features,)
        The centre w_0; None is zero.

    Notes
    -----
    Bernacchia (2021), section 3.
    """

    n_features: int
    noise_std: float = 1.0
    task_std: float = 1.0
    mean: ArrayLike | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        as_count(self.n_features, "n_features")
        for name in ("noise_std", "task_std"):
            if as_nonnegative(getattr(self, name), name).ndim:
                raise ValueError(f"`{name}` must be a single number.")
        if self.mean is not None:
            mean = as_floats(self.mean, "mean")
            check_finite(mean, "mean")
            if mean.shape != (self.n_features,):
                raise ValueError(f"`mean` must have shape ({self.n_features},), got {mean.shape}.")

    def sample_tasks(self, n_tasks: int, n_rows: int, seed: int = 0) -> TaskSet:
        """Draw tasks of `n_rows` rows each; task i is the same whatever the number of tasks."""
        as_count(n_rows, "n_rows")
        drawn = [self._sample(n_rows, stream(seed, i)) for i in range(as_count(n_tasks, "n_tasks"))]
        X, y = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
        return TaskSet.from_arrays(X, y, np.repeat(np.arange(n_tasks), n_rows))

    def _sample(self, n_rows: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        centre = np.zeros(self.n_features) if self.mean is None else np.asarray(self.mean, dtype=float)
        w = centre + self.task_std / np.sqrt(self.n_features) * rng.standard_normal(self.n_features)
        X = rng.standard_normal((n_rows, self.n_features))
        return X, X @ w + self.noise_std * rng.standard_normal(n_rows)
