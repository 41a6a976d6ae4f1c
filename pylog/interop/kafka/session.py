"""One run of a mirror: opens lanes, moves records through them, and ends so that another goes on.

Knows lanes, writers and the mirror's own topic.  Must not know threads: all of it happens in the
thread that runs.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pylog._native import Events
from pylog.errors import (
    ClosedError,
    DivergedTopicError,
    InvalidConfigurationError,
    MirrorError,
    NotMirroredError,
    OffsetsDifferError,
    TargetTopicError,
    UnknownTopicOrPartitionError,
)
from pylog.interop.kafka.client import POLL_SECONDS
from pylog.interop.kafka.cluster import Cluster, kafka_settings
from pylog.interop.kafka.lanes import Lane, MirrorProgress, split_at_gap, start_of
from pylog.interop.kafka.messages import difference
from pylog.interop.kafka.runs import Run
from pylog.interop.kafka.states import (
    LaneKey,
    LaneState,
    offsets_entries,
    position_entry,
    prepare,
    read_positions,
)
from pylog.interop.kafka.writers import END_SECONDS, PlainWriter, TransactionalWriter
from pylog.records import TopicPartition
from pylog.storage.partition import Partition
from pylog.storage.policy import LOOK_AGAIN_SECONDS
from pylog.topics.topic import Topic

logger = logging.getLogger("pylog")

Progress = Callable[[MirrorProgress], object]
Ends = dict[TopicPartition, tuple[int, int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a mirror was made with; see `Mirror`."""

    settings: dict[str, Any]
    offsets: str
    create_topics: bool
    replication_factor: int
    state_topic: str
    transactional_id: str
    log_id: str
    rename: Callable[[str], str]
    max_in_flight_bytes: int
    delivery_timeout_ms: int
    settle_ms: int


