"""`innerloop simulate` and `innerloop reproduce`."""

import importlib.util
import json
import re

import numpy as np
import pytest
import xarray as xr

from command_line import innerloop, tree
from innerloop.papers.bernacchia2021 import fig2, fig3, ratemap

SMALL = ["--n-features", 12, "--n-support", 6, "--n-runs", 40]


def test_the_estimate_beside_the_theory():
    ran = innerloop("simulate", *SMALL, "--inner-lr", -0.8, 0, 0.3, "--adapt-lr", 0.1)
    assert ran.code == 0
    assert re.search(r"Of these rates inner_lr = -0\.8 has the lowest loss: \S+ ± \S+ below inner_lr = 0 \(", ran.out)
    lines = [line.split() for line in ran.out.splitlines() if line.strip().startswith(("-0.8", "0 ", "0.3"))]
    assert len(lines) == 3
    for _, _, loss, error, theory, *_ in lines:
        assert abs(float(loss) - float(theory)) < 5 * float(error)


def test_the_start_of_training_reaches_the_simulation():
    rates = ["--inner-lr", 0, "--adapt-lr", 0.1, "--json"]
    near, far = (json.loads(innerloop("simulate", *SMALL, *rates, "--init-distance", d).out) for d in (0, 3))
    assert far["loss"][0][0] > near["loss"][0][0] + 10 * near["stderr"][0][0]


def test_rates_around_the_best_unless_given():
    values = json.loads(innerloop("simulate", *SMALL, "--json").out)
    assert len(values["inner_lr"]) == 21
    assert len(values["adapt_lr"]) == 1
    assert np.argmin(np.array(values["loss"])[:, 0]) in (4, 5, 6)
    assert values["plan"]["design"]["n_support"] == 6


@pytest.mark.slow
def test_results_and_picture_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    ran = innerloop(
        "simulate", *SMALL, "--out", tmp_path / "e.nc", "--plot", tmp_path / "e.svg", "--store", tmp_path / "s"
    )
    assert ran.code == 0
    with xr.open_dataset(tmp_path / "e.nc", engine="scipy") as estimate:
        assert estimate.n_runs == 40
        assert dict(estimate.sizes) == {"inner_lr": 21, "adapt_lr": 1}
    assert (tmp_path / "e.svg").read_text().startswith("<?xml")
    again = innerloop("simulate", *SMALL, "--store", tmp_path / "s")
    assert again.out.split("\n\n")[1] == ran.out.split("\n\n")[1]


@pytest.mark.filterwarnings("default::UserWarning")
def test_a_precision_that_is_not_reached_is_said():
    ran = innerloop("simulate", *SMALL, "--rel-error", 1e-6)
    assert ran.code == 0
    assert ran.err.startswith("innerloop: `rel_error` 1e-06 is not reached after 40 runs")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["simulate", "--n-runs", 1], "`n_runs` must be at least 2, got 1."),
        (["simulate", "--plot", "e.gif"], "`--plot` must end in .png or .svg or .pdf, got 'e.gif'."),
        (["simulate", "--out", "nowhere/e.nc"], "there is no folder nowhere to write e.nc to; make it first."),
        (["simulate", "--jobs", 0], "`n_jobs` must be a number of processes, or -1 for all cores, got 0."),
        (
            ["simulate", "--inner-lr", "nan", "--adapt-lr", 0.1],
            "`inner_lr` must be finite (zero and negative are fine)",
        ),
        (["simulate", "--init-distance", "inf"], "`--init-distance` must be finite, got inf."),
        (["reproduce", "--scale", 0], "`--scale` must be above 0"),
        (["reproduce", "fig4"], '"fig4"'),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = innerloop(*arguments)
    assert ran.code == 2
    assert sentence in ran.err
    assert len(ran.err.splitlines()) == 1
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["theory", "--plot", "e.png"], "--plot"),
        (["simulate", "--plot", "e.png"], "--plot"),
        (["reproduce"], "innerloop reproduce"),
        (["fit", "t.csv", "--group", "g", "--target", "y", "--report", "r.html"], "--report"),
    ],
)
def test_without_matplotlib_it_is_said_before_any_work(arguments, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    ran = innerloop(*arguments)
    assert ran.code == 2
    assert ran.err == f"innerloop: `{option}` needs matplotlib: pip install 'innerloop[plot]'.\n"
    assert tree(tmp_path) == []


@pytest.mark.parametrize(("option", "name"), [("--out", "r.nc"), ("--plot", "p.svg")])
def test_a_file_that_exists_is_replaced_only_if_asked(option, name, tmp_path):
    (tmp_path / name).write_text("precious")
    rates = ("--inner-lr", 0.1, "--adapt-lr", 0.1)
    ran = innerloop("simulate", *SMALL, *rates, option, tmp_path / name)
    assert (ran.code, (tmp_path / name).read_text()) == (2, "precious")
    assert f"`{option}` would replace {tmp_path / name}, which exists" in " ".join(ran.err.split())
    assert innerloop("simulate", *SMALL, *rates, option, tmp_path / name, "--force").code == 0
    assert (tmp_path / name).read_bytes() != b"precious"


def test_a_figure_that_this_command_did_not_draw_is_not_replaced(tmp_path):
    (tmp_path / "fig2.png").write_text("precious")
    assert innerloop("reproduce", "fig2", "--out", tmp_path).code == 2
    assert (tmp_path / "fig2.png").read_text() == "precious"


@pytest.mark.slow
def test_the_figures_are_drawn_and_their_runs_kept(tmp_path):
    pytest.importorskip("matplotlib")
    ran = innerloop("reproduce", "--scale", 0.001, "--out", tmp_path)
    assert ran.code == 0
    for name in ("fig2", "fig3", "map"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"Saved {tmp_path / name}.png" in ran.out
    assert "tied rates (usual MAML)" in ran.out
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("block-*.npz")}
    pictures = {path: path.read_bytes() for path in tmp_path.glob("*.png")}
    innerloop("reproduce", "--scale", 0.001, "--out", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("block-*.npz")} == kept
    assert {path: path.read_bytes() for path in tmp_path.glob("*.png")} == pictures


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("figure", [fig2, fig3])
def test_the_equivalent_passes_through_the_dots(figure):
    arrays = figure.compute(scale=0.02)
    for letter in "ab":
        panel = arrays[letter]
        expected = np.interp(panel["rates"], panel["fine"], panel["equivalent"])
        assert (np.abs(panel["loss"] - expected) < 4 * panel["stderr"] + 1e-4).all()
    table = arrays["table"]
    assert (np.abs(table["loss"] - table["theory"]) < 4 * table["stderr"] + 0.0015).all()


@pytest.mark.slow
def test_monte_carlo_agrees_with_the_map():
    design = ratemap.design_at(0.4, 0.7)
    rate, gain = ratemap.best_rate(design)
    measured, measured_gain, error = ratemap.measured_rate(design, 100)
    assert rate < 0
    assert abs(measured / rate - 1) < 0.1
    assert abs(gain - measured_gain) < 4 * error + 0.3
