"""Small networks for few-shot learning: a body, and a linear head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

from innerloop._base.checks import as_count

_GROUPS = 4


class MLP(nn.Sequential):
    """Dense layers with ReLU between them; 1-40-40-1 is the network of Finn, Abbeel and Levine (2017) for sinusoids.

    Parameters
    ----------
    n_inputs, n_outputs
        Features of a row, and outputs.
    widths
        Units of the hidden layers.
    """

    def __init__(self, n_inputs: int = 1, n_outputs: int = 1, widths: Sequence[int] = (40, 40)) -> None:
        layers = [(nn.Linear(n_in, n_out), nn.ReLU()) for n_in, n_out in pairwise((n_inputs, *widths))]
        body = nn.Sequential(*(part for layer in layers for part in layer))
        super().__init__(OrderedDict(body=body, head=nn.Linear((n_inputs, *widths)[-1], n_outputs)))
        self.settings = {"n_inputs": n_inputs, "n_outputs": n_outputs, "widths": list(widths)}


class Conv4(nn.Sequential):
    """Four blocks of 3 x 3 convolution, normalisation, ReLU and 2 x 2 pooling, and a linear head.

    Images of 28 x 28 pixels leave the body as `width` features.

    Parameters
    ----------
    n_outputs
        Classes.
    width
        Channels of each convolution.
    norm
        batch: over the rows at hand, in training and in testing (query rows see each other);
        group: over four groups of channels of each row alone.
    """

    def __init__(self, n_outputs: int, width: int = 64, norm: Literal["batch", "group"] = "batch") -> None:
        if norm == "group" and as_count(width, "width") % _GROUPS:
            raise ValueError(f"`width` must be a multiple of {_GROUPS} with norm='group', got {width}.")
        body = nn.Sequential(*(_block(n_in, width, norm) for n_in in (1, width, width, width)), nn.Flatten())
        super().__init__(OrderedDict(body=body, head=nn.Linear(width, n_outputs)))
        self.settings = {"n_outputs": n_outputs, "width": width, "norm": norm}


def _block(n_in: int, width: int, norm: str) -> nn.Sequential:
    normalise = nn.BatchNorm2d(width, track_running_stats=False) if norm == "batch" else nn.GroupNorm(_GROUPS, width)
    return nn.Sequential(nn.Conv2d(n_in, width, 3, padding=1), normalise, nn.ReLU(), nn.MaxPool2d(2))
