"""From an append in this process to a blocked reader in another one."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import pylog
from bench.conftest import Payload
from bench.turns import KERNEL, MEMORY, Contestant, Race
from bench.waiter import END

TIMEOUT_SECONDS = 300.0
ROUNDS = 500


class Waiter:
    """A child process that blocks until it is woken, and tells when that was."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "bench.waiter", *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.descriptor = self.process.stdin.fileno()
        self._output = self.process.stdout.fileno()
        try:
            self.told()
        except BaseException:
            self.end()
            raise

    def told(self) -> int:
        """Return the next time that the child tells, on the monotonic clock in ns."""
        ready, _, _ = select.select([self._output], [], [], TIMEOUT_SECONDS)
        data = os.read(self._output, 8) if ready else b""
        assert len(data) == 8, "the waiter ended or did not wake up"
        return int.from_bytes(data, "little")

    def wait_until_blocked(self) -> None:
        """Return when the child sleeps in the kernel: only then is its wake-up measured."""
        path = Path(f"/proc/{self.process.pid}/stat")
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while path.read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < deadline, "the waiter does not block"

    def wake(self, how: Callable[[], object]) -> float:
        """Return the seconds between the begin of `how` and the waiter's first instruction."""
        self.wait_until_blocked()
        start = time.monotonic_ns()
        how()
        return (self.told() - start) / 1e9

    def end(self) -> None:
        """End the child and join it, however it is."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(TIMEOUT_SECONDS)
        finally:
            self.process.kill()
            self.process.wait(TIMEOUT_SECONDS)
            self.process.stdout.close()


@pytest.fixture(scope="module")
def wakeups(directory: Path, payload: Payload) -> Iterator[Race]:
    if not sys.platform.startswith("linux"):
        pytest.skip("whether a process is blocked is read from /proc")
    (value,) = payload.values(1)
    with ExitStack() as stack:
        log = stack.enter_context(pylog.open(directory / "log"))
        partition = log.create_topic("events", durability="os").partition(0)
        partition.append(value)
        reader = Waiter(log.path, "events")
        stack.callback(reader.end)
        # Another topic, so that only one of them has something to read.
        consumed = log.create_topic("consumed", durability="os").partition(0)
        consumer = Waiter(log.path, "consumed", "group")
        stack.callback(consumer.end)
        stack.callback(consumed.append, END)
        stack.callback(partition.append, END)
        piped = Waiter("-")
        stack.callback(piped.end)
        contestants = {
            "pylog": Contestant(
                lambda: reader.wake(lambda: partition.append(value)), KERNEL, 1, len(value)
            ),
            "pylog-group": Contestant(
                lambda: consumer.wake(lambda: consumed.append(value)), KERNEL, 1, len(value)
            ),
            "os.pipe": Contestant(
                lambda: piped.wake(lambda: os.write(piped.descriptor, b"x")), MEMORY, 1, 1
            ),
        }
        yield Race("wake-up", contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", ["pylog", "pylog-group", "os.pipe"])
def test_wake_up(show: Callable[..., None], wakeups: Race, name: str) -> None:
    show(wakeups, name)
