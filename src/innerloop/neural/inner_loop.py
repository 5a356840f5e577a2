"""The inner loop: differentiable gradient steps of many tasks at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from innerloop._base.checks import as_count
from innerloop.neural.batch import TaskBatch
from innerloop.neural.module_call import at_step, differentiable_twice
from innerloop.neural.rates import Rate, Tensors, check_finite_rates, resolve
from innerloop.neural.task_model import Loss, TaskModel, half_mse

Subset = Collection[str] | Callable[[str], bool]


def adapt(
    module: nn.Module,
    params: Mapping[str, Tensor],
    batch: TaskBatch,
    inner_lr: Rate,
    n_steps: int = 1,
    first_order: bool = False,
    *,
    loss: Loss = half_mse,
    adapted: Subset | None = None,
    by_task: bool | None = None,
) -> Tensors:
    r"""Adapt a module's parameters to each task.

    .. math:: \theta_{k+1} = \theta_k - \alpha_k \odot \nabla L(\theta_k; X_{support}, y_{support})

    from the given parameters; differentiable with respect to them and to the rates.

    Parameters
    ----------
    module
        Any `torch.nn.Module`; it is not changed, and frozen parameters take no steps. Batch normalisation in training
        mode uses the statistics of the rows at hand, and its running statistics stay as they are.
    params
        The start, by name; ``dict(module.named_parameters())`` or tensors of the same shapes.
    batch
        The tasks; only the support rows are used.
    inner_lr
        Rate of any sign: a number, or a tensor, one per layer, parameter, element or step; see
        `innerloop.neural.rates`.
    n_steps
        How many steps.
    first_order
        Treat the inner gradients as constants when differentiating.
    loss
        Inner loss of one task, ``loss(prediction, y)``.
    adapted
        Names of parameters or modules that take steps, or a predicate of a parameter's name; None: all.
    by_task
        See `TaskModel`.

    Returns
    -------
    dict
        All parameters: those that take steps as (n_tasks, ...), the others as given.

    Raises
    ------
    ValueError
        If a rate is not finite or of a wrong shape, or if the module changes buffers in place.

    Examples
    --------
    >>> import torch
    >>> from innerloop.neural import TEST, SinusoidTasks, adapt, predict
    >>> net, batch = torch.nn.Linear(1, 1, dtype=torch.float64), SinusoidTasks().sample(4, 5, 2, (TEST, 0))
    >>> adapted = adapt(net, dict(net.named_parameters()), batch, inner_lr=-0.01, n_steps=2)
    >>> {name: tuple(value.shape) for name, value in adapted.items()}  # one set of parameters for each task
    {'weight': (4, 1, 1), 'bias': (4, 1)}
    """
    n_steps = as_count(n_steps, "n_steps", 0)
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    movable = {name: value for name, value in params.items() if name not in frozen}
    chosen = {name: params[name] for name in select(movable, adapted)}
    rates = resolve(inner_lr, chosen, n_steps)
    check_finite_rates(rates)
    model = TaskModel(module, loss, by_task)
    model.refuse_changes(params, batch)

    def of_equal_sizes(part: TaskBatch) -> Tensors:
        start = {n: value.expand(len(part), *value.shape) if n in chosen else value for n, value in params.items()}
        return inner_loop(model.losses, start, list(chosen), rates, part, first_order)

    places, parts = zip(*batch.by_size(), strict=True)
    if len(parts) == 1:
        return of_equal_sizes(parts[0])
    results, order = [of_equal_sizes(part) for part in parts], torch.argsort(torch.cat(places))
    joined = {n: torch.cat([result[n] for result in results])[order.to(params[n].device)] for n in chosen}
    return {**params, **joined}


def predict(module: nn.Module, params: Mapping[str, Tensor], X: Any, by_task: bool | None = None) -> Any:
    """Return the outputs of each task with its adapted parameters, of `adapt`: (n_tasks, n_rows, ...).

    Examples
    --------
    >>> import torch
    >>> from innerloop.neural import TEST, SinusoidTasks, adapt, predict
    >>> net, batch = torch.nn.Linear(1, 1, dtype=torch.float64), SinusoidTasks().sample(4, 5, 2, (TEST, 0))
    >>> adapted = adapt(net, dict(net.named_parameters()), batch, inner_lr=-0.01, n_steps=2)
    >>> predict(net, adapted, batch.X_query).shape
    torch.Size([4, 2, 1])
    """
    return TaskModel(module, by_task=by_task).predict(params, X)


def select(params: Mapping[str, Tensor], adapted: Subset | None) -> list[str]:
    """Return the names of the parameters that take steps."""
    if adapted is None:
        return list(params)
    if callable(adapted):
        chosen = [name for name in params if adapted(name)]
    else:
        wanted = [adapted] if isinstance(adapted, str) else adapted
        unknown = [key for key in wanted if not any(name == key or name.startswith(f"{key}.") for name in params)]
        if unknown:
            raise ValueError(f"`adapted` names {unknown[0]!r}, which is no parameter and no module with parameters.")
        chosen = [name for name in params if any(name == key or name.startswith(f"{key}.") for key in wanted)]
    if not chosen:
        raise ValueError("`adapted` must choose at least one parameter; the module has " + ", ".join(map(repr, params)))
    return chosen


def inner_loop(
    losses: Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor],
    start: Mapping[str, Tensor],
    adapted: Sequence[str],
    rates: Sequence[Mapping[str, Tensor]],
    batch: TaskBatch,
    first_order: bool = False,
    max_norm: float | None = None,
) -> Tensors:
    """Take gradient steps on the tasks' support losses.

    The gradient of the summed losses holds the gradient of every task, as no two tasks share adapted parameters. Under
    `torch.no_grad` the steps are the same and no graph is kept.

    Parameters
    ----------
    losses
        Each task's loss: (n_tasks,).
    start
        Parameters; the adapted ones with a task axis.
    adapted
        Names of the parameters that take steps.
    rates
        For each step, the rate of each adapted parameter; broadcasts against it.
    batch
        The tasks.
    first_order
        Treat the inner gradients as constants when differentiating.
    max_norm
        Norm to which a task's gradient is scaled down where it is longer.
    """
    differentiable = torch.is_grad_enabled() and not first_order
    params = dict(start)
    for step, rate in enumerate(rates):
        with at_step(step), torch.enable_grad(), differentiable_twice() if differentiable else nullcontext():
            points = {
                name: params[name]
                if differentiable and params[name].requires_grad
                else params[name].detach().requires_grad_()
                for name in adapted
            }
            loss = losses({**params, **points}, batch.X_support, batch.y_support).sum()
            gradients: Sequence[Tensor | None] = torch.autograd.grad(
                loss, list(points.values()), create_graph=differentiable, allow_unused=True
            )
            if max_norm is not None:
                gradients = _clipped(gradients, max_norm)
        for name, gradient in zip(adapted, gradients, strict=True):
            if gradient is not None:
                params[name] = torch.addcmul(params[name], rate[name], gradient, value=-1)
    return params


def _clipped(gradients: Sequence[Tensor | None], max_norm: float) -> list[Tensor | None]:
    """Scale each task's gradient down to a norm."""
    parts = [g.square().reshape(len(g), -1).sum(dim=1) for g in gradients if g is not None]
    squared = torch.stack(parts).sum(dim=0)
    factor = max_norm * squared.clamp(min=max_norm**2).rsqrt()  # 1 where the norm is smaller, of derivative 0
    return [g if g is None else g * factor.view(-1, *[1] * (g.ndim - 1)) for g in gradients]
