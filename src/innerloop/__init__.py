"""Exact meta-learning with inner learning rates of any sign.

Which inner learning rate should I meta-train with, with which should a new task adapt, and do I need the inner
loop at all? `MetaRegressor` answers for a table of tasks; `MetaObjective`, `solve` and `solve_path` are the exact
solver underneath.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from innerloop.data.episodes import Episodes
from innerloop.data.tasks import TaskSet
from innerloop.exact.objective import MetaObjective
from innerloop.exact.solutions import MetaPath, MetaSolution
from innerloop.exact.solve import IllConditionedWarning, solve, solve_path

if TYPE_CHECKING:
    from innerloop.data.dataset import TaskDataset
    from innerloop.distributions import (
        Design,
        MixedLinearRegression,
        QuadraticRegression,
        RandomFeatures,
        ResampledTasks,
        Sinusoid,
        TaskDistribution,
    )
    from innerloop.estimators import MetaRegressor
    from innerloop.estimators.storage import load_model, save_model
    from innerloop.evaluation.calibrated_model import calibrate
    from innerloop.evaluation.other_packages import compare
    from innerloop.exact.kernel import KernelObjective, KernelPath, ReluKernel
    from innerloop.plots.held_out import plot_held_out
    from innerloop.plots.simulation import plot_simulation
    from innerloop.plots.sweep import plot_sweep
    from innerloop.plots.table import plot_coverage, plot_learning_curves, plot_rate
    from innerloop.plots.theory import plot_theory
    from innerloop.report import TableStudy, advise, study
    from innerloop.simulation import estimate_loss
    from innerloop.theory import (
        RateOptimum,
        ReferenceLosses,
        chance_of_improvement,
        choose_method,
        expected_loss,
        loss_interval,
        optimal_rates,
        reference_losses,
    )

__version__ = "0.1.0"

__all__ = [
    "Design",
    "Episodes",
    "IllConditionedWarning",
    "KernelObjective",
    "KernelPath",
    "MetaObjective",
    "MetaPath",
    "MetaRegressor",
    "MetaSolution",
    "MixedLinearRegression",
    "QuadraticRegression",
    "RandomFeatures",
    "RateOptimum",
    "ReferenceLosses",
    "ReluKernel",
    "ResampledTasks",
    "Sinusoid",
    "TableStudy",
    "TaskDataset",
    "TaskDistribution",
    "TaskSet",
    "advise",
    "calibrate",
    "chance_of_improvement",
    "choose_method",
    "compare",
    "estimate_loss",
    "expected_loss",
    "load_model",
    "loss_interval",
    "optimal_rates",
    "plot_coverage",
    "plot_group_effects",
    "plot_held_out",
    "plot_learning_curves",
    "plot_rate",
    "plot_simulation",
    "plot_sweep",
    "plot_theory",
    "reference_losses",
    "save_model",
    "solve",
    "solve_path",
    "study",
]

# Names whose rooms need more than numpy and scipy are loaded on first use.
_ON_FIRST_USE = {
    "Design": "innerloop.distributions",
    "KernelObjective": "innerloop.exact.kernel",
    "KernelPath": "innerloop.exact.kernel",
    "MetaRegressor": "innerloop.estimators",
    "MixedLinearRegression": "innerloop.distributions",
    "QuadraticRegression": "innerloop.distributions",
    "RandomFeatures": "innerloop.distributions",
    "RateOptimum": "innerloop.theory",
    "ReferenceLosses": "innerloop.theory",
    "ReluKernel": "innerloop.exact.kernel",
    "ResampledTasks": "innerloop.distributions",
    "Sinusoid": "innerloop.distributions",
    "TableStudy": "innerloop.report",
    "TaskDataset": "innerloop.data.dataset",
    "TaskDistribution": "innerloop.distributions",
    "advise": "innerloop.report",
    "calibrate": "innerloop.evaluation.calibrated_model",
    "chance_of_improvement": "innerloop.theory",
    "choose_method": "innerloop.theory",
    "compare": "innerloop.evaluation.other_packages",
    "estimate_loss": "innerloop.simulation",
    "expected_loss": "innerloop.theory",
    "load_model": "innerloop.estimators.storage",
    "loss_interval": "innerloop.theory",
    "optimal_rates": "innerloop.theory",
    "plot_coverage": "innerloop.plots.table",
    "plot_group_effects": "innerloop.plots.effects",
    "plot_held_out": "innerloop.plots.held_out",
    "plot_learning_curves": "innerloop.plots.table",
    "plot_rate": "innerloop.plots.table",
    "plot_simulation": "innerloop.plots.simulation",
    "plot_sweep": "innerloop.plots.sweep",
    "plot_theory": "innerloop.plots.theory",
    "reference_losses": "innerloop.theory",
    "save_model": "innerloop.estimators.storage",
    "study": "innerloop.report",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'innerloop' has no attribute {name!r}")
    return getattr(importlib.import_module(_ON_FIRST_USE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ON_FIRST_USE])
