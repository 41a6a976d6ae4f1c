"""Call a user's function where what it raises must not stop the caller.

Knows nothing of who calls it, and when.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

logger = logging.getLogger("pylog")

_Argument = TypeVar("_Argument")


class Caught:
    """A block: the Exception that it raises is given to a function, and ends there if that returns.

    What is more than an Exception, like Ctrl-C, goes on.
    """

    def __init__(self, handle: Callable[[Exception], object]) -> None:
        self._handle = handle

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._handle(error)
        return True


def call_safely(function: Callable[[_Argument], object], argument: _Argument, *, what: str) -> None:
    """Call the function; what it raises is logged as `what` of the argument, and goes no further.

    Raises only what is no Exception: KeyboardInterrupt, SystemExit.
    """

    def report(error: Exception) -> None:
        logger.error("%s of %r failed", what, argument, exc_info=error)

    with Caught(report):
        function(argument)
