"""The expected error of the meta-parameters at any ratio N/p: isotropic features (docs/theory.md, 12 to 15)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from innerloop._checks import FloatArray
from innerloop.distributions import Design, Group
from innerloop.theory.anchors import overparameterised_task_part, pooled_ridge_ratios, pooled_task_part
from innerloop.theory.spectrum import inner_filters, wishart_spectrum

_LOG_RANGE = 70.0


class Parts(NamedTuple):
    """E|omega* - w0|^2 = noise * sigma^2 + tasks * nu^2 + start * |omega_0 - w0|^2."""

    noise: float
    tasks: float
    start: float


class _Field(NamedTuple):
    """One group of tasks: the filters on the spectrum of its supports."""

    group: Group
    kept: FloatArray  # A(s)^2
    taken: FloatArray  # F(s) / n_t
    weights: FloatArray

    def trace(self, values: FloatArray) -> float:
        return float(self.weights @ values)

    def effective_dimension(self, k: float) -> float:
        return self.trace(k * self.kept / (1 + k * self.kept))

    def free_dimension(self, k: float) -> float:
        """p - effective_dimension, without cancellation."""
        return self.trace(1 / (1 + k * self.kept))


def isotropic_parts(design: Design, n_features: int, inner_lr: float, finite: bool = True) -> Parts:
    """Return the parts of E|omega* - w0|^2 at one inner rate.

    Parameters
    ----------
    design
        Sizes.
    n_features
        p.
    inner_lr
        a.
    finite
        Whether to correct for finite size.

    Returns
    -------
    Parts
        NaN where no expectation exists for any rate (N within 1 of p without a penalty), infinite for one task
        with N > p + 1 and a > 0.
    """
    p, n_rows = n_features, design.n_query_rows
    fields = [_field(design, group, p, inner_lr, finite) for group in design.groups]
    if design.l2 > 0:
        return _ridge(fields, design, p, finite)
    if abs(p - n_rows) <= 1:
        return Parts(np.nan, np.nan, np.nan)
    if n_rows < p:
        return _overparameterised(fields, p, n_rows, finite)
    if design.n_tasks == 1:
        return _one_task(fields[0], p, inner_lr, design.inner_rule == "implicit", finite)
    parts = _large_p_under(fields, design.n_tasks, p)
    noise, tasks = _ratios_at_zero(design.groups, p) if finite else (1.0, 1.0)
    return Parts(parts.noise * noise, parts.tasks * tasks, 0.0)


def _field(design: Design, group: Group, p: int, inner_lr: float, finite: bool) -> _Field:
    nodes, weights = wishart_spectrum(group.n_support, p, finite)
    kept, taken = inner_filters(design, inner_lr, nodes)
    return _Field(group, kept, taken / group.n_support, weights)


def _overparameterised(fields: list[_Field], p: int, n_rows: int, finite: bool) -> Parts:
    """Equation 12.2: exact at finite size but for one task's noise."""
    noise = tasks = 0.0
    for field in fields:
        n = field.group.n_query
        share = overparameterised_task_part(n, n_rows, p) if finite else n / p * (p - n) / (p - n_rows)
        noise += field.group.n_tasks * share * p / n * _one_task_noise(field, p, finite)
        tasks += field.group.n_tasks * share
    return Parts(noise, tasks, 1 - n_rows / p)


def _one_task_noise(field: _Field, p: int, finite: bool) -> float:
    """Return E tr (X_v A^2 X_v')^-1 (I + X_v F X_v' / n_t) of one task, to first order in 1/p (equation 12.4)."""
    n, weights = field.group.n_query, field.weights
    k = _root(lambda k: field.effective_dimension(k) - n)
    u = k * field.kept / (1 + k * field.kept)
    forced = k * field.taken / (1 + k * field.kept)
    if not finite:
        return k + field.trace(forced)
    second, third = field.trace(u**2), field.trace(u**3)
    slack = n - second
    inverse = k * (1 + (second - third) / slack**2 * (p - n) / (p - n - 1))
    first, mixed = float(weights @ (forced * (1 - u))), float(weights @ (forced * u * (1 - u)))
    return inverse + field.trace(forced) + (first * (second - third) / slack - mixed) / slack


def _one_task(field: _Field, p: int, inner_lr: float, implicit: bool, finite: bool) -> Parts:
    """One task fitted exactly in its own metric: A is inverted, and for a > 0 steps can make it singular."""
    if inner_lr > 0 and not implicit:
        return Parts(np.inf, np.inf, 0.0)
    spare = field.group.n_query - p - finite
    noise = field.trace(field.taken / field.kept) + field.trace(1 / field.kept) / spare
    return Parts(noise, 1.0, 0.0)


