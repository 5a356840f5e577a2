"""The folder of a saved model: what it holds, written whole and read with its checksums verified."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from innerloop._base.memory import archive_of, read_arrays
from innerloop._base.sealed_folder import MANIFEST, SealedFolder
from innerloop.estimators.stored_groups import GROUPS
from innerloop.tabular.fitted_table import FittedTable

# What reading of contents raises that are not those of a model.
OF_CONTENTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_MODEL = SealedFolder("innerloop-model", 3, {"model": ".json", "arrays": ".npz"})


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
    if _MODEL.holds_others(folder):
        raise FileExistsError(f"{folder} holds files that are no innerloop model; name a new or empty folder.")


def write_folder(
    folder: Path,
    params: Mapping[str, Any],
    table: FittedTable,
    feature_names: Any,
    details: Mapping[str, Any],
    groups: Mapping[str, Any] | None = None,
    keep_previous: bool = True,
) -> None:
    """Write a fitted table with the parameters of its estimator.

    Parameters
    ----------
    folder
    params
        Of the estimator.
    table
    feature_names
        Names of the columns of X, or None.
    details
        Further facts, of types that JSON has.
    groups
        From `innerloop.estimators.stored_groups.describe`, where known groups are in a folder beside.
    keep_previous
        Whether an earlier save in the folder is kept.
    """
    scalars, arrays = table.to_state()
    if feature_names is not None:
        arrays["feature_names"] = np.asarray(feature_names, dtype=np.str_)
    plain = {name: _plain(value) for name, value in params.items()}
    description = {"params": plain, "table": scalars, "details": dict(details)}
    if groups is not None:
        description["groups"] = dict(groups)
    contents = {
        "model": json.dumps(description, indent=1, ensure_ascii=False).encode(errors="surrogatepass"),
        "arrays": archive_of(arrays),
    }
    _MODEL.write(folder, contents, keep_previous=keep_previous)
    kept = set(_groups_in_use(folder))
    for path in folder.glob(f"{GROUPS}*"):  # of earlier models
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _groups_in_use(folder: Path) -> Iterator[str]:
    """Yield the names of the folders with the groups of the model, and of the one before it where that is kept."""
    for path in folder.glob("model-*.json"):
        with suppress(OSError, *OF_CONTENTS):
            yield json.loads(path.read_bytes())["groups"]["folder"]


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the checked contents of a model folder."""
    if not folder.exists():
        raise FileNotFoundError(f"there is no model folder {folder}; make one with `innerloop fit ... --out`.")
    if (manifest := _MODEL.manifest(folder)) is None:
        raise ValueError(f"{folder} is not an innerloop model folder: it has no readable {MANIFEST}.")
    if manifest.get("version") != _MODEL.version:
        raise ValueError(
            f"{folder} has model format {manifest.get('version')!r}, this version reads {_MODEL.version}; fit the "
            "model again, or use the version of innerloop that wrote it."
        )
    try:
        parts = _MODEL.read(folder, manifest)
        description = json.loads(parts["model"])
        if not isinstance(description, dict):
            raise ValueError(f"the description is a {type(description).__name__}")
        return description, read_arrays(parts["arrays"], str(folder))
    except (*OF_CONTENTS, zipfile.BadZipFile) as error:
        raise damaged(folder, error) from error


def damaged(folder: str | Path, reason: object) -> ValueError:
    """Return the error that a folder is damaged."""
    return ValueError(f"{folder} is damaged ({reason}); fit the model again or restore the folder.")


def _plain(value: Any) -> Any:
    """Return a parameter as a type that JSON has; None, the default, for random states and splitters."""
    if isinstance(value, list | tuple) and all(isinstance(item, str | int | np.integer) for item in value):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else None
