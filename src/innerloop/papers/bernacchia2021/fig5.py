"""Figure 5: two-layer ReLU networks on quadratic tasks, y = (w'x + b)^2 + z, and their kernel prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.progress import progress as progress_bar
from innerloop._base.seeds import stream
from innerloop._base.standard_errors import standard_errors
from innerloop._base.threads import one_thread
from innerloop._blocks.pool import gather
from innerloop._blocks.store import BlockStore, MemoryStore, Store
from innerloop.data.episodes import Episodes
from innerloop.distributions import Design, MixedLinearRegression, QuadraticRegression
from innerloop.exact.kernel import KernelObjective, ReluKernel
from innerloop.exact.solve import solve_path
from innerloop.plots.style import BLUE, GREEN, GREY, ORANGE
from innerloop.theory import expected_loss, turning_noise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from innerloop.papers.bernacchia2021.network import Tasks

Arrays = dict[str, Any]

WIDTH, BIAS_STD = 512, 0.5
RATES = np.array([-1.0, -0.6, -0.4, -0.2, -0.1, 0.0, 0.1, 0.2, 0.4, 0.6])
FINE = np.linspace(-1.0, 0.6, 33).round(10)
N_TEST_TASKS, N_TEST_ROWS = 50, 20
N_UNLABELLED = 200
CAPTION = (
    "Figure 5 of Bernacchia (2021): y = (w'x + b)^2 + z, two-layer ReLU networks meta-trained to nearly zero loss. The "
    "paper's sizes are not known; these are ours. All rates of a seed share tasks, initial weights, test tasks and "
    "adapt_lr, the best for inner_lr = 0. The paper's 10 unpaired runs a point: loss .0779(10), .0780(17), .0766(6), "
    ".0792(8), .0788(12), .0793(8) at inner_lr = -.0175, -.0125, -.0075, -.0025, .0025, .0075."
)
# At scale 1: 200 seeds of networks, 2000 of kernels.
_N_BLOCKS, _N_KERNEL_BLOCKS, _SEEDS_PER_BLOCK, _KERNEL_SEEDS_PER_BLOCK = 50, 100, 4, 20
# Outer steps, and their size as a part of the inverse of the kernel's largest curvature.
_MOST_STEPS, _STEP = 400, 0.8
_TEST_TASKS_AT_ONCE = 10
_FEWEST_BLOCKS = 2
_TRAINED: tuple[Literal["all", "last"], ...] = ("all", "last")
_VERSION = 1
# Streams of a seed.
_TRAINING, _TEST, _WEIGHTS, _UNLABELLED = range(4)


@final
@dataclass(frozen=True)
class Setting:
    """Tasks and sizes of a panel; `adapt_lr` is best for inner_lr = 0 by the kernel, to a tenth."""

    dist: QuadraticRegression
    design: Design
    adapt_lr: float


SETTINGS = {
    "a": Setting(QuadraticRegression(10, 0.2, 0.2, 0.2), Design(5, 10, 5, 10), 0.6),
    "b": Setting(QuadraticRegression(20, 1.0, 0.5, 0.1), Design(3, 30, 2, 20), 0.8),
    "c": Setting(QuadraticRegression(10, 0.2, 0.5, 0.5), Design(5, 10, 5, 10), 0.9),
}


def compute(
    scale: float = 1.0, store: Path | None = None, n_jobs: int = 1, progress: bool = False
) -> dict[str, Arrays]:
    """Return the test losses of networks and of their kernels.

    Parameters
    ----------
    scale
        Part of the seeds; 1 is 200 of networks and 2000 of kernels.
    store
        Folder for finished seeds.
    n_jobs, progress
        As in `estimate_loss`.

    Returns
    -------
    dict
        For each setting "loss" (n_seeds, n_rates), test losses of the networks at `RATES`; "relative_loss", of the same
        shape, their meta-training losses at the end as fractions of those at the start; and "kernel" (n_kernel_seeds,
        n_fine), predictions at `FINE`. Seed i has the same tasks and the same initial weights everywhere.
    """
    parts = (("kernel", _kernel_block, _N_KERNEL_BLOCKS), ("network", _network_block, _N_BLOCKS))
    arrays: dict[str, Arrays] = {letter: {} for letter in SETTINGS}
    for name, compute_block, n_at_scale_1 in parts:
        n_blocks = max(_FEWEST_BLOCKS, round(scale * n_at_scale_1))
        for letter, setting in SETTINGS.items():
            plan = {"fig5": _VERSION, "setting": repr(setting), "width": WIDTH, "bias_std": BIAS_STD, "part": name}
            plan["inner_lr"] = (FINE if name == "kernel" else RATES).tolist()
            blocks: Store = MemoryStore(1) if store is None else BlockStore(store / f"{letter}-{name}", plan, 1)
            with progress_bar(f"{letter}, {name}", n_blocks, progress) as tick:
                results = gather(partial(compute_block, setting), range(n_blocks), blocks, n_jobs, tick=tick)
            arrays[letter] |= {key: np.concatenate([block[key] for block in results]) for key in results[0]}
    return arrays


def expected_gain(setting: Setting, rates: FloatArray, n_inputs: int = N_UNLABELLED) -> FloatArray:
    """Return the expected loss of infinite width minus that of inner_lr = 0, without simulation (docs/theory.md, 28).

    Parameters
    ----------
    setting
        Tasks and sizes.
    rates : (n_rates,)
        Inner rates.
    n_inputs
        Unlabelled inputs on which the kernels are diagonalised.
    """
    losses = np.asarray(
        expected_loss(linear_model(setting, n_inputs), setting.design, np.append(rates, 0.0), setting.adapt_lr)
    )
    return np.asarray(losses[:-1] - losses[-1])


def turning(setting: Setting, n_inputs: int = N_UNLABELLED) -> float:
    """Return the label noise at which the slope of the expected loss at inner_lr = 0 turns (docs/theory.md, 17.4).

    Parameters
    ----------
    setting
        Tasks and sizes; its noise is not used.
    n_inputs
        As in `expected_gain`.

    Returns
    -------
    float
        A standard deviation. With less noise a slightly positive rate is better than none, with more a slightly
        negative one; zero where it is negative at any noise.
    """
    return turning_noise(linear_model(setting, n_inputs), setting.design, setting.adapt_lr)


def linear_model(setting: Setting, n_inputs: int = N_UNLABELLED, started: bool = True) -> MixedLinearRegression:
    """Return the linear model of infinite width on unlabelled inputs; unless started, of networks that start at 0."""
    dist = setting.dist
    inputs = stream(0, _UNLABELLED).standard_normal((n_inputs, dist.n_inputs))
    tangent, output = (ReluKernel(BIAS_STD, trained)(inputs, inputs) for trained in _TRAINED)
    return MixedLinearRegression.from_kernel(tangent, *dist.moments(inputs), started * output, dist.noise_std)


def draw(
    arrays: Mapping[str, Arrays],
    ax: Mapping[str, Axes],
    expected: Mapping[str, FloatArray] | None = None,
    turns: Mapping[str, float] | None = None,
) -> None:
    """Draw a panel for each setting.

    Parameters
    ----------
    arrays
        From `compute`.
    ax
        Axes by the letter of the setting.
    expected
        From `expected_gain` at `RATES`, by letter.
    turns
        From `turning`, by letter.
    """
    for letter, setting in SETTINGS.items():
        axis, losses, kernel = ax[letter], arrays[letter]["loss"], arrays[letter]["kernel"]
        gain, error = _against_zero(losses, RATES)
        predicted, band = _against_zero(kernel, FINE)
        axis.fill_between(FINE, predicted - band, predicted + band, color=ORANGE, alpha=0.25, lw=0)
        axis.plot(FINE, predicted, color=ORANGE, lw=1.6, label=f"infinite width, {len(kernel)} seeds, ± 1 s.e.")
        label = f"width {WIDTH}, {len(losses)} seeds, ± 1 s.e."
        axis.errorbar(RATES, gain, error, fmt="o", ms=4, color=BLUE, capsize=2, lw=1, zorder=3, label=label)
        if expected is not None:
            axis.plot(RATES, expected[letter], color=GREEN, ls="--", lw=1.2, label="theory, no simulation")
        axis.axhline(0, color=GREY, lw=0.6)
        axis.axvline(0, color=GREY, lw=0.6)
        axis.set_xlabel("inner_lr (meta-training)")
        title = _title(setting, float(losses[:, RATES == 0].mean()))
        if turns is not None:
            title += f"\ntheory: {turn_text(turns[letter])}"
        axis.set_title(title, fontsize=9)
        axis.set_title(letter, loc="left", fontweight="bold")
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=1, frameon=False)
    ax["a"].set_ylabel("test loss minus that of inner_lr = 0 (half MSE)")


def _title(setting: Setting, loss: float) -> str:
    dist, design = setting.dist, setting.design
    return (
        f"noise {dist.noise_std:g}, spread of w {dist.task_std:g}, of b {dist.bias_std:g}\n{dist.n_inputs} inputs, "
        f"{design.n_tasks} tasks of {design.n_support} + {design.n_query} rows\nloss at inner_lr = 0: {loss:.3g}"
    )


def turn_text(noise: float) -> str:
    """Return in words at which label noise the sign turns."""
    return f"sign turns at noise {noise:.2f}" if noise > 0 else "negative near 0 at any noise"


class Answer(NamedTuple):
    """One rate against none: paired differences of test loss, with standard errors over seeds."""

    letter: str
    inner_lr: float
    kernel: float
    kernel_stderr: float
    network: float
    network_stderr: float


def answers(arrays: Mapping[str, Arrays]) -> list[Answer]:
    """Return for each setting the best negative and the best positive rate against none.

    Rates are chosen on the kernel prediction for seeds that the networks do not have, so that choosing favours nothing.
    """
    best = []
    at = np.searchsorted(FINE, RATES)
    for letter, results in arrays.items():
        losses, predictions = results["loss"], results["kernel"]
        others = predictions[len(losses) :].mean(axis=0)[at]
        network, kernel = _against_zero(losses, RATES), _against_zero(predictions, FINE)
        for side in (RATES < 0, RATES > 0):
            i = np.flatnonzero(side)[others[side].argmin()]
            numbers = (kernel[0][at[i]], kernel[1][at[i]], network[0][i], network[1][i])
            best.append(Answer(letter, float(RATES[i]), *map(float, numbers)))
    return best


def _against_zero(losses: FloatArray, rates: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mean over seeds of the difference to rate 0, and its standard error."""
    gain = losses - losses[:, rates == 0]
    return gain.mean(axis=0), standard_errors(gain)


