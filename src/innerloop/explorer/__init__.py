"""A local live page for theory, for a fitted table and for a sweep of a network."""

from innerloop.explorer.app import explore

__all__ = ["explore"]
