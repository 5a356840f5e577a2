"""Draw the JSON of a benchmark: python benchmarks/draw.py results/solve_path.json ... (writes a PNG beside each).

The name of the file says which benchmark it is of. The site draws all of benchmarks/results when it is built.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from public_tables import ratios

BLUE, ORANGE, GREEN, PURPLE, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#999999"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, GREY)
MARKERS = "osvD^x"
LONG_UNITS = {"s": "seconds", "ms": "milliseconds"}
Result = Mapping[str, Any]


def bars(ax: Axes, values: Mapping[str, float], unit: str, ours: Sequence[str] | None = None) -> None:
    """Draw one horizontal bar a value with the value beside it, in another colour where not ours."""
    names, numbers = list(values), list(values.values())
    colours = [BLUE if ours is None or name in ours else GREY for name in names]
    drawn = ax.barh(names, numbers, color=colours)
    ax.bar_label(
        drawn, [f"{value:,.0f} {unit}" if value > 100 else f"{value:.3g} {unit}" for value in numbers], padding=4
    )
    wide = max(numbers) > 10 * min(numbers)
    ax.set(xscale="log" if wide else "linear", xlabel=LONG_UNITS[unit] + (" (log scale)" if wide else ""))
    ax.invert_yaxis()
    ax.margins(x=0.3)


def legend_below(figure: Figure, ax: Axes, n_columns: int) -> None:
    """Put the legend of a plot below all plots, where it covers nothing."""
    handles, names = ax.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=n_columns, frameon=False, fontsize=8)


def speed_of_solutions(result: Result, figure: Figure) -> None:
    figure.set_size_inches(7.5, 2.6)
    ax, seconds = figure.subplots(), result["seconds"]
    labels = {
        "loop_of_lstsq": "task by task,\nlstsq rate by rate",
        "one_lstsq": "one lstsq of the\nstacked query rows, one rate",
        "exact_path_total": "innerloop: all rates",
    }
    bars(ax, {label: seconds[name] for name, label in labels.items()}, "s", ["innerloop: all rates"])
    sizes = "{n_rates} rates, {n_tasks} tasks of {n_support} + {n_query} rows, {n_features} features"
    ax.set_title(sizes.format(**result["sizes"]))


def speed_of_theory(result: Result, figure: Figure) -> None:
    figure.set_size_inches(7.5, 3.2)
    names = list(result["seconds"])
    bars(figure.subplots(), result["seconds"], "s", [name for name in names if "Monte Carlo" not in name])


def speed_of_simulation(result: Result, figure: Figure) -> None:
    figure.set_size_inches(7.5, 2.3)
    ax, names = figure.subplots(), list(result["seconds"])
    bars(ax, result["seconds"], "s", [name for name in names if "loop" not in name])
    ax.set_title(f"{result['n_runs']} runs")


def speed_of_explorer(result: Result, figure: Figure) -> None:
    figure.set_size_inches(7.5, 2.6)
    times = {
        "command to first page": 1000 * result["first_page_seconds"],
        "command to first curves": 1000 * result["first_curves_seconds"],
        "slider to new curves, median": result["update_ms"]["median"],
        "slider to new curves, 95 %": result["update_ms"]["95 %"],
        "with the law over training sets, median": result["update_with_the_law_over_training_sets_ms"]["median"],
    }
    bars(figure.subplots(), times, "ms")


def speed_of_networks(result: Result, figure: Figure) -> None:
    parts = {"sinusoid": "sine waves, 40 + 40 units", "conv4": "characters, four convolutions"}
    figure.set_size_inches(7.5, 4)
    heights = [len(result[part]["steps"]) for part in parts]
    for ax, (part, title) in zip(figure.subplots(2, 1, height_ratios=heights), parts.items(), strict=True):
        steps = {name: 1000 * step["median"] for name, step in result[part]["steps"].items()}
        named = {name if name == result["peer"] else f"innerloop, {name}": value for name, value in steps.items()}
        bars(ax, named, "ms", [name for name in named if name != result["peer"]])
        ax.set_title(f"one meta-step: {title}")


def lines(ax: Axes, x: Sequence[float], series: Mapping[str, Sequence[float]], **look: Any) -> None:
    """Draw one line a series, each of its own colour and marker."""
    for (name, y), colour, marker in zip(series.items(), COLOURS, MARKERS, strict=False):
        ax.plot(x, y, color=colour, marker=marker, ms=4, label=name, **look)


def cost_of_many_groups(result: Result, figure: Figure) -> None:
    figure.set_size_inches(11, 3.6)
    time, memory, beside = figure.subplots(1, 3)
    tables = result["tables"]
    groups = [table["groups"] for table in tables]
    seconds = {
        "fit": [table["seconds"] for table in tables],
        "prediction": [table["predict seconds"] for table in tables],
        "scan, sums and adaptation alone": [sum(table["bare"].values()) for table in tables],
    }
    lines(time, groups, seconds)
    time.set(xscale="log", yscale="log", xlabel="groups", ylabel="seconds of CPU")
    measured = [table for table in tables if "peak MB" in table]
    lines(memory, [table["groups"] for table in measured], {"": [table["peak MB"] for table in measured]})
    memory.set(xscale="log", xlabel="groups", ylabel="peak memory of a fit, MB", ylim=(0, None))
    time.set_title("datasets")
    memory.set_title("datasets")
    rows = [row for row in result["in memory"] if row["features"] < 10]
    names = [name for name in ("innerloop", "mixedlm-rs", "mixedlm") if all(name in row for row in rows)]
    lines(beside, [row["groups"] for row in rows], {name: [row[name]["seconds"] for row in rows] for name in names})
    beside.set(
        xscale="log", yscale="log", xlabel="groups", ylabel="seconds of CPU", title="tables in memory, 3 features"
    )
    beside.legend(frameon=False, fontsize=8)
    for ax, numbers in ((time, groups), (memory, groups), (beside, [row["groups"] for row in rows])):
        powers = [10**k for k in range(3, 9) if min(numbers) <= 10**k <= max(numbers)]
        ax.set_xticks(powers, [f"{n:,}" for n in powers], fontsize=7)
        ax.minorticks_off()
    legend_below(figure, time, 3)


def errors_of_methods(result: Result, figure: Figure) -> None:
    """Draw the error on unseen tasks against the rows that they adapt on, one panel a table."""
    figure.set_size_inches(7.5, 3.8)
    for ax, (table, methods) in zip(figure.subplots(1, len(result["tables"])), result["tables"].items(), strict=True):
        sizes = [size for size in methods["MetaRegressor()"] if size.isdigit()]
        errors = {name: [by_size[size]["mse"] for size in sizes] for name, by_size in methods.items()}
        ax.plot(range(len(sizes)), errors.pop("MetaRegressor()"), color="k", lw=3, label="MetaRegressor()")
        lines(ax, range(len(sizes)), errors)
        ax.set(yscale="log", title=table, xlabel="rows to adapt on", ylabel="mean squared error")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.set_xticks(range(len(sizes)), sizes)
    legend_below(figure, ax, 3)


def errors_of_simulated_tables(result: Result, figure: Figure) -> None:
    """Draw the error of MetaRegressor() by table and rows, in percent above that of the best baseline."""
    figure.set_size_inches(6.5, 9)
    ax, tables = figure.subplots(), result["tables"]
    sizes = ["0", "1", "2", "5", "10", "20"]
    ours = [[by_name["MetaRegressor()"].get(size) for size in sizes] for by_name in tables.values()]
    share = np.array(
        [[100 * c["excess"] / (c["mse"] - c["excess"]) if c else np.nan for c in row] for row in ours], dtype=float
    )
    drawn = ax.imshow(share, cmap="RdBu_r", vmin=-50, vmax=50, aspect="auto")
    for (i, j), value in np.ndenumerate(share):
        if np.isfinite(value):
            ax.text(j, i, f"{value:+.0f}", ha="center", va="center", fontsize=7, color="w" if abs(value) > 32 else "k")
    ax.set_xticks(range(len(sizes)), sizes)
    ax.set_yticks(range(len(tables)), list(tables))
    ax.set(xlabel="rows to adapt on", title="MetaRegressor() beside the best baseline")
    figure.colorbar(drawn, ax=ax, shrink=0.5, extend="both", label="error above the best baseline, % (blue: below)")


def coverage_of_tables(result: Result, figure: Figure) -> None:
    """Draw the coverage of each public table, mean over splits, and the mean over tables with its 88 to 92 %."""
    figure.set_size_inches(7.5, 3.6)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, way in zip(axes, ("at random", "in order"), strict=True):
        sizes, tables = (
            ("0", "1", "2", "3", "5", "10"),
            [table[way] for table in result["tables"].values() if way in table],
        )
        found = [100 * np.array([table[n][0] for table in tables if n in table]) for n in sizes]
        for x, shares in enumerate(found):
            spread = np.linspace(-0.25, 0.25, len(shares))
            ax.plot(x + spread, shares, ".", color=GREY, ms=4, label="a table" if x == 0 else None)
        means = [shares.mean() for shares in found]
        ax.plot(range(len(sizes)), means, "o", color=COLOURS[0], label="mean over tables")
        ax.axhspan(88, 92, color=COLOURS[0], alpha=0.15, lw=0, label="88 to 92 %")
        ax.set_xticks(range(len(sizes)), sizes)
        ax.set(xlabel="rows to adapt on", title=f"rows {way}, {len(tables)} tables")
    axes[0].set_ylabel("targets in 90 % intervals, %")
    legend_below(figure, axes[0], 3)


def errors_beside_packages(result: Result, figure: Figure) -> None:
    """Draw the ratio of errors to innerloop's on public tables: median and quartiles over tables."""
    figure.set_size_inches(7.5, 3.8)
    others = [name for name in result["methods"] if name != "innerloop"]
    axes = figure.subplots(1, 2, sharey=True)
    for ax, way in zip(axes, ("at random", "in order"), strict=True):
        for k, (name, colour, marker) in enumerate(zip(others, COLOURS[1:], MARKERS, strict=False)):
            sizes = (0, 1, 2, 3, 5, 10)
            found = [ratios(result["tables"].values(), way, name, n) for n in sizes]
            low, mid, high = np.transpose([np.percentile(ratios, [25, 50, 75]) for ratios in found])
            x = np.arange(len(sizes)) + 0.18 * (k - 1)
            ax.errorbar(x, mid, [mid - low, high - mid], fmt=marker, color=colour, ms=5, label=name, capsize=2)
        ax.axhline(1, color=GREY, lw=1)
        ax.set_xticks(range(len(sizes)), sizes)
        ax.set(yscale="log", xlabel="rows to adapt on", title=f"rows {way}, {_n_tables(result, way)} tables")
    axes[0].set_ylabel("error over that of innerloop\n(above 1: innerloop is better)")
    axes[0].set_yticks([0.7, 1, 1.5, 2, 3], ["0.7", "1", "1.5", "2", "3"])
    axes[0].minorticks_off()
    legend_below(figure, ax, 3)


