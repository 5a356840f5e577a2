"""The one rule by which work that would not fit in memory is refused before it starts."""

from __future__ import annotations

from pathlib import Path

import psutil

# Limit and use of a container's memory, where the kernel says them.
_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return how many bytes can be had without swapping, within the container's limit."""
    available = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or "max"
        return available
    return min(available, limit - used)


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
            f"{what} takes about {n_bytes / 2**30:.3g} GiB of memory, and {max(available, 0) / 2**30:.3g} GiB are "
            f"available; {remedy}."
        )
