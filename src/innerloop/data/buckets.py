"""The rows of a dataset, divided into files of buckets by the words of task ids, and the population read from these.

A fragment of the dataset becomes one file: for each chunk of its rows a sealed Arrow record batch per bucket. An index
says where each batch lies, with its CRC-32. A bucket holds the tasks whose words share their first bits.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.files import replacing
from innerloop._blocks.store import Arrays, Store
from innerloop.data.drawing import Draw, DrawnRows, in_order
from innerloop.data.fragments import Chunk, Fragment, Table
from innerloop.data.population import Extremes, first_bits
from innerloop.data.tasks import TaskSet
from innerloop.data.words import words_of_ids

INDEX = "index.npy"
# Numbers in a bucket, about, and bounds of the number of bits that say which bucket a task is in.
_NUMBERS_OF_BUCKET, _MOST_BITS = 2**22, 12


def bucket_bits(n_rows: int, n_columns: int) -> int:
    """Return by how many bits of words rows are divided into buckets of moderate size."""
    return min(max(0, -(-n_rows * n_columns // _NUMBERS_OF_BUCKET) - 1).bit_length(), _MOST_BITS)


def file_of(folder: Path, fragment: int) -> Path:
    """Return the file with the buckets of a fragment."""
    return folder / f"fragment-{fragment:06d}.buckets"


@final
@dataclass(frozen=True, eq=False)
class DivideFragment:
    """Divide the rows of a fragment into buckets, as a function of its number.

    Parameters
    ----------
    fragments, table
    folder
        Where to write.
    n_bits
        Of words, that say which bucket a task is in.
    draw
        Of the sample.
    highest
        Rows of higher draws are known not to be in the sample.
    """

    fragments: tuple[Fragment, ...]
    table: Table
    folder: Path
    n_bits: int
    draw: Draw
    highest: int

    def __call__(self, number: int) -> Arrays:
        """Write the buckets; return the index, the extremes of the rows, and those that the sample may hold.

        Each row of "index" is bucket, offset, length, CRC-32 and whether ids are text.
        """
        path = file_of(self.folder, number)
        index, extremes, rows = list[tuple[int, ...]](), None, None
        n_rows = offset = 0
        p = len(self.table.feature_names)
        end = p + len(self.table.targets)
        try:
            with replacing(path) as file:
                for chunk in self.table.chunks(self.fragments[number]):
                    for bucket, content in self._batches(chunk):
                        is_text = int(chunk.ids.dtype.kind == "U")
                        index.append((bucket, number, offset, len(content), zlib.crc32(content), is_text))
                        offset += file.write(content)
                    of_chunk = Extremes.of(chunk.values[:, :p], chunk.values[:, p:end])
                    extremes = of_chunk if extremes is None else extremes.joined(of_chunk)
                    new = self._drawn(chunk)
                    rows = self.draw.lowest(new if rows is None else rows.joined(new))
                    n_rows += len(chunk.words)
        except OSError as error:  # of writing: those of reading are ValueErrors
            raise ValueError(
                f"{self.folder} cannot be written ({error.strerror}); make room there, or name another `work`."
            ) from None
        found: Arrays = {
            "index": np.array(index, dtype=np.int64).reshape(-1, 6),
            "size": np.array([offset, n_rows], dtype=np.int64),
        }
        if extremes is not None and rows is not None:
            found |= {"extremes_X": np.array(extremes[:2]), "extremes_y": np.array(extremes[2:])}
            found |= {name: np.asarray(value) for name, value in rows._asdict().items()}
        return found

    def _drawn(self, chunk: Chunk) -> DrawnRows:
        rows = self.draw.rows(chunk.words, chunk.ids, chunk.values)
        kept = rows.drawn <= np.uint64(self.highest)
        if kept.all():
            return rows
        return DrawnRows(rows.drawn[kept], rows.ids[kept], rows.values[kept], 1)

    def _batches(self, chunk: Chunk) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the content of each bucket that the rows of a chunk belong to."""
        import pyarrow as pa

        bucket = first_bits(chunk.words, self.n_bits).astype(np.uint16)
        order = np.argsort(bucket, kind="stable")
        ids, values = chunk.ids[order], chunk.values[order]
        present, first = np.unique(bucket[order], return_index=True)
        for number, start, end in zip(present.tolist(), first, [*first[1:], len(order)], strict=True):
            rows = pa.FixedSizeListArray.from_arrays(pa.array(values[start:end].ravel()), values.shape[1])
            batch = pa.record_batch([pa.array(ids[start:end]), rows], names=["id", "values"])
            yield number, batch.serialize()


