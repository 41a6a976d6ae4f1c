"""The batch that grows record by record: byte for byte what is encoded at once."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from kafka_clients import AiokafkaBatch

from pylog._native import BatchBuilder, Sent, batch_size, encode, system_clock

texts = some.none() | some.binary(max_size=40)
records = some.tuples(
    texts,
    texts,
    some.none() | some.lists(some.tuples(some.text(max_size=5), texts), max_size=3),
    some.integers(0, 2**62),
)


@given(some.lists(records, min_size=1, max_size=20))
def test_growing_batch_is_byte_for_byte_what_encode_makes(rows: list[Any]) -> None:
    builder = BatchBuilder(Sent, object(), 1 << 16, system_clock)
    sent = [builder.append(*row) for row in rows]
    assert [(one._index, one._timestamp) for one in sent] == [
        (index, row[3]) for index, row in enumerate(rows)
    ]
    values, keys, headers, timestamps = zip(*rows, strict=True)
    expected, _ = encode(values, keys, headers, timestamps, 1 << 20)
    assert builder.seal() == expected
    assert builder.count == len(rows)
    assert builder.max_timestamp == max(timestamps)


@given(some.lists(records, min_size=1, max_size=20), some.integers(61, 400))
def test_batch_that_is_full_is_left_as_it_was(rows: list[Any], capacity: int) -> None:
    builder = BatchBuilder(Sent, object(), capacity, system_clock)
    taken = [row for row in rows if builder.append(*row) is not None]
    refused = [row for row in rows if row not in taken]
    for value, key, headers, _ in refused:
        assert builder.count > 0 or batch_size(value, key, headers) > capacity
    if taken:
        data = builder.seal()
        assert len(data) <= capacity
        values, keys, headers, timestamps = zip(*taken, strict=True)
        assert data == encode(values, keys, headers, timestamps, 1 << 20)[0]
    assert builder.append(b"", None, None, 0) is None or not taken


def test_sealed_batch_names_its_producer_and_another_client_reads_it() -> None:
    builder = BatchBuilder(Sent, object(), 1000, lambda: 77)
    builder.append(b"value", b"key", None, None)
    builder.close()
    assert builder.append(b"value", b"key", None, None) is None
    for producer in [(2**62, 7, 2**31 - 1), (0, 0, 0)]:
        batch = AiokafkaBatch(bytes(builder.seal(*producer)))
        assert batch.validate_crc()
        assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == producer
        [record] = batch
        assert (record.value, record.key, record.timestamp) == (b"value", b"key", 77)


def test_batch_builder_refuses_what_makes_no_batch() -> None:
    with pytest.raises(TypeError):
        BatchBuilder(dict, object(), 100, system_clock)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        BatchBuilder(Sent, object(), 60, system_clock)
    builder = BatchBuilder(Sent, object(), 100, system_clock)
    with pytest.raises(ValueError):
        builder.seal()
    with pytest.raises(TypeError):
        builder.append(b"v")  # type: ignore[call-arg]
    builder.append(b"v", None, None, None)
    for producer in [(1,), (1, 2), (-2, 0, 0), (0, 2**15, 0), (0, 0, 2**31), ("0", 0, 0)]:
        with pytest.raises((TypeError, ValueError)):
            builder.seal(*producer)


def test_builder_and_its_futures_are_collected_in_a_cycle() -> None:
    class Owner:
        pass

    owner: Any = Owner()
    owner.builder = BatchBuilder(Sent, owner, 1000, system_clock)
    owner.sent = owner.builder.append(b"v", None, None, None)
    reference = weakref.ref(owner)
    del owner
    gc.collect()
    assert reference() is None
