"""Two values have the same fingerprint only if they would give the same results, and it lasts over processes."""

import importlib.util
import json
import linecache
import sys
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import torch

import innerloop as il
from innerloop._blocks.fingerprint import fingerprint


@dataclass(frozen=True)
class Settings:
    rate: float
    weights: np.ndarray = field(repr=False)
    transform: object = None


def function(power):
    return lambda x: x**power


def table(y):
    return il.TaskSet.from_arrays(np.arange(4000.0)[:, None], y, np.arange(4000) % 50)


class Noise:
    """Not a dataclass, with a setting that `repr` hides."""

    def __init__(self, size):
        self.size = size

    def __repr__(self):
        return "Noise()"


def keyword_only(power):
    def raised(x, *, power=power):
        return x**power

    return raised


HEAD = """
import functools
from dataclasses import dataclass
import innerloop as il
SCALE = 1.0
TABLE = {"scale": [1.0, 2.0]}

def helper(x):
    return x * 2.0

class Base:
    def scaled(self, x):
        return x * 3.0

@dataclass(frozen=True)
class Inner:
    depth: int = 4

@dataclass(frozen=True)
class Mine(Base, il.TaskDistribution):
    n_features: int = 3

    def draw_task(self, n_rows, rng):
        \"\"\"Draw.\"\"\"
        inside = lambda x: helper(x) * SCALE * TABLE["scale"][0]
        return inside(self.scaled(rng)) + self.offset + Inner().depth

    @property
    def offset(self):
        return 5.0

    @staticmethod
    def constant():
        return 6.0
"""
EDITS = {
    "a method": ("return inside(self", "return 7.0 * inside(self"),
    "a global number": ("SCALE = 1.0", "SCALE = 7.0"),
    "a global dict": ("[1.0, 2.0]", "[1.0, 7.0]"),
    "a function that an inner function uses": ("x * 2.0", "x * 7.0"),
    "a base": ("x * 3.0", "x * 7.0"),
    "a default of a class that is used": ("depth: int = 4", "depth: int = 7"),
    "a property": ("return 5.0", "return 7.0"),
    "a static method": ("return 6.0", "return 7.0"),
}
LAYOUTS = {
    "a comment": ("SCALE = 1.0", "# a comment\nSCALE = 1.0  # another"),
    "a docstring": ("Draw.", "Draw one task."),
    "blank lines and spaces": ("x * 2.0", "(x  *\n\n        2.0)"),
    "quotes": ('"scale"', "'scale'"),
}


def imported(folder, source, name="mine_module"):
    """Return the fingerprint of the user's distribution in a module of this source."""
    path = folder / f"{name}.py"
    path.write_text(source)
    sys.modules.pop(name, None)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        return fingerprint(module.Mine(), "dist")
    finally:
        del sys.modules[name]


def edited(tmp_path, before, after):
    assert before in HEAD
    (tmp_path / "edited").mkdir()
    return imported(tmp_path / "edited", HEAD.replace(before, after, 1))


@pytest.mark.parametrize(("before", "after"), EDITS.values(), ids=EDITS)
def test_changed_code_differs(tmp_path, before, after):
    assert imported(tmp_path, HEAD) != edited(tmp_path, before, after)


@pytest.mark.parametrize(("before", "after"), LAYOUTS.values(), ids=LAYOUTS)
def test_layout_and_comments_do_not_differ(tmp_path, before, after):
    assert imported(tmp_path, HEAD) == edited(tmp_path, before, after)


def test_code_is_recorded_without_the_python_version_unless_there_is_no_source(tmp_path):
    assert "compiled by" not in json.dumps(imported(tmp_path, HEAD))
    made = {}
    exec("def typed(x): return x + 1", made)
    version = f"compiled by Python {sys.version_info.major}.{sys.version_info.minor}"
    assert version in json.dumps(fingerprint(made["typed"], "f"))


