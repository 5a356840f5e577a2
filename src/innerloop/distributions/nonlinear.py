"""Tasks that are nonlinear functions of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray, as_count, check_nonnegative_number
from innerloop.distributions.base import EpisodeArrays, Rows, TaskDistribution
from innerloop.distributions.features import RandomFeatures

FeatureMap = RandomFeatures | Callable[[FloatArray], FloatArray]


@final
@dataclass(frozen=True)
class QuadraticRegression(TaskDistribution):
    r"""Squares of linear functions, the nonlinear tasks of Bernacchia (2021).

    .. math:: y = (w'x + b)^2 + z, \quad w \sim N(0, (\nu^2 / d) I), \quad b \sim N(0, \beta^2), \quad x \sim N(0, I_d),
        \quad z \sim N(0, \sigma^2)

    Parameters
    ----------
    n_inputs
        d.
    noise_std
        sigma, the standard deviation of the label noise.
    task_std
        nu, the root mean square length of w.
    bias_std
        beta, the standard deviation of b.
    features
        What the model sees of the inputs, `RandomFeatures` or any function of (n_rows, n_inputs); None is the inputs.

    Notes
    -----
    Bernacchia (2021), section 4.

    Examples
    --------
    >>> import innerloop as il
    >>> dist = il.QuadraticRegression(n_inputs=2, features=il.RandomFeatures(2, 50))
    >>> dist.n_features, dist.sample_tasks(n_tasks=10, n_rows=5, seed=0).X.shape
    (50, (50, 50))
    """

    n_inputs: int
    noise_std: float = 1.0
    task_std: float = 1.0
    bias_std: float = 1.0
    features: FeatureMap | None = None

    def __post_init__(self) -> None:
        as_count(self.n_inputs, "n_inputs")
        for name in ("noise_std", "task_std", "bias_std"):
            check_nonnegative_number(getattr(self, name), name)
        _check_features(self.features, self.n_inputs)

    @property
    def n_features(self) -> int:  # type: ignore[override]
        """Number of features the model sees."""
        return _n_features(self.features, self.n_inputs)

    def moments(self, inputs: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return mean (n,) and covariance (n, n) over tasks of the targets without noise at inputs (n, n_inputs)."""
        covariance = self.task_std**2 * inputs @ inputs.T / self.n_inputs + self.bias_std**2
        return covariance.diagonal().copy(), 2 * covariance**2

    def draw_task(self, n_rows: int, rng: np.random.Generator) -> Rows:
        """Return features (n_rows, n_features) and targets (n_rows,) of one task."""
        w = self.task_std / np.sqrt(self.n_inputs) * rng.standard_normal(self.n_inputs)
        b = self.bias_std * rng.standard_normal()
        x = rng.standard_normal((n_rows, self.n_inputs))
        y = (x @ w + b) ** 2 + self.noise_std * rng.standard_normal(n_rows)
        return _apply(self.features, x), y


@final
@dataclass(frozen=True)
class Sinusoid(TaskDistribution):
    r"""Sine waves of random amplitude and phase (Finn, Abbeel and Levine, 2017).

    .. math:: y = A \sin(x - \varphi) + z, \quad A \sim U[0.1, 5], \quad \varphi \sim U[0, \pi], \quad x \sim U[-5, 5]

    Parameters
    ----------
    noise_std
        Standard deviation of the label noise z.
    features
        What the model sees of the input, `RandomFeatures` or any function of (n_rows, 1); None is the input itself.

    Examples
    --------
    >>> import innerloop as il
    >>> waves = il.Sinusoid().sample_tasks(n_tasks=4, n_rows=10, seed=0)
    >>> waves.X.shape, bool(abs(waves.y).max() <= 5)
    ((40, 1), True)
    """

    noise_std: float = 0.0
    features: FeatureMap | None = None

    n_inputs = 1

    def __post_init__(self) -> None:
        check_nonnegative_number(self.noise_std, "noise_std")
        _check_features(self.features, self.n_inputs)

    @property
    def n_features(self) -> int:  # type: ignore[override]
        """Number of features the model sees."""
        return _n_features(self.features, self.n_inputs)

    def draw_task(self, n_rows: int, rng: np.random.Generator) -> Rows:
        """Return features (n_rows, n_features) and targets (n_rows,) of one task."""
        ((X, y),) = self._draw(1, [n_rows], rng)
        return X[0], y[0]

    def draw_episodes(self, n_tasks: int, n_support: int, n_query: int, rng: np.random.Generator) -> EpisodeArrays:
        """Return support and query rows of tasks of equal sizes, all tasks drawn together."""
        support, query = self._draw(n_tasks, [n_support, n_query], rng)
        return EpisodeArrays(*support, *query)

    def _draw(self, n_tasks: int, sizes: Sequence[int], rng: np.random.Generator) -> list[Rows]:
        """Return rows of the same tasks for each size: (n_tasks, size, n_features) and (n_tasks, size)."""
        amplitude = rng.uniform(0.1, 5.0, (n_tasks, 1))
        phase = rng.uniform(0.0, np.pi, (n_tasks, 1))
        inputs = [rng.uniform(-5.0, 5.0, (n_tasks, size, 1)) for size in sizes]
        waves = [amplitude * np.sin(x[..., 0] - phase) for x in inputs]
        targets = [wave + self.noise_std * rng.standard_normal(wave.shape) for wave in waves]
        return [(_apply(self.features, x), y) for x, y in zip(inputs, targets, strict=True)]


def _check_features(features: FeatureMap | None, n_inputs: int) -> None:
    if isinstance(features, RandomFeatures) and features.n_inputs != n_inputs:
        raise ValueError(f"`features` must take {n_inputs} input(s), got RandomFeatures of {features.n_inputs}.")
    if features is not None and not callable(features):
        raise TypeError(f"`features` must be a function of the inputs, got {type(features).__name__}.")


def _apply(features: FeatureMap | None, x: FloatArray) -> FloatArray:
    """Return the features (..., n_rows, n_features) of inputs (..., n_rows, n_inputs)."""
    if features is None:
        return x
    values = features(x.reshape(-1, x.shape[-1]))
    return values.reshape(*x.shape[:-1], -1)


def _n_features(features: FeatureMap | None, n_inputs: int) -> int:
    if features is None:
        return n_inputs
    if isinstance(features, RandomFeatures):
        return features.n_features
    return int(np.shape(features(np.zeros((1, n_inputs))))[1])
