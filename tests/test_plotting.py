"""Pictures of held-out and of simulated losses: what they show, and that they can be read."""

from __future__ import annotations

import sys
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

import innerloop as il
from cases import table
from command_line import QUICK, innerloop, save, small_table
from innerloop import MetaRegressor
from innerloop.plots.held_out import held_out_figure
from innerloop.plots.style import save_figure, title_figure

pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba

ORANGE = to_rgba("#D55E00")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def fitted(scale=1.0, seed=0, **params):
    X, y, groups = table([14] * 12, 4, seed=seed, task_std=0.7)
    return MetaRegressor(**({"adaptation": "gradient", "cv": 3} | params)).fit(scale * X, y, groups)


MODELS = {
    "free": fitted,
    "unscaled": lambda: fitted(scale=1e-3, standardize=False),
    "large": lambda: fitted(scale=1e3, standardize=False),
    "few query rows": lambda: fitted(n_query=2, l2=0.0, seed=3),
    "two steps": lambda: fitted(n_steps=2),
}


@pytest.fixture(scope="module", params=MODELS)
def drawn(request):
    """A model, its figure, rendered, and the axes: inner rate, adaptation rate, both."""
    model = MODELS[request.param]()
    figure = held_out_figure(model, "A table")
    FigureCanvasAgg(figure).draw()
    return model, figure, figure.axes[:3]


def extent(artist):
    return artist.get_window_extent()


def shown_labels(ax):
    """Return the boxes of the tick labels of x that are within the axes."""
    low, high = ax.get_xlim()
    return [
        extent(label)
        for place, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
        if low <= place <= high and label.get_text()
    ]


def marker(ax, label):
    (line,) = [line for line in ax.get_lines() if line.get_label().startswith(label)]
    return line


@pytest.mark.slow
def test_every_axis_is_labelled(drawn):
    _, figure, (inner, adapt, both) = drawn
    labels = [(ax.get_xlabel(), ax.get_ylabel()) for ax in (inner, adapt, both)]
    inner_label, adapt_label, loss = "inner_lr (meta-training)", "adapt_lr (new task)", "held-out MSE"
    assert labels == [(inner_label, loss), (adapt_label, loss), (inner_label, adapt_label)]
    assert all(ax.get_title() for ax in (inner, adapt, both))
    assert figure.get_suptitle() == "A table"


@pytest.mark.slow
def test_every_axis_has_a_legend_that_explains_all_it_draws(drawn):
    for ax in drawn[2]:
        texts = [text.get_text() for text in ax.get_legend().get_texts()]
        assert any(text.startswith("recommended") for text in texts)
        assert len(texts) == len(set(texts))


def test_the_recommended_rates_are_marked(drawn):
    model, _, (inner, adapt, both) = drawn
    rates = {inner: model.inner_lr_, adapt: model.adapt_lr_}
    for ax, rate in rates.items():
        point = marker(ax, "recommended: ")
        assert number(point.get_label().removeprefix("recommended: ")) == pytest.approx(rate, rel=5e-3)
        assert point.get_xdata()[0] == rate
        assert to_rgba(point.get_color()) == ORANGE
    point = marker(both, "recommended")
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (model.inner_lr_, model.adapt_lr_)


def test_the_recommended_rates_are_in_view(drawn):
    for ax in drawn[2]:
        x, y = marker(ax, "recommended").get_xydata()[0]
        (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
        assert left <= x <= right
        assert bottom <= y <= top


def test_the_mark_is_on_the_curve_at_the_lowest_loss_of_its_rate(drawn):
    model, _, (inner, adapt, _) = drawn
    lowest = model.cv_results_["mse"].min()
    for ax in (inner, adapt):
        curve, point = ax.get_lines()[0], marker(ax, "recommended")
        on_curve = np.interp(point.get_xdata()[0], *curve.get_data())
        assert point.get_ydata()[0] == pytest.approx(on_curve)
        assert curve.get_ydata().min() >= lowest * (1 - 1e-12)


def test_tick_labels_do_not_overlap(drawn):
    for ax in drawn[2]:
        boxes = sorted(shown_labels(ax), key=lambda box: box.x0)
        assert boxes
        assert all(right.x0 - left.x1 >= 2 for left, right in pairwise(boxes))


def test_zero_and_both_signs_are_among_the_ticks_of_the_inner_rate():
    model = fitted()
    figure = held_out_figure(model, "A table")
    ticks = figure.axes[0].get_xticks()
    assert figure.axes[0].get_xscale() == "asinh"
    np.testing.assert_allclose(ticks, -ticks[::-1], atol=1e-15)
    assert 0.0 in ticks
    assert len(ticks) >= 5
    assert np.abs(ticks).max() <= np.abs(model.cv_results_["inner_lr"]).max()


def number(text):
    return float(text.replace("\N{MINUS SIGN}", "-"))


def test_tick_labels_say_where_the_ticks_are(drawn):
    for ax in drawn[2]:
        unit = number(ax.xaxis.get_offset_text().get_text() or "1")
        for place, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True):
            if label.get_text():
                assert unit * number(label.get_text()) == pytest.approx(place, rel=1e-3, abs=1e-12)


