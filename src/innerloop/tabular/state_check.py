"""A check of stored tables: every array is there, of its kind and shape, and in its order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from innerloop.adaptation.scale_mixture import LOG_SCALES
from innerloop.tabular.intervals import LEVELS
from innerloop.tabular.population_sums import BY_STEPS, STAYS, Protocols, n_sums

Shape = tuple[str | int, ...]

# Shapes by name, in sizes that must agree wherever they occur; a number is a size that is fixed.
_SHAPES: dict[str, Shape] = {
    "scaling.kept": ("features",),
    "scaling.x_mean": ("kept",),
    "scaling.x_rate": ("kept",),
    "scaling.weight_unit": (),
    "curves.feature": ("curves",),
    "curves.knots": ("curves", "knots"),
    "curves.width": ("curves",),
    "curves.axes": ("curves", "splines", "splines"),
    "predictor.task_cov": ("members", "targets", "columns", "columns"),
    "predictor.noise": ("members", "targets"),
    "predictor.n_rows": ("points",),
    "predictor.weight": ("points", "members"),
    "effects.mean": ("columns", "targets"),
    "effects.mean_cov": ("targets", "columns", "columns"),
    "effects.task_cov": ("targets", "columns", "columns"),
    "effects.noise": ("targets",),
    "effects.precision": ("targets", "columns"),
    "effects.deviance": (),
    "calibration.n_rows": ("points",),
    "calibration.scale": ("points", "targets"),
    "calibration.quantiles": ("points", "targets", len(LEVELS)),
    "rates.l2": (),
    "errors.inner_lr": (),
    "errors.adapt_lr": (),
    "known.X": ("rows", "columns"),
    "known.y": ("rows", "targets"),
    "known.starts": ("groups + 1",),
    "known.ids": ("groups",),
    "known.reduced_from": ("groups",),
    "groups.coef": ("groups", "columns", "targets"),
}
# What a table has that was saved with the sums over its tasks, and what one with gradient steps has besides.
_OF_SUMS: dict[str, Shape] = {
    "sums.task_cov": ("models", "targets", "columns", "columns"),
    "sums.precision": ("models", "targets", "columns"),
    "sums.totals": ("models", "targets", "sums"),
    "sums.mean_of": ("members",),
    "sums.spread_of": ("members",),
    "sums.main": (),
    "sums.n_tasks": (),
    "sums.n_rows": (),
    "sums.l2": (),
    "counted.X": ("counted rows", "columns"),
    "counted.y": ("counted rows", "targets"),
    "counted.starts": ("counted groups + 1",),
    "counted.ids": ("counted groups",),
    "counted.reduced_from": ("counted groups",),
}
_OF_OBJECTIVE: dict[str, Shape] = {
    "objective.factor": ("factor columns", "factor columns"),
    "objective.weight": (),
    "objective.n_tasks": (),
}
_OF_MEMBER: dict[str, Shape] = {"coef": ("columns", "targets")}
_OF_RULE: dict[str, dict[str, Shape]] = {
    "NoAdaptation": {},
    "GradientSteps": {"n_steps": ()},
    "Ridge": {"task_cov": ("targets", "columns", "columns")},
    "ScaledRidge": {
        "task_cov": ("targets", "columns", "columns"),
        "noise": ("targets",),
        "weight": ("targets", "scales"),
    },
}
# Kinds of numpy's dtypes; numbers with a point unless named.
_KINDS = {
    "scaling.kept": "b",
    "curves.feature": "iu",
    "curves.width": "iu",
    "known.starts": "iu",
    "known.ids": "iU",
    "known.reduced_from": "iu",
    "counted.starts": "iu",
    "counted.ids": "iU",
    "counted.reduced_from": "iu",
    "objective.n_tasks": "iu",
    **{f"sums.{name}": "iu" for name in ("mean_of", "spread_of", "main", "n_tasks", "n_rows")},
}
# Results of comparisons, and numbers that are NaN where nothing was chosen.
_MAY_BE_NAN = ("rates.", "errors.", "effects.deviance", "sums.l2")
# What an update adds to: infinite numbers would stay in its sums.
_FINITE = ("sums.task_cov", "sums.totals", "objective.", "counted.")
_RESULTS = re.compile(r"(cv_results|adaptation_results)\.")


def check_state(scalars: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse a state whose parts are missing, of another kind or shape, or not in order.

    Raises
    ------
    ValueError
        Naming the part.
    """
    _check_scalars(scalars)
    shapes = _expected_shapes(scalars, arrays)
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in arrays:
            raise ValueError(f"it has no {name}")
        array = arrays[name]
        if array.dtype.kind not in _KINDS.get(name, "iu" if name.endswith("n_steps") else "f"):
            raise ValueError(f"{name} holds {array.dtype}")
        if array.ndim != len(shape) or any(
            sizes.setdefault(str(symbol), symbol if isinstance(symbol, int) else size) != size
            for symbol, size in zip(shape, array.shape, strict=True)
        ):
            raise ValueError(f"{name} has shape {array.shape}, not {shape}, where {sizes}")
        if array.dtype.kind == "f" and not name.startswith(_MAY_BE_NAN) and np.isnan(array).any():
            raise ValueError(f"{name} holds NaN")
        if name.startswith(_FINITE) and array.dtype.kind == "f" and np.isinf(array).any():
            raise ValueError(f"{name} holds infinite numbers")
    if further := [name for name in arrays if name not in shapes and not _RESULTS.match(name)]:
        raise ValueError(f"it has an unknown part, {further[0]}")
    _check_results(arrays)
    _check_sizes(scalars, sizes, arrays)
    _check_order(arrays)


