"""The distribution of the test loss over training sets (docs/theory.md, 27)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import cumulative_simpson, simpson
from scipy.special import gammaincinv, gammaln, xlogy

from innerloop._base.checks import FloatArray, as_number, as_rate
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.theory.adapting import AdaptedLoss
from innerloop.theory.expected import TrainingError
from innerloop.theory.one_task import LOWEST, OneTask, root
from innerloop.theory.spectrum import wishart_spectrum

_N_NODES = 48
_MAX_NEWTON, _TOLERANCE, _DIFFERENCE = 12, 1e-8, 1e-7
# Points on a small circle, from which the first cumulants follow; its radius in units of 1 / (2 E S / p).
_N_CIRCLE, _RADIUS = 8, 0.05
# The characteristic function is followed up to so many standard deviations of 1 / S.
_N_FREQUENCIES, _REACH = 121, 8.0

Complex = NDArray[Any]


class LossInterval(NamedTuple):
    """The range in which the test loss of one training set lies.

    Examples
    --------
    >>> import innerloop as il
    >>> dist, design = il.MixedLinearRegression(60, task_std=0.5), il.Design(3, n_support=30, n_query=2, n_adapt=20)
    >>> low, high = il.loss_interval(dist, design, inner_lr=0.0, adapt_lr=0.08, level=0.5)
    >>> low < high
    True
    """

    low: float
    high: float


@final
@dataclass(frozen=True, eq=False)
class LossLaw:
    """The law of the test loss of one training set: a gamma law, shifted, and not below a floor.

    Parameters
    ----------
    shape, scale, origin
        Of the gamma law.
    floor
        The loss of the best meta-parameters, which no training set goes below.
    """

    shape: float
    scale: float
    origin: float
    floor: float

    def quantiles(self, levels: ArrayLike) -> FloatArray:
        """Return the losses below which a training set's lies with these probabilities."""
        return np.asarray(np.maximum(self.origin + self.scale * gammaincinv(self.shape, levels), self.floor))

    def density(self, losses: ArrayLike) -> FloatArray:
        """Return the density at losses above the floor."""
        x = np.maximum((np.asarray(losses) - self.origin) / self.scale, 0.0)
        log = xlogy(self.shape - 1, x) - x - gammaln(self.shape)
        return np.asarray(np.exp(log) / self.scale)


def loss_interval(
    dist: MixedLinearRegression,
    design: Design,
    inner_lr: float,
    adapt_lr: float,
    level: float = 0.9,
    init: ArrayLike | None = None,
) -> LossInterval:
    """Return the interval in which the test loss of one training set lies with a probability.

    The test loss is that on new tasks (HALF the mean squared error, label noise included) of meta-parameters trained on
    one draw of all training tasks, features and noise; `expected_loss` is its mean over draws.

    Parameters
    ----------
    dist, design, init
        As in `expected_loss`; features and tasks isotropic, protocol "split".
    inner_lr, adapt_lr
        Rates.
    level
        The probability; half of the rest lies on either side.

    Returns
    -------
    LossInterval

    Raises
    ------
    ValueError
        If the law is not derived for the design (section 27), or no mean exists.

    Notes
    -----
    Three cumulants of the deterministic equivalent, corrected for finite size, and a shifted gamma law through them.

    Examples
    --------
    >>> import innerloop as il
    >>> dist, design = il.MixedLinearRegression(60, task_std=0.5), il.Design(3, n_support=30, n_query=2, n_adapt=20)
    >>> interval = il.loss_interval(dist, design, inner_lr=-1.0, adapt_lr=0.08)
    >>> interval.low < il.expected_loss(dist, design, -1.0, 0.08) < interval.high
    True
    """
    if not 0 < as_number(level, "level") < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level}.")
    tail = (1 - level) / 2
    low, high = loss_law(dist, design, inner_lr, adapt_lr, init).quantiles([tail, 1 - tail])
    return LossInterval(float(low), float(high))


def loss_law(
    dist: MixedLinearRegression, design: Design, inner_lr: float, adapt_lr: float, init: ArrayLike | None = None
) -> LossLaw:
    """Return the law of which `loss_interval` gives quantiles; parameters and errors are the same."""
    error, loss = TrainingError(dist, design, init), AdaptedLoss.build(dist, design)
    _check(dist, design, float(error.at_start()[0]), needs_centre=design.l2 > 0)
    rate = as_rate(inner_lr, "inner_lr")
    mean = float(error(np.array(rate))[0])
    if not np.isfinite(mean):
        raise ValueError(f"`inner_lr` {rate:g} has no expected loss with this design, so no interval either.")
    second, third = _cumulants(dist, design, rate, mean, float(error.at_start()[0]))
    origin = mean - 2 * second**2 / third
    # The loss is linear in the error, so that its law is of the same kind.
    floor, one = loss(np.array([adapt_lr, adapt_lr]), np.array([[0.0], [1.0]]))
    slope = float(one - floor)
    shape, scale = 4 * second**3 / third**2, slope * third / (2 * second)
    return LossLaw(shape, scale, float(floor) + slope * origin, float(floor))


