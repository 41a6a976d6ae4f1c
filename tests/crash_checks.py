"""Run a partition over files that crash, and hold it to what it promised.

A *level* is one life of a partition: open (which recovers), some random steps, an end without
warning.  Its `History` says what was promised at which position of the trace.  At every position
the power is cut or the process killed, several times with different damage; each resulting state
is one *crash point*: it is opened and checked against the history.  Some of these states live on
as the next level, so that crashes happen inside recovery, up to three levels deep.

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
import itertools
import logging
import random
import uuid
from collections.abc import Iterator, Sequence

from crash_model import DAMAGES, Disk, lose_all
from memory_files import MemoryFiles

from pylog import codecs
from pylog.config import TopicConfig
from pylog.errors import CorruptRangeError, PylogError
from pylog.storage.descriptors import Descriptors
from pylog.storage.environment import Environment, Flushable
from pylog.storage.partition import Partition

MAX_LEVELS = 3
MAX_POINTS_OF_A_SEED = 6000
MAX_VIOLATIONS = 10
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
Contents = list[bytes | None]  # values by offset; None: unreadable, and said so
DELETED = b"deleted"  # in the place of the records below the log start


class ViolationError(AssertionError):
    """A promise that was broken; the text says how to see it again."""


class Process:
    """What one process shares among its partitions, over files in memory."""

    def __init__(self, files: MemoryFiles) -> None:
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


def check_contents(found: Contents, promise: Promise) -> None:
    """Raise ViolationError unless `found` keeps the promise and holds nothing else."""
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
    for offset, value in enumerate(found[start:], start):
        if value is None:
            if offset < promised_end and allowed[offset] is not None:
                raise ViolationError(f"record {offset} of {promised_end} promised is unreadable")
        elif value != allowed[offset]:
            raise ViolationError(f"record {offset} is {value[:20]!r}, not {allowed[offset]!r:.20}")


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """A topic's settings and what is done with it."""

    config: TopicConfig
    value_bytes: tuple[int, int]
    many_bytes: tuple[int, int]
    steps: int
    map_bytes: int = 80 << 10


def _config(
    durability: str, segment_bytes: int, *, interval: int = 512, index: int = 96
) -> TopicConfig:
    return TopicConfig(
        durability=durability,
        segment_bytes=segment_bytes,
        segment_index_bytes=index,
        index_interval_bytes=interval,
        # By size, or by time, which seals the active segment first.
        retention_bytes=2 * segment_bytes if index == 96 else -1,
        retention_ms=-1 if index == 96 else 1500,
        # Files that are removed at once, and files that wait for the next open.
        file_delete_delay_ms=0 if index == 96 else 60_000,
        # Less than a segment, so that append_many goes in chunks and rolls in the middle.
        max_message_bytes=segment_bytes // 2,
    )


PROFILES: Sequence[Profile] = (
    Profile(_config("fsync", 2048), (0, 300), (1, 6000), 24),
    Profile(_config("interval", 4096), (0, 300), (1, 900), 24),
    Profile(_config("fsync", 4096, interval=0, index=4096), (0, 120), (1, 300), 24),
    Profile(_config("os", 2048), (0, 200), (1, 600), 24),
    Profile(_config("fsync", 8192, index=4096), (0, 900), (1, 3000), 24),
    # Batches of 64 KiB and more take the path of one pwrite.
    Profile(
        _config("fsync", 200_000, interval=4096, index=4096),
        (0, 5000),
        (70_000, 150_000),
        8,
        512 << 10,
    ),
)


