"""How a partition is written while this process has it open: room, rolls, other manifests.

Knows in which order the writable end, the segments and the durable facts change for a write.  Must
not know how the partition is opened and ended, nor readers' questions.

Locks: the page lock, taken here by what does not end in `_locked`; the partition's own lock is held
by every caller.
"""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Callable, Iterator, Sequence

from pylog import _native
from pylog._native import Counters, Marks, SharedPage
from pylog.config import TopicConfig
from pylog.errors import (
    NotLeaderError,
    PartitionFailedError,
    PartitionFullError,
    UnknownTopicOrPartitionError,
)
from pylog.storage import lifecycle
from pylog.storage.environment import Environment, KnownSettings
from pylog.storage.epoch_checkpoint import advance_epochs, load_epochs, save_epochs
from pylog.storage.epochs import LeaderEpochs
from pylog.storage.files import Directory
from pylog.storage.known_segments import KnownSegments
from pylog.storage.manifest import Manifest
from pylog.storage.role import RoleKind
from pylog.storage.segment import Segment
from pylog.storage.segment_files import sync_indexes
from pylog.storage.segments import SegmentSet
from pylog.storage.tail import WritableTail, refusal_of
from pylog.storage.tail_rules import should_roll
from pylog.storage.truncation import Cut, finish_truncation_locked, truncate_locked


