"""Power cuts on a real ext4: what was acknowledged is on the disk, and nothing else is read.

A child appends; at a random instant the file system is shut down under it, as if the power had
gone, and the child is killed.  The disk is unmounted and mounted again, so that nothing is left in
memory, and the log is opened from what had reached the device.

What counts as acknowledged is read before the cut begins: a sync that is in flight while the file
system shuts down may return as if it had succeeded (measured with a bare loop of pwrite and
fdatasync on Linux 6.18: its last sync in 133 of 600 cuts), which nobody hears of in a power cut.
"""

from __future__ import annotations

import bisect
import dataclasses
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import IS_EXHAUSTIVE
from crash_checks import quiet, read_all
from disks import LOG_FLUSH, NO_LOG_FLUSH, Ext4Disk, Filler, ext4_disk
from processes import Numbers, children, value_of
from tail_memory import wait_until

import pylog
from pylog import Log, Partition
from pylog.engine.engine import Engine
from pylog.errors import DurabilityUnknownError, NotAppendedError, PartitionFullError
from pylog.storage.files import OsFile, OsFiles
from pylog.topics.verification import verify

pytestmark = [pytest.mark.root, pytest.mark.slow]

SEED = int(os.environ.get("PYLOG_POWER_SEED", "0"))
CUTS = 400 if IS_EXHAUSTIVE else 20
REOPENINGS = 20  # before a cut, at most
DISK_BYTES = 48 << 20
FRESH_AFTER = 8  # cuts that one log survives before it is deleted
TURNS = 20_000


class Told:
    """What the writer of one life was told, in memory that outlives it.

    A life appends turns 0, 1, 2, ...; the offset of each is noted when the append has returned, and
    the durable offset when it was asked for.
    """

    def __init__(self, life: int) -> None:
        self.life = life
        self.kept: list[int] = []  # turns that were read after a cut: never to be lost again
        self._numbers = Numbers(3 + TURNS)
        self._durable_turns = 0

    @property
    def started(self) -> int:
        """How many turns were begun."""
        return self._numbers[0]

    @property
    def acknowledged(self) -> int:
        """How many turns were acknowledged."""
        return self._numbers[1]

    def offset(self, turn: int) -> int:
        return self._numbers[3 + turn]

    @property
    def durable_turns(self) -> int:
        """How many turns were said to be on disk when the promises were noted."""
        return self._durable_turns

    @property
    def durable_offset(self) -> int:
        """Below it every record was said to be on disk."""
        return self._numbers[2]

    def note_promises(self, durability: str) -> None:
        """Note what was promised so far; in the parent, before the power is cut."""
        # In this order: the writer notes them in the other one.
        acknowledged, durable_offset = self._numbers[1], self._numbers[2]
        turns = range(acknowledged)
        durable = bisect.bisect_left(turns, durable_offset, key=self.offset)
        if durability == "fsync":
            assert durable == acknowledged
        self._durable_turns = durable

    def note_clean_end(self) -> None:
        """Note that the log was closed: all is on disk."""
        if self.acknowledged:
            self._numbers[2] = self.offset(self.acknowledged - 1) + 1

    def append(self, partition: Partition, many: int) -> bool:
        """Append the next turns in one call; returns False when no more can be noted."""
        numbers, turn = self._numbers, self._numbers[1]
        if turn + many > TURNS:
            return False
        numbers[0] = turn + many
        values = [value_of(self.life, turn + place) for place in range(many)]
        if many == 1:
            offsets = [partition.append(values[0]).offset]
        else:
            offsets = [one.offset for one in partition.append_many(values)]
        for place, offset in enumerate(offsets):
            numbers[3 + turn + place] = offset
        # First: whoever looks in between finds no more acknowledged than durable.
        numbers[2] = max(numbers[2], partition.durable_offset)
        numbers[1] = turn + many
        return True


