"""Meta-learning algorithms: how a task adapts, and the meta-gradient of its loss.

Each is a small frozen object. `adapted` names the parameters that differ from task to task, `predict` adapts to the
support rows and predicts the query rows, and `losses` returns query losses whose gradient, by ordinary autograd, is the
algorithm's meta-gradient. Two members are optional: `steps` returns each task's parameters, and
``differentiates_rates = False`` says that the meta-gradient does not depend on the rates. Their usual names:

=================  ==================================================================
MAML               ``MAML()``
first-order MAML   ``MAML(first_order=True)``
ANIL               ``MAML(subset=["head"])``, the names of what adapts
Meta-SGD, LSLR     ``MAML()`` with learned rates, see `MetaTrainer`
Reptile            ``Reptile()``
implicit MAML      ``ImplicitMAML(l2)``
ridge head (R2D2)  ``RidgeHead(l2)``
=================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, final

import torch
from torch import Tensor

from innerloop.neural.batch import TaskBatch
from innerloop.neural.inner_loop import Subset, inner_loop, select
from innerloop.neural.module_call import at_step, differentiable_twice
from innerloop.neural.task_model import TaskModel

Params = Mapping[str, Tensor]
Rates = Sequence[Params]


class Algorithm(Protocol):
    """How tasks adapt, and the meta-gradient of that adaptation.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import MetaTrainer, Training
    >>> class NoAdaptation:
    ...     def adapted(self, params):
    ...         return []
    ...
    ...     def predict(self, model, start, rates, batch):
    ...         return model.predict(start, batch.X_query)
    ...
    ...     def losses(self, model, start, rates, batch):
    ...         return model.losses(start, batch.X_query, batch.y_query)
    ...
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> training = Training(algorithm=NoAdaptation())
    >>> MetaTrainer(torch.nn.Linear(1, 1), il.Sinusoid(), design, 0.0, training=training).train(2)
    """

    def adapted(self, params: Params) -> list[str]:
        """Return the names of the parameters that differ from task to task."""
        ...

    def predict(self, model: TaskModel, start: Params, rates: Rates, batch: TaskBatch) -> Any:
        """Return the outputs for the query rows: (n_tasks, n_query, ...)."""
        ...

    def losses(self, model: TaskModel, start: Params, rates: Rates, batch: TaskBatch) -> Tensor:
        """Return query losses (n_tasks,) whose gradient with respect to the start is the meta-gradient."""
        ...


@final
@dataclass(frozen=True)
class MAML:
    """Gradient steps with backpropagation through them (Finn, Abbeel and Levine, 2017).

    Parameters
    ----------
    first_order
        Treat the inner gradients as constants in the outer gradient.
    subset
        Names of parameters or modules that take steps (ANIL: the head), or a predicate; None: all.
    max_norm
        Norm to which a task's gradient is scaled down in each step where it is longer; None: no limit.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import MetaTrainer, Training, MAML
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> training = Training(algorithm=MAML(first_order=True))
    >>> trainer = MetaTrainer(torch.nn.Linear(1, 1), il.Sinusoid(), design, inner_lr=0.01, training=training)
    >>> trainer.train(2)
    >>> len(trainer.evaluate(10))
    10
    """

    first_order: bool = False
    subset: Subset | None = None
    max_norm: float | None = None

    def __post_init__(self) -> None:
        if self.max_norm is not None and not 0 < self.max_norm < float("inf"):
            raise ValueError(f"`max_norm` must be positive and finite, got {self.max_norm}.")

    def adapted(self, params: Params) -> list[str]:
        """Return the names of the parameters that take steps."""
        return select(params, self.subset)

    def predict(self, model: TaskModel, start: Params, rates: Rates, batch: TaskBatch) -> Any:
        """Return the outputs for the query rows after the steps."""
        params = self.steps(model, start, rates, batch)
        with at_step(len(rates)):
            return model.predict(params, batch.X_query)

    def losses(self, model: TaskModel, start: Params, rates: Rates, batch: TaskBatch) -> Tensor:
        """Return the query losses after the steps."""
        params = self.steps(model, start, rates, batch)
        with at_step(len(rates)):
            return model.losses(params, batch.X_query, batch.y_query)

    def steps(self, model: TaskModel, start: Params, rates: Rates, batch: TaskBatch) -> Params:
        """Return each task's parameters after the steps."""
        adapted = self.adapted(start)
        return inner_loop(model.losses, start, adapted, rates, batch, self.first_order, self.max_norm)


