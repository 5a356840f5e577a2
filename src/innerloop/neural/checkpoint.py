"""Checkpoints of a training: safetensors and JSON with checksums, no pickle.

A folder holds ``manifest.json``, which names two files and their SHA-256: ``tensors-*.safetensors`` and
``state-*.json``, where each tensor stands as ``{"tensor": its name}``. The manifest is replaced last and in one step,
so that a kill at any moment leaves the checkpoint before or this one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from innerloop._files import write_whole

_FORMAT = "innerloop-checkpoint"
_VERSION = 1
_MANIFEST = "manifest.json"
_OURS = re.compile(r"(tensors-[0-9a-f]{12}\.safetensors|state-[0-9a-f]{12}\.json|\..*\.tmp)")


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Save a tree of dicts, lists, tuples, numbers, text and tensors to a folder."""
    if (
        folder.is_dir()
        and not (folder / _MANIFEST).exists()
        and any(not _OURS.fullmatch(f.name) for f in folder.iterdir())
    ):
        raise FileExistsError(f"{folder} holds files that are no innerloop checkpoint; name a new or empty folder.")
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_encode(state, "", tensors), indent=1).encode()
    contents = {"tensors": (".safetensors", save_tensors(tensors)), "state": (".json", tree)}
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for part, (suffix, content) in contents.items():
        digest = hashlib.sha256(content).hexdigest()
        files[part] = {"name": f"{part}-{digest[:12]}{suffix}", "sha256": digest}
        write_whole(folder / files[part]["name"], content)
    manifest = {"format": _FORMAT, "version": _VERSION, "files": files}
    write_whole(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())
    current = {entry["name"] for entry in files.values()}
    for old in folder.iterdir():
        if _OURS.fullmatch(old.name) and old.name not in current:
            old.unlink(missing_ok=True)


def load_checkpoint(folder: Path, like: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Load a tree that `save_checkpoint` wrote, and compare its learned tensors with those of `like`.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint.
    ValueError
        If it is damaged, or is one of another module, inner rate, optimiser or scheduler.
    """
    state = _read(folder, device)
    for kind, what in (("params", "parameter"), ("rate_tensors", "inner rate")):
        _compare({n: tuple(t.shape) for n, t in state[kind].items()}, like[kind], what, folder)
    for kind in ("optimiser", "scheduler"):
        saved, ours = state[f"{kind}_kind"], like[f"{kind}_kind"]
        if saved != ours:
            raise ValueError(f"{folder} was made with the {kind} {saved}, this training has {ours}; use the same.")
    return state


def _compare(saved: dict[str, tuple[int, ...]], own: Mapping[str, Tensor], what: str, folder: Path) -> None:
    ours = {name: tuple(tensor.shape) for name, tensor in own.items()}
    for name in sorted(saved.keys() | ours.keys()):
        if saved.get(name) != ours.get(name):
            shapes = [f"shape {shape[name]}" if name in shape else "none" for shape in (saved, ours)]
            raise ValueError(
                f"{folder} is a checkpoint of another module: its {what} {name!r} has {shapes[0]}, this one has "
                f"{shapes[1]}; build the module and its rates as they were."
            )


def _read(folder: Path, device: torch.device) -> dict[str, Any]:
    if not (folder / _MANIFEST).exists():
        raise FileNotFoundError(f"there is no checkpoint in {folder}; `MetaTrainer.save` makes one.")
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        if manifest["format"] != _FORMAT or manifest["version"] != _VERSION:
            raise ValueError(f"it is {manifest['format']} version {manifest['version']}, not {_FORMAT} {_VERSION}")
        tensors, tree = (_checked(folder, manifest["files"][part]) for part in ("tensors", "state"))
        state = _decode(json.loads(tree), {n: t.to(device) for n, t in load_tensors(tensors).items()})
    except (KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise ValueError(f"the checkpoint in {folder} cannot be read ({error}); restore it or start anew.") from error
    assert isinstance(state, dict)
    return state


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


def _encode(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return the tree as JSON, with its tensors put aside; dicts become lists of pairs, for keys may be numbers."""
    if isinstance(tree, Tensor):
        tensors[name] = tree.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(tree, Mapping):
        return {"pairs": [[key, _encode(value, f"{name}/{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return {type(tree).__name__: [_encode(value, f"{name}/{i}", tensors) for i, value in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"`{name}` of the training's state is a {type(tree).__name__}, which a checkpoint cannot hold.")


def _decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "pairs":
        return {key: _decode(item, tensors) for key, item in value}
    items = [_decode(item, tensors) for item in value]
    return tuple(items) if kind == "tuple" else items
