"""From the producer to the consumer: one record at a time, beside `multiprocessing.Queue`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

import pylog
from bench.conftest import Payload
from bench.receivers import (
    ProcessReceiver,
    Receiver,
    ThreadReceiver,
    items_in_process,
    receive_items,
    receive_records,
    receive_records_by_asyncio,
    records_in_process,
)
from bench.turns import KERNEL, MEMORY, Contestant, Race

COUNT = 100  # records of a round
ROUNDS = 6
NAMES = ("pylog-send", "pylog-append", "pylog-asyncio", "multiprocessing.Queue")


def percentile(receiver: Receiver, value: bytes, percent: int) -> float:
    return sorted(receiver.latencies(COUNT, value))[COUNT * percent // 100 - 1]


def race(group: str, directory: Path, value: bytes, stack: ExitStack, *, is_far: bool) -> Race:
    """Return the latencies in this process, or to another one."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("whether somebody sleeps is read from /proc")
    log = stack.enter_context(pylog.open(directory))
    log.create_topic("first")
    log.consumer("first", group="first").close()  # makes the topic of commits
    log.alter_topic("__consumer_offsets", durability="os")
    receivers: dict[str, Receiver] = {}
    for name, receive in (
        ("pylog-send", receive_records),
        ("pylog-append", receive_records),
        ("pylog-asyncio", receive_records_by_asyncio),
    ):
        topic = log.create_topic(name, durability="os")
        topic.append(value)
        send: Callable[[bytes], object] = topic.append
        if name == "pylog-send":
            send = partial(stack.enter_context(log.producer(linger_ms=0)).send, name)
        if is_far:
            receivers[name] = ProcessReceiver(send, records_in_process, receive, log.path, name)
        else:
            receivers[name] = ThreadReceiver(send, receive, log, name)
        stack.callback(receivers[name].end)
    items = multiprocessing.get_context("spawn").Queue()
    stack.callback(items.join_thread)
    stack.callback(items.close)
    name = "multiprocessing.Queue"
    if is_far:
        receivers[name] = ProcessReceiver(items.put, items_in_process, items)
    else:
        receivers[name] = ThreadReceiver(items.put, receive_items, items)
    stack.callback(receivers[name].end)
    contestants = {}
    for name, receiver in receivers.items():
        survives = MEMORY if name == "multiprocessing.Queue" else KERNEL
        for suffix, percent in (("", 50), ("-p99", 99)):
            run = partial(percentile, receiver, value, percent)
            contestants[name + suffix] = Contestant(run, survives, 1, len(value))
    return Race(group, contestants, rounds=ROUNDS)


@pytest.fixture(scope="module")
def near(directory: Path, payload: Payload) -> Iterator[Race]:
    with ExitStack() as stack:
        (value,) = payload.values(1)
        yield race("latency in a process", directory / "near", value, stack, is_far=False)


@pytest.fixture(scope="module")
def far(directory: Path, payload: Payload) -> Iterator[Race]:
    with ExitStack() as stack:
        (value,) = payload.values(1)
        yield race("latency to a process", directory / "far", value, stack, is_far=True)


LINES = [name + suffix for name in NAMES for suffix in ("", "-p99")]


@pytest.mark.parametrize("name", LINES)
def test_in_a_process(show: Callable[..., None], near: Race, name: str) -> None:
    show(near, name)


@pytest.mark.parametrize("name", LINES)
def test_to_a_process(show: Callable[..., None], far: Race, name: str) -> None:
    show(far, name)
