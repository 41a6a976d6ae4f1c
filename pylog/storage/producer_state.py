"""What a partition remembers of its producers, so that a retry is no duplicate.

Knows sequences, epochs and Kafka's snapshot format; bytes in, bytes out.  Must not know files,
clocks, or how batches are read.

    .snapshot      int16 version, 1
                   uint32 CRC-32C of all that follows
                   int32 count of entries, each:
                       int64 producer id, int16 epoch, int32 last sequence, int64 last offset,
                       int32 offset delta (of the last batch), int64 timestamp,
                       int32 coordinator epoch, int64 first offset of an open transaction
Source: Kafka ProducerStateManager, ProducerAppendInfo, ProducerStateEntry.

Locks: none; the caller's.
"""

from __future__ import annotations

import dataclasses
import struct
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from pylog._native import crc32c
from pylog.errors import CorruptFileError, InvalidProducerEpochError, OutOfOrderSequenceError

KEPT_BATCHES: Final = 5  # of each producer: as many as Kafka's clients have in flight
EXPIRATION_MS: Final = 86_400_000  # Kafka's producer.id.expiration.ms

_FORGET_BEYOND: Final = 1000  # producers: about a megabyte

_VERSION: Final = 1
MAX_SEQUENCE: Final = 2**31 - 1
_HEAD: Final = struct.Struct(">hI")
_COUNT: Final = struct.Struct(">i")
_ENTRY: Final = struct.Struct(">qhiqiqiq")
assert _ENTRY.size == 46, "Kafka's entry"


class ProducedBatch(NamedTuple):
    """A batch as its producer numbered it, and where it stands.

    sequence_count: as many as it has offsets.  timestamp: its greatest.
    """

    producer_id: int
    epoch: int
    first_sequence: int
    sequence_count: int
    first_offset: int
    timestamp: int
    is_control: bool = False

    @property
    def last_sequence(self) -> int:
        """The sequence of its last record; after 2**31 - 1 comes 0."""
        return (self.first_sequence + self.sequence_count - 1) & MAX_SEQUENCE

    @property
    def offsets(self) -> range:
        """The offsets of its records."""
        return range(self.first_offset, self.first_offset + self.sequence_count)


@dataclasses.dataclass(slots=True)
class ProducerEntry:
    """What is remembered of one producer: its latest batches, oldest first.

    timestamp: when it was last heard of, milliseconds since the epoch.  coordinator_epoch and
    transaction_offset are another log's, kept as they were found; -1 for none.
    """

    epoch: int
    timestamp: int
    batches: deque[ProducedBatch] = dataclasses.field(
        default_factory=lambda: deque(maxlen=KEPT_BATCHES)
    )
    coordinator_epoch: int = -1
    transaction_offset: int = -1

    def add(self, batch: ProducedBatch) -> None:
        """Take a batch that stands in the log; one of a later epoch makes all before it void."""
        if batch.epoch != self.epoch:
            self.batches.clear()
        self.epoch = batch.epoch
        self.timestamp = max(self.timestamp, batch.timestamp)
        if not batch.is_control:
            self.batches.append(batch)

    @property
    def next_sequence(self) -> int:
        """The sequence that a batch of this epoch has to begin with."""
        return (self.batches[-1].last_sequence + 1) & MAX_SEQUENCE if self.batches else 0

    def judge(self, batch: ProducedBatch) -> ProducedBatch | None:
        """Return the batch that this one repeats, None if it continues what was sent before.

        Raises InvalidProducerEpochError, OutOfOrderSequenceError.
        """
        expected = self.next_sequence if batch.epoch == self.epoch else 0
        if batch.epoch >= self.epoch and batch.first_sequence == expected:
            return None
        known = self._duplicate_of(batch)
        if known is None and batch.epoch < self.epoch:
            raise InvalidProducerEpochError(batch.producer_id, batch.epoch, self.epoch)
        if known is None:
            raise OutOfOrderSequenceError(batch.producer_id, batch.first_sequence, expected)
        return known

    def _duplicate_of(self, batch: ProducedBatch) -> ProducedBatch | None:
        """Return the batch of the same epoch and sequences, None if it is not remembered."""
        for known in self.batches:
            if (known.epoch, known.first_sequence, known.sequence_count) == (
                batch.epoch,
                batch.first_sequence,
                batch.sequence_count,
            ):
                return known
        return None


