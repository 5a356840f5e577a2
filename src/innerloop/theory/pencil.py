"""Deterministic equivalents by linearisation: one inner step, any protocol and covariance (docs/theory.md, 25).

Meta-training with one inner step is a chain of products of Gaussian blocks of rows. With a field for every intermediate
product the equations are linear in each block, and the blocks average out: what is left is one small matrix for every
direction of the features and one for every block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray

_STEP = 1e-25  # of complex derivatives
_MAX_ITERATIONS, _TOLERANCE = 20_000, 1e-11

Matrix = NDArray[Any]  # complex


class Episode(NamedTuple):
    """Blocks of rows that are queries, and blocks that support them."""

    query: tuple[int, ...]
    support: tuple[int, ...]


class Sources(NamedTuple):
    """What the errors are differentiated by: sigma^2, a factor of tau^2, the penalty; (n_sources,) each, imaginary."""

    noise: Matrix
    tasks: Matrix
    start: Matrix


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
        i = 1j * _STEP
        sources = Sources(*(i * np.eye(3)[k] for k in range(3)))
        with np.errstate(all="ignore"):
            g = self._solve(rates, sources)
        noise, tasks, start = -g.imag / _STEP
        return noise, tasks, self.penalty**2 * start

    def _solve(self, rates: FloatArray, sources: Sources) -> Matrix:
        """Return the resolvent's diagonal: (n_sources, n_rates, n_directions)."""
        fields = _Fields.build(self, rates, sources)
        G = [np.linalg.inv(L + 0.5 * np.eye(L.shape[-1])) for L in fields.rows]
        means = list(G)
        old: Matrix = np.zeros(())
        for _ in range(_MAX_ITERATIONS):
            g, P, constant = self._directions(fields, G, means)
            new = [self._block(fields, i, P) for i in range(len(G))]
            if self.constant is not None:
                means = [0.5 * (a + b) for a, b in zip(means, constant.rows, strict=True)]
            G = [0.5 * (a + b) for a, b in zip(G, new, strict=True)]
            if np.abs(g - old).max() < _TOLERANCE * np.abs(g).max() and _settled(g.imag, old.imag):
                break
            old = g
        settled = np.abs(g - old).max(axis=(0, 2)) < 1e-6 * np.abs(g).max(axis=(0, 2))
        return np.where(settled[:, None], g, np.nan)

    def _directions(self, fields: _Fields, G: list[Matrix], means: list[Matrix]) -> tuple[Matrix, Matrix, _Constant]:
        """Return g_j, sum_j s_j P_j, and the fields of the constant feature with the mean rows."""
        energy = self._energy(fields, G, means)
        L = fields.directions - self.s[:, None, None] * energy[..., None, :, :]
        P, g = self._joined(L, fields.penalties)
        total = np.einsum("j,...jab->...ab", self.s * self.counts, P)
        if self.constant is None:
            return g, total, _Constant(())
        return self._with_constant(fields, g, total)

    def _energy(self, fields: _Fields, G: list[Matrix], means: list[Matrix]) -> Matrix:
        total: Any = 0.0
        for n, C, D, own, mean in zip(self.sizes, fields.C, fields.D, G, means, strict=True):
            average = own if self.constant is None else ((n - 1) * own + mean) / n
            total = total + n * (C @ average @ D)
        return np.asarray(total)

    def _joined(self, L: Matrix, penalty: Any) -> tuple[Matrix, Matrix]:
        """Return the inverse with the other tasks' stiffness on x, and its element g; x is the first field."""
        rest = np.linalg.solve(L[..., 1:, 1:], L[..., 1:, :1])
        h = L[..., 0, 0] - (L[..., :1, 1:] @ rest)[..., 0, 0]
        L = L.copy()
        L[..., 0, 0] += penalty + (self.n_tasks - 1) * h
        return np.linalg.inv(L), 1 / (penalty + self.n_tasks * h)

    def _block(self, fields: _Fields, i: int, P: Matrix) -> Matrix:
        inverse: Matrix = np.linalg.inv(fields.rows[i] - fields.D[i] @ P @ fields.C[i])
        return inverse

    def _with_constant(self, fields: _Fields, g: Matrix, total: Matrix) -> tuple[Matrix, Matrix, _Constant]:
        """Invert the constant direction together with the mean row of every block (equation 28.1)."""
        assert self.constant is not None
        c = np.sqrt(self.constant[0])
        L0 = fields.constant
        n_fields = L0.shape[-1]
        sizes = [L.shape[-1] for L in fields.rows]
        ends = n_fields + np.cumsum([0, *sizes])
        whole = np.zeros((*L0.shape[:-2], int(ends[-1]), int(ends[-1])), dtype=complex)
        whole[..., :n_fields, :n_fields] = L0
        for i, n in enumerate(self.sizes):
            part = slice(int(ends[i]), int(ends[i + 1]))
            whole[..., part, part] = fields.rows[i] - fields.D[i] @ total @ fields.C[i]
            whole[..., :n_fields, part] = np.sqrt(n) * c * fields.C[i]
            whole[..., part, :n_fields] = np.sqrt(n) * c * fields.D[i]
        inverse, g_constant = self._joined(whole, fields.constant_penalties)
        rows = tuple(inverse[..., ends[i] : ends[i + 1], ends[i] : ends[i + 1]] for i in range(len(sizes)))
        return np.concatenate([g, g_constant[..., None]], axis=-1), total, _Constant(rows)


class _Constant(NamedTuple):
    rows: tuple[Matrix, ...]


def _settled(new: FloatArray, old: FloatArray) -> bool:
    """Return whether derivatives, which are tiny numbers, have settled too."""
    change, size = np.abs(new - old).max(axis=-1), np.abs(new).max(axis=-1)
    return bool((change <= 1e-9 * size).all())


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
        L0 = np.zeros((*lead, len(p), len(p)), dtype=complex)
        rows = [np.zeros((*lead, len(q), len(q)), dtype=complex) for q in r]
        C = [np.zeros((*lead, len(p), len(q)), dtype=complex) for q in r]
        D = [np.zeros((*lead, len(q), len(p)), dtype=complex) for q in r]
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
