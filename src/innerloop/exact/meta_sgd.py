r"""Meta-SGD in closed form: meta-parameters, and an inner rate of either sign for each feature.

One step with rates :math:`\alpha` leaves a task's query residual

.. math:: y_v - X_v (\omega - \alpha \odot \gamma), \quad \gamma = X_t'(X_t \omega - y_t) / n_t

which is linear in :math:`\omega` for given :math:`\alpha` and linear in :math:`\alpha` for given :math:`\omega`. So
both are fitted by alternating exact least squares, of which each lowers the loss. The rates are shrunk towards a common
rate :math:`\bar\alpha = \sum_j Q_{jj} \alpha_j / \sum_j Q_{jj}`: the penalty
:math:`\rho \sum_j Q_{jj} (\alpha_j - \bar\alpha)^2` is added to the sum of squares, whose curvature in
:math:`\alpha_j` is :math:`Q_{jj}`. With :math:`\rho = \infty` all rates equal the best common rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.data.episodes import Episodes

_BLOCK_ROWS = 2**14


@final
@dataclass(frozen=True, eq=False)
class RateObjective:
    """Sum of squared query residuals as a quadratic in the rates: ``c + 2 b'alpha + alpha'Q alpha``."""

    Q: FloatArray
    b: FloatArray
    c: float

    @classmethod
    def of(cls, episodes: Episodes, coef: FloatArray) -> RateObjective:
        """Sum over the episodes at meta-parameters (n_features, n_targets)."""
        p = episodes.n_features
        Q, b, c = np.zeros((p, p)), np.zeros(p), 0.0
        for block in episodes.blocks(_BLOCK_ROWS):
            X, n = block.X_support, max(block.X_support.shape[1], 1)
            gradient = X.transpose(0, 2, 1) @ (X @ coef - block.y_support) / n
            residual = block.y_query - block.X_query @ coef
            for k in range(coef.shape[1]):
                Z = (block.X_query * gradient[:, None, :, k]).reshape(-1, p)
                Q += Z.T @ Z
                b += Z.T @ residual[..., k].ravel()
            c += float(np.sum(residual**2))
        return cls(Q, b, c)

    def __call__(self, rates: FloatArray) -> float:
        """Return the sum of squares at these rates."""
        return float(self.c + 2 * self.b @ rates + rates @ self.Q @ rates)

    def best(self, penalty: float) -> FloatArray:
        """Return the rates of lowest penalised sum; `penalty` is rho of the module's docstring."""
        total = float(self.Q.sum())
        if total <= 0:
            return np.zeros_like(self.b)
        if np.isinf(penalty):
            return np.full_like(self.b, -self.b.sum() / total)
        p, weight = len(self.b), penalty * self.Q.diagonal()
        # Unknowns are the rates and their common value.
        system = np.zeros((p + 1, p + 1))
        system[:p, :p] = self.Q + np.diag(weight)
        system[:p, p] = system[p, :p] = -weight
        system[p, p] = weight.sum()
        return np.asarray(np.linalg.lstsq(system, np.append(-self.b, 0.0), rcond=1e-12)[0][:p])


def solve_coef(episodes: Episodes, rates: FloatArray, l2: float) -> FloatArray:
    """Return the meta-parameters of lowest loss for given rates: (n_features, n_targets)."""
    p = episodes.n_features
    moments, cross = np.zeros((p, p)), np.zeros((p, episodes.n_targets))
    for block in episodes.blocks(_BLOCK_ROWS):
        X, n = block.X_support, max(block.X_support.shape[1], 1)
        step = block.X_query * rates
        Xt = X.transpose(0, 2, 1)
        B = (block.X_query - step @ (Xt @ X) / n).reshape(-1, p)
        moments += B.T @ B
        cross += B.T @ (block.y_query - step @ (Xt @ block.y_support) / n).reshape(len(B), -1)
    moments[np.diag_indices(p)] += l2 * float(episodes.n_query.sum())
    return np.asarray(np.linalg.lstsq(moments, cross, rcond=1e-12)[0])


def solve_meta_sgd(
    episodes: Episodes, rate: float, l2: float, penalty: float, n_sweeps: int
) -> tuple[FloatArray, FloatArray]:
    """Return meta-parameters and rates by alternating exact solves.

    Parameters
    ----------
    episodes
        Of all training tasks.
    rate
        The common rate to start from.
    l2
        Penalty on the meta-parameters, in units of the half mean squared error.
    penalty
        On the differences of rates from a common one: rho of the module's docstring.
    n_sweeps
        Number of alternations.

    Returns
    -------
    coef : (n_features, n_targets)
    rates : (n_features,)

    Notes
    -----
    docs/theory.md, section "One rate for each feature".
    """
    rates = np.full(episodes.n_features, rate)
    for _ in range(n_sweeps):
        coef = solve_coef(episodes, rates, l2)
        rates = RateObjective.of(episodes, coef).best(penalty)
    return solve_coef(episodes, rates, l2), rates
