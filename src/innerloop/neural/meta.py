"""The meta-gradient of a batch of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from innerloop.neural.algorithms import Algorithm
from innerloop.neural.batch import TaskBatch
from innerloop.neural.model import TaskModel

# The losses (..., n_tasks) of a batch as a function of the tensors that are learned.
LossFunction = Callable[[Sequence[Tensor], TaskBatch], Tensor]
GradientFunction = Callable[[Sequence[Tensor], TaskBatch], tuple[Tensor, list[Tensor]]]


def meta_losses(
    algorithm: Algorithm,
    model: TaskModel,
    params: Mapping[str, Tensor],
    rates: Sequence[Mapping[str, Tensor]],
    batch: TaskBatch,
) -> Tensor:
    """Return each task's query loss from one start: (n_tasks,)."""
    return algorithm.losses(model, one_start(algorithm, params, len(batch)), rates, batch)


def one_start(algorithm: Algorithm, params: Mapping[str, Tensor], n_tasks: int) -> dict[str, Tensor]:
    """Return parameters of which the adapted ones have a task axis, the same for all tasks."""
    adapted = set(algorithm.adapted(params))
    return {name: value.expand(n_tasks, *value.shape) if name in adapted else value for name, value in params.items()}


def gradients_of(losses: LossFunction, by_task: bool = False) -> GradientFunction:
    """Return the function of losses and of the gradients of their sum over all tasks.

    `by_task` goes through the tasks one at a time and so holds the graph of one task only.
    """

    def whole(learned: Sequence[Tensor], batch: TaskBatch) -> tuple[Tensor, list[Tensor]]:
        points = [tensor.detach().requires_grad_() for tensor in learned]
        values = losses(points, batch)
        gradients = torch.autograd.grad(values.sum(), points, allow_unused=True, materialize_grads=True)
        return values.detach(), list(gradients)

    def one_by_one(learned: Sequence[Tensor], batch: TaskBatch) -> tuple[Tensor, list[Tensor]]:
        values, total = whole(learned, batch[:1])
        all_values = [values]
        for i in range(1, len(batch)):
            values, gradients = whole(learned, batch[i : i + 1])
            all_values.append(values)
            torch._foreach_add_(total, gradients)
        return torch.cat(all_values, dim=-1), total

    return one_by_one if by_task else whole
