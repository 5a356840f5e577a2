"""The picture of held-out loss: what it shows, and that it can be read."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest

from cases import table
from innerloop import MetaRegressor
from innerloop.plots.held_out import as_png, plot_held_out

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
    figure = plot_held_out(model, "A table")
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


def test_every_axis_is_labelled(drawn):
    _, figure, (inner, adapt, both) = drawn
    labels = [(ax.get_xlabel(), ax.get_ylabel()) for ax in (inner, adapt, both)]
    inner_label, adapt_label, loss = "inner_lr (meta-training)", "adapt_lr (new task)", "held-out MSE"
    assert labels == [(inner_label, loss), (adapt_label, loss), (inner_label, adapt_label)]
    assert all(ax.get_title() for ax in (inner, adapt, both))
    assert figure.get_suptitle() == "A table"


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
    figure = plot_held_out(model)
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


@pytest.mark.parametrize("name", ["free", "few query rows", "large"])
def test_legends_lie_over_no_curve(name):
    figure = plot_held_out(MODELS[name]())
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
    results, both = model.cv_results_, plot_held_out(model).axes[2]
    low = np.argmin(results["mse"])
    assert marker(both, "lowest").get_xydata()[0] == pytest.approx([results["inner_lr"][low], results["adapt_lr"][low]])


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
    figure = plot_held_out(model)
    FigureCanvasAgg(figure).draw()
    assert [ax.get_xlabel() for ax in figure.axes] == labels
    x, y = marker(figure.axes[0], "recommended").get_xydata()[0]
    assert x == (model.adapt_lr_ if "inner_lr" in given else model.inner_lr_)
    assert figure.axes[0].get_ylim()[0] <= y <= figure.axes[0].get_ylim()[1]


@pytest.mark.parametrize("l2", ["auto", 0.0])
def test_nothing_to_compare_is_refused(l2):
    with pytest.raises(ValueError, match="compared no rates"):
        plot_held_out(fitted(inner_lr=0.1, adapt_lr=0.1, l2=l2))


@pytest.mark.parametrize("name", ["free", "two steps"])
def test_the_same_model_gives_the_same_bytes(name):
    model = MODELS[name]()
    first, second = (as_png(plot_held_out(model, "A table")) for _ in range(2))
    assert first.startswith(PNG_SIGNATURE)
    assert first == second


def test_drawing_leaves_pyplot_and_its_settings_alone():
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    before, open_figures = dict(mpl.rcParams), plt.get_fignums()
    as_png(plot_held_out(fitted()))
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == open_figures


def test_without_matplotlib_there_is_a_sentence_instead_of_a_picture(monkeypatch, capsys):
    from innerloop.cli._output import pictures_of

    model = fitted()
    assert list(pictures_of(model, "A table")) == ["held_out_loss.png"]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert pictures_of(model, "A table") == {}
    assert "pip install 'innerloop[plot]'" in capsys.readouterr().err


def test_beside_a_ridge_the_rates_are_those_of_the_best_gradient_step():
    model = fitted(adaptation="auto")
    assert model.adaptation_ == "ridge"
    texts = [text.get_text() for ax in plot_held_out(model).axes[:2] for text in ax.get_legend().get_texts()]
    assert any(text.startswith("best gradient step: ") for text in texts)
    assert not any("recommended" in text for text in texts)