@final
@dataclass(frozen=True)
class Reptile:
    """Move the start towards where gradient steps on the support rows lead (Nichol, Achiam and Schulman, 2018).

    The meta-gradient is the mean over tasks of ``start - adapted``; query rows are only scored.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import MetaTrainer, Training, Reptile
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> training = Training(algorithm=Reptile())
    >>> trainer = MetaTrainer(torch.nn.Linear(1, 1), il.Sinusoid(), design, inner_lr=0.01, training=training)
    >>> trainer.train(2)
    >>> len(trainer.evaluate(10))
    10
    """

    differentiates_rates: ClassVar[bool] = False

    def adapted(self, params: Params) -> list[str]:
        """Return the names of all parameters."""
        return list(params)

    def predict(self, model: TaskModel, start: Params, rates: Rates, batch: TaskBatch) -> Any:
        """Return the outputs for the query rows after the steps."""
        return MAML().predict(model, start, rates, batch)

    def steps(self, model: TaskModel, start: Params, rates: Rates, batch: TaskBatch) -> Params:
        """Return each task's parameters after the steps."""
        return MAML().steps(model, start, rates, batch)

    def losses(self, model: TaskModel, start: Params, rates: Rates, batch: TaskBatch) -> Tensor:
        """Return the query losses, with the gradient of half the squared distance from the adapted parameters."""
        with torch.no_grad():
            end = inner_loop(model.losses, start, list(start), rates, batch)
            with at_step(len(rates)):
                values = model.losses(end, batch.X_query, batch.y_query)
        distance = _squared_distance(start, end) / 2
        return values + (distance - distance.detach())


@final
@dataclass(frozen=True)
class ImplicitMAML:
    r"""Implicit differentiation of penalised gradient steps (Rajeswaran et al., 2019).

    The steps minimise :math:`L(\theta) + \tfrac{\lambda}{2} |\theta - \omega|^2` from the start :math:`\omega`. Their
    result is differentiated as a stationary point, :math:`d\theta / d\omega = (I + H / \lambda)^{-1}` with the Hessian
    H of L there, by conjugate gradients.

    Parameters
    ----------
    l2
        Penalty :math:`\lambda`, positive.
    n_cg_steps
        Steps of conjugate gradients.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import MetaTrainer, Training, ImplicitMAML
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> training = Training(algorithm=ImplicitMAML(l2=2.0))
    >>> trainer = MetaTrainer(torch.nn.Linear(1, 1), il.Sinusoid(), design, inner_lr=0.01, training=training)
    >>> trainer.train(2)
    >>> len(trainer.evaluate(10))
    10
    """

    differentiates_rates: ClassVar[bool] = False

    l2: float = 1.0
    n_cg_steps: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.l2 < float("inf"):
            raise ValueError(f"`l2` must be positive and finite, got {self.l2}.")

    def adapted(self, params: Params) -> list[str]:
        """Return the names of all parameters."""
        return list(params)

    def predict(self, model: TaskModel, start: Params, rates: Rates, batch: TaskBatch) -> Any:
        """Return the outputs for the query rows after the steps."""
        params = self.steps(model, start, rates, batch)
        with at_step(len(rates)):
            return model.predict(params, batch.X_query)

    def losses(self, model: TaskModel, start: Params, rates: Rates, batch: TaskBatch) -> Tensor:
        """Return the query losses after the steps."""
        params = self.steps(model, start, rates, batch)
        with at_step(len(rates)):
            return model.losses(params, batch.X_query, batch.y_query)

    def steps(self, model: TaskModel, start: Params, rates: Rates, batch: TaskBatch) -> Params:
        """Return each task's parameters after the steps."""
        names, anchor = list(start), {name: value.detach() for name, value in start.items()}

        def penalised(params: Params, X: Tensor, y: Tensor) -> Tensor:
            return model.losses(params, X, y) + self.l2 / 2 * _squared_distance(params, anchor)

        with torch.no_grad():
            end = inner_loop(penalised, anchor, names, rates, batch)
        if not torch.is_grad_enabled():
            return end

        def pullback(vectors: Sequence[Tensor]) -> list[Tensor]:
            with at_step(len(rates)), torch.enable_grad(), differentiable_twice():
                points = [end[name].detach().requires_grad_() for name in names]
                loss = model.losses(dict(zip(names, points, strict=True)), batch.X_support, batch.y_support).sum()
                slopes = torch.autograd.grad(loss, points, create_graph=True)

            def product(vector: list[Tensor]) -> list[Tensor]:
                curved = torch.autograd.grad(slopes, points, vector, retain_graph=True)
                return [v + c / self.l2 for v, c in zip(vector, curved, strict=True)]

            return conjugate_gradients(product, list(vectors), self.n_cg_steps)

        outputs = _WithPullback.apply(pullback, [end[name] for name in names], *start.values())  # type: ignore[no-untyped-call]
        return dict(zip(names, outputs, strict=True))


