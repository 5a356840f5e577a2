"""Monte Carlo estimates of the expected test loss, for many rates on the same draws."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from innerloop._base.checks import FloatArray, as_count, as_floats, as_rate, check_finite
from innerloop._base.progress import no_tick
from innerloop._base.progress import progress as progress_bar
from innerloop._base.standard_errors import standard_errors
from innerloop._base.threads import one_thread
from innerloop._blocks.pool import gather
from innerloop._blocks.store import Arrays, BlockStore, MemoryStore, Store
from innerloop.data.tasks import TaskSet
from innerloop.distributions import Design, MixedLinearRegression, ResampledTasks, TaskDistribution
from innerloop.distributions.resampled import as_distribution
from innerloop.simulation.plan import Plan, Scoring

if TYPE_CHECKING:
    import xarray as xr

# A requested precision is checked after so many runs, then after 1.5 times as many, and so on: at numbers that depend
# neither on the size of blocks nor on the workers.
_FIRST_CHECK, _GROWTH = 32, 1.5
_QUANTILES = (0.05, 0.95)
# With fewer rows more or less than features the variance of tr (B'B)^-1 is infinite.
_LEAST_GAP = 4
_TEST_TASKS, _TEST_ROWS = 100, 50


def estimate_loss(
    dist: TaskDistribution | TaskSet,
    design: Design,
    inner_lr: ArrayLike,
    adapt_lr: ArrayLike,
    n_runs: int = 1000,
    seed: int = 0,
    n_jobs: int = 1,
    store: str | Path | None = None,
    progress: bool = False,
    *,
    init: ArrayLike | None = None,
    baseline: float = 0.0,
    scoring: Literal["auto", "exact", "sampled"] = "auto",
    n_test_tasks: int | None = None,
    n_test_rows: int | None = None,
    rel_error: float | None = None,
    executor: Executor | None = None,
    block_size: int | None = None,
    keep_runs: bool = False,
) -> xr.Dataset:
    r"""Estimate the expected test loss by simulation: HALF the mean squared error on new tasks, label noise included.

    A run draws training tasks, solves meta-training exactly at every inner rate, and scores the result after
    adaptation at every adaptation rate. All rates share the draws of a run, so that differences between rates are
    known far better than losses.

    Parameters
    ----------
    dist
        The tasks: `MixedLinearRegression`, `QuadraticRegression`, `Sinusoid`, any `TaskDistribution`, or a `TaskSet`,
        whose tasks and rows are then drawn without replacement within a run.
    design
        The sizes.
    inner_lr, adapt_lr
        One rate or a list of rates each, any finite numbers; every pair of them is estimated.
    n_runs
        Runs; with `rel_error` the most.
    seed
        Run i draws from stream i of it: results do not depend on workers, blocks or interruptions.
    n_jobs
        Processes, from joblib's pool; -1 takes all cores.
    store
        Folder for finished blocks of runs. An interrupted estimate resumes from there, a larger `n_runs` reuses them,
        and several processes may fill it together.
    progress
        Whether to show a progress bar.
    init : (n_features,)
        Where meta-training starts; None is zero.
    baseline
        The inner rate that others are compared with.
    scoring
        "exact": given the features of a run, task weights, noise and new tasks are averaged exactly; for
        `MixedLinearRegression`. "sampled": everything is drawn, and a run is scored on new tasks. "auto": exact where
        that is known.
    n_test_tasks, n_test_rows
        With "sampled": new tasks of a run, and rows that score each. None: 100 and 50, as in the paper, or what a
        `TaskSet` has beside the training tasks.
    rel_error
        Stop when every standard error is at most this fraction of its loss.
    executor
        Any `concurrent.futures.Executor` to run on instead of `n_jobs` processes: a Dask client's `get_executor()`.
    block_size
        Runs that are computed and stored together. It changes no result.
    keep_runs
        Whether to return the losses of every run too, as ``runs`` over (run, inner_lr, adapt_lr): with sampled scoring
        how often one rate beats another can be counted.

    Returns
    -------
    xarray.Dataset
        Over (inner_lr, adapt_lr): ``loss`` and its ``stderr``; ``difference`` to the loss at the baseline rate, from
        the same draws, and its ``difference_stderr``; with sampled scoring ``median``, ``low`` and ``high`` (5 and
        95 %) of the runs, which near N = p say more than the mean. With exact scoring these are ``expected_median``,
        ``expected_low`` and ``expected_high``, of what is expected given the features: it varies far less than the loss
        of a training set, for which see `loss_interval`. Attributes: n_runs, seed, scoring, baseline, and the plan as
        JSON.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong, or `scoring` does not cover the distribution.
    OSError
        If the disk refuses, or `store` holds something else. Finished blocks are kept.
    RuntimeError
        If workers die again and again.

    Warns
    -----
    UserWarning
        If `rel_error` is not reached within `n_runs`, or a worker of `executor` died.

    Notes
    -----
    docs/theory.md, section "Monte Carlo". The paper's protocol is ``scoring="sampled"``.

    Examples
    --------
    >>> import innerloop as il
    >>> dist, design = il.MixedLinearRegression(10), il.Design(n_tasks=5, n_support=5, n_query=5)
    >>> result = il.estimate_loss(dist, design, inner_lr=[-0.1, 0.0], adapt_lr=0.2, n_runs=20)
    >>> dict(result.sizes)
    {'inner_lr': 2, 'adapt_lr': 1}
    >>> result.difference.sel(inner_lr=0.0).item()  # to inner_lr = 0, on the same draws
    0.0
    """
    plan = _plan(dist, design, (inner_lr, adapt_lr), seed, init, baseline, scoring, (n_test_tasks, n_test_rows))
    most, jobs = as_count(n_runs, "n_runs", 2), _check_jobs(n_jobs)
    if rel_error is not None and not 0 < as_rate(rel_error, "rel_error") < np.inf:
        raise ValueError(f"`rel_error` must be positive, got {rel_error}.")
    _check_executor(executor)
    size = (
        plan.block_size(most if rel_error is None else _FIRST_CHECK)
        if block_size is None
        else as_count(block_size, "block_size")
    )
    blocks: Store = MemoryStore(size) if store is None else BlockStore(store, plan.as_json(), size)
    compute = partial(compute_block, plan, blocks.block_size)
    with _ticking(most, blocks.block_size, progress) as tick:
        losses, n_done = np.empty((0, len(plan.inner_lrs), len(plan.adapt_lrs))), 0
        for target in _checkpoints(most, rel_error is not None):
            wanted = range(n_done, -(-target // blocks.block_size))
            computed = gather(compute, wanted, blocks, jobs, executor, tick)
            n_done = max(wanted.stop, n_done)
            losses = np.concatenate([losses, *(arrays["losses"] for arrays in computed)])
            if rel_error is not None and _precise(losses[:target], rel_error):
                break
    if rel_error is not None and not _precise(losses[:target], rel_error):
        warnings.warn(
            f"`rel_error` {rel_error:g} is not reached after {target} runs (worst: "
            f"{_relative_errors(losses[:target]).max():.2g}); allow more with `n_runs`.",
            stacklevel=2,
        )
    n_rates = np.size(inner_lr)
    _warn_of_heavy_tails(dist, design)
    estimate = _dataset(losses[:target], plan, n_rates, float(baseline))
    if keep_runs:
        estimate["runs"] = (("run", "inner_lr", "adapt_lr"), losses[:target, :, :][:, :n_rates])
    return estimate


def _warn_of_heavy_tails(dist: TaskDistribution | TaskSet, design: Design) -> None:
    """Say where the variance of a run's loss is infinite (docs/theory.md, 18)."""
    if not isinstance(dist, MixedLinearRegression) or design.l2 > 0:
        return
    gap = abs(design.n_query_rows - dist.n_features)
    if gap < _LEAST_GAP:
        warnings.warn(
            f"{design.n_query_rows} query rows and {dist.n_features} features without a penalty: the loss of a run has "
            f"{'no mean' if gap < 2 else 'an infinite variance'}: standard errors are too small; compare medians.",
            stacklevel=3,
        )


