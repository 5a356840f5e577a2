"""Folders of a few files that are replaced together, with checksums.

A folder holds ``manifest.json``, which names the other files and their SHA-256, and a file for each part, named by the
hash of its content. The manifest is replaced last and in one step, so that a process killed at any moment leaves the
previous content or the new one. The content before the last is kept beside it, under ``manifest.previous.json``: what a
damaged disk has taken of the last is read there, with a warning.

Writers and readers lock the folder, so that of two writers one waits, and no reader sees files vanish.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from innerloop._base.files import write_whole

MANIFEST = "manifest.json"
_PREVIOUS = "manifest.previous.json"
_DAMAGE = (ValueError, KeyError, TypeError)


@final
@dataclass(frozen=True)
class SealedFolder:
    """Format of a folder: its kind, version and parts.

    Parameters
    ----------
    kind, version
        Entries of the manifest that identify the format.
    parts
        File endings by the names of the parts.
    """

    kind: str
    version: int
    parts: Mapping[str, str] = field(hash=False)

    def holds_others(self, folder: Path) -> bool:
        """Return whether a folder of no or another format holds files that `write`, even a killed one, did not make."""
        return folder.is_dir() and self.manifest(folder) is None and any(not self._is_ours(f) for f in folder.iterdir())

    def write(self, folder: Path, contents: Mapping[str, bytes], keep_previous: bool = True) -> None:
        """Write the parts; the previous ones are kept beside them, or with `keep_previous=False` no earlier ones."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {}
        with _locked(folder, shared=False):
            for part, content in contents.items():
                digest = hashlib.sha256(content).hexdigest()
                files[part] = {"name": f"{part}-{digest[:12]}{self.parts[part]}", "sha256": digest}
                write_whole(folder / files[part]["name"], content)
            manifest = {"format": self.kind, "version": self.version, "files": files}
            before = self._manifest(folder / MANIFEST)
            if keep_previous and before is not None and before != manifest and _is_whole(folder, before):
                write_whole(folder / _PREVIOUS, json.dumps(before, indent=1).encode())
            write_whole(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
            kept = {MANIFEST, *_names(manifest)}
            if keep_previous:
                kept |= {_PREVIOUS, *_names(self._manifest(folder / _PREVIOUS))}
            for old in folder.iterdir():
                if self._is_ours(old) and old.name not in kept:
                    old.unlink(missing_ok=True)

    def manifest(self, folder: Path) -> dict[str, Any] | None:
        """Return the manifest, if need be that of the previous content; None if there is none of this kind."""
        if (manifest := self._manifest(folder / MANIFEST)) is not None:
            return manifest
        if (previous := self._manifest(folder / _PREVIOUS)) is not None:
            _warn_of_previous(folder, f"it has no readable {MANIFEST}")
        return previous

    def read(self, folder: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the content of each part, if need be the previous content.

        Raises
        ------
        ValueError, KeyError, TypeError
            If a part is damaged, and there is no whole previous content.
        """
        with _locked(folder, shared=True):
            try:
                return self._parts(folder, manifest)
            except _DAMAGE as error:
                latest, previous = self._manifest(folder / MANIFEST), self._manifest(folder / _PREVIOUS)
                if latest is not None and latest != manifest:  # another process has just replaced it
                    return self._parts(folder, latest)
                try:
                    if previous is None or previous["version"] != self.version:
                        raise error
                    parts = self._parts(folder, previous)
                except _DAMAGE:
                    raise error from None
                _warn_of_previous(folder, str(error))
                return parts

    def _manifest(self, path: Path) -> dict[str, Any] | None:
        try:
            manifest: dict[str, Any] = json.loads(path.read_bytes())
            return manifest if manifest["format"] == self.kind else None
        except (NotADirectoryError, FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _parts(self, folder: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
        return {part: _checked(folder, manifest["files"][part]) for part in self.parts}

    def _is_ours(self, path: Path) -> bool:
        names = "|".join(f"{part}-[0-9a-f]{{12}}{re.escape(ending)}" for part, ending in self.parts.items())
        return re.fullmatch(rf"({names}|{re.escape(_PREVIOUS)}|\..*\.tmp)", path.name) is not None


@contextmanager
def _locked(folder: Path, shared: bool) -> Iterator[None]:
    """Hold the folder's lock, which the system frees if the process dies; where there are no locks, go on without."""
    handle = None
    with suppress(ImportError, OSError):  # Windows; network disks, or a folder without permission to read
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _is_whole(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Return whether the parts of a manifest are there, so that it is worth more than an older one."""
    return all((folder / name).is_file() for name in _names(manifest))


def _names(manifest: Mapping[str, Any] | None) -> list[str]:
    try:
        return [] if manifest is None else [str(entry["name"]) for entry in manifest["files"].values()]
    except (KeyError, TypeError, AttributeError):
        return []


def _warn_of_previous(folder: Path, why: str) -> None:
    warnings.warn(
        f"the last save in {folder} is damaged ({why}); the one before it is used. Save again to replace it.",
        stacklevel=4,
    )


def _checked(folder: Path, entry: dict[str, str]) -> bytes:
    """Return a file's content, its checksum verified."""
    name = Path(entry["name"]).name  # a manifest cannot reach outside its folder
    try:
        content = (folder / name).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"{name or 'a file'} is missing") from None
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ValueError(f"{name} does not have the checksum in the manifest")
    return content
