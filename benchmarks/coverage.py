"""Coverage of 90 % intervals of unseen groups of public tables, over many splits of the groups.

Tables, splits and rows are those of `public_tables`, fitted by the default alone. A split of a small table leaves a few
groups, whose coverage is off by several points by chance: splits are many, and the standard error over them is told.

    python benchmarks/coverage.py --seeds 15 --out benchmarks/results/coverage.json
    python benchmarks/coverage.py --seeds 2 --tables nlme/Oxboys,nlme/Rail
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import public_tables

WAYS = ("at random", "in order")


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Return each table's coverage by way and number of rows: its mean over splits, and the standard error of that.

    `by split` has the means of a split over the tables that innerloop was not developed on. Tables of as many groups
    are split alike, so that these means vary more from split to split than the tables alone would say.
    """
    found: dict[str, Any] = {"splits": result["seeds"], "tables": {}, "by split": {}}
    for way in WAYS:
        others = {}
        for name, table in result["tables"].items():
            entry = found["tables"].setdefault(name, {"developed on": table["developed on"]})
            frame = pd.DataFrame(table[way])
            if "coverage" in frame:
                shares = frame.dropna(subset="coverage").pivot(index="n", columns="seed", values="coverage")
                errors = shares.std(axis=1) / np.sqrt(shares.count(axis=1))
                entry[way] = {
                    str(n): [round(float(share), 5), round(float(errors[n]), 5)]
                    for n, share in shares.mean(axis=1).items()
                }
                if not table["developed on"]:
                    others[name] = shares
        means = pd.concat(others).groupby(level=1).mean() if others else pd.DataFrame()
        found["by split"][way] = {str(n): [round(float(share), 5) for share in row] for n, row in means.iterrows()}
    return found


def figures(found: dict[str, Any], way: str, n: int) -> tuple[float, float, float, float]:
    """Return mean coverage over the tables not developed on, its standard error, and the rms miss; points of 100.

    The standard error is over tables and over splits. The last figure is the rms miss less the part that the choice of
    splits explains, 0 where that explains all.
    """
    tables = [entry[way] for entry in found["tables"].values() if not entry["developed on"] and way in entry]
    share, error = 100 * np.array([of_n[str(n)] for of_n in tables if str(n) in of_n]).T
    by_split = 100 * np.array(found["by split"][way][str(n)])
    variance = share.var(ddof=1) / len(share) + by_split.var(ddof=1) / len(by_split)
    miss = np.mean((share - 100 * public_tables.LEVEL) ** 2)
    left = max(float(miss - np.nanmean(error**2)), 0.0)
    return float(share.mean()), float(np.sqrt(variance)), float(np.sqrt(miss)), float(np.sqrt(left))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark, print its figures, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", help="names, comma-separated; all unless given")
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    given = ["--methods", "innerloop", "--seeds", str(options.seeds)]
    found = summary(public_tables.main(given + (["--tables", options.tables] if options.tables else [])))
    for way in WAYS:
        print(f"\nrows {way}: coverage, its standard error, rms miss over tables, that without the splits' share")
        for n in found["by split"][way]:
            print(f"{n:>3} rows: " + " ".join(f"{value:6.1f}" for value in figures(found, way, int(n))))
    if options.out is not None:
        options.out.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
