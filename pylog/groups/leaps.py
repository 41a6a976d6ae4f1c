"""`Leaps`: when the wall clock leapt ahead, as far as this process can tell.

Members' times are the wall clock's, as it is the only one that processes share.  When it is set, or
the machine was suspended, everybody seems to have been silent for as long as it leapt.  The
monotonic clock does not leap: where it went less far than the wall clock did, the difference is no
time that anybody could have used.

Knows numbers.  Must not know which clocks they are of, nor whose time is over.
Locks: its own, around both readings, so that no leap is seen twice.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

_TOLERANCE_MS: Final = 1000  # and a thousandth: clocks are slewed by half of that at most
_MOST: Final = 16  # leaps that are remembered: they matter for as long as a member may be silent


class Leaps:
    """The leaps that were seen between two readings.  Any thread may use it.

    clock: milliseconds since the epoch.  monotonic: seconds.
    """

    def __init__(self, clock: Callable[[], int], monotonic: Callable[[], float]) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._last: tuple[int, float] | None = None
        self._highest = 0
        # What the wall clock said before the leap at most, and how far that went.
        self._seen: deque[tuple[int, int]] = deque(maxlen=_MOST)

    def now(self) -> int:
        """Return what the wall clock says, and note whether it leapt since the last call."""
        with self._lock:
            wall, monotonic = self._clock(), self._monotonic()
            if self._last is not None:
                passed = round((monotonic - self._last[1]) * 1000)
                leapt = wall - self._last[0] - passed
                if leapt > _TOLERANCE_MS + passed // 1000:
                    # What is up to a second later was said before it, too; and before it was set
                    # back, it may have said more.
                    before = max(self._last[0] + passed, self._highest) + _TOLERANCE_MS
                    self._seen.append((before, leapt))
            self._last, self._highest = (wall, monotonic), max(wall, self._highest)
            return wall

    def since(self, wall: int) -> int:
        """Return how far the clock leapt, in milliseconds, since it said so."""
        return sum(leapt for before, leapt in tuple(self._seen) if wall <= before)
