"""The report: one page that needs no other file, whatever names the data bring."""

import html.parser
import re
from dataclasses import replace

import numpy as np
import pytest

from command_line import COLUMNS, innerloop, save, small_table, tree

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

HOSTILE = "<script>alert(\"x\")</script> & 'co'"
VOID = {"meta", "path", "use", "rect", "br", "link", "image"}


class Page(html.parser.HTMLParser):
    """Collects the text, and checks that elements are closed in their order."""

    def __init__(self, source):
        super().__init__()
        self.text, self.open, self.tags, self.links = [], [], set(), []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    frame = small_table().rename(columns={"a": HOSTILE, "y": "y & <b>"})
    frame["task"] = frame["task"].where(frame["task"] != "t0", HOSTILE)
    table = save(frame, folder / "table.csv")
    ran = innerloop("fit", table, "--group", "task", "--target", "y & <b>", "--cv", 2, "--report", folder / "r.html")
    assert ran.code == 0, ran.err
    return ran, (folder / "r.html").read_text()


@pytest.mark.slow
def test_the_page_is_well_formed_and_whole(written):
    page = Page(written[1])
    assert {"svg", "table", "h1"} <= page.tags
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert re.search(r"https?://(?!www\.w3\.org)", written[1]) is None
    identifiers = re.findall(r'\bid="([^"]+)"', written[1])
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.slow
def test_a_policy_forbids_all_but_what_the_page_has(written):
    source = written[1]
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', source).group(1)
    assert source.index(policy) < source.index("<style")
    allowed = {words[0]: words[1:] for words in (part.split() for part in policy.split(";"))}
    assert allowed["default-src"] == ["'none'"]
    assert allowed["style-src"] == ["'unsafe-inline'"]
    assert allowed["img-src"] == ["data:"]
    # Pictures are inline SVG, which takes no permission; what they use lies in the page or in data.
    assert source.count("<svg") >= 4
    assert all(link.startswith(("#", "data:image/")) for link in Page(source).links)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", source))
    assert not re.search(r"<(script|link|iframe|object|embed|form|base)\b|@import|javascript:", source)


def test_links_within_a_page_name_what_is_there_and_no_name_is_there_twice():
    from innerloop.report.pictures import as_svg

    def draw(ax):
        ax.plot([1, 2, 3], "o-", clip_on=True)
        ax.set_title("1234")

    page = "".join(as_svg(draw, title) for title in ("One picture", "Another picture"))
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    named = re.findall(r'href="#([^"]*)"', page) + re.findall(r"url\(#([^)]*)\)", page)
    assert len(set(named)) > 4
    assert set(named) <= set(ids)


def test_names_from_the_data_are_text(written):
    assert "<script" not in written[1]
    assert "<b>" not in written[1].split("<h1>")[1].split("</h1>")[0]
    assert HOSTILE in "".join(Page(written[1]).text)


def test_the_verdict_comes_first(written):
    ran, page = written
    verdict = " ".join(ran.out.strip().split("\n\n")[-1].split("Wrote the report")[0].split())
    text = " ".join("".join(Page(page).text).split())
    assert verdict in text
    assert text.index(verdict) < text.index("Against the alternatives")


def test_every_section_is_there(written):
    text = "".join(Page(written[1]).text)
    for heading in (
        "Against the alternatives",
        "How much the rows of a new task help",
        "Learning rates",
        "Prediction intervals",
        "What further data would bring",
        "Tasks predicted worst and best",
        "The model of the theory, fitted to this table",
        "To reproduce",
    ):
        assert heading in text
    assert "innerloop fit" in text
    assert re.search(r"Seed 0\. innerloop \d", text)


def test_it_names_what_the_data_lack(written):
    text = " ".join("".join(Page(written[1]).text).split())
    assert f"{HOSTILE}, b, sum are collinear" in text
    assert "'same' is 1.5 wherever it is known: left out" in text