class _WithPullback(torch.autograd.Function):
    """Outputs that backpropagation takes for a function of the inputs, with a given vector-Jacobian product."""

    @staticmethod
    def forward(ctx: Any, pullback: Callable[..., list[Tensor]], outputs: list[Tensor], *_: Tensor) -> Any:
        ctx.pullback = pullback
        return tuple(output.clone() for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (None, None, *ctx.pullback(gradients))


def _squared_distance(a: Params, b: Params) -> Tensor:
    """Return each task's squared distance: (n_tasks,)."""
    parts = [(a[name] - b[name]).square().reshape(len(a[name]), -1).sum(dim=1) for name in b]
    return torch.stack(parts).sum(dim=0)


def conjugate_gradients(
    product: Callable[[list[Tensor]], list[Tensor]], target: list[Tensor], n_steps: int
) -> list[Tensor]:
    """Solve a symmetric positive definite system for each task, all tasks together, from zero."""

    def dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
        return torch.stack([(u * v).reshape(len(u), -1).sum(dim=1) for u, v in zip(a, b, strict=True)]).sum(dim=0)

    def plus(a: list[Tensor], weight: Tensor, b: list[Tensor]) -> list[Tensor]:
        return [u + weight.view(-1, *[1] * (v.ndim - 1)) * v for u, v in zip(a, b, strict=True)]

    solution, residual, direction = [torch.zeros_like(t) for t in target], target, target
    squared = dot(residual, residual)
    for _ in range(n_steps):
        image = product(direction)
        step = torch.nan_to_num(squared / dot(direction, image), nan=0.0, posinf=0.0, neginf=0.0)
        solution, residual = plus(solution, step, direction), plus(residual, -step, image)
        previous, squared = squared, dot(residual, residual)
        direction = plus(residual, torch.nan_to_num(squared / previous), direction)
    return solution


@final
@dataclass(frozen=True)
class RidgeHead:
    r"""Ridge regression on the module's outputs in place of gradient steps (Bertinetto et al., 2019).

    .. math:: W = (\Phi'\Phi / n + l2 \, I)^{-1} \Phi' Y / n

    with the module's outputs :math:`\Phi` for the n support rows, differentiated exactly. The module is the body; rates
    are not used.

    Parameters
    ----------
    l2
        Penalty, positive.
    n_classes
        Where targets name classes: how many there are; :math:`Y` then has a column for each.
    scale
        Factor of the predictions.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import MetaTrainer, Training, RidgeHead
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> training = Training(algorithm=RidgeHead(l2=0.1))
    >>> trainer = MetaTrainer(torch.nn.Linear(1, 1), il.Sinusoid(), design, inner_lr=0.01, training=training)
    >>> trainer.train(2)
    >>> len(trainer.evaluate(10))
    10
    """

    differentiates_rates: ClassVar[bool] = False

    l2: float = 1.0
    n_classes: int | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.l2 < float("inf"):
            raise ValueError(f"`l2` must be positive and finite, got {self.l2}.")

    def adapted(self, params: Params) -> list[str]:  # noqa: ARG002
        """Return no names: the body is the same for all tasks."""
        return []

    def predict(self, model: TaskModel, start: Params, rates: Rates, batch: TaskBatch) -> Tensor:  # noqa: ARG002
        """Return the head's predictions for the query rows."""
        support, query = model.predict(start, batch.X_support), model.predict(start, batch.X_query)
        y, n, p = batch.y_support, support.shape[1], support.shape[2]
        if self.n_classes is not None:
            y = torch.nn.functional.one_hot(y, self.n_classes).to(support.dtype)
        St = support.mT
        if n < p:
            gram = support @ St / n + self.l2 * torch.eye(n, dtype=support.dtype, device=support.device)
            head = St @ torch.linalg.solve(gram, y) / n
        else:
            gram = St @ support / n + self.l2 * torch.eye(p, dtype=support.dtype, device=support.device)
            head = torch.linalg.solve(gram, St @ y) / n
        prediction: Tensor = self.scale * (query @ head)
        return prediction

    def losses(self, model: TaskModel, start: Params, rates: Rates, batch: TaskBatch) -> Tensor:
        """Return the query losses of the head's predictions."""
        return model.score(self.predict(model, start, rates, batch), batch.y_query)
