"""Folders of a few files that are replaced together, with checksums.

A folder holds ``manifest.json``, which names the other files and their SHA-256, and a file for each part, named by the
hash of its content. The manifest is replaced last and in one step, so that a process killed at any moment leaves the
previous content or the new one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from innerloop._base.files import write_whole

MANIFEST = "manifest.json"


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

    def write(
        self, folder: Path, contents: Mapping[str, bytes], attachments: Mapping[str, bytes] | None = None
    ) -> None:
        """Write the parts, replacing earlier ones; attachments are further files by name, without checksums."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {}
        for part, content in contents.items():
            digest = hashlib.sha256(content).hexdigest()
            files[part] = {"name": f"{part}-{digest[:12]}{self.parts[part]}", "sha256": digest}
            write_whole(folder / files[part]["name"], content)
        for name, content in (attachments or {}).items():
            write_whole(folder / name, content)
        manifest = {"format": self.kind, "version": self.version, "files": files}
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
        current = {entry["name"] for entry in files.values()}
        for old in folder.iterdir():
            if self._is_ours(old) and old.name not in current:
                old.unlink(missing_ok=True)

    def manifest(self, folder: Path) -> dict[str, Any] | None:
        """Return the manifest; None if there is none of this kind, or it cannot be read."""
        try:
            manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
            return manifest if manifest["format"] == self.kind else None
        except (NotADirectoryError, FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def read(self, folder: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the content of each part; ValueError, KeyError or TypeError name a part that is damaged."""
        return {part: _checked(folder, manifest["files"][part]) for part in self.parts}

    def _is_ours(self, path: Path) -> bool:
        names = "|".join(f"{part}-[0-9a-f]{{12}}{re.escape(ending)}" for part, ending in self.parts.items())
        return re.fullmatch(rf"({names}|\..*\.tmp)", path.name) is not None


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
