"""Types of the C core.  Sources: the folder of the same name; no algorithm lives above it."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, TypeAlias, final

from typing_extensions import Buffer, disjoint_base

# Statuses that a method may return instead of a result (never negative, never a bool).
NO_ROOM: Final[
    int
]  # the window, the segment or an index is full, or the segment is too old: make room
STALE: Final[int]  # the log end offset is not the one the caller expected
NOT_OPEN: Final[int]  # the partition is FAILED, or this handle is detached or of another segment
# What stops a scan (Scanner.feed, check_batches).
END: Final[int]  # all bytes given were consumed
INCOMPLETE: Final[int]  # a plausible batch continues past the bytes given
ZEROS: Final[int]  # a zero header: the end of a zero-filled file, if only zeros follow
BAD_LENGTH: Final[int]
BAD_MAGIC: Final[int]
BAD_CRC: Final[int]
BAD_OFFSET: Final[int]
BAD_COUNT: Final[int]
LIMIT: Final[int]  # check_batches: stopped at the offset limit or at max_bytes

# Partition states in Marks.state
OPEN: Final[int]
FULL: Final[int]
FAILED: Final[int]

# What CommitQueue.wait returns
COVERED: Final[int]  # all is durable that was waited for
LEADS: Final[int]  # this thread has to see to it
ENDED: Final[int]  # nobody will: the queue has ended

PAGE_BYTES: Final[int]  # bytes of a shared page (4096)
LOCKS_BY_DESCRIPTOR: Final[int]  # 1: the page's lock needs its file open (portable builds)
PAGE_ABI: Final[str]  # layout tag of the shared page: version, pointer size, lock size
BATCH_HEADER_BYTES: Final[int]  # 61
CRC_BACKEND: Final[str]  # "avx512" | "sse4.2" | "armv8" | "table"

_Headers: TypeAlias = Sequence[tuple[str, Buffer | None]] | None

def crc32c(data: Buffer, value: int = 0) -> int: ...
def crc32c_every_way(data: Buffer, value: int, /) -> list[tuple[str, int]]: ...  # for tests
def murmur2(data: Buffer) -> int: ...  # signed, as Java's int
def partition_for_key(key: Buffer, partitions: int) -> int: ...
def system_clock() -> int: ...

@final
class Record:
    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def timestamp_type(self) -> int: ...
    @property
    def leader_epoch(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> tuple[tuple[str, bytes | None], ...]: ...
    @property
    def size(self) -> int: ...

@final
class RecordMetadata:
    def __new__(cls, topic: str, partition: int, offset: int, timestamp: int) -> RecordMetadata: ...
    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...

@final
class Records:
    """The records of whole, checked batches, made as they are iterated."""

    def __new__(
        cls,
        data: Buffer,
        *,
        start: int = 0,
        end: int | None = None,
        first_offset: int = 0,
        end_offset: int | None = None,
        next_offset: int | None = None,
        topic: str = "",
        partition: int = 0,
        decompress: Callable[[int, memoryview], bytes] | None = None,
        include_control: bool = False,
    ) -> Records: ...
    def __iter__(self) -> RecordsIterator: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    # Each record sets its key in the mapping to its value, or takes it away with a null one
    # (keeps_nulls: sets it to None).  Returns the count of records, the count of those without a
    # key, which are skipped, and the last record.  After an error those before it are folded.
    def fold(
        self, mapping: dict[bytes, bytes] | dict[bytes, bytes | None], keeps_nulls: bool, /
    ) -> tuple[int, int, Record | None]: ...
    # The first record with at least this timestamp, at or after minimum_offset; what was asked for
    # when the batches were read does not bound it from below.
    def find_timestamp(self, timestamp: int, minimum_offset: int, /) -> Record | None: ...
    @property
    def first_max_timestamp(self) -> int | None: ...
    @property
    def next_offset(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def batches(self) -> memoryview: ...
    @property
    def end_position(self) -> int: ...
    # Of each batch of a producer with an id: producer id, epoch, first sequence, count of
    # sequences, first offset, timestamp, whether it is a control batch.
    def producers(self) -> list[tuple[int, int, int, int, int, int, bool]]: ...
    # offsets, timestamps, key positions, key lengths, value positions, value lengths, data: native
    # int64, lengths int32 (-1: null); data is the buffer given, or new bytes if one is compressed.
    def columns(
        self,
    ) -> tuple[memoryview, memoryview, memoryview, memoryview, memoryview, memoryview, Buffer]: ...

@final
class RecordsIterator:
    """Gives records one by one, and knows how far it is; made by iterating Records."""

    def __iter__(self) -> RecordsIterator: ...
    def __next__(self) -> Record: ...
    def stop(self) -> None: ...
    def piece(self, seconds: float, /) -> RecordsPiece: ...
    @property
    def leader_epoch(self) -> int: ...
    @property
    def next_offset(self) -> int: ...
    @property
    def has_failed(self) -> bool: ...
    @property
    def has_ended(self) -> bool: ...

@final
class RecordsPiece:
    """Gives records for some time, and leaves the others to the iterator they are of."""

    def __iter__(self) -> RecordsPiece: ...
    def __next__(self) -> Record: ...

# All records of whole batches get this timestamp; a negative one gives their own back.
def stamp_append_time(data: Buffer, timestamp: int, /) -> None: ...
def check_batches(
    data: Buffer,
    start: int,
    target_offset: int,
    limit_offset: int,
    max_bytes: int,
    next_offset: int,
    strict: bool,
    entry_offset: int = -1,
) -> tuple[int, int, int, int, int]: ...
def find_batch(
    data: Buffer,
    start: int,
    minimum_offset: int,
    maximum_offset: int,
    position: int = 0,
    strict: bool = True,
    known_position: int = -1,
    known_offset: int = -1,
) -> int: ...

# Position, size and every field of each header, up to where no whole batch begins; no CRC check.
def batch_headers(data: Buffer, start: int = 0) -> list[dict[str, int]]: ...

# records: (offset delta, timestamp delta, key, value[, headers]).  header: base_offset,
# leader_epoch, attributes, last_offset_delta, base_timestamp, max_timestamp, producer_id,
# producer_epoch, base_sequence, count, payload (bytes that stand in the place of `records`).
def make_batch(records: Sequence[Any], /, **header: Any) -> bytes: ...
def lookup_offset(entries: Buffer, count: int, target: int) -> int: ...
def lookup_timestamp(entries: Buffer, count: int, target: int) -> int: ...

@final
class Scanner:
    """Walks whole batches from the start of a segment and derives what its indexes must hold."""

    def __new__(
        cls,
        *,
        base_offset: int,
        next_offset: int,
        position: int = 0,
        index_interval_bytes: int = 4096,
        strict: bool = True,
    ) -> Scanner: ...
    def feed(self, data: Buffer, start: int = 0, end: int | None = None) -> int: ...
    def skip_to(self, position: int, next_offset: int) -> None: ...
    def seal(self) -> None: ...
    @property
    def position(self) -> int: ...
    @property
    def next_offset(self) -> int: ...
    @property
    def batches(self) -> int: ...
    @property
    def records(self) -> int: ...
    @property
    def first_timestamp(self) -> int: ...
    @property
    def max_timestamp(self) -> int: ...
    @property
    def max_timestamp_offset(self) -> int: ...
    @property
    def bytes_since_index_entry(self) -> int: ...
    @property
    def is_strict(self) -> bool: ...
    @property
    def index(self) -> bytes: ...
    @property
    def timeindex(self) -> bytes: ...
    @property
    def epochs(self) -> list[tuple[int, int]]: ...

def encode(
    values: Sequence[Buffer | None],
    keys: Sequence[Buffer | None] | None,
    headers: Sequence[_Headers] | None,
    timestamps: Sequence[int] | int,
    max_batch_bytes: int,
    start: int = 0,
    max_bytes: int = ...,
    attributes: int = 0,
    earliest: int = 0,
    latest: int = ...,
    needs_key: bool = False,
) -> tuple[bytearray, int]: ...

# Whole batches with every payload in `codec`; those that are in it stay as they are.  compress is
# None for codec 0; decompress is needed for batches in another codec.  No CRC is checked.
def compress_batches(
    data: Buffer,
    codec: int,
    compress: Callable[[memoryview], Buffer] | None,
    decompress: Callable[[int, memoryview], Buffer] | None = None,
) -> bytearray: ...

# The bytes of a batch with just this record.
def batch_size(value: Buffer | None, key: Buffer | None, headers: _Headers, /) -> int: ...

@disjoint_base
class Sent:
    """One record of a batch that is being built; made by BatchBuilder.append."""

    @property
    def _batch(self) -> Any: ...
    @property
    def _timestamp(self) -> int: ...
    @property
    def _index(self) -> int: ...

@final
class BatchBuilder:
    """A batch that grows record by record."""

    def __new__(
        cls,
        sent: type[Sent],
        batch: object,
        capacity: int,
        clock: Callable[[], int],
        needs_key: bool = False,
    ) -> BatchBuilder: ...
    def append(
        self,
        value: Buffer | None,
        key: Buffer | None,
        headers: _Headers,
        timestamp: int | None,
        /,
    ) -> Any: ...  # an instance of `sent`, or None
    def close(self) -> None: ...
    # Producer id, epoch and base sequence, or none of them.
    def seal(self, *producer: int) -> bytearray: ...
    @property
    def count(self) -> int: ...
    @property
    def max_timestamp(self) -> int: ...

@final
class Descriptor:
    """Owner of an open file descriptor: closes it when nobody refers to it."""

    def __new__(cls, fd: int) -> Descriptor: ...

@final
class Mapping:
    """Memory-mapped bytes of an open file; supports the buffer protocol."""

    def __new__(
        cls, fd: int, size: int, *, position: int = 0, writable: bool = False
    ) -> Mapping: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def close(self) -> None: ...

@final
class Events:
    """A counter in shared memory that can be waited on across processes."""

    def __new__(cls, memory: Buffer, position: int = 0) -> Events: ...
    @property
    def value(self) -> int: ...
    def wait(self, seen: int, timeout: float | None = None) -> bool: ...
    def notify(self) -> None: ...

def wait_for_events(
    pairs: Sequence[tuple[Events, int]], timeout: float | None = None, /
) -> bool: ...
def set_events_slice_ms(milliseconds: int, /) -> int: ...

@final
class CommitQueue:
    """Where threads of a process wait for a sync that one of them makes for all."""

    def __new__(cls) -> CommitQueue: ...
    def wait(self, end_offset: int, /) -> int: ...
    def take(self, *, blocking: bool = False) -> bool: ...
    def finish(self, durable_offset: int, /) -> None: ...
    def restart(self, durable_offset: int, /) -> None: ...
    def give_up(self) -> None: ...
    def end(self) -> None: ...
    def abandon(self) -> None: ...

@final
class Marks:
    @property
    def log_start_offset(self) -> int: ...
    @property
    def high_watermark(self) -> int: ...
    @property
    def log_end_offset(self) -> int: ...
    @property
    def durable_offset(self) -> int: ...
    @property
    def base_offset(self) -> int: ...
    @property
    def segment_serial(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def allocated(self) -> int: ...
    @property
    def index_entries(self) -> int: ...
    @property
    def index_allocated(self) -> int: ...
    @property
    def time_entries(self) -> int: ...
    @property
    def time_allocated(self) -> int: ...
    @property
    def bytes_since_index_entry(self) -> int: ...
    @property
    def first_timestamp(self) -> int: ...
    @property
    def max_timestamp(self) -> int: ...
    @property
    def max_timestamp_offset(self) -> int: ...
    @property
    def last_time_entry(self) -> int: ...
    @property
    def leader_epoch(self) -> int: ...
    @property
    def state(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def append_time(self) -> int: ...
    @property
    def is_held(self) -> int: ...
    @property
    def truncated_at(self) -> int: ...

@final
class SharedPage:
    """A partition's page: marks, lock and events, shared by all processes that have it open."""

    # lock_fd: on systems without robust mutexes, an open file description that nobody else uses
    # (-1: only threads that share this object are kept apart); ignored on Linux.
    def __new__(cls, memory: Buffer, lock_fd: int = -1) -> SharedPage: ...
    def initialize(self, identity: bytes, **marks: int) -> None: ...
    @property
    def identity(self) -> bytes: ...
    @property
    def is_valid(self) -> bool: ...
    @property
    def events(self) -> Events: ...
    def marks(self) -> Marks: ...
    def lock(self, timeout: float | None = None) -> None: ...
    def unlock(self) -> None: ...
    def __enter__(self) -> SharedPage: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    @property
    def intent(self) -> tuple[int, int]: ...
    def set_intent(self, start: int, end: int) -> None: ...
    def publish(self, **marks: int) -> None: ...
    def release(self) -> None: ...

