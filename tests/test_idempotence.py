"""Each numbered batch is appended once: over restarts, rolls, kills and power cuts."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crash_checks import Process, quiet, read_all
from crash_model import DAMAGES, Disk
from memory_files import MemoryFiles
from processes import Numbers, children
from tail_memory import run_threads, tiny_switch_interval

import pylog
from pylog import Log, Partition, TopicConfig
from pylog._native import make_batch
from pylog.errors import InvalidProducerEpochError, OutOfOrderSequenceError
from pylog.storage import produced
from pylog.storage.producer_state import EXPIRATION_MS, KEPT_BATCHES

NOW = 1_700_000_000_000
PRODUCER = 4242


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with pylog.open(tmp_path) as log:
        yield log


def numbered(sequence: int, *, producer: int = PRODUCER, epoch: int = 0) -> bytes:
    """One record that says who sent it, with which sequence."""
    value = b"%d %d" % (producer, sequence)
    header: dict[str, Any] = {"base_timestamp": NOW, "max_timestamp": NOW, "leader_epoch": -1}
    header |= {"producer_id": producer, "producer_epoch": epoch, "base_sequence": sequence}
    return make_batch([(0, 0, None, value)], **header)


def send(partition: Partition, sequence: int, **how: int) -> int:
    """Append a numbered batch; return its offset."""
    [offsets] = partition.append_batches(numbered(sequence, **how))
    assert len(offsets) == 1
    return offsets.start


def sequences(partition: Partition, producer: int = PRODUCER) -> list[int]:
    found = [(record.value or b"").split() for record in partition.records()]
    return [int(parts[1]) for parts in found if parts and int(parts[0]) == producer]


def snapshots(log: Log) -> list[int]:
    return sorted(int(file.stem) for file in Path(log.path, "t-0").glob("*.snapshot"))


# ---------------------------------------------------------------- restarts


def test_last_five_batches_are_known_after_a_restart(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t").partition(0)
        offsets = [send(partition, turn) for turn in range(8)]
        assert snapshots(log) == []
    with pylog.open(tmp_path) as log:
        assert snapshots(log) == [8]
        partition = log.topic("t").partition(0)
        for turn in range(8 - KEPT_BATCHES, 8):
            assert send(partition, turn) == offsets[turn]
        with pytest.raises(OutOfOrderSequenceError):
            send(partition, 9)
        assert send(partition, 8) == 8
        assert sequences(partition) == list(range(9))


@pytest.mark.parametrize("damage", ["none", "missing", "cut", "changed", "foreign"])
def test_snapshot_that_is_lost_or_damaged_is_made_up_for_by_the_log(
    tmp_path: Path, damage: str
) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", segment_bytes=400).partition(0)
        for turn in range(40):
            send(partition, turn)
    for file in Path(tmp_path, "t-0").glob("*.snapshot"):
        data = file.read_bytes()
        if damage == "missing":
            file.unlink()
        elif damage == "cut":
            file.write_bytes(data[:-1])
        elif damage == "changed":
            file.write_bytes(data[:20] + b"\7" + data[21:])
        elif damage == "foreign":
            file.rename(file.with_name(f"{2**40:020d}.snapshot"))
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert [send(partition, turn) for turn in range(35, 42)] == list(range(35, 42))
        assert sequences(partition) == list(range(42))


def test_snapshots_are_written_at_rolls_and_few_are_kept(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", segment_bytes=400, durability="os").partition(0)
        seen = set()
        for turn in range(60):
            send(partition, turn)
            seen.update(snapshots(log))
            assert len(snapshots(log)) <= 2
        bases = {int(file.stem) for file in Path(tmp_path, "t-0").glob("*.log")}
        assert seen == bases - {0}
        assert len(seen) > 5


def test_state_begins_with_the_snapshot_and_not_with_the_log(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", segment_bytes=400, durability="os").partition(0)
        for turn in range(60):
            send(partition, turn)
        send(partition, 0, producer=7)
    # The first segments say nothing any more: only the snapshot knows producer 7's past.
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert send(partition, 0, producer=7) == 60
        with pytest.raises(OutOfOrderSequenceError):
            send(partition, 2, producer=7)


def test_log_that_other_writers_moved_on_is_caught_up_with(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log, pylog.open(tmp_path) as other:
        mine = log.create_topic("t", segment_bytes=500, durability="os").partition(0)
        theirs = other.topic("t").partition(0)
        offsets = []
        for turn in range(50):
            offsets.append(send(mine if turn % 2 else theirs, turn))
            (theirs if turn % 3 else mine).append(b"0 between")
            assert send(mine, turn) == send(theirs, turn) == offsets[turn]
        assert sequences(mine) == list(range(50))


def test_verify_finds_nothing_wrong_with_snapshots(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", segment_bytes=400).partition(0)
        for turn in range(20):
            send(partition, turn)
        assert len(snapshots(log)) == 2
    command = [sys.executable, "-m", "pylog", "verify", str(tmp_path)]
    verified = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert verified.returncode == 0
    assert "0 damages, 0 notes" in verified.stdout


# ---------------------------------------------------------------- rules


def test_stale_epoch_is_fenced(log: Log) -> None:
    partition = log.create_topic("t").partition(0)
    send(partition, 0)
    send(partition, 0, epoch=1)
    with pytest.raises(InvalidProducerEpochError):
        send(partition, 1)
    assert send(partition, 1, epoch=1) == 2


def test_producer_that_was_silent_for_a_day_is_forgotten() -> None:
    process = Process(MemoryFiles())
    partition = process.partition(TopicConfig())
    send(partition, 0)
    process.now += EXPIRATION_MS - 1
    with pytest.raises(OutOfOrderSequenceError):
        send(partition, 5)
    process.now += 1
    assert send(partition, 5) == 1
    partition.close()
    process.now += EXPIRATION_MS
    partition = process.partition(TopicConfig())
    assert send(partition, 90) == 2


def test_judgement_under_the_page_lock_is_the_same(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(produced, "_TRIES", 0)
    partition = log.create_topic("t", segment_bytes=500).partition(0)
    for turn in range(30):
        assert send(partition, turn) == turn
        assert send(partition, turn) == turn
    with pytest.raises(OutOfOrderSequenceError):
        send(partition, 40)
    assert sequences(partition) == list(range(30))
    partition.check()


def test_partition_that_is_suspended_meanwhile_is_opened_again(log: Log) -> None:
    partition = log.create_topic("t", durability="os").partition(0)
    for turn in range(10):
        send(partition, turn)
        assert partition.suspend()
        assert send(partition, turn) == turn
    assert sequences(partition) == list(range(10))


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_threads_and_plain_appends_go_on_together(log: Log, durability: str) -> None:
    partition = log.create_topic("t", durability=durability, segment_bytes=4000).partition(0)
    each = 150

    def produce(producer: int) -> None:
        for turn in range(each):
            first = send(partition, turn, producer=producer)
            assert send(partition, turn, producer=producer) == first

    def append() -> None:
        for _ in range(each):
            partition.append(b"0 0")

    with tiny_switch_interval():
        run_threads(lambda: produce(1), lambda: produce(2), append, append)
    assert sequences(partition, 1) == sequences(partition, 2) == list(range(each))
    assert partition.log_end_offset == 4 * each


# ---------------------------------------------------------------- a model


def test_log_agrees_with_a_model_over_random_retries_restarts_and_rolls(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    logs = [pylog.open(tmp_path) for _ in range(2)]
    logs[0].create_topic("t", durability="os", segment_bytes=700, segment_index_bytes=96)
    appended: dict[int, list[int]] = {producer: [] for producer in (1, 2, 3)}  # their offsets
    end, refused, repeated = 0, 0, 0
    for _ in range(600):
        index = chance.randrange(2)
        if chance.random() < 0.05:
            logs[index].close()
            logs[index] = pylog.open(tmp_path)
        partition = logs[index].topic("t").partition(0)
        if chance.random() < 0.2:
            partition.append(b"0 0")
            end += 1
            continue
        producer = chance.choice(list(appended))
        known = appended[producer]
        sequence = max(0, len(known) + chance.choice([0, 0, 0, -1, -2, -4, 1]))
        if sequence == len(known):
            assert send(partition, sequence, producer=producer) == end
            known.append(end)
            end += 1
        elif sequence > len(known) and known:
            with pytest.raises(OutOfOrderSequenceError):
                send(partition, sequence, producer=producer)
            refused += 1
        elif sequence < len(known):
            assert send(partition, sequence, producer=producer) == known[sequence]
            repeated += 1
    partition = logs[0].topic("t").partition(0)
    for producer, known in appended.items():
        assert sequences(partition, producer) == list(range(len(known)))
    for one in logs:
        one.close()
    assert min(refused, repeated) > 10


# ---------------------------------------------------------------- kills and power cuts


def live(files: MemoryFiles, config: TopicConfig, chance: random.Random) -> list[tuple[int, int]]:
    """Send for a while; return (position of the trace, batches acknowledged by then) pairs."""
    processes = [Process(files), Process(files)]
    partitions = [process.partition(config) for process in processes]
    acknowledged = [(0, 0)]
    for turn in range(30):
        index = chance.randrange(2)
        if chance.random() < 0.15:
            partitions[index].close()
            partitions[index] = processes[index].partition(config)
        if chance.random() < 0.3:
            partitions[index].append(b"0 0")
        send(partitions[index], turn)
        acknowledged.append((files.note(), turn + 1))
    return acknowledged


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_retry_after_a_crash_anywhere_appends_each_batch_once(durability: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    config = TopicConfig(durability=durability, segment_bytes=700, index_interval_bytes=256)
    files = MemoryFiles(Disk(), boot=1, is_recording=True, map_bytes=80 << 10)
    acknowledged = live(files, config, chance)
    trace = files.trace
    assert trace is not None
    disk = Disk()
    points = 0
    with quiet():
        for position in range(len(trace) + 1):
            if position:
                disk.apply(trace[position - 1])
            # What was acknowledged survives a power cut only if it was synced.
            is_kill = durability == "os" or chance.random() < 0.3
            damage = DAMAGES[position % len(DAMAGES)]
            state = disk.copy() if is_kill else disk.crash(damage, chance)
            sure = max(count for place, count in acknowledged if place <= position)
            check_retries(state, 1 if is_kill else 2, config, sure)
            points += 1
    assert points > 200


def check_retries(state: Disk, boot: int, config: TopicConfig, sure: int) -> None:
    """Send again what a producer may not know of, and what it does, and then go on."""
    files = MemoryFiles(state, boot=boot, map_bytes=80 << 10)
    partition = Process(files).partition(config)
    before = read_all(partition)
    there = sum(1 for value in before if value and not value.startswith(b"0"))
    assert there in (sure, sure + 1)
    for turn in range(max(0, there - KEPT_BATCHES), sure + 3):
        offset = send(partition, turn)
        if turn < there:
            assert before[offset] == b"%d %d" % (PRODUCER, turn)
    assert sequences(partition) == list(range(sure + 3))
    partition.close()
    partition = Process(files).partition(config)
    assert send(partition, sure + 2) == partition.log_end_offset - 1
    assert sequences(partition) == list(range(sure + 3))


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_processes_that_are_killed_and_retry_append_each_batch_once(
    tmp_path: Path, durability: str
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with pylog.open(tmp_path) as log:
        log.create_topic("t", durability=durability, segment_bytes=20_000)
    producers, lives = 2, 8
    sent = Numbers(producers)

    def work(producer: int) -> None:
        with pylog.open(tmp_path) as log:
            partition = log.topic("t").partition(0)
            while True:
                # Killed between the append and this note, the next life sends it again.
                send(partition, sent[producer], producer=producer + 1)
                sent[producer] += 1

    with children() as start:
        for _ in range(lives):
            born = [start(lambda number=number: work(number)) for number in range(producers)]
            goals = [sent[number] + chance.randint(5, 60) for number in range(producers)]
            for number, child in enumerate(born):
                while sent[number] < goals[number]:
                    pass
                child.kill()
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        partition.check()
        for producer in range(producers):
            found = sequences(partition, producer + 1)
            assert found == list(range(len(found)))
            assert sent[producer] <= len(found) <= sent[producer] + 1
            assert sent[producer] > lives * 5


# ---------------------------------------------------------------- Log.producer


def test_producer_numbers_its_batches(log: Log) -> None:
    log.create_topic("t", durability="os", partitions=2)
    with log.producer(linger_ms=60_000) as producer, log.producer(linger_ms=60_000) as other:
        for turn in range(3):
            for _ in range(turn + 1):
                producer.send("t", b"x", partition=0)
                producer.send("t", b"x", partition=1)
            producer.flush()
        other.send("t", b"y", partition=0)
    found = list(fields_of(log, 0))
    assert [(epoch, first, count) for _, epoch, first, count in found] == [
        (0, 0, 1), (0, 1, 2), (0, 3, 3), (0, 0, 1),
    ]  # fmt: skip
    ids = {producer_id for producer_id, *_ in found}
    assert len(ids) == 2
    assert all(0 <= producer_id < 2**63 for producer_id in ids)
    assert {producer_id for producer_id, *_ in fields_of(log, 1)} <= ids


def fields_of(log: Log, number: int) -> Iterator[tuple[int, int, int, int]]:
    partition = log.topic("t").partition(number)
    for fields in partition.read(0).producers():
        yield fields[:4]


def test_producer_without_idempotence_numbers_nothing(log: Log) -> None:
    log.create_topic("t", durability="os")
    with log.producer(enable_idempotence=False) as producer:
        producer.send("t", b"x")
    assert list(fields_of(log, 0)) == []
    assert log.topic("t").partition(0).log_end_offset == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_child_is_another_producer(log: Log) -> None:
    log.create_topic("t", durability="os")
    producer = log.producer(linger_ms=0)
    producer.send("t", b"parent").result()

    def work() -> None:
        producer.send("t", b"child").result()
        producer.close()

    with children() as start:
        start(work).join()
    producer.send("t", b"parent").result()
    producer.close()
    found = list(fields_of(log, 0))
    assert [first for _, _, first, _ in found] == [0, 0, 1]
    assert found[0][0] == found[2][0] != found[1][0]


def test_producer_goes_on_in_a_later_epoch_after_a_gap(log: Log) -> None:
    log.create_topic("t", durability="os")
    with log.producer(linger_ms=0) as producer:
        producer.send("t", b"first").result()
        [lane] = producer._accumulator._lanes.values()
        lane.sequence = 7
        with pytest.raises(OutOfOrderSequenceError):
            producer.send("t", b"refused").result()
        assert producer.send("t", b"second").result().offset == 1
    assert [fields[1:3] for fields in fields_of(log, 0)] == [(0, 0), (1, 0)]