def rows_of_fragment(found: Arrays) -> tuple[Extremes, DrawnRows] | None:
    """Return the extremes and the rows that `DivideFragment` returned; None of a fragment without rows."""
    if "extremes_X" not in found:
        return None
    rows = DrawnRows(found["drawn"], found["ids"], found["values"], int(found["n_left_out"]))
    return Extremes(*found["extremes_X"], *found["extremes_y"]), rows


@final
class FragmentStore:
    """A store of what `DivideFragment` returned, which has a fragment only while its file of buckets is whole."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self.block_size = store.block_size

    def read(self, block: int) -> Arrays | None:
        """Return a finished fragment, or None."""
        found, path = self._store.read(block), file_of(self._folder, block)
        if found is None or not path.exists() or path.stat().st_size != found["size"][0]:
            return None
        return found

    def claim(self, block: int) -> bool:
        """Claim a fragment; return False if another process holds it."""
        return self._store.claim(block)

    def write(self, block: int, arrays: Arrays) -> None:
        """Store a finished fragment that was claimed."""
        self._store.write(block, arrays)

    def release(self, *blocks: int) -> None:
        """Give up claims on fragments; on all, if none is named."""
        self._store.release(*blocks)


def write_index(folder: Path, indices: list[IntArray]) -> None:
    """Write the index of all fragments, in the order of buckets."""
    index = np.concatenate(indices)
    np.save(folder / INDEX, index[np.argsort(index[:, 0], kind="stable")])


@final
@dataclass(frozen=True, eq=False)
class TasksInBuckets:
    """A population of tasks in buckets on disk.

    Parameters
    ----------
    folder
        With the index and the files of buckets.
    table
    n_rows
        Of all tasks.
    n_bits
        Of words, that say which bucket a task is in.
    depth
        Bits of words that say which leaf a task is in; see `innerloop.data.population.leaf_depth`.
    is_text
        Whether ids are text; else they are whole numbers.
    """

    folder: Path
    table: Table = field(repr=False)
    n_rows: int
    n_bits: int
    depth: int
    is_text: bool

    @property
    def n_units(self) -> int:
        """Number of units: of buckets, or of leaves where these are larger."""
        return 1 << min(self.depth, self.n_bits)

    def leaves(self, unit: int) -> Iterator[TaskSet]:
        """Yield the leaves of a unit that hold tasks."""
        ids, values = self._read(unit)
        if not len(ids):
            return
        distinct, position = np.unique(ids, return_inverse=True)
        words = words_of_ids(distinct)
        order = np.argsort(words, kind="stable")
        place = np.empty(len(order), dtype=np.intp)
        place[order] = np.arange(len(order))
        tasks = in_order(distinct[order], place[position], values, self.table)
        leaf = first_bits(words[order], self.depth)
        bounds = [0, *(np.flatnonzero(np.diff(leaf)) + 1).tolist(), len(leaf)]
        for first, end in pairwise(bounds):
            yield tasks.select(np.arange(first, end))

    def _read(self, unit: int) -> tuple[NDArray[Any], FloatArray]:
        """Return the ids and the numbers of all rows of a unit."""
        import pyarrow as pa

        per_unit = (1 << self.n_bits) // self.n_units
        index = np.load(self.folder / INDEX, mmap_mode="r")
        first, end = np.searchsorted(index[:, 0], [unit * per_unit, (unit + 1) * per_unit])
        part = np.array(index[first:end])
        width = self.table.width
        schemas = [
            pa.schema([("id", kind), ("values", pa.list_(pa.float64(), width))]) for kind in (pa.int64(), pa.string())
        ]
        ids, values = list[NDArray[Any]](), list[FloatArray]()
        for number in np.unique(part[:, 1]):
            path = file_of(self.folder, int(number))
            with path.open("rb") as file:
                for _, _, offset, length, crc, is_text in part[part[:, 1] == number]:
                    file.seek(int(offset))
                    content = file.read(int(length))
                    if len(content) != length or zlib.crc32(content) != crc:
                        raise ValueError(f"{path} is damaged at byte {offset}; delete {self.folder} and run again.")
                    batch = pa.ipc.read_record_batch(pa.py_buffer(content), schemas[int(is_text)])
                    of_batch = batch.column("id").to_numpy(zero_copy_only=False)
                    ids.append(of_batch.astype(np.str_) if self.is_text else of_batch)
                    values.append(batch.column("values").values.to_numpy().reshape(-1, width))
        if not ids:
            return np.empty(0, dtype=np.int64), np.empty((0, width))
        return np.concatenate(ids), np.concatenate(values)
