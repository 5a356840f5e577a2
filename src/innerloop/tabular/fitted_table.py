"""Fitted tables: prediction, adaptation, accuracy and plain state, in the units of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.ragged import row_starts
from innerloop.adaptation.predictor import Mixture, Predictor
from innerloop.adaptation.random_effects import RandomEffects
from innerloop.adaptation.rules import Ridge
from innerloop.adaptation.scale_mixture import ScaledRidge
from innerloop.data.columns import ColumnMap
from innerloop.data.curves import Curves
from innerloop.data.population import Extremes
from innerloop.data.row_blocks import reduced
from innerloop.data.scaling import Scaling
from innerloop.data.targets import LARGEST, check_size
from innerloop.data.tasks import TaskSet
from innerloop.tabular.intervals import Calibration
from innerloop.tabular.kinds import RULES, UsedRates
from innerloop.tabular.known_groups import KnownGroups, is_without_rows
from innerloop.tabular.population_sums import PopulationSums

# Rows predicted at once, so that they and the coefficients of each row's group stay in the cache of a core.
_ROWS_AT_ONCE = 2**14


@final
@dataclass(frozen=True, eq=False)
class Selection:
    """Chosen adaptation and rates, with the held-out losses that decided; see the attributes of `MetaRegressor`.

    Parameters
    ----------
    adaptation
        "none", "gradient" or "ridge".
    rates
        Rates and penalty in use.
    inner_lr_se, adapt_lr_se
        Standard errors of the rates; NaN where nothing was chosen.
    n_support
        Support rows per episode.
    cv_results
        Held-out losses of gradient steps; empty where nothing was chosen.
    adaptation_results
        Held-out losses of each kind of adaptation.
    """

    adaptation: str
    rates: UsedRates
    inner_lr_se: float
    adapt_lr_se: float
    n_support: int
    cv_results: dict[str, NDArray[Any]] = field(repr=False)
    adaptation_results: dict[str, NDArray[Any]] = field(repr=False)


@final
@dataclass(frozen=True, eq=False)
class FittedTable:
    """Meta-parameters of a table, the rules by which groups adapt, and the known groups.

    Rows X are in the units of the data; `place` is the position of each row's group among the known, -1 for none.

    Parameters
    ----------
    scaling
        From the units of the data to scaled ones.
    curves
        Of the features in scaled units.
    predictor
        In scaled units, with the columns of curves.
    effects
        Random-effects model in the same columns, whose mean is the population's coefficients.
    calibration
        Of prediction intervals.
    single_target
        Whether targets have one dimension.
    selection
        Chosen adaptation and rates.
    known
        The known groups, in scaled units, with the columns of curves.
    columns
        From the columns of a table to X; None where X came as numbers.
    target_notes
        What to know about the targets, in sentences without a full stop.
    sums
        Over all tasks, from which `with_population` estimates the population; None where none were kept.
    counted
        Groups that adapted since the sums were made, with the rows that the sums have of them, which may be none; None:
        no group did.
    """

    scaling: Scaling
    curves: Curves
    predictor: Mixture
    effects: RandomEffects
    calibration: Calibration
    single_target: bool
    selection: Selection
    known: KnownGroups
    columns: ColumnMap | None = None
    target_notes: tuple[str, ...] = ()
    sums: PopulationSums | None = None
    counted: KnownGroups | None = None

    def meta_parameters(self) -> tuple[FloatArray, FloatArray]:
        """Return coefficients (n_targets, n_features) and intercepts (n_targets,) in data units.

        Of a ridge those of the population, by the random-effects model; of gradient steps those that they start from.
        """
        adapts_by_ridge = isinstance(self.predictor.members[-1].rule, Ridge | ScaledRidge)
        return original_units(self.scaling, self.effects.mean if adapts_by_ridge else self.predictor.unseen)

    @cached_property
    def group_coef(self) -> tuple[FloatArray, FloatArray]:
        """The same of every known group, with a leading axis of groups."""
        return original_units(self.scaling, self.known.whole.coef)

    def places(self, ids: NDArray[Any]) -> IntArray:
        """Return the positions of groups, given by `distinct_ids`, among the known; -1 for none."""
        return self.known.places(ids)

    def predict(self, X: FloatArray, place: IntArray) -> FloatArray:
        """Return predictions: known groups by their coefficients, others by those of groups without rows."""
        prediction = np.empty((len(X), self.predictor.unseen.shape[1]))
        for first in range(0, len(X), _ROWS_AT_ONCE):
            part = slice(first, first + _ROWS_AT_ONCE)
            Z, known = self._design(X[part]), np.flatnonzero(place[part] >= 0)
            if len(known) < len(Z):
                # No BLAS: the same bits however many rows there are.
                prediction[part] = np.einsum("ij,jk->ik", Z, self.predictor.unseen)
                Z = Z[known]
            if len(known):
                coef = self.known.coef_of(place[part][known])
                prediction[first + known] = np.einsum("ij,ijk->ik", Z, coef)
        return self._targets(self.scaling.y_mean + prediction / self.scaling.y_rate)

    def std(self, X: FloatArray, place: IntArray) -> FloatArray:
        """Return the standard deviation of targets around their predictions, calibrated on held-out tasks."""
        n_rows, std = self._accuracy(X, place)
        return self._targets(std * self.calibration.std_factor(n_rows))

    def half_width(self, X: FloatArray, place: IntArray, level: float, weights: FloatArray | None = None) -> FloatArray:
        """Return half the width of prediction intervals at a level, for rows of given weights or of average ones."""
        n_rows, std = self._accuracy(X, place, weights)
        return self._targets(std * self.calibration.half_width(n_rows, level))

    def adapt(self, tasks: TaskSet, add: bool = False) -> FittedTable:
        """Return the table that knows these groups too.

        A known group adapts on these rows alone; with `add` on those that it has, too.
        """
        scaled = self._scaled(tasks).whitened()
        if add:
            _, scaled = self.known.joined_with(scaled)
        rows = reduced(scaled)
        return replace(self.knowing(scaled, rows), counted=self._counted_with(rows.ids))

    def with_population(self, tasks: TaskSet) -> FittedTable:
        """Return the table with these rows, the population estimated anew from all rows that it knows.

        All choices stay. Known groups adapt anew to the population, those without rows keep their coefficients.

        Raises
        ------
        ValueError
            If the sums were not kept, or hold rows of one of these groups that were not.
        """
        sums = self.population_sums()
        self.check_extremes(Extremes.of(tasks.X, tasks.y))
        self.check_exchange(tasks.ids)
        sums = sums.with_episodes(self._scaled(tasks))
        return replace(self.adapt(tasks, add=True), sums=sums).recounted()

    def recounted(self) -> FittedTable:
        """Return the table with the population of all rows that it knows, and known groups adapted anew to it."""
        sums, before = self.population_sums(), self._counted().whole.tasks
        after = self.known.rows_of(self.places(before.ids))
        table = self.with_sums(sums.exchanged(before.select(before.original_sizes > 0), after))
        return replace(table, known=table.known.readapted(table.predictor.adapt))

    def population_sums(self) -> PopulationSums:
        """Return the sums, or say why there are none."""
        if self.sums is None:
            raise ValueError(
                "the model has no sums over its population: an earlier version saved it, or it has "
                "adapt_lr='per-feature', whose rates need all rows; fit it again."
            )
        return self.sums

    def with_sums(self, sums: PopulationSums) -> FittedTable:
        """Return the table with the population that follows from sums over all tasks; known groups stay."""
        if not np.isfinite(sums.totals).all():  # rows on disk have no checksum
            raise ValueError(
                "rows that the model keeps of its groups hold numbers that are not finite, so its folder is damaged; "
                "fit the model again or restore the folder."
            )
        rates = self.selection.rates
        predictor, effects = sums.solve(self.predictor, rates, self.scaling.intercept)
        if sums.objective is None:
            rates = rates._replace(l2=mean_penalty(effects, sums.n_rows))
        selection = replace(self.selection, rates=rates)
        return replace(self, predictor=predictor, effects=effects, selection=selection, sums=sums, counted=None)

    def check_extremes(self, extremes: Extremes) -> None:
        """Refuse rows that are too large to square beside those of the fit: sums would keep nothing else."""
        check_size(float(np.abs((extremes.y_low, extremes.y_high)).max()))
        scaled = self.scaling.design(np.array((extremes.X_low, extremes.X_high)))
        if not (largest := float(np.abs(scaled).max(initial=0.0))) < LARGEST:
            raise ValueError(
                f"`X` must lie within {LARGEST:g} standard deviations of the mean of the fit, got {largest:g}; correct "
                "such rows, or leave them out."
            )

    def check_exchange(self, ids: NDArray[Any]) -> None:
        """Refuse groups whose part of the sums cannot be exchanged for that of more rows.

        These are the groups that are given, and those that adapted since the sums were made.
        """
        place, changed = self.places(ids), self._counted().whole.tasks
        if self.population_sums().objective is not None:
            known = [*ids[place >= 0], *changed.ids]
        else:
            rows = self.known.kept_rows(place[place >= 0])
            known = [*rows.ids[is_without_rows(rows)], *changed.ids[is_without_rows(changed)]]
        if known:
            raise no_rows_kept(known[0].item(), len(known), is_of_steps=self.population_sums().objective is not None)

    def _counted(self) -> KnownGroups:
        return (
            KnownGroups.of_rows(KnownGroups.none(*self.predictor.unseen.shape).tasks)
            if self.counted is None
            else self.counted
        )

    def _counted_with(self, ids: NDArray[Any]) -> KnownGroups | None:
        """Return `counted` with some groups too, before these adapt."""
        if self.sums is None:
            return None
        counted = self._counted()
        new = ids[counted.places(ids) < 0]
        place = self.places(new)
        known = np.flatnonzero(place >= 0)
        rows, sizes, n_rows = self.known.kept_rows(place[known]), np.zeros_like(place), np.zeros_like(place)
        sizes[known], n_rows[known] = rows.sizes, rows.original_sizes
        tasks = TaskSet(rows.X, rows.y, row_starts(sizes), new, reduced_from=n_rows)
        return counted.with_groups(tasks, np.empty((len(new), 0, 0)))

    def _scaled(self, tasks: TaskSet) -> TaskSet:
        self.scaling.check_weights(tasks)
        return self.curves.tasks(self.scaling.tasks(tasks), self.scaling.intercept)

    def nearest(self, place: int, n: int) -> NDArray[Any]:
        """Return the ids of the n known groups, or fewer, whose coefficients in scaled units are nearest.

        Nearest to those of the group at a position among `known.whole`.
        """
        known = self.known.whole
        distances = np.square(known.coef - known.coef[place]).sum(axis=(1, 2))
        order = np.argsort(distances, kind="stable")
        return np.asarray(known.tasks.ids[order[order != place][:n]])

    def forget_groups(self) -> FittedTable:
        """Return the table without the groups that it knows."""
        return replace(self, known=KnownGroups.none(*self.predictor.unseen.shape), counted=None)

    def knowing(self, tasks: TaskSet, rows: TaskSet) -> FittedTable:
        """Return the table that knows groups too, given as tasks in scaled units, and reduced."""
        return replace(self, known=self.known.with_groups(rows, self.predictor.adapt(tasks)))

    def _design(self, X: FloatArray) -> FloatArray:
        return self.curves.expand(self.scaling.design(X), self.scaling.intercept)

    def _accuracy(
        self, X: FloatArray, place: IntArray, weights: FloatArray | None = None
    ) -> tuple[IntArray, FloatArray]:
        """Return on how many rows each row's group adapted, and the model's standard deviation of its target."""
        seen, position = np.unique(place[place >= 0], return_inverse=True)
        known, of_row = self.known.rows_of(seen), np.full(len(place), -1)
        of_row[place >= 0] = position
        root = np.ones((len(X), 1)) if weights is None else np.sqrt(weights / self.scaling.weight_unit)[:, None]
        variance = self.predictor.variance(known, root * self._design(X), of_row)
        n_rows = np.append(known.original_sizes, 0)[of_row]
        return n_rows, np.sqrt(variance) / (root * self.scaling.y_rate)

    def _targets(self, values: FloatArray) -> FloatArray:
        return np.asarray(values[:, 0] if self.single_target else values)

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return everything as values that JSON can hold and arrays, for `from_state`."""
        selection, predictor, known = self.selection, self.predictor, self.known.whole
        scalars: dict[str, Any] = {
            "adaptation": selection.adaptation,
            "n_support": selection.n_support,
            "rules": [type(member.rule).__name__ for member in predictor.members],
            "single_target": self.single_target,
            "intercept": self.scaling.intercept,
            "columns": None if self.columns is None else self.columns.to_state(),
            "target_notes": list(self.target_notes),
        }
        parts: dict[str, Mapping[str, Any]] = {
            "scaling": {name: value for name, value in vars(self.scaling).items() if name != "intercept"},
            "curves": vars(self.curves),
            "predictor": {name: value for name, value in vars(predictor).items() if name != "members"},
            "effects": vars(self.effects),
            "calibration": vars(self.calibration),
            "rates": selection.rates._asdict(),
            "errors": {"inner_lr": selection.inner_lr_se, "adapt_lr": selection.adapt_lr_se},
            "cv_results": selection.cv_results,
            "adaptation_results": selection.adaptation_results,
            "known": _rows_state(known.tasks),
            "groups": {"coef": known.coef},
        }
        if self.sums is not None:
            scalars["episodes"], of_sums = self.sums.to_state()
            parts |= of_sums | {"counted": _rows_state(self._counted().whole.tasks)}
        for k, member in enumerate(predictor.members):
            parts |= {f"coef{k}": {"coef": member.coef}, f"rule{k}": vars(member.rule)}
        arrays = {
            f"{part}.{name}": np.asarray(value) for part, values in parts.items() for name, value in values.items()
        }
        return scalars, arrays

    @classmethod
    def from_state(cls, scalars: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> FittedTable:
        """Return the fitted table that `to_state` described."""
        parts: dict[str, dict[str, Any]] = {}
        for name, array in arrays.items():
            part, _, key = name.partition(".")
            parts.setdefault(part, {})[key] = array[()]
        columns = None if scalars["columns"] is None else ColumnMap.from_state(scalars["columns"])
        if columns is not None and len(columns.feature_names) != len(parts["scaling"]["kept"]):
            raise ValueError(f"its columns make {len(columns.feature_names)} features, not as many as scaling.kept")
        members = tuple(
            Predictor(parts[f"coef{k}"]["coef"], RULES[rule](**parts.get(f"rule{k}", {})))
            for k, rule in enumerate(scalars["rules"])
        )
        return cls(
            scaling=Scaling(**parts["scaling"], intercept=bool(scalars["intercept"])),
            curves=Curves(**parts["curves"]),
            predictor=Mixture(members, **parts["predictor"]),
            effects=RandomEffects(**parts["effects"]),
            calibration=Calibration(**parts["calibration"]),
            single_target=bool(scalars["single_target"]),
            selection=Selection(
                adaptation=str(scalars["adaptation"]),
                rates=UsedRates(**parts["rates"]),
                inner_lr_se=float(parts["errors"]["inner_lr"]),
                adapt_lr_se=float(parts["errors"]["adapt_lr"]),
                n_support=int(scalars["n_support"]),
                cv_results=parts.get("cv_results", {}),
                adaptation_results=parts["adaptation_results"],
            ),
            known=KnownGroups(TaskSet(**parts["known"]), parts["groups"]["coef"]),
            columns=columns,
            target_notes=tuple(scalars["target_notes"]),
            **_sums_from_state(scalars, parts),
        )


def original_units(scaling: Scaling, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return coefficients (..., n_targets, n_features) and intercepts (..., n_targets) in the units of the data."""
    coef, intercept = scaling.original(theta)
    return np.ascontiguousarray(np.swapaxes(coef, -1, -2)), intercept


def no_rows_kept(group: object, n: int, is_of_steps: bool) -> ValueError:
    """Return the error that n groups, one of them `group`, are known, but not the rows that an update needs."""
    which = f"group {group!r}" + (f" and {n - 1} more" if n > 1 else "")
    if is_of_steps:
        return ValueError(
            f"the model keeps moments only of {which}, and gradient steps are trained on single rows; update its "
            "population by groups that it does not know, or fit it again."
        )
    return ValueError(
        f"the model keeps no rows of {which}, so that further ones cannot update its population; leave them out, or "
        "fit the dataset with groups='rows'."
    )


def mean_penalty(effects: RandomEffects, n_rows: int) -> float:
    """Return the penalty on the population's coefficients in units of the half mean squared error, on average."""
    given = effects.precision[(effects.precision > 0) & np.isfinite(effects.precision)]
    return float(given.mean()) / n_rows if given.size else 0.0


def _rows_state(tasks: TaskSet) -> dict[str, Any]:
    return {name: getattr(tasks, name) for name in ("X", "y", "starts", "ids", "reduced_from")}


def _sums_from_state(scalars: Mapping[str, Any], parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the fields of a table that are about sums; none of one that was saved without them."""
    if "sums" not in parts:
        return {}
    counted = TaskSet(**parts["counted"])
    return {
        "sums": PopulationSums.from_state(scalars["episodes"], parts, bool(scalars["single_target"])),
        # None, or an update would first adapt all known groups anew, in memory.
        "counted": KnownGroups.of_rows(counted) if len(counted) else None,
    }
