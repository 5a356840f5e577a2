"""The deterministic equivalent for any feature and task covariance (docs/theory.md, 16)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, Group, MixedLinearRegression
from innerloop.theory.deterministic import Parts, isotropic_parts

_COMPLEX_STEP = 1e-30
_PICARD_TOLERANCE = 1e-3
_NEWTON_TOLERANCE = 1e-8  # of the last step, after which the error is its square
_N_RATES = 60
_MAX_PICARD, _MAX_NEWTON = 3000, 30

Values = NDArray[Any]  # real, or complex where a derivative is taken


def general_error(
    dist: MixedLinearRegression, design: Design, inner_lr: float, start_squared: FloatArray
) -> FloatArray:
    """Return E(omega* - w0)_j^2 per eigen-direction of the features (equation 16.1).

    Parameters
    ----------
    dist, design
        The tasks, and the sizes.
    inner_lr
        a.
    start_squared : (n_features,)
        Squares of omega_0 - w0 in the eigen-directions.

    Returns
    -------
    (n_features,)
        NaN and infinite where `isotropic_parts` is.
    """
    if design.rule.degree is None:
        raise ValueError("`inner_rule` must be 'gradient' unless features are isotropic; use estimate_loss.")
    p, n_rows = dist.n_features, design.n_query_rows
    if design.l2 == 0 and abs(p - n_rows) <= 1:
        return np.full(p, np.nan)
    if design.l2 == 0 and n_rows > p and design.n_tasks == 1 and inner_lr > 0:
        return np.full(p, np.inf)
    scale = float(dist.eigenvalues.mean())
    noise, tasks, start = large_p_parts(dist, design, inner_lr, start_squared)
    ratio = _finite_size_ratios(design, p, inner_lr * scale, scale)
    error: FloatArray = noise * ratio.noise + tasks * ratio.tasks + start * ratio.start
    return error


def large_p_parts(
    dist: MixedLinearRegression, design: Design, inner_lr: float, start_squared: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the noise, task and start parts of E(omega* - w0)_j^2 without finite-size corrections."""
    equations = _Equations.of(dist, design, inner_lr)
    x = equations.solve()
    jacobian = equations.jacobian(x)
    zero = np.zeros(dist.n_features)
    noise = equations.derivative(x, jacobian, (dist.noise_std**2, zero, zero))
    tasks = equations.derivative(x, jacobian, (0.0, dist.task_variances, zero))
    start = zero.copy()
    if equations.penalty > 0 and start_squared.any():
        for j, direction in enumerate(np.eye(dist.n_features)):
            moved = equations.derivative(x, jacobian, (0.0, zero, direction))
            start[j] = equations.penalty**2 * float(start_squared @ moved)
    return noise, tasks, start


def _finite_size_ratios(design: Design, p: int, inner_lr: float, scale: float) -> Parts:
    """Return finite-size over large-p values for isotropic features of the same mean variance."""
    sizes = Design(
        design.n_tasks,
        [g.n_support for g in design.groups for _ in range(g.n_tasks)],
        [g.n_query for g in design.groups for _ in range(g.n_tasks)],
        design.n_adapt,
        design.n_steps,
        l2=design.l2 / scale,
    )
    finite = isotropic_parts(sizes, p, inner_lr)
    large = isotropic_parts(sizes, p, inner_lr, finite=False)
    return Parts(*(a / b if b else 1.0 for a, b in zip(finite, large, strict=True)))