def chance_of_improvement(dist: MixedLinearRegression, design: Design, inner_lr: float, over: float = 0.0) -> float:
    """Return the probability that one inner rate does better than another on the same training set.

    Parameters
    ----------
    dist, design
        As in `expected_loss`; features and tasks isotropic, protocol "split". Meta-training starts at the centre of the
        tasks, or it does not matter where (N > p without a penalty).
    inner_lr
        The rate.
    over
        The rate to compare it with; zero is no inner loop.

    Returns
    -------
    float
        Over draws of all training tasks, features and noise, whatever the adaptation rate, if it is the same for both.

    Raises
    ------
    ValueError
        If the law is not derived for the design (section 27), or the rates are equal.

    Examples
    --------
    >>> import innerloop as il
    >>> design = il.Design(n_tasks=3, n_support=30, n_query=2, n_adapt=20)
    >>> dist = il.MixedLinearRegression(60, task_std=0.5)
    >>> round(il.chance_of_improvement(dist, design, inner_lr=-1.0), 1)
    0.8
    """
    rates = np.array([as_rate(inner_lr, "inner_lr"), as_rate(over, "over")])
    if rates[0] == rates[1]:
        raise ValueError(f"`over` must be another rate than `inner_lr`, got {over:g} twice.")
    design.rule.check_rates(rates, "inner_lr")
    _check(dist, design, 0.0, needs_centre=False)
    if not np.isfinite(TrainingError(dist, design, dist.centre)(rates)).all():
        raise ValueError("`inner_lr` and `over` must both have an expected loss with this design.")
    law = _Law.of(dist, design, rates, np.array([1.0, -1.0]))
    # The standard deviation of S sets the scale of the frequencies.
    first = law.cumulants()
    top = _REACH / np.sqrt(first[1])
    v = np.linspace(0, top, _N_FREQUENCIES)
    slope = np.empty(len(v), dtype=complex)
    slope[1:] = law.observable(-2j * v[1:]) / v[1:]
    slope[0] = -2j * first[0]
    exponent = -0.5 * (
        cumulative_simpson(slope.real, x=v, initial=0) + 1j * cumulative_simpson(slope.imag, x=v, initial=0)
    )
    integrand = np.empty(len(v))
    integrand[1:] = np.exp(exponent[1:]).imag / v[1:]
    integrand[0] = first[0]
    return float(np.clip(0.5 - simpson(integrand, x=v) / np.pi, 0, 1))


def _check(dist: MixedLinearRegression, design: Design, start: float, needs_centre: bool) -> None:
    if not dist.is_isotropic or not dist.is_gaussian or design.protocol != "split":
        raise ValueError(
            "`dist` must be isotropic and Gaussian, and `protocol` 'split': the law of the loss is not derived "
            "otherwise; use estimate_loss(..., scoring='sampled')."
        )
    if needs_centre and start > 0:
        raise ValueError("`init` must be the centre of the tasks where `l2` is positive: no other law is derived.")


def _cumulants(
    dist: MixedLinearRegression, design: Design, rate: float, mean: float, start: float
) -> tuple[float, float]:
    """Return the second and third cumulant of |omega* - w0|^2 with finite-size corrections (27.5)."""
    p, n = dist.n_features, design.n_query_rows
    law = _Law.of(dist, design, np.array([rate]), np.ones(1))
    first, second, third = law.cumulants()
    over = design.l2 == 0 and n < p
    own = mean - (start * (1 - n / p) if over else 0.0)  # without the start's part
    scale = own / first
    second, third = second * scale**2, third * scale**3
    d, q = abs(n - p), min(n, p)
    if design.l2 == 0 and d > 3:
        rows = max(n, p)
        ratio = (rows - 1) * d**2 / (rows * (d - 1) * (d - 3)) * (1 - 1 / d) ** 2
        second *= max(ratio, 1.0)
        second += ((d - 1) * ((d - 2) * q + 2) / (q * d * (d - 3)) - 1) * own**2
    if over and start > 0:
        alpha, beta = (p - n) / 2, n / 2
        total = alpha + beta
        variance = alpha * beta / (total**2 * (total + 1))
        skew = 2 * (beta - alpha) * np.sqrt(total + 1) / ((total + 2) * np.sqrt(alpha * beta))
        second += start**2 * variance
        third += start**3 * skew * variance**1.5
    return second, max(third, 1e-3 * second**1.5)


