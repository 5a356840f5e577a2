"""Task ids: which values can be one, and which of them are equal.

One rule, whatever holds the ids (an array, any frame, a list, CSV, Parquet) and whatever the other ids are:

- A whole number is one id in every type and as text: ``12``, ``12.0``, ``numpy.uint8(12)``, ``"12"`` and ``"12.0"``.
  Where other ids are no numbers, ``"12"`` and ``"12.0"`` in one column may be meant to differ: refused.
- Text is what it is, but for white space around it: ``"a"`` and ``" a"`` are one id; ``"a"``, ``"A"``, ``"7"`` and
  ``"007"`` are four.
- Any other number is the text of its shortest decimal form: ``0.5`` is ``"0.5"``.
- A truth value is the text ``"True"`` or ``"False"``. A date is ``"2024-05-01"``; a time is that at midnight and
  ``"2024-05-01 12:00:00"`` otherwise.

What is not exact is refused: floats too large to tell whole numbers apart (from 2**53 on), missing ids, empty text,
text with NUL characters (numpy drops them) and text of more than `LONGEST` characters, which an unclosed quote leaves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import IntArray

# Characters of a text id.
LONGEST = 1_000

# How whole numbers are written, also where they come from a column of floats; 007 is no number.
_WHOLE = re.compile(r"(0|-?[1-9][0-9]*)(\.0)?")
_INT64 = np.iinfo(np.int64)


def distinct_ids(
    value: Any, name: str, n_rows: int, place: Callable[[int], str] = "row {}".format
) -> tuple[NDArray[Any], IntArray]:
    """Return the distinct ids in `value`, and the position among them of each row's id.

    Parameters
    ----------
    value : (n_rows,)
        Task ids: an array, series or list.
    name, place
        What messages call it, and its row i.
    n_rows
        How many there must be.

    Returns
    -------
    ids : (n_ids,)
        Sorted; int64 where every id is a whole number that fits, else text, whole numbers as their digits.
    position : (n_rows,)

    Raises
    ------
    TypeError, ValueError
        If a value can be no id; the message names its row.
    """
    labels, missing = _as_labels(value, name)
    if labels.ndim != 1 or len(labels) != n_rows:
        raise ValueError(f"`{name}` must hold one task id per row ({n_rows}), got shape {labels.shape}.")
    if missing.any():
        row = int(np.argmax(missing))
        raise ValueError(f"`{name}` has a missing task id at {place(row)}; drop the row or name its task.")
    if _fits_int64(labels):
        return _distinct_numbers(labels.astype(np.int64))
    values, position = _distinct_values(labels, name)
    if (texts := _texts_at_once(values)) is None:
        texts = []
        for i, distinct in enumerate(values):
            try:
                texts.append(id_text(distinct))
            except (TypeError, ValueError) as error:
                row = int(np.argmax(position == i))
                raise type(error)(f"`{name}` has a task id at {place(row)} that {error}") from None
    # Sorted as Python objects: one long text would make every copy of an array of text as wide.
    numbers = _whole_numbers(texts)
    keys: list[Any] = texts if numbers is None else numbers
    ordered = sorted(set(keys))
    if keys is texts and len(ordered) < len(values):
        _refuse_two_forms(values, name)
    rank = {key: i for i, key in enumerate(ordered)}
    equal = np.fromiter(map(rank.__getitem__, keys), dtype=np.intp, count=len(keys))
    return np.array(ordered, dtype=np.str_ if keys is texts else np.int64), equal[position]


def id_text(value: Any) -> str:
    """Return the text that is the same for all values that are the same id.

    Raises
    ------
    TypeError, ValueError
        If the value can be no id; the message goes on from "a task id that".
    """
    for kinds, text in _TEXT_OF:
        if isinstance(value, kinds):
            return text(value)
    if isinstance(value, tuple | list):
        raise TypeError(f"is the {type(value).__name__} {value!r}; join its parts to one text per row.")
    raise TypeError(f"is a {type(value).__name__}; task ids are numbers, text or dates: convert it to text.")


def id_texts(ids: NDArray[Any]) -> list[str]:
    """Return each of some `distinct_ids` as text."""
    return [str(i) for i in ids.tolist()]


def comparable(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return two arrays of `distinct_ids` in one dtype, as text where one is text."""
    if a.dtype.kind == b.dtype.kind:
        return a, b
    return a.astype(np.str_), b.astype(np.str_)


def places(ids: NDArray[Any], known: NDArray[Any]) -> IntArray:
    """Return the position of each id among known ones, -1 for none; both are arrays of `distinct_ids`."""
    ids, known = comparable(ids, known)
    return places_in_order(ids, known, sorting(known))


def sorting(ids: NDArray[Any]) -> IntArray | None:
    """Return the positions that sort ids; None where they are in order, as they usually are."""
    return None if (ids[:-1] <= ids[1:]).all() else np.argsort(ids)


def places_in_order(ids: NDArray[Any], known: NDArray[Any], order: IntArray | None) -> IntArray:
    """Return what `places` does of `comparable` ids, given the `sorting` of the known ones."""
    if len(known) == 0:
        return np.full(len(ids), -1)
    near = np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)
    near = near if order is None else order[near]
    return np.where(known[near] == ids, near, -1)


