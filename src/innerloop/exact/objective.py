"""The meta-training loss of given tasks, for every inner rate at once.

Conventions, stated once for `MetaObjective`, `solve`, `theory` and `simulation`: losses are HALF the mean
squared error over query rows (and over targets), label noise included; ``l2`` adds ``l2 / 2`` times the squared
distance of the meta-parameters from ``init``, averaged over targets in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import comb
from typing import NamedTuple, final

import numpy as np
from numpy.typing import ArrayLike

from innerloop._base.checks import FloatArray, IntArray, as_count, as_floats, as_nonnegative, check_finite
from innerloop._base.threads import one_thread
from innerloop.data.episodes import EpisodeBlock, Episodes, check_episodes
from innerloop.data.tasks import TaskSet, as_episodes
from innerloop.exact._factor import Factor, full_block, reduce_rows
from innerloop.exact._least_squares import least_squares, residual_above_rounding
from innerloop.exact._many_rates import ManyRates, pays
from innerloop.exact.solutions import MetaPath, Status

# From so many problems on, small ones are solved on one thread.
_MANY = 4
# Where columns depend on each other, query rows count as fitted exactly if this fraction of the residual at `init`, or
# less, is left of it.
_EXACT_FIT = 1e-10


@final
@dataclass(frozen=True, eq=False)
class MetaObjective:
    """The meta-training loss as least squares in the meta-parameters omega, for every inner rate a.

    One task with support (X_t, y_t) of n_t rows and query (X_v, y_v) contributes, after K gradient steps of
    rate a on half the mean squared error, the query residual ::

        g(a) - B(a) omega = sum_j C(K, j) (-a)^j (g_j - U_j omega),    j = 0..K
        U_0 = X_v,  U_j = U_{j-1} X_t'X_t / n_t,    g_0 = y_v,  g_j = U_{j-1} X_t'y_t / n_t

    so that any R with ``R'R = D'D``, D the rows ``[U_0 .. U_K g_0 .. g_K]`` of all tasks, determines the loss at
    every rate. Only that R is kept, a triangle of (K + 1)(p + k) columns for p features and k targets (or the rows
    themselves, where they are few), whatever the number of tasks.

    Objectives add (``a + b``: the tasks of both) and scale (``2.0 * a``: each task counts twice).

    Parameters
    ----------
    factor : (n_rows, (K + 1)(p + k))
        The matrix R.
    n_features, n_targets, n_steps
        p, k and K.
    weight
        Weighted number of query rows, by which sums of squares are divided.
    n_tasks
        Number of episodes.
    single_target
        Whether targets had shape (rows,), so that coefficients have shape (n_features,).

    Notes
    -----
    docs/theory.md, sections "The meta-training loss" and "The factor". `from_episodes` and
    `from_tasks` make one.

    Examples
    --------
    >>> import innerloop as il
    >>> dist = il.MixedLinearRegression(5)
    >>> parts = [dist.sample_tasks(n_tasks=20, n_rows=8, seed=seed) for seed in (0, 1)]
    >>> first, second = (il.MetaObjective.from_tasks(part, n_support=4) for part in parts)
    >>> total = first + second  # the loss of both parts together, at every rate
    >>> total.n_tasks
    80
    >>> il.solve(total, inner_lr=-0.1).coef.shape
    (5,)
    """

    factor: FloatArray = field(repr=False)
    n_features: int
    n_targets: int
    n_steps: int
    weight: float
    n_tasks: int
    single_target: bool = True

    __array_ufunc__ = None  # numpy leaves np.float64(2.0) * objective to __rmul__

    @classmethod
    def from_episodes(cls, episodes: Episodes, n_steps: int = 1) -> MetaObjective:
        """Gather the objective of all episodes.

        Parameters
        ----------
        episodes
            From `TaskSet.split`, `TaskSet.deal` or ``Episodes([...])``. Weights multiply the squared error of a row,
            in the inner loop too.
        n_steps
            Inner gradient steps K, at least 1.

        Raises
        ------
        TypeError
            If `episodes` are not `Episodes`.
        ValueError
            If `n_steps` is below 1.
        """
        check_episodes(episodes)
        episodes = episodes.whitened()
        K = as_count(n_steps, "n_steps")
        factor = Factor((K + 1) * (episodes.n_features + episodes.n_targets))
        for _, rows in residual_columns(episodes, K):
            factor.absorb(rows.reshape(-1, rows.shape[-1]))
        if not np.isfinite(factor.result()).all():
            raise ValueError("`episodes` hold numbers too large to square; rescale their features and targets.")
        return cls(
            factor.result(),
            episodes.n_features,
            episodes.n_targets,
            K,
            float(episodes.n_query.sum()),
            len(episodes),
            episodes.y.ndim == 1,
        )

    @classmethod
    def from_tasks(
        cls,
        tasks: TaskSet | Episodes,
        n_steps: int = 1,
        *,
        n_support: int | None = None,
        n_query: int | None = None,
        seed: int = 0,
    ) -> MetaObjective:
        """Gather the objective of a task set, or of episodes as `from_episodes` does.

        Parameters
        ----------
        tasks
            A `TaskSet`, of which this makes episodes; or `Episodes`.
        n_steps
            Inner gradient steps K, at least 1.
        n_support, n_query
            Rows per episode. Without `n_query` every row is a query row once (`TaskSet.deal`); with it each task is one
            episode (`TaskSet.split`).
        seed
            Of the rows drawn.

        Raises
        ------
        TypeError
            If `tasks` is neither of the two.
        ValueError
            If a task has too few rows, or sizes are given for episodes.
        """
        return cls.from_episodes(as_episodes(tasks, n_support, n_query, seed), n_steps)

    def __add__(self, other: object) -> MetaObjective:
        if isinstance(other, int) and other == 0:
            return self  # so that sum() works
        if not isinstance(other, MetaObjective):
            return NotImplemented
        if self._kind != other._kind:
            raise ValueError(
                "objectives must agree in (n_features, n_targets, n_steps, single_target) to be added, got "
                f"{self._kind} and {other._kind}."
            )
        return MetaObjective(
            reduce_rows(np.concatenate((self.factor, other.factor))),
            self.n_features,
            self.n_targets,
            self.n_steps,
            self.weight + other.weight,
            self.n_tasks + other.n_tasks,
            self.single_target,
        )

    __radd__ = __add__

    def __mul__(self, weight: float) -> MetaObjective:
        w = float(as_nonnegative(weight, "weight"))
        return MetaObjective(
            np.sqrt(w) * self.factor, *self._kind[:3], w * self.weight, self.n_tasks, self.single_target
        )

    __rmul__ = __mul__

    @property
    def _kind(self) -> tuple[int, int, int, bool]:
        return self.n_features, self.n_targets, self.n_steps, self.single_target

    def at(self, inner_lr: float) -> tuple[FloatArray, FloatArray, float]:
        """Return the least-squares problem at one rate.

        Returns
        -------
        B : (n_rows, n_features)
        g : (n_rows, n_targets)
        scale
            The sum of squares of the meta-training loss is ``scale**2 * |g - B omega|**2``. It is 1 for rates
            within [-1, 1] and keeps larger ones from overflow.
        """
        c, scale = step_coefficients(inner_lr, self.n_steps)
        U, g = split_columns(self.factor, self.n_features, self.n_targets)
        return np.einsum("j,ijp->ip", c, U), np.einsum("j,ijk->ik", c, g), scale

    def minimise(self, inner_lrs: FloatArray, l2: FloatArray, init: ArrayLike | None = None) -> MetaPath:
        """Return the minimisers at many rates; `solve_path` checks its arguments, calls this and warns.

        Parameters
        ----------
        inner_lrs, l2
            Rates and penalties, two finite arrays of one shape with at least one axis.
        init
            As in `solve`.
        """
        start = self._start(init)
        if self.weight <= 0:
            raise ValueError("`objective` must have query rows of positive weight, got none.")
        rates, penalties = inner_lrs.ravel(), l2.ravel()
        with one_thread(self.n_features) if inner_lrs.size >= _MANY else nullcontext():
            if pays(inner_lrs.size, len(self.factor), self.n_features, self.n_steps):
                shared = self._minimise_together(rates, penalties, start)
            else:
                shared = [None] * inner_lrs.size
            solved = [
                self._minimise_at(rate, penalty, start) if found is None else found
                for found, rate, penalty in zip(shared, rates.tolist(), penalties.tolist(), strict=True)
            ]
        coef = np.array([s.coef for s in solved]).reshape(*inner_lrs.shape, *start.shape)
        return MetaPath(
            inner_lrs,
            l2,
            coef[..., 0] if self.single_target else coef,
            np.array([s.loss for s in solved]).reshape(inner_lrs.shape),
            np.array([s.rank for s in solved], dtype=np.intp).reshape(inner_lrs.shape),
            np.array([s.condition for s in solved]).reshape(inner_lrs.shape),
            np.array([s.status for s in solved], dtype=object).reshape(inner_lrs.shape),
        )

    def _start(self, init: ArrayLike | None) -> FloatArray:
        """Return `init` as (n_features, n_targets)."""
        shape = (self.n_features, self.n_targets)
        if init is None:
            return np.zeros(shape)
        start = as_floats(init, "init")
        check_finite(start, "init")
        expected = shape[:1] if self.single_target else shape
        if start.shape != expected:
            raise ValueError(f"`init` must have the shape of the coefficients, {expected}, got {start.shape}.")
        return start.reshape(shape)

    def _minimise_at(self, rate: float, l2: float, init: FloatArray) -> _Minimum:
        B, g, scale = self.at(rate)
        # The ridge is scaled in two steps: scale**2 may overflow where the ratio does not.
        ridge = np.sqrt(self.weight * l2) / scale
        residual = g - B @ init
        step, rank, condition = least_squares(B, residual, ridge)
        misfit = float(np.linalg.norm(residual_above_rounding(B, step, residual)))
        fitted = misfit <= _EXACT_FIT * float(np.linalg.norm(residual))
        return self._minimum(init + step, self.n_features if l2 > 0 else rank, condition, misfit, fitted, scale)

    def _minimise_together(self, rates: FloatArray, l2: FloatArray, init: FloatArray) -> list[_Minimum | None]:
        """Return the minimisers at many rates from matrices they share; None at rates that need their own factor."""
        U, g = split_columns(self.factor, self.n_features, self.n_targets)
        c, scales = (
            np.array(part) for part in zip(*(step_coefficients(a, self.n_steps) for a in rates.tolist()), strict=True)
        )
        many = ManyRates(U)
        residuals = np.einsum("nj,ijk->nik", c, g)
        if init.any():
            residuals -= many.times(c, np.broadcast_to(init, (len(rates), *init.shape)))
        minima: list[_Minimum | None] = []
        solutions = many.solve(c, np.sqrt(self.weight) * np.sqrt(l2) / scales, residuals)
        for rate, penalty, scale, residual, solved in zip(rates, l2, scales, residuals, solutions, strict=True):
            if solved is None:
                minima.append(None)
                continue
            rank = self.n_features if penalty > 0 else min(len(U), self.n_features)
            misfit = solved.misfit
            if rank == self.n_features and misfit <= solved.rounding:
                misfit = float(np.linalg.norm(residual_above_rounding(self.at(rate)[0], solved.step, residual)))
            minima.append(self._minimum(init + solved.step, rank, solved.condition, misfit, True, scale))
        return minima

    def _minimum(
        self, coef: FloatArray, rank: int, condition: float, misfit: float, fitted: bool, scale: float
    ) -> _Minimum:
        """Return the minimiser with its loss and status; `fitted` says whether query rows are fitted exactly."""
        status: Status = "unique"
        if rank < self.n_features:
            status, misfit = ("nearest", 0.0) if fitted else ("deficient", misfit)
        with np.errstate(over="ignore"):
            error = scale * misfit if misfit > 0 else 0.0
            loss = float(np.square(error) / (2 * self.weight * self.n_targets))
        return _Minimum(coef, loss, rank, condition, status)


class _Minimum(NamedTuple):
    """The minimiser at one rate: coefficients (n_features, n_targets) and what `MetaSolution` says of them."""

    coef: FloatArray
    loss: float
    rank: int
    condition: float
    status: Status


def step_coefficients(rate: float, n_steps: int) -> tuple[FloatArray, float]:
    """Return C(K, j) (-rate)^j / scale for j = 0..K, and scale = max(1, |rate|)^K."""
    larger = max(1.0, abs(rate))
    c = [comb(n_steps, j) * (-rate / larger) ** j * larger ** (j - n_steps) for j in range(n_steps + 1)]
    with np.errstate(over="ignore"):
        return np.array(c), float(np.float64(larger) ** n_steps)


def residual_columns(episodes: Episodes, n_steps: int) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield the rows ``[U_0 .. U_K g_0 .. g_K]`` of the query rows, block by block.

    Yields
    ------
    members : (n_members,)
        Positions of the block's episodes.
    rows : (n_members, n_query, (K + 1)(p + k))
    """
    width = (n_steps + 1) * (episodes.n_features + episodes.n_targets)
    for block in episodes.blocks(max_rows=full_block(width)):
        yield block.members, _block_columns(block, n_steps)


