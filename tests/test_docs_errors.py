"""The page of errors and warnings: nothing that the package says is missing from it."""

import ast
import builtins
import importlib
import inspect
import re
import sys
import warnings
from pathlib import Path

import pytest

import innerloop as il
from innerloop import cli

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "errors.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sentences():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        yield importlib.import_module("sentences")
    sys.modules.pop("sentences")


def test_every_warning_is_explained_once(sentences):
    shown = re.findall(r"^:::\{warning-says\} (.+)$", PAGE, flags=re.M)
    warned = sentences.warnings_of()
    for message in warned:
        assert sum(any(words in sentence for sentence in message.sentences) for words in shown) == 1, message
    assert len(shown) == len(warned)
    assert len(re.findall(r"\*What\s+to\s+do\.\*", PAGE)) == PAGE.count("*Why.*") > 8


def test_every_class_of_a_warning_or_an_error_is_on_the_page(sentences):
    trees = sentences.parse()
    raised = {message.kind for message in (*sentences.errors_of(), *sentences.warnings_of())}
    raised |= {
        node.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any("Warning" in ast.unparse(base) for base in node.bases)
    }
    assert all(f"`{kind}`" in PAGE for kind in raised)
    named = re.findall(r"`(\w+(?:Error|Warning))`", PAGE)
    assert set(named) <= raised
    assert all(hasattr(builtins, name) or hasattr(il, name) for name in named)


def test_sentences_are_those_that_are_said(sentences):
    """Filled in, a sentence of the page is what a caller reads."""

    def fits(said, found):
        patterns = (re.escape(" ".join(text.split())).replace("…", ".*") for one in found for text in one.sentences)
        return any(re.fullmatch(pattern, said) for pattern in patterns)

    with pytest.raises(ValueError, match="n_tasks") as refused:
        il.Design(0, 5, 5)
    assert fits(str(refused.value), sentences.errors_of())
    with pytest.raises(TypeError) as refused:
        il.solve(None, 0.1)
    assert fits(str(refused.value), sentences.errors_of())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        il.MetaRegressor(adaptation="none").fit([[0.0], [1.0], [3.0], [4.0]], [0.0, 1.0, 3.0, 5.0])
    assert fits(str(caught[0].message), sentences.warnings_of())


def test_every_exit_code_is_on_the_page():
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, flags=re.M)}
    tree = ast.parse(inspect.getsource(cli))
    ends = [
        node.args[0] for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "sys.exit"
    ]
    assert {end.value for end in ends if isinstance(end, ast.Constant)} | {130, 143} == codes
    assert all(str(code) in cli.main.__doc__ for code in codes - {0})
