"""Print the lowest version of each package that pyproject.toml allows, as constraints for pip."""

import re
import tomllib
from itertools import chain
from pathlib import Path


def floors(project: dict) -> list[str]:
    """Return ``name==version`` for each requirement ``name>=version`` of the package and of its extras but "dev"."""
    extras = {name: listed for name, listed in project["optional-dependencies"].items() if name != "dev"}
    listed = chain(project["dependencies"], *extras.values())
    pairs = (re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", requirement) for requirement in listed)
    return sorted(f"{pair[1]}=={pair[2]}" for pair in pairs if pair)


if __name__ == "__main__":
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    print(*floors(tomllib.loads(pyproject.read_text())["project"]), sep="\n")
