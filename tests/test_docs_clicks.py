"""A stranger finds in three clicks how to do each thing: the links of the pages, followed from the first one."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in DOCS.glob("*.md")}
# What is looked for: where it is told, and the words by which the page "How to" leads there.
TASKS = {
    "choose an adaptation": ("howto.md#choose-how-new-groups-adapt", "Choose how new groups adapt"),
    "read the verdict": ("howto.md#read-the-verdict", "Read the verdict"),
    "new groups": ("howto.md#predict-new-groups-with-intervals", "Predict new groups"),
    "intervals": ("howto.md#predict-new-groups-with-intervals", "with intervals"),
    "curves": ("howto.md#let-the-target-be-a-curve", "curve"),
    "time order": ("howto.md#predict-later-rows-from-earlier-ones", "later rows from earlier"),
    "save, share, forget": ("howto.md#save-share-and-forget", "Save, share and forget"),
    "millions of groups": ("scale.md#from-python", "Fit millions of groups"),
    "a cluster": ("scale.md#on-a-cluster", "on a cluster"),
    "resume a simulation": ("howto.md#resume-a-simulation-or-spread-it", "Resume a simulation"),
    "resume a training": ("howto.md#resume-a-training", "Resume a training"),
    "a distribution of one's own": ("howto.md#draw-tasks-of-your-own", "Draw tasks of your own"),
    "an inner rule of one's own": ("howto.md#bring-an-inner-rule-of-your-own", "an inner rule"),
    "an algorithm of one's own": ("pytorch.md#an-algorithm-of-your-own", "Bring an algorithm of your own"),
    "signed rates per layer": ("howto.md#give-each-layer-a-rate-of-any-sign", "rate of any sign"),
    "reproduce the paper": ("research.md#the-papers-figures", "Reproduce the paper's figures"),
}


def without_code(text):
    return re.sub(r"^```.*\n(?:.*\n)*?```$", "", text, flags=re.M)


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def clicks_from_the_first_page():
    """Return how many clicks away each page and heading is: by links, and by the list of headings beside each page."""
    away, ahead = {"index.md": 0}, ["index.md"]
    while ahead:
        place = ahead.pop(0)
        page = place.partition("#")[0]
        if page not in PAGES:
            continue
        text = without_code(PAGES[page])
        links = re.findall(r"\]\((?!https?://)([^)\s]*)\)", text)
        links = [link if not link.startswith("#") else page + link for link in links]
        links += [f"{page}#{slug(heading)}" for heading in re.findall(r"^#+ (.+)$", text, flags=re.M)]
        for link in links:
            for found in {link, link.partition("#")[0]}:
                if found not in away:
                    away[found] = away[place] + 1
                    ahead.append(found)
    return away


@pytest.mark.parametrize("task", TASKS)
def test_three_clicks_lead_to_what_tells_it_with_code(task):
    place, words = TASKS[task]
    assert clicks_from_the_first_page()[place] <= 3
    assert re.search(rf"^- .*{re.escape(words)}", without_code(PAGES["howto.md"]), flags=re.M | re.I)
    page, _, anchor = place.partition("#")
    sections = re.split(r"^#+ (?=[A-Z].*$)", PAGES[page], flags=re.M)
    (section,) = (part for part in sections if slug(part.partition("\n")[0]) == anchor)
    assert re.search(r"^```(python|sh|text)$", section, flags=re.M) or "`innerloop " in section


def test_every_line_of_the_page_leads_somewhere_within_three_clicks():
    lines = re.findall(r"^- (.+)$", without_code(PAGES["howto.md"]), flags=re.M)
    assert len(lines) > 20
    away = clicks_from_the_first_page()
    for line in lines:
        targets = re.findall(r"\]\(([^)\s]+)\)", line)
        assert targets, line
        assert all(away[target if not target.startswith("#") else f"howto.md{target}"] <= 2 for target in targets)
