"""The meta-gradient of a batch of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from innerloop.neural.algorithms import MAML, Algorithm
from innerloop.neural.batch import TaskBatch
from innerloop.neural.dense import predict_after_steps
from innerloop.neural.model import TaskModel

# The losses (..., n_tasks) of a batch as a function of the tensors that are learned.
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
        How many starts are learned side by side; None: one, without an axis for lanes.

    Returns
    -------
    (n_tasks,), with lanes (n_lanes * n_tasks,)
    """
    if _is_thin(algorithm, model, rates, batch, n_lanes):
        return model.score(_thin_predictions(algorithm, model, params, rates, batch, n_lanes), batch.y_query)
    start, rates = _spread(algorithm, params, rates, len(batch), n_lanes)
    return algorithm.losses(model, start, rates, batch)


def query_predictions(
    algorithm: Algorithm,
    model: TaskModel,
    params: Mapping[str, Tensor],
    rates: Sequence[Mapping[str, Tensor]],
    batch: TaskBatch,
    n_lanes: int | None = None,
) -> Tensor:
    """Return the outputs for the query rows; see `query_losses`."""
    if _is_thin(algorithm, model, rates, batch, n_lanes):
        return _thin_predictions(algorithm, model, params, rates, batch, n_lanes)
    start, rates = _spread(algorithm, params, rates, len(batch), n_lanes)
    return algorithm.predict(model, start, rates, batch)


def _is_thin(
    algorithm: Algorithm,
    model: TaskModel,
    rates: Sequence[Mapping[str, Tensor]],
    batch: TaskBatch,
    n_lanes: int | None,
) -> bool:
    """Return whether the steps of dense layers are better kept as thin factors than as weights."""
    n_support = batch.X_support.shape[1]
    return (
        isinstance(algorithm, MAML)
        and 0 < n_support * len(rates) <= model.widest_dense
        and (n_lanes is not None or all(rate.ndim == 0 for step in rates for rate in step.values()))
    )


def _thin_predictions(
    algorithm: Algorithm,
    model: TaskModel,
    params: Mapping[str, Tensor],
    rates: Sequence[Mapping[str, Tensor]],
    batch: TaskBatch,
    n_lanes: int | None,
) -> Tensor:
    assert isinstance(algorithm, MAML)
    if n_lanes is None:
        params = {name: value.unsqueeze(0) for name, value in params.items()}
    else:
        n_tasks = len(batch) // n_lanes
        rates = [{n: r.repeat_interleave(n_tasks) if r.ndim else r for n, r in step.items()} for step in rates]
    return predict_after_steps(
        model.module, params, algorithm.adapted(params), rates, batch.tensors[:3], model.score, algorithm.first_order
    )


def _spread(
    algorithm: Algorithm,
    params: Mapping[str, Tensor],
    rates: Sequence[Mapping[str, Tensor]],
    n_tasks: int,
    n_lanes: int | None,
) -> tuple[dict[str, Tensor], Sequence[Mapping[str, Tensor]]]:
    """Return starts and rates with an axis of tasks; what does not adapt in a single lane goes without."""
    adapted = set(algorithm.adapted(params))
    if n_lanes is None:
        return {n: v.expand(n_tasks, *v.shape) if n in adapted else v for n, v in params.items()}, rates
    each = n_tasks // n_lanes
    starts = {
        name: value.unsqueeze(1).expand(n_lanes, each, *value.shape[1:]).reshape(n_tasks, *value.shape[1:])
        for name, value in params.items()
    }
    spread = [
        {n: r.repeat_interleave(each).view(-1, *[1] * (params[n].ndim - 1)) if r.ndim else r for n, r in step.items()}
        for step in rates
    ]
    return starts, spread


def gradients_of(losses: LossFunction) -> GradientFunction:
    """Return the function of the losses and of the gradients of their sum."""

    def gradients(learned: Sequence[Tensor], batch: TaskBatch) -> tuple[Tensor, list[Tensor]]:
        points = [tensor.detach().requires_grad_() for tensor in learned]
        values = losses(points, batch)
        found = torch.autograd.grad(values.sum(), points, allow_unused=True, materialize_grads=True)
        return values.detach(), list(found)

    return gradients


def by_task(gradients: GradientFunction) -> GradientFunction:
    """Return the same function, going through the tasks one at a time, so that it holds the graph of one only."""

    def one_by_one(learned: Sequence[Tensor], batch: TaskBatch) -> tuple[Tensor, list[Tensor]]:
        values, total = zip(*(gradients(learned, batch[i : i + 1]) for i in range(len(batch))), strict=True)
        return torch.cat(values), [torch.stack(parts).sum(dim=0) for parts in zip(*total, strict=True)]

    return one_by_one
