"""Classifiers that compare query rows with support rows in the space of a module's outputs, without gradient steps.

They are algorithms like those of `innerloop.neural.algorithms`: with `torch.nn.Flatten` as the module they work on
pixels, with the body of a network on its features, and `MetaTrainer` trains that body.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from innerloop.neural.algorithms import Params, Rates
from innerloop.neural.batch import TaskBatch
from innerloop.neural.task_model import TaskModel


@dataclass(frozen=True)
class _Comparison(ABC):
    """Base of both classifiers.

    Parameters
    ----------
    n_classes
        Classes of a task; targets name them 0, 1, ....
    """

    differentiates_rates: ClassVar[bool] = False

    n_classes: int

    def adapted(self, params: Params) -> list[str]:  # noqa: ARG002
        """Return no names: the module is the same for all tasks."""
        return []

    def predict(self, model: TaskModel, start: Params, rates: Rates, batch: TaskBatch) -> Tensor:  # noqa: ARG002
        """Return minus the squared distances of the query rows to the classes: (n_tasks, n_query, n_classes)."""
        support, query = (model.predict(start, X).flatten(2) for X in (batch.X_support, batch.X_query))
        members = torch.nn.functional.one_hot(batch.y_support, self.n_classes).to(support.dtype)
        return -self._distances(support, members, query)

    def losses(self, model: TaskModel, start: Params, rates: Rates, batch: TaskBatch) -> Tensor:
        """Return the query losses of these outputs."""
        return model.score(self.predict(model, start, rates, batch), batch.y_query)

    @abstractmethod
    def _distances(self, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        """Return squared distances; `members`, (n_tasks, n_support, n_classes), is one where a row is of a class."""


@final
@dataclass(frozen=True)
class Prototypes(_Comparison):
    r"""Nearest class mean; with a trained body, a prototypical network (Snell, Swersky and Zemel, 2017).

    .. math:: f_c(x) = -|\phi(x) - \bar\phi_c|^2

    with :math:`\bar\phi_c` the mean of the module's outputs over the support rows of class c.
    """

    def _distances(self, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        means = (members / members.sum(dim=1, keepdim=True)).mT @ support
        return _squared_distances(query, means)


@final
@dataclass(frozen=True)
class NearestNeighbour(_Comparison):
    """The class of the nearest support row."""

    def _distances(self, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        to_rows = _squared_distances(query, support).unsqueeze(-1)
        nearest: Tensor = to_rows.masked_fill(members.unsqueeze(1) == 0, torch.inf).amin(dim=2)
        return nearest


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distance of each row of a to each row of b, task by task."""
    return a.square().sum(-1, keepdim=True) - 2 * a @ b.mT + b.square().sum(-1).unsqueeze(-2)