def _kernel_block(setting: Setting, block: int) -> dict[str, FloatArray]:
    with one_thread():
        runs = prepare(setting, _seeds(block, _KERNEL_SEEDS_PER_BLOCK))
        return {"kernel": solve_path(runs.objective, FINE).test_loss(runs.test, setting.adapt_lr).T}


def _network_block(setting: Setting, block: int) -> dict[str, FloatArray]:
    import torch

    from innerloop.papers.bernacchia2021.network import Tasks, losses

    runs = prepare(setting, _seeds(block, _SEEDS_PER_BLOCK))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        params, relative_loss = train_networks(runs, RATES)
        adapt_lrs = torch.full_like(relative_loss, setting.adapt_lr)
        tasks = (torch.split(part, _TEST_TASKS_AT_ONCE, dim=1) for part in as_tensors(runs.test, len(RATES)))
        parts = [losses(params, Tasks(*part), adapt_lrs, BIAS_STD) for part in zip(*tasks, strict=True)]
    finally:
        torch.set_num_threads(threads)
    results = {"loss": torch.stack(parts).mean(dim=0), "relative_loss": relative_loss}
    return {name: value.view(-1, len(RATES)).double().numpy() for name, value in results.items()}


def _seeds(block: int, size: int) -> range:
    return range(block * size, (block + 1) * size)


