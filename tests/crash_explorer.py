"""Visit crash points: lives of partitions, cut off after each operation and opened again.

A *level* is one life of a partition: open (which recovers), some random steps, an end without
warning.  Its `History` says what was promised at which position of the trace.  At every position
the power is cut or the process killed, several times with different damage; each resulting state
is one *crash point*: it is opened and checked against the history.  Some of these states live on
as the next level, so that crashes happen inside recovery, up to three levels deep.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

from crash_checks import (
    FAILURES,
    Content,
    Contents,
    History,
    Process,
    Promise,
    ViolationError,
    check_contents,
    check_nothing_deleted,
    quiet,
    read_all,
)
from crash_model import DAMAGES, Disk, lose_all
from memory_files import MemoryFiles

from pylog.config import TopicConfig
from pylog.storage.partition import Partition

MAX_LEVELS = 3
# Of the points of a first life: neighbours tell little more, and all profiles get their turn soon.
# Planted bugs are found in half as many points as when all are visited (4,500 at most, not 8,800).
SHARE = 0.3
MAX_POINTS_OF_A_SEED = 6000
MAX_VIOLATIONS = 10


class Life:
    """One level: a partition over recording files, and the steps that processes put it through."""

    # What is done, and how often of all.
    STEPS: Mapping[str, int] = {
        "append": 12,
        "many": 4,
        "flush": 1,
        "delete": 1,
        "retain": 1,
        "reopen": 1,
    }
    make_history: type[History] = History
    # How a partition is read after a crash, and held to its promise; what opening may change.
    read = staticmethod(read_all)
    check = staticmethod(check_contents)
    check_files = staticmethod(check_nothing_deleted)

    @staticmethod
    def append_after(partition: Partition) -> tuple[int, Content]:
        """Append one record after a crash; return its offset, and how `read` shows it."""
        return partition.append(b"after").offset, b"after"

    @staticmethod
    def work_after(partition: Partition, contents: Contents) -> Contents:
        """Do what is to go well after a crash, and return what there is then."""
        return contents

    def __init__(
        self,
        disk: Disk,
        boot: int,
        history: History,
        profile: Profile,
        rng: random.Random,
        *,
        level: int,
    ) -> None:
        self.level = level
        self.disk = disk
        self.boot = boot
        self.history = history
        self.profile = profile
        self._rng = rng
        self.files = MemoryFiles(disk, boot=boot, is_recording=True, map_bytes=profile.map_bytes)
        # Often two processes take turns; a kill then kills both.
        self.processes = [Process(self.files) for _ in range(rng.choice((1, 2)))]

    def run(self, steps: int) -> None:
        """Open, then do `steps` random things."""
        history, rng = self.history, self._rng
        partitions = [process.partition(self.profile.config) for process in self.processes]
        found = self.read(partitions[0])
        history.note_opened(self.files.note(), found)
        for _ in range(steps):
            index = rng.randrange(len(partitions))
            process = self.processes[index]
            process.now += rng.choice((0, 1, 1000))
            kind = rng.choices(tuple(self.STEPS), tuple(self.STEPS.values()))[0]
            if kind == "reopen":
                partitions[index].close()
                process.unsynced.clear()
                partitions[index] = process.partition(self.profile.config)
                partitions[index].check()
            else:
                self.step(kind, partitions[index], process)
            if process.unsynced and rng.random() < 0.2:
                process.unsynced.pop(0).flush_sealed()
            history.note(self.files.note(), partitions[index])

    def step(self, kind: str, partition: Partition, process: Process) -> None:
        """Do one thing of STEPS to a partition of a process."""
        history, rng = self.history, self._rng
        if kind == "append":
            value = self._value(rng.randint(*self.profile.value_bytes))
            history.values.append(value)
            partition.append(value, key=rng.choice((None, b"key")))
        elif kind == "many":
            self._append_many(partition)
        elif kind == "flush":
            partition.flush()
        elif kind == "delete":
            self._delete_records(partition)
        elif kind == "retain":
            process.now += rng.choice((0, 2000))
            start = partition.apply_retention().log_start_offset
            history.asked_start = max(history.asked_start, start)

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


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """A topic's settings and what is done with it."""

    config: TopicConfig
    value_bytes: tuple[int, int]
    many_bytes: tuple[int, int]
    steps: int
    map_bytes: int = 80 << 10
    life: type[Life] = Life


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


@dataclasses.dataclass(slots=True)
class Explorer:
    """Visits crash points of one seed until `budget` is used up; counts them in `points`.

    share: of the points of the first level behind its first positions, how many are visited.
    """

    seed: int
    profile: Profile
    budget: int
    share: float
    points: int = 0

    def explore(self) -> Iterator[ViolationError]:
        """Yield each broken promise."""
        rng = random.Random(self.seed)
        history = self.profile.life.make_history(Promise(0, 0, 0, []), appended_end=0)
        life = self.profile.life(Disk(), 1, history, self.profile, rng, level=1)
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
                if level == 1 and not is_young and self.share < 1 and rng.random() >= self.share:
                    continue
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
            history = self.profile.life.make_history(durable, appended_end=promise.end)
            following = self.profile.life(state, boot, history, self.profile, rng, level=level + 1)
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
    found = profile.life.read(partition)
    profile.life.check(found, promise)
    if found and found[-1] is None and profile.config.durability == "fsync":
        raise ViolationError(f"the torn record {len(found) - 1} was not cut")
    partition.check()
    if is_thorough:
        profile.life.check_files(before, files.contents())
        _check_again(files, boot, profile, found)
    offset, after = profile.life.append_after(partition)
    if offset != len(found):
        raise ViolationError(f"an append after {len(found)} records got offset {offset}")
    if partition.durable_offset > partition.log_end_offset:
        raise ViolationError("durable beyond the end")
    if is_thorough:
        expected = profile.life.work_after(partition, [*found, after])
        partition.close()
        _check_again(files, boot, profile, expected)


def _check_again(files: MemoryFiles, boot: int, profile: Profile, expected: Contents) -> None:
    """Kill and open again; cut the power, lose all that was unsynced, and open again."""
    disk = files.disk_after()
    rng = random.Random(0)
    for state, next_boot in ((disk, boot), (disk.crash(lose_all, rng), boot + 1)):
        again = MemoryFiles(state, boot=next_boot, map_bytes=profile.map_bytes)
        found = profile.life.read(Process(again).partition(profile.config))
        if found != expected:
            raise ViolationError(f"opened again: {_difference(found, expected)}")


def _difference(found: Contents, expected: Contents) -> str:
    for offset, (one, other) in enumerate(zip(found, expected, strict=False)):
        if one != other:
            return f"record {offset} is {one!r:.20}, was {other!r:.20}"
    return f"{len(found)} records, were {len(expected)}"


def explore(
    first_seed: int,
    step: int,
    points: int,
    profiles: Sequence[Profile] = PROFILES,
    *,
    share: float = SHARE,
    most: int = MAX_VIOLATIONS,
) -> tuple[int, list[str]]:
    """Visit at least `points` crash points; returns (points, violations).

    Seeds are first_seed, first_seed + step ..., so that processes share them without overlap.
    share: of a seed's points, see Explorer; most: violations that are enough.
    """
    count = 0
    violations: list[str] = []
    with quiet():
        for seed in itertools.count(first_seed, step):
            if count >= points or len(violations) >= most:
                break
            profile = profiles[seed % len(profiles)]
            explorer = Explorer(seed, profile, MAX_POINTS_OF_A_SEED, share)
            found = itertools.islice(explorer.explore(), min(most, 5))
            violations += [str(one) for one in found]
            count += explorer.points
    return count, violations
