"""Distributions of tasks, and the sizes of an experiment."""

from innerloop.distributions.base import TaskDistribution
from innerloop.distributions.design import Design, Group
from innerloop.distributions.features import RandomFeatures
from innerloop.distributions.mixed_linear import MixedLinearRegression
from innerloop.distributions.nonlinear import QuadraticRegression, Sinusoid
from innerloop.distributions.resampled import ResampledTasks

__all__ = [
    "Design",
    "Group",
    "MixedLinearRegression",
    "QuadraticRegression",
    "RandomFeatures",
    "ResampledTasks",
    "Sinusoid",
    "TaskDistribution",
]
