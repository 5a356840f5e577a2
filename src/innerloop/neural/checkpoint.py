"""Checkpoints: safetensors and JSON with checksums, no pickle.

In ``state-*.json`` a tensor is written as ``{"tensor": its name}``; the tensors are in ``tensors-*.safetensors``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from innerloop._base.sealed_folder import MANIFEST, SealedFolder

_CHECKPOINT = SealedFolder("innerloop-checkpoint", 1, {"tensors": ".safetensors", "state": ".json"})


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Save a tree of dicts, lists, tuples, numbers, text and tensors to a folder."""
    if _CHECKPOINT.holds_others(folder):
        raise FileExistsError(f"{folder} holds files that are no innerloop checkpoint; name a new or empty folder.")
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_encode(state, "", tensors), indent=1).encode()
    _CHECKPOINT.write(folder, {"tensors": save_tensors(tensors), "state": tree})


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
        saved, given = state[f"{kind}_kind"], like[f"{kind}_kind"]
        if saved != given:
            raise ValueError(f"{folder} was made with the {kind} {saved}, this training has {given}; use the same.")
    return state


def _compare(saved: dict[str, tuple[int, ...]], expected: Mapping[str, Tensor], what: str, folder: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            shapes = [f"shape {shape[name]}" if name in shape else "none" for shape in (saved, wanted)]
            raise ValueError(
                f"{folder} is a checkpoint of another module: its {what} {name!r} has {shapes[0]}, this one has "
                f"{shapes[1]}; build the module and its rates as they were."
            )


def _read(folder: Path, device: torch.device) -> dict[str, Any]:
    if not (folder / MANIFEST).exists():
        raise FileNotFoundError(f"there is no checkpoint in {folder}; `MetaTrainer.save` makes one.")
    try:
        if (manifest := _CHECKPOINT.manifest(folder)) is None or manifest["version"] != _CHECKPOINT.version:
            raise ValueError(f"its {MANIFEST} is not of {_CHECKPOINT.kind} {_CHECKPOINT.version}")
        parts = _CHECKPOINT.read(folder, manifest)
        tensors = {name: tensor.to(device) for name, tensor in load_tensors(parts["tensors"]).items()}
        state = _decode(json.loads(parts["state"]), tensors)
    except (KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise ValueError(f"the checkpoint in {folder} cannot be read ({error}); restore it or start anew.") from error
    assert isinstance(state, dict)
    return state


def _encode(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return the tree as JSON and collect its tensors; dicts become lists of pairs, as their keys may be numbers."""
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
