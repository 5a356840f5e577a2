"""Kinds of adaptation, as candidates: each is fitted to any training tasks.

A kind is a class; to add one, write its class here and let `innerloop.tabular.training` offer it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.adaptation.predictor import Predictor
from innerloop.adaptation.rules import Adaptation, GradientSteps, NoAdaptation, Ridge
from innerloop.adaptation.scale_mixture import ScaledRidge, estimate_scales
from innerloop.data.episodes import Episodes
from innerloop.exact.meta_sgd import RateObjective, solve_meta_sgd
from innerloop.exact.objective import MetaObjective
from innerloop.exact.solve import solve_unwarned
from innerloop.tabular.comparison import Model, TrainingPart
from innerloop.tabular.rate_choice import Rates

# Weights of the term that shrinks rates of features to a common one (see `innerloop.exact.meta_sgd`), and the number
# of alternating solves for each.
_RATE_SHRINKAGES = (np.inf, 10.0, 1.0, 0.1, 0.01)
_N_SWEEPS = 5

# Values of the parameter `adaptation`.
Adaptations = Literal["auto", "none", "gradient", "ridge"]

# Types of rule by name, for files.
RULES: dict[str, type[Adaptation]] = {rule.__name__: rule for rule in (NoAdaptation, GradientSteps, Ridge, ScaledRidge)}


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
    model
        Random-effects model behind the variance of its predictions.
    """

    name: ClassVar[str]
    model: Model = Model("diagonal")

    @property
    @abstractmethod
    def label(self) -> str:
        """Name in tables."""

    @abstractmethod
    def fit(self, part: TrainingPart) -> Predictor:
        """Return the predictor fitted to these training tasks."""


@final
@dataclass(frozen=True, eq=False)
class Unadapted(Kind):
    """One pooled ridge for all tasks, whatever rows they bring."""

    name = "none"
    model = Model("intercept")
    label = "none"

    def fit(self, part: TrainingPart) -> Predictor:
        """Return the pooled ridge."""
        return Predictor(part.pooled_effects().mean, NoAdaptation())


@final
@dataclass(frozen=True, eq=False)
class RandomEffectsRidge(Kind):
    """Ridge towards the population's coefficients, its metric the covariance of tasks' coefficients.

    Parameters
    ----------
    model
    has_scales
        Whether tasks are taken to differ in scale too; see `innerloop.adaptation.scale_mixture`.
    """

    name = "ridge"

    model: Model
    has_scales: bool = False

    @property
    def label(self) -> str:
        """Name in tables: the structure of the covariance, and "curved"."""
        return f"ridge, {'curved ' if self.model.is_curved else ''}{self.model.structure}"

    def fit(self, part: TrainingPart) -> Predictor:
        """Return the population's coefficients and the ridge."""
        effects = part.effects(self.model)
        rule: Adaptation = Ridge(effects.new_task_cov)
        if self.has_scales:
            rule = ScaledRidge(effects.new_task_cov, effects.noise, estimate_scales(part.sample, effects).weight)
        return Predictor(effects.mean, rule)


@final
@dataclass(frozen=True, eq=False)
class Gradient(Kind):
    """Gradient steps from coefficients that were meta-trained for them."""

    name = "gradient"

    chosen: Rates
    n_steps: int

    @property
    def label(self) -> str:
        """Name in tables; without adaptation where the rate is 0."""
        return "gradient" if self.chosen.adapt_lr else "none"

    def fit(self, part: TrainingPart) -> Predictor:
        """Return the meta-trained coefficients and the steps."""
        assert part.gradient is not None
        return gradient_steps(part.gradient[1], self.chosen, self.n_steps)


@final
@dataclass(frozen=True, eq=False)
class FeatureGradient(Kind):
    """One gradient step with a learning rate for each feature, the same in training and in adaptation.

    Parameters
    ----------
    start
        Rates of the best gradient step.
    shrinkage
        How strongly the rates are shrunk to a common one.
    """

    name = "gradient"
    label = "gradient"

    start: Rates
    shrinkage: float

    @classmethod
    def tune(cls, start: Rates, parts: Sequence[TrainingPart], held_out: Sequence[Episodes]) -> FeatureGradient:
        """Choose the shrinkage by the errors of held-out tasks."""
        losses = dict.fromkeys(_RATE_SHRINKAGES, 0.0)
        for part, episodes in zip(parts, held_out, strict=True):
            assert part.gradient is not None
            for shrinkage in losses:
                coef, rates = cls(start, shrinkage)._solve(part.gradient[0])
                losses[shrinkage] += RateObjective.of(episodes, coef)(rates)
        return cls(start, min(losses, key=losses.__getitem__))

    def fit(self, part: TrainingPart) -> Predictor:
        """Return coefficients and rates by alternating least squares."""
        assert part.gradient is not None
        coef, rates = self._solve(part.gradient[0])
        return Predictor(coef, GradientSteps(rates))

    def _solve(self, episodes: Episodes) -> tuple[FloatArray, FloatArray]:
        return solve_meta_sgd(episodes, self.start.adapt_lr, self.start.l2, self.shrinkage, _N_SWEEPS)


def gradient_steps(objective: MetaObjective, rates: Rates, n_steps: int) -> Predictor:
    """Return the meta-trained coefficients with gradient steps; without adaptation where adapt_lr is 0."""
    coef = solve_unwarned(objective, [rates.inner_lr], None, [rates.l2]).coef.reshape(objective.n_features, -1)
    return Predictor(coef, GradientSteps(rates.adapt_lr, n_steps) if rates.adapt_lr else NoAdaptation())
