"""Two values have the same fingerprint only if they would give the same results, and it lasts over processes."""

import json
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
