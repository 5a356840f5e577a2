"""MetaRegressor: what is fitted, predicted and adapted, against plain formulas and explicit loops."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.preprocessing import StandardScaler

import innerloop as il
import reference
from cases import table
from innerloop.data.ids import distinct_ids

pytestmark = pytest.mark.usefixtures("one_thread")

RATES = {"inner_lr": -0.2, "adapt_lr": 0.3, "l2": 0.01}
UNEQUAL = [1, 7, 3, 12, 1, 2, 9, 5]


def original(model, theta, X):
    """Return predictions of coefficients in the units of meta-training, y_mean added."""
    return model._table.scaling.design(X) @ theta + model._table.scaling.y_mean


@pytest.mark.slow
@pytest.mark.parametrize("n_targets", [None, 1, 3])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_without_inner_loop_it_is_ordinary_least_squares_on_all_rows(n_targets, fit_intercept):
    X, y, groups = table(UNEQUAL, 4, n_targets)
    X, y = X * [1.0, 1e-3, 50.0, 1.0] + [0.0, 3.0, 100.0, -1.0], y + 5.0
    model = il.MetaRegressor(inner_lr=0, adapt_lr=0, l2=0, fit_intercept=fit_intercept).fit(X, y, groups)
    plain = LinearRegression(fit_intercept=fit_intercept).fit(X, y)
    np.testing.assert_allclose(model.coef_, plain.coef_, rtol=1e-9)
    np.testing.assert_allclose(model.intercept_, plain.intercept_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.predict(X, groups), plain.predict(X), rtol=1e-9)
    assert model.coef_.shape == plain.coef_.shape
    assert model.score(X, y, groups=groups) == pytest.approx(plain.score(X, y), abs=1e-12)


@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize("l2", [1e-3, 0.1, 10.0])
def test_without_inner_loop_a_penalty_makes_it_ridge_on_standardised_features(l2, n_targets):
    X, y, groups = table(UNEQUAL, 4, n_targets)
    X = X * [1.0, 1e-3, 50.0, 1.0] + [0.0, 3.0, 100.0, -1.0]
    model = il.MetaRegressor(inner_lr=0, adapt_lr=0, l2=l2).fit(X, y, groups)
    standard = StandardScaler().fit_transform(X)
    rough = Ridge(alpha=len(X) * l2).fit(standard, y).predict(standard)
    np.testing.assert_allclose(model.predict(X), rough, atol=2e-3)  # units are rounded to four digits
    design, centred = model._table.scaling.design(X), y - model._table.scaling.y_mean
    np.testing.assert_allclose(design[:, :-1], standard, atol=1e-3)
    np.testing.assert_array_equal(design[:, -1], 1.0)
    exact = Ridge(alpha=len(X) * l2, fit_intercept=False).fit(design, centred)
    np.testing.assert_allclose(model.predict(X) - model._table.scaling.y_mean, exact.predict(design), atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("n_steps", [1, 2, 3])
@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize("ids", [None, list("hgfedcba"), ["é", "日本", "𝄞", "a", "ß", "Ω", "ж", "א"]])
def test_fixed_rates_give_the_exact_meta_parameters_of_dealt_tasks(n_steps, n_targets, ids):
    X, y, groups = table(UNEQUAL, 3, n_targets, ids=ids)
    model = il.MetaRegressor(**RATES, n_steps=n_steps, n_support=3, random_state=5).fit(X, y, groups)
    tasks = il.TaskSet.from_arrays(model._table.scaling.design(X), y - model._table.scaling.y_mean, groups)
    episodes = tasks.nameless().deal(n_support=3, seed=5)
    solution = il.solve(il.MetaObjective.from_episodes(episodes, n_steps), RATES["inner_lr"], l2=RATES["l2"])
    slow = reference.meta_coef(list(episodes), RATES["inner_lr"], n_steps, l2=RATES["l2"])
    for theta in (solution.coef, slow):
        np.testing.assert_allclose(model.predict(X), original(model, theta, X), rtol=1e-9, atol=1e-11)
    assert (model.inner_lr_, model.adapt_lr_, model.l2_) == tuple(RATES.values())
    assert np.isnan(model.inner_lr_se_)
    assert np.isnan(model.adapt_lr_se_)
    assert model.cv_results_ is None


@pytest.mark.parametrize("n_steps", [1, 2])
@pytest.mark.parametrize("n_targets", [None, 2])
def test_seen_groups_are_predicted_after_explicit_steps_on_all_their_rows(n_steps, n_targets):
    X, y, groups = table(UNEQUAL, 3, n_targets)
    model = il.MetaRegressor(**RATES, n_steps=n_steps).fit(X, y, groups)
    design = model._table.scaling.design(X)
    theta = np.linalg.lstsq(design, model.predict(X) - model._table.scaling.y_mean)[0]
    predicted = model.predict(X, groups)
    for i, task in enumerate(model.groups_):
        own = groups == task
        steps = reference.adapted(theta, design[own], y[own] - model._table.scaling.y_mean, RATES["adapt_lr"], n_steps)
        np.testing.assert_allclose(predicted[own], original(model, steps, X[own]), rtol=0, atol=1e-10)
        by_hand = X[own] @ model.group_coef_[i].T + model.group_intercept_[i]
        np.testing.assert_allclose(predicted[own], by_hand, rtol=0, atol=1e-12)


def test_unseen_groups_and_no_groups_are_predicted_with_the_meta_parameters():
    X, y, groups = table(UNEQUAL, 3)
    model = il.MetaRegressor(**RATES).fit(X, y, groups)
    np.testing.assert_allclose(model.predict(X), X @ model.coef_ + model.intercept_, rtol=0, atol=1e-12)
    mixed = np.where(groups == 3, groups, 100 + groups)
    expected = np.where(groups == 3, model.predict(X, groups), model.predict(X))
    np.testing.assert_array_equal(model.predict(X, mixed), expected)
    assert np.abs(model.predict(X, groups) - model.predict(X)).max() > 0.1
    np.testing.assert_array_equal(model.predict(X[:1], [99]), model.predict(X[:1]))


KINDS_OF_IDS = [
    np.arange(8),
    -np.arange(8) * 10**12,
    np.arange(8) / 4,
    list("hgfedcba"),
    ["é", "日本", "𝄞", "a", "ß", "Ω", "ж", "א"],
    ["a", "b", "A", "aa", "007", "7", "7.1", "NA"],
]


@pytest.mark.slow
@pytest.mark.parametrize("ids", KINDS_OF_IDS, ids=str)
def test_ids_of_any_kind_are_kept_apart(ids):
    X, y, groups = table(UNEQUAL, 3, ids=ids)
    model = il.MetaRegressor(**RATES).fit(X, y, groups)
    assert model.groups_.tolist() == distinct_ids(ids, "ids", 8)[0].tolist()
    tasks = il.TaskSet.from_arrays(X, y, groups)
    for i, (_, X_own, y_own) in enumerate(tasks):
        alone = model.adapt(X_own, y_own, groups=np.full(len(X_own), tasks.ids[i]))
        np.testing.assert_allclose(alone.group_coef_[i], model.group_coef_[i], rtol=1e-12)
    as_objects = il.MetaRegressor(**RATES).fit(X, y, groups.astype(object))
    np.testing.assert_array_equal(as_objects.predict(X, groups.tolist()), model.predict(X, groups))


@pytest.mark.slow
@pytest.mark.parametrize("params", [RATES, {}, {"n_steps": 2, "cv": 3}], ids=str)
def test_the_order_of_the_rows_does_not_matter(params):
    X, y, groups = table([6, 9, 1, 4, 4, 12, 7, 5, 5, 6], 3, 2)
    order = np.random.default_rng(1).permutation(len(X))
    model = il.MetaRegressor(**params).fit(X, y, groups)
    shuffled = il.MetaRegressor(**params).fit(X[order], y[order], groups[order])
    np.testing.assert_allclose(shuffled.coef_, model.coef_, rtol=0, atol=1e-9)
    # Variances are found by an optimiser, which ends a little elsewhere for sums in another order.
    np.testing.assert_allclose(shuffled.group_coef_, model.group_coef_, rtol=0, atol=1e-7)
    assert shuffled.inner_lr_ == pytest.approx(model.inner_lr_, abs=1e-12, nan_ok=True)
    assert shuffled.adapt_lr_ == pytest.approx(model.adapt_lr_, abs=1e-9, nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2.0**20, 2.0**-30, 1e6])
@pytest.mark.parametrize("params", [RATES, {}], ids=["fixed", "auto"])
def test_units_of_a_feature_do_not_matter(factor, params):
    X, y, groups = table([8] * 20, 3)
    scaled = X * [1.0, factor, 1.0]
    model = il.MetaRegressor(**params).fit(X, y, groups)
    other = il.MetaRegressor(**params).fit(scaled, y, groups)
    assert other.inner_lr_ == pytest.approx(model.inner_lr_, abs=1e-3, nan_ok=True)
    assert other.adapt_lr_ == pytest.approx(model.adapt_lr_, abs=1e-3, nan_ok=True)
    assert other.l2_ == pytest.approx(model.l2_, rel=1e-3)
    np.testing.assert_allclose(other.predict(scaled), model.predict(X), atol=2e-3)
    np.testing.assert_allclose(other.predict(scaled, groups), model.predict(X, groups), atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [10.0, 1e-6, 1e60])
@pytest.mark.parametrize(("adaptation", "atol"), [("gradient", 2e-3), ("ridge", 1e-5), ("auto", 1e-5)])
def test_units_of_the_target_do_not_matter(factor, adaptation, atol):
    X, y, groups = table([8] * 20, 3)
    y += np.random.default_rng(0).standard_normal(20)[groups]
    model = il.MetaRegressor(adaptation=adaptation).fit(X, y, groups)
    other = il.MetaRegressor(adaptation=adaptation).fit(X, y * factor, groups)
    assert other.adaptation_ == model.adaptation_
    for mine, its in zip(model.predict_interval(X, groups), other.predict_interval(X, groups), strict=True):
        np.testing.assert_allclose(its / factor, mine, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, {"adaptation": "gradient"}, {"adaptation": "ridge"}], ids=str)
def test_the_units_of_one_target_do_not_touch_the_others(params):
    X, y, groups = table([8] * 20, 3, n_targets=2)
    y[:, 0] += 2 * np.random.default_rng(0).standard_normal(20)[groups]
    unit = np.array([1.0, 1024.0])
    model, other = (il.MetaRegressor(**params).fit(X, targets, groups) for targets in (y, y * unit))
    assert other.adaptation_ == model.adaptation_
    if model.cv_results_ is not None:
        np.testing.assert_allclose(other.cv_results_["mse"], model.cv_results_["mse"], rtol=1e-9)
    for mine, its in zip(model.predict_interval(X, groups), other.predict_interval(X, groups), strict=True):
        np.testing.assert_allclose(its / unit, mine, atol=1e-6)
    mine, its = (np.hstack(each.predict(X, groups, return_std=True)) for each in (model, other))
    np.testing.assert_allclose(its / np.tile(unit, 2), mine, atol=1e-6)
    constant = np.column_stack((y[:, 0], np.full(len(y), 1 / 3)))
    np.testing.assert_allclose(il.MetaRegressor(**params).fit(X, constant, groups).predict(X)[:, 1], 1 / 3, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("params", [RATES, {}, {"l2": 0.0}], ids=str)
def test_constant_and_collinear_columns_are_harmless(params):
    X, y, groups = table([8] * 12, 3)
    wide = np.column_stack((X[:, 0], np.full(len(X), 1e9 / 3), X, X[:, 1] - 2 * X[:, 2], np.zeros(len(X))))
    model = il.MetaRegressor(**params).fit(wide, y, groups)  # a warning would be an error here
    assert model.coef_[1] == model.coef_[6] == 0
    assert (model.group_coef_[:, [1, 6]] == 0).all()
    assert np.abs(model.coef_).max() < 10
    if "inner_lr" not in params:
        return
    pooled = il.MetaRegressor(inner_lr=0, adapt_lr=0, l2=0).fit(wide, y, groups)
    np.testing.assert_allclose(pooled.predict(wide), LinearRegression().fit(X, y).predict(X), atol=1e-9)


def test_one_row_groups_have_no_support_and_count_as_queries():
    X, y, _ = table([30], 3)
    singles = il.MetaRegressor(inner_lr=-0.4, adapt_lr=0.2, l2=0).fit(X, y, np.arange(30))
    np.testing.assert_allclose(singles.coef_, LinearRegression().fit(X, y).coef_, rtol=1e-9)


# adapt


def everything(model):
    return copy.deepcopy(vars(model))


def assert_same(left, right):
    # Underscored attributes of dataclasses are computed when asked for.
    left, right = (
        {k: v for k, v in one.items() if k == "_table" or not str(k).startswith("_")} for one in (left, right)
    )
    assert left.keys() == right.keys()
    for name, value in left.items():
        if isinstance(value, dict):
            assert_same(value, right[name])
        elif isinstance(value, tuple):
            assert_same(dict(enumerate(value)), dict(enumerate(right[name])))
        elif hasattr(value, "__dict__"):
            assert_same(vars(value), vars(right[name]))
        else:
            np.testing.assert_array_equal(value, right[name])


@pytest.mark.parametrize("n_targets", [None, 2])
def test_adapt_returns_another_estimator_that_knows_old_and_new_groups(n_targets):
    X, y, groups = table(UNEQUAL, 3, n_targets)
    model = il.MetaRegressor(**RATES).fit(X, y, groups)
    before = everything(model)
    X_new, y_new, new = table([4, 2, 5], 3, n_targets, seed=9, ids=[3, 50, -2])
    adapted = model.adapt(X_new, y_new, groups=new)
    assert_same(before, everything(model))
    assert adapted is not model
    assert adapted.groups_.tolist() == sorted({*groups.tolist(), 50, -2})
    unchanged = groups != 3
    np.testing.assert_array_equal(
        adapted.predict(X[unchanged], groups[unchanged]), model.predict(X[unchanged], groups[unchanged])
    )
    anew = model.adapt(X_new[new == 3], y_new[new == 3], groups=new[new == 3])
    np.testing.assert_array_equal(anew.predict(X, groups), adapted.predict(X, groups))
    assert np.abs(anew.predict(X, groups) - model.predict(X, groups))[groups == 3].min() > 0
    np.testing.assert_array_equal(adapted.predict(X), model.predict(X))


ADAPTING = [RATES, {"adaptation": "ridge"}, {"adaptation": "ridge", "basis": "spline"}]


@pytest.mark.slow
@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize("params", ADAPTING, ids=["gradient", "ridge", "curves"])
def test_rows_of_a_known_group_are_added_to_those_it_has(tmp_path, params, n_targets):
    """Rows in parts are as good as all at once, under one population: fitted, loaded, by weights, with intervals."""
    X, y, groups = table([8] * 12, 2, n_targets)
    first = np.arange(len(y)) % 8 < 4
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    model = il.MetaRegressor(**params).fit(X[first], y[first], groups[first], weights[first])
    il.save_model(model, tmp_path / "model")
    il.save_model(model, tmp_path / "nameless", forget_groups=True)
    at_once = il.load_model(tmp_path / "nameless").adapt(X, y, groups, weights)
    in_parts = il.load_model(tmp_path / "model").update(X[~first], y[~first], groups[~first], weights[~first])
    np.testing.assert_allclose(in_parts.predict(X, groups, True), at_once.predict(X, groups, True), rtol=1e-7)
    third = in_parts.update(X[:1], y[:1], [3]).adapt(X[:2], y[:2], ["new"] * 2)
    others = groups != 3
    np.testing.assert_allclose(third.predict(X[others], groups[others]), in_parts.predict(X[others], groups[others]))
    assert np.abs(third.predict(X[~others], groups[~others]) - in_parts.predict(X[~others], groups[~others])).max() > 0


def test_a_model_that_forgot_its_groups_adapts_on_new_rows_alone(tmp_path):
    X, y, groups = table(UNEQUAL, 3, ids=list("hgfedcba"))
    model = il.MetaRegressor(**RATES).fit(X, y, groups)
    il.save_model(model, tmp_path / "model", forget_groups=True)
    np.testing.assert_array_equal(il.load_model(tmp_path / "model").adapt(X, y, groups).group_coef_, model.group_coef_)


def test_ids_of_any_length_join_the_known_ones():
    X, y, groups = table(UNEQUAL, 3, ids=list("hgfedcba"))
    model = il.MetaRegressor(**RATES).fit(X, y, groups)
    longer = model.adapt(X[:2], y[:2], groups=["a much longer id", "é"])
    assert longer.groups_.tolist() == ["a", "a much longer id", *"bcdefgh", "é"]
    np.testing.assert_array_equal(longer.predict(X, groups), model.predict(X, groups))


def test_a_model_without_groups_can_still_be_adapted():
    X, y, groups = table(UNEQUAL, 3)
    with pytest.warns(UserWarning, match="neither `groups` nor `group`"):
        model = il.MetaRegressor(adapt_lr=0.3).fit(X, y)
    assert len(model.groups_) == 0
    assert model.inner_lr_ == 0
    adapted = model.adapt(X, y, groups=groups.astype(str))
    assert adapted.groups_.tolist() == np.unique(groups).tolist()
    assert np.abs(adapted.predict(X, groups.astype(str)) - model.predict(X)).max() > 0.1


BAD_ADAPTS = [
    ({"groups": None}, ValueError, "`groups` must say which task each row belongs to, got None"),
    ({"y": [[1.0], [2.0]]}, ValueError, r"`y` must have the targets seen in fit, got shape \(2, 1\)"),
    ({"groups": [1]}, ValueError, "`groups`"),
    ({"groups": [1.0, np.nan]}, ValueError, "`groups` has a missing task id at row 1"),
    ({"X": np.zeros((2, 2))}, ValueError, "2 features"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD_ADAPTS)
def test_adapt_says_what_it_cannot_use(changes, error, message):
    X, y, groups = table(UNEQUAL, 3)
    model = il.MetaRegressor(**RATES).fit(X, y, groups)
    with pytest.raises(error, match=message):
        model.adapt(**{"X": X[:2], "y": y[:2], "groups": [1, 2], **changes})


WRITTEN = {
    "numbers": lambda ids: ids,
    "floats": lambda ids: ids.astype(float),
    "text": lambda ids: ids.astype(str),
    "text of floats": lambda ids: ids.astype(float).astype(str),
}


@pytest.mark.slow
@pytest.mark.parametrize("fitted", WRITTEN)
@pytest.mark.parametrize("given", WRITTEN)
def test_whole_numbers_are_the_same_ids_however_they_are_written(fitted, given):
    X, y, groups = table([6] * 12, 3)
    expected = il.MetaRegressor(**RATES).fit(X, y, groups)
    model = il.MetaRegressor(**RATES).fit(X, y, WRITTEN[fitted](groups))
    assert_same(everything(model), everything(expected))
    ids = WRITTEN[given](groups)
    np.testing.assert_array_equal(model.predict(X, ids), expected.predict(X, groups))
    one = groups == 11
    adapted = model.adapt(X[one], y[one] + 1, ids[one])
    assert adapted.groups_.tolist() == list(range(12))
    np.testing.assert_array_equal(adapted.predict(X, ids)[~one], model.predict(X, ids)[~one])


@pytest.mark.parametrize("seven", ["7", "7.0"])
def test_a_group_of_numbers_is_known_beside_groups_that_are_none(seven):
    X, y, groups = table(UNEQUAL, 3)
    model = il.MetaRegressor(**RATES).fit(X, y, groups)
    of_seven, unseen = model.predict(X[:3], [7] * 3), model.predict(X[:3], [99] * 3)
    found = model.predict(X[:3], [seven, "new", seven])
    np.testing.assert_array_equal(found, [of_seven[0], unseen[1], of_seven[2]])
    adapted = model.adapt(X[:2], y[:2], [seven, "new"])
    assert set(adapted.groups_) == {"new", *map(str, range(len(UNEQUAL)))}


@pytest.mark.slow
def test_a_pickled_model_is_the_same_model():
    X, y, groups = table([6] * 8, 3, ids=list("hgfedcba"))
    model = il.MetaRegressor().fit(X, y, groups)
    loaded = pickle.loads(pickle.dumps(model))
    assert_same(everything(model), everything(loaded))
    np.testing.assert_array_equal(loaded.predict(X, groups), model.predict(X, groups))


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_deal():
    X, y, groups = table([8] * 12, 3)
    coef = [il.MetaRegressor(**RATES, random_state=s).fit(X, y, groups).coef_ for s in (1, 1, 2)]
    np.testing.assert_array_equal(coef[0], coef[1])
    assert (coef[0] != coef[2]).all()


def test_nothing_but_zeros_without_an_intercept_is_refused():
    with pytest.raises(ValueError, match="`X` has only zeros and there is no intercept"):
        il.MetaRegressor(fit_intercept=False).fit(np.zeros((6, 2)), np.arange(6.0), groups=[0, 0, 0, 1, 1, 1])
