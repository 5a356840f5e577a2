"""The expected test loss of a run given its features: task weights, noise and the start are averaged exactly.

Only features are drawn. With B and xi as in docs/theory.md, 18, the meta-parameters of a run have

    E[|omega* - w0|^2 | X] = |(I - B^+ B) (omega_0 - w0)|^2 + tr B^+ C B^+',    C = cov(xi | X)

and everything they depend on is a polynomial in the inner rate. So it is computed at a few rates, the nodes, and
interpolated, exactly, to all the others: what a rate costs does not grow with the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from scipy.special import comb

from innerloop._checks import FloatArray
from innerloop._random import stream
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.distributions.mixed_linear import GAUSSIAN_FOURTH_MOMENT
from innerloop.theory.adapting import AdaptedLoss

# Numbers held at once, per array: enough to keep BLAS busy, few enough to stay in the cache.
_NUMBERS_AT_ONCE = 2**17
# New tasks per run whose features are drawn where their expectation is not known in closed form.
_TEST_DRAWS = 16


@final
@dataclass(frozen=True, eq=False)
class Nodes:
    r"""Rates at which polynomials are computed, and how to get from there to all rates.

    A rate is a = scale tan(phi). Homogenised by cos(phi), a polynomial of degree 2D in the rate is a trigonometric
    polynomial of degree D in 2 phi, which 2D + 1 equally spaced nodes determine, as well for large rates as for small.

    Parameters
    ----------
    steps : (n_nodes, n_steps + 1)
        What multiplies U_0 .. U_K in the homogenised rows, ``cos(phi)^K B``.
    cosine : (n_nodes,)
        cos(phi)^K at the nodes.
    weights : (n_rates, n_nodes)
        The interpolation.
    rate_cosine : (n_rates,)
        cos(phi)^K at the rates.
    rate_steps : (n_rates, n_steps + 1)
        `steps` at the rates.
    """

    steps: FloatArray
    cosine: FloatArray
    weights: FloatArray
    rate_cosine: FloatArray
    rate_steps: FloatArray

    @classmethod
    def build(cls, rates: FloatArray, n_steps: int, degree: int, scale: float) -> Nodes:
        """Return the nodes for polynomials of degree 2 `degree`; the rates themselves where these are fewer."""
        angles, n = np.arctan(rates / scale), 2 * degree + 1
        if len(rates) <= n:
            nodes, weights = angles, np.eye(len(rates))
        else:
            nodes = np.pi * np.arange(n) / n
            gap = np.sin(angles[:, None] - nodes)
            close = np.abs(gap) < 1e-14
            weights = np.where(close, 1.0, np.sin(n * (angles[:, None] - nodes)) / np.where(close, 1.0, n * gap))
        return cls(
            _steps(nodes, n_steps, scale),
            np.cos(nodes) ** n_steps,
            weights,
            np.cos(angles) ** n_steps,
            _steps(angles, n_steps, scale),
        )


def _steps(angles: FloatArray, n_steps: int, scale: float) -> FloatArray:
    j = np.arange(n_steps + 1)
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
    coefficients: FloatArray = comb(n_steps, j) * cosine ** (n_steps - j) * (-scale * sine) ** j
    return coefficients


class Rows(NamedTuple):
    """Query rows of some tasks at some rates, (..., n_query, n_features): of B, and of D and E with cov P = D E'.

    P is what the noise of the support rows becomes in the query residuals; E is divided by n_support.
    """

    B: FloatArray
    D: FloatArray
    E: FloatArray


def gradient_rows(X_support: FloatArray, X_query: FloatArray, steps: FloatArray) -> Rows:
    """Return the rows after gradient steps: (..., n_nodes, n_query, n_features).

    Parameters
    ----------
    X_support, X_query : (..., n_support, n_features), (..., n_query, n_features)
        Features.
    steps : (n_nodes, n_steps + 1)
        From `Nodes`.
    """
    n, p = X_support.shape[-2:]
    Xt = X_support.swapaxes(-1, -2)
    moments = Xt @ X_support / n if n > p else None
    U = [X_query]
    for _ in range(steps.shape[1] - 1):
        U.append(U[-1] @ moments if moments is not None else (U[-1] @ Xt) @ X_support / n)
    c = steps[:, :, None, None]
    taken = [U_j[..., None, :, :] for U_j in U]
    E = sum((c[:, j] * taken[j] for j in range(1, len(U))), np.zeros(1))
    D = sum((c[:, j] * taken[j - 1] for j in range(1, len(U))), np.zeros(1))
    return Rows(c[:, 0] * taken[0] + E, D, E / n)


def implicit_rows(X_support: FloatArray, X_query: FloatArray, rates: FloatArray) -> Rows:
    """Return the rows of the implicit rule, X_query (I + a S)^-1 with S = X_support'X_support / n_support."""
    n, p = X_support.shape[-2:]
    S = X_support.swapaxes(-1, -2) @ X_support / n
    a = rates[:, None, None]
    B = np.linalg.solve(np.eye(p) + a * S[..., None, :, :], X_query.swapaxes(-1, -2)[..., None, :, :])
    B = np.ascontiguousarray(B.swapaxes(-1, -2))
    return Rows(B, a * B, (X_query[..., None, :, :] - B) / n)


