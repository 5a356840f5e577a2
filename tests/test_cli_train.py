"""`innerloop train`: both tasks, every way to be cut off, and what it refuses."""

import json
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")

import numpy as np
import pandas as pd
import xarray as xr
from PIL import Image

from command_line import innerloop, tree
from innerloop.neural import MetaTrainer
from omniglot_archive import ALPHABETS, write_archive

SINE = ["train", "--task", "sinusoid", "--n-tasks", 3, "--width", 6, "--n-test", 20, "--n-validation", 5]
SMALL = ["--ways", 3, "--n-tasks", 2, "--width", 4, "--n-test", 20, "--n-validation", 5]
pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory):
    archive = write_archive(tmp_path_factory.mktemp("data") / "small.zip")
    return ["train", "--task", "omniglot", "--data", archive, *SMALL]


@pytest.mark.slow
def test_accuracy_beside_baselines(omniglot, tmp_path):
    ran = innerloop(*omniglot, "--iterations", 3, "--out", tmp_path / "o")
    assert ran.code == 0, ran.err
    assert "Omniglot, 3 ways, 1 shot, Conv4 of width 4, 1 step, maml: 3 iterations" in ran.out
    found = json.loads((tmp_path / "o" / "result.json").read_text())
    assert list(found["accuracy"]) == [
        "after 0 steps",
        "after 1 step",
        "prototypical network, same body",
        "class means of the trained body",
        "class means of pixels",
        "nearest neighbour of pixels",
    ]
    assert found["accuracy"]["nearest neighbour of pixels"]["mean"] > 0.6
    lines = {name: line.split() for name in found["accuracy"] for line in ran.out.splitlines() if line.startswith(name)}
    for name, score in found["accuracy"].items():
        assert [float(x) for x in lines[name][-2:]] == pytest.approx(
            [100 * score["mean"], 196 * score["stderr"]], rel=0.05
        )


def test_errors_of_sine_waves_after_each_step():
    ran = innerloop(*SINE, "--iterations", 5, "--adapt-lr", -0.01, "--n-steps", 2, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert list(found["mse"]) == [f"after {k} step{'' if k == 1 else 's'}" for k in range(6)]
    assert found["adapt_lr"] == -0.01
    assert found["mse"]["after 5 steps"]["mean"] > found["mse"]["after 0 steps"]["mean"]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["conv4", "mlp"])
@pytest.mark.parametrize("algorithm", ["anil", "meta-sgd"])
def test_networks_and_algorithms(omniglot, network, algorithm):
    ran = innerloop(*omniglot, "--iterations", 1, "--network", network, "--algorithm", algorithm, "--no-baselines")
    assert ran.code == 0, ran.err
    assert ("adapt_lr as learned" in ran.out) == (algorithm == "meta-sgd")
    assert "class means" not in ran.out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["omniglot", "sinusoid"])
def test_a_training_that_was_cut_off_ends_the_same(omniglot, tmp_path, monkeypatch, kind):
    command = [*(omniglot if kind == "omniglot" else SINE), "--iterations", 6, "--checkpoint-every", 2, "--json"]
    whole = innerloop(*command, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    step = MetaTrainer.step

    def interrupted(trainer):
        if trainer.iteration == 3:
            raise KeyboardInterrupt
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(MetaTrainer, "step", interrupted)
        cut = innerloop(*command, "--out", tmp_path / "cut")
    assert cut.code == 130
    assert cut.err.startswith("innerloop: stopped. To go on: innerloop train")
    assert not (tmp_path / "cut" / "result.json").exists()
    resumed = innerloop(*command, "--out", tmp_path / "cut")
    assert resumed.out == whole.out
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")  # names hold checksums


def test_checkpoints_of_one_seed_are_the_same_whatever_was_drawn_before(tmp_path):
    states = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        torch.seed()
        ran = innerloop(*SINE, "--iterations", 2, "--out", folder)
        assert ran.code == 0, ran.err
        states.append({path.name: path.read_bytes() for path in (folder / "checkpoint").iterdir()})
    assert states[0] == states[1]


@pytest.mark.slow
def test_a_finished_training_goes_on_but_not_back(tmp_path):
    whole = innerloop(*SINE, "--iterations", 6, "--json")
    assert innerloop(*SINE, "--iterations", 3, "--out", tmp_path / "o").code == 0
    assert innerloop(*SINE, "--iterations", 6, "--json", "--out", tmp_path / "o").out == whole.out
    ran = innerloop(*SINE, "--iterations", 5, "--out", tmp_path / "o")
    assert ran.code == 2
    assert "`--iterations` must be at least 6, which" in ran.err


@pytest.mark.slow
def test_tensorboard_is_written(tmp_path):
    pytest.importorskip("tensorboard")
    assert innerloop(*SINE, "--iterations", 10, "--tensorboard", tmp_path / "tb").code == 0
    assert [path.name.split(".")[0] for path in (tmp_path / "tb").iterdir()] == ["events"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["omniglot", "sinusoid"])
def test_a_sweep_is_printed_saved_and_drawn(omniglot, tmp_path, kind):
    pytest.importorskip("matplotlib")
    problem = [*omniglot, "--network", "mlp"] if kind == "omniglot" else SINE
    command = [*problem, "--iterations", 2, "--out", tmp_path / "o", "--sweep", -0.1, 0.1]
    ran = innerloop(*command, "--seeds", 2)
    assert ran.code == 0, ran.err
    with xr.open_dataset(tmp_path / "o" / "sweep.nc", engine="scipy") as result:
        assert result.inner_lr.values.tolist() == [-0.1, 0.0, 0.1]
        assert {"metric", "metric_difference", "metric_difference_stderr", "adapt_lr", "loss"} <= set(result.data_vars)
        metric = result.metric.values
        best = metric.argmax() if kind == "omniglot" else metric.argmin()
        rate = result.inner_lr.values[int(best)]
    assert f"Of these rates inner_lr = {rate:g} does best" in ran.out
    assert (tmp_path / "o" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "o" / "seeds").glob("block-*.npz")}
    more = json.loads(innerloop(*command, "--seeds", 3, "--json").out)
    assert more["inner_lr"] == [-0.1, 0.0, 0.1]
    assert len(more["metric_by_seed"]) == 3
    assert len(kept) == 2
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