def _expected_shapes(scalars: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Shape]:
    shapes, of_target = dict(_SHAPES), () if scalars["single_target"] else ("targets",)
    shapes |= {"scaling.y_mean": of_target, "scaling.y_rate": of_target}
    if has_sums := any(name.startswith("sums.") for name in arrays):
        shapes |= _OF_SUMS
    if has_sums and scalars["episodes"] is not None:
        shapes |= _OF_OBJECTIVE
    # One rate for each coefficient, or one for all.
    rate: Shape = ("columns",) if arrays["rates.adapt_lr"].ndim else ()
    shapes |= {"rates.inner_lr": rate, "rates.adapt_lr": rate}
    for k, rule in enumerate(scalars["rules"]):
        shapes |= {f"coef{k}.{name}": shape for name, shape in _OF_MEMBER.items()}
        shapes |= {f"rule{k}.{name}": shape for name, shape in _OF_RULE[rule].items()}
        if rule == "GradientSteps":
            shapes[f"rule{k}.lr"] = rate
    return shapes


def _check_results(arrays: Mapping[str, NDArray[Any]]) -> None:
    for part in ("cv_results", "adaptation_results"):
        columns = {array.shape for name, array in arrays.items() if name.startswith(f"{part}.")}
        if len(columns) > 1 or any(len(shape) != 1 for shape in columns):
            raise ValueError(f"{part} has columns of shapes {sorted(columns)}")


def _check_scalars(scalars: Mapping[str, Any]) -> None:
    kinds = {"adaptation": str, "n_support": int, "rules": list, "single_target": bool, "intercept": bool}
    kinds |= {"target_notes": list}
    for name, kind in kinds.items():
        if not isinstance(scalars[name], kind):
            raise ValueError(f"{name} is a {type(scalars[name]).__name__}")
    if scalars.get("episodes") is not None:
        Protocols(**scalars["episodes"]).check()


