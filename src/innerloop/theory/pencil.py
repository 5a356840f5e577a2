"""Deterministic equivalents by linearisation: one inner step, any protocol and covariance (docs/theory.md, 25).

Meta-training with one inner step is a chain of products of Gaussian blocks of rows. With a field for every intermediate
product the equations are linear in each block, and the blocks average out: what is left is one small matrix for every
direction of the features and one for every block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design

_STEP = 1e-25  # of complex derivatives
# Damped iterations between attempts of Newton's method; what it may change log g by, its steps, and its last step.
_ROUNDS, _DAMPING = (16, 24, 48, 96, 192, 384, 768), 0.5
_LARGEST_CHANGE, _MAX_NEWTON, _TOLERANCE = 1.0, 40, 1e-8
# Directions from which derivatives are taken.
_N_FEW = 10
# Of a step to the next with derivatives of the last place: where more, Newton's method may wander to another root.
_CONTRACTION = 0.5
_SHRINKS = 0.1  # of a step to the next, beyond which derivatives, worth some ten steps, are taken anew

Matrix = NDArray[Any]  # complex


class Episode(NamedTuple):
    """Blocks of rows that are queries, and blocks that support them."""

    query: tuple[int, ...]
    support: tuple[int, ...]


class Lengths(NamedTuple):
    """Quadrature of the law of rho, of mean 1: rows are sqrt(rho) times Gaussian rows."""

    rho: FloatArray
    weights: FloatArray


GAUSSIAN_ROWS = Lengths(np.ones(1), np.ones(1))


def episodes_of(design: Design) -> tuple[tuple[int, ...], tuple[Episode, ...]]:
    """Return the blocks of rows of a task of the first size, and which of them score which."""
    group = design.groups[0]
    if design.protocol == "split":
        return (group.n_support, group.n_query), (Episode((1,), (0,)),)
    n = group.n_support + group.n_query
    n_folds = 1 if design.protocol == "train" else n // group.n_support
    return (n // n_folds,) * n_folds, tuple(Episode((i,), ((i + 1) % n_folds,)) for i in range(n_folds))


class Sources(NamedTuple):
    """What the errors are differentiated by: sigma^2, a factor of tau^2, the penalty; (n_sources,) each, imaginary."""

    noise: Matrix
    tasks: Matrix
    start: Matrix


class _Root(NamedTuple):
    """Unknowns (1, 1, n_unknowns), and the matrix of Newton's method there or near."""

    x: FloatArray
    step: FloatArray


