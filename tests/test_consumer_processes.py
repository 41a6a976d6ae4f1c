"""Members in several processes, killed and stopped at random: nothing is lost, nobody shares.

Each worker copies the records that it gets to the same partition of another topic, and commits
after that.  While it has a partition it holds a kernel lock for it, so that two owners would meet.
"""

from __future__ import annotations

import fcntl
import functools
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from processes import Child, children

import pylog
from pylog import Log, TopicPartition

SEED = int(os.environ.get("PYLOG_PROCESSES_SEED", "0")) or random.randrange(2**32)
PARTITIONS = 4
ROUNDS = 3  # in each of which all workers begin anew
WORKERS = 3
RECORDS = 600  # in each round
DISTURBANCES = 40  # in each round


class Owned:
    """The partitions that a worker has, each with a lock of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[int, int] = {}

    def take(self, partitions: set[TopicPartition]) -> None:
        """Lock partitions; raises BlockingIOError when another worker has one."""
        for _, number in partitions:
            file = os.open(self._directory / str(number), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._files[number] = file

    def give(self, partitions: set[TopicPartition]) -> None:
        """Unlock partitions."""
        for _, number in partitions:
            os.close(self._files.pop(number))


def work(path: Path, seed: int) -> None:
    """Copy records until all are copied that will come; leave and join again now and then."""
    chance = random.Random(seed)
    with pylog.open(path / "log") as log:
        copies = log.topic("copies")
        while True:
            owned = Owned(path)
            with log.consumer(
                "events",
                group="g",
                enable_auto_commit=chance.random() < 0.5,
                auto_commit_interval_ms=5,
                on_assigned=owned.take,
                on_revoked=owned.give,
            ) as consumer:
                for record in consumer.records(timeout=0.05):
                    assert record.key is not None
                    copies.append(record.value, record.key, partition=record.partition)
                    if chance.random() < 0.05:
                        consumer.commit(record)
                    if chance.random() < 0.002:
                        break


class Watch:
    """Appends events, and looks that committed offsets never go back."""

    def __init__(self) -> None:
        self.appended = 0
        self._committed = dict.fromkeys(range(PARTITIONS), 0)

    @property
    def least_committed(self) -> int:
        """How far the group came in the partition where it came least far."""
        return min(self._committed.values())

    def look(self, log: Log, *, end: int, most: int = 5) -> None:
        """Append some events up to `end`, and look."""
        for number in range(self.appended, min(self.appended + most, end)):
            value = b"%d" % number
            log.topic("events").append(value, value, partition=number % PARTITIONS)
            self.appended = number + 1
        names = [TopicPartition("events", number) for number in self._committed]
        for (_, number), one in log._coordinator.committed("g", names).items():
            offset = 0 if one is None else one.offset
            assert offset >= self._committed[number]
            self._committed[number] = offset


def disturb(workers: list[Child], chance: random.Random, look: Callable[[], None]) -> None:
    """Stop workers and let them go on, kill all but one, and look after each time."""
    alive = list(workers)
    for _ in range(DISTURBANCES):
        victim = chance.choice(alive)
        if chance.random() < 0.05 and len(alive) > 1:
            victim.kill()
            alive.remove(victim)
        else:
            # It may hold a lock that this process would wait for: only the others go on.
            os.kill(victim.pid, signal.SIGSTOP)
            threading.Event().wait(chance.random() * 0.02)
            os.kill(victim.pid, signal.SIGCONT)
        look()
    for worker in alive:
        assert os.waitpid(worker.pid, os.WNOHANG) == (0, 0), "a worker failed"


def test_members_that_are_killed_and_stopped_lose_nothing_and_share_nothing(
    tmp_path: Path,
) -> None:
    print(f"PYLOG_PROCESSES_SEED={SEED}")
    chance, watch = random.Random(SEED), Watch()
    with pylog.open(tmp_path / "log") as log:
        for name in ("events", "copies"):
            log.create_topic(name, partitions=PARTITIONS, durability="os")
        log.consumer("events", group="g").close()
        log.alter_topic("__consumer_offsets", durability="os")
    for turn in range(1, ROUNDS + 1):
        with children() as start:
            seeds = [chance.randrange(2**32) for _ in range(WORKERS)]
            workers = [start(lambda seed=seed: work(tmp_path, seed)) for seed in seeds]
            with pylog.open(tmp_path / "log") as log:
                look = functools.partial(watch.look, log, end=turn * RECORDS)
                committed = watch.least_committed
                disturb(workers, chance, look)
                look(most=RECORDS)
                # Those who are left go on, everywhere.
                while watch.least_committed == committed:
                    look()
    with pylog.open(tmp_path / "log") as log:
        with log.consumer("events", group="g") as consumer:
            while len(consumer.assignment()) < PARTITIONS or sum(consumer.lag().values()):
                for record in consumer.poll(0.1):
                    log.topic("copies").append(record.value, record.key, partition=record.partition)
        for number in range(PARTITIONS):
            copied = [int(record.value or b"") for record in log.read("copies", partition=number)]
            # Some come again, none is missing, and each comes first in its order.
            first = list(dict.fromkeys(copied))
            assert first == list(range(number, ROUNDS * RECORDS, PARTITIONS))
