"""Index arithmetic for ragged arrays: runs of rows of different lengths, one after the other."""

from __future__ import annotations

import numpy as np

from innerloop._base.checks import IntArray


def row_starts(sizes: IntArray) -> IntArray:
    """Return where each run of rows starts, and the end of the last: (n + 1,)."""
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.intp)


def ragged_ranges(first: IntArray, sizes: IntArray) -> IntArray:
    """Return range(first[0], first[0] + sizes[0]), then the next range, and so on, as one array."""
    return np.repeat(first - row_starts(sizes)[:-1], sizes) + np.arange(int(sizes.sum()))
