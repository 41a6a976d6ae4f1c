"""Who receives what is sent one at a time, in a thread or a process, and says when it had it."""

from __future__ import annotations

import asyncio
import multiprocessing
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import pylog
from pylog import Log, aio

END = b"end"
TIMEOUT_SECONDS = 300.0

Tell = Callable[[int], object]  # of the monotonic clock, in ns: once at the start, then of each


class Items(Protocol):
    """A queue."""

    def get(self) -> bytes:
        """Return the next item."""


def receive_items(tell: Tell, items: Items) -> None:
    tell(0)
    while items.get() != END:
        tell(time.monotonic_ns())


def receive_records(tell: Tell, log: Log, topic: str) -> None:
    with log.consumer(topic, group=topic) as consumer:
        consumer.poll(0)
        tell(0)
        for record in consumer:
            now = time.monotonic_ns()
            if record.value == END:
                return
            tell(now)


def receive_records_by_asyncio(tell: Tell, log: Log, topic: str) -> None:
    async def receive() -> None:
        async with aio.Log(log) as own, own.consumer(topic, group=topic) as consumer:
            await consumer.poll(0)
            tell(0)
            async for record in consumer:
                now = time.monotonic_ns()
                if record.value == END:
                    return
                tell(now)

    asyncio.run(receive())


class Receiver(ABC):
    """Somebody who receives in the background.

    send: gives it an item; END ends it.
    """

    def __init__(self, send: Callable[[bytes], object]) -> None:
        self._send = send
        self.told()

    @property
    @abstractmethod
    def state(self) -> Path:
        """Where the kernel says what it does."""

    @abstractmethod
    def told(self) -> int:
        """Return the next time that it tells."""

    @abstractmethod
    def join(self) -> None:
        """Wait for its end."""

    def latencies(self, count: int, value: bytes) -> list[float]:
        """Send items one at a time, each when it sleeps; return the seconds until it had each."""
        found = []
        for _ in range(count):
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while self.state.read_text().rpartition(")")[2].split()[0] != "S":
                assert time.monotonic() < deadline, "the receiver does not sleep"
            start = time.monotonic_ns()
            self._send(value)
            found.append((self.told() - start) / 1e9)
        return found

    def end(self) -> None:
        self._send(END)
        self.join()


class ThreadReceiver(Receiver):
    """One in this process."""

    def __init__(
        self, send: Callable[[bytes], object], receive: Callable[..., None], *arguments: Any
    ) -> None:
        self._told: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread = threading.Thread(target=receive, args=(self._told.put, *arguments))
        self._thread.start()
        super().__init__(send)

    @property
    def state(self) -> Path:
        return Path(f"/proc/self/task/{self._thread.native_id}/stat")

    def told(self) -> int:
        return self._told.get(timeout=TIMEOUT_SECONDS)

    def join(self) -> None:
        self._thread.join(TIMEOUT_SECONDS)


class ProcessReceiver(Receiver):
    """One in a process of its own."""

    def __init__(
        self, send: Callable[[bytes], object], target: Callable[..., None], *arguments: Any
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._told, telling = context.Pipe(duplex=False)
        self._process = context.Process(target=target, args=(telling, *arguments), daemon=True)
        self._process.start()
        telling.close()
        super().__init__(send)

    @property
    def state(self) -> Path:
        return Path(f"/proc/{self._process.pid}/stat")

    def told(self) -> int:
        assert self._told.poll(TIMEOUT_SECONDS), "the receiver ended or did not wake up"
        return int.from_bytes(self._told.recv_bytes(), "little")

    def join(self) -> None:
        self._process.join(TIMEOUT_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End it as it is.  Idempotent."""
        self._process.kill()
        self._process.join()
        self._told.close()


def _teller(telling: Connection) -> Tell:
    return lambda now: telling.send_bytes(now.to_bytes(8, "little"))


def items_in_process(telling: Connection, items: Items) -> None:
    receive_items(_teller(telling), items)


def records_in_process(
    telling: Connection, receive: Callable[[Tell, Log, str], None], path: str, topic: str
) -> None:
    with pylog.open(path, create=False) as log:
        receive(_teller(telling), log, topic)


def members_in_process(telling: Connection, path: str, group: str, topic: str, count: int) -> None:
    """Be so many members of a group, in one event loop, until the process is killed."""

    async def members() -> None:
        async with aio.open(path, create=False) as log:
            consumers = [await log.consumer(topic, group=group) for _ in range(count)]
            _teller(telling)(0)
            await asyncio.gather(*(consumer.poll() for consumer in consumers))

    asyncio.run(members())
