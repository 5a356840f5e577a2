"""Tasks as tensors with a leading task axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from innerloop._base.checks import FloatArray
from innerloop.data.episodes import Episodes


@final
@dataclass(frozen=True, eq=False)
class TaskBatch:
    """Tasks of equal sizes: rows to adapt on, and rows to score.

    Parameters
    ----------
    X_support : (n_tasks, n_support, ...)
        Inputs to adapt on.
    y_support : (n_tasks, n_support, ...)
        Their targets: numbers, or whole numbers that name classes.
    X_query : (n_tasks, n_query, ...)
        Inputs to score.
    y_query : (n_tasks, n_query, ...)
        Their targets.
    """

    X_support: Tensor
    y_support: Tensor
    X_query: Tensor
    y_query: Tensor

    def __post_init__(self) -> None:
        for X, y in (("X_support", "y_support"), ("X_query", "y_query")):
            rows, labels = getattr(self, X).shape[:2], getattr(self, y).shape[:2]
            if len(rows) < 2 or rows != labels:
                raise ValueError(
                    f"`{X}` and `{y}` must begin with the same two axes (tasks, rows), got shapes "
                    f"{tuple(getattr(self, X).shape)} and {tuple(getattr(self, y).shape)}."
                )
        if len(self.X_support) != len(self.X_query):
            raise ValueError(
                f"`X_support` and `X_query` must have as many tasks, got {len(self.X_support)} and {len(self.X_query)}."
            )

    @classmethod
    def from_episodes(cls, episodes: Episodes) -> TaskBatch:
        """Stack episodes of equal sizes: float64, targets of shape (n_tasks, n_rows, n_targets)."""
        blocks = list(episodes.blocks(max_rows=int(episodes.n_query.sum())))
        if len(blocks) != 1:
            raise ValueError(f"`episodes` must all have the same numbers of rows, got {len(blocks)} different sizes.")
        order = np.argsort(blocks[0].members)
        return cls.from_arrays(
            *(getattr(blocks[0], name)[order] for name in ("X_support", "y_support", "X_query", "y_query"))
        )

    @classmethod
    def from_arrays(
        cls, X_support: FloatArray, y_support: FloatArray, X_query: FloatArray, y_query: FloatArray
    ) -> TaskBatch:
        """Make a batch of numpy arrays."""
        arrays = X_support, y_support, X_query, y_query
        return cls(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))

    def __len__(self) -> int:
        return len(self.X_support)

    def __getitem__(self, tasks: slice) -> TaskBatch:
        """Return some of the tasks."""
        return TaskBatch(*(tensor[tasks] for tensor in self.tensors))

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four tensors in the order of the parameters."""
        return self.X_support, self.y_support, self.X_query, self.y_query

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TaskBatch:
        """Move to a device, and floating-point tensors to a dtype; class names keep theirs."""
        return TaskBatch(
            *(
                tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None, non_blocking=True)
                for tensor in self.tensors
            )
        )
