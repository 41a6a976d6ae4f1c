"""Walks over batches: the read path's check, recovery's scanner, the search behind damage."""

from __future__ import annotations

import json
import pathlib
import random
import struct
import threading
from typing import Any

import pytest
import reference

from pylog import _native
from pylog.errors import CorruptRangeError, InvalidRecordError

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "batches.json").read_text())
T = 1_700_000_000_000
FAR = 2**62


def batch(base: int, count: int = 2, *, value: bytes = b"value", **fields: Any) -> bytes:
    records = [(delta, delta, b"key", value) for delta in range(count)]
    return _native.make_batch(records, base_offset=base, base_timestamp=T, **fields)


def segment(count: int = 6, *, base: int = 0) -> tuple[bytes, list[int]]:
    """Return batches of two records each, and the position of every batch and of the end."""
    parts = [batch(base + 2 * i, value=b"v" * i) for i in range(count)]
    positions = [sum(map(len, parts[:i])) for i in range(count + 1)]
    return b"".join(parts), positions


def check(data: bytes | bytearray, **changes: Any) -> tuple[int, int, int, int, int]:
    arguments = {
        "start": 0,
        "target_offset": 0,
        "limit_offset": FAR,
        "max_bytes": 1 << 30,
        "next_offset": 0,
        "strict": True,
    }
    return _native.check_batches(data, **arguments | changes)


# ---------------------------------------------------------------- check_batches


def test_whole_batches_are_taken_up_to_the_end() -> None:
    data, positions = segment()
    assert check(data) == (_native.END, 0, positions[-1], 12, 0)
    assert check(b"") == (_native.END, 0, 0, 0, 0)


