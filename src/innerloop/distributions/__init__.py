"""Distributions of tasks to sample from, and the sizes of an experiment."""

from innerloop.distributions.design import Design, Group
from innerloop.distributions.mixed_linear import MixedLinearRegression

__all__ = ["Design", "Group", "MixedLinearRegression"]
