"""The pages for developers: the house drawn from its imports, and every benchmark with its figure and its command."""

import importlib
import re
import sys
from pathlib import Path

import pytest

import innerloop
from test_layers import ROOMS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def docs():
    """Import a script of the pages by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        yield importlib.import_module
    for name in ("house", "described"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def house(docs):
    pytest.importorskip("matplotlib", reason="drawing needs the extra `plot`")
    return docs("house")


def test_the_house_has_every_room_with_its_lines(house):
    rooms = house.rooms()
    assert set(rooms) == set(ROOMS)
    files = list(Path(innerloop.__file__).parent.rglob("*.py"))
    assert sum(room.n_files for room in rooms.values()) == len(files)
    assert sum(room.n_lines for room in rooms.values()) == sum(len(file.read_text().splitlines()) for file in files)


def test_rooms_stand_above_what_they_import(house):
    rooms = house.rooms()
    level = house.floors(rooms)
    for name, room in rooms.items():
        assert all(level[used] < level[name] and ROOMS.index(used) < ROOMS.index(name) for used in room.imports)
    assert {name for name, floor in level.items() if floor == 0} == {"_base"}


def test_arrows_left_out_are_those_made_by_way_of_others(house):
    rooms = house.rooms()
    arrows = house.direct(rooms)
    assert len(arrows) < sum(len(room.imports) for room in rooms.values())
    reached = {name: {name} for name in rooms}
    for name in sorted(rooms, key=house.floors(rooms).get):
        for start, end in arrows:
            if start == name:
                reached[name] |= reached[end]
    assert all(room.imports <= reached[name] for name, room in rooms.items())


@pytest.mark.slow
def test_no_two_rooms_are_drawn_in_one_place(house):
    places = house.places(house.rooms())
    assert len(set(places.values())) == len(places) == len(ROOMS)


def test_every_benchmark_says_what_it_measures_and_how_to_run_it(docs):
    described = docs("described")
    results = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert len(results) >= 16
    for result in results:
        script = ROOT / "benchmarks" / f"{result.stem}.py"
        assert all(sentence.strip() and "benchmarks/" not in sentence for sentence in described.explained(script))
        lines = described.commands(script)
        assert any(f"--out benchmarks/results/{result.name}" in line for line in lines), script
    assert ":::{benchmarks}" in (DOCS / "benchmarks.md").read_text()


def test_files_that_the_page_of_tests_names_are_there():
    page = (DOCS / "testing.md").read_text()
    named = re.findall(r"`((?:tests|benchmarks)/\w+\.py)`", page)
    assert len(named) > 15
    assert all((ROOT / name).exists() for name in named)
    assert all("hypothesis" in (ROOT / "tests" / name).read_text() for name in ("test_csv_damage.py", "test_ids.py"))