def test_batches_before_the_target_are_skipped() -> None:
    data, positions = segment()
    for target in range(12):
        expected = (_native.END, positions[target // 2], positions[-1], 12, 0)
        assert check(data, target_offset=target) == expected
    assert check(data, target_offset=12) == (_native.END, positions[-1], positions[-1], 12, 0)


def test_a_skipped_batch_is_not_checked_but_a_taken_one_is() -> None:
    data, positions = segment()
    spoiled = bytearray(data)
    spoiled[positions[1] - 1] ^= 1
    assert check(spoiled, target_offset=2)[0] == _native.END
    assert check(spoiled, target_offset=1) == (_native.BAD_CRC, 0, 0, 0, 0)


def test_the_limit_is_an_offset_that_no_batch_taken_begins_at_or_behind() -> None:
    data, positions = segment()
    for limit in range(1, 12):
        taken = (limit + 1) // 2
        expected = (_native.LIMIT, 0, positions[taken], 2 * taken, 0)
        if taken < 6:
            assert check(data, limit_offset=limit) == expected
    assert check(data, limit_offset=0) == (_native.LIMIT, 0, 0, 0, 0)


def test_at_least_one_batch_is_taken_and_then_as_many_as_reach_max_bytes() -> None:
    data, positions = segment()
    assert check(data, max_bytes=0) == (_native.LIMIT, 0, positions[1], 2, 0)
    assert check(data, max_bytes=positions[2]) == (_native.LIMIT, 0, positions[2], 4, 0)
    assert check(data, max_bytes=positions[2] + 1) == (_native.LIMIT, 0, positions[3], 6, 0)
    found = check(data, target_offset=4, max_bytes=1)
    assert found == (_native.LIMIT, positions[2], positions[3], 6, 0)


def test_a_cut_batch_says_how_many_bytes_it_needs() -> None:
    data, positions = segment(3)
    size = positions[3] - positions[2]
    for end in range(positions[2] + 1, positions[3]):
        needed = size if end - positions[2] >= 61 else 61
        assert check(data[:end]) == (_native.INCOMPLETE, 0, positions[2], 4, needed)


def test_zeros_behind_the_batches_are_their_end() -> None:
    data, positions = segment()
    assert check(data + bytes(100)) == (_native.ZEROS, 0, positions[-1], 12, 0)


def test_the_first_batch_must_be_the_one_the_index_names() -> None:
    data, positions = segment()
    assert check(data, start=positions[1], next_offset=-1, entry_offset=3)[0] == _native.END
    found = check(data, start=positions[1], next_offset=-1, entry_offset=4)
    assert found == (_native.BAD_OFFSET, positions[1], positions[1], -1, 0)


def test_a_gap_is_damage_unless_the_segment_was_compacted() -> None:
    data = batch(0) + batch(5)
    first = len(batch(0))
    assert check(data) == (_native.BAD_OFFSET, 0, first, 2, 0)
    assert check(data, strict=False) == (_native.END, 0, len(data), 7, 0)
    assert check(batch(5) + batch(0), next_offset=5, strict=False)[0] == _native.BAD_OFFSET


def test_any_base_is_taken_when_none_is_expected() -> None:
    assert check(batch(77), next_offset=-1) == (_native.END, 0, len(batch(77)), 79, 0)


@pytest.mark.parametrize("start", [-1, 1000])
def test_a_start_outside_of_the_data_is_refused(start: int) -> None:
    with pytest.raises(ValueError, match="no range"):
        check(batch(0), start=start)


def test_wrong_calls_of_check_batches_are_type_errors() -> None:
    with pytest.raises(TypeError, match="misses the argument 'start'"):
        _native.check_batches(b"")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        check(b"", speed=1)
    with pytest.raises(TypeError, match="multiple values for argument 'data'"):
        _native.check_batches(b"", data=b"")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="at most 8 positional"):
        _native.check_batches(*range(9))  # type: ignore[call-arg, arg-type]
    with pytest.raises(TypeError, match="max_bytes must be an int, not str"):
        check(b"", max_bytes="1")


# ---------------------------------------------------------------- hostile headers

HOSTILE = {
    "length -1": (8, ">i", -1, "BAD_LENGTH"),
    "length -2**31": (8, ">i", -(2**31), "BAD_LENGTH"),
    "length of less than a header": (8, ">i", 48, "BAD_LENGTH"),
    "length 2**31-1": (8, ">i", 2**31 - 1, "INCOMPLETE"),
    "length 0": (8, ">i", 0, "ZEROS"),
    "magic 1": (16, "B", 1, "BAD_MAGIC"),
    "magic 3": (16, "B", 3, "BAD_MAGIC"),
    "count -1": (57, ">i", -1, "BAD_COUNT"),
    "count of more than the offsets": (57, ">i", 3, "BAD_COUNT"),
    "count 2**31-1": (57, ">i", 2**31 - 1, "BAD_COUNT"),
    "last offset delta -1": (23, ">i", -1, "BAD_COUNT"),
    "base offset -1": (0, ">q", -1, "BAD_OFFSET"),
    "base offset 2**63-1": (0, ">q", 2**63 - 1, "BAD_OFFSET"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_named_by_all_walkers(name: str) -> None:
    position, form, value, status = HOSTILE[name]
    data = bytearray(batch(0))
    struct.pack_into(form, data, position, value)
    expected = getattr(_native, status)
    assert check(data)[:3] == (expected, 0, 0)
    scanner = _native.Scanner(base_offset=0, next_offset=0)
    assert scanner.feed(data) == expected
    assert (scanner.position, scanner.next_offset, scanner.batches) == (0, 0, 0)
    assert _native.batch_headers(data) == []
    assert _native.find_batch(data, 0, 0, FAR) == -1
    with pytest.raises(CorruptRangeError):
        list(_native.Records(data))


def test_more_records_than_the_bytes_can_hold_are_refused_before_anything_is_allocated() -> None:
    data = bytearray(batch(0))
    struct.pack_into(">i", data, 23, 2**31 - 1)
    struct.pack_into(">i", data, 57, 2**31 - 1)
    struct.pack_into(">I", data, 17, _native.crc32c(data[21:]))
    assert check(data)[0] == _native.BAD_COUNT
    with pytest.raises(CorruptRangeError):
        _native.Records(data).columns()


def decodes(data: bytearray) -> bool:
    """Return whether the records can be read when nobody looks at the CRC."""
    try:
        list(_native.Records(data))
    except (CorruptRangeError, InvalidRecordError):
        return False
    return True


def columns_decode(data: bytearray) -> bool:
    """The same for columns; a flipped codec bit asks for a decompressor that is not there."""
    try:
        _native.Records(data).columns()
    except (CorruptRangeError, InvalidRecordError):
        return False
    return True


def test_every_single_flipped_bit_is_noticed_or_lies_outside_of_the_crc() -> None:
    good = batch(5, leader_epoch=1)
    for bit in range(8 * len(good)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        scanner = _native.Scanner(base_offset=5, next_offset=5)
        status = scanner.feed(data)
        is_leader_epoch = 12 <= bit // 8 < 16
        assert (status == _native.END) == is_leader_epoch, bit
        assert (check(data, next_offset=5)[0] == _native.END) == is_leader_epoch, bit
        assert decodes(data) == columns_decode(data), bit


def test_every_cut_is_incomplete_and_trailing_bytes_are_looked_at() -> None:
    good = batch(5)
    for size in range(1, len(good)):
        for walk in (
            lambda part: check(part, next_offset=5)[0],
            lambda part: _native.Scanner(base_offset=5, next_offset=5).feed(part),
        ):
            assert walk(good[:size]) == _native.INCOMPLETE, size
        with pytest.raises(CorruptRangeError):
            list(_native.Records(good[:size]))
    for trailing in (b"\xff" * 100, b"x", good):
        scanner = _native.Scanner(base_offset=5, next_offset=5)
        assert scanner.feed(good + trailing) != _native.END
        assert scanner.position == len(good)


# ---------------------------------------------------------------- find_batch


def test_the_next_good_batch_behind_damage_is_found() -> None:
    data, positions = segment(6)
    for damaged in range(5):
        spoiled = bytearray(data)
        spoiled[positions[damaged] + 70] ^= 1
        assert _native.find_batch(spoiled, positions[damaged], 0, 12) == positions[damaged + 1]
    assert _native.find_batch(data, 0, 0, 12) == 0
    assert _native.find_batch(data, 1, 0, 12) == positions[1]


def test_a_batch_is_found_only_within_the_offsets_asked_for() -> None:
    data, positions = segment(6)
    assert _native.find_batch(data, 0, 5, 12) == positions[3]
    assert _native.find_batch(data, 0, 12, 99) == -1
    assert _native.find_batch(data, 0, 0, 0) == -1


def test_a_batch_must_be_followed_by_one_that_goes_on_or_by_an_end() -> None:
    first, second = batch(0), batch(2)
    assert _native.find_batch(first + b"\xff" * 100, 0, 0, FAR) == -1
    for follower in (b"", bytes(100), second, second[:40], second[:70]):
        assert _native.find_batch(b"damage" + first + follower, 0, 0, FAR) == 6
    assert _native.find_batch(first + batch(50), 0, 0, 40, 0, False) == -1
    backwards = batch(2) + batch(0)
    assert _native.find_batch(backwards, 0, 0, FAR) == len(batch(2))


def test_a_base_offset_that_the_next_batch_contradicts_is_not_believed() -> None:
    # Kafka's CRC leaves out the base offset: these batches are whole, and one says 0 for 4.
    torn = bytes(8) + batch(4)[8:]
    assert _native.find_batch(torn + batch(6), 0, 0, FAR) == len(torn)
    assert _native.find_batch(torn + batch(6), 0, 0, FAR, 0, False) == 0


@pytest.mark.parametrize("position", [495, 496, 504, 511, 512, 0])
def test_a_last_base_offset_is_not_believed_across_a_boundary_of_sectors(position: int) -> None:
    may_be_torn = 496 <= position < 512
    for end in (b"", bytes(600)):
        found = _native.find_batch(batch(4) + end, 0, 0, FAR, position)
        assert found == (-1 if may_be_torn else 0)
    assert _native.find_batch(batch(4) + batch(6), 0, 0, FAR, position) == 0


def test_an_end_that_is_known_vouches_for_the_last_base_offset() -> None:
    data, position = batch(4), 511
    end = position + len(data)
    for rest in (b"", bytes(600), b"\xff" * 100):
        assert _native.find_batch(data + rest, 0, 0, FAR, position, True, end, 6) == 0
        assert _native.find_batch(data + rest, 0, 0, FAR, position, True, end, 7) == -1
        assert _native.find_batch(data + rest, 0, 0, FAR, position, False, end, 7) == 0


def test_nothing_is_found_in_noise_or_in_nothing() -> None:
    noise = random.Random(7).randbytes(100_000)
    assert _native.find_batch(noise, 0, 0, FAR) == -1
    assert _native.find_batch(bytes([2]) * 100_000, 0, 0, FAR) == -1
    assert _native.find_batch(b"", 0, 0, FAR) == -1
    assert _native.find_batch(bytes(1000), 0, 0, FAR) == -1


def test_headers_that_overlap_by_the_thousand_do_not_make_the_search_quadratic() -> None:
    # Each header is plausible and claims all that follows it, up to the end of the data.
    count = 400_000
    data = bytearray(_native.make_batch([], attributes=1, count=1, payload=b"") * count)
    for position in range(0, len(data), 61):
        struct.pack_into(">i", data, position + 8, len(data) - position - 12)
    # Without its cap the search puts 5 TB through the CRC and runs into the time limit.
    assert _native.find_batch(data, 0, 0, FAR) == -1


# ---------------------------------------------------------------- Scanner


def test_the_indexes_of_kafkas_own_segment_come_out_exactly() -> None:
    stamps = [101, 51, 201, 201, 151, 301]
    data = b""
    for i, stamp in enumerate(stamps):
        records = [(0, 0, None, b"x" * 8), (1, stamp, None, b"y" * 8)]
        made = _native.make_batch(records, base_offset=1000 + 2 * i, base_timestamp=T)
        size = 99 - len(made)
        records[1] = (1, stamp, None, b"y" * (8 + size))
        data += _native.make_batch(records, base_offset=1000 + 2 * i, base_timestamp=T)
    assert len(data) == 6 * 99
    scanner = _native.Scanner(base_offset=1000, next_offset=1000, index_interval_bytes=100)
    assert scanner.feed(data) == _native.END
    assert scanner.timeindex.hex() == GOLDEN["timeindex"][:24]
    scanner.seal()
    scanner.seal()
    assert scanner.index.hex() == GOLDEN["index"]
    assert scanner.timeindex.hex() == GOLDEN["timeindex"]
    assert (scanner.first_timestamp, scanner.max_timestamp) == (T + 101, T + 301)
    assert scanner.max_timestamp_offset == 1011
    assert scanner.bytes_since_index_entry == 198
    assert (scanner.batches, scanner.records, scanner.next_offset) == (6, 12, 1012)


@pytest.mark.parametrize("seed", range(10))
def test_the_indexes_agree_with_the_reference_however_the_bytes_arrive(seed: int) -> None:
    source = random.Random(seed)
    base = source.randrange(2**40)
    data, offset = b"", base
    for _ in range(300):
        count = source.randrange(1, 5)
        records = [
            (delta, source.randrange(1000), None, b"v" * source.randrange(60))
            for delta in range(count)
        ]
        stamp = T + source.randrange(5000)
        data += _native.make_batch(records, base_offset=offset, base_timestamp=stamp)
        offset += count
    interval = source.choice([0, 100, 1000, 4096])
    expected = reference.index_segment(data, base_offset=base, interval_bytes=interval)
    scanner = _native.Scanner(base_offset=base, next_offset=base, index_interval_bytes=interval)
    while scanner.position < len(data):
        end = min(len(data), scanner.position + source.randrange(400, 5000))
        assert scanner.feed(data, scanner.position, end) in (_native.END, _native.INCOMPLETE)
    scanner.seal()
    assert scanner.index == expected.index_bytes()
    assert scanner.timeindex == expected.timeindex_bytes()
    assert scanner.next_offset == offset


def test_a_new_scanner_has_seen_nothing() -> None:
    scanner = _native.Scanner(base_offset=7, next_offset=9, position=11)
    assert (scanner.position, scanner.next_offset, scanner.batches, scanner.records) == (
        11,
        9,
        0,
        0,
    )
    assert (scanner.first_timestamp, scanner.max_timestamp, scanner.max_timestamp_offset) == (
        -1,
        -1,
        -1,
    )
    assert (scanner.index, scanner.timeindex, scanner.epochs) == (b"", b"", [])
    assert scanner.feed(b"") == _native.END
    scanner.seal()
    assert scanner.timeindex == b""


def test_epochs_are_noted_where_they_change() -> None:
    scanner = _native.Scanner(base_offset=0, next_offset=0)
    data = b"".join(
        batch(2 * i, leader_epoch=epoch) for i, epoch in enumerate([-1, 0, 0, 3, -1, 3, 7])
    )
    assert scanner.feed(data) == _native.END
    assert scanner.epochs == [(0, 2), (3, 6), (7, 12)]


def test_a_scan_goes_on_behind_a_damaged_range() -> None:
    data, positions = segment(6)
    spoiled = bytearray(data)
    spoiled[positions[2] + 70] ^= 1
    scanner = _native.Scanner(base_offset=0, next_offset=0)
    assert scanner.feed(spoiled) == _native.BAD_CRC
    assert (scanner.position, scanner.next_offset) == (positions[2], 4)
    scanner.skip_to(positions[3], 6)
    assert scanner.feed(spoiled, positions[3]) == _native.END
    assert (scanner.position, scanner.next_offset, scanner.batches) == (positions[-1], 12, 5)
    with pytest.raises(ValueError, match="forward"):
        scanner.skip_to(0, 12)


def test_a_scanner_is_strict_about_gaps_unless_the_segment_was_compacted() -> None:
    data = batch(0) + batch(5)
    assert _native.Scanner(base_offset=0, next_offset=0).feed(data) == _native.BAD_OFFSET
    loose = _native.Scanner(base_offset=0, next_offset=0, strict=False)
    assert loose.feed(data) == _native.END
    assert loose.next_offset == 7
    assert loose.feed(batch(3)) == _native.BAD_OFFSET


def test_an_offset_too_far_from_the_base_cannot_stand_in_an_index() -> None:
    scanner = _native.Scanner(base_offset=0, next_offset=0, strict=False)
    assert scanner.feed(batch(2**31 - 2)) == _native.END
    assert scanner.feed(batch(2**31)) == _native.BAD_OFFSET


def test_a_batch_behind_2_gib_cannot_stand_in_an_index() -> None:
    for position, expected in ((2**31 - 1, _native.END), (2**31, _native.BAD_LENGTH)):
        scanner = _native.Scanner(base_offset=0, next_offset=0, position=position)
        assert scanner.feed(batch(0)) == expected


def test_the_earliest_batch_of_the_greatest_timestamp_is_the_one_indexed() -> None:
    scanner = _native.Scanner(base_offset=0, next_offset=0)
    assert scanner.feed(batch(0) + batch(2) + batch(4)) == _native.END
    scanner.seal()
    assert scanner.max_timestamp_offset == 1
    assert scanner.timeindex == struct.pack(">qi", T + 1, 1)


@pytest.mark.parametrize(
    "arguments", [{}, {"base_offset": 5}, {"base_offset": 5, "next_offset": 4}]
)
def test_a_scanner_needs_offsets_that_make_sense(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="base_offset"):
        _native.Scanner(**arguments)  # type: ignore[arg-type]


def test_a_scanner_belongs_to_one_thread_at_a_time() -> None:
    values = [b"x" * 1000] * 20_000
    data, _ = _native.encode(values, None, None, T, 1 << 20)
    refused = 0
    while refused == 0:
        scanner = _native.Scanner(base_offset=0, next_offset=0)
        thread = threading.Thread(target=scanner.feed, args=(data,))
        thread.start()
        while thread.is_alive():
            try:
                assert len(scanner.index) % 8 == 0
            except RuntimeError:
                refused += 1
        thread.join()
        assert scanner.records == 20_000