class Life:
    """One level: a partition over recording files, and the steps that processes put it through."""

    def __init__(
        self, disk: Disk, boot: int, history: History, profile: Profile, rng: random.Random
    ) -> None:
        self.disk = disk
        self.boot = boot
        self.history = history
        self.profile = profile
        self._rng = rng
        self.files = MemoryFiles(disk, boot=boot, is_recording=True, map_bytes=profile.map_bytes)
        # Often two processes take turns; a kill then kills both.
        self._processes = [Process(self.files) for _ in range(rng.choice((1, 2)))]

    def run(self, steps: int) -> None:
        """Open, then do `steps` random things."""
        history, rng = self.history, self._rng
        partitions = [process.partition(self.profile.config) for process in self._processes]
        found = read_all(partitions[0])
        history.note_opened(self.files.note(), found)
        for _ in range(steps):
            index = rng.randrange(len(partitions))
            process = self._processes[index]
            process.now += rng.choice((0, 1, 1000))
            kinds = ("append", "many", "flush", "delete", "retain", "reopen")
            kind = rng.choices(kinds, (12, 4, 1, 1, 1, 1))[0]
            if kind == "append":
                value = self._value(rng.randint(*self.profile.value_bytes))
                history.values.append(value)
                partitions[index].append(value, key=rng.choice((None, b"key")))
            elif kind == "many":
                self._append_many(partitions[index])
            elif kind == "flush":
                partitions[index].flush()
            elif kind == "delete":
                self._delete_records(partitions[index])
            elif kind == "retain":
                process.now += rng.choice((0, 2000))
                start = partitions[index].apply_retention().log_start_offset
                history.asked_start = max(history.asked_start, start)
            else:
                partitions[index].close()
                process.unsynced.clear()
                partitions[index] = process.partition(self.profile.config)
                partitions[index].check()
            if process.unsynced and rng.random() < 0.2:
                process.unsynced.pop(0).flush_sealed()
            history.note(self.files.note(), partitions[index])

    def _append_many(self, partition: Partition) -> None:
        rng = self._rng
        left = rng.randint(*self.profile.many_bytes)
        values = []
        while left > 0:
            size = rng.randint(*self.profile.value_bytes)
            values.append(self._value(size, ahead=len(values)))
            left -= size + 60
        self.history.values.extend(values)
        partition.append_many(values)

    def _delete_records(self, partition: Partition) -> None:
        start, end = partition.log_start_offset, partition.high_watermark
        before = self._rng.choice((end, self._rng.randint(start, end)))
        self.history.asked_start = max(self.history.asked_start, before)
        partition.delete_records(before)

    def _value(self, size: int, *, ahead: int = 0) -> bytes:
        """Return a value that no other record of any level has."""
        text = f"{self.boot}.{len(self.history.values) + ahead}."
        # Random bytes, because a torn run of equal ones would look whole.
        return text.encode() + self._rng.randbytes(size)


@dataclasses.dataclass(slots=True)
class Explorer:
    """Visits crash points of one seed until `budget` is used up; counts them in `points`."""

    seed: int
    profile: Profile
    budget: int
    points: int = 0

    def explore(self) -> Iterator[ViolationError]:
        """Yield each broken promise."""
        rng = random.Random(self.seed)
        history = History(Promise(0, 0, 0, []), appended_end=0)
        life = Life(Disk(), 1, history, self.profile, rng)
        yield from self._explore_life(life, rng, level=1, steps=self.profile.steps, where="")

    def _explore_life(
        self, life: Life, rng: random.Random, *, level: int, steps: int, where: str
    ) -> Iterator[ViolationError]:
        try:
            life.run(steps)
        except FAILURES as error:
            yield self._violation(error, where + "alive")
            return
        disk = life.disk.copy()
        trace = life.files.trace
        assert trace is not None
        for position in range(len(trace) + 1):
            # The first open of a partition does the most, and is a small part of a life.
            is_young = level == 1 and position < 40
            for number in range(8 if is_young else 3 if level == 1 else rng.randint(0, 2)):
                if self.points >= self.budget:
                    return
                name = f"{where}{position}/{number} "
                yield from self._one_point(life, disk, position, number, rng, level, name)
            if position < len(trace):
                disk.apply(trace[position])

    def _one_point(
        self,
        life: Life,
        disk: Disk,
        position: int,
        number: int,
        rng: random.Random,
        level: int,
        where: str,
    ) -> Iterator[ViolationError]:
        is_kill = rng.random() < 0.2
        is_thorough = rng.random() < (0.4 if is_kill else 0.1)
        damage = DAMAGES[(position + number * 5 + self.seed) % len(DAMAGES)]
        state = disk.copy() if is_kill else disk.crash(damage, rng)
        boot = life.boot if is_kill else life.boot + 1
        durable = life.history.at(position, is_kill=False)
        promise = life.history.at(position, is_kill=True) if is_kill else durable
        where += "kill" if is_kill else damage.__name__
        self.points += 1
        try:
            check_state(state, boot, self.profile, promise, is_thorough=is_thorough)
        except FAILURES as error:
            yield self._violation(error, where)
            return
        if level < MAX_LEVELS and rng.random() < (0.02 if level == 1 else 0.01):
            # A kill promises nothing more to the power cut that follows it.
            history = History(durable, appended_end=promise.end)
            following = Life(state, boot, history, self.profile, rng)
            yield from self._explore_life(
                following, rng, level=level + 1, steps=2, where=where + " > "
            )

    def _violation(self, error: Exception, where: str) -> ViolationError:
        violation = ViolationError(f"seed {self.seed}: {where}: {type(error).__name__}: {error}")
        violation.__cause__ = error
        return violation


