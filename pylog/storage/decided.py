"""A partition that is appended to by who decides from what it holds.

Knows how all others are kept out for that long.  Must not know what is decided.

Locks: the partition's `_lock`, and within it the page lock.
"""

from __future__ import annotations

from collections.abc import Callable

from pylog.storage.encoding import Chunk
from pylog.storage.replicated import ReplicatedPartition


class DecidedPartition(ReplicatedPartition):
    """Where nobody can append between a decision and its append."""

    def place_decided(self, decide: Callable[[int], Chunk | None]) -> tuple[int, int] | None:
        """Append what `decide` returns, all or nothing, while nobody else can append.

        For who read what is there, over and over, and was never fast enough for `place` with an
        expected offset.  decide: called with the log end offset, perhaps several times; may
        `read_placed`; all processes wait for it.  None: append nothing.
        Returns and raises what `place` does, and what `decide` raises, with nothing appended.
        """
        while True:
            with self._lock:
                attachment = self._ready_attachment()
                with attachment.page:
                    end_offset = attachment.page.marks().log_end_offset
                    chunk = decide(end_offset)
                    if chunk is None:
                        return None
                    placed = attachment.write_locked(*chunk, end_offset, is_large=True)
            if isinstance(placed, tuple):
                attachment.after_write()
                if self._observer is not None:
                    self._observer.placed(*placed, len(chunk.data), self._observer.now())
                return placed
            # Settings were changed since they were looked at.
