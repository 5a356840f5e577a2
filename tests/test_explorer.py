"""What the explorer shows of settings and tables, without a browser, and what it asks the other rooms for."""

import json
import threading
import time

import numpy as np
import pytest

import innerloop as il
from innerloop._base.progress import listening, progress
from innerloop.distributions.mixed_linear import power_law_variances
from innerloop.estimators.storage import load_details, save_model
from innerloop.evaluation.summary import summary
from innerloop.explorer.app import Answers, explore
from innerloop.explorer.jobs import Jobs
from innerloop.explorer.table_tab import NEW, Table
from innerloop.explorer.theory_tab import CONTROLS, Settings, presets, theory, training_sets
from innerloop.explorer.work import KINDS
from innerloop.theory.curves import loss_curves
from innerloop.theory.law import loss_law

DESIGN = {"n_features": 20, "n_support": 10, "n_query": 2, "n_adapt": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of arrays, with its study."""
    tasks = il.MixedLinearRegression(2, noise_std=0.5, task_std=1.0).sample_tasks(n_tasks=12, n_rows=8, seed=0)
    study = il.study(tasks, il.MetaRegressor(cv=2))
    made = tmp_path_factory.mktemp("model") / "model"
    save_model(study.model, made, {"study": summary(study.evaluation)})
    return made


def test_curves_and_map_are_expected_losses_through_the_rates_that_are_shown():
    dist, design, init = Settings(**DESIGN).parts()
    curves = loss_curves(dist, design, init, at=(-0.4, 0.2), n_rates=9)
    np.testing.assert_allclose(curves.inner.loss, il.expected_loss(dist, design, curves.inner.rates, 0.2))
    np.testing.assert_allclose(curves.adapt.loss, il.expected_loss(dist, design, -0.4, curves.adapt.rates))
    both = curves.both
    np.testing.assert_allclose(both.loss, il.expected_loss(dist, design, both.inner_lr[:, None], both.adapt_lr))
    assert curves.loss == pytest.approx(il.expected_loss(dist, design, -0.4, 0.2))
    assert curves.inner.rates[0] < -0.4
    assert curves.adapt.rates[-1] > 0.2


@pytest.mark.parametrize("settings", [DESIGN, {**DESIGN, "n_tasks": 30}, {**DESIGN, "l2": 0.1}])
def test_the_law_has_the_intervals_quantiles_and_the_expected_mean(settings):
    dist, design, _ = Settings(**settings).parts()
    law = loss_law(dist, design, -0.3, 0.2)
    low, high = il.loss_interval(dist, design, -0.3, 0.2, level=0.8)
    np.testing.assert_allclose(law.quantiles([0.1, 0.9]), [low, high])
    losses = np.linspace(*law.quantiles([0.1, 0.9]), 2001)
    assert np.trapezoid(law.density(losses), losses) == pytest.approx(0.8, abs=1e-3)
    spread = np.linspace(0.0005, 0.9995, 1000)
    assert law.quantiles(spread).mean() == pytest.approx(il.expected_loss(dist, design, -0.3, 0.2), rel=2e-3)


def test_a_caterpillar_of_many_groups_shows_some_from_lowest_to_highest(folder, monkeypatch):
    table = Table.open(folder, "model")
    whole = table.caterpillar("x0")
    assert (len(whole["groups"]), whole["left_out"]) == (12, 0)
    assert whole["estimate"] == sorted(whole["estimate"])
    monkeypatch.setattr("innerloop.explorer.table_tab._MOST_GROUPS", 5)
    some = table.caterpillar("x0")
    assert (len(some["groups"]), some["left_out"]) == (5, 7)
    assert [some["groups"][i] for i in (0, -1)] == [whole["groups"][i] for i in (0, -1)]


def test_variances_of_a_power_law_have_mean_one():
    s = power_law_variances(5, 1.0)
    np.testing.assert_allclose(s / s[0], 1 / np.arange(1, 6))
    assert s.mean() == pytest.approx(1)
    with pytest.raises(ValueError, match="`decay` must give finite positive variances, got nan"):
        power_law_variances(5, np.nan)


def test_a_listener_hears_all_progress_and_only_inside():
    heard = []
    with listening(lambda *news: heard.append(news)), progress("Counting", 2) as tick:
        tick()
        tick()
    with progress("Not heard", 1) as tick:
        tick()
    assert heard == [("Counting", 1, 2), ("Counting", 2, 2)]


@pytest.mark.parametrize("change", [{}, {"inner_lr": -0.3, "adapt_lr": 0.1}, {"init_distance": 0.4}, {"decay": 0.5}])
def test_the_offered_python_gives_what_is_shown(change):
    shown = theory({**DESIGN, **change})
    json.dumps(shown, allow_nan=False)
    names = {}
    exec(shown["python"], names)
    np.testing.assert_allclose(shown["inner"]["loss"], names["against_inner_lr"])
    np.testing.assert_allclose(shown["adapt"]["loss"], names["against_adapt_lr"])
    np.testing.assert_allclose(shown["map"]["loss"], names["over_both"])
    assert shown["best"]["loss"] == names["best"].loss
    if not change.get("decay"):
        law = training_sets({**DESIGN, **change})
        assert (law["low"], law["high"]) == pytest.approx(names["interval"]())


def test_every_control_is_a_setting_within_its_limits():
    for control in CONTROLS:
        for value in (control.low, control.high):
            given = int(value) if "count" in control.scale else value
            assert getattr(Settings.from_json({control.name: given}), control.name) == value
        with pytest.raises(ValueError, match=f"`{control.name}` must be from"):
            Settings.from_json({control.name: int(control.high) + 1})
    for settings in presets().values():
        assert Settings.from_json(settings) == Settings(**settings)


def test_nearest_groups_are_those_of_similar_coefficients(folder):
    model = il.load_model(folder)
    first = model.groups_[0]
    nearest = model.nearest_groups(first, 11)
    assert set(nearest) == set(model.groups_) - {first}
    coef = np.column_stack([model.group_coef_, model.group_intercept_])
    distance = np.square(coef - coef[0]).sum(axis=1)
    assert nearest[0] == model.groups_[1:][distance[1:].argmin()]
    with pytest.raises(ValueError, match="`group` must be a known group, got 'x'"):
        model.nearest_groups("x")


def test_a_new_group_starts_at_the_population_and_moves_with_each_row(folder):
    table = Table.open(folder, "model")
    shown = table.new_group([["1", "0", "4"], ["0", "1", "4"], ["0", "0", ""]], 0.9, "x0")
    json.dumps(shown, allow_nan=False)
    assert shown["rows"] == [3]
    assert shown["prediction"][0] == pytest.approx(shown["population"])
    model = il.load_model(folder)
    for k in (1, 2):
        adapted = model.adapt(np.eye(2)[:k], [4.0] * k, groups=[NEW] * k)
        assert shown["prediction"][k] == pytest.approx(adapted.predict(np.zeros((1, 2)), groups=[NEW]))
        low, high = adapted.predict_interval(np.zeros((1, 2)), groups=[NEW], level=0.9)
        assert (shown["low"][k], shown["high"][k]) == (pytest.approx(low), pytest.approx(high))
    near = shown["nearest"][0]
    assert near["prediction"] == pytest.approx(model.predict(np.zeros((1, 2)), groups=[near["id"]]))


@pytest.mark.parametrize(
    ("rows", "level", "said"),
    [
        ("x", 0.9, "Rows must have 3 cells each: x0, x1, y"),
        ([["1", "2"]], 0.9, "Rows must have 3 cells each"),
        ([["1", "", "2"]], 0.9, "Every row needs all its inputs"),
        ([["a", "1", "2"]], 0.9, "could not convert"),
        ([["1", "1", "b"]], 0.9, "b"),
        ([["1", "1", "2"]] * 61, 0.9, "at most 60 rows"),
        ([["1", "1", ""]], 2, "`level` must be"),
        ([["1", "1", ""]], None, "`level` must be"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(folder, rows, level, said):
    with pytest.raises((ValueError, TypeError), match=said):
        Table.open(folder, "model").new_group(rows, level, None)


def test_a_summary_is_json_and_names_no_group_where_none_is_to_be_named(folder):
    study = load_details(folder)["study"]
    json.dumps(study, allow_nan=False)
    assert [group["rmse"] for group in study["worst"]] == sorted((g["rmse"] for g in study["worst"]), reverse=True)
    tasks = il.MixedLinearRegression(1, task_std=1.0).sample_tasks(n_tasks=8, n_rows=6, seed=0)
    evaluation = il.study(tasks, il.MetaRegressor(cv=2)).evaluation
    assert summary(evaluation, with_groups=False)["worst"] == []
    assert summary(evaluation)["methods"][0]["mse"] == evaluation.scores[0].mse


def test_folders_that_are_neither_model_nor_sweep_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is not an innerloop model folder"):
        explore(tmp_path, browser=False)
    with pytest.raises(FileNotFoundError, match="there is no model folder"):
        explore(tmp_path / "none", browser=False)


def test_only_what_was_uploaded_is_fitted(tmp_path):
    answers = Answers(None, tmp_path)
    name = answers.upload(b"a,b\n1,2\n")["table"]
    assert (tmp_path / name / "table.csv").read_bytes() == b"a,b\n1,2\n"
    for other in ("..", ".", "/etc", f"../{tmp_path.name}/{name}", "", "given", name + "/"):
        with pytest.raises(ValueError, match="no longer here"):
            answers.start_job({"kind": "fit", "upload": other, "name": "t", "group": "a", "target": "b"})
        with pytest.raises(ValueError, match="no longer here"):
            answers.table({"table": other})
    for kind in ("fits", "", "__init__"):
        with pytest.raises(ValueError, match="There is no work"):
            answers.start_job({"kind": kind, "settings": {}})


@pytest.mark.slow
def test_work_is_watched_stopped_and_says_why_it_failed(tmp_path):
    jobs = Jobs(KINDS)
    try:
        name = jobs.start("simulate", {**DESIGN, "n_runs": 30}, str(tmp_path / "a"))
        seen = []
        while not (state := jobs.state(name))["ended"]:
            seen.append(state["done"])
            time.sleep(0.01)
        assert seen == sorted(seen)
        assert (state["done"], state["n_runs"]) == (1.0, 30)
        failed = jobs.start("chance", {**DESIGN, "protocol": "train"})
        while not (state := jobs.state(failed))["ended"]:
            time.sleep(0.01)
        assert "the law of the loss is not derived" in state["sentence"]
        long = jobs.start("simulate", {**DESIGN, "n_runs": 100_000}, str(tmp_path / "b"))
        before = threading.active_count()
        jobs.stop(long)
        assert jobs.state(long)["ended"]
        assert threading.active_count() <= before
        with pytest.raises(ValueError, match="no longer known"):
            jobs.state("x")
    finally:
        jobs.close()
