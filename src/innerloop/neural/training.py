"""How a module is meta-trained, whatever its tasks, their sizes and the inner rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from innerloop._base.checks import as_count
from innerloop.neural.algorithms import MAML, Algorithm
from innerloop.neural.task_model import Loss, half_mse


@final
@dataclass(frozen=True)
class Adam:
    """Function that makes Adam for the learned tensors.

    Parameters
    ----------
    lr
        Learning rate of the outer loop.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import Adam, MetaTrainer, Training
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> training = Training(optimiser=Adam(lr=0.01))
    >>> MetaTrainer(torch.nn.Linear(1, 1), il.Sinusoid(), design, 0.01, training=training).train(2)
    """

    lr: float = 1e-3

    def __call__(self, tensors: Iterable[Tensor]) -> torch.optim.Optimizer:
        """Return the optimiser of these tensors."""
        return torch.optim.Adam(tensors, lr=self.lr, fused=True)


@final
@dataclass(frozen=True, kw_only=True)
class Training:
    """How a module is meta-trained: algorithm, loss, optimiser, and where to compute.

    Parameters
    ----------
    algorithm
        How tasks adapt, and the gradient that this gives; see `innerloop.neural.algorithms`.
    loss
        Loss of one task, ``loss(prediction, y)``, in the inner and the outer loop.
    optimiser
        Makes the outer optimiser from the learned tensors.
    scheduler
        Makes its scheduler, which steps once an iteration.
    max_norm
        Norm to which the meta-gradient is scaled down where it is longer; None: no limit.
    seed
        Draws tasks given as a distribution or a table, and in a sweep the initial weights. Any whole number from 0.
    device, dtype
        Where and in what to compute; None: as the module's parameters.
    compile
        Compile the whole meta-gradient; worth its seconds where many iterations of the same sizes follow. Small
        networks gain severalfold, convolutions on a CPU nothing.
    by_task
        See `TaskModel`.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import MAML, Adam, MetaTrainer, Training
    >>> training = Training(algorithm=MAML(first_order=True), optimiser=Adam(lr=0.01), max_norm=10.0)
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> MetaTrainer(torch.nn.Linear(1, 1), il.Sinusoid(), design, 0.01, training=training).train(2)
    """

    algorithm: Algorithm = MAML()  # noqa: RUF009
    loss: Loss = half_mse
    optimiser: Callable[[Iterable[Tensor]], torch.optim.Optimizer] = Adam()
    scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None
    max_norm: float | None = None
    seed: int = 0
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    compile: bool = False
    by_task: bool | None = None

    def __post_init__(self) -> None:
        as_count(self.seed, "seed", 0)
        if self.max_norm is not None and not 0 < self.max_norm < float("inf"):
            raise ValueError(f"`max_norm` must be positive and finite, got {self.max_norm}.")
        if not callable(self.optimiser):
            raise TypeError(
                "`optimiser` must be a function that makes an optimiser of the learned tensors, such as Adam(lr) or "
                f"lambda tensors: torch.optim.SGD(tensors, lr=0.1), got {type(self.optimiser).__name__}."
            )
        if self.scheduler is not None and not callable(self.scheduler):
            raise TypeError(
                "`scheduler` must be a function that makes a scheduler of an optimiser, such as "
                f"lambda optimiser: StepLR(optimiser, 1000), got {type(self.scheduler).__name__}."
            )
