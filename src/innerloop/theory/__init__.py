"""The expected test loss before any training, and the best pair of rates."""

from innerloop.theory.bounds import ReferenceLosses, reference_losses
from innerloop.theory.expected import MethodChoice, choose_method, expected_loss
from innerloop.theory.law import LossInterval, chance_of_improvement, loss_interval
from innerloop.theory.optimum import RateOptimum, optimal_rates
from innerloop.theory.sign import turning_noise
from innerloop.theory.wishart import wishart_trace_moment, wishart_word_moment

__all__ = [
    "LossInterval",
    "MethodChoice",
    "RateOptimum",
    "ReferenceLosses",
    "chance_of_improvement",
    "choose_method",
    "expected_loss",
    "loss_interval",
    "optimal_rates",
    "reference_losses",
    "turning_noise",
    "wishart_trace_moment",
    "wishart_word_moment",
]