def test_every_method_has_a_row_and_a_line(written):
    from innerloop.evaluation.methods import GRADIENT, NO_INNER_LOOP, PER_TASK, POOLED, RIDGE, TASK_MEAN, TIED

    _, rest = written[1].split("<h2>Against the alternatives</h2>")
    table, rest = rest.split("<h2>How much the rows of a new task help</h2>")
    curves = rest.split("<h2>")[0]
    assert len(re.findall(r'<g id="[^"]*legend_1"', curves)) == 1
    for method in (RIDGE, GRADIENT, NO_INNER_LOOP, TIED, POOLED, PER_TASK, TASK_MEAN):
        name = re.escape(method.label)
        assert len(re.findall(rf"<td>{name}\b|<td>{name} ", table)) == 1
        assert f"<!-- {method.label}" in curves  # as matplotlib notes what a drawn text says


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said", "unsaid"),
    [
        (["--adaptation", "none"], ["inner_lr / adapt_lr: neither inner loop nor adaptation", "as asked"], ["given"]),
        (
            ["--inner-lr", "0.1", "--adapt-lr", "0.1", "--l2", "0"],
            ["0.1 / 0.1", "inner_lr / adapt_lr, given", "rates as given"],
            ["recommended"],
        ),
        (
            ["--adapt-lr", "per-feature"],
            ["The learning rate of each feature", "intercept", "that all features share"],
            [],
        ),
    ],
)
def test_any_choice_has_a_report(tmp_path, options, said, unsaid):
    table = save(small_table(), tmp_path / "table.csv")
    ran = innerloop("fit", table, *COLUMNS, "--cv", 2, *options, "--report", tmp_path / "r.html")
    assert ran.code == 0, ran.err
    source = (tmp_path / "r.html").read_text()
    text = " ".join("".join(Page(source).text).split())
    for words in said:
        assert words in text
    for words in unsaid:
        assert words not in text
        assert f"<!-- {words}" not in source
    assert "-0.0 %" not in text


@pytest.mark.slow
def test_two_tasks_are_told_that_choices_were_made_on_both(tmp_path):
    table = save(small_table()[lambda frame: frame.task.isin(["t0", "t1"])], tmp_path / "table.csv")
    ran = innerloop("fit", table, *COLUMNS, "--report", tmp_path / "r.html")
    assert ran.code == 0, ran.err
    words = "rates and the ridge were chosen on both tasks, as two are too few for more"
    assert words in " ".join(ran.out.split())
    assert words in " ".join("".join(Page((tmp_path / "r.html").read_text()).text).split())


def slice_of(predicted, n_tasks=40):
    """Return a parabola with its minimum, 1, at a rate of 0.5, known to 1 %, beside a prediction."""
    from innerloop.evaluation.rate_slices import RateSlice

    rates = np.linspace(-1, 2, 31)
    noise = 0.01 * np.sqrt(n_tasks) * np.random.default_rng(0).standard_normal((n_tasks, 1))
    per_task = 1 + (rates - 0.5) ** 2 + noise - noise.mean()
    return RateSlice("adapt_lr", 0.5, "recommended", rates, per_task, per_task[:, 15], predicted(rates))


@pytest.mark.parametrize(("errors", "fails"), [(1.5, False), (3.0, True)])
def test_the_theory_fails_beyond_two_standard_errors(errors, fails):
    from innerloop.evaluation.rate_slices import RateSlice

    rates, n_tasks = np.linspace(-1, 2, 31), 50
    noise = np.random.default_rng(0).standard_normal((n_tasks, 1))
    noise = (noise - noise.mean()) / noise.std(ddof=1) * np.sqrt(n_tasks)  # the mean has a standard error of 1
    per_task = 4 + (rates - 0.5) ** 2 + noise
    found = RateSlice("adapt_lr", 0.5, "recommended", rates, per_task, per_task[:, 15], per_task.mean(axis=0) + errors)
    assert (found.worst_prediction() is not None) == fails
    assert fails == (found.worst_prediction() == 15)


@pytest.mark.parametrize(
    ("predicted", "said"),
    [
        (lambda x: 1 + (x - 0.5) ** 2, []),
        (lambda x: 1.1 * (1 + (x - 0.5) ** 2), []),
        (lambda x: 1 + (x - 0.6) ** 2, []),
        (lambda x: np.where(x > 1.7, 9.0, 1 + (x - 0.5) ** 2), []),  # where nobody would be
        (lambda x: 1.3 * (1 + (x - 0.5) ** 2), ["at adapt_lr 0.5 it predicts 1.3, cross-validation found 1 ± 0.008"]),
        (lambda x: np.where(x < 0, 2.0, 1 + (x - 0.5) ** 2), ["at adapt_lr -0.1 it predicts 2"]),
        (
            lambda x: 1.4 + 0.01 * (x + 0.1) ** 2,
            ["the best adapt_lr is -0.1 by theory, 0.5 by cross-validation", "it predicts 1.4", "Use the cross-v"],
        ),
    ],
)
def test_the_theory_fails_where_it_is_visibly_off(predicted, said):
    from innerloop.evaluation.rate_slices import theory_failures

    found = slice_of(predicted)
    assert found.difference_se == pytest.approx(0, abs=1e-12)
    text = theory_failures([found])
    assert (text is None) == (not said)
    for words in said:
        assert words in text


