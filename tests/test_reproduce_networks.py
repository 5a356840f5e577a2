"""`innerloop reproduce fig5`."""

import numpy as np
import pytest

import innerloop as il
from command_line import innerloop, tree
from innerloop.papers.bernacchia2021 import fig5

pytest.importorskip("torch")


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(fig5, "_SEEDS_PER_BLOCK", 1)
    monkeypatch.setattr(fig5, "_KERNEL_SEEDS_PER_BLOCK", 2)
    monkeypatch.setattr(fig5, "_MOST_STEPS", 3)
    monkeypatch.setattr(fig5, "N_TEST_TASKS", 3)


@pytest.mark.slow
@pytest.mark.usefixtures("_small")
def test_the_figure_is_drawn_and_its_seeds_kept(tmp_path):
    pytest.importorskip("matplotlib")
    ran = innerloop("reproduce", "fig5", "--scale", 0.001, "--out", tmp_path)
    assert ran.code == 0
    assert (tmp_path / "fig5.png").read_bytes().startswith(b"\x89PNG")
    assert "c: positive" in ran.out
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("block-*.npz")}
    again = innerloop("reproduce", "fig5", "--scale", 0.001, "--out", tmp_path)
    assert again.out == ran.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("block-*.npz")} == kept


def test_torch_is_asked_for_in_one_sentence(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("innerloop.cli.reproduce.find_spec", lambda _: None)
    ran = innerloop("reproduce", "fig5", "--scale", 0.01)
    assert ran.code == 2
    assert ran.err == "innerloop: `reproduce fig5` needs PyTorch: pip install 'innerloop[neural]'.\n"
    assert not [path for path in tree(tmp_path) if str(path).endswith(".npz")]


@pytest.mark.slow
def test_networks_follow_their_kernel():
    """Seed by seed, at the width of the figure, without rate and at a rate of each sign."""
    setting, rates = fig5.SETTINGS["b"], np.array([-0.4, 0.0, 0.4])
    runs = fig5.prepare(setting, range(3))
    params, left = fig5.train_networks(runs, rates)
    assert left.max() < 1e-3
    from innerloop.papers.bernacchia2021.network import losses

    tasks = fig5.as_tensors(runs.test, 3)
    found = losses(params, tasks, left.new_full((9,), setting.adapt_lr), fig5.BIAS_STD).view(3, 3).numpy()
    expected = il.solve_path(runs.objective, rates).test_loss(runs.test, setting.adapt_lr).T
    np.testing.assert_allclose(found, expected, rtol=0.05)


def test_rates_are_chosen_on_other_seeds():
    rng = np.random.default_rng(0)
    loss, kernel = rng.standard_normal((6, len(fig5.RATES))), rng.standard_normal((20, len(fig5.FINE)))
    at = np.searchsorted(fig5.FINE, fig5.RATES)
    negative, positive = fig5.answers({"a": {"loss": loss, "kernel": kernel}})
    others = kernel[6:].mean(axis=0)[at]
    i = others[:5].argmin()
    assert negative.inner_lr == fig5.RATES[i]
    gain = loss[:, i] - loss[:, 5]
    assert negative.network == pytest.approx(gain.mean())
    assert negative.network_stderr == pytest.approx(gain.std(ddof=1) / np.sqrt(6))
    assert positive.inner_lr == fig5.RATES[6 + others[6:].argmin()]