class PartitionWriter:
    """The parts of an open partition that a write changes."""

    page: SharedPage
    tail: WritableTail

    def __init__(
        self,
        directory: Directory,
        *,
        topic: str,
        number: int,
        topic_id: uuid.UUID,
        settings: KnownSettings,
        counters: Counters,
        environment: Environment,
        on_unsynced_roll: Callable[[], None],
        on_lost_records: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._on_unsynced_roll = on_unsynced_roll
        self._on_lost_records = on_lost_records
        self._topic = topic
        self._number = number
        self._topic_id = topic_id
        self._settings = settings
        self.settings_seen = settings.seen  # the count of the settings that are followed
        self._counters = counters
        self._environment = environment
        self._segments = KnownSegments(
            directory,
            descriptors=environment.descriptors,
            config=lambda: self._config,
            marks=lambda: self.page.marks(),
            deleted=lambda: UnknownTopicOrPartitionError(topic, number),
        )
        self._rolled: list[int] = []  # base offsets of segments whose indexes are not synced

    @property
    def _config(self) -> TopicConfig:
        return self._settings.config

    @property
    def _name(self) -> str:
        return f"{self._topic}-{self._number}"

    @property
    def _is_fsync(self) -> bool:
        return self._settings.config.durability == "fsync"

    # ------------------------------------------------------------------ segments

    def known_segments(self) -> SegmentSet:
        """Return the newest snapshot that this process has; without looking for a newer one."""
        return self._segments.current

    def segments(self, marks: Marks) -> SegmentSet:
        """Return a snapshot of the segments that is at least as new as `marks`.

        Reads the manifest when another process changed it; otherwise no system call.
        """
        return self._segments.as_of(marks)

    # ------------------------------------------------------------------ writing

    def write(
        self, data: bytearray, count: int, timestamp: int, expected_offset: int, *, is_large: bool
    ) -> tuple[int, int] | int:
        """Make room for `data`, and if it is large, place it; returns (first, end) or a status.

        Raises NotAppendedError and its kinds: certainly nothing was appended.
        """
        with self.page:
            result = self.write_locked(data, count, timestamp, expected_offset, is_large=is_large)
        self.after_write()
        return result

    def after_write(self) -> None:
        """Do what is left to do after `write_locked`."""
        if self._rolled and self._is_fsync:
            self._sync_indexes()
        if not self._is_fsync:
            self.tell_readers()

    def tell_readers(self) -> None:
        """Let who waits for any partition look whether there is more to see in this one."""
        if self._environment.log_events is not None:
            self._environment.log_events.notify()

    def check_writable(self, marks: Marks) -> None:
        """Raise UnknownTopicOrPartitionError or PartitionFailedError if nothing can be changed."""
        if marks.flags & lifecycle.IS_DELETED:
            raise UnknownTopicOrPartitionError(self._topic, self._number)
        if marks.state == _native.FAILED:
            raise PartitionFailedError(f"{self._directory.path}: a write to disk failed before")

    def write_locked(
        self, data: bytearray, count: int, timestamp: int, expected_offset: int, *, is_large: bool
    ) -> tuple[int, int] | int:
        """Write as `write` does, before `after_write`; an error leaves the state it means."""
        if self._settings.role.kind is RoleKind.FOLLOWER:
            raise NotLeaderError(f"{self._directory.path}: this log follows a leader")
        with self._noting_state_locked():
            if is_large:
                # Mostly there is room: the C core looks for it with less ado.
                result = self.tail.write_locked(data, expected_offset)
                if result != _native.NO_ROOM and result != _native.NOT_OPEN:
                    return result
            self._make_room_locked(len(data), count, timestamp)
            return self.tail.write_locked(data, expected_offset) if is_large else _native.NO_ROOM

    def make_ready(self) -> None:
        """Do what the flags ask for before the first write; raises what `write` raises."""
        with self.page, self._noting_state_locked():
            self._begin_change_locked()

    @contextlib.contextmanager
    def changing(self) -> Iterator[tuple[Marks, SegmentSet]]:
        """Hold the page lock with nothing left to do before a write; yields marks and segments.

        Raises what `write` raises, and notes the state that errors lead to.
        """
        with self.page, self._noting_state_locked():
            yield self._begin_change_locked()

    def _begin_change_locked(self) -> tuple[Marks, SegmentSet]:
        marks = self.page.marks()
        self.check_writable(marks)
        return self.ready_locked(marks)

    @contextlib.contextmanager
    def _noting_state_locked(self) -> Iterator[None]:
        """Raise what an error means for a write, and note the state that it leads to."""
        try:
            yield
        except PartitionFullError:
            self.page.publish(state=_native.FULL)
            raise
        except OSError as error:
            refusal, state = refusal_of(error, self._directory.path)
            if state is not None:
                self.page.publish(state=state)
            raise refusal from error

    def _make_room_locked(self, size: int, count: int, timestamp: int) -> None:
        marks = self.page.marks()
        self.check_writable(marks)
        is_full = marks.state == _native.FULL
        marks, segments = self._writable_locked(marks)
        if should_roll(self._config, self._name, marks, size, count, timestamp):
            marks = self._roll_locked(segments)
        self.tail.make_room_locked(marks, size)
        if is_full:
            self.page.publish(state=_native.OPEN)

    def _writable_locked(self, marks: Marks) -> tuple[Marks, SegmentSet]:
        """Be ready to write to the active segment, or to seal it."""
        marks, segments = self.ready_locked(marks)
        role = self._settings.role
        if role.kind is RoleKind.LEADER and marks.leader_epoch < role.epoch:
            self.begin_epoch_locked(role.epoch)
        if self.tail.serial != marks.segment_serial:
            self._attach_tail_locked(marks, segments.segments[-1])
        if self.page.intent != (0, 0):
            self.tail.clean_intent_locked()
        return marks, segments

    def note_epochs_locked(self, found: Sequence[tuple[int, int]], *, is_empty: bool) -> None:
        """Write down the epochs and first offsets of batches before they are placed.

        is_empty: nothing is there, so that nothing that is known counts.  Raises OSError.
        """
        known = load_epochs(self._directory)
        epochs = LeaderEpochs() if is_empty else known
        for epoch, offset in found:
            epochs = epochs.assign(epoch, offset)
        if epochs != known:
            save_epochs(self._directory, epochs)

    def end_epochs_locked(self, end_offset: int) -> None:
        """Forget epochs that begin at the log's end or behind it.  Raises OSError."""
        known = load_epochs(self._directory)
        epochs = known.truncate_from_end(end_offset)
        if epochs != known:
            save_epochs(self._directory, epochs)
            self.page.publish(leader_epoch=max(epochs.latest_epoch, 0))

    def begin_epoch_locked(self, epoch: int) -> None:
        """Let batches carry a later leader epoch from here on; it is on disk before the first does.

        After `ready_locked`.  Raises OSError, with the epoch before.
        """
        end_offset = self.page.marks().log_end_offset
        epochs = load_epochs(self._directory)
        save_epochs(self._directory, epochs.assign(epoch, end_offset))
        self.page.publish(leader_epoch=epoch)

    def replicate_locked(
        self, data: bytearray, *, span: int, timestamp: int, has_gaps: bool
    ) -> None:
        """Place batches that have offsets and epochs, in one piece, within `changing`.

        span: offsets from the log end to theirs.  timestamp: the greatest.  has_gaps: there are
        offsets before them or between them that no batch has.  Raises NotAppendedError, OSError.
        """
        while True:
            if has_gaps:
                self._allow_gaps_locked()
            result = self.tail.write_locked(data, -1, keeps_offsets=True)
            if isinstance(result, tuple):
                return
            self._make_room_locked(len(data), span, timestamp)

    def _allow_gaps_locked(self) -> None:
        """Let who reads the active segment not miss what was compacted before it came here."""
        segments = self.segments(self.page.marks())
        assert segments.manifest is not None, "it is ready"
        *sealed, active = segments.manifest.segments
        if not active.is_compacted:
            active = dataclasses.replace(active, is_compacted=True)
            manifest = dataclasses.replace(segments.manifest, segments=(*sealed, active))
            self.commit_locked(manifest)

    def truncate_locked(self, segments: SegmentSet, cut: Cut, *, log_start_offset: int) -> None:
        """End the log as planned, within `changing`.  Raises what truncation.py's function does."""
        self.tail.detach()
        manifest = truncate_locked(
            self._directory, self.page, segments, cut, log_start_offset=log_start_offset
        )
        self._segments.take(manifest)
        self.tell_readers()

    def roll_locked(self, marks: Marks) -> None:
        """Seal the active segment, which is not empty, and open the next one.  Raises OSError."""
        _, segments = self._writable_locked(marks)
        self._roll_locked(segments)

    def ready_locked(self, marks: Marks) -> tuple[Marks, SegmentSet]:
        """Do what the flags ask for before the first write, and what was left unfinished."""
        if marks.flags:
            self._begin_locked(marks)
            marks = self.page.marks()
        return marks, self.segments(marks)

    def _begin_locked(self, marks: Marks) -> None:
        """Do what the flags ask for before the first write."""
        directory, page, now = self._directory, self.page, self._environment.clock()
        if marks.flags & lifecycle.IS_TRUNCATING:
            self._segments.take(finish_truncation_locked(directory, page))
            marks = page.marks()
            if not marks.flags:
                return
        if marks.flags & lifecycle.IS_CHANGING:
            self._segments.take(lifecycle.finish_change_locked(directory, page))
            marks = page.marks()
            if not marks.flags:
                return
        if marks.flags & lifecycle.IS_ROLLING:
            rolled = lifecycle.finish_roll_locked(directory, page)
            self._segments.take(rolled)
            return
        if marks.flags & lifecycle.NEEDS_REPAIR:
            interval = self._config.index_interval_bytes
            manifest = lifecycle.repair_locked(
                directory, page, index_interval_bytes=interval, now=now
            )
            marks = page.marks()
        else:
            manifest = self.segments(marks).manifest
        if manifest is None:
            manifest = lifecycle.begin_new_locked(directory, page, topic_id=self._topic_id, now=now)
        else:
            manifest = lifecycle.begin_again_locked(directory, page, manifest)
        self._segments.take(manifest)

    def _attach_tail_locked(self, marks: Marks, active: Segment) -> None:
        self.tail.detach()
        active.holder.is_pinned = True
        self.tail.attach_locked(marks, active.file())

    def _sync_indexes(self) -> None:
        """Sync the indexes that rolls sealed, where nobody waits for the page lock.

        With "fsync" whoever rolled does it after the append, else the background with the data.
        """
        rolled, self._rolled = self._rolled, []
        for base_offset in rolled:
            sync_indexes(self._directory, base_offset)

    def _roll_locked(self, segments: SegmentSet) -> Marks:
        """Roll, and attach the writable end to the new segment; returns the marks after it."""
        assert segments.manifest is not None
        old = segments.segments[-1]
        # With "fsync" these are more than the active one if another durability left them unsynced.
        first = segments.floor(self.page.marks().durable_offset)
        unsynced = segments.segments[first:] if self._is_fsync else ()
        manifest = lifecycle.roll_locked(
            self._directory, self.page, segments.manifest, unsynced=unsynced
        )
        self._segments.take(manifest)
        self._rolled.append(old.base_offset)
        for segment in unsynced:
            segment.holder.is_pinned = False
        if not self._is_fsync:
            self._on_unsynced_roll()
        marks = self.page.marks()
        self._attach_tail_locked(marks, self._segments.current.segments[-1])
        return marks

    def advance_start_locked(self, manifest: Manifest, log_start_offset: int) -> list[int]:
        """Forget the records below an offset; return base offsets of segments that go with them.

        manifest: the current one, or with newer facts of its segments.
        Raises what lifecycle's function raises.
        """
        bases = [facts.base_offset for facts in manifest.segments]
        active = self._segments.current.segments[-1]
        manifest = lifecycle.advance_start_locked(
            self._directory, self.page, manifest, active, log_start_offset
        )
        self._segments.take(manifest)
        advance_epochs(self._directory, manifest.log_start_offset)
        return [base for base in bases if base < manifest.segments[0].base_offset]

    def commit_locked(self, manifest: Manifest) -> None:
        """Replace the manifest by one with other sealed segments, or other facts beside them.

        manifest: made of what `ready_locked` returned.  Raises what lifecycle.commit_locked raises:
        it may have come to pass nevertheless.
        """
        manifest = dataclasses.replace(manifest, generation=manifest.generation + 1)
        lifecycle.commit_locked(self._directory, self.page, manifest)
        self._segments.take(manifest)
