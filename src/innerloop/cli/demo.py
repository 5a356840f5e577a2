"""`innerloop demo`: the main job on tables that come with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from innerloop._base.progress import progress
from innerloop.cli._demo_tables import PAPER_N_QUERY, PAPER_N_SUPPORT, digit_pairs, paper_table
from innerloop.cli._output import can_draw, console, pictures_of, report_of, show
from innerloop.data.tasks import TaskSet
from innerloop.estimators import MetaRegressor
from innerloop.estimators.storage import check_writable, save_model
from innerloop.evaluation import Evaluation, evaluate, evaluate_on, n_ticks
from innerloop.tabular.training import MetaTraining


def demo(*, out: Path = Path("demo"), seed: int = 0) -> None:
    """Recommend rates for two tables: few-shot digits, and one simulated from the paper's model.

    Parameters
    ----------
    out
        Folder for the models, the pictures of held-out loss and the reports.
    seed
        Draws the tables and deals their rows.
    """
    for name in ("digits", "paper"):
        check_writable(out / name)
    _digits(out / "digits", seed)
    _paper(out / "paper", seed)
    models = "Models, pictures and reports" if can_draw() else "Models"
    console.print(f"\n{models} are in {out}/digits and {out}/paper.", soft_wrap=True, markup=False)


def _digits(out: Path, seed: int) -> None:
    train, unseen = digit_pairs(range(6), seed), digit_pairs(range(6, 10), seed)
    console.rule("Few-shot digits")
    console.print(
        f"Which of two digits is it? {len(train)} training tasks from pairs of 0-5, {len(unseen)} unseen ones "
        "from pairs of 6-9; 10 images to adapt on, 64 pixels, targets -1 and +1."
    )
    model = MetaRegressor(adaptation="gradient", n_support=10, n_steps=5, standardize=False, random_state=seed)
    with progress("Comparing rates", 5) as tick:
        training = MetaTraining.prepare(train, model.settings(), tick)
    evaluation = evaluate_on(training, train, unseen)
    names = {"title": "Few-shot digits", "target": "label", "group": "pair of digits"}
    _finish(model, training, train, evaluation, out, names)
    console.print(f"Unseen digits told apart after 10 images: {100 * _accuracy(model, unseen, seed):.1f} %.")


def _accuracy(model: MetaRegressor, unseen: TaskSet, seed: int) -> float:
    """Return the share of images whose sign is right after adaptation on 10 others of the task."""
    right = []
    for X, y, X_query, y_query in unseen.split(n_support=10, seed=seed):
        adapted = model.adapt(X, y, groups=np.zeros(len(y), dtype=int).astype(str))
        predicted = adapted.predict(X_query, groups=np.full(len(y_query), "0"))
        right.append(np.mean(np.sign(predicted) == y_query))
    return float(np.mean(right))


def _paper(out: Path, seed: int) -> None:
    tasks = paper_table(seed)
    console.print()
    console.rule("The paper's model")
    console.print(
        f"{len(tasks)} tasks, {tasks.n_features} isotropic features, noise 1, task spread 0.5. As in the paper, "
        f"a training task is scored on few rows, {PAPER_N_QUERY}, beside {PAPER_N_SUPPORT} support rows, without ridge."
    )
    model = MetaRegressor(
        adaptation="gradient", n_support=PAPER_N_SUPPORT, n_query=PAPER_N_QUERY, l2=0.0, random_state=seed
    )
    settings = model.settings()
    with progress("Comparing rates", n_ticks(settings, len(tasks)) + settings.n_folds) as tick:
        training = MetaTraining.prepare(tasks, settings, tick)
        evaluation = evaluate(training, tasks, tick)
    names = {"title": "The model of the paper, its protocol", "target": "y", "group": ""}
    _finish(model, training, tasks, evaluation, out, names)
    dealt = MetaTraining.prepare(tasks, MetaRegressor(n_support=PAPER_N_SUPPORT, random_state=seed).settings())
    assert dealt.held_out is not None  # all rates are free
    console.print(
        "\nThe same table with every row a query row once (the default of `innerloop fit`): held-out MSE "
        f"{dealt.held_out.choose().mse.mean():.3g} with inner_lr = {dealt.chosen().inner_lr:.2g}, against "
        f"{evaluation.methods[0].mse:.3g}. A negative rate makes up for support rows that are not scored; "
        "scoring them is better still."
    )


def _finish(
    model: MetaRegressor,
    training: MetaTraining,
    tasks: TaskSet,
    evaluation: Evaluation,
    out: Path,
    names: dict[str, str],
) -> None:
    """Print the results, and save the model with its picture and its report."""
    model.fit_from(training, tasks)
    show(model, evaluation)
    attachments = pictures_of(model, names["title"])
    if can_draw():
        attachments["report.html"] = report_of(model, training, evaluation, tasks, **names)
    save_model(model, out, attachments=attachments)
