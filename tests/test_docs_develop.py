"""The pages for developers: the house drawn from its imports, and every benchmark with its figure and its command."""

import re
import sys
from pathlib import Path

import pytest

import innerloop
from test_layers import ROOMS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def built():
    """The extension that makes these parts of pages, with what it draws by."""
    pytest.importorskip("matplotlib", reason="the site draws")
    pytest.importorskip("sphinx", reason="the site needs the extra `docs`")
    before = list(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS / "_extensions")
        import built

        yield built
    sys.path[:] = before
    for name in ("built", "house", "draw"):
        sys.modules.pop(name)


def test_the_house_has_every_room_with_its_lines(built):
    house = built.house.rooms()
    assert set(house) == set(ROOMS)
    files = list(Path(innerloop.__file__).parent.rglob("*.py"))
    assert sum(room.n_files for room in house.values()) == len(files)
    assert sum(room.n_lines for room in house.values()) == sum(len(file.read_text().splitlines()) for file in files)


def test_rooms_stand_above_what_they_import(built):
    house = built.house.rooms()
    level = built.house.floors(house)
    for name, room in house.items():
        assert all(level[used] < level[name] and ROOMS.index(used) < ROOMS.index(name) for used in room.imports)
    assert {name for name, floor in level.items() if floor == 0} == {"_base"}
    assert "torch" not in level


def test_arrows_left_out_are_those_made_by_way_of_others(built):
    house = built.house.rooms()
    reached = {name: {name} for name in house}
    for name in sorted(house, key=built.house.floors(house).get):
        for start, end in built.house.direct(house):
            if start == name:
                reached[name] |= reached[end]
    assert all(room.imports <= reached[name] for name, room in house.items())


@pytest.mark.slow
def test_no_two_rooms_are_drawn_in_one_place(built):
    places = built.house.places(built.house.rooms())
    assert len(set(places.values())) == len(places) == len(ROOMS)


def test_every_benchmark_says_what_it_measures_and_how_to_run_it(built):
    results = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert len(results) >= 16
    for result in results:
        script = ROOT / "benchmarks" / f"{result.stem}.py"
        assert all(sentence.strip() and "benchmarks/" not in sentence for sentence in built.explained(script))
        lines = built.commands(script)
        assert any(f"--out benchmarks/results/{result.name}" in line for line in lines), script
    assert ":::{benchmarks}" in (DOCS / "benchmarks.md").read_text()


def test_files_that_the_page_of_tests_names_are_there():
    page = (DOCS / "testing.md").read_text()
    named = re.findall(r"`((?:tests|benchmarks)/\w+\.py)`", page)
    assert len(named) > 15
    assert all((ROOT / name).exists() for name in named)
    assert all("hypothesis" in (ROOT / "tests" / name).read_text() for name in ("test_csv_damage.py", "test_ids.py"))
