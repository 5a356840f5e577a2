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

# Responses are scaled by the largest, down to exp of minus this.
_MOST_DECAY = 100.0


class QueryRows(NamedTuple):
    """What a task adds to meta-training, at several inner rates: (..., n_rates, n_query, n_features).

    The rows B multiply the meta-parameters. Noise z of the support adds D X_support'z / n to the query residuals, of
    covariance sigma^2 D E'.
    """

    B: FloatArray
    D: FloatArray
    E: FloatArray


class Response(NamedTuple):
    """A(s) / scale and (1 - A(s)) / s / scale, with the logarithm of the scale."""

    kept: FloatArray
    step: FloatArray
    log_scale: FloatArray


class Filters(NamedTuple):
    """A(s)^2 / scale and F(s) / scale with F = (1 - A)^2 / s, the factors of the start and of the label noise (9.2).

    The scale, given by its logarithm, keeps powers of many steps within the range of floating-point numbers.
    """

    kept: FloatArray
    passed: FloatArray
    log_scale: FloatArray


class InnerRule(ABC):
    """How a task adapts at an inner rate a.

    With M = X'X / n of the n support rows, coefficients omega become A(M) omega + (I - A(M)) M^+ X'y / n.
    """

    lowest_rate: ClassVar[float]
    can_vanish: ClassVar[bool]  # whether A(s) = 0 for some s > 0 at positive rates

    @property
    @abstractmethod
    def degree(self) -> int | None:
        """Degree of A as a polynomial in the rate; None where it is none."""

    @property
    def first_order(self) -> int:
        """K in A(s) = 1 - K a s + O(a^2)."""
        return self.degree or 1

    @abstractmethod
    def response(self, rates: FloatArray, nodes: FloatArray) -> Response:
        """Return A and (1 - A) / s at rates (...,) on eigenvalues (nodes,): (..., nodes), with scales (..., 1)."""

    def filters(self, rates: FloatArray, nodes: FloatArray) -> Filters:
        """Return A^2 and F at rates (...,) on eigenvalues (nodes,): (..., nodes), with scales (..., 1)."""
        kept, step, log_scale = self.response(rates, nodes)
        return Filters(kept**2, nodes * step**2, 2 * log_scale)

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
    can_vanish: ClassVar[bool] = True

    @property
    def degree(self) -> int:
        """K."""
        return self.n_steps

    def response(self, rates: FloatArray, nodes: FloatArray) -> Response:
        """Return A and (1 - A) / s, scaled by the largest A."""
        K, rates = self.n_steps, np.asarray(rates)[..., None]
        shrink = 1 - rates * nodes
        largest = np.abs(shrink).max(axis=-1, keepdims=True)
        ratio = shrink / largest
        # (1 - A) / s = a sum_j (1 - a s)^j: no difference of large powers.
        total = np.zeros_like(ratio)
        for j in range(K - 1, -1, -1):
            total = total * ratio + largest ** float(j - K)
        return Response(ratio**K, rates * total, K * np.log(largest))

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
class GradientFlow(InnerRule):
    """Gradient flow, the limit of many small steps: A(s) = exp(-a s), where a is the time, of either sign."""

    lowest_rate: ClassVar[float] = -np.inf
    can_vanish: ClassVar[bool] = False

    @property
    def degree(self) -> None:
        """No polynomial."""

    def response(self, rates: FloatArray, nodes: FloatArray) -> Response:
        """Return A and (1 - A) / s, scaled by the largest A."""
        times = np.asarray(rates)[..., None]
        exponent = -times * nodes
        log_scale = np.maximum(exponent.max(axis=-1, keepdims=True), -_MOST_DECAY)
        unit = np.exp(-log_scale)
        small = unit * np.expm1(np.minimum(exponent, 1.0))
        difference = np.where(exponent < 1, small, np.exp(exponent - log_scale) - unit)
        step = np.where(nodes > 0, -difference / np.where(nodes > 0, nodes, 1.0), times * unit)
        return Response(np.exp(exponent - log_scale), step, log_scale)

    def coefficients(self, rates: FloatArray) -> FloatArray:
        """Return the times."""
        return rates[:, None]

    def query_rows(self, X_support: FloatArray, X_query: FloatArray, coefficients: FloatArray) -> QueryRows:
        """Return B = X_query exp(-a M), D = -X_query (I - exp(-a M)) M^+ and E = (B - X_query) / n."""
        n = X_support.shape[-2]
        s, V = np.linalg.eigh(X_support.swapaxes(-1, -2) @ X_support / n)
        s = np.maximum(s, 0.0)[..., None, :]
        XV, Vt = (X_query @ V)[..., None, :, :], V.swapaxes(-1, -2)[..., None, :, :]
        kept = np.exp(-coefficients * s)
        passed = np.where(s > 0, np.expm1(-coefficients * s) / np.where(s > 0, s, 1.0), 0.0)
        B, D = (np.asarray((XV * part[..., None, :]) @ Vt) for part in (kept, passed))
        return QueryRows(B, D, (B - X_query[..., None, :, :]) / n)


@final
@dataclass(frozen=True)
class ImplicitRule(InnerRule):
    """The minimiser of half the mean squared error + |coef - omega|^2 / (2 a): A(s) = 1 / (1 + a s), rates from 0."""

    lowest_rate: ClassVar[float] = 0.0
    can_vanish: ClassVar[bool] = False

    @property
    def degree(self) -> None:
        """No polynomial."""

    def response(self, rates: FloatArray, nodes: FloatArray) -> Response:
        """Return A and (1 - A) / s, of scale 1."""
        rates = np.asarray(rates)[..., None]
        kept = 1 / (1 + rates * nodes)
        return Response(kept, rates * kept, np.zeros(kept[..., :1].shape))

    def coefficients(self, rates: FloatArray) -> FloatArray:
        """Return the rates."""
        return rates[:, None]

    def query_rows(self, X_support: FloatArray, X_query: FloatArray, coefficients: FloatArray) -> QueryRows:
        """Return B = X_query (I + a M)^-1, D = -a B and E = (B - X_query) / n."""
        n, p = X_support.shape[-2:]
        S = X_support.swapaxes(-1, -2) @ X_support / n
        a = coefficients[:, 0, None, None]
        B = np.linalg.solve(np.eye(p) + a * S[..., None, :, :], X_query.swapaxes(-1, -2)[..., None, :, :])
        B = np.ascontiguousarray(B.swapaxes(-1, -2))
        return QueryRows(B, -a * B, (B - X_query[..., None, :, :]) / n)


RULES: dict[str, Callable[[float], InnerRule]] = {
    "gradient": lambda n_steps: GradientFlow() if n_steps == np.inf else GradientSteps(int(n_steps)),
    "implicit": lambda _: ImplicitRule(),
}


def inner_rule(name: str, n_steps: float) -> InnerRule:
    """Return the rule of a name, or say which there are."""
    if name not in RULES:
        raise ValueError(f"`inner_rule` must be 'gradient' or 'implicit', got {name!r}.")
    return RULES[name](n_steps)
