"""pylog beside its peers and the bare operations they are made of, in races over the same records.

A line's durability is what an append that has returned survives.  Peers of another durability than
a race's stand in it for orientation only.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.conftest import Payload
from bench.peers import PEERS
from bench.peers.queues import QueueStore
from bench.peers.store import Peer, Store
from bench.turns import DISK, KERNEL, MEMORY, Contestant, Race, timed

ROUNDS = 5
RECORD_BYTES = Payload.KEY_BYTES + Payload.VALUE_BYTES
READS = 2000
COMMIT_EVERY = 1000
# What is in memory only is beside those that survive a kill, not beside those that sync.
SHOWN = {KERNEL: (KERNEL, MEMORY), DISK: (DISK,)}


def chosen(operation: str, durability: str) -> list[Peer]:
    """Return the peers of a race, whether they are installed or not."""
    return [peer for peer in PEERS if peer.durability in SHOWN[durability] and peer.can(operation)]


def cases(operation: str, durability: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [peer.name for peer in chosen(operation, durability)])


class Races:
    """Makes races of all peers that are installed."""

    def __init__(self, directory: Path, payload: Payload) -> None:
        self._directory = directory
        self._payload = payload
        self._names = (f"peer-{number}" for number in itertools.count())
        self.stack = ExitStack()

    def appending(
        self, group: str, operation: str, durability: str, *, count: int, batch: int = 0
    ) -> Race:
        """Every round fills a fresh store.  batch: 0 appends one by one."""

        def contestant(peer: Peer) -> Contestant:
            slowness = peer.batch_slowness if batch else peer.slowness
            records = max(count // slowness, 1)
            if batch:
                records = max(records // batch, 1) * batch
            keys, values = self._payload.keys(0, records), self._payload.values(records)
            arguments: Sequence[object] = (keys, values)
            if batch:
                starts = range(0, records, batch)
                cut = [(keys[at : at + batch], values[at : at + batch]) for at in starts]
                arguments = (cut,)

            def run() -> float:
                path = self._directory / next(self._names)
                with peer.opened(path) as store:
                    seconds = timed(getattr(store, operation), *arguments)
                shutil.rmtree(path, ignore_errors=True)
                return seconds

            return Contestant(run, peer.durability, records, records * RECORD_BYTES)

        return _race(group, operation, durability, contestant)

    def reading(
        self, group: str, operation: str, durability: str, *, count: int, is_random: bool
    ) -> Race:
        """Every round reads a store that was filled before the first."""

        def contestant(peer: Peer) -> Contestant:
            # As many of each: how well they lie in caches is part of what a read costs.
            records = max(count, COMMIT_EVERY)
            store = self.stack.enter_context(peer.opened(self._directory / next(self._names)))
            # Single reads are of records that came one by one, as in a queue: a read of one that
            # came in a batch costs pylog the batch.
            self._fill(store, peer, records, in_batches=not is_random)
            total = READS if is_random else records

            def run() -> float:
                if is_random:
                    return timed(store.get_each, self._payload.rows(records, READS))
                return timed(_scan_all, store, records)

            return Contestant(run, peer.durability, total, total * RECORD_BYTES)

        return _race(group, operation, durability, contestant)

    def consuming(self, group: str, durability: str, *, count: int) -> Race:
        """Every round consumes a store of its own: of queues nothing is left.

        Queues, of which each record is a transaction, have a thousand, the others as many.
        """

        def contestant(peer: Peer) -> Contestant:
            records = max(count // COMMIT_EVERY, 1) * COMMIT_EVERY
            if issubclass(peer.store, QueueStore):
                records = COMMIT_EVERY

            def run() -> float:
                path = self._directory / next(self._names)
                with peer.opened(path) as store:
                    self._fill(store, peer, records, in_batches=True)
                    seconds = timed(store.consume, records, COMMIT_EVERY)
                shutil.rmtree(path, ignore_errors=True)
                return seconds

            return Contestant(run, peer.durability, records, records * RECORD_BYTES)

        return _race(group, "consume", durability, contestant)

    def _fill(self, store: Store, peer: Peer, count: int, *, in_batches: bool) -> None:
        keys, values = self._payload.keys(0, count), self._payload.values(count)
        if in_batches and peer.can("append_batches"):
            step = Payload.BATCH
            cut = [(keys[at : at + step], values[at : at + step]) for at in range(0, count, step)]
            store.append_batches(cut)
        else:
            store.append_each(keys, values)


def _scan_all(store: Store, records: int) -> None:
    assert store.scan() == records


def _race(
    group: str, operation: str, durability: str, contestant: Callable[[Peer], Contestant]
) -> Race:
    peers = [peer for peer in chosen(operation, durability) if peer.is_installed]
    return Race(group, {peer.name: contestant(peer) for peer in peers}, rounds=ROUNDS)


@pytest.fixture(scope="module")
def races(directory: Path, payload: Payload) -> Iterator[Races]:
    made = Races(directory, payload)
    with made.stack:
        yield made


def report(show: Callable[[Race, str], None], race: Race, name: str) -> None:
    """Report a line, or say which package is missing."""
    if name not in race.contestants:
        pytest.skip(f"{name} is not installed; it is in the extra `peers`")
    show(race, name)


# ------------------------------------------------------------------ append


@pytest.fixture(scope="module")
def one_by_one(races: Races, size: Callable[..., int]) -> Race:
    count = size(20_000, 1_000_000)
    return races.appending("peers: append one by one", "append_each", KERNEL, count=count)


@cases("append_each", KERNEL)
def test_peers_append_one_by_one(
    show: Callable[[Race, str], None], one_by_one: Race, name: str
) -> None:
    report(show, one_by_one, name)


@pytest.fixture(scope="module")
def batches(races: Races, size: Callable[..., int]) -> Race:
    count = size(100_000, 5_000_000)
    batch = min(Payload.BATCH, count)
    return races.appending(
        "peers: append batches", "append_batches", KERNEL, count=count, batch=batch
    )


@cases("append_batches", KERNEL)
def test_peers_append_batches_of_1000(
    show: Callable[[Race, str], None], batches: Race, name: str
) -> None:
    report(show, batches, name)


@pytest.fixture(scope="module")
def synced(races: Races, size: Callable[..., int]) -> Race:
    count = size(100, 2000)
    return races.appending("peers: append fsync", "append_each", DISK, count=count)


@cases("append_each", DISK)
def test_peers_append_synced(show: Callable[[Race, str], None], synced: Race, name: str) -> None:
    report(show, synced, name)


@pytest.fixture(scope="module")
def synced_batches(races: Races, size: Callable[..., int]) -> Race:
    count = size(20_000, 1_000_000)
    batch = min(Payload.BATCH, count)
    return races.appending(
        "peers: append batches, fsync", "append_batches", DISK, count=count, batch=batch
    )


@cases("append_batches", DISK)
def test_peers_append_synced_batches_of_1000(
    show: Callable[[Race, str], None], synced_batches: Race, name: str
) -> None:
    report(show, synced_batches, name)


# ------------------------------------------------------------------ read


@pytest.fixture(scope="module")
def scans(races: Races, size: Callable[..., int]) -> Race:
    count = size(50_000, 1_000_000)
    return races.reading("peers: sequential", "scan", KERNEL, count=count, is_random=False)


@cases("scan", KERNEL)
def test_peers_iterate(show: Callable[[Race, str], None], scans: Race, name: str) -> None:
    report(show, scans, name)


@pytest.fixture(scope="module")
def gets(races: Races, size: Callable[..., int]) -> Race:
    count = size(100_000, 1_000_000)
    return races.reading("peers: random", "get_each", KERNEL, count=count, is_random=True)


@cases("get_each", KERNEL)
def test_peers_random_read(show: Callable[[Race, str], None], gets: Race, name: str) -> None:
    report(show, gets, name)


@pytest.fixture(scope="module")
def consumed(races: Races, size: Callable[..., int]) -> Race:
    count = size(25_000, 250_000)
    return races.consuming("peers: consume and commit", KERNEL, count=count)


@cases("consume", KERNEL)
def test_peers_consume_and_commit_each_1000(
    show: Callable[[Race, str], None], consumed: Race, name: str
) -> None:
    report(show, consumed, name)


def test_peer_that_is_not_installed_is_skipped_with_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = Peer("absent-store", KERNEL, PEERS[0].opened, PEERS[0].store, "absent_package")
    monkeypatch.setattr("bench.test_peers.PEERS", (*PEERS[:1], absent))
    made = Contestant(lambda: 0.0, KERNEL, 1, 1)
    race = _race("group", "scan", KERNEL, lambda peer: made)
    assert list(race.contestants) == ["pylog"]
    with pytest.raises(pytest.skip.Exception, match="absent-store is not installed"):
        report(lambda race, name: None, race, "absent-store")
