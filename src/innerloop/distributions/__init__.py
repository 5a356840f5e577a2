"""Distributions of tasks to sample from."""

from innerloop.distributions.mixed_linear import MixedLinearRegression

__all__ = ["MixedLinearRegression"]
