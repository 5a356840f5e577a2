"""Index arithmetic for ragged arrays: consecutive segments of rows, of different lengths."""

from __future__ import annotations

import numpy as np

from innerloop._base.checks import IntArray


def row_starts(sizes: IntArray) -> IntArray:
    """Return the first row of each segment, and the end of the last: (n + 1,)."""
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.intp)


def ragged_ranges(first: IntArray, sizes: IntArray) -> IntArray:
    """Return the rows of all segments as one array: range(first[0], first[0] + sizes[0]), then the next range, ..."""
    return np.repeat(first - row_starts(sizes)[:-1], sizes) + np.arange(int(sizes.sum()))
