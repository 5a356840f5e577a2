"""The choice between candidates: weights at each number of adaptation rows, by errors on held-out tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.standard_errors import mean_and_error
from innerloop._base.threads import on_threads
from innerloop.adaptation.predictor import Mixture
from innerloop.adaptation.rules import NoAdaptation
from innerloop.tabular.comparison import Comparison, Residuals, TrainingPart
from innerloop.tabular.intervals import Calibration
from innerloop.tabular.kinds import Kind, Unadapted
from innerloop.tabular.stacking import stack


@final
@dataclass(frozen=True, eq=False)
class AdaptationChoice:
    """Candidates and their weights, with held-out errors.

    Parameters
    ----------
    candidates
    n_rows : (n_points,)
        Numbers of adaptation rows.
    weight : (n_points, n_candidates)
    predictor
        The combination, fitted to all tasks.
    calibration
        Of prediction intervals.
    results
        Columns "adaptation" (of each candidate, and "chosen" for their combination), "n_support", "weight", "mse",
        "mse_se" and the paired "difference" to the combination with its "difference_se".
    """

    candidates: Sequence[Kind]
    n_rows: FloatArray
    weight: FloatArray
    predictor: Mixture = field(repr=False)
    calibration: Calibration = field(repr=False)
    results: dict[str, NDArray[Any]] = field(repr=False)

    @property
    def main(self) -> Kind:
        """The candidate of largest weight, on average over the numbers of rows from 1 (0 if there are no others)."""
        return self.candidates[int(np.argmax(self._average()))]

    @property
    def adaptation(self) -> str:
        """Name of the kind that has the largest weight; "none" where it does not adapt."""
        totals: dict[str, float] = {}
        for kind, member, weight in zip(self.candidates, self.predictor.members, self._average(), strict=True):
            name = "none" if isinstance(member.rule, NoAdaptation) else kind.name
            totals[name] = totals.get(name, 0.0) + weight
        return max(totals, key=totals.__getitem__)

    def _average(self) -> FloatArray:
        adapted = self.n_rows > 0
        return np.asarray(self.weight[adapted if adapted.any() else ~adapted].mean(axis=0))


def choose_adaptation(comparison: Comparison, candidates: Sequence[Kind], whole: TrainingPart) -> AdaptationChoice:
    """Weigh candidates by stacking at each number of rows, fit them to the whole, and calibrate intervals."""
    models = [whole.effects(kind.model) for kind in candidates]  # from which those of the folds start
    members = list(on_threads(lambda part: [kind.fit(part) for kind in candidates], comparison.parts))
    residuals = comparison.residuals(members)
    products = {n: np.mean([split.products() for split in splits], axis=0) for n, splits in residuals.items()}
    n_rows = np.array(list(residuals), dtype=float)
    weight = _weights(candidates, products)
    predictor = Mixture(
        tuple(kind.fit(whole) for kind in candidates),
        np.array([effects.new_task_cov for effects in models]),
        np.array([effects.noise for effects in models]),
        n_rows,
        weight,
    )
    held_out = _weights_without(candidates, comparison, products)
    calibration = _calibration(comparison, predictor, residuals, held_out)
    return AdaptationChoice(candidates, n_rows, weight, predictor, calibration, _table(candidates, weight, products))


def _weights(candidates: Sequence[Kind], products: dict[int, FloatArray]) -> FloatArray:
    """Return the weights of candidates at each number of rows: (n_points, n_candidates).

    Those of stacking; but the pooled ridge alone where it has no higher error than their combination, over numbers of
    rows from 1. Where tasks do not differ all candidates predict nearly the same, and stacking would keep them all.
    """
    weight = np.array([stack(M) for M in products.values()])
    pooled = [k for k, kind in enumerate(candidates) if isinstance(kind, Unadapted)]
    for k in pooled:
        gains = [
            float(np.mean(M[:, k, k] - _combined(M, w)))
            for (n, M), w in zip(products.items(), weight, strict=True)
            if n > 0
        ]
        if gains and np.mean(gains) <= 0:
            weight[:] = np.arange(len(candidates)) == k
    return weight


def _combined(products: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the mean squared error of a combination on each task: (n_tasks,)."""
    return np.asarray(np.einsum("p,ipq,q->i", weight, products, weight))


def _weights_without(candidates: Sequence[Kind], comparison: Comparison, products: dict[int, FloatArray]) -> FloatArray:
    """Return the weights that the tasks outside each fold give, at each number of rows: (n_points, n_folds, K).

    Where all tasks of more than n rows lie in one fold, its weights are those after fewer rows; a single fold has those
    of all tasks.
    """
    n_folds, weight = len(comparison.parts), []
    for f in range(n_folds):
        others: dict[int, FloatArray] = {}
        for n, M in products.items():
            fold = np.repeat(np.arange(n_folds), [len(episodes) for episodes in comparison.trials[n][0]])
            task = np.concatenate([episodes.task for episodes in comparison.trials[n][0]])
            kept = fold[np.argsort(task)] != f
            others[n] = M[kept] if kept.any() else list(others.values())[-1] if others else M
        weight.append(_weights(candidates, others))
    return np.stack(weight, axis=1)


def _calibration(
    comparison: Comparison, predictor: Mixture, residuals: dict[int, list[Residuals]], weight: FloatArray
) -> Calibration:
    """Return quantiles of held-out residuals in units of the standard deviation that the predictor states.

    A task is held out of the weights too, (n_points, n_folds, K): weights that minimise the errors of few tasks err
    less on them than on a further one.

    The unit is that of the predictor fitted to all tasks, as it is in predictions: were it that of each fold, one whose
    other tasks have hardly any noise, or too few of them to know a coefficient, would set the width of all intervals.
    For the same reason folds may err less than that predictor does on the very tasks it was fitted to; its quantiles
    are then at least those of its own residuals.
    """
    held_out: dict[int, list[tuple[FloatArray, IntArray]]] = {}
    fitted: dict[int, list[tuple[FloatArray, IntArray]]] = {}
    for (n, splits), of_folds in zip(residuals.items(), weight, strict=True):
        held_out[n], fitted[n] = [], []
        for split, folds in zip(splits, comparison.trials[n], strict=True):
            of_row = np.repeat(of_folds, [int(episodes.n_query.sum()) for episodes in folds], axis=0)
            moments = [predictor.episode_moments(episodes) for episodes in folds]
            own, variance = (np.concatenate(parts) for parts in zip(*moments, strict=True))
            std = np.sqrt(variance)
            held_out[n].append((np.einsum("rtk,rk->rt", split.values, of_row) / std, split.task))
            fitted[n].append((own / std, split.task))
    return Calibration.of(held_out).at_least(Calibration.of(fitted))


def _table(candidates: Sequence[Kind], weight: FloatArray, products: dict[int, FloatArray]) -> dict[str, NDArray[Any]]:
    rows = []
    for (n, M), w in zip(products.items(), weight, strict=True):
        chosen = _combined(M, w)
        errors = [("chosen", 1.0, chosen)] if len(candidates) > 1 else []
        errors += [(kind.label, w[k], M[:, k, k]) for k, kind in enumerate(candidates)]
        rows += [(label, n, share, *mean_and_error(mse), *mean_and_error(mse - chosen)) for label, share, mse in errors]
    names = ("adaptation", "n_support", "weight", "mse", "mse_se", "difference", "difference_se")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
