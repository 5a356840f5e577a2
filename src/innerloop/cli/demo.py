"""`innerloop demo`: `innerloop fit` on two tables that come with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from innerloop.cli._demo_tables import PAPER_N_QUERY, PAPER_N_SUPPORT, digit_pairs, paper_table
from innerloop.cli._output import can_draw, command_line, console, draw_beside, show
from innerloop.data.tasks import TaskSet
from innerloop.estimators.meta_regressor import MetaRegressor, predict_episodes
from innerloop.estimators.storage import check_writable, save_model
from innerloop.report import TableStudy, study
from innerloop.tabular.settings import Settings
from innerloop.tabular.training import MetaTraining


def demo(*, out: Path = Path("demo"), seed: int = 0) -> None:
    """Fit two tables: few-shot digits, and one simulated from the model of the paper.

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
    result = study(
        train, model, unseen=unseen, title="Few-shot digits", target="label", group="pair of digits", progress=True
    )
    _show_and_save(result, out)
    accuracy = 100 * _accuracy(result.model, unseen, seed)
    console.print(f"Unseen digits classified correctly after 10 images: {accuracy:.1f} %.")


def _accuracy(model: MetaRegressor, unseen: TaskSet, seed: int) -> float:
    """Return the share of images with the right sign after adaptation on 10 others of the task."""
    episodes = unseen.split(n_support=10, seed=seed)  # tasks have as many query rows each
    return float(np.mean(np.sign(predict_episodes(model, episodes)) == episodes.y[episodes.query_rows]))


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
    result = study(tasks, model, title="The model of the paper, its protocol", progress=True)
    _show_and_save(result, out)
    dealt = MetaTraining.prepare(tasks, Settings(n_support=PAPER_N_SUPPORT, seed=seed)).with_gradient().gradient
    assert dealt is not None
    assert dealt.held_out is not None  # all rates are free
    console.print(
        "\nThe same table with every row a query row once (the default of `innerloop fit`): held-out MSE "
        f"{dealt.held_out.choose().mse.mean():.3g} with inner_lr = {dealt.rates().inner_lr:.2g}, against "
        f"{result.evaluation.scores[0].mse:.3g}. A negative rate compensates for support rows that are not query "
        "rows; to use them as query rows is better still."
    )


def _show_and_save(result: TableStudy, out: Path) -> None:
    """Save the model, print the results, then draw the picture and write the report beside it."""
    save_model(result.model, out)
    show(result)
    draw_beside(result.model, out, result.names.title)
    if can_draw():
        result.report(out / "report.html", command_line(), progress=True)
