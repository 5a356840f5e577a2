"""Exact meta-training: the meta-parameters that minimise a `MetaObjective`, at one rate or many."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lapack, solve_triangular

from innerloop._base.checks import FloatArray, IntArray, as_floats, as_nonnegative, as_rate, check_finite
from innerloop._base.threads import one_thread
from innerloop.exact._factor import triangle
from innerloop.exact._refine import refine
from innerloop.exact.objective import MetaObjective

Status = Literal["unique", "nearest", "deficient"]

# So many problems are solved on one thread if they are small.
_MANY = 4
# Above this condition number a triangular factor is no longer trusted to have full rank without a look at
# its singular values.
_CLEAR_RANK = 1e12
# Above this one, fewer than about 6 of 16 digits are left, and the user is told.
_WARN_CONDITION = 1e10
# Query rows count as fitted exactly where this fraction of them, or less, is left.
_EXACT_FIT = 1e-10
# Solutions whose relative error may exceed this are refined.
_REFINE_ABOVE = 1e-9


class IllConditionedWarning(UserWarning):
    """The meta-training problem determines its solution poorly or not uniquely."""


@final
@dataclass(frozen=True, eq=False)
class MetaSolution:
    """The exact minimiser of the meta-training loss at one inner rate.

    Parameters
    ----------
    inner_lr
        The inner learning rate during meta-training.
    l2
        The penalty.
    coef : (n_features,) or (n_features, n_targets)
        Meta-parameters.
    loss
        Meta-training loss there: half the mean squared query error, without the penalty.
    rank
        Rank of B at this rate, with columns scaled to unit length; n_features where l2 > 0.
    condition
        Condition number (1-norm estimate) of that scaled matrix, ridge rows included.
    status
        "unique": B has full column rank. "nearest": it has not (fewer query rows than features, say), all
        query rows are fitted exactly, and of all such solutions this one is nearest to `init`. "deficient":
        columns of B depend on each other; of all minimisers this one is nearest to `init`.
    """

    inner_lr: float
    l2: float
    coef: FloatArray
    loss: float
    rank: int
    condition: float
    status: Status


@final
@dataclass(frozen=True, eq=False)
class MetaPath:
    """The exact minimisers at many inner rates: `MetaSolution` field by field, one entry per rate.

    Every field but `coef` has the shape of ``inner_lr`` broadcast with ``l2``; `coef` has the shape of one
    solution's coefficients after it: (n_rates, n_features) for a list of rates and one target.
    """

    inner_lr: FloatArray
    l2: FloatArray
    coef: FloatArray = field(repr=False)
    loss: FloatArray
    rank: IntArray
    condition: FloatArray
    status: NDArray[Any]

    def __len__(self) -> int:
        return len(self.loss)

    def __getitem__(self, index: int | tuple[int, ...]) -> MetaSolution:
        """Return the solution at one place of the path."""
        if self.loss[index].ndim:
            raise IndexError(f"`index` must name one solution of a path of shape {self.loss.shape}.")
        return MetaSolution(
            float(self.inner_lr[index]),
            float(self.l2[index]),
            self.coef[index],
            float(self.loss[index]),
            int(self.rank[index]),
            float(self.condition[index]),
            self.status[index],
        )


def solve(objective: MetaObjective, inner_lr: float, init: ArrayLike | None = None, l2: float = 0.0) -> MetaSolution:
    r"""Return the meta-parameters that minimise the meta-training loss at one inner rate.

    .. math:: \min_\omega \frac{1}{2N} |g(a) - B(a) \omega|^2 + \frac{l2}{2} |\omega - \omega_0|^2

    and, where the minimiser is not unique, the one nearest to :math:`\omega_0`.

    Parameters
    ----------
    objective
        From `MetaObjective.from_tasks`.
    inner_lr
        The inner learning rate a. Any finite number.
    init : (n_features,) or (n_features, n_targets)
        The start omega_0 of meta-training; None is zero.
    l2
        Penalty on the distance from `init`, in units of the half mean squared error.

    Raises
    ------
    ValueError
        If a number is not finite, `l2` is negative or `init` has another shape.

    Warns
    -----
    IllConditionedWarning
        If columns of B(a) depend on each other, exactly or nearly.

    Notes
    -----
    docs/theory.md, section "Solving"; Bernacchia (2021), equation of the outer solution,
    omega* = omega_0 + B^+ (g - B omega_0).
    """
    path = solve_unwarned(objective, [as_rate(inner_lr, "inner_lr")], init, l2)
    _warn(path, objective.n_features)
    return path[0]


def solve_path(
    objective: MetaObjective, inner_lrs: ArrayLike, init: ArrayLike | None = None, l2: ArrayLike = 0.0
) -> MetaPath:
    """Return the exact meta-parameters at many inner rates.

    Parameters
    ----------
    objective, init
        As in `solve`.
    inner_lrs
        Rates of any sign, in an array of any shape.
    l2
        One penalty, or an array that broadcasts with `inner_lrs`.

    Raises
    ------
    ValueError
        As in `solve`.

    Warns
    -----
    IllConditionedWarning
        As in `solve`; once for all rates.
    """
    path = solve_unwarned(objective, inner_lrs, init, l2)
    _warn(path, objective.n_features)
    return path


def solve_unwarned(objective: MetaObjective, inner_lrs: ArrayLike, init: ArrayLike | None, l2: ArrayLike) -> MetaPath:
    """Do what `solve_path` does, without its warnings: they concern the whole process, and threads may share it."""
    if not isinstance(objective, MetaObjective):
        raise TypeError(
            f"`objective` must be a MetaObjective, got {type(objective).__name__}; make one with "
            "MetaObjective.from_tasks(episodes). A KernelObjective has its own method `solve`."
        )
    rates, penalties = _broadcast(inner_lrs, l2)
    start = _check_init(init, objective)
    if objective.weight <= 0:
        raise ValueError("`objective` must have query rows of positive weight, got none.")
    pairs = zip(rates.ravel().tolist(), penalties.ravel().tolist(), strict=True)
    with one_thread(objective.n_features) if rates.size >= _MANY else nullcontext():
        solved = [_solve_one(objective, rate, penalty, start) for rate, penalty in pairs]
    coef = np.array([s.coef for s in solved]).reshape(*rates.shape, *start.shape)
    return MetaPath(
        rates,
        penalties,
        coef[..., 0] if objective.single_target else coef,
        np.array([s.loss for s in solved]).reshape(rates.shape),
        np.array([s.rank for s in solved], dtype=np.intp).reshape(rates.shape),
        np.array([s.condition for s in solved]).reshape(rates.shape),
        np.array([s.status for s in solved], dtype=object).reshape(rates.shape),
    )


def ridge_candidates(objective: MetaObjective, inner_lrs: FloatArray, l2s: FloatArray) -> FloatArray:
    """Return the minimisers for every pair of a rate and a penalty, to compare them by.

    One singular value decomposition a rate serves all penalties; unlike `solve_path` it does not refine, and takes
    columns in the units that they have.

    Returns
    -------
    (n_rates, n_penalties, n_features, n_targets)
    """
    coef = np.empty((len(inner_lrs), len(l2s), objective.n_features, objective.n_targets))
    with one_thread(objective.n_features):
        reduced = replace(objective, factor=triangle(objective.factor))
        for i, rate in enumerate(inner_lrs.tolist()):
            B, g, scale = reduced.at(rate)
            P, s, Wt = np.linalg.svd(B, full_matrices=False)
            kept = s > s.max(initial=0.0) * max(B.shape) * 8 * np.finfo(float).eps
            ridge = np.sqrt(objective.weight * l2s)[:, None] / scale
            shrunk = np.where(kept, s, 0.0) / (np.where(kept, s, 1.0) ** 2 + ridge**2)
            coef[i] = Wt.T @ (shrunk[..., None] * (P.T @ g))
    return coef


class _Solved(NamedTuple):
    coef: FloatArray
    loss: float
    rank: int
    condition: float
    status: Status


def _solve_one(objective: MetaObjective, rate: float, l2: float, init: FloatArray) -> _Solved:
    """Solve at one rate; `init` has shape (n_features, n_targets)."""
    B, g, scale = objective.at(rate)
    # The ridge is scaled in two steps: scale**2 may overflow where the ratio does not.
    ridge = np.sqrt(objective.weight * l2) / scale
    residual = g - B @ init
    step, rank, condition = _least_squares(B, residual, ridge)
    misfit = float(np.linalg.norm(residual - B @ step))
    with np.errstate(over="ignore"):
        error = scale * misfit if misfit > 0 else 0.0
        loss = float(np.square(error) / (2 * objective.weight * objective.n_targets))
    status: Status = "unique"
    if rank < objective.n_features:
        status = "nearest" if misfit <= _EXACT_FIT * np.linalg.norm(residual) else "deficient"
    return _Solved(init + step, loss, rank, condition, status)


def _least_squares(B: FloatArray, g: FloatArray, ridge: float) -> tuple[FloatArray, int, float]:
    """Return the minimiser of |g - B d|^2 + ridge^2 |d|^2 of least |d|, the rank and the condition.

    Columns are scaled to unit length (by powers of two, so that scaling rounds nothing): rank and accuracy
    then do not depend on the units of a column.
    """
    p = B.shape[1]
    if ridge > 0:
        B = np.concatenate((B, ridge * np.eye(p)))
        g = np.concatenate((g, np.zeros((p, g.shape[1]))))
    largest = np.abs(B).max(axis=0, initial=0.0)
    sizes = largest * np.linalg.norm(B / np.where(largest > 0, largest, 1.0), axis=0)
    unit = np.exp2(-np.round(np.log2(np.where(sizes > 0, sizes, 1.0))))
    A = B * unit
    if len(A) < p:
        return _shortest_solution(A, g, unit)
    factor = triangle(np.concatenate((A, g), axis=1))
    T = factor[:p, :p]
    rcond = lapack.dtrcon(T)[0]
    if rcond * _CLEAR_RANK < 1:
        return _shortest_solution(T, factor[:p, p:], unit)
    z = solve_triangular(T, factor[:p, p:])
    misfit = np.linalg.norm(factor[p:, p:]) / max(np.linalg.norm(z), np.finfo(float).tiny)
    if np.finfo(float).eps * (1 + misfit / rcond) / rcond > _REFINE_ABOVE:
        z = refine(A, g, z)
    return unit[:, None] * z, p, 1 / rcond


def _shortest_solution(A: FloatArray, g: FloatArray, unit: FloatArray) -> tuple[FloatArray, int, float]:
    """Return the shortest minimiser d of |g - A (d / unit)|, the rank of A and its condition within it.

    With A = P S W' of rank r, minimisers satisfy W'(d / unit) = S^-1 P'g; the shortest of them lies in the
    span of W / unit = Q T, and is Q T'^-1 S^-1 P'g.
    """
    P, s, Wt = np.linalg.svd(A, full_matrices=False)
    rank = int((s > s.max(initial=0.0) * max(A.shape) * 8 * np.finfo(float).eps).sum())
    if rank == 0:
        return np.zeros((A.shape[1], g.shape[1])), 0, 1.0
    z = (P[:, :rank].T @ g) / s[:rank, None]
    condition = float(s[0] / s[rank - 1])
    if rank == A.shape[1]:
        return unit[:, None] * (Wt.T @ z), rank, condition
    Q, T = np.linalg.qr(Wt[:rank].T / unit[:, None])
    return Q @ solve_triangular(T, z, trans=1), rank, condition


def _broadcast(inner_lrs: ArrayLike, l2: ArrayLike) -> tuple[FloatArray, FloatArray]:
    rates = np.atleast_1d(as_floats(inner_lrs, "inner_lrs"))
    check_finite(rates, "inner_lrs")
    if rates.size == 0:
        raise ValueError("`inner_lrs` must hold at least one rate, got none.")
    penalties = as_nonnegative(l2, "l2")
    try:
        rates, penalties = np.broadcast_arrays(rates, penalties)
    except ValueError:
        raise ValueError(
            f"`l2` must broadcast with `inner_lrs`, got shapes {penalties.shape} and {rates.shape}."
        ) from None
    return rates, penalties


def _check_init(init: ArrayLike | None, objective: MetaObjective) -> FloatArray:
    shape = (objective.n_features, objective.n_targets)
    if init is None:
        return np.zeros(shape)
    start = as_floats(init, "init")
    check_finite(start, "init")
    expected = shape[:1] if objective.single_target else shape
    if start.shape != expected:
        raise ValueError(f"`init` must have the shape of the coefficients, {expected}, got {start.shape}.")
    return start.reshape(shape)


def _warn(path: MetaPath, n_features: int) -> None:
    deficient = path.status == "deficient"
    poor = ~deficient & (path.condition > _WARN_CONDITION)
    if deficient.any():
        rate, rank = path.inner_lr[deficient][0], path.rank[deficient][0]
        message = (
            f"at inner_lr={rate:g} the columns of the meta-training problem depend on each other (rank {rank} of "
            f"{n_features}): usually a constant or repeated feature, or dummies that sum to a constant. Of all "
            "minimisers the one nearest to `init` is returned; drop a column or set `l2` > 0."
        )
    elif poor.any():
        rate, condition = path.inner_lr[poor][0], path.condition[poor][0]
        message = (
            f"at inner_lr={rate:g} the meta-training problem has condition number {condition:.1e}: coefficients "
            "have few correct digits. Usually features that are nearly a sum of others; drop one or set "
            "`l2` > 0."
        )
    else:
        return
    warnings.warn(message, IllConditionedWarning, stacklevel=3)
