"""The report: one page that needs no other file, whatever names the data bring."""

import html.parser
import re

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


def test_the_page_is_well_formed_and_whole(written):
    page = Page(written[1])
    assert {"svg", "table", "h1"} <= page.tags
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert re.search(r"https?://(?!www\.w3\.org)", written[1]) is None
    identifiers = re.findall(r'\bid="([^"]+)"', written[1])
    assert len(identifiers) == len(set(identifiers))


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
        "The table as the theory sees it",
        "To reproduce",
    ):
        assert heading in text
    assert "innerloop fit" in text
    assert re.search(r"Seed 0\. innerloop \d", text)


@pytest.mark.parametrize(
    "options",
    [
        ["--adaptation", "none"],
        ["--inner-lr", "0.1", "--adapt-lr", "0.1", "--l2", "0"],
        ["--adapt-lr", "per-feature"],
    ],
)
def test_any_choice_has_a_report(tmp_path, options):
    table = save(small_table(), tmp_path / "table.csv")
    ran = innerloop("fit", table, *COLUMNS, "--cv", 2, *options, "--report", tmp_path / "r.html")
    assert ran.code == 0, ran.err
    Page((tmp_path / "r.html").read_text())


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
    from innerloop.report import pictures

    figure, ax = pictures._figure()
    for i in range(5):
        ax.plot([0, 1], [i, 0], label=f"{label} {i}")
    pictures._legend(ax)
    figure.draw_without_rendering()
    letters = ax.get_legend().get_texts()[0].get_fontsize() / (72 * figure.get_figwidth())
    assert 380 * letters > 11  # pixels, of the 412 less margins that a phone has
    legend = ax.get_legend().get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= figure.bbox.width


def test_intervals_of_unseen_tasks_hold_what_they_promise():
    import innerloop as il
    from innerloop.report.held_out import LEVELS, coverage

    dist = il.MixedLinearRegression(3, 1.0, 0.8)
    found = coverage(il.MetaRegressor(adaptation="ridge"), dist.sample_tasks(90, 14, seed=4), np.array([0, 5]))
    assert found.share.shape == (2, len(LEVELS))
    assert (np.abs(found.share - LEVELS) < 4 * found.share_se + 0.02).all()