class Runs(NamedTuple):
    """What seeds share at all rates: tasks, initial weights (W, v, c), and the objective of the kernel."""

    training: list[Episodes]
    test: list[Episodes]
    weights: list[FloatArray]
    objective: KernelObjective


def prepare(setting: Setting, seeds: range, width: int = WIDTH) -> Runs:
    """Draw tasks and weights: W (n_seeds, d + 1, n), v (n_seeds, n, 1), c (n_seeds, 1, 1)."""
    training, test = ([_episodes(setting, seed, stage) for seed in seeds] for stage in (_TRAINING, _TEST))
    generators = [stream(seed, _WEIGHTS) for seed in seeds]
    shapes = (setting.dist.n_inputs + 1, width), (width, 1), (1, 1)
    weights = [np.stack([rng.standard_normal(shape) for rng in generators]) for shape in shapes]
    hidden, output, bias = weights

    def start(X: FloatArray) -> FloatArray:
        units = np.maximum(_with_bias(X) @ hidden, 0.0)
        values: FloatArray = units @ output * np.sqrt(2 / width) + BIAS_STD * bias
        return values[..., 0]

    return Runs(training, test, weights, KernelObjective.from_episodes(training, ReluKernel(BIAS_STD), start=start))


def train_networks(runs: Runs, rates: FloatArray) -> tuple[list[Tensor], Tensor]:
    """Train a network for each seed and rate, rates fastest; return weights and relative losses."""
    import torch

    from innerloop.papers.bernacchia2021.network import train

    curvature = np.array([_largest_curvature(runs.objective, rate) for rate in rates]).T
    return train(
        [part.repeat(len(rates), axis=0) for part in runs.weights],
        as_tensors(runs.training, len(rates)),
        torch.from_numpy(np.tile(rates, len(runs.training))).float(),
        BIAS_STD,
        torch.from_numpy(_STEP / curvature.ravel()).float(),
        _MOST_STEPS,
    )


