"""Quantiles of held-out residuals: right for a further task, however few there are and however alike a task's are."""

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from innerloop.tabular.intervals import Calibration, _n_independent


def drawn(rng, m, n, share, tails):
    """Return standardised residuals of m tasks, of whose variance a share is common to the task's n rows."""
    both = [
        rng.standard_normal((m, k)) if tails == "normal" else rng.standard_t(3, (m, k)) / np.sqrt(3) for k in (1, n)
    ]
    return np.sqrt(share) * both[0] + np.sqrt(1 - share) * both[1]


def calibrated(z):
    m, n = z.shape
    return Calibration.of({0: [(z.reshape(-1, 1), np.repeat(np.arange(m), n))]})


@pytest.mark.slow
@pytest.mark.parametrize("tails", ["normal", "heavy"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
@pytest.mark.parametrize(("m", "n"), [(2, 1), (2, 10), (4, 1), (4, 10), (8, 1), (8, 10), (31, 1), (31, 10), (100, 5)])
def test_a_further_task_is_covered_on_average(m, n, share, tails):
    rng = np.random.default_rng(0)
    truth = np.sort(np.abs(drawn(rng, 40_000, 5, share, tails)).ravel())
    calibrations = [calibrated(drawn(np.random.default_rng(seed), m, n, share, tails)) for seed in range(200)]
    for level in (0.5, 0.8, 0.9):
        widths = [calibration.half_width(np.zeros(1), level)[0, 0] for calibration in calibrations]
        covered = np.searchsorted(truth, widths) / len(truth)
        error = covered.std() / np.sqrt(200)
        # Two to four tasks hardly tell how alike the residuals of a task are.
        assert covered.mean() == pytest.approx(level, abs=(0.07 if m <= 4 else 0.03) + 4 * error)


@pytest.mark.parametrize(
    ("share", "m", "n", "expected"), [(0.0, 200, 1, 200), (0.0, 200, 20, 4000), (1.0, 200, 20, 200)]
)
def test_independent_residuals_are_counted(share, m, n, expected):
    z = np.abs(drawn(np.random.default_rng(0), m, n, share, "normal")).ravel()
    found = _n_independent(z, np.quantile(z, np.arange(1, 20) / 20), np.repeat(np.arange(m), n))
    assert found == pytest.approx(expected, rel=0.2)


def test_residuals_all_alike_are_of_as_many_tasks():
    found = _n_independent(np.ones(12), np.ones(19), np.repeat(np.arange(4), 3))
    assert found == 4


def test_many_residuals_have_their_own_quantiles():
    z = drawn(np.random.default_rng(0), 4000, 20, 0.0, "normal")
    found = calibrated(z)
    for level in (0.1, 0.5, 0.9, 0.99):
        assert found.half_width(np.zeros(1), level)[0, 0] == pytest.approx(norm.ppf((1 + level) / 2), rel=0.02)
    assert found.scale[0, 0] == pytest.approx(1.0, abs=0.02)


def test_levels_beyond_the_residuals_have_the_tail_of_student():
    z = np.array([[1.0], [2.0], [3.0], [4.0]])
    n = 16 / 4.5  # of four tasks of one row, and half a task
    widths = calibrated(z).half_width(np.zeros(1), 0.95), calibrated(z).half_width(np.zeros(1), 0.9)
    assert widths[0] / widths[1] == pytest.approx(student.ppf(0.975, n) / student.ppf(0.95, n), rel=1e-6)
    within = n / (n + 1)  # up to here quantiles are among the residuals
    at_last = np.interp(within + (within - 0.5) / n, [0.0, 0.125, 0.375, 0.625, 0.875], [0.0, 1.0, 2.0, 3.0, 4.0])
    tail = student.ppf(0.95, n) / student.ppf((1 + within) / 2, n)
    assert widths[1] == pytest.approx(at_last * tail, rel=1e-6)


def test_tasks_count_alike():
    sizes = [90, *[1] * 9]
    for of_the_long_task, of_the_others in ((1.0, 3.0), (3.0, 1.0)):
        z = np.repeat([of_the_long_task, *[of_the_others] * 9], sizes)[:, None]
        found = Calibration.of({0: [(z, np.repeat(np.arange(10), sizes))]})
        assert found.scale[0, 0] == pytest.approx(np.sqrt(0.1 * of_the_long_task**2 + 0.9 * of_the_others**2))
        assert found.half_width(np.array([7]), 0.5)[0, 0] == of_the_others


def test_the_order_and_the_parts_of_residuals_do_not_matter():
    rng = np.random.default_rng(0)
    z, task = rng.standard_normal((60, 2)), np.repeat(np.arange(6), 10)
    order = rng.permutation(60)
    parts = [(z[part], task[part]) for part in np.array_split(order, 4)]
    found, whole = Calibration.of({0: parts}), Calibration.of({0: [(z, task)]})
    np.testing.assert_allclose(found.quantiles, whole.quantiles, rtol=1e-12)
