"""Shuffled orders of the rows of tasks that do not depend on how the table was sorted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.ragged import of_similar_size
from innerloop.data.ids import id_texts
from innerloop.data.words import Words, draws, mix


@final
class RowContents:
    """What the rows of tasks hold, as far as their shuffled order depends on it.

    That is the ranks of a task's numbers: not the order of the rows in the table, nor the units, the signs and the
    order of the features, nor other tasks: these only where rows of equal targets differ by what within their task
    could be a sign or an order as well.

    Parameters
    ----------
    targets, features
        The numbers of the rows, column by column, each of shape (n_rows,).
    starts : (n_tasks + 1,)
        First row of each task, and the number of rows.
    """

    def __init__(self, targets: Sequence[FloatArray], features: Sequence[FloatArray], starts: IntArray) -> None:
        self._n_rows, sizes = int(starts[-1]), np.diff(starts)
        self._parts = []
        whole = _Whole(targets[0], features)
        # Tasks of similar size are shuffled together, the smaller ones padded.
        for similar in of_similar_size(sizes):
            place = np.arange(sizes[similar[-1]])
            rows = starts[similar, None] + place
            real = place < sizes[similar, None]
            contents, places = _contents(targets, whole, np.where(real, rows, 0), real)
            self._parts.append((similar, rows, real, contents, places))

    def shuffled(self, ids: NDArray[Any], seed: int) -> IntArray:
        """Return an order of all rows: task by task, shuffled within each by contents, the task's id and the seed."""
        words, order = _id_words(ids, seed), np.empty(self._n_rows, dtype=np.intp)
        for similar, rows, real, contents, places in self._parts:
            keys = mix(mix(words[similar, None] ^ contents) + places)
            order[rows[real]] = np.take_along_axis(rows, np.lexsort((keys, ~real)), axis=1)[real]
        return order


def order_of_contents(targets: Sequence[FloatArray], features: Sequence[FloatArray], starts: IntArray) -> IntArray:
    """Return the place of each task in an order that follows from sizes and ranks of numbers, not from ids.

    Nor do the order of rows, and the units, signs and order of features matter. Tasks that are equal in all this keep
    their order.
    """
    sizes, first = np.diff(starts), starts[:-1]
    ranks = [_ranks_of_all(target) for target in targets]
    keys = [sizes, *(np.add.reduceat(power, first) for rank in ranks for power in (rank, rank * rank))]
    if len(np.unique(np.stack(keys), axis=1).T) < len(sizes):
        every = np.arange(starts[-1])[None]
        words = _content(ranks[0][None], features, every, np.ones_like(every, dtype=bool))[0]
        for rank in ranks:
            words = mix(words ^ rank.astype(np.uint64))
        keys.append(np.add.reduceat(words, first))
    return np.argsort(np.lexsort(keys[::-1]), kind="stable")


class _Whole:
    """The features of all tasks, and an order and signs of them that follow from all their rows."""

    def __init__(self, target: FloatArray, features: Sequence[FloatArray]) -> None:
        self.features, self._target = features, target

    @cached_property
    def in_order(self) -> list[FloatArray]:
        """The features by the size of the product of their ranks with the target's, which their signs make positive."""
        target = _ranks_of_all(self._target)
        products = [int(_ranks_of_all(feature) @ target) for feature in self.features]
        order = np.argsort([-abs(product) for product in products], kind="stable")
        return [self.features[i] if products[i] >= 0 else -self.features[i] for i in order]


def _ranks_of_all(values: FloatArray) -> IntArray:
    real = np.ones((1, len(values)), dtype=bool)
    return np.asarray(_centred(_rank(values[None], real), real)[0])


