"""Run a partition over files that crash, and hold it to what it promised.

Which lives there are and where they end is crash_explorer.py's.

What is checked (the invariants of RELIABILITY section 4):
    open succeeds; every record promised is there, unaltered, at its offset; nothing is read that
    was not appended in this life or read at its beginning; offsets are dense; a torn tail is cut,
    and saved beside; an append after recovery gets a new offset; opening again shows the same, and
    so it does after losing all that was unsynced; the log start never goes back, and nothing is
    gone above what somebody asked to delete

Promised is, after a power cut, what was below the durable offset; after a kill, what was appended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import random
import uuid
from collections.abc import Iterator
from typing import Any, TypeAlias

from memory_files import MemoryFiles

from pylog import codecs
from pylog.config import TopicConfig
from pylog.errors import CorruptRangeError, PylogError
from pylog.storage.cleaner_config import CleanerConfig
from pylog.storage.descriptors import Descriptors
from pylog.storage.environment import Environment, Flushable
from pylog.storage.partition import Partition

TOPIC_ID = uuid.UUID(int=7)
# What a bug may raise: noted with its seed, and the run goes on.  Anything else ends it.
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    LookupError,
    OSError,
    PylogError,
    RuntimeError,
    TypeError,
    ValueError,
)
Content: TypeAlias = Any  # a value; None: unreadable, and said so
Contents: TypeAlias = list[Content]  # by offset
DELETED = b"deleted"  # in the place of the records below the log start
# Compaction takes rounds for more than 32 keys, and several pieces for a segment.
SMALL_CLEANER = CleanerConfig(dedupe_buffer_bytes=1 << 10, cleaner_io_buffer_bytes=4096)


class ViolationError(AssertionError):
    """A promise that was broken; the text says how to see it again."""


class Process:
    """What one process shares among its partitions, over files in memory."""

    def __init__(self, files: MemoryFiles, cleaner: CleanerConfig = SMALL_CLEANER) -> None:
        self.files = files
        self.now = 1_700_000_000_000
        self.unsynced: list[Flushable] = []  # the background's work, done when a test says so
        self.lock_file = files.root().open("pylog.lock", writable=True, create=True)
        self.environment = Environment(
            lock_file=lambda: self.lock_file,
            boot_identity=files.boot_identity(),
            descriptors=Descriptors(),
            clock=lambda: self.now,
            monotonic=lambda: 0.0,
            log_events=None,
            settings=None,
            settings_of=lambda topic, topic_id: None,
            decompress=codecs.decompress,
            random_bytes=random.Random(0).randbytes,
            cleaner=cleaner,
            on_attach=lambda _: None,
            on_configured=lambda _: None,
            on_unsynced_roll=self.unsynced.append,
            on_deleted_files=lambda _: None,
        )

    def partition(self, config: TopicConfig) -> Partition:
        return Partition(
            self.files.root().directory("topic-0"),
            topic="topic",
            number=0,
            topic_id=TOPIC_ID,
            config=config,
            environment=self.environment,
        )


def start_of(contents: Contents) -> int:
    """Return the log start offset."""
    return next((n for n, value in enumerate(contents) if value is not DELETED), len(contents))


def read_all(partition: Partition) -> Contents:
    """Return all values below the end, None where reading says that they are damaged.

    Raises ViolationError when offsets are not dense or reading does not move on.
    """
    end = partition.high_watermark
    found: Contents = [DELETED] * partition.log_start_offset
    while len(found) < end:
        offset = len(found)
        try:
            records = partition.read(offset)
        except CorruptRangeError as error:
            if not error.first <= offset <= error.last < end:
                raise ViolationError(f"reading {offset} of {end}: {error}") from error
            found.extend([None] * (error.last + 1 - offset))
            continue
        for record in records:
            if record.offset != len(found):
                raise ViolationError(f"offset {record.offset} where {len(found)} should be")
            found.append(record.value)
        if len(found) == offset or records.next_offset != len(found):
            raise ViolationError(f"reading {offset} of {end} ends at {records.next_offset}")
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """What was promised from a position of the trace on: the records in [start, each end)."""

    position: int
    start: int
    durable_end: int
    appended_end: int


@dataclasses.dataclass(frozen=True, slots=True)
class Promise:
    """What a crash has to leave: the log start may lie in [start, max_start]."""

    start: int
    max_start: int
    end: int
    allowed: Contents


class History:
    """What one level appended and promised."""

    def __init__(self, before: Promise, *, appended_end: int) -> None:
        """before: what holds until recovery is done; appended_end: what a kill must leave."""
        self.before = before
        self.values: Contents = []
        self.asked_start = 0  # the highest log start that was asked for
        self.opened_at: int | None = None
        self.claims = [Claim(0, before.start, before.end, appended_end)]

    def note_opened(self, position: int, contents: Contents) -> None:
        """From here on, what recovery let be read is promised like what was synced."""
        self.opened_at = position
        self.values = contents.copy()
        self.asked_start = start_of(contents)
        self.claims.append(Claim(position, self.asked_start, len(contents), len(contents)))

    def note(self, position: int, partition: Partition) -> None:
        claim = Claim(
            position,
            partition.log_start_offset,
            partition.durable_offset,
            partition.log_end_offset,
        )
        self.claims.append(claim)

    def at(self, position: int, *, is_kill: bool) -> Promise:
        """Return what was promised for a crash after `position` operations."""
        claim = next(c for c in reversed(self.claims) if c.position <= position)
        end = claim.appended_end if is_kill else claim.durable_end
        if self.opened_at is None or self.opened_at > position:
            before = self.before
            return Promise(claim.start, before.max_start, end, before.allowed)
        return Promise(claim.start, self.asked_start, end, self.values)


def check_range(found: Contents, promise: Promise) -> int:
    """Raise ViolationError unless as many offsets are there as may be; return the log start."""
    promised_end, allowed = promise.end, promise.allowed
    start = start_of(found)
    if not promise.start <= start <= promise.max_start:
        raise ViolationError(
            f"the log starts at {start}, not in [{promise.start}, {promise.max_start}]"
        )
    if len(found) < promised_end:
        raise ViolationError(f"{promised_end} records were promised, {len(found)} are there")
    if len(found) > len(allowed):
        raise ViolationError(f"{len(found)} records, but only {len(allowed)} were ever appended")
    return start


def check_contents(found: Contents, promise: Promise) -> None:
    """Raise ViolationError unless `found` keeps the promise and holds nothing else."""
    promised_end, allowed = promise.end, promise.allowed
    start = check_range(found, promise)
    for offset, value in enumerate(found[start:], start):
        if value is None:
            if offset < promised_end and allowed[offset] is not None:
                raise ViolationError(f"record {offset} of {promised_end} promised is unreadable")
        elif value != allowed[offset]:
            raise ViolationError(f"record {offset} is {value[:20]!r}, not {allowed[offset]!r:.20}")


def check_nothing_deleted(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """Raise ViolationError when bytes of a log are neither in place nor in a file beside it."""
    for path, data in before.items():
        if not path.endswith(".log"):
            continue
        kept = after.get(path, b"")
        cut = data[len(kept) :].rstrip(b"\0")
        beside = [one for name, one in after.items() if name.startswith(f"{path}.")]
        if not data.startswith(kept) or not any(one.startswith(cut) for one in (b"", *beside)):
            raise ViolationError(f"{path}: {len(data)} bytes became {len(kept)}, the rest is gone")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep recovery's thousands of warnings out of the test's log."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
