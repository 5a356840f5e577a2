"""The README and the pages in docs/ do what they show: Python runs, commands run and print what is printed there."""

import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from command_line import innerloop
from innerloop import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    (page.name, language, code)
    for page in PAGES
    for language, code in re.findall(r"^```(.*)\n((?:.*\n)*?)```$", page.read_text(encoding="utf-8"), flags=re.M)
]
PYTHON = [(page, code) for page, language, code in BLOCKS if language == "python"]
# These take minutes, or do not end, so that only their options are looked at; tests of their own run them.
LONG = ("demo", "explore", "train", "reproduce")


def commands_of(block):
    """Yield the commands of a block, without comments; a backslash ends a line that goes on."""
    for line in block.replace("\\\n", " ").splitlines():
        if tokens := shlex.split(line, comments=True):
            yield tokens


def shown_of(block):
    """Return the one command of a console block, and the paragraphs that it prints."""
    command, _, printed = block.removeprefix("$ ").partition("\n")
    return shlex.split(command), [" ".join(part.split()) for part in printed.split("\n\n")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the tables that the pages speak of, small."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.standard_normal((240, 3)), columns=["x1", "x2", "x3"])
    frame.insert(0, "school", np.repeat([f"s{i}" for i in range(20)], 12))
    frame["exam_score"] = frame["x1"] + rng.standard_normal(20)[frame.index // 12] + rng.standard_normal(240)
    frame.to_csv(tmp_path / "school.csv", index=False)
    new = frame[:12].assign(school="new")
    new.loc[6:, "exam_score"] = np.nan
    new.to_csv(tmp_path / "new.csv", index=False)
    (tmp_path / "rows").mkdir()
    frame.to_parquet(tmp_path / "rows" / "first.parquet")
    (tmp_path / "new_rows").mkdir()
    frame[:12].assign(school="newer").to_parquet(tmp_path / "new_rows" / "first.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_says_what_it_is():
    """So that none goes untried: `text` is for what is not ours."""
    assert {language for _, language, _ in BLOCKS} == {"python", "sh", "console", "text"}


def test_there_is_an_example_for_each_kind_of_user():
    assert sum(page == "README.md" for page, _ in PYTHON) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[f"{page}-{i}" for i, (page, _) in enumerate(PYTHON)])
@pytest.mark.usefixtures("folder")
def test_python_runs_and_prints(page, code, capsys):
    if "import torch" in code:
        pytest.importorskip("torch", reason="the network examples need the extra `neural`")
    if "il.plot_" in code:
        pytest.importorskip("matplotlib", reason="drawing needs the extra `plot`").use("agg")
    exec(compile(code, page, "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({page for page, language, _ in BLOCKS if language == "sh"}))
@pytest.mark.usefixtures("folder")
def test_commands_run_one_after_the_other(page):
    for name, language, block in BLOCKS:
        if (name, language) == (page, "sh"):
            for tokens in commands_of(block):
                try_command(tokens)


def try_command(tokens):
    """Run a command of innerloop; of others see that what they name is there."""
    match tokens:
        case ["innerloop", command, *_] if command in LONG:
            cli.app.parse_args(tokens[1:], exit_on_error=False, print_error=False)
        case ["innerloop", *arguments]:
            if ">" in arguments:
                arguments = arguments[: arguments.index(">")]
            ran = innerloop(*arguments)
            assert (ran.code, bool(ran.out)) == (0, True), ran.err
        case ["make", target]:
            assert f"\n{target}: " in (ROOT / "Makefile").read_text()
        case ["pip", "install", what]:
            extras = set(re.fullmatch(r"\.\[(.*)\]", what)[1].split(","))
            assert extras <= set(
                tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            )
        case _:
            pytest.fail(f"nothing is known of the command {shlex.join(tokens)}")


# Those of the README are parts of files in docs/shown: tests/test_docs_numbers.py.
CONSOLE = sorted({shown for page, language, shown in BLOCKS if language == "console" and page != "README.md"})


@pytest.mark.slow
@pytest.mark.parametrize("block", CONSOLE, ids=[block.split()[2] for block in CONSOLE])
@pytest.mark.usefixtures("folder")
def test_commands_print_what_is_shown(block):
    (_, *arguments), paragraphs = shown_of(block)
    ran = innerloop(*arguments)
    assert ran.code == 0, ran.err
    printed = " ".join(ran.out.split())
    assert all(paragraph in printed for paragraph in paragraphs)


def test_links_lead_somewhere():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 100
