"""The expected error of the meta-parameters at any ratio N/p: isotropic features (docs/theory.md, 12 to 15)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, Group
from innerloop.distributions.inner_rules import InnerRule
from innerloop.theory.anchors import overparameterised_task_part, pooled_ridge_parts, pooled_task_part
from innerloop.theory.one_task import LOWEST, OneTask, root
from innerloop.theory.spectrum import wishart_spectrum
from innerloop.theory.sum_of_tasks import Source, first_order_terms

# A ratio of values at inner_lr = 0 beyond this is rounding, of sums that are nearly zero.
_LARGEST_RATIO = 2.0
# Part of the degrees of freedom that a penalty takes at least where ratios are computed.
_CLEAR_OF_ALL = 1e-9


class Sizes(NamedTuple):
    """What of a design decides the error of the meta-parameters, but for the rate."""

    groups: tuple[Group, ...]
    n_query_rows: int
    n_tasks: int
    l2: float
    rule: InnerRule

    @classmethod
    def of(cls, design: Design) -> Sizes:
        """Return the sizes of a design."""
        return cls(design.groups, design.n_query_rows, design.n_tasks, design.l2, design.rule)


class Parts(NamedTuple):
    """E|omega* - w0|^2 = noise * sigma^2 + tasks * nu^2 + start * |omega_0 - w0|^2."""

    noise: float
    tasks: float
    start: float


class _Field(NamedTuple):
    """One group of tasks, and the filters on the spectrum of its supports, all divided by one scale."""

    group: Group
    kept: FloatArray  # A(s)^2 / scale
    taken: FloatArray  # F(s) / (n_t scale)
    weights: FloatArray
    unit: float = 1.0  # 1 / scale

    def trace(self, values: FloatArray) -> float:
        return float(self.weights @ values)


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
        NaN where no expectation exists for any rate (N within 1 of p without a penalty), infinite where
        `mean_is_infinite`.
    """
    return parts_of(Sizes.of(design), n_features, inner_lr, finite)


@lru_cache(maxsize=16384)
def parts_of(sizes: Sizes, n_features: int, inner_lr: float, finite: bool = True) -> Parts:
    """Return what `isotropic_parts` does; kept, as it depends on neither noise, spread nor start."""
    p, n_rows = n_features, sizes.n_query_rows
    fields = _fields(sizes, p, inner_lr, finite)
    if sizes.l2 > 0:
        return _ridge(fields, sizes, p, finite)
    if abs(p - n_rows) <= 1:
        return Parts(np.nan, np.nan, np.nan)
    if n_rows < p:
        return _overparameterised(fields, p, n_rows, finite)
    if mean_is_infinite(sizes, p, inner_lr):
        return Parts(np.inf, np.inf, 0.0)
    if sizes.n_tasks == 1:
        return _one_task(fields[0], p, finite)
    return _underparameterised(fields, sizes, p, finite)


def mean_is_infinite(design: Design | Sizes, n_features: int, inner_lr: float) -> bool:
    """Return whether E|omega* - w0|^2 is infinite for N > p + 1 without a penalty.

    A positive rate makes a direction of a task's A vanish with a positive density at zero. Where that task has at least
    p of the N query rows and the others one row together or none, nothing else determines that direction (13).
    """
    n_rows = design.n_query_rows
    if design.l2 > 0 or inner_lr <= 0 or n_rows <= n_features + 1 or not design.rule.can_vanish:
        return False
    return any(n_rows - group.n_query <= 1 for group in design.groups)


def _fields(sizes: Sizes, p: int, inner_lr: float, finite: bool) -> list[_Field]:
    spectra = [wishart_spectrum(group.n_support, p, finite) for group in sizes.groups]
    filters = [sizes.rule.filters(np.array(inner_lr), spectrum.nodes) for spectrum in spectra]
    largest = max(float(part.log_scale[0]) for part in filters)
    fields = []
    for group, spectrum, part in zip(sizes.groups, spectra, filters, strict=True):
        factor = np.exp(part.log_scale - largest)
        passed = part.passed * factor / group.n_support
        fields.append(_Field(group, part.kept * factor, passed, spectrum.weights, float(np.exp(-largest))))
    return fields


