"""A study of a table as an object, and as one self-contained page."""

from innerloop.report.study import TableStudy, advise, study

__all__ = ["TableStudy", "advise", "study"]
