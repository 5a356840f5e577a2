"""The table tab: a fitted model and its study, and a new group whose rows come one by one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import pandas as pd

from innerloop._base.checks import FloatArray
from innerloop.data.columns import NumberCode
from innerloop.data.frames import as_frame
from innerloop.data.task_table import TargetCode
from innerloop.estimators import MetaRegressor
from innerloop.estimators.storage import load_details, load_model
from innerloop.explorer.theory_tab import plain
from innerloop.tabular.intervals import as_level

NEW = "the new group"
MOST_ROWS = 60
N_NEAREST = 3
_N_GRID = 61
# A curve reaches so many standard deviations to either side of the mean.
_REACH = 2.0
_MOST_GROUPS = 2000


@final
@dataclass(frozen=True, eq=False)
class Table:
    """A fitted model of a table, and what its folder says of it.

    Parameters
    ----------
    name
        What the page calls it.
    model
    details
        Of the folder: the group and target columns, and the summary of the study.
    is_upload
        Whether the page fitted it, so that no folder of the user has it.
    """

    name: str
    model: MetaRegressor
    details: Mapping[str, Any] = field(repr=False)
    is_upload: bool = False

    @classmethod
    def open(cls, folder: Path, name: str, is_upload: bool = False) -> Self:
        """Return the model of a folder."""
        model = load_model(folder)
        if np.ndim(model.intercept_):
            raise ValueError(f"{name} predicts several targets; the explorer shows models of one.")
        return cls(name, model, load_details(folder), is_upload)

    @property
    def target(self) -> str:
        """Name of the target column."""
        return str(self.details["target"]["name"]) if "target" in self.details else "y"

    @cached_property
    def inputs(self) -> list[str]:
        """Names of the columns that a row must have."""
        columns = self.model.columns_
        return list(columns.inputs) if columns is not None else self.model.feature_labels()

    def numeric(self) -> dict[str, tuple[float, float]]:
        """Return the range over which a curve in each numeric input is drawn."""
        columns, scaling = self.model.columns_, self.model._table.scaling
        names = self.model.feature_labels()
        kept = dict(
            zip([n for n, keep in zip(names, scaling.kept, strict=True) if keep], range(len(names)), strict=False)
        )
        if columns is not None:
            numbers = {c.name for c in columns.codes if isinstance(c, NumberCode) and c.kind == "number"}
            kept = {name: i for name, i in kept.items() if name in numbers}
        ranges = {}
        for name, i in kept.items():
            centre, half = scaling.x_mean[i], _REACH / scaling.x_rate[i]
            ranges[name] = (float(centre - half), float(centre + half))
        return ranges

    def describe(self) -> dict[str, Any]:
        """Return all that does not depend on a new group."""
        model = self.model
        described: dict[str, Any] = plain(
            {
                "name": self.name,
                "command": self.command,
                "group": self.details.get("group", "group"),
                "target": self.target,
                "inputs": self.inputs,
                "numeric": list(self.numeric()),
                "adaptation": model.adaptation_,
                "rates": {"inner_lr": np.mean(model.inner_lr_), "adapt_lr": np.mean(model.adapt_lr_)},
                "n_support": model.n_support_,
                "n_groups": len(model.groups_),
                "notes": list(model.columns_.notes) if model.columns_ is not None else [],
                "study": self.details.get("study"),
                "coefficients": list(dict.fromkeys(self._effects["coefficient"])) if len(model.groups_) else [],
            }
        )
        return described

    @cached_property
    def _effects(self) -> pd.DataFrame:
        return self.model.group_effects()

    def caterpillar(self, coefficient: str) -> dict[str, Any]:
        """Return a coefficient of all known groups in order, with standard errors, and that of the population."""
        effects = self._effects[self._effects["coefficient"] == coefficient].sort_values("estimate")
        if not len(effects):
            raise ValueError(f"There is no coefficient {coefficient!r}.")
        n_left_out = max(0, len(effects) - _MOST_GROUPS)
        if n_left_out:
            effects = effects.iloc[np.linspace(0, len(effects) - 1, _MOST_GROUPS).round().astype(int)]
        population = self.model.effects().population.set_index("coefficient")["estimate"][coefficient]
        found: dict[str, Any] = plain(
            {
                "groups": effects["group"].tolist(),
                "estimate": effects["estimate"].to_numpy(),
                "standard_error": effects["standard_error"].to_numpy(),
                "population": float(population),
                "left_out": n_left_out,
            }
        )
        return found

    def new_group(self, cells: Sequence[Sequence[str]], level: float, along: str | None) -> dict[str, Any]:
        """Return how predictions of a new group change with each of its rows.

        Parameters
        ----------
        cells
            Rows as typed: the inputs, then the target, empty where it is to be predicted.
        level
            Of the intervals.
        along
            Input over which to draw a curve, the others as in the last row; None draws none.
        """
        as_level(level)
        frame, y = self._rows(cells)
        labelled = ~np.isnan(y)
        known, asked = frame[labelled], frame[~labelled]
        steps = [self._adapted(known, y[labelled], k) for k in range(len(known) + 1)]
        found: dict[str, Any] = {"n_known": len(known), "rows": np.flatnonzero(~labelled) + 1, "level": level}
        if len(asked):
            X = self._features(asked)
            bounds = [_interval(model, X, level) for model in steps]
            found |= {name: [step[name] for step in bounds] for name in ("prediction", "low", "high")}
            found["population"] = _predicted(self.model, X, NEW)
        fitted = steps[-1]
        nearest = fitted.nearest_groups(NEW, N_NEAREST).tolist() if len(known) and len(fitted.groups_) > 1 else []
        found["nearest"] = [
            {"id": group, **({} if not len(asked) else {"prediction": _predicted(fitted, X, group)})}
            for group in nearest
        ]
        if along is not None and len(frame):
            found["curve"] = self._curve(fitted, frame, y, (along, level, nearest))
        found["python"] = self._python(cells, level)
        answer: dict[str, Any] = plain(found)
        return answer

    def _rows(self, cells: Sequence[Sequence[str]]) -> tuple[pd.DataFrame, FloatArray]:
        n_columns = len(self.inputs) + 1
        if not isinstance(cells, list) or not all(
            isinstance(row, list) and len(row) == n_columns and all(isinstance(cell, str) for cell in row)
            for row in cells
        ):
            raise ValueError(f"Rows must have {n_columns} cells each: {', '.join([*self.inputs, self.target])}.")
        if len(cells) > MOST_ROWS:
            raise ValueError(f"A new group has at most {MOST_ROWS} rows here, got {len(cells)}.")
        stripped = [[cell.strip() or None for cell in row] for row in cells]
        frame = pd.DataFrame(stripped, columns=[*self.inputs, self.target], dtype=object)
        if self.model.columns_ is None and frame[self.inputs].isna().to_numpy().any():
            raise ValueError("Every row needs all its inputs; only the target may be empty.")
        if "target" in self.details:
            code = TargetCode.from_state(self.details["target"])
            y = code.read(as_frame(frame, "the new group"), "the new group")
        else:
            y = pd.to_numeric(frame[self.target], errors="raise").to_numpy(dtype=np.float64)
        return frame[self.inputs], np.asarray(y, dtype=np.float64)

    def _features(self, frame: pd.DataFrame) -> Any:
        return frame if self.model.columns_ is not None else frame.to_numpy(dtype=np.float64)

    def _adapted(self, known: pd.DataFrame, y: FloatArray, k: int) -> MetaRegressor:
        """Return the model that knows the first k rows of the new group."""
        if k == 0:
            return self.model
        return self.model.adapt(self._features(known[:k]), y[:k], groups=[NEW] * k)

    def _curve(
        self, fitted: MetaRegressor, frame: pd.DataFrame, y: FloatArray, asked: tuple[str, float, list[Any]]
    ) -> dict[str, Any]:
        along, level, nearest = asked
        if along not in self.numeric():
            raise ValueError(f"There is no numeric input {along!r}.")
        own = pd.to_numeric(frame[along], errors="coerce").to_numpy(dtype=np.float64)
        low, high = self.numeric()[along]
        grid = np.linspace(np.nanmin([low, *own]), np.nanmax([high, *own]), _N_GRID)
        X = frame.iloc[[-1] * _N_GRID].reset_index(drop=True)
        X[along] = grid
        X = self._features(X)
        return {
            "along": along,
            "x": grid,
            **_interval(fitted, X, level),
            "population": _predicted(self.model, X, NEW),
            "nearest": [{"id": group, "prediction": _predicted(fitted, X, group)} for group in nearest],
            "rows": {"x": own, "y": y},
        }

    def _source(self) -> str:
        if not self.is_upload:
            return f"model = il.load_model({self.name!r})\n"
        group = self.details["group"]
        return (
            f"frame = pd.read_csv({self.name!r}, dtype={{{group!r}: str}})\n"
            f"tasks = il.TaskSet.from_table(frame, group={group!r}, target={self.target!r})\n"
            f"model = il.study(tasks, il.MetaRegressor(group={group!r})).model\n"
        )

    @property
    def command(self) -> str:
        """The command that does the same."""
        if not self.is_upload:
            return shlex.join(["innerloop", "predict", self.name, "new.csv", "--level", "0.9"])
        options = ["--group", str(self.details["group"]), "--target", self.target, "--out", "model/"]
        return shlex.join(["innerloop", "fit", self.name, *options, "--report", "report.html"])

    def _python(self, cells: Sequence[Sequence[str]], level: float) -> str:
        names = [*self.inputs, self.target]
        rows = [[cell.strip() or None for cell in row] for row in cells]
        return (
            f"import pandas as pd\nimport innerloop as il\n\n{self._source()}"
            f"rows = pd.DataFrame({rows!r}, columns={names!r}, dtype=object)\n"
            f"y = pd.to_numeric(rows.pop({self.target!r}))\n"
            f"known, new = y.notna(), {[NEW]!r} * len(y)\n"
            "X = rows" + ("" if self.model.columns_ is not None else ".to_numpy(dtype=float)") + "\n"
            "if known.any():\n"
            "    model = model.adapt(X[known], y[known], groups=new[: known.sum()])\n"
            "prediction = model.predict(X[~known], groups=new[: (~known).sum()])\n"
            f"low, high = model.predict_interval(X[~known], groups=new[: (~known).sum()], level={level!r})\n"
        )


def _predicted(model: MetaRegressor, X: Any, group: Any) -> FloatArray:
    return np.asarray(model.predict(X, groups=[group] * len(X)))


def _interval(model: MetaRegressor, X: Any, level: float) -> dict[str, FloatArray]:
    groups = [NEW] * len(X)
    low, high = model.predict_interval(X, groups=groups, level=level)
    return {"prediction": np.asarray(model.predict(X, groups=groups)), "low": low, "high": high}
