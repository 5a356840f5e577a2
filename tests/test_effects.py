"""What a mixed-model user reads: effects in the units of the data, against statsmodels and by their laws."""

import numpy as np
import pandas as pd
import pytest

import innerloop as il


def sleep_like(seed=0, n_groups=30, n_rows=8):
    """Return reaction times over days: levels and slopes differ between persons."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), n_rows)
    days = np.tile(np.arange(float(n_rows)), n_groups)
    level, slope = 250 + 25 * rng.standard_normal(n_groups), 10 + 6 * rng.standard_normal(n_groups)
    y = level[groups] + slope[groups] * days + 12 * rng.standard_normal(len(groups))
    return days[:, None], y, groups


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_effects_agree_with_a_mixed_model(seed):
    mixed_linear = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    X, y, groups = sleep_like(seed)
    model = il.MetaRegressor(basis="linear").fit(X, y, groups=groups)
    E = np.column_stack((np.ones(len(y)), X))
    theirs = mixed_linear.MixedLM(y, E, groups, exog_re=E).fit()
    assert model.coef_[0] == pytest.approx(theirs.fe_params[1], rel=0.02)
    assert model.intercept_ == pytest.approx(theirs.fe_params[0], rel=0.02)
    effects = model.effects()
    assert effects.population["coefficient"].tolist() == ["(Intercept)", "x0"]
    np.testing.assert_allclose(effects.population["estimate"], theirs.fe_params, rtol=0.02)
    np.testing.assert_allclose(effects.population["standard_error"], theirs.bse_fe, rtol=0.1)
    assert effects.noise["std"][0] == pytest.approx(np.sqrt(theirs.scale), rel=0.05)
    np.testing.assert_allclose(effects.between_groups["std"], np.sqrt(np.diag(theirs.cov_re)), rtol=0.2)


@pytest.mark.slow
def test_group_effects_are_the_coefficients_of_groups_and_their_errors_are_honest():
    X, y, groups = sleep_like(3)
    model = il.MetaRegressor(basis="linear").fit(X, y, groups=groups)
    frame = model.group_effects()
    assert frame.columns.tolist() == ["group", "coefficient", "estimate", "standard_error"]
    slopes = frame[frame["coefficient"] == "x0"]
    np.testing.assert_allclose(slopes["estimate"], model.group_coef_[:, 0])
    np.testing.assert_allclose(frame[frame["coefficient"] == "(Intercept)"]["estimate"], model.group_intercept_)
    rng = np.random.default_rng(3)  # as in `sleep_like`
    rng.standard_normal(30)
    truth = 10 + 6 * rng.standard_normal(30)
    z = (slopes["estimate"].to_numpy() - truth) / slopes["standard_error"].to_numpy()
    assert np.sqrt(np.mean(z**2)) == pytest.approx(1.0, abs=4 / np.sqrt(2 * 30))


@pytest.mark.slow
def test_units_of_the_data_are_those_of_the_effects():
    X, y, groups = sleep_like(1)
    plain = il.MetaRegressor(basis="linear").fit(X, y, groups=groups)
    scaled = il.MetaRegressor(basis="linear").fit(100 * X, 5 * y, groups=groups)
    mine, theirs = plain.effects(), scaled.effects()
    unit = np.array([1.0, 100.0]) / 5
    np.testing.assert_allclose(theirs.noise["std"] / 5, mine.noise["std"], rtol=1e-3)
    for column in ("estimate", "standard_error"):
        np.testing.assert_allclose(theirs.population[column] * unit, mine.population[column], rtol=1e-3)
    np.testing.assert_allclose(theirs.between_groups["std"] * unit, mine.between_groups["std"], rtol=1e-2)
    np.testing.assert_allclose(theirs.between_groups["x0"], mine.between_groups["x0"], rtol=1e-2)


def test_names_of_columns_targets_and_groups_are_kept():
    X, y, groups = sleep_like(2, n_groups=12)
    frame = pd.DataFrame({"days": X[:, 0], "who": [f"p{g:02d}" for g in groups]})
    model = il.MetaRegressor(group="who").fit(frame, np.column_stack((y, -y)))
    effects, by_group = model.effects(), model.group_effects()
    assert effects.population["target"].tolist() == [0, 0, 1, 1]
    assert set(by_group["coefficient"]) == {"(Intercept)", "days"}
    assert by_group["group"].iloc[0] == "p00"
    assert len(by_group) == 2 * 2 * 12
    assert "Between groups" in str(effects)


def test_the_intercept_is_free_and_nothing_of_a_fold_is_in_its_prediction():
    """With a level far from zero and few groups, the pooled error is the variance round the other groups' mean."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(6), 3)
    y = 1e4 + 20 * rng.standard_normal(6)[groups] + rng.standard_normal(18)
    results = il.MetaRegressor(cv=6).fit(np.zeros((18, 1)), y, groups=groups).adaptation_results_
    at = (results["n_support"] == 0) & (results["adaptation"] == "none")
    means = y.reshape(6, 3).mean(axis=1)
    others = (means.sum() - means) / 5
    expected = np.mean((y.reshape(6, 3) - others[:, None]) ** 2)
    assert results["mse"][at][0] == pytest.approx(expected, rel=1e-6)
