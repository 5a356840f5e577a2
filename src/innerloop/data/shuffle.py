"""Shuffled orders of the rows of tasks that do not depend on how the table was sorted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray, as_count
from innerloop.data.ids import id_texts

Words = NDArray[np.uint64]

_HASHED_COLUMNS = 4


def shuffled_order(columns: Sequence[FloatArray], task: IntArray, ids: NDArray[Any], seed: int) -> IntArray:
    """Return an order of all rows: task by task, shuffled within each.

    A row's position depends only on the ranks of the task's numbers, on its id and on the seed: not on the order of
    the rows in the table, nor on the units of a column, nor on the other tasks.

    Parameters
    ----------
    columns
        The numbers of the rows, column by column, each of shape (n_rows,).
    task
        Index of each row's task in `ids`, increasing.
    ids
        The task ids.
    seed
        Any whole number from 0.
    """
    sizes = np.bincount(task, minlength=len(ids))
    first = np.cumsum(sizes) - sizes
    words = _id_words(ids, as_count(seed, "seed", 0))
    order = np.empty(len(task), dtype=np.intp)
    # Tasks of similar size are shuffled together, the smaller ones padded.
    power = np.ceil(np.log2(np.maximum(sizes, 1)))
    for similar in (np.flatnonzero((power == p) & (sizes > 0)) for p in np.unique(power)):
        place = np.arange(sizes[similar].max(initial=0))
        rows = first[similar, None] + place
        real = place < sizes[similar, None]
        shuffled = _shuffled(columns, np.where(real, rows, 0), real, words[similar, None])
        order[rows[real]] = np.take_along_axis(rows, shuffled, axis=1)[real]
    return order


def _shuffled(columns: Sequence[FloatArray], rows: IntArray, real: NDArray[np.bool_], words: Words) -> IntArray:
    """Return an order of each task's rows, padding last: (n_tasks, n_rows), as `rows`."""
    ranks = [_rank(column[rows], real) for column in columns[:_HASHED_COLUMNS]]
    further = (_rank(column[rows], real) for column in columns[_HASHED_COLUMNS:])
    place = _sorted_place(chain(ranks, further), real).astype(np.uint64)
    # If keys were drawn for positions alone, one seed would pick rows of the same ranks from every table. A hash of
    # how the columns of the task are ordered relative to each other makes the draws of different tables independent.
    hashed = place
    for rank in ranks:
        hashed = _mix(hashed ^ rank.astype(np.uint64))
    words = _mix(words ^ hashed.sum(axis=1, keepdims=True, where=real))
    keys = _mix(words + place)
    return np.lexsort((keys, ~real))


def _sorted_place(ranks: Iterator[IntArray], real: NDArray[np.bool_]) -> IntArray:
    """Return each row's position in its task after sorting by the columns of these ranks; equal rows in any order.

    A further column is used only while some rows of a task are equal in all earlier ones.
    """
    label, last = next(ranks), real.sum(axis=1) - 1
    while (label.max(axis=1, where=real, initial=0) < last).any() and (rank := next(ranks, None)) is not None:
        label = _rank(label * label.shape[1] + rank, real)
    return np.argsort(np.lexsort((label, ~real)), axis=1)


def _rank(values: NDArray[Any], real: NDArray[np.bool_]) -> IntArray:
    """Return the rank of each number among the distinct numbers of its row; padding ranks highest."""
    order = np.lexsort((values, ~real))
    is_new = np.diff(np.take_along_axis(values, order, axis=1), axis=1) != 0
    rank = np.zeros(values.shape, dtype=np.intp)
    np.put_along_axis(rank, order[:, 1:], np.cumsum(is_new, axis=1), axis=1)
    return rank


def _id_words(ids: NDArray[Any], seed: int) -> Words:
    """Return one 64-bit word per task id, mixed with the seed."""
    digests = (hashlib.blake2b(i.encode("utf-8", "surrogatepass"), digest_size=8) for i in id_texts(ids))
    words = np.frombuffer(b"".join(digest.digest() for digest in digests), dtype="<u8")
    seed_word = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    return _mix(words.astype(np.uint64) ^ np.frombuffer(seed_word, dtype="<u8").astype(np.uint64))


def uniform_of_ids(ids: NDArray[Any], seed: int) -> FloatArray:
    """Return a number in [0, 1) for each id, drawn with the seed; other ids do not matter."""
    values: NDArray[Any] = (_id_words(ids, as_count(seed, "seed", 0)) >> np.uint64(11)) * 2.0**-53
    return values.astype(np.float64)


def _mix(words: Words) -> Words:
    """Return the splitmix64 finaliser (Steele, Lea and Flood, 2014) of each word."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
