"""Many processes, one directory, no owner: who appends, reads, joins, leaves or is killed."""

from __future__ import annotations

import functools
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import IS_EXHAUSTIVE
from processes import Child, Ledger, Numbers, check_ledgers, children
from tail_memory import wait_until

import pylog
from pylog.storage.manifest import parse_manifest

pytestmark = pytest.mark.disk  # syncs take their time there, so that others wait

ROOT = Path(__file__).resolve().parent.parent
KILLS = 4_000 if IS_EXHAUSTIVE else 40
STORM_SECONDS = 3_600 if IS_EXHAUSTIVE else 600  # hung is who needs longer, on the slowest machine


def topic_in(path: Path, **settings: object) -> None:
    """Create a log with the topic "t" and close it."""
    with pylog.open(path) as log:
        log.create_topic("t", **settings)


def manifest_of(path: Path) -> str:
    return (path / "t-0" / "manifest").read_text()


# ---------------------------------------------------------------- together


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_writers_and_readers_of_many_processes_agree(tmp_path: Path, durability: str) -> None:
    topic_in(tmp_path, durability=durability, segment_bytes=40_000)
    turns = 1_500 if durability == "os" else 300
    manies = (1, 7, 1, 19)
    ledgers = [Ledger(life, turns) for life in range(4)]
    total = sum(turns // many * many for many in manies)

    def write(ledger: Ledger, many: int) -> None:
        with pylog.open(tmp_path) as log:
            ledger.append_all(log.topic("t").partition(0), many=many)

    def read() -> None:
        with pylog.open(tmp_path) as log:
            for expected, record in enumerate(log.read("t", follow=True)):
                assert record.offset == expected
                if expected == total - 1:
                    return

    with children() as start:
        readers = [start(read) for _ in range(2)]
        writers = [
            start(lambda ledger=ledger, many=many: write(ledger, many))
            for ledger, many in zip(ledgers, manies, strict=True)
        ]
        for child in writers + readers:
            child.join()

    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        partition.check()
        assert check_ledgers(partition, ledgers) == total
        segments = len(list((tmp_path / "t-0").glob("*.log")))
        assert segments > 3


def test_interpreters_that_share_nothing_append_to_one_log(tmp_path: Path) -> None:
    topic_in(tmp_path, durability="os")
    code = (
        "import sys, pylog\n"
        "with pylog.open(sys.argv[1]) as log:\n"
        "    topic = log.topic('t')\n"
        "    for turn in range(500): print(topic.append(b'%d' % turn).offset)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, env=environment
        )
        for _ in range(3)
    ]
    try:
        offsets = [[int(line) for line in program.communicate()[0].split()] for program in programs]
    finally:
        for program in programs:
            program.kill()
            program.wait()

    assert sorted(offset for mine in offsets for offset in mine) == list(range(1500))
    assert all(mine == sorted(mine) for mine in offsets)
    with pylog.open(tmp_path) as log:
        assert [record.offset for record in log.read("t")] == list(range(1500))


def test_processes_that_make_a_log_at_once_make_one(tmp_path: Path) -> None:
    for turn in range(10):
        path, arrived = tmp_path / str(turn), Numbers(4)

        def make(number: int, path: Path = path, arrived: Numbers = arrived) -> None:
            arrived[number] = 1
            while not all(arrived[other] for other in range(4)):
                pass
            with pylog.open(path) as log:
                topic = log.create_topic("t", durability="os", if_exists="ok")
                topic.append(b"%d" % number)

        with children() as start:
            for child in [start(functools.partial(make, number)) for number in range(4)]:
                child.join()
        with pylog.open(path) as log:
            assert {record.value for record in log.read("t")} == {b"0", b"1", b"2", b"3"}


def test_a_roll_is_seen_by_who_attached_before_it(tmp_path: Path) -> None:
    topic_in(tmp_path, durability="os", segment_bytes=300)
    told = Numbers(2)

    def other() -> None:
        with pylog.open(tmp_path) as log:
            partition = log.topic("t").partition(0)
            partition.append(b"from the other")
            told[0] = 1
            wait_until(lambda: told[1] == 1)
            assert partition.append(b"after the rolls").offset == 21
            assert [record.offset for record in partition.records()] == list(range(22))

    with children() as start:
        child = start(other)
        wait_until(lambda: told[0] == 1)
        with pylog.open(tmp_path) as log:
            partition = log.topic("t").partition(0)
            for _ in range(20):
                partition.append(bytes(90))
            told[1] = 1
            child.join()
            partition.check()
            assert len([record.value for record in partition.records()]) == 22
    assert len(list((tmp_path / "t-0").glob("*.log"))) > 5


