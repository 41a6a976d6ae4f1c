"""Compaction while all are at work: threads that switch at every chance, processes that die."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compacted import check_files, read_rows
from conftest import IS_EXHAUSTIVE
from keyed_ledgers import Ledgers, Replay
from processes import Child, Numbers, children

import pylog
from pylog import Partition
from pylog.verification import verify

pytestmark = pytest.mark.usefixtures("quick_checksums")
STORM_SECONDS = 600 if IS_EXHAUSTIVE else 3
DAY = 86_400_000


@pytest.fixture
def busy_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def topic_in(path: Path, **settings: object) -> None:
    with pylog.open(path) as log:
        log.create_topic("t", cleanup_policy="compact", **settings)


def check_at_the_end(path: Path, ledgers: Ledgers) -> None:
    """Assert that what is left means what was acknowledged, that it is sound and can be cleaned."""
    for _ in range(2):
        with pylog.open(path) as log:
            partition = log.topic("t").partition(0)
            partition.check()
            Replay(ledgers).check(partition)
            partition.compact()
            Replay(ledgers).check(partition)
            rows = read_rows(partition)
            files = {one.name: one.read_bytes() for one in (path / "t-0").iterdir()}
            check_files(files, rows)
        findings = [one for report in verify(str(path)) for one in report.findings]
        assert not [one for one in findings if one.is_damage]
    assert not list((path / "t-0").glob("*.cleaned"))


# ---------------------------------------------------------------- threads


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["producer", "lz4"])
def test_threads_read_and_append_while_another_compacts(
    tmp_path: Path, codec: str, busy_switching: None
) -> None:
    retention = 0 if codec == "lz4" else DAY
    ledgers = Ledgers(lives=16, slots=2, turns=700, drops_tombstones=retention == 0)
    topic_in(
        tmp_path,
        durability="os",
        segment_bytes=20_000,
        compression_type=codec,
        delete_retention_ms=retention,
    )
    done, compacted = threading.Event(), threading.Semaphore(0)
    compactions, replays = [], []
    failures: list[BaseException] = []

    def running(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)
                done.set()
                raise

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)

        def read() -> None:
            replay, rng = Replay(ledgers), random.Random()
            while not done.is_set():
                replays.append(replay.check(partition))
                replay.check_somewhere(partition, rng)

        def compact() -> None:
            while not done.is_set():
                compactions.append(partition.compact())
                compacted.release(2)

        def write(slot: int) -> None:
            for life in ledgers.lives[slot::2]:
                life.append_all(partition, many=1 + 6 * slot)
                # Two writers would leave compaction far behind.
                while not done.is_set() and not compacted.acquire(timeout=1):
                    pass

        others = [running(read), running(read), running(compact)]
        writers = [running(lambda slot=slot: write(slot)) for slot in range(2)]
        for thread in writers:
            thread.join()
        done.set()
        for thread in others:
            thread.join()

    assert not failures, failures
    assert min(len(compactions), len(replays)) > 3
    print(f"{ledgers.acknowledged} records, {len(compactions)} compactions, {len(replays)} replays")
    check_at_the_end(tmp_path, ledgers)


# ---------------------------------------------------------------- processes


class Storm:
    """Writers, readers and compactors, killed at random instants and replaced."""

    def __init__(
        self,
        path: Path,
        ledgers: Ledgers,
        seed: int,
        start: Callable[[Callable[[], object]], Child],
    ) -> None:
        self.path = path
        self.ledgers = ledgers
        self.random = random.Random(seed)
        self.counts = Numbers(2)  # compactions, replays that came to their end
        self.kills = 0
        self._start = start
        self.roles: list[Callable[[int], None]] = [self._write] * ledgers.slots
        self.roles += [self._compact] * 2 + [self._read] * 2
        self.children: list[Child | None] = [None] * len(self.roles)
        self._next_life = list(range(ledgers.slots))
        self.lives = ledgers.lives[: ledgers.slots]

    @property
    def has_seen_enough(self) -> bool:
        return self.kills > 20 and min(self.counts[0], self.counts[1]) > 5

    def start(self, place: int) -> bool:
        """Start the process of a place anew; return whether there is a life left for it."""
        role, number = self.roles[place], place
        if role == self._write:
            number = self._next_life[place]
            if number >= len(self.ledgers.lives):
                return False
            self._next_life[place] += self.ledgers.slots
            self.lives[place] = self.ledgers.lives[number]
        self.children[place] = self._start(lambda: role(number))
        return True

    def kill(self, place: int) -> None:
        child = self.children[place]
        assert child is not None
        is_done = self.roles[place] == self._write and self.lives[place].is_full
        assert is_done or not child.has_failed(), "a child ended; it has said why"
        child.kill()
        self.kills += 1

    def _partition_for(self, work: Callable[[Partition], None]) -> None:
        with pylog.open(self.path) as log:
            partition = log.topic("t").partition(0)
            while True:
                work(partition)

    def _write(self, number: int) -> None:
        os.nice(10)  # on few processors compaction would hardly come to its end
        with pylog.open(self.path) as log:
            partition = log.topic("t").partition(0)
            self.ledgers.lives[number].append_all(partition, many=(1, 5, 60)[number % 3])

    def _compact(self, _: int) -> None:
        def work(partition: Partition) -> None:
            partition.compact()
            self.counts[0] += 1

        self._partition_for(work)

    def _read(self, place: int) -> None:
        os.nice(10)
        replay, rng = Replay(self.ledgers), random.Random(place)

        def work(partition: Partition) -> None:
            replay.check(partition)
            for _ in range(20):
                replay.check_somewhere(partition, rng)
            self.counts[1] += 1

        self._partition_for(work)


@pytest.mark.slow
@pytest.mark.timeout(STORM_SECONDS + 90)
@pytest.mark.parametrize("retention", [0, DAY], ids=["tombstones go", "tombstones stay"])
def test_killed_compactors_lose_nothing_and_block_nobody(tmp_path: Path, retention: int) -> None:
    topic_in(
        tmp_path,
        durability="os",
        segment_bytes=30_000,
        delete_retention_ms=retention,
        file_delete_delay_ms=0,
    )
    seed = random.randrange(2**32)
    ledgers = Ledgers(lives=400, slots=2, turns=6_000, drops_tombstones=retention == 0)
    deadline = time.monotonic() + STORM_SECONDS
    with children(alarm_seconds=STORM_SECONDS + 60) as start:
        storm = Storm(tmp_path, ledgers, seed, start)
        for place in range(len(storm.roles)):
            storm.start(place)
        while time.monotonic() < deadline or (
            not storm.has_seen_enough and time.monotonic() < deadline + 40
        ):
            goal = ledgers.acknowledged + storm.random.randrange(1, 2_000)
            patience = time.monotonic() + 0.1
            while ledgers.acknowledged < goal and time.monotonic() < patience:
                os.sched_yield()
            place = storm.random.randrange(len(storm.roles))
            storm.kill(place)
            if not storm.start(place):
                break
        for place in range(len(storm.roles)):
            storm.kill(place)
    check_at_the_end(tmp_path, ledgers)

    print(
        f"seed {seed}: {storm.kills} kills, {ledgers.acknowledged} records,"
        f" {storm.counts[0]} compactions, {storm.counts[1]} replays"
    )
    assert storm.has_seen_enough
