"""Numbers, outputs and pictures of the README and of pages are those that were measured."""

import importlib
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TABLES = ROOT.parent / "shared" / "data"
# Numbers of the README's prose that are no results.
NO_RESULTS = {"ICLR 2021", "Figure 5"}


@pytest.fixture(scope="module")
def docs():
    """Import a script of the pages by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        patch.syspath_prepend(DOCS)
        yield importlib.import_module
    for name in ("claims", "pictures", "shown"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def claims(docs):
    return docs("claims")


def prose(text):
    """Return what is no code, no target of a link and no formula."""
    for part in (r"^```.*\n(?:.*\n)*?^```$", r"`[^`\n]*`", r"\]\([^)]*\)"):
        text = re.sub(part, " ", text, flags=re.M)
    return text


def test_pages_say_what_results_say(claims):
    changed = [page for page in claims.pages() if claims.written(page) != (ROOT / page).read_text(encoding="utf-8")]
    assert not changed, "run docs/claims.py, which writes their numbers"
    assert {"README.md", "docs/research.md", "docs/tables.md", "docs/scale.md", "docs/reliability.md"} <= set(
        claims.pages()
    )


def test_another_result_is_another_number(claims):
    fact = next(fact for fact in claims.facts() if fact.page == "README.md" and fact.values == ("77",))
    changed = claims.Fact(fact.page, fact.pattern, ("12",)).written("wins (here 77 %).")
    assert changed == "wins (here 12 %)."
    with pytest.raises(ValueError, match="not enough values"):
        fact.written("a text without the number")


def test_no_number_of_the_readme_is_typed_by_hand(claims):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for fact in claims.facts():
        if fact.page == "README.md":
            text = fact.written(text) and re.sub(fact.pattern.replace(" ", r"\s+"), "", text)
    text = prose(text)
    for known in NO_RESULTS:
        assert known in text
        text = text.replace(known, "")
    assert not re.findall(r".*(?<![a-z])\d.*", text)
    for page in ("index.md", "howto.md"):
        assert not re.findall(r".*(?<![a-z])\d.*", prose((DOCS / page).read_text(encoding="utf-8")))


def test_the_version_of_python_is_that_of_the_package():
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    for page in (ROOT / "README.md", DOCS / "start.md"):
        assert set(re.findall(r"Python (3[.\d]+\d) or later", page.read_text(encoding="utf-8"))) == {
            needed.removeprefix(">=")
        }


def test_outputs_in_the_readme_are_what_commands_print(claims):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n((?:.*\n)*?)```$", text, flags=re.M)
    assert sorted(blocks) == sorted(claims.excerpt(name) for name in claims.EXCERPTS)


def test_every_picture_has_a_way_in_which_it_is_drawn(docs):
    pytest.importorskip("matplotlib", reason="drawing needs the extra `plot`")
    pictures = docs("pictures")
    assert {path.name for path in (DOCS / "images").iterdir()} == {*pictures.DRAWINGS, *pictures.LONG}
    pages = {path: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *DOCS.glob("*.md")]}
    for name in (*pictures.DRAWINGS, *pictures.LONG):
        (shown_on,) = (text for text in pages.values() if f"images/{name})" in text)
        assert name in pictures.DRAWINGS or pictures.LONG[name] in shown_on


@pytest.mark.slow
@pytest.mark.parametrize("name", ["census.png", "choice.png", "demo.png", "fig2.png", "network_width.png"])
def test_pictures_are_what_the_code_draws(docs, tmp_path, name):
    """But for a hundredth of the pixels: fonts and versions of matplotlib differ a little."""
    pytest.importorskip("matplotlib", reason="drawing needs the extra `plot`")
    pillow = pytest.importorskip("PIL.Image", reason="comparing pictures needs Pillow")
    docs("pictures").DRAWINGS[name](tmp_path / name)
    drawn, shown = (
        np.asarray(pillow.open(path).convert("L"), dtype=float) for path in (tmp_path / name, DOCS / "images" / name)
    )
    assert drawn.shape == shown.shape
    assert np.mean(np.abs(drawn - shown) > 60) < 0.01


@pytest.mark.slow
def test_what_the_readme_shows_of_the_schools_is_what_is_printed(docs):
    if not (TABLES / "school.csv").exists():
        pytest.skip("the table of London schools is not there")
    shown = docs("shown")
    for name, command in shown.README.items():
        assert shown.output_of(command, TABLES) == (shown.FOLDER / f"{name}.txt").read_text(encoding="utf-8")
