"""Seeds to random numbers that do not depend on the order of work.

Streams are addressed by index, never by the order in which they are asked for; the order of a task's
rows is drawn from the rows themselves, so that it is the same however the file was sorted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from innerloop._checks import FloatArray, IntArray, as_count

Words = NDArray[np.uint64]

_COLUMNS_SUMMED_UP = 4


def stream(seed: int, *index: int) -> np.random.Generator:
    """Return the random generator number `index` of `seed`."""
    return np.random.default_rng(np.random.SeedSequence(as_count(seed, "seed", 0), spawn_key=index))


def shuffled_order(columns: Sequence[FloatArray], task: IntArray, ids: NDArray[Any], seed: int) -> IntArray:
    """Return an order of all rows: task by task, shuffled within each.

    A row's place depends on how the task's numbers are ordered, on its id and on the seed alone: neither the order
    of the rows in a file, nor the units of a column, nor the other tasks move it.

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
    place = _sorted_place(columns, task)
    # Were keys drawn for places alone, one seed would pick rows of the same ranks from every table. A word that
    # sums up how the columns of the task are ordered relative to each other makes each table a draw of its own.
    rows = place.astype(np.uint64)
    for column in columns[:_COLUMNS_SUMMED_UP]:
        rows = _mix(rows ^ _rank(column, task).astype(np.uint64))
    first, member = _runs(task)
    words = _id_words(ids, as_count(seed, "seed", 0))[task] ^ np.add.reduceat(rows, first)[member]
    return np.lexsort((_mix(_mix(words) + place.astype(np.uint64)), task))


def _runs(task: IntArray) -> tuple[IntArray, IntArray]:
    """Return where each run of equal tasks begins, and the number of the run of each row."""
    fresh = np.diff(task, prepend=-1) > 0
    return np.flatnonzero(fresh), np.cumsum(fresh) - 1


def _sorted_place(columns: Iterable[FloatArray], task: IntArray) -> IntArray:
    """Return each row's place in its task when rows are sorted by the columns; equal rows in any order.

    Columns are taken in turn for as long as some rows of a task are equal in all those before.
    """
    label = task
    for column in columns:
        label = _joint_rank(column, label)
        if label.max() == len(task) - 1:
            break
    place = np.empty_like(task)
    place[np.argsort(label, kind="stable")] = np.arange(len(task))
    return place - np.searchsorted(task, task)


def _rank(column: FloatArray, task: IntArray) -> IntArray:
    """Return the rank of each row's number among the different numbers of its task."""
    label = _joint_rank(column, task)
    first, member = _runs(task)
    return label - np.minimum.reduceat(label, first)[member]


def _joint_rank(column: FloatArray, label: IntArray) -> IntArray:
    """Return the rank of each pair (label, number) among the different pairs."""
    order = np.lexsort((column, label))
    fresh = (np.diff(label[order]) != 0) | (np.diff(column[order]) != 0)
    rank = np.empty_like(label)
    rank[order] = np.concatenate(([0], np.cumsum(fresh)))
    return rank


def _id_words(ids: NDArray[Any], seed: int) -> Words:
    """Return one 64-bit word per task id, mixed with the seed."""
    digests = (hashlib.blake2b(str(i).encode("utf-8", "surrogatepass"), digest_size=8) for i in ids.tolist())
    words = np.frombuffer(b"".join(digest.digest() for digest in digests), dtype="<u8")
    seed_word = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    return _mix(words.astype(np.uint64) ^ np.frombuffer(seed_word, dtype="<u8").astype(np.uint64))


def _mix(words: Words) -> Words:
    """Return the splitmix64 finaliser (Steele, Lea and Flood, 2014) of each word."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
