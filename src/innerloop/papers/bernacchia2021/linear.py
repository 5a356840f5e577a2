"""What Figures 2 and 3 share: test loss of mixed linear regression against each rate, dots and two theories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.plots.style import BLUE, GREEN, GREY, ORANGE
from innerloop.simulation import estimate_loss
from innerloop.theory import expected_loss, optimal_rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Arrays = dict[str, Any]

N_TEST_TASKS, N_TEST_ROWS = 100, 50
_N_FINE = 201
_FEWEST_RUNS = 20
# Runs of the table, scored exactly: its standard errors are then in the fourth digit.
_TABLE_RUNS = 1000


@final
@dataclass(frozen=True)
class Panel:
    """One panel: the rates on its axis, the rate held fixed, and the paper's number of runs.

    Parameters
    ----------
    varied
        "inner_lr" or "adapt_lr".
    low, high, n_dots
        Rates with a dot.
    fixed
        The other rate.
    n_runs
        Runs per dot.
    """

    varied: str
    low: float
    high: float
    n_dots: int
    fixed: float
    n_runs: int


@final
@dataclass(frozen=True)
class LinearFigure:
    """A figure of the paper for mixed linear regression.

    Parameters
    ----------
    dist, design
        The tasks, and the sizes.
    panels
        By letter.
    caption
        What to know to read it.
    """

    dist: MixedLinearRegression
    design: Design
    panels: Mapping[str, Panel]
    caption: str

    def compute(
        self, scale: float = 1.0, store: Path | None = None, n_jobs: int = 1, progress: bool = False
    ) -> dict[str, Arrays]:
        """Return dots, curves and the table.

        Parameters
        ----------
        scale
            Part of the paper's runs; 1 is its protocol.
        store
            Folder for finished runs.
        n_jobs, progress
            As in `estimate_loss`.

        Returns
        -------
        dict
            For each panel "rates", "loss", "stderr" of the dots, "fine", "leading" and "equivalent" of the curves,
            "n_runs"; and under "table" "inner_lr", "adapt_lr", "theory", "loss", "stderr" of the three best pairs.
        """
        arrays = {}
        for letter, panel in self.panels.items():
            folder = None if store is None else store / letter
            arrays[letter] = self._panel(panel, scale, folder, n_jobs, progress)
        arrays["table"] = self._table(scale, n_jobs)
        return arrays

    def _panel(self, panel: Panel, scale: float, store: Path | None, n_jobs: int, progress: bool) -> Arrays:
        rates = np.linspace(panel.low, panel.high, panel.n_dots).round(10)
        estimate = estimate_loss(
            *(self.dist, self.design, *self._pair(panel, rates)),
            n_runs=max(_FEWEST_RUNS, round(scale * panel.n_runs)),
            n_jobs=n_jobs,
            store=store,
            progress=progress,
            scoring="sampled",
            n_test_tasks=N_TEST_TASKS,
            n_test_rows=N_TEST_ROWS,
        )
        fine = np.linspace(panel.low, panel.high, _N_FINE)
        pair = self._pair(panel, fine)
        return {
            "rates": rates,
            "loss": estimate["loss"].values.ravel(),
            "stderr": estimate["stderr"].values.ravel(),
            "n_runs": estimate.n_runs,
            "fine": fine,
            "leading": expected_loss(self.dist, self.design, *pair, method="leading-order"),
            "equivalent": expected_loss(self.dist, self.design, *pair),
        }

    def _table(self, scale: float, n_jobs: int) -> Arrays:
        best = optimal_rates(self.dist, self.design)
        inner = np.array([best.lr_tied, 0.0, best.inner_lr])
        adapt = np.array([best.lr_tied, best.adapt_lr_no_inner, best.adapt_lr])
        n_runs = max(_FEWEST_RUNS, round(scale * _TABLE_RUNS))
        estimate = estimate_loss(self.dist, self.design, inner, adapt, n_runs=n_runs, n_jobs=n_jobs)
        return {
            "inner_lr": inner,
            "adapt_lr": adapt,
            "theory": np.array([best.loss_tied, best.loss_no_inner, best.loss]),
            "loss": estimate["loss"].values.diagonal(),
            "stderr": estimate["stderr"].values.diagonal(),
        }

    @staticmethod
    def _pair(panel: Panel, rates: FloatArray) -> tuple[Any, Any]:
        return (rates, panel.fixed) if panel.varied == "inner_lr" else (panel.fixed, rates)

    def draw(self, arrays: Mapping[str, Arrays], ax: Mapping[str, Axes]) -> None:
        """Draw the panels and the table.

        Parameters
        ----------
        arrays
            From `compute`.
        ax
            Axes by the name of the panel, and one under "table".
        """
        for letter, panel in self.panels.items():
            self._draw_panel(panel, arrays[letter], ax[letter])
            ax[letter].set_title(letter, loc="left", fontweight="bold")
        _draw_table(arrays["table"], ax["table"])

    def _draw_panel(self, panel: Panel, arrays: Arrays, ax: Axes) -> None:
        dots = f"{arrays['n_runs']} runs, ± 1 s.e."  # of the loss: dots of a panel share their draws and move together
        ax.plot(arrays["fine"], arrays["leading"], color=GREEN, ls="--", lw=1.4, label="leading order")
        ax.plot(arrays["fine"], arrays["equivalent"], color=ORANGE, lw=1.6, label="deterministic equivalent")
        ax.errorbar(
            *(arrays["rates"], arrays["loss"], arrays["stderr"]),
            fmt="o",
            ms=3.5,
            color=BLUE,
            capsize=2,
            lw=1,
            label=dots,
            zorder=3,
        )
        ax.axvline(0, color=GREY, lw=0.6)
        what = {"inner_lr": "inner_lr (meta-training)", "adapt_lr": "adapt_lr (new task)"}
        other = next(name for name in what if name != panel.varied)
        ax.set(xlabel=what[panel.varied], ylabel="test loss (half MSE)")
        ax.set_title(f"{other} = {panel.fixed:g}", fontsize=10)
        ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False)


def _draw_table(arrays: Arrays, ax: Axes) -> None:
    ax.axis("off")
    table = ax.table(
        [
            [name, f"{inner:.3f}", f"{adapt:.3f}", f"{theory:.5f}", f"{loss:.5f} ± {error:.5f}", f"{gain:.2f} %"]
            for name, inner, adapt, theory, loss, error, gain in headline(arrays)
        ],
        colLabels=["best rates", "inner_lr", "adapt_lr", "theory", "Monte Carlo", "above the best"],
        colWidths=[0.3, 0.12, 0.12, 0.12, 0.2, 0.14],
        cellLoc="center",
        edges="horizontal",
        loc="center",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.3)


def headline(arrays: Arrays) -> list[tuple[str, float, float, float, float, float, float]]:
    """Return the rows of the table: name, both rates, theory, Monte Carlo with its error, percent above the best."""
    names = ("tied rates (usual MAML)", "no inner loop in training", "both free")
    columns = (arrays[key] for key in ("inner_lr", "adapt_lr", "theory", "loss", "stderr"))
    above = 100 * (arrays["theory"] / arrays["theory"][-1] - 1)
    return [(name, *map(float, row)) for name, *row in zip(names, *columns, above, strict=True)]