def _n_tables(result: Result, way: str) -> int:
    return sum(bool(runs[way]) for runs in result["tables"].values())


def errors_beside_mixed_models(result: Result, figure: Figure) -> None:
    """Draw the error above innerloop's, in percent, with the seconds of each fit."""
    panels = {name: rows for name, rows in result.items() if isinstance(rows, list)}
    figure.set_size_inches(7.5, 6)
    for ax, (title, rows) in zip(figure.subplots(len(panels), 1, sharex=True), panels.items(), strict=True):
        best = rows[0]["mse"]
        percent = [100 * row["excess"] / best for row in rows]
        error = [100 * row["excess_se"] / best for row in rows]
        ax.errorbar(percent, range(len(rows)), xerr=error, fmt="o", color=BLUE, ms=4, capsize=2)
        ax.set_yticks(range(len(rows)), [row["name"].replace("statsmodels ", "") for row in rows], fontsize=7)
        for k, row in enumerate(rows):
            said = row["note"] if np.isnan(row["mse"]) else f"{row['seconds']:.2g} s"
            ax.text(1.01, k, said, transform=ax.get_yaxis_transform(), va="center", fontsize=7)
        ax.axvline(0, color=GREY, lw=1)
        ax.invert_yaxis()
        ax.set_title(title, fontsize=9)
    ax.set_xlabel("error above innerloop's, %, with its standard error; right: time of the fit")


