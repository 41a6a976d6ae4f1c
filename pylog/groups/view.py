"""What this process has seen of `__consumer_offsets`: the state of every group.

Knows how records become groups, and where to go on reading.  Must not know why anything changes.
A record that cannot be read concerns its group alone, which can be used again when the record is
replaced; the others go on.

Locks: none; its owner lets one thread in at a time.
"""

from __future__ import annotations

import logging
from typing import Final

from pylog.errors import CorruptionError, OffsetMismatchError, OffsetOutOfRangeError
from pylog.groups.facts import Key, Value
from pylog.groups.schemas import parse_key, parse_value
from pylog.groups.state import Group
from pylog.storage.partition import Partition

logger = logging.getLogger("pylog")

_MAX_KNOWN_KEYS: Final = 100_000  # parsed keys that are kept: 30 MB (guessed)


class View:
    """The groups, as of an offset of the partition."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.groups: dict[str, Group] = {}
        self.offset = 0  # everything below was taken in
        self._keys: dict[bytes, Key | None] = {}

    def refresh(self) -> None:
        """Take in what became visible since the last call.

        Raises CorruptRangeError, ClosedError, OSError, and what opening a partition raises.
        Without news: one copy of the marks.
        """
        end = self.partition.high_watermark
        # What this process placed is taken in before it is visible, so the view may be ahead.
        if end > self.offset and not self._go_on(end):
            self._begin_again()

    def _go_on(self, end: int) -> bool:
        """Read up to `end`; return whether nothing that was not seen before had been removed.

        An offset that is missing was removed by compaction, as a newer record of its key replaced
        it.  That may be a tombstone which is removed as well by now: then this view would keep for
        ever what all others forgot.
        """
        is_whole = self.offset == 0
        try:
            for record in self.partition.records(None if is_whole else self.offset, end):
                if record.offset != self.offset and not is_whole:
                    return False
                self.take(record.key or b"", record.value, record.timestamp)
                self.offset = record.offset + 1
        except OffsetOutOfRangeError:
            return False
        if self.offset < end and not is_whole:
            return False
        self.offset = end
        return True

    def _begin_again(self) -> None:
        """Replay the partition from its start."""
        self.groups, self.offset = {}, 0
        self._go_on(self.partition.high_watermark)

    def append_one(self, key: bytes, value: bytes, timestamp: int) -> bool:
        """Append a record behind the view, in one C call; return False if others did before.

        Without taking it in, and without waiting for more than that it is placed where the topic
        asks for no more.  The caller waits for durability.
        """
        try:
            self.partition.append(value, key, None, timestamp, self.offset)
        except OffsetMismatchError:
            return False
        self.offset += 1
        return True

    def take(self, key_bytes: bytes, value_bytes: bytes | None, timestamp: int) -> None:
        """Take in one record."""
        known = self._keys
        if key_bytes in known:
            key = known[key_bytes]
        else:
            if len(known) >= _MAX_KNOWN_KEYS:
                known.clear()
            key = known[key_bytes] = self._key(key_bytes)
        if key is None:
            return
        group = self.groups.get(key.group)
        if group is None:
            group = self.groups[key.group] = Group(key.group)
        value: Value | None = None
        try:
            value = None if value_bytes is None else parse_value(key, value_bytes)
        except CorruptionError as error:
            logger.error("group %r: a record cannot be read: %s", key.group, error)
            group.unreadable[key_bytes] = str(error)
            group.version += 1
            return
        if group.unreadable:
            group.unreadable.pop(key_bytes, None)
        group.fold(key, value, timestamp)
        if value is None and group.is_unknown:
            del self.groups[key.group]

    def _key(self, key_bytes: bytes) -> Key | None:
        try:
            return parse_key(key_bytes)
        except CorruptionError as error:
            # It names no group, so no group can depend on it.
            logger.error("a key of __consumer_offsets cannot be read: %s", error)
            return None
