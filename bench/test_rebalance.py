"""What it takes until 300 members agree again: one comes, one goes, and a hundred are killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import pylog
from bench.receivers import ProcessReceiver, members_in_process
from bench.turns import KERNEL, Contestant, Race, timed
from pylog import Consumer, Log

MEMBERS = 300  # in three processes, each with one event loop
PROCESSES = 3
PARTITIONS = 600
ROUNDS = 5
TIMEOUT_SECONDS = 300.0


class Members:
    """A group with many members elsewhere, and one here that comes and goes."""

    def __init__(self, log: Log, stack: ExitStack) -> None:
        self._log = log
        self._consumer: Consumer | None = None
        log.create_topic("events", PARTITIONS, durability="os")
        log.consumer("events", group="first").close()  # makes the topic of commits
        log.alter_topic("__consumer_offsets", durability="os")
        each = MEMBERS // PROCESSES
        self._processes = []
        for _ in range(PROCESSES):  # one after the other: who joins at once tries more than once
            process = ProcessReceiver(
                lambda _: None, members_in_process, log.path, "group", "events", each
            )
            stack.callback(process.kill)
            self._processes.append(process)
        self._settle(MEMBERS)

    def _settle(self, count: int) -> None:
        """Wait until there are so many members, and each has what it is to have."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            (told,) = (one for one in self._log.groups.list() if one.group == "group")
            if (told.state, told.members) == ("stable", count):
                return
            assert time.monotonic() < deadline, told
            if self._consumer is None:
                time.sleep(0.001)
            else:
                self._consumer.poll(0.001)

    def come(self) -> None:
        """Let one more come, and get its share."""
        self._consumer = self._log.consumer("events", group="group")
        self._settle(MEMBERS + 1)

    def go(self) -> None:
        """Let it go, and others have its share."""
        assert self._consumer is not None
        self._consumer.close()
        self._consumer = None
        self._settle(MEMBERS)

    def comes(self) -> float:
        """Return the seconds that one takes to come."""
        seconds = timed(self.come)
        self.go()
        return seconds

    def goes(self) -> float:
        """Return the seconds that one takes to go."""
        self.come()
        return timed(self.go)

    def die(self) -> None:
        """Kill a process with a third of all members, and wait until others have their share."""
        process = self._processes.pop()
        process.kill()
        self._settle(len(self._processes) * MEMBERS // PROCESSES)


@pytest.fixture(scope="module")
def members(directory: Path) -> Iterator[Members]:
    with ExitStack() as stack:
        log = stack.enter_context(pylog.open(directory))
        yield Members(log, stack)


@pytest.fixture(scope="module")
def changes(members: Members) -> Race:
    contestants = {
        "comes": Contestant(members.comes, KERNEL, 1, 0),
        "goes": Contestant(members.goes, KERNEL, 1, 0),
    }
    return Race("rebalance 300 members", contestants, rounds=ROUNDS)


@pytest.fixture(scope="module")
def deaths(members: Members) -> Race:
    contestants = {"killed-100": Contestant(lambda: timed(members.die), KERNEL, 1, 0)}
    return Race("rebalance 300 members, killed", contestants, rounds=1)


@pytest.mark.parametrize("name", ["comes", "goes"])
def test_one_comes_or_goes(show: Callable[..., None], changes: Race, name: str) -> None:
    show(changes, name)


@pytest.mark.parametrize("name", ["killed-100"])
def test_a_hundred_are_killed(show: Callable[..., None], deaths: Race, name: str) -> None:
    show(deaths, name)
