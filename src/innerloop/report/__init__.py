"""One self-contained page about a fitted table: the verdict first, then what it rests on."""

from innerloop.report.page import N_TICKS, report_page

__all__ = ["N_TICKS", "report_page"]