def split_columns(rows: FloatArray, n_features: int, n_targets: int) -> tuple[FloatArray, FloatArray]:
    """Return U_0 .. U_K (..., K + 1, p) and g_0 .. g_K (..., K + 1, k) out of rows (..., (K + 1)(p + k))."""
    n_orders = rows.shape[-1] // (n_features + n_targets)
    U, g = rows[..., : n_orders * n_features], rows[..., n_orders * n_features :]
    return (
        U.reshape(*rows.shape[:-1], n_orders, n_features),
        g.reshape(*rows.shape[:-1], n_orders, n_targets),
    )


def _block_columns(block: EpisodeBlock, n_steps: int) -> FloatArray:
    X, y, X_query = block.X_support, block.y_support, block.X_query
    n_support, p, k = X.shape[1], X.shape[2], y.shape[2]
    new = np.empty if n_support else np.zeros
    rows = new((*X_query.shape[:2], (n_steps + 1) * (p + k)))
    U = [rows[:, :, j * p : (j + 1) * p] for j in range(n_steps + 1)]
    first = (n_steps + 1) * p
    g = [rows[:, :, first + j * k : first + (j + 1) * k] for j in range(n_steps + 1)]
    U[0][...], g[0][...] = X_query, block.y_query
    if n_support == 0:
        return rows
    Xt = X.transpose(0, 2, 1)
    if n_support > p:  # p x p moments are smaller than the support rows
        M, m = Xt @ X / n_support, Xt @ y / n_support
    for j in range(1, n_steps + 1):
        if n_support > p:
            np.matmul(U[j - 1], M, out=U[j])
            np.matmul(U[j - 1], m, out=g[j])
        else:
            P = (U[j - 1] @ Xt) / n_support
            np.matmul(P, X, out=U[j])
            np.matmul(P, y, out=g[j])
    return rows