def _overparameterised(fields: list[_Field], p: int, n_rows: int, finite: bool) -> Parts:
    """Equation 12.2: exact at finite size but for one task's noise."""
    noise = tasks = 0.0
    for field in fields:
        n = field.group.n_query
        share = overparameterised_task_part(n, n_rows, p) if finite else n / p * (p - n) / (p - n_rows)
        noise += field.group.n_tasks * share * p / n * _one_task_noise(field, finite)
        tasks += field.group.n_tasks * share
    return Parts(noise, tasks, 1 - n_rows / p)


def _one_task_noise(field: _Field, finite: bool) -> float:
    """Return E tr (X_v A^2 X_v')^-1 (I + X_v F X_v' / n_t) of one task (equation 12.4)."""
    task = OneTask(field.group.n_query, field.kept, field.weights)
    k = task.largest
    leading = float(field.unit * k + task.forced(k, field.taken))
    if not finite:
        return leading
    inverse, forced = task.first_order(k, field.taken)
    return leading + float(field.unit * inverse + forced)


def _one_task(field: _Field, p: int, finite: bool) -> Parts:
    """One task with N > p: A cancels but for the noise."""
    spare = field.group.n_query - p - finite
    noise = field.trace(field.taken / field.kept) + field.trace(field.unit / field.kept) / spare
    return Parts(noise, 1.0, 0.0)


class _Sum(NamedTuple):
    """A saddle point of the sum of all tasks: its parts (`start` without the squared penalty), 1 / (p g), dimension."""

    parts: Parts
    gamma: float
    dimension: float


def _underparameterised(fields: list[_Field], sizes: Sizes, p: int, finite: bool) -> Parts:
    """Equation 13.2, rescaled to the exact value at inner_lr = 0."""
    parts = _sum_of_tasks(fields, 0.0, p, finite).parts
    if not finite:
        return Parts(parts.noise, parts.tasks, 0.0)
    noise, tasks = _ratios_at_zero(sizes.groups, p)
    return Parts(parts.noise * noise, parts.tasks * tasks, 0.0)


@lru_cache(maxsize=1024)
def _ratios_at_zero(groups: tuple[Group, ...], p: int) -> tuple[float, float]:
    """Return exact over approximate values at inner_lr = 0, of the noise and of the task part, N > p + 1 (13.4)."""
    n_rows = sum(group.n_query * group.n_tasks for group in groups)
    exact = sum(g.n_tasks * pooled_task_part(g.n_query, n_rows, p) for g in groups)
    parts = _sum_of_tasks(_fields_at_zero(groups, p), 0.0, p, True).parts
    return p / (n_rows - p - 1) / parts.noise, exact / parts.tasks


def _fields_at_zero(groups: tuple[Group, ...], p: int) -> list[_Field]:
    one = np.ones(1)
    return [_Field(group, one, 0 * one, p * one) for group in groups]


def _ridge(fields: list[_Field], sizes: Sizes, p: int, finite: bool) -> Parts:
    """Equations 14.1 to 14.3, rescaled to the value of ridge regression at inner_lr = 0 (14.4)."""
    penalty = sizes.l2 * sizes.n_query_rows * fields[0].unit
    sums = _sum_of_tasks(fields, penalty, p, finite)
    noise, tasks, start = sums.parts
    if finite:
        ratios = _ridge_ratios_at_zero(sizes.groups, p, sums.dimension)
        noise, tasks, start = (part * ratio for part, ratio in zip(sums.parts, ratios, strict=True))
    return Parts(noise, tasks, start * penalty**2)


