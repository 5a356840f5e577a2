"""`innerloop fit` on tables it can use, and what all commands share."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import innerloop as package
from command_line import IDS, QUICK, innerloop, save, small_table, tree
from innerloop.data.tasks import TaskSet
from innerloop.estimators.storage import load_model
from innerloop.evaluation.methods import GRADIENT, NO_INNER_LOOP, PER_TASK, POOLED, RIDGE, TASK_MEAN, TIED

METHODS = [m.label for m in (RIDGE, GRADIENT, NO_INNER_LOOP, TIED, POOLED, PER_TASK, TASK_MEAN)]
PICTURE = "held_out_loss.png"
SCRIPT = Path(sys.executable).with_name("innerloop")
FEATURES = ["a", "b", "c", "sum"]  # "same" is constant


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return save(small_table(), tmp_path_factory.mktemp("table") / "table.csv")


@pytest.fixture(scope="module")
def fitted(table):
    """The default run: what it printed, and its model folder."""
    out = table.parent / "model"
    return innerloop("fit", table, *QUICK, "--out", out), out


@pytest.fixture(scope="module")
def results(table):
    """The default run's JSON."""
    return fit_json(table)


def fit_json(table, *options):
    ran = innerloop("fit", table, *QUICK, "--json", *options)
    assert (ran.code, ran.err) == (0, "")
    return json.loads(ran.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def leaves(value, place=""):
    """Return the numbers of nested results by their place."""
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in leaves(part, f"{place}.{name}").items()}
    if isinstance(value, list):
        return {k: v for i, part in enumerate(value) for k, v in leaves(part, f"{place}[{i}]").items()}
    return {place: value} if isinstance(value, int | float) else {}


@pytest.mark.slow
def test_fit_ends_well_and_says_nothing_on_standard_error(fitted):
    assert (fitted[0].code, fitted[0].err) == (0, "")


@pytest.mark.slow
def test_fit_counts_tasks_rows_and_features(fitted):
    assert "table.csv: 12 tasks, 144 rows, 4 features\nfeatures: a, b, c, sum\n" in fitted[0].out
    assert "- 'same' is 1.5 wherever it is known: left out\n" in fitted[0].out


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_fit_prints_every_method_in_full(fitted, results, method):
    (line,) = [line for line in fitted[0].out.splitlines() if line.startswith(method)]
    found = next(m for m in results["methods"] if m["name"] == method)
    assert "…" not in line
    assert f"{found['mse']:.4g}" in line.split()
    assert f"{found['mse_se']:.2g}" in line.split()
    if method != RIDGE.label:
        assert f"{found['excess']:+.3g}" in line.split()
        assert line.split()[-1] == f"{found['excess_se']:.2g}"


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
def test_no_number_of_the_table_is_cut_off(tmp_path, scale):
    frame = small_table(seed=3)
    table = save(frame.assign(y=frame["y"] * scale), tmp_path / "t.csv")
    ran = innerloop("fit", table, *QUICK)
    assert ran.code == 0
    assert "…" not in ran.out


@pytest.mark.slow
def test_fit_prints_the_verdict_on_one_line(fitted, results):
    assert results["verdict"] in fitted[0].out.splitlines()


def test_fit_saves_a_model_and_a_picture(fitted):
    names = tree(fitted[1])
    assert [n.split("-")[0] for n in names] == ["arrays", PICTURE, "manifest.json", "model"]
    assert (fitted[1] / PICTURE).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert "Saved the model to" in fitted[0].out


def test_saved_model_knows_every_id_as_written(fitted):
    assert sorted(load_model(fitted[1]).groups_.tolist()) == sorted(IDS)


def test_saved_model_knows_the_names_of_its_features(fitted):
    assert load_model(fitted[1]).feature_names_in_.tolist() == FEATURES


@pytest.mark.slow
def test_fit_agrees_with_the_library(results):
    frame = small_table()
    tasks = TaskSet.from_arrays(frame[FEATURES], frame["y"], frame["task"].to_numpy(str), FEATURES)
    study = package.study(tasks, package.MetaRegressor(cv=2))
    assert [m["name"] for m in results["methods"]] == METHODS
    np.testing.assert_allclose([m["mse"] for m in results["methods"]], study.methods["mse"], rtol=1e-12)
    assert results["verdict"] == study.verdict


@pytest.mark.slow
def test_fitting_again_replaces_the_model(table, tmp_path):
    kept = []
    for seed in (0, 1, 2):
        ran = innerloop("fit", table, *QUICK, "--out", tmp_path / "m", "--seed", seed)
        assert ran.code == 0
        kept.append(len(tree(tmp_path / "m")))
    assert kept[1] == kept[2]  # the last two models are kept, no more
    assert load_model(tmp_path / "m").random_state == 2


def test_json_holds_finite_numbers(results):
    numbers = leaves(results)
    assert len(numbers) > 30
    assert all(map(math.isfinite, numbers.values()))


