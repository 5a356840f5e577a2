"""The expected test loss before any training, and the best pair of rates."""

from innerloop.theory.bounds import ReferenceLosses, reference_losses
from innerloop.theory.expected import MethodChoice, choose_method, expected_loss
from innerloop.theory.optimum import RateOptimum, optimal_rates
from innerloop.theory.wishart import wishart_trace_moment, wishart_word_moment

__all__ = [
    "MethodChoice",
    "RateOptimum",
    "ReferenceLosses",
    "choose_method",
    "expected_loss",
    "optimal_rates",
    "reference_losses",
    "wishart_trace_moment",
    "wishart_word_moment",
]