def test_a_reader_follows_across_rolls_of_another_process(tmp_path: Path) -> None:
    topic_in(tmp_path, durability="os", segment_bytes=500)

    def follow() -> None:
        with pylog.open(tmp_path) as log:
            records = log.read("t", follow=True)
            assert [next(records).offset for _ in range(300)] == list(range(300))

    with children() as start, pylog.open(tmp_path) as log:
        topic = log.topic("t")
        child = start(follow)
        for turn in range(300):
            topic.append(b"%d" % turn)
        child.join()


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_a_blocked_reader_is_woken_by_an_append_elsewhere(tmp_path: Path, durability: str) -> None:
    topic_in(tmp_path, durability=durability)
    seen = Numbers(1)
    rounds = 50

    def read() -> None:
        with pylog.open(tmp_path) as log:
            partition = log.topic("t").partition(0)
            for offset in range(rounds):
                assert partition.wait(offset)
                assert next(iter(partition.read(offset))).offset == offset
                seen[0] = offset + 1

    slept = 0
    with children() as start:
        child = start(read)
        with pylog.open(tmp_path) as log:
            topic = log.topic("t")
            for offset in range(rounds):
                wait_until(lambda offset=offset: seen[0] == offset)
                wait_until(child.is_asleep)
                slept += 1
                topic.append(b"%d" % offset)
            child.join()
    assert slept == rounds