def test_titles_labels_and_legends_stay_within_the_figure_and_apart(drawn):
    _, figure, axes = drawn
    width, height = figure.canvas.get_width_height()
    boxes = [extent(ax.title) for ax in axes] + [extent(figure._suptitle)]
    for ax in axes:
        boxes += [extent(ax.xaxis.label), extent(ax.yaxis.label), extent(ax.get_legend())]
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_legends_leave_the_recommended_rates_free(drawn):
    for ax in drawn[2]:
        x, y = ax.transData.transform(marker(ax, "recommended").get_xydata()[0])
        assert not extent(ax.get_legend()).contains(x, y)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["free", "few query rows", "large"])
def test_legends_lie_over_no_curve(name):
    figure = held_out_figure(MODELS[name](), "A table")
    FigureCanvasAgg(figure).draw()
    for ax in figure.axes[:2]:
        line = ax.get_lines()[0]
        x, y = line.get_data()
        dense = np.linspace(x.min(), x.max(), 2000)
        points = ax.transData.transform(np.column_stack((dense, np.interp(dense, x, y))))
        legend = extent(ax.get_legend())
        assert not any(ax.bbox.contains(*point) and legend.contains(*point) for point in points)


def test_the_map_shows_the_lowest_pair():
    model = fitted()
    results, both = model.cv_results_, held_out_figure(model, "A table").axes[2]
    low = np.argmin(results["mse"])
    assert marker(both, "lowest").get_xydata()[0] == pytest.approx([results["inner_lr"][low], results["adapt_lr"][low]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ({"inner_lr": -0.1}, ["adapt_lr (new task)"]),
        ({"inner_lr": 0.0}, ["adapt_lr (new task)"]),
        ({"adapt_lr": 0.2}, ["inner_lr (meta-training)"]),
        ({"adapt_lr": 0.0}, ["inner_lr (meta-training)"]),
    ],
    ids=str,
)
def test_only_rates_that_were_compared_are_drawn(given, labels):
    model = fitted(**given)
    figure = held_out_figure(model, "A table")
    FigureCanvasAgg(figure).draw()
    assert [ax.get_xlabel() for ax in figure.axes] == labels
    x, y = marker(figure.axes[0], "recommended").get_xydata()[0]
    assert x == (model.adapt_lr_ if "inner_lr" in given else model.inner_lr_)
    assert figure.axes[0].get_ylim()[0] <= y <= figure.axes[0].get_ylim()[1]


@pytest.mark.slow
@pytest.mark.parametrize("l2", ["auto", 0.0])
def test_nothing_to_compare_is_refused(l2):
    with pytest.raises(ValueError, match="compared no rates"):
        il.plot_held_out(fitted(inner_lr=0.1, adapt_lr=0.1, l2=l2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["free", "two steps"])
def test_the_same_model_gives_the_same_bytes(name, tmp_path):
    model, path = MODELS[name](), tmp_path / "p.png"
    first, second = (save_figure(held_out_figure(model, "A table"), path) or path.read_bytes() for _ in range(2))
    assert first.startswith(PNG_SIGNATURE)
    assert first == second


NAMES = ["price_$_vs_$_cost", r"$\frac$", r"\begin{x}", "a_b^c%&#{", "任务", "a\0b", "a\ud800b", "a\nb\tc", "𝄞" * 9]


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_can_stand_above_a_picture(name, ending, tmp_path):
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"text.usetex": True, "text.parse_math": True}):
        figure = Figure()
        title_figure(figure, name)
        save_figure(figure, tmp_path / f"p{ending}")  # and without a warning
    assert figure.get_suptitle().count("$") == name.count("$")


