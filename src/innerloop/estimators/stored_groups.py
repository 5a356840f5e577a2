"""Known groups on disk: words, ids, numbers of rows, coefficients and maybe rows in files that are memory-mapped."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal, final

import numpy as np
from numpy.lib.format import dtype_to_descr, magic

from innerloop._blocks.store import Arrays
from innerloop.data.tasks import TaskSet
from innerloop.data.words import words_of_ids
from innerloop.tabular.fitted_table import FittedTable
from innerloop.tabular.known_groups import KnownGroups

# How the names of their folders begin.
GROUPS = "groups-"
FILES = ("words", "ids", "n_rows", "coef")
# What else there is where rows are kept: the first row of each group, and the rows, reduced.
ROWS = ("starts", "X", "y")

# What of each group is kept: its coefficients, or its reduced rows too.
Kept = Literal["coef", "rows"]

# Bytes of the header of a file, which is written when the file is whole.
_HEADER = 256
# Groups that are written at once.
_AT_ONCE = 2**14


def check_kept(groups: object) -> None:
    """Refuse what does not say what is kept of each group."""
    if groups not in ("coef", "rows"):
        raise ValueError(f"`groups` must be 'coef' or 'rows', got {groups!r}.")


@contextmanager
def writing(folder: Path, id_type: Any, shape: tuple[int, int], keeps_rows: bool) -> Iterator[_Writer]:
    """Yield what the groups are given to, in the order of their words; all are on disk when the context ends.

    Parameters
    ----------
    folder
        Made if it does not exist.
    id_type
        Type of the array of ids.
    shape
        Of a group's coefficients: columns and targets.
    keeps_rows
        Whether their reduced rows are written too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    types: dict[str, tuple[Any, tuple[int, ...]]] = {
        "words": (np.uint64, ()),
        "ids": (id_type, ()),
        "n_rows": (np.int64, ()),
        "coef": (np.float64, shape),
    }
    if keeps_rows:
        types |= {"starts": (np.int64, ()), "X": (np.float64, shape[:1]), "y": (np.float64, shape[1:])}
    with ExitStack() as stack:
        files = {name: (folder / f"{name}.npy").open("wb") for name in types}
        stack.callback(_close, files)
        writer = _Writer(folder, files, {name: (np.dtype(dtype), tail) for name, (dtype, tail) in types.items()})
        yield writer
        with _naming(folder):
            writer.finish()


def _close(files: Mapping[str, IO[bytes]]) -> None:
    """Close files; of one that is not finished, what cannot be written has been said."""
    for file in files.values():
        with suppress(OSError):
            file.close()


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Say where groups cannot be written: the system does not, of a file that is open."""
    try:
        yield
    except (OSError, shutil.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"the groups cannot be written to {folder} ({reason}); make room there.") from None


class _Writer:
    """Files of arrays, written from their beginning: mapped, they would count as memory of the process."""

    def __init__(
        self, folder: Path, files: Mapping[str, IO[bytes]], types: Mapping[str, tuple[np.dtype[Any], Any]]
    ) -> None:
        self._folder, self._files, self._types, self._digest = folder, files, types, hashlib.sha256()
        self._n = dict.fromkeys(files, 0)
        for file in files.values():
            file.write(b" " * _HEADER)
        if "starts" in files:
            self._write("starts", np.zeros(1))

    def add(self, found: Arrays) -> None:
        """Add groups, as `innerloop.tabular.totals.AdaptLeaves` returns them."""
        if not found:
            return
        for name, array in ({"words": words_of_ids(found["ids"])} | {name: found[name] for name in FILES[1:]}).items():
            self._write(name, array)
        if "starts" in self._files:
            self._write("starts", self._n["X"] + np.cumsum(found["sizes"]))
            for name in ("X", "y"):
                self._write(name, found[name])

    def _write(self, name: str, array: Any) -> None:
        content = array.astype(self._types[name][0], copy=False).tobytes()
        with _naming(self._folder):
            self._files[name].write(content)
        self._digest.update(content)
        self._n[name] += len(array)

    def finish(self) -> None:
        """Write the headers, which say how long the arrays are, and close the files."""
        for name, file in self._files.items():
            dtype, tail = self._types[name]
            described = {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": (self._n[name], *tail)}
            start = magic(1, 0) + (_HEADER - 10).to_bytes(2, "little")
            file.seek(0)
            file.write((start + repr(described).encode("latin1")).ljust(_HEADER - 1) + b"\n")
            file.close()

    @property
    def name(self) -> str:
        """Name of the folder, which tells by its contents whether it holds these groups."""
        return GROUPS + self._digest.hexdigest()[:12]


def describe(folder: Path) -> dict[str, Any]:
    """Return what a model folder says of its groups: their folder's name and the sizes of the files."""
    names = [*FILES, *(ROWS if (folder / "starts.npy").exists() else ())]
    return {"folder": folder.name, "sizes": {name: (folder / f"{name}.npy").stat().st_size for name in names}}


