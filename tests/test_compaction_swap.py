"""Cleaned segments take the place of others while somebody reads, dies, deletes or closes.

The reader's rule stands in storage/cleaned_files.py; the planted bugs here break one step of it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from compacting import contents_of, fold, make_compacted, manifest_of, update
from processes import Numbers, children
from tail_memory import wait_until

import pylog
from pylog import Log, Partition
from pylog.errors import (
    ClosedError,
    OffsetOutOfRangeError,
    PylogError,
    UnknownTopicOrPartitionError,
)
from pylog.storage import cleaned_files, compacted, segment
from pylog.storage.cleaned_files import open_revision
from pylog.storage.descriptors import Descriptors
from pylog.storage.manifest import SegmentFacts
from pylog.storage.segment import ReplacedError, Segment

Patch = pytest.MonkeyPatch
WRONG = (AssertionError, PylogError, OSError)  # what reading other bytes than those meant comes to


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[tuple[Log, Log]]:
    """Two that share nothing but the directory, as two processes."""
    with pylog.open(tmp_path) as one, pylog.open(tmp_path) as other:
        yield one, other


def shrink_budget(partition: Partition, budget: int = 1) -> None:
    """Let hardly any file of a segment stay open."""
    object.__setattr__(partition._environment, "descriptors", Descriptors(budget))


class Oracle:
    """Every record that was ever appended, by offset, and what readers must come to."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.contents: dict[int, tuple[Any, ...]] = {}
        self.state: dict[bytes | None, bytes] = {}
        self._seed = 0

    def append(self, count: int, keys: int = 10) -> None:
        self._seed += 1
        start = self.partition.log_end_offset
        update(self.partition, count, keys, seed=self._seed)
        for record in self.partition.records(start):
            self.contents[record.offset] = contents_of(record)
        self.state = fold(self.partition)

    def check(self, partition: Partition, offset: int, end: int) -> int:
        """Read from an offset on, one read; every record is one that was appended there."""
        records = partition.read(offset, 300)
        last = offset - 1
        for record in records:
            assert record.offset > last
            last = record.offset
            assert contents_of(record) == self.contents[record.offset]
        assert records.next_offset > max(last, offset)
        assert records.next_offset <= end
        return records.next_offset


# ---------------------------------------------------------------- the reader's rule


def check_replay_across_swaps(logs: tuple[Log, Log], *, seed: int = 0) -> None:
    """One process reads at random places with hardly any descriptor; another compacts meanwhile."""
    writer = make_compacted(logs[0], segment_bytes=1500)
    reader = logs[1].topic("t").partition(0)
    shrink_budget(reader)
    rng, oracle = random.Random(seed), Oracle(writer)
    for _ in range(6):
        oracle.append(60)
        end = reader.high_watermark
        places = [rng.randrange(end) for _ in range(5)]
        for _ in range(3):
            places = [oracle.check(reader, offset % end, end) for offset in places]
        writer.compact()
        for _ in range(3):
            places = [oracle.check(reader, offset % end, end) for offset in places]
        assert fold(reader) == oracle.state
        latest = reader.max_timestamp
        assert latest is not None
        assert latest.timestamp == max(record.timestamp for record in reader.records())
    reader.check()


def test_readers_with_hardly_a_descriptor_read_what_was_appended(logs: tuple[Log, Log]) -> None:
    check_replay_across_swaps(logs)


class Hooks:
    """What happens in a moment that a test names."""

    before_opening: Callable[[], object] | None = None


def hooked_opening(self: Segment, name: str, *, writable: bool = False) -> Any:
    hook, Hooks.before_opening = Hooks.before_opening, None
    if hook is not None:
        hook()
    return open_revision(self._directory, name, self.facts.revision, writable=writable)


def never_asks(patch: Patch) -> None:
    patch.setattr(Segment, "_open", hooked_opening)


def asks_before_it_opens(patch: Patch) -> None:
    """What was true before the file was opened may be wrong when it is."""

    def open_late(self: Segment, name: str, *, writable: bool = False) -> Any:
        if self._is_replaced(self.facts):
            raise ReplacedError(self.path)
        return hooked_opening(self, name, writable=writable)

    patch.setattr(Segment, "_open", open_late)


def looks_for_kafkas_name_only(patch: Patch) -> None:
    def open_by_name(directory: Any, name: str, revision: int, *, writable: bool) -> Any:
        return directory.open(name, writable=writable)

    patch.setattr(segment, "open_revision", open_by_name)


def keeps_the_object_of_another_revision(patch: Patch) -> None:
    one_for_all = property(lambda facts: (facts.base_offset, 0))
    patch.setattr(SegmentFacts, "identity", one_for_all)


def check_reads_around_renames(logs: tuple[Log, Log], monkeypatch: Patch) -> None:
    """The reader comes when all is published and nothing is renamed, and when all is."""
    writer = make_compacted(logs[0], segment_bytes=1500)
    oracle = Oracle(writer)
    oracle.append(200)
    reader = logs[1].topic("t").partition(0)
    original = compacted.put_in_place

    def read_first(*args: Any) -> None:
        oracle.check(reader, 0, 200)
        reader._attachment.known_segments().segments[0].forget_files()  # type: ignore[union-attr]
        original(*args)
        oracle.check(reader, 0, 200)
        assert fold(reader) == oracle.state

    monkeypatch.setattr(compacted, "put_in_place", read_first)
    writer.compact()