@final
@dataclass(frozen=True, eq=False)
class _Law:
    """log E exp(-tau S / 2) for S = sum_j c_j |delta_j|^2 of errors delta_j at rates a_j (27.1 to 27.4).

    `alpha` (nodes, 2r), `covariance` (nodes, r, r) and `noise` (r, r) belong to one group of tasks each; responses are
    divided by a scale of their rate.
    """

    n_features: int
    signs: FloatArray
    penalty: FloatArray  # lambda of each rate, (r,)
    scored: float
    groups: list[_Tasks]

    @classmethod
    def of(cls, dist: MixedLinearRegression, design: Design, rates: FloatArray, signs: FloatArray) -> _Law:
        p, noise, spread = dist.n_features, dist.noise_std**2, float(dist.task_variances.sum())
        spectra = [wishart_spectrum(group.n_support, p, n_nodes=_N_NODES) for group in design.groups]
        parts = [design.rule.response(rates, spectrum.nodes) for spectrum in spectra]
        largest = np.max([part.log_scale for part in parts], axis=0)
        units = np.exp(-largest[:, 0])
        groups = []
        for group, spectrum, part in zip(design.groups, spectra, parts, strict=True):
            factor = np.exp(part.log_scale - largest)
            A, step = (part.kept * factor).T, (part.step * factor).T
            covariance = spread / p * A[:, :, None] * A[:, None, :]
            passed = step[:, :, None] * step[:, None, :] * spectrum.nodes[:, None, None]
            covariance = covariance + noise / group.n_support * passed
            alpha = np.concatenate([A, A], axis=1)
            groups.append(
                _Tasks(
                    group.n_tasks, group.n_query, alpha, covariance, noise * np.outer(units, units), spectrum.weights
                )
            )
        over = design.l2 == 0 and design.n_query_rows < p
        penalty = np.ones(len(rates)) if over else design.l2 * design.n_query_rows * units**2
        return cls(p, signs, penalty, 0.0 if over else 1.0, groups)

    def cumulants(self) -> tuple[float, float, float]:
        """Return the first three cumulants of S, from the Taylor coefficients of the observable."""
        scale = 1.0
        for _ in range(2):  # the radius is set by the first cumulant of the absolute terms
            radius = _RADIUS * scale
            circle = radius * np.exp(2j * np.pi * np.arange(_N_CIRCLE) / _N_CIRCLE)
            values = np.fft.fft(self.observable(circle)) / _N_CIRCLE
            first, second, third = (values[k].real / radius**k for k in (1, 2, 3))
            scale = 1 / np.sqrt(abs(second) + 1e-300)
        return first, -2 * second, 8 * third

    def observable(self, tau: Complex) -> Complex:
        """Return tr tau c Sigma (1 + tau c Sigma)^-1 along a path of points (n_tau,) that starts near 0."""
        x, old, values, last = self._at_zero(), None, np.empty(len(tau), dtype=complex), 0j
        before = last
        for i, point in enumerate(tau):
            guess = x if old is None else x + (x - old) * ((point - last) / (last - before))
            old, before, last = (x, last, point) if i else (None, last, point)
            x = self._newton(guess, point)
            values[i] = self._observable_at(x, point)
        return values

    def _observable_at(self, x: Complex, tau: complex) -> complex:
        r = len(self.signs)
        theta, kappa = self._split(x[None])[0]
        G = self.groups[0].update(np.array([tau]), theta, kappa, self.scored, self.n_features)[1][0]
        return complex(-self.n_features * (np.diag(G)[r:] @ self.signs))

    def _at_zero(self) -> Complex:
        """Return the unknowns near tau = 0, where the rates decouple into the scalars of sections 12 and 14."""
        r, parts, upper = len(self.signs), [], self._upper
        scalars = [self._scalars(j) for j in range(r)]
        for i, _ in enumerate(self.groups):
            thetas, kappas = (np.diag([scalar[i][which] for scalar in scalars]) for which in (0, 1))
            zero = np.zeros((r, r))
            parts.append(np.block([[zero, thetas], [thetas, -np.diag(self.signs)]])[upper])
            parts.append(np.block([[zero, kappas], [kappas, zero]])[upper])
        x: Complex = np.concatenate(parts).astype(complex)
        return self._newton(x, 0j)

    def _scalars(self, j: int) -> list[tuple[float, float]]:
        """Return (theta, theta k) of every group at rate j."""
        m, p = sum(group.n_tasks for group in self.groups), self.n_features
        tasks = [OneTask(group.n_query, group.alpha[:, j] ** 2, group.weights) for group in self.groups]
        if self.scored == 0:
            shares = [1 - task.n_query / p for task in tasks]
            gamma_ = self.penalty[j] / (sum(g.n_tasks * s for g, s in zip(self.groups, shares, strict=True)) - (m - 1))
            return [(gamma_ * s, gamma_ * s * task.largest) for task, s in zip(tasks, shares, strict=True)]

        def excess(gamma_: float) -> float:
            used = (g.n_tasks * t.dimension(t.solve(gamma_)) for g, t in zip(self.groups, tasks, strict=True))
            return p - sum(used) - float(self.penalty[j]) / gamma_

        gamma_ = root(excess, 1 / LOWEST)
        ks = [task.solve(gamma_) for task in tasks]
        return [(float(task.theta(k)), float(task.theta(k) * k)) for task, k in zip(tasks, ks, strict=True)]

    @property
    def _upper(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return np.triu_indices(2 * len(self.signs))

    def _split(self, x: Complex) -> list[tuple[Complex, Complex]]:
        """Return Theta and kappa (n, 2r, 2r) of every group from unknowns (n, n_unknowns)."""
        size, (rows, columns) = 2 * len(self.signs), self._upper
        matrices = np.zeros((len(x), 2 * len(self.groups), size, size), dtype=complex)
        matrices[..., rows, columns] = matrices[..., columns, rows] = x.reshape(len(x), 2 * len(self.groups), -1)
        return [(matrices[:, 2 * i], matrices[:, 2 * i + 1]) for i in range(len(self.groups))]

    def _residual(self, x: Complex, tau: complex) -> Complex:
        """Return what the equations lack (n, n_unknowns) at unknowns (n, n_unknowns)."""
        r, m = len(self.signs), sum(group.n_tasks for group in self.groups)
        target = np.zeros((2 * r, 2 * r))
        target[:r, r:] = target[r:, :r] = np.diag(self.penalty)
        target[r:, r:] = -np.diag(self.signs)
        parts, taus = self._split(x), np.full(len(x), tau)
        updates = [
            group.update(taus, theta, kappa, self.scored, self.n_features)
            for group, (theta, kappa) in zip(self.groups, parts, strict=True)
        ]
        inverse = [np.linalg.inv(resolvent) for _, resolvent in updates]
        total = sum((g.n_tasks * theta for g, (theta, _) in zip(self.groups, parts, strict=True)), -target)
        changes = []
        for i, ((_, kappa), (moved, _)) in enumerate(zip(parts, updates, strict=True)):
            changes.append(total - (m - 1) * inverse[0] if i == 0 else inverse[i] - inverse[0])
            changes.append(kappa - moved)
        return np.concatenate([change[:, *self._upper] for change in changes], axis=1)

    def _newton(self, x: Complex, tau: complex) -> Complex:
        """Return the root near x, or NaN."""
        for _ in range(_MAX_NEWTON):
            step = _DIFFERENCE * (1 + np.abs(x))
            values = self._residual(np.concatenate([x[None], x + np.diag(step)]), tau)
            if not np.isfinite(values).all():
                break
            change = np.linalg.lstsq((values[1:] - values[0]).T / step, values[0], rcond=1e-14)[0]
            x = x - change
            if np.abs(change).max() < _TOLERANCE * np.abs(x).max():
                return x
        return np.full_like(x, np.nan)


class _Tasks(NamedTuple):
    n_tasks: int
    n_query: int
    alpha: FloatArray
    covariance: FloatArray
    noise: FloatArray
    weights: FloatArray

    def update(self, tau: Complex, theta: Complex, kappa: Complex, scored: float, p: int) -> tuple[Complex, Complex]:
        """Return the kappa (27.3) and the resolvent (27.4) that Theta and kappa make: (n, 2r, 2r) each."""
        r = self.noise.shape[0]
        both = self.alpha[:, :, None] * self.alpha[:, None, :]
        inverse = np.linalg.inv(theta)
        metric = inverse[:, None] * both
        metric[..., r:, r:] -= tau[:, None, None, None] * self.covariance
        shrunk = np.linalg.inv(np.eye(2 * r) + metric @ kappa[:, None])
        own = np.zeros(theta.shape, dtype=complex)
        own[:, :r, r:] = own[:, r:, :r] = scored * np.eye(r)
        own[:, r:, r:] = -tau[:, None, None] * self.noise
        trace = np.einsum("s,tsab->tab", self.weights, shrunk @ metric)
        moved = self.n_query * np.linalg.inv(own + trace)
        through = np.einsum("s,tsab->tab", self.weights, both * (kappa[:, None] @ shrunk)) / p
        return moved, inverse - inverse @ through @ inverse
