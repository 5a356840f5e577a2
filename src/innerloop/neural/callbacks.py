"""Callbacks of `MetaTrainer`: early stopping, and logs to TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import final

import torch
from torch import Tensor

from innerloop._base.checks import as_count
from innerloop.neural.sources import VALIDATION
from innerloop.neural.trainer import Callback, MetaTrainer


@final
class EarlyStopping(Callback):
    """End training when the loss on validation tasks no longer falls, and restore the best parameters.

    Parameters
    ----------
    every
        Iterations between two evaluations of the validation tasks.
    patience
        Evaluations without a lower loss after which training ends.
    n_tasks
        Validation tasks, the same each time.

    Attributes
    ----------
    best_loss, best_iteration
        The lowest mean loss, and where it was.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import EarlyStopping, MetaTrainer
    >>> stopping = EarlyStopping(every=2, patience=1, n_tasks=10)
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> trainer = MetaTrainer(torch.nn.Linear(1, 1), il.Sinusoid(), design, 0.01, callbacks=[stopping])
    >>> trainer.train(6)
    >>> stopping.best_iteration <= trainer.iteration
    True
    """

    def __init__(self, every: int = 500, patience: int = 5, n_tasks: int = 200) -> None:
        self.every, self.patience = as_count(every, "every"), as_count(patience, "patience")
        self.n_tasks = as_count(n_tasks, "n_tasks")
        self.best_loss, self.best_iteration = float("inf"), 0
        self._best: list[Tensor] = []
        self._n_worse = 0

    def on_step(self, trainer: MetaTrainer, losses: Tensor) -> None:  # noqa: ARG002
        """Evaluate validation tasks every `every` steps."""
        if trainer.iteration % self.every:
            return
        loss = trainer.evaluate(self.n_tasks, stage=VALIDATION).mean()
        if loss < self.best_loss:
            self.best_loss, self.best_iteration, self._n_worse = loss, trainer.iteration, 0
            self._best = [tensor.detach().clone() for tensor in trainer.learned]
            return
        self._n_worse += 1
        if self._n_worse >= self.patience:
            trainer.stop()

    def on_end(self, trainer: MetaTrainer) -> None:
        """Restore the best parameters and rates."""
        with torch.no_grad():
            for tensor, best in zip(trainer.learned, self._best, strict=False):
                tensor.copy_(best)


@final
class TensorBoardCallback(Callback):
    """Log the meta-training loss and learned inner rates to TensorBoard.

    Parameters
    ----------
    folder
        Log directory; ``tensorboard --logdir folder`` shows it.
    every
        Steps between two entries.

    Examples
    --------
    >>> import innerloop as il, tempfile, torch
    >>> from innerloop.neural import MetaTrainer, TensorBoardCallback
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     callbacks = [TensorBoardCallback(folder, every=1)]
    ...     MetaTrainer(torch.nn.Linear(1, 1), il.Sinusoid(), design, 0.01, callbacks=callbacks).train(2)
    ...
    """

    def __init__(self, folder: str | Path, every: int = 10) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.every = every
        self._writer = SummaryWriter(str(folder))

    def on_step(self, trainer: MetaTrainer, losses: Tensor) -> None:
        """Log every `every` steps."""
        if trainer.iteration % self.every == 0:
            self._write("meta-training loss", losses.mean().item(), trainer.iteration)
            if trainer.learn_inner_lr:
                for name, rate in trainer.rate_tensors.items():
                    self._write(f"inner_lr/{name or 'all'}", rate.mean().item(), trainer.iteration)

    def on_end(self, trainer: MetaTrainer) -> None:  # noqa: ARG002
        """Flush the log."""
        self._writer.flush()

    def _write(self, name: str, value: float, iteration: int) -> None:
        self._writer.add_scalar(name, value, iteration)