def move_groups(written: Path, folder: Path) -> None:
    """Move written groups to a folder, unless it holds them already: another process may have them mapped."""
    if folder.exists():
        sizes = {path.stem: path.stat().st_size for path in folder.iterdir()}
        if sizes == describe(written)["sizes"]:
            return
        shutil.rmtree(folder)  # a fit was killed as it copied them from another disk
    try:
        with _naming(folder.parent):
            shutil.move(written, folder)
    except ValueError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@final
@dataclass(frozen=True, eq=False)
class StoredGroups:
    """Known groups in a folder, which each process that works with them maps anew.

    Parameters
    ----------
    folder
    names
        Of the files.
    """

    folder: Path
    names: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredGroups, (self.folder, self.names)

    @property
    def keeps_rows(self) -> bool:
        """Whether rows are kept."""
        return "X" in self.names

    @cached_property
    def known(self) -> KnownGroups:
        """The groups, which stay on disk.

        Raises
        ------
        ValueError
            If the files do not fit each other.
        """
        arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in self.names}
        n_groups, p, n_targets = arrays["coef"].shape
        X, y = arrays.get("X", np.empty((0, p))), arrays.get("y", np.empty((0, n_targets)))
        starts = arrays.get("starts", np.broadcast_to(np.intp(0), n_groups + 1))
        lengths = {len(arrays["words"]), len(arrays["ids"]), len(arrays["n_rows"]), len(starts) - 1}
        if lengths != {n_groups} or (X.shape, y.shape) != ((starts[-1], p), (starts[-1], n_targets)):
            raise ValueError(f"the files in {self.folder.name} do not fit each other")
        known = TaskSet(X, y, starts, arrays["ids"], reduced_from=arrays["n_rows"])
        return KnownGroups(known, arrays["coef"], arrays["words"])

    @classmethod
    def of(cls, known: KnownGroups, folder: Path) -> StoredGroups:
        """Return known groups on disk: where they are mapped from, else written to a folder in this one."""
        if known.recent is None and known.words is not None and isinstance(known.coef, np.memmap):
            place = Path(str(known.coef.filename)).parent
            if (place / "coef.npy").exists():  # an update of the model in its folder leaves the maps alone
                return cls(place, tuple(describe(place)["sizes"]))
        known, written = known.whole, folder / "known"
        order = np.argsort(words_of_ids(known.tasks.ids), kind="stable")
        shutil.rmtree(written, ignore_errors=True)
        # Of none, as after all were forgotten, those that join keep their rows, as they do in memory.
        keeps_rows = known.tasks.n_rows > 0 or len(known.tasks) == 0
        with writing(written, known.tasks.ids.dtype, known.coef.shape[1:], keeps_rows) as groups:
            for part in np.array_split(order, -(-len(order) // _AT_ONCE) or 1):
                tasks = known.tasks.select(part)
                found = {"ids": tasks.ids, "n_rows": tasks.original_sizes, "coef": known.coef[part]}
                groups.add(found | {"X": tasks.X, "y": tasks.y, "sizes": tasks.sizes})
        move_groups(written, folder / groups.name)
        return cls(folder / groups.name, tuple(describe(folder / groups.name)["sizes"]))


def with_groups(table: FittedTable, folder: Path, description: Mapping[str, Any]) -> FittedTable:
    """Return the table that knows the groups in a folder, which stay on disk.

    Raises
    ------
    ValueError
        If a file is missing, or not of its size.
    """
    folder = folder / Path(description["folder"]).name  # a model cannot reach outside its folder
    names = (*FILES, *(ROWS if "starts" in description["sizes"] else ()))
    for name in names:
        path = folder / f"{name}.npy"
        if not path.exists() or path.stat().st_size != description["sizes"][name]:
            raise ValueError(f"{folder.name}/{path.name} is missing or not whole")
    return replace(table, known=StoredGroups(folder, names).known)
