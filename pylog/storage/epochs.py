"""Leader epochs of a partition: which epoch began at which offset.

An immutable value, so readers in any thread share it, and a change is one assignment.  A follower
that rejoins asks where its last epoch ended and cuts what lies beyond (KIP-101, KIP-279); cutting
at the high watermark instead loses acknowledged records.  Must not know files; the text form of
the entries is in layout.py.  Source: Kafka LeaderEpochFileCache.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Final

# What a batch carries that no leader wrote; Kafka's, here only because it comes from batches.
NO_EPOCH: Final = -1


def _epoch_of(entry: tuple[int, int]) -> int:
    return entry[0]


def _start_of(entry: tuple[int, int]) -> int:
    return entry[1]


@dataclasses.dataclass(frozen=True, slots=True)
class LeaderEpochs:
    """Entries (epoch, start offset): epochs and start offsets both strictly rise.

    Every operation is O(log n) to find and O(n) to build the new value; n is the number of leader
    changes that the log still holds, most often one.
    """

    entries: tuple[tuple[int, int], ...] = ()

    def check(self) -> None:
        """Assert every invariant."""
        pairs = zip(self.entries, self.entries[1:], strict=False)
        assert all(epoch >= 0 and start >= 0 for epoch, start in self.entries), self.entries
        assert all(one[0] < two[0] and one[1] < two[1] for one, two in pairs), self.entries

    @property
    def latest_epoch(self) -> int:
        """Return the epoch that new batches carry: NO_EPOCH (-1) while none was assigned."""
        return self.entries[-1][0] if self.entries else NO_EPOCH

    def epoch_for_offset(self, offset: int) -> int | None:
        """Return the epoch in which `offset` was or will be written; None below the first start."""
        count = bisect_right(self.entries, offset, key=_start_of)
        return self.entries[count - 1][0] if count else None

    def end_offset_for(self, epoch: int, log_end_offset: int) -> tuple[int, int] | None:
        """Return the greatest epoch <= `epoch` that is known, and where it ended (exclusive).

        The latest epoch ends at `log_end_offset`.  An epoch older than all entries gives itself and
        the first start, so that the asker cuts everything from there.  None, where Kafka answers
        (-1, -1), when `epoch` is later than the latest: the asker knows more than this log.
        """
        if epoch < 0 or epoch > self.latest_epoch:
            return None
        if epoch == self.latest_epoch:
            return epoch, log_end_offset
        count = bisect_right(self.entries, epoch, key=_epoch_of)
        end = self.entries[count][1]
        return (self.entries[count - 1][0] if count else epoch), end

    def assign(self, epoch: int, start_offset: int) -> LeaderEpochs:
        """Return the value after a batch or leader of `epoch` stood at `start_offset`.

        Itself when that says nothing new.  Otherwise entries that contradict it give way: those of
        a later or the same epoch, and those that start at or beyond it.
        """
        assert epoch >= 0, epoch
        assert start_offset >= 0, start_offset
        if epoch == self.latest_epoch and start_offset >= self.entries[-1][1]:
            return self
        kept = min(
            bisect_left(self.entries, epoch, key=_epoch_of),
            bisect_left(self.entries, start_offset, key=_start_of),
        )
        return LeaderEpochs((*self.entries[:kept], (epoch, start_offset)))

    def truncate_from_end(self, end_offset: int) -> LeaderEpochs:
        """Return the value after the log was cut to end at `end_offset`."""
        kept = bisect_left(self.entries, end_offset, key=_start_of)
        return self if kept == len(self.entries) else LeaderEpochs(self.entries[:kept])

    def truncate_from_start(self, start_offset: int) -> LeaderEpochs:
        """Return the value after the log was cut to begin at `start_offset`.

        The epoch in which `start_offset` lies begins there now.
        """
        removed = bisect_right(self.entries, start_offset, key=_start_of)
        if not removed or (removed == 1 and self.entries[0][1] == start_offset):
            return self
        first = (self.entries[removed - 1][0], start_offset)
        return LeaderEpochs((first, *self.entries[removed:]))

    def merged(self, found: Iterable[tuple[int, int]], log_end_offset: int) -> LeaderEpochs:
        """Return the value that agrees with batches that recovery read.

        found: (epoch, first base offset) at each change, in log order, as the C scanner tells them;
        a negative epoch, as of a batch that no leader stamped, says nothing.
        Entries past `log_end_offset` go first: the file may be newer than the log that survived.
        One that begins there stays, as its epoch was begun and may have been told of.  An epoch
        known to begin earlier keeps its start: a scan may begin in its middle.
        """
        merged = self.truncate_from_end(log_end_offset + 1)
        for epoch, offset in found:
            if epoch >= 0 and merged.epoch_for_offset(offset) != epoch:
                merged = merged.assign(epoch, offset)
        return merged
