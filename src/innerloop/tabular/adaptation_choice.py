"""Choice between kinds of adaptation by errors on held-out tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.standard_errors import mean_and_error
from innerloop.adaptation.random_effects import Structure
from innerloop.tabular.comparison import Comparison, Errors
from innerloop.tabular.intervals import Calibration
from innerloop.tabular.kinds import Kind


@final
@dataclass(frozen=True, eq=False)
class AdaptationChoice:
    """The chosen kind of adaptation.

    Parameters
    ----------
    kind
        With its parameters.
    structure
        Of the tasks' covariance in prediction intervals: that of the richest kind compared.
    calibration
        Of prediction intervals.
    results
        Columns "adaptation", "n_support", "mse", "mse_se" and the paired "difference" to the chosen kind with its
        "difference_se".
    """

    kind: Kind
    structure: Structure
    calibration: Calibration
    results: dict[str, NDArray[Any]] = field(repr=False)


def choose_adaptation(comparison: Comparison, kinds: Sequence[type[Kind]]) -> AdaptationChoice:
    """Compare kinds given from simple to rich: a richer one is chosen where `Kind.is_worth_it` says so."""
    tuned = [kind.tune(comparison) for kind in kinds]
    fitted = {kind: [kind.fit(part) for part in comparison.parts] for kind in tuned}
    errors = {kind.name: kind.held_out_errors(comparison, fitted[kind]) for kind in tuned}
    chosen = tuned[0]
    for richer in tuned[1:]:
        if richer.is_worth_it(errors[richer.name], errors[chosen.name], comparison.deciding):
            chosen = richer
    structure = tuned[-1].structure
    calibration = comparison.calibration(fitted[chosen], structure)
    return AdaptationChoice(chosen, structure, calibration, _table(errors, chosen.name))


def _table(errors: Mapping[str, Errors], chosen: str) -> dict[str, NDArray[Any]]:
    rows = [
        (kind, n, *mean_and_error(mse), *mean_and_error(mse - errors[chosen][n]))
        for kind, by_size in errors.items()
        for n, mse in by_size.items()
    ]
    names = ("adaptation", "n_support", "mse", "mse_se", "difference", "difference_se")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
