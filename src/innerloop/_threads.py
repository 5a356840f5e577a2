"""One thread for many small matrices.

Threads of a BLAS that meet at every small call cost more than they give, and very much more where the machine is
busy with other work.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[object]:
    """Return a context in which BLAS uses one thread."""
    return _controller().limit(limits=1, user_api="blas")  # type: ignore[no-any-return]


@cache
def _controller() -> ThreadpoolController:
    # Finding the libraries takes milliseconds, so it is done once; loaded when first needed, as it is not numpy.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
