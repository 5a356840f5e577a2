"""Model folders: a fitted `MetaRegressor` on disk, as JSON and npz, without pickle and with checksums."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from innerloop._base.memory import archive_of, read_arrays
from innerloop._base.sealed_folder import MANIFEST, SealedFolder
from innerloop.estimators.meta_regressor import MetaRegressor, fitted_regressor
from innerloop.tabular.fitted_table import FittedTable
from innerloop.tabular.state_check import check_state

# What reading of contents raises that are not those of a model.
_OF_CONTENTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_MODEL = SealedFolder("innerloop-model", 3, {"model": ".json", "arrays": ".npz"})


def save_model(
    model: MetaRegressor,
    folder: str | Path,
    details: Mapping[str, Any] | None = None,
    *,
    forget_groups: bool = False,
) -> None:
    """Save a fitted model to a folder, which is made, or replaced if it holds a model.

    The folder holds the ids of the known groups, their coefficients, and their rows reduced by QR: of p features and k
    targets at most p + k rows. Of a group of many rows these say no more than moments; those of one or two rows can be
    read from them.

    Parameters
    ----------
    model
        A fitted `MetaRegressor`.
    folder
        Where to save.
    details
        Further facts to save, of types that JSON has; `load_details` returns them.
    forget_groups
        Save the model without any of these, as one that knows no groups, and keep no earlier save in the folder.

    Raises
    ------
    FileExistsError
        If the folder is a file, or holds something else than a model.
    OSError
        If the disk refuses; what was there before is still there.

    Examples
    --------
    >>> import innerloop as il, tempfile
    >>> tasks = il.MixedLinearRegression(2).sample_tasks(n_tasks=10, n_rows=6, seed=0)
    >>> model = il.MetaRegressor(adaptation="none").fit(tasks.X, tasks.y, groups=tasks.task_of_row)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     il.save_model(model, folder, forget_groups=True)
    ...     again = il.load_model(folder)
    ...
    >>> bool((again.coef_ == model.coef_).all())
    True
    """
    folder = Path(folder)
    check_writable(folder)
    check_is_fitted(model)
    table = model._table.forget_groups() if forget_groups else model._table
    scalars, arrays = table.to_state()
    if hasattr(model, "feature_names_in_"):
        arrays["feature_names"] = np.asarray(model.feature_names_in_, dtype=np.str_)
    params = {name: _plain(value) for name, value in model.get_params().items()}
    description = {"params": params, "table": scalars, "details": dict(details or {})}
    contents = {
        "model": json.dumps(description, indent=1, ensure_ascii=False).encode(errors="surrogatepass"),
        "arrays": archive_of(arrays, compressed=True),
    }
    _MODEL.write(folder, contents, keep_previous=not forget_groups)


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


def load_model(folder: str | Path) -> MetaRegressor:
    """Load a model from a folder written by `save_model`.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it is no model folder, is damaged, or was written by another version.

    Examples
    --------
    >>> import innerloop as il, tempfile
    >>> tasks = il.MixedLinearRegression(2).sample_tasks(n_tasks=10, n_rows=6, seed=0)
    >>> model = il.MetaRegressor(adaptation="none").fit(tasks.X, tasks.y, groups=tasks.task_of_row)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     il.save_model(model, folder)
    ...     again = il.load_model(folder)
    ...
    >>> again
    MetaRegressor(adaptation='none')
    """
    description, arrays = _read(Path(folder))
    try:
        names = arrays.pop("feature_names", None)
        check_state(description["table"], arrays)
        table = FittedTable.from_state(description["table"], arrays)
        return fitted_regressor(description["params"], table, None if names is None else names.tolist())
    except _OF_CONTENTS as error:
        raise _damaged(folder, error) from error


def load_details(folder: str | Path) -> dict[str, Any]:
    """Return the `details` that were saved with a model."""
    details = _read(Path(folder))[0].get("details")
    if not isinstance(details, dict):
        raise _damaged(folder, "it has no details")
    return details


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
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
    except (*_OF_CONTENTS, zipfile.BadZipFile) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: str | Path, reason: object) -> ValueError:
    return ValueError(f"{folder} is damaged ({reason}); fit the model again or restore the folder.")


def _plain(value: Any) -> Any:
    """Return a parameter as a type that JSON has; None, the default, for random states and splitters."""
    if isinstance(value, list | tuple) and all(isinstance(item, str | int | np.integer) for item in value):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else None
