"""Layers that differ from one inner step to the next."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from innerloop._base.checks import as_count
from innerloop.neural.module_call import inner_step


@final
class StepBatchNorm(_BatchNorm):
    """Batch normalisation with a scale and a shift for each inner step (MAML++; Antoniou, Edwards and Storkey, 2019).

    In training mode each step is normalised by the rows at hand. Row k of the parameters belongs to inner step k, the
    last row to the adapted network: to query rows, and to calls outside of adaptation. Steps beyond `n_steps` use the
    last row.

    Parameters
    ----------
    num_features
        Channels: axis 1 of the input.
    n_steps
        Inner steps.
    eps
        Added to the variance.
    momentum
        As of `torch.nn.BatchNorm1d`.

    Examples
    --------
    >>> import torch
    >>> from innerloop.neural import StepBatchNorm
    >>> layer = StepBatchNorm(num_features=8, n_steps=5)
    >>> layer(torch.randn(10, 8, 4, 4)).shape, layer.weight.shape
    (torch.Size([10, 8, 4, 4]), torch.Size([6, 8]))
    """

    def __init__(self, num_features: int, n_steps: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        n_rows = as_count(n_steps, "n_steps", 0) + 1
        self.weight = nn.Parameter(torch.ones(n_rows, num_features))
        self.bias = nn.Parameter(torch.zeros(n_rows, num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised input; in training by the rows at hand, otherwise by the running statistics."""
        last, step = len(self.weight) - 1, inner_step()
        row = last if step is None else min(step, last)
        return nn.functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight[row],
            self.bias[row],
            self.training,
            self.momentum or 0.0,
            self.eps,
        )