@final
@dataclass(frozen=True, eq=False)
class _Equations:
    """The fixed point of equation 16.4 in log kappa and T, one of each for every group of tasks.

    A source (sigma^2, tau^2, eps) is a direction in which to differentiate: noise, task variances, a weight of the
    start.
    """

    groups: tuple[Group, ...]
    s: FloatArray
    inner_lr: float
    n_steps: int
    penalty: float
    scored: float  # 1 where query rows are not all fitted, 0 in the ridgeless limit for N < p

    @classmethod
    def of(cls, dist: MixedLinearRegression, design: Design, inner_lr: float) -> _Equations:
        n_rows = design.n_query_rows
        over = design.l2 == 0 and n_rows < dist.n_features
        penalty = 1.0 if over else design.l2 * n_rows
        return cls(design.groups, dist.eigenvalues, inner_lr, design.n_steps, penalty, 0.0 if over else 1.0)

    def solve(self) -> FloatArray:
        """Return the root, by damped iteration and Newton's method, or by continuation in the rate where those fail."""
        with np.errstate(all="ignore"):
            found = self._newton(self._near())
            if found is None:
                found = self._follow()
        if found is None:
            raise ValueError(
                f"`inner_lr` {self.inner_lr} with this covariance: the fixed point was not found; use estimate_loss."
            )
        return found

    def _follow(self) -> FloatArray | None:
        """Return the root by continuation in the rate, or None."""
        found: FloatArray | None = self._near() if self.inner_lr == 0 else None
        for part in np.geomspace(1e-3, 1, _N_RATES):
            at_rate = replace(self, inner_lr=float(part * self.inner_lr))
            start = at_rate._near() if found is None else found
            found = at_rate._newton(start)
            if found is None:
                return None
        return found

    def _near(self) -> FloatArray:
        x = self._start()
        for _ in range(_MAX_PICARD):
            change = self.residual(x)
            x = x - 0.5 * change
            if np.abs(change).max() < _PICARD_TOLERANCE * (1 + np.abs(x).max()):
                break
            if not np.isfinite(x).all():
                break
        return x

    def _newton(self, x: FloatArray) -> FloatArray | None:
        for _ in range(_MAX_NEWTON):
            if not np.isfinite(x).all():
                return None
            change = np.linalg.solve(self.jacobian(x), self.residual(x))
            x = x - change
            if np.abs(change).max() < _NEWTON_TOLERANCE * (1 + np.abs(x).max()):
                return x
        return None

    def jacobian(self, x: FloatArray) -> FloatArray:
        steps = x + 1j * _COMPLEX_STEP * np.eye(len(x))
        return np.array([self.residual(step).imag / _COMPLEX_STEP for step in steps]).T

    def derivative(
        self, x: FloatArray, jacobian: FloatArray, source: tuple[float, FloatArray, FloatArray]
    ) -> FloatArray:
        """Return minus the derivative of the resolvent's diagonal in the direction of a source."""
        sigma2, spread, weight = source
        step = 1j * _COMPLEX_STEP
        moved = (step * sigma2, step * spread, step * weight)
        forced = self.residual(x.astype(complex), moved).imag / _COMPLEX_STEP
        follow = -np.linalg.solve(jacobian, forced)
        values: FloatArray = -self.resolvent(x + step * follow, moved).imag / _COMPLEX_STEP
        return values

    def resolvent(self, x: Values, source: tuple[Any, Any, Any] = (0.0, 0.0, 0.0)) -> Values:
        """Return g_j."""
        total = self.penalty + source[2]
        for group, (log_kappa, T) in zip(self.groups, self._split(x), strict=True):
            total = total + group.n_tasks * self._stiffness(group, np.exp(log_kappa), T, source)[0]
        inverse: Values = 1 / total
        return inverse

    def residual(self, x: Values, source: tuple[Any, Any, Any] = (0.0, 0.0, 0.0)) -> Values:
        """Return x minus the right-hand side of the equations at x."""
        parts = self._split(x)
        local = [
            self._stiffness(group, np.exp(log_kappa), T, source)
            for group, (log_kappa, T) in zip(self.groups, parts, strict=True)
        ]
        total = (
            self.penalty
            + source[2]
            + sum(group.n_tasks * stiffness for group, (stiffness, _) in zip(self.groups, local, strict=True))
        )
        changes = []
        for group, (log_kappa, T), (stiffness, H) in zip(self.groups, parts, local, strict=True):
            theta = total - stiffness
            H[:, 0, 0] += theta / (1 - theta * source[1])
            P = np.linalg.inv(H)
            kappa = np.exp(log_kappa)
            scored = self.scored - source[0] + len(self.s) / kappa + (P[:, -1, -1] / self.s).sum() / kappa**2
            moved = T - np.einsum("j,jkl->kl", self.s, P)
            changes.append(np.append(log_kappa - np.log(group.n_query / scored), moved[self._upper()]))
        return np.concatenate(changes)

    def _stiffness(self, group: Group, kappa: Any, T: Values, source: tuple[Any, Any, Any]) -> tuple[Values, Values]:
        """Return Kv_j = h_j / (1 - t tau_j^2 h_j) and the matrices of the fields without the other tasks."""
        K, n = self.n_steps, group.n_support
        fields = np.arange(K)
        M = np.zeros((2 * K, 2 * K), dtype=np.result_type(T, kappa, type(source[0])))
        M[fields, K + fields] = M[K + fields, fields] = -self.inner_lr / n
        M[K:, K:] += source[0] * self.inner_lr**2 / n**2
        delta = n * M @ np.linalg.inv(np.eye(2 * K) + T @ M)
        H: Values = self.s[:, None, None] * delta
        H[:, K + fields, fields] += 1
        H[:, fields, K + fields] += 1
        H[:, K + fields[:-1], fields[1:]] -= 1
        H[:, fields[1:], K + fields[:-1]] -= 1
        H[:, -1, -1] -= 1 / (kappa * self.s)
        rest = np.linalg.solve(H[:, 1:, 1:], H[:, 1:, :1])
        h = H[:, 0, 0] - (H[:, :1, 1:] @ rest)[:, 0, 0]
        stiffness: Values = h / (1 - source[1] * h)
        return stiffness, H

    def _start(self) -> FloatArray:
        size = 2 * self.n_steps
        flat = np.zeros(size * (size + 1) // 2)
        return np.concatenate([np.append(np.log(g.n_query / (self.scored + 1)), flat) for g in self.groups])

    def _upper(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return np.triu_indices(2 * self.n_steps)

    def _split(self, x: Values) -> list[tuple[Any, Values]]:
        """Return log kappa and T of every group."""
        size = 2 * self.n_steps
        parts = []
        for block in x.reshape(len(self.groups), -1):
            T = np.zeros((size, size), dtype=x.dtype)
            T[self._upper()] = block[1:]
            T.T[self._upper()] = block[1:]
            parts.append((block[0], T))
        return parts
