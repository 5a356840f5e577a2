"""Stop commands at random moments by three signals, then let them finish: python benchmarks/kills.py [N] [--out FILE].

N (20) signals of each kind meet each of `simulate`, `fit --out`, `fit --work` of a folder of files, `train` and
`reproduce` as it runs, at tiny sizes.
What is finished in the end is compared, file by file, with what a command that nobody stopped makes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# What a shell shows as 137, 143 and 130: before Python runs the program's own lines, the signal itself ends it.
CODES = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, -15}, signal.SIGINT: {130, -2}}
# Seconds from the signal to the end, beside which a busy machine may take some more.
LONGEST = 5.0
# Seconds after which a signal is sent at the latest; work that is kept is then met at all its stages all the same.
LATEST = 12.0
SMALL = ["--n-tasks", "2", "--n-features", "20", "--n-support", "10", "--n-query", "2", "--n-adapt", "10"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def commands(folder: Path, table: Path) -> dict[str, list[str]]:
    """Return each command as it is run in a folder."""
    out, columns = str(folder / "out"), ["--group", "g", "--target", "y"]
    sizes = {"n-tasks": 3, "width": 6, "n-test": 20, "n-validation": 5, "iterations": 150, "checkpoint-every": 10}
    network = [part for name, size in sizes.items() for part in (f"--{name}", str(size))]
    return {
        "simulate": ["simulate", *SMALL, "--n-runs", "4000", "--jobs", "2", "--store", out, "--json"],
        "fit": ["fit", str(table), *columns, "--cv", "2", "--out", out, "--json"],
        "files": ["fit", str(table.parent / "rows"), *columns, "--out", out, "--work", str(folder / "work")],
        "train": ["train", "--task", "sinusoid", *network, "--out", out, "--json"],
        "reproduce": ["reproduce", "map", "--scale", "0.01", "--jobs", "2", "--out", out],
    }


def make_table(path: Path) -> Path:
    """Write a small table of groups."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(15), 8)
    x = rng.standard_normal(len(groups))
    y = x * (1 + 0.5 * rng.standard_normal(15))[groups] + rng.standard_normal(len(groups))
    lines = [f"{g},{a:.6f},{b:.6f}" for g, a, b in zip(groups, x, y, strict=True)]
    path.write_text("\n".join(["g,x,y", *lines]) + "\n")
    return path


def make_files(folder: Path) -> None:
    """Write files of more groups than choices are made on, the rows of each in all files."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    groups = rng.permutation(np.repeat(np.arange(17_000), 4))
    x = rng.standard_normal(len(groups))
    y = x * (1 + 0.5 * rng.standard_normal(17_000))[groups] + rng.standard_normal(len(groups))
    for i in range(4):
        pq.write_table(pa.table({"g": groups[i::4], "x": x[i::4], "y": y[i::4]}), folder / f"{i}.parquet")


def run(arguments: list[str]) -> subprocess.Popen[str]:
    """Start a command, which hears Ctrl-C also where this process does not."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, "-m", "innerloop", *arguments], **pipes, text=True, env=ENVIRONMENT)
    finally:
        signal.signal(signal.SIGINT, before)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, but those of the saves before the last."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    previous = {name for name in files if name.endswith("manifest.previous.json")}
    kept = {
        entry["name"] for name in previous for entry in json.loads(files[name].read_bytes()).get("files", {}).values()
    }
    last = {
        entry["name"]
        for name, path in files.items()
        if name.endswith("manifest.json")
        for entry in json.loads(path.read_bytes()).get("files", {}).values()
    }
    left_out = previous | {name for name in files if Path(name).name in kept - last}
    return {name: path.read_bytes() for name, path in files.items() if name not in left_out}


@dataclass
class Stopped:
    """What came of a command that was stopped."""

    command: str
    signal: str
    after: float
    code: int
    seconds: float
    orphans: int
    resume_said: bool


def stop(name: str, arguments: list[str], number: signal.Signals, after: float) -> Stopped:
    """Run a command and send it a signal some seconds later."""
    process = run(arguments)
    time.sleep(after)
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(number)
    start = time.monotonic()
    try:
        _, shown = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        _, shown = process.communicate()
    seconds = time.monotonic() - start
    _, alive = psutil.wait_procs(children, timeout=LONGEST)
    for child in alive:
        child.kill()
    said = f"To go on: innerloop {name}" in shown
    return Stopped(name, number.name, after, process.returncode, seconds, len(alive), said)