@dataclasses.dataclass(frozen=True)
class Plan:
    """One cut, drawn at random."""

    durability: str
    flags: int
    many: int  # records per call
    reopen_after: int  # calls after which the writer closes the log and opens it again
    goal: int  # records acknowledged before the cut
    delay_ns: int  # and the time after that
    is_reboot: bool  # the boot id changes, too

    @classmethod
    def draw(cls, rng: random.Random, durability: str) -> Plan:
        flags = rng.choice([NO_LOG_FLUSH, NO_LOG_FLUSH, LOG_FLUSH])
        many, reopen_after = rng.choice([1, 1, 1, 7, 300]), rng.choice([3, 50, TURNS])
        goal = rng.choice([0, 1, rng.randrange(200), rng.randrange(2000)])
        return cls(
            durability=durability,
            flags=flags,
            many=many,
            reopen_after=reopen_after,
            goal=min(goal, REOPENINGS * reopen_after * many),
            delay_ns=rng.choice([0, rng.randrange(1_000_000), rng.randrange(10_000_000)]),
            is_reboot=rng.random() < 0.5,
        )


class Rebooted(OsFiles):
    """The machine after a boot, as far as pylog can tell."""

    def boot_identity(self) -> str:
        return f"another boot than {super().boot_identity()}"


def opened(path: Path, *, is_reboot: bool) -> Log:
    if not is_reboot:
        return pylog.open(path)
    engine = Engine(str(path), file_system=Rebooted())
    engine.open(create=True)
    return Log(engine)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Ext4Disk]:
    with quiet(), ext4_disk(tmp_path, size=DISK_BYTES) as made:
        yield made


def write_until_cut(path: Path, told: Told, plan: Plan) -> None:
    """Append in one life after another of the log, until the disk answers no more."""
    try:
        while True:
            with pylog.open(path) as log:
                topic = log.create_topic(
                    "t",
                    if_exists="ok",
                    durability=plan.durability,
                    segment_bytes=20_000,
                    flush_ms=5,
                )
                for _ in range(plan.reopen_after):
                    if not told.append(topic.partition(0), plan.many):
                        return
            told.note_clean_end()
    except (DurabilityUnknownError, NotAppendedError, OSError):
        return


def cut(disk: Ext4Disk, path: Path, told: Told, plan: Plan) -> None:
    """Let a child append, cut the power at the instant of the plan, and start the machine again."""
    with children() as start:
        child = start(lambda: write_until_cut(path, told, plan))
        wait_until(lambda: told.acknowledged >= plan.goal)
        end = time.monotonic_ns() + plan.delay_ns
        wait_until(lambda: time.monotonic_ns() >= end)
        told.note_promises(plan.durability)
        disk.cut_power(plan.flags)
        child.kill()
    disk.restart()


def check(partition: Partition, tolds: list[Told]) -> int:
    """Assert that the partition holds what its writers were told; returns the records.

    Offsets are dense, every record is one that a life appended, unaltered, each life's in order;
    all that were said to be durable are there, at the offsets that were told.
    """
    by_life = {told.life: told for told in tolds}
    found: dict[int, list[int]] = {told.life: [] for told in tolds}
    values = read_all(partition)
    assert len(values) == partition.log_end_offset
    for offset, value in enumerate(values):
        if value is None:
            continue  # a hole that raises CorruptRangeError; whether it may be is asked below
        life, turn = (int.from_bytes(value[start : start + 4], "big") for start in (0, 4))
        told = by_life[life]
        assert value == value_of(life, turn)
        assert turn < told.started
        assert not found[life] or turn > found[life][-1]
        assert turn >= told.acknowledged or told.offset(turn) == offset
        found[life].append(turn)
    for life, told in by_life.items():
        durable = told.durable_turns
        assert found[life][:durable] == list(range(durable))
        assert set(told.kept) <= set(found[life])
        # Opening made durable what it showed.
        told.kept = found[life]
    if partition.config.durability == "fsync":
        assert None not in values
    partition.check()
    return sum(value is not None for value in values)


def check_after_cut(path: Path, tolds: list[Told], plan: Plan) -> int:
    """Open the log, check it, append, and check again; returns the records found."""
    with opened(path, is_reboot=plan.is_reboot) as log:
        if log.topics() == []:
            assert not any(told.durable_turns for told in tolds)
            return 0
        partition = log.topic("t").partition(0)
        count = check(partition, tolds)
        told = Told(tolds[-1].life + 1)
        tolds.append(told)
        for many in (1, 20, 1):
            assert told.append(partition, many)
        check(partition, tolds)
    told.note_clean_end()
    told.note_promises(plan.durability)
    if plan.durability == "fsync":
        check_verified(path)
    return count


def check_verified(path: Path) -> None:
    """Assert that `verify` finds no damage but in indexes, which are caches and not synced."""
    for report in verify(str(path)):
        damages = [finding for finding in report.findings if finding.is_damage]
        assert [one for one in damages if not one.path.endswith("index")] == []