@final
class Tail:
    """The writable end of a partition: one C call per append."""

    def __new__(
        cls,
        page: SharedPage,
        *,
        topic: str,
        partition: int,
        clock: Callable[[], int],
        log_events: Events | None = None,
        settings: Events | None = None,
        counters: Counters | None = None,
    ) -> Tail: ...
    def configure(
        self,
        *,
        max_message_bytes: int,
        segment_bytes: int,
        segment_ms: int,
        index_interval_bytes: int,
        timestamp_before_ms: int,
        timestamp_after_ms: int,
        visible_on_append: bool,
        is_compressed: bool,
        is_log_append_time: bool,
        needs_key: bool,
        is_held: bool,
        settings_seen: int,
    ) -> None: ...
    def attach(
        self,
        *,
        segment_serial: int,
        window: Buffer,
        window_position: int,
        index: Buffer,
        timeindex: Buffer,
        log: Descriptor | None,
    ) -> None: ...
    def detach(self) -> None: ...
    def append(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: _Headers = None,
        timestamp: int | None = None,
        expected_offset: int | None = None,
    ) -> RecordMetadata | int: ...
    def place(self, data: bytearray, expected_offset: int = -1) -> tuple[int, int] | int: ...
    def stamp(
        self, data: bytearray, expected_offset: int = -1, *, keeps_offsets: bool = False
    ) -> tuple[int, int] | int: ...
    def publish(
        self, data: bytearray, expected_offset: int = -1, *, keeps_offsets: bool = False
    ) -> int: ...