def _ridge_ratios_at_zero(groups: tuple[Group, ...], p: int, dimension: float) -> Parts:
    """Return ridge regression's parts over those of the same equations, at equal degrees of freedom (14.4)."""
    fields = _fields_at_zero(groups, p)
    # Far rates leave the penalty no say: the ratio hardly changes any more, and its equations lose their digits.
    most = min(p, sum(group.n_query * group.n_tasks for group in groups))
    dimension = min(dimension, most * (1 - _CLEAR_OF_ALL))
    sums = _sum_at(fields, *_saddle_of_dimension(_tasks(fields), fields, dimension), True)
    noise, tasks, start = pooled_ridge_parts(groups, p, dimension)
    penalty = sums.gamma * (p - dimension)
    values = (*sums.parts[:2], sums.parts.start * penalty**2)
    ratios = (part / value if value > 0 else 1.0 for part, value in zip((noise, tasks, start), values, strict=True))
    return Parts(*(min(max(ratio, 1 / _LARGEST_RATIO), _LARGEST_RATIO) for ratio in ratios))


def _tasks(fields: list[_Field]) -> list[OneTask]:
    return [OneTask(field.group.n_query, field.kept, field.weights) for field in fields]


def _sum_of_tasks(fields: list[_Field], penalty: float, p: int, finite: bool) -> _Sum:
    tasks = _tasks(fields)
    if len(fields) > 1:
        counts = [field.group.n_tasks for field in fields]
        gamma = _gamma(tasks, lambda gamma: gamma * (p - _dimension(tasks, counts, gamma)) - penalty)
        return _sum_at(fields, gamma, [task.solve(gamma) for task in tasks], finite)
    task, n_tasks = tasks[0], fields[0].group.n_tasks
    k = task.largest
    if p / n_tasks < task.n_query:
        k = root(lambda k: task.dimension(k) - p / n_tasks, k)
    if penalty > 0:
        others = n_tasks - 1
        k = root(lambda k: penalty - task.theta(k) * (1 - others * task.dimension(k) / task.free_dimension(k)), k)
    gamma = task.theta(k) / task.free_dimension(k)
    if penalty > 0 and n_tasks * task.n_query < p:  # the same, without cancellation for small penalties
        gamma = penalty / (p - n_tasks * task.dimension(k))
    return _sum_at(fields, gamma, [k], finite)


def _saddle_of_dimension(tasks: list[OneTask], fields: list[_Field], dimension: float) -> tuple[float, list[float]]:
    """Return gamma and the k of all tasks at given degrees of freedom."""
    if len(fields) == 1:
        k = root(lambda k: tasks[0].dimension(k) - dimension / fields[0].group.n_tasks, tasks[0].largest)
        return tasks[0].theta(k) / tasks[0].free_dimension(k), [k]
    counts = [field.group.n_tasks for field in fields]
    gamma = _gamma(tasks, lambda gamma: dimension - _dimension(tasks, counts, gamma))
    return gamma, [task.solve(gamma) for task in tasks]


def _gamma(tasks: list[OneTask], function: Callable[[float], float]) -> float:
    """Return the root of a function that increases with gamma."""
    top = max(task.top for task in tasks)
    return root(function, 1 / LOWEST, LOWEST / top)


def _dimension(tasks: list[OneTask], counts: list[int], gamma: float) -> float:
    """Return the sum of the effective dimensions of all tasks."""
    return sum(n * task.dimension(task.solve(gamma)) for task, n in zip(tasks, counts, strict=True))


def _sum_at(fields: list[_Field], gamma: float, ks: list[float], finite: bool) -> _Sum:
    """Equation 14.3 for given roots, with its first-order terms (14.8) where asked for."""
    noise = spread = total = dimension = 0.0
    p = float(fields[0].weights.sum())
    sources = []
    for field, task, k in zip(fields, _tasks(fields), ks, strict=True):
        source = Source(task, field.group.n_tasks, field.taken, field.kept / p, k, field.unit)
        slope, from_noise, from_tasks = task.slopes(k, gamma, (source.noise, source.spread), field.unit)
        weight = source.n_tasks / slope
        noise += weight * from_noise
        spread += weight * from_tasks
        total += weight
        dimension += source.n_tasks * task.dimension(k)
        sources.append(source)
    remaining = total - (sum(source.n_tasks for source in sources) - 1) * p * gamma**2
    terms = first_order_terms(sources, gamma) if finite else (0.0, 0.0, 0.0)
    leading = (noise / remaining, spread / remaining, 1 / (p * remaining))
    return _Sum(Parts(*(part * (1 + term) for part, term in zip(leading, terms, strict=True))), gamma, dimension)
