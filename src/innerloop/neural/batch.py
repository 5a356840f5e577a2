"""Tasks as tensors with a leading task axis, padded where they differ in size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree

from innerloop._base.checks import FloatArray
from innerloop.data.episodes import Episodes
from innerloop.data.tasks import check_unweighted


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Return a tree of the function's values for the tensors of a tree, or of several of the same structure."""
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


def _extended(tensor: Tensor, n_rows: int) -> Tensor:
    """Return tasks with zeros after their rows."""
    zeros = tensor.new_zeros((len(tensor), n_rows - tensor.shape[1], *tensor.shape[2:]))
    return torch.cat([tensor, zeros], dim=1)


@final
@dataclass(frozen=True, eq=False)
class TaskBatch:
    """Tasks: rows to adapt on, and rows to score.

    Each of the four is a tensor, or a tree of tensors: a dict, tuple or list of these, nested at will. Tasks of unequal
    sizes are padded, and masks say which rows count. Padding never reaches a module or a loss: tasks of equal sizes are
    computed together, without it.

    Parameters
    ----------
    X_support : (n_tasks, n_support, ...)
        Inputs to adapt on. Of a tree, a tuple is passed to the module as positional arguments, a dict as keyword
        arguments, anything else as one argument.
    y_support : (n_tasks, n_support, ...)
        Their targets: numbers, or class numbers from 0.
    X_query : (n_tasks, n_query, ...)
        Inputs to score.
    y_query : (n_tasks, n_query, ...)
        Their targets.
    support_mask : (n_tasks, n_support) of bool
        Which support rows count; None: all.
    query_mask : (n_tasks, n_query) of bool
        Which query rows count; None: all.

    Examples
    --------
    >>> import innerloop as il
    >>> from innerloop.neural import TaskBatch
    >>> episodes = il.Sinusoid().sample_tasks(n_tasks=4, n_rows=10, seed=0).split(n_support=3)
    >>> batch = TaskBatch.from_episodes(episodes)
    >>> batch.X_support.shape, batch.y_query.shape
    (torch.Size([4, 3, 1]), torch.Size([4, 7, 1]))
    """

    X_support: Any
    y_support: Any
    X_query: Any
    y_query: Any
    support_mask: Tensor | None = None
    query_mask: Tensor | None = None

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
        for name, X in (("support_mask", self.X_support), ("query_mask", self.X_query)):
            mask, wanted = getattr(self, name), first_tensor(X).shape[:2]
            if mask is not None and (mask.dtype != torch.bool or mask.shape != wanted):
                raise ValueError(
                    f"`{name}` must be of bool and of shape {tuple(wanted)}, got {mask.dtype} and {tuple(mask.shape)}."
                )
        if self.query_mask is not None and not self.query_mask.any(dim=1).all():
            raise ValueError("`query_mask` must leave each task a row to score; leave such tasks out.")

    @classmethod
    def from_episodes(cls, episodes: Episodes) -> TaskBatch:
        """Stack episodes: float64, targets of shape (n_tasks, n_rows, n_targets)."""
        check_unweighted(episodes, "`TaskBatch`")
        blocks = list(episodes.blocks(max_rows=int(episodes.n_query.sum())))
        parts = [cls.from_arrays(block.X_support, block.y_support, block.X_query, block.y_query) for block in blocks]
        order = torch.from_numpy(np.argsort(np.concatenate([block.members for block in blocks])))
        return cls.padded(parts).map(lambda tensor: tensor[order])

    @classmethod
    def padded(cls, batches: Sequence[TaskBatch]) -> TaskBatch:
        """Join batches, padded with zeros to the largest sizes if these differ."""
        n_rows = [tuple(first_tensor(part).shape[1] for part in (b.X_support, b.X_query)) for b in batches]
        if len(set(n_rows)) == 1 and not any(batch.is_padded for batch in batches):
            return cls(*tree_map(lambda *parts: torch.cat(parts), *(batch.tensors for batch in batches)))
        n_support, n_query = (max(sizes) for sizes in zip(*n_rows, strict=True))

        def joined(n: int, parts: Sequence[Any]) -> Any:
            return tree_map(lambda *tensors: torch.cat([_extended(tensor, n) for tensor in tensors]), *parts)

        columns = zip(*((*batch.tensors, *batch.masks) for batch in batches), strict=True)
        sizes = (n_support, n_support, n_query, n_query, n_support, n_query)
        return cls(*(joined(n, parts) for n, parts in zip(sizes, columns, strict=True)))

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

    @property
    def is_padded(self) -> bool:
        """Whether there is a mask."""
        return self.support_mask is not None or self.query_mask is not None

    @property
    def masks(self) -> tuple[Tensor, Tensor]:
        """The masks of support and query rows, all true where none is given."""
        pairs = ((self.support_mask, self.X_support), (self.query_mask, self.X_query))
        support, query = (
            torch.ones(first_tensor(X).shape[:2], dtype=torch.bool, device=device_of(X)) if mask is None else mask
            for mask, X in pairs
        )
        return support, query

    def by_size(self) -> list[tuple[Tensor, TaskBatch]]:
        """Return the tasks of each pair of sizes: their positions, and a batch of them without padding."""
        if not self.is_padded:
            return [(torch.arange(len(self)), self)]
        sizes = np.stack([mask.sum(dim=1).cpu().numpy() for mask in self.masks], axis=1)
        distinct, which = np.unique(sizes, axis=0, return_inverse=True)
        return [self._of_size(torch.from_numpy(np.flatnonzero(which == i))) for i in range(len(distinct))]

    def _of_size(self, tasks: Tensor) -> tuple[Tensor, TaskBatch]:
        """Return tasks of equal sizes without padding."""

        def without_padding(mask: Tensor, tree: Any) -> Any:
            of_tasks = tasks.to(mask.device)
            rows = torch.nonzero(mask[of_tasks])[:, 1].view(len(tasks), -1)
            return tree_map(lambda tensor: tensor[of_tasks.unsqueeze(1), rows], tree)

        support, query = self.masks
        masks = (support, support, query, query)
        parts = (without_padding(mask, tree) for mask, tree in zip(masks, self.tensors, strict=True))
        return tasks, TaskBatch(*parts)

    def map(self, function: Callable[[Tensor], Tensor]) -> TaskBatch:
        """Return a batch of the function's values for all tensors, masks included."""
        masks = (None if mask is None else function(mask) for mask in (self.support_mask, self.query_mask))
        return TaskBatch(*(tree_map(function, part) for part in self.tensors), *masks)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TaskBatch:
        """Move to a device, and floating-point tensors to a dtype; class numbers keep theirs."""
        return self.map(
            lambda tensor: tensor.to(
                device=device, dtype=dtype if tensor.is_floating_point() else None, non_blocking=True
            )
        )
