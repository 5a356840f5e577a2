"""The benchmarks run at a small size, and what they compare agrees."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name):
    if str(FOLDER) not in sys.path:  # as where one is run: some share what another has
        sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def result():
    return load("solve_path").measure(n_tasks=60, n_support=5, n_query=5, n_features=8, n_rates=5, n_repeats=1)


@pytest.mark.slow
def test_both_ways_to_the_meta_parameters_agree(result):
    assert result["largest_relative_difference"] < 1e-11


@pytest.mark.slow
def test_the_result_is_json_with_its_environment(result):
    assert set(json.loads(json.dumps(result))["environment"]) >= {"python", "processor", "numpy", "scipy", "blas"}
    assert all(seconds > 0 for seconds in result["seconds"].values())


@pytest.mark.slow
@pytest.mark.parametrize("n_tasks", [10, 60])
def test_a_path_of_many_features_is_that_of_single_solves(n_tasks):
    result = load("solve_path").measure_many_features(n_tasks, n_features=410, n_rates=5)
    assert json.loads(json.dumps(result)) == result
    for penalty in ("l2 = 0", "l2 = 0.001"):
        assert result[penalty]["largest_relative_difference"] < 1e-11


def test_a_result_is_drawn(result, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "solve_path.json").write_text(json.dumps(result))
    assert load("draw").draw(tmp_path / "solve_path.json").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_every_committed_result_can_be_drawn_and_says_how_it_is_made(tmp_path):
    pytest.importorskip("matplotlib")
    draw, results = load("draw"), sorted((FOLDER / "results").glob("*.json"))
    assert set(draw.DRAWINGS) == {result.stem for result in results}
    for result in results:
        script = (FOLDER / f"{result.stem}.py").read_text()
        assert "--out" in script
        drawn = draw.draw(result, tmp_path / "drawn.png")
        assert drawn.stat().st_size > 5000


@pytest.mark.slow
def test_simulated_tables_are_scored_like_real_ones(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    bench = load("simulated_tables")
    methods = {"MetaRegressor()": bench.innerloop(), **bench.BASELINES}
    results = {
        name: bench.measure(bench.TABLES[name], methods, range(1), (0, 5)) for name in ("levels only", "no differences")
    }
    levels, none = (result["MetaRegressor()"] for result in results.values())
    assert levels[5]["mse"] < 0.5 * levels[0]["mse"]
    assert abs(none[5]["excess"]) < 0.02 * none[5]["mse"]
    assert all(0.8 < share < 0.97 for share in bench.coverage(results, 5))
    assert json.loads(json.dumps(results)).keys() == results.keys()
    worse = {"table": {"MetaRegressor()": {5: {"mse": 2.0, "excess": 0.1, "excess_se": 0.01}}}}
    assert bench.losses(worse) == ["table, 5 rows: 5.0 % of the error, 10.0 standard errors"]
    assert bench.losses({"table": {"MetaRegressor()": {5: {"mse": 2.0, "excess": 0.1, "excess_se": 0.2}}}}) == []


def test_every_simulated_table_can_be_drawn(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    for table in load("simulated_tables").TABLES.values():
        splits = table._replace(n_tasks=8).split(0)
        assert set(splits.train.groups) == set(range(8))
        assert {len(y) for _, y in splits.unseen} == {40}
        assert all(np.isfinite(y).all() and len(X) == len(y) for X, y in splits.unseen)


@pytest.fixture
def project(tmp_path):
    """A project of one function and one test, which notices one of two changes."""
    (tmp_path / "src" / "innerloop").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "src" / "innerloop" / "__init__.py").write_text("def f(x):\n    return x + 1 if x < 9 else 0\n")
    (tmp_path / "tests" / "test_f.py").write_text("import innerloop\n\ndef test_f():\n    assert innerloop.f(1) == 2\n")
    return tmp_path


@pytest.mark.slow
def test_changes_that_tests_notice_are_told_from_others(project):
    bench = load("mutants")
    noticed, missed = (bench.Mutant("__init__.py", *change, "test_f.py") for change in (("+ 1", "- 1"), ("< 9", "< 5")))
    result = bench.measure(project, [noticed, missed])
    rooms = {"__init__.py": "1 of 2"}
    assert result == {"tried": 2, "share_noticed": 0.5, "noticed_by_room": rooms, "missed": [missed._asdict()]}
    assert "x + 1 if x < 9" in (project / "src" / "innerloop" / "__init__.py").read_text()
    with pytest.raises(ValueError, match="0 times"):
        bench.measure(project, [bench.Mutant("__init__.py", "nowhere", "", "test_f.py")])


def test_changes_are_in_all_rooms_and_many():
    changes = load("mutants").MUTANTS
    rooms = {change.file.split("/")[0] for change in changes}
    assert rooms == {path.name for path in (FOLDER.parent / "src" / "innerloop").iterdir() if path.is_dir()} - {
        "__pycache__"
    }
    assert len(set(changes)) == len(changes) >= 80


def test_every_change_names_a_text_that_is_there_once_and_tests_that_are_there():
    bench = load("mutants")
    for mutant in bench.MUTANTS:
        assert (bench.ROOT / "src" / "innerloop" / mutant.file).read_text().count(mutant.old) == 1, mutant
        assert (bench.ROOT / "tests" / mutant.tests.split()[0]).exists(), mutant


@pytest.mark.slow
@pytest.mark.parametrize("case", ["dense", "dense, Reptile"])
def test_evaluation_needs_no_more_memory_than_training(case):
    pytest.importorskip("torch", reason="networks need the extra `neural`")
    command = [sys.executable, FOLDER / "neural_memory.py", case]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(ran.stdout)
    assert found["training"] > 20
    assert found["evaluation of 8 tasks"] < found["evaluation of 30 tasks"] < found["training"]
    # Beside the query rows of all tasks, as many tasks are held at once for 30 as for 8.
    assert found["evaluation of 30 tasks"] < 1.1 * found["evaluation of 8 tasks"]


@pytest.mark.slow
def test_a_training_in_two_processes_resumes_after_the_death_of_one(tmp_path):
    pytest.importorskip("torch", reason="networks need the extra `neural`")
    killed, same = load("neural_kills").compare(tmp_path, 1, 2, n_iterations=60, longest=0.02)
    assert killed > 0
    assert same
