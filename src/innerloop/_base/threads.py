"""Threads: a limit of one BLAS thread for many small matrices, and a pool for whole fits.

Synchronising BLAS threads at every small call costs more than they save, and far more on a busy machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache, cached_property
from threading import Lock, local
from typing import TYPE_CHECKING, TypeVar, final

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

_SMALL = 400
_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


@final
class _OneThread:
    """A limit of the whole process: the first thread to enter sets it, the last to leave lifts it."""

    def __init__(self) -> None:
        self._lock, self._inside, self._limit = Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit.enter_context(self._controller.limit(limits=1, user_api="blas"))
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._take_control()
                self._limit.close()

    def _take_control(self) -> None:
        """Let this thread lift the limit, which threadpoolctl from 3.8 on else leaves to the thread that set it."""
        for library in self._controller.lib_controllers:
            if hasattr(library, "clear_controlling_thread"):
                library.clear_controlling_thread(force=True)

    @cached_property
    def _controller(self) -> ThreadpoolController:
        # Finding the libraries takes milliseconds, so it is done once; imported late to keep `import innerloop` light.
        from threadpoolctl import ThreadpoolController

        return ThreadpoolController()


_ONE_THREAD = _OneThread()


@cache
def arithmetic() -> str:
    """Return what bits of results depend on besides the code: numpy's version, and the kernels of linear algebra."""
    import numpy as np
    from threadpoolctl import threadpool_info

    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    kernels = {f"{library['internal_api']} {library.get('architecture')}" for library in libraries}
    return f"numpy {np.__version__}, {', '.join(sorted(kernels))}"


def is_small(n_features: int) -> bool:
    """Return whether matrices of so many columns take more time by their number than by their size."""
    return n_features <= _SMALL


def one_thread(n_features: int = 0) -> AbstractContextManager[None]:
    """Return a context in which BLAS uses one thread; with many features it changes nothing."""
    return _ONE_THREAD if is_small(n_features) else nullcontext()


class _Place(local):
    """Whether this thread is one of a pool."""

    is_in_pool = False

    def enter(self) -> None:
        self.is_in_pool = True


_PLACE = _Place()


def on_threads(function: Callable[[_Argument], _Result], arguments: Iterable[_Argument]) -> Iterator[_Result]:
    """Yield the results of a function in the order of its arguments, computed on a thread for each core.

    What such a thread asks for it computes itself, as all cores are busy then.
    """
    from joblib import cpu_count  # imported late to keep `import innerloop` light

    if _PLACE.is_in_pool:
        yield from map(function, arguments)
        return
    with ThreadPoolExecutor(cpu_count(), initializer=_PLACE.enter) as pool:
        yield from pool.map(function, arguments)