def test_names_in_pictures_of_models_go_through_one_place(monkeypatch):
    from innerloop.plots import held_out

    drawn = []
    monkeypatch.setattr(held_out, "title_figure", lambda _, name: drawn.append(name))
    held_out_figure(fitted(), "a$b")
    assert drawn == ["a$b"]


@pytest.mark.slow
def test_drawing_leaves_pyplot_and_its_settings_alone(tmp_path):
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    before, open_figures = dict(mpl.rcParams), plt.get_fignums()
    save_figure(held_out_figure(fitted(), "A table"), tmp_path / "p.png")
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == open_figures


@pytest.mark.slow
def test_without_matplotlib_there_is_a_sentence_instead_of_a_picture(monkeypatch, tmp_path):
    arguments = ["fit", save(small_table(), tmp_path / "t.csv"), *QUICK, "--adaptation", "gradient", "--out"]
    ran = innerloop(*arguments, tmp_path / "drawn")
    assert (ran.code, ran.err, (tmp_path / "drawn" / "held_out_loss.png").exists()) == (0, "", True)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ran = innerloop(*arguments, tmp_path / "not drawn")
    assert (ran.code, (tmp_path / "not drawn" / "held_out_loss.png").exists()) == (0, False)
    assert "pip install 'innerloop[plot]'" in ran.err


@pytest.mark.slow
def test_beside_a_ridge_the_rates_are_those_of_the_best_gradient_step():
    X, y, groups = table([14] * 12, 4, seed=0, task_std=0.7)
    model = il.study(il.TaskSet.from_arrays(X, y, groups), MetaRegressor(cv=3)).model
    assert model.adaptation_ == "ridge"
    texts = [
        text.get_text() for ax in held_out_figure(model, "A table").axes[:2] for text in ax.get_legend().get_texts()
    ]
    assert any(text.startswith("best gradient step: ") for text in texts)
    assert not any("recommended" in text for text in texts)


def axes():
    from matplotlib.figure import Figure

    return Figure(layout="constrained").subplots()


LABELS = {
    "inner_lr": ("inner_lr (meta-training)", "held-out MSE"),
    "adapt_lr": ("adapt_lr (new task)", "held-out MSE"),
    "both": ("inner_lr (meta-training)", "adapt_lr (new task)"),
}


@pytest.mark.parametrize("against", LABELS)
def test_each_picture_is_drawn_on_the_axes_it_is_given(against):
    ax = axes()
    assert il.plot_held_out(fitted(), ax, against) is ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == LABELS[against]


@pytest.mark.parametrize(
    ("given", "against"), [({}, "both"), ({"inner_lr": -0.1}, "adapt_lr"), ({"adapt_lr": 0.2}, "inner_lr")], ids=str
)
def test_without_a_choice_all_that_was_compared_is_drawn(given, against):
    ax = il.plot_held_out(fitted(**given), axes())
    assert (ax.get_xlabel(), ax.get_ylabel()) == LABELS[against]


def test_without_axes_a_new_pyplot_figure_is_drawn_on():
    from matplotlib import pyplot as plt

    before = set(plt.get_fignums())
    ax = il.plot_held_out(fitted())
    (new,) = set(plt.get_fignums()) - before
    assert ax.figure.number == new
    plt.close(ax.figure)


