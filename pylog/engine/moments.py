"""Points in time as users say them: milliseconds since the epoch, or an aware datetime.

Knows the calendar.  Must not know the time it is now, nor what is looked up.
"""

from __future__ import annotations

import datetime
import operator
from typing import Final

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND: Final = datetime.timedelta(milliseconds=1)


def milliseconds_of(when: int | datetime.datetime) -> int:
    """Return a point in time as milliseconds since the epoch.

    when: such milliseconds, which are returned, or an aware datetime: the first millisecond that is
    not before it, or 0 for a time before 1970.
    Raises TypeError, and ValueError for a datetime without a time zone.
    """
    if isinstance(when, datetime.datetime):
        if when.utcoffset() is None:
            raise ValueError(f"{when!r} has no time zone: pass when.astimezone() if it is local")
        return max(-((_EPOCH - when) // _MILLISECOND), 0)
    try:
        return operator.index(when)
    except TypeError:
        kind = type(when).__name__
        raise TypeError(f"expected milliseconds or an aware datetime, not {kind}") from None
