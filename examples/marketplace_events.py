"""Restart 300 workers one by one while they work: nothing moves.

    python examples/marketplace_events.py [--members N] [--processes N] [--partitions N]
        [--cities N] [--rate N] [--quiet-seconds S] [--directory DIR]

A marketplace's trips at one machine's size, as Uber described it: events are keyed by city, so all
of a city lie in one partition and are worked on in one place, in order.  A group of 300 workers, in
several processes, shares the partitions.  Then every worker is restarted, one after the other, as a
new version is rolled out, while events go on coming.

With static members, known by `instance_id`, a worker that comes back in time finds what it had:
0 rebalances, 0 partitions move.  With dynamic members each restart is a leave and a join, which
moves partitions twice.  For comparison both are done, and for both the longest time is printed that
any event had to wait, which is the longest pause of any partition.

Exit code: 0 every event was worked on and no partition of a static member moved, else 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

import pylog

TOPIC = "trips"
POLL_SECONDS = 0.2
SETTLE_SECONDS = 120  # more means that something hangs
ACTIONS = (b"requested", b"matched", b"started", b"finished", b"paid")


# ------------------------------------------------------------------ workers


class Worker:
    """One member of the group, in a thread: reads, works, is restarted when it is told to."""

    def __init__(self, log: pylog.Log, *, group: str, name: str, is_static: bool) -> None:
        self._log = log
        self._group = group
        self._instance_id = name if is_static else None
        self._orders: list[str] = []  # "restart" or "end"
        self._consumer: pylog.Consumer | None = None
        self._takings = log.topic(takings_of(group))
        self.is_ready = threading.Event()
        self.events = 0
        self.longest_ms = 0  # that an event waited
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def tell(self, order: str) -> None:
        """Let the worker restart or end; returns when it is back, or gone."""
        self.is_ready.clear()
        self._orders.append(order)
        consumer = self._consumer
        if consumer is not None:
            consumer.wakeup()
        if order == "end":
            self._thread.join()
        else:
            self.is_ready.wait()

    def _take(self, partitions: set[pylog.TopicPartition]) -> None:
        for partition in partitions:
            self._takings.append(self._thread.name.encode(), key=b"%d" % partition.partition)
        self.is_ready.set()

    def _run(self) -> None:
        while "end" not in self._orders:
            self._orders.clear()
            with self._log.consumer(
                TOPIC,
                group=self._group,
                instance_id=self._instance_id,
                on_assigned=self._take,
            ) as self._consumer:
                self._work(self._consumer)
                self._consumer.commit()
            self._consumer = None

    def _work(self, consumer: pylog.Consumer) -> None:
        is_committed = True
        while not self._orders:
            try:
                records = consumer.poll(POLL_SECONDS)
            except pylog.errors.WakeupError:
                continue
            now = time.time_ns() // 1_000_000
            for record in records:
                self.longest_ms = max(self.longest_ms, now - record.timestamp)
            self.events += len(records)
            if not records and not is_committed:
                consumer.commit()
            is_committed = not records


def takings_of(group: str) -> str:
    """Return the name of the topic in which workers write down what they take over."""
    return f"takings-{group}"


def moves(log: pylog.Log, group: str, start: int) -> int:
    """Return how often a partition went from one worker to another; start: where to count from."""
    owners: dict[bytes | None, bytes | None] = {}
    count = 0
    for record in log.read(takings_of(group)):
        is_other = owners.get(record.key, record.value) != record.value
        count += is_other and record.offset >= start
        owners[record.key] = record.value
    return count


def work(
    directory: str, group: str, names: list[str], orders: Connection, *, is_static: bool
) -> None:
    """Run the workers of one process, and do what the main process says."""
    with pylog.open(directory) as log:
        workers = {name: Worker(log, group=group, name=name, is_static=is_static) for name in names}
        for word, name in iter(orders.recv, ("end", "")):
            if word == "restart":
                workers[name].tell("restart")
            orders.send(totals(workers))
            if word == "forget":
                for worker in workers.values():
                    worker.longest_ms = 0
        for worker in workers.values():
            worker.tell("end")
        orders.send(totals(workers))


class Totals(NamedTuple):
    """What the workers of a process did since they were told to forget; events: in all."""

    ready: int
    events: int
    longest_ms: int


def totals(workers: dict[str, Worker]) -> Totals:
    every = workers.values()
    return Totals(
        sum(worker.is_ready.is_set() for worker in every),
        sum(worker.events for worker in every),
        max(worker.longest_ms for worker in every),
    )


# ------------------------------------------------------------------ the marketplace


class Marketplace:
    """Appends events of random cities at an even rate, until it is told to stop."""

    def __init__(self, topic: pylog.Topic, *, cities: int, rate: int) -> None:
        self._topic = topic
        self._cities = [b"city-%05d" % number for number in range(cities)]
        self._rate = rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        choose = random.Random(7)
        burst = max(1, self._rate // 20)
        while not self._stop.wait(burst / self._rate):
            keys = choose.choices(self._cities, k=burst)
            values = [
                b"%s trip-%d" % (choose.choice(ACTIONS), choose.randrange(10**9)) for _ in keys
            ]
            self._topic.append_many(values, keys=keys)

    def stop(self) -> None:
        """Append no more."""
        self._stop.set()
        self._thread.join()


class Fleet:
    """Processes with workers, and the pipes to them."""

    def __init__(
        self, directory: str, group: str, *, members: int, processes: int, is_static: bool
    ) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy what is open here
        self.home: dict[str, Connection] = {}
        self._pipes: list[Connection] = []
        self._processes = []
        names = [f"worker-{number:03}" for number in range(members)]
        for number in range(processes):
            here, there = context.Pipe()
            own = names[number::processes]
            process = context.Process(
                target=work,
                args=(directory, group, own, there),
                kwargs={"is_static": is_static},
            )
            process.start()
            self._processes.append(process)
            self._pipes.append(here)
            self.home |= dict.fromkeys(own, here)

    def tell(self, word: str) -> Totals:
        """Say a word to all processes; return what all did together."""
        for pipe in self._pipes:
            pipe.send((word, ""))
        told = [pipe.recv() for pipe in self._pipes]
        ready, events, longest = zip(*told, strict=True)
        return Totals(sum(ready), sum(events), max(longest))

    def restart(self, name: str) -> None:
        """Restart one worker; returns when it works again."""
        self.home[name].send(("restart", name))
        self.home[name].recv()

    def end(self) -> Totals:
        """End all workers and processes; return what they did."""
        done = self.tell("end")
        for process in self._processes:
            process.join()
        return done


# ------------------------------------------------------------------ the roll-out


def wait_for(is_true: Callable[[], bool], seconds: float) -> bool:
    """Return whether something became true in time."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def roll_out(log: pylog.Log, arguments: argparse.Namespace, *, is_static: bool) -> bool:
    """Restart all workers of a group one by one; print what it cost; return whether all is well."""
    kind = "static" if is_static else "dynamic"
    takings = log.create_topic(takings_of(kind), durability="os", if_exists="ok").partition(0)
    fleet = Fleet(
        arguments.directory,
        kind,
        members=arguments.members,
        processes=arguments.processes,
        is_static=is_static,
    )
    marketplace = Marketplace(log.topic(TOPIC), cities=arguments.cities, rate=arguments.rate)
    started = time.perf_counter()
    is_settled = wait_for(
        lambda: (
            fleet.tell("report").ready == arguments.members
            and log.groups.describe(kind).state == "stable"
        ),
        SETTLE_SECONDS,
    )
    print(f"{kind} members: {arguments.members} in {arguments.processes} processes share ", end="")
    print(f"{arguments.partitions} partitions after {time.perf_counter() - started:.1f} s")
    fleet.tell("forget")
    time.sleep(arguments.quiet_seconds)
    quiet = fleet.tell("forget").longest_ms

    epoch, taken = log.groups.describe(kind).epoch, takings.high_watermark
    started = time.perf_counter()
    for name in fleet.home:
        fleet.restart(name)
    seconds = time.perf_counter() - started
    rebalances = log.groups.describe(kind).epoch - epoch
    moved = moves(log, kind, taken)
    print(f"  all restarted one by one in {seconds:.1f} s: ", end="")
    print(f"{rebalances} rebalances, {moved} partitions moved")
    longest = fleet.tell("report").longest_ms
    print(f"  longest pause of any partition: {longest} ms; in quiet seconds before: {quiet} ms")

    marketplace.stop()
    has_all = wait_for(lambda: log.groups.describe(kind).lag == 0, SETTLE_SECONDS)
    done = fleet.end()
    print(f"  {done.events} events worked on, {'none' if has_all else 'SOME'} left out")
    return is_settled and has_all and not (is_static and (rebalances or moved))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Restart a group's members one by one.")
    parser.add_argument("--members", type=int, default=300)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--partitions", type=int, default=600)
    parser.add_argument("--cities", type=int, default=5000)
    parser.add_argument("--rate", type=int, default=2000, help="events per second")
    parser.add_argument("--quiet-seconds", type=float, default=2.0, help="before the restarts")
    parser.add_argument("--directory", help="where to keep the log; by default it is removed")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="pylog-") as temporary:
        arguments.directory = arguments.directory or temporary
        with pylog.open(arguments.directory) as log:
            log.create_topic(TOPIC, arguments.partitions, durability="os", if_exists="ok")
            is_static_well = roll_out(log, arguments, is_static=True)
            is_dynamic_well = roll_out(log, arguments, is_static=False)
    return 0 if is_static_well and is_dynamic_well else 1


if __name__ == "__main__":
    sys.exit(main())
