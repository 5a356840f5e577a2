"""Model folders: a fitted `MetaRegressor` on disk, as JSON and npz, without pickle and with checksums."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sklearn.utils.validation import check_is_fitted

from innerloop.estimators.meta_regressor import MetaRegressor, fitted_regressor, params_of_fit
from innerloop.estimators.model_folder import OF_CONTENTS, check_writable, damaged, write_folder
from innerloop.estimators.model_folder import read_folder as _read
from innerloop.estimators.stored_groups import with_groups
from innerloop.tabular.fitted_table import FittedTable
from innerloop.tabular.state_check import check_state

__all__ = ["check_writable", "load_details", "load_model", "save_model"]


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
    names = getattr(model, "feature_names_in_", None)
    write_folder(folder, params_of_fit(model), table, names, details or {}, keep_previous=not forget_groups)


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
        if "groups" in description:
            table = with_groups(table, Path(folder), description["groups"])
        return fitted_regressor(description["params"], table, None if names is None else names.tolist())
    except OF_CONTENTS as error:
        raise damaged(folder, error) from error


def load_details(folder: str | Path) -> dict[str, Any]:
    """Return the `details` that were saved with a model."""
    details = _read(Path(folder))[0].get("details")
    if not isinstance(details, dict):
        raise damaged(folder, "it has no details")
    return details
