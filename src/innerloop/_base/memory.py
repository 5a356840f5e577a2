"""The one rule by which work that would not fit in memory is refused before it starts."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Limit and use of a container's memory, where the kernel says them.
_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return how many bytes can be had without swapping, within the container's limit."""
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or "max"
        return available
    return min(available, limit - used)


def as_size(n_bytes: int) -> str:
    """Return a number of bytes in the unit that a reader takes in at once."""
    power = min(max(int(np.log2(max(n_bytes, 1))) // 10, 0), 4)
    return f"{n_bytes / 2 ** (10 * power):.4g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def check_memory(n_bytes: int, what: str, remedy: str) -> None:
    """Refuse work that needs more memory than there is.

    Parameters
    ----------
    n_bytes
        Bytes needed, at least.
    what
        What needs them, a noun phrase.
    remedy
        What to do instead, an imperative.

    Raises
    ------
    MemoryError
        If fewer are available.
    """
    available = available_memory()
    if n_bytes > available:
        raise MemoryError(
            f"{what} takes about {as_size(n_bytes)} of memory, and {as_size(max(available, 0))} are available; "
            f"{remedy}."
        )


def archive_of(arrays: Mapping[str, Any]) -> bytes:
    """Return an npz archive of arrays, without pickle: objects are refused.

    It is not compressed: that would take ten times as long and spare two fifths of a large model.
    Not every numpy that may be installed can be told so; older ones take the argument for one more array.
    """
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise TypeError(f"{name} holds objects, which cannot be stored.")
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def read_arrays(content: bytes, name: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz archive, without pickle, or refuse one that does not fit in memory.

    A few kilobytes of archive can hold gigabytes of zeros.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        check_memory(
            sum(member.file_size for member in archive.infolist()), f"reading {name}", "it is damaged or hostile"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}
