"""How tasks are to adapt: the choice by cross-validation over tasks, and intervals calibrated in the same folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.seeds import Stream, stream
from innerloop._base.standard_errors import mean_and_error
from innerloop.adaptation.predictor import Predictor, Trial, trials
from innerloop.adaptation.random_effects import RandomEffects, Structure, enough, estimate_effects
from innerloop.adaptation.rules import NoAdaptation
from innerloop.adaptation.scale_mixture import N_PARAMETERS, estimate_scales
from innerloop.data.tasks import TaskSet
from innerloop.tabular.intervals import Calibration
from innerloop.tabular.spread import Spread

Kind = Literal["none", "gradient", "ridge"]

# Numbers of adaptation rows at which methods are compared and intervals calibrated: a new task may bring any.
LADDER = (0, 1, 2, 5, 10, 20)
# Multiples of the estimated covariance of tasks: with few rows, fewer differences can be told from noise that is
# not normal, or not the same in all tasks, than the likelihood believes.
STRENGTHS = np.exp2(np.arange(-2.0, 3.0))
_PLAIN = 2  # the place of 1
# The coefficients of more features than this are not given correlations.
_MOST_CORRELATED = 32
_MOST_SCORED_TASKS = 2_000

# So few tasks tell neither how scales differ nor, by their errors, whether these are lower.
_FEW_TASKS = 10
# Very many tasks can tell gains that are worth nothing from none.
_LEAST_GAIN = 1e-3
_TINY = np.finfo(float).tiny

Errors = dict[int, FloatArray]
_T = TypeVar("_T")


@final
@dataclass(frozen=True, eq=False)
class Way:
    """A way to adapt, to be fitted on any tasks.

    Parameters
    ----------
    kind
    structure
        Of the tasks' covariance.
    n_rows, strength : (n_points,)
        Strength of the ridge at numbers of adaptation rows; see `innerloop.adaptation.rules.Ridge`.
    scaled
        Whether tasks are taken to differ in scale; see `innerloop.adaptation.scale_mixture`.
    pooled
        Share of the pooled ridge in the coefficients of unseen tasks; the rest is the population's.
    """

    kind: Kind
    structure: Structure
    n_rows: FloatArray
    strength: FloatArray
    scaled: bool
    pooled: float

    def spread(self, effects: RandomEffects, tasks: TaskSet) -> Spread:
        """Return what the effects and, where tasks differ in scale, these tasks say of the accuracy."""
        has_scales = self.scaled and self.kind == "ridge"
        scale_weight = estimate_scales(tasks, effects).weight if has_scales else np.empty((len(effects.noise), 0))
        return Spread(effects.new_task_cov, effects.noise, self.n_rows, self.strength, scale_weight)

    def predictor(self, effects: RandomEffects, spread: Spread, fitted: dict[Kind, Predictor]) -> Predictor:
        """Return the predictor, given what its kinds are made of."""
        if self.kind != "ridge":
            return fitted[self.kind]
        return Predictor(effects.mean, _mixed(effects, fitted["none"], self.pooled), spread.ridge())


@final
@dataclass(frozen=True, eq=False)
class Choice:
    """The way to adapt, with what held-out tasks say of it.

    Parameters
    ----------
    way
    effects
        Estimated from all tasks, or as many as suffice, in the structure of the way.
    calibration
        For prediction intervals.
    results
        Columns "adaptation", "n_support", "mse", "mse_se" and the paired "difference" to the chosen kind with its
        "difference_se".
    """

    way: Way
    effects: RandomEffects
    calibration: Calibration
    results: dict[str, NDArray[Any]] = field(repr=False)


@final
class Comparison:
    """Held-out tasks in folds, with what was fitted on the tasks of the other folds.

    Parameters
    ----------
    tasks
        In scaled units.
    fold : (n_tasks,)
    fitted
        For each fold, predictors by kind; "none" is the pooled ridge.
    ladder
        Numbers of adaptation rows.
    options
        Of `estimate_effects`.
    """

    def __init__(
        self,
        tasks: TaskSet,
        fold: IntArray,
        fitted: Sequence[dict[Kind, Predictor]],
        ladder: Sequence[int],
        options: dict[str, Any],
    ) -> None:
        seed = options["seed"]
        scored = np.sort(stream(seed, Stream.SCORED_TASKS).permutation(len(tasks))[:_MOST_SCORED_TASKS])
        self._fitted = fitted
        self._rest = [enough(tasks, seed, fold != f if fold.any() else None) for f in range(len(fitted))]
        self._options = options
        self._some = enough(tasks, seed)
        self._whole: dict[Structure, RandomEffects] = {"diagonal": estimate_effects(self._some, **options)}
        own = fold[scored]
        self._trials = {
            n: [[trial.select(own == f) for f in range(len(fitted))] for trial in made]
            for n, made in trials(tasks.select(scored), ladder, seed).items()
        }

    def choose(self, kinds: Sequence[Kind], n_support: int | None) -> Choice:
        """Return the best of some kinds, given from simple to rich, of which a richer one must be worth it.

        That is over the deciding numbers of adaptation rows: `n_support` or, where that is None, all of the ladder.
        """
        deciding = [n for n in self._trials if n_support in (None, n)] or list(self._trials)
        ridge = self._ridge(deciding) if "ridge" in kinds else self._plain("diagonal")
        errors: dict[Kind, Errors] = {"ridge": ridge.errors} if "ridge" in kinds else {}
        for kind in kinds:
            if kind != "ridge":
                errors[kind] = self._errors([fitted[kind] for fitted in self._fitted])
        kind = kinds[0]
        for richer in kinds[1:]:
            if _is_worth_it(richer, errors[richer], errors[kind], deciding):
                kind = richer
        way = Way(kind, ridge.structure, ridge.n_rows, ridge.strength, ridge.scaled, ridge.pooled)
        calibration = self._calibration(self._predictors(way, ridge.effects), ridge.effects)
        return Choice(way, self._whole[way.structure], calibration, _table(errors, kind))

    def _ridge(self, deciding: Sequence[int]) -> _Ridge:
        """Return the ridge with correlations, and with scales, where these make it better beyond a standard error.

        Either is tried where it raises the likelihood by as much as its parameters are worth (Akaike).
        """
        ridge = self._tuned("diagonal", None)
        if self._may_correlate():
            full = self._tuned("full", ridge)
            is_beyond_error = not all(_as_good(ridge.errors[n], full.errors[n]) for n in deciding)
            if is_beyond_error and _score(full.errors, deciding) < _score(ridge.errors, deciding):
                ridge = full
        log_ratio = estimate_scales(self._some, self._whole[ridge.structure]).log_ratio
        if len(self._some) <= _FEW_TASKS or log_ratio < 2 * N_PARAMETERS * len(ridge.effects[0].noise):
            return ridge
        scaled = self._scaled(ridge)
        return scaled if _better_in_ratio(scaled.errors, ridge.errors, deciding) else ridge

    def _may_correlate(self) -> bool:
        """Return whether correlations raise the likelihood by as much as they are worth."""
        p, diagonal = self._some.n_features, self._whole["diagonal"]
        if p > _MOST_CORRELATED:
            return False
        full = estimate_effects(self._some, "full", **self._options, start=diagonal)
        self._whole["full"] = full
        return diagonal.deviance - full.deviance > len(full.noise) * p * (p - 1)

    def _plain(self, structure: Structure, simpler: _Ridge | None = None) -> _Ridge:
        starts = [self._whole["diagonal"]] * len(self._rest) if simpler is None else simpler.effects
        effects = [
            estimate_effects(rest, structure, **self._options, start=start)
            for rest, start in zip(self._rest, starts, strict=True)
        ]
        return _Ridge(structure, effects, np.ones(1), np.ones(1), False, 0.0, {})

    def _tuned(self, structure: Structure, simpler: _Ridge | None) -> _Ridge:
        """Return the ridge of one structure with its strength at every number of rows, and its errors.

        A full one builds on a diagonal one, `simpler`.
        """
        plain = self._plain(structure, simpler)
        pooled, unseen = self._unseen(plain.effects)
        errors, strengths = {0: unseen}, {}
        for n in self._trials:
            if n:
                by_strength = self._over_splits(n, plain.effects, _by_strength)
                best = int(np.argmin(by_strength.mean(axis=1)))
                chosen = _PLAIN if _as_good(by_strength[_PLAIN], by_strength[best]) else best
                strengths[n], errors[n] = STRENGTHS[chosen], by_strength[chosen]
        n_rows, strength = (np.array(list(part), dtype=float) for part in (strengths.keys(), strengths.values()))
        if not strengths:
            n_rows, strength = plain.n_rows, plain.strength
        return _Ridge(structure, plain.effects, n_rows, strength, False, pooled, errors)

    def _unseen(self, effects: Sequence[RandomEffects]) -> tuple[float, FloatArray]:
        """Return the share of the pooled ridge in the coefficients of unseen tasks, and the errors with it.

        Where it is better, that is all beyond a standard error, and half within: the error of a mean of two
        predictions is below the mean of theirs.
        """

        def errors(share: float) -> FloatArray:
            ends = zip(effects, self._fitted, strict=True)
            coefs = [_mixed(own, fitted["none"], share) for own, fitted in ends]
            return self._errors([Predictor(coef, coef, NoAdaptation()) for coef in coefs], [0])[0]

        plain, pooled = errors(0.0), errors(1.0)
        if pooled.mean() >= plain.mean():
            return 0.0, plain
        return (0.5, errors(0.5)) if _as_good(plain, pooled) else (1.0, pooled)

    def _scaled(self, ridge: _Ridge) -> _Ridge:
        """Return the ridge for tasks that differ in scale, which leaves no strength to tune, and its errors."""
        way = Way("ridge", ridge.structure, np.ones(1), np.ones(1), True, ridge.pooled)
        errors = self._errors(self._predictors(way, ridge.effects))
        return ridge._replace(n_rows=way.n_rows, strength=way.strength, scaled=True, errors=errors)

    def _predictors(self, way: Way, effects: Sequence[RandomEffects]) -> list[Predictor]:
        """Return the predictor of every fold."""
        spreads = map(way.spread, effects, self._rest)
        return [way.predictor(*parts) for parts in zip(effects, spreads, self._fitted, strict=True)]

    def _errors(self, predictors: Sequence[Predictor], numbers_of_rows: Sequence[int] | None = None) -> Errors:
        """Return each task's mean squared error, by the predictor of its fold, at numbers of adaptation rows."""
        numbers = self._trials if numbers_of_rows is None else numbers_of_rows
        return {n: self._over_splits(n, predictors, Trial.mse) for n in numbers}

    def _over_splits(self, n: int, fitted: Sequence[_T], mse: Callable[[Trial, _T], FloatArray]) -> FloatArray:
        """Return the mean over splits of the errors (..., n_tasks) of trials by what was fitted without their fold."""
        by_split = []
        for parts in self._trials[n]:
            tasks = np.concatenate([part.tasks for part in parts])
            errors = np.concatenate([mse(part, own) for part, own in zip(parts, fitted, strict=True)], axis=-1)
            by_split.append(errors[..., np.argsort(tasks)])
        return np.asarray(np.mean(by_split, axis=0))

    def _calibration(self, predictors: Sequence[Predictor], effects: Sequence[RandomEffects]) -> Calibration:
        residuals: dict[int, list[tuple[FloatArray, IntArray]]] = {n: [] for n in self._trials}
        for n, splits in self._trials.items():
            for parts in splits:
                for part, predictor, own in zip(parts, predictors, effects, strict=True):
                    spread = np.sqrt(own.noise * part.variance(predictor, own.new_task_cov))
                    residuals[n].append((part.residuals(predictor) / spread, part.tasks[part.task_of_row]))
        return Calibration.of(residuals)