@final
class Appender:
    """Appends records through a partition's current tail."""

    def __new__(cls, otherwise: Callable[..., RecordMetadata]) -> Appender: ...
    def use(self, tail: Tail | None, /) -> None: ...
    def then(self, call: Callable[[RecordMetadata], object] | None, /) -> None: ...
    def append(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: _Headers = None,
        timestamp: int | None = None,
        expected_offset: int | None = None,
    ) -> RecordMetadata: ...

@final
class Router:
    """Appends records to the partitions of a topic."""

    def __new__(
        cls,
        partitions: int,
        resolve: Callable[[int], Appender],
        sticky_bytes: int,
        settings: Events | None = None,
        count_now: Callable[[], int] = ...,
    ) -> Router: ...
    def append(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: _Headers = None,
        timestamp: int | None = None,
        *,
        partition: int | None = None,
    ) -> RecordMetadata: ...
    # (partitions int32, offsets int64 with -1 for rows left, timestamps int64 or one for all,
    # [(partition, first offset, end offset)] placed, [(partition, batches, rows int32, greatest
    # timestamp)] left: each to be placed whole, those of one partition in order).
    # keys, headers: None or as long as values.  large_bytes: batches below it are placed here.
    def append_many(
        self,
        values: Sequence[Buffer | None],
        keys: Sequence[Buffer | None] | None,
        headers: Sequence[_Headers] | None,
        timestamps: Sequence[int] | int,
        *,
        max_batch_bytes: int,
        max_chunk_bytes: int,
        large_bytes: int,
        attributes: int = 0,
        earliest: int = 0,
        latest: int = ...,
        needs_key: bool = False,
    ) -> tuple[bytearray, bytearray, bytearray | int, list[tuple[int, int, int]], list[Any]]: ...
    def stick(self, size: int, /) -> int: ...
    def pick(self, key: bytes | None, value: bytes | None = None, /) -> int: ...

