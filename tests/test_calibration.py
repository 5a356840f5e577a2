"""The theory's model fitted to a table."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import innerloop as il
from innerloop.evaluation.calibrated_model import Interval

p = 5
DIST = il.MixedLinearRegression(
    p, noise_std=1.0, task_std=np.linspace(0.2, 0.6, p), mean=np.arange(p) / 2, covariance=np.linspace(0.5, 1.5, p)
)
SPREAD = np.sqrt(DIST.task_variances @ DIST.eigenvalues)


@pytest.fixture(scope="module")
def tasks():
    return DIST.sample_tasks(150, 16, seed=1)


@pytest.fixture(scope="module")
def calibrated(tasks):
    return il.calibrate(tasks, n_resamples=20, standardize=False, fit_intercept=False)


def test_the_model_is_found_again(calibrated):
    assert abs(float(calibrated.noise_std.value) - 1.0) < 0.1
    assert abs(float(calibrated.task_spread.value) / SPREAD - 1) < 0.15
    assert np.abs(calibrated.task_std.value - DIST.task_std).max() < 0.12
    assert np.abs(calibrated.mean.value - DIST.centre).max() < 0.2
    assert calibrated.dist.n_features == p


def test_intervals_hold_the_truth(calibrated):
    for interval, truth in ((calibrated.noise_std, 1.0), (calibrated.task_spread, SPREAD)):
        error = (interval.high - interval.value) / 1.645
        assert abs(interval.value - truth) < 4 * error
    assert (calibrated.task_std.low >= 0).all()
    assert str(calibrated.noise_std).count("to") == 1


def test_intervals_are_those_of_a_normal_estimate_at_90_percent():
    drawn = np.random.default_rng(0).normal(5.0, 2.0, 100_000)
    interval = Interval.of(5.0, drawn, narrowed=1.0)
    assert (interval.low, interval.high) == pytest.approx(tuple(norm.interval(0.9, 5.0, 2.0)), rel=0.01)
    half = Interval.of(5.0, drawn, narrowed=0.5)
    assert half.high - half.low == pytest.approx((interval.high - interval.low) / 2)


def test_intervals_are_as_narrow_from_resamples_of_fewer_tasks(tasks, calibrated, monkeypatch):
    monkeypatch.setattr("innerloop.evaluation.calibrated_model._MOST_RESAMPLED", 50)
    few = il.calibrate(tasks, n_resamples=20, standardize=False, fit_intercept=False)
    for name in ("noise_std", "task_spread"):
        widths = [float(getattr(model, name).high - getattr(model, name).low) for model in (few, calibrated)]
        assert 0.65 < widths[0] / widths[1] < 1.45  # 1.7 if they were those of 50 tasks


def test_predicted_errors_are_those_of_the_distribution(calibrated):
    design = calibrated.design(8)
    assert (design.n_tasks, design.groups[0].n_support, design.groups[0].n_query) == (150, 8, 8)
    predicted = calibrated.predicted_mse(design, 0.0, np.array([0.0, 0.2, 0.4]))
    true = 2 * np.asarray(il.expected_loss(DIST, design, 0.0, np.array([0.0, 0.2, 0.4])))
    assert np.abs(predicted / true - 1).max() < 0.1


def test_sizes_that_the_table_does_not_have_are_asked_for_in_full(calibrated):
    with pytest.raises(ValueError, match=r"`n_support` must be below the rows of the median task, 16, .* got 16; give"):
        calibrated.design(16)
    with pytest.raises(ValueError, match="`n_support` must be at least 1, got 0"):
        calibrated.design(0)
    with pytest.raises(ValueError, match="`n_query` must be at least 1, got 0"):
        calibrated.design(8, n_query=0)
    (group,) = calibrated.design(500, n_query=20).groups
    assert group == (500, 20, 150)


def test_features_that_repeat_others_have_no_variance_below_zero():
    drawn = DIST.sample_tasks(20, 10, seed=5)
    twice = il.TaskSet.from_arrays(np.column_stack((drawn.X, drawn.X)), drawn.y, drawn.task_of_row)
    found = il.calibrate(twice, n_resamples=5)
    assert (found.spectrum.value >= 0).all()
    assert (found.spectrum.low <= found.spectrum.high).all()
    assert found.dist.n_features == p + 1


def test_a_model_reads_as_a_table_of_its_coefficients(calibrated):
    first, deviations, header, *rows = str(calibrated).splitlines()
    assert first.startswith("150 tasks, the median one of 16 rows")
    assert str(calibrated.noise_std) in deviations
    assert header.split()[:2] == ["coefficient", "population"]
    assert [row.split()[0] for row in rows] == list(calibrated.columns)
    assert f"{calibrated.mean.value[2]:.3g}" in rows[2]
    assert "array" not in repr(calibrated)


def test_many_coefficients_are_not_all_printed():
    wide = il.MixedLinearRegression(25).sample_tasks(12, 6, seed=6)
    assert str(il.calibrate(wide, n_resamples=2)).splitlines()[-1] == "and 6 more"


def test_what_cannot_be_calibrated(tasks):
    with pytest.raises(ValueError, match="`tasks` must hold at least two tasks"):
        il.calibrate(tasks.select([0]))
    two = il.TaskSet.from_arrays(tasks.X, np.column_stack((tasks.y, tasks.y)), tasks.task_of_row)
    with pytest.raises(ValueError, match="`tasks` must have one target, got 2"):
        il.calibrate(two)
    with pytest.raises(ValueError, match="`n_resamples` must be at least 2"):
        il.calibrate(tasks, n_resamples=1)


@pytest.mark.parametrize("function", [il.advise, il.calibrate, il.compare], ids=lambda f: f.__name__)
@pytest.mark.parametrize("tasks", [pd.DataFrame({"a": [1, 2]}), np.zeros((4, 2))], ids=["frame", "array"])
def test_what_is_no_task_set_is_told_how_to_become_one(function, tasks):
    kind = type(tasks).__name__
    with pytest.raises(TypeError, match=rf"`tasks` must be a TaskSet, got {kind}; make one with TaskSet.from_table"):
        function(tasks)