def _contents(
    targets: Sequence[FloatArray], whole: _Whole, rows: IntArray, real: NDArray[np.bool_]
) -> tuple[Words, Words]:
    """Return a hash of each task's contents (n_tasks, 1), and each row's place in an order by them, as `rows`."""
    ranks = [_rank(target[rows], real) for target in targets]
    content = _content(_centred(ranks[0], real), whole.features, rows, real)
    place = _sorted_place(chain(ranks, _further(content, whole, rows, real)), real).astype(np.uint64)
    # If keys were drawn for positions alone, one seed would pick rows of the same ranks from every table. A hash of
    # how the columns of the task are ordered relative to each other makes the draws of different tables independent.
    hashed = place
    for rank in (*ranks, content):
        hashed = mix(hashed ^ rank.astype(np.uint64))
    return hashed.sum(axis=1, keepdims=True, where=real), place


def _content(target: IntArray, features: Sequence[FloatArray], rows: IntArray, real: NDArray[np.bool_]) -> Words:
    """Return a hash of the ranks of each row's features, which their signs and order do not change.

    A feature's sign is such that its ranks have a positive product with those of the target; which feature it is, is
    told by that product.
    """
    content = np.zeros(rows.shape, dtype=np.uint64)
    for feature in features:
        rank = _centred(_rank(feature[rows], real), real)
        product = (rank * target).sum(axis=1, keepdims=True)
        rank = np.where(product == 0, np.abs(rank), np.sign(product) * rank)
        content += rank.astype(np.uint64) * (mix(np.abs(product).astype(np.uint64)) | np.uint64(1))
    return mix(content)


def _further(content: Words, whole: _Whole, rows: IntArray, real: NDArray[np.bool_]) -> Iterator[IntArray]:
    """Yield ranks that tell rows of equal targets apart."""
    yield _rank(content, real)
    for feature in whole.in_order:
        yield _rank(feature[rows], real)


def _sorted_place(ranks: Iterator[IntArray], real: NDArray[np.bool_]) -> IntArray:
    """Return each row's position in its task after sorting by these ranks; equal rows in any order.

    A further rank is used only while some rows of a task are equal in all earlier ones.
    """
    label, last = next(ranks), real.sum(axis=1) - 1
    while (label.max(axis=1, where=real, initial=0) < last).any() and (rank := next(ranks, None)) is not None:
        label = _rank(label * label.shape[1] + rank, real)
    return np.argsort(np.lexsort((label, ~real)), axis=1)


def _rank(values: NDArray[Any], real: NDArray[np.bool_]) -> IntArray:
    """Return the rank of each number among the distinct numbers of its row; padding ranks highest."""
    highest = np.inf if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    order = np.argsort(np.where(real, values, highest), axis=1)  # equal values share a rank, in whatever order
    is_new = np.diff(np.take_along_axis(values, order, axis=1), axis=1) != 0
    rank = np.zeros(values.shape, dtype=np.intp)
    np.put_along_axis(rank, order[:, 1:], np.cumsum(is_new, axis=1), axis=1)
    return rank


def _centred(rank: IntArray, real: NDArray[np.bool_]) -> IntArray:
    """Return ranks that change sign where the order of the values is reversed; 0 for padding."""
    highest = rank.max(axis=1, keepdims=True, where=real, initial=0)
    return np.where(real, 2 * rank - highest, 0)


def _id_words(ids: NDArray[Any], seed: int) -> Words:
    """Return one 64-bit word per task id, mixed with the seed."""
    digests = (hashlib.blake2b(i.encode("utf-8", "surrogatepass"), digest_size=8) for i in id_texts(ids))
    words = np.frombuffer(b"".join(digest.digest() for digest in digests), dtype="<u8")
    return draws(words.astype(np.uint64), seed)


def uniform_of_ids(ids: NDArray[Any], seed: int) -> FloatArray:
    """Return a number in [0, 1) for each id, drawn with the seed; other ids do not matter."""
    values: NDArray[Any] = (_id_words(ids, seed) >> np.uint64(11)) * 2.0**-53
    return values.astype(np.float64)
