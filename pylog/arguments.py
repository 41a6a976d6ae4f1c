"""What a user gives, refused where it is of a kind that nothing can be done with.

Knows Python's types.  Must not know what an argument means.
"""

from __future__ import annotations

import operator
from typing import SupportsIndex


def whole_number(name: str, value: SupportsIndex) -> int:
    """Return an argument as an int, with the same error as a C call gives.

    Numbers of numpy are whole numbers, too.  Raises TypeError.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}") from None


def check_callable(name: str, function: object) -> None:
    """Raise TypeError for what is given as a function and is none; None is fine: none was given."""
    if function is not None and not callable(function):
        raise TypeError(f"{name} must be callable, not {type(function).__name__}")
