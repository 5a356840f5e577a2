"""Inner rules: how a task adapts to its support rows, as filters of their spectrum and as rows of meta-training.

A new rule is one class here and one entry of `RULES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, final

import numpy as np
from scipy.special import comb

from innerloop._base.checks import FloatArray

InnerRuleName = Literal["gradient", "implicit"]


class QueryRows(NamedTuple):
    """What a task adds to meta-training, at several inner rates: (..., n_rates, n_query, n_features).

    The rows B multiply the meta-parameters; D and E, (..., n_rates, n_query, n_features) each, hold the covariance of
    what noise of the support makes of the query residuals, sigma^2 D E'.
    """

    B: FloatArray
    D: FloatArray
    E: FloatArray


class InnerRule(ABC):
    """How a task adapts at an inner rate a.

    With M = X'X / n of the n support rows, coefficients omega become A(M) omega + (I - A(M)) M^+ X'y / n.
    """

    lowest_rate: ClassVar[float]

    @property
    @abstractmethod
    def degree(self) -> int | None:
        """Degree of A as a polynomial in the rate; None where it is none."""

    @abstractmethod
    def filters(self, rate: float | FloatArray, nodes: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return A(s)^2 and F(s) = (1 - A(s))^2 / s, the factors of the start and of the label noise (9.2)."""

    @abstractmethod
    def coefficients(self, rates: FloatArray) -> FloatArray:
        """Return what `query_rows` needs to know of rates: (n_rates, n_coefficients)."""

    @abstractmethod
    def query_rows(self, X_support: FloatArray, X_query: FloatArray, coefficients: FloatArray) -> QueryRows:
        """Return query rows after adaptation.

        Parameters
        ----------
        X_support, X_query : (..., n_support, n_features), (..., n_query, n_features)
            Features.
        coefficients : (n_rates, n_coefficients)
            As `coefficients` returns them; of a polynomial rule any multiple of a row.
        """

    def check_rates(self, rates: FloatArray, name: str) -> None:
        """Refuse rates for which the rule has no solution."""
        if (rates < self.lowest_rate).any():
            raise ValueError(f"`{name}` must be zero or positive with inner_rule='implicit', got {rates.min()}.")


@final
@dataclass(frozen=True)
class GradientSteps(InnerRule):
    """Gradient steps on half the mean squared error: A(s) = (1 - a s)^K, any real rate."""

    n_steps: int
    lowest_rate: ClassVar[float] = -np.inf

    @property
    def degree(self) -> int:
        """K."""
        return self.n_steps

    def filters(self, rate: float | FloatArray, nodes: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return A(s)^2 and F(s)."""
        shrink = 1 - rate * nodes
        total = sum((shrink**j for j in range(self.n_steps)), np.zeros_like(nodes))
        return shrink ** (2 * self.n_steps), nodes * (rate * total) ** 2

    def coefficients(self, rates: FloatArray) -> FloatArray:
        """Return the binomial coefficients of (1 - a s)^K by power of s."""
        j = np.arange(self.n_steps + 1)
        values: FloatArray = comb(self.n_steps, j) * (-rates[:, None]) ** j
        return values

    def query_rows(self, X_support: FloatArray, X_query: FloatArray, coefficients: FloatArray) -> QueryRows:
        """Return B = sum_j c_j U_j, D = sum_{j>=1} c_j U_{j-1} and E = sum_{j>=1} c_j U_j / n, U_j = X_query M^j."""
        n, p = X_support.shape[-2:]
        Xt = X_support.swapaxes(-1, -2)
        moments = Xt @ X_support / n if n > p else None
        U = [X_query]
        for _ in range(coefficients.shape[1] - 1):
            U.append(U[-1] @ moments if moments is not None else (U[-1] @ Xt) @ X_support / n)
        c = coefficients[:, :, None, None]
        powers = [U_j[..., None, :, :] for U_j in U]
        E = sum((c[:, j] * powers[j] for j in range(1, len(U))), np.zeros(1))
        D = sum((c[:, j] * powers[j - 1] for j in range(1, len(U))), np.zeros(1))
        return QueryRows(c[:, 0] * powers[0] + E, D, E / n)


@final
@dataclass(frozen=True)
class ImplicitRule(InnerRule):
    """The minimiser of half the mean squared error + |coef - omega|^2 / (2 a): A(s) = 1 / (1 + a s), rates from 0."""

    lowest_rate: ClassVar[float] = 0.0

    @property
    def degree(self) -> None:
        """No polynomial."""

    def filters(self, rate: float | FloatArray, nodes: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return A(s)^2 and F(s)."""
        kept = 1 / (1 + rate * nodes)
        return kept**2, nodes * (rate * kept) ** 2

    def coefficients(self, rates: FloatArray) -> FloatArray:
        """Return the rates."""
        return rates[:, None]

    def query_rows(self, X_support: FloatArray, X_query: FloatArray, coefficients: FloatArray) -> QueryRows:
        """Return B = X_query (I + a M)^-1 = X_query - a D M, D = a B and E = (X_query - B) / n."""
        n, p = X_support.shape[-2:]
        S = X_support.swapaxes(-1, -2) @ X_support / n
        a = coefficients[:, 0, None, None]
        B = np.linalg.solve(np.eye(p) + a * S[..., None, :, :], X_query.swapaxes(-1, -2)[..., None, :, :])
        B = np.ascontiguousarray(B.swapaxes(-1, -2))
        return QueryRows(B, a * B, (X_query[..., None, :, :] - B) / n)


RULES: dict[str, Callable[[int], InnerRule]] = {"gradient": GradientSteps, "implicit": lambda _: ImplicitRule()}


def inner_rule(name: str, n_steps: int) -> InnerRule:
    """Return the rule of a name, or say which there are."""
    if name not in RULES:
        raise ValueError(f"`inner_rule` must be 'gradient' or 'implicit', got {name!r}.")
    return RULES[name](n_steps)