class _Ridge(NamedTuple):
    """A ridge in every fold, and its errors."""

    structure: Structure
    effects: list[RandomEffects]
    n_rows: FloatArray
    strength: FloatArray
    scaled: bool
    pooled: float
    errors: Errors


def _mixed(effects: RandomEffects, pooled: Predictor, share: float) -> FloatArray:
    return effects.mean + share * (pooled.coef - effects.mean)


def _by_strength(part: Trial, effects: RandomEffects) -> FloatArray:
    return part.mse_by_strength(effects, STRENGTHS)


def _score(errors: Errors, deciding: Sequence[int]) -> float:
    """Return the mean logarithm of the errors: kinds compare by ratios, alike at every number of rows."""
    return float(_over_rows([np.log(max(errors[n].mean(), _TINY)) for n in deciding], errors, deciding))


def _over_rows(values: Sequence[Any], errors: Errors, deciding: Sequence[int]) -> FloatArray:
    """Return the mean over numbers of rows, weighted by the tasks that have so many: a few long ones decide little.

    One task alone has no standard error; its number of rows is left out.
    """
    counts = np.array([len(errors[n]) for n in deciding])
    used = counts > 1 if (counts > 1).any() else counts > 0
    return np.asarray(np.average(np.array(values)[used], axis=0, weights=counts[used]))


