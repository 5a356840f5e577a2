"""Atomic file writes: a file is written whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def check_file(path: Path, name: str, endings: Sequence[str] = ()) -> None:
    """Refuse, before any work is done, an output file that is a folder, has no folder to be in or another ending."""
    if path.is_dir():
        raise IsADirectoryError(f"`{name}` must name a file, got the folder {path}.")
    if endings and path.suffix not in endings:
        raise ValueError(f"`{name}` must end in {' or '.join(endings)}, got {path.name!r}.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to; make it first.")


def check_new(path: Path, name: str, force: bool) -> None:
    """Refuse, before any work is done, to replace a file that is there already, unless `force` is given."""
    if not force and path.exists():
        raise FileExistsError(f"`{name}` would replace {path}, which exists; name another file, or give --force.")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file as `replacing` does."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file under a temporary name, on disk and renamed to `path` in the end, so that no reader sees half of it.

    A new file has the permissions that the process gives to its files; one that is replaced keeps its own. After an
    error `path` is as it was.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if path.is_file():
                os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        # The message names the user's path, not the temporary one.
        raise OSError(error.errno, error.strerror, str(path)) from error
