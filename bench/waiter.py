"""A process that waits: for each record, or each byte on standard input, it says when it woke up.

Usage: python -m bench.waiter DIRECTORY TOPIC [GROUP], or python -m bench.waiter -
With a group it waits as a consumer of that, else as a plain reader of the first partition.
Writes eight bytes to standard output, the monotonic clock in ns, once at its start and then for
each wake-up.  Ends with the record b"end", or the end of standard input.
"""

from __future__ import annotations

import os
import sys
import time

import pylog

END = b"end"


def tell(now: int) -> None:
    os.write(sys.stdout.fileno(), now.to_bytes(8, "little"))


def wait_for_records(directory: str, topic: str) -> None:
    with pylog.open(directory, create=False) as log:
        partition = log.topic(topic).partition(0)
        start = partition.high_watermark
        tell(time.monotonic_ns())
        for record in partition.records(start, follow=True):
            now = time.monotonic_ns()
            if record.value == END:
                return
            tell(now)


def wait_in_group(directory: str, topic: str, group: str) -> None:
    with (
        pylog.open(directory, create=False) as log,
        log.consumer(topic, group=group, auto_offset_reset="latest") as consumer,
    ):
        consumer.poll(0)
        tell(time.monotonic_ns())
        for record in consumer:
            now = time.monotonic_ns()
            if record.value == END:
                return
            tell(now)


def wait_for_bytes() -> None:
    tell(time.monotonic_ns())
    while os.read(sys.stdin.fileno(), 1):
        tell(time.monotonic_ns())


if __name__ == "__main__":
    if sys.argv[1] == "-":
        wait_for_bytes()
    elif len(sys.argv) == 4:
        wait_in_group(*sys.argv[1:])
    else:
        wait_for_records(sys.argv[1], sys.argv[2])
