"""Trees of tensors and plain values on disk, and checkpoints: safetensors and JSON with checksums, no pickle.

In ``state-*.json`` a tensor is written as ``{"tensor": its name}``; the tensors are in ``tensors-*.safetensors``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from innerloop._base.sealed_folder import MANIFEST, SealedFolder
from innerloop._blocks.fingerprint import difference

_PARTS = {"tensors": ".safetensors", "state": ".json"}


@final
@dataclass(frozen=True)
class TreeFolder:
    """Format of a folder that holds a tree of dicts, lists, tuples, numbers, text and tensors.

    Parameters
    ----------
    name
        What such a folder is called in messages.
    version
        Of the format.
    made_by
        What makes one.
    """

    name: str
    version: int
    made_by: str

    @property
    def _sealed(self) -> SealedFolder:
        return SealedFolder(f"innerloop-{self.name}", self.version, _PARTS)

    def write(self, folder: Path, tree: Mapping[str, Any]) -> None:
        """Write a tree; a folder of something else is refused."""
        if self._sealed.holds_others(folder):
            raise FileExistsError(
                f"{folder} holds files that are no innerloop {self.name}; name a new or empty folder."
            )
        tensors: dict[str, Tensor] = {}
        state = json.dumps(_encode(tree, "", tensors), indent=1).encode()
        self._sealed.write(folder, {"tensors": save_tensors(tensors), "state": state})

    def is_in(self, folder: Path) -> bool:
        """Return whether a folder is of this format."""
        return (folder / MANIFEST).exists() and self._sealed.manifest(folder) is not None

    def read(self, folder: Path, device: torch.device | str | None = None) -> dict[str, Any]:
        """Read a tree, its tensors on a device.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is damaged.
        """
        if not (folder / MANIFEST).exists():
            raise FileNotFoundError(f"there is no {self.name} in {folder}; {self.made_by} makes one.")
        try:
            manifest = self._sealed.manifest(folder)
            if manifest is None or manifest["version"] != self.version:
                raise ValueError(f"its {MANIFEST} is not of innerloop-{self.name} {self.version}")
            parts = self._sealed.read(folder, manifest)
            tensors = {name: tensor.to(device) for name, tensor in load_tensors(parts["tensors"]).items()}
            state = _decode(json.loads(parts["state"]), tensors)
        except (KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
            raise ValueError(
                f"the {self.name} in {folder} cannot be read ({error}); restore it or start anew."
            ) from error
        assert isinstance(state, dict)
        return state


CHECKPOINT = TreeFolder("checkpoint", 2, "`MetaTrainer.save`")


def load_checkpoint(folder: Path, like: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Load the state that `MetaTrainer.save` wrote, and compare its learned tensors with those of `like`.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint.
    ValueError
        If it is damaged, or is one of another module, inner rate, optimiser, scheduler or training.
    """
    state = CHECKPOINT.read(folder, device)
    for kind, what in (("params", "parameter"), ("rate_tensors", "inner rate")):
        compare({n: tuple(t.shape) for n, t in state[kind].items()}, like[kind], what, folder)
    for kind in ("optimiser", "scheduler"):
        saved, given = state[f"{kind}_kind"], like[f"{kind}_kind"]
        if saved != given:
            raise ValueError(f"{folder} was made with the {kind} {saved}, this training has {given}; use the same.")
    saved, given = json.loads(state["identity"]), json.loads(like["identity"])
    if saved != given:
        raise ValueError(
            f"{folder} is a checkpoint of another training ({difference(saved, given)}); give the same. To go on from "
            "its weights in another way, load it as it was, `update_module`, and train that module."
        )
    return state


def compare(saved: dict[str, tuple[int, ...]], expected: Mapping[str, Tensor], what: str, folder: Path) -> None:
    """Refuse saved tensors of other names or shapes than those expected."""
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            shapes = [f"shape {shape[name]}" if name in shape else "none" for shape in (saved, wanted)]
            raise ValueError(
                f"{folder} is a checkpoint of another module: its {what} {name!r} has {shapes[0]}, this one has "
                f"{shapes[1]}; build the module and its rates as they were."
            )


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
    raise TypeError(f"`{name}` is a {type(tree).__name__}, which cannot be saved without pickle.")


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
