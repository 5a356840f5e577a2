"""Networks as linear models: linearised at their start, or with a frozen body and a linear head.

Both turn tasks of raw inputs into `Episodes` of features, for which `MetaObjective` and `solve` are exact at every
rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from innerloop._base.checks import FloatArray, as_floats
from innerloop.data.episodes import Episodes
from innerloop.neural.batch import TaskBatch
from innerloop.neural.inner_loop import Subset, select
from innerloop.neural.module_call import ModuleCall

Tensors = dict[str, Tensor]

# Numbers of a Jacobian formed at once (128 MiB in float64), and rows sent through a frozen body at once.
_NUMBERS_AT_ONCE, _ROWS_AT_ONCE = 2**24, 2**12


def linearize(
    module: nn.Module, params: Mapping[str, Tensor] | None = None, *, adapted: Subset | None = None
) -> LinearizedModule:
    r"""Linearise a module in its parameters.

    .. math:: f(x; \theta_0 + d) \approx f(x; \theta_0) + \nabla_\theta f(x; \theta_0)' d

    Parameters
    ----------
    module
        Any module whose output for a row depends on that row alone; it is not changed.
    params
        The start theta_0, by name; None: the module's current parameters.
    adapted
        Names of parameters or modules that move, in the inner loop and the outer, or a predicate of a parameter's
        name; None: all.

    Raises
    ------
    ValueError
        If the module has batch normalisation or dropout in training mode, or `adapted` names nothing.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import linearize
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> episodes = il.Sinusoid().sample_tasks(n_tasks=20, n_rows=10, seed=0).split(n_support=5)
    >>> linear = linearize(net)
    >>> solution = il.solve(il.MetaObjective.from_episodes(linear.episodes(episodes)), inner_lr=0.01, l2=1e-3)
    >>> {name: tuple(value.shape) for name, value in linear.params_at(solution.coef).items()}
    {'0.weight': (4, 1), '0.bias': (4,), '2.weight': (1, 4), '2.bias': (1,)}
    """
    return LinearizedModule(module, dict(module.named_parameters()) if params is None else params, adapted)


@final
class LinearizedModule:
    """A module, linear in the distance d of its parameters from a start. Make one with `linearize`.

    With k outputs, n rows of inputs become n k rows of features, one for each output; losses, being means over rows and
    outputs, stay the same. Inputs are arrays (n, ...) of any numeric dtype.

    Attributes
    ----------
    n_features
        Number of parameters that move: the length of d.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import linearize
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> episodes = il.Sinusoid().sample_tasks(n_tasks=20, n_rows=10, seed=0).split(n_support=5)
    >>> linear = linearize(net)
    >>> linear.n_features
    13
    >>> linear.features(episodes.X[:3]).shape, linear.kernel(episodes.X[:3], episodes.X[:2]).shape
    ((3, 13), (3, 2))
    """

    def __init__(self, module: nn.Module, params: Mapping[str, Tensor], adapted: Subset | None = None) -> None:
        _check_rows_are_independent(module)
        self.module, self._call = module, ModuleCall(module)
        self.params = {name: value.detach() for name, value in params.items()}
        self._moving = select(self.params, adapted)
        self.n_features = sum(self.params[name].numel() for name in self._moving)

    def start(self, X: FloatArray) -> FloatArray:
        """Return f0 of rows (..., n, n_inputs): (..., n), or (..., n, k) for k > 1 outputs."""
        X = np.asarray(X)
        outputs = self._outputs(X.reshape(-1, X.shape[-1]))
        return outputs.reshape(*X.shape[:-1], *(() if outputs.shape[1] == 1 else outputs.shape[1:]))

    def features(self, X: FloatArray) -> FloatArray:
        """Return the derivative of every output of every row with respect to d: (n * k, n_features)."""
        return np.concatenate([self._jacobian(rows) for rows in self._chunks(X)])

    def kernel(self, X: FloatArray, Z: FloatArray) -> FloatArray:
        """Return the empirical tangent kernel of rows (..., n, n_inputs) and (..., n', n_inputs): (..., n, n').

        To be used with `start` in `innerloop.KernelObjective`, where there are more parameters than rows. Jacobians are
        formed in pieces and never kept whole.
        """
        X, Z = np.asarray(X), np.asarray(Z)
        lead = np.broadcast_shapes(X.shape[:-2], Z.shape[:-2])
        if lead:
            pairs = (np.broadcast_to(rows, lead + rows.shape[-2:]) for rows in (X, Z))
            X, Z = (rows.reshape(-1, *rows.shape[-2:]) for rows in pairs)
            gram = np.stack([self.kernel(x, z) for x, z in zip(X, Z, strict=True)])
            return gram.reshape(*lead, *gram.shape[-2:])
        blocks = []
        for rows in self._chunks(X):
            jacobian = self._jacobian(rows)
            if len(jacobian) != len(rows):
                raise ValueError(
                    f"`kernel` takes modules with one output, got {len(jacobian) // len(rows)}; use `episodes` instead."
                )
            blocks.append(np.concatenate([jacobian @ self._jacobian(others).T for others in self._chunks(Z)], axis=1))
        return np.concatenate(blocks)

    def episodes(self, tasks: Episodes | TaskBatch) -> Episodes:
        """Return tasks of raw inputs as episodes of features, with targets y - f0, for `MetaObjective`.

        The coefficients that `solve` then returns are d; see `params_at`.
        """
        return _map_rows(tasks, self._as_linear)

    def params_at(self, coef: FloatArray) -> Tensors:
        """Return all parameters, those that move at the distance d = `coef` from the start."""
        d = as_floats(coef, "coef")
        if d.shape != (self.n_features,):
            raise ValueError(f"`coef` must have shape {(self.n_features,)}, got {d.shape}.")
        params, first = dict(self.params), 0
        for name in self._moving:
            start = self.params[name]
            part = torch.from_numpy(d[first : first + start.numel()].copy()).view(start.shape)
            params[name], first = start + part.to(start), first + start.numel()
        return params

    def _as_linear(self, X: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        return self.features(X), y.reshape(-1) - self._outputs(X).reshape(-1)

    def _outputs(self, X: FloatArray) -> FloatArray:
        with torch.no_grad():
            parts = [self._call(self.params, rows) for rows in self._chunks(X)]
        return torch.cat(parts).flatten(1).double().cpu().numpy()

    def _chunks(self, X: FloatArray) -> tuple[Tensor, ...]:
        like = next(iter(self.params.values()))
        rows = torch.tensor(X).to(like)
        return torch.split(rows, max(1, _NUMBERS_AT_ONCE // self.n_features))

    def _jacobian(self, X: Tensor) -> FloatArray:
        def outputs(moving: Tensors, row: Tensor) -> Tensor:
            value: Tensor = self._call({**self.params, **moving}, row.unsqueeze(0))
            return value.flatten()

        moving = {name: self.params[name] for name in self._moving}
        by_name = vmap(jacrev(outputs), (None, 0))(moving, X)
        jacobian = torch.cat([by_name[name].flatten(2) for name in self._moving], dim=2)
        return jacobian.flatten(0, 1).double().cpu().numpy()


def features(module: nn.Module, constant: bool = True) -> FrozenFeatures:
    """Return a frozen module as a feature map, the exact counterpart of ANIL: only the head is trained.

    Parameters
    ----------
    module
        A body, in evaluation mode as far as it has batch normalisation or dropout.
    constant
        Add a feature that is always 1: the bias of the head.

    Raises
    ------
    ValueError
        If the module has batch normalisation or dropout in training mode.

    Notes
    -----
    Inner steps of `MetaObjective` are on half the squared error summed over targets, those of a network with `half_mse`
    on its mean: with k targets the network's inner rate a is a / k here.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import features
    >>> body = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh())
    >>> episodes = il.Sinusoid().sample_tasks(n_tasks=20, n_rows=10, seed=0).split(n_support=5)
    >>> objective = il.MetaObjective.from_episodes(features(body).episodes(episodes))
    >>> il.solve(objective, inner_lr=-0.1, l2=1e-3).coef.shape  # the last layer, its bias last
    (9,)
    """
    return FrozenFeatures(module, constant)


@final
class FrozenFeatures:
    """The outputs of a frozen module as features. Make one with `features`.

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import features
    >>> body = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh())
    >>> episodes = il.Sinusoid().sample_tasks(n_tasks=20, n_rows=10, seed=0).split(n_support=5)
    >>> frozen = features(body, constant=False)
    >>> frozen.episodes(episodes).n_features
    8
    """

    def __init__(self, module: nn.Module, constant: bool = True) -> None:
        _check_rows_are_independent(module)
        self.module, self.constant, self._call = module, constant, ModuleCall(module)

    def __call__(self, X: FloatArray) -> FloatArray:
        """Return the features of rows (n, ...): (n, n_features)."""
        like = next(self.module.parameters(), torch.empty(0, dtype=torch.float64))
        rows = torch.tensor(X).to(like)
        with torch.no_grad():
            values = torch.cat([self._call({}, part).flatten(1) for part in torch.split(rows, _ROWS_AT_ONCE)])
        outputs: FloatArray = values.double().cpu().numpy()
        return np.column_stack((outputs, np.ones(len(outputs)))) if self.constant else outputs

    def episodes(self, tasks: Episodes | TaskBatch) -> Episodes:
        """Return tasks of raw inputs as episodes of features, for `MetaObjective`."""
        return _map_rows(tasks, lambda X, y: (self(X), y))


def _map_rows(
    tasks: Episodes | TaskBatch, change: Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]
) -> Episodes:
    """Return episodes with the rows that `change` makes of theirs, an equal number of each row, in order.

    All rows are changed at once: a derivative of few rows costs little less than one of many.
    """
    arrays = (
        zip(*(tensor.detach().cpu().numpy() for tensor in tasks.tensors), strict=True)
        if isinstance(tasks, TaskBatch)
        else tasks
    )
    inputs, targets = zip(*((part[i], part[i + 1]) for part in arrays for i in (0, 2)), strict=True)
    sizes = np.array([len(X) for X in inputs])
    X, y = change(np.concatenate(inputs), np.concatenate(targets))
    first = np.cumsum(sizes)[:-1] * (len(X) // sizes.sum())
    parts = list(zip(np.split(X, first), np.split(y, first), strict=True))
    return Episodes((*support, *query) for support, query in zip(parts[::2], parts[1::2], strict=True))


def _check_rows_are_independent(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, _NormBase | _DropoutNd) and part.training:
            raise ValueError(
                f"`module` has {type(part).__name__} in training mode, so that its output for a row depends on other "
                "rows or on chance; call .eval() on the module first."
            )
