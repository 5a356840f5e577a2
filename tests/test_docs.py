"""The documentation is whole: each page can be reached, each link leads somewhere, each public name has an example."""

import ast
import doctest
import importlib
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in [*DOCS.glob("*.md"), *DOCS.glob("*.rst")]}
MARKDOWN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
MODULES = {"innerloop": "api", "innerloop.theory": "api", "innerloop.neural": "api_neural"}
# Their examples fit whole tables, draw maps or wait for other packages.
SLOW = {
    "MetaRegressor",
    "TableStudy",
    "advise",
    "calibrate",
    "compare",
    "load_network",
    "plot_coverage",
    "plot_held_out",
    "plot_learning_curves",
    "plot_rate",
    "plot_theory",
    "study",
}


def public_names(module):
    """Return the names in ``__all__``, without importing the module."""
    tree = ast.parse((ROOT / "src" / module.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return names


# A name that two modules offer is looked at in one.
PUBLIC = list({name: (module, name) for module in reversed(MODULES) for name in public_names(module)}.values())


def public_object(module, name):
    if module == "innerloop.neural" or name == "plot_sweep":
        pytest.importorskip("torch", reason="networks need the extra `neural`")
    if name.startswith("plot_"):
        pytest.importorskip("matplotlib", reason="drawing needs the extra `plot`").use("agg")
    return getattr(importlib.import_module(module), name)


def without_code(text):
    return re.sub(r"^```.*\n(?:.*\n)*?```$", "", text, flags=re.M)


def anchors(text):
    """Return the anchors of the headings of a page, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("module", "page"), MODULES.items())
def test_the_reference_lists_every_public_name_once(module, page):
    listed, current = Counter(), None
    for line in PAGES[page].splitlines():
        if directive := re.fullmatch(r"\.\. currentmodule:: (\S+)", line):
            current = directive[1]
        elif entry := re.fullmatch(r"   (\w+)", line):
            listed[current, entry[1]] += 1
    assert max(listed.values()) == 1
    elsewhere = {name for other, name in listed if other != module}
    here = {name for other, name in listed if other == module}
    assert here <= set(public_names(module)) <= here | elsewhere


def test_every_page_is_reached_from_the_first():
    below = {
        page: re.findall(
            r"^(?:.+ <)?(\w+)>?$", "\n".join(re.findall(r"\{toctree\}\n((?:.*\n)*?):::", text)), flags=re.M
        )
        for page, text in PAGES.items()
    }
    reached, ahead = set(), ["index"]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        ahead += below[page]
    assert reached == set(PAGES)


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page):
    text = without_code(page.read_text(encoding="utf-8"))
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)", text):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), f"{target}#{anchor}"


def test_numbers_of_equations_are_unique_and_cited_ones_exist():
    theory = "\n".join(text for page, text in PAGES.items() if page.startswith("theory"))
    numbers = re.findall(r"\\tag\{(\d+\.\d+)\}", theory)
    assert max(Counter(numbers).values()) == 1
    in_text = set(numbers) | set(re.findall(r"\((\d+\.\d+)\)", theory))
    for source in (ROOT / "src").rglob("*.py"):
        for cited in re.findall(r"[Ee]quations? ((?:\d+\.\d+(?:, | and | to )?)+)", source.read_text(encoding="utf-8")):
            assert set(re.findall(r"\d+\.\d+", cited)) <= in_text, f"{source.name}: {cited}"


def test_sections_of_the_theory_are_numbered_once_and_listed_on_its_first_page():
    sections = {
        page: re.findall(r"^## (\d+)\. ", text, flags=re.M) for page, text in PAGES.items() if page.startswith("theory")
    }
    numbers = sorted(int(number) for found in sections.values() for number in found)
    assert numbers == list(range(1, len(numbers) + 1))
    for page, found in sections.items():
        assert all(page == "theory" or f"]({page}.md#{number}-" in PAGES["theory"] for number in found)
        assert re.search(r"^\| symbol ", PAGES[page], flags=re.M)


@pytest.mark.parametrize(
    "package", ["learn2learn", "higher", "TorchOpt", "MAML++", "MixedLM", "lme4", "MERF", "GPBoost"]
)
def test_there_is_a_recipe_from_each_package_before_and_after(package):
    sections = re.split(r"^#+ (?=.+$)", PAGES["coming_from"], flags=re.M)
    section = next(part for part in sections if package in part.partition("\n")[0])
    assert re.search(r"^```text\n(?:.*\n)*?```$(?:.|\n)*?^```python$", section, flags=re.M)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("choosing.md", "!["),
        ("theory_solver.md#6-dealing-every-row-and-what-it-does-to-negative-rates", "every row"),
        ("tutorials/inner_loop.py", "score"),
        ("theory.md#the-expected-loss-before-any-training", "fail"),
        ("when_not.md", "Groups do not differ"),
        ("two_languages.md", "for people who know mixed models"),
        ("two_languages.md", "for people who know MAML"),
        ("census.md", "What was measured"),
    ],
)
def test_what_is_to_be_explained_is(target, words):
    assert f"]({target})" in PAGES["explain"]
    assert words in (DOCS / target.partition("#")[0]).read_text(encoding="utf-8")


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[f"{module}.{name}" for module, name in PUBLIC])
def test_public_names_are_explained_and_have_an_example(module, name):
    thing = public_object(module, name)
    assert thing.__doc__
    if callable(thing):
        examples = doctest.DocTestParser().get_examples(inspect.getdoc(thing))
        assert examples
        assert not any(doctest.SKIP in example.options for example in examples)
        assert re.search(r"^Examples\n-+$", inspect.getdoc(thing), flags=re.M)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name"),
    [pytest.param(*public, marks=pytest.mark.slow) if public[1] in SLOW else public for public in PUBLIC],
    ids=[f"{module}.{name}" for module, name in PUBLIC],
)
def test_examples_of_docstrings_do_what_they_show(module, name, tmp_path, monkeypatch):
    thing = public_object(module, name)
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(thing.__doc__, {}, f"{module}.{name}", None, None)
    runner, said = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE), []
    assert not runner.run(test, out=said.append).failed, "".join(said)
