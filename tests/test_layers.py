"""The rooms of the package: what each may import, how large it may be, what it loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import innerloop

ROOT = Path(innerloop.__file__).parent
LEVELS = {
    "_checks": 0,
    "_random": 0,
    "_frames": 0,
    "_refine": 0,
    "_files": 0,
    "_threads": 0,
    "_progress": 0,
    "_figures": 0,
    "_sealed": 0,
    "_store": 0,
    "_parallel": 0,
    "_factor": 0.5,
    "episodes": 1,
    "tasks": 1.2,
    "_task_rows": 1.3,
    "_restricted": 1.5,
    "adaptation": 1.5,
    "objective": 2,
    "distributions": 2,
    "solve": 3,
    "kernel": 3,
    "random_effects": 3,
    "scale_mixture": 3.5,
    "meta_sgd": 3,
    "estimators": 4,
    "neural": 4,
    "theory": 4,
    "simulation": 4.5,
    "evaluation": 5,
    "calibration": 5,
    "comparison": 5.1,
    "advising": 5.2,
    "report": 5.4,
    "storage": 5,
    "plotting": 5,
    "plotting_simulation": 5,
    "plotting_sweep": 5,
    "plotting_theory": 5,
    "tables": 5,
    "demo": 5,
    "papers": 5,
    "__init__": 5.5,
    "cli": 6,
    "__main__": 7,
}
FILES = sorted(ROOT.rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


ROOMS = {room(path) for path in FILES}


def rooms_imported(path):
    """Yield the room of every import of the package, at any depth of the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: imports are absolute here"
            modules = [node.module]
            if node.module == "innerloop":
                modules = [f"innerloop.{a.name}" for a in node.names if a.name != "__version__"]
        else:
            continue
        for module in modules:
            package, *inside = module.split(".")
            if package == "innerloop":
                yield inside[0] if inside and inside[0] in ROOMS else "__init__"


def allowed(importer, imported):
    return importer == imported or LEVELS[imported] < LEVELS[importer] or LEVELS[importer] == LEVELS[imported] == 0


def test_every_room_has_a_level():
    assert set(LEVELS) >= ROOMS


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_rooms_import_from_below_only(path):
    known = {imported for imported in rooms_imported(path) if {imported, room(path)} <= set(LEVELS)}
    wrong = {imported for imported in known if not allowed(room(path), imported)}
    assert not wrong, f"{room(path)} must not import {sorted(wrong)}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_have_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_function_bodies_have_at_most_60_lines(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = node.end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 60, f"{node.name} has {lines} lines"


HEAVY = [
    "sklearn",
    "joblib",
    "pandas",
    "xarray",
    "filelock",
    "polars",
    "pyarrow",
    "narwhals",
    "matplotlib",
    "torch",
    "cyclopts",
    "rich",
]


def loaded_after(code):
    script = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_numpy_and_scipy_only():
    loaded = loaded_after("import innerloop")
    assert {"numpy", "scipy"} <= loaded
    assert loaded.isdisjoint(HEAVY)


def test_solving_loads_nothing_more():
    code = """
import innerloop as il, numpy as np
tasks = il.TaskSet.from_arrays(np.arange(12.0)[:, None] ** 0.5, np.arange(12), np.arange(12) % 3)
il.solve(il.MetaObjective.from_tasks(tasks.split(2, 2)), 0.1)
"""
    assert loaded_after(code).isdisjoint(HEAVY)


def test_every_public_name_is_there():
    assert set(innerloop.__all__) <= set(dir(innerloop))
    for name in innerloop.__all__:
        assert getattr(innerloop, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'innerloop' has no attribute 'MetaRegresor'"):
        _ = innerloop.MetaRegresor