def _as_good(errors: FloatArray, best: FloatArray) -> bool:
    excess, error = mean_and_error(errors - best)
    return excess <= error


def _is_worth_it(kind: Kind, errors: Errors, simpler: Errors, deciding: Sequence[int]) -> bool:
    """Return whether to adapt in a way that is richer than another one, given the errors of both.

    A gradient step is worth it where it lowers errors on average by more than a standard error. A ridge is itself
    cautious, as it has learned how little tasks differ: within a standard error it is worth it where errors are lower
    on average or task by task, and wherever tasks are too few to tell.
    """
    gains = [np.array(mean_and_error(simpler[n] - errors[n])) / max(simpler[n].mean(), _TINY) for n in deciding]
    gain, error = _over_rows(gains, errors, deciding)
    if kind != "ridge" or abs(gain) > error:
        return bool(gain > error)
    is_few = max(len(errors[n]) for n in deciding) <= _FEW_TASKS
    return is_few or max(gain, _ratio(errors, simpler, deciding)[0]) > _LEAST_GAIN


def _better_in_ratio(errors: Errors, others: Errors, deciding: Sequence[int]) -> bool:
    """Return whether errors are lower, task by task: of tasks of unequal noise a few would decide a mean of errors."""
    gain, error = _ratio(errors, others, deciding)
    return gain > max(error, _LEAST_GAIN)


def _ratio(errors: Errors, others: Errors, deciding: Sequence[int]) -> tuple[float, float]:
    """Return by how much the errors' logarithms are lower on average, and the standard error of that."""
    ratios = [np.log(np.maximum(others[n], _TINY) / np.maximum(errors[n], _TINY)) for n in deciding]
    gain, error = _over_rows([mean_and_error(ratio) for ratio in ratios], errors, deciding)
    return float(gain), float(error)


def _table(errors: dict[Kind, Errors], chosen: Kind) -> dict[str, NDArray[Any]]:
    rows = [
        (kind, n, *mean_and_error(mse), *mean_and_error(mse - errors[chosen][n]))
        for kind, own in errors.items()
        for n, mse in own.items()
    ]
    names = ("adaptation", "n_support", "mse", "mse_se", "difference", "difference_se")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
