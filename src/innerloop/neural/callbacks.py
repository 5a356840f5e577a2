"""Callback of `MetaTrainer` that logs to TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import final

from torch import Tensor

from innerloop.neural.trainer import MetaTrainer


@final
class TensorBoardCallback:
    """Log the meta-training loss and learned inner rates to TensorBoard.

    Parameters
    ----------
    folder
        Log directory; ``tensorboard --logdir folder`` shows it.
    every
        Steps between two entries.
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
