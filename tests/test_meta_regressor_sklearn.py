"""MetaRegressor as a scikit-learn estimator: its checks, data frames, pipelines, searches and messages."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import innerloop as il
from cases import table

pytestmark = pytest.mark.usefixtures("one_thread")

NO_GROUPS = "neither `groups` nor `group` is given"
RATES = {"inner_lr": -0.1, "adapt_lr": 0.2, "l2": 0.1}
ESTIMATORS = [
    il.MetaRegressor(),
    il.MetaRegressor(adaptation="gradient", cv=2),
    il.MetaRegressor(adaptation="none", cv=2),
    il.MetaRegressor(adaptation="ridge", cv=2),
    il.MetaRegressor(**RATES),
]


def _expected_failures(estimator):
    if estimator.inner_lr != "auto":
        return {"check_sample_weight_equivalence_on_dense_data": "rows are dealt into support and query, each once"}
    return {}


@pytest.mark.slow
@pytest.mark.filterwarnings(f"ignore:{NO_GROUPS}:UserWarning")
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=_expected_failures)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def data(n_targets=None):
    X, y, groups = table([6, 5, 8, 1, 7, 9, 4, 6, 6], 3, n_targets, ids=[f"task {i}" for i in range(9)])
    return X + np.array([3.0, -1.0, 0.0]), y, groups


def as_frame(library, X, groups):
    columns = {"a": X[:, 0], "who": groups.tolist(), "b": X[:, 1], "é c": X[:, 2]}
    return {"pandas": pd.DataFrame, "polars": pl.DataFrame}[library](columns)


FRAME = pytest.mark.parametrize("library", ["pandas", "polars"])


def manual_scores(estimator, X, y, groups, n_splits=3, with_groups=True):
    scores = []
    for train, test in GroupKFold(n_splits).split(X, y, groups):
        model = clone(estimator).fit(X[train], y[train], groups[train])
        scores.append(r2_score(y[test], model.predict(X[test], groups[test] if with_groups else None)))
    return scores


@pytest.mark.slow
@FRAME
@pytest.mark.parametrize("n_targets", [None, 2])
def test_a_column_of_a_frame_names_the_tasks(library, n_targets):
    X, y, groups = data(n_targets)
    frame = as_frame(library, X, groups)
    model = il.MetaRegressor(group="who", **RATES).fit(frame, y)
    plain = il.MetaRegressor(**RATES).fit(X, y, groups)
    assert model.feature_names_in_.tolist() == ["a", "b", "é c"]
    assert model.n_features_in_ == 3
    np.testing.assert_array_equal(model.coef_, plain.coef_)
    np.testing.assert_allclose(model.predict(frame), plain.predict(X, groups), rtol=1e-10)
    assert model.score(frame, y) == pytest.approx(plain.score(X, y, groups=groups), rel=1e-10)
    without = frame.drop(columns="who") if library == "pandas" else frame.drop("who")
    with pytest.warns(UserWarning, match="`X` has no column 'who'"):
        np.testing.assert_allclose(model.predict(without), plain.predict(X), rtol=1e-10)
    other = np.roll(groups, 7)
    np.testing.assert_allclose(model.predict(without, groups=other), plain.predict(X, other), rtol=1e-10)
    adapted = model.adapt(without[:4], y[:4], groups=["new", "task 1", "new", "new"])
    assert "new" in adapted.groups_


@pytest.mark.slow
@FRAME
def test_cross_val_score_with_a_group_column_needs_no_routing(library):
    X, y, groups = data()
    frame = as_frame(library, X, groups)
    scores = cross_val_score(
        il.MetaRegressor(group="who"), frame, y, groups=groups, cv=GroupKFold(3), error_score="raise"
    )
    np.testing.assert_allclose(scores, manual_scores(il.MetaRegressor(), X, y, groups), rtol=1e-12)


@pytest.mark.slow
def test_with_routing_on_one_array_feeds_splitter_and_model():
    X, y, groups = data()
    with sklearn.config_context(enable_metadata_routing=True):
        scores = cross_val_score(
            il.MetaRegressor(), X, y, cv=GroupKFold(3), params={"groups": groups}, error_score="raise"
        )
    np.testing.assert_allclose(scores, manual_scores(il.MetaRegressor(), X, y, groups), rtol=1e-12)


SEEN = []


class Recording(il.MetaRegressor):
    def fit(self, X, y, groups=None):
        SEEN.append(groups)
        return super().fit(X, y, groups)


@pytest.mark.slow
def test_with_routing_on_a_search_fits_and_refits_with_groups():
    X, y, groups = data()
    SEEN.clear()
    grid = {"inner_lr": [-0.2, 0.0]}
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(Recording(adapt_lr=0.2, l2=0.1), grid, cv=GroupKFold(3), error_score="raise")
        search.fit(X, y, groups=groups)
        assert search.best_estimator_.groups_.tolist() == sorted(set(groups))
    assert len(SEEN) == 7
    assert all(seen is not None for seen in SEEN)


def districts():
    """Rows of 24 schools, 6 of each of 4 districts, as a frame with the schools' ids."""
    rng = np.random.default_rng(1)
    school = np.repeat(np.arange(24), 6)
    X = rng.standard_normal((len(school), 2))
    y = X @ [1.0, 2.0] + 2 * rng.standard_normal(24)[school] + 0.5 * rng.standard_normal(len(school))
    return pd.DataFrame(X, columns=["a", "b"]).assign(school=school), y, school // 6


