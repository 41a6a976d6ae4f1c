"""Each numbered batch is appended once, whatever is killed, cut off, damaged or full."""

from __future__ import annotations

import contextlib
import errno
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from crash_checks import Process, quiet, read_all
from crash_model import DAMAGES, Disk, lose_data
from memory_files import MemoryFiles
from processes import Numbers, children
from producers import NOW, PRODUCER, send, sequences

import pylog
from pylog import TopicConfig
from pylog.errors import (
    DurabilityUnknownError,
    PartitionFailedError,
    PylogError,
)
from pylog.storage.producer_state import (
    KEPT_BATCHES,
    ProducedBatch,
    ProducerState,
)

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


# ---------------------------------------------------------------- faults


def test_retry_after_a_failed_sync_appends_nothing_twice() -> None:
    files = MemoryFiles(is_recording=True)
    process = Process(files)
    partition = process.partition(TopicConfig())
    send(partition, 0)
    files.fail("sync_data", code=errno.EIO)
    with pytest.raises(DurabilityUnknownError) as caught:
        send(partition, 1)
    assert (caught.value.start, caught.value.end) == (1, 2)
    # It may be there, and nobody knows: neither an offset nor "not appended" would be true.
    with pytest.raises(DurabilityUnknownError):
        send(partition, 1)
    with pytest.raises(PartitionFailedError):
        send(partition, 2)
    partition.close()
    partition = process.partition(TopicConfig())
    assert send(partition, 1) == 1
    assert sequences(partition) == [0, 1]


def test_any_call_of_the_disk_may_fail_and_a_retry_appends_each_batch_once() -> None:
    failures = 0
    with quiet():
        for nth in range(0, 400, 3):
            files = MemoryFiles(is_recording=True)
            process = Process(files)
            config = TopicConfig(segment_bytes=300, segment_index_bytes=96)
            partition = process.partition(config)
            files.fail(nth=nth)
            turn, tries = 0, 0
            while turn < 12:
                tries += 1
                assert tries < 60
                try:
                    send(partition, turn)
                    turn += 1
                except (PylogError, OSError):
                    failures += 1
                    with contextlib.suppress(PylogError, OSError):
                        partition.close()
                    partition = process.partition(config)
            files.heal()
            assert sequences(partition) == list(range(12)), nth
            partition.check()
            partition.close()
    assert failures > 20


# ---------------------------------------------------------------- what must not be believed


def test_who_is_faster_between_judgement_and_append_is_noticed(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log, pylog.open(tmp_path) as other:
        mine = log.create_topic("t", durability="os").partition(0)
        theirs = other.topic("t").partition(0)
        send(mine, 0)
        log_of_mine = mine._produced_log()
        write = log_of_mine._write
        raced: list[int] = []

        def write_late(chunk: Any, expected_offset: int) -> tuple[int, int]:
            if not raced:
                raced.append(send(theirs, 1))
            return write(chunk, expected_offset)

        log_of_mine._write = write_late
        assert send(mine, 1) == 1
        assert raced == [1]
        assert sequences(mine) == [0, 1]


def test_snapshot_of_records_that_a_power_cut_took_is_not_believed() -> None:
    config = TopicConfig(durability="os", segment_bytes=300)
    files = MemoryFiles(Disk(), boot=1, is_recording=True, map_bytes=80 << 10)
    partition = Process(files).partition(config)
    for turn in range(10):
        send(partition, turn, producer=1)
    send(partition, 0, producer=7)
    for turn in range(10, 17):
        send(partition, turn, producer=1)
    end = partition.log_end_offset
    assert any(name.endswith(".snapshot") for name in files.contents())

    with quiet():
        state = files.disk_after().crash(lose_data, random.Random(0))
        partition = Process(MemoryFiles(state, boot=2, map_bytes=80 << 10)).partition(config)
        assert b"7 0" not in read_all(partition)
        while partition.log_end_offset <= end:
            partition.append(b"0 0")
        assert send(partition, 0, producer=7) == partition.log_end_offset - 1
        assert read_all(partition).count(b"7 0") == 1


def test_snapshot_of_offsets_that_the_log_does_not_have_is_not_believed(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("t").partition(0).append(b"0 0")
    foreign = ProducerState(100)
    foreign.add(ProducedBatch(7, 0, 0, 1, 0, NOW), 2**60)
    Path(tmp_path, "t-0", f"{100:020d}.snapshot").write_bytes(foreign.encode())
    with pylog.open(tmp_path) as log:
        assert send(log.topic("t").partition(0), 0, producer=7) == 1


def test_state_of_a_log_that_was_let_go_is_not_believed(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t").partition(0)
        send(partition, 0)
        assert partition.suspend()
        directory, copy = tmp_path / "t-0", tmp_path.parent / f"{tmp_path.name}-copy"
        shutil.copytree(directory, copy)
        send(partition, 1)
        assert partition.suspend()
        # Others may do anything meanwhile: here somebody puts an earlier copy in its place.
        shutil.rmtree(directory)
        shutil.copytree(copy, directory)
        assert send(partition, 1) == 1
        assert sequences(partition) == [0, 1]


def test_damage_in_the_log_does_not_keep_producers_from_going_on(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", segment_bytes=400).partition(0)
        for turn in range(20):
            send(partition, turn)
    first = min(Path(tmp_path, "t-0").glob("*.log"))
    data = bytearray(first.read_bytes())
    data[100] ^= 1
    first.write_bytes(data)
    for file in Path(tmp_path, "t-0").glob("*.snapshot"):
        file.unlink()
    with quiet(), pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert [send(partition, turn) for turn in (18, 19, 20)] == [18, 19, 20]