@final
class ConditionalRuns:
    """Expected test losses of runs given their features, for all rates.

    Parameters
    ----------
    dist, design
        The tasks, and the sizes.
    inner_lrs, adapt_lrs : (n_inner,), (n_adapt,)
        Rates.
    init : (n_features,)
        Where meta-training starts.
    """

    def __init__(
        self,
        dist: MixedLinearRegression,
        design: Design,
        inner_lrs: FloatArray,
        adapt_lrs: FloatArray,
        init: FloatArray,
    ) -> None:
        self._dist, self._design = dist, design
        self._inner, self._adapt = inner_lrs, adapt_lrs
        self._offset2 = (init - dist.centre) ** 2
        gaussian = dist.fourth_moment == GAUSSIAN_FOURTH_MOMENT
        self._scalar = dist.is_isotropic and gaussian
        self._may_be_singular = not gaussian and design.l2 == 0
        self._over = design.n_query_rows <= dist.n_features
        self._penalty = design.n_query_rows * design.l2
        try:
            self._adapted: AdaptedLoss | None = AdaptedLoss.build(dist, design)
        except ValueError:  # not derived: drawn for every run
            self._adapted = None
        self._nodes = self._make_nodes()

    def losses(self, seed: int, runs: range) -> FloatArray:
        """Return the losses of runs: (n_runs, n_inner, n_adapt)."""
        at_once = max(1, _NUMBERS_AT_ONCE // self._numbers_per_run())
        parts = [self._losses(seed, runs[i : i + at_once]) for i in range(0, len(runs), at_once)]
        return np.concatenate(parts)

    def cost(self) -> float:
        """Return about how many floating-point operations a run takes."""
        p, N = self._dist.n_features, self._design.n_query_rows
        small, n = min(N, p), len(self._inner)
        support = sum(group.n_tasks * group.n_query * group.n_support * 4 for group in self._design.groups)
        return (
            p * support
            + len(self._nodes.steps) * 8.0 * N * small * p
            + n * 6.0 * small**2 * (small if self._scalar else p)
        )

    def _numbers_per_run(self) -> int:
        p, N = self._dist.n_features, self._design.n_query_rows
        small = min(N, p)
        at_rates = len(self._inner) * small * (small if self._scalar else p)
        return max(1, at_rates, 3 * len(self._nodes.steps) * N * p)

    def _make_nodes(self) -> Nodes:
        dist, design, rates = self._dist, self._design, self._inner
        if design.inner_rule == "implicit":
            one = np.ones(len(rates))
            return Nodes(rates[:, None], one, np.eye(len(rates)), one, rates[:, None])
        n = min(group.n_support for group in design.groups)
        scale = 1 / (dist.eigenvalues.mean() * (1 + dist.n_features / n))
        degree = design.n_steps if self._over else 2 * design.n_steps
        return Nodes.build(rates, design.n_steps, degree, float(scale))

    def _losses(self, seed: int, runs: range) -> FloatArray:
        streams = [stream(seed, run) for run in runs]
        error = self._squared_error(self._draw(streams))
        if self._adapted is not None:
            return self._adapted(self._adapt, error[:, :, None, :])
        weights, passed = (np.array(part) for part in zip(*(self._new_tasks(rng) for rng in streams), strict=True))
        spread = self._dist.task_variances.sum(keepdims=True) if self._scalar else self._dist.task_variances
        total = (weights[:, None] * (spread + error[:, :, None, :])).sum(axis=-1)
        losses: FloatArray = 0.5 * (self._dist.noise_std**2 * (1 + passed[:, None]) + total)
        return losses

    def _draw(self, streams: list[np.random.Generator]) -> list[tuple[FloatArray, FloatArray]]:
        """Return the support and query features of each group of tasks: (n_runs, n_tasks, n_rows, n_features)."""
        p, drawn = self._dist.n_features, []
        for group in self._design.groups:
            X = np.empty((len(streams), group.n_tasks, group.n_support + group.n_query, p))
            for run, rng in zip(X, streams, strict=True):
                self._dist.draw_features(run, rng)
            drawn.append((X[:, :, : group.n_support], X[:, :, group.n_support :]))
        return drawn

    def _rows(self, X_support: FloatArray, X_query: FloatArray, steps: FloatArray) -> Rows:
        if self._design.inner_rule == "implicit":
            return implicit_rows(X_support, X_query, steps[:, 0])
        return gradient_rows(X_support, X_query, steps)

    def _squared_error(self, groups: list[tuple[FloatArray, FloatArray]]) -> FloatArray:
        """Return E[(omega* - w0)_j^2 | X]: (n_runs, n_inner, n_directions), the sum alone where all are alike."""
        tasks = [self._rows(*group, self._nodes.steps) for group in groups]
        B = np.concatenate([_stacked(rows.B) for rows in tasks], axis=2)
        if self._over:
            G, C = self._at_rates(B @ B.swapaxes(-1, -2), self._covariance(tasks, B.shape[2]))
            return self._over_error(G, C, groups)
        CB = np.concatenate([_stacked(self._covariance_times(rows)) for rows in tasks], axis=2)
        Bt = B.swapaxes(-1, -2)
        # Q has twice the degree of H; that of H is smaller than the nodes can carry.
        return self._under_error(*self._at_rates(Bt @ B, Bt @ CB))

    def _at_rates(self, *values: FloatArray) -> Iterator[FloatArray]:
        """Interpolate matrices (n_runs, n_nodes, n, n) to all rates."""
        for at_nodes in values:
            flat = at_nodes.reshape(*at_nodes.shape[:2], -1)
            yield (self._nodes.weights @ flat).reshape(len(flat), -1, *at_nodes.shape[2:])

    def _covariance(self, tasks: list[Rows], n_rows: int) -> FloatArray:
        """Return C at the nodes, homogenised: (n_runs, n_nodes, N, N), one block a task."""
        noise, spread = self._dist.noise_std**2, self._dist.task_variances
        C = np.zeros((tasks[0].B.shape[0], len(self._nodes.steps), n_rows, n_rows))
        low = 0
        for rows in tasks:
            blocks = (rows.B * spread) @ rows.B.swapaxes(-1, -2) + noise * rows.D @ rows.E.swapaxes(-1, -2)
            for task in range(blocks.shape[1]):
                part = slice(low, low + blocks.shape[-1])
                C[:, :, part, part] = blocks[:, task]
                low = part.stop
        diagonal = np.arange(n_rows)
        C[:, :, diagonal, diagonal] += noise * self._nodes.cosine[:, None] ** 2
        return C

    def _covariance_times(self, rows: Rows) -> FloatArray:
        """Return C B of each task at the nodes, homogenised; products are taken in the cheaper order."""
        B, D, E = rows
        noise, Bt = self._dist.noise_std**2, B.swapaxes(-1, -2)
        spread = B * self._dist.task_variances
        wide = B.shape[-2] <= B.shape[-1]
        from_tasks = (spread @ Bt) @ B if wide else spread @ (Bt @ B)
        Et = E.swapaxes(-1, -2)
        from_support = (D @ Et) @ B if wide else D @ (Et @ B)
        own = self._nodes.cosine[:, None, None] ** 2 * B
        result: FloatArray = from_tasks + noise * (own + from_support)
        return result

    def _over_error(self, G: FloatArray, C: FloatArray, groups: list[tuple[FloatArray, FloatArray]]) -> FloatArray:
        N, p = G.shape[-1], self._dist.n_features
        inverse, penalty = self._inverse(G)
        if self._scalar:
            kept = p - N + _product(inverse, inverse) * penalty[:, 0, 0] ** 2
            through = inverse - penalty * (inverse @ inverse) if self._penalty else inverse
            total: FloatArray = _product(through, C) + self._offset2.sum() / p * kept
            return total[..., None]
        rows = [self._rows(*group, self._nodes.rate_steps) for group in groups]
        B = np.concatenate([_stacked(part.B) for part in rows], axis=2)
        Z = B.swapaxes(-1, -2) @ inverse
        error: FloatArray = ((Z @ C) * Z).sum(axis=-1)
        if self._offset2.any():
            error = error + (np.eye(p) - Z @ B) ** 2 @ self._offset2
        return error

    def _under_error(self, H: FloatArray, Q: FloatArray) -> FloatArray:
        p = H.shape[-1]
        inverse, penalty = self._inverse(H)
        if self._scalar:
            total = _product(inverse @ inverse, Q)
            if self._penalty:
                total = total + self._offset2.sum() / p * penalty[:, 0, 0] ** 2 * _product(inverse, inverse)
            return total[..., None]
        error: FloatArray = ((inverse @ Q) * inverse).sum(axis=-1)
        if self._may_be_singular:
            error = error + (np.eye(p) - inverse @ H) ** 2 @ self._offset2
        elif self._penalty:
            error = error + (penalty * inverse) ** 2 @ self._offset2
        return error

    def _inverse(self, matrices: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return inverses with the homogenised penalty on the diagonal, and the penalty: (n_inner, 1, 1)."""
        penalty = self._penalty * self._nodes.rate_cosine[:, None, None] ** 2
        if self._penalty:
            matrices = matrices + penalty * np.eye(matrices.shape[-1])
        if self._may_be_singular:  # features take so few values that rows may coincide
            return np.asarray(np.linalg.pinv(matrices, rcond=1e-10, hermitian=True), dtype=np.float64), penalty
        return np.asarray(np.linalg.inv(matrices), dtype=np.float64), penalty

    def _new_tasks(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Return sampled weights of the directions (n_adapt, n_directions) and of the noise (n_adapt,)."""
        dist, design, p = self._dist, self._design, self._dist.n_features
        X = dist.draw_features(np.empty((_TEST_DRAWS, design.n_adapt, p)), rng)
        roots = np.broadcast_to(np.diag(np.sqrt(dist.eigenvalues)), (_TEST_DRAWS, p, p))
        if design.inner_rule == "implicit":
            rows = implicit_rows(X, roots, self._adapt)
        else:
            j = np.arange(design.adapt_steps + 1)
            rows = gradient_rows(X, roots, comb(design.adapt_steps, j) * (-self._adapt[:, None]) ** j)
        weights = (rows.B**2).sum(axis=-2).mean(axis=0)
        if self._scalar:
            weights = weights.mean(axis=-1, keepdims=True)
        return weights, _product(rows.D, rows.E).mean(axis=0)


def _stacked(rows: FloatArray) -> FloatArray:
    """Bring (n_runs, n_tasks, n_nodes, n_query, p) to (n_runs, n_nodes, n_tasks n_query, p)."""
    n_runs, n_tasks, n_nodes, n_query, p = rows.shape
    return rows.transpose(0, 2, 1, 3, 4).reshape(n_runs, n_nodes, n_tasks * n_query, p)


def _product(A: FloatArray, B: FloatArray) -> FloatArray:
    """Return tr A'B of each pair of matrices."""
    flat = A.reshape(*A.shape[:-2], -1), B.reshape(*B.shape[:-2], -1)
    return np.asarray(np.vecdot(*flat))
