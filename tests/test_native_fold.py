"""Records.fold(): a dict of the latest values, as a plain loop over the records makes it."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from typing import Any

import pytest

from pylog import _native, codecs
from pylog.codecs import Compression
from pylog.errors import CorruptRangeError, InvalidRecordError

T = 1_700_000_000_000
CONTROL = 0x20
TRANSACTIONAL = 0x10

Row = tuple[int, int, bytes | None, bytes | None]


def batch(base: int, rows: list[Row], **header: Any) -> bytes:
    return _native.make_batch(rows, base_offset=base, base_timestamp=T, **header)


def folded(data: bytes, **given: Any) -> dict[bytes, bytes]:
    state: dict[bytes, bytes] = {}
    _native.Records(data, **given).fold(state, False)
    return state


def by_loop(records: _native.Records) -> dict[bytes, bytes]:
    """Fold one record after the other: what fold has to equal."""
    state: dict[bytes, bytes] = {}
    for record in records:
        if record.key is None:
            continue
        if record.value is None:
            state.pop(record.key, None)
        else:
            state[record.key] = record.value
    return state


def test_the_latest_value_of_a_key_counts() -> None:
    data = batch(5, [(0, 0, b"a", b"1"), (1, 0, b"b", b"2"), (2, 0, b"a", b"3")])
    assert folded(data + batch(8, [(0, 0, b"b", b"")])) == {b"a": b"3", b"b": b""}


def test_a_null_value_takes_its_key_away_and_one_that_is_not_there_is_no_error() -> None:
    data = batch(0, [(0, 0, b"a", b"1"), (1, 0, b"a", None), (2, 0, b"b", None)])
    assert folded(data) == {}


def test_null_values_can_be_kept_so_that_they_can_be_applied_elsewhere() -> None:
    data = batch(0, [(0, 0, b"a", b"1"), (1, 0, b"a", None), (2, 0, b"b", b"2")])
    state: dict[bytes, bytes | None] = {}
    _native.Records(data).fold(state, True)
    assert state == {b"a": None, b"b": b"2"}


def test_records_without_a_key_are_counted_and_passed_over() -> None:
    data = batch(0, [(0, 0, None, b"1"), (1, 0, b"", b"2"), (2, 0, None, None)])
    state: dict[bytes, bytes] = {}
    count, keyless, last = _native.Records(data).fold(state, False)
    assert (count, keyless, state) == (3, 2, {b"": b"2"})
    assert last is not None and last.offset == 2


def test_the_last_record_is_the_last_one_of_the_range() -> None:
    data = batch(0, [(n, n, b"k", b"%d" % n) for n in range(5)], leader_epoch=3)
    data += batch(5, [], last_offset_delta=4)
    state: dict[bytes, bytes] = {}
    _, _, last = _native.Records(data, end_offset=3, topic="t", partition=7).fold(state, False)
    assert last is not None and state == {b"k": b"2"}
    assert (last.topic, last.partition, last.offset, last.leader_epoch) == ("t", 7, 2, 3)
    assert (last.timestamp, last.key, last.value) == (T + 2, b"k", b"2")
    assert _native.Records(data, first_offset=5).fold(state, False) == (0, 0, None)


def test_only_the_range_that_was_asked_for_is_folded() -> None:
    data = batch(10, [(n, 0, b"%d" % n, b"v") for n in (0, 2, 4)], last_offset_delta=5)
    data += batch(20, [(0, 0, b"20", b"v")])
    for first in range(8, 24):
        for end in range(first, 24):
            records = _native.Records(data, first_offset=first, end_offset=end)
            state: dict[bytes, bytes] = {}
            count, _, _ = records.fold(state, False)
            assert state == by_loop(records)
            assert count == len(records)


def test_empty_batches_and_control_batches_leave_no_trace() -> None:
    marker = (0, 0, b"\x00\x00\x00\x01", b"\x00\x00\x00\x00\x00\x00")
    data = batch(0, [(0, 0, b"a", b"1")], attributes=TRANSACTIONAL, producer_id=1)
    data += batch(1, [marker], attributes=TRANSACTIONAL | CONTROL, producer_id=1)
    data += batch(2, [], last_offset_delta=7) + batch(10, [(0, 0, b"b", b"2")])
    assert folded(data) == {b"a": b"1", b"b": b"2"}


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_compressed_batches_are_folded(codec: str) -> None:
    plain = batch(0, [(n, 0, b"%d" % (n % 3), b"%d" % n) for n in range(10)])
    payload = Compression.named(codec).compress(memoryview(plain)[_native.BATCH_HEADER_BYTES :])
    data = _native.make_batch(
        [], base_offset=0, base_timestamp=T, attributes=codecs.NUMBERS[codec], count=10,
        last_offset_delta=9, payload=payload,
    )  # fmt: skip
    assert folded(data, decompress=codecs.decompress) == {b"0": b"9", b"1": b"7", b"2": b"8"}
    with pytest.raises(InvalidRecordError, match="no decompressor"):
        folded(data)


def test_what_the_decompressor_raises_comes_through_and_what_was_folded_before_stays() -> None:
    data = batch(0, [(0, 0, b"a", b"1")])
    data += _native.make_batch(
        [], base_offset=1, base_timestamp=T, attributes=1, count=1, payload=b"?"
    )

    def fail(codec: int, payload: memoryview) -> bytes:
        raise RuntimeError(f"codec {codec}")

    state: dict[bytes, bytes] = {}
    with pytest.raises(RuntimeError, match="codec 1"):
        _native.Records(data, decompress=fail).fold(state, False)
    assert state == {b"a": b"1"}


def test_a_damaged_batch_is_named_and_what_was_folded_before_stays() -> None:
    good = batch(0, [(0, 0, b"a", b"1")])
    bad = _native.make_batch(
        [], base_offset=1, base_timestamp=T, count=3, last_offset_delta=2, payload=b"\x00" * 30
    )
    state: dict[bytes, bytes] = {}
    with pytest.raises(CorruptRangeError) as caught:
        _native.Records(good + bad).fold(state, False)
    assert (caught.value.first, caught.value.last) == (1, 3)
    assert state == {b"a": b"1"}


@pytest.mark.parametrize("mapping", [None, [], type("D", (dict,), {})()])
def test_anything_but_a_dict_is_refused(mapping: Any) -> None:
    with pytest.raises(TypeError, match="mapping must be a dict"):
        _native.Records(batch(0, [(0, 0, b"a", b"1")])).fold(mapping, False)


class Jealous:
    """A key that cannot be compared with b"a"."""

    def __hash__(self) -> int:
        return hash(b"a")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not compare me")


@pytest.mark.parametrize("value", [b"1", None])
def test_an_error_of_the_dict_comes_through(value: bytes | None) -> None:
    rows: list[Row] = [(0, 0, b"b", b"1"), (1, 0, b"a", value), (2, 0, b"c", b"1")]
    state: Any = {Jealous(): b""}
    with pytest.raises(RuntimeError, match="do not compare me"):
        _native.Records(batch(0, rows)).fold(state, False)
    assert state.pop(b"b") == b"1" and len(state) == 1


@pytest.mark.parametrize("seed", range(20))
def test_fold_equals_a_loop_over_random_batches(seed: int) -> None:
    pick = random.Random(seed)
    print(f"seed {seed}")
    data, base = b"", 0
    for _ in range(30):
        deltas = sorted(pick.sample(range(20), pick.randrange(12)))
        rows: list[Row] = [
            (
                delta,
                pick.randrange(100),
                pick.choice([None, b"", b"%d" % pick.randrange(12), pick.randbytes(200)]),
                pick.choice([None, b"", pick.randbytes(pick.randrange(300))]),
            )
            for delta in deltas
        ]
        data += batch(base, rows, last_offset_delta=19)
        base += 20 + pick.randrange(3)
    records = _native.Records(data, first_offset=pick.randrange(40), end_offset=base - 30)
    state: dict[bytes, bytes] = {}
    records.fold(state, False)
    assert state == by_loop(records)


def test_nothing_leaks() -> None:
    data = batch(0, [(n, 0, b"%d" % (n % 50), b"v" * (n % 7) or None) for n in range(1000)])
    records = _native.Records(data)
    failing = batch(0, [(n, 0, b"a", b"v" * 600) for n in range(100)])
    jealous: Any = {Jealous(): b""}

    def fold_often() -> None:
        for _ in range(20):
            state: dict[bytes, bytes] = {}
            records.fold(state, False)
            changes: dict[bytes, bytes | None] = {}
            records.fold(changes, True)
            with contextlib.suppress(RuntimeError):
                _native.Records(failing).fold(jealous, False)

    fold_often()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        fold_often()
        assert tracemalloc.get_traced_memory()[0] - before < 5_000
    finally:
        tracemalloc.stop()
