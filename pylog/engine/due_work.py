"""What has to be done of a log and its partitions now and then: when, and that it goes on.

Knows the timetable.  Must not know how anything is done.  It holds no strong reference to a log or
a partition, so that one which nobody uses can be collected.
"""

from __future__ import annotations

import weakref
from typing import Final, Protocol

from pylog.engine.background import Background
from pylog.storage import layout
from pylog.storage.partition import Partition
from pylog.storage.policy import is_compacted

_RETENTION_CHECK_SECONDS: Final = 300.0  # Kafka's log.retention.check.interval.ms


class Kept(Protocol):
    """A log whose partitions are looked after."""

    @property
    def is_closed(self) -> bool:
        """Whether that is over."""

    @property
    def cleaner_backoff_seconds(self) -> float:
        """How long after one look for what has to be compacted comes the next."""

    def apply_retention(self) -> None:
        """Delete what is too old or too much."""

    def compact_what_is_due(self) -> None:
        """Compact what is dirty enough."""


def flush_later(background: Background, reference: weakref.ref[Partition]) -> None:
    """Sync an "interval" partition every flush_ms, whichever process appended to it.

    The timetable holds no strong reference, so that a log which nobody uses can be collected.
    """
    partition = reference()
    if partition is None or partition.config.durability != "interval":
        return
    flush_ms = partition.config.flush_ms

    def flush() -> None:
        partition = reference()
        if partition is None or not partition.is_attached:
            return
        flush_later(background, reference)
        if partition.config.flush_ms == flush_ms:
            partition.flush()

    # With its period in its name: a shorter one begins at once.
    background.schedule(("flush", reference, flush_ms), flush_ms / 1000, flush)


def retain_later(background: Background, reference: weakref.ref[Kept]) -> None:
    """Apply retention now and then, as long as somebody uses the log."""

    def retain() -> None:
        engine = reference()
        if engine is not None and not engine.is_closed:
            retain_later(background, reference)
            engine.apply_retention()

    background.schedule("retention", _RETENTION_CHECK_SECONDS, retain)


def may_be_compacted(partition: Partition) -> bool:
    """Return whether a partition has to be looked at now and then.

    Most logs have internal topics of one segment, which is never compacted; not each of them needs
    a thread for that.
    """
    if not is_compacted(partition.config):
        return False
    if not layout.is_internal(partition.topic):
        return True
    dirty = partition.dirty_range()
    return dirty is not None and dirty.clean_bytes + dirty.dirty_bytes > 0


def sweep_later(background: Background, reference: weakref.ref[Kept]) -> None:
    """Compact what is due now and then, as long as somebody uses the log."""
    engine = reference()
    if engine is None:
        return
    delay = engine.cleaner_backoff_seconds

    def sweep() -> None:
        engine = reference()
        if engine is not None and not engine.is_closed:
            try:
                engine.compact_what_is_due()
            finally:
                sweep_later(background, reference)

    background.schedule("sweep", delay, sweep)


def remove_later(background: Background, reference: weakref.ref[Partition]) -> None:
    """Remove the files of deleted segments after a while, unless the partition is gone by then."""
    partition = reference()
    if partition is None:
        return
    delay = partition.config.file_delete_delay_ms / 1000

    def remove() -> None:
        partition = reference()
        if partition is not None:
            partition.remove_deleted()

    background.schedule(("deleted", reference), delay, remove)