@final
class Counters:
    """What this process appended to a partition, read from it and synced."""

    def __new__(cls) -> Counters: ...
    def note_sync(self, seconds: float, /) -> None: ...
    @property
    def appended_records(self) -> int: ...
    @property
    def appended_bytes(self) -> int: ...
    @property
    def read_records(self) -> int: ...
    @property
    def read_bytes(self) -> int: ...
    @property
    def syncs(self) -> int: ...
    @property
    def sync_seconds(self) -> float: ...
    @property
    def last_sync_seconds(self) -> float: ...

@final
class Reader:
    """Reads a partition's batches: look up, pread, check, Records."""

    def __new__(
        cls,
        topic: str,
        partition: int,
        decompress: Callable[[int, memoryview], bytes],
        counters: Counters | None = None,
    ) -> Reader: ...
    def read(
        self,
        pread: Callable[[int, int], bytes],
        entries: Buffer,
        entry_count: int,
        base_offset: int,
        offset: int,
        limit_offset: int,
        max_bytes: int,
        size: int,
        is_strict: bool,
    ) -> Records | None: ...
    def read_on(
        self,
        pread: Callable[[int, int], bytes],
        position: int,
        offset: int,
        limit_offset: int,
        max_bytes: int,
        size: int,
        is_strict: bool,
    ) -> Records | None: ...
    def wrap(
        self,
        data: bytes,
        first: int,
        end: int,
        next_offset: int,
        offset: int,
        limit_offset: int,
        end_position: int,
    ) -> Records: ...

