"""The rooms of the package: what each may import, how large it may be, what it loads."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import innerloop

ROOT = Path(innerloop.__file__).parent
# Each room imports only rooms named before it.
ROOMS = (
    *("_base", "_blocks", "data", "exact", "adaptation", "distributions", "theory", "simulation"),
    *(
        "tabular",
        "neural",
        "estimators",
        "evaluation",
        "plots",
        "report",
        "explorer",
        "papers",
        "__init__",
        "cli",
        "__main__",
    ),
)
FILES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts): ast.parse(path.read_text())
    for path in sorted(ROOT.rglob("*.py"))
}


def modules_imported(tree):
    """Yield the package's modules that a file imports, at any depth of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "innerloop":
                yield module_of(name)


def module_of(name):
    """Return the file that `name` (of a module, or of something in it) lies in."""
    while name not in FILES and f"{name}.__init__" not in FILES:
        name = name.rpartition(".")[0]
    return name if name in FILES else f"{name}.__init__"


def room(module):
    return module.split(".")[1]


def test_rooms_import_only_rooms_before_them():
    assert {room(module) for module in FILES} == set(ROOMS)
    wrong = [
        f"{importer} imports {imported}"
        for importer, tree in FILES.items()
        for imported in modules_imported(tree)
        if ROOMS.index(room(imported)) > ROOMS.index(room(importer))
    ]
    assert not wrong


def test_no_file_imports_itself_by_way_of_others():
    graph = {module: set(modules_imported(tree)) for module, tree in FILES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_files_and_functions_are_short_enough_to_read():
    """Long files and functions are a smell; a much longer one needs a better reason than that it grew."""
    long = [
        f"{module}: {node.name}"
        for module, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (body := node.body[1:] if ast.get_docstring(node) is not None else node.body)
        and node.end_lineno - body[0].lineno >= 60
    ]
    assert not long


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


@pytest.mark.slow
def test_importing_the_package_loads_numpy_and_scipy_only():
    loaded = loaded_after("import innerloop")
    assert {"numpy", "scipy"} <= loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.slow
def test_solving_loads_nothing_more():
    code = """
import innerloop as il, numpy as np
tasks = il.TaskSet.from_arrays(np.arange(12.0)[:, None] ** 0.5, np.arange(12), np.arange(12) % 3)
il.solve(il.MetaObjective.from_episodes(tasks.split(2, 2)), 0.1)
"""
    assert loaded_after(code).isdisjoint(HEAVY)


def test_every_public_name_is_there():
    assert set(innerloop.__all__) <= set(dir(innerloop))
    for name in innerloop.__all__:
        assert getattr(innerloop, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'innerloop' has no attribute 'MetaRegresor'"):
        _ = innerloop.MetaRegresor