def _as_labels(value: Any, name: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return ids as an array, and which rows have none."""
    mask = np.ma.getmaskarray(value) if np.ma.isMaskedArray(value) else False
    if isinstance(value, list | tuple):
        # numpy would make text of [1, "a"] and a matrix of tuples.
        labels = np.empty(len(value), dtype=object)
        labels[:] = value
    else:
        labels = np.asarray(value)
    if labels.dtype.kind in "UT":
        labels = labels.astype(object)  # pandas counts objects by hash, numpy sorts text
    if labels.dtype.kind in "fM":
        return labels, np.asarray(mask | np.isnat(labels) if labels.dtype.kind == "M" else mask | np.isnan(labels))
    if labels.dtype.kind == "O":
        import pandas as pd

        return labels, np.asarray(mask | pd.isna(labels))
    if labels.dtype.kind not in "iub":
        raise TypeError(f"`{name}` must hold numbers, text or dates, got dtype {labels.dtype}; convert it to text.")
    return labels, np.broadcast_to(mask, labels.shape)


def _distinct_values(labels: NDArray[Any], name: str) -> tuple[Sequence[Any], IntArray]:
    """Return the different values of an array without missing ones, and the position of each row's among them."""
    if labels.dtype.kind != "O":
        values, position = np.unique(labels, return_inverse=True)
        return list(values), position
    import pandas as pd

    # pandas 2 takes text for equal that is equal up to a NUL.
    if pd.api.types.infer_dtype(labels) == "string" and "\0" not in "".join(labels.tolist()):
        position, values = pd.factorize(labels)
        return values.tolist(), position
    # By type too: True is 1 to a dictionary.
    place: dict[tuple[type, Any], int] = {}
    try:
        position = np.array([place.setdefault((type(label), label), len(place)) for label in labels], dtype=np.intp)
    except TypeError:
        kind = next(type(label).__name__ for label in labels if label.__hash__ is None)
        raise TypeError(f"`{name}` must hold numbers, text or dates, got a {kind}; convert it to text.") from None
    return [label for _, label in place], position


def _fits_int64(labels: NDArray[Any]) -> bool:
    """Return whether an array of numbers holds int64, or floats that stand for whole numbers exactly."""
    if labels.dtype.kind == "f":
        return bool((np.abs(labels) < _n_exact(labels.dtype)).all() and (labels == np.trunc(labels)).all())
    return labels.dtype.kind in "iu" and (not len(labels) or bool(labels.max() <= _INT64.max))


def _n_exact(dtype: Any) -> int:
    """Return the size from which on floats skip whole numbers."""
    return int(2 ** (np.finfo(dtype).nmant + 1))


def _distinct_numbers(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], IntArray]:
    if len(numbers) and (numbers[1:] >= numbers[:-1]).all():  # row by row of each task, as in most tables: no sorting
        is_first = np.append(True, numbers[1:] > numbers[:-1])
        return numbers[is_first], np.cumsum(is_first) - 1
    ids, position = np.unique(numbers, return_inverse=True)
    return ids, position


def _texts_at_once(values: Sequence[Any]) -> list[str] | None:
    """Return `id_text` of each value where all are usual text; None if they need a look one by one."""
    if not all(isinstance(value, str) for value in values):
        return None
    texts = [value.strip() for value in values]
    if "" in texts or "\0" in "".join(texts) or max(map(len, texts), default=0) > LONGEST:
        return None
    return [text.removesuffix(".0") if text.endswith(".0") and _WHOLE.fullmatch(text) else text for text in texts]


def _refuse_two_forms(values: Sequence[Any], name: str) -> None:
    """Refuse text ids of which two differ in the ".0" of a whole number only."""
    texts = {value.strip() for value in values if isinstance(value, str)}
    for text in sorted(texts):
        if _WHOLE.fullmatch(text) and text + ".0" in texts:
            raise ValueError(
                f"`{name}` has the task ids {text!r} and {text + '.0'!r} beside ids that are no numbers; write the two "
                "in one form where they are one task, and as other text where they are not."
            )


def _whole_numbers(texts: list[str]) -> list[int] | None:
    """Return the whole numbers that texts stand for; None where one is none, or does not fit int64."""
    if not all(map(_WHOLE.fullmatch, texts)):
        return None
    numbers = list(map(int, texts))
    fits = not numbers or (min(numbers) >= _INT64.min and max(numbers) <= _INT64.max)
    return numbers if fits else None


def _text_of_text(value: str) -> str:
    text = value.strip()
    if not text:
        raise ValueError("is empty; drop the row or name its task.")
    if len(text) > LONGEST:
        raise ValueError(
            f"has {len(text):,} characters ({text[:20]!r} ...), more than {LONGEST:,}; shorten it, or close a quote."
        )
    if "\0" in text:
        raise ValueError(f"holds a NUL character, {text[:40]!r}; take it out.")
    return text.removesuffix(".0") if _WHOLE.fullmatch(text) else text


def _text_of_float(value: float | np.floating[Any]) -> str:
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"is {number}; name its task.")
    if abs(number) >= _n_exact(type(value)):
        raise ValueError(
            f"is the float {number!r}, of a size at which whole numbers are no longer told apart; "
            "pass ids as whole numbers or as text."
        )
    return str(int(number)) if number.is_integer() else repr(number)


def _text_of_date(value: Any) -> str:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    import pandas as pd

    return str(pd.Timestamp(value)).removesuffix(" 00:00:00")


def _text_of_decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise ValueError(f"is {value}; name its task.")
    return format(value.normalize(), "f")


# By type, the first that holds: a truth value is an int too.
_TEXT_OF: tuple[tuple[tuple[type, ...], Callable[[Any], str]], ...] = (
    ((str,), _text_of_text),
    ((bool, np.bool_), lambda value: str(bool(value))),
    ((int, np.integer), lambda value: str(int(value))),
    ((float, np.floating), _text_of_float),
    ((date, np.datetime64), _text_of_date),
    ((Decimal,), _text_of_decimal),
    ((UUID,), str),
)
