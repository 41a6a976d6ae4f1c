"""Lives of a log that is truncated, and gets batches of another replica, cut off anywhere.

What a crash may leave depends on when it comes: what was there before a truncation, until that is
done, and from its beginning on what it leaves.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping, Sequence

from crash_checks import Contents, History, Process, Promise, ViolationError, check_contents
from crash_explorer import Life, Profile

from pylog.config import TopicConfig
from pylog.storage import layout
from pylog.storage.manifest import parse_manifest
from pylog.storage.partition import Partition


@dataclasses.dataclass(frozen=True, slots=True)
class EitherPromise(Promise):
    """What a crash in the middle of a truncation has to leave: this, or what follows."""

    after: Promise | None = None


def check_either(found: Contents, promise: Promise) -> None:
    """Raise ViolationError unless one of the promises is kept."""
    after = promise.after if isinstance(promise, EitherPromise) else None
    try:
        check_contents(found, promise)
    except ViolationError:
        if after is None:
            raise
        check_contents(found, after)


def check_ends(_: dict[str, bytes], after: dict[str, bytes]) -> None:
    """Raise ViolationError when opening left anything of what was cut off, for Kafka's tools."""
    left = [name for name in after if name.endswith(".cleaned")]
    if left:
        raise ViolationError(f"{left} are left")
    manifest = after.get("topic-0/manifest")
    if manifest is None:
        return
    segments = parse_manifest(manifest, path="manifest").segments
    for facts in segments:
        data = after.get(f"topic-0/{layout.log_name(facts.base_offset)}", b"")
        if len(data.rstrip(b"\0")) > facts.size:
            raise ViolationError(f"{facts} has {len(data)} bytes")
    # An empty one may be the beginning of a roll.
    filled = [name.removeprefix("topic-0/") for name, data in after.items() if data.rstrip(b"\0")]
    behind = [base for base in map(layout.parse_log_name, filled) if base is not None]
    if max(behind, default=0) > segments[-1].base_offset:
        raise ViolationError(f"segment {max(behind)} is left")


@dataclasses.dataclass(slots=True)
class Truncation:
    """What was there before it, and in which operations of the trace it happened."""

    begin: int
    end: int
    values: Contents
    end_offset: int


class TruncatedHistory(History):
    """A history of a log that may lose its end on purpose."""

    def __init__(self, before: Promise, *, appended_end: int) -> None:
        super().__init__(before, appended_end=appended_end)
        self.truncations: list[Truncation] = []

    def truncated(self, truncation: Truncation) -> None:
        self.truncations.append(truncation)
        self.values = truncation.values[: truncation.end_offset]

    def at(self, position: int, *, is_kill: bool) -> Promise:
        if self.opened_at is None or self.opened_at > position:
            return self.before
        promise = super().at(position, is_kill=is_kill)
        for one in self.truncations:
            if position < one.begin:
                return dataclasses.replace(promise, allowed=one.values)
            if position < one.end:
                kept = one.values[: one.end_offset]
                end = one.end_offset
                after = Promise(promise.start, max(promise.max_start, end), end, kept)
                fields = (promise.start, promise.max_start, promise.end, one.values)
                return EitherPromise(*fields, after)
        return promise


class TruncatedLife(Life):
    """Records of a leader and of others, and truncation among the other steps."""

    STEPS: Mapping[str, int] = {
        "append": 8,
        "many": 3,
        "replica": 6,
        "truncate": 4,
        "epoch": 2,
        "flush": 1,
        "delete": 1,
        "reopen": 1,
    }
    history: TruncatedHistory
    make_history = TruncatedHistory
    check = staticmethod(check_either)
    check_files = staticmethod(check_ends)

    def step(self, kind: str, partition: Partition, process: Process) -> None:
        """Do one thing of STEPS to a partition of a process."""
        history, rng = self.history, self._rng
        if kind == "replica":
            self._append_replica(partition)
        elif kind == "epoch":
            partition.begin_epoch(partition.leader_epochs.latest_epoch + 1)
        elif kind == "truncate":
            start, end = partition.log_start_offset, partition.log_end_offset
            asked = rng.choice((start, rng.randint(start, end), end))
            begin = self.files.note()
            values = history.values.copy()
            left = partition.truncate(asked, force=True)
            history.asked_start = max(history.asked_start, partition.log_start_offset)
            history.truncated(Truncation(begin, self.files.note(), values, left))
        else:
            super().step(kind, partition, process)

    def _append_replica(self, partition: Partition) -> None:
        rng = self._rng
        count = rng.randint(1, 5)
        values = [
            self._value(rng.randint(*self.profile.value_bytes), ahead=n) for n in range(count)
        ]
        self.history.values.extend(values)
        end_offset = partition.log_end_offset
        for value in values:
            (chunk,) = partition.encode_chunks([value], None, None, None).chunks
            epoch = max(partition.leader_epochs.latest_epoch, 0)
            struct.pack_into(">q", chunk.data, 0, end_offset)
            struct.pack_into(">i", chunk.data, 12, epoch + rng.choice((0, 0, 0, 1)))
            _, end_offset = partition.append_replica(chunk.data)


def _profile(durability: str, segment_bytes: int, many: tuple[int, int]) -> Profile:
    config = TopicConfig(
        durability=durability,
        segment_bytes=segment_bytes,
        segment_index_bytes=96,
        index_interval_bytes=256,
        max_message_bytes=segment_bytes // 2,
        file_delete_delay_ms=0 if durability == "fsync" else 60_000,
    )
    return Profile(config, (0, 200), many, 20, life=TruncatedLife)


PROFILES: Sequence[Profile] = (
    _profile("fsync", 2048, (1, 3000)),
    _profile("os", 2048, (1, 900)),
    _profile("fsync", 8192, (1, 3000)),
    _profile("interval", 4096, (1, 900)),
)
