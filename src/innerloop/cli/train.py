"""`innerloop train`: meta-train a network on few-shot tasks, at one inner rate or at many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from innerloop._base.checks import as_count, as_rate
from innerloop._base.files import write_whole
from innerloop.cli._fewshot import SETTINGS, FewShotOptions
from innerloop.cli._output import console, need_matplotlib, print_table
from innerloop.plots.style import save_figure
from innerloop.plots.sweep import FEWEST_SEEDS

if TYPE_CHECKING:
    import xarray as xr

    from innerloop.neural.fewshot.problems import FewShot
    from innerloop.neural.scores import Scores
    from innerloop.neural.trainer import MetaTrainer

RateList = Annotated[list[float] | None, Parameter(consume_multiple=True, negative="")]
_RESULT = "result.json"


def train(
    *,
    options: FewShotOptions = FewShotOptions(),  # noqa: B008
    adapt_lr: float | Literal["auto"] = "auto",
    iterations: int | None = None,
    n_test: int = 600,
    baselines: bool = True,
    sweep: RateList = None,
    seeds: int = 3,
    kernel: Annotated[bool, Parameter(negative="")] = False,
    out: Path | None = None,
    checkpoint_every: int = 500,
    tensorboard: Path | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Meta-train a network on few-shot tasks, at one inner rate of any sign or at many.

    omniglot tells handwritten characters apart, images those of your folder; table predicts a column of your file for
    groups of rows; sinusoid continues sine waves. Test tasks are of alphabets, classes, groups or draws that training
    never sees.

    Parameters
    ----------
    options
        The tasks, the network and its training.
    adapt_lr
        Rate with which test tasks adapt; the best on validation tasks unless given.
    iterations
        Steps of the outer loop; 1000 for images, 2000 for a table and 10000 for sinusoid unless given.
    n_test
        Test tasks; in a sweep so many for each seed.
    baselines
        With images, score nearest neighbours and class means beside, and train a prototypical network as long.
    sweep
        Train at all these inner rates with the same tasks and weights, and compare each with inner_lr = 0.
    seeds
        Repetitions of a sweep; standard errors take at least three.
    kernel
        In a sweep over numbers, also solve the network linearised at its start: what its tangent kernel predicts.
    out
        Folder for checkpoints, results and the network: an interrupted training resumes from there. `innerloop predict`
        takes it, and `innerloop.neural.load_module`.
    checkpoint_every
        Iterations between checkpoints.
    tensorboard
        Folder for TensorBoard.
    json_
        Print the results as JSON instead.
    """
    as_count(n_test, "--n-test", 2)
    as_count(seeds, "--seeds")
    as_count(checkpoint_every, "--checkpoint-every")
    length = as_count(options.kind.defaults["iterations"] if iterations is None else iterations, "--iterations")
    problem = options.problem()
    with _one_sentence():
        trainer = problem.trainer(options.rate)
    if sweep is not None:
        _check_sweep(options, problem, sweep, adapt_lr, tensorboard)
        result = _sweep(options, problem, sweep, seeds, length, n_test, kernel, out)
        if json_:
            print(json.dumps(_as_json(result), indent=1))
        else:
            _show_sweep(result, options, problem, out)
        return
    if kernel:
        raise ValueError("`--kernel` predicts a sweep; give `--sweep` and its inner rates too.")
    rate = adapt_lr if adapt_lr == "auto" else as_rate(adapt_lr, "--adapt-lr")
    if out is not None:
        _open(out, options.settings(problem))
    trainer.callbacks = _callbacks(tensorboard)
    _train(trainer, length, checkpoint_every, out, "checkpoint")
    scores: dict[str, Any] = {"settings": options.settings(problem), "iterations": trainer.iteration, "n_test": n_test}
    scores |= _scores(problem, trainer, rate, n_test)
    if out is not None:
        from innerloop.neural.storage import NETWORK, save_network

        save_network(problem.network(trainer, scores["adapt_lr"]), out / NETWORK)
    if baselines and problem.n_classes is not None:
        from innerloop.neural.prototypes import Prototypes

        prototypes = problem.comparison(Prototypes(problem.n_classes))
        _train(prototypes, length, checkpoint_every, out, "prototypes")
        scores[problem.metric.key] |= _baselines(problem, trainer, prototypes, problem.n_classes, n_test)
    if out is not None:
        write_whole(out / _RESULT, json.dumps(scores, indent=1).encode())
    if json_:
        print(json.dumps(scores, indent=1))
    else:
        _show(scores, options, problem)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Make what torch says of a device or a compiler that is not there an error of the input."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`--device` or `--compile` cannot be had here: {str(error).splitlines()[0]}") from error


def _callbacks(folder: Path | None) -> list[Any]:
    if folder is None:
        return []
    from innerloop.neural.callbacks import TensorBoardCallback

    try:
        return [TensorBoardCallback(folder)]
    except ImportError:
        raise ValueError("`--tensorboard` needs tensorboard: pip install 'innerloop[neural]'.") from None