@pytest.mark.parametrize(
    ("given", "against", "message"),
    [
        ({}, "l2", "`against` must be 'inner_lr', 'adapt_lr', 'both' or None, got 'l2'."),
        ({"inner_lr": 0.1}, "both", "`against` is 'both', but `model` compared several values of adapt_lr only."),
        (
            {"adapt_lr": 0.1},
            "adapt_lr",
            "`against` is 'adapt_lr', but `model` compared several values of inner_lr",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_drawn(given, against, message):
    ax = axes()
    with pytest.raises(ValueError, match="^" + message):
        il.plot_held_out(fitted(**given), ax, against)
    assert not ax.has_data()


@pytest.mark.slow
def test_the_drawn_losses_are_the_lowest_over_the_penalties():
    model = fitted(l2="auto")
    results = model.cv_results_
    assert len(np.unique(results["l2"])) > 1
    lowest = {}
    for inner, adapt, mse in zip(results["inner_lr"], results["adapt_lr"], results["mse"], strict=True):
        lowest[inner] = min(mse, lowest.get(inner, np.inf))
        lowest[inner, adapt] = min(mse, lowest.get((inner, adapt), np.inf))
    x, y = il.plot_held_out(model, axes(), "inner_lr").get_lines()[0].get_data()
    np.testing.assert_allclose(y, [lowest[rate] for rate in x])
    x, y = il.plot_held_out(model, axes(), "adapt_lr").get_lines()[0].get_data()
    np.testing.assert_allclose(y, [lowest[model.inner_lr_, rate] for rate in x])


@pytest.mark.slow
def test_without_matplotlib_drawing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"^Drawing needs matplotlib: pip install 'innerloop\[plot\]'\.$"):
        il.plot_held_out(fitted())


DIST, DESIGN = il.MixedLinearRegression(n_features=3), il.Design(n_tasks=5, n_support=6, n_query=6, n_adapt=4)


@pytest.fixture(scope="module")
def simulated():
    """Losses at six inner rates, not in order, and three adaptation rates."""
    return il.estimate_loss(DIST, DESIGN, [0.0, -0.4, 0.1, 0.3, -0.1, 0.2], [0.1, 0.0, 0.3], n_runs=20)


def series_of(ax):
    """Return (x, y, standard error) of each series of dots."""
    drawn = []
    for dots in ax.containers:
        line, _, (bars,) = dots
        half = [(segment[1, 1] - segment[0, 1]) / 2 for segment in bars.get_segments()]
        drawn.append((*line.get_data(), np.array(half)))
    return drawn


@pytest.mark.slow
def test_dots_are_the_simulated_losses_and_bars_their_standard_errors(simulated):
    ax = axes()
    assert il.plot_simulation(simulated, ax) is ax
    for (x, y, error), adapt_lr in zip(series_of(ax), [0.0, 0.1, 0.3], strict=True):
        at = simulated.sel(inner_lr=x, adapt_lr=adapt_lr)
        assert len(x) == 6
        np.testing.assert_array_equal(y, at["loss"])
        np.testing.assert_allclose(error, at["stderr"], rtol=1e-10)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("inner_lr (meta-training)", "test loss (half MSE)")
    assert ax.get_title() == "Monte Carlo, 20 runs, ± 1 s.e."
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [f"adapt_lr = {rate}" for rate in ("0", "0.1", "0.3")]


def test_the_rate_with_more_values_is_drawn_against(simulated):
    ax = il.plot_simulation(simulated.sel(inner_lr=[0.0, 0.1]), axes())
    assert ax.get_xlabel() == "adapt_lr (new task)"
    assert [len(x) for x, _, _ in series_of(ax)] == [3, 3]
    ax = il.plot_simulation(simulated.sel(inner_lr=0.1), axes())  # without the dimension
    ((x, y, _),) = series_of(ax)
    np.testing.assert_array_equal(x, [0.0, 0.1, 0.3])
    np.testing.assert_array_equal(y, simulated["loss"].sel(inner_lr=0.1, adapt_lr=x))


@pytest.mark.slow
@pytest.mark.parametrize("part", [{}, {"adapt_lr": 0.1}, {"inner_lr": 0.3}], ids=str)
def test_the_line_is_the_theory(simulated, part):
    theory = partial(il.expected_loss, DIST, DESIGN)
    ax = il.plot_simulation(simulated.sel(part), axes(), theory)
    lines = [line for line in ax.get_lines() if len(line.get_xdata()) > 100]
    fixed = [[0.3], [0.1], [0.0, 0.1, 0.3]][("adapt_lr" in part) + 2 * (not part)]
    for line, rate in zip(lines, fixed, strict=True):
        x, y = line.get_data()
        np.testing.assert_allclose(y, theory(rate, x) if "inner_lr" in part else theory(x, rate))


@pytest.mark.slow
def test_legends_of_simulations_lie_below_the_data_and_stay_short(simulated):
    from matplotlib.figure import Figure

    many = il.estimate_loss(DIST, DESIGN, np.linspace(-0.2, 0.2, 12), np.linspace(0, 0.3, 11), n_runs=2)
    for result, n_named in ((simulated, 3), (many, 7)):
        figure = Figure(figsize=(6.4, 5), layout="constrained")
        ax = il.plot_simulation(result, figure.subplots())
        FigureCanvasAgg(figure).draw()
        legend = extent(ax.get_legend())
        assert legend.y1 < ax.bbox.y0
        assert legend.y0 >= 0
        assert not legend.overlaps(extent(ax.xaxis.label))
        assert len(ax.get_legend().get_texts()) == n_named
