"""A progress bar on standard error, for work that may take more than a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count

# Hears of work that is shown elsewhere than on a terminal: what is done, how much, and of how much.
Listener = Callable[[str, int, int], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def no_tick() -> None:
    """Show no progress."""


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a function of all progress made inside, instead of a terminal."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


@contextmanager
def progress(what: str, n_ticks: int, shown: bool = True, rows: int = 0) -> Iterator[Callable[[], None]]:
    """Yield a function that advances the bar by one; without a terminal on standard error there is no bar.

    With `rows`, their number in all ticks together, the bar says how many of them are done per second.
    """
    if (listener := _listener.get()) is not None:
        yield _counting(listener, what, n_ticks)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
    with Progress(
        *columns, TimeRemainingColumn(), console=errors, transient=True, disable=not (shown and errors.is_terminal)
    ) as bar:
        task = bar.add_task(what, total=n_ticks)

        def tick() -> None:
            bar.advance(task)
            if rows and (speed := bar.tasks[task].speed):
                bar.update(task, description=f"{what}, {speed * rows / n_ticks:,.0f} rows/s")

        yield tick


def _counting(listener: Listener, what: str, n_ticks: int) -> Callable[[], None]:
    counted = count(1)
    return lambda: listener(what, next(counted), n_ticks)