def changes_noticed(result: Result, figure: Figure) -> None:
    figure.set_size_inches(7.5, 4.2)
    ax = figure.subplots()
    by_room = {room: [int(n) for n in said.split(" of ")] for room, said in result["noticed_by_room"].items()}
    noticed, tried = np.transpose(list(by_room.values()))
    ax.barh(list(by_room), noticed, color=BLUE, label="noticed by a test")
    ax.barh(list(by_room), tried - noticed, left=noticed, color=ORANGE, label="not noticed in this run")
    ax.set(xlabel="changes of the code", title=f"{sum(noticed)} of {result['tried']} changes noticed")
    ax.invert_yaxis()
    legend_below(figure, ax, 2)


def ends_of_commands(result: Result, figure: Figure) -> None:
    figure.set_size_inches(7.5, 3.4)
    ax = figure.subplots()
    commands = list(dict.fromkeys(end["command"] for end in result["ends"]))
    for k, (signal, colour) in enumerate({"SIGKILL": GREY, "SIGTERM": ORANGE, "SIGINT": BLUE}.items()):
        met = [end for end in result["ends"] if end["signal"] == signal]
        y = [commands.index(end["command"]) + 0.22 * (k - 1) for end in met]
        ax.scatter([end["seconds"] for end in met], y, s=12, color=colour, marker=MARKERS[k], label=signal, alpha=0.7)
    ax.axvline(5, color="k", lw=1, ls=":", label="promised on a machine that is not overloaded")
    ax.set(xscale="log", xlabel="seconds from the signal to the end of the command")
    ax.set_yticks(range(len(commands)), commands)
    ax.invert_yaxis()
    legend_below(figure, ax, 4)


