"""The iterator over Records: it knows how far it is, and ends when it is told to."""

from __future__ import annotations

import gc
import weakref

import pytest

from pylog import _native
from pylog.errors import CorruptRangeError

GAPPED = _native.make_batch(
    [(0, 0, None, b"a"), (3, 0, None, b"b")], base_offset=10, last_offset_delta=6
)
DAMAGED = _native.make_batch([], payload=b"nothing good", count=1, base_offset=17)
AFTER = _native.make_batch([(0, 0, None, b"c")], base_offset=18)


def test_next_offset_is_behind_the_last_record_and_at_the_end_behind_all() -> None:
    iterator = iter(_native.Records(GAPPED, first_offset=8))
    seen = [iterator.next_offset]
    for _ in iterator:
        seen.append(iterator.next_offset)
        assert not iterator.has_ended
    assert [*seen, iterator.next_offset] == [8, 11, 14, 17]
    assert iterator.has_ended
    assert not iterator.has_failed


def test_the_leader_epoch_is_that_of_the_last_record() -> None:
    later = _native.make_batch([(0, 0, None, b"c")], base_offset=17, leader_epoch=4)
    iterator = iter(_native.Records(GAPPED + later))
    seen = [iterator.leader_epoch]
    seen += [iterator.leader_epoch for _ in iterator]
    assert seen == [-1, -1, -1, 4]


def test_who_is_told_to_stop_gives_nothing_more_and_stays_where_it_is() -> None:
    iterator = iter(_native.Records(GAPPED + AFTER))
    next(iterator)
    iterator.stop()
    assert list(iterator) == []
    assert (iterator.next_offset, iterator.has_ended) == (11, True)
    iterator.stop()
    assert iterator.next_offset == 11


def test_after_a_failure_next_offset_stays_before_it() -> None:
    iterator = iter(_native.Records(GAPPED + DAMAGED + AFTER))
    given = [next(iterator).offset, next(iterator).offset]
    assert not iterator.has_failed
    with pytest.raises(CorruptRangeError):
        next(iterator)
    assert (iterator.next_offset, iterator.has_failed, iterator.has_ended) == (14, True, False)
    assert [*given, *(record.offset for record in iterator)] == [10, 13, 18]
    assert (iterator.next_offset, iterator.has_ended) == (14, True)


def test_a_decompressor_may_stop_the_iterator_that_called_it() -> None:
    plain = _native.make_batch([(0, 0, None, b"a")])[61:]
    batch = _native.make_batch([], payload=b"x", count=1, base_offset=5, attributes=1)

    def decompress(codec: int, payload: memoryview) -> bytes:
        iterator.stop()
        return plain

    iterator = iter(_native.Records(batch, first_offset=5, decompress=decompress))
    assert list(iterator) == []
    assert (iterator.next_offset, iterator.has_ended) == (5, True)


def test_a_piece_gives_what_is_asked_for_in_its_time_and_one_record_at_least() -> None:
    iterator = iter(_native.Records(GAPPED + AFTER))
    assert [record.offset for record in iterator.piece(0)] == [10]
    assert (iterator.next_offset, iterator.has_ended) == (11, False)
    piece = iterator.piece(0.0)
    assert [next(piece).offset, list(piece), list(piece)] == [13, [], []]
    assert [record.offset for record in iterator.piece(3000)] == [18]
    assert (iterator.next_offset, iterator.has_ended) == (19, True)
    assert list(iterator.piece(0)) == []


def test_a_piece_raises_what_its_iterator_does_and_ends_when_that_is_stopped() -> None:
    iterator = iter(_native.Records(GAPPED + DAMAGED + AFTER))
    piece = iterator.piece(3000)
    assert [next(piece).offset, next(piece).offset] == [10, 13]
    with pytest.raises(CorruptRangeError):
        next(piece)
    assert iterator.has_failed
    iterator.stop()
    assert list(piece) == []


@pytest.mark.parametrize("seconds", [-0.1, float("nan"), float("inf"), 3600, 1e300])
def test_a_piece_takes_no_time_below_zero_and_none_too_long(seconds: float) -> None:
    with pytest.raises(ValueError, match="in \\[0, 3600\\)"):
        iter(_native.Records(GAPPED)).piece(seconds)
    with pytest.raises(TypeError):
        iter(_native.Records(GAPPED)).piece("1")  # type: ignore[arg-type]


def test_a_piece_that_is_part_of_a_cycle_is_collected() -> None:
    class Link:
        pass

    iterator = iter(_native.Records(GAPPED))
    link = Link()
    link.piece = iterator.piece(1)  # type: ignore[attr-defined]
    gone = weakref.ref(link)
    link.link = link  # type: ignore[attr-defined]
    del link
    gc.collect()
    assert gone() is None
