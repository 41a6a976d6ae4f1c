"""What a user gives, refused where it is of a kind that nothing can be done with.

Knows Python's types.  Must not know what an argument means.
"""

from __future__ import annotations

import operator
import threading
from typing import Final, SupportsIndex

# Half of what a lock takes (292 years), so that a deadline less the time of now is never more.
_LONGEST_SECONDS: Final = threading.TIMEOUT_MAX / 2


def whole_number(name: str, value: SupportsIndex) -> int:
    """Return an argument as an int, with the same error as a C call gives.

    Numbers of numpy are whole numbers, too.  Raises TypeError.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}") from None


def seconds(timeout: float | None) -> float | None:
    """Return a time-out that every kind of wait takes: a number of seconds, or None for ever.

    Infinity, and whatever else nobody lives to see, becomes more than a century.  Raises TypeError,
    and ValueError for NaN, for which a wait would never end nor sleep.
    """
    if timeout is None:
        return None
    try:
        bounded = float(min(timeout, _LONGEST_SECONDS))
    except TypeError:
        kind = type(timeout).__name__
        raise TypeError(f"timeout must be seconds or None, not {kind}") from None
    if bounded != bounded:
        raise ValueError("timeout is not a number")
    return bounded


def check_callable(name: str, function: object) -> None:
    """Raise TypeError for what is given as a function and is none; None is fine: none was given."""
    if function is not None and not callable(function):
        raise TypeError(f"{name} must be callable, not {type(function).__name__}")
