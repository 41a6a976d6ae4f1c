"""The role file: what a log durably is among its replicas, and what it promised."""

from __future__ import annotations

import dataclasses
import uuid

import pytest

from pylog._native import crc32c
from pylog.errors import CorruptFileError, IncompatibleFormatError
from pylog.replication.facts import InSync
from pylog.replication.role_file import (
    ReplicaState,
    encode_state,
    parse_state,
    read_state,
    replace_state,
)
from pylog.storage.role import RoleKind
from tests.memory_files import MemoryFiles

CLUSTER = uuid.UUID(int=0x6B1F)
FOLLOWER = ReplicaState(
    replica_id="3f2a",
    cluster_id=CLUSTER,
    kind=RoleKind.FOLLOWER,
    promised_epoch=4,
    leader_id="77c0",
    in_sync=InSync(4, 2, frozenset({"77c0", "3f2a"})),
    min_insync_replicas=2,
)
TEXT = """pylog-replication 1
replica 3f2a
cluster 00000000000000000000000000006b1f
role follower
promised 4 77c0
in_sync 4 2 3f2a,77c0
acks all
min_insync_replicas 2
request_timeout_ms 30000
boot -
"""
LEADER = dataclasses.replace(FOLLOWER, kind=RoleKind.LEADER, leader_id="3f2a", boot="1f" * 16)
NEW = ReplicaState(replica_id="3f2a", waits_for_all=False)


def sealed(body: str) -> bytes:
    """Return a text with the line that vouches for it."""
    return f"{body}crc32c {crc32c(body.encode()):08x}\n".encode()


def test_the_text_is_what_the_module_shows() -> None:
    assert encode_state(FOLLOWER) == sealed(TEXT)


@pytest.mark.parametrize("state", [FOLLOWER, LEADER, NEW])
def test_what_was_written_is_read(state: ReplicaState) -> None:
    root = MemoryFiles().root(create=True)
    assert read_state(root) is None
    replace_state(root, state)
    assert read_state(root) == state


def test_a_text_cut_anywhere_is_refused() -> None:
    data = encode_state(FOLLOWER)
    for size in range(len(data)):
        with pytest.raises(CorruptFileError):
            parse_state(data[:size], path="replication")


def test_a_text_with_a_flipped_bit_is_refused() -> None:
    data = encode_state(FOLLOWER)
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with pytest.raises(CorruptFileError):
                parse_state(bytes(flipped), path="replication")


def test_a_later_version_is_said_to_be_one() -> None:
    with pytest.raises(IncompatibleFormatError):
        parse_state(sealed(TEXT.replace("replication 1", "replication 2")), path="replication")


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("replica 3f2a", "replica 3f2a "),
        ("replica 3f2a", "replica -"),
        ("replica 3f2a", f"replica {'a' * 65}"),
        ("cluster 0", "cluster -0"),
        ("role follower", "role leader"),  # of an epoch that was promised to another
        ("role follower", "role king"),
        ("promised 4 77c0", "promised 04 77c0"),
        ("promised 4 77c0", "promised 4"),
        ("promised 4 77c0", "promised 3 77c0"),  # and in sync with a later one
        ("promised 4 77c0", f"promised {2**31} 77c0"),
        ("in_sync 4 2 3f2a,77c0", "in_sync 4 2 77c0,3f2a"),
        ("in_sync 4 2 3f2a,77c0", "in_sync 4 2 3f2a,3f2a"),
        ("in_sync 4 2 3f2a,77c0", "in_sync 4 2 77c0"),  # of which it is no member
        ("in_sync 4 2 3f2a,77c0", "in_sync 4 2 3f2a,77c0 "),
        ("in_sync 4 2 3f2a,77c0", "in_sync 4 3f2a"),
        ("acks all", "acks 0"),
        ("min_insync_replicas 2", "min_insync_replicas 0"),
        ("request_timeout_ms 30000", "request_timeout_ms -1"),
        ("boot -", "boot " + "1f" * 16),  # of a follower
        ("boot -", "boot 1F"),
        ("acks all", "acks all\nacks all"),
        ("acks all\n", ""),
    ],
)
def test_a_text_that_vouches_for_nonsense_is_refused(line: str, instead: str) -> None:
    assert line in TEXT
    with pytest.raises(CorruptFileError):
        parse_state(sealed(TEXT.replace(line, instead)), path="replication")
