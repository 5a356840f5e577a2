"""Parameters and task ids of the estimator in the form that its work needs."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from innerloop._checks import IntArray, as_count, id_texts, plain_id, whole_numbers


def is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == "auto"


def plain(value: Any) -> Any:
    """Return a value that JSON can hold; a random state that is an object has no plain form."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else None


def as_seed(random_state: Any) -> int:
    if isinstance(random_state, int | np.integer):
        return as_count(random_state, "random_state", 0)
    return int(check_random_state(random_state).randint(2**31 - 1))


def alike(groups: NDArray[Any], known: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return ids, and those seen in fit, in a form in which equal ones are equal.

    Ids that were numbers in fit are so however they are written: 12, 12.0, "12" and "12.0". Text is what it is.
    """
    if known.dtype.kind != "U":
        groups = whole_numbers(groups)
    if (groups.dtype.kind == "U") == (known.dtype.kind == "U"):
        return groups, known
    if known.dtype.kind == "U":
        return np.array(id_texts(groups), dtype=np.str_), known
    return np.array([plain_id(text) for text in groups.tolist()]), np.array(id_texts(known), dtype=np.str_)


def places(groups: NDArray[Any], known: NDArray[Any]) -> IntArray:
    """Return the place of each id among the ids seen in fit: -1 for none."""
    groups, known = alike(groups, known)
    if len(known) == 0:
        return np.full(len(groups), -1)
    order = np.argsort(known)
    near = order[np.minimum(np.searchsorted(known, groups, sorter=order), len(known) - 1)]
    return np.where(known[near] == groups, near, -1)


def take_groups(group: str | None, X: Any, groups: Any, required: bool = True) -> tuple[Any, Any]:
    """Return X without the column `group` of task ids, and the task ids."""
    if group is None:
        return X, groups
    import narwhals as nw

    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if not isinstance(frame, nw.DataFrame):
        if groups is None and required:
            raise ValueError(
                f"`group` names the column {group!r}, but X is not a data frame; pass a frame, or the task ids as "
                "groups=..."
            )
        return X, groups
    if group not in frame.columns:
        if groups is None and required:
            from innerloop._frames import missing_column

            raise ValueError(missing_column(group, frame.columns, "`X`"))
        if groups is None:
            warnings.warn(
                f"`X` has no column {group!r} and `groups` is None: all rows are predicted with the meta-parameters, "
                "as rows of unseen tasks. Keep the column, or pass groups=...",
                UserWarning,
                stacklevel=4,  # of `predict` and `predict_interval`
            )
        return X, groups
    if groups is None:
        groups = frame[group].to_numpy()
    return frame.drop(group).to_native(), groups