@dataclasses.dataclass
class Work:
    """What was done, so that a test can tell that it did something."""

    cuts: int = 0
    acknowledged: int = 0
    found: int = 0
    segments: int = 0

    def note(self, path: Path) -> None:
        self.segments += len(list(path.glob("t-0/*.log")))


def cut_again_and_again(disk: Ext4Disk, rng: random.Random, durability: str, cuts: int) -> Work:
    """Cut the power `cuts` times; some logs are cut again before anybody looked at them."""
    work = Work()
    tolds: list[Told] = []
    path = disk.point / "0"
    for number in range(cuts):
        if number % FRESH_AFTER == 0:
            work.note(path)
            shutil.rmtree(path, ignore_errors=True)
            path, tolds = disk.point / f"{number}", []
        plan = Plan.draw(rng, durability)
        told = Told(tolds[-1].life + 1 if tolds else 0)
        tolds.append(told)
        cut(disk, path, told, plan)
        work.cuts += 1
        work.acknowledged += told.acknowledged
        if rng.random() < 0.75 or number == cuts - 1:
            try:
                work.found += check_after_cut(path, tolds, plan)
            except AssertionError as error:
                error.add_note(f"cut {number}: {plan}")
                raise
    work.note(path)
    return work


@pytest.mark.timeout(3600 if IS_EXHAUSTIVE else 600)
@pytest.mark.parametrize("durability", ["fsync", "interval"])
def test_records_said_to_be_durable_survive_power_cuts(disk: Ext4Disk, durability: str) -> None:
    print(f"seed {SEED} {durability}")
    cuts = CUTS // 2 if durability == "interval" else CUTS
    work = cut_again_and_again(disk, random.Random(SEED), durability, cuts)
    print(f"seed {SEED} {durability}: {work}")

    assert work.cuts == cuts
    assert work.acknowledged > 30 * cuts
    assert work.found > 30 * cuts
    assert work.segments > cuts // 4


def test_interval_syncs_in_the_background_what_then_survives(disk: Ext4Disk) -> None:
    path, told = disk.point / "log", Told(1)

    def append_and_wait() -> None:
        log = pylog.open(path)
        partition = log.create_topic("t", durability="interval", flush_ms=20).partition(0)
        for _ in range(1000):
            told.append(partition, 1)
        # Nobody flushes: the background does.
        wait_until(lambda: partition.durable_offset == 1000)
        told.note_clean_end()
        wait_until(lambda: False)

    with children() as start:
        child = start(append_and_wait)
        wait_until(lambda: told.durable_offset == 1000)
        told.note_promises("interval")
        disk.cut_power(NO_LOG_FLUSH)
        child.kill()
    disk.restart()

    with pylog.open(path) as log:
        assert check(log.topic("t").partition(0), [told]) == 1000


def test_log_opens_and_reads_on_a_disk_that_is_full_after_the_cut(disk: Ext4Disk) -> None:
    # The page that processes share had never been synced: it was empty after the cut, and there was
    # no space to make it.
    path, told = disk.point / "log", Told(1)

    def append() -> None:
        partition = pylog.open(path).create_topic("t", segment_bytes=20_000).partition(0)
        for _ in range(500):
            told.append(partition, 1)
        wait_until(lambda: False)

    with children() as start:
        child = start(append)
        wait_until(lambda: told.acknowledged == 500)
        told.note_promises("fsync")
        disk.cut_power(NO_LOG_FLUSH)
        child.kill()
    disk.restart()
    filler = Filler(disk.point)
    filler.take_inodes()
    filler.take_bytes()

    with pylog.open(path) as log:
        partition = log.topic("t").partition(0)
        assert check(partition, [told]) == 500
        with pytest.raises(PartitionFullError):
            partition.append(b"refused")
        filler.give_all()
        told.append(partition, 1)
        assert check(partition, [told]) == 501


def test_dropped_sync_is_found_by_the_cuts(disk: Ext4Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    # The test of the test: without fdatasync the same cuts must find that records are lost.
    monkeypatch.setattr(OsFile, "sync_data", lambda self: None)
    with pytest.raises(AssertionError, match=r"cut \d+: Plan"):
        cut_again_and_again(disk, random.Random(SEED), "fsync", 40)
