"""Targets that are fitted by their logarithms, and what is said of two classes and of counts."""

import warnings

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from command_line import innerloop
from innerloop.data.targets import target_notes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

QUICK = {"adaptation": "ridge", "basis": "linear", "cv": 3}


def growing(seed=0, n_groups=24, n_rows=8):
    """Return positive targets whose noise grows with their level."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), n_rows)
    X = rng.uniform(0, 3, (len(groups), 1))
    level = rng.standard_normal(n_groups)
    return X, np.exp(level[groups] + 0.7 * X[:, 0] + 0.4 * rng.standard_normal(len(groups))), groups


@pytest.mark.parametrize("n_targets", [None, 2])
def test_everything_is_fitted_to_logarithms_and_transformed_back(tmp_path, n_targets):
    X, y, groups = growing()
    y = y if n_targets is None else np.column_stack((y, 1 / y))
    model = il.MetaRegressor(target_transform="log", **QUICK).fit(X, y, groups)
    of_logs = il.MetaRegressor(**QUICK).fit(X, np.log(y), groups)
    np.testing.assert_array_equal(model.coef_, of_logs.coef_)
    prediction, std = model.predict(X, groups, return_std=True)
    mean, error = of_logs.predict(X, groups, return_std=True)
    np.testing.assert_array_equal(prediction, np.exp(mean))
    np.testing.assert_allclose(std, np.exp(mean) * np.sqrt((np.exp(error**2) - 1) * np.exp(error**2)))
    ends, ends_of_logs = (m.predict_interval(X, groups, 0.8) for m in (model, of_logs))
    np.testing.assert_array_equal(ends, np.exp(ends_of_logs))
    il.save_model(model, tmp_path / "m")
    new = [m.adapt(X[:3], y[:3], ["new"] * 3) for m in (model, il.load_model(tmp_path / "m"))]
    np.testing.assert_array_equal(*(m.predict(X[:5], ["new"] * 5) for m in new))


@pytest.mark.slow
def test_predictions_are_medians_and_intervals_cover():
    above, inside = [], []
    for seed in range(6):
        X, y, groups = growing(seed, 60)
        train, first = groups < 40, (groups >= 40) & (np.arange(len(y)) % 8 < 4)
        later = ~train & ~first
        model = il.MetaRegressor(target_transform="log", **QUICK).fit(X[train], y[train], groups[train])
        new = model.adapt(X[first], y[first], groups[first])
        above.append(np.mean(y[later] > new.predict(X[later], groups[later])))
        low, high = new.predict_interval(X[later], groups[later], 0.9)
        inside.append(np.mean((low <= y[later]) & (y[later] <= high)))
    error = max(np.std(above, ddof=1), 0.02) / np.sqrt(6)
    assert abs(np.mean(above) - 0.5) < 4 * error
    assert abs(np.mean(inside) - 0.9) < 0.04


def test_targets_without_a_logarithm_are_refused_with_their_rows():
    X, y, groups = growing()
    y[[3, 5]] = [-1.0, 0.0]
    model = il.MetaRegressor(target_transform="log", **QUICK)
    with pytest.raises(ValueError, match=r"`y` must be positive for logarithms, got -1, row 3 .* and 1 more row;"):
        model.fit(X, y, groups)
    fitted = model.fit(X[6:], y[6:], groups[6:])
    with pytest.raises(ValueError, match="`y` must be positive for logarithms, got 0, row 0"):
        fitted.adapt(X[:1], [0.0], ["new"])
    with pytest.raises(ValueError, match=r"`tasks\.y` must be positive"):
        il.study(il.TaskSet.from_arrays(X, y, groups), model)
    with pytest.raises(ValueError, match="`target_transform` must be None or 'log', got 'sqrt'"):
        il.MetaRegressor(target_transform="sqrt").fit(X, y, groups)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, 1, 1, 0], "only 0 and 1: predictions are probabilities by least squares"),
        ([0, 3, 1, 0], "whole numbers from 0 up: if it counts"),
        ([0.5, 3, 1, 0], None),
        ([1, 2, 3, 3], None),
        ([-1, 0, 1, 1], None),
        ([0, 0, 0, 0], None),
    ],
)
def test_what_is_said_of_a_target(values, words):
    notes = target_notes(np.array(values, dtype=float))
    assert len(notes) == (words is not None)
    assert words is None or words in notes[0]


def test_notes_are_no_warnings_and_are_kept(tmp_path):
    X, y, groups = growing()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = il.MetaRegressor(**QUICK).fit(X, (y > 2).astype(float), groups)
    assert "only 0 and 1" in model.notes_[0]
    il.save_model(model, tmp_path / "m")
    assert il.load_model(tmp_path / "m").notes_ == model.notes_


@pytest.mark.slow
def test_the_command_fits_logarithms_and_names_lines(tmp_path):
    X, y, groups = growing()
    frame = pd.DataFrame({"who": groups, "x": X[:, 0], "y": y})
    frame.to_csv(tmp_path / "t.csv", index=False)
    columns = ["--group", "who", "--target", "y", "--adaptation", "ridge", "--basis", "linear", "--cv", 2]
    ran = innerloop("fit", tmp_path / "t.csv", *columns, "--log-target", "--out", tmp_path / "m")
    assert ran.code == 0, ran.err
    model = il.load_model(tmp_path / "m")
    assert model.target_transform == "log"
    assert (model.predict(frame[["who", "x"]]) > 0).all()
    frame.loc[4, "y"] = 0.0
    frame.to_csv(tmp_path / "t.csv", index=False)
    ran = innerloop("fit", tmp_path / "t.csv", *columns, "--log-target")
    assert ran.code == 2
    assert "must be positive for logarithms, got 0, line 6" in ran.err
    frame.assign(y=(frame["y"] > 2).astype(int)).to_csv(tmp_path / "t.csv", index=False)
    assert "the target has only 0 and 1" in innerloop("fit", tmp_path / "t.csv", *columns).out
