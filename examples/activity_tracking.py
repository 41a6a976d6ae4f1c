"""Track what members do: keyed events into 1,400 partitions, from threads and processes.

    python examples/activity_tracking.py [--partitions N] [--seconds S] [--threads N]
        [--processes N] [--events N] [--durability fsync|interval|os] [--directory DIR]

LinkedIn's first use of Kafka, at one machine's size.  Events of about 100 bytes are keyed by the
member, so what one member did stays in order, in one partition.  Several threads and a second
process append to the same topic at the same time; nobody is the owner of the log.  Once a second
the log itself is asked how far its partitions are, which shows what all processes did together.

At the end the partitions hold as many events as all producers were told had been appended.  Each
producer makes its events beforehand and appends them again and again: Python needs longer to make
an event than the log needs to take it.

Exit code: 0 all are there, 1 they are not.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pylog

TOPIC = "activity"
PAGES = ("feed", "jobs", "profile", "search", "messages", "notifications")
ACTIONS = ("view", "click", "share", "follow", "apply")
EVENT_BYTES = 115  # key, value and Kafka's framing of a record, about

Process = subprocess.Popen[str]


# ------------------------------------------------------------------ producing


def make_events(count: int, seed: int) -> tuple[list[bytes], list[bytes]]:
    """Return the values of `count` events, and their keys: the members."""
    choose = random.Random(seed)
    members = [choose.randrange(10_000_000) for _ in range(count)]
    keys = [b"member-%07d" % member for member in members]
    values = [
        b'{"member":%d,"page":"%s","action":"%s","item":%d,"session":"%016x"}'
        % (
            member,
            choose.choice(PAGES).encode(),
            choose.choice(ACTIONS).encode(),
            choose.randrange(10**9),
            choose.getrandbits(64),
        )
        for member in members
    ]
    return values, keys


class Producers:
    """Threads that append events until they are told to stop."""

    def __init__(self, topic: pylog.Topic, *, threads: int, events: int, seed: int) -> None:
        self._topic = topic
        self._stop = threading.Event()
        self._events = [make_events(events, seed + thread) for thread in range(threads)]
        self._pool = ThreadPoolExecutor(threads)
        self._running: list[Future[int]] = []

    def _run(self, values: list[bytes], keys: list[bytes]) -> int:
        count = 0
        while not self._stop.is_set():
            count += len(self._topic.append_many(values, keys=keys))
        return count

    def start(self) -> None:
        self._running = [self._pool.submit(self._run, *events) for events in self._events]

    def stop(self) -> int:
        """Return how many events were acknowledged; raises what an append raised."""
        self._stop.set()
        with self._pool:
            return sum(running.result() for running in self._running)


def produce_beside(arguments: argparse.Namespace) -> int:
    """Produce in a process of its own, from a line on its input to the next one."""
    with pylog.open(arguments.directory) as log:
        topic = log.topic(TOPIC)
        producers = Producers(
            topic, threads=1, events=arguments.events, seed=1_000_000 * arguments.beside
        )
        print(open_partitions(topic), flush=True)
        sys.stdin.readline()
        producers.start()
        sys.stdin.readline()
        print(producers.stop(), flush=True)
    return 0


@contextlib.contextmanager
def other_processes(arguments: argparse.Namespace, directory: str) -> Iterator[list[Process]]:
    """Start the processes that produce beside this one; end them whatever happens."""
    started: list[Process] = []
    try:
        for number in range(1, arguments.processes + 1):
            command = [sys.executable, __file__, "--beside", str(number)]
            command += ["--directory", directory, "--events", str(arguments.events)]
            command += ["--partitions", str(arguments.partitions)]
            started.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def say(process: Process, line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def hear(process: Process) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


# ------------------------------------------------------------------ measuring


def ends_of(topic: pylog.Topic) -> list[int]:
    """Return how many events each partition holds, whichever process appended them."""
    return [partition.log_end_offset for partition in topic.partitions]


def open_partitions(topic: pylog.Topic) -> int:
    """Append one event to every partition, so that its files exist and are open here."""
    with ThreadPoolExecutor(16) as pool:  # each waits for the disk, so together they wait less
        return len(
            list(pool.map(lambda number: topic.append(b"{}", partition=number), range(len(topic))))
        )


def watch(topic: pylog.Topic, *, seconds: int) -> list[int]:
    """Print what the partitions got in each second; returns the events of each."""
    print(f"{'second':>9} {'events/s':>13} {'MB/s':>8}   {'in one partition':>30}")
    rates = []
    before, began = ends_of(topic), time.perf_counter()
    for second in range(1, seconds + 1):
        time.sleep(max(0.0, began + 1 - time.perf_counter()))
        after, now = ends_of(topic), time.perf_counter()
        each = [end - start for start, end in zip(before, after, strict=True)]
        rates.append(round(sum(each) / (now - began)))
        print(
            f"{second:>9} {rates[-1]:>13,} {rates[-1] * EVENT_BYTES / 1e6:>8,.0f}   "
            f"{min(each):>8,} to {max(each):>8,}, median {statistics.median(each):,.0f}",
            flush=True,
        )
        before, began = after, now
    return rates


def run(arguments: argparse.Namespace, directory: str) -> int:
    """Produce, watch, compare; return the exit code."""
    allow_open_files(arguments.partitions)
    with pylog.open(directory) as log:
        topic = log.create_topic(
            TOPIC, partitions=arguments.partitions, durability=arguments.durability
        )
        describe(arguments)
        with other_processes(arguments, directory) as others:
            began = time.perf_counter()
            told = open_partitions(topic)
            mine = Producers(topic, threads=arguments.threads, events=arguments.events, seed=0)
            told += sum(hear(other) for other in others)
            print(f"ready      after {time.perf_counter() - began:.1f} s: all files are made")
            for other in others:
                say(other, "go")
            mine.start()
            rates = watch(topic, seconds=arguments.seconds)
            for other in others:
                say(other, "stop")
            told += mine.stop() + sum(hear(other) for other in others)
        return compare(told, sum(ends_of(topic)), rates)


def allow_open_files(partitions: int) -> None:
    """Raise the limit of descriptors: a log keeps one for each partition that is appended to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * partitions + 1024
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def describe(arguments: argparse.Namespace) -> None:
    meaning = {
        "fsync": "on disk: survives power loss",
        "interval": "in the page cache, synced every second",
        "os": "in the page cache: survives kill -9",
    }[arguments.durability]
    print(f"topic      {arguments.partitions:,} partitions, events of about 100 bytes, keyed")
    print(f"durability {arguments.durability} ({meaning})")
    print("acks       1: every append returns with the offsets of its events")
    print(
        f"producers  {arguments.threads} threads here, {arguments.processes} processes beside,"
        f" {arguments.events:,} events a call",
        flush=True,
    )


def compare(told: int, stored: int, rates: list[int]) -> int:
    """Say whether the log holds what the producers were told; return the exit code."""
    print(f"rate       {statistics.median(rates):,.0f} events/s, median; {max(rates):,} at best")
    if told != stored:
        print(f"DIFFERENT: {told:,} events were acknowledged, the log holds {stored:,}")
        return 1
    print(f"equal      {stored:,} events were acknowledged, and the log holds as many")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Many threads and processes, many partitions.")
    parser.add_argument("--partitions", type=int, default=1400)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, default=1, help="beside this one")
    parser.add_argument("--events", type=int, default=70_000, help="for one append_many")
    parser.add_argument("--durability", choices=("fsync", "interval", "os"), default="os")
    parser.add_argument("--directory", help="where to keep the log; by default it is removed")
    parser.add_argument("--beside", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    if arguments.beside is not None:
        allow_open_files(arguments.partitions)
        return produce_beside(arguments)
    if arguments.directory is not None:
        return run(arguments, arguments.directory)
    with tempfile.TemporaryDirectory(prefix="pylog-activity-") as directory:
        return run(arguments, directory)


if __name__ == "__main__":
    sys.exit(main())