def check_state(
    disk: Disk,
    boot: int,
    profile: Profile,
    promise: Promise,
    *,
    is_thorough: bool,
) -> None:
    """Open what a crash left and check it; raises ViolationError or what the partition raised."""
    files = MemoryFiles(disk, boot=boot, is_recording=is_thorough, map_bytes=profile.map_bytes)
    before = files.contents() if is_thorough else {}
    partition = Process(files).partition(profile.config)
    found = read_all(partition)
    check_contents(found, promise)
    if found and found[-1] is None and profile.config.durability == "fsync":
        raise ViolationError(f"the torn record {len(found) - 1} was not cut")
    partition.check()
    if is_thorough:
        check_nothing_deleted(before, files.contents())
        _check_again(files, boot, profile, found)
    offset = partition.append(b"after").offset
    if offset != len(found):
        raise ViolationError(f"an append after {len(found)} records got offset {offset}")
    if partition.durable_offset > partition.log_end_offset:
        raise ViolationError("durable beyond the end")
    if is_thorough:
        partition.close()
        _check_again(files, boot, profile, [*found, b"after"])


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


def _check_again(files: MemoryFiles, boot: int, profile: Profile, expected: Contents) -> None:
    """Kill and open again; cut the power, lose all that was unsynced, and open again."""
    disk = files.disk_after()
    rng = random.Random(0)
    for state, next_boot in ((disk, boot), (disk.crash(lose_all, rng), boot + 1)):
        again = MemoryFiles(state, boot=next_boot, map_bytes=profile.map_bytes)
        found = read_all(Process(again).partition(profile.config))
        if found != expected:
            raise ViolationError(f"opened again: {_difference(found, expected)}")


def _difference(found: Contents, expected: Contents) -> str:
    for offset, (one, other) in enumerate(zip(found, expected, strict=False)):
        if one != other:
            return f"record {offset} is {one!r:.20}, was {other!r:.20}"
    return f"{len(found)} records, were {len(expected)}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep recovery's thousands of warnings out of the test's log."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def explore(first_seed: int, step: int, points: int) -> tuple[int, list[str]]:
    """Visit at least `points` crash points; returns (points, violations).

    Seeds are first_seed, first_seed + step ..., so that processes share them without overlap.
    """
    count = 0
    violations: list[str] = []
    with quiet():
        for seed in itertools.count(first_seed, step):
            if count >= points or len(violations) >= MAX_VIOLATIONS:
                break
            explorer = Explorer(seed, PROFILES[seed % len(PROFILES)], MAX_POINTS_OF_A_SEED)
            violations += [str(found) for found in itertools.islice(explorer.explore(), 5)]
            count += explorer.points
    return count, violations