@pytest.mark.slow
def test_the_kernel_predicts_the_seeds_of_a_sweep(tmp_path):
    pytest.importorskip("matplotlib")
    command = [*SINE, "--iterations", 2, "--sweep", -0.01, 0.1, "--seeds", 3]
    ran = innerloop(*command, "--kernel", "--out", tmp_path / "o")
    assert ran.code == 0, ran.err
    with xr.open_dataset(tmp_path / "o" / "sweep.nc", engine="scipy") as result:
        np.testing.assert_allclose(result.kernel_metric, 2 * result.kernel_loss)
        gap = result.kernel_loss_by_seed - result.kernel_loss_by_seed.sel(inner_lr=0)
        np.testing.assert_allclose(result.kernel_metric_difference, 2 * gap.mean("seed"), atol=1e-12)
        best = float(result.inner_lr[int(result.kernel_metric.values.argmin())])
        trained = result.drop_vars([name for name in result if name.startswith("kernel_")]).load()
    assert f"Linearised at its start, without training: Of these rates inner_lr = {best:g} does best" in ran.out
    alone = json.loads(innerloop(*command, "--json").out)
    assert alone["metric"] == trained.metric.values.tolist()
    assert not any(name.startswith("kernel_") for name in alone)


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds", [1, 2, 3])
def test_a_sweep_claims_no_standard_errors_that_its_seeds_cannot_bear(n_seeds):
    command = [*SINE, "--iterations", 2, "--sweep", 0.1, "--seeds", n_seeds]
    ran = innerloop(*command)
    assert ran.code == 0, ran.err
    assert "nan" not in ran.out
    assert ("too few to tell it from chance" in ran.out) == (n_seeds < 3)
    row = next(line for line in ran.out.splitlines() if line.split()[:1] == ["0.1"])
    assert len(row.split()) == (6 if n_seeds > 2 else 4)
    found = json.loads(innerloop(*command, "--json").out, parse_constant=pytest.fail)
    assert (found["metric_stderr"][0] is None) == (n_seeds == 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--task", "chess"], '"chess"'),
        (["--task", "omniglot"], "`--task omniglot` needs `--data` with the archive"),
        (["--task", "omniglot", "--data", "none.zip"], "there is no archive none.zip"),
        (["--task", "omniglot", "--data", "bad.zip"], "bad.zip is no zip archive or a damaged one"),
        (["--task", "omniglot", "--data", "small.zip", "--ways", 13], "the number of training classes (12), got 13"),
        (
            ["--task", "omniglot", "--data", "small.zip", "--ways", 4, "--shots", 2],
            "has 3 drawing(s), too few for 5 support and query",
        ),
        (["--task", "omniglot", "--data", "small.zip", "--test", "Klingon"], "`test` names 'Klingon'"),
        (
            ["--task", "sinusoid", "--inner-lr", "nan"],
            "`--inner-lr` must be a finite number (zero and negative are fine)",
        ),
        (["--task", "sinusoid", "--adapt-lr", "inf"], "`--adapt-lr` must be a finite number"),
        (["--task", "sinusoid", "--outer-lr", 0], "`--outer-lr` must be positive, got 0."),
        (["--task", "sinusoid", "--sweep", 0.1, "nan"], "`--sweep` must be a finite number"),
        (["--task", "sinusoid", "--sweep", 0.1, "--algorithm", "meta-sgd"], "`--sweep` compares fixed rates"),
        (["--task", "sinusoid", "--sweep", 0.1, "--adapt-lr", 0.1], "`--adapt-lr` cannot be given with `--sweep`"),
        (["--task", "sinusoid", "--sweep", 0.1, "--tensorboard", "tb"], "`--tensorboard` cannot be given with"),
        (["--task", "sinusoid", "--kernel"], "`--kernel` predicts a sweep; give `--sweep`"),
        (["--task", "sinusoid", "--sweep", 0.1, "--kernel", "--algorithm", "reptile"], "`--kernel` predicts maml"),
        ([], "`innerloop train` needs `--data` with your tasks, or `--task sinusoid`."),
        (["--task", "table", "--data", "t.csv"], "`--task table` needs `--data` with one file, `--group` and"),
        (["--data", "."], "must hold a folder of images for each class"),
        (["--task", "sinusoid", "--group", "g"], "`--group` is an option of --task table; leave it out."),
        (["--task", "sinusoid", "--ways", 3], "`--ways` is an option of --task omniglot; leave it out."),
        (["--task", "sinusoid", "--shots", 0], "`--shots` must be at least 1, got 0."),
        (["--task", "sinusoid", "--iterations", -1], "`--iterations` must be at least 1, got -1."),
        (["--task", "sinusoid", "--device", "abacus"], "`--device` or `--compile` cannot be had here: "),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "small.zip", n_characters=1, n_drawings=3, alphabets=ALPHABETS)
    (tmp_path / "bad.zip").write_bytes((tmp_path / "small.zip").read_bytes()[:900])
    before = tree(tmp_path)
    ran = innerloop("train", *arguments, "--out", "o")
    assert ran.code == 2
    assert sentence in ran.err
    assert len(ran.err.splitlines()) == 1
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_the_folder_of_another_training_is_refused(tmp_path):
    assert innerloop(*SINE, "--iterations", 1, "--out", tmp_path / "o").code == 0
    before = tree(tmp_path)
    ran = innerloop(*SINE, "--iterations", 1, "--shots", 3, "--out", tmp_path / "o")
    assert ran.code == 2
    assert "holds another training (shots 10 there, 3 asked for)" in ran.err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("Dear")
    ran = innerloop(*SINE, "--iterations", 1, "--out", tmp_path / "other")
    assert ran.code == 2
    assert "holds files that are no training" in ran.err
    assert tree(tmp_path) == sorted([*before, "other", "other/letter.txt"])