def _check_sweep(
    options: FewShotOptions, problem: FewShot, rates: list[float], adapt_lr: object, tensorboard: Path | None
) -> None:
    if not rates:
        raise ValueError("`--sweep` needs at least one inner rate.")
    for rate in rates:
        as_rate(rate, "--sweep")
    if problem.learns_rates:
        raise ValueError(
            f"`--sweep` compares fixed rates, and {options.algorithm} learns them; take another `--algorithm`."
        )
    for name, given in (
        ("--adapt-lr", adapt_lr != "auto"),
        ("--inner-lr", options.inner_lr is not None),
        ("--tensorboard", tensorboard is not None),
    ):
        if given:
            raise ValueError(f"`{name}` cannot be given with `--sweep`, which has many trainings; leave it out.")


def _sweep(
    options: FewShotOptions,
    problem: FewShot,
    rates: list[float],
    seeds: int,
    length: int,
    n_test: int,
    kernel: bool,
    out: Path | None,
) -> xr.Dataset:
    """Train at many rates, after the kernel's prediction where it is asked for; save and draw the scores."""
    if kernel:
        _check_kernel(options, problem)
    if out is not None:
        need_matplotlib("--sweep with --out")
        _open(out, {**options.settings(problem), "sweep": rates, "iterations": length, "n_test": n_test})
    predicted = problem.kernel_sweep(rates, seeds, n_test) if kernel else None
    result = problem.sweep(rates, seeds, length, n_test, None if out is None else out / "seeds")
    if predicted is not None:
        result = result.merge(predicted)
    _save_sweep(result, problem, out)
    return result


def _check_kernel(options: FewShotOptions, problem: FewShot) -> None:
    if problem.n_classes is not None:
        raise ValueError("`--kernel` takes squared errors, and classes have none; take `--task sinusoid` or a table.")
    if options.algorithm != "maml":
        raise ValueError(f"`--kernel` predicts maml, got `--algorithm {options.algorithm}`; leave one of them out.")


def _open(out: Path, settings: dict[str, Any]) -> None:
    """Make the folder of a training, or check that the one there is of the same training."""
    path, wanted = out / SETTINGS, json.loads(json.dumps(settings))
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; results go to a folder, so name another place.")
    if path.exists():
        try:
            there = dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError):
            raise ValueError(f"{path} is damaged; name another folder, or delete this one.") from None
        for name in {**wanted, **there}:
            if there.get(name) != wanted.get(name):
                raise ValueError(
                    f"{out} holds another training ({name} {there.get(name)} there, {wanted.get(name)} asked for); "
                    "name another folder, or delete this one."
                )
    elif out.is_dir() and any(not file.name.endswith(".tmp") for file in out.iterdir()):
        raise FileExistsError(f"{out} holds files that are no training; name a new or empty folder.")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(wanted, indent=1).encode())


def _train(trainer: MetaTrainer, n_iterations: int, every: int, out: Path | None, name: str) -> None:
    """Train, from the last checkpoint on if there is one."""
    import torch

    folder = None if out is None else out / name
    # What layers draw, as dropout does, follows from the seed too. A checkpoint brings the generator's state.
    torch.manual_seed(trainer.training.seed)
    if folder is not None and (folder / "manifest.json").exists():
        trainer.load(folder)
    if trainer.iteration > n_iterations:
        raise ValueError(
            f"`--iterations` must be at least {trainer.iteration}, which {folder} has done already, got {n_iterations}."
        )
    try:
        trainer.train(n_iterations, checkpoint=folder, checkpoint_every=every, progress=True)
    except FloatingPointError as error:
        raise ValueError(str(error)) from error


def _scores(problem: FewShot, trainer: MetaTrainer, adapt_lr: float | Literal["auto"], n_test: int) -> dict[str, Any]:
    """Return the adaptation rate, and test scores by what they are scores of."""
    rate = None  # as learned
    if isinstance(adapt_lr, float):
        rate = adapt_lr
    elif not trainer.learn_inner_lr:
        rate = problem.best_adapt_lr(trainer)
    scores = {}
    for n_steps in problem.scored_steps:
        row = f"after {n_steps} step{'' if n_steps == 1 else 's'}"
        scores[row] = _summary(trainer.evaluate(n_test, adapt_lr=rate, n_steps=n_steps, metric=problem.metric.score))
    return {"adapt_lr": rate, problem.metric.key: scores}


def _baselines(
    problem: FewShot, trainer: MetaTrainer, prototypes: MetaTrainer, n_classes: int, n_test: int
) -> dict[str, Any]:
    """Return the accuracies of classifiers without steps, on the same test tasks."""
    from torch.nn import Flatten

    from innerloop.neural.prototypes import NearestNeighbour, Prototypes

    means, nearest = Prototypes(n_classes), NearestNeighbour(n_classes)
    body = trainer.update_module().get_submodule("body")
    return {
        "prototypical network, same body": _summary(prototypes.evaluate(n_test, metric=problem.metric.score)),
        "class means of the trained body": _summary(problem.scores_without_steps(means, body, n_test)),
        "class means of pixels": _summary(problem.scores_without_steps(means, Flatten(), n_test)),
        "nearest neighbour of pixels": _summary(problem.scores_without_steps(nearest, Flatten(), n_test)),
    }


