"""The random-effects model of a fitted table as a mixed-model user reads it, in the units of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.adaptation.rules import Ridge
from innerloop.data.row_blocks import row_blocks
from innerloop.data.scaling import Scaling
from innerloop.tabular.fitted_table import FittedTable

if TYPE_CHECKING:
    import pandas as pd

_INTERCEPT = "(Intercept)"


@final
@dataclass(frozen=True, eq=False)
class Effects:
    """A random-effects model in the units of the data.

    With a curve in a feature, its coefficient is that of the best straight line over the training rows.

    Parameters
    ----------
    population
        Frame with the columns "coefficient", "estimate" and "standard_error": the population's coefficients by
        generalised least squares. Of several targets a column "target" says which.
    between_groups
        Frame with the columns "coefficient", "std" and one for each coefficient: standard deviations between groups,
        and correlations.
    noise
        Frame with the column "std": standard deviation within groups.
    """

    population: pd.DataFrame
    between_groups: pd.DataFrame
    noise: pd.DataFrame

    def __str__(self) -> str:
        parts = (("Population", self.population), ("Between groups", self.between_groups), ("Noise", self.noise))
        return "\n\n".join(f"{title}\n{frame.to_string(index=False)}" for title, frame in parts)


def effects_of(table: FittedTable, names: Sequence[str]) -> Effects:
    """Return the random-effects model of a table; `names` are those of its features."""
    import pandas as pd

    labels, (B, columns) = _labels(table.scaling, names), _to_data_units(table)
    estimate = _per_target(table.meta_parameters())
    population, between, noise = [], [], []
    for k, variance in enumerate(table.effects.noise):
        unit = np.sqrt(variance) / np.broadcast_to(table.scaling.y_rate, table.effects.noise.shape)[k]
        which = {} if table.single_target else {"target": k}
        error, spread = (
            unit**2 * B @ cov[k][np.ix_(columns, columns)] @ B.T
            for cov in (table.effects.mean_cov, table.effects.task_cov)
        )
        std = np.sqrt(np.maximum(spread.diagonal(), 0.0))
        correlation = spread / np.where(std > 0, std, np.inf)[:, None] / np.where(std > 0, std, np.inf)
        np.fill_diagonal(correlation, np.where(std > 0, 1.0, np.nan))
        rows = zip(
            labels, _of_labels(estimate[k], table.scaling), np.sqrt(np.maximum(error.diagonal(), 0)), strict=True
        )
        population += [which | {"coefficient": c, "estimate": b, "standard_error": se} for c, b, se in rows]
        between += [
            which | {"coefficient": c, "std": s} | dict(zip(labels, row, strict=True))
            for c, s, row in zip(labels, std, correlation, strict=True)
        ]
        noise.append(which | {"std": unit})
    return Effects(pd.DataFrame(population), pd.DataFrame(between), pd.DataFrame(noise))


def group_effects_of(table: FittedTable, names: Sequence[str]) -> pd.DataFrame:
    """Return a frame with the coefficients of every known group, and their standard errors."""
    import pandas as pd

    whole = table.known.whole
    known = whole.rows_of(np.arange(len(whole.tasks)))
    labels, (B, columns) = _labels(table.scaling, names), _to_data_units(table)
    coef, intercept = table.group_coef
    frames = []
    for k, variance in enumerate(table.effects.noise):
        rule = Ridge(table.effects.new_task_cov)
        unit = np.sqrt(variance) / np.broadcast_to(table.scaling.y_rate, table.effects.noise.shape)[k]
        errors = np.empty((len(known), len(labels)))
        for block in row_blocks(known):
            cov = rule.posterior(table.effects.mean, block, rule.task_cov[k], k).covariance()
            of_labels = np.einsum("ij,tjk,ik->ti", B, cov[:, columns[:, None], columns], B)
            errors[block.members] = unit * np.sqrt(np.maximum(of_labels, 0.0))
        estimates = [
            _of_labels(np.append(slopes, b), table.scaling)
            for slopes, b in zip(coef[:, k], intercept[:, k], strict=True)
        ]
        columns_of: dict[str, Any] = {} if table.single_target else {"target": k}
        columns_of |= {"group": np.repeat(known.ids, len(labels)), "coefficient": labels * len(known)}
        columns_of |= {"estimate": np.ravel(estimates), "standard_error": errors.ravel()}
        frames.append(pd.DataFrame(columns_of))
    return pd.concat(frames, ignore_index=True)


def _labels(scaling: Scaling, names: Sequence[str]) -> list[str]:
    kept = [name for name, keep in zip(names, scaling.kept, strict=True) if keep]
    return [_INTERCEPT] * scaling.intercept + kept


def _of_labels(coef: FloatArray, scaling: Scaling) -> FloatArray:
    """Return slopes of all features and the intercept in the order of the labels."""
    slopes = coef[:-1][scaling.kept]
    return np.append(coef[-1], slopes) if scaling.intercept else slopes


def _per_target(coef_and_intercept: tuple[FloatArray, FloatArray]) -> FloatArray:
    coef, intercept = coef_and_intercept
    return np.column_stack((coef, intercept))


def _to_data_units(table: FittedTable) -> tuple[FloatArray, np.ndarray[Any, Any]]:
    """Return the map from scaled coefficients, without those of curves, to those of the labels, and their columns."""
    scaling = table.scaling
    n = len(scaling.x_rate)
    slopes = np.diag(scaling.x_rate)
    if not scaling.intercept:
        return slopes, np.arange(n)
    B = np.zeros((n + 1, n + 1))
    B[0, :n], B[0, n], B[1:, :n] = -scaling.x_mean * scaling.x_rate, 1.0, slopes
    return B, np.append(np.arange(n), table.effects.mean.shape[0] - 1)
