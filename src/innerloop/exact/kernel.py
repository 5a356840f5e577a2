"""Exact meta-training in dual form, by a kernel: models with more features than rows, linearised networks.

The model is ``f(x) = f0(x) + phi(x)'d`` with ``phi(x)'phi(x') = K(x, x')``; features are never formed. Losses are half
mean squared errors, as in `MetaObjective`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lapack

from innerloop._base.checks import FloatArray, IntArray, as_count, as_floats, as_nonnegative, check_finite
from innerloop._base.ragged import row_starts
from innerloop.data.episodes import Episodes, check_episodes
from innerloop.data.tasks import TaskSet, as_episodes, check_unweighted
from innerloop.exact._least_squares import ROUNDING, least_squares, residual_above_rounding
from innerloop.exact.objective import step_coefficients
from innerloop.exact.solutions import POOR_CONDITION

# Rows (..., n, d) and (..., n', d) to (..., n, n'), and rows (..., n, d) to values (..., n) or (..., n, k).
Kernel = Callable[[FloatArray, FloatArray], FloatArray]
Function = Callable[[FloatArray], FloatArray]
Runs = Episodes | Sequence[Episodes]

# Up to this condition number of W(a) K W(a)' about 10 of 16 digits are correct by the fastest way.
_CLEAR = 1e6


@final
@dataclass(frozen=True)
class ReluKernel:
    r"""Tangent kernel of a two-layer ReLU network of infinite width, all parameters trained.

    .. math:: f(x) = \sqrt{2/n}\, v'\,\mathrm{relu}(W x / \sqrt d + \beta b) + \beta c, \qquad W, b, v, c \sim N(0, 1)

    .. math:: K(x, x') = \Sigma(x, x') \kappa_0(\rho) + \sqrt{\Sigma(x, x) \Sigma(x', x')} \kappa_1(\rho) + \beta^2,
        \quad \Sigma(x, x') = x'x / d + \beta^2

    with :math:`\rho` the correlation that :math:`\Sigma` gives, :math:`\pi\kappa_0 = \pi - \arccos\rho` and
    :math:`\pi\kappa_1 = \sqrt{1 - \rho^2} + \rho(\pi - \arccos\rho)`.

    Parameters
    ----------
    bias_std
        beta.
    trained
        "all" parameters, or the "last" layer alone: then :math:`\Sigma\kappa_0` is absent. That is also the covariance
        (NNGP) of the untrained network f itself.

    Notes
    -----
    docs/theory.md, section "Kernels"; Cho and Saul (2009), Jacot, Gabriel and Hongler (2018).

    Examples
    --------
    >>> import innerloop as il
    >>> import numpy as np
    >>> il.ReluKernel()(np.array([[0.0], [1.0]]), np.array([[1.0]])).round(3)
    array([[2.818],
           [5.   ]])
    """

    bias_std: float = 1.0
    trained: Literal["all", "last"] = "all"

    def __post_init__(self) -> None:
        as_nonnegative(self.bias_std, "bias_std")
        if self.trained not in ("all", "last"):
            raise ValueError(f"`trained` must be 'all' or 'last', got {self.trained!r}.")

    def __call__(self, X: FloatArray, Z: FloatArray) -> FloatArray:
        """Return the kernel of rows X (..., n, d) with rows Z (..., n', d): (..., n, n')."""
        bias = self.bias_std**2
        covariance = X @ np.swapaxes(Z, -1, -2) / X.shape[-1] + bias
        size = np.sqrt(self._variance(X)[..., :, None] * self._variance(Z)[..., None, :])
        rho = np.clip(covariance / np.where(size > 0, size, 1.0), -1.0, 1.0)
        kappa_0 = 1 - np.arccos(rho) / np.pi
        kernel: FloatArray = size * (np.sqrt(1 - rho**2) / np.pi + rho * kappa_0) + bias
        return kernel + covariance * kappa_0 if self.trained == "all" else kernel

    def _variance(self, X: FloatArray) -> FloatArray:
        variance: FloatArray = np.square(X).mean(axis=-1) + self.bias_std**2
        return variance


class _Rows(NamedTuple):
    """Rows of runs of equal sizes, task by task, support before query: X (..., n_rows, d), y (..., n_rows, k)."""

    X: FloatArray
    y: FloatArray
    n_support: IntArray
    n_query: IntArray

    def tasks(self) -> Iterator[tuple[slice, slice, slice]]:
        """Yield each task's support rows, its query rows, and the positions of these among all query rows."""
        first, query = row_starts(self.n_support + self.n_query), row_starts(self.n_query)
        for i, n in enumerate(self.n_support):
            yield slice(first[i], first[i] + n), slice(first[i] + n, first[i + 1]), slice(query[i], query[i + 1])


@final
@dataclass(frozen=True, eq=False)
class KernelObjective:
    """The meta-training loss in dual form, for every inner rate a at once.

    With e = y - f0 on all rows Z of all tasks, K gradient steps leave the query residuals ::

        W(a) (e - phi(Z) d),    W(a) = sum_j C(K, j) (-a)^j W_j,    j = 0..K

    where W_0 picks a task's query rows X_v, and W_j (j > 0) holds ``K(X_v, X_t) K(X_t, X_t)^(j-1) / n_t^j`` at its
    support rows X_t. ``W_i K(Z, Z) W_j'`` and ``W_j e`` are computed once and serve every rate.

    Parameters
    ----------
    gram : (..., K + 1, K + 1, n_query_rows, n_query_rows)
        ``W_i K(Z, Z) W_j'``; leading axes are runs.
    targets : (..., K + 1, n_query_rows, n_targets)
        ``W_j e``.
    kernel, start, n_steps
        As in `from_episodes`.
    single_target
        Whether targets had shape (rows,).
    rows
        Z with its targets.
    weights
        W_1 .. W_K of each task.

    Notes
    -----
    docs/theory.md, section "Kernels". Make one with `from_episodes` or `from_tasks`. A kernel has
    features only by their squares: those that are smaller than others by 1e-7 or more are below its rounding and not
    seen. Where features can be formed and are fewer than the rows, `MetaObjective` is the better choice.

    Examples
    --------
    >>> import innerloop as il
    >>> episodes = il.Sinusoid().sample_tasks(n_tasks=5, n_rows=8, seed=0).split(n_support=4)
    >>> objective = il.KernelObjective.from_episodes(episodes, il.ReluKernel())
    >>> path = il.solve_path(objective, [-0.1, 0.0, 0.1], l2=1e-3)
    >>> path.loss.shape
    (3,)
    """

    gram: FloatArray = field(repr=False)
    targets: FloatArray = field(repr=False)
    kernel: Kernel
    start: Function | None
    n_steps: int
    single_target: bool
    rows: _Rows = field(repr=False)
    weights: list[list[FloatArray]] = field(repr=False)

    @classmethod
    def from_episodes(
        cls, episodes: Runs, kernel: Kernel, n_steps: int = 1, start: Function | None = None
    ) -> KernelObjective:
        """Gather the objective of all episodes.

        Parameters
        ----------
        episodes
            Raw inputs and targets. A list of `Episodes` of the same sizes holds independent runs, solved side by side.
        kernel
            K: rows (..., n, d) and (..., n', d) to (..., n, n').
        n_steps
            Inner gradient steps, at least 1.
        start
            f0: rows (..., n, d) to values shaped like the targets; None is zero.

        Raises
        ------
        ValueError
            If runs differ in their sizes, or if `kernel` or `start` give another shape or no finite numbers.
        """
        K, rows = as_count(n_steps, "n_steps"), _gather(episodes)
        gram = kernel(rows.X, rows.X)
        n_rows, n_query, lead = rows.X.shape[-2], int(rows.n_query.sum()), rows.X.shape[:-2]
        if gram.shape != (*lead, n_rows, n_rows):
            raise ValueError(f"`kernel` must return shape {(*lead, n_rows, n_rows)} for these rows, got {gram.shape}.")
        check_finite(gram, "kernel")
        error = rows.y - _values(start, rows.X, rows.y.shape)
        weights = [_weights(gram[..., v, t], gram[..., t, t], K) for t, v, _ in rows.tasks()]
        half = np.empty((*lead, K + 1, n_query, n_rows))
        targets = np.empty((*lead, K + 1, n_query, error.shape[-1]))
        for (t, v, q), P in zip(rows.tasks(), weights, strict=True):
            half[..., 0, q, :], targets[..., 0, q, :] = gram[..., v, :], error[..., v, :]
            for j in range(1, K + 1):
                half[..., j, q, :] = P[j - 1] @ gram[..., t, :]
                targets[..., j, q, :] = P[j - 1] @ error[..., t, :]
        whole = np.empty((*lead, K + 1, K + 1, n_query, n_query))
        for (t, v, q), P in zip(rows.tasks(), weights, strict=True):
            whole[..., 0, :, q] = half[..., v]
            for j in range(1, K + 1):
                whole[..., j, :, q] = half[..., t] @ np.swapaxes(P[j - 1], -1, -2)[..., None, :, :]
        first = episodes if isinstance(episodes, Episodes) else episodes[0]
        return cls(whole, targets, kernel, start, K, first.y.ndim == 1, rows, weights)

    @classmethod
    def from_tasks(
        cls,
        tasks: TaskSet | Runs,
        kernel: Kernel,
        n_steps: int = 1,
        start: Function | None = None,
        *,
        n_support: int | None = None,
        n_query: int | None = None,
        seed: int = 0,
    ) -> KernelObjective:
        """Gather the objective of a task set, or of episodes as `from_episodes` does.

        Parameters
        ----------
        tasks
            A `TaskSet`, of which this makes episodes; or `Episodes`, of one run or a list of several.
        kernel, n_steps, start
            As in `from_episodes`.
        n_support, n_query, seed
            As in `MetaObjective.from_tasks`.
        """
        sizes = n_support, n_query, seed
        if isinstance(tasks, TaskSet | Episodes):
            return cls.from_episodes(as_episodes(tasks, *sizes), kernel, n_steps, start)
        return cls.from_episodes([as_episodes(run, *sizes) for run in tasks], kernel, n_steps, start)

    def at(self, inner_lr: float) -> tuple[FloatArray, FloatArray, float]:
        """Return ``W(a) K W(a)' / scale**2``, ``W(a) e / scale`` and the scale, as `MetaObjective.at` has it."""
        c, scale = step_coefficients(inner_lr, self.n_steps)
        G = np.einsum("i,j,...ijnm->...nm", c, c, self.gram, optimize=True)
        return G, np.einsum("j,...jnk->...nk", c, self.targets), scale

    def minimise(self, inner_lrs: FloatArray, l2: FloatArray, init: ArrayLike | None = None) -> KernelPath:
        r"""Return the minimisers at many rates; `solve_path` checks its arguments, calls this and warns.

        .. math:: \min_d \frac{1}{2N} |W(a)(e - \phi(Z) d)|^2 + \frac{l2}{2} |d|^2

        Parameters
        ----------
        inner_lrs, l2
            Rates and penalties, two finite arrays of one shape with at least one axis.
        init
            None: meta-training starts at f0.
        """
        if init is not None:
            raise ValueError(
                "`init` must be None for a KernelObjective, which starts at a function; give that as "
                "KernelObjective.from_episodes(episodes, kernel, start=...)."
            )
        solved = [
            self._minimise_at(rate, penalty)
            for rate, penalty in zip(inner_lrs.ravel().tolist(), l2.ravel().tolist(), strict=True)
        ]
        coef, loss, rank, condition = (
            np.array(part).reshape((*inner_lrs.shape, *np.shape(part[0]))) for part in zip(*solved, strict=True)
        )
        return KernelPath(inner_lrs, l2, coef, loss, rank, condition, self)

    @cached_property
    def _factored(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Features of the rows by which the kernel is their product, K(Z, Z) = L L'.

        Solving with W(a) L, not with its square W(a) K W(a)', keeps the digits that steps which nearly cancel cost.

        Returns
        -------
        columns : (..., K + 1, n_query_rows, n_rows)
            ``W_j L``, with columns of zeros for directions that rounding hides.
        to_rows : (..., n_rows, n_rows)
            ``L (L'L)^+``, which turns a function in these features into coefficients of rows.
        condition : (...)
            Of K(Z, Z), with those of the directions left out that may not be there at all.
        """
        s, V = np.linalg.eigh(self.kernel(self.rows.X, self.rows.X))
        kept = s > s[..., -1:] * s.shape[-1] * ROUNDING
        root = np.sqrt(np.where(kept, s, 0.0))[..., None, :]
        L, to_rows = V * root, np.where(kept[..., None, :], V / np.where(root > 0, root, 1.0), 0.0)
        columns = np.empty((*self.targets.shape[:-1], s.shape[-1]))
        for (t, v, q), P in zip(self.rows.tasks(), self.weights, strict=True):
            columns[..., 0, q, :] = L[..., v, :]
            for j in range(1, self.n_steps + 1):
                columns[..., j, q, :] = P[j - 1] @ L[..., t, :]
        seen = np.where(s > s[..., -1:] * s.shape[-1] * ROUNDING / 4, s, np.inf).min(axis=-1)
        return columns, to_rows, np.where(np.isfinite(seen), s[..., -1] / seen, 1.0)

    def _minimise_at(self, rate: float, l2: float) -> tuple[FloatArray, FloatArray, IntArray, FloatArray]:
        """Return the coefficients of all rows (..., n_rows, k), and the loss, rank and condition of each run (...)."""
        G, g, scale = self.at(rate)
        c, ridge = step_coefficients(rate, self.n_steps)[0], g.shape[-2] * l2 / scale**2
        dual, misfit, coef = np.zeros_like(g), np.empty_like(g), np.empty_like(self.rows.y)
        rank, condition = np.empty(g.shape[:-2], dtype=np.intp), np.empty(g.shape[:-2])
        poor = []
        for run in np.ndindex(g.shape[:-2]):
            solved = _by_cholesky(G[run], g[run], ridge)
            if solved is None:
                poor.append(run)
                continue
            dual[run], condition[run] = solved
            rank[run] = len(G[run])
            misfit[run] = residual_above_rounding(G[run], dual[run], g[run])
        for (t, v, q), P in zip(self.rows.tasks(), self.weights, strict=True):
            coef[..., v, :] = c[0] * dual[..., q, :]
            coef[..., t, :] = sum(
                c[j] * np.swapaxes(P[j - 1], -1, -2) @ dual[..., q, :] for j in range(1, self.n_steps + 1)
            )
        for run in poor:
            columns, to_rows, of_kernel = (part[run] for part in self._factored)
            B = np.einsum("j,jnr->nr", c, columns)
            d, n_independent, of_steps = least_squares(B, g[run], np.sqrt(ridge))
            coef[run], misfit[run] = to_rows @ d, residual_above_rounding(B, d, g[run])
            rank[run] = g.shape[-2] if ridge > 0 else n_independent
            condition[run] = max(of_steps, float(of_kernel))
        loss: FloatArray = np.square(scale * misfit).mean(axis=(-1, -2)) / 2
        return coef, loss, rank, condition


@final
@dataclass(frozen=True, eq=False)
class KernelPath:
    """Exactly meta-trained functions ``f(x) = f0(x) + K(x, Z) coef``, Z all training rows, at many inner rates.

    Of all minimisers each is the one nearest to f0 in the norm of the kernel. ``path[i]`` is a path of one rate without
    an axis of rates, as `solve` returns it.

    Parameters
    ----------
    inner_lr, l2
        Rates and penalties, of one shape.
    coef : ``(*inner_lr.shape, ..., n_rows, n_targets)``
        Coefficients of the training rows: task by task, support before query; axes before them are runs.
    loss : ``(*inner_lr.shape, ...)``
        Meta-training loss, without the penalty; 0 where it is no more than what rounding leaves.
    rank : ``(*inner_lr.shape, ...)``
        Rank of the matrix ``W(a) K W(a)'`` that was inverted: how many query rows are independent, all with l2 > 0.
    condition : ``(*inner_lr.shape, ...)``
        Condition number of what was solved, the penalty included: of that matrix; or, where that is poor, the larger of
        those of K(Z, Z) and of W(a) L with K(Z, Z) = L L'. Predictions have about 16 less its number of digits.
    objective
        What was minimised.

    Examples
    --------
    >>> import innerloop as il
    >>> import numpy as np
    >>> episodes = il.Sinusoid().sample_tasks(n_tasks=5, n_rows=8, seed=0).split(n_support=4)
    >>> path = il.solve(il.KernelObjective.from_episodes(episodes, il.ReluKernel()), inner_lr=0.1, l2=1e-3)
    >>> x = np.linspace(-1, 1, 6)[:, None]
    >>> path.predict(x).shape
    (6,)
    >>> path.adapt(x, x[:3], np.sin(x[:3, 0]), adapt_lr=0.1).shape  # after a step on three rows of a new task
    (6,)
    """

    inner_lr: FloatArray
    l2: FloatArray
    coef: FloatArray = field(repr=False)
    loss: FloatArray
    rank: IntArray
    condition: FloatArray
    objective: KernelObjective = field(repr=False)

    def __len__(self) -> int:
        return len(self.inner_lr)

    def __getitem__(self, index: int | tuple[int, ...]) -> KernelPath:
        """Return the solution at one place of the path."""
        if self.inner_lr[index].ndim:
            raise IndexError(f"`index` must name one solution of a path of shape {self.inner_lr.shape}.")
        return KernelPath(
            np.asarray(self.inner_lr[index]),
            np.asarray(self.l2[index]),
            self.coef[index],
            np.asarray(self.loss[index]),
            np.asarray(self.rank[index]),
            np.asarray(self.condition[index]),
            self.objective,
        )

    @property
    def status(self) -> NDArray[Any]:
        """What is known of each rate's minimiser: "unique" where l2 > 0, else "nearest".

        "nearest": there may be other minimisers, as a kernel does not tell how many features it has.
        """
        return np.where(self.l2 > 0, "unique", "nearest").astype(object)

    def poorly_determined(self) -> str | None:
        """Return a sentence on the first rate at which few digits are correct, or None."""
        by_rate = self.condition.reshape(*self.inner_lr.shape, -1).max(axis=-1)
        poor = by_rate > POOR_CONDITION
        if not poor.any():
            return None
        return (
            f"at inner_lr={self.inner_lr[poor][0]:g} the kernel matrix of the meta-training problem has condition "
            f"number {by_rate[poor][0]:.1e}: coefficients have few correct digits. Set `l2` > 0; or, where features "
            "can be formed and are fewer than the query rows, use MetaObjective."
        )

    def predict(self, X: FloatArray) -> FloatArray:
        """Return f at rows X (..., n, d), before adaptation: ``(*inner_lr.shape, ..., n)`` or (..., n, n_targets)."""
        values = self._values(np.asarray(X, dtype=np.float64))
        return values[..., 0] if self.objective.single_target else values

    def adapt(
        self, X: FloatArray, X_support: FloatArray, y_support: FloatArray, adapt_lr: float, n_steps: int | None = None
    ) -> FloatArray:
        """Return what `predict` returns, after gradient steps on the rows of a new task.

        Parameters
        ----------
        X, X_support : (..., n, d)
            Rows to predict, and to adapt on.
        y_support
            Their targets.
        adapt_lr
            Any real number.
        n_steps
            Gradient steps; None: as in meta-training.
        """
        single, K = self.objective.single_target, self.objective.n_steps if n_steps is None else n_steps
        y = np.asarray(y_support)[..., None] if single else np.asarray(y_support)
        error = y - self._values(X_support)
        kernel = self.objective.kernel
        c, scale = step_coefficients(adapt_lr, as_count(K, "n_steps"))
        P = _weights(kernel(X, X_support), kernel(X_support, X_support), K)
        step = sum(c[j] * scale * P[j - 1] for j in range(1, K + 1))
        values: FloatArray = self._values(X) - step @ error
        return values[..., 0] if single else values

    def test_loss(self, episodes: Runs, adapt_lr: ArrayLike, n_steps: int | None = None) -> FloatArray:
        """Return half the mean squared query error on new tasks: ``(*inner_lr.shape, *adapt_lr.shape, ...)``.

        Parameters
        ----------
        episodes
            New tasks: one `Episodes`, or a list with one for each run.
        adapt_lr
            Rates on the new tasks, in an array of any shape.
        n_steps
            Gradient steps on them; None: as in meta-training.
        """
        rates, K = as_floats(adapt_lr, "adapt_lr"), self.objective.n_steps if n_steps is None else n_steps
        check_finite(rates, "adapt_lr")
        rows, kernel = _gather(episodes), self.objective.kernel
        error = rows.y - self._values(rows.X)
        total = np.zeros((rates.size, *error.shape[:-2]))
        powers = [step_coefficients(rate, as_count(K, "n_steps")) for rate in rates.ravel().tolist()]
        for t, v, _ in rows.tasks():
            X_support, X_query = rows.X[..., t, :], rows.X[..., v, :]
            P = _weights(kernel(X_query, X_support), kernel(X_support, X_support), K)
            parts = np.stack([error[..., v, :], *(weight @ error[..., t, :] for weight in P)])
            for i, (c, scale) in enumerate(powers):
                total[i] += np.square(scale * np.tensordot(c, parts, axes=1)).sum(axis=(-1, -2))
        axes, n_axes = self.inner_lr.ndim, rates.ndim
        losses = total / (2 * rows.n_query.sum() * rows.y.shape[-1])
        losses = losses.reshape((*rates.shape, *losses.shape[1:]))
        inner_first: FloatArray = np.moveaxis(losses, range(n_axes, n_axes + axes), range(axes))
        return inner_first

    def _values(self, X: FloatArray) -> FloatArray:
        """Return f: (*inner_lr.shape, ..., n, n_targets)."""
        objective = self.objective
        change = objective.kernel(X, objective.rows.X) @ self.coef
        lead = np.broadcast_shapes(X.shape[:-2], objective.rows.X.shape[:-2])
        shape = (*lead, X.shape[-2], self.coef.shape[-1])
        return change + _values(objective.start, X, shape)


def _weights(cross: FloatArray, gram: FloatArray, n_steps: int) -> list[FloatArray]:
    """Return W_1 .. W_K of a task at its support rows, from K(X_v, X_t) and K(X_t, X_t): (..., n_query, n_support)."""
    n = max(1, gram.shape[-1])
    weights = [cross / n]
    for _ in range(n_steps - 1):
        weights.append(weights[-1] @ gram / n)
    return weights


def _by_cholesky(G: FloatArray, g: FloatArray, ridge: float) -> tuple[FloatArray, float] | None:
    """Return (G + ridge)^-1 g and the condition number; None where that costs too many digits."""
    A = G + ridge * np.eye(len(G))
    factor, status = lapack.dpotrf(A)
    if status == 0:
        rcond = lapack.dpocon(factor, np.linalg.norm(A, 1))[0]
        if rcond * _CLEAR > 1:
            return lapack.dpotrs(factor, g)[0], float(1 / rcond)
    return None


def _values(function: Function | None, X: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Return a function's values with an axis of targets; zeros for None."""
    if function is None:
        return np.zeros(shape)
    values = as_floats(function(X), "start")
    if values.shape == shape[:-1] and shape[-1] == 1:
        return values[..., None]
    if values.shape != shape:
        raise ValueError(f"`start` must return shape {shape} for these rows, got {values.shape}.")
    check_finite(values, "start")
    return values


def _gather(episodes: Runs) -> _Rows:
    """Return the rows of one run, or of several stacked."""
    runs = [episodes] if isinstance(episodes, Episodes) else list(episodes)
    if not runs:
        raise ValueError("`episodes` must hold at least one run, got none.")
    for run in runs:
        check_episodes(run)
        check_unweighted(run, "`KernelObjective`")
    first = runs[0]
    for i, run in enumerate(runs):
        if not (np.array_equal(run.n_support, first.n_support) and np.array_equal(run.n_query, first.n_query)):
            raise ValueError(
                f"`episodes` of all runs must agree in the sizes of their tasks, got other sizes in run {i}."
            )
    task = np.concatenate([np.repeat(np.arange(len(first)), n) for n in (first.n_support, first.n_query)])
    order = np.argsort(task, kind="stable")
    rows = [np.concatenate((run.support_rows, run.query_rows))[order] for run in runs]
    X = np.stack([run.X[place] for run, place in zip(runs, rows, strict=True)])
    y = np.stack([run.y[place].reshape(len(place), -1) for run, place in zip(runs, rows, strict=True)])
    if isinstance(episodes, Episodes):
        X, y = X[0], y[0]
    return _Rows(X, y, first.n_support, first.n_query)
