"""Random features: nonlinear functions of the inputs, in which a task is linear or nearly so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, final

import numpy as np

from innerloop._base.checks import FloatArray, as_count, check_nonnegative_number
from innerloop._base.seeds import stream

ACTIVATIONS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "relu": lambda hidden: np.maximum(hidden, 0.0),
    "cos": np.cos,
    "tanh": np.tanh,
}


@final
@dataclass(frozen=True)
class RandomFeatures:
    r"""One hidden layer with random weights, kept fixed.

    .. math:: \phi_j(x) = \sqrt{2 / n}\; f(v_j'x + b_j), \quad v_j \sim N(0, scale^2 I), \quad
        b_j \sim N(0, scale^2) \text{ (cos: } U[0, 2\pi])

    With "cos" these are random Fourier features of a Gaussian kernel of width 1 / scale (Rahimi and Recht, 2007); with
    "relu" those of the arc-cosine kernel (Cho and Saul, 2009).

    Parameters
    ----------
    n_inputs, n_features
        Numbers of inputs and of features n.
    activation
        f: "relu", "cos" or "tanh".
    scale
        Standard deviation of the weights.
    seed
        Draws the weights.

    Examples
    --------
    >>> import innerloop as il
    >>> import numpy as np
    >>> il.RandomFeatures(n_inputs=1, n_features=30, activation="cos")(np.zeros((4, 1))).shape
    (4, 30)
    """

    n_inputs: int
    n_features: int
    activation: Literal["relu", "cos", "tanh"] = "relu"
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_inputs", "n_features"):
            as_count(getattr(self, name), name)
        as_count(self.seed, "seed", 0)
        check_nonnegative_number(self.scale, "scale")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"`activation` must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}.")

    def __call__(self, inputs: FloatArray) -> FloatArray:
        """Return the features (n_rows, n_features) of inputs (n_rows, n_inputs)."""
        weights, biases = self._layer
        values: FloatArray = np.sqrt(2 / self.n_features) * ACTIVATIONS[self.activation](inputs @ weights + biases)
        return values

    @cached_property
    def _layer(self) -> tuple[FloatArray, FloatArray]:
        rng = stream(self.seed)
        weights = self.scale * rng.standard_normal((self.n_inputs, self.n_features))
        if self.activation == "cos":
            return weights, rng.uniform(0, 2 * np.pi, self.n_features)
        return weights, self.scale * rng.standard_normal(self.n_features)