@final
@dataclass(frozen=True, eq=False)
class Pencil:
    """One task of several blocks of rows.

    Parameters
    ----------
    sizes
        Rows of each block.
    episodes
        Which blocks score which supports.
    n_tasks
        m tasks of these sizes.
    penalty
        lambda, beside the sum of squares; 1 in the ridgeless limit.
    scored
        1; or 0 in the ridgeless limit for N < p, where all query rows are fitted.
    s, tau2 : (n_directions,)
        Variances of the features and of the tasks' coefficients along each direction.
    start2 : (n_directions,)
        Squares of omega_0 - w0.
    counts : (n_directions,)
        How many features a direction stands for.
    constant
        Square of a feature that is the same in all rows, beside the others, with tau^2 and the square of omega_0 - w0;
        or None.
    lengths
        The law of the rows' squared lengths; 1 for Gaussian rows. Without a constant feature.
    """

    sizes: tuple[int, ...]
    episodes: tuple[Episode, ...]
    n_tasks: int
    penalty: float
    scored: float
    s: FloatArray
    tau2: FloatArray
    start2: FloatArray
    counts: FloatArray
    constant: tuple[float, float, float] | None = None
    lengths: Lengths = GAUSSIAN_ROWS

    def parts(self, rates: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return what unit label noise, the tasks' spread and the start add to E(omega* - w0)_j^2.

        Parameters
        ----------
        rates : (n_rates,)
            a.

        Returns
        -------
        noise, tasks, start : (n_rates, n_directions)
            To leading order. The constant direction comes last, where there is one. NaN where the iteration does not
            converge.
        """
        distinct, place = self._distinct
        noise, tasks, start = distinct._solved(rates)[..., place]
        return noise, tasks, start

    @cached_property
    def _distinct(self) -> tuple[Pencil, NDArray[np.intp]]:
        """Return the equations with one direction for all that are alike, and which stands for each direction."""
        alike, place = np.unique(np.stack([self.s, self.tau2, self.start2]), axis=1, return_inverse=True)
        place, (s, tau2, start2) = place.reshape(-1), alike
        counts: FloatArray = np.bincount(place, weights=self.counts).astype(float)
        if self.constant is not None:
            place = np.append(place, len(s))
        return replace(self, s=s, tau2=tau2, start2=start2, counts=counts), place

    def _solved(self, rates: FloatArray) -> FloatArray:
        """Return what `parts` does: (3, n_rates, n_directions)."""
        parts = np.full((3, len(rates), len(self.s) + (self.constant is not None)), np.nan)
        with np.errstate(all="ignore"):
            for i in np.argsort(np.abs(rates)):  # outwards: the root of one rate is near that of the next
                known = [rate for rate in self._roots if rate * rates[i] >= 0]
                near = min(known, key=lambda rate: abs(np.arctan(rate) - np.arctan(rates[i])), default=None)
                root = self._root(rates[i : i + 1], None if near is None else self._roots[near])
                if root is not None:
                    self._roots[float(rates[i])] = root
                    parts[:, i] = self._parts(rates[i : i + 1], root)
        return parts

    def _parts(self, rate: FloatArray, root: _Root) -> FloatArray:
        """Return the three parts (3, n_directions) at a rate (1,) and its root; NaN where they are not found."""
        unit = 1j * _STEP * np.eye(3)
        forced = _Fields.build(self, rate, Sources(unit[0], unit[1], unit[2]))
        (x, step), moved, last = root, np.zeros((3, *root.x.shape[1:])), np.inf
        for _ in range(_MAX_NEWTON):
            g, updated = self._updated(forced, x + 1j * moved)
            change = (updated.imag - moved) @ step.T
            moved = moved + change
            of_sources = np.abs(moved).max(axis=-1)  # 0 of a start that is the centre
            size = float((np.abs(change).max(axis=-1) / np.where(of_sources > 0, of_sources, 1.0)).max())
            if size <= _TOLERANCE:
                g = self._updated(forced, x + 1j * moved)[0]
                return np.asarray(-g.imag[:, 0] / _STEP * np.array([1.0, 1.0, self.penalty**2])[:, None])
            if size > _SHRINKS * last:
                step = self._newton_step(rate, x)
            last = size
        return np.full((3, 1), np.nan)

    def _root(self, rate: FloatArray, near: _Root | None) -> _Root | None:
        """Return the root at a rate from that of another rate or by damped iteration; None if not found.

        The fixed point that the iteration approaches is the physical one; Newton's method alone may find another.
        """
        fields = _Fields.build(self, rate, Sources(*np.zeros((3, 1))))
        if near is None:
            G = [np.linalg.inv(L + 0.5 * np.eye(L.shape[-1])) for L in fields.rows]
            x = _joined_up(G if self.constant is None else [*G, *G]).real
        else:
            x = near.x
        for n in _ROUNDS if near is None else (0, *_ROUNDS):
            for _ in range(n):
                x = x + _DAMPING * (self._updated(fields, x)[1] - x)
            root = self._newton(rate, fields, x, None if near is None or n else near.step)
            if root is not None and _is_near(self._updated(fields, root.x)[0], self._updated(fields, x)[0]):
                return root
            if not np.isfinite(x).all():
                break
        return None

    def _newton(self, rate: FloatArray, fields: _Fields, x: FloatArray, step: FloatArray | None) -> _Root | None:
        """Return the root near x; None where there is none. The matrix of derivatives is kept while steps shrink.

        Parameters
        ----------
        rate, fields, x
            The equations, and where to begin.
        step
            The matrix of a near rate, if known.
        """
        last, fresh = np.inf, step is None
        for _ in range(_MAX_NEWTON):
            residual = self._updated(fields, x)[1] - x
            if not np.isfinite(residual).all():
                return None
            if step is None:
                step, fresh = self._newton_step(rate, x), True
            change = residual @ step.T
            x, size = x + change, float(np.abs(change).max() / np.abs(x).max())
            if size < _TOLERANCE:
                return _Root(x, step)
            if fresh and size > _CONTRACTION * last:
                return None
            fresh = False
            if size > _SHRINKS * last:
                step = None
            last = size
        return None

    def _newton_step(self, rate: FloatArray, x: FloatArray) -> FloatArray:
        """Return (I - J)^-1, J the derivatives of the updated unknowns, from a few directions that stand for all."""
        few = self._few
        fields = _Fields.build(few, rate, Sources(*np.zeros((3, 1))))
        moved = few._updated(fields, x + 1j * _STEP * np.eye(x.shape[-1])[:, None])[1]
        try:
            return np.asarray(np.linalg.inv(np.eye(x.shape[-1]) - moved.imag[:, 0].T / _STEP), dtype=np.float64)
        except np.linalg.LinAlgError:
            return np.full((x.shape[-1],) * 2, np.nan)

    @cached_property
    def _roots(self) -> dict[float, _Root]:
        """Unknowns by rate, from which those of other rates are found."""
        return {}

    @cached_property
    def _few(self) -> Pencil:
        if len(self.s) <= _N_FEW:
            return self
        log = np.log(self.s)
        place = np.floor(_N_FEW * (log - log.min()) / (1.001 * np.ptp(log) + 1e-9))
        bins = [place == i for i in np.unique(place)]
        counts = np.array([self.counts[part].sum() for part in bins])
        s, tau2, start2 = (np.array([v[part].mean() for part in bins]) for v in (self.s, self.tau2, self.start2))
        return replace(self, s=s, tau2=tau2, start2=start2, counts=counts)

    def _updated(self, fields: _Fields, x: Matrix) -> tuple[Matrix, Matrix]:
        """Return g_j (n_sources, n_rates, n_directions), and the unknowns that the unknowns x lead to.

        Unknowns are the matrices of all blocks of rows, and after them those of the mean rows with a constant feature.
        """
        n_blocks, shapes = len(self.sizes), [L.shape[-2:] for L in fields.rows]
        blocks = _taken_apart(x, shapes if self.constant is None else [*shapes, *shapes])
        G, means = blocks[:n_blocks], blocks[n_blocks:]
        energy: Any = 0.0
        for i, (n, C, D) in enumerate(zip(self.sizes, fields.C, fields.D, strict=True)):
            average = ((n - 1) * G[i] + means[i]) / n if means else G[i]
            energy = energy + n * (C @ average @ D)
        L = fields.directions - self.s[:, None, None] * energy[..., None, :, :]
        P, g = self._with_other_tasks(L, fields.penalties)
        total = np.einsum("j,...jab->...ab", self.s * self.counts, P)
        moved = [self._block(fields, i, total) for i in range(n_blocks)]
        if not means:
            return g, _joined_up(moved)
        g_constant, mean_rows = self._with_constant(fields, total)
        return np.concatenate([g, g_constant[..., None]], axis=-1), _joined_up([*moved, *mean_rows])

    def _with_other_tasks(self, L: Matrix, penalty: Any) -> tuple[Matrix, Matrix]:
        """Return the inverse with the other tasks' stiffness on x, and its element g; x is the first field."""
        inner = _inverse(L[..., 1:, 1:])
        right, left = inner @ L[..., 1:, :1], L[..., :1, 1:] @ inner
        h = L[..., 0, 0] - (L[..., :1, 1:] @ right)[..., 0, 0]
        g = 1 / (penalty + self.n_tasks * h)
        scaled = g[..., None, None] * left
        P = np.empty(np.broadcast_shapes(L.shape, (*g.shape, 1, 1)), dtype=np.result_type(L, g))
        P[..., 0, 0] = g
        P[..., :1, 1:], P[..., 1:, :1] = -scaled, -g[..., None, None] * right
        P[..., 1:, 1:] = inner + right @ scaled
        return P, g

    def _block(self, fields: _Fields, i: int, P: Matrix) -> Matrix:
        """Return E rho G(rho) over the rows of a block (equation 28.2)."""
        rho, weights = self.lengths
        energy = fields.D[i] @ P @ fields.C[i]
        inverses = _inverse(fields.rows[i][..., None, :, :] - rho[:, None, None] * energy[..., None, :, :])
        return np.asarray(np.einsum("q,...qab->...ab", rho * weights, inverses))

    def _with_constant(self, fields: _Fields, total: Matrix) -> tuple[Matrix, list[Matrix]]:
        """Invert the constant direction together with the mean row of every block (equation 28.1)."""
        assert self.constant is not None
        c = np.sqrt(self.constant[0])
        L0 = fields.constant
        n_fields = L0.shape[-1]
        sizes = [L.shape[-1] for L in fields.rows]
        ends = n_fields + np.cumsum([0, *sizes])
        whole = np.zeros((*total.shape[:-2], int(ends[-1]), int(ends[-1])), dtype=total.dtype)
        whole[..., :n_fields, :n_fields] = L0
        for i, n in enumerate(self.sizes):
            part = slice(int(ends[i]), int(ends[i + 1]))
            whole[..., part, part] = fields.rows[i] - fields.D[i] @ total @ fields.C[i]
            whole[..., :n_fields, part] = np.sqrt(n) * c * fields.C[i]
            whole[..., part, :n_fields] = np.sqrt(n) * c * fields.D[i]
        inverse, g = self._with_other_tasks(whole, fields.constant_penalties)
        return g, [inverse[..., ends[i] : ends[i + 1], ends[i] : ends[i + 1]] for i in range(len(sizes))]


def _is_near(g: FloatArray, other: FloatArray) -> bool:
    return bool(np.abs(np.log(g / other)).max() < _LARGEST_CHANGE)


def _inverse(L: Matrix) -> Matrix:
    """Return inverses of matrices of infinitesimal imaginary parts, whose real parts are those of the first."""
    try:
        real = np.linalg.inv(L[:1].real)
    except np.linalg.LinAlgError:
        return np.full(L.shape, np.nan)
    return real if not np.iscomplexobj(L) else real - 1j * (real @ L.imag @ real)


def _joined_up(parts: list[Matrix]) -> Matrix:
    """Bring matrices (n_sources, n_rates, a, b) to one vector for each source and rate."""
    return np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], axis=-1)


