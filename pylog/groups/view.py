"""What this process has seen of `__consumer_offsets`: the state of every group.

Knows how records become groups, and where to go on reading.  Must not know why anything changes.
A record that cannot be read concerns its group alone, which can be used again when the record is
replaced; the others go on.

Locks: none; its owner lets one thread in at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from pylog.errors import (
    CorruptionError,
    OffsetMismatchError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
)
from pylog.groups.facts import Key, Value
from pylog.groups.schemas import parse_key, parse_value
from pylog.groups.state import Group
from pylog.storage.encoding import Chunk, is_one_batch
from pylog.storage.partition import Partition

logger = logging.getLogger("pylog")

EncodedRecord: TypeAlias = tuple[bytes, bytes | None]

_LIMIT_NAME: Final = "max_message_bytes of __consumer_offsets"
_MAX_KNOWN_KEYS: Final = 100_000  # parsed keys that are kept: 30 MB (guessed)


class View:
    """The groups, as of an offset of the partition."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.groups: dict[str, Group] = {}
        self.offset = 0  # everything below was taken in
        self._keys: dict[bytes, Key | None] = {}
        self._truncations = 0  # as of which of them it was taken in

    def refresh(self) -> None:
        """Take in what was appended since the last call, by anybody, durable or not.

        What is decided from it is appended behind it, so that after a power cut nothing is left
        that was decided from what is lost.
        Raises CorruptRangeError, ClosedError, OSError, and what opening a partition raises.
        Without news: one copy of the marks.
        """
        truncations = self.partition.truncations
        if truncations != self._truncations:
            # Another leader did not have all of what was taken in, which is gone.
            self._truncations = truncations
            self.groups, self.offset = {}, 0
        end = self.partition.log_end_offset
        if end != self.offset and not self._go_on(end):
            # What was not seen was removed, and may have been a tombstone: begin again.
            self.groups, self.offset = {}, 0
            self._go_on(self.partition.log_end_offset)

    def _go_on(self, end: int) -> bool:
        """Read up to `end`; return whether nothing that was not seen before had been removed.

        An offset that is missing was removed by compaction, as a newer record of its key replaced
        it.  That may be a tombstone which is removed as well by now: then this view would keep for
        ever what all others forgot.
        """
        is_whole = self.offset == 0
        if is_whole:
            self.offset = self.partition.log_start_offset
        while self.offset < end:
            try:
                records = self.partition.read_placed(self.offset)
            except OffsetOutOfRangeError:
                return False
            for record in records:
                if record.offset != self.offset and not is_whole:
                    return False
                self.take(record.key or b"", record.value, record.timestamp)
                self.offset = record.offset + 1
            if records.next_offset != self.offset and not is_whole:
                return False
            self.offset = records.next_offset
        return True

    def append_one(self, key: bytes, value: bytes, timestamp: int) -> bool:
        """Append a record behind the view, in one C call; return False if others did before.

        Where the topic asks for it the call waits for a sync.  The caller takes the record in, and
        then moves `offset` on: after an interrupt before that it is read again.
        """
        try:
            self.partition.append(value, key, None, timestamp, self.offset)
        except OffsetMismatchError:
            return False
        return True

    def append(self, records: Sequence[EncodedRecord], timestamp: int) -> tuple[int, int] | None:
        """Append records behind the view and take them in; return None if others did before.

        Returns (first, end offset); durability is not waited for.  Raises RecordTooLargeError, with
        nothing appended, when they need more than one batch.
        """
        try:
            placed = self.partition.place(self._chunk(records, timestamp), self.offset)
        except OffsetMismatchError:
            return None
        self._take_own(records, timestamp, placed[1])
        return placed

    def append_decided(
        self, decide: Callable[[View], Sequence[EncodedRecord]], timestamp: int
    ) -> tuple[Sequence[EncodedRecord], tuple[int, int] | None]:
        """Append what is decided from the view, none for nothing, while nobody else appends.

        Returns what was decided, and where it is; durability is not waited for.
        """
        decided: Sequence[EncodedRecord] = ()

        def chunk(end: int) -> Chunk | None:
            nonlocal decided
            self.refresh()
            assert self.offset == end
            decided = decide(self)
            return self._chunk(decided, timestamp) if decided else None

        placed = self.partition.place_decided(chunk)
        if placed is not None:
            self._take_own(decided, timestamp, placed[1])
        return decided, placed

    def _chunk(self, records: Sequence[EncodedRecord], timestamp: int) -> Chunk:
        keys, values = [key for key, _ in records], [value for _, value in records]
        chunks = self.partition.encode_chunks(values, keys, None, timestamp).chunks
        if len(chunks) > 1 or not is_one_batch(chunks[0]):
            # All or nothing: of several batches a power cut could leave the first ones.
            size = sum(len(chunk.data) for chunk in chunks)
            config = self.partition.config
            raise RecordTooLargeError(size, config.max_message_bytes, _LIMIT_NAME)
        return chunks[0]

    def _take_own(self, records: Sequence[EncodedRecord], timestamp: int, end: int) -> None:
        for key, value in records:
            self.take(key, value, timestamp)
        # Last: after an interrupt they are read again, which changes nothing.
        self.offset = end

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