def as_tensors(episodes: list[Episodes], n_rates: int) -> Tasks:
    """Stack the tasks of each seed, once for each rate."""
    import torch

    from innerloop.papers.bernacchia2021.network import Tasks

    blocks = [next(run.blocks(max_rows=int(run.n_query.sum()))) for run in episodes]

    def lanes(name: str) -> Tensor:
        part = np.stack([getattr(block, name) for block in blocks]).repeat(n_rates, axis=0)
        return torch.from_numpy(_with_bias(part) if name.startswith("X") else part).float()

    return Tasks(lanes("X_support"), lanes("y_support"), lanes("X_query"), lanes("y_query"))


def _episodes(setting: Setting, seed: int, stage: int) -> Episodes:
    (group,) = setting.design.groups
    n_tasks, n_support, n_query = group.n_tasks, group.n_support, group.n_query
    if stage == _TEST:
        n_tasks, n_support, n_query = N_TEST_TASKS, setting.design.n_adapt, N_TEST_ROWS
    arrays = setting.dist.draw_episodes(n_tasks, n_support, n_query, stream(seed, stage))
    return Episodes(zip(*arrays, strict=True))


def _with_bias(X: FloatArray) -> FloatArray:
    """Return x~ = (x / sqrt d, beta)."""
    return np.concatenate((X / np.sqrt(X.shape[-1]), np.full((*X.shape[:-1], 1), BIAS_STD)), axis=-1)


def _largest_curvature(objective: KernelObjective, rate: float) -> FloatArray:
    """Return the largest eigenvalue of the Hessian of the meta-training loss of each run."""
    G, _, scale = objective.at(rate)
    largest: FloatArray = np.linalg.eigvalsh(G)[..., -1] * scale**2 / G.shape[-1]
    return largest
