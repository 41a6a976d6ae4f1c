"""A compaction that ends at any step: by a kill, by a power cut, or while others live on.

The order of the steps stands in storage/cleaned_files.py; the planted bugs change it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from compacting import fold, update
from crash_checks import Process
from crash_model import DAMAGES, Damage, Disk, at_random, keep_few
from memory_files import MemoryFiles
from planted import Without

from pylog import Partition, TopicConfig
from pylog.errors import CorruptRangeError, PylogError
from pylog.storage import compacted, lifecycle
from pylog.storage.compacted import CompactedPartition
from pylog.storage.compaction import CleanedSegment
from pylog.storage.manifest import SegmentFacts

Patch = pytest.MonkeyPatch
WRONG = (AssertionError, PylogError, OSError)


def memory_partition(files: MemoryFiles, **settings: Any) -> Partition:
    given = {"durability": "os", "segment_bytes": 600, "segment_index_bytes": 4096}
    config = TopicConfig(cleanup_policy="compact", **(given | settings))
    return Process(files).partition(config)


class DeadError(Exception):
    """The process is no more."""


def replay(partition: Partition) -> tuple[dict[bytes | None, bytes], set[int]]:
    """What the records come to that can be read, and the offsets that cannot.

    With durability "os" a power cut may take sealed segments that were not synced.
    """
    state: dict[bytes | None, bytes] = {}
    lost: set[int] = set()
    offset = 0
    while offset < partition.high_watermark:
        try:
            records = partition.read(offset)
        except CorruptRangeError as error:
            lost |= set(range(error.first, error.last + 1))
            offset = error.last + 1
            continue
        for record in records:
            state[record.key] = record.value  # type: ignore[assignment]
        offset = records.next_offset
    return {key: value for key, value in state.items() if value is not None}, lost


def check_every_crash(durability: str, damages: Sequence[Damage]) -> None:
    """At each step of a compaction: a kill, and power cuts; then the log is opened, and goes on.

    What a replay comes to is what the records come to that were appended and are not lost, whether
    they are still there or not: no record has given way to one that the power cut took.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng, disk = random.Random(seed), Disk()
    files = MemoryFiles(disk, boot=1, is_recording=True)
    partition = memory_partition(files, durability=durability)
    appended = [(b"k%d" % rng.randrange(4), rng.choice([b"v%d" % n, None])) for n in range(50)]
    for key, value in appended[:30]:
        partition.append(value, key=key)
    partition.compact()
    for key, value in appended[30:]:
        partition.append(value, key=key)
    begin = files.note()
    partition.compact()
    end = files.note()
    assert end > begin + 30
    found = set()
    for count in range(begin, end + 1):
        disks = [(files.disk_after(count), 1)]
        disks += [(disks[0][0].crash(one, rng), 2) for one in rng.sample(damages, 2)]
        for crashed, boot in disks:
            after = MemoryFiles(crashed, boot=boot)
            again = memory_partition(after, durability=durability)
            state, lost = replay(again)
            assert not lost or boot == 2
            there = [n for n in range(again.log_end_offset) if n not in lost]
            expected = dict(appended[n] for n in there)
            assert len(there) == 50 or boot == 2
            assert state == {key: value for key, value in expected.items() if value is not None}
            again.check()
            # What counts is in place, and what does not is gone.
            assert not [name for name in after.contents() if name.endswith(".cleaned")]
            found.add(len(again._attached().known_segments().bases))  # type: ignore[union-attr]
            again.append(b"more", key=b"more")
            with pytest.raises(CorruptRangeError) if lost else contextlib.nullcontext():
                again.compact()
            assert replay(again) == (state | {b"more": b"more"}, lost)
    assert len(found) > 1, "some had the old segments, some the new ones"


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_every_crash_leaves_the_old_segments_or_the_new_ones(durability: str) -> None:
    check_every_crash(durability, DAMAGES)


def commits_before_names_are_synced(patch: Patch) -> None:
    finish = CleanedSegment.finish

    def finish_without(self: CleanedSegment) -> SegmentFacts:
        self._directory = Without(self._directory, "sync")  # type: ignore[assignment]
        return finish(self)

    patch.setattr(CleanedSegment, "finish", finish_without)


def commits_before_contents_are_synced(patch: Patch) -> None:
    finish = CleanedSegment.finish

    def finish_without(self: CleanedSegment) -> SegmentFacts:
        self._files = [Without(file, "sync") for file in self._files]  # type: ignore[misc]
        return finish(self)

    patch.setattr(CleanedSegment, "finish", finish_without)


def commits_before_newer_records_are_synced(patch: Patch) -> None:
    patch.setattr(Partition, "_wait_durable", lambda *_: None)


def renames_before_the_commit(patch: Patch) -> None:
    commit = CompactedPartition._commit

    def rename_first(self: Any, attachment: Any, group: Any, cleaned: CleanedSegment) -> bool:
        facts = cleaned.finish()
        compacted.put_in_place(self._directory, facts)
        patch.setattr(cleaned, "check_names", lambda: None)
        patch.setattr(cleaned, "finish", lambda: facts)
        return commit(self, attachment, group, cleaned)

    patch.setattr(CompactedPartition, "_commit", rename_first)


def forgets_files_that_a_dead_process_left(patch: Patch) -> None:
    patch.setattr("pylog.storage.attachment.settle", lambda *_: None)


@pytest.mark.parametrize(
    "plant",
    [
        commits_before_names_are_synced,
        commits_before_contents_are_synced,
        commits_before_newer_records_are_synced,
        renames_before_the_commit,
        forgets_files_that_a_dead_process_left,
    ],
)
def test_a_compaction_that_does_it_in_another_order_loses_records(
    monkeypatch: Patch, plant: Callable[[Patch], None]
) -> None:
    plant(monkeypatch)
    with pytest.raises(WRONG):
        for _ in range(20):
            check_every_crash("os", [at_random, keep_few])


@pytest.mark.parametrize(
    ("where", "name", "nth"),
    [
        (lifecycle, "write_manifest", 0),
        (lifecycle, "write_manifest", 1),
        (lifecycle, "_publish_change_locked", 0),
        (lifecycle, "_publish_change_locked", 1),
        (compacted, "put_in_place", 0),
        (compacted, "put_in_place", 1),
        (CompactedPartition, "_set_cleaned", 0),
        (CompactedPartition, "_remove_later", 0),
    ],
)
def test_who_is_left_goes_on_when_the_compacting_process_dies(
    monkeypatch: Patch, where: Any, name: str, nth: int
) -> None:
    files = MemoryFiles(Disk(), boot=1, is_recording=True)
    one, other = (memory_partition(files) for _ in range(2))
    update(one, 60, keys=4)
    state = fold(one)
    assert fold(other) == state
    calls, original = 0, getattr(where, name)

    def die(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > nth:
            raise DeadError
        return original(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, die)
        patch.setattr(one, "_settle", lambda _: None)
        with pytest.raises(DeadError):
            one.compact()
    # Its locks go with it.
    assert one._cleaner_file is None
    assert fold(other) == state
    other.append(b"more", key=b"more")
    state[b"more"] = b"more"
    assert fold(other) == state
    other.compact()
    assert fold(other) == state
    other.check()
    assert len(list(other.records())) <= 5
    assert not [path for path in files.contents() if path.endswith(".cleaned")]
    again = memory_partition(MemoryFiles(files.disk_after(), boot=1))
    assert fold(again) == state
