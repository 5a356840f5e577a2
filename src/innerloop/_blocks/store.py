"""Blocks of results on disk, so that work which was killed resumes.

A folder holds ``plan.json``, which says what is computed, and one npz file per block, with its SHA-256 at the end.
Files are written whole, so that a block is either complete or absent. While a process works on a block it holds a lock,
which the system frees when the process dies.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, final

from numpy.typing import NDArray

from innerloop._base.files import write_whole
from innerloop._base.memory import archive_of, read_arrays
from innerloop._blocks.fingerprint import difference

Arrays = dict[str, NDArray[Any]]

_FORMAT = "innerloop-blocks"
_VERSION = 1
_PLAN = "plan.json"
_LOCKS = "locks"
_SEAL = 64


class Store(Protocol):
    """Finished blocks, and claims by which processes divide the others."""

    @property
    def block_size(self) -> int:
        """Runs per block."""
        ...

    def read(self, block: int) -> Arrays | None:
        """Return a finished block, or None."""
        ...

    def claim(self, block: int) -> bool:
        """Claim a block; return False if another process holds it."""
        ...

    def write(self, block: int, arrays: Arrays) -> None:
        """Store a finished block that was claimed."""
        ...

    def release(self, *blocks: int) -> None:
        """Give up claims on blocks; on all, if none is named."""
        ...


@final
class MemoryStore:
    """A store that keeps nothing: every block is computed anew."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size

    def read(self, block: int) -> Arrays | None:  # noqa: ARG002
        """Return None."""
        return None

    def claim(self, block: int) -> bool:  # noqa: ARG002
        """Return True."""
        return True

    def write(self, block: int, arrays: Arrays) -> None:
        """Do nothing."""

    def release(self, *blocks: int) -> None:
        """Do nothing."""


@final
class BlockStore:
    """A folder of blocks, which several processes may fill together.

    Parameters
    ----------
    folder
        Created if it does not exist.
    plan
        What is computed, as JSON values. A folder belongs to one plan.
    block_size
        Runs per block; that of an existing folder does not change.

    Raises
    ------
    ValueError
        If the folder belongs to another plan, or its plan is damaged.
    OSError
        If the folder holds something else, or the disk refuses.
    """

    def __init__(self, folder: str | Path, plan: Mapping[str, Any], block_size: int) -> None:
        from filelock import FileLock

        self._folder = Path(folder)
        self._locks: dict[int, FileLock] = {}
        if self._folder.exists() and not self._folder.is_dir():
            raise FileExistsError(f"{folder} is a file; a store is a folder, so name another place.")
        if self._folder.is_dir() and not (self._folder / _PLAN).exists():
            self._refuse_other_files()
        (self._folder / _LOCKS).mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / _LOCKS / "plan.lock"):
            self.block_size = self._open(json.loads(json.dumps(plan)), block_size)

    def read(self, block: int) -> Arrays | None:
        """Return a finished block; None if it is absent or damaged."""
        try:
            content = self._file(block).read_bytes()
        except FileNotFoundError:
            return None
        archive, seal = content[:-_SEAL], content[-_SEAL:]
        if seal != _seal(archive):
            return None
        return read_arrays(archive, str(self._file(block)))

    def claim(self, block: int) -> bool:
        """Claim a block; return False while another process works on it."""
        from filelock import FileLock, Timeout

        lock = FileLock(self._folder / _LOCKS / f"block-{block:08d}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self._locks[block] = lock
        return True

    def write(self, block: int, arrays: Arrays) -> None:
        """Store a finished block and give up the claim on it."""
        archive = archive_of(arrays)
        write_whole(self._file(block), archive + _seal(archive))
        self.release(block)

    def release(self, *blocks: int) -> None:
        """Give up claims on blocks; on all, if none is named."""
        for block in blocks or tuple(self._locks):
            lock = self._locks.pop(block)
            # A process that waits for the deleted file gets it, finds the block written and takes the next one.
            with suppress(OSError):  # Windows keeps open files
                Path(lock.lock_file).unlink()
            lock.release()

    def _file(self, block: int) -> Path:
        return self._folder / f"block-{block:08d}.npz"

    def _open(self, plan: dict[str, Any], block_size: int) -> int:
        """Write the plan, or compare it with the stored one; return the block size."""
        path = self._folder / _PLAN
        if not path.exists():
            content = {"format": _FORMAT, "version": _VERSION, "plan": plan, "block_size": block_size}
            sealed = {**content, "sha256": _plan_digest(content)}
            write_whole(path, json.dumps(sealed, indent=1).encode())
            return block_size
        stored = self._read_plan(path)
        if stored["version"] != _VERSION:
            raise ValueError(
                f"{self._folder} has store format {stored['version']!r}, this version reads {_VERSION}; name another."
            )
        if stored["plan"] != plan:
            raise ValueError(
                f"{self._folder} holds the blocks of another plan ({difference(stored['plan'], plan)}); name another "
                "folder, or delete this one."
            )
        return int(stored["block_size"])

    def _read_plan(self, path: Path) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
            if content.pop("sha256") == _plan_digest(content) and content["format"] == _FORMAT:
                return content
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise ValueError(f"{path} is no plan of a store, or is damaged; name another folder, or delete this one.")

    def _refuse_other_files(self) -> None:
        for path in self._folder.iterdir():
            if path.name != _LOCKS and re.fullmatch(r"\..*\.tmp", path.name) is None:
                raise FileExistsError(f"{self._folder} holds files that are no store; name a new or empty folder.")


def _seal(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _plan_digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