# SipHash-1-3 with 128 bits of output, as two words: low, high.
def key_hash(secret: Buffer, key: Buffer, /) -> tuple[int, int]: ...

@final
class KeyMap:
    """The newest offset of each key, in bounded memory: pass 1 of compaction."""

    # secret: 16 bytes that nobody can guess, new for each map.  max_bytes: at least 144; the memory
    # starts small and doubles up to it, and is never more; but for an eighth while batches are
    # filtered.  decompress: for compressed batches.
    def __new__(
        cls,
        secret: Buffer,
        max_bytes: int,
        decompress: Callable[[int, memoryview], Buffer] | None = None,
    ) -> KeyMap: ...
    def __len__(self) -> int: ...
    # Take in whole batches of data[start:end], records below first_offset left out.
    # (END, position, 0): all.  (INCOMPLETE, position, size): the batch at `position` has `size`
    # bytes, of which not all are there.  (NO_ROOM, position, 0): the map is full, and the batch at
    # `position` is in it in part or not at all; end_offset says how far it reaches.
    # CorruptRangeError: a batch is damaged, or does not lie in [end_offset of the map, end_offset).
    def add_batches(
        self,
        data: Buffer,
        start: int = 0,
        end: int | None = None,
        *,
        first_offset: int = 0,
        end_offset: int = ...,
    ) -> tuple[int, int, int]: ...
    def offset_of(self, key: Buffer | None, /) -> int | None: ...
    @property
    def end_offset(self) -> int: ...
    @property
    def is_full(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...

@final
class BatchFilter:
    """Keeps of whole batches what compaction keeps: pass 2.

    Of the range that the map was filled from it must be given the batches that the map was given.
    """

    # now: ms, -1 when the clock is in doubt.  round_end, kept_offsets: a batch that ends before
    # round_end, or whose last offset is one of these, is kept even without records.  A function is
    # asked for them at most once, with the first batch of a producer that has an id.
    def __new__(
        cls,
        key_map: KeyMap,
        *,
        now: int,
        delete_retention_ms: int,
        round_end: int = -1,
        kept_offsets: Sequence[int] | Callable[[], Sequence[int]] = (),
        decompress: Callable[[int, memoryview], Buffer] | None = None,
        compress: Callable[[int, memoryview], Buffer] | None = None,
    ) -> BatchFilter: ...
    # Filter whole batches of data[start:end] into out[:written]: (status, position, written, size).
    # END: all.  INCOMPLETE: the batch at `position` has `size` bytes, of which not all are there.
    # NO_ROOM: that batch needs `size` bytes of output.
    # CorruptRangeError: a batch is damaged, or does not lie in [next_offset, end_offset).
    def filter(
        self,
        data: Buffer,
        out: Buffer,
        start: int = 0,
        end: int | None = None,
        *,
        end_offset: int = ...,
    ) -> tuple[int, int, int, int]: ...
    @property
    def next_offset(self) -> int: ...
    @property
    def records_read(self) -> int: ...
    @property
    def records_kept(self) -> int: ...
    @property
    def emptied_batches(self) -> int: ...
    @property
    def horizons_set(self) -> int: ...
    # After the last tombstone that was dropped because its horizon was past; 0: none was.
    @property
    def dropped_tombstones_end(self) -> int: ...