def faults_of(folder: Path, whole: Path, where: str) -> list[str]:
    """Return what differs between what was finished after signals and what nobody stopped."""
    made, expected = contents(folder), contents(whole)
    wrong = [f"{where}: {file} is missing" for file in expected.keys() - made.keys()]
    wrong += [f"{where}: {file} is scrap" for file in made.keys() - expected.keys()]
    return wrong + [
        f"{where}: {file} differs" for file in made.keys() & expected.keys() if made[file] != expected[file]
    ]


def campaign(name: str, arguments: Callable[[Path], list[str]], root: Path, n: int) -> tuple[list[Stopped], list[str]]:
    """Return what came of n signals of each kind that met a running command, and what is wrong with what was made.

    Commands of a folder go on where the one before was stopped. Once its work is done, the next starts in a new folder.
    """
    start = time.monotonic()
    whole = run(arguments(root / "whole"))
    printed, shown = whole.communicate()
    if whole.returncode:
        raise RuntimeError(f"{name} fails without being stopped: {shown}")
    length, moments = min(time.monotonic() - start, LATEST), random.Random(name)
    stopped, wrong = [], []

    def finish(folder: Path, where: str) -> None:
        ended = run(arguments(folder))
        again, shown = ended.communicate()
        if ended.returncode:
            wrong.append(f"{where}: cannot be finished: {shown.strip().splitlines()[-1]}")
        elif name in ("simulate", "fit", "files") and again.replace(str(folder), str(root / "whole")) != printed:
            wrong.append(f"{where}: prints other numbers in the end")
        wrong.extend(faults_of(folder / "out", root / "whole" / "out", where))

    for number in SIGNALS:
        n_met = n_folders = 0
        folder = root / f"{number.name}-0"
        where = f"{name}, {number.name}"
        while n_met < n:
            stored = set(folder.rglob("block-*.npz"))
            one = stop(name, arguments(folder), number, moments.uniform(0, length))
            stopped.append(one)
            wrong += [f"{where}: {path.name} was lost" for path in sorted(stored) if not path.exists()]
            n_met += one.code != 0
            if one.code == 0:
                wrong += faults_of(folder / "out", root / "whole" / "out", where)
                n_folders += 1
                folder = root / f"{number.name}-{n_folders}"
        finish(folder, where)
    return stopped, wrong


def judge(stopped: list[Stopped]) -> list[str]:
    """Return what is wrong with how commands ended; a command may have finished before the signal."""
    wrong = []
    for one in stopped:
        where = f"{one.command}, {one.signal} after {one.after:.2f} s"
        if one.code not in {0, *CODES[signal.Signals[one.signal]]}:
            wrong.append(f"{where}: exit code {one.code}")
        if one.seconds > LONGEST:
            wrong.append(f"{where}: ended after {one.seconds:.1f} s")
        if one.orphans:
            wrong.append(f"{where}: {one.orphans} processes left")
        if one.code in (130, 143) and one.command not in ("fit", "files") and not one.resume_said:
            wrong.append(f"{where}: does not say how to go on")
    return wrong


def measure(n: int, names: list[str]) -> dict[str, object]:
    """Return all that happened."""
    stopped, wrong = [], []
    with tempfile.TemporaryDirectory() as root:
        table = make_table(Path(root) / "table.csv")
        if "files" in names:
            make_files(Path(root) / "rows")
        for name in names:

            def arguments(folder: Path, name: str = name) -> list[str]:
                folder.mkdir(exist_ok=True)
                return commands(folder, table)[name]

            (Path(root) / name).mkdir()
            ends, faults = campaign(name, arguments, Path(root) / name, n)
            stopped += ends
            wrong += faults + judge(ends)
            print(f"{name}: {len(ends)} signals", *faults, *judge(ends), sep="\n  ", flush=True)
    slowest = max((one.seconds for one in stopped), default=0.0)
    finished = sum(one.code == 0 for one in stopped)
    result = {"signals": len(stopped) - finished, "finished_before": finished, "slowest_end": slowest, "wrong": wrong}
    return result | {"ends": [asdict(one) for one in stopped]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", nargs="?", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--commands", nargs="+", default=["simulate", "fit", "files", "train", "reproduce"])
    options = parser.parse_args()
    result = measure(options.n, options.commands)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(result["wrong"]) or "nothing lost, nothing twice, no process left, no scrap")
    sys.exit(bool(result["wrong"]))


if __name__ == "__main__":
    main()
