"""A study of a table: one object with the model, the comparison, figures and the report."""

import html.parser

import numpy as np
import pandas as pd
import pytest

import innerloop as il

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
from matplotlib.figure import Figure

pytestmark = pytest.mark.usefixtures("one_thread")

DIST = il.MixedLinearRegression(2, noise_std=1.0, task_std=1.0)
COLUMNS = ["method", "inner_lr", "adapt_lr", "mse", "mse_se", "excess", "excess_se"]


@pytest.fixture(scope="module")
def tasks():
    return DIST.sample_tasks(24, 9, seed=1)


@pytest.fixture(scope="module")
def study(tasks):
    return il.study(tasks, il.MetaRegressor(cv=3, group="g"), target="<y>")


def axes():
    return Figure().subplots()


@pytest.mark.slow
def test_its_model_is_the_one_that_fit_gives(tasks, study):
    fitted = il.MetaRegressor(cv=3).fit(tasks.X, tasks.y, groups=tasks.task_of_row)
    np.testing.assert_array_equal(study.model.predict(tasks.X), fitted.predict(tasks.X))
    np.testing.assert_array_equal(
        study.model.predict(tasks.X, groups=tasks.ids[tasks.task_of_row]),
        fitted.predict(tasks.X, groups=tasks.task_of_row),
    )
    assert study.model.get_params() == il.MetaRegressor(cv=3, group="g").get_params()


@pytest.mark.slow
def test_its_methods_are_a_frame_with_the_model_first(study):
    frame = study.methods
    assert list(frame.columns) == COLUMNS
    assert frame["method"][0] == "ridge adaptation"
    assert frame["excess"][0] == 0
    per_task = study.evaluation.per_task
    np.testing.assert_allclose(frame["mse"], per_task.mean(axis=0))
    np.testing.assert_allclose(frame["excess"], (per_task - per_task[:, :1]).mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(frame["mse_se"], per_task.std(axis=0, ddof=1) / np.sqrt(24))
    assert frame["inner_lr"].isna().tolist() == [True, False, False, False, False, True, True]


@pytest.mark.slow
def test_given_unseen_tasks_are_the_ones_that_are_scored(tasks):
    unseen = DIST.sample_tasks(5, 6, seed=7)
    study = il.study(tasks, il.MetaRegressor(adaptation="ridge", n_support=3), unseen=unseen)
    dealt = study.evaluation.trained.training.scaling.tasks(unseen).deal(3)
    squares = [[] for _ in range(5)]
    for i, task in enumerate(dealt.task):
        support, query = dealt.support_rows[3 * i : 3 * i + 3], dealt.query_rows[3 * i : 3 * i + 3]
        adapted = study.model.adapt(unseen.X[support], unseen.y[support], groups=[99] * 3)
        squares[task].extend((unseen.y[query] - adapted.predict(unseen.X[query], groups=[99] * 3)) ** 2)
    np.testing.assert_allclose(study.evaluation.per_task[:, 0], np.mean(squares, axis=1))


@pytest.mark.slow
def test_its_pictures_are_drawn_on_the_axes_that_are_given(study):
    ax = axes()
    assert study.plot(ax) is ax
    assert il.plot_learning_curves(study, ax) is ax
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert [label.removesuffix(" (above)") for label in labels[: len(study.methods)]] == list(study.methods["method"])
    by_adapt, by_inner = study.rate_slices()
    for losses, name in ((by_adapt, "adapt_lr"), (by_inner, "inner_lr")):
        assert name in il.plot_rate(losses, axes()).get_xlabel()
    covered = study.coverage()
    drawn = il.plot_coverage(covered, axes())
    assert drawn.get_xlabel() == "level of the interval"
    assert (np.abs(covered.share - 0.8)[:, 1] < 0.25).all()


def test_a_notebook_shows_verdict_table_and_picture(study):
    shown = study._repr_html_()
    html.parser.HTMLParser().feed(shown)
    assert study.verdict.split(":")[0] in shown
    assert shown.count("<tr") == 1 + len(study.methods)
    assert "<svg" in shown


@pytest.mark.slow
def test_the_report_is_written_whole_or_not_at_all(study, tmp_path):
    study.report(tmp_path / "page.html", command="python study.py")
    page = (tmp_path / "page.html").read_text()
    assert "predicting &lt;y&gt;" in page
    assert "python study.py" in page
    for place, error in (("page.pdf", ValueError), ("nowhere/page.html", FileNotFoundError)):
        with pytest.raises(error, match=r"`path` must end in|there is no folder"):
            study.report(tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.slow
def test_advice_is_that_of_the_study(tasks, study):
    advice = study.advise()
    assert advice.verdict == study.verdict
    assert advice.mse == study.methods["mse"][0]
    assert il.advise(tasks, il.MetaRegressor(cv=3)) == advice


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tasks": 3}, TypeError, "`tasks` must be a TaskSet, got int"),
        ({"tasks": DIST.sample_tasks(1, 5)}, ValueError, "`tasks` must hold at least two tasks"),
        ({"unseen": il.MixedLinearRegression(3).sample_tasks(2, 5)}, ValueError, "`unseen` must have the features"),
        (
            {"model": il.MetaRegressor(adaptation="rigde")},
            ValueError,
            "`adaptation` must be 'auto', 'none'",
        ),
    ],
)
def test_what_cannot_be_studied_is_said(arguments, error, message):
    with pytest.raises(error, match=message):
        il.study(**{"tasks": DIST.sample_tasks(4, 5), **arguments})


@pytest.mark.slow
def test_processes_score_as_threads_do(tasks, study):
    on_processes = il.study(tasks, il.MetaRegressor(cv=3, group="g"), target="<y>", n_jobs=2)
    np.testing.assert_array_equal(on_processes.evaluation.per_task, study.evaluation.per_task)
    np.testing.assert_array_equal(on_processes.evaluation.over_rows, study.evaluation.over_rows)
    assert on_processes.verdict == study.verdict


def test_a_model_without_a_group_takes_that_of_the_study(tasks):
    frame = pd.DataFrame({"g": tasks.task_of_row, "a": tasks.X[:, 0], "b": tasks.X[:, 1], "y": tasks.y})
    table = il.TaskSet.from_table(frame, "g", "y")
    result = il.study(table, il.MetaRegressor(cv=2, basis="linear"), unseen=table, group="g")
    new = frame.head(5).assign(g="new")
    assert "new" in result.model.adapt(new.drop(columns="y"), new["y"]).groups_