@pytest.mark.slow
def test_json_is_all_that_is_printed_also_without_matplotlib(table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ran = innerloop("fit", table, *QUICK, "--json", "--out", tmp_path / "m")
    assert ran.code == 0
    assert set(json.loads(ran.out)) >= {"inner_lr", "adapt_lr", "methods", "verdict"}
    assert "matplotlib" in ran.err
    assert load_model(tmp_path / "m")


@pytest.mark.slow
def test_parquet_gives_the_same_numbers_as_csv(results, tmp_path):
    assert fit_json(save(small_table(), tmp_path / "t.parquet")) == results


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "options", "separator"), [(".tsv", [], "\t"), (".csv", ["--delimiter", ";"], ";")])
def test_other_separators_give_the_same_numbers(results, tmp_path, ending, options, separator):
    path = tmp_path / f"t{ending}"
    small_table().to_csv(path, index=False, sep=separator)
    assert fit_json(path, *options) == results


@pytest.mark.slow
def test_the_order_of_rows_in_the_file_does_not_matter(results, tmp_path):
    shuffled = fit_json(save(small_table().sample(frac=1, random_state=1), tmp_path / "t.csv"))
    assert shuffled["verdict"] == results["verdict"]
    assert leaves(shuffled) == pytest.approx(leaves(results), rel=1e-6, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--drop", "a", "--drop", "same", "--drop", "sum"],
        ["--drop", "a", "same", "sum"],
        ["--drop", "a", "same", "--drop", "sum"],
        ["--features", "b", "c"],
        ["--features", "b", "--features", "c"],
        ["--features", "b", "c", "a", "--drop", "a"],
    ],
)
def test_drop_and_features_choose_columns(tmp_path, table, options):
    narrow = save(small_table()[["task", "y", "b", "c"]], tmp_path / "t.csv")
    assert fit_json(table, *options) == fit_json(narrow)


@pytest.mark.parametrize("options", [["--inner-lr", "-0.1", "--adapt-lr", "0.2"], ["--inner-lr=-0.1", "--adapt-lr=.2"]])
def test_given_rates_are_kept_and_have_no_error(table, options):
    found = fit_json(table, *options)
    assert (found["inner_lr"], found["adapt_lr"]) == (-0.1, 0.2)
    rates = found["methods"][0]["rates"]
    assert (rates["inner_lr"], rates["adapt_lr"]) == (-0.1, 0.2)
    assert found["inner_lr_se"] in (None, 0.0)


