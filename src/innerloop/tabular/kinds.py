"""Kinds of adaptation: how the parameters of each are chosen, how it is fitted, and when it is preferred.

A kind is a class. `tune` chooses its parameters by held-out tasks; the instance then fits any training tasks. To add
a kind, write its class here and name it in `KINDS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple, Self, final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.adaptation.predictor import Predictor, mean_squares, residuals, supports
from innerloop.adaptation.random_effects import RandomEffects, Structure
from innerloop.adaptation.rules import Adaptation, GradientSteps, NoAdaptation, Ridge, ridge_path
from innerloop.adaptation.scale_mixture import N_PARAMETERS, ScaledRidge, estimate_scales
from innerloop.data.episodes import Episodes
from innerloop.exact.meta_sgd import RateObjective, solve_meta_sgd
from innerloop.exact.objective import MetaObjective
from innerloop.exact.solve import solve_unwarned
from innerloop.tabular.comparison import (
    Comparison,
    Errors,
    TrainingPart,
    log_mean,
    mean_gain,
    mean_log_ratio,
    within_one_error,
)
from innerloop.tabular.rate_choice import Rates

# Multiples of the estimated covariance of tasks that the ridge compares. With few rows, where noise is not normal or
# not the same in all tasks, fewer differences between tasks can be used than the likelihood suggests.
_INVERSE_PENALTIES = np.exp2(np.arange(-2.0, 3.0))
_NO_MULTIPLE = 2  # the position of 1
# Correlations are not estimated for more features than this.
_MOST_CORRELATED = 32
# With so few tasks, errors decide neither between scales nor between close kinds.
_FEW_TASKS = 10
# Smallest relevant gain, as with very many tasks a negligible one exceeds its standard error.
_LEAST_GAIN = 1e-3
# Weights of the term that shrinks rates of features to a common one (see `innerloop.exact.meta_sgd`), and the number
# of alternating solves for each.
_RATE_SHRINKAGES = (np.inf, 10.0, 1.0, 0.1, 0.01)
_N_SWEEPS = 5


# Values of the parameter `adaptation`.
Adaptations = Literal["auto", "none", "gradient", "ridge"]


class UsedRates(NamedTuple):
    """Rates and penalty in use; each rate is a number, or an array with one for each feature."""

    inner_lr: float | FloatArray
    adapt_lr: float | FloatArray
    l2: float


class Kind(ABC):
    """A kind of adaptation, its parameters chosen.

    Attributes
    ----------
    name
        Value of the parameter `adaptation`.
    rules
        Types of rule that it may fit.
    structure
        Of the tasks' covariance.
    """

    name: ClassVar[str]
    rules: ClassVar[tuple[type[Adaptation], ...]]
    structure: Structure = "diagonal"

    @classmethod
    @abstractmethod
    def tune(cls, comparison: Comparison) -> Self:
        """Choose its parameters by the errors of held-out tasks."""

    @abstractmethod
    def fit(self, part: TrainingPart) -> Predictor:
        """Return the predictor fitted to these training tasks."""

    @abstractmethod
    def rates(self, fitted: Predictor, effects: RandomEffects, n_rows: int) -> UsedRates:
        """Return the rates and the penalty in use, given what was fitted to all tasks and the number of their rows."""

    def held_out_errors(self, comparison: Comparison, fitted: Sequence[Predictor]) -> Errors:
        """Return the errors of held-out tasks at every number of adaptation rows, given the fit to each part."""
        return comparison.errors(fitted)

    @classmethod
    def is_worth_it(cls, errors: Errors, simpler: Errors, deciding: Sequence[int]) -> bool:
        """Return whether it is preferred to a simpler kind: by default, if it gains more than one standard error.

        Parameters
        ----------
        errors, simpler
            Of held-out tasks, by this kind and by the simpler one.
        deciding
            Numbers of adaptation rows to compare over.
        """
        gain, error = mean_gain(errors, simpler, deciding)
        return gain > error


@final
@dataclass(frozen=True, eq=False)
class Unadapted(Kind):
    """One pooled ridge for all tasks, whatever rows they bring."""

    name = "none"
    rules = (NoAdaptation,)

    pooled_l2: float

    @classmethod
    def tune(cls, comparison: Comparison) -> Unadapted:
        """Take the penalty that was chosen with the rates."""
        return cls(comparison.pooled_l2)

    def fit(self, part: TrainingPart) -> Predictor:
        """Return the pooled ridge."""
        return Predictor(part.pooled, part.pooled, NoAdaptation())

    def rates(self, fitted: Predictor, effects: RandomEffects, n_rows: int) -> UsedRates:  # noqa: ARG002
        """Return rates of 0."""
        return UsedRates(0.0, 0.0, self.pooled_l2)


@final
@dataclass(frozen=True, eq=False)
class Gradient(Kind):
    """Gradient steps from coefficients that were meta-trained for them."""

    name = "gradient"
    rules = (GradientSteps, NoAdaptation)

    chosen: Rates
    n_steps: int

    @classmethod
    def tune(cls, comparison: Comparison) -> Gradient:
        """Take the rates, which were chosen before."""
        return cls(comparison.gradient, comparison.n_steps)

    def fit(self, part: TrainingPart) -> Predictor:
        """Return the meta-trained coefficients and the steps."""
        return gradient_predictor(part.objective, self.chosen, self.n_steps)

    def rates(self, fitted: Predictor, effects: RandomEffects, n_rows: int) -> UsedRates:  # noqa: ARG002
        """Return the chosen rates."""
        return UsedRates(self.chosen.inner_lr, self.chosen.adapt_lr, self.chosen.l2)


@final
@dataclass(frozen=True, eq=False)
class FeatureGradient(Kind):
    """One gradient step with a learning rate for each feature, the same in training and in adaptation."""

    name = "gradient"
    rules = (GradientSteps,)

    start: Rates
    shrinkage: float

    @classmethod
    def tune(cls, comparison: Comparison) -> FeatureGradient:
        """Choose how strongly rates are shrunk to a common one."""
        losses = dict.fromkeys(_RATE_SHRINKAGES, 0.0)
        for part, held_out in zip(comparison.parts, comparison.held_out, strict=True):
            for shrinkage in losses:
                coef, rates = cls(comparison.gradient, shrinkage)._solve(part.episodes)
                losses[shrinkage] += RateObjective.of(held_out, coef)(rates)
        return cls(comparison.gradient, min(losses, key=losses.__getitem__))

    def fit(self, part: TrainingPart) -> Predictor:
        """Return coefficients and rates by alternating least squares."""
        coef, rates = self._solve(part.episodes)
        return Predictor(coef, coef, GradientSteps(rates))

    def rates(self, fitted: Predictor, effects: RandomEffects, n_rows: int) -> UsedRates:  # noqa: ARG002
        """Return the rates of all features, the same in training and in adaptation."""
        assert isinstance(fitted.rule, GradientSteps)
        return UsedRates(fitted.rule.lr, fitted.rule.lr, self.start.l2)

    def _solve(self, episodes: Episodes) -> tuple[FloatArray, FloatArray]:
        return solve_meta_sgd(episodes, self.start.adapt_lr, self.start.l2, self.shrinkage, _N_SWEEPS)


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class RandomEffectsRidge(Kind):
    """Ridge towards the population's coefficients, its metric the covariance of tasks' coefficients.

    Parameters
    ----------
    structure
        Of the covariance.
    n_rows, inverse_penalty : (n_points,)
        See `innerloop.adaptation.rules.Ridge`.
    has_scales
        Whether tasks are taken to differ in scale; see `innerloop.adaptation.scale_mixture`.
    pooled_share
        Weight of the pooled ridge in the coefficients of tasks without rows; the rest is the population's.
    gradient
        Rates of the best gradient step; NaN where none was tried.
    errors
        Of held-out tasks.
    """

    name = "ridge"
    rules = (Ridge, ScaledRidge)

    structure: Structure
    n_rows: FloatArray
    inverse_penalty: FloatArray
    has_scales: bool
    pooled_share: float
    gradient: Rates
    errors: Errors = field(repr=False)

    @classmethod
    def tune(cls, comparison: Comparison) -> RandomEffectsRidge:
        """Choose structure, penalties and scales.

        Correlations, and scales, are tried where they raise the likelihood by more than the number of their
        parameters (Akaike), and taken where they lower the errors by more than one standard error.
        """
        ridge, deciding = _tuned(comparison, "diagonal"), comparison.deciding
        if _may_correlate(comparison):
            full = _tuned(comparison, "full")
            is_beyond_error = not all(within_one_error(ridge.errors[n], full.errors[n]) for n in deciding)
            if is_beyond_error and log_mean(full.errors, deciding) < log_mean(ridge.errors, deciding):
                ridge = full
        sample, effects = comparison.overall.tasks, comparison.overall(ridge.structure)
        log_ratio = estimate_scales(sample, effects).log_ratio
        if len(sample) <= _FEW_TASKS or log_ratio < 2 * N_PARAMETERS * len(effects.noise):
            return ridge
        # The posterior of the scales sets the penalty of each task, so that there is no multiple to tune.
        scaled = replace(ridge, n_rows=np.ones(1), inverse_penalty=np.ones(1), has_scales=True)
        scaled = replace(scaled, errors=comparison.errors([scaled.fit(part) for part in comparison.parts]))
        # Task by task, as a few tasks of large noise would decide a mean of errors.
        gain, error = mean_log_ratio(scaled.errors, ridge.errors, deciding)
        return scaled if gain > max(error, _LEAST_GAIN) else ridge

    def fit(self, part: TrainingPart) -> Predictor:
        """Return the population's coefficients, those of tasks without rows, and the ridge."""
        effects = part.effects(self.structure)
        rule: Adaptation = Ridge(effects.new_task_cov, self.n_rows, self.inverse_penalty)
        if self.has_scales:
            rule = ScaledRidge(effects.new_task_cov, effects.noise, estimate_scales(part.sample, effects).weight)
        return Predictor(effects.mean, _mixed(effects, part, self.pooled_share), rule)

    def rates(self, fitted: Predictor, effects: RandomEffects, n_rows: int) -> UsedRates:  # noqa: ARG002
        """Return the rates of the best gradient step, with the penalty of the random-effects model."""
        return UsedRates(self.gradient.inner_lr, self.gradient.adapt_lr, float(effects.precision.mean()) / n_rows)

    def held_out_errors(self, comparison: Comparison, fitted: Sequence[Predictor]) -> Errors:  # noqa: ARG002
        """Return the errors by which its parameters were chosen."""
        return self.errors

    @classmethod
    def is_worth_it(cls, errors: Errors, simpler: Errors, deciding: Sequence[int]) -> bool:
        """Return whether it is preferred: its penalty already limits what it can lose where tasks hardly differ.

        Within one standard error it is preferred where errors are lower on average or task by task, and wherever
        tasks are too few to decide.
        """
        gain, error = mean_gain(errors, simpler, deciding)
        if abs(gain) > error:
            return gain > error
        is_few = max(len(errors[n]) for n in deciding) <= _FEW_TASKS
        return is_few or max(gain, mean_log_ratio(errors, simpler, deciding)[0]) > _LEAST_GAIN


