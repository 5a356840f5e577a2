"""The built site: no warning, no dead link, three clicks to each task; pages can be read and searched offline."""

import subprocess
import sys
from collections import deque
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

from explorer_page import browser
from test_docs_clicks import TASKS

DOCS = Path(__file__).parents[1] / "docs"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
# Of each kind one: text, a tutorial, code, formulas, wide tables, signatures, pictures.
LOOKED_AT = (
    "index",
    "start",
    "generated/tutorials/table_of_groups",
    "howto",
    "tables",
    "theory_loss",
    "errors",
    "coming_from",
    "commands",
    "census",
    "benchmarks",
    "generated/innerloop.MetaRegressor",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    for module in ("sphinx", "myst_parser", "sphinx_gallery", "numpydoc", "pydata_sphinx_theme"):
        pytest.importorskip(module, reason="the site needs the extra `docs`")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", out / "doctrees", DOCS, out / "html"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    return out / "html"


class Links(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors, self.pictures = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "img":
            self.pictures.append((values["src"], values.get("alt")))


@pytest.fixture(scope="module")
def pages(site):
    return {path.relative_to(site).as_posix(): Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def inside(page, link):
    """Return the page and the anchor of a link within the site, or None."""
    parts = urlsplit(urljoin(page, link))
    return None if parts.scheme or parts.netloc else (unquote(parts.path), unquote(parts.fragment))


def test_no_link_is_dead_and_every_picture_is_there_and_described(site, pages):
    dead = [
        f"{page}: {link}"
        for page, found in pages.items()
        for link in found.links
        if (target := inside(page, link)) is not None
        if not (site / target[0]).is_file()
        or (target[1] and target[0] in pages and target[1] not in pages[target[0]].anchors)
    ]
    assert not dead
    for page, found in pages.items():
        for source, described in found.pictures:
            assert (site / urljoin(page, source)).is_file(), f"{page}: {source}"
            assert described or page.startswith("generated/tutorials"), f"{page}: {source}"


def test_docstrings_cite_equations_by_link(pages):
    links = pages["generated/innerloop.expected_loss.html"].links
    assert any(link.endswith("theory_loss.html#equation-7-1") for link in links)
    cited = {link for found in pages.values() for link in found.links if "#equation-" in link}
    assert len(cited) > 30


@pytest.mark.parametrize("task", TASKS)
def test_three_clicks_on_the_site(pages, task):
    name, _, anchor = TASKS[task][0].partition("#")
    wanted = (name.replace(".md", ".html"), anchor.replace("-", ""))
    clicks, ahead = {("index.html", ""): 0}, deque([("index.html", "")])
    while ahead:
        place = ahead.popleft()
        for link in pages[place[0]].links:
            target = inside(place[0], link)
            if target is not None and target not in clicks and target[0] in pages:
                clicks[target] = clicks[place] + 1
                ahead.append(target)
    # An apostrophe in a heading is a hyphen in one kind of anchor, and nothing in the other.
    assert min(n for (page, found), n in clicks.items() if (page, found.replace("-", "")) == wanted) <= 3


@pytest.fixture(scope="module")
def chrome():
    with browser() as launched:
        yield launched


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 412])
def test_pages_fit_the_screen_and_need_no_network(site, chrome, width, scheme):
    context = chrome.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page, asked, problems = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    for name in LOOKED_AT:
        page.goto((site / f"{name}.html").as_uri())
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)"), name
        # Text and its background differ in brightness, in boxes of code too.
        assert page.evaluate(CONTRAST) > 4.5, name
    context.close()
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert not problems


# The least contrast, by the rule of WCAG, of paragraphs, cells and code.
CONTRAST = """() => {
  const light = colour => colour.slice(0, 3).map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 :
    ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0)
  const numbers = text => text.match(/[\\d.]+/g).map(Number)
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor)
      if (colour.length < 4 || colour[3] > 0.5) return colour
    }
    return [255, 255, 255]
  }
  let least = 21
  for (const element of document.querySelectorAll('article p, article td, article pre')) {
    const a = light(numbers(getComputedStyle(element).color)), b = light(behind(element))
    least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05))
  }
  return least
}"""


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("forget", "How to"),
        ("wishart", "Theory: the expected loss"),
        ("IllConditionedWarning", "Errors and warnings"),
        ("lme4", "Coming from another package"),
    ],
)
def test_search_works_offline(site, chrome, words, page):
    context = chrome.new_context(viewport={"width": 1400, "height": 900}, offline=True)
    tab = context.new_page()
    tab.goto((site / "index.html").as_uri())
    tab.keyboard.press("Control+k")
    tab.wait_for_timeout(300)
    tab.keyboard.type(words)
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#search-results .search-summary:has-text('finished')", timeout=20_000)
    tab.wait_for_timeout(500)
    found = tab.evaluate("[...document.querySelectorAll('#search-results li a')].map(link => link.textContent)")
    context.close()
    assert page in found
