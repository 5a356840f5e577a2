"""Laws of MetaRegressor: what must not matter to a fit does not, and what must move with the data does.

Names, signs and orders are no seeds: whatever is drawn for a table follows from its contents and from `random_state`.
"""

from __future__ import annotations

import numpy as np
import pytest

import innerloop as il
from cases import table

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

# What rounding and the ends of searches for variances leave, as a part of the range of the targets.
TOLERANCE = 1e-3


def continuous():
    return table(np.random.default_rng(5).integers(3, 11, size=18).tolist(), 4, seed=5)


def discrete():
    """Two targets and few values of features, so that many rows and tasks are equal in much."""
    rng = np.random.default_rng(6)
    groups = np.repeat(np.arange(20), 6)
    kind = rng.integers(0, 3, size=120)
    X = np.column_stack([kind == 0, kind == 1, rng.integers(0, 4, size=120), rng.integers(0, 2, size=120)]).astype(
        float
    )
    effect = rng.standard_normal((20, 4))[groups]
    y = (np.einsum("ij,ij->i", X - X.mean(axis=0), 1.0 + effect) + rng.standard_normal(120) > 0).astype(float)
    return X, y, groups


TABLES = {"continuous": continuous, "discrete": discrete}
PARAMETERS = {"auto": {}, "gradient": {"adaptation": "gradient"}}


class Case:
    """A table, the model fitted to it and its predictions; a changed table must give the same, changed back."""

    def __init__(self, X, y, groups, parameters):
        self.X, self.y, self.groups, self.parameters = X, y, groups, parameters
        self.model = self.fit(X, y, groups)
        self.seen, self.unseen = self.model.predict(X, groups), self.model.predict(X)

    def fit(self, X, y, groups):
        return il.MetaRegressor(**self.parameters).fit(X, y, groups)

    def check(self, X, y, groups, back=lambda prediction: prediction, rows=None):
        model = self.fit(X, y, groups)
        rows = slice(None) if rows is None else rows
        X, groups = X[: len(self.X)], groups[: len(self.X)]
        scale = np.ptp(self.y)
        for found, before in ((model.predict(X, groups), self.seen), (model.predict(X), self.unseen)):
            np.testing.assert_allclose(back(found), before[rows], rtol=0, atol=TOLERANCE * scale)
        assert model.adaptation_ == self.model.adaptation_
        return model


@pytest.fixture(scope="module", params=[(t, p) for t in TABLES for p in PARAMETERS], ids="-".join)
def case(request):
    name, parameters = request.param
    return Case(*TABLES[name](), PARAMETERS[parameters])


def test_unit_of_the_target(case):
    case.check(case.X, 37.0 * case.y, case.groups, lambda prediction: prediction / 37.0)


def test_constant_added_to_the_target(case):
    case.check(case.X, case.y + 5.0, case.groups, lambda prediction: prediction - 5.0)


def test_units_of_columns(case):
    case.check(case.X * [30.0, 0.01, 1.0, 7.0], case.y, case.groups)


def test_signs_of_columns(case):
    model = case.check(case.X * [-1.0, 1.0, -1.0, -1.0], case.y, case.groups)
    np.testing.assert_allclose(model.coef_ * [-1.0, 1.0, -1.0, -1.0], case.model.coef_, rtol=0, atol=1e-2)


def test_order_of_columns(case):
    model = case.check(case.X[:, [2, 0, 3, 1]], case.y, case.groups)
    np.testing.assert_allclose(model.coef_, case.model.coef_[[2, 0, 3, 1]], rtol=0, atol=1e-2)


def test_constant_added_to_columns(case):
    case.check(case.X + np.array([0.0, 4.0, -2.0, 1.0]), case.y, case.groups)


def test_column_of_zeros(case):
    case.check(np.insert(case.X, 1, 0.0, axis=1), case.y, case.groups)


def test_order_of_rows(case):
    order = np.random.default_rng(1).permutation(len(case.y))
    case.check(case.X[order], case.y[order], case.groups[order], rows=order)


def test_order_of_groups(case):
    order = np.argsort(-case.groups, kind="stable")
    model = case.check(case.X[order], case.y[order], case.groups[order], rows=order)
    assert model.groups_.tolist() == case.model.groups_.tolist()


@pytest.mark.parametrize("form", ["numbers", "text"])
def test_names_of_groups(case, form):
    names = np.random.default_rng(2).permutation(len(case.model.groups_))
    groups = (names if form == "numbers" else np.array([f"school {name}" for name in names]))[case.groups]
    model = case.check(case.X, case.y, groups)
    place = np.argsort(np.argsort(names if form == "numbers" else [f"school {name}" for name in names]))
    np.testing.assert_allclose(model.group_coef_[place], case.model.group_coef_, rtol=0, atol=1e-2)


def test_rows_predicted_one_by_one_and_together(case):
    by_row = [case.model.predict(case.X[i : i + 1], case.groups[i : i + 1])[0] for i in range(20)]
    np.testing.assert_allclose(by_row, case.seen[:20], rtol=1e-12, atol=1e-12)


def test_groups_adapted_one_by_one_and_together(case):
    together = case.model.adapt(case.X, case.y, case.groups)
    for group in case.model.groups_[:5]:
        rows = case.groups == group
        alone = case.model.adapt(case.X[rows], case.y[rows], case.groups[rows])
        for of_model in (lambda m, r=rows: m.predict(case.X[r], case.groups[r]),):
            np.testing.assert_allclose(of_model(alone), of_model(together), rtol=1e-9, atol=1e-9)


def test_a_fit_made_again_is_the_same_to_the_bit(case):
    again = case.fit(case.X, case.y, case.groups)
    assert again.predict(case.X, case.groups).tobytes() == case.seen.tobytes()


def test_rows_given_twice_are_more_data_and_not_the_same_fit(case):
    """Twice the rows halve the noise that a mean has: coefficients of groups shrink less."""
    if case.parameters or len(np.unique(case.y)) == 2:
        pytest.skip("a statement on ridges and normal noise")
    twice = case.fit(np.tile(case.X, (2, 1)), np.tile(case.y, 2), np.tile(case.groups, 2))
    gap = [float(np.square(m.predict(case.X, case.groups) - case.y).mean()) for m in (case.model, twice)]
    assert gap[1] < gap[0]
