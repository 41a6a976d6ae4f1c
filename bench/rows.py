"""The rows of the speed table: which two lines of a group are compared, how, and the target."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Comparison(enum.Enum):
    """What is computed from the medians of two lines."""

    RECORDS_PER_SECOND = "x records/s, at least"
    BYTES_PER_SECOND = "x bytes/s, at least"
    TIME = "x the time, at most"
    EXTRA_TIME = "s more, at most"
    OWN_TIME = "s, at most"
    OWN_RATE = "records/s, at least"


@dataclass(frozen=True, slots=True)
class Row:
    """One promise.  group: of the benchmarks; subject, baseline: names of lines in it."""

    text: str
    group: str
    subject: str
    baseline: str
    comparison: Comparison
    target: float | None  # None: shown, and nothing is promised


_RECORDS = Comparison.RECORDS_PER_SECOND
_BYTES = Comparison.BYTES_PER_SECOND

ROWS: tuple[Row, ...] = (
    Row("append one by one, os", "append one by one", "pylog", "file.write", _RECORDS, 0.5),
    Row("append_many of 1,000, os", "append batches", "pylog", "file.write", _RECORDS, 1.2),
    Row("append_many of 64 MiB", "append bytes", "pylog", "os.write", _BYTES, 0.5),
    Row("append_many of 1,000, lz4, os", "append lz4", "pylog", "lz4.frame", _BYTES, 0.6),
    Row("send one by one, os", "send one by one", "pylog", "confluent-kafka-mock", _RECORDS, 0.5),
    Row("mirror into a mock cluster", "mirror", "mirror", "confluent-kafka", _RECORDS, 0.7),
    Row("append_many of 1,000, acks=all", "replicate", "acks-all", "acks-1", _RECORDS, 0.3),
    Row("append, acks=all, among 1,400 partitions", "replicate-many", "of-1400", "of-8",
        _RECORDS, None),
    Row("append one by one, fsync", "append fsync", "pylog", "fdatasync", _RECORDS, 0.9),
    Row("16 threads, fsync", "group commit", "pylog-16-threads", "pylog-1-thread", _RECORDS, 4.0),
    Row("iterate records", "sequential", "pylog", "lmdb", _RECORDS, 1.2),
    Row("consume 6 partitions", "consume", "consumer", "log.read", _RECORDS, 0.8),
    Row("poll 6 partitions", "consume", "consumer-poll", "log.read", _RECORDS, 0.4),
    Row("in a group, commits by itself", "consume", "group", "log.read", _RECORDS, 0.7),
    Row("in a group, commit each 1,000", "consume", "group-commits", "log.read", _RECORDS, 0.7),
    Row("commits, os", "commit", "commit", "append", Comparison.OWN_RATE, 1e5),
    Row("read_columns", "columns", "pylog", "os.read", _BYTES, 0.4),
    Row("table rebuild", "table rebuild", "pylog", "dict", _RECORDS, 0.5),
    Row("table rebuild, 4 records a key", "table rebuild", "pylog-updates", "dict-updates",
        _RECORDS, None),
    Row("random read", "random", "pylog", "os.pread", _RECORDS, 0.25),
    Row("random read, many records", "random growth", "pylog-many", "pylog-few",
        Comparison.TIME, 1.5),
    Row("wake-up of another process", "wake-up", "pylog", "os.pipe", Comparison.OWN_TIME, 100e-6),
    Row("wake-up of a member of a group", "wake-up", "pylog-group", "os.pipe",
        Comparison.OWN_TIME, 200e-6),
    *(
        Row(f"{text}, {percentile}", group, subject + suffix, "multiprocessing.Queue" + suffix,
            Comparison.OWN_TIME, target)
        for text, group, subject, median in (
            ("record to a thread", "latency in a process", "pylog-append", 100e-6),
            ("record to an event loop", "latency in a process", "pylog-asyncio", 200e-6),
            ("record to a process", "latency to a process", "pylog-append", 100e-6),
            ("record to an event loop of a process", "latency to a process", "pylog-asyncio",
             200e-6),
            ("record by a producer to a process", "latency to a process", "pylog-send", 300e-6),
        )
        for percentile, suffix, target in (("p50", "", median), ("p99", "-p99", 2e-3))
    ),
    Row("one more than 300 members", "rebalance 300 members", "comes", "goes",
        Comparison.OWN_TIME, 0.5),
    Row("clean open of many records", "open", "pylog-many", "pylog-empty",
        Comparison.EXTRA_TIME, 5e-3),
    Row("1,400 partitions, 2 processes, os", "activity",
        "pylog-2-processes-os", "os.pwrite-2-processes", Comparison.OWN_RATE, 7e6),
    Row("1,400 partitions, 2 threads, os", "activity",
        "pylog-2-threads-os", "os.pwrite-2-processes", Comparison.OWN_RATE, 7e6),
    Row("1,400 partitions, 2 processes, fsync", "activity",
        "pylog-2-processes-fsync", "pylog-2-processes-os", _RECORDS, None),
    Row("open a log of 100,000 partitions", "open many", "pylog-100000-partitions",
        "pylog-1-partition", Comparison.OWN_TIME, 1.0),
    Row("compact records of 130 bytes", "compact 130 bytes", "pylog", "cp", _BYTES, 0.35),
    Row("compact records of 1 KiB", "compact 1 KiB", "pylog", "cp", _BYTES, 0.6),
    Row("append while compacting, p99", "append while compacting", "compacting", "idle",
        Comparison.TIME, 3.0),
    Row("longest append while compacting", "append while compacting", "compacting-longest",
        "idle-longest", Comparison.OWN_TIME, 0.1),
    Row("append one by one, as peers", "peers: append one by one", "pylog", "lmdb", _RECORDS, 4.0),
    Row("append batches, as peers", "peers: append batches", "pylog", "lmdb", _RECORDS, 1.5),
    Row("append fsync, as peers", "peers: append fsync", "pylog", "sqlite3-WAL-FULL",
        _RECORDS, 0.9),
    Row("append batches, fsync, as peers", "peers: append batches, fsync", "pylog", "lmdb",
        _RECORDS, 2.0),
    Row("iterate, as peers", "peers: sequential", "pylog", "lmdb", _RECORDS, 1.2),
    Row("consume and commit, as peers", "peers: consume and commit", "pylog", "lmdb",
        _RECORDS, None),
    Row("recovery scan", "recover", "pylog", "crc32c", _BYTES, 0.2),
)  # fmt: skip