def compute_block(plan: Plan, block_size: int, block: int) -> Arrays:
    """Return the losses of one block of runs: (block_size, n_inner, n_adapt)."""
    with one_thread():
        return {"losses": plan.runs().losses(plan.seed, range(block * block_size, (block + 1) * block_size))}


def _plan(
    dist: TaskDistribution | TaskSet,
    design: Design,
    rates: tuple[ArrayLike, ArrayLike],
    seed: int,
    init: ArrayLike | None,
    baseline: float,
    scoring: str,
    test_sizes: tuple[int | None, int | None],
) -> Plan:
    """Return the checked plan; the baseline rate is the last of its inner rates unless it is among them."""
    tasks = as_distribution(dist, "dist")
    if not isinstance(design, Design):
        raise TypeError(f"`design` must be innerloop.Design, got {type(design).__name__}.")
    inner, adapt = (_rates(rate, name, design) for rate, name in zip(rates, ("inner_lr", "adapt_lr"), strict=True))
    compared = as_rate(baseline, "baseline")
    design.rule.check_rates(np.array(compared), "baseline")
    if compared not in inner:
        inner = np.append(inner, compared)
    start = np.zeros(tasks.n_features) if init is None else as_floats(init, "init")
    check_finite(start, "init")
    if start.shape != (tasks.n_features,):
        raise ValueError(f"`init` must have shape ({tasks.n_features},), one per feature, got {start.shape}.")
    chosen = _scoring(tasks, design, scoring)
    sizes = _test_sizes(tasks, design, *test_sizes)
    return Plan(tasks, design, inner, adapt, start, as_count(seed, "seed", 0), chosen, *sizes)