def test_nothing_left_to_choose_gives_a_model_without_a_picture(table, tmp_path):
    options = ["--inner-lr", "-0.1", "--adapt-lr", "0.2", "--l2", "0", "--out", tmp_path / "m"]
    ran = innerloop("fit", table, *QUICK, *options)
    assert (ran.code, ran.err) == (0, "")
    assert "-0.1 (given)" in ran.out
    assert "0.2 (given)" in ran.out
    assert not (tmp_path / "m" / PICTURE).exists()
    assert load_model(tmp_path / "m").inner_lr_ == -0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "params"),
    [
        (["--n-query", "3"], {"n_query": 3}),
        (["--n-steps", "2"], {"n_steps": 2}),
        (["--n-support", "4"], {"n_support": 4}),
        (["--seed", "5"], {"random_state": 5}),
        (["--l2", "0.5"], {"l2": 0.5}),
        (["--adaptation", "none"], {"adaptation": "none"}),
        (["--no-standardize"], {"standardize": False}),
        (["--no-intercept"], {"fit_intercept": False}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_options_reach_the_model(table, tmp_path, results, options, params):
    found = fit_json(table, *options, "--out", tmp_path / "m")
    model = load_model(tmp_path / "m")
    assert {name: model.get_params()[name] for name in params} == params
    assert leaves(found) != leaves(results)
    direct = package.MetaRegressor(**{"cv": 2, **params}).fit(
        small_table()[FEATURES].to_numpy(), small_table()["y"], small_table()["task"].to_numpy(str)
    )
    assert found["l2"] == direct.l2_
    assert found["adaptation"] == direct.adaptation_


@pytest.mark.slow
def test_paths_are_not_broken_over_lines(tmp_path):
    folder = tmp_path / "a folder with a long name" / "and one more within it, so that the path fills a line"
    folder.mkdir(parents=True)
    ran = innerloop("fit", save(small_table(), folder / "t.csv"), *QUICK, "--out", folder / "m")
    for path in (folder / "t.csv", folder / "m", folder / "m" / PICTURE):
        assert str(path) in ran.out


@pytest.mark.slow
def test_min_rows_leaves_small_tasks_out_and_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = small_table()
    small = frame["task"].isin(["007", "NA"]) & (frame.index % 12 >= 4)
    small |= (frame["task"] == frame["task"].iloc[-1]) & (frame.index % 12 >= 5)  # of as many rows as are asked for
    found = innerloop("fit", save(frame[~small], Path("t.csv")), *QUICK, "--min-rows", "5")
    assert found.code == 0
    assert "10 tasks, 113 rows, 4 features\n" in found.out
    assert "- 2 tasks of fewer than 5 rows are left out\n" in found.out
    rest = save(frame[~small & ~frame["task"].isin(["007", "NA"])], tmp_path / "rest.csv")
    assert fit_json(tmp_path / "t.csv", "--min-rows", "5") == fit_json(rest)


@pytest.mark.slow
def test_two_tasks_are_enough(tmp_path):
    frame = small_table()
    found = fit_json(save(frame[frame["task"].isin(["007", "NA"])], tmp_path / "t.csv"))
    assert all(map(math.isfinite, leaves(found).values()))


@pytest.mark.slow
def test_without_out_nothing_is_written(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = tree(table.parent)
    assert innerloop("fit", table, *QUICK).code == 0
    assert tree(table.parent) == before
    assert tree(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", [[SCRIPT], [sys.executable, "-m", "innerloop"]], ids=["script", "module"])
def test_installed_command_fits_and_predicts(table, tmp_path, results, command):
    def run(*args):
        return subprocess.run([*command, *map(str, args)], capture_output=True, text=True, encoding="utf-8", check=True)

    ran = run("fit", table, *QUICK, "--json", "--out", tmp_path / "m")
    assert (json.loads(ran.stdout), ran.stderr) == (results, "")
    unlabelled = save(small_table().drop(columns="y"), tmp_path / "new.csv")
    ran = run("predict", tmp_path / "m", unlabelled)
    assert (len(ran.stdout.splitlines()), ran.stderr) == (145, "")


@pytest.mark.slow
def test_output_that_cannot_be_encoded_still_ends_well(table, tmp_path):
    command = [SCRIPT, "fit", table, *QUICK, "--out", tmp_path / "m"]
    ran = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "printed"), [("--version", package.__version__), ("--help", "Usage: innerloop")])
def test_version_and_help_load_no_heavy_package(flag, printed):
    code = (
        "import sys\nfrom innerloop import cli\n"
        f"sys.argv = ['innerloop', {flag!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print(sorted({'sklearn', 'pandas', 'matplotlib', 'pyarrow'} & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith(printed)
    assert ran.stderr.strip() == "[]"


@pytest.mark.parametrize("command", ["fit", "predict", "demo"])
def test_help_names_and_describes_every_command(command):
    (line,) = [line for line in innerloop("--help").out.splitlines() if line.startswith(f"│ {command}")]
    assert len(line.strip("│ ").split()) > 3
    ran = innerloop(command, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert "--out" in ran.out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_a_table_may_come_from_standard_input(table, monkeypatch, name):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(table.read_bytes())))
    ran = innerloop("fit", name, *QUICK, "--adaptation", "ridge")
    assert (ran.code, ran.err) == (0, "")
    assert "12 tasks, 144 rows" in ran.out


HOSTILE_FILE = "price_$_vs_$_cost [bold] :warning: <b>.csv"


@pytest.mark.slow
def test_no_name_prevents_a_fit_from_being_saved_drawn_and_reported(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    names = {"a": "x_$^{", "b": "[/bold]", "c": ":warning: <i>", "y": "$y$", "task": "$t\\frac$"}
    frame = small_table()[[*names]].rename(columns=names)
    table = save(frame, tmp_path / HOSTILE_FILE)
    options = ["--group", names["task"], "--target", names["y"], "--cv", 2, "--adaptation", "gradient"]
    ran = innerloop("fit", table, *options, "--out", tmp_path / "m", "--report", tmp_path / "r.html")
    assert ran.code == 0
    assert "No picture" not in ran.err
    assert {"manifest.json", "held_out_loss.png"} <= set(tree(tmp_path / "m"))
    assert "features: x_$^{, [/bold], :warning: <i>\n" in ran.out
    assert HOSTILE_FILE in ran.out
    assert "&lt;b&gt;.csv: $y$</title>" in (tmp_path / "r.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["picture", "report", "stop"])
def test_a_model_is_saved_before_anything_is_drawn(tmp_path, monkeypatch, fails):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")

    def fail(*_, **__):
        raise KeyboardInterrupt if fails == "stop" else ZeroDivisionError("no\n picture")

    where = "cli._output.held_out_figure" if fails == "picture" else "report.TableStudy.page"
    monkeypatch.setattr(f"innerloop.{where}", fail)
    monkeypatch.setattr("innerloop._blocks.pool.stop_workers", lambda: None)
    table = save(small_table(), tmp_path / "t.csv")
    options = [*QUICK, "--adaptation", "gradient", "--out", tmp_path / "m", "--report", tmp_path / "r.html"]
    ran = innerloop("fit", table, *options)
    assert ran.code == {"picture": 0, "report": 1, "stop": 130}[fails]
    assert len(load_model(tmp_path / "m").groups_) == 12
    assert "on unseen tasks" in ran.out
    if fails == "picture":
        assert "No picture: ZeroDivisionError: no" in ran.err
        assert (tmp_path / "r.html").exists()
