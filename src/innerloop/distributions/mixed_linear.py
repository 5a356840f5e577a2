"""Mixed linear regression: the task distribution of Bernacchia (2021), and the sizes of an experiment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import ArrayLike

from innerloop._base.checks import (
    FloatArray,
    as_count,
    as_floats,
    as_nonnegative,
    as_number,
    check_finite,
    check_nonnegative_number,
)
from innerloop.distributions.base import Rows, TaskDistribution

GAUSSIAN_FOURTH_MOMENT = 3.0
# Eigenvalues of a centred kernel below this part of the largest are rounding.
_LEAST_EIGENVALUE = 1e-10


@final
@dataclass(frozen=True, eq=False)
class MixedLinearRegression(TaskDistribution):
    r"""Linear tasks around a common centre, in the eigenbasis of the feature covariance.

    .. math:: w_i \sim N(w_0, \mathrm{diag}(\tau^2)), \quad x \sim N(0, \mathrm{diag}(s)), \quad y = w_i'x + z, \quad
        z \sim N(0, \sigma^2)

    Coordinates are those in which the covariance of the features is diagonal. Correlations of the tasks in that basis
    do not change any expected loss (docs/theory.md, 16), so that the diagonals are all there is to give.

    Parameters
    ----------
    n_features
        p.
    noise_std
        sigma, the standard deviation of the label noise.
    task_std : float or (n_features,)
        One number is nu, the root mean square distance of a task's coefficients from the centre: each coefficient
        has standard deviation nu / sqrt(p). An array holds the standard deviation tau_j of each coefficient, so that
        an array of nu / sqrt(p) is the same as nu.
    mean : (n_features,)
        The centre w_0; None is zero.
    covariance : (n_features,)
        Eigenvalues s of the feature covariance; None is ones.
    fourth_moment
        E x_j^4 / s_j^2, 3 for Gaussian features. Other values, from 1, are drawn as independent coordinates that are
        zero or plus or minus sqrt(fourth_moment s_j).
    row_dof
        Degrees of freedom, above 4, of rows that are multivariate t: a Gaussian row times sqrt((row_dof - 2) / chi^2),
        so that E x x' stays diag(s). Infinity is Gaussian rows.
    intercept
        Whether the last feature is the same in all rows, with s its square: the others vary around zero, and its
        coefficient is an intercept.

    Notes
    -----
    Bernacchia (2021), section 3, where the covariance is the identity.

    Examples
    --------
    >>> import innerloop as il
    >>> dist = il.MixedLinearRegression(n_features=3, noise_std=0.5, task_std=1.0)
    >>> tasks = dist.sample_tasks(n_tasks=10, n_rows=5, seed=0)
    >>> tasks.n_tasks, tasks.X.shape
    (10, (50, 3))
    """

    n_features: int
    noise_std: float = 1.0
    task_std: ArrayLike = 1.0
    mean: ArrayLike | None = field(default=None, repr=False)
    covariance: ArrayLike | None = field(default=None, repr=False)
    fourth_moment: float = GAUSSIAN_FOURTH_MOMENT
    row_dof: float = math.inf
    intercept: bool = False

    def __post_init__(self) -> None:
        as_count(self.n_features, "n_features")
        for name in ("noise_std", "fourth_moment"):
            check_nonnegative_number(getattr(self, name), name)
        if self.fourth_moment < 1:
            raise ValueError(f"`fourth_moment` must be at least 1 (3 is Gaussian), got {self.fourth_moment}.")
        if not as_number(self.row_dof, "row_dof") > 4:
            raise ValueError(
                f"`row_dof` must be above 4 (fourth moments are infinite below; inf is Gaussian), got {self.row_dof}."
            )
        laws = {
            "fourth_moment": self.fourth_moment != GAUSSIAN_FOURTH_MOMENT,
            "row_dof": self.row_dof < math.inf,
            "intercept": bool(self.intercept),
        }
        if sum(laws.values()) > 1:
            chosen = " and ".join(f"`{name}`" for name, holds in laws.items() if holds)
            raise ValueError(f"{chosen} cannot be combined: give one of them.")
        if self.intercept and self.n_features < 2:
            raise ValueError("`n_features` must be at least 2 with an intercept, which is the last of them.")
        if as_nonnegative(self.task_std, "task_std").ndim:
            self._check_shape("task_std")
        if self.mean is not None:
            check_finite(as_floats(self.mean, "mean"), "mean")
            self._check_shape("mean")
        if self.covariance is not None:
            self._check_shape("covariance")
            if not (as_nonnegative(self.covariance, "covariance") > 0).all():
                raise ValueError("`covariance` must hold positive eigenvalues; leave out features that never vary.")

    def _check_shape(self, name: str) -> None:
        shape = np.shape(getattr(self, name))
        if shape != (self.n_features,):
            raise ValueError(f"`{name}` must have shape ({self.n_features},), got {shape}.")

    @property
    def is_isotropic(self) -> bool:
        """Whether features and tasks are the same in every direction, with features of unit variance."""
        unit = self.covariance is None or bool((np.asarray(self.covariance) == 1).all())
        return not self.intercept and unit and np.unique(np.asarray(self.task_std)).size == 1

    @property
    def is_gaussian(self) -> bool:
        """Whether all features are Gaussian."""
        return self.fourth_moment == GAUSSIAN_FOURTH_MOMENT and self.row_dof == math.inf and not self.intercept

    @property
    def centre(self) -> FloatArray:
        """w_0, of shape (n_features,)."""
        return np.zeros(self.n_features) if self.mean is None else np.asarray(self.mean, dtype=np.float64)

    @property
    def eigenvalues(self) -> FloatArray:
        """Variances s of the features, of shape (n_features,)."""
        return np.ones(self.n_features) if self.covariance is None else np.asarray(self.covariance, dtype=np.float64)

    @property
    def task_variances(self) -> FloatArray:
        """Variances tau^2 of the coefficients, of shape (n_features,)."""
        spread = np.asarray(self.task_std, dtype=np.float64)
        return spread**2 if spread.ndim else np.full(self.n_features, spread**2 / self.n_features)

    @classmethod
    def from_kernel(
        cls,
        kernel: FloatArray,
        task_mean: FloatArray,
        task_covariance: FloatArray,
        start_covariance: FloatArray,
        noise_std: float,
    ) -> MixedLinearRegression:
        """Return the linear model of a kernel, such as the tangent kernel of wide networks, on unlabelled inputs.

        The eigenfunctions of the centred kernel become Gaussian features, its mean over pairs of inputs the square of
        an intercept. Coefficients are relative to the start of meta-training: leave ``init`` at zero.

        Parameters
        ----------
        kernel : (n_inputs, n_inputs)
            Between unlabelled inputs, some times more than training tasks have query rows.
        task_mean, task_covariance : (n_inputs,), (n_inputs, n_inputs)
            Mean and covariance, over tasks, of a task's function at the inputs.
        start_covariance : (n_inputs, n_inputs)
            Covariance of the function at the start of meta-training; its mean is zero.
        noise_std
            Standard deviation of the label noise.

        Notes
        -----
        docs/theory.md, section 28. A heuristic: eigenfunctions are not Gaussian.
        """
        n = len(kernel)
        centring = np.eye(n) - 1 / n
        s, vectors = np.linalg.eigh(centring @ kernel @ centring / n)
        kept = s > _LEAST_EIGENVALUE * s[-1]
        s, vectors = s[kept][::-1], vectors[:, kept][:, ::-1]
        square = float(np.mean(kernel))

        def along(matrix: FloatArray) -> FloatArray:
            """Return variances of the coefficients of functions of this covariance."""
            slopes = np.einsum("ij,ik,kj->j", vectors, matrix, vectors) / (n * s)
            return np.asarray(np.maximum(np.append(slopes, np.mean(matrix) / square), 0.0))

        start = along(np.outer(task_mean, task_mean)) + along(start_covariance)
        return cls(
            len(s) + 1,
            noise_std,
            np.sqrt(along(task_covariance)),
            np.sqrt(start),
            np.append(s, square),
            intercept=True,
        )

    def draw_task(self, n_rows: int, rng: np.random.Generator) -> Rows:
        """Return features (n_rows, n_features) and targets (n_rows,) of one task."""
        w = self.centre + np.sqrt(self.task_variances) * rng.standard_normal(self.n_features)
        X = self.draw_features(np.empty((n_rows, self.n_features)), rng)
        return X, X @ w + self.noise_std * rng.standard_normal(n_rows)

    def draw_features(self, out: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Fill an array (..., n_features) with independent rows of features, and return it."""
        if self.fourth_moment == GAUSSIAN_FOURTH_MOMENT:
            rng.standard_normal(out=out)
        else:
            signs = np.where(rng.random(out.shape) < 0.5, -1.0, 1.0)
            out[...] = np.where(rng.random(out.shape) < 1 / self.fourth_moment, signs * self.fourth_moment**0.5, 0.0)
        if self.row_dof < math.inf:
            out *= np.sqrt((self.row_dof - 2) / rng.chisquare(self.row_dof, (*out.shape[:-1], 1)))
        if self.intercept:
            out[..., -1] = 1.0
        if self.covariance is not None:
            out *= np.sqrt(self.eigenvalues)
        return out


def power_law_variances(n_features: int, decay: float, name: str = "decay") -> FloatArray:
    """Return feature variances j^-decay of mean 1, for `MixedLinearRegression(covariance=...)`.

    Parameters
    ----------
    n_features
        p.
    decay
        0 is isotropic.
    name
        What messages call `decay`.

    Returns
    -------
    (n_features,)

    Raises
    ------
    ValueError
        If a variance is not a positive finite number.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.arange(1.0, n_features + 1) ** -decay
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"`{name}` must give finite positive variances, got {decay}.")
    return np.asarray(values / values.mean())
