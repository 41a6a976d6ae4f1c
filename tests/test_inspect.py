"""Damage of every kind is found, and what is whole, or is being written, is not called damaged."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from processes import Numbers, children
from tail_memory import wait_until

import pylog
from pylog import _native
from pylog._native import make_batch
from pylog.storage import layout
from pylog.storage.files import OsFiles
from pylog.storage.inspect import (
    Moment,
    PartitionReport,
    extents_of,
    inspect_partition,
    records_of,
    take_moment,
)
from pylog.storage.inspect_segment import Finding, Rest
from pylog.storage.shared_page import gate_byte, peek
from pylog.topics.verification import verify

NOW = 1_700_000_000_000
# Two segments and a few index entries from few bytes, so that each of them can be tried.
SMALL = {"segment_bytes": 1024, "index_interval_bytes": 100, "durability": "os"}


def small_log(path: Path) -> Path:
    """Make a closed log with two segments in one partition; return the partition's directory."""
    with pylog.open(path) as log:
        partition = log.create_topic("orders", **SMALL).partition(0)
        for number in range(14):
            timestamp = NOW + number * 10
            partition.append(b"value %d" % number, key=b"key", timestamp=timestamp)
    return path / "orders-0"


def report_of(path: Path) -> PartitionReport:
    lock_path = path.parent / "pylog.lock"
    root = OsFiles().root(str(path.parent), create=False)
    lock_file = root.open(lock_path.name) if lock_path.exists() else None
    return inspect_partition(root.directory(path.name), lock_file)


def damages_of(path: Path) -> list[str]:
    return [str(finding) for finding in report_of(path).findings if finding.is_damage]


def notes_of(path: Path) -> list[str]:
    return [str(finding) for finding in report_of(path).findings if not finding.is_damage]


def is_damaged(log: Path) -> bool:
    return any(finding.is_damage for report in verify(str(log)) for finding in report.findings)


def flip(path: Path, position: int, mask: int = 0xFF) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


def logs_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.log"))


def facts_on_disk(path: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file): (file.stat().st_mtime_ns, file.read_bytes())
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


# ------------------------------------------------------------------ what is whole