def _check_sizes(scalars: Mapping[str, Any], sizes: Mapping[str, int], arrays: Mapping[str, NDArray[Any]]) -> None:
    n_columns = sizes["kept"] + int(arrays["curves.width"].sum()) + bool(scalars["intercept"])
    agree = {
        "scaling.kept": sizes["kept"] == arrays["scaling.kept"].sum(),
        "effects.mean": sizes["columns"] == n_columns,
        "known.starts": sizes["groups + 1"] == sizes["groups"] + 1,
        "counted.starts": sizes.get("counted groups + 1", 1) == sizes.get("counted groups", 0) + 1,
        "predictor.noise": sizes["members"] == len(scalars["rules"]),
        "single_target": sizes["targets"] == 1 or not scalars["single_target"],
        "curves.axes": sizes["splines"] == sizes["knots"] + 2,
        "ScaledRidge": sizes.get("scales", LOG_SCALES.shape[1]) == LOG_SCALES.shape[1],
        "predictor.n_rows": sizes["points"] > 0,
    }
    if "sums" in sizes:
        agree["sums.totals"] = sizes["sums"] == n_sums(sizes["columns"])
    if "factor columns" in sizes:
        width = (Protocols(**scalars["episodes"]).n_steps + 1) * (sizes["columns"] + sizes["targets"])
        agree["objective.factor"] = sizes["factor columns"] == width
    for name, holds in agree.items():
        if not holds:
            raise ValueError(f"{name} does not fit the other sizes, {dict(sizes)}")


def _check_order(arrays: Mapping[str, NDArray[Any]]) -> None:
    width = arrays["curves.width"]
    weight = arrays["predictor.weight"]
    n_straight = len(arrays["scaling.x_mean"])
    in_order = {
        **_order_of_groups("known", arrays),
        "curves.feature": ((arrays["curves.feature"] >= 0) & (arrays["curves.feature"] < n_straight)).all(),
        "curves.knots": (np.diff(arrays["curves.knots"], axis=1) >= 0).all(),
        "curves.width": ((width >= 0) & (width <= arrays["curves.axes"].shape[-1])).all(),
        "predictor.n_rows": (np.diff(arrays["predictor.n_rows"]) > 0).all(),
        "predictor.weight": (weight >= 0).all() and np.allclose(weight.sum(axis=1), 1),
        "calibration.n_rows": (np.diff(arrays["calibration.n_rows"]) > 0).all(),
        "calibration.quantiles": (np.diff(arrays["calibration.quantiles"], axis=-1) >= 0).all(),
    }
    if "sums.totals" in arrays:
        n_models, has_objective = len(arrays["sums.totals"]), "objective.factor" in arrays
        in_order |= _order_of_groups("counted", arrays)
        in_order |= {
            f"sums.{name}": ((arrays[f"sums.{name}"] >= least) & (arrays[f"sums.{name}"] < n_models)).all()
            for name, least in (("mean_of", BY_STEPS if has_objective else STAYS), ("spread_of", STAYS), ("main", 0))
        }
        n_tasks, n_rows, l2 = (arrays[f"sums.{name}"] for name in ("n_tasks", "n_rows", "l2"))
        in_order |= {
            "sums.n_tasks": n_tasks >= 1,
            "sums.n_rows": n_rows >= n_tasks,
            "sums.precision": (arrays["sums.precision"] >= 0).all(),
            "sums.l2": np.isnan(l2) or 0 <= l2 < np.inf,
        }
        if has_objective:
            in_order |= {f"objective.{name}": arrays[f"objective.{name}"] > 0 for name in ("weight", "n_tasks")}
    for name, holds in in_order.items():
        if not holds:
            raise ValueError(f"{name} is not in order")


def _order_of_groups(part: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    starts, ids = arrays[f"{part}.starts"], arrays[f"{part}.ids"]
    return {
        f"{part}.starts": starts[0] == 0 and starts[-1] == len(arrays[f"{part}.X"]) and (np.diff(starts) >= 0).all(),
        f"{part}.ids": len(np.unique(ids)) == len(ids),
        f"{part}.reduced_from": (arrays[f"{part}.reduced_from"] >= np.diff(starts)).all(),
    }
