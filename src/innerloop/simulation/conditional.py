"""The expected test loss of a run given its features: task weights, noise and the start are averaged exactly.

Only features are drawn. With B and xi as in docs/theory.md, 18, the meta-parameters of a run have

    E[|omega* - w0|^2 | X] = |(I - B^+ B) (omega_0 - w0)|^2 + tr B^+ C B^+',    C = cov(xi | X)

where the first term is averaged over rotations or reflections that leave the distribution of the features as it is,
and everything they depend on is a polynomial in the inner rate. So it is computed at a few rates, the nodes, and
interpolated, exactly, to all the others: what a rate costs does not grow with the number of rows.
"""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray
from innerloop._base.seeds import stream
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.distributions.inner_rules import QueryRows
from innerloop.distributions.mixed_linear import GAUSSIAN_FOURTH_MOMENT
from innerloop.simulation.nodes import Nodes
from innerloop.simulation.task_rows import task_rows
from innerloop.theory.adapting import AdaptedLoss

# Numbers held at once, per array: enough to keep BLAS busy, few enough to stay in the cache.
_NUMBERS_AT_ONCE = 2**17
# What a random number and the calls of a run take beside the operations on matrices, in such operations.
OPERATIONS_PER_DRAW, OPERATIONS_PER_RUN = 100.0, 5e5
# Numbers of one run held at once, per array, where rates could be taken apart.
_MOST_NUMBERS = 2**21
# Where the condition number of B B' or B'B may exceed this, B itself is decomposed. Rounding errors grow with the one,
# and with the square of the other.
_MOST_CONDITION_OVER, _MOST_CONDITION_UNDER = 1e9, 1e6
# Singular values of B below this fraction of the largest are zero.
_RANK, _NUDGE = 1e-13, 1e-15
# New tasks per run whose features are drawn where their expectation is not known in closed form.
_TEST_DRAWS = 16


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
        few_values = dist.fourth_moment != GAUSSIAN_FOURTH_MOMENT
        # t rows are as invariant under rotations as Gaussian ones.
        self._scalar = dist.is_isotropic and not few_values
        # Features that take few values: rows may coincide.
        self._may_be_singular = few_values and design.l2 == 0
        self._over = design.n_query_rows <= dist.n_features
        self._penalty = design.n_query_rows * design.l2
        self._own = float(design.protocol == "split")  # query rows have noise that is not in the support
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
        p, N, groups = self._dist.n_features, self._design.n_query_rows, self._design.groups
        small, n = min(N, p), len(self._inner)
        support = sum(4.0 * group.n_tasks * group.n_query * group.n_support for group in groups)
        drawn = sum(OPERATIONS_PER_DRAW * group.n_tasks * (group.n_query + group.n_support) for group in groups)
        inverse = (20.0 if self._may_be_singular else 6.0) * small**2 * (small if self._scalar else p)
        return OPERATIONS_PER_RUN + p * (support + drawn) + len(self._nodes.steps) * 8.0 * N * small * p + n * inverse

    def _numbers_per_run(self) -> int:
        p, nodes = self._dist.n_features, len(self._nodes.steps)
        rows = sum(
            self._design.n_scored(g) * (g.n_tasks if self._over else self._tasks_at_once(self._design.n_scored(g)))
            for g in self._design.groups
        )
        return max(self._rates_at_once() * self._numbers_per_rate(), 3 * nodes * rows * p)

    def _numbers_per_rate(self) -> int:
        p, N = self._dist.n_features, self._design.n_query_rows
        small = min(N, p)
        return small * (small if self._scalar else p)

    def _rates_at_once(self) -> int:
        return min(len(self._inner), max(1, _MOST_NUMBERS // self._numbers_per_rate()))

    def _tasks_at_once(self, n_query: int) -> int:
        # The same for any number of runs: sums over tasks are always taken in this order.
        return max(1, _NUMBERS_AT_ONCE // (len(self._nodes.steps) * n_query * self._dist.n_features))

    def _make_nodes(self) -> Nodes:
        dist, design, rates = self._dist, self._design, self._inner
        n_steps = design.rule.degree
        if n_steps is None:
            return Nodes.at_rates(design.rule.coefficients(rates))
        n = min(group.n_support for group in design.groups)
        scale = 1 / (dist.eigenvalues.mean() * (1 + dist.n_features / n))
        degree = n_steps if self._over else 2 * n_steps
        return Nodes.build(rates, n_steps, degree, float(scale))

    def _losses(self, seed: int, runs: range) -> FloatArray:
        streams = [stream(seed, run) for run in runs]
        error = self._squared_error(self._draw(streams))
        if self._dist.is_isotropic:  # one direction then stands for all
            error = error.sum(axis=-1, keepdims=True)
        if self._adapted is not None:
            return self._adapted(self._adapt, error[:, :, None, :])
        weights, passed = (np.array(part) for part in zip(*(self._new_tasks(rng) for rng in streams), strict=True))
        spread = self._dist.task_variances
        if self._dist.is_isotropic:
            spread = spread.sum(keepdims=True)
        total = (weights[:, None] * (spread + error[:, :, None, :])).sum(axis=-1)
        losses: FloatArray = 0.5 * (self._dist.noise_std**2 * (1 + passed[:, None]) + total)
        return losses

    def _draw(self, streams: list[np.random.Generator]) -> list[FloatArray]:
        """Return the features of each group of tasks, support before query: (n_runs, n_tasks, n_rows, n_features)."""
        p, drawn = self._dist.n_features, []
        for group in self._design.groups:
            X = np.empty((len(streams), group.n_tasks, group.n_support + group.n_query, p))
            for run, rng in zip(X, streams, strict=True):
                self._dist.draw_features(run, rng)
            drawn.append(X)
        return drawn

    def _rows(self, groups: list[FloatArray], coefficients: FloatArray, cosine: FloatArray) -> list[QueryRows]:
        """Return the query rows of each group of tasks."""
        pairs = zip(self._design.groups, groups, strict=True)
        return [task_rows(self._design, group, X, coefficients, cosine) for group, X in pairs]

    def _squared_error(self, groups: list[FloatArray]) -> FloatArray:
        """Return E[(omega* - w0)_j^2 | X]: (n_runs, n_inner, n_directions), the sum alone where all are alike."""
        at_nodes = self._over_moments(groups) if self._over else self._under_moments(groups)
        at_once, errors = self._rates_at_once(), []
        for first in range(0, len(self._inner), at_once):
            rates = slice(first, first + at_once)
            outer, spread = (self._interpolate(moments, rates) for moments in at_nodes)
            if self._over:
                error, doubtful = self._over_error(outer, spread, rates, groups)
            else:
                error, doubtful = self._under_error(outer, spread, rates)
            for run, rate in np.argwhere(doubtful):
                error[run, rate] = self._direct_error([X[run] for X in groups], first + rate)
            errors.append(error)
        return np.concatenate(errors, axis=1)

    def _over_moments(self, groups: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
        """Return B B' and C at the nodes, homogenised: (n_runs, n_nodes, N, N)."""
        tasks = self._rows(groups, self._nodes.steps, self._nodes.cosine)
        B = np.concatenate([_stacked(rows.B) for rows in tasks], axis=2)
        return B @ B.swapaxes(-1, -2), self._covariance(tasks, B.shape[2])

    def _under_moments(self, groups: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
        """Return B'B and B'C B at the nodes, homogenised: (n_runs, n_nodes, p, p), some tasks at a time."""
        p = self._dist.n_features
        H, Q = (np.zeros((len(groups[0]), len(self._nodes.steps), p, p)) for _ in range(2))
        for group, X in zip(self._design.groups, groups, strict=True):
            at_once = self._tasks_at_once(self._design.n_scored(group))
            for first in range(0, X.shape[1], at_once):
                tasks = X[:, first : first + at_once]
                rows = task_rows(self._design, group, tasks, self._nodes.steps, self._nodes.cosine)
                B, CB = _stacked(rows.B), _stacked(self._covariance_times(rows))
                H += B.swapaxes(-1, -2) @ B
                Q += B.swapaxes(-1, -2) @ CB
        return H, Q

    def _interpolate(self, at_nodes: FloatArray, rates: slice) -> FloatArray:
        """Bring matrices (n_runs, n_nodes, n, n) from the nodes to some of the rates."""
        flat = at_nodes.reshape(*at_nodes.shape[:2], -1)
        return (self._nodes.weights[rates] @ flat).reshape(len(flat), -1, *at_nodes.shape[2:])

    def _covariance(self, tasks: list[QueryRows], n_rows: int) -> FloatArray:
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
        C[:, :, diagonal, diagonal] += self._own * noise * self._nodes.cosine[:, None] ** 2
        return C

    def _covariance_times(self, rows: QueryRows) -> FloatArray:
        """Return C B of each task at the nodes, homogenised; products are taken in the cheaper order."""
        B, D, E = rows
        noise, Bt = self._dist.noise_std**2, B.swapaxes(-1, -2)
        spread = B * self._dist.task_variances
        wide = B.shape[-2] <= B.shape[-1]
        from_tasks = (spread @ Bt) @ B if wide else spread @ (Bt @ B)
        Et = E.swapaxes(-1, -2)
        from_support = (D @ Et) @ B if wide else D @ (Et @ B)
        own = self._own * self._nodes.cosine[:, None, None] ** 2 * B
        result: FloatArray = from_tasks + noise * (own + from_support)
        return result

    def _over_error(
        self, G: FloatArray, C: FloatArray, rates: slice, groups: list[FloatArray]
    ) -> tuple[FloatArray, NDArray[np.bool_]]:
        N, p = G.shape[-1], self._dist.n_features
        inverse, penalty, doubtful = self._inverse(G, rates)
        if self._scalar:
            kept = p - N + _product(inverse, inverse) * penalty[:, 0, 0] ** 2
            through = inverse - penalty * (inverse @ inverse) if self._penalty else inverse
            total: FloatArray = _product(through, C) + self._offset2.sum() / p * kept
            return total[..., None], doubtful
        rows = self._rows(groups, self._nodes.rate_steps[rates], self._nodes.rate_cosine[rates])
        B = np.concatenate([_stacked(part.B) for part in rows], axis=2)
        Z = B.swapaxes(-1, -2) @ inverse
        error: FloatArray = ((Z @ C) * Z).sum(axis=-1)
        if self._offset2.any():
            error = error + (np.eye(p) - Z @ B) ** 2 @ self._offset2
        return error, doubtful

    def _under_error(self, H: FloatArray, Q: FloatArray, rates: slice) -> tuple[FloatArray, NDArray[np.bool_]]:
        p = H.shape[-1]
        inverse, penalty, doubtful = self._inverse(H, rates)
        if self._scalar:
            total = _product(inverse @ inverse, Q)
            if self._penalty:
                total = total + self._offset2.sum() / p * penalty[:, 0, 0] ** 2 * _product(inverse, inverse)
            return total[..., None], doubtful
        error: FloatArray = ((inverse @ Q) * inverse).sum(axis=-1)
        if self._penalty:
            error = error + (penalty * inverse) ** 2 @ self._offset2
        return error, doubtful

    def _inverse(self, moments: FloatArray, rates: slice) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
        """Return inverses with the homogenised penalty (n_rates, 1, 1), which comes second, and where not to trust."""
        penalty = self._penalty * self._nodes.rate_cosine[rates, None, None] ** 2
        nudge = penalty
        if self._may_be_singular:  # so that the inverse exists, and shows by its size that it is none
            size = np.trace(moments, axis1=-2, axis2=-1)[..., None, None]
            nudge = nudge + _NUDGE * np.where(size > 0, size, 1.0)
        if self._penalty or self._may_be_singular:
            moments = moments + nudge * np.eye(moments.shape[-1])
        inverse = np.asarray(np.linalg.inv(moments), dtype=np.float64)
        most = _MOST_CONDITION_OVER if self._over else _MOST_CONDITION_UNDER
        condition = np.einsum("...ii", moments) * np.einsum("...ii", inverse) / moments.shape[-1]
        return inverse, penalty, ~((condition > 0) & (condition < most))

    def _direct_error(self, groups: list[FloatArray], rate: int) -> FloatArray:
        """Return the error of one run at one rate without squaring B, which costs half the digits."""
        steps, cosine2 = self._nodes.rate_steps[[rate]], self._nodes.rate_cosine[rate] ** 2
        rows = self._rows(groups, steps, self._nodes.rate_cosine[[rate]])
        tasks = [task for group in rows for task in zip(*(part[:, 0] for part in group), strict=True)]
        B = np.concatenate([own for own, _, _ in tasks])
        U, s, Vt = np.linalg.svd(B, full_matrices=False)
        kept = s > _RANK * s[0]
        gain = np.where(kept, s, 0.0) / np.where(kept, s**2 + self._penalty * cosine2, 1.0)
        inverse = (Vt.T * gain) @ U.T
        missed = (np.eye(B.shape[1]) - inverse @ B) ** 2
        offset2 = np.full_like(self._offset2, self._offset2.mean()) if self._scalar else self._offset2
        error: FloatArray = missed @ offset2
        for (own, D, E), part in zip(
            tasks, np.split(inverse, np.cumsum([len(own) for own, _, _ in tasks])[:-1], axis=1), strict=True
        ):
            from_noise = self._own * cosine2 * (part**2).sum(axis=1) + ((part @ D) * (part @ E)).sum(axis=1)
            error = error + (part @ own) ** 2 @ self._dist.task_variances + self._dist.noise_std**2 * from_noise
        return error.sum(keepdims=True) if self._scalar else error

    def _new_tasks(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Return sampled weights of the directions (n_adapt, n_directions) and of the noise (n_adapt,)."""
        dist, design, p = self._dist, self._design, self._dist.n_features
        X = dist.draw_features(np.empty((_TEST_DRAWS, design.n_adapt, p)), rng)
        roots = np.broadcast_to(np.diag(np.sqrt(dist.eigenvalues)), (_TEST_DRAWS, p, p))
        rows = design.adapt_rule.query_rows(X, roots, design.adapt_rule.coefficients(self._adapt))
        weights = (rows.B**2).sum(axis=-2).mean(axis=0)
        if dist.is_isotropic:
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
