"""How much a loop gets before all else is looked at.

Knows times and counts.  Must not know what is looked at in between.
"""

from __future__ import annotations

from typing import Final

from pylog._native import RecordsIterator

# What a loop does with so many records at a time, before all else is looked at: other partitions,
# topics that were made, whoever calls wakeup().  Their number follows from how long it takes.
_PIECE_SECONDS: Final = 0.05  # guessed: nobody waits long, and a look costs 2 us
_MAX_PIECE: Final = 4096  # records: 0.2 ms of a loop that does nothing, measured


class Pace:
    """How many records a loop gets before all else is looked at: as many as it does in a while."""

    def __init__(self) -> None:
        self._count = 1
        self._began = 0.0
        self._piece: RecordsIterator | None = None
        self._start = 0

    def begin(self, now: float, piece: RecordsIterator) -> None:
        """Note what the loop gets."""
        self._began, self._piece, self._start = now, piece, piece.next_offset

    def next_count(self, now: float) -> int:
        """Return how many records it is to get next, when it is back."""
        piece, self._piece = self._piece, None
        if piece is not None:
            seconds = now - self._began
            if seconds > _PIECE_SECONDS:
                self._count = max(self._count // 2, 1)
            elif seconds < _PIECE_SECONDS / 2 and piece.next_offset - self._start >= self._count:
                self._count = min(self._count * 2, _MAX_PIECE)
        return self._count
