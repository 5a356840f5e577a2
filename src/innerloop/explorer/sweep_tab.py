"""The networks tab: the scores of a sweep over inner rates."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from innerloop.explorer.theory_tab import plain
from innerloop.plots.sweep import FEWEST_SEEDS


def sweep(folder: Path) -> dict[str, Any]:
    """Return the curves of the sweep that `innerloop train --sweep --out` wrote to a folder.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    import xarray as xr

    path = folder / "sweep.nc"
    try:
        result = xr.load_dataset(io.BytesIO(path.read_bytes()), engine="scipy")
        score = "metric" if "metric" in result else "loss"
        prefix = "metric_" if score == "metric" else ""
        has_errors = result.sizes["seed"] >= FEWEST_SEEDS
        has_kernel = f"kernel_{score}" in result
        shown: dict[str, Any] = plain(
            {
                "name": folder.name,
                "score": result.attrs.get("metric", score),
                "n_seeds": result.sizes["seed"],
                "inner_lr": result["inner_lr"].values,
                "adapt_lr": result["adapt_lr"].values,
                "mean": result[score].values,
                "stderr": result[f"{prefix}stderr"].values if has_errors else None,
                "difference": result[f"{prefix}difference"].values,
                "difference_stderr": result[f"{prefix}difference_stderr"].values if has_errors else None,
                "kernel": result[f"kernel_{score}"].values if has_kernel else None,
                "kernel_difference": result[f"kernel_{prefix}difference"].values if has_kernel else None,
                "by_seed": result[f"{score}_by_seed"].values,
                "validation": {
                    "adapt_lr": result["adapt_lr_tried"].values,
                    "loss": result["validation_loss"].values,
                },
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no sweep, or is damaged ({error}); run `innerloop train --sweep` again."
        ) from error
    return shown
