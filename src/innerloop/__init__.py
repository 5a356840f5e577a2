"""Exact meta-learning with inner learning rates of any sign.

Which inner learning rate should I meta-train with, with which should a new task adapt, and do I need the inner
loop at all? `MetaRegressor` answers for a table of tasks; `MetaObjective`, `solve` and `solve_path` are the exact
solver underneath.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from innerloop.episodes import Episodes
from innerloop.objective import MetaObjective
from innerloop.solve import IllConditionedWarning, MetaPath, MetaSolution, solve, solve_path
from innerloop.tasks import TaskSet

if TYPE_CHECKING:
    from innerloop.advising import advise
    from innerloop.calibration import calibrate
    from innerloop.comparison import compare
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
    from innerloop.kernel import KernelObjective, KernelPath, ReluKernel
    from innerloop.simulation import estimate_loss
    from innerloop.storage import load_model, save_model
    from innerloop.theory import RateOptimum, choose_method, expected_loss, optimal_rates

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
    "ReluKernel",
    "ResampledTasks",
    "Sinusoid",
    "TaskDistribution",
    "TaskSet",
    "advise",
    "calibrate",
    "choose_method",
    "compare",
    "estimate_loss",
    "expected_loss",
    "load_model",
    "optimal_rates",
    "save_model",
    "solve",
    "solve_path",
]

# Names whose rooms need more than numpy and scipy are loaded on first use.
_ON_FIRST_USE = {
    "Design": "innerloop.distributions",
    "KernelObjective": "innerloop.kernel",
    "KernelPath": "innerloop.kernel",
    "MetaRegressor": "innerloop.estimators",
    "MixedLinearRegression": "innerloop.distributions",
    "QuadraticRegression": "innerloop.distributions",
    "RandomFeatures": "innerloop.distributions",
    "RateOptimum": "innerloop.theory",
    "ReluKernel": "innerloop.kernel",
    "ResampledTasks": "innerloop.distributions",
    "Sinusoid": "innerloop.distributions",
    "TaskDistribution": "innerloop.distributions",
    "advise": "innerloop.advising",
    "calibrate": "innerloop.calibration",
    "choose_method": "innerloop.theory",
    "compare": "innerloop.comparison",
    "estimate_loss": "innerloop.simulation",
    "expected_loss": "innerloop.theory",
    "load_model": "innerloop.storage",
    "optimal_rates": "innerloop.theory",
    "save_model": "innerloop.storage",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'innerloop' has no attribute {name!r}")
    return getattr(importlib.import_module(_ON_FIRST_USE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ON_FIRST_USE])
