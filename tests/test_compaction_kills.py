"""Compaction while all are at work: threads that switch at every chance, processes that die."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compacted import check_files, read_rows
from conftest import IS_EXHAUSTIVE
from keyed_ledgers import Ledgers, Replay
from processes import Child, Numbers, children
from tail_memory import wait_until

import pylog
from pylog import Partition
from pylog.topics.verification import verify

pytestmark = pytest.mark.usefixtures("quick_checksums")
KILLS = 1_000 if IS_EXHAUSTIVE else 30
STORM_SECONDS = 3_600 if IS_EXHAUSTIVE else 600  # hung is who needs longer, on the slowest machine
LEAD = 8_000  # records that writers append before somebody has compacted and somebody has read
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
        wait_until(lambda: done.is_set() or min(len(compactions), len(replays)) > 3)
        done.set()
        for thread in others:
            thread.join()

    assert not failures, failures
    assert min(len(compactions), len(replays)) > 3
    print(f"{ledgers.acknowledged} records, {len(compactions)} compactions, {len(replays)} replays")
    check_at_the_end(tmp_path, ledgers)


# ---------------------------------------------------------------- processes


class Storm:
    """Writers, readers and compactors, killed at random instants and replaced.

    Whoever is slow here is waited for: writers pause when nobody could compact or read since they
    appended so much, so that kills come at the pace of the work, on every machine.
    """

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
        self._may_write = Numbers(1)
        self._counts_before, self._most_acknowledged = (0, 0), LEAD

    @property
    def has_seen_enough(self) -> bool:
        return self.kills >= KILLS and min(self.counts[0], self.counts[1]) > 5

    def start(self, place: int) -> None:
        """Start the process of a place anew."""
        role, number = self.roles[place], place
        if role == self._write:
            number = self._next_life[place]
            self._next_life[place] += self.ledgers.slots
            self.lives[place] = self.ledgers.lives[number]
        self.children[place] = self._start(lambda: role(number))

    def kill(self, place: int) -> None:
        self._check_alive(place)
        child = self.children[place]
        assert child is not None
        child.kill()
        self.kills += 1

    def wait_for_writers(self) -> None:
        """Return after a random number of appends, or when a writer has done all of its own."""
        goal = self.ledgers.acknowledged + self.random.randrange(1, 2_000)
        while self._acknowledged() < goal and not any(life.is_full for life in self.lives):
            threading.Event().wait(0.001)

    def choose(self) -> int:
        """Choose who is killed next: a writer that has done all, or anybody."""
        full = [place for place, life in enumerate(self.lives) if life.is_full]
        return full[0] if full else self.random.randrange(len(self.roles))

    def _acknowledged(self) -> int:
        """Return how many records there are by now, and let writers go on or pause."""
        for place in range(len(self.roles)):
            self._check_alive(place)
        acknowledged = self.ledgers.acknowledged
        counts = self.counts[0], self.counts[1]
        if all(now > before for now, before in zip(counts, self._counts_before, strict=True)):
            self._counts_before, self._most_acknowledged = counts, acknowledged + LEAD
        self._may_write[0] = acknowledged < self._most_acknowledged
        return acknowledged

    def _check_alive(self, place: int) -> None:
        child = self.children[place]
        assert child is not None
        is_done = self.roles[place] == self._write and self.lives[place].is_full
        assert is_done or not child.has_failed(), "a child ended; it has said why"

    def _partition_for(self, work: Callable[[Partition], None]) -> None:
        with pylog.open(self.path) as log:
            partition = log.topic("t").partition(0)
            while True:
                work(partition)

    def _write(self, number: int) -> None:
        def pace() -> None:
            while not self._may_write[0]:
                threading.Event().wait(0.001)

        with pylog.open(self.path) as log:
            partition = log.topic("t").partition(0)
            many = (1, 5, 60)[number % 3]
            self.ledgers.lives[number].append_all(partition, many=many, pace=pace)

    def _compact(self, _: int) -> None:
        def work(partition: Partition) -> None:
            partition.compact()
            self.counts[0] += 1

        self._partition_for(work)

    def _read(self, place: int) -> None:
        replay, rng = Replay(self.ledgers), random.Random(place)

        def work(partition: Partition) -> None:
            replay.check(partition)
            for _ in range(20):
                replay.check_somewhere(partition, rng)
            self.counts[1] += 1

        self._partition_for(work)


@pytest.mark.slow
@pytest.mark.timeout(STORM_SECONDS)
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
    ledgers = Ledgers(lives=100 + KILLS, slots=2, turns=6_000, drops_tombstones=retention == 0)
    with children(alarm_seconds=STORM_SECONDS) as start:
        storm = Storm(tmp_path, ledgers, seed, start)
        for place in range(len(storm.roles)):
            storm.start(place)
        while not storm.has_seen_enough:
            storm.wait_for_writers()
            place = storm.choose()
            storm.kill(place)
            storm.start(place)
        for place in range(len(storm.roles)):
            storm.kill(place)
    check_at_the_end(tmp_path, ledgers)

    print(
        f"seed {seed}: {storm.kills} kills, {ledgers.acknowledged} records,"
        f" {storm.counts[0]} compactions, {storm.counts[1]} replays"
    )
    assert storm.has_seen_enough
