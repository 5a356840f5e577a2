"""The wheel holds the package, whole and alone, and works from another place."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from innerloop import __version__

ROOT = Path(__file__).parents[1]
NEEDED = ["build", "hatchling", "pip"]
ABSENT = [name for name in NEEDED if importlib.util.find_spec(name) is None]

pytestmark = pytest.mark.skipif(bool(ABSENT), reason=f"building a wheel needs {', '.join(ABSENT)}")


def run(*args, cwd=None, path=None):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    ran = subprocess.run(
        [sys.executable, *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target", target, wheel)
    return target


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.mark.slow
def test_wheel_is_named_after_the_version(wheel):
    assert wheel.name == f"innerloop-{__version__}-py3-none-any.whl"


def test_wheel_holds_every_file_of_the_package_and_nothing_else(names):
    source = ROOT / "src"
    package = {
        path.relative_to(source).as_posix()
        for path in (source / "innerloop").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == package


def test_wheel_is_marked_as_typed(names):
    assert "innerloop/py.typed" in names


def test_wheel_holds_no_tests(names):
    assert not [name for name in names if "test" in name or "conftest" in name]


def test_wheel_holds_the_licence_and_the_command(wheel, names):
    info = f"innerloop-{__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in names
    with zipfile.ZipFile(wheel) as archive:
        assert "innerloop = innerloop.cli:main" in archive.read(f"{info}/entry_points.txt").decode()
        metadata = archive.read(f"{info}/METADATA").decode()
    assert f"\nVersion: {__version__}\n" in metadata
    assert "\nLicense-Expression: MIT\n" in metadata


@pytest.mark.slow
def test_installed_wheel_is_used_from_elsewhere_and_fits(installed, tmp_path):
    code = (
        "import innerloop, numpy as np\n"
        "tasks = innerloop.MixedLinearRegression(2).sample_tasks(6, 8)\n"
        "model = innerloop.MetaRegressor(cv=2).fit(tasks.X, tasks.y, tasks.task_of_row)\n"
        "innerloop.save_model(model, 'm')\n"
        "assert (innerloop.load_model('m').coef_ == model.coef_).all()\n"
        "print(innerloop.__file__)"
    )
    found = Path(run("-c", code, cwd=tmp_path, path=installed))
    assert found == installed / "innerloop" / "__init__.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [["-m", "innerloop"], ["-c", "from innerloop.cli import main; main()"]],
    ids=["module", "entry point"],
)
def test_installed_command_tells_its_version(installed, tmp_path, command):
    assert run(*command, "--version", cwd=tmp_path, path=installed) == __version__


@pytest.mark.slow
def test_installed_script_tells_its_version(installed, tmp_path):
    script = installed / "bin" / "innerloop"
    assert run(script, "--version", cwd=tmp_path, path=installed) == __version__
