"""Trained networks on disk: the module, how it adapts, and the units of its data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from innerloop._base.checks import FloatArray
from innerloop.neural.batch import TaskBatch
from innerloop.neural.checkpoint import CHECKPOINT, TreeFolder, compare
from innerloop.neural.fewshot.networks import MLP, Conv4
from innerloop.neural.inner_loop import adapt
from innerloop.neural.rates import Rate
from innerloop.neural.task_model import Loss, TaskModel, half_mse, learnable

_NETWORK = TreeFolder("network", 1, "`innerloop train --out`, when it has ended,")
# Where `innerloop train --out` puts its network.
NETWORK = "network"
_MODULES: dict[str, Any] = {"MLP": MLP, "Conv4": Conv4}
_LOSSES: dict[str, Loss] = {"half_mse": half_mse, "cross_entropy": nn.functional.cross_entropy}


@final
@dataclass(frozen=True, eq=False)
class Standardization:
    """Mean and scale of features and targets: ``(x - x_mean) / x_scale`` and ``(y - y_mean) / y_scale``."""

    x_mean: FloatArray
    x_scale: FloatArray
    y_mean: FloatArray
    y_scale: FloatArray

    @classmethod
    def fit(cls, X: FloatArray, y: FloatArray) -> Standardization:
        """Return means and standard deviations of some rows; a constant has the scale 1."""
        (x_mean, x_scale), (y_mean, y_scale) = ((part.mean(axis=0), part.std(axis=0)) for part in (X, y))
        return cls(x_mean, _positive(x_scale), np.asarray(y_mean), _positive(y_scale))

    def features(self, X: FloatArray) -> FloatArray:
        """Return standardised features."""
        return (X - self.x_mean) / self.x_scale

    def targets(self, y: FloatArray) -> FloatArray:
        """Return standardised targets."""
        return np.asarray((y - self.y_mean) / self.y_scale)

    def original(self, prediction: FloatArray) -> FloatArray:
        """Return predictions in the units of the targets."""
        return np.asarray(self.y_mean + self.y_scale * prediction)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedNetwork:
    """A meta-trained module, and how it adapts to a new task.

    Parameters
    ----------
    module
        The module with the learned start.
    adapt_lr
        Rate with which a new task adapts, one number or one for each weight.
    n_steps
        Steps of a new task.
    adapted
        Names of the parameters that take steps.
    loss
        Loss of one task, in training and in adaptation.
    units
        Units of features and targets; None: as they are.
    details
        Further facts, plain values: for a table its columns.

    Examples
    --------
    >>> import torch
    >>> from innerloop.neural import TrainedNetwork, half_mse
    >>> net = torch.nn.Linear(1, 1)
    >>> network = TrainedNetwork(
    ...     module=net, adapt_lr=0.1, n_steps=1, adapted=["weight", "bias"], loss=half_mse, details={}
    ... )
    >>> adapted = network.module_of(torch.ones(5, 1), torch.zeros(5, 1))
    >>> adapted(torch.ones(2, 1)).shape
    torch.Size([2, 1])
    """

    module: nn.Module
    adapt_lr: Rate
    n_steps: int
    adapted: Sequence[str]
    loss: Loss
    units: Standardization | None = None
    details: dict[str, Any]

    def module_of(self, X: Tensor, y: Tensor) -> nn.Module:
        """Return a copy of the module that is adapted to the rows of one task, in the units of the module.

        Parameters
        ----------
        X : (n_rows, ...)
            Inputs.
        y : (n_rows, ...)
            Targets: numbers, or classes.
        """
        X, y = X.unsqueeze(0), y.unsqueeze(0)
        params = {name: value.detach() for name, value in self.module.named_parameters()}
        with torch.no_grad():
            theta = adapt(
                self.module,
                params,
                TaskBatch(X, y, X, y),
                self.adapt_lr,
                self.n_steps,
                loss=self.loss,
                adapted=list(self.adapted),
            )
            module = deepcopy(self.module)
            for name, parameter in module.named_parameters():
                if name in self.adapted:
                    parameter.copy_(theta[name][0])
        return module

    def predict(self, X: FloatArray, support: tuple[FloatArray, FloatArray] | None = None) -> FloatArray:
        """Predict rows of one task of a table, in the units of the table.

        Parameters
        ----------
        X : (n_rows, n_features)
            The rows.
        support
            Labelled rows of the same task, ``X`` and ``y``; None: the prediction of a task without any.
        """
        module, units = self.module, self.units
        if units is None:
            raise ValueError("this network was not trained on a table; adapt it with `module_of`, and call the module.")
        if support is not None:
            y = torch.from_numpy(units.targets(support[1])).float().unsqueeze(-1)
            module = self.module_of(torch.from_numpy(units.features(support[0])).float(), y)
        with torch.no_grad():
            return units.original(module(torch.from_numpy(units.features(X)).float())[:, 0].double().numpy())


def save_network(network: TrainedNetwork, folder: Path) -> None:
    """Save a network whose module is of this package."""
    loss = next(name for name, function in _LOSSES.items() if function is network.loss)
    units = None if network.units is None else {n: torch.as_tensor(v) for n, v in asdict(network.units).items()}
    tree = {
        "module": {"kind": type(network.module).__name__, "settings": network.module.settings},
        "weights": network.module.state_dict(),
        "adapt_lr": network.adapt_lr,
        "n_steps": network.n_steps,
        "adapted": list(network.adapted),
        "loss": loss,
        "units": units,
        "details": network.details,
    }
    _NETWORK.write(folder, tree)


def load_network(folder: str | Path) -> TrainedNetwork:
    """Load the network that ``innerloop train --out folder`` has trained.

    Raises
    ------
    FileNotFoundError
        If there is none, as the training has not ended, or was a sweep.
    ValueError
        If it is damaged.

    Examples
    --------
    >>> import subprocess, sys
    >>> import torch
    >>> from innerloop.neural import load_network
    >>> train = "innerloop train --task sinusoid --inner-lr 0.02 --iterations 5 --n-test 10 --out folder"
    >>> _ = subprocess.run([sys.executable, "-m", *train.split()], check=True, capture_output=True)
    >>> network = load_network("folder")
    >>> x = torch.linspace(-3, 3, 10).unsqueeze(1)
    >>> network.module_of(x, torch.sin(x))(x).shape  # after its steps on ten points of a new curve
    torch.Size([10, 1])
    """
    tree = _NETWORK.read(Path(folder) / NETWORK)
    module = _MODULES[tree["module"]["kind"]](**tree["module"]["settings"])
    module.load_state_dict(tree["weights"])
    units = tree["units"]
    return TrainedNetwork(
        module=module,
        adapt_lr=tree["adapt_lr"],
        n_steps=tree["n_steps"],
        adapted=tree["adapted"],
        loss=_LOSSES[tree["loss"]],
        units=None if units is None else Standardization(**{name: value.numpy() for name, value in units.items()}),
        details=tree["details"],
    )


def load_module(folder: str | Path, module: nn.Module | None = None) -> nn.Module:
    """Return the trained module of a folder.

    Parameters
    ----------
    folder
        Made by ``innerloop train --out``, or by `MetaTrainer.save` or ``MetaTrainer.train(checkpoint=)``.
    module
        A module as it was given to `MetaTrainer`, which gets the learned parameters; None: that of `innerloop train`.

    Raises
    ------
    FileNotFoundError
        If there is nothing of the kind.
    ValueError
        If the folder is damaged, or holds the parameters of another module.

    Warns
    -----
    UserWarning
        If the module has running statistics, which a checkpoint does not hold.

    Examples
    --------
    >>> import innerloop as il, tempfile, torch
    >>> from innerloop.neural import MetaTrainer, load_module
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> trainer = MetaTrainer(torch.nn.Linear(1, 1), il.Sinusoid(), design, 0.01)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trainer.save(folder)
    ...     again = load_module(folder, torch.nn.Linear(1, 1))
    ...
    >>> again
    Linear(in_features=1, out_features=1, bias=True)
    """
    folder = Path(folder)
    if module is None:
        if CHECKPOINT.is_in(folder):
            raise ValueError(
                f"{folder} is a checkpoint, which holds parameters and no code; give `module`, made as for training."
            )
        return load_network(folder).module
    params = CHECKPOINT.read(folder)["params"]
    mine = learnable(module)
    compare({name: tuple(value.shape) for name, value in params.items()}, mine, "parameter", folder)
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.copy_(params[name])
    if TaskModel(module).has_running_statistics:
        warnings.warn(
            "`module` has running statistics, which a checkpoint does not hold; for these make the trainer again, "
            "`load` the checkpoint and call `update_module`.",
            stacklevel=2,
        )
    return module


def _positive(scale: FloatArray) -> FloatArray:
    """Return a scale to divide by: 1 for a constant."""
    return np.where(scale > 0, scale, 1.0)
