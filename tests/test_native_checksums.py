"""CRC-32C, murmur2 and the index lookups of the C core."""

from __future__ import annotations

import json
import pathlib
import random
import struct

import crc32c
import pytest
import reference

from pylog import _native

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "batches.json").read_text())


def test_crc_of_the_check_string_is_the_published_one() -> None:
    assert _native.crc32c(b"123456789") == 0xE3069283
    assert _native.crc32c(b"") == 0


def check_every_way(data: bytes | memoryview, value: int = 0) -> None:
    expected = crc32c.crc32c(data, value)
    for way, crc in _native.crc32c_every_way(data, value):
        assert crc == expected, (way, len(data), value)


def test_crc_agrees_with_the_crc32c_package_at_every_small_length_and_alignment() -> None:
    data = random.Random(1).randbytes(1900)
    for start in (0, 1, 3, 7):
        view = memoryview(data)[start:]
        for size in range(len(view)):
            check_every_way(view[:size])


def test_best_way_to_a_crc_is_the_last_one_and_used() -> None:
    ways = _native.crc32c_every_way(b"123456789", 0)
    assert ways[0][0] == "table"
    assert ways[-1][0] == _native.CRC_BACKEND


def test_crc_agrees_with_the_crc32c_package_around_the_stream_lengths() -> None:
    data = random.Random(2).randbytes(400_000)
    for words in (255, 256, 257, 512, 5000, 16_000):
        for size in range(24 * words - 9, 24 * words + 10):
            check_every_way(data[:size])


def test_crc_agrees_with_the_reference() -> None:
    source = random.Random(3)
    for _ in range(50):
        data = source.randbytes(source.randrange(600))
        assert _native.crc32c(data) == reference.crc32c(data)


def test_crc_continues_where_another_ended() -> None:
    data = random.Random(4).randbytes(4000)
    for cut in range(0, 4001, 7):
        assert _native.crc32c(data[cut:], _native.crc32c(data[:cut])) == _native.crc32c(data)
        check_every_way(data[cut:], _native.crc32c(data[:cut]))


@pytest.mark.parametrize("vector", GOLDEN["murmur2"], ids=lambda vector: vector["key_hex"][:16])
def test_murmur2_is_that_of_kafkas_java_client(vector: dict[str, object]) -> None:
    key = bytes.fromhex(str(vector["key_hex"]))
    assert _native.murmur2(key) == vector["signed"]
    assert reference.murmur2(key) == vector["signed"]
    assert _native.partition_for_key(key, 6) == vector["partition_of_6"]


def test_murmur2_agrees_with_the_reference() -> None:
    source = random.Random(5)
    for size in range(200):
        key = source.randbytes(size)
        assert _native.murmur2(bytearray(key)) == reference.murmur2(key)
        expected = (reference.murmur2(key) & 0x7FFFFFFF) % 17
        assert _native.partition_for_key(key, 17) == expected


@pytest.mark.parametrize("partitions", [0, -1, 1 << 31])
def test_a_count_of_partitions_outside_int32_is_refused(partitions: int) -> None:
    with pytest.raises(ValueError, match="partitions"):
        _native.partition_for_key(b"k", partitions)


def test_lookups_agree_with_the_reference() -> None:
    source = random.Random(6)
    for count in (*range(10), 100, 1000):
        firsts = sorted(source.sample(range(4 * count + 1), count))
        entries = [(first, 7) for first in firsts]
        offsets = b"".join(struct.pack(">ii", *entry) for entry in entries)
        times = b"".join(struct.pack(">qi", *entry) for entry in entries)
        for target in {-1, 0, 4 * count + 1, 2**40, *source.choices(range(4 * count + 1), k=50)}:
            expected = reference.lower_bound(entries, target)
            assert _native.lookup_offset(offsets, count, target) == expected
            assert _native.lookup_timestamp(times, count, target) == expected


def test_a_lookup_sees_only_the_entries_that_are_counted() -> None:
    entries = struct.pack(">iiii", 5, 1, 0, 0)  # the second one is room that was not used yet
    assert _native.lookup_offset(entries, 1, 100) == 0


@pytest.mark.parametrize("count", [-1, 3])
def test_a_lookup_past_the_memory_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="entries"):
        _native.lookup_offset(bytes(16), count, 0)
    with pytest.raises(ValueError, match="entries"):
        _native.lookup_timestamp(bytes(24), count, 0)
