"""Parameters and task ids of the estimator in the form that its work needs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from innerloop._checks import as_count


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


def like(groups: NDArray[Any], known: NDArray[Any]) -> NDArray[Any]:
    """Return `groups`, having made sure that they can be compared with the ids seen in fit."""
    if (groups.dtype.kind == "U") != (known.dtype.kind == "U"):
        kinds = ["text" if ids.dtype.kind == "U" else "numbers" for ids in (known, groups)]
        raise TypeError(f"`groups` were {kinds[0]} in fit and are {kinds[1]} now; convert one to the other.")
    return groups


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
        return X, groups
    if groups is None:
        groups = frame[group].to_numpy()
    return frame.drop(group).to_native(), groups
