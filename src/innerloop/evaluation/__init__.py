"""How well a table's tasks can be predicted, unseen, against plain baselines, and what follows in words."""

from innerloop._base.standard_errors import ratio_errors
from innerloop.evaluation._nested import evaluate, evaluate_on, n_ticks
from innerloop.evaluation._verdict import verdict
from innerloop.evaluation.methods import (
    GIVEN,
    GIVEN_ADAPT_LR,
    GIVEN_INNER_LR,
    GRADIENT,
    NO_INNER_LOOP,
    PER_FEATURE,
    PER_TASK,
    POOLED,
    RIDGE,
    TASK_MEAN,
    TIED,
    Curve,
    Evaluation,
    Method,
)

__all__ = [
    "GIVEN",
    "GIVEN_ADAPT_LR",
    "GIVEN_INNER_LR",
    "GRADIENT",
    "NO_INNER_LOOP",
    "PER_FEATURE",
    "PER_TASK",
    "POOLED",
    "RIDGE",
    "TASK_MEAN",
    "TIED",
    "Curve",
    "Evaluation",
    "Method",
    "evaluate",
    "evaluate_on",
    "n_ticks",
    "ratio_errors",
    "verdict",
]
