"""The manifest's text, of this version and of those before it."""

from __future__ import annotations

import dataclasses

import pytest

from pylog._native import crc32c
from pylog.errors import IncompatibleFormatError
from pylog.storage.manifest import (
    ActiveFacts,
    Cleaned,
    Clock,
    Manifest,
    SegmentFacts,
    encode_manifest,
    parse_manifest,
)

SEALED = SegmentFacts(
    base_offset=0,
    end_offset=1000,
    size=67108860,
    max_timestamp=1800,
    index_entries=9,
    time_entries=7,
    is_compacted=True,
    append_time=1805,
    revision=8,
)
ACTIVE = SegmentFacts(
    base_offset=1000,
    end_offset=2000,
    size=4096,
    max_timestamp=1900,
    index_entries=1,
    time_entries=1,
    append_time=1906,
)
NEWEST = Manifest(
    generation=12,
    is_clean=True,
    log_start_offset=0,
    durable_offset=2000,
    active=ActiveFacts(
        first_timestamp=1700,
        max_timestamp=1900,
        max_timestamp_offset=1999,
        bytes_since_index_entry=512,
    ),
    clock=Clock(1700000000000),
    cleaned=Cleaned(1000, 1700000000000),
    dropped_tombstones_end=900,
    truncated_at=11,
    high_watermark=1950,
    segments=(SEALED, ACTIVE),
)
# What each version wrote of it, to the byte.
TEXTS = {
    4: """pylog-manifest 4
generation 12
is_clean 1
log_start_offset 0
clock 1700000000000 -1
cleaned 1000 1700000000000
tombstones 900
truncated 11
high_watermark 1950
durable_offset 2000
active 1700 1900 1999 512
segments 2
0 1000 67108860 1800 9 7 1 1805 8
1000 2000 4096 1900 1 1 0 1906 0
""",
    3: """pylog-manifest 3
generation 12
is_clean 1
log_start_offset 0
clock 1700000000000 -1
cleaned 1000 1700000000000
tombstones 900
durable_offset 2000
active 1700 1900 1999 512
segments 2
0 1000 67108860 1800 9 7 1 1805 8
1000 2000 4096 1900 1 1 0 1906 0
""",
    2: """pylog-manifest 2
generation 12
is_clean 1
log_start_offset 0
clock 1700000000000 -1
durable_offset 2000
active 1700 1900 1999 512
segments 2
0 1000 67108860 1800 9 7 1 1805
1000 2000 4096 1900 1 1 0 1906
""",
    1: """pylog-manifest 1
generation 12
is_clean 1
log_start_offset 0
durable_offset 2000
active 1700 1900 1999 512
segments 2
0 1000 67108860 1800 9 7 1
1000 2000 4096 1900 1 1 0
""",
}


def bytes_of(text: str) -> bytes:
    body = text.encode()
    return body + b"crc32c %08x\n" % crc32c(body)


def without(manifest: Manifest, version: int) -> Manifest:
    """What a version could say of a manifest."""
    if version < 4:
        manifest = dataclasses.replace(manifest, truncated_at=0, high_watermark=0)
    if version < 3:
        segments = tuple(dataclasses.replace(one, revision=0) for one in manifest.segments)
        manifest = dataclasses.replace(
            manifest, cleaned=Cleaned(), dropped_tombstones_end=0, segments=segments
        )
    if version < 2:
        segments = tuple(dataclasses.replace(one, append_time=-1) for one in manifest.segments)
        manifest = dataclasses.replace(manifest, clock=Clock(), segments=segments)
    return manifest


@pytest.mark.parametrize("version", TEXTS)
def test_the_text_of_every_version_is_read(version: int) -> None:
    read = parse_manifest(bytes_of(TEXTS[version]), path="manifest")
    assert read == without(NEWEST, version)


def test_the_newest_version_is_written() -> None:
    assert encode_manifest(NEWEST) == bytes_of(TEXTS[4])


def test_a_later_version_is_refused() -> None:
    with pytest.raises(IncompatibleFormatError, match="5"):
        parse_manifest(bytes_of(TEXTS[4].replace("manifest 4", "manifest 5")), path="manifest")
