"""The sweep over inner rates of a linearised network, exact: what its tangent kernel predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from innerloop._base.checks import FloatArray, as_count, as_floats
from innerloop._base.progress import progress as progress_bar
from innerloop._blocks.store import Arrays
from innerloop.data.episodes import Episodes
from innerloop.distributions import Design
from innerloop.exact.kernel import KernelObjective
from innerloop.exact.objective import MetaObjective
from innerloop.exact.query_loss import adapted_losses
from innerloop.exact.solve import solve_unwarned
from innerloop.neural.batch import TaskBatch
from innerloop.neural.linear import linearize
from innerloop.neural.sources import TASKS_AT_ONCE, TEST, TRAINING, VALIDATION, Stage, Tasks
from innerloop.neural.sweep import Sweep, summary, sweep_settings
from innerloop.neural.training import Training

if TYPE_CHECKING:
    import xarray as xr

# Episodes to losses (n_penalties, n_rates, n_adapt_rates).
TestLosses = Callable[[Episodes], FloatArray]

_PENALTIES = tuple(float(f"1e{power}") for power in range(-6, 1))


def linearized_sweep(
    make_module: Callable[[], nn.Module],
    tasks: Tasks,
    design: Design,
    inner_lrs: ArrayLike,
    adapt_lrs: ArrayLike,
    *,
    n_seeds: int,
    penalties: ArrayLike = _PENALTIES,
    n_training: int = 100,
    n_validation: int = 100,
    n_test: int = 400,
    training: Training = Training(),  # noqa: B008
    progress: bool = False,
) -> xr.Dataset:
    r"""Solve the meta-training of a linearised module at many inner rates, and test as `sweep` does.

    .. math:: f(x; \theta_0 + d) \approx f(x; \theta_0) + \nabla_\theta f(x; \theta_0)' d

    Each seed starts from the weights, is trained on the first tasks, and is tested on the tasks that it has in `sweep`,
    but :math:`d` is the exact minimiser of the half mean squared error plus a ridge penalty: the prediction of the
    tangent kernel at the start, made without any training. It is close where a network is wide and its features hardly
    change. One penalty, for all rates and seeds, is chosen together with the adaptation rates on validation tasks; it
    stands for the length of a training.

    Parameters
    ----------
    make_module, tasks, design, inner_lrs, adapt_lrs, n_seeds, n_validation, n_test, progress
        As in `sweep`.
    penalties
        Penalties to choose from, in parts of the mean squared length of a query row's features.
    n_training
        Training tasks of each seed.
    training
        Its seed, and its loss for the module's check; that must be a mean squared error, whatever its factor.

    Returns
    -------
    xarray.Dataset
        As from `sweep`, without a metric; the attribute ``penalty`` holds the one that was chosen.

    Raises
    ------
    ValueError
        If the module has batch normalisation or dropout in training mode.

    Notes
    -----
    docs/theory.md, section "Kernels and networks linearised at their start".

    Examples
    --------
    >>> import innerloop as il, torch
    >>> from innerloop.neural import linearized_sweep
    >>> def make_module():
    ...     return torch.nn.Sequential(torch.nn.Linear(1, 30), torch.nn.ReLU(), torch.nn.Linear(30, 1))
    ...
    >>> design = il.Design(n_tasks=4, n_support=5, n_query=5)
    >>> sizes = {"n_seeds": 2, "n_training": 20, "n_validation": 10, "n_test": 10}
    >>> result = linearized_sweep(make_module, il.Sinusoid(), design, [-0.01, 0.01], [0.0, 0.01], **sizes)
    >>> result.difference.dims, result.difference.shape
    (('inner_lr',), (3,))
    """
    settings = sweep_settings(
        make_module,
        tasks,
        design,
        inner_lrs,
        adapt_lrs,
        n_iterations=-(-as_count(n_training, "n_training") // int(design.n_tasks)),
        n_validation=n_validation,
        n_test=n_test,
        metric=None,
        training=training,
    )
    n_seeds, choices = as_count(n_seeds, "n_seeds"), np.atleast_1d(as_floats(penalties, "penalties"))
    if not (choices.size and np.isfinite(choices).all() and (choices > 0).all()):
        raise ValueError(f"`penalties` must hold positive numbers, got {penalties!r}.")
    with progress_bar("Solving the linearised network", n_seeds, progress) as tick:
        scores = []
        for seed in range(n_seeds):
            scores.append(_LinearizedSeed(settings, seed, n_training).scores(choices))
            tick()
    by_penalty = {stage: np.stack([score[stage] for score in scores], axis=1) for stage in scores[0]}
    best = int(by_penalty["validation"].mean(axis=1).min(axis=-1).mean(axis=-1).argmin())
    result = summary(settings, {stage: losses[best] for stage, losses in by_penalty.items()})
    return result.assign_attrs(penalty=float(choices[best]))


@final
class _LinearizedSeed:
    """One seed of a sweep, its module linearised at its start."""

    def __init__(self, settings: Sweep, seed: int, n_training: int) -> None:
        self._settings, self._seed = settings, seed
        self._linear = linearize(settings.start(seed))
        size = int(settings.sampler.design.n_tasks)
        batches = (settings.sampler.draw(TRAINING, size, number, seed) for number in range(settings.n_iterations))
        self._training = self._episodes(batches, n_training)

    def scores(self, penalties: FloatArray) -> Arrays:
        """Return mean losses: ``validation`` and ``test``, each (n_penalties, n_rates, n_adapt_rates)."""
        settings = self._settings
        tested = {"validation": (VALIDATION, settings.n_validation), "test": (TEST, settings.n_test)}
        test = self._solved_by_rows if self._linear.n_features > self._training.n_query.sum() else self._solved
        losses = test(settings.inner_lrs, (penalties * self._mean_square())[:, None])
        return {name: losses(self._drawn(*stage)) for name, stage in tested.items()}

    def _solved(self, rates: FloatArray, l2: FloatArray) -> TestLosses:
        """Solve for the parameters."""
        design, adapt_lrs = self._settings.sampler.design, self._settings.adapt_lrs
        objective = MetaObjective.from_episodes(self._training, int(design.n_steps))
        coef = solve_unwarned(objective, rates, l2=l2).coef
        flat = coef.reshape(-1, coef.shape[-1])

        def losses(episodes: Episodes) -> FloatArray:
            return adapted_losses(episodes, flat, adapt_lrs, int(design.adapt_steps)).reshape(*coef.shape[:-1], -1)

        return losses

    def _solved_by_rows(self, rates: FloatArray, l2: FloatArray) -> TestLosses:
        """Solve in the dual form, the cheaper one where rows are fewer than parameters."""
        design, adapt_lrs = self._settings.sampler.design, self._settings.adapt_lrs
        objective = KernelObjective.from_episodes(self._training, _products, int(design.n_steps))
        path = solve_unwarned(objective, rates, l2=l2)
        return lambda episodes: path.test_loss(episodes, adapt_lrs, int(design.adapt_steps))

    def _mean_square(self) -> float:
        """Return the mean squared length of a query row's features: the trace of the loss's Hessian at rate 0."""
        squares = [float(np.square(X_query).sum()) for _, _, X_query, _ in self._training]
        return sum(squares) / float(self._training.n_query.sum())

    def _drawn(self, stage: Stage, n_tasks: int) -> Episodes:
        """Return the tasks of a stage that `sweep` scores."""
        firsts = range(0, n_tasks, TASKS_AT_ONCE)
        draw = self._settings.sampler.draw
        sizes = (min(TASKS_AT_ONCE, n_tasks - first) for first in firsts)
        return self._episodes((draw(stage, size, number, self._seed) for number, size in enumerate(sizes)), n_tasks)

    def _episodes(self, batches: Iterator[TaskBatch], n_tasks: int) -> Episodes:
        """Return the first tasks of batches as features; no derivative is taken of others."""
        tasks: list[Any] = []
        for batch in batches:
            tasks += self._linear.episodes(batch[: n_tasks - len(tasks)])
        return Episodes(tasks)


def _products(X: FloatArray, Z: FloatArray) -> FloatArray:
    return X @ Z.T
