"""Tasks as tensors with a leading task axis, and sources that draw them by index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
import torch
from torch import Tensor

from innerloop._base.checks import FloatArray, as_count
from innerloop._base.seeds import stream
from innerloop.data.episodes import Episodes
from innerloop.data.tasks import TaskSet

# First number of an index: tasks of different stages are never the same draw.
TRAINING, VALIDATION, TEST = 0, 1, 2


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
        return cls._from_arrays(
            *(getattr(blocks[0], name)[order] for name in ("X_support", "y_support", "X_query", "y_query"))
        )

    @classmethod
    def _from_arrays(cls, *arrays: FloatArray) -> TaskBatch:
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


class TaskSource(Protocol):
    """Where tasks come from. The same index gives the same tasks, whatever was drawn before."""

    def sample(self, n_tasks: int, n_support: int, n_query: int, index: tuple[int, ...]) -> TaskBatch:
        """Draw the tasks number `index`."""
        ...


@final
@dataclass(frozen=True)
class SinusoidTasks:
    """Sine waves ``y = A sin(x - phase)`` (Finn, Abbeel and Levine, 2017).

    A is uniform on [0.1, 5], the phase on [0, pi], x on [-5, 5]; there is no noise.

    Parameters
    ----------
    seed
        Any whole number from 0.
    """

    seed: int = 0

    def sample(self, n_tasks: int, n_support: int, n_query: int, index: tuple[int, ...]) -> TaskBatch:
        """Draw the tasks number `index`."""
        rng = stream(self.seed, *index)
        amplitude = rng.uniform(0.1, 5.0, (n_tasks, 1, 1))
        phase = rng.uniform(0.0, np.pi, (n_tasks, 1, 1))
        X_support, X_query = (rng.uniform(-5.0, 5.0, (n_tasks, n, 1)) for n in (n_support, n_query))
        y_support, y_query = (amplitude * np.sin(X - phase) for X in (X_support, X_query))
        return TaskBatch._from_arrays(X_support, y_support, X_query, y_query)


@final
@dataclass(frozen=True)
class TaskSetTasks:
    """Tasks of a table: each time some of them, without replacement while they last, with rows dealt anew.

    Parameters
    ----------
    tasks
        The rows.
    seed
        Any whole number from 0.
    """

    tasks: TaskSet
    seed: int = 0

    def sample(self, n_tasks: int, n_support: int, n_query: int, index: tuple[int, ...]) -> TaskBatch:
        """Draw the tasks number `index`."""
        n_rows = as_count(n_support, "n_support", 0) + as_count(n_query, "n_query")
        sizes = self.tasks.sizes
        if (sizes < n_rows).any():
            small = int(np.argmin(sizes))
            raise ValueError(
                f"task {self.tasks.ids[small].item()!r} has {sizes[small]} row(s), too few for {n_support} support and "
                f"{n_query} query rows; ask for fewer rows or leave out small tasks."
            )
        rng = stream(self.seed, *index)
        rounds = -(-n_tasks // len(sizes))
        chosen = np.concatenate([rng.permutation(len(sizes)) for _ in range(rounds)])[:n_tasks]
        rows = np.stack([self.tasks.starts[i] + rng.permutation(sizes[i])[:n_rows] for i in chosen])
        X, y = self.tasks.X[rows], self.tasks.y[rows].reshape(*rows.shape, -1)
        return TaskBatch._from_arrays(X[:, :n_support], y[:, :n_support], X[:, n_support:], y[:, n_support:])
