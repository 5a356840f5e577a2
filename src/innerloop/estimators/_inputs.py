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
