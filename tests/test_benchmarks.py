"""The benchmarks run at a small size, and what they compare agrees."""

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def result():
    return load("solve_path").measure(n_tasks=60, n_support=5, n_query=5, n_features=8, n_rates=5, n_repeats=1)


def test_both_ways_to_the_meta_parameters_agree(result):
    assert result["largest_relative_difference"] < 1e-11


def test_the_result_is_json_with_its_environment(result):
    assert set(json.loads(json.dumps(result))["environment"]) >= {"python", "processor", "numpy", "scipy", "blas"}
    assert all(seconds > 0 for seconds in result["seconds"].values())


def test_a_result_is_drawn(result, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert load("draw").draw(tmp_path / "result.json").read_bytes().startswith(b"\x89PNG")
