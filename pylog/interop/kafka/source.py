"""`Source`: copies topics of a Kafka cluster into a log, at the same offsets, and follows them.

Knows which topics are meant, and that the position in the cluster is the end of the copy.  Must not
know how messages become batches.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from pylog.config import TopicConfig
from pylog.errors import (
    DivergedTopicError,
    InvalidConfigurationError,
    KafkaUnavailableError,
    NotMirroredError,
    TargetTopicError,
    UnknownTopicOrPartitionError,
)
from pylog.interop.kafka.client import (
    POLL_SECONDS,
    REQUEST_SECONDS,
    Settings,
    error_of,
    library,
    new_consumer,
    settings_of,
    translated,
)
from pylog.interop.kafka.cluster import Cluster, place_of
from pylog.interop.kafka.holding import held
from pylog.interop.kafka.intake import Intake
from pylog.interop.kafka.lanes import MirrorProgress
from pylog.interop.kafka.session import Progress
from pylog.log import Log
from pylog.records import TopicPartition

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

_MESSAGES: Final = 10_000  # taken at once
_LOOK_SECONDS: Final = 5.0  # between two looks for topics that are new (guessed)
_LOST: Final = ("_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE")


class Source:
    """Copies topics out of a Kafka cluster: partition, offset, key, value, headers, timestamp.

    log: open, and stays so.  settings: librdkafka's, handed on, or the bootstrap servers alone.
    topics: names in the cluster, or pattern: a regular expression that whole names match; by
        default all that do not begin with "__".  With a pattern, or all, topics that are made later
        are taken, too.
    rename: what a topic is called in the log.
    create_topics: make missing topics, and add missing partitions, with the settings that mean the
        same here.
    name: tells sources of one log apart; a second one of the same name does not run.
    max_in_flight_bytes: of messages that are fetched and not appended yet.
    Raises MissingExtraError without confluent-kafka, InvalidConfigurationError.  No I/O.

    Every record keeps its offset.  Where the cluster has none (compacted away, of a transaction
    that was aborted, a transaction's marker) there is none here: a gap.  So the end of a partition
    tells where to go on, stored with the records themselves: a source that is killed at any instant
    goes on without loss or duplicates.  Nobody else may append to the copies.  Committed offsets of
    groups mean the same on both sides.  What the cluster had deleted before is where the copy
    begins.
    """

    def __init__(
        self,
        log: Log,
        settings: Settings | str,
        *,
        topics: Iterable[str] | None = None,
        pattern: str | re.Pattern[str] | None = None,
        rename: Callable[[str], str] | None = None,
        create_topics: bool = False,
        name: str = "source",
        max_in_flight_bytes: int = 32 << 20,
    ) -> None:
        library()
        if topics is not None and pattern is not None:
            raise InvalidConfigurationError("pattern", pattern, "topics or a pattern, not both")
        if max_in_flight_bytes < 1:
            raise InvalidConfigurationError(
                "max_in_flight_bytes", max_in_flight_bytes, "at least 1"
            )
        self._log = log
        self._settings = settings_of(settings)
        self._topics = None if topics is None else list(dict.fromkeys(topics))
        self._pattern = None if pattern is None else re.compile(pattern)
        self._rename: Callable[[str], str] = rename or str
        self._create_topics = create_topics
        self._name = name
        self._max_in_flight_bytes = max_in_flight_bytes
        self._stop = threading.Event()

    def run(
        self, *, follow: bool = False, progress: Progress | None = None
    ) -> dict[TopicPartition, MirrorProgress]:
        """Copy what is there, or with `follow` all that comes, until `stop`; return how far it is.

        Goes on where the last run ended, however that was.  Without `follow` it ends at the ends of
        the moment it begins, or before a transaction that has not ended.
        progress: called with a MirrorProgress of each partition when it begins and whenever more of
        it is appended, in this thread; topic and partition are the log's.  What it raises ends the
        run and comes out of it, and so does Ctrl-C.
        Raises KafkaUnavailableError, KafkaRefusedError; TargetTopicError; DivergedTopicError,
        OffsetsDifferError when somebody else appended to a copy; NotMirroredError when the cluster
        deleted what was to come next; UnmirrorableRecordError for a message without a timestamp;
        MirrorRunningError; UnknownTopicOrPartitionError for a topic that the cluster has not;
        InvalidConfigurationError; what `Partition.append` raises.
        """
        with held(self._log, "source", self._name):
            session = _Session(self._settings, self._max_in_flight_bytes, progress)
            try:
                self._run(session, follow=follow)
            finally:
                self._stop.clear()
                session.close()
            return session.progress()

    def _run(self, session: _Session, *, follow: bool) -> None:
        look = 0.0
        while not self._stop.is_set():
            if time.monotonic() >= look:
                session.add(self._intakes(session), follow=follow)
                look = time.monotonic() + _LOOK_SECONDS
            session.step(follow=follow)
            if session.is_done and not follow:
                return

    def stop(self) -> None:
        """Let the run that is going on return.

        Any thread and any signal handler may call it.  Without a run the next one returns at once.
        """
        self._stop.set()

    def _intakes(self, session: _Session) -> list[Intake]:
        """Return what takes the partitions that nothing takes yet."""
        counts = session.cluster.partitions()
        new: list[Intake] = []
        targets: dict[str, str] = {}
        for name in self._names(counts):
            target = self._rename(name)
            if targets.setdefault(target, name) != name:
                raise InvalidConfigurationError("rename", target, "another name for each topic")
            known = session.known.get(name, 0)
            if counts[name] > known:
                self._prepare(session.cluster, name, target, counts[name])
                topic = self._log.topic(target)
                new += [
                    Intake(topic.partition(number), TopicPartition(name, number))
                    for number in range(known, counts[name])
                ]
                session.known[name] = counts[name]
        return new

    def _names(self, counts: dict[str, int]) -> Sequence[str]:
        if self._topics is not None:
            for name in self._topics:
                if name not in counts:
                    raise UnknownTopicOrPartitionError(name)
            return self._topics
        names = [name for name in sorted(counts) if not name.startswith("__")]
        pattern = self._pattern
        return names if pattern is None else [name for name in names if pattern.fullmatch(name)]

    def _prepare(self, cluster: Cluster, name: str, target: str, partitions: int) -> None:
        """Have a topic in the log, with as many partitions as in the cluster."""
        try:
            count = len(self._log.topic(target))
        except UnknownTopicOrPartitionError:
            count = 0
        if count >= partitions:
            return
        if not self._create_topics:
            raise TargetTopicError(target, count, partitions)
        if count:
            self._log.topic(target).add_partitions(partitions)
        else:
            config = TopicConfig.from_kafka(cluster.topic_settings(name))
            changed = _changed(config)
            self._log.create_topic(target, partitions, if_exists="ok", **changed)


class _Session:
    """One run: a consumer, and what takes its messages."""

    def __init__(self, settings: Settings, memory: int, progress: Progress | None) -> None:
        self.cluster = Cluster(settings)
        self.known: dict[str, int] = {}
        self._progress = progress
        self._intakes: dict[TopicPartition, Intake] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._consumer: Consumer = new_consumer(
            settings,
            isolation_level="read_committed",
            auto_offset_reset="error",
            queued_max_messages_kbytes=max(memory >> 10, 1),
        )
        self._heard = time.monotonic()

    @property
    def is_done(self) -> bool:
        """Whether all is taken that was there when each partition was begun."""
        return all(intake.is_done for intake in self._intakes.values())

    def add(self, intakes: Sequence[Intake], *, follow: bool) -> None:
        """Take these partitions from now on, each from where its copy ends."""
        if not intakes:
            return
        ends = self.cluster.ends([intake.source for intake in intakes])
        for intake in intakes:
            start, end = ends[intake.source]
            if intake.position == 0 and start > 0:
                intake.start_anew(start)
            _check_range(intake, start, end)
            intake.end = None if follow else end
            intake.is_done = intake.position >= end
            self._ends[intake.source] = end
        self._check_last(intakes, ends)
        kafka = library()
        with translated():
            self._consumer.incremental_assign(
                [kafka.TopicPartition(*one.source, one.position) for one in intakes]
            )
        for intake in intakes:
            self._intakes[intake.source] = intake
            self._tell(intake)
        self._heard = time.monotonic()

    def _check_last(self, intakes: Sequence[Intake], ends: dict[TopicPartition, Any]) -> None:
        last = {}
        for intake in intakes:
            record = intake.last_record()
            if record is not None and record.offset >= ends[intake.source][0]:
                last[intake.source] = record.offset
        messages = self.cluster.first_messages(last)
        for intake in intakes:
            intake.check_last(messages.get(intake.source))

    def step(self, *, follow: bool) -> None:
        """Take what was fetched, or wait a moment for it."""
        with translated():
            # Waits for the first one only: consume alone would wait for all.
            first = self._consumer.poll(POLL_SECONDS)
            messages = [] if first is None else [first, *self._consumer.consume(_MESSAGES, 0)]
        now = time.monotonic()
        if messages:
            self._heard = now
        elif not follow and now - self._heard > REQUEST_SECONDS:
            raise KafkaUnavailableError("_TIMED_OUT", "nothing to read came in time")
        by_place: dict[TopicPartition, list[Message[bytes, bytes]]] = {}
        ended: dict[TopicPartition, int] = {}
        for message in messages:
            error = message.error()
            if error is None:
                by_place.setdefault(place_of(message), []).append(message)
            elif error.name() == "_PARTITION_EOF":
                ended[place_of(message)] = message.offset() or 0
            else:
                self._fail(message)
        for place, found in by_place.items():
            self._take(self._intakes[place], found)
        for place, offset in ended.items():
            self._end(self._intakes[place], offset)

    def _take(self, intake: Intake, messages: list[Message[bytes, bytes]]) -> None:
        end = intake.end
        wanted = [one for one in messages if end is None or (one.offset() or 0) < end]
        if wanted:
            intake.take(wanted)
            self._tell(intake)
        if intake.position == end or len(wanted) < len(messages):
            assert end is not None
            self._end(intake, end)

    def _end(self, intake: Intake, offset: int) -> None:
        """Note that all below `offset` has come; what has not is not there."""
        intake.is_done = True
        if intake.end is not None and intake.position < min(offset, intake.end):
            # Who follows gets there with the next record: to end in a gap costs some syncs.
            intake.skip_to(min(offset, intake.end))
            self._tell(intake)

    def _fail(self, message: Message[bytes, bytes]) -> None:
        """Raise what a message that is an error means, unless the library sees to it."""
        error = message.error()
        assert error is not None
        if error.name() in _LOST and message.topic() is not None:
            intake = self._intakes[place_of(message)]
            start, end = self.cluster.ends([intake.source])[intake.source]
            _check_range(intake, start, end)
        reason = error_of(error)
        if not isinstance(reason, KafkaUnavailableError):
            raise reason

    def _tell(self, intake: Intake) -> None:
        if self._progress is not None:
            self._progress(intake.progress(self._ends[intake.source]))

    def progress(self) -> dict[TopicPartition, MirrorProgress]:
        """Return how far each partition is."""
        return {
            TopicPartition(intake.partition.topic, intake.partition.number): intake.progress(
                self._ends[intake.source]
            )
            for intake in self._intakes.values()
        }

    def close(self) -> None:
        """End."""
        self._consumer.close()


def _check_range(intake: Intake, start: int, end: int) -> None:
    """Raise unless what comes next is in the cluster, or comes."""
    position, place = intake.position, intake.partition
    if position < start:
        raise NotMirroredError(*intake.source, position, start)
    if position > end:
        reason = f"its source ends at {end}"
        raise DivergedTopicError(place.topic, place.number, position, reason)


def _changed(config: TopicConfig) -> dict[str, Any]:
    """Return the settings that are not pylog's defaults, for a copy whose timestamps are kept."""
    default = TopicConfig()
    names = [
        name for name in TopicConfig.__slots__ if getattr(config, name) != getattr(default, name)
    ]
    return {name: getattr(config, name) for name in names}