# From simple to rich.
KINDS: tuple[type[Kind], ...] = (Unadapted, Gradient, RandomEffectsRidge)
# Types of rule by name, for files.
RULES = {rule.__name__: rule for kind in KINDS for rule in kind.rules}


def kind_name(rule: Adaptation) -> str:
    """Return the name of the simplest kind that may fit a rule."""
    return next(kind.name for kind in KINDS if isinstance(rule, kind.rules))


def gradient_predictor(objective: MetaObjective, rates: Rates, n_steps: int) -> Predictor:
    """Return the meta-trained coefficients with gradient steps; without adaptation where adapt_lr is 0."""
    coef = solve_unwarned(objective, [rates.inner_lr], None, [rates.l2]).coef.reshape(objective.n_features, -1)
    return Predictor(coef, coef, GradientSteps(rates.adapt_lr, n_steps) if rates.adapt_lr else NoAdaptation())


def _may_correlate(comparison: Comparison) -> bool:
    """Return whether correlations raise the likelihood by more than the number of their parameters."""
    p = comparison.overall.tasks.n_features
    if p > _MOST_CORRELATED:
        return False
    diagonal, full = comparison.overall("diagonal"), comparison.overall("full")
    return diagonal.deviance - full.deviance > len(full.noise) * p * (p - 1)