def check_swap_while_opening(logs: tuple[Log, Log]) -> None:
    """The reader has found out that its snapshot is the newest, and then is held up."""
    writer = make_compacted(logs[0], segment_bytes=1500)
    oracle = Oracle(writer)
    oracle.append(200)
    reader = logs[1].topic("t").partition(0)
    oracle.check(reader, 0, 200)
    attachment = reader._attachment
    assert attachment is not None
    attachment.known_segments().segments[0].forget_files()
    Hooks.before_opening = writer.compact
    reader._place = None
    offset = 0
    while offset < 200:
        offset = oracle.check(reader, offset, 200)
    assert fold(reader) == oracle.state


@pytest.mark.parametrize("plant", [never_asks, asks_before_it_opens])
def test_without_asking_after_the_opening_something_else_is_read(
    logs: tuple[Log, Log], monkeypatch: Patch, plant: Callable[[Patch], None]
) -> None:
    plant(monkeypatch)
    with pytest.raises(WRONG):
        check_swap_while_opening(logs)


def test_what_counts_is_found_before_and_after_it_is_renamed(
    logs: tuple[Log, Log], monkeypatch: Patch
) -> None:
    check_reads_around_renames(logs, monkeypatch)


@pytest.mark.parametrize(
    "plant", [looks_for_kafkas_name_only, keeps_the_object_of_another_revision]
)
def test_without_revisions_something_else_is_read(
    logs: tuple[Log, Log], monkeypatch: Patch, plant: Callable[[Patch], None]
) -> None:
    plant(monkeypatch)
    with pytest.raises(WRONG):
        check_reads_around_renames(logs, monkeypatch)


def test_a_swap_while_a_file_is_opened_is_noticed(
    logs: tuple[Log, Log], monkeypatch: Patch
) -> None:
    original = cleaned_files.open_revision

    def open_late(*args: Any, **options: Any) -> Any:
        hook, Hooks.before_opening = Hooks.before_opening, None
        if hook is not None:
            hook()
        return original(*args, **options)

    monkeypatch.setattr(segment, "open_revision", open_late)
    check_swap_while_opening(logs)


def test_an_object_of_an_old_revision_opens_nothing_any_more(logs: tuple[Log, Log]) -> None:
    writer = make_compacted(logs[0], segment_bytes=1500)
    update(writer, 200, keys=5)
    reader = logs[1].topic("t").partition(0)
    reader.read(0)
    attachment = reader._attachment
    assert attachment is not None
    old = attachment.known_segments().segments[0]
    held = old.file()
    before = held.pread(100, 0)
    writer.compact()
    assert old.file() is held
    assert held.pread(100, 0) == before, "who has a file open keeps it"
    old.forget_files()
    for opened in (old.file, lambda: old.index(old.sealed_view())):
        old.forget_indexes()
        with pytest.raises(ReplacedError):
            opened()
    new = attachment.segments(attachment.page.marks()).segments[0]
    assert new.facts.revision > old.facts.revision == 0
    assert new.file().pread(100, 0) != before


def test_other_processes_read_on_while_one_compacts(tmp_path: Path) -> None:
    rounds, progress = 12, Numbers(2)
    with pylog.open(tmp_path) as log:
        make_compacted(log, segment_bytes=1500)

    def read_all_the_time(number: int) -> None:
        with pylog.open(tmp_path) as log:
            partition = log.topic("t").partition(0)
            shrink_budget(partition)
            state: dict[bytes | None, bytes] = {}
            offset = 0
            while offset < 40 * rounds:
                partition.wait(offset, 1.0)
                records = partition.read(offset, 400)
                for record in records:
                    # The value says at which offset it was appended.
                    assert record.value is not None
                    assert int(record.value) == record.offset
                    assert record.key == b"%d" % (record.offset * 7 % 11)
                    state[record.key] = record.value
                offset = records.next_offset
                progress[number] += len(list(partition.records(max(offset - 100, 0), offset)))
            assert len(state) == 11
            again = {record.key: record.value for record in partition.records()}
            assert {key: state[key] for key in again} == again

    with children() as start:
        readers = [start(lambda number=number: read_all_the_time(number)) for number in range(2)]
        with pylog.open(tmp_path) as log:
            partition = log.topic("t").partition(0)
            for _ in range(rounds):
                for _ in range(40):
                    offset = partition.log_end_offset
                    partition.append(b"%d" % offset, key=b"%d" % (offset * 7 % 11))
                # Who starts late would find no more than what compaction left.
                before = list(progress)
                wait_until(
                    lambda before=before: all(
                        now > then or now > 100 for now, then in zip(progress, before, strict=True)
                    )
                )
                partition.compact()
            for reader in readers:
                reader.join()
            assert len(list(partition.records())) == 11
    assert min(progress) > 100, "they did real work"


