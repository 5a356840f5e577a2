"""All tasks of a table, after a sample of them decided everything but the population's coefficients.

What is chosen on the sample (scales, curves, candidates, weights, variances, calibration) stays. The coefficients and
the noise of every candidate are then estimated from sums over all tasks, and all tasks adapt from them. Sums are made
leaf by leaf and added in the order of leaves, so that they do not depend on who computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.ragged import ragged_ranges, row_starts
from innerloop._base.threads import arithmetic, one_thread
from innerloop._blocks.store import Arrays
from innerloop.adaptation.predictor import Mixture
from innerloop.data.curves import Curves
from innerloop.data.population import Extremes, Population, TasksInMemory, sample_size
from innerloop.data.row_blocks import IN_CACHE, reduced
from innerloop.data.scaling import Scaling
from innerloop.data.tasks import TaskSet
from innerloop.tabular.comparison import Estimates, Model, TrainingPart
from innerloop.tabular.fitted_table import FittedTable
from innerloop.tabular.kinds import Gradient, Unadapted
from innerloop.tabular.known_groups import KnownGroups
from innerloop.tabular.population_sums import PopulationSums, Protocols, TotalSums, flat_sums, n_sums
from innerloop.tabular.training import TrainedTable


@final
@dataclass(frozen=True, eq=False)
class Design:
    """From rows in the units of the data to those that predictors take: scaled, with the columns of curves."""

    scaling: Scaling
    curves: Curves

    def tasks(self, tasks: TaskSet) -> TaskSet:
        """Return tasks in scaled units, with the columns of curves; they may have weights."""
        return self.curves.tasks(self.scaling.tasks(tasks), self.scaling.intercept)


@final
@dataclass(frozen=True, eq=False)
class SumLeaves:
    """The sums over the tasks of a unit of a population, leaf by leaf, as a function of the unit's number.

    Parameters
    ----------
    population
    design
    covariances : (n_models, n_targets, n_columns, n_columns)
        Of tasks' coefficients, at which sums are made.
    episodes
        For the objective of gradient steps; None where none is needed.
    """

    population: Population
    design: Design
    covariances: FloatArray
    episodes: Protocols | None

    def __call__(self, unit: int) -> Arrays:
        """Return "counts" (n_leaves, 3) of tasks, rows and bytes of an id, "sums", and the factors of objectives.

        "arithmetic" says what their bits depend on besides.
        """
        width = self.covariances.shape[-1]
        parts: dict[str, list[Any]] = {"counts": [], "sums": [], "factor": [], "weight": []}
        with one_thread(width):
            for leaf in self.population.leaves(unit):
                tasks = self.design.tasks(leaf)
                rows = tasks.whitened()
                if leaf.n_rows > (width + 1) * len(leaf):  # then reduced rows are fewer, and serve every covariance
                    rows = reduced(rows)
                parts["counts"].append((len(leaf), leaf.n_rows, leaf.ids.dtype.itemsize))
                parts["sums"].append(flat_sums(self.covariances, rows, IN_CACHE))
                if self.episodes is not None:
                    objective = self.episodes.objective(tasks)
                    factor = np.asarray(np.linalg.qr(objective.factor, mode="r"))
                    parts["factor"].append(np.pad(factor, ((0, factor.shape[1] - len(factor)), (0, 0))))
                    parts["weight"].append((objective.weight, objective.n_tasks))
        shape = (-1, *self.covariances.shape[:2], n_sums(width))
        return {
            "counts": np.array(parts["counts"], dtype=np.int64).reshape(-1, 3),
            "sums": np.array(parts["sums"], dtype=float).reshape(shape),
            "arithmetic": np.array([arithmetic()]),
            **({} if not parts["factor"] else {name: np.array(parts[name]) for name in ("factor", "weight")}),
        }


@final
@dataclass(frozen=True, eq=False)
class AdaptLeaves:
    """The coefficients of the tasks of a unit, as a function of the unit's number.

    Parameters
    ----------
    population, design
    predictor
        In scaled units.
    keeps_rows
        Whether their reduced rows are returned too, from which the width of intervals and updates follow.
    """

    population: Population
    design: Design
    predictor: Mixture
    keeps_rows: bool

    def __call__(self, unit: int) -> Arrays:
        """Return "ids", "n_rows" and "coef" of the tasks in their order, and "X", "y" and "sizes" of reduced rows."""
        parts: dict[str, list[Any]] = {}
        with one_thread(len(self.predictor.unseen)):
            for leaf in self.population.leaves(unit):
                rows = self.design.tasks(leaf).whitened()
                are_long = leaf.n_rows > sum(self.predictor.unseen.shape) * len(leaf)
                fewer = reduced(rows) if are_long or self.keeps_rows else rows
                coef = self.predictor.adapt(fewer if are_long else rows)  # the same bits with and without rows
                found = {"ids": leaf.ids, "n_rows": leaf.sizes, "coef": coef}
                if self.keeps_rows:
                    found |= {"X": fewer.X, "y": fewer.y, "sizes": fewer.sizes}
                for name, values in found.items():
                    parts.setdefault(name, []).append(values)
        return {name: np.concatenate(values) for name, values in parts.items()}


@final
@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be estimated from all tasks, given the table that was trained on a sample of them.

    Parameters
    ----------
    trained
    estimates
        Random-effects models, their variances from the whole sample.
    """

    trained: TrainedTable
    estimates: Estimates = field(repr=False)

    @classmethod
    def of(cls, trained: TrainedTable) -> Plan:
        """Estimate the variances anew from the whole sample."""
        return cls(trained, trained.estimates.of_more(trained.tasks, len(trained.tasks)))

    @staticmethod
    def design_of(trained: TrainedTable) -> Design:
        """Return the map from the units of the data to those of predictors."""
        return Design(trained.training.scaling, trained.curves)

    @property
    def models(self) -> list[Model]:
        """Random-effects models of the candidates that have a weight, and that which describes them all."""
        choice = self.trained.choice
        used = [kind.model for kind, w in zip(choice.candidates, choice.weight.T, strict=True) if w.any()]
        return list(dict.fromkeys([*used, choice.main.model]))

    def sum_leaves(self, population: Population) -> SumLeaves:
        """Return the function that sums over a unit of the population."""
        training, choice = self.trained.training, self.trained.choice
        covariances = [self.estimates(model).task_cov for model in self.models]
        if any(isinstance(kind, Unadapted) for kind in choice.candidates):
            covariances.append(np.zeros_like(covariances[0]))
        takes_steps = any(isinstance(kind, Gradient) for kind in choice.candidates)
        episodes = training.protocols() if takes_steps else None
        return SumLeaves(population, self.design_of(self.trained), np.array(covariances), episodes)

    def complete(self, covariances: FloatArray, units: Sequence[Arrays]) -> TrainedTable:
        """Return the trained table with the population's coefficients from the sums over all units, in order."""
        trained, training, choice = self.trained, self.trained.training, self.trained.choice
        n_tasks, n_rows, _ = np.concatenate([unit["counts"] for unit in units]).sum(axis=0).tolist()
        totals = np.concatenate([unit["sums"] for unit in units]).sum(axis=0)
        found = {cov.tobytes(): sums for cov, sums in zip(covariances, totals, strict=True)}
        options = training.options()
        sums = TotalSums(
            lambda task_cov: found[task_cov.tobytes()][None], n_tasks, n_rows, options["intercept"], options["l2"]
        )
        with one_thread(training.tasks.n_features):
            gradient = self._gradient(units)
            whole = TrainingPart(self.estimates, options, sums.update, gradient)
            predictor = choice.predictor
            members, task_cov, noise = list(predictor.members), predictor.task_cov.copy(), predictor.noise.copy()
            for k, (kind, weight) in enumerate(zip(choice.candidates, choice.weight.T, strict=True)):
                if weight.any():
                    effects = whole.effects(kind.model)
                    members[k], task_cov[k], noise[k] = kind.fit(whole), effects.new_task_cov, effects.noise
            predictor = replace(predictor, members=tuple(members), task_cov=task_cov, noise=noise)
            effects = whole.effects(choice.main.model)
        choice = replace(choice, predictor=predictor)
        population = PopulationSums.of(choice, whole, sums, training.protocols())
        return replace(trained, choice=choice, effects=effects, sums=population, n_all_rows=n_rows)

    def _gradient(self, units: Sequence[Arrays]) -> Any:
        """Return the training episodes of the sample with the objective of all tasks, where there is one."""
        training = self.trained.training
        if training.gradient is None:
            return None
        own, episodes = training.gradient.objective, training.gradient.folds.episodes
        objectives = [
            replace(own, factor=factor, weight=float(weight), n_tasks=int(n_tasks))
            for unit in units
            if "factor" in unit
            for factor, (weight, n_tasks) in zip(unit["factor"], unit["weight"], strict=True)
        ]
        return episodes, sum(objectives[1:], objectives[0]) if objectives else own


