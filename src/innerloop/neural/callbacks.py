"""What to do after each step of a training: a protocol, and TensorBoard as an example of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, final

from torch import Tensor

if TYPE_CHECKING:
    from innerloop.neural.trainer import MetaTrainer


class Callback(Protocol):
    """Called by `MetaTrainer.train`."""

    def on_step(self, trainer: MetaTrainer, losses: Tensor) -> None:
        """Look at the trainer after a step; `losses` are the query losses of its tasks: (n_tasks,)."""
        ...

    def on_end(self, trainer: MetaTrainer) -> None:
        """Look at the trainer when training ends."""
        ...


@final
class TensorBoardCallback:
    """Write the meta-training loss, and learned inner rates, for TensorBoard.

    Parameters
    ----------
    folder
        Where to write; ``tensorboard --logdir folder`` shows it.
    every
        Write once in so many steps.
    """

    def __init__(self, folder: str | Path, every: int = 10) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.every = every
        self._writer = SummaryWriter(str(folder))

    def on_step(self, trainer: MetaTrainer, losses: Tensor) -> None:
        """Write, if it is time."""
        if trainer.iteration % self.every == 0:
            self._write("meta-training loss", losses.mean().item(), trainer.iteration)
            if trainer.learn_inner_lr:
                for name, rate in trainer.rate_tensors.items():
                    self._write(f"inner_lr/{name or 'all'}", rate.mean().item(), trainer.iteration)

    def on_end(self, trainer: MetaTrainer) -> None:  # noqa: ARG002
        """Write what is buffered."""
        self._writer.flush()

    def _write(self, name: str, value: float, iteration: int) -> None:
        self._writer.add_scalar(name, value, iteration)
