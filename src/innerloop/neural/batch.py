"""Tasks as tensors with a leading task axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree

from innerloop._base.checks import FloatArray
from innerloop.data.episodes import Episodes


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Return a tree of the function's values for the tensors of one tree or of several alike."""
    return _pytree.tree_map(function, tree, *others)


def tensors_of(tree: Any) -> list[Tensor]:
    """Return the tensors of a tree of dicts, tuples and lists."""
    return _pytree.tree_leaves(tree)


def first_tensor(tree: Any) -> Tensor:
    """Return the first tensor of a tree."""
    return tree if isinstance(tree, Tensor) else tensors_of(tree)[0]


def device_of(tree: Any) -> torch.device:
    """Return the device of a tree's first tensor."""
    return first_tensor(tree).device


def task_of(tree: Any, task: int) -> Any:
    """Return one task's part of a tree whose tensors have a leading task axis."""
    return tree[task] if isinstance(tree, Tensor) else tree_map(lambda tensor: tensor[task], tree)


@final
@dataclass(frozen=True, eq=False)
class TaskBatch:
    """Tasks of equal sizes: rows to adapt on, and rows to score.

    Each of the four is a tensor, or a tree of tensors: a dict, tuple or list of these, nested at will.

    Parameters
    ----------
    X_support : (n_tasks, n_support, ...)
        Inputs to adapt on. Of a tree, a tuple is passed to the module as positional arguments, a dict as keyword
        arguments, anything else as one argument.
    y_support : (n_tasks, n_support, ...)
        Their targets: numbers, or whole numbers that name classes.
    X_query : (n_tasks, n_query, ...)
        Inputs to score.
    y_query : (n_tasks, n_query, ...)
        Their targets.
    """

    X_support: Any
    y_support: Any
    X_query: Any
    y_query: Any

    def __post_init__(self) -> None:
        for X, y in (("X_support", "y_support"), ("X_query", "y_query")):
            tensors = [*tensors_of(getattr(self, X)), *tensors_of(getattr(self, y))]
            wrong = [type(tensor).__name__ for tensor in tensors if not isinstance(tensor, Tensor)]
            if wrong:
                raise TypeError(f"`{X}` and `{y}` must be tensors, or trees of tensors, got {wrong[0]}.")
            shapes = [tuple(tensor.shape) for tensor in tensors]
            if len(shapes[0]) < 2 or len({shape[:2] for shape in shapes}) != 1:
                raise ValueError(
                    f"`{X}` and `{y}` must begin with the same two axes (tasks, rows), got shapes "
                    f"{' and '.join(map(str, shapes))}."
                )
        n_support, n_query = len(first_tensor(self.X_support)), len(first_tensor(self.X_query))
        if n_support != n_query:
            raise ValueError(f"`X_support` and `X_query` must have as many tasks, got {n_support} and {n_query}.")

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
        return len(first_tensor(self.X_support))

    def __getitem__(self, tasks: slice) -> TaskBatch:
        """Return some of the tasks."""
        return self.map(lambda tensor: tensor[tasks])

    @property
    def tensors(self) -> tuple[Any, Any, Any, Any]:
        """The four tensors, or trees of tensors, in the order of the parameters."""
        return self.X_support, self.y_support, self.X_query, self.y_query

    def map(self, function: Callable[[Tensor], Tensor]) -> TaskBatch:
        """Return a batch of the function's values for all tensors."""
        return TaskBatch(*(tree_map(function, part) for part in self.tensors))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TaskBatch:
        """Move to a device, and floating-point tensors to a dtype; class names keep theirs."""
        return self.map(
            lambda tensor: tensor.to(
                device=device, dtype=dtype if tensor.is_floating_point() else None, non_blocking=True
            )
        )
