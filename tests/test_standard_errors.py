"""Standard errors are the deviations that means have over fresh draws."""

import numpy as np
import pytest

from innerloop._base.standard_errors import mean_and_error, ratio_errors, standard_errors


def test_errors_are_the_deviations_of_means_over_draws():
    draws = np.random.default_rng(0).exponential(size=(4000, 30, 2)) * [1.0, 5.0]
    deviation = draws.mean(axis=1).std(axis=0)
    assert np.sqrt(np.mean([standard_errors(one) ** 2 for one in draws], axis=0)) == pytest.approx(deviation, rel=0.05)
    assert mean_and_error(draws[0, :, 1]) == pytest.approx((draws[0, :, 1].mean(), standard_errors(draws[0])[1]))


def test_the_error_of_a_ratio_is_the_deviation_of_ratios_over_draws():
    rng = np.random.default_rng(1)
    first = 3 + rng.exponential(size=(4000, 200))
    mse = first + rng.standard_normal(first.shape)
    errors = np.array([ratio_errors(*pair) for pair in zip(mse, first, strict=True)])
    ratios = first.mean(axis=1) / mse.mean(axis=1)
    assert np.sqrt((errors**2).mean(axis=0)) == pytest.approx([ratios.std(), (1 / ratios).std()], rel=0.05)


def test_one_task_has_no_error():
    np.testing.assert_array_equal(standard_errors(np.ones((1, 3))), np.full(3, np.nan))
    assert mean_and_error(np.array([2.0])) == (2.0, np.inf)
