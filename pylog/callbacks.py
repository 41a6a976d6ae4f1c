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


class _Reported:
    """Logs an Exception and ends it; what is more than that, like Ctrl-C, goes on."""

    def __init__(self, what: str, argument: object) -> None:
        self._what = what
        self._argument = argument

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
        logger.error("%s of %r failed", self._what, self._argument, exc_info=error)
        return True


def call_safely(function: Callable[[_Argument], object], argument: _Argument, *, what: str) -> None:
    """Call the function; what it raises is logged as `what` of the argument, and goes no further.

    Raises only what is no Exception: KeyboardInterrupt, SystemExit.
    """
    with _Reported(what, argument):
        function(argument)
