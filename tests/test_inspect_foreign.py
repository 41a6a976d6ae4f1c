"""Segments that pylog did not write, as Kafka leaves them: records, codecs and gaps."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pylog import _native
from pylog._native import make_batch
from pylog.storage import layout
from pylog.storage.files import OsFiles
from pylog.storage.inspect import PartitionReport, inspect_partition

NOW = 1_700_000_000_000


def report_of(path: Path) -> PartitionReport:
    root = OsFiles().root(str(path.parent), create=False)
    return inspect_partition(root.directory(path.name), None)


def kafka_partition(path: Path, *batches: bytes) -> Path:
    """Make a directory such as Kafka leaves: one segment, no manifest."""
    path.mkdir()
    (path / layout.log_name(0)).write_bytes(b"".join(batches))
    (path / layout.LEADER_EPOCH_CHECKPOINT).write_bytes(layout.encode_leader_epochs([(0, 0)]))
    return path


def records(count: int) -> list[tuple[int, int, None, bytes]]:
    return [(number, number, None, b"value") for number in range(count)]


def test_partition_without_a_manifest_is_examined_by_its_files(tmp_path: Path) -> None:
    batch = make_batch(records(3), leader_epoch=0, base_timestamp=NOW)
    later = make_batch(records(2), base_offset=8, leader_epoch=0, base_timestamp=NOW)
    report = report_of(kafka_partition(tmp_path / "orders-0", batch, later))
    assert not report.is_damaged  # a gap between offsets is what compaction leaves
    assert (report.records, report.log_end_offset) == (5, 10)


def test_records_are_parsed_behind_a_good_crc(tmp_path: Path) -> None:
    good = make_batch(records(2), leader_epoch=0)
    bad = make_batch([], payload=b"\xff" * 30, count=3, base_offset=2, leader_epoch=0)
    report = report_of(kafka_partition(tmp_path / "orders-0", good, bad))
    (damage,) = [finding for finding in report.findings if finding.is_damage]
    assert (damage.position, damage.first, damage.end) == (len(good), 2, 5)


def payload_of(count: int) -> bytes:
    return make_batch(records(count))[_native.BATCH_HEADER_BYTES :]


@pytest.mark.parametrize(
    ("attributes", "payload", "reason"),
    [
        (1, gzip.compress(payload_of(3), mtime=0), ""),
        (1, gzip.compress(payload_of(3), mtime=0)[:-9], "gzip payload does not decode"),
        (1, gzip.compress(payload_of(2), mtime=0), "a record"),
        (3, b"\xff" * 20, "lz4 payload does not decode"),
        (7, b"\xff" * 20, "unknown compression codec 7"),
    ],
)
def test_compressed_batches_are_looked_into(
    tmp_path: Path, attributes: int, payload: bytes, reason: str
) -> None:
    batch = make_batch([], payload=payload, count=3, attributes=attributes, leader_epoch=0)
    report = report_of(kafka_partition(tmp_path / "orders-0", batch))
    damages = [str(finding) for finding in report.findings if finding.is_damage]
    assert (reason in damages[0]) if reason else damages == []