def _large_p_under(fields: list[_Field], n_tasks: int, p: int) -> Parts:
    if len(fields) == 1:
        share = p / n_tasks
        k = _root(lambda k: fields[0].effective_dimension(k) - share)
        gamma, ks = (fields[0].group.n_query - share) / (k * (p - share)), [k]
    else:
        gamma = _root(lambda gamma: p - _dimension(fields, gamma))
        ks = [_local(field, gamma) for field in fields]
    return _variances(fields, ks, gamma, n_tasks, p)


@lru_cache(maxsize=1024)
def _ratios_at_zero(groups: tuple[Group, ...], p: int) -> tuple[float, float]:
    """Return exact over large-p values at inner_lr = 0, of the noise and of the task part, for N > p + 1 (13.4)."""
    n_rows = sum(group.n_query * group.n_tasks for group in groups)
    n_tasks = sum(group.n_tasks for group in groups)
    noise = (n_rows - p) / (n_rows - p - 1)
    exact = sum(g.n_tasks * pooled_task_part(g.n_query, n_rows, p) for g in groups)
    one = np.ones(1)
    fields = [_Field(group, one, 0 * one, p * one) for group in groups]
    return noise, exact / _large_p_under(fields, n_tasks, p).tasks


def _ridge(fields: list[_Field], design: Design, p: int, finite: bool) -> Parts:
    """Equations 14.1 to 14.3, with the finite-size ratios of 14.4."""
    penalty = design.l2 * design.n_query_rows
    if len(fields) == 1:
        k, gamma = _uniform_ridge(fields[0], design.n_tasks, penalty, p)
        ks = [k]
    else:
        gamma = _root(lambda gamma: gamma * (p - _dimension(fields, gamma)) - penalty)
        ks = [_local(field, gamma) for field in fields]
    parts = _variances(fields, ks, gamma, design.n_tasks, p)
    noise, tasks, start = pooled_ridge_ratios(design.groups, p, p - penalty / gamma) if finite else (1.0, 1.0, 1.0)
    return Parts(parts.noise * noise, parts.tasks * tasks, parts.start * penalty**2 * start)


def _uniform_ridge(field: _Field, n_tasks: int, penalty: float, p: int) -> tuple[float, float]:
    n = field.group.n_query
    largest = min(n, p / n_tasks)
    bound = _root(lambda k: field.effective_dimension(k) - largest) if largest < p else np.exp(_LOG_RANGE)

    def excess(k: float) -> float:
        e = field.effective_dimension(k)
        return penalty - (n - e) * (p - n_tasks * e) / (k * field.free_dimension(k))

    k = _root(excess, np.log(bound))
    e = field.effective_dimension(k)
    return k, (n - e) / (k * field.free_dimension(k))


def _dimension(fields: list[_Field], gamma: float) -> float:
    """Return the sum of the effective dimensions of all tasks."""
    return sum(f.group.n_tasks * f.effective_dimension(_local(f, gamma)) for f in fields)


def _local(field: _Field, gamma: float) -> float:
    """Solve k gamma (p - e(k)) + e(k) = n_v for k: the largest where gamma is too small for a root."""

    def excess(k: float) -> float:
        return k * gamma * field.free_dimension(k) + field.effective_dimension(k) - field.group.n_query

    return _root(excess, 2 * _LOG_RANGE) if excess(np.exp(2 * _LOG_RANGE)) > 0 else float(np.exp(2 * _LOG_RANGE))


def _variances(fields: list[_Field], ks: list[float], gamma: float, n_tasks: int, p: int) -> Parts:
    """Equation 14.3 for given roots; `start` still lacks the squared penalty."""
    noise = tasks = total = 0.0
    for field, k in zip(fields, ks, strict=True):
        below = 1 / (1 + k * field.kept)
        free = field.free_dimension(k)
        theta = gamma * free
        square = field.trace(field.kept * below**2)
        slope = k * square / (theta + square)
        weight = field.group.n_tasks * theta**2 / (free - theta * slope)

        def passed(
            source: FloatArray,
            field: _Field = field,
            k: float = k,
            below: FloatArray = below,
            share: float = theta / (theta + square),
        ) -> float:
            return k * (field.trace(source * below) - share * field.trace(source * below**2))

        noise += weight * (passed(field.taken) + slope)
        tasks += weight * passed(field.kept / p)
        total += weight
    remaining = total - (n_tasks - 1) * p * gamma**2
    return Parts(noise / remaining, tasks / remaining, 1 / (p * remaining))


def _root(function: Callable[[float], float], upper: float = _LOG_RANGE) -> float:
    """Solve an increasing function of a positive number, up to exp(upper)."""
    return float(
        np.exp(brentq(lambda log: function(np.exp(log)), -max(upper, _LOG_RANGE), upper, xtol=1e-13, rtol=1e-14))
    )
