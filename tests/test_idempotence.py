"""Each numbered batch is appended once: over restarts, rolls, kills and power cuts."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from crash_checks import Process
from memory_files import MemoryFiles
from producers import NOW, numbered, send, sequences
from tail_memory import run_threads, tiny_switch_interval

import pylog
from pylog import Log, TopicConfig
from pylog.errors import (
    InvalidProducerEpochError,
    OutOfOrderSequenceError,
)
from pylog.storage import produced, producer_files
from pylog.storage.attachment import Attachment
from pylog.storage.files import OsDirectory
from pylog.storage.producer_state import (
    EXPIRATION_MS,
    KEPT_BATCHES,
)


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


def test_snapshot_that_another_process_writes_too_is_not_warned_of(
    log: Log, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def renamed_already(*given: Any, **how: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(producer_files, "replace_file", renamed_already)
    partition = log.create_topic("t", durability="os").partition(0)
    send(partition, 0)
    partition.suspend()
    assert caplog.text == ""
    assert send(partition, 0) == 0


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


def test_process_that_wrote_the_same_snapshot_at_the_same_moment_is_no_error(
    log: Log, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rename = OsDirectory.rename

    def rename_twice(self: OsDirectory, source: str, target: str) -> None:
        rename(self, source, target)
        if "snapshot" in source:
            rename(self, source, target)

    monkeypatch.setattr(OsDirectory, "rename", rename_twice)
    partition = log.create_topic("t", segment_bytes=400, durability="os").partition(0)
    for turn in range(20):
        send(partition, turn)
    assert len(snapshots(log)) == 2
    assert caplog.text == ""


def test_snapshot_that_a_dead_process_was_writing_is_removed(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        send(log.create_topic("t").partition(0), 0)
    stray, other = (tmp_path / "t-0" / name for name in (f"{7:020d}.snapshot.tmp", "mine.tmp"))
    stray.touch()
    other.touch()
    with pylog.open(tmp_path) as log:
        assert send(log.topic("t").partition(0), 0) == 0
    assert (stray.exists(), other.exists()) == (False, True)


@pytest.mark.parametrize("has_snapshot", [True, False])
@pytest.mark.parametrize("segment_bytes", [400, 1 << 20])
def test_records_that_were_deleted_are_not_appended_again(
    tmp_path: Path, segment_bytes: int, *, has_snapshot: bool
) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", segment_bytes=segment_bytes).partition(0)
        for turn in range(20):
            send(partition, turn)
        assert partition.delete_records(-1) == 20
    for snapshot in Path(tmp_path, "t-0").glob("*.snapshot"):
        if not has_snapshot:
            snapshot.unlink()
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert [send(partition, turn) for turn in (19, 20)] == [19, 20]
        assert sequences(partition) == [20]


def test_log_says_what_lost_snapshots_did_whatever_its_timestamps_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", segment_bytes=400).partition(0)
        for turn in range(3):
            send(partition, turn)
        for _ in range(10):
            partition.append(bytes(100), timestamp=NOW - EXPIRATION_MS)
    for snapshot in Path(tmp_path, "t-0").glob("*.snapshot"):
        snapshot.unlink()
    # As if these few segments were more than is read in any case.
    monkeypatch.setattr(producer_files, "_RECALL_BYTES", 0)
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert [send(partition, turn) for turn in (0, 2, 3)] == [0, 2, 13]


def test_batch_that_is_given_twice_at_once_is_appended_once(log: Log) -> None:
    partition = log.create_topic("t").partition(0)
    partition.append(b"0 0")
    data = numbered(0) + numbered(1) + numbered(0) + numbered(2) + numbered(1)
    assert [offsets.start for offsets in partition.append_batches(data)] == [1, 2, 1, 3, 2]
    assert sequences(partition) == [0, 1, 2]


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
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
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


def test_others_append_while_a_state_is_loaded(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(produced, "_TRIES", 0)
    partition = log.create_topic("t", durability="os").partition(0)
    partition.append(b"0 before")
    load, was_done = produced.load_state, list[bool]()
    with pylog.open(log.path) as other:
        theirs = other.topic("t").partition(0)
        appending = threading.Thread(target=theirs.append, args=(b"0 meanwhile",))

        def load_slowly(*given: Any, **how: Any) -> Any:
            appending.start()
            appending.join()
            was_done.append(not appending.is_alive())
            return load(*given, **how)

        monkeypatch.setattr(produced, "load_state", load_slowly)
        assert send(partition, 0) == 2
        appending.join()
    assert was_done == [True]


def test_nobody_closes_the_partition_during_a_judgement_under_the_page_lock(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(produced, "_TRIES", 0)
    partition = log.create_topic("t").partition(0)
    write_locked, seen = Attachment.write_locked, list[bool]()

    def look_at_lock() -> None:
        seen.append(partition._lock.acquire(blocking=False))
        if seen[-1]:
            partition._lock.release()

    def look(self: Attachment, *given: Any, **how: Any) -> Any:
        run_threads(look_at_lock)
        return write_locked(self, *given, **how)

    monkeypatch.setattr(Attachment, "write_locked", look)
    send(partition, 0)
    assert set(seen) == {False}


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