@pytest.mark.slow
def test_the_theory_is_that_of_as_many_tasks_as_cross_validation_trains_on():
    import innerloop as il
    from innerloop.cli._demo_tables import PAPER_N_QUERY, PAPER_N_SUPPORT, paper_table
    from innerloop.evaluation.rate_slices import theory_failures

    tasks = paper_table()
    model = il.MetaRegressor(adaptation="gradient", n_support=PAPER_N_SUPPORT, n_query=PAPER_N_QUERY, l2=0.0)
    study, calibrated = il.study(tasks, model, unseen=tasks), il.calibrate(tasks, n_resamples=2)
    slices = study.rate_slices(calibrated)
    assert theory_failures(slices) is None
    design = replace(calibrated.design(PAPER_N_SUPPORT, 1, PAPER_N_QUERY, 0.0), n_tasks=48)  # of 60, in five folds
    pair = {"inner_lr": study.model.inner_lr_, "adapt_lr": study.model.adapt_lr_}
    for losses in slices:
        i = int(np.argmin(losses.mse))
        rates = pair | {losses.name: losses.rates[i]}
        assert losses.predicted[i] == pytest.approx(float(calibrated.predicted_mse(design, **rates)), rel=1e-3)
        assert losses.predicted[i] == pytest.approx(losses.mse[i], rel=0.1)


def test_slices_are_the_cross_validated_losses_of_the_fit():
    import innerloop as il

    tasks = il.MixedLinearRegression(2, 1.0, 0.8).sample_tasks(12, 8, seed=2)
    study = il.study(tasks, il.MetaRegressor(adaptation="gradient"), unseen=tasks)
    model, table = study.model, study.model.cv_results_
    by_adapt, by_inner = study.rate_slices()
    assert (by_adapt.name, by_inner.name) == ("adapt_lr", "inner_lr")
    at_penalty = table["l2"] == model.l2_
    same = at_penalty & (table["inner_lr"] == model.inner_lr_)
    np.testing.assert_allclose(
        np.interp(table["adapt_lr"][same], by_adapt.rates, by_adapt.mse), table["mse"][same], rtol=0.02
    )
    for losses, at in ((by_adapt, model.adapt_lr_), (by_inner, model.inner_lr_)):
        place = np.abs(losses.rates - at).argmin()
        assert losses.marked == at
        assert losses.mse[place] == pytest.approx(losses.at_mark.mean(), rel=0.02)
        assert losses.predicted is None


@pytest.mark.parametrize(("part", "text"), [(-0.0001, "0.0 %"), (0.0, "0.0 %"), (0.0123, "+1.2 %"), (-0.5, "-50.0 %")])
def test_percentages_that_round_to_nothing_have_no_sign(part, text):
    from innerloop.report.page import _percent

    assert _percent(part) == text


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("r.pdf", "`--report` must end in .html or .htm, got 'r.pdf'."),
        ("nowhere/r.html", "there is no folder"),
        (".", "`--report` must name a file, got the folder"),
    ],
)
def test_a_wrong_place_is_said_before_any_work(tmp_path, place, sentence):
    table = save(small_table(), tmp_path / "table.csv")
    ran = innerloop("fit", table, *COLUMNS, "--report", tmp_path / place)
    assert ran.code == 2
    assert sentence in ran.err
    assert tree(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("label", ["short", "a label that is too long to have another one beside it"])
def test_legends_can_be_read_on_a_phone(label):
    from matplotlib.figure import Figure

    from innerloop.plots import table as plots
    from innerloop.report import pictures

    figure = Figure(figsize=(pictures._WIDTH, pictures._HEIGHT), layout="constrained")
    ax = figure.subplots()
    for i in range(5):
        ax.plot([0, 1], [i, 0], label=f"{label} {i}")
    plots._legend(ax)
    figure.draw_without_rendering()
    letters = ax.get_legend().get_texts()[0].get_fontsize() / (72 * figure.get_figwidth())
    assert 380 * letters > 11  # pixels, of the 412 less margins that a phone has
    legend = ax.get_legend().get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= figure.bbox.width


@pytest.mark.slow
def test_the_page_shows_an_error_and_its_root(written):
    page = re.sub(r"<[^>]+>", " ", written[1])
    error, root = map(
        float, re.search(r"([\d.e+-]+) ± [\d.e+-]+\s+MSE on unseen tasks \(its root: ([\d.e+-]+)", page).groups()
    )
    assert root == pytest.approx(error**0.5, rel=0.006)


@pytest.mark.slow
def test_intervals_of_unseen_tasks_hold_what_they_promise():
    import innerloop as il
    from innerloop.evaluation.coverage import LEVELS

    dist = il.MixedLinearRegression(3, 1.0, 0.8)
    tasks, unseen = dist.sample_tasks(60, 14, seed=4), dist.sample_tasks(60, 14, seed=5)
    model = il.MetaRegressor(adaptation="ridge", basis="linear", n_support=5)
    for found in (il.study(tasks, model).coverage(), il.study(tasks, model, unseen=unseen).coverage()):
        assert found.n_rows.tolist() == [0, 1, 2, 3, 5, 10]
        assert found.share.shape == (6, len(LEVELS))
        assert (np.abs(found.share - LEVELS) < 4 * found.share_se + 0.02).all()
