"""The options of `innerloop theory` reach the library, and files of covariances are read or refused by name."""

import json
import math
import re

import numpy as np
import pytest

import innerloop as il
from command_line import innerloop

P = 20
SIZES = ["--n-tasks", "3", "--n-features", str(P), "--n-query", "3", "--n-adapt", "5"]
SPECTRUM = np.linspace(3.0, 0.2, P)


def found(*options):
    support = [] if "--n-support" in options else ["--n-support", "8"]
    ran = innerloop("theory", *SIZES, *support, *options, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def linear(**options):
    return il.MixedLinearRegression(P, 1.0, 0.5, **options)


def design(n_support=8, n_query=3, **options):
    return il.Design(3, n_support, n_query, 5, **options)


OPTIONS = {
    "protocol": (["--protocol", "train"], linear(), design(protocol="train")),
    "ragged sizes": (["--n-support", "8", "5", "2"], linear(), design([8, 5, 2])),
    "steps on new tasks": (["--n-adapt-steps", "3"], linear(), design(n_adapt_steps=3)),
    "penalty": (["--l2", "0.3"], linear(), design(l2=0.3)),
    "rule": (["--inner-rule", "implicit"], linear(), design(inner_rule="implicit")),
    "flow": (["--flow"], linear(), design(n_steps=math.inf)),
    "power": (["--covariance", "1"], linear(covariance=P * (s := 1 / np.arange(1, P + 1)) / s.sum()), design()),
    "t rows": (["--row-dof", "8"], linear(row_dof=8.0), design()),
    "intercept": (["--intercept"], linear(intercept=True), design()),
}


@pytest.mark.parametrize(("options", "dist", "sizes"), OPTIONS.values(), ids=OPTIONS)
def test_options_reach_the_theory(options, dist, sizes):
    shown, best = found(*options), il.optimal_rates(dist, sizes)
    for name in ("inner_lr", "adapt_lr", "loss", "loss_untrained", "loss_no_inner"):
        rel = 1e-9 if name.startswith("loss") else 1e-4  # losses are flat at their best rates
        assert float(shown[name]) == pytest.approx(getattr(best, name), rel=rel), name
    assert shown != found()


@pytest.mark.parametrize("kind", ["variances", "matrix"])
def test_a_covariance_may_be_a_file(tmp_path, kind):
    path = tmp_path / "covariance.txt"
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((P, P)))[0]
    np.savetxt(path, SPECTRUM if kind == "variances" else rotation * SPECTRUM @ rotation.T)
    best = il.optimal_rates(linear(covariance=SPECTRUM), design())
    assert found("--covariance", path)["loss"] == pytest.approx(best.loss, rel=1e-9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 2 3\n4 5 6\n", r"one number a line or a square matrix, got shape \(2, 3\)"),
        ("1 2\n3 4\n", "must hold a symmetric matrix"),
        ("one\ntwo\n", "must hold numbers, one a line or a square matrix"),
        ("1\n-1\n", "covariance"),
    ],
    ids=["oblong", "not symmetric", "words", "negative"],
)
def test_other_files_are_refused_in_a_sentence(tmp_path, content, message):
    path = tmp_path / "covariance.txt"
    path.write_text(content)
    ran = innerloop("theory", *SIZES, "--covariance", path)
    assert ran.code == 2
    assert ran.out == ""
    assert len(ran.err.strip().splitlines()) == 1
    assert re.search(message, ran.err)


@pytest.mark.slow
def test_a_budget_is_split_with_the_best_penalty():
    plans = found("--budget", "30", "--init-distance", "1", "--l2", "best")["plans"]
    free = found("--budget", "30", "--init-distance", "1")["plans"]
    assert all(float(plan["l2"]) >= 0 for plan in plans)
    assert plans[0]["loss"] < free[0]["loss"]
    assert all(plan["loss"] >= plans[0]["loss"] for plan in plans)


def test_simulate_says_where_theory_is_off(monkeypatch):
    from innerloop.cli import simulate

    sizes = [*SIZES, "--n-support", "8", "--n-runs", "300", "--jobs", "1"]
    assert "trust the simulation" not in innerloop("simulate", *sizes).out
    predicted = simulate._predicted
    monkeypatch.setattr(simulate, "_predicted", lambda *arguments: 1.2 * predicted(*arguments))
    ran = innerloop("simulate", *sizes)
    assert ran.code == 0
    assert "Theory and simulation differ by up to 2" in ran.out
    assert "trust the simulation" in " ".join(ran.out.split())
