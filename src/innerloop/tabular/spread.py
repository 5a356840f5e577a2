"""How far targets lie from predictions under the random-effects model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop.adaptation.predictor import relative_variance, unseen_variance
from innerloop.adaptation.rules import Adaptation, Ridge
from innerloop.adaptation.scale_mixture import ScaledRidge
from innerloop.tabular.known_rows import KnownRows


@final
@dataclass(frozen=True, eq=False)
class Spread:
    """The part of the random-effects model that predictions of tasks need.

    Parameters
    ----------
    task_cov : (n_targets, n_features, n_features)
        Covariance of new tasks' coefficients, relative to the noise variance.
    noise : (n_targets,)
        Noise variance.
    n_rows, strength : (n_points,)
        See `innerloop.adaptation.rules.Ridge`.
    scale_weight : (n_targets, n_pairs)
        See `innerloop.adaptation.scale_mixture.ScaledRidge`; no pairs where tasks are taken to be of one scale.
    """

    task_cov: FloatArray
    noise: FloatArray
    n_rows: FloatArray
    strength: FloatArray
    scale_weight: FloatArray

    def ridge(self) -> Ridge | ScaledRidge:
        """Return the rule of adaptation that the model makes best."""
        if self.scale_weight.size:
            return ScaledRidge(self.task_cov, self.noise, self.scale_weight)
        return Ridge(self.task_cov, self.n_rows, self.strength)

    def of_rows(
        self, rule: Adaptation, coef: FloatArray, known: KnownRows, X: FloatArray, place: IntArray
    ) -> tuple[IntArray, FloatArray]:
        """Return how many rows each row's task adapted on, and the standard deviation around its prediction.

        Parameters
        ----------
        rule, coef
            By which tasks adapted, and from what.
        known
            The known tasks.
        X : (n_rows, n_features)
            In scaled units.
        place : (n_rows,)
            Of each row's task among the known; -1 for none.

        Returns
        -------
        n_rows : (n_rows,)
        std : (n_rows, n_targets)
        """
        n_rows = np.zeros(len(X), dtype=np.intp)
        variance = unseen_variance(self.task_cov, X)
        seen = np.flatnonzero(place >= 0)
        if len(seen):
            n_rows[seen] = known.n_rows[place[seen]]
            variance[seen] = relative_variance(
                rule, coef, self.task_cov, known.as_tasks(), known.n_rows, X[seen], place[seen]
            )
        return n_rows, np.sqrt(self.noise * variance)