def _taken_apart(x: Matrix, shapes: list[tuple[int, ...]]) -> list[Matrix]:
    """Undo `_joined_up`."""
    ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1]
    return [part.reshape(*x.shape[:2], *shape) for part, shape in zip(np.split(x, ends, axis=-1), shapes, strict=True)]


@final
@dataclass(frozen=True, eq=False)
class _Fields:
    """The equations of all fields: an equation for each field, in the order of the fields.

    `directions` (n_sources, n_rates, n_directions, fields, fields) holds the terms without a block, `rows` those among
    the fields of a block, `C` the coefficients of its transpose, `D` those of the block.
    """

    directions: Matrix
    constant: Matrix
    rows: list[Matrix]
    C: list[Matrix]
    D: list[Matrix]
    penalties: Matrix
    constant_penalties: Matrix

    @classmethod
    def build(cls, pencil: Pencil, rates: FloatArray, sources: Sources) -> _Fields:
        blocks = range(len(pencil.sizes))
        names = ["x", "u", "spread", *(f"{kind}{i}" for i in blocks for kind in ("d", "e", "h", "v"))]
        p = {name: k for k, name in enumerate(names)}
        own = [
            ["c", "k", "T", "w", *(f"f{j}" for j, e in enumerate(pencil.episodes) if i in e.support)] for i in blocks
        ]
        r = [{name: k for k, name in enumerate(fields)} for fields in own]
        lead = (len(sources.noise), len(rates))
        dtype = sources.noise.dtype
        L0 = np.zeros((*lead, len(p), len(p)), dtype=dtype)
        rows = [np.zeros((*lead, len(q), len(q)), dtype=dtype) for q in r]
        C = [np.zeros((*lead, len(p), len(q)), dtype=dtype) for q in r]
        D = [np.zeros((*lead, len(q), len(p)), dtype=dtype) for q in r]
        for k in range(1, len(p)):
            L0[..., k, k] = 1
        for L in rows:
            for k in range(L.shape[-1]):
                L[..., k, k] = 1
        t = sources.noise[:, None]
        # The penalty and the other tasks are added to the equation of x: u + theta x = source.
        L0[..., p["x"], p["u"]] = 1
        for i in blocks:
            D[i][..., r[i]["c"], p["x"]] = -1  # c = X x
            C[i][..., p[f"d{i}"], r[i]["c"]] = -1  # d = X'c
            D[i][..., r[i]["w"], p["spread"]] = -1  # w = X spread
            C[i][..., p[f"v{i}"], r[i]["w"]] = -1  # v = X'w
            C[i][..., p[f"e{i}"], r[i]["k"]] = -1  # e = X'k
            C[i][..., p[f"h{i}"], r[i]["T"]] = -1  # h = X'T
            rows[i][..., r[i]["T"], r[i]["k"]] = -1  # T = Z'k
        for j, episode in enumerate(pencil.episodes):
            step = rates / sum(pencil.sizes[i] for i in episode.support)
            for q in episode.query:
                L0[..., p["u"], p[f"e{q}"]] -= 1  # u = B'k
                k = r[q]["k"]
                rows[q][..., k, k] = pencil.scored
                rows[q][..., k, r[q]["T"]] = -t
                D[q][..., k, p["x"]] = -1
                D[q][..., k, p["spread"]] = -1
                for i in episode.support:
                    D[q][..., k, p[f"d{i}"]] += step
                    D[q][..., k, p[f"v{i}"]] += step
                    D[q][..., k, p[f"h{i}"]] += t * step
            for i in episode.support:
                f = r[i][f"f{j}"]
                for q in episode.query:
                    D[i][..., f, p[f"e{q}"]] -= 1  # f = X X_q'k
                C[i][..., p["u"], f] += step
                rows[i][..., r[i]["T"], f] += step
        queries = {q for episode in pencil.episodes for q in episode.query}
        for i in blocks:
            if i not in queries:  # no residuals: k = 0
                rows[i][..., r[i]["T"], r[i]["k"]] = 0
        directions = np.repeat(L0[..., None, :, :], len(pencil.s), axis=-3)
        directions[..., p["spread"], p["u"]] = -sources.tasks[:, None, None] * pencil.tau2
        constant, (_, tau2, start2) = L0.copy(), pencil.constant or (0.0, 0.0, 0.0)
        constant[..., p["spread"], p["u"]] = -sources.tasks[:, None] * tau2
        penalties = pencil.penalty + sources.start[:, None, None] * pencil.start2
        return cls(directions, constant, rows, C, D, penalties, pencil.penalty + sources.start[:, None] * start2)
