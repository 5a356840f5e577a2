"""The meta-gradient of a batch of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from innerloop.neural.algorithms import MAML, Algorithm
from innerloop.neural.batch import TaskBatch
from innerloop.neural.dense import NotDenseError, predict_after_steps
from innerloop.neural.task_model import TaskModel

# The losses (n_tasks,) of a batch as a function of the tensors that are learned.
LossFunction = Callable[[Sequence[Tensor], TaskBatch], Tensor]
GradientFunction = Callable[[Sequence[Tensor], TaskBatch], tuple[Tensor, list[Tensor]]]


def query_losses(
    algorithm: Algorithm,
    model: TaskModel,
    params: Mapping[str, Tensor],
    rates: Sequence[Mapping[str, Tensor]],
    batch: TaskBatch,
    n_lanes: int | None = None,
) -> Tensor:
    """Return each task's query loss; its gradient is the meta-gradient.

    Parameters
    ----------
    algorithm, model
        How tasks adapt.
    params
        The start; with lanes, one for each: (n_lanes, ...).
    rates
        For each step, the rate of each adapted parameter: () or the parameter's shape; with lanes () or (n_lanes,).
    batch
        The tasks; with lanes those of the first lane, then those of the second, as many each.
    n_lanes
        Number of starts learned together; None: one, without an axis for lanes.

    Returns
    -------
    (n_tasks,), with lanes (n_lanes * n_tasks,)
    """
    prediction = _dense_predictions(algorithm, model, params, rates, batch, n_lanes)
    if prediction is not None:
        return model.score(prediction, batch.y_query)
    start, rates = _spread(algorithm, params, rates, len(batch), n_lanes)
    return algorithm.losses(model, start, rates, batch)


def query_predictions(
    algorithm: Algorithm,
    model: TaskModel,
    params: Mapping[str, Tensor],
    rates: Sequence[Mapping[str, Tensor]],
    batch: TaskBatch,
    n_lanes: int | None = None,
) -> Any:
    """Return the outputs for the query rows; see `query_losses`."""
    prediction = _dense_predictions(algorithm, model, params, rates, batch, n_lanes)
    if prediction is not None:
        return prediction
    start, rates = _spread(algorithm, params, rates, len(batch), n_lanes)
    return algorithm.predict(model, start, rates, batch)


def _dense_predictions(
    algorithm: Algorithm,
    model: TaskModel,
    params: Mapping[str, Tensor],
    rates: Sequence[Mapping[str, Tensor]],
    batch: TaskBatch,
    n_lanes: int | None,
) -> Tensor | None:
    """Return the query predictions of gradient steps of dense layers; None for other modules and algorithms."""
    if not (isinstance(algorithm, MAML) and algorithm.max_norm is None and model.is_dense):
        return None
    if n_lanes is None:
        params = {name: value.unsqueeze(0) for name, value in params.items()}
    else:
        rates = _spread_rates(params, rates, len(batch) // n_lanes)
    try:
        return predict_after_steps(model.call, params, rates, batch.tensors[:3], model.score, algorithm.first_order)
    except NotDenseError:  # the module has other operations in this mode than when it was inspected
        model.is_dense = False
        return None


def _spread(
    algorithm: Algorithm,
    params: Mapping[str, Tensor],
    rates: Sequence[Mapping[str, Tensor]],
    n_tasks: int,
    n_lanes: int | None,
) -> tuple[dict[str, Tensor], Sequence[Mapping[str, Tensor]]]:
    """Return starts and rates with an axis of tasks; without lanes, parameters that do not adapt have none."""
    adapted = set(algorithm.adapted(params))
    if n_lanes is None:
        return {n: v.expand(n_tasks, *v.shape) if n in adapted else v for n, v in params.items()}, rates
    each = n_tasks // n_lanes
    starts = {
        name: value.unsqueeze(1).expand(n_lanes, each, *value.shape[1:]).reshape(n_tasks, *value.shape[1:])
        for name, value in params.items()
    }
    return starts, _spread_rates(params, rates, each)


def _spread_rates(
    params: Mapping[str, Tensor], rates: Sequence[Mapping[str, Tensor]], n_tasks: int
) -> list[dict[str, Tensor]]:
    """Return each lane's rate for each of its tasks, ready to broadcast against parameters."""
    return [
        {
            n: r.repeat_interleave(n_tasks).view(-1, *[1] * (params[n].ndim - 1)) if r.ndim else r
            for n, r in step.items()
        }
        for step in rates
    ]


def gradients_of(losses: LossFunction, n_lanes: int = 1) -> GradientFunction:
    """Return the function of the losses and of the gradients of each lane's mean loss."""

    def gradients(learned: Sequence[Tensor], batch: TaskBatch) -> tuple[Tensor, list[Tensor]]:
        points = [tensor.detach().requires_grad_() for tensor in learned]
        values = losses(points, batch)
        means = values.sum() * (n_lanes / len(values))
        slopes = torch.autograd.grad(means, points, allow_unused=True, materialize_grads=True)
        # Torch's fused Adam takes the numbers of a transposed gradient in the order of memory (2.13, on the CPU).
        return values.detach(), [gradient.contiguous() for gradient in slopes]

    return gradients


def in_parts(gradients: GradientFunction, tasks_at_once: Callable[[TaskBatch], int]) -> GradientFunction:
    """Return the same function computed for some tasks at a time, so that only their graph is in memory.

    Parts differ by one task at most.
    """

    def part_by_part(learned: Sequence[Tensor], batch: TaskBatch) -> tuple[Tensor, list[Tensor]]:
        n_parts = -(-len(batch) // tasks_at_once(batch))
        if n_parts == 1:
            return gradients(learned, batch)
        ends = [len(batch) * i // n_parts for i in range(n_parts + 1)]
        parts = [batch[start:end] for start, end in pairwise(ends)]
        values, slopes = _of_parts(gradients, learned, parts)
        return torch.cat([*values]), slopes

    return part_by_part


def by_size(gradients: GradientFunction) -> GradientFunction:
    """Return the same function of padded tasks too, computed for each size in turn."""

    def size_by_size(learned: Sequence[Tensor], batch: TaskBatch) -> tuple[Tensor, list[Tensor]]:
        if not batch.is_padded:
            return gradients(learned, batch)
        places, parts = zip(*batch.by_size(), strict=True)
        values, slopes = _of_parts(gradients, learned, parts)
        return in_order(values, places), slopes

    return size_by_size


def _of_parts(
    gradients: GradientFunction, learned: Sequence[Tensor], parts: Sequence[TaskBatch]
) -> tuple[Sequence[Tensor], list[Tensor]]:
    """Return the losses of each part, and the gradients of the mean loss of all tasks."""
    values, slopes = zip(*(gradients(learned, part) for part in parts), strict=True)
    if len(parts) == 1:
        return values, slopes[0]
    n_tasks = sum(map(len, parts))
    shares = [len(part) / n_tasks for part in parts]
    means = [
        torch.stack([share * slope for share, slope in zip(shares, of_one, strict=True)]).sum(dim=0)
        for of_one in zip(*slopes, strict=True)
    ]
    return values, means


def in_order(values: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """Return values of tasks, given in parts, in the order of their places."""
    return torch.cat([*values])[torch.argsort(torch.cat([*places])).to(values[0].device)]
