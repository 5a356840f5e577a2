"""Certified least-squares results of NIST, through the solver and through the estimator."""

import json
from pathlib import Path

import numpy as np
import pytest

import innerloop as il

DATA = json.loads((Path(__file__).parent / "data" / "nist_linear.json").read_text())
SETS = {name: entry for name, entry in DATA.items() if name != "source"}


def features(entry):
    if "X" in entry:
        return np.array(entry["X"])
    return np.array(entry["x"])[:, None] ** np.arange(1, entry["degree"] + 1)


def correct_digits(coef, certified):
    return -np.log10(max(np.max(np.abs(coef / certified - 1)), 1e-16))


def test_all_eleven_sets_are_here():
    assert len(SETS) == 11


@pytest.mark.parametrize("name", SETS)
def test_solver_gives_seven_certified_digits(name):
    entry = SETS[name]
    X, y = features(entry), np.array(entry["y"])
    if entry["intercept"]:
        X = np.column_stack((np.ones(len(X)), X))
    objective = il.MetaObjective.from_episodes(il.Episodes([(X[:3], y[:3], X, y)]))
    assert correct_digits(il.solve(objective, inner_lr=0).coef, np.array(entry["coef"])) >= 7


@pytest.mark.parametrize("name", SETS)
def test_estimator_gives_seven_certified_digits(name):
    entry = SETS[name]
    model = il.MetaRegressor(inner_lr=0, l2=0, fit_intercept=entry["intercept"])
    with pytest.warns(UserWarning, match="neither `groups` nor `group` is given"):
        model.fit(features(entry), np.array(entry["y"]))
    coef = np.append(model.intercept_, model.coef_) if entry["intercept"] else model.coef_
    assert correct_digits(coef, np.array(entry["coef"])) >= 7