def _summary(scores: Scores) -> dict[str, float]:
    return {"mean": scores.mean(), "stderr": scores.stderr()}


def _show(scores: dict[str, Any], options: FewShotOptions, problem: FewShot) -> None:
    """Print the scores."""
    metric = problem.metric
    rate = "as learned" if scores["adapt_lr"] is None else f"{scores['adapt_lr']:g}"
    start = f"from {options.rate:g} on" if problem.learns_rates else f"{options.rate:g}"
    console.print(
        f"\n{options.title()}, {options.algorithm}: {scores['iterations']} iterations\n"
        f"inner_lr [bold]{start}[/bold]   adapt_lr [bold]{rate}[/bold]\n"
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(f"on {scores['n_test']} test tasks", no_wrap=True)
    table.add_column(metric.label, justify="right")
    table.add_column(metric.error_label, justify="right")
    for row, score in scores[metric.key].items():
        error = metric.n_errors * score["stderr"]
        table.add_row(row, f"{metric.scale * score['mean']:.4g}", f"{metric.scale * error:.2g}")
    print_table(table)


def _save_sweep(result: xr.Dataset, problem: FewShot, out: Path | None) -> None:
    if out is None:
        return
    from matplotlib.figure import Figure

    from innerloop.plots.sweep import plot_sweep

    label = problem.metric.label.removesuffix(" %")
    write_whole(out / "sweep.nc", bytes(result.assign_attrs(metric=label).to_netcdf(engine="scipy")))
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_sweep(result, left, label=label)
    plot_sweep(result, right, label=label, difference=True)
    save_figure(figure, out / "sweep.png")


def _show_sweep(result: xr.Dataset, options: FewShotOptions, problem: FewShot, out: Path | None) -> None:
    """Print the metric, paired differences and the best rate."""
    scale = problem.metric.scale
    console.print(f"\n{options.title()}, {options.algorithm}: {result.sizes['seed']} seeds\n")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("inner_lr", "adapt_lr", problem.metric.label, "± s.e.", "minus inner_lr = 0", "± s.e."):
        table.add_column(column, justify="right", no_wrap=True)
    values = result["metric"].values.tolist()
    best = values.index(problem.metric.best(values))
    for i in range(len(values)):
        at = result.isel(inner_lr=i)
        mean, error, gap, gap_error = (
            scale * float(at[f"metric{of}"]) for of in ("", "_stderr", "_difference", "_difference_stderr")
        )
        rates = f"{float(at.inner_lr):g}", f"{float(at.adapt_lr):g}"
        errors = [f"{e:.2g}" if result.sizes["seed"] >= FEWEST_SEEDS else "" for e in (error, gap_error)]
        cells = (*rates, f"{mean:.4g}", errors[0], f"{gap:+.3g}", errors[1])
        table.add_row(*cells, style="bold" if i == best else "")
    print_table(table)
    verdict = _verdict(result.isel(inner_lr=best), scale, result.sizes["seed"])
    console.print(f"\n[bold]{verdict}[/bold]", soft_wrap=not console.is_terminal)
    if "kernel_metric" in result:
        values = result["kernel_metric"].values.tolist()
        found = _verdict(_of_kernel(result.isel(inner_lr=values.index(min(values)))), scale, result.sizes["seed"])
        console.print(f"Linearised at its start, without training: {found}", soft_wrap=not console.is_terminal)
    if out is not None:
        console.print(f"Saved sweep.nc and sweep.png in {out}", soft_wrap=True, markup=False)


def _verdict(best: xr.Dataset, scale: float, n_seeds: int) -> str:
    rate, gap, error = float(best.inner_lr), *(scale * float(best[f"metric_difference{of}"]) for of in ("", "_stderr"))
    if n_seeds < FEWEST_SEEDS:
        seeds = f"{n_seeds} seed{'s' if n_seeds > 1 else ''}"
        against = "" if rate == 0 else f", {gap:+.3g} against inner_lr = 0"
        return f"Of these rates inner_lr = {rate:g} does best{against}, with {seeds}: too few to tell it from chance."
    if rate == 0:
        return "Of these rates inner_lr = 0 does best: train without an inner loop."
    sigmas = f"{abs(gap) / error:.1f} standard errors" if error > 0 else "without error"
    return f"Of these rates inner_lr = {rate:g} does best: {gap:+.3g} against inner_lr = 0 ({sigmas})."


def _of_kernel(result: xr.Dataset) -> xr.Dataset:
    """Return the kernel's prediction under the names of the networks' scores."""
    names = {name: str(name).removeprefix("kernel_") for name in result if str(name).startswith("kernel_")}
    return result[list(names)].rename(names)


def _as_json(result: xr.Dataset) -> dict[str, Any]:
    """Return the results as plain values; None for what is not known."""
    return {
        str(name): result[name].astype(object).where(result[name].notnull(), None).values.tolist()
        for name in result.variables
    }