def test_groups_that_differ_from_the_group_column_are_refused_everywhere():
    frame, y, district = districts()
    model = il.MetaRegressor(group="school", **RATES)
    said = r"`groups` and the column 'school' that `group` names differ in 138 of 144 rows, first in row 6: 0 and 1;"
    with pytest.raises(ValueError, match=said):
        model.fit(frame, y, groups=district)
    model.fit(frame, y)
    for call in (model.predict, model.predict_interval):
        with pytest.raises(ValueError, match=said):
            call(frame, groups=district)
    for call in (model.adapt, lambda X, y, groups: model.score(X, y, groups=groups)):
        with pytest.raises(ValueError, match=said):
            call(frame, y, groups=district)
    with pytest.raises(ValueError, match=r"`groups` must hold one task id per row \(144\)"):
        model.predict(frame, groups=district[:3])


@pytest.mark.slow
@pytest.mark.parametrize("form", [list, np.float64, np.uint8, "str"], ids=str)
def test_groups_that_say_the_same_as_the_group_column_in_another_form_are_no_matter(form):
    frame, y, _ = districts()
    ids = frame["school"].to_numpy()
    groups = ids.tolist() if form is list else ids.astype(form)
    model = il.MetaRegressor(group="school", **RATES).fit(frame, y)
    same = il.MetaRegressor(group="school", **RATES).fit(frame, y, groups=groups)
    assert same.groups_.tolist() == model.groups_.tolist()
    assert same.predict(frame, groups=groups).tobytes() == model.predict(frame).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("routing", [False, True])
def test_a_splitter_by_districts_does_not_make_tasks_of_them(routing):
    frame, y, district = districts()
    model, grid = il.MetaRegressor(group="school", basis="linear", cv=2), {"adaptation": ["ridge"]}
    with sklearn.config_context(enable_metadata_routing=routing):
        search = GridSearchCV(model, grid, cv=GroupKFold(2), error_score="raise")
        if routing:
            with pytest.raises(ValueError, match=r"set_fit_request\(groups=False\)"):
                search.fit(frame, y, groups=district)
            asked = model.set_fit_request(groups=False).set_predict_request(groups=False)
            search = GridSearchCV(asked.set_score_request(groups=False), grid, cv=GroupKFold(2), error_score="raise")
        best = search.fit(frame, y, groups=district).best_estimator_
    assert len(best.groups_) == 24
    assert np.mean((best.predict(frame) - y) ** 2) < 0.5


@pytest.mark.slow
@FRAME
@pytest.mark.parametrize("scaled", [True, False])
def test_a_group_column_passes_through_a_pipeline(library, scaled):
    X, y, groups = data()
    frame = as_frame(library, X, groups)
    transformer = StandardScaler() if scaled else "passthrough"
    columns = ColumnTransformer(
        [("numbers", transformer, ["a", "b", "é c"]), ("ids", "passthrough", ["who"])],
        verbose_feature_names_out=False,
    ).set_output(transform=library)
    model = make_pipeline(columns, il.MetaRegressor(group="who", **RATES)).fit(frame, y)
    design = columns.fit_transform(frame[["a", "b", "é c", "who"]])[["a", "b", "é c"]].to_numpy()
    plain = il.MetaRegressor(**RATES).fit(design, y, groups)
    np.testing.assert_allclose(model.predict(frame), plain.predict(design, groups), rtol=1e-9)
    scores = cross_val_score(model, frame, y, groups=groups, cv=GroupKFold(3), error_score="raise")
    assert np.isfinite(scores).all()


