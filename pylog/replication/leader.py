"""`Leader`: a log's replication while it leads, in the one process that runs it.

One thread watches the log: it sleeps on the log's events, and looks which partitions have grown,
which topics came and went, and whether this log still leads.  Each follower has two more threads
(follower_link.py).  What all of them learn goes into the rules (leading.py), and what comes out of
those is done here: who is in sync is written down, high watermarks move.

Knows partitions, the clock and the rules' events.  Must not know how a follower is talked to.

Locks: `lock`, around the rules and what is known of partitions.  Within it files are written only
when somebody comes in sync or falls out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from pylog import _native
from pylog._native import Events
from pylog.errors import ClosedError, FencedLeaderEpochError, PylogError
from pylog.replication.config import ReplicationConfig
from pylog.replication.facts import InSync, PartitionId
from pylog.replication.leading import LeaderState
from pylog.replication.replicated_log import METADATA, ReplicatedLog
from pylog.replication.standing import ReplicaState
from pylog.storage import layout
from pylog.storage.partition import Partition
from pylog.storage.role import RoleKind

logger = logging.getLogger("pylog")

_TICKS: Final = 4  # in the time that a replica may lag; the rules ask for two at least


@dataclasses.dataclass(slots=True)
class Led:
    """A partition as its leader saw it last.

    version: of all topics, when it was seen first.  A follower has to have so much of `__metadata`
    before it can be asked for this partition.
    own_offset: up to where it is as durable as its topic asks.
    floor: where it ended when it was seen first.
    events, seen: what counts its changes, and the count that the rest is at least as new as; None
    while it has no files.
    """

    id: PartitionId
    partition: Partition
    version: int
    needed: int
    directory: str
    log_start_offset: int = 0
    end_offset: int = 0
    own_offset: int = 0
    high_watermark: int = 0
    floor: int = 0
    events: Events | None = None
    seen: int = -1

    def look(self) -> None:
        """Take in how far it is now.  Raises what `Partition.marks` raises."""
        self.events = self.partition.marks_events
        if self.events is not None:
            self.seen = self.events.value  # first: what changes meanwhile is looked at again
        marks = self.partition.marks()
        if marks is None:
            return  # it is empty
        is_fsync = self.partition.config.durability == "fsync"
        self.log_start_offset = marks.log_start_offset
        self.end_offset = marks.log_end_offset
        self.own_offset = marks.durable_offset if is_fsync else marks.log_end_offset
        self.high_watermark = marks.high_watermark
        if marks.state == _native.FAILED:
            # Nobody knows what of it is on disk.
            self.own_offset = min(self.own_offset, marks.durable_offset)


class Link(Protocol):
    """What the leader tells those who talk to a follower; see follower_link.py."""

    replica_id: str | None

    def start(self) -> None:
        """Start."""

    def wake(self, grown: Iterable[PartitionId], moved: Iterable[PartitionId] = ()) -> None:
        """Take note of partitions that grew or came, of high watermarks, and of who is in sync.

        Called with the leader's lock held.
        """

    def stop(self) -> None:
        """End soon; wait for nothing."""

    def join(self) -> None:
        """Wait for the end."""


class Leader:
    """Runs a log's replication until it is stopped, or leads no more.

    config: of the log.  serving: keeps other processes from leading it; closed at the end.
    """

    def __init__(
        self,
        log: ReplicatedLog,
        state: ReplicaState,
        config: ReplicationConfig,
        *,
        serving: contextlib.ExitStack,
    ) -> None:
        assert state.in_sync is not None, "who leads is in sync"
        self.log = log
        self.config = config
        self.state = state
        self.lock = threading.Lock()
        self.rules = LeaderState(
            state.replica_id, last=state.in_sync, lag_time_max_ms=config.replica_lag_time_max_ms
        )
        self.led: dict[PartitionId, Led] = {}
        self.links: list[Link] = []
        self._version = -1
        self._in_sync: frozenset[str] = frozenset()  # as was said last
        self._settings_seen = -1
        self._serving = serving
        serving.callback(self._forget_in_sync)
        self._is_stopped = False
        self._is_behind = False
        self._is_kept = False  # whether the high watermark of `__metadata` survives a power cut
        self._look_at_all_ms = 0
        self._files_seen = -1
        self.error: str | None = None  # why the last look came to nothing
        self._thread = threading.Thread(target=self._run, name="pylog-leader", daemon=True)

    @property
    def epoch(self) -> int:
        """The epoch that it leads in."""
        return self.state.promised_epoch

    @property
    def is_running(self) -> bool:
        """Whether followers are brought on."""
        return self._thread.is_alive() and not self._is_stopped

    def shows_all(self) -> bool:
        """Return whether all that was there when it began can be read.

        As far as enough replicas are in sync for that.  Raises what a read of `__metadata` raises.
        """
        version = self.log.registry.version
        with self.lock:
            count = self.rules.in_sync_count
            return version == self._version and all(
                led.high_watermark >= led.floor for led in self.led.values() if led.needed <= count
            )

    @staticmethod
    def now_ms() -> int:
        """Return the time by a clock that never goes back."""
        return int(time.monotonic() * 1000)

    # ------------------------------------------------------------------ start and stop

    def start(self) -> None:
        """Look at all partitions, write down who is in sync, and start the threads.

        Raises FencedLeaderEpochError when the log leads no more, CorruptionError, OSError.
        """
        self._look()
        while self.log.registry.version != self._version:
            # By the first look the others may have become visible.
            self._look()
        for link in self.links:
            link.start()
        self._thread.start()

    def stop(self) -> None:
        """End all threads and wait for them.  Idempotent; also called by one of them."""
        self._is_stopped = True
        for link in self.links:
            link.stop()
        if not self.log.engine.is_closed:
            self.log.engine.events.notify()
        for each in [*(link.join for link in self.links), self._thread.join]:
            try:
                each()
            except RuntimeError:
                # It is this very thread, or was never started.
                continue
        self._release()

    def _release(self) -> None:
        # One assignment each: it may end by itself and be stopped at the same time.
        serving, self._serving = self._serving, contextlib.ExitStack()
        serving.close()

    def _forget_in_sync(self) -> None:
        """Let appends by all be refused at once: nobody moves high watermarks any more."""
        engine = self.log.engine
        # With the lock, and `_is_stopped` set: a session that ends later says nothing else.
        with self.lock:
            if not engine.is_closed:
                engine.in_sync_replicas = 0
                engine.events.notify()

    def step_down(self, error: FencedLeaderEpochError) -> None:
        """Lead no more: a follower has promised itself to a later leader.

        Called by any thread; the rest happens in the thread that watches.
        """
        logger.warning("log %s leads no more: %s", self.log.engine.path, error)
        self.log.roles.change(
            lambda state: state.demoted() if state.promised_epoch == self.epoch else state
        )

    def _run(self) -> None:
        """Look whenever anything happens in the log, until it is stopped or leads no more."""
        events = self.log.engine.events
        pause = self.config.replica_lag_time_max_ms / 1000 / _TICKS
        try:
            while not self._is_stopped:
                seen = events.value
                self._look_or_tell()
                events.wait(seen, pause)
        except (ClosedError, FencedLeaderEpochError) as error:
            logger.info("log %s: replication ends: %s", self.log.engine.path, error)
        finally:
            self._is_stopped = True
            for link in self.links:
                link.stop()
            self._release()

    # ------------------------------------------------------------------ looking

    def _look_or_tell(self) -> None:
        """Look; what keeps it from that, as a full disk does, may be over with the next look.

        Until then nothing is acknowledged by all: who appends is told by a time-out.
        Raises ClosedError, FencedLeaderEpochError.
        """
        try:
            self._look()
        except (ClosedError, FencedLeaderEpochError):
            raise
        except (PylogError, OSError) as error:
            self._is_behind, self._version, self._look_at_all_ms = True, -1, 0
            text = f"{type(error).__name__}: {error}"
            if text != self.error:
                logger.exception("log %s: replication stands still", self.log.engine.path)
            self.error = text
        else:
            self.error = None

    def _look(self) -> None:
        """See what has changed in the log, and let all that follows from it happen."""
        self._check_leads()
        # Outside of the lock: it may read `__metadata`, and open partitions.
        came, gone = self._changed_topics()
        now_ms = self.now_ms()
        # All of them now and then: whoever was killed may have told nobody.
        is_due = now_ms >= self._look_at_all_ms
        if is_due:
            self._look_at_all_ms = now_ms + self.config.replica_lag_time_max_ms // _TICKS
        made = self._made_files(is_due=is_due)
        with self.lock:
            for led in gone:
                del self.led[led.id]
                self.rules.partition_removed(led.id)
            for led in came:
                self._add_locked(led, now_ms)
            news = [
                led
                for led in self.led.values()
                if (is_due or led.events.value != led.seen if led.events else led.directory in made)
            ]
            grown = [led.id for led in news if self._see_locked(led, now_ms)]
            self.rules.tick(now_ms)
            self._settle_locked()
            grown += [led.id for led in came]
            if self._is_behind:
                # What the look saw that came to nothing was told to nobody.
                grown, self._is_behind = list(self.led), False
            for link in self.links:
                link.wake(grown)

    def _check_leads(self) -> None:
        """Raise FencedLeaderEpochError unless the log still leads in this epoch."""
        role = self.log.roles.role
        if role.kind is not RoleKind.LEADER or role.epoch != self.epoch:
            raise FencedLeaderEpochError(self.epoch, role.epoch)

    def _changed_topics(self) -> tuple[list[Led], list[Led]]:
        """Return the partitions that came since the last look, and those that went."""
        registry, settings = self.log.registry, self.log.engine.settings.value
        version = registry.version
        if version == self._version and settings == self._settings_seen:
            return [], []
        ids = self.log.partition_ids()
        came: list[Led] = []
        for each in ids:
            if each not in self.led:
                with self.log.unless_deleted():
                    came.append(self._new_led(each, 0 if each == METADATA else version))
        known = set(ids)
        gone = [led for led in self.led.values() if led.id not in known]
        self._follow_needs()
        self._look_at_all_ms = 0  # what counts as durable may be another thing now
        self._version, self._settings_seen = version, settings
        return came, gone

    def _made_files(self, *, is_due: bool) -> frozenset[str]:
        """Return the names of directories, if partitions may have got files since the last look."""
        engine = self.log.engine
        count = engine.new_files.value
        if count == self._files_seen and not is_due:
            return frozenset()
        self._files_seen = count
        return frozenset(engine.root.names())

    def _new_led(self, partition: PartitionId, version: int) -> Led:
        found = self.log.partition(partition)
        directory = layout.partition_directory(partition.topic, partition.number)
        return Led(partition, found, version, self._needed(found), directory)

    def _needed(self, partition: Partition) -> int:
        return max(self.config.min_insync_replicas, partition.config.min_insync_replicas)

    def _follow_needs(self) -> None:
        """Take in topics' settings that were altered."""
        with self.lock:
            for led in self.led.values():
                with self.log.unless_deleted():
                    needed = self._needed(led.partition)
                    if needed != led.needed:
                        led.needed = needed
                        self.rules.needed(led.id, needed)

    def _add_locked(self, led: Led, now_ms: int) -> None:
        with self.log.unless_deleted():
            led.look()
        led.floor = led.end_offset
        self.led[led.id] = led
        self.rules.partition_added(
            led.id,
            end_offset=led.end_offset,
            own_offset=led.own_offset,
            high_watermark=led.high_watermark,
            min_insync_replicas=led.needed,
            now_ms=now_ms,
        )

    def _see_locked(self, led: Led, now_ms: int) -> bool:
        """Look how far a partition is; return whether there is more to send."""
        before = led.end_offset, led.own_offset
        with self.log.unless_deleted():
            led.look()
        if (led.end_offset, led.own_offset) == before:
            return False
        self.rules.appended(
            led.id, end_offset=led.end_offset, own_offset=led.own_offset, now_ms=now_ms
        )
        return led.end_offset != before[0]

    # ------------------------------------------------------------------ acting

    def settle(self, event: Callable[[LeaderState, int], None]) -> None:
        """Tell the rules what a follower said, and let all that follows from it happen.

        event: called with the rules and the time, and the lock held.
        Raises what writing the role file raises, and FencedLeaderEpochError when it leads no more.
        """
        with self.lock:
            event(self.rules, self.now_ms())
            self._settle_locked()

    def _settle_locked(self) -> None:
        """Do what came out of the rules: write down who is in sync, move high watermarks, tell."""
        # What followers said to a leader moves nothing in a log that follows another by now.
        self._check_leads()
        if self._is_stopped:
            return
        self._keep_topics_locked()  # what failed before comes first
        rules = self.rules
        while (in_sync := rules.unwritten) is not None:
            self._write_down(in_sync)
            rules.noted(in_sync)
            self._say(in_sync)
        moved = rules.take_moved()
        names: list[PartitionId] = []
        for partition, offset in moved.items():
            assert isinstance(partition, PartitionId)
            led = self.led.get(partition)
            if led is not None:
                names.append(partition)
                with self.log.unless_deleted():
                    led.high_watermark = led.partition.advance_high_watermark(offset)
        if METADATA in moved:
            self._is_kept = False
        engine = self.log.engine
        if engine.in_sync_replicas != rules.in_sync_count:
            engine.in_sync_replicas = rules.in_sync_count
            engine.events.notify()
        for link in self.links:
            link.wake((), names)
        self._keep_topics_locked()

    def _keep_topics_locked(self) -> None:
        """Let a topic that anybody sees stay known, before anything of it is acknowledged.

        Else a power cut would leave a leader that lets replicas in sync without looking at all
        partitions.
        """
        if not self._is_kept:
            self.led[METADATA].partition.keep_high_watermark()
            self._is_kept = True

    def _say(self, in_sync: InSync) -> None:
        """Log who is in sync; that is a warning when somebody fell out."""
        level = logging.INFO if self._in_sync <= in_sync.members else logging.WARNING
        self._in_sync = in_sync.members
        members = ", ".join(sorted(in_sync.members))
        logger.log(level, "log %s: in sync are %s", self.log.engine.path, members)

    def _write_down(self, in_sync: InSync) -> None:
        def event(state: ReplicaState) -> ReplicaState:
            if state.kind is not RoleKind.LEADER or state.promised_epoch != self.epoch:
                raise FencedLeaderEpochError(self.epoch, state.promised_epoch)
            return state.noted(in_sync)

        self.log.roles.change(event)
