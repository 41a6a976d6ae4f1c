"""`Mirror`: copies topics of a log into a Kafka cluster and follows them.

Knows which topics are meant, and that one process at a time runs a mirror.  Must not know how
records are sent.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

from pylog.errors import InvalidConfigurationError
from pylog.interop.kafka.client import Settings, library, settings_of
from pylog.interop.kafka.holding import held
from pylog.interop.kafka.lanes import MirrorProgress
from pylog.interop.kafka.offsets import CopiedOffset, copy_groups, translate
from pylog.interop.kafka.session import Options, Progress, Session
from pylog.log import Log
from pylog.records import TopicPartition
from pylog.topics.topic import Topic

_OFFSETS: Final = ("auto", "identity", "recorded")


class Mirror:
    """Copies topics into a Kafka cluster: partition, key, value, headers, timestamp, tombstones.

    log: open, and stays so.  settings: librdkafka's, handed on, or the bootstrap servers alone.
    topics: names, or pattern: a regular expression that whole names match; by default all.  With a
        pattern, or all, topics that are made later are taken, too.
    rename: what a topic is called in the cluster.
    offsets: "identity": the same on both sides.  Possible where a target is empty when the mirror
        first comes and nobody else ever writes there, and the source begins at 0 and has no gaps;
        else OffsetsDifferError is raised.  "recorded": records are sent in transactions, whose
        markers take offsets, and which offset is which is recorded with them.  "auto": for each
        partition the same while that is possible, recorded from there on.
    create_topics: make missing topics, and add missing partitions; with `replication_factor` (-1
        is the cluster's own default) and the settings that mean the same there.
    name: tells mirrors of one log apart; a second one of the same name does not run.
    state_topic: where positions and offsets are kept, in the cluster; compacted, and made if it is
        not there.  Recorded offsets are kept for ever, one record of some 150 bytes for each
        transaction and partition; `translate` reads them all.
    max_in_flight_bytes: of records that are not acknowledged; reading waits while they are as many.
    delivery_timeout_ms: without any acknowledgement for so long a run ends.
    settle_ms: after a mirror with "identity" was killed, the next one waits until the target's end
        has not moved for so long, because a broker may still take what a dead process had sent.
    Raises MissingExtraError without confluent-kafka, InvalidConfigurationError.  No I/O.

    What survives what: with recorded offsets every record is in the cluster once, in order, for
    consumers that read committed transactions, whatever dies when.  With the same offsets each
    delivery is checked; a broker that takes longer than `settle_ms` to do what a killed mirror
    asked of it makes the next run raise OffsetsDifferError, and leaves records there twice.
    Timestamps are kept, except by a target that stamps records itself ("LogAppendTime"), and
    Kafka's retention goes by them: it drops old records as they come in.
    """

    def __init__(
        self,
        log: Log,
        settings: Settings | str,
        *,
        topics: Iterable[str] | None = None,
        pattern: str | re.Pattern[str] | None = None,
        rename: Callable[[str], str] | None = None,
        offsets: Literal["auto", "identity", "recorded"] = "auto",
        create_topics: bool = False,
        replication_factor: int = -1,
        name: str = "mirror",
        state_topic: str = "__pylog_mirror",
        max_in_flight_bytes: int = 32 << 20,
        delivery_timeout_ms: int = 120_000,
        settle_ms: int = 1000,
    ) -> None:
        library()
        if offsets not in _OFFSETS:
            raise InvalidConfigurationError("offsets", offsets, "one of " + ", ".join(_OFFSETS))
        if topics is not None and pattern is not None:
            raise InvalidConfigurationError("pattern", pattern, "topics or a pattern, not both")
        for setting, value in (
            ("max_in_flight_bytes", max_in_flight_bytes),
            ("delivery_timeout_ms", delivery_timeout_ms),
        ):
            if value < 1:
                raise InvalidConfigurationError(setting, value, "at least 1")
        self._log = log
        self._name = name
        self._topics = None if topics is None else list(dict.fromkeys(topics))
        self._pattern = None if pattern is None else re.compile(pattern)
        log_id = str(log.log_id)
        self._options = Options(
            settings=settings_of(settings),
            offsets=offsets,
            create_topics=create_topics,
            replication_factor=replication_factor,
            state_topic=state_topic,
            transactional_id=f"pylog-{log_id}-{name}",
            log_id=log_id,
            rename=rename or str,
            max_in_flight_bytes=max_in_flight_bytes,
            delivery_timeout_ms=delivery_timeout_ms,
            settle_ms=settle_ms,
        )
        self._stop = threading.Event()

    def run(
        self, *, follow: bool = False, progress: Progress | None = None
    ) -> dict[TopicPartition, MirrorProgress]:
        """Copy what is there, or with `follow` all that comes, until `stop`; return how far it is.

        Goes on where the last run ended, however that was.  Without `follow` it ends at the high
        watermarks of the moment it begins.
        progress: called with a MirrorProgress for each partition when it begins and whenever more
        of it is acknowledged, in this thread.  What it raises ends the run and comes out of it.
        Ctrl-C ends it, too, after some seconds at most: what is under way is waited for.
        Raises KafkaUnavailableError, KafkaRefusedError; TargetTopicError; OffsetsDifferError,
        DivergedTopicError, NotMirroredError, UnmirrorableRecordError for a record that cannot be
        sent; MirrorRunningError, MirrorFencedError; UnknownTopicOrPartitionError for a topic that
        was named, InvalidConfigurationError; what `Partition.read` raises, also for damaged bytes.
        Blocks; waits for records without polling.  Other threads may use the log meanwhile.
        """
        with held(self._log, "mirror", self._name):
            session = Session(self._options, self._stop, progress)
            try:
                session.open()
                session.run(self._find, self._log.events, follow=follow)
                session.finish()
            except BaseException:
                session.give_up()
                raise
            finally:
                self._stop.clear()
            return session.progress()

    def stop(self) -> None:
        """Let the run that is going on return, once what was sent is acknowledged.

        Any thread and any signal handler may call it.  Without a run the next one returns at once.
        """
        self._stop.set()
        self._log.events.notify()

    def translate(self, topic: str, partition: int, offset: int) -> int:
        """Return where in the cluster a consumer goes on that would read `offset` next here.

        That is the first record at or after `offset`, or the end of what is mirrored.
        Raises LookupError for a partition that is not mirrored yet; UnknownTopicOrPartitionError,
        KafkaUnavailableError, KafkaRefusedError.  Asks the cluster; reads all recorded offsets.
        """
        place = TopicPartition(topic, partition)
        found = translate(self._log, self._options, {place: {offset}})[place]
        if found is None:
            raise LookupError(f"{topic}-{partition} is not mirrored")
        return found[offset].target

    def copy_groups(
        self, groups: Iterable[str] | None = None, *, dry_run: bool = False
    ) -> dict[str, dict[TopicPartition, CopiedOffset]]:
        """Let groups go on in the cluster where they are here; return what was committed there.

        groups: by default all that committed anything.  Partitions that are not mirrored are left
        out.  The groups must have no members there.  dry_run: commit nothing.
        To move consumers: let them end here, `run` the mirror to its end, copy, start them there.
        Raises GroupIdNotFoundError, and KafkaRefusedError for a group with members; groups before
        it are done then; otherwise what `translate` raises.
        """
        return copy_groups(self._log, self._options, groups, dry_run=dry_run)

    def _find(self) -> Sequence[Topic]:
        """Return the topics of now."""
        names = self._log.topics() if self._topics is None else self._topics
        if self._pattern is not None:
            names = [name for name in names if self._pattern.fullmatch(name)]
        return [self._log.topic(name) for name in names]