def test_a_file_that_was_edited_after_its_import_is_not_taken_for_the_code_that_runs(tmp_path):
    path = tmp_path / "late.py"
    path.write_text("def f(x):\n    return x + 1\n")
    spec = importlib.util.spec_from_file_location("late", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path.write_text("def f(x):\n    return x + 2  # and longer\n")
    running = fingerprint(module.f, "f")
    fresh = importlib.util.module_from_spec(spec)
    linecache.checkcache(str(path))
    importlib.invalidate_caches()
    exec(compile(path.read_text(), str(path), "exec"), vars(fresh))
    assert running != fingerprint(fresh.f, "f")


def test_functions_that_use_each_other_end():
    assert fingerprint(even, "f") == json.loads(json.dumps(fingerprint(even, "f")))


def even(n):
    return n == 0 or odd(n - 1)


def odd(n):
    return n > 0 and even(n - 1)


LARGE = np.arange(2000.0)
CHANGED = np.where(LARGE == 1000, -1.0, LARGE)
DIFFERENT = {
    "numbers": (0.1, 0.2),
    "middle of a large array": (LARGE, CHANGED),
    "middle of a large tensor": (torch.tensor(LARGE), torch.tensor(CHANGED)),
    "last digits of a tensor": (torch.tensor([1.0]), torch.tensor([1.0 + 1e-6])),
    "a field that repr hides": (Settings(0.1, LARGE), Settings(0.1, CHANGED)),
    "tables of the same ids": (table(LARGE.repeat(2)), table(CHANGED.repeat(2))),
    "a value that a function closes over": (function(2), function(3)),
    "an argument of a partial": (partial(np.power, 2.0), partial(np.power, 3.0)),
    "a function in a dataclass": (Settings(0.1, LARGE, function(2)), Settings(0.1, LARGE, function(3))),
    "entries of a mapping": ({"a": LARGE}, {"a": CHANGED}),
    "built-in functions": (np.sin, np.cos),
    "a setting that repr hides": (Noise(1.0), Noise(2.0)),
    "a setting of a loss that repr hides": (
        torch.nn.CrossEntropyLoss(label_smoothing=0.1),
        torch.nn.CrossEntropyLoss(label_smoothing=0.2),
    ),
    "a keyword-only default": (keyword_only(2), keyword_only(3)),
    "classes of equal code": (type("One", (Noise,), {}), type("Other", (Noise,), {})),
    "objects of classes of equal code": (type("One", (Noise,), {})(1.0), type("Other", (Noise,), {})(1.0)),
    "objects of bound methods": (Noise(1.0).__repr__, Noise(2.0).__repr__),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_different_values_differ_and_survive_json(one, other):
    assert fingerprint(one, "x") == json.loads(json.dumps(fingerprint(one, "x")))
    assert fingerprint(one, "x") != fingerprint(other, "x")


def test_equal_values_made_twice_agree():
    assert fingerprint(Settings(0.1, LARGE.copy(), function(2)), "x") == fingerprint(
        Settings(0.1, LARGE.copy(), function(2)), "x"
    )


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (object(), r"`x` that can be told from others, got <object object at 0x\w+>; make it a frozen dataclass"),
        (Settings(0.1, np.ones(1), object()), r"`x\.transform` that can be told from others, got <object"),
        (np.array([object()]), "`x` that can be told from others, got an array of dtype object"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(value, sentence):
    with pytest.raises(TypeError, match=sentence):
        fingerprint(value, "x")


@pytest.mark.parametrize("place", ["lib/python3/site-packages", "usr/lib/python3/dist-packages"])
def test_packages_outside_the_environment_are_recorded_by_name(tmp_path, place):
    """The user's site folder, that of the system, and those that .pth files name."""
    folder = tmp_path / place
    folder.mkdir(parents=True)
    (folder / "elsewhere.py").write_text("def twice(x):\n    return 2 * x\n")
    spec = importlib.util.spec_from_file_location("elsewhere", folder / "elsewhere.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["elsewhere"] = module
    try:
        spec.loader.exec_module(module)
        assert fingerprint(module.twice, "transform") == ["elsewhere.twice"]
    finally:
        del sys.modules["elsewhere"]
