"""Truncation and replica appends while calls of the file system fail: each one, with any error.

Whatever fails, the log is the old one or the new one, in every process and after the next opening.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
from conftest import IS_EXHAUSTIVE
from crash_checks import quiet
from crash_model import keep_all, lose_all
from replicas import Host, all_records

from pylog.config import TopicConfig
from pylog.errors import PylogError
from pylog.storage.partition import Partition

Contents: TypeAlias = list[tuple[int, bytes | None]]  # offset and value
CODES = (errno.EIO, errno.ENOSPC, errno.EMFILE)[: 3 if IS_EXHAUSTIVE else 2]
CONFIG = TopicConfig(
    durability="fsync", segment_bytes=900, segment_index_bytes=240, max_message_bytes=600
)


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with quiet():
        yield


def filled() -> tuple[Host, Partition, Partition]:
    host = Host()
    one, other = host.partition(CONFIG), host.partition(CONFIG)
    one.begin_epoch(2)
    for n in range(20):
        (one, other)[n % 2].append(b"%d" % n * 30)
    one.begin_epoch(3)
    one.append(b"last" * 20)
    return host, one, other


def batch() -> bytes:
    source = Host().partition(CONFIG)
    source.append_replica(b"", end_offset=21)
    source.begin_epoch(5)
    source.append(b"new" * 20)
    return bytes(source.read_batches(21).data)


def replicate(partition: Partition) -> None:
    partition.append_replica(batch(), end_offset=25)


def contents(partition: Partition) -> Contents:
    return [(record.offset, record.value) for record in all_records(partition)]


# What is done, the ends of the log that it may leave, and how many records it keeps in any case.
CHANGES: dict[str, tuple[Callable[[Partition], object], set[int], int]] = {
    "middle": (lambda one: one.truncate(11, force=True), {21, 11}, 11),
    "all": (lambda one: one.truncate(0, force=True), {21, 0}, 0),
    "anew": (lambda one: one.start_anew(100), {21, 100}, 0),
    "epoch": (lambda one: one.begin_epoch(9), {21}, 21),
    "replica": (replicate, {21, 22, 25}, 21),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_failed_call_leaves_the_old_log_or_the_new_one(name: str) -> None:
    change, ends, kept = CHANGES[name]
    failed = 0
    for number, code in enumerate(CODES):
        # Every other call on an ordinary day: those that one error leaves out meet the other.
        for nth in range(200) if IS_EXHAUSTIVE else range(number, 200, 2):
            host, one, other = filled()
            before = contents(one)
            host.files.fail(nth=nth, code=code)
            try:
                change(one)
            except (PylogError, OSError):
                failed += 1
            fault = host.files._fault
            struck = fault is not None and fault.left < 0
            host.files.heal()
            check(
                host,
                other,
                before,
                ends,
                before[:kept],
                f"{name}: call {nth}, {errno.errorcode[code]}",
            )
            if not struck:
                break
    assert failed > 3


def check(
    host: Host,
    other: Partition,
    before: Contents,
    ends: set[int],
    promised: Contents,
    where: str,
) -> None:
    """Look at what another process has, and at what is there after a kill and after power cuts."""
    is_failed = other.state == "failed"
    if not is_failed:
        found = contents(other)
        assert other.log_end_offset in ends, where
        assert found[: len(before)] == before[: len(found)], where
        offset = other.append(b"after").offset
        assert offset in ends, where
        promised = contents(other)
        assert promised[-1] == (offset, b"after"), where
        other.check()
    for again in (host.killed(), host.cut_off(damage=lose_all), host.cut_off(damage=keep_all)):
        partition = again.partition(CONFIG)
        found = contents(partition)
        assert found[: len(promised)] == promised, where
        # Read-only: whether it came to pass is found out by who opens it next.
        assert not is_failed or partition.log_end_offset in ends, where
        assert not is_failed or found[: len(before)] == before[: len(found)], where
        partition.append(b"and on")
        partition.check()
