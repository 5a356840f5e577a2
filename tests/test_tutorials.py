"""The scripts that the site is made of: tutorials run, and each command has its output."""

import runpy
import sys
from pathlib import Path

import pytest

from innerloop.cli import _HELP as COMMANDS

DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.py"))


def test_there_are_three_tutorials_and_a_link_to_each():
    start = (DOCS / "start.md").read_text(encoding="utf-8")
    assert len(TUTORIALS) == 3
    assert all(f"](tutorials/{script.name})" in start for script in TUTORIALS)


@pytest.mark.slow
@pytest.mark.parametrize("script", TUTORIALS, ids=lambda script: script.stem)
def test_tutorials_run_and_draw(script, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="tutorials draw").use("agg")
    if script.stem == "your_network":
        pytest.importorskip("torch", reason="networks need the extra `neural`")
    from matplotlib import pyplot

    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(pyplot.get_fignums()))
    monkeypatch.chdir(tmp_path)
    try:
        runpy.run_path(str(script))
    finally:
        pyplot.close("all")
    assert len(shown) >= 3
    assert capsys.readouterr().out.count("\n") > 3


def test_the_page_of_commands_shows_what_each_prints():
    page = (DOCS / "commands.rst").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f".. literalinclude:: shown/{name}.txt" in page
        command, _, printed = (DOCS / "shown" / f"{name}.txt").read_text(encoding="utf-8").partition("\n")
        assert command.startswith(f"$ innerloop {name} ")
        assert printed.strip()


@pytest.mark.slow
def test_the_output_shown_is_that_of_the_command(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    import shown

    assert set(shown.COMMANDS) == set(COMMANDS)
    assert shown.output_of(shown.COMMANDS["theory"], tmp_path) == (shown.FOLDER / "theory.txt").read_text(
        encoding="utf-8"
    )
    sys.modules.pop("shown")
