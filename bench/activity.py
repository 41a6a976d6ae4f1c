"""A process that appends activity: keyed events into many partitions, when it is told to.

Usage: python -m bench.activity DIRECTORY PARTITIONS EVENTS SEED WAY

WAY: "pylog" appends to the topic of that directory, "pwrite" writes as many bytes to as many files
of its own there: what the kernel alone takes.  Reads a number of calls from standard input, makes
them, and writes a line when it is done; the first line says that everything is open.
"""

from __future__ import annotations

import os
import random
import resource
import sys
from collections.abc import Callable
from contextlib import ExitStack

import pylog

TOPIC = "activity"
VALUE_BYTES = 84
RECORD_BYTES = 112  # with its key of 16 bytes, and Kafka's framing
PARTITIONS = 1400  # of LinkedIn's topic for activity
EVENTS = 70_000  # a call


def allow_open_files(count: int) -> None:
    """Raise the limit of descriptors, of which a partition keeps one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 2 * count + 1024:
        wanted = 2 * count + 1024
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def events(count: int, seed: int) -> tuple[list[bytes], list[bytes]]:
    """Return values and keys of events, each an object of its own, in the order they were made."""
    chosen = random.Random(seed)
    keys = [b"member-%09d" % chosen.randrange(10**7) for _ in range(count)]
    return [chosen.randbytes(VALUE_BYTES) for _ in range(count)], keys


def appender(topic: pylog.Topic, count: int, seed: int) -> Callable[[], object]:
    """Return the call that is measured; every partition is open."""
    values, keys = events(count, seed)
    topic.append_many(values, keys=keys)
    return lambda: topic.append_many(values, keys=keys)


def writer(directory: str, partitions: int, count: int) -> Callable[[], object]:
    """Return a call that writes the bytes of `count` events to files, without copies or checks."""
    flags = os.O_RDWR | os.O_CREAT
    files = [os.open(f"{directory}/{os.getpid()}-{n}", flags, 0o600) for n in range(partitions)]
    data = random.Random(0).randbytes(count * RECORD_BYTES // partitions)
    position = 0

    def write() -> None:
        nonlocal position
        for file in files:
            os.pwrite(file, data, position)
        position += len(data)

    return write


def main() -> None:
    directory, partitions, count, seed = sys.argv[1], *map(int, sys.argv[2:5])
    allow_open_files(partitions)
    with ExitStack() as stack:
        if sys.argv[5] == "pwrite":
            call = writer(directory, partitions, count)
        else:
            log = stack.enter_context(pylog.open(directory, create=False))
            call = appender(log.topic(TOPIC), count, seed)
        print("open", flush=True)
        for line in sys.stdin:
            for _ in range(int(line)):
                call()
            print("done", flush=True)


if __name__ == "__main__":
    main()
