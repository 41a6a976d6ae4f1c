"""The leader-epoch cache: Kafka's own answers, and its invariants under random operations."""

from __future__ import annotations

import errno

import pytest
from crash_checks import Process, quiet
from hypothesis import given
from hypothesis import strategies as st
from memory_files import MemoryFiles

from pylog.config import TopicConfig
from pylog.errors import PartitionFullError
from pylog.storage import layout
from pylog.storage.epochs import NO_EPOCH, LeaderEpochs

# Answers of Kafka's LeaderEpochFileCache, run on these entries.
KAFKA = LeaderEpochs(((2, 100), (4, 250), (7, 400)))
LOG_END = 500


def entries(value: LeaderEpochs) -> dict[int, int]:
    value.check()
    return dict(value.entries)


@pytest.mark.parametrize(
    ("epoch", "answer"),
    [
        (0, (0, 100)),
        (2, (2, 250)),
        (3, (2, 250)),
        (4, (4, 400)),
        (5, (4, 400)),
        (7, (7, 500)),
        (8, None),
        (-1, None),
    ],
)
def test_end_offset_is_kafkas(epoch: int, answer: tuple[int, int] | None) -> None:
    assert KAFKA.end_offset_for(epoch, LOG_END) == answer


def test_truncations_and_assignments_are_kafkas() -> None:
    assert entries(KAFKA.truncate_from_end(400)) == {2: 100, 4: 250}
    shorter = KAFKA.truncate_from_start(300)
    assert entries(shorter) == {4: 300, 7: 400}
    shorter = shorter.truncate_from_start(400)
    assert entries(shorter) == {7: 400}
    shorter = shorter.assign(9, 350)
    assert entries(shorter) == {9: 350}
    assert entries(shorter.assign(8, 360)) == {8: 360}


@pytest.mark.parametrize(
    ("offset", "epoch"), [(0, None), (99, None), (100, 2), (249, 2), (250, 4), (400, 7), (9999, 7)]
)
def test_epoch_for_offset_is_the_last_that_started(offset: int, epoch: int | None) -> None:
    assert KAFKA.epoch_for_offset(offset) == epoch


def test_empty_cache_knows_no_epoch() -> None:
    empty = LeaderEpochs()
    assert empty.latest_epoch == NO_EPOCH
    assert empty.epoch_for_offset(0) is None
    assert empty.end_offset_for(0, 10) is None
    assert empty.truncate_from_end(0) is empty
    assert empty.truncate_from_start(10) is empty


def test_assigning_the_latest_epoch_again_changes_nothing() -> None:
    assert KAFKA.assign(7, 400) is KAFKA
    assert KAFKA.assign(7, 499) is KAFKA


def test_assigning_the_latest_epoch_earlier_moves_its_start() -> None:
    assert entries(KAFKA.assign(7, 300)) == {2: 100, 4: 250, 7: 300}


def test_assigning_an_older_epoch_removes_the_later_ones() -> None:
    assert entries(KAFKA.assign(3, 600)) == {2: 100, 3: 600}


def test_truncation_outside_the_entries_changes_nothing() -> None:
    assert KAFKA.truncate_from_end(401) is KAFKA
    assert KAFKA.truncate_from_start(99) is KAFKA
    assert KAFKA.truncate_from_start(100) is KAFKA


def test_scan_that_begins_inside_an_epoch_keeps_its_start() -> None:
    assert KAFKA.merged([(4, 300), (7, 400)], LOG_END) is KAFKA


def test_leader_that_wrote_nothing_yet_keeps_its_start() -> None:
    assert entries(KAFKA.merged([(7, 450)], LOG_END)) == entries(KAFKA)


def test_entries_beyond_the_surviving_log_are_forgotten() -> None:
    assert entries(KAFKA.merged([(4, 250)], 399)) == {2: 100, 4: 250}
    # Begun, and nothing written in it: it may have been told of.
    assert entries(KAFKA.merged([(4, 250)], 400)) == {2: 100, 4: 250, 7: 400}


def test_stale_entry_beyond_the_log_does_not_hide_an_epoch_of_a_batch() -> None:
    stale = LeaderEpochs(((2, 100), (9, 1000)))
    assert entries(stale.merged([(2, 100), (8, 400)], 500)) == {2: 100, 8: 400}


def test_batches_without_an_epoch_say_nothing() -> None:
    assert LeaderEpochs().merged([(NO_EPOCH, 0), (-5, 3)], 10).entries == ()


def test_lost_file_is_rebuilt_from_batches() -> None:
    assert LeaderEpochs().merged(KAFKA.entries, LOG_END) == KAFKA


numbers = st.integers(min_value=0, max_value=12)


@given(st.lists(st.tuples(numbers, numbers, st.sampled_from(["assign", "end", "start"]))))
def test_every_operation_keeps_both_columns_rising(steps: list[tuple[int, int, str]]) -> None:
    value = LeaderEpochs()
    for epoch, offset, step in steps:
        if step == "assign":
            value = value.assign(epoch, offset)
            assert value.latest_epoch == epoch
        elif step == "end":
            value = value.truncate_from_end(offset)
            assert all(start < offset for _, start in value.entries)
        else:
            before = value.epoch_for_offset(offset)
            value = value.truncate_from_start(offset)
            assert all(start >= offset for _, start in value.entries) or before is None
            assert value.epoch_for_offset(offset) == before
        value.check()


@given(
    st.lists(st.tuples(numbers, numbers)),
    st.lists(st.tuples(st.integers(-2, 12), numbers)),
    numbers,
)
def test_merging_any_batches_keeps_the_invariants(
    known: list[tuple[int, int]], found: list[tuple[int, int]], log_end: int
) -> None:
    value = LeaderEpochs()
    for epoch, start in known:
        value = value.assign(epoch, start)
    value.merged(found, log_end).check()


@pytest.mark.parametrize(
    "wrong", [((4, 0), (4, 5)), ((4, 5), (5, 5)), ((5, 0), (4, 9)), ((-1, 0),)]
)
def test_check_notices_entries_that_do_not_rise(wrong: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(AssertionError):
        LeaderEpochs(wrong).check()


def test_epoch_of_a_partition_that_died_before_its_first_record_is_not_forgotten() -> None:
    # A full disk stopped the making of a partition half way; the next open dropped the entry, and
    # every record after it carried an epoch that the checkpoint did not know.
    files, config = MemoryFiles(is_recording=True), TopicConfig()
    files.fail("rename", nth=2, code=errno.ENOSPC)
    with pytest.raises(PartitionFullError):
        Process(files).partition(config).append(b"its manifest is refused")
    files = MemoryFiles(files.disk_after(), boot=2)
    with quiet():
        partition = Process(files).partition(config)
        partition.append(b"first")
        partition.close()

    checkpoint = files.contents()["topic-0/leader-epoch-checkpoint"]
    assert layout.parse_leader_epochs(checkpoint, path="") == ((0, 0),)