def sample_of(tasks: TaskSet, seed: int) -> tuple[TaskSet, Extremes | None]:
    """Return the tasks that choices are made on, with the extremes of all rows; of few tasks all, with None."""
    if len(tasks) <= sample_size().most_tasks:
        return tasks, None
    population = TasksInMemory(tasks)
    return population.sample(seed, sample_size()), population.extremes()


def fitted_table(trained: TrainedTable, tasks: TaskSet, remember: bool = True) -> tuple[TrainedTable, FittedTable]:
    """Return a table trained on the sample of `sample_of`, completed by all tasks, and the fitted table.

    Parameters
    ----------
    trained
    tasks
        All tasks, in the units of the data.
    remember
        Whether it knows them.
    """
    if len(tasks) <= sample_size().most_tasks:
        return trained, trained.table(remember)
    population, plan = TasksInMemory(tasks), Plan.of(trained)
    sum_leaves = plan.sum_leaves(population)
    trained = plan.complete(sum_leaves.covariances, [sum_leaves(unit) for unit in range(population.n_units)])
    table = trained.table(remember=False)
    if remember:
        table = _with_known(table, AdaptLeaves(population, plan.design_of(trained), table.predictor, True))
    return trained, table


def _with_known(table: FittedTable, adapt_leaves: AdaptLeaves) -> FittedTable:
    """Return the table that knows the tasks of a population in memory."""
    population = adapt_leaves.population
    assert isinstance(population, TasksInMemory)
    tasks, (p, n_targets) = population.tasks, table.predictor.unseen.shape
    starts = row_starts(np.minimum(tasks.sizes, p + n_targets))
    X, y, coef = np.empty((starts[-1], p)), np.empty((starts[-1], n_targets)), np.empty((len(tasks), p, n_targets))
    for unit in range(population.n_units):
        if found := adapt_leaves(unit):
            place = np.searchsorted(tasks.ids, found["ids"])
            rows = ragged_ranges(starts[place], found["sizes"])
            coef[place], X[rows], y[rows] = found["coef"], found["X"], found["y"]
    known = TaskSet(X, y, starts, tasks.ids, reduced_from=tasks.sizes)
    return replace(table, known=KnownGroups(known, coef))
