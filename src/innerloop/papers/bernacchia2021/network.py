r"""Two-layer ReLU networks meta-trained side by side, in the parameterisation of `ReluKernel`.

.. math:: f(x) = \sqrt{2/n}\, v'\,\mathrm{relu}(W'\tilde x) + \beta c, \qquad \tilde x = (x / \sqrt d, \beta)

One inner step of rate a on n_t support rows of a task with slopes :math:`\delta = (f - y) / n_t` moves the hidden layer
by ``- a X~' D``, D the outer product of delta and ``sqrt(2/n) v`` where units are active: for other rows this is the
thin ``- a (x~ X~') D``, and no task's weights are formed. The outer gradient goes through D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from innerloop._base.checks import FloatArray

MOMENTUM = 0.9
# Training ends when every loss of a block is below this fraction of its start, checked once in so many steps.
NEAR_ZERO, _CHECK_EVERY = 1e-4, 20


class Tasks(NamedTuple):
    """Inputs x~ (n_lanes, n_tasks, n_rows, d + 1) and targets (n_lanes, n_tasks, n_rows, 1)."""

    X_support: Tensor
    y_support: Tensor
    X_query: Tensor
    y_query: Tensor


def predict(params: Sequence[Tensor], tasks: Tasks, rates: Tensor, bias_std: float) -> Tensor:
    """Return each lane's outputs for the query rows after one step of its rate, shaped like their targets."""
    hidden, output, bias = params
    X, y, X_query, _ = tasks
    lanes, n_tasks, n_support, n_units = *X.shape[:3], hidden.shape[-1]
    rates = rates.view(-1, 1, 1, 1)
    v = output * (2 / n_units) ** 0.5
    u = (X.flatten(1, 2) @ hidden).view(lanes, n_tasks, n_support, n_units)
    h = u.relu()
    offset = bias_std * bias.unsqueeze(1)
    delta = ((h.flatten(1, 2) @ v).view(y.shape) + offset - y) / n_support
    D = (u > 0) * (delta * v.mT.unsqueeze(1))
    shared = (X_query.flatten(1, 2) @ hidden).view(*X_query.shape[:3], n_units)
    h_query = torch.relu(shared - rates * (X_query @ X.mT) @ D)
    step = (h_query @ h.mT) @ delta * (2 / n_units) + bias_std**2 * delta.sum(dim=2, keepdim=True)
    prediction: Tensor = (h_query.flatten(1, 2) @ v).view(*shared.shape[:3], 1) + offset - rates * step
    return prediction


def losses(params: Sequence[Tensor], tasks: Tasks, rates: Tensor, bias_std: float) -> Tensor:
    """Return each lane's half mean squared query error after one step of its rate: (n_lanes,)."""
    error: Tensor = predict(params, tasks, rates, bias_std) - tasks.y_query
    return error.square().mean(dim=(1, 2, 3)) / 2


def train(
    weights: Sequence[FloatArray], tasks: Tasks, rates: Tensor, bias_std: float, steps: Tensor, most_steps: int
) -> tuple[list[Tensor], Tensor]:
    """Meta-train every lane by full-batch gradient descent with Nesterov momentum.

    Parameters
    ----------
    weights
        The starts of each lane: W (n_lanes, d + 1, n), v (n_lanes, n, 1) and c (n_lanes, 1, 1).
    tasks
        Training tasks of each lane.
    rates, steps : (n_lanes,)
        Inner rates, and step sizes of the outer loop.
    bias_std
        beta.
    most_steps
        Outer steps where losses do not come near zero before.

    Returns
    -------
    params
        Trained weights.
    relative : (n_lanes,)
        Meta-training losses when last checked, as fractions of those at the start.
    """
    params = [torch.from_numpy(np.ascontiguousarray(part)).to(tasks.X_support.dtype) for part in weights]
    speed = [torch.zeros_like(part) for part in params]
    first = relative = torch.ones_like(rates)
    for i in range(most_steps):
        points = [p.add(v, alpha=MOMENTUM).requires_grad_() for p, v in zip(params, speed, strict=True)]
        values = losses(points, tasks, rates, bias_std)
        gradients = torch.autograd.grad(values.sum(), points)
        for p, v, g in zip(params, speed, gradients, strict=True):
            v.mul_(MOMENTUM).addcmul_(g, steps.view(-1, 1, 1), value=-1)
            p.add_(v)
        if i == 0:
            first = values.detach()
        elif i % _CHECK_EVERY == 0:
            relative = values.detach() / first
            if relative.max() < NEAR_ZERO:
                break
    return params, relative