def test_a_reader_of_all_partitions_is_woken_by_an_append_elsewhere(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("t", partitions=3, durability="os")
    seen = Numbers(1)

    def follow() -> None:
        with pylog.open(tmp_path) as log:
            records = log.read("t", follow=True)
            for count in range(30):
                assert next(records).value == b"%d" % count
                seen[0] = count + 1

    with children() as start:
        child = start(follow)
        with pylog.open(tmp_path) as log:
            topic = log.topic("t")
            for count in range(30):
                wait_until(lambda count=count: seen[0] == count)
                topic.append(b"%d" % count, partition=count % 3)
            child.join()


def test_many_attach_and_leave_while_others_write(tmp_path: Path) -> None:
    topic_in(tmp_path, durability="os", segment_bytes=100_000)
    stop, joined = Numbers(1), Numbers(3)
    ledgers = [Ledger(life, 6_000) for life in range(2)]

    def write(ledger: Ledger) -> None:
        with pylog.open(tmp_path) as log:
            ledger.append_all(log.topic("t").partition(0))

    def come_and_go(slot: int) -> None:
        while not stop[0]:
            with pylog.open(tmp_path) as log:
                partition = log.topic("t").partition(0)
                end = partition.high_watermark
                if end:
                    assert next(iter(partition.read(end - 1))).offset == end - 1
                partition.check()
            joined[slot] += 1

    with children() as start:
        visitors = [start(lambda slot=slot: come_and_go(slot)) for slot in range(3)]
        writers = [start(lambda ledger=ledger: write(ledger)) for ledger in ledgers]
        for child in writers:
            child.join()
        stop[0] = 1
        for child in visitors:
            child.join()

    assert min(joined[slot] for slot in range(3)) > 0
    with pylog.open(tmp_path) as log:
        assert check_ledgers(log.topic("t").partition(0), ledgers) == 2 * 6_000


# ---------------------------------------------------------------- the end


def test_the_last_one_out_leaves_a_clean_manifest(tmp_path: Path) -> None:
    topic_in(tmp_path, durability="os")
    may_leave = Numbers(2)

    def stay(slot: int) -> None:
        with pylog.open(tmp_path) as log:
            log.topic("t").append(b"%d" % slot)
            wait_until(lambda: may_leave[slot] == 1)

    with children() as start:
        staying = [start(lambda slot=slot: stay(slot)) for slot in range(2)]
        with pylog.open(tmp_path) as log:
            assert log.topic("t").partition(0).wait(1)
        assert "is_clean 0" in manifest_of(tmp_path)
        may_leave[0] = 1
        staying[0].join()
        assert "is_clean 0" in manifest_of(tmp_path)
        may_leave[1] = 1
        staying[1].join()

    manifest = parse_manifest(manifest_of(tmp_path).encode(), path="manifest")
    assert manifest.is_clean
    assert manifest.durable_offset == manifest.log_end_offset == 2


def test_a_killed_process_does_not_keep_the_others_from_a_clean_end(tmp_path: Path) -> None:
    topic_in(tmp_path, durability="os")

    def append_for_ever() -> None:
        with pylog.open(tmp_path) as log:
            topic = log.topic("t")
            while True:
                topic.append(b"x")

    with children() as start:
        child = start(append_for_ever)
        with pylog.open(tmp_path) as log:
            partition = log.topic("t").partition(0)
            assert partition.wait(1000)
            child.kill()
            end = partition.append(b"last").offset + 1

    assert "is_clean 1" in manifest_of(tmp_path)
    with pylog.open(tmp_path) as log:
        assert log.topic("t").partition(0).log_end_offset == end


# ---------------------------------------------------------------- kills


class Storm:
    """Writers that append, and are killed at random instants and replaced."""

    def __init__(self, path: Path, seed: int, start: Callable[[Callable[[], object]], Child]):
        self.path = path
        self.random = random.Random(seed)
        self.ledgers: list[Ledger] = []
        self.writers: list[tuple[Child, Ledger]] = []
        self.kills = 0
        self._start = start

    def add_writer(self) -> None:
        ledger = Ledger(len(self.ledgers))
        many = self.random.choice((1, 1, 1, 5, 40))
        self.ledgers.append(ledger)
        self.writers.append((self._start(lambda: self._write(ledger, many)), ledger))

    def _write(self, ledger: Ledger, many: int) -> None:
        with pylog.open(self.path) as log:
            ledger.append_all(log.topic("t").partition(0), many=many)

    def wait_for_turns(self) -> None:
        """Return when a random writer has done some turns: at once, or when all are at work."""
        _, ledger = self.random.choice(self.writers)
        goal = self.random.choice((0, 0, 1, 10, 100))
        wait_until(lambda: ledger.started >= goal)

    def kill_one(self) -> None:
        child, _ = self.writers.pop(self.random.randrange(len(self.writers)))
        child.kill()
        self.kills += 1


@pytest.mark.slow
@pytest.mark.timeout(STORM_SECONDS)
@pytest.mark.parametrize("segment_bytes", [1 << 30, 200_000], ids=["one segment", "rolls"])
def test_killed_writers_lose_nothing_and_block_nobody(tmp_path: Path, segment_bytes: int) -> None:
    topic_in(tmp_path, durability="os", segment_bytes=segment_bytes)
    seed = random.randrange(2**32)
    with children(alarm_seconds=STORM_SECONDS) as start:
        storm = Storm(tmp_path, seed, start)
        for _ in range(3):
            storm.add_writer()
        with pylog.open(tmp_path) as log:
            partition = log.topic("t").partition(0)
            while storm.kills < KILLS:
                partition.wait(partition.high_watermark + storm.random.randrange(1_000))
                storm.kill_one()
                storm.add_writer()
                partition.check()
            for child, _ in storm.writers:
                child.kill()
            partition.check()
            records = check_ledgers(partition, storm.ledgers)

    print(f"seed {seed}: {storm.kills} kills, {records} records")
    assert records > 0


@pytest.mark.slow
@pytest.mark.timeout(STORM_SECONDS)
@pytest.mark.parametrize("durability", ["os", "fsync", "interval"])
def test_when_all_are_killed_the_next_one_recovers(tmp_path: Path, durability: str) -> None:
    topic_in(tmp_path, durability=durability, segment_bytes=50_000)
    seed = random.randrange(2**32)
    rounds = 0
    with children(alarm_seconds=STORM_SECONDS) as start:
        storm = Storm(tmp_path, seed, start)
        while rounds < KILLS / 4 or not any(ledger.acknowledged for ledger in storm.ledgers):
            for _ in range(3):
                storm.add_writer()
            storm.wait_for_turns()
            while storm.writers:
                storm.kill_one()
            rounds += 1

    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        partition.check()
        records = check_ledgers(partition, storm.ledgers)
    print(f"seed {seed}: {rounds} recoveries, {storm.kills} kills, {records} records")
    assert records > 0
