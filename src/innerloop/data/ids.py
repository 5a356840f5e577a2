"""Task ids: which values can be one, which of them are equal, and where they stand among known ones."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import IntArray

# How whole numbers are written, also where they come from a column of floats; 007 is no number.
_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0)?")
_LARGEST_EXACT = 2**53


def as_labels(value: Any, name: str, n_rows: int) -> NDArray[Any]:
    """Return task ids, one per row, as an array of numbers or of text that can be sorted."""
    # A list goes through the checks of its objects: numpy would turn [1, "a"] and [nan, "a"] into text.
    labels = np.asarray(value, dtype=object if isinstance(value, list | tuple) else None)
    if labels.ndim != 1 or len(labels) != n_rows:
        raise ValueError(f"`{name}` must hold one task id per row ({n_rows}), got shape {labels.shape}.")
    if labels.dtype.kind == "O":
        labels = _labels_from_objects(labels, name)
    if labels.dtype.kind in "fcmM" and (labels != labels).any():
        raise ValueError(f"`{name}` has a missing task id at row {int(np.argmax(labels != labels))}.")
    if labels.dtype.kind not in "iufbU":
        raise TypeError(f"`{name}` must hold numbers or text, got dtype {labels.dtype}; convert it to text.")
    return labels


def whole_numbers(ids: NDArray[Any]) -> NDArray[Any]:
    """Return ids as whole numbers where every one is, a float or text such as "12" or "12.0" too; else unchanged."""
    if ids.dtype.kind == "f" and (np.abs(ids) < _LARGEST_EXACT).all() and (ids == np.trunc(ids)).all():
        return ids.astype(np.int64)
    if ids.dtype.kind == "U" and len(ids):
        texts = ids.tolist()
        different = set(texts)
        if all(map(_WHOLE.fullmatch, different)):
            number = {text: int(plain_id(text)) for text in different}
            return np.array([number[text] for text in texts], dtype=np.int64)
    return ids


def plain_id(text: str) -> str:
    """Return "12" for "12.0", and other text as it is."""
    return text.removesuffix(".0") if _WHOLE.fullmatch(text) else text


def id_texts(ids: NDArray[Any]) -> list[str]:
    """Return each id as text, the same for a whole number of any type."""
    if ids.dtype.kind != "f":
        return [str(i) for i in ids.tolist()]
    return [str(int(i)) if i.is_integer() else str(i) for i in ids.tolist()]


def _is_missing(label: Any) -> bool:
    """Return whether a task id is None, NaN, NaT or NA, which alone are not equal to themselves."""
    equal = label is not None and label == label
    return not (isinstance(equal, bool | np.bool_) and equal)


def _labels_from_objects(labels: NDArray[Any], name: str) -> NDArray[Any]:
    for row, label in enumerate(labels):
        if _is_missing(label):
            raise ValueError(f"`{name}` has a missing task id at row {row}; drop the row or name its task.")
    if all(isinstance(label, str) for label in labels):
        return labels.astype(np.str_)
    if any(isinstance(label, str) for label in labels):
        raise TypeError(f"`{name}` mixes text and numbers; convert all task ids to text.")
    try:
        return np.array(labels.tolist())
    except ValueError as error:
        raise TypeError(f"`{name}` must hold numbers or text, got {type(labels[0]).__name__}.") from error


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