class Session:
    """One run.  stop: set by anybody when it is to end."""

    def __init__(self, options: Options, stop: threading.Event, progress: Progress | None) -> None:
        self._options = options
        self._stop = stop
        self._progress = progress
        self._cluster = Cluster(options.settings)
        memory, timeout = options.max_in_flight_bytes, options.delivery_timeout_ms / 1000
        self._plain = PlainWriter(options.settings, memory=memory, timeout=timeout, stop=stop)
        self._transactional = None
        if options.offsets != "identity":
            self._transactional = TransactionalWriter(
                options.settings,
                memory=memory,
                timeout=timeout,
                stop=stop,
                transactional_id=options.transactional_id,
                state_topic=options.state_topic,
            )
        self._states: dict[LaneKey, LaneState] = {}
        self._lanes: dict[LaneKey, Lane] = {}
        self._partitions: dict[uuid.UUID, int] = {}
        self._told: dict[Lane, int] = {}

    def open(self) -> None:
        """Shut out a predecessor, and read how far it came.  Raises what a Cluster raises."""
        options = self._options
        prepare(self._cluster, options.state_topic, options.replication_factor)
        if self._transactional is not None:
            # Before the positions are read: what hangs would hide those behind it.
            self._transactional.open()
        self._states = read_positions(self._cluster, options.state_topic)

    def run(self, find: Callable[[], Sequence[Topic]], events: Events, *, follow: bool) -> None:
        """Move records until there are no more, or for ever; see `Mirror.run`.

        find: returns the topics of now; raises for one that has to exist and does not.
        """
        while not self._stop.is_set():
            seen = events.value
            try:
                self._open_lanes(find(), follow=follow)
                if self._step():
                    continue
            except (UnknownTopicOrPartitionError, ClosedError):
                if not self._forget_deleted(find()):
                    raise
                continue
            if not follow:
                return
            self._wait(events, seen)

    def progress(self) -> dict[TopicPartition, MirrorProgress]:
        """Return how far each partition is."""
        return {
            TopicPartition(lane.partition.topic, lane.partition.number): lane.progress
            for lane in self._lanes.values()
        }

    # ------------------------------------------------------------------ lanes

    def _open_lanes(self, topics: Sequence[Topic], *, follow: bool) -> None:
        """Open lanes for the partitions that have none yet."""
        new = [topic for topic in topics if len(topic) > self._partitions.get(topic.topic_id, 0)]
        if not new:
            return
        self._check_targets(topics)
        places = [
            (self._key(topic, partition), partition)
            for topic in new
            for partition in topic.partitions
        ]
        places = [(key, partition) for key, partition in places if key not in self._lanes]
        ends = self._settled_ends([key for key, _ in places])
        lanes = [self._lane(key, partition, ends) for key, partition in places]
        self._check_last_records(lanes, ends)
        for lane in lanes:
            if lane.offsets == "identity" and self._options.offsets == "recorded":
                self._record_from_here(lane)
            if not follow:
                lane.end = lane.partition.high_watermark
            self._lanes[lane.key] = lane
            self._tell(lane)
        self._partitions |= {topic.topic_id: len(topic) for topic in new}

    def _key(self, topic: Topic, partition: Partition) -> LaneKey:
        target = self._options.rename(topic.name)
        return LaneKey.of(self._options.log_id, topic.topic_id, partition.number, target)

    def _forget_deleted(self, topics: Sequence[Topic]) -> bool:
        """Drop the lanes of topics that are no more; return whether there were any."""
        known = {str(topic.topic_id) for topic in topics}
        gone = [key for key in self._lanes if key.topic_id not in known]
        for key in gone:
            lane = self._lanes.pop(key)
            self._told.pop(lane)
            logger.info("%r is not mirrored any more: it was deleted", lane.partition)
        return bool(gone)

    def _check_targets(self, topics: Sequence[Topic]) -> None:
        """Have a topic in the cluster for each one, with as many partitions."""
        options, wanted = self._options, dict[str, Topic]()
        for topic in topics:
            target = options.rename(topic.name)
            if wanted.setdefault(target, topic) is not topic:
                raise InvalidConfigurationError("rename", target, "another name for each topic")
        has = self._cluster.partitions()
        for target, topic in wanted.items():
            count, needed = has.get(target, 0), len(topic)
            if count >= needed:
                continue
            if not options.create_topics:
                raise TargetTopicError(target, count, needed)
            if count:
                self._cluster.add_partitions(target, needed)
            else:
                config = kafka_settings(topic.config)
                self._cluster.create_topic(target, needed, options.replication_factor, config)

    def _settled_ends(self, keys: Iterable[LaneKey]) -> Ends:
        """Return where the targets end, once nothing is in flight that a dead mirror has sent."""
        targets = {key: TopicPartition(key.target, key.partition) for key in keys}
        ends = self._cluster.ends(targets.values())
        doubtful = [
            target
            for key, target in targets.items()
            if (state := self._states.get(key)) is not None
            and state.offsets == "identity"
            and not state.is_clean
        ]
        while doubtful and not self._stop.wait(self._options.settle_ms / 1000):
            now = self._cluster.ends(doubtful)
            doubtful = [target for target in doubtful if now[target] != ends[target]]
            ends |= now
        return ends

    def _lane(self, key: LaneKey, partition: Partition, ends: Ends) -> Lane:
        target = TopicPartition(key.target, key.partition)
        state, end = self._states.get(key), ends[target][1]
        source_start = partition.log_start_offset
        wanted = self._options.offsets
        start = start_of(wanted, state, source_start=source_start, target=target, end=end)
        lane = Lane(partition, target, key, *start)
        if lane.position < source_start:
            raise NotMirroredError(partition.topic, partition.number, lane.position, source_start)
        if lane.position > partition.log_end_offset:
            reason = f"the source ends at {partition.log_end_offset}"
            raise DivergedTopicError(*target, lane.position, reason)
        return lane

    def _check_last_records(self, lanes: Sequence[Lane], ends: Ends) -> None:
        """Raise DivergedTopicError where the last record of a target is not the source's.

        Where only the mirror writes it is: what anybody else wrote moved the end.
        """
        last = {}
        for lane in lanes:
            offset, partition = lane.position - 1, lane.partition
            if lane.offsets == "identity" and offset >= max(
                ends[lane.target][0], partition.log_start_offset
            ):
                for record in partition.read(offset, 1, offset + 1):
                    last[lane.target] = record
        messages = self._cluster.first_messages(
            {target: record.offset for target, record in last.items()}
        )
        for target, message in messages.items():
            record = last[target]
            reason = difference(record, message) if message.offset() == record.offset else None
            if reason is not None:
                raise DivergedTopicError(*target, record.offset, reason)

    # ------------------------------------------------------------------ moving

    def _step(self) -> bool:
        """Send a piece of each lane that has some; return whether any had."""
        ready = [lane for lane in self._lanes.values() if lane.position < lane.limit]
        self._mark([lane for lane in ready if lane.offsets == "identity" and not lane.is_marked])
        for lane in ready:
            if self._stop.is_set():
                break
            self._move(lane)
            self._tell_all()
        if not ready and self._transactional is not None:
            self._transactional.commit()
            self._tell_all()
        return bool(ready)

    def _mark(self, lanes: Sequence[Lane]) -> None:
        """Write down that records may be in flight from now on."""
        for lane in lanes:
            lane.is_marked = True
            self._note(lane)
        if lanes:
            self._plain.finish()

    def _note(self, lane: Lane) -> None:
        self._plain.send_entry(self._options.state_topic, position_entry(lane.key, lane.state))

    def _move(self, lane: Lane) -> None:
        """Send what comes next in a lane; behind a gap its offsets cannot be the same any more."""
        piece = lane.read()
        lane.position = piece.next_offset
        if lane.offsets == "identity":
            piece, rest = split_at_gap(piece, lane.sent)
            if piece.records:
                self._plain.send(lane, piece)
            if not rest.records:
                return
            if self._transactional is None:
                raise OffsetsDifferError(*lane.target, rest.records[0].offset, lane.sent)
            self._plain.finish()
            self._record_from_here(lane)
            piece = rest
        if piece.records:
            assert self._transactional is not None
            self._transactional.send(lane, piece)

    def _record_from_here(self, lane: Lane) -> None:
        """Let a lane go on with other offsets.

        Written down before the first transaction: when that fails, its markers lie in the target,
        whose end tells nothing any more.
        """
        lane.offsets, lane.is_marked = "recorded", False
        if lane.sent:
            for entry in offsets_entries(lane.key, [Run(0, 0, lane.sent)]):
                self._plain.send_entry(self._options.state_topic, entry)
        self._note(lane)
        self._plain.finish()

    def _wait(self, events: Events, seen: int) -> None:
        if self._plain.in_flight:
            self._plain.poll(POLL_SECONDS)
            self._tell_all()
        else:
            events.wait(seen, LOOK_AGAIN_SECONDS)

    def _tell_all(self) -> None:
        for lane in self._lanes.values():
            if lane.acknowledged != self._told[lane]:
                self._tell(lane)

    def _tell(self, lane: Lane) -> None:
        self._told[lane] = lane.acknowledged
        if self._progress is not None:
            self._progress(lane.progress)

    # ------------------------------------------------------------------ the end

    def finish(self) -> None:
        """Wait until all that was sent is acknowledged, and write that down."""
        if self._transactional is not None:
            self._transactional.commit()
        self._plain.finish()
        self._tell_all()
        self._settle()

    def give_up(self) -> None:
        """Wait some seconds for what is in flight, and drop it then; raises nothing new."""
        try:
            if self._transactional is not None:
                self._transactional.abort(END_SECONDS)
            if self._plain.finish(END_SECONDS):
                self._settle()
                return
        except MirrorError as error:
            logger.info("while a mirror ended: %s", error)
        self._plain.drop()

    def _settle(self) -> None:
        """Write down that nothing is in flight."""
        marked = [lane for lane in self._lanes.values() if lane.is_marked]
        for lane in marked:
            lane.is_marked = False
            self._note(lane)
        if marked:
            self._plain.finish(END_SECONDS)