class ProducerState:
    """The producers of the log's first `end_offset` offsets, and what they sent last."""

    def __init__(self, end_offset: int, *, expiration_ms: int = EXPIRATION_MS) -> None:
        self.end_offset = end_offset
        self.entries: dict[int, ProducerEntry] = {}
        self._expiration_ms = expiration_ms
        self._forget_at = _FORGET_BEYOND  # as many entries

    def judge(self, batches: Sequence[ProducedBatch], now: int) -> list[ProducedBatch | None]:
        """Return for each batch the one it repeats, or None if it is new and may be appended.

        The batches follow each other; nothing is changed.  One may repeat another of them: that is
        returned as it was given.  A producer that is not known, or was not heard of for so long
        that it is forgotten, may begin with any sequence, as in Kafka.
        Raises InvalidProducerEpochError, OutOfOrderSequenceError.
        """
        answers: list[ProducedBatch | None] = []
        trial: dict[int, ProducerEntry] = {}
        for place, batch in enumerate(batches, start=1):
            entry = trial.get(batch.producer_id) or self._living(batch.producer_id, now)
            known = None if entry is None else entry.judge(batch)
            answers.append(known)
            if known is None and place < len(batches):
                # What follows is judged as if this one stood in the log.
                trial[batch.producer_id] = _continued(entry, batch)
        return answers

    def _living(self, producer_id: int, now: int) -> ProducerEntry | None:
        entry = self.entries.get(producer_id)
        if entry is None or now - entry.timestamp >= self._expiration_ms:
            return None
        return entry

    def add(self, batch: ProducedBatch, now: int) -> None:
        """Take a batch that stands in the log behind all that were taken before.

        now: when it was found there.  A batch may bear any timestamp, so it counts as heard of at
        that moment: to remember a producer for too long costs memory only.
        """
        batch = ProducedBatch(*batch[:5], max(batch.timestamp, now), batch.is_control)
        entry = self.entries.get(batch.producer_id)
        if entry is None:
            if len(self.entries) >= self._forget_at:
                self.forget_expired(now)
                self._forget_at = max(2 * len(self.entries), _FORGET_BEYOND)
            entry = self.entries[batch.producer_id] = ProducerEntry(batch.epoch, batch.timestamp)
        if batch.epoch >= entry.epoch:
            entry.add(batch)

    def forget_expired(self, now: int) -> None:
        """Drop the producers that were not heard of for `expiration_ms`."""
        limit = now - self._expiration_ms
        self.entries = {
            number: entry for number, entry in self.entries.items() if entry.timestamp > limit
        }

    def complete(self, older: ProducerState) -> None:
        """Take what an older state of the same log knows and this one, begun later, does not."""
        for number, entry in older.entries.items():
            mine = self.entries.get(number)
            if mine is None:
                self.entries[number] = entry
            elif mine.epoch == entry.epoch and mine.batches and entry.batches:
                if mine.batches[-1].offsets == entry.batches[-1].offsets:
                    mine.timestamp = entry.timestamp  # nothing was heard since
                _prepend(mine.batches, entry.batches)

    # ------------------------------------------------------------------ snapshots

    def encode(self) -> bytes:
        """Return Kafka's snapshot; of each producer it holds the last batch only."""
        parts = [_COUNT.pack(len(self.entries))]
        for producer_id, entry in self.entries.items():
            last = entry.batches[-1] if entry.batches else None
            parts.append(
                _ENTRY.pack(
                    producer_id,
                    entry.epoch,
                    -1 if last is None else last.last_sequence,
                    -1 if last is None else last.offsets[-1],
                    0 if last is None else last.sequence_count - 1,
                    entry.timestamp,
                    entry.coordinator_epoch,
                    entry.transaction_offset,
                )
            )
        body = b"".join(parts)
        return _HEAD.pack(_VERSION, crc32c(body)) + body


def _continued(entry: ProducerEntry | None, batch: ProducedBatch) -> ProducerEntry:
    """Return a copy of an entry as it will be with one batch more."""
    copied = ProducerEntry(batch.epoch, batch.timestamp)
    if entry is not None:
        copied = dataclasses.replace(entry, batches=entry.batches.copy())
    copied.add(batch)
    return copied


def _prepend(batches: deque[ProducedBatch], older: deque[ProducedBatch]) -> None:
    """Put older batches before those that continue them, as many as are kept."""
    for batch in reversed(older):
        first = batches[0]
        is_next = (batch.last_sequence + 1) & MAX_SEQUENCE == first.first_sequence
        if len(batches) == KEPT_BATCHES or not is_next or batch.offsets[-1] >= first.first_offset:
            return
        batches.appendleft(batch)


def parse_snapshot(
    data: bytes, end_offset: int, *, path: str, expiration_ms: int = EXPIRATION_MS
) -> ProducerState:
    """Return the state that a snapshot of the first `end_offset` offsets holds.

    Raises CorruptFileError; every length is checked before it is believed.
    """
    body = data[_HEAD.size :]
    if len(body) < _COUNT.size:
        raise CorruptFileError(path, f"{len(data)} bytes, too few for a snapshot")
    version, stored = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise CorruptFileError(path, f"version {version}, expected {_VERSION}")
    if crc32c(body) != stored:
        raise CorruptFileError(path, f"crc32c {stored:#010x} stored, {crc32c(body):#010x} computed")
    (count,) = _COUNT.unpack_from(body)
    if count < 0 or len(body) - _COUNT.size != count * _ENTRY.size:
        raise CorruptFileError(path, f"{count} entries in {len(data)} bytes")
    state = ProducerState(end_offset, expiration_ms=expiration_ms)
    for fields in _ENTRY.iter_unpack(body[_COUNT.size :]):
        producer_id, epoch, sequence, offset, delta, timestamp, coordinator, transaction = fields
        is_empty = (sequence, offset) == (-1, -1)
        if not is_empty and not (
            producer_id >= 0 and epoch >= 0 and sequence >= 0 and 0 <= delta <= offset < end_offset
        ):
            raise CorruptFileError(path, f"entry {fields} of a log that ends at {end_offset}")
        entry = ProducerEntry(
            epoch, timestamp, coordinator_epoch=coordinator, transaction_offset=transaction
        )
        if not is_empty:
            first_sequence = (sequence - delta) & MAX_SEQUENCE
            first_offset = offset - delta
            entry.batches.append(
                ProducedBatch(
                    producer_id, epoch, first_sequence, delta + 1, first_offset, timestamp
                )
            )
        state.entries[producer_id] = entry
    return state