def signs_of_kernels(result: Result, figure: Figure) -> None:
    figure.set_size_inches(7.5, 3.4)
    left, right = figure.subplots(1, 2)
    for (letter, rates), colour, marker in zip(result["far"].items(), COLOURS, MARKERS, strict=False):
        look = {"color": colour, "fmt": f"{marker}-", "ms": 4, "capsize": 2, "label": f"panel {letter}"}
        left.errorbar(rates["inner_lr"], rates["difference"], rates["stderr"], **look)
    left.set(xlabel="inner rate, inner_lr", ylabel="loss less that at inner_lr = 0")
    by_noise = result["c_by_noise_std"]
    x = [float(noise) for noise in by_noise]
    for k, (rate, colour) in enumerate(zip(next(iter(by_noise.values()))["inner_lr"], (ORANGE, BLUE), strict=True)):
        y, error = ([found[name][k] for found in by_noise.values()] for name in ("difference", "stderr"))
        right.errorbar(x, y, error, color=colour, fmt=f"{MARKERS[k]}-", ms=4, capsize=2, label=f"inner_lr = {rate:g}")
    right.set(xlabel="standard deviation of label noise", ylabel="loss less that at inner_lr = 0", title="panel c")
    for ax in (left, right):
        ax.axhline(0, color=GREY, lw=1)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False, fontsize=8)


def distances_to_kernels(result: Result, figure: Figure) -> None:
    figure.set_size_inches(7.5, 3.2)
    axes = figure.subplots(1, len(result["distance"]), sharey=True)
    for ax, (letter, distances) in zip(axes, result["distance"].items(), strict=True):
        named = {f"inner_lr = {r:g}": y for r, y in zip(result["inner_lr"], np.transpose(distances), strict=True)}
        lines(ax, result["widths"], named)
        ax.set(xscale="log", yscale="log", xlabel="width", title=f"panel {letter}")
        ax.set_xticks(result["widths"], [str(width) for width in result["widths"]])
        ax.minorticks_off()
    axes[0].set_ylabel("distance to the kernel's prediction\nas a part of it")
    axes[0].set_yticks([0.05, 0.1, 0.2, 0.5], ["0.05", "0.1", "0.2", "0.5"])
    legend_below(figure, ax, 3)


def rates_beside_a_grid(result: Result, figure: Figure) -> None:
    figure.set_size_inches(7.5, 3)
    ax = figure.subplots()
    rows = [row for row in result["rows"] if "grid" in row]
    below = np.sort([100 * (1 - row["loss"] / row["grid"]) for row in rows])
    ax.plot(np.arange(1, len(below) + 1), below, ".", color=BLUE)
    ax.axhline(-0.01, color=ORANGE, ls="--", label="allowed: 0.01 % above the grid")
    ax.set_yscale("symlog", linthresh=1e-3)
    ax.set_yticks([-0.01, 0, 0.001, 0.01, 0.1, 1], ["-0.01", "0", "0.001", "0.01", "0.1", "1"])
    ax.set(xlabel="design, by gain", ylabel="loss below that of\nthe grid's best rates, %", ylim=(-0.05, 2))
    ax.legend(frameon=False)


