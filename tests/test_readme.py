"""The README's Python examples run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_there_is_an_example_for_each_kind_of_user():
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("code", EXAMPLES, ids=["table", "research", "network", "frozen body"])
def test_example_runs_and_prints(code, capsys):
    if "import torch" in code:
        pytest.importorskip("torch", reason="the network examples need the extra `neural`")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()
