"""Track activity through the death of the broker: what was acknowledged is there afterwards.

    python examples/activity_failover.py [--partitions N] [--events N] [--calls N] [--directory DIR]

Three brokers, each a process with a log of its own.  The first leads, the others follow it over
sockets; events are keyed by the member and acknowledged when every in-sync replica has them
(acks="all", min_insync_replicas=2).  In the middle of it the leader is killed with SIGKILL.  This
program, in the place of an elector (a Kubernetes lease, etcd, ZooKeeper), lets the two that are
left promise a new epoch, promotes the one that has everything, and the tracking goes on there.
The dead broker comes back, cuts what nobody else had, and follows.

At the end all three logs have to hold every event that a producer was told of.

Exit code: 0 all are there, 1 they are not.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pylog

TOPIC = "activity"
BROKERS = 3
CONFIG = pylog.ReplicationConfig(min_insync_replicas=2)


# ------------------------------------------------------------------ a broker


def live(directory: str, port: int) -> int:
    """Serve a log, and do what the lines on the input say, until it ends."""
    secret = os.environ["BROKER_SECRET"].encode()
    # That a broker is dead, and is asked again and again, is what this is about.
    logging.getLogger("pylog").setLevel(logging.ERROR)
    with pylog.open(directory) as log, log.replication.serve(secret=secret, port=port) as server:
        print(server.address[1], flush=True)
        for line in sys.stdin:
            command, *words = line.split()
            numbers = [int(word) for word in words]
            if command == "lead":
                epoch, *ports = numbers
                followers = [pylog.SocketTransport("127.0.0.1", p, secret=secret) for p in ports]
                log.promote(epoch, followers, config=CONFIG)
                log.replication.wait_in_sync(2)
                print("leads", flush=True)
            elif command == "gather":
                log.replication.wait_in_sync(BROKERS)
                print("gathered", flush=True)
            elif command == "track":
                track(log, *numbers)
    return 0


def track(log: pylog.Log, life: int, partitions: int, events: int, calls: int) -> None:
    """Append events call by call; say after each how many are acknowledged."""
    topic = log.create_topic(TOPIC, partitions=partitions, if_exists="ok")
    for call in range(calls):
        numbers = range(call * events, (call + 1) * events)
        keys = [b"member-%05d" % (number * 7919 % 10_000) for number in numbers]
        values = [
            b'{"life":%d,"event":%d,"page":"feed","action":"view"}' % (life, number)
            for number in numbers
        ]
        topic.append_many(values, keys=keys)
        print((call + 1) * events, flush=True)


class Broker:
    """A broker's process, and what it says."""

    def __init__(self, directory: Path, secret: str) -> None:
        self.directory = directory
        self._environment = os.environ | {"BROKER_SECRET": secret}
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start it, at the port that it had."""
        command = [sys.executable, __file__, "--broker", str(self.directory)]
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port)],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.hear())

    def say(self, *words: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """Return the next line, an empty text when it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def kill(self) -> list[str]:
        """Kill it without a word; return the lines that it had still said."""
        self._process.send_signal(signal.SIGKILL)
        rest, _ = self._process.communicate()
        return rest.split()


@contextlib.contextmanager
def brokers(directory: Path, secret: str) -> Iterator[list[Broker]]:
    """Start the brokers; end them whatever happens."""
    started: list[Broker] = []
    try:
        for number in range(BROKERS):
            started.append(Broker(directory / f"broker-{number}", secret))
        yield started
    finally:
        for broker in started:
            broker.kill()


# ------------------------------------------------------------------ the elector


def elect(survivors: list[Broker], epoch: int, secret: bytes) -> Broker:
    """Return who is to lead: all promise the epoch first, then the one that has all is taken."""
    answers = {}
    for broker in survivors:
        transport = pylog.SocketTransport("127.0.0.1", broker.port, secret=secret)
        answers[broker] = transport.fence(epoch)
    winner = pylog.best_candidate(
        list(answers.values()),
        epoch=epoch,
        replicas=BROKERS,
        min_insync_replicas=CONFIG.min_insync_replicas,
    )
    return next(broker for broker, answer in answers.items() if answer.replica_id == winner)


def lead(leader: Broker, all_brokers: list[Broker], epoch: int) -> None:
    leader.say("lead", epoch, *(other.port for other in all_brokers if other is not leader))
    assert leader.hear() == "leads", "the broker has ended"


def gather(leader: Broker) -> None:
    """Wait until all brokers are in sync."""
    leader.say("gather")
    assert leader.hear() == "gathered", "the broker has ended"


def run(arguments: argparse.Namespace, directory: Path) -> int:
    """Track, kill the leader in the middle, elect, go on, compare; return the exit code."""
    told: dict[int, int] = {}
    shape = (arguments.partitions, arguments.events, arguments.calls)
    secret = secrets.token_hex(16)
    with brokers(directory, secret) as all_brokers:
        first = all_brokers[0]
        lead(first, all_brokers, 1)
        # Who was never in sync has no say in an election: with two of three left, both are needed.
        gather(first)
        print(f"epoch 1    broker 0 leads, {arguments.partitions} partitions", flush=True)
        first.say("track", 1, *shape)
        for _ in range(arguments.calls // 2):
            told[1] = int(first.hear())
        told[1] = int([str(told[1]), *first.kill()][-1])
        print(f"killed     broker 0, when {told[1]:,} events were acknowledged", flush=True)

        new = elect(all_brokers[1:], 2, secret.encode())
        lead(new, all_brokers, 2)
        print(f"epoch 2    broker {all_brokers.index(new)} leads", flush=True)
        first.start()
        print("returned   broker 0, to follow", flush=True)
        new.say("track", 2, *shape)
        for _ in range(arguments.calls):
            told[2] = int(new.hear())
        gather(new)
    return max(compare(number, directory, told) for number in range(BROKERS))


def compare(number: int, directory: Path, told: dict[int, int]) -> int:
    """Say whether a broker's log holds all that was acknowledged; return the exit code."""
    found: dict[int, set[int]] = {life: set() for life in told}
    with pylog.open(directory / f"broker-{number}", create=False) as log:
        for partition in log.topic(TOPIC).partitions:
            offset = partition.log_start_offset
            while offset < partition.log_end_offset:
                # What a follower has and was not told yet that all others have it, too.
                records = partition.read_placed(offset)
                for record in records:
                    _, life, event, *_ = (record.value or b"").split(b":")
                    found[int(life.split(b",")[0])].add(int(event.split(b",")[0]))
                offset = records.next_offset
    missing = sum(len(set(range(count)) - found[life]) for life, count in told.items())
    if missing:
        print(f"DIFFERENT  broker {number} lacks {missing:,} acknowledged events")
        return 1
    print(f"equal      broker {number} has all {sum(told.values()):,} acknowledged events")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The leader dies, and nothing is lost.")
    parser.add_argument("--partitions", type=int, default=6)
    parser.add_argument("--events", type=int, default=1000, help="for one append_many")
    parser.add_argument("--calls", type=int, default=100, help="of append_many, by each leader")
    parser.add_argument("--directory", help="where to keep the logs; by default they are removed")
    parser.add_argument("--broker", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    if arguments.broker is not None:
        return live(arguments.broker, arguments.port)
    if arguments.directory is not None:
        return run(arguments, Path(arguments.directory))
    with tempfile.TemporaryDirectory(prefix="pylog-failover-") as directory:
        return run(arguments, Path(directory))


if __name__ == "__main__":
    sys.exit(main())
