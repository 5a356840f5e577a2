"""Model folders: a fitted `MetaRegressor` on disk, without pickle and with checksums.

A folder holds ``manifest.json``, which names the other files and their SHA-256, and two files named after their
own content: ``model-*.json`` (parameters and single numbers) and ``arrays-*.npz``. The manifest is replaced last
and in one step, so that an interrupted save leaves the model that was there before.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from innerloop._files import write_whole
from innerloop.estimators import MetaRegressor

_FORMAT = "innerloop-model"
_VERSION = 1
_MANIFEST = "manifest.json"


def save_model(
    model: MetaRegressor,
    folder: str | Path,
    details: Mapping[str, Any] | None = None,
    attachments: Mapping[str, bytes] | None = None,
) -> None:
    """Save a fitted model to a folder, which is made, or replaced if it holds a model.

    Parameters
    ----------
    model
        A fitted `MetaRegressor`.
    folder
        Where to save.
    details
        Further facts to keep, anything JSON can hold; `load_details` returns them.
    attachments
        Further files, by name: a picture, a report. They are not checked on loading.

    Raises
    ------
    FileExistsError
        If the folder is a file, or holds something else than a model.
    OSError
        If the disk refuses; what was there before is still there.
    """
    folder = Path(folder)
    check_writable(folder)
    scalars, arrays = model.to_state()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    description = {"state": scalars, "details": dict(details or {})}
    contents = {
        "model": (".json", json.dumps(description, indent=1, ensure_ascii=False).encode()),
        "arrays": (".npz", buffer.getvalue()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for part, (suffix, content) in contents.items():
        digest = hashlib.sha256(content).hexdigest()
        files[part] = {"name": f"{part}-{digest[:12]}{suffix}", "sha256": digest}
        write_whole(folder / files[part]["name"], content)
    for name, content in (attachments or {}).items():
        write_whole(folder / name, content)
    manifest = {"format": _FORMAT, "version": _VERSION, "files": files}
    write_whole(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())
    current = {entry["name"] for entry in files.values()}
    for old in folder.iterdir():
        if _is_ours(old) and old.name not in current:
            old.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    """Return whether a file is one that a save, maybe an interrupted one, leaves beside the manifest."""
    return re.fullmatch(r"(model-[0-9a-f]{12}\.json|arrays-[0-9a-f]{12}\.npz|\..*\.tmp)", path.name) is not None


def check_writable(folder: str | Path) -> None:
    """Refuse a place where `save_model` would overwrite something that is no model."""
    folder = Path(folder)
    above = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if above != folder and not above.is_dir():
        raise NotADirectoryError(f"{above} is a file, so {folder} cannot be made; name another place.")
    if not os.access(above, os.W_OK):
        raise PermissionError(f"there is no permission to write to {above}; name another place.")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; a model is saved to a folder, so name another place.")
    if folder.is_dir() and not (folder / _MANIFEST).exists() and any(not _is_ours(f) for f in folder.iterdir()):
        raise FileExistsError(f"{folder} holds files that are no innerloop model; name a new or empty folder.")


def load_model(folder: str | Path) -> MetaRegressor:
    """Load a model from a folder written by `save_model`.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it is no model folder, is damaged, or was written by a later version.
    """
    description, arrays = _read(Path(folder))
    return MetaRegressor.from_state(description["state"], arrays)


def load_details(folder: str | Path) -> dict[str, Any]:
    """Return the `details` that were saved with a model."""
    details: dict[str, Any] = _read(Path(folder))[0]["details"]
    return details


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the checked contents of a model folder."""
    if not folder.exists():
        raise FileNotFoundError(f"there is no model folder {folder}; make one with `innerloop fit ... --out`.")
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        is_ours = manifest["format"] == _FORMAT
    except (NotADirectoryError, FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        is_ours = False
    if not is_ours:
        raise ValueError(f"{folder} is not an innerloop model folder: it has no readable {_MANIFEST}.")
    if manifest.get("version") != _VERSION:
        raise ValueError(
            f"{folder} has model format {manifest.get('version')!r}, this version reads {_VERSION}; update innerloop."
        )
    try:
        model, arrays = (_checked(folder, manifest["files"][part]) for part in ("model", "arrays"))
        description = json.loads(model)
        with np.load(io.BytesIO(arrays), allow_pickle=False) as archive:
            return description, {name: archive[name] for name in archive.files}
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{folder} is damaged ({error}); fit the model again or restore the folder.") from error


def _checked(folder: Path, entry: dict[str, str]) -> bytes:
    """Return a file's content, whose checksum is right."""
    name = Path(entry["name"]).name  # a manifest cannot reach outside its folder
    try:
        content = (folder / name).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"{name or 'a file'} is missing") from None
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ValueError(f"{name} does not have the checksum in the manifest")
    return content