def theory_beside_simulation(result: Result, figure: Figure) -> None:
    figure.set_size_inches(6, 4.4)
    ax = figure.subplots()
    rows = [row for row in result["rows"] if np.isfinite(row["relative_error"])]
    rows.sort(key=lambda row: row["protocol"])
    for (protocol, found), colour, marker in zip(
        groupby(rows, key=lambda row: row["protocol"]), COLOURS, MARKERS, strict=False
    ):
        x, y, error = np.transpose(
            [
                (100 * r["accuracy"], 100 * max(abs(r["relative_error"]), 1e-4), 100 * r["relative_stderr"])
                for r in found
            ]
        )
        ax.errorbar(x, y, [np.minimum(error, 0.999 * y), error], fmt=marker, color=colour, ms=4, lw=0.6, label=protocol)
    ends = np.array([0.8, 100])
    ax.plot(ends, ends, color=GREY, ls="--", label="as far off as stated")
    ax.set(xscale="log", yscale="log", ylim=(8e-3, None))
    ax.set(xlabel="error that choose_method states, %", ylabel="difference to the simulation, %")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
    legend_below(figure, ax, 3)


def distances_of_updates(result: Result, figure: Figure) -> None:
    """Draw how far old and updated models are from a fit of all rows: dots are draws, lines medians."""
    figure.set_size_inches(7.5, 3.4)
    panels, tables = figure.subplots(1, 2, sharey=True), result["tables"]
    measures = (
        (("population, old", "population, updated", "known groups, updated"), "distance of predictions, in noises"),
        (("error, old", "error, updated"), "error on unseen groups, relative"),
    )
    for ax, (names, label) in zip(panels, measures, strict=True):
        for k, name in enumerate(names):
            for i, table in enumerate(tables.values()):
                x, y = [one[name] for one in table["draws"]], i + (k - 1) / 5
                ax.plot(x, [y] * len(x), "o", ms=3, color=COLOURS[k], alpha=0.5, label=None if i else name)
                ax.plot([np.median(x)] * 2, [y - 0.1, y + 0.1], color=COLOURS[k], lw=2)
        ax.set(xscale="log", xlabel=label)
    panels[1].xaxis.set_major_formatter("{x:.1f}")
    panels[1].xaxis.set_minor_formatter("{x:.1f}")
    panels[0].set_yticks(range(len(tables)), [f"{name.split('/')[1]}, {t['groups']}" for name, t in tables.items()])
    panels[0].invert_yaxis()
    handles, labels = zip(
        *[pair for ax in panels for pair in zip(*ax.get_legend_handles_labels(), strict=True)], strict=True
    )
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=7)


DRAWINGS: dict[str, Callable[[Result, Figure], None]] = {
    "coverage": coverage_of_tables,
    "explorer_speed": speed_of_explorer,
    "held_out": errors_of_methods,
    "kernel_sign": signs_of_kernels,
    "kills": ends_of_commands,
    "mixed_models": errors_beside_mixed_models,
    "mutants": changes_noticed,
    "network_width": distances_to_kernels,
    "neural_speed": speed_of_networks,
    "optimal_rates_vs_grid": rates_beside_a_grid,
    "public_tables": errors_beside_packages,
    "scale": cost_of_many_groups,
    "simulated_tables": errors_of_simulated_tables,
    "simulation_speed": speed_of_simulation,
    "solve_path": speed_of_solutions,
    "theory_speed": speed_of_theory,
    "theory_vs_monte_carlo": theory_beside_simulation,
    "updates": distances_of_updates,
}


def draw(source: Path, target: Path | None = None) -> Path:
    """Draw a result, into a picture beside it unless another is named, and return where."""
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    DRAWINGS[source.stem](json.loads(source.read_text()), figure)
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
    target = source.with_suffix(".png") if target is None else target
    figure.savefig(target, dpi=150)
    return target


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(draw(Path(name)))
