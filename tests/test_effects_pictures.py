"""Pictures of groups' coefficients and of curves, and the page's section on the model of the groups."""

import re

import numpy as np
import pandas as pd
import pytest

import innerloop as il

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from innerloop.plots.effects import curved_features, draw_curve, well_known_coefficients

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

QUICK = {"adaptation": "ridge", "cv": 2}


def axes():
    return Figure().subplots()


def model_of(n_groups=12, curved=False, seed=0, names=None, **params):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), 8)
    x = rng.uniform(0, 6, len(groups))
    shape = np.sin(x) if curved else x
    y = 5 * rng.standard_normal(n_groups)[groups] + (3 + rng.standard_normal(n_groups))[groups] * shape
    y += 0.3 * rng.standard_normal(len(groups))
    ids = groups if names is None else np.array(names)[groups]
    return il.MetaRegressor(**(QUICK | params)).fit(x[:, None], y, ids)


def drawn(ax):
    """Return the centres and half lengths of the bars, from low to high, and the names beside them."""
    bars = ax.containers[0]
    centres = bars.lines[0].get_xdata()
    half = [np.ptp(segment[:, 0]) / 2 for segment in bars.lines[2][0].get_segments()]
    return centres, half, [label.get_text() for label in ax.get_yticklabels()]


def test_every_group_is_drawn_in_order_of_size_with_two_standard_errors():
    model = model_of(basis="linear")
    centres, half, names = drawn(il.plot_group_effects(model, axes(), "x0"))
    frame = model.group_effects()
    frame = frame[frame["coefficient"] == "x0"].sort_values("estimate")
    np.testing.assert_allclose(centres, frame["estimate"])
    np.testing.assert_allclose(half, 2 * frame["standard_error"])
    assert names == frame["group"].astype(str).tolist()


@pytest.mark.parametrize("n_groups", [31, 100])
def test_of_many_groups_the_extremes_and_the_middle_are_drawn_and_the_title_says_so(n_groups):
    model = model_of(n_groups, basis="linear")
    ax = il.plot_group_effects(model, axes())
    estimates = model.group_effects().groupby("coefficient")["estimate"].apply(np.sort)
    centres, _, _ = drawn(ax)
    shown = next(name for name in estimates.index if ax.get_title().startswith(name))
    places = np.searchsorted(estimates[shown], centres)
    middle = (n_groups - 10) // 2
    assert places.tolist() == [*range(10), *range(middle, middle + 10), *range(n_groups - 10, n_groups)]
    assert ax.get_title().endswith(f"30 of {n_groups} groups: lowest, middle, highest")


def test_names_of_groups_are_drawn_as_they_are():
    names = ["$a^2$", "<b>", "c" * 40, "d\n", "\N{SNOWMAN}", *"efghijk"]
    ax = il.plot_group_effects(model_of(names=names), axes())
    assert not any(label.get_parse_math() for label in ax.get_yticklabels())
    ax.figure.canvas.draw()
    assert max(map(len, drawn(ax)[2])) == 18


def test_what_cannot_be_drawn_is_refused(tmp_path):
    model = model_of()
    with pytest.raises(ValueError, match=r"`coefficient` must be one of .*'x0'.*, got 'age'"):
        il.plot_group_effects(model, axes(), "age")
    il.save_model(model, tmp_path / "m", forget_groups=True)
    with pytest.raises(ValueError, match="`model` knows no groups"):
        il.plot_group_effects(il.load_model(tmp_path / "m"), axes())
    X, groups = np.arange(24.0)[:, None], np.repeat(np.arange(6), 4)
    y = np.random.default_rng(0).standard_normal((24, 2))
    with pytest.raises(ValueError, match="`model` has several targets"):
        il.plot_group_effects(il.MetaRegressor(**QUICK).fit(X, y, groups), axes())


def test_a_coefficient_that_is_not_known_is_not_shown_in_reports():
    frame = pd.DataFrame(
        {
            "group": np.repeat(np.arange(4), 2),
            "coefficient": ["(Intercept)", "x"] * 4,
            "estimate": [1.0, 5.0, 2.0, 6.0, 3.0, 7.0, 4.0, 8.0],
            "standard_error": [9.0, 0.1] * 4,
        }
    )
    assert well_known_coefficients(frame) == ["x"]


def test_curves_are_those_that_are_predicted():
    model = model_of(curved=True, basis="spline")
    (curve,) = curved_features(model._table)
    ax = draw_curve(model._table, curve, ("dose", "response"), axes())
    *groups, population = ax.get_lines()
    x, y = population.get_data()
    np.testing.assert_allclose(y, model.predict(x[:, None], groups=["nobody"] * len(x)))
    assert len(groups) == 8
    everyone = [model.predict(x[:, None], groups=[g] * len(x)) for g in model.groups_]
    for line in groups:
        assert min(np.abs(line.get_ydata() - one).max() for one in everyone) < 1e-9
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("dose", "response")
    assert curved_features(model_of(basis="linear")._table) == []


@pytest.mark.slow
@pytest.mark.parametrize("n_targets", [None, 2])
def test_the_page_has_the_model_of_the_groups(n_targets):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 8)
    x = rng.uniform(0, 6, 80)
    y = 4 * rng.standard_normal(10)[groups] + 3 * np.sin(x) + 0.2 * rng.standard_normal(80)
    y = y if n_targets is None else np.column_stack((y, -y))
    tasks = il.TaskSet.from_arrays(x[:, None], y, groups, ["<dose>"])
    result = il.study(tasks, il.MetaRegressor(basis="spline", cv=2))
    page = result.page()
    section = page[page.index("The model of the groups") :]
    section = section[: section.index("</section>")]
    assert "&lt;dose&gt;" in section
    assert "<dose>" not in section
    assert len(re.findall("<svg", section)) == (0 if n_targets else 1 + section.count('aria-label="Groups: '))
    population = result.model.effects().population
    for row in population.itertuples():
        assert f"{row.estimate:.4g}" in section
