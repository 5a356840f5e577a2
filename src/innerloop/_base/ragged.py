"""Index arithmetic for ragged arrays: consecutive segments of rows, of different lengths."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from innerloop._base.checks import IntArray


def row_starts(sizes: IntArray) -> IntArray:
    """Return the first row of each segment, and the end of the last: (n + 1,)."""
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.intp)


def ragged_ranges(first: IntArray, sizes: IntArray) -> IntArray:
    """Return the rows of all segments as one array: range(first[0], first[0] + sizes[0]), then the next range, ..."""
    return np.repeat(first - row_starts(sizes)[:-1], sizes) + np.arange(int(sizes.sum()))


def of_similar_size(sizes: IntArray) -> Iterator[IntArray]:
    """Yield the segments in groups of similar size, the smaller first, in order of size.

    Padding to the largest of a group costs less than twice the rows, as its sizes are within a power of 2.
    """
    order = np.argsort(sizes, kind="stable")
    power = np.ceil(np.log2(np.maximum(sizes[order], 1)))
    for similar in np.split(order, np.flatnonzero(np.diff(power)) + 1):
        if len(similar):
            yield similar


def padded_rows(first: IntArray, sizes: IntArray) -> IntArray:
    """Return the rows of segments, none empty, as rows of a matrix; shorter ones repeat their last row."""
    return first[:, None] + np.minimum(np.arange(sizes.max()), sizes[:, None] - 1)


def padded_ranges(first: IntArray, end: IntArray, most_rows: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield segments of similar length together, as rows of a matrix; shorter ones repeat their last row.

    Parameters
    ----------
    first, end : (n,)
        First row of each segment, and the row after its last; none is empty.
    most_rows
        About the largest number of rows of a matrix together; there may be more in a single segment.

    Yields
    ------
    chosen : (n_chosen,)
        Which segments.
    rows : (n_chosen, width)
        Fewer than half of the rows are repeated.
    """
    sizes = end - first
    for similar in of_similar_size(sizes):
        step = max(1, most_rows // int(sizes[similar[-1]]))
        for i in range(0, len(similar), step):
            chosen = similar[i : i + step]
            yield chosen, padded_rows(first[chosen], sizes[chosen])
