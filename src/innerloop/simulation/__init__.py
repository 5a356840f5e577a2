"""Monte Carlo: the expected test loss of any distribution and design, measured."""

from innerloop.simulation.run import estimate_loss

__all__ = ["estimate_loss"]