def test_closed_log_has_no_findings(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    report = report_of(partition)
    assert report.findings == ()
    assert (report.log_start_offset, report.log_end_offset, report.records) == (0, 14, 14)
    assert report.segments == len(logs_in(partition)) >= 2
    assert report.size == sum(file.stat().st_size for file in logs_in(partition))


def test_examining_changes_no_byte(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    flip(logs_in(partition)[0], 30)
    before = facts_on_disk(tmp_path)
    assert is_damaged(tmp_path)
    assert facts_on_disk(tmp_path) == before


def test_open_log_is_judged_up_to_its_published_end(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        topic = log.create_topic("orders", **SMALL)
        topic.append_many([b"value"] * 5)
        report = report_of(tmp_path / "orders-0")
        assert report.is_in_use and not report.is_damaged
        assert report.records == 5
        notes = [finding.message for finding in report.findings]
        assert any("in use, not checked" in note for note in notes), notes
        topic.append(b"still works")


def test_damage_below_the_published_end_of_an_open_log_is_found(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("orders", durability="os").append_many([b"value"] * 5)
        (file,) = logs_in(tmp_path / "orders-0")
        with file.open("r+b") as stream:
            stream.seek(70)
            stream.write(b"\xff")
        assert "offsets 0 to 4 are unreadable" in damages_of(tmp_path / "orders-0")[0]


def test_bytes_above_the_published_end_are_the_writers_business(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("orders", durability="os").append(b"value")
        (file,) = logs_in(tmp_path / "orders-0")
        flip(file, 4096)
        assert damages_of(tmp_path / "orders-0") == []


def test_partition_that_was_never_used_is_no_damage(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("orders", partitions=3)
    assert not is_damaged(tmp_path)


def test_no_damage_is_seen_while_another_process_writes_and_rolls(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("orders", segment_bytes=1 << 13, index_interval_bytes=200, durability="os")
    allowed, written = Numbers(1), Numbers(1)

    def write() -> None:
        with pylog.open(tmp_path) as log:
            topic = log.topic("orders")
            while True:
                # The log shall not outgrow what is looked at in a moment.
                wait_until(lambda: written[0] < allowed[0])
                topic.append(b"value %d" % written[0], key=b"key")
                if written[0] % 7 == 0:
                    topic.append_many([b"x" * 40] * 9)
                written[0] += 1

    ends = []
    partition = tmp_path / "orders-0"
    with children() as start:
        start(write)
        while len(set(ends)) < 20 or len(ends) < 50:
            allowed[0] += 200
            wait_until(lambda: written[0] > allowed[0] - 200)
            report = report_of(partition)
            assert not report.is_damaged, [str(finding) for finding in report.findings]
            assert report.is_in_use
            ends.append(report.log_end_offset)
    assert not is_damaged(tmp_path)  # what a killed writer leaves is no damage either


def test_segment_that_a_roll_made_since_the_marks_were_copied_is_not_judged(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        topic = log.create_topic("orders", **SMALL)
        topic.append(b"first")
        root = OsFiles().root(str(tmp_path), create=False)
        directory, lock_file = root.directory("orders-0"), root.open("pylog.lock")
        before, _ = take_moment(directory, lock_file)
        topic.append_many([bytes(100)] * 30)
        after, _ = take_moment(directory, lock_file)
        lock_file.close()
    assert before.marks is not None and before.marks.base_offset == 0
    extents = extents_of(dataclasses.replace(after, marks=before.marks))
    assert len(extents) > 1
    assert (extents[0].size, extents[0].end_offset) == (before.marks.position, 1)
    assert all(extent.rest is Rest.OTHERS for extent in extents)
    assert extents[-1].size == 0


def test_what_a_torn_look_shows_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = small_log(tmp_path)
    looks = 0

    def take_torn_moment(*arguments: Any) -> tuple[Moment, list[Finding]]:
        nonlocal looks
        looks += 1
        moment, findings = take_moment(*arguments)
        assert moment.manifest is not None
        if looks == 1:  # a manifest that was replaced while the segments were read
            segments = moment.manifest.segments[:1]
            facts = dataclasses.replace(segments[0], size=segments[0].size + 100)
            manifest = dataclasses.replace(moment.manifest, segments=(facts,))
            moment = dataclasses.replace(moment, manifest=manifest)
        return moment, findings

    monkeypatch.setattr("pylog.storage.inspect.take_moment", take_torn_moment)
    assert damages_of(partition) == []
    assert looks == 3


def test_page_says_nothing_while_somebody_opens_the_partition_alone(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    root = OsFiles().root(str(tmp_path), create=False)
    directory = root.directory(partition.name)
    opener, looker = root.open("pylog.lock", writable=True), root.open("pylog.lock")
    state = directory.open("state")
    presence = gate_byte(state) + 1
    assert peek(directory, looker) == (False, None)
    assert opener.lock(presence, exclusive=True, blocking=False)
    assert peek(directory, looker) == (True, None)
    report = inspect_partition(directory, looker)
    assert report.is_in_use and not report.is_damaged
    assert opener.lock(presence, exclusive=False, blocking=False)
    in_use, marks = peek(directory, looker)
    assert in_use and marks is not None and marks.log_end_offset == 14
    for file in (opener, looker, state):
        file.close()


# ------------------------------------------------------------------ what is damaged


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    original = facts_on_disk(partition)
    generator = random.Random(7)
    tried = 0
    for name, (_, data) in original.items():
        if Path(name).name == "state":
            continue  # never trusted, so never judged
        for position in range(len(data)):
            flip(Path(name), position, 1 << generator.randrange(8))
            assert is_damaged(tmp_path), (name, position)
            Path(name).write_bytes(data)
            tried += 1
    assert tried > 1200
    assert not is_damaged(tmp_path)


def test_every_cut_is_found(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    for name, (_, data) in facts_on_disk(partition).items():
        if Path(name).name == "state":
            continue
        for size in range(0, len(data), 1 if len(data) < 300 else 7):
            Path(name).write_bytes(data[:size])
            assert is_damaged(tmp_path), (name, size)
        Path(name).write_bytes(data)
    assert not is_damaged(tmp_path)


def test_zeros_after_the_end_are_a_note(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    for suffix in ("*.log", "*.index", "*.timeindex"):
        for file in partition.glob(suffix):
            with file.open("ab") as stream:
                stream.write(bytes(100))
    assert damages_of(partition) == []
    assert len(notes_of(partition)) >= 6


def test_foreign_bytes_after_the_end_of_a_sealed_segment_are_damage(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    with logs_in(partition)[0].open("ab") as stream:
        stream.write(b"xyz")
    assert "3 foreign bytes after the end" in damages_of(partition)[0]


def test_damage_names_the_place_both_crcs_and_the_offsets(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    file = logs_in(partition)[0]
    (size,) = struct.unpack_from(">i", file.read_bytes(), 8)
    flip(file, 12 + size + 65)  # in the records of the second batch
    (damage,) = [finding for finding in report_of(partition).findings if finding.is_damage]
    assert (damage.path, damage.position) == (str(file), 12 + size)
    assert (damage.first, damage.end) == (1, 2)
    assert "stored, 0x" in damage.message and damage.message.endswith("computed")


def test_text_of_damage_never_holds_payload(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("orders", durability="os").append(b"secret", key=b"hidden")
    flip(logs_in(tmp_path / "orders-0")[0], 64)
    text = " ".join(damages_of(tmp_path / "orders-0"))
    assert text and "secret" not in text and "hidden" not in text


def test_intact_records_around_damage_are_counted(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    flip(logs_in(partition)[0], 65)
    report = report_of(partition)
    assert (report.records, report.log_end_offset) == (13, 14)
    root = OsFiles().root(str(tmp_path), create=False)
    found = [record.offset for record in records_of(root.directory("orders-0"), None)]
    assert found == list(range(1, 14))


def test_missing_segment_is_damage_with_its_offsets(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    first, second = logs_in(partition)[:2]
    first.unlink()
    end = int(second.stem)
    assert any(f"offsets 0 to {end - 1} are unreadable" in text for text in damages_of(partition))


def test_symbolic_link_in_place_of_a_segment_is_damage(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    file = logs_in(partition)[0]
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert "cannot be opened" in damages_of(partition)[0]


def test_wrong_index_entry_is_named_with_its_position(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    index = sorted(partition.glob("*.index"))[0]
    offset, position = struct.unpack_from(">ii", index.read_bytes(), 8)
    data = bytearray(index.read_bytes())
    struct.pack_into(">ii", data, 8, offset - 1, position)
    index.write_bytes(data)
    message = f"{index} at 8: entry {offset - 1} points at {position}, where a batch ends with"
    assert damages_of(partition)[0].startswith(message)


def test_wrong_time_entry_is_named_with_its_position(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    timeindex = sorted(partition.glob("*.timeindex"))[0]
    timestamp, offset = struct.unpack_from(">qi", timeindex.read_bytes())
    data = bytearray(timeindex.read_bytes())
    struct.pack_into(">qi", data, 0, timestamp - 1, offset)
    timeindex.write_bytes(data)
    message = f"entry {timestamp - 1} names {offset}, whose batch has {timestamp}"
    assert damages_of(partition) == [f"{timeindex} at 0: {message}"]


def test_leader_epochs_are_compared_with_the_batches(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    checkpoint = partition / layout.LEADER_EPOCH_CHECKPOINT
    checkpoint.write_bytes(layout.encode_leader_epochs([(3, 0)]))
    assert "says leader epoch 3 at offset 0, the batch there says 0" in damages_of(partition)[0]
    checkpoint.write_bytes(layout.encode_leader_epochs([(0, 0), (1, 5)]))
    assert any("says leader epoch 1 begins at 5" in text for text in damages_of(partition))
    checkpoint.write_bytes(layout.encode_leader_epochs([(0, 0), (1, 14)]))
    assert damages_of(partition) == []  # a leader that has not written yet


# ------------------------------------------------------------------ after a crash


def crashed_copy(tmp_path: Path) -> Path:
    """Return a partition's directory as a kill leaves it: preallocated zeros, an old manifest."""
    with pylog.open(tmp_path / "log") as log:
        topic = log.create_topic("orders", durability="os", index_interval_bytes=100)
        for number in range(9):
            topic.append(b"value %d" % number, timestamp=NOW + number)
        shutil.copytree(tmp_path / "log", tmp_path / "copy")
    return tmp_path / "copy" / "orders-0"


def end_of_batches(file: Path) -> int:
    return len(file.read_bytes().rstrip(b"\0"))


def test_partition_of_a_killed_process_is_no_damage(tmp_path: Path) -> None:
    partition = crashed_copy(tmp_path)
    assert damages_of(partition) == []
    assert any("was not closed" in note for note in notes_of(partition))
    assert report_of(partition).records == 9


def test_torn_tail_is_a_note(tmp_path: Path) -> None:
    partition = crashed_copy(tmp_path)
    (file,) = logs_in(partition)
    data = bytearray(file.read_bytes())
    end = end_of_batches(file)
    data[end + 40] = 7
    file.write_bytes(data)
    assert damages_of(partition) == []
    assert any("a torn tail of" in note for note in notes_of(partition))


def test_damage_before_intact_batches_is_no_torn_tail(tmp_path: Path) -> None:
    partition = crashed_copy(tmp_path)
    (file,) = logs_in(partition)
    flip(file, 65)
    assert "offsets 0 to 0 are unreadable" in damages_of(partition)[0]
    assert report_of(partition).records == 8


# ------------------------------------------------------------------ files beside


def test_files_that_do_not_belong_are_notes(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    (partition / layout.cut_name(0, 400)).write_bytes(b"cut")
    (partition / "manifest.tmp").write_bytes(b"")
    (partition / "stray.txt").write_bytes(b"x")
    (partition / layout.log_name(99)).write_bytes(b"")
    assert damages_of(partition) == []
    assert len(notes_of(partition)) == 4


def test_records_past_the_manifest_are_damage(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    batch = make_batch([(0, 0, None, b"lost")], base_offset=14, leader_epoch=0)
    (partition / layout.log_name(14)).write_bytes(batch)
    assert damages_of(partition) == [
        f"{partition / layout.log_name(14)}: holds records and is not in the manifest"
    ]


def test_lost_manifest_of_a_pylog_partition_is_damage(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    (partition / "manifest").unlink()
    assert "has no manifest" in damages_of(partition)[0]


def test_topic_id_of_another_topic_is_damage(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    other = small_log(tmp_path / "other")
    shutil.copy(other / layout.PARTITION_METADATA, partition / layout.PARTITION_METADATA)
    shutil.rmtree(tmp_path / "other")
    assert damages_of(partition) == []  # in itself it is whole
    assert is_damaged(tmp_path)


def test_directory_without_a_topic_is_a_note(tmp_path: Path) -> None:
    partition = small_log(tmp_path)
    shutil.copytree(partition, tmp_path / "payments-0")
    findings: list[Finding] = [item for report in verify(str(tmp_path)) for item in report.findings]
    assert [finding.is_damage for finding in findings] == [False]
    assert "belongs to no topic" in findings[0].message


def test_state_of_a_failed_partition_is_told(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("orders", durability="os").partition(0)
        partition.append(b"value")
        page_file = (
            OsFiles().root(str(tmp_path / "orders-0"), create=False).open("state", writable=True)
        )
        page = _native.SharedPage(page_file.map(_native.PAGE_BYTES, writable=True))
        page.lock()
        page.publish(state=_native.FAILED)
        page.unlock()
        assert any("is FAILED" in note for note in notes_of(tmp_path / "orders-0"))
        page.release()
        page_file.close()


def test_verify_refuses_a_directory_that_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a log nor a partition"):
        list(verify(str(tmp_path)))
    with pytest.raises(OSError):
        list(verify(os.path.join(tmp_path, "missing")))