# ---------------------------------------------------------------- others do something else


def during(phase: str, action: Callable[[], object]) -> Callable[[Any], None]:
    """Return a progress function that does something once, in the middle of a phase."""
    left = [3]

    def tell(progress: Any) -> None:
        if progress.phase == phase:
            left[0] -= 1
            if left[0] == 0:
                action()

    return tell


@pytest.mark.parametrize("phase", ["map", "filter"])
def test_records_that_are_deleted_meanwhile_stay_deleted(
    logs: tuple[Log, Log], tmp_path: Path, phase: str
) -> None:
    partition = make_compacted(logs[0], cleanup_policy="compact,delete", segment_bytes=1500)
    update(partition, 300, keys=8)
    state = fold(partition)
    other = logs[1].topic("t").partition(0)
    report = partition.compact(progress=during(phase, lambda: other.delete_records(150)))
    assert partition.log_start_offset == 150
    assert report.end == 300
    assert manifest_of(tmp_path).cleaned.offset == 300
    replayed = fold(partition)
    assert replayed.items() <= state.items()
    # Nothing was left out for a record that is gone: what is left is compacted as a whole.
    offsets = [record.offset for record in partition.records()]
    assert len(offsets) <= 8
    with pytest.raises(OffsetOutOfRangeError):
        partition.read(149)
    assert not list((tmp_path / "t-0").glob("*.cleaned"))
    partition.check()


def test_records_that_are_appended_meanwhile_are_all_there(logs: tuple[Log, Log]) -> None:
    partition = make_compacted(logs[0], segment_bytes=1500)
    other = logs[1].topic("t").partition(0)
    update(partition, 300, keys=8)
    for phase in ("map", "filter"):
        partition.compact(progress=during(phase, lambda: update(other, 200, keys=8, seed=3)))
        update(partition, 300, keys=8)
    state = {}
    for record in other.records():
        state[record.key] = record.value
    assert partition.log_end_offset == 300 + 2 * 500
    partition.compact()
    assert {record.key: record.value for record in partition.records()} == state


def test_a_topic_that_is_deleted_meanwhile_is_gone(logs: tuple[Log, Log], tmp_path: Path) -> None:
    partition = make_compacted(logs[0], segment_bytes=1500)
    update(partition, 300, keys=8)

    def make_anew() -> None:
        logs[1].delete_topic("t")
        again = make_compacted(logs[1], segment_bytes=1500)
        update(again, 100, keys=3)

    with pytest.raises(PylogError):
        partition.compact(progress=during("filter", make_anew))
    again = logs[1].topic("t").partition(0)
    assert again.compact().records_read == 100
    assert not list((tmp_path / "t-0").glob("*.cleaned"))


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_who_reads_a_topic_that_is_deleted_is_told_so(
    logs: tuple[Log, Log], is_made_anew: bool
) -> None:
    partition = make_compacted(logs[0], segment_bytes=1500)
    update(partition, 100, keys=8)
    reader = logs[1].topic("t").partition(0)
    reader.read(0)
    update(partition, 100, keys=8)
    partition.compact()
    logs[0].delete_topic("t")
    if is_made_anew:
        update(make_compacted(logs[0], segment_bytes=1500), 300, keys=3, seed=9)
    with pytest.raises(UnknownTopicOrPartitionError):
        fold(reader)
    assert reader._attachment is not None
    reader._attachment.known_segments().segments[0].forget_files()
    with pytest.raises(UnknownTopicOrPartitionError):
        reader._attachment.known_segments().segments[0].file()


def test_a_log_that_is_closed_meanwhile_ends_the_compaction(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = make_compacted(log, segment_bytes=1500)
        update(partition, 300, keys=8)
        state = fold(partition)
        with pytest.raises(ClosedError):
            partition.compact(progress=during("filter", log.close))
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert fold(partition) == state
        assert not list((tmp_path / "t-0").glob("*.cleaned"))
        partition.compact()
        assert fold(partition) == state


def test_a_partition_is_not_suspended_while_it_is_compacted(logs: tuple[Log, Log]) -> None:
    partition = make_compacted(logs[0], segment_bytes=1500)
    update(partition, 300, keys=8)
    answers: list[bool] = []
    partition.compact(progress=during("filter", lambda: answers.append(partition.suspend())))
    assert answers == [False]
    assert partition.suspend()


def test_one_compacts_at_a_time_and_the_other_waits(logs: tuple[Log, Log]) -> None:
    one = make_compacted(logs[0], segment_bytes=1500)
    other = logs[1].topic("t").partition(0)
    update(one, 300, keys=8)
    waiting: list[threading.Thread] = []
    seen: list[object] = []

    def look() -> None:
        seen.append(other.compact_if_due())
        thread = threading.Thread(target=lambda: seen.append(other.compact()))
        thread.start()
        waiting.append(thread)

    assert other.is_compaction_due()
    one.compact(progress=during("map", look))
    waiting[0].join()
    assert seen[0] is None, "the background does not wait"
    assert seen[1].rounds == 0, "all was done when its turn came"  # type: ignore[attr-defined]
