"""A lane: one partition on its way into a cluster; and where a lane begins.

Knows positions on both sides.  Must not know the client library.
"""

from __future__ import annotations

import dataclasses
from typing import Final, NamedTuple

from pylog.errors import (
    DivergedTopicError,
    NotMirroredError,
    OffsetOutOfRangeError,
    OffsetsDifferError,
    UnmirrorableRecordError,
)
from pylog.interop.kafka.states import LaneKey, LaneState, Offsets
from pylog.records import Record, TopicPartition
from pylog.storage.partition import Partition

PIECE_BYTES: Final = 1 << 20  # read at once: as `Partition.records` does


class MirrorProgress(NamedTuple):
    """How far one partition is mirrored.

    topic, partition: in the log.  position: the next offset that is not acknowledged by the
    cluster;  end: the high watermark here.  target_offset: the next offset in the cluster.
    records, size_bytes: acknowledged in this run; bytes of batches as they lie on disk here.
    offsets: "identity" when they are the same on both sides, else "recorded".
    """

    topic: str
    partition: int
    position: int
    end: int
    target_offset: int
    records: int
    size_bytes: int
    offsets: Offsets


class Piece(NamedTuple):
    """Records to be sent together; next_offset: where reading goes on behind them."""

    records: list[Record]
    next_offset: int
    size_bytes: int


@dataclasses.dataclass(slots=True, eq=False)
class Lane:
    """One partition and how far it is.

    position: the next offset to read;  acknowledged: the next that the cluster has not
    acknowledged;  target_offset: the next offset there.  sent: the next offset there when all that
    was sent is; known with the same offsets only.  end: where to stop, None for never.
    is_marked: the cluster knows that something may be in flight.
    """

    partition: Partition
    target: TopicPartition
    key: LaneKey
    offsets: Offsets
    position: int
    target_offset: int
    end: int | None = None
    is_marked: bool = False
    acknowledged: int = 0
    sent: int = 0
    records: int = 0
    size_bytes: int = 0

    def __post_init__(self) -> None:
        self.acknowledged, self.sent = self.position, self.target_offset

    @property
    def limit(self) -> int:
        """Up to where there is something to send now."""
        high_watermark = self.partition.high_watermark
        return high_watermark if self.end is None else min(high_watermark, self.end)

    @property
    def state(self) -> LaneState:
        """What is written down of it now."""
        return LaneState(
            self.offsets, self.acknowledged, self.target_offset, is_clean=not self.is_marked
        )

    def state_at(self, position: int, target_offset: int) -> LaneState:
        """Return what is written down when it is there."""
        return LaneState("recorded", position, target_offset)

    @property
    def progress(self) -> MirrorProgress:
        """What its user is told."""
        return MirrorProgress(
            self.partition.topic,
            self.partition.number,
            self.acknowledged,
            self.partition.high_watermark,
            self.target_offset,
            self.records,
            self.size_bytes,
            self.offsets,
        )

    def read(self) -> Piece:
        """Return what comes next, which may be nothing but a later offset.

        Raises NotMirroredError, DivergedTopicError, and what `Partition.read` raises.
        """
        place = self.partition
        try:
            records = place.read(self.position, PIECE_BYTES, self.end)
        except OffsetOutOfRangeError as error:
            raise out_of_range(self, error) from error
        return Piece(list(records), records.next_offset, records.nbytes)

    def acknowledge(self, piece: Piece, target_offset: int) -> None:
        """Note that the cluster has a piece, which ends there at `target_offset`."""
        self.acknowledged, self.target_offset = piece.next_offset, target_offset
        self.records += len(piece.records)
        self.size_bytes += piece.size_bytes


def out_of_range(lane: Lane, error: OffsetOutOfRangeError) -> Exception:
    """Return what it means that a lane's position is not in its source."""
    place, position = lane.partition, lane.position
    if position < error.start:
        return NotMirroredError(place.topic, place.number, position, error.start)
    reason = f"the source ends at {error.end}"
    return DivergedTopicError(*lane.target, position, reason)


def split_at_gap(piece: Piece, position: int) -> tuple[Piece, Piece]:
    """Return the records that follow each other from `position` on, and those behind the first gap.

    The second is empty when there is none.  O(1) then.
    """
    records = piece.records
    if not records:
        return piece, Piece([], piece.next_offset, 0)
    if records[0].offset == position and records[-1].offset == position + len(records) - 1:
        return piece, Piece([], piece.next_offset, 0)
    count = 0
    while count < len(records) and records[count].offset == position + count:
        count += 1
    share = piece.size_bytes * count // len(records)
    head = Piece(records[:count], position + count, share)
    return head, Piece(records[count:], piece.next_offset, piece.size_bytes - share)


class Start(NamedTuple):
    """Where a lane begins; see `Lane`."""

    offsets: Offsets
    position: int
    target_offset: int


def start_of(
    wanted: str, state: LaneState | None, *, source_start: int, target: TopicPartition, end: int
) -> Start:
    """Return where a lane begins, given what is known of it.

    wanted: "auto", "identity" or "recorded".  state: what was written down, None at first.
    source_start: the log start offset.  end: of the target.
    Raises OffsetsDifferError when the same offsets are wanted and cannot be had.
    """
    if state is None:
        if wanted != "recorded" and end == source_start == 0:
            return Start("identity", 0, 0)
        if wanted == "identity":
            raise OffsetsDifferError(*target, source_start, end)
        return Start("recorded", source_start, end)
    if state.offsets == "identity":
        # Only the mirror writes there, so the end tells how far it is.
        return Start("identity", end, end)
    if wanted == "identity":
        raise OffsetsDifferError(*target, state.position, end)
    return Start("recorded", state.position, state.target)


def not_sendable(record: Record) -> UnmirrorableRecordError:
    """Return why a record with timestamp 0 cannot be sent: librdkafka takes that for "now"."""
    place = record.topic, record.partition, record.offset
    return UnmirrorableRecordError(*place, "librdkafka cannot send timestamp 0")
