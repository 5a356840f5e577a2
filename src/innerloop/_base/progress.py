"""A progress bar on standard error, for work that may take more than a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str, n_ticks: int, shown: bool = True) -> Iterator[Callable[[], None]]:
    """Yield a function that advances the bar by one; without a terminal on standard error there is no bar."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
    with Progress(
        *columns, TimeRemainingColumn(), console=errors, transient=True, disable=not (shown and errors.is_terminal)
    ) as bar:
        task = bar.add_task(what, total=n_ticks)
        yield lambda: bar.advance(task)
