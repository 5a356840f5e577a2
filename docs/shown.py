"""Write what each command prints into docs/shown/, for the page of commands: python docs/shown.py [name ...].

The commands run in a folder with two small tables, which are made here. What a terminal would show differently, such as
colours, is off. Takes a minute or two of one core. `python docs/shown.py --readme FOLDER` writes what the README shows
of the schools of London, with school.csv of that folder; `python docs/claims.py` then puts it into the README.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent / "shown"
COMMANDS = {
    "fit": "innerloop fit school.csv --group school --target score --out model/",
    "predict": "innerloop predict model/ new.csv --level 0.9",
    "update": "innerloop update model/ new.csv --out updated/",
    "compare": "innerloop compare school.csv --group school --target score",
    "theory": "innerloop theory --n-tasks 3 --n-support 30 --n-query 2 --n-adapt 20 --n-features 60 --task-std .5",
    "simulate": "innerloop simulate --n-tasks 40 --n-support 5 --n-query 25 --n-features 30 --n-adapt 10 --task-std 1 "
    "--inner-lr -0.03 0 --adapt-lr 0.2 --n-runs 200",
    "train": "innerloop train --task sinusoid --inner-lr 0.02 --iterations 200 --n-test 100",
    "demo": "innerloop demo --out demo",
    "reproduce": "innerloop reproduce signs --out figures",
    "explore": "innerloop explore --help",
}

README = {"school": "innerloop fit school.csv --group school --target exam_score"}


def write_tables(folder: Path) -> None:
    """Write 20 schools of 12 pupils, and the first 8 rows of a new one, 4 of them with a score."""
    rng = np.random.default_rng(0)
    school = np.arange(240) // 12
    frame = pd.DataFrame(rng.standard_normal((240, 2)).round(2), columns=["hours", "age"])
    frame.insert(0, "school", [f"s{i}" for i in school])
    frame["score"] = (50 + 5 * frame["hours"] + rng.normal(0, 3, 20)[school] + rng.normal(0, 2, 240)).round(1)
    frame.to_csv(folder / "school.csv", index=False)
    new = frame[:8].assign(school="new")
    new.loc[4:, "score"] = np.nan
    new.to_csv(folder / "new.csv", index=False)


def output_of(command: str, folder: Path) -> str:
    """Return a command and what it prints."""
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", *shlex.split(command)]
    ran = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return f"$ {command}\n" + "\n".join(line.rstrip() for line in ran.stdout.strip().splitlines()) + "\n"


def write(name: str, command: str, folder: Path) -> None:
    """Write what a command prints in a folder."""
    shown = output_of(command, folder)
    (FOLDER / f"{name}.txt").write_text(shown, encoding="utf-8")
    print(f"{name}: {len(shown.splitlines())} lines", flush=True)


def main(names: list[str]) -> None:
    """Run the commands of these names, or all."""
    FOLDER.mkdir(exist_ok=True)
    if names[:1] == ["--readme"]:
        for name, command in README.items():
            write(name, command, Path(names[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_tables(Path(folder))
        for name in names or COMMANDS:
            write(name, COMMANDS[name], Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
