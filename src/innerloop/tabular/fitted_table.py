"""A fitted estimator as plain values and arrays, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from innerloop.data.scaling import Scaling
from innerloop.tabular.intervals import Calibration
from innerloop.tabular.known_rows import KnownRows
from innerloop.tabular.spread import Spread

if TYPE_CHECKING:
    from innerloop.estimators.meta_regressor import MetaRegressor

# What is kept beside the parameters and the parts.
_SCALARS = ("adaptation_", "l2_", "n_support_", "n_features_in_", "_single_target")
_ARRAYS = (
    *("coef_", "intercept_", "groups_", "group_coef_", "group_intercept_", "_theta"),
    *("inner_lr_", "adapt_lr_", "inner_lr_se_", "adapt_lr_se_", "feature_names_in_"),
)
_PARTS = {"_scaling": Scaling, "_spread": Spread, "_calibration": Calibration, "_known": KnownRows}
_TABLES = ("cv_results_", "adaptation_results_")


def to_state(model: MetaRegressor) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return all that a fitted estimator knows, for `from_state`."""
    params = {name: plain(value) for name, value in model.get_params().items()}
    arrays = {name: np.asarray(getattr(model, name)) for name in _ARRAYS if hasattr(model, name)}
    if "feature_names_in_" in arrays:
        arrays["feature_names_in_"] = arrays["feature_names_in_"].astype(np.str_)
    tables = {name: getattr(model, name) or {} for name in _TABLES}
    parts = {name: vars(getattr(model, name)) for name in _PARTS}
    for owner, columns in {**parts, **tables}.items():
        arrays |= {f"{owner}.{name}": np.asarray(column) for name, column in columns.items()}
    return {"params": params, **{name: plain(getattr(model, name)) for name in _SCALARS}}, arrays


def from_state(model: MetaRegressor, scalars: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Set the fitted attributes that `to_state` described."""
    for name in _SCALARS:
        setattr(model, name, scalars[name])
    for name in _ARRAYS:
        if name in arrays:
            setattr(model, name, arrays[name][()])
    if "feature_names_in_" in arrays:
        model.feature_names_in_ = arrays["feature_names_in_"].astype(object)
    parts: dict[str, dict[str, Any]] = {name: {} for name in (*_PARTS, *_TABLES)}
    for name, array in arrays.items():
        owner, _, key = name.partition(".")
        if key:
            parts[owner][key] = array
    parts["_scaling"]["intercept"] = bool(parts["_scaling"]["intercept"])
    for name, part in _PARTS.items():
        setattr(model, name, part(**parts[name]))
    for name in _TABLES:
        setattr(model, name, parts[name] or None)


def plain(value: Any) -> Any:
    """Return a value that JSON can hold; a random state that is an object has no plain form."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else None
