"""Sums over all tasks of a fitted table, from which its population is estimated again as tasks join and grow.

At the choices that were made (scales, curves, candidates, weights, variances) the population's coefficients and the
noise of every candidate depend on the tasks through sums alone. Sums of further tasks are added; of a task that has
more rows than before, its part is exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, final

import numpy as np

from innerloop._base.checks import FloatArray, IntArray, as_count
from innerloop._base.threads import one_thread
from innerloop.adaptation.predictor import Mixture
from innerloop.adaptation.random_effects import RandomEffects, solve_mean, sums_at
from innerloop.adaptation.restricted_likelihood import Sums
from innerloop.adaptation.rules import Ridge
from innerloop.adaptation.scale_mixture import ScaledRidge
from innerloop.data.episodes import PROTOCOLS, Protocol
from innerloop.data.row_blocks import MOST_NUMBERS
from innerloop.data.tasks import TaskSet
from innerloop.exact._factor import triangle
from innerloop.exact.objective import MetaObjective
from innerloop.tabular.adaptation_choice import AdaptationChoice
from innerloop.tabular.comparison import Model, TrainingPart
from innerloop.tabular.kinds import FeatureGradient, Gradient, Unadapted, UsedRates, gradient_steps
from innerloop.tabular.rate_choice import Rates

# In place of a model: of a candidate that has no weight, which stays as it is, and of one by gradient steps.
STAYS, BY_STEPS = -1, -2
# Share of a sum of squares that is left when tasks are taken out, at least: as many digits are lost.
_LEAST_LEFT = 1e-8


@final
@dataclass(frozen=True)
class Protocols:
    """How episodes are made for the objective of gradient steps."""

    protocol: Protocol
    n_support: int
    n_query: int | None
    n_steps: int
    seed: int

    def check(self) -> None:
        """Refuse what no fit can have: the values may be those of a file."""
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"the protocol is {self.protocol!r}")
        least = {"n_support": 1, "n_steps": 1, "seed": 0} | ({} if self.n_query is None else {"n_query": 1})
        for name, minimum in least.items():
            as_count(getattr(self, name), name, minimum)

    def objective(self, tasks: TaskSet, by_ids: bool = False) -> MetaObjective:
        """Return the objective of tasks in scaled units.

        Which rows are support is drawn for the place of each task among these, or with `by_ids` for its id.
        """
        tasks = (tasks if by_ids else tasks.nameless()).whitened()
        n_query = self.n_query if self.protocol == "split" else None
        return MetaObjective.from_episodes(
            tasks.episodes(self.protocol, self.n_support, n_query, self.seed), self.n_steps
        )


@final
class TotalSums:
    """The sums over all tasks at any covariance, and the mean and the noise of models that follow from them.

    Parameters
    ----------
    make
        From the covariances of models to `flat_sums` over all tasks; called once for each model.
    n_tasks, n_rows
    intercept, l2
        As in `innerloop.adaptation.random_effects.solve_mean`.
    """

    def __init__(
        self, make: Callable[[FloatArray], FloatArray], n_tasks: int, n_rows: int, intercept: bool, l2: float | None
    ) -> None:
        self.n_tasks, self.n_rows, self.intercept, self.l2 = n_tasks, n_rows, intercept, l2
        self._make, self._found = make, dict[bytes, FloatArray]()

    def at(self, task_cov: FloatArray) -> FloatArray:
        """Return the sums of each target: (n_targets, n_sums)."""
        key = task_cov.tobytes()
        if key not in self._found:
            self._found[key] = self._make(task_cov[None])[0]
        return self._found[key]

    def update(self, effects: RandomEffects) -> RandomEffects:
        """Return the effects with the mean and the noise of all tasks."""
        return _solved(effects, self.at(effects.task_cov), self.n_rows, self.intercept, self.l2)


@final
@dataclass(frozen=True, eq=False)
class PopulationSums:
    """Sums over all tasks, and what is estimated from them.

    Parameters
    ----------
    task_cov : (n_models, n_targets, n_columns, n_columns)
        Covariance of tasks' coefficients of each model, relative to the noise variance.
    precision : (n_models, n_targets, n_columns)
        Of the priors of the population's coefficients.
    totals : (n_models, n_targets, n_sums)
        From `flat_sums`.
    mean_of, spread_of : (n_members,)
        The model whose mean each member of the mixture has, and that of its covariance and noise; or `STAYS`,
        `BY_STEPS`.
    main
        The model that describes the table.
    n_tasks, n_rows
        In the sums.
    l2
        The penalty that was given; NaN where it was estimated.
    objective
        Of gradient steps, where the mixture takes some.
    episodes
        How it is made of tasks.
    """

    task_cov: FloatArray = field(repr=False)
    precision: FloatArray = field(repr=False)
    totals: FloatArray = field(repr=False)
    mean_of: IntArray
    spread_of: IntArray
    main: int
    n_tasks: int
    n_rows: int
    l2: float
    objective: MetaObjective | None = None
    episodes: Protocols | None = None

    @classmethod
    def of(
        cls,
        choice: AdaptationChoice,
        whole: TrainingPart,
        sums: TotalSums,
        episodes: Protocols,
    ) -> PopulationSums | None:
        """Return the sums behind the candidates that have a weight.

        None with rates of each feature: coefficients and rates then follow from rows, not from sums.
        """
        if any(isinstance(kind, FeatureGradient) for kind in choice.candidates):
            return None
        models: dict[Model | None, RandomEffects] = {}  # None: pooled
        mean_of, spread_of = (np.full(len(choice.candidates), STAYS) for _ in range(2))
        objective: MetaObjective | None = None
        for k, (kind, weight) in enumerate(zip(choice.candidates, choice.weight.T, strict=True)):
            if weight.any():
                models.setdefault(kind.model, whole.effects(kind.model))
                spread_of[k] = mean_of[k] = list(models).index(kind.model)
                if isinstance(kind, Unadapted):
                    models[None] = whole.pooled_effects()
                    mean_of[k] = list(models).index(None)
                elif isinstance(kind, Gradient):
                    assert whole.gradient is not None
                    objective, mean_of[k] = whole.gradient[1], BY_STEPS
        return cls(
            task_cov=np.array([effects.task_cov for effects in models.values()]),
            precision=np.array([effects.precision for effects in models.values()]),
            totals=np.array([sums.at(effects.task_cov) for effects in models.values()]),
            mean_of=mean_of,
            spread_of=spread_of,
            main=list(models).index(choice.main.model),
            n_tasks=sums.n_tasks,
            n_rows=sums.n_rows,
            l2=np.nan if sums.l2 is None else sums.l2,
            objective=objective,
            episodes=None if objective is None else episodes,
        )

    def exchanged(self, before: TaskSet, after: TaskSet) -> PopulationSums:
        """Return the sums with some tasks in place of others; both in scaled units, without weights."""
        parts = [flat_sums(self.task_cov, tasks) for tasks in (before, after)]
        n_rows = [int(tasks.original_sizes.sum()) for tasks in (before, after)]
        totals = self.totals - parts[0] + parts[1]
        width = before.n_features
        squares = [*range(0, width * width, width + 1), width * width + width]  # of features and of targets
        if (totals[..., squares] < _LEAST_LEFT * self.totals[..., squares]).any():
            raise ValueError(
                "groups that have adapted on other rows since held nearly all of a sum over the population, so that "
                "rounding hides what is left of it; fit the model again."
            )
        return replace(
            self,
            totals=totals,
            n_tasks=self.n_tasks - len(before) + len(after),
            n_rows=self.n_rows - n_rows[0] + n_rows[1],
        )

    def joined(self, totals: FloatArray, n_tasks: int, n_rows: int, objective: MetaObjective | None) -> PopulationSums:
        """Return the sums with those of further tasks."""
        if self.objective is not None and objective is not None:
            objective = self.objective + objective
        return replace(
            self,
            totals=self.totals + totals,
            n_tasks=self.n_tasks + n_tasks,
            n_rows=self.n_rows + n_rows,
            objective=self.objective if objective is None else objective,
        )

    def with_episodes(self, tasks: TaskSet) -> PopulationSums:
        """Return the sums with the episodes of further tasks in the objective of gradient steps, if there is one."""
        if self.objective is None or self.episodes is None:
            return self
        return replace(self, objective=self.objective + self.episodes.objective(tasks, by_ids=True))

    def solve(self, predictor: Mixture, rates: UsedRates, intercept: bool) -> tuple[Mixture, RandomEffects]:
        """Return the mixture and the main model, with the coefficients and the noise of all tasks in the sums.

        Parameters
        ----------
        predictor
            Its weights and rules stay, and the scales of tasks.
        rates
            Of gradient steps, if there are some.
        intercept
            Whether the last column is the intercept.
        """
        with one_thread(self.task_cov.shape[-1]):
            models = [
                _solved(_unsolved(cov, precision), flat, self.n_rows, intercept, None if np.isnan(self.l2) else self.l2)
                for cov, precision, flat in zip(self.task_cov, self.precision, self.totals, strict=True)
            ]
            members, task_cov, noise = list(predictor.members), predictor.task_cov.copy(), predictor.noise.copy()
            for k in np.flatnonzero(self.spread_of != STAYS):
                effects = models[self.spread_of[k]]
                task_cov[k], noise[k] = effects.new_task_cov, effects.noise
                if self.mean_of[k] == BY_STEPS:
                    assert self.objective is not None
                    of_steps = Rates(*map(float, rates))
                    members[k] = gradient_steps(self.objective, of_steps, self.objective.n_steps)
                    continue
                rule = members[k].rule
                if isinstance(rule, Ridge):
                    rule = Ridge(effects.new_task_cov)
                elif isinstance(rule, ScaledRidge):
                    rule = ScaledRidge(effects.new_task_cov, effects.noise, rule.weight)
                members[k] = replace(members[k], coef=models[self.mean_of[k]].mean, rule=rule)
        return replace(predictor, members=tuple(members), task_cov=task_cov, noise=noise), models[self.main]

    def to_state(self) -> tuple[dict[str, Any] | None, dict[str, dict[str, Any]]]:
        """Return how episodes are made, as values that JSON can hold, and arrays by part, for `from_state`."""
        names = ("task_cov", "precision", "totals", "mean_of", "spread_of", "main", "n_tasks", "n_rows", "l2")
        parts = {"sums": {name: getattr(self, name) for name in names}}
        if self.objective is None or self.episodes is None:
            return None, parts
        factor = triangle(self.objective.factor)  # which may hold rows of the data as they are
        square = np.pad(factor, ((0, factor.shape[1] - len(factor)), (0, 0)))
        parts["objective"] = {"factor": square, "weight": self.objective.weight, "n_tasks": self.objective.n_tasks}
        return asdict(self.episodes), parts

    @classmethod
    def from_state(
        cls, episodes: Mapping[str, Any] | None, parts: Mapping[str, Mapping[str, Any]], single_target: bool
    ) -> PopulationSums:
        """Return the sums that `to_state` described."""
        values = dict(parts["sums"])
        values |= {name: int(values[name]) for name in ("main", "n_tasks", "n_rows")} | {"l2": float(values["l2"])}
        if episodes is None:
            return cls(**values)
        n_targets, n_columns = values["precision"].shape[1:]
        protocols, of_steps = Protocols(**episodes), parts["objective"]
        sizes = n_columns, n_targets, protocols.n_steps, float(of_steps["weight"]), int(of_steps["n_tasks"])
        return cls(**values, objective=MetaObjective(of_steps["factor"], *sizes, single_target), episodes=protocols)


def flat_sums(task_cov: FloatArray, tasks: TaskSet, most_numbers: int = MOST_NUMBERS) -> FloatArray:
    """Return the sums over tasks at each model's covariance, each target's in a row: (n_models, n_targets, n_sums).

    See `innerloop.adaptation.random_effects.sums_at`.
    """
    return np.array(
        [
            [np.concatenate((s.moments.ravel(), s.cross, [s.square, s.log_det, s.raw_square])) for s in of_model]
            for of_model in sums_at(task_cov, tasks, most_numbers)
        ]
    )


def n_sums(n_columns: int) -> int:
    """Return how many numbers `flat_sums` has for each target."""
    return n_columns * n_columns + n_columns + 3


def _solved(effects: RandomEffects, flat: FloatArray, n_rows: int, intercept: bool, l2: float | None) -> RandomEffects:
    """Return the effects with the mean and the noise that follow from sums."""
    width, sums = len(effects.mean), list[Sums]()
    for of_target in flat:
        moments, cross, rest = np.split(of_target, [width * width, width * width + width])
        sums.append(Sums(moments.reshape(width, width), cross, *map(float, rest)))
    return solve_mean(effects, sums, n_rows, intercept=intercept, l2=l2)


def _unsolved(task_cov: FloatArray, precision: FloatArray) -> RandomEffects:
    """Return a model of which the covariance and the precisions alone are known."""
    n_targets, width = precision.shape
    return RandomEffects(np.zeros((width, n_targets)), task_cov, task_cov, np.ones(n_targets), precision, np.nan)
