"""Names and text files: what is written is read back, and nothing else is accepted."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylog.errors import CorruptFileError, IncompatibleFormatError, InvalidTopicError
from pylog.storage import layout

PATH = "orders-0/file"
LOG_ID = uuid.UUID("0120d167-866b-4afc-bffb-42ea76541811")
OFFSETS = st.integers(min_value=0, max_value=2**63 - 1)
RISING = st.lists(st.tuples(st.integers(1, 1 << 20), st.integers(1, 1 << 50)), max_size=20).map(
    lambda steps: tuple(accumulated(steps))
)


def accumulated(steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    epoch, start, entries = -1, -1, []
    for epoch_step, start_step in steps:
        epoch, start = epoch + epoch_step, start + start_step
        entries.append((epoch, start))
    return entries


# (parse, an example that it accepts)
TEXTS: list[tuple[Callable[..., Any], bytes]] = [
    (layout.parse_leader_epochs, b"0\n3\n2 100\n4 250\n7 400\n"),
    (layout.parse_partition_metadata, b"version: 0\ntopic_id: ASNFZ4mrze_-3LqYdlQyEA"),
    (layout.parse_meta_properties, layout.encode_meta_properties(LOG_ID)),
]


# ---------------------------------------------------------------- topics and partitions


@pytest.mark.parametrize(
    "topic", ["a", "A.b_c-9", "...", "-", "__consumer_offsets", "x" * 249, "orders-0"]
)
def test_kafkas_topic_names_are_accepted(topic: str) -> None:
    layout.check_topic_name(topic)
    assert layout.parse_partition_directory(layout.partition_directory(topic, 7)) == (topic, 7)


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("", "must not be empty"),
        (".", "directory's own name"),
        ("..", "directory's own name"),
        ("x" * 250, "250 characters"),
        ("a/b", "'/' at 1"),
        ("orders\n", r"'\n' at 6"),
        ("a b", "' ' at 1"),
        ("é", "'é' at 0"),
        ("\u0661", "at 0"),
        ("a\0", r"'\x00' at 1"),
    ],
)
def test_other_topic_names_are_refused_with_the_reason(topic: str, reason: str) -> None:
    with pytest.raises(InvalidTopicError) as caught:
        layout.check_topic_name(topic)
    assert reason in caught.value.reason
    assert caught.value.topic == topic


def test_dot_and_underscore_collide() -> None:
    assert layout.collision_key("a.b_c") == layout.collision_key("a_b.c")
    assert layout.collision_key("a-b") != layout.collision_key("a_b")


def test_internal_topics_start_with_two_underscores() -> None:
    assert layout.is_internal("__metadata")
    assert not layout.is_internal("_metadata")


def test_directory_name_longer_than_a_file_name_is_refused() -> None:
    assert len(layout.partition_directory("x" * 249, 99_999)) == 255
    with pytest.raises(InvalidTopicError):
        layout.partition_directory("x" * 249, 100_000)


@pytest.mark.parametrize(
    "name",
    [
        "orders",
        "orders-",
        "-1",
        "orders-01",
        "orders-+1",
        "orders--",
        "orders-1 ",
        "orders-1\n",
        "orders-\u0661",
        "orders-2147483648",
        "orders-9999999999999999999999",
        "..-0",
        "a/b-0",
        "orders-0.0123456789abcdef0123456789abcdef-delete",
        "x" * 250 + "-0",
        "",
    ],
)
def test_other_directory_names_are_not_partitions(name: str) -> None:
    assert layout.parse_partition_directory(name) is None


def test_partition_is_after_the_last_dash() -> None:
    assert layout.parse_partition_directory("a-1-2") == ("a-1", 2)
    assert layout.parse_partition_directory("a--2") == ("a-", 2)


# ---------------------------------------------------------------- segments


@given(OFFSETS, OFFSETS)
def test_segment_names_are_parsed_back(base: int, position: int) -> None:
    log, index, timeindex = layout.segment_names(base)
    assert (log, index, timeindex) == (
        layout.log_name(base),
        layout.index_name(base),
        layout.timeindex_name(base),
    )
    assert layout.parse_segment_name(log) == (base, ".log")
    assert layout.parse_segment_name(index) == (base, ".index")
    assert layout.parse_segment_name(timeindex) == (base, ".timeindex")
    assert layout.parse_log_name(log) == base
    assert layout.parse_cut_name(layout.cut_name(base, position)) == (base, position)


def test_names_sort_as_offsets_do() -> None:
    assert layout.log_name(42) == "00000000000000000042.log"
    assert layout.log_name(9) < layout.log_name(10) < layout.log_name(2**63 - 1)


@pytest.mark.parametrize(
    "name",
    [
        "0.log",
        "00000000000000000042.log.swap",
        "00000000000000000042.log\n",
        "00000000000000000042.LOG",
        "00000000000000000042",
        "00000000000000000042.txnindex",
        "+0000000000000000042.log",
        "-0000000000000000042.log",
        "99999999999999999999.log",
        "09223372036854775808.log",
        "000000000000000000042.log",
        "\u0660" * 20 + ".log",
        "",
    ],
)
def test_other_file_names_are_not_segments(name: str) -> None:
    assert layout.parse_segment_name(name) is None
    assert layout.parse_log_name(name) is None
    assert layout.parse_cut_name(name) is None


def test_index_is_not_a_log() -> None:
    assert layout.parse_log_name(layout.index_name(0)) is None


@pytest.mark.parametrize(
    "tail", ["", ".cut", ".x.cut", ".01.cut", ".5.cut ", ".9223372036854775808.cut"]
)
def test_other_cut_names_are_refused(tail: str) -> None:
    assert layout.parse_cut_name(layout.log_name(0) + tail) is None


@pytest.mark.parametrize("revision", [1, 9, 2**63 - 1])
def test_cleaned_names_say_which_file_and_which_revision(revision: int) -> None:
    for name in layout.segment_names(42):
        cleaned = layout.cleaned_name(name, revision)
        assert layout.parse_cleaned_name(cleaned) == (name, 42, revision)
        assert layout.parse_segment_name(cleaned) is None
        assert layout.parse_deleted_name(cleaned) is None


@pytest.mark.parametrize(
    "tail",
    [
        "",
        ".cleaned",
        ".0.cleaned",
        ".07.cleaned",
        ".-1.cleaned",
        ".9223372036854775808.cleaned",
        ".7.cleaned ",
        ".7.cleaned.tmp",
        ".7.cut",
    ],
)
def test_other_cleaned_names_are_refused(tail: str) -> None:
    assert layout.parse_cleaned_name(layout.log_name(0) + tail) is None


# ---------------------------------------------------------------- text files


def test_kafkas_leader_epoch_checkpoint_is_read_and_written_to_the_byte() -> None:
    data = b"0\n3\n2 100\n4 250\n7 400\n"
    entries = ((2, 100), (4, 250), (7, 400))
    assert layout.parse_leader_epochs(data, path=PATH) == entries
    assert layout.encode_leader_epochs(entries) == data


def test_empty_leader_epoch_checkpoint_has_no_entries() -> None:
    assert layout.parse_leader_epochs(b"", path=PATH) == ()
    assert layout.parse_leader_epochs(b"0\n0\n", path=PATH) == ()
    assert layout.encode_leader_epochs(()) == b"0\n0\n"


@given(RISING)
def test_leader_epochs_are_parsed_back(entries: tuple[tuple[int, int], ...]) -> None:
    data = layout.encode_leader_epochs(entries)
    assert layout.parse_leader_epochs(data, path=PATH) == entries


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"0\n1\n2 10", "last line is cut"),
        (b"\n", "line 1: expected version 0"),
        (b"1\n0\n", "line 1: expected version 0"),
        (b"0\n", "line 2: expected"),
        (b"0\n2\n2 100\n", "line 2: expected 1 entries, found '2'"),
        (b"0\n00\n", "line 2: expected 0 entries"),
        (b"0\n1\n2\n", "line 3: expected epoch and start offset"),
        (b"0\n1\n2 3 4\n", "line 3: expected epoch and start offset"),
        (b"0\n1\n-1 3\n", "line 3: expected epoch and start offset"),
        (b"0\n1\n02 3\n", "line 3: expected epoch and start offset"),
        (b"0\n1\n2  3\n", "line 3: expected epoch and start offset"),
        (b"0\n1\n2 3\r\n", "line 3: expected epoch and start offset"),
        (b"0\n2\n2 100\n2 200\n", "line 4: 2 200 after 2 100"),
        (b"0\n2\n2 100\n3 100\n", "line 4: 3 100 after 2 100"),
        (b"0\n1\n2147483648 0\n", "line 3"),
        (b"0\n1\n0 9223372036854775808\n", "line 3"),
        (b"0\n1\n2 1\xb2\n", "byte 7 is not ASCII"),
    ],
)
def test_damaged_leader_epoch_checkpoint_says_where(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptFileError) as caught:
        layout.parse_leader_epochs(data, path=PATH)
    assert caught.value.path == PATH
    assert reason in caught.value.reason


def test_kafkas_partition_metadata_is_read_and_written_to_the_byte() -> None:
    data = b"version: 0\ntopic_id: ASNFZ4mrze_-3LqYdlQyEA"
    topic_id = layout.parse_partition_metadata(data, path=PATH)
    assert topic_id == uuid.UUID("01234567-89ab-cdef-fedc-ba9876543210")
    assert layout.encode_partition_metadata(topic_id) == data


@given(st.uuids())
def test_ids_are_parsed_back(value: uuid.UUID) -> None:
    metadata, properties = (
        layout.encode_partition_metadata(value),
        layout.encode_meta_properties(value),
    )
    assert layout.parse_partition_metadata(metadata, path=PATH) == value
    assert layout.parse_meta_properties(properties, path=PATH) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"version: 1\ntopic_id: ASNFZ4mrze_-3LqYdlQyEA",
        b"version: 0\ntopic_id: ASNFZ4mrze_-3LqYdlQyEA\n",
        b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA",  # Kafka's "none"
        b"version: 0\ntopic_id: ASNFZ4mrze_-3LqYdlQyEB",  # bits beyond the 16th byte
        b"version: 0\ntopic_id: ASNFZ4mrze/+3LqYdlQyEA",  # the other base64
    ],
)
def test_damaged_partition_metadata_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptFileError):
        layout.parse_partition_metadata(data, path=PATH)


def test_later_format_of_the_directory_is_refused_with_both_versions() -> None:
    data = layout.encode_meta_properties(LOG_ID).replace(b"format=1", b"format=2")
    with pytest.raises(IncompatibleFormatError) as caught:
        layout.parse_meta_properties(data, path=PATH)
    assert (caught.value.found, caught.value.supported) == (2, 1)


@pytest.mark.parametrize(("parse", "data"), TEXTS, ids=lambda value: getattr(value, "__name__", ""))
def test_text_cut_at_any_length_is_refused(parse: Callable[..., Any], data: bytes) -> None:
    parse(data, path=PATH)
    for length in range(1, len(data)):
        with pytest.raises(CorruptFileError):
            parse(data[:length], path=PATH)


@pytest.mark.parametrize(("parse", "data"), TEXTS, ids=lambda value: getattr(value, "__name__", ""))
def test_trailing_bytes_are_refused(parse: Callable[..., Any], data: bytes) -> None:
    for extra in (b"\n", b" ", b"\0", b"0", data):
        with pytest.raises(CorruptFileError):
            parse(data + extra, path=PATH)


@pytest.mark.parametrize(("parse", "data"), TEXTS, ids=lambda value: getattr(value, "__name__", ""))
def test_flipped_bit_gives_a_value_or_a_clear_error(parse: Callable[..., Any], data: bytes) -> None:
    refused = 0
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            parse(bytes(flipped), path=PATH)
        except (CorruptFileError, IncompatibleFormatError):
            refused += 1
    assert refused > len(data)


@pytest.mark.parametrize(("parse", "data"), TEXTS, ids=lambda value: getattr(value, "__name__", ""))
def test_random_bytes_give_a_value_or_a_clear_error(parse: Callable[..., Any], data: bytes) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    source = random.Random(seed)
    alphabet = bytes(sorted(set(data)))
    refused = 0
    for count in range(10_000):
        size = source.randrange(1, 2 * len(data))
        hostile = source.randbytes(size) if count % 2 else bytes(source.choices(alphabet, k=size))
        try:
            parse(hostile, path=PATH)
        except CorruptFileError:
            refused += 1
    # No text carries a checksum, so a short one such as "0\n0\n" may come up by chance.
    assert refused > 9_900
