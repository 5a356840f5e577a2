"""Known groups on disk: words, ids, numbers of rows and coefficients in files that are memory-mapped, not read."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib.format import dtype_to_descr, write_array_header_1_0

from innerloop._blocks.store import Arrays
from innerloop.data.tasks import TaskSet
from innerloop.data.words import words_of_ids
from innerloop.tabular.fitted_table import FittedTable
from innerloop.tabular.known_groups import KnownGroups

# How the names of their folders begin.
GROUPS = "groups-"
FILES = ("words", "ids", "n_rows", "coef")


@contextmanager
def writing(folder: Path, n_groups: int, id_type: Any, shape: tuple[int, int]) -> Iterator[_Writer]:
    """Yield what the groups are given to, in the order of their words; all are on disk when the context ends.

    Parameters
    ----------
    folder
        Made if it does not exist.
    n_groups
    id_type
        Type of the array of ids.
    shape
        Of a group's coefficients: columns and targets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    types: dict[str, tuple[Any, tuple[int, ...]]] = {
        "words": (np.uint64, ()),
        "ids": (id_type, ()),
        "n_rows": (np.int64, ()),
        "coef": (np.float64, shape),
    }
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.npy").open("wb")) for name in FILES}
        for name, (dtype, tail) in types.items():
            header = {"descr": dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (n_groups, *tail)}
            write_array_header_1_0(files[name], header)
        yield _Writer(files, {name: np.dtype(dtype) for name, (dtype, _) in types.items()})


class _Writer:
    """Files of arrays, written from their beginning: mapped, they would count as memory of the process."""

    def __init__(self, files: Mapping[str, IO[bytes]], types: Mapping[str, np.dtype[Any]]) -> None:
        self._files, self._types, self._digest = files, types, hashlib.sha256()

    def add(self, found: Arrays) -> None:
        """Add groups, as `innerloop.tabular.totals.AdaptLeaves` returns them."""
        if not found:
            return
        arrays = {"words": words_of_ids(found["ids"])} | {name: found[name] for name in FILES[1:]}
        for name, array in arrays.items():
            content = array.astype(self._types[name], copy=False).tobytes()
            self._files[name].write(content)
            self._digest.update(content)

    @property
    def name(self) -> str:
        """Name of the folder, which tells by its contents whether it holds these groups."""
        return GROUPS + self._digest.hexdigest()[:12]


def describe(folder: Path) -> dict[str, Any]:
    """Return what a model folder says of its groups: their folder's name and the sizes of the files."""
    return {"folder": folder.name, "sizes": {name: (folder / f"{name}.npy").stat().st_size for name in FILES}}


def move_groups(written: Path, folder: Path) -> None:
    """Move written groups to a folder, unless it holds them already: another process may have them mapped."""
    if folder.exists():
        sizes = {path.stem: path.stat().st_size for path in folder.iterdir()}
        if sizes == describe(written)["sizes"]:
            return
        shutil.rmtree(folder)  # a fit was killed as it copied them from another disk
    try:
        shutil.move(written, folder)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ValueError(f"the groups cannot be written to {folder.parent} ({error}); make room there.") from None


def with_groups(table: FittedTable, folder: Path, description: Mapping[str, Any]) -> FittedTable:
    """Return the table that knows the groups in a folder, which stay on disk.

    Raises
    ------
    ValueError
        If a file is missing, or not of its size.
    """
    folder = folder / Path(description["folder"]).name  # a model cannot reach outside its folder
    for name in FILES:
        path = folder / f"{name}.npy"
        if not path.exists() or path.stat().st_size != description["sizes"][name]:
            raise ValueError(f"{folder.name}/{path.name} is missing or not whole")
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in FILES}
    n_groups, p, n_targets = arrays["coef"].shape
    known = TaskSet(
        np.empty((0, p)),
        np.empty((0, n_targets)),
        np.broadcast_to(np.intp(0), n_groups + 1),
        arrays["ids"],
        reduced_from=arrays["n_rows"],
    )
    return replace(table, known=KnownGroups(known, arrays["coef"], arrays["words"]))
