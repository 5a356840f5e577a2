"""The deterministic equivalent for any feature and task covariance (docs/theory.md, 16)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, Group, MixedLinearRegression
from innerloop.theory.deterministic import Parts, isotropic_parts, mean_is_infinite

_COMPLEX_STEP = 1e-30
_PICARD_TOLERANCE = 1e-3
_NEWTON_TOLERANCE = 1e-8  # of the last step, after which the error is its square
_MAX_PICARD, _MAX_NEWTON = 3000, 12
# Of the last correction, the most that the next may be on the way from one rate to another. Where Newton's method does
# not contract from its first step on, it may end at another root (Deuflhard, 2004, section 3.1).
_CONTRACTION = 0.5
_MAX_STEPS = 200  # of the continuation, in asinh of the rate in natural units
# Where unknowns differ by more than this factor, roots are found a second time, from so far beside; by how much of
# their sum the parts may then differ.
_CLEAR, _ASIDE, _AGREEMENT = 1e7, 1e-9, 1e-5

Values = NDArray[Any]  # real, or complex where a derivative is taken


@final
class GeneralError:
    """E(omega* - w0)_j^2 per eigen-direction of the features, rate by rate (equation 16.1).

    Roots are kept: a further rate is reached by continuation from the nearest one.

    Parameters
    ----------
    dist, design
        The tasks, and the sizes.
    start_squared : (n_features,)
        Squares of omega_0 - w0 in the eigen-directions.
    """

    def __init__(self, dist: MixedLinearRegression, design: Design, start_squared: FloatArray) -> None:
        if design.rule.degree is None:
            raise ValueError("`inner_rule` must be 'gradient' unless features are isotropic; use estimate_loss.")
        self._dist, self._design = dist, design
        self._scale = float(dist.eigenvalues.mean())
        self._equations = _Equations.of(dist, design, self._scale)
        self._start_squared = start_squared
        self._roots: dict[float, FloatArray | None] = {}
        self._errors: dict[float, FloatArray] = {}
        self.large_p_parts = cache(self._large_p_parts)

    def __call__(self, inner_lrs: FloatArray) -> FloatArray:
        """Return errors (n_rates, n_features); NaN where no mean exists or no fixed point is found."""
        errors = np.full((len(inner_lrs), self._dist.n_features), np.nan)
        for i in np.argsort(np.abs(inner_lrs)):
            rate = float(inner_lrs[i])
            if rate not in self._errors:
                self._errors[rate] = self._at(rate)
            errors[i] = self._errors[rate]
        return errors

    def _at(self, rate: float) -> FloatArray:
        design, p = self._design, self._dist.n_features
        if design.l2 == 0 and abs(p - design.n_query_rows) <= 1:
            return np.full(p, np.nan)
        if mean_is_infinite(design, p, rate):
            return np.full(p, np.inf)
        parts = self.large_p_parts(rate)
        if parts is None:
            return np.full(p, np.nan)
        ratios = _finite_size_ratios(design, p, rate * self._scale, self._scale)
        error: FloatArray = sum((part * ratio for part, ratio in zip(parts, ratios, strict=True)), np.zeros(p))
        return error

    def large_p_error(self, rate: float) -> FloatArray:
        """Return the error (n_features,) without finite-size corrections; NaN where no root is found."""
        parts = self.large_p_parts(rate)
        return np.full(self._dist.n_features, np.nan) if parts is None else parts[0] + parts[1] + parts[2]

    def _large_p_parts(self, rate: float) -> tuple[FloatArray, FloatArray, FloatArray] | None:
        """Return the noise, task and start parts without finite-size corrections; None where no root is found.

        At large rates and many steps the unknowns differ by more than the digits of a number hold. There the parts are
        taken again from a root that is found anew, and refused if they differ.
        """
        scale, dist = self._scale, self._dist
        at_rate = replace(self._equations, inner_lr=rate * scale)
        sources = dist.noise_std**2, dist.task_variances * scale, self._start_squared * scale, scale
        with np.errstate(all="ignore"):
            x = self._root(rate * scale)
            if x is None:
                return None
            parts = at_rate.parts(x, *sources)
            if at_rate.loses_digits:
                again = at_rate.found_anew(x)
                if again is None or not _agree(parts, at_rate.parts(again, *sources)):
                    self._roots[rate * scale] = None
                    return None
            return parts

    def _root(self, rate: float) -> FloatArray | None:
        if not self._roots:
            self._roots[0.0] = self._equations.solve_at_zero()
        lost = [abs(r) for r, x in self._roots.items() if r * rate > 0 and x is None]
        if rate not in self._roots and abs(rate) >= min(lost, default=np.inf):
            return None  # beyond a rate on the way to which the root was lost
        if rate not in self._roots:
            known = [r for r, x in self._roots.items() if r * rate >= 0 and x is not None]
            near = min(known, key=lambda r: abs(np.arcsinh(r) - np.arcsinh(rate)), default=None)
            start = None if near is None else self._roots[near]
            self._roots[rate] = None if start is None else self._equations.follow(start, near or 0.0, rate)
        return self._roots[rate]


def _agree(parts: tuple[FloatArray, ...], others: tuple[FloatArray, ...]) -> bool:
    difference = sum(float(np.abs(a - b).sum()) for a, b in zip(parts, others, strict=True))
    return difference <= _AGREEMENT * sum(float(np.abs(part).sum()) for part in parts)


def _finite_size_ratios(design: Design, p: int, inner_lr: float, scale: float) -> Parts:
    """Return finite-size over large-p values for isotropic features of the same mean variance."""
    sizes = replace(design, l2=design.l2 / scale)
    finite = isotropic_parts(sizes, p, inner_lr)
    large = isotropic_parts(sizes, p, inner_lr, finite=False)
    return Parts(*(a / b if b else 1.0 for a, b in zip(finite, large, strict=True)))


@final
@dataclass(frozen=True, eq=False)
class _Equations:
    """The fixed point of equation 16.4 in log kappa and T, one of each for every group of tasks.

    Features have mean variance one. The fields of step l are divided by growth^l, so that numbers stay of order one
    whatever the rate and the number of steps. A source (sigma^2, tau^2, eps) is a direction in which to differentiate:
    noise, task variances, a weight of the start.
    """

    groups: tuple[Group, ...]
    s: FloatArray
    inner_lr: float
    n_steps: int
    penalty: float
    scored: float  # 1 where query rows are not all fitted, 0 in the ridgeless limit for N < p
    natural: float  # the rate in whose units the continuation proceeds

    @classmethod
    def of(cls, dist: MixedLinearRegression, design: Design, scale: float) -> _Equations:
        n_rows, s = design.n_query_rows, dist.eigenvalues / scale
        over = design.l2 == 0 and n_rows < dist.n_features
        penalty = 1.0 if over else design.l2 / scale * n_rows
        n_support = min(group.n_support for group in design.groups)
        natural = 1 / (float(s @ s / s.sum()) + float(s.sum()) / n_support)
        return cls(design.groups, s, 0.0, int(design.n_steps), penalty, 0.0 if over else 1.0, natural)

    @property
    def growth(self) -> float:
        """What one step multiplies the largest directions by, about."""
        return 1 + abs(self.inner_lr) / self.natural

    @property
    def loses_digits(self) -> bool:
        """Whether unknowns, which are of orders from 1 to the growth in all steps squared, may be rounded away."""
        return bool(self.growth ** (2 * self.n_steps) > _CLEAR)

    def found_anew(self, x: FloatArray) -> FloatArray | None:
        """Return the root that Newton's method finds from beside a root: equal to it up to rounding."""
        return self._newton(x * (1 + _ASIDE * np.cos(np.arange(len(x)))))

    def solve_at_zero(self) -> FloatArray | None:
        """Return the root at the rate 0; None where it is not found."""
        return replace(self, inner_lr=0.0)._newton(self._near())

    def follow(self, x: FloatArray, known: float, rate: float) -> FloatArray | None:
        """Return the root at a rate by continuation from that at a known rate; None where it is lost."""
        place, target = (float(np.arcsinh(value / self.natural)) for value in (known, rate))
        step, slope = target - place, np.zeros_like(x)
        for _ in range(_MAX_STEPS):
            step = step if abs(step) < abs(target - place) else target - place
            at_step = replace(self, inner_lr=self.natural * float(np.sinh(place + step)))
            moved = at_step._newton(x + slope * step, _CONTRACTION)
            if moved is None:
                step /= 2
                continue
            if step == target - place:
                return moved
            x, place, slope, step = moved, place + step, (moved - x) / step, 1.5 * step
        return None

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

    def _newton(self, x: FloatArray, contraction: float = np.inf) -> FloatArray | None:
        last = np.inf
        for _ in range(_MAX_NEWTON):
            if not np.isfinite(x).all():
                return None
            try:
                change = np.linalg.solve(self.jacobian(x), self.residual(x))
            except np.linalg.LinAlgError:
                return None
            x = x - change
            if np.abs(change).max() < _NEWTON_TOLERANCE * (1 + np.abs(x).max()):
                return x
            size = float((np.abs(change) / (1 + np.abs(x))).max())
            if size > contraction * last:
                return None
            last = size
        return None

    def parts(
        self, x: FloatArray, sigma2: float, tau2: FloatArray, start_squared: FloatArray, scale: float
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return what label noise, task spread and the start add, in the units of the features."""
        jacobian, zero = self.jacobian(x), np.zeros(len(self.s))
        noise = self.derivative(x, jacobian, (sigma2, zero, zero))
        tasks = self.derivative(x, jacobian, (0.0, tau2, zero))
        start = zero
        if self.penalty > 0 and start_squared.any():
            moved = self.derivative(x, jacobian, (0.0, zero, np.eye(len(self.s))))
            start = self.penalty**2 * (moved @ start_squared)
        return noise / scale, tasks / scale, start / scale

    def jacobian(self, x: FloatArray) -> FloatArray:
        steps = x + 1j * _COMPLEX_STEP * np.eye(len(x))
        columns: FloatArray = self.residual(steps).imag.T / _COMPLEX_STEP
        return columns

    def derivative(
        self, x: FloatArray, jacobian: FloatArray, source: tuple[float, FloatArray, FloatArray]
    ) -> FloatArray:
        """Return minus the derivative of the resolvent's diagonal along a source, or along several weights (n, p)."""
        step = 1j * _COMPLEX_STEP
        moved = (step * source[0], step * source[1], step * source[2])
        forced = self.residual(x.astype(complex), moved).imag / _COMPLEX_STEP
        follow = -np.linalg.solve(jacobian, forced.T).T
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
        """Return x (..., n_unknowns) minus the right-hand side of the equations at x."""
        parts = self._split(x)
        local = [
            self._stiffness(group, np.exp(log_kappa), T, source)
            for group, (log_kappa, T) in zip(self.groups, parts, strict=True)
        ]
        total = self.penalty + source[2]
        for group, (stiffness, _) in zip(self.groups, local, strict=True):
            total = total + group.n_tasks * stiffness
        changes = []
        unit = self.growth ** float(-2 * self.n_steps)
        for group, (log_kappa, T), (stiffness, fields) in zip(self.groups, parts, local, strict=True):
            theta = total - stiffness
            H = np.broadcast_to(fields, (*theta.shape, *fields.shape[-2:])).copy()
            H[..., 0, 0] += theta / (1 - theta * source[1])
            P = np.linalg.inv(H)
            kappa = np.exp(log_kappa)
            scored = (self.scored - source[0]) * unit
            scored = scored + len(self.s) / kappa + (P[..., -1, -1] / self.s).sum(axis=-1) / kappa**2
            moved = T - np.einsum("j,...jkl->...kl", self.s, P)
            upper = moved[..., self._upper[0], self._upper[1]]
            of_kappa = (log_kappa - np.log(group.n_query / scored))[..., None]
            changes.append(np.concatenate([np.broadcast_to(of_kappa, (*upper.shape[:-1], 1)), upper], axis=-1))
        return np.concatenate(changes, axis=-1)

    def _stiffness(self, group: Group, kappa: Any, T: Values, source: tuple[Any, Any, Any]) -> tuple[Values, Values]:
        """Return Kv_j = h_j / (1 - t tau_j^2 h_j) and the matrices of the fields without the other tasks."""
        K, n = self.n_steps, group.n_support
        fields = np.arange(K)
        M = np.zeros((2 * K, 2 * K), dtype=np.result_type(T, kappa, type(source[0])))
        M[fields, K + fields] = M[K + fields, fields] = -self.inner_lr / (n * self.growth)
        shrink = self.growth ** -(fields + 1.0)
        M[K:, K:] += source[0] * (self.inner_lr / n) ** 2 * shrink[:, None] * shrink
        delta = n * M @ np.linalg.inv(np.eye(2 * K) + T @ M)
        H: Values = self.s[:, None, None] * delta[..., None, :, :]
        H[..., K + fields, fields] += 1 / self.growth
        H[..., fields, K + fields] += 1 / self.growth
        H[..., K + fields[:-1], fields[1:]] -= 1
        H[..., fields[1:], K + fields[:-1]] -= 1
        H[..., -1, -1] -= 1 / (np.asarray(kappa)[..., None] * self.s)
        rest = np.linalg.solve(H[..., 1:, 1:], H[..., 1:, :1])
        h = H[..., 0, 0] - (H[..., :1, 1:] @ rest)[..., 0, 0]
        stiffness: Values = h / (1 - source[1] * h)
        return stiffness, H

    def _start(self) -> FloatArray:
        size = 2 * self.n_steps
        flat = np.zeros(size * (size + 1) // 2)
        return np.concatenate([np.append(np.log(g.n_query / (self.scored + 1)), flat) for g in self.groups])

    @cached_property
    def _upper(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return np.triu_indices(2 * self.n_steps)

    def _split(self, x: Values) -> list[tuple[Any, Values]]:
        """Return log kappa (...,) and T (..., 2K, 2K) of every group."""
        size, (rows, columns) = 2 * self.n_steps, self._upper
        blocks = x.reshape(*x.shape[:-1], len(self.groups), -1)
        parts = []
        for i in range(len(self.groups)):
            T = np.zeros((*x.shape[:-1], size, size), dtype=x.dtype)
            T[..., rows, columns] = T[..., columns, rows] = blocks[..., i, 1:]
            parts.append((blocks[..., i, 0], T))
        return parts
