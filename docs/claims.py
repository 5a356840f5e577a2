"""Write the numbers and outputs of README.md and of pages from what was measured: python docs/claims.py [--check].

Each fact is a pattern of the text around its numbers, and the numbers as results say: files of benchmarks/results, and
outputs in docs/shown, which docs/shown.py writes. Console blocks of the README are excerpts of such outputs.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from public_tables import ratios  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SHOWN = ROOT / "docs" / "shown"
# Of each output the README shows these paragraphs, the first so many lines of each.
EXCERPTS = {"school": {"on unseen tasks": 8, "Let new tasks": 9}, "theory": {"best rates": 5}}
WIDTH = 96


@dataclass(frozen=True)
class Fact:
    """Numbers of a page: groups of a pattern, and what they must be. A blank in the pattern may be a line's end."""

    page: str
    pattern: str
    values: tuple[str, ...]

    def written(self, text: str) -> str:
        """Return the page's text with the numbers as they must be."""
        (found,) = re.finditer(self.pattern.replace(" ", r"\s+"), text)
        spans = [found.span(k + 1) for k in range(len(self.values))]
        for (start, end), value in sorted(zip(spans, self.values, strict=True), reverse=True):
            text = text[:start] + value + text[end:]
        return text


def result(name: str) -> Any:
    """Return a committed result."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def shown(name: str) -> str:
    """Return a command and what it printed."""
    return (SHOWN / f"{name}.txt").read_text(encoding="utf-8")


def said(name: str, pattern: str) -> str:
    """Return a number that a command printed."""
    found = re.search(pattern, shown(name))
    assert found is not None, pattern
    return found[1]


def facts() -> Iterator[Fact]:
    """Yield all facts."""
    yield Fact(
        "README.md",
        r"here ([\d,]+) schools, (\d+) pupils",
        (said("school", r": (\d+) tasks,"), said("school", r"errors after (\d+) rows")),
    )
    yield Fact("README.md", r"\(here (\d+) %\)", (said("theory", r"on (\d+) % of training sets"),))
    n_tables = (RESULTS / "census.csv").read_text(encoding="utf-8").count("\n") // 4
    yield Fact("README.md", r"hardly ever on (\d+) public tables", (str(n_tables),))
    yield Fact("docs/explain.md", r"\(census.md\): (\d+) public tables", (str(n_tables),))
    for part in (
        of_exact_solutions,
        of_public_tables,
        of_coverage,
        of_many_groups,
        of_mixed_models,
        of_kernels,
        of_stops,
        of_updates,
        of_theory,
    ):
        yield from part()


def of_exact_solutions() -> Iterator[Fact]:
    """Yield facts on the speed of the exact solutions."""
    speed, page = result("solve_path"), "docs/research.md"
    sizes, seconds, ratios = speed["sizes"], speed["seconds"], speed["ratios"]
    yield Fact(
        page,
        r"side by side: (\d+) rates, ([\d,]+) tasks of (\d+) \+ (\d+) rows, (\d+) features",
        tuple(f"{sizes[name]:,}" for name in ("n_rates", "n_tasks", "n_support", "n_query", "n_features")),
    )
    yield Fact(page, r"all (\d+) rates \| (\S+) \|", (str(sizes["n_rates"]), f"{seconds['exact_path_total']:.2f}"))
    loop = (f"{seconds['loop_of_lstsq']:.1f}", f"{ratios['loop_of_lstsq / exact_path']:.0f}")
    yield Fact(page, r"rate by rate \| (\S+) \| (\S+) times", loop)
    one = (f"{seconds['one_lstsq']:.2f}", f"{1 / ratios['exact_path / one_lstsq']:.2f}")
    yield Fact(page, r"stacked query rows \| (\S+) \| (\S+) times", one)
    rest = (f"{100 * speed['gather_fraction_of_dgemm']:.0f}", f"{speed['largest_relative_difference']:.0e}")
    rest = (rest[0], rest[1].replace("e-0", "e-"))
    yield Fact(page, r"(\d+) % of the machine's .* solutions agree to (\S+)\. ", rest)

    many = speed["many_features"]
    ratio = {
        name: f"{case['l2 = 0']['path / solve, from episodes']:.1f}" for name, case in many.items() if "sizes" in case
    }
    rows = {name: f"{case['sizes']['n_query_rows']:,}" for name, case in many.items() if "sizes" in case}
    sizes = many["under"]["sizes"]
    yield Fact(
        page,
        r"With ([\d,]+) features, (\d+) rates take (\S+) times as long .* where ([\d,]+) query rows .* and (\S+) times "
        r"where there are ([\d,]+) \((\S+) with a penalty\)",
        (
            f"{sizes['n_features']:,}",
            str(sizes["n_rates"]),
            ratio["under"],
            rows["under"],
            ratio["over"],
            rows["over"],
            f"{many['over']['l2 = 0.001']['path / solve, from episodes']:.1f}",
        ),
    )
    yield Fact(
        page,
        r"With ([\d,]+), which take little time to gather, they take (\S+) times",
        (rows["under, few rows"], ratio["under, few rows"]),
    )
    peak = max(case["peak_gb"] for case in many.values() if "sizes" in case)
    yield Fact(page, r"Memory stays below (\S+) GB", (f"{np.ceil(10 * peak) / 10:.1f}",))


def of_public_tables() -> Iterator[Fact]:
    """Yield facts on public tables, beside mixed models and boosting."""
    measured, page = result("public_tables"), "docs/tables.md"
    tables = [runs for runs in measured["tables"].values() if not runs["developed on"]]
    yield Fact(page, r"fits (\d+) public tables", (str(len(measured["tables"])),))
    yield Fact(page, r"over the (\d+) tables", (str(len(tables)),))
    yield Fact(page, r"(\d+) splits of the groups, `benchmarks/results/public_tables", (str(measured["seeds"]),))
    names = {
        "at random": ("MixedLM, slopes by hand", "GPBoost, slopes by hand", "boosting on features of the group"),
        "in order": ("MixedLM", "GPBoost", "boosting"),
    }
    for way, labels in names.items():
        for label, method in zip(labels, measured["methods"][1:], strict=True):
            values = tuple(
                f"{np.exp(np.mean(np.log(ratios(tables, way, method, n)))):.2f}" for n in (0, 1, 2, 3, 5, 10)
            )
            yield Fact(page, rf"{label} " + r"\| (\S+) " * 6 + r"\|", values)
    found = [[ratios(tables, "at random", name, n) for n in (0, 1, 2, 3, 5, 10)] for name in measured["methods"][1:]]
    medians = np.array([[np.median(by_table) for by_table in row] for row in found])
    ends = [f"{end:.2f}" for part in (medians[:2], medians[2:]) for end in (part.min(), part.max())]
    pattern = r"are lower, (\S+) to (\S+) against the mixed models and (\S+) to (\S+) against boosting at random"
    yield Fact(page, pattern, tuple(ends))
    better = np.array([[100 * np.mean(np.array(by_table) > 1) for by_table in row] for row in found])
    yield Fact(page, r"lower error on (\d+) to (\d+) % of the tables", (f"{better.min():.0f}", f"{better.max():.0f}"))


def of_coverage() -> Iterator[Fact]:
    """Yield facts on the coverage of intervals on public tables."""
    page, measured = "docs/tables.md", result("coverage")
    tables = [table for table in measured["tables"].values() if not table["developed on"]]
    pattern = r"(\d+) splits of the groups and (\d+) tables that no choice was made on, of which (\d+) have an order"
    n_ordered = sum("in order" in table for table in tables)
    yield Fact(page, pattern, (str(measured["splits"]), str(len(tables)), str(n_ordered)))
    left = []
    for way in ("at random", "in order"):
        means, errors = [], []
        for n in ("0", "1", "2", "3", "5", "10"):
            share, error = 100 * np.array([table[way][n] for table in tables if n in table.get(way, {})]).T
            by_split = 100 * np.array(measured["by split"][way][n])
            means.append(f"{share.mean():.1f}")
            errors.append(np.sqrt(share.var(ddof=1) / len(share) + by_split.var(ddof=1) / len(by_split)))
            left.append(np.sqrt(max(np.mean((share - 90) ** 2) - np.nanmean(error**2), 0)))
        yield Fact(page, rf"90 % intervals, rows {way}, % " + r"\| (\S+) " * 6 + r"\|", tuple(means))
        ends = f"{min(errors):.1f}", f"{max(errors):.1f}"
        yield Fact(page, rf"(\S+) to (\S+) points where rows are {way}", ends)
    yield Fact(page, r"a table's coverage is off by (\S+) to (\S+) points", (f"{min(left):.1f}", f"{max(left):.1f}"))


def of_many_groups() -> Iterator[Fact]:
    """Yield facts on the cost of many groups."""
    page, measured = "docs/scale.md", result("scale")
    for table in measured["tables"]:
        times = (_seconds(table[name]) for name in ("seconds", "seconds again", "predict seconds"))
        peaks = (f"{table[name]:.0f}" for name in ("peak MB", "peak of predictions MB"))
        pattern = rf"\| {table['groups']:,} \| (\S+) s \| (\S+) s \| (\S+) MB \| (\S+) s \| (\S+) MB \|"
        fit, again, predict = times
        peak, with_predict = peaks
        yield Fact(page, pattern, (fit, again, peak, predict, with_predict))
    million = next(table for table in measured["tables"] if table["groups"] == 1_000_000)
    yield Fact(page, r"take (\S+) s for a million groups", (f"{sum(million['bare'].values()):.1f}",))
    ratios = (f"{million[name]:.1f}" for name in ("times the bare work", "times the bare work, again"))
    yield Fact(page, r"a fit takes (\S+) times as long, and (\S+) times once the rows are in `work`", tuple(ratios))
    of_dask = million["dask"]["wall of 1"] / million["dask"]["wall of 2"]
    yield Fact(page, r"two workers of Dask are (\S+) times as fast as one", (f"{of_dask:.1f}",))
    for table in measured["wide"]:
        pattern = rf"{table['groups']:,} groups with {table['features']} features, 100 million rows, take "
        pattern += r"(\S+) s and (\S+) MB, (\S+) times"
        values = (f"{table['seconds']:.0f}", f"{table['peak MB']:.0f}", f"{table['times the bare work']:.1f}")
        yield Fact(page, pattern, values)
    for row in measured["in memory"]:
        ours = row["innerloop"]
        if row["features"] < 10:
            seconds = [f"{row[name]['seconds']:.2g}" for name in ("innerloop", "mixedlm-rs", "mixedlm")]
            pattern = rf"\| {row['groups']:,} \| (\S+) \| (\S+) \| (\S+) \| (\S+) MB \|"
            yield Fact(page, pattern, (*seconds, f"{ours['adds MB']:.0f}"))
        else:
            values = (f"{ours['seconds']:.1f}", f"{ours['adds MB'] / ours['MB of X']:.1f}")
            pattern = rf"{row['groups']:,} groups take (\S+) s, and memory of (\S+) times the features"
            yield Fact(page, pattern, values)


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value > 10 else f"{value:.1f}"


def of_mixed_models() -> Iterator[Fact]:
    """Yield facts on mixed-model packages."""
    rows = {row["name"]: row for row in result("mixed_models")["10,000 simulated groups"]}
    intercept, slopes = (f"statsmodels MixedLM, random {what}" for what in ("intercept: fixed effects", "slopes"))
    values = (
        f"{rows[intercept]['seconds']:.0f}",
        rows[slopes]["note"].removeprefix("stopped after ").removesuffix(" s"),
        f"{rows['innerloop']['seconds']:.1f}",
    )
    pattern = r"a random intercept takes (\S+) seconds, slopes are not finished after (\S+) seconds \| (\S+) seconds"
    yield Fact("docs/coming_from.md", pattern, values)


def of_kernels() -> Iterator[Fact]:
    """Yield facts on the kernels of networks."""
    page, signs, number = "docs/networks.md", result("kernel_sign"), r"([+-][\d.]+) ± ([\d.]+)"
    for noise, found in signs["c_by_noise_std"].items():
        k = found["inner_lr"].index(0.2)
        values = (f"{found['difference'][k]:+.4f}", f"{found['stderr'][k]:.4f}")
        yield Fact(page, rf"{number} \(noise {re.escape(noise)}\)", values)
    far = {
        letter: [
            number
            for rate in (-1.0, -2.0, -8.0, -16.0)
            for k in [found["inner_lr"].index(rate)]
            for number in (f"{found['difference'][k]:+.4f}", f"{found['stderr'][k]:.4f}")
        ]
        for letter, found in signs["far"].items()
        if letter in "ab"
    }
    in_a = rf"in a {number} at -1, {number} at -2, {number} at -8 and {number} at -16"
    yield Fact(page, in_a, tuple(far["a"]))
    yield Fact(page, rf"in b {number}, {number}, {number} and {number}\. In c", tuple(far["b"]))
    yield Fact(page, r"around 0.6 to 1.2 \((\d+) seeds", (str(signs["n_seeds"]),))
    widths = result("network_width")
    rate = widths["inner_lr"].index(-0.4)
    ends = [[rows[k][rate] for rows in widths["distance"].values()] for k in (0, -1)]
    values = (*(f"{value:.2f}" for value in ends[0]), *(f"{value:.3f}" for value in ends[1]))
    three = r"(\S+), (\S+), (\S+)"
    yield Fact(page, rf"= -0.4 from {three} \(width 32\) to {three} \(width 2048\)", values)


def of_stops() -> Iterator[Fact]:
    """Yield facts on signals, and on changes that tests notice."""
    page, kills, changes = "docs/reliability.md", result("kills"), result("mutants")
    late = sorted(end["seconds"] for end in kills["ends"] if end["seconds"] > 5)
    yield Fact(page, r"of (\d+) signals that met a command", (str(kills["signals"]),))
    yield Fact(page, r"Two commands took (\S+) and (\S+) s to end", tuple(f"{seconds:.1f}" for seconds in late))
    soft = [end for end in kills["ends"] if end["signal"] != "SIGKILL" and end["code"] != 0]
    early = sum(end["code"] in {-2, -15} for end in soft)
    yield Fact(page, r"first line ran, (\d+) of the (\d+) SIGTERM and Ctrl-C", (str(early), str(len(soft))))
    share = changes["share_noticed"]
    values = (str(changes["tried"]), str(round(share * changes["tried"])), f"{100 * share:.1f}")
    pattern = r"a list of (\d+), each selection of tests first without a change, (\d+) were noticed, (\S+) %"
    yield Fact(page, pattern, values)
    yield Fact(page, r"Of the (\d+) that were let through", (str(len(changes["missed"])),))


def of_updates() -> Iterator[Fact]:
    """Yield facts on updated models beside fits of all rows."""
    for name, table in result("updates")["tables"].items():
        middle = {key: float(np.median([one[key] for one in table["draws"]])) for key in table["draws"][0]}
        near = [f"{middle[key]:.2g}" for key in ("population, old", "population, updated", "known groups, updated")]
        errors = [f"{middle[key]:.2f}" for key in ("error, old", "error, updated")]
        pattern = rf"\| {name}, (\d+) \|" + r" (\S+) \|" * 5
        yield Fact("docs/scale.md", pattern, (str(table["groups"]), *near, *errors))


def of_theory() -> Iterator[Fact]:
    """Yield facts on theory beside a grid of rates."""
    grid = result("optimal_rates_vs_grid")["summary"]
    assert grid["not_above_the_grid"] == grid["of"]
    yield Fact("docs/theory_loss.md", r"On (\d+) random designs", (str(grid["of"]),))


def excerpt(name: str) -> str:
    """Return what a console block of the README shows of an output: command, paragraphs cut and filled."""
    command, _, printed = shown(name).partition("\n")
    parts = []
    for start, n_lines in EXCERPTS[name].items():
        (part,) = [part for part in re.split(r"\n\s*\n", printed) if part.strip().startswith(start)]
        lines = [line.rstrip() for line in part.strip("\n").splitlines()[:n_lines]]
        lines = [line for line in lines if not line.startswith("Errors:")]
        parts.append("\n".join(textwrap.fill(line, WIDTH) if len(line) > WIDTH else line for line in lines))
    return f"{command}\n" + "\n\n".join(parts) + "\n"


def written(page: str) -> str:
    """Return the text of a page with every number and excerpt as results say."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for fact in facts():
        if fact.page == page:
            text = fact.written(text)
    if page == "README.md":
        for name in EXCERPTS:
            command = re.escape(shown(name).partition("\n")[0])
            block = excerpt(name)
            pattern = rf"(?<=^```console\n){command}\n(?:.*\n)*?(?=```$)"
            text, n = re.subn(pattern, lambda _, block=block: block, text, flags=re.M)
            assert n == 1, name
    return text


def pages() -> list[str]:
    """Return the pages that have facts."""
    return list(dict.fromkeys(fact.page for fact in facts()))


def main(check: bool) -> int:
    """Write the pages, or say which would change; return how many."""
    changed = [page for page in pages() if written(page) != (ROOT / page).read_text(encoding="utf-8")]
    for page in changed:
        print(page)
        if not check:
            (ROOT / page).write_text(written(page), encoding="utf-8")
    return len(changed)


if __name__ == "__main__":
    n_changed = main("--check" in sys.argv)
    sys.exit("--check" in sys.argv and n_changed > 0)