def _test_sizes(
    dist: TaskDistribution, design: Design, n_test_tasks: int | None, n_test_rows: int | None
) -> tuple[int, int]:
    """Return the number of test tasks and their rows.

    Of a table: the most rows that at least half of the tasks beside the training tasks have.
    """
    given_tasks = None if n_test_tasks is None else as_count(n_test_tasks, "n_test_tasks")
    given_rows = None if n_test_rows is None else as_count(n_test_rows, "n_test_rows")
    if not isinstance(dist, ResampledTasks):
        return given_tasks or _TEST_TASKS, given_rows or _TEST_ROWS
    training = [group.n_support + group.n_query for group in design.groups for _ in range(group.n_tasks)]

    def n_available(rows: int) -> int:
        return dist.n_available(design.n_adapt + rows, training)

    wanted = given_tasks or min(_TEST_TASKS, -(-n_available(1) // 2))
    rows = given_rows or next((rows for rows in range(_TEST_ROWS, 1, -1) if n_available(rows) >= wanted), 1)
    return given_tasks or max(1, min(_TEST_TASKS, n_available(rows))), rows


def _rates(value: ArrayLike, name: str, design: Design) -> FloatArray:
    rates = np.atleast_1d(as_floats(value, name))
    if rates.ndim > 1 or rates.size == 0:
        raise ValueError(f"`{name}` must be one rate or a list of rates, got shape {np.shape(value)}.")
    if not np.isfinite(rates).all():
        raise ValueError(f"`{name}` must be finite (zero and negative are fine), got {rates[~np.isfinite(rates)][0]}.")
    design.rule.check_rates(rates, name)
    return rates


def _scoring(dist: TaskDistribution, design: Design, scoring: str) -> Scoring:
    linear = isinstance(dist, MixedLinearRegression)
    if scoring not in ("auto", "exact", "sampled"):
        raise ValueError(f"`scoring` must be 'auto', 'exact' or 'sampled', got {scoring!r}.")
    if scoring == "exact" and not linear:
        raise ValueError(f"`scoring` must be 'sampled' for {type(dist).__name__}: no expectation is known exactly.")
    chosen: Scoring = "exact" if scoring != "sampled" and linear else "sampled"
    if chosen == "sampled" and None in (design.rule.degree, design.adapt_rule.degree):
        raise ValueError("`inner_rule` must be 'gradient' with sampled scoring, and `n_steps` finite; use 'exact'.")
    return chosen


def _check_jobs(n_jobs: int) -> int:
    if as_count(n_jobs, "n_jobs", -1) == 0:
        raise ValueError("`n_jobs` must be a number of processes, or -1 for all cores, got 0.")
    return int(n_jobs)


def _check_executor(executor: object) -> None:
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(
            f"`executor` must be a concurrent.futures.Executor, got {type(executor).__name__}; `n_jobs` is the number "
            "of processes."
        )


@contextmanager
def _ticking(n_runs: int, block_size: int, visible: bool) -> Iterator[Callable[[], None]]:
    if not visible:
        yield no_tick
        return
    with progress_bar("Simulating", -(-n_runs // block_size)) as tick:
        yield tick


def _checkpoints(n_runs: int, adaptive: bool) -> Iterator[int]:
    """Yield the numbers of runs after which to stop or to check the precision."""
    n = float(_FIRST_CHECK)
    while adaptive and n < n_runs:
        yield int(n)
        n *= _GROWTH
    yield n_runs


def _relative_errors(losses: FloatArray) -> FloatArray:
    mean, error = losses.mean(axis=0), standard_errors(losses)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: FloatArray = np.where(error > 0, error / np.abs(mean), 0.0)
    return ratio


def _precise(losses: FloatArray, rel_error: float) -> bool:
    return bool((_relative_errors(losses) <= rel_error).all())


def _dataset(losses: FloatArray, plan: Plan, n_rates: int, baseline: float) -> xr.Dataset:
    """Return means, standard errors, paired differences and quantiles over runs."""
    import xarray as xr

    compared = int(np.flatnonzero(plan.inner_lrs == baseline)[0])
    differences = (losses - losses[:, compared : compared + 1])[:, :n_rates]
    losses = losses[:, :n_rates]
    prefix = "expected_" if plan.scoring == "exact" else ""
    low, median, high = np.quantile(losses, (_QUANTILES[0], 0.5, _QUANTILES[1]), axis=0)
    values = {
        "loss": losses.mean(axis=0),
        "stderr": standard_errors(losses),
        "difference": differences.mean(axis=0),
        "difference_stderr": standard_errors(differences),
        f"{prefix}median": median,
        f"{prefix}low": low,
        f"{prefix}high": high,
    }
    dims = ("inner_lr", "adapt_lr")
    attributes: dict[str, Any] = {
        "n_runs": len(losses),
        "seed": plan.seed,
        "scoring": plan.scoring,
        "baseline": baseline,
        "units": "half mean squared error",
        "plan": json.dumps(plan.as_json()) if _can_be_described(plan) else "",
    }
    coordinates = {"inner_lr": plan.inner_lrs[:n_rates], "adapt_lr": plan.adapt_lrs}
    return xr.Dataset({name: (dims, value) for name, value in values.items()}, coordinates, attributes)


def _can_be_described(plan: Plan) -> bool:
    try:
        plan.as_json()
    except TypeError:
        return False
    return True