@pytest.mark.slow
def test_a_table_of_ones_own(tmp_path):
    rng = np.random.default_rng(0)
    groups = np.repeat([f"g{i}" for i in range(30)], 8)
    x = 1000 + 50 * rng.standard_normal(240)
    frame = pd.DataFrame({"x": x, "constant": 3.0, "who": groups, "y": 1e4 * x + 1e5 * rng.standard_normal(240)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    sizes = ["--shots", 3, "--queries", 4, "--n-tasks", 3, "--width", 6, "--n-test", 20, "--n-validation", 5]
    command = ["train", "--data", tmp_path / "t.csv", "--group", "who", "--target", "y", *sizes, "--iterations", 2]
    ran = innerloop(*command, "--json", "--out", tmp_path / "o")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["settings"]["task"] == "table"
    assert 0.1 < found["mse"]["after 0 steps"]["mean"] < 5  # of a target of variance 1
    frame.assign(y=frame.y * 2 + frame.x).to_csv(tmp_path / "t.csv", index=False)
    again = innerloop(*command, "--out", tmp_path / "o")
    assert again.code == 2
    assert "holds another training (source" in again.err


@pytest.mark.slow
def test_a_folder_of_images_of_ones_own(tmp_path):
    for i in range(10):
        (tmp_path / "images" / f"class {i}").mkdir(parents=True)
        for k in range(3):
            Image.new("L", (8, 8), 20 * i + k).save(tmp_path / "images" / f"class {i}" / f"{k}.png")
    sizes = ["--ways", 2, "--n-tasks", 2, "--width", 4, "--n-test", 3, "--n-validation", 2, "--queries", 2]
    ran = innerloop("train", "--data", tmp_path / "images", *sizes, "--iterations", 1)
    assert ran.code == 0, ran.err
    assert "Images, 2 ways, 1 shot, Conv4 of width 4, 1 step, maml: 1 iterations" in ran.out
    assert "nearest neighbour of pixels" in ran.out


def test_a_missing_torch_is_said(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("innerloop.neural")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    ran = innerloop("train", "--task", "sinusoid")
    assert ran.code == 2
    assert ran.err == "innerloop: `innerloop train` needs PyTorch: pip install 'innerloop[neural]'.\n"