@pytest.mark.slow
@FRAME
def test_a_search_over_a_group_column_equals_a_loop(library):
    X, y, groups = data()
    frame = as_frame(library, X, groups)
    grid = {"inner_lr": [-0.3, 0.0, 0.3]}
    search = GridSearchCV(
        il.MetaRegressor(group="who", adapt_lr=0.2, l2=0.1), grid, cv=GroupKFold(3), error_score="raise"
    ).fit(frame, y, groups=groups)
    slow = [
        np.mean(manual_scores(il.MetaRegressor(inner_lr=rate, adapt_lr=0.2, l2=0.1), X, y, groups))
        for rate in grid["inner_lr"]
    ]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], slow, rtol=1e-12)
    assert search.best_estimator_.groups_.tolist() == sorted(set(groups))


@pytest.mark.parametrize("library", ["array", "pandas"])
def test_without_groups_the_user_is_warned_that_all_rows_are_one_task(library):
    X, y, groups = data()
    X = X if library == "array" else as_frame("pandas", X, groups).drop(columns="who")
    with pytest.warns(UserWarning, match=NO_GROUPS) as caught:
        model = il.MetaRegressor().fit(X, y)
    assert caught[0].filename == __file__
    assert model.inner_lr_ == model.adapt_lr_ == 0
    assert len(model.groups_) == 0


def test_an_array_with_groups_is_fine_where_a_group_column_is_named():
    X, y, groups = data()
    model = il.MetaRegressor(group="who", **RATES).fit(X, y, groups=groups)
    np.testing.assert_array_equal(model.coef_, il.MetaRegressor(**RATES).fit(X, y, groups).coef_)


def test_weights_of_a_score_are_used():
    X, y, groups = data()
    model = il.MetaRegressor(**RATES).fit(X, y, groups)
    weights = np.random.default_rng(0).uniform(size=len(y))
    expected = r2_score(y, model.predict(X, groups), sample_weight=weights)
    assert model.score(X, y, sample_weight=weights, groups=groups) == pytest.approx(expected)


PARAMS = {
    "inner_lr": -0.5,
    "adapt_lr": 0.25,
    "adaptation": "gradient",
    "l2": 0.5,
    "group": "who",
    "random_state": 7,
    "n_support": 4,
    "protocol": "train",
    "n_query": None,
    "n_steps": 2,
    "cv": 3,
    "standardize": False,
    "fit_intercept": False,
    "verbose": False,
    "basis": "linear",
    "varying": [0],
    "order": None,
    "target_transform": None,
}


def test_parameters_can_be_read_set_and_cloned():
    model = il.MetaRegressor(**PARAMS)
    assert model.get_params() == PARAMS
    assert clone(model).get_params() == PARAMS
    assert il.MetaRegressor().set_params(**PARAMS).get_params() == PARAMS
    X, y, groups = data()
    fitted = model.fit(X, y, groups)
    assert fitted.get_params() == PARAMS
    assert not hasattr(clone(fitted), "coef_")
    assert "inner_lr=-0.5" in repr(model)


@pytest.mark.slow
def test_a_second_fit_forgets_the_first():
    X, y, groups = data()
    model = il.MetaRegressor().fit(as_frame("pandas", X, groups).drop(columns="who"), y, groups)
    model.set_params(**RATES).fit(X[:, :2], y, groups)
    fresh = il.MetaRegressor(**RATES).fit(X[:, :2], y, groups)
    assert model.n_features_in_ == 2
    assert not hasattr(model, "feature_names_in_")
    assert model.cv_results_ is None
    np.testing.assert_array_equal(model.coef_, fresh.coef_)


@pytest.mark.slow
@pytest.mark.parametrize("random_state", [None, np.random.RandomState(3), np.int64(3), 3], ids=str)
def test_random_states_of_every_kind_are_taken(random_state):
    X, y, groups = data()
    model = il.MetaRegressor(random_state=random_state).fit(X, y, groups)
    assert np.isfinite(model.predict(X, groups)).all()