def _tuned(comparison: Comparison, structure: Structure) -> RandomEffectsRidge:
    """Return the ridge of one structure, with its penalty tuned at every number of rows, and its errors."""
    effects = [part.effects(structure) for part in comparison.parts]
    share, unseen = _pooled_share(comparison, effects)
    errors, multiples = {0: unseen}, {}
    for n in comparison.trials:
        if n:
            by_penalty = comparison.over_splits(n, effects, _mse_by_penalty)
            best = int(np.argmin(by_penalty.mean(axis=1)))
            chosen = _NO_MULTIPLE if within_one_error(by_penalty[_NO_MULTIPLE], by_penalty[best]) else best
            multiples[n], errors[n] = _INVERSE_PENALTIES[chosen], by_penalty[chosen]
    n_rows, inverse_penalty = np.ones(1), np.ones(1)
    if multiples:
        n_rows, inverse_penalty = (np.array(list(part), dtype=float) for part in (multiples, multiples.values()))
    return RandomEffectsRidge(
        structure=structure,
        n_rows=n_rows,
        inverse_penalty=inverse_penalty,
        has_scales=False,
        pooled_share=share,
        gradient=comparison.gradient,
        errors=errors,
    )


def _pooled_share(comparison: Comparison, effects: Sequence[RandomEffects]) -> tuple[float, FloatArray]:
    """Return the weight of the pooled ridge in the coefficients of tasks without rows, and the errors with it.

    It is 0 unless the pooled ridge has lower errors; then 1 beyond a standard error and 1/2 within, as the error of a
    mean of two predictions is below the mean of their errors.
    """

    def errors(share: float) -> FloatArray:
        coefs = [_mixed(fold, part, share) for fold, part in zip(effects, comparison.parts, strict=True)]
        return comparison.errors([Predictor(coef, coef, NoAdaptation()) for coef in coefs], [0])[0]

    population, pooled = errors(0.0), errors(1.0)
    if pooled.mean() >= population.mean():
        return 0.0, population
    return (0.5, errors(0.5)) if within_one_error(population, pooled) else (1.0, pooled)


def _mixed(effects: RandomEffects, part: TrainingPart, share: float) -> FloatArray:
    return effects.mean + share * (part.pooled - effects.mean)


def _mse_by_penalty(effects: RandomEffects, episodes: Episodes) -> FloatArray:
    path = ridge_path(effects.mean, effects.new_task_cov, supports(episodes), _INVERSE_PENALTIES)
    return np.array([mean_squares(episodes, residuals(episodes, theta)) for theta in path])