BAD_PARAMS = [
    ({"adaptation": "x"}, ValueError, "`adaptation` must be 'auto', 'none', 'gradient' or 'ridge', got 'x'"),
    ({"adaptation": "ridge", "adapt_lr": 0.1}, ValueError, "`inner_lr` and `adapt_lr` are rates of gradient steps"),
    ({"cv": 1}, ValueError, "`cv` must be"),
    ({"cv": 2.5}, TypeError, "`cv` must be"),
    ({"n_support": 0}, ValueError, "`n_support` must be"),
    ({"n_support": "all"}, TypeError, "`n_support` must be"),
    ({"n_query": 0}, ValueError, "`n_query` must be"),
    ({"n_query": 5, "adaptation": "gradient"}, ValueError, "too few for a split"),
    ({"basis": "cubic"}, ValueError, "`basis` must be 'auto', 'linear' or 'spline', got 'cubic'"),
    ({"basis": 1.5}, TypeError, "`basis` must name columns of X"),
    ({"varying": ["z"]}, ValueError, "`varying` must name feature columns"),
    ({"order": 17}, ValueError, "`order` must name feature columns"),
    ({"n_steps": 0}, ValueError, "`n_steps` must be"),
    ({"l2": -1}, ValueError, "`l2` must be"),
    ({"l2": np.inf}, ValueError, "`l2` must be"),
    ({"l2": "small"}, TypeError, "`l2` must"),
    ({"inner_lr": np.nan}, ValueError, "`inner_lr` must be"),
    ({"inner_lr": "negative"}, TypeError, "`inner_lr` must"),
    ({"adapt_lr": -np.inf}, ValueError, "`adapt_lr` must be"),
    ({"adapt_lr": [0.1, 0.2]}, (TypeError, ValueError), "`adapt_lr` must"),
    ({"random_state": -1}, ValueError, "`random_state` must be"),
    ({"group": "woh"}, ValueError, r"X`? has no column 'woh'; did you mean 'who'\?"),
    ({"group": "zzzz"}, ValueError, "X`? has no column 'zzzz'; it has 'a', 'who', 'b', 'é c'"),
]


@pytest.mark.parametrize(("params", "error", "message"), BAD_PARAMS)
def test_bad_parameters_are_named(params, error, message):
    X, y, groups = data()
    model = il.MetaRegressor(**{"group": "who", **params})
    with pytest.raises(error, match=message):
        model.fit(as_frame("pandas", X, groups), y)


@FRAME
def test_a_frame_without_the_group_column_is_told_once_that_its_tasks_are_unknown(library):
    X, y, groups = data()
    frame = as_frame(library, X, groups)
    model = il.MetaRegressor(group="who", **RATES).fit(frame, y)
    without = frame[["a", "b", "é c"]]
    expected = model.predict(without, groups=["nobody"] * len(X))  # no warning: the groups are given
    for call in (model.predict, model.predict_interval):
        with pytest.warns(UserWarning, match="`X` has no column 'who' and `groups` is None") as caught:
            found = call(without)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        np.testing.assert_allclose(np.mean(np.atleast_2d(found), axis=0), expected)


def test_the_warning_about_missing_groups_names_remedies_that_work_in_cross_validation():
    X, y, groups = data()
    with pytest.warns(UserWarning, match=NO_GROUPS) as caught:
        cross_val_score(il.MetaRegressor(**RATES), X, y, groups=groups, cv=GroupKFold(3))
    for remedy in ("MetaRegressor(group=...)", "params={'groups': ...}", "set_config(enable_metadata_routing=True)"):
        assert remedy in str(caught[0].message)


BAD_DATA = [
    ({"groups": None}, ValueError, "`group` names the column 'who', but X is not a data frame"),
    ({"groups": [1, 2]}, ValueError, "`groups`"),
    ({"groups": [None, *"abcdefgh"]}, ValueError, "`groups` has a missing task id at row 0"),
    ({"X": np.full((9, 2), np.nan)}, ValueError, "NaN"),
    ({"y": np.full(9, np.inf)}, ValueError, "infinity"),
    ({"y": np.zeros(8)}, ValueError, "inconsistent numbers of samples"),
    ({"X": np.zeros((0, 2)), "y": np.zeros(0), "groups": []}, ValueError, "0 sample"),
    ({"X": np.zeros(9)}, ValueError, "2D array"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD_DATA)
def test_bad_data_are_named(changes, error, message):
    rows = {"X": np.arange(18.0).reshape(9, 2), "y": np.arange(9.0), "groups": list("aabbccdde")}
    with pytest.raises(error, match=message):
        il.MetaRegressor(group="who").fit(**{**rows, **changes})


def test_another_number_or_names_of_features_are_refused():
    X, y, groups = data()
    frame = as_frame("pandas", X, groups)
    model = il.MetaRegressor(group="who", **RATES).fit(frame, y)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"a": "A"}))
    with pytest.raises(ValueError, match="expecting 3 features"), pytest.warns(UserWarning, match="names"):
        model.predict(X[:, :2])


def test_an_estimator_that_was_not_fitted_says_so():
    X, y, groups = data()
    for call in (
        lambda: il.MetaRegressor().predict(X),
        lambda: il.MetaRegressor().adapt(X, y, groups),
        lambda: il.MetaRegressor().score(X, y),
    ):
        with pytest.raises(sklearn.exceptions.NotFittedError, match="not fitted"):
            call()
