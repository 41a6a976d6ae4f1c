"""Lives of a topic that is compacted, cut off anywhere: steps and checks for the explorer."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from compacted import check_fold, check_rows, read_rows
from crash_checks import Content, Contents, Process, ViolationError, check_nothing_deleted
from crash_explorer import Life, Profile

from pylog.config import TopicConfig
from pylog.errors import CorruptFileError, CorruptRangeError
from pylog.storage import layout
from pylog.storage.manifest import parse_manifest
from pylog.storage.partition import Partition

RETENTION_MS = 1500  # of tombstones: the steps of a life move the clock by 0, 1 or 1000


def compact(partition: Partition, *, is_damaged: bool) -> None:
    """Compact; a power cut may have damaged what nobody had synced."""
    try:
        partition.compact()
    except CorruptRangeError:
        if not is_damaged:
            raise


def check_nothing_lost(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """Raise ViolationError when opening took bytes of a log away, or left cleaned files beside it.

    A cleaned segment that counts may take its place.
    """
    manifest = None
    with contextlib.suppress(KeyError, CorruptFileError):
        manifest = parse_manifest(before["topic-0/manifest"], path="manifest")
    kept = before.copy()
    for facts in manifest.segments if manifest else ():
        path = f"topic-0/{layout.log_name(facts.base_offset)}"
        cleaned = before.get(f"{path}.{facts.revision}.cleaned")
        if cleaned is not None:
            kept.pop(path, None)
            if after.get(path) != cleaned:
                raise ViolationError(f"{path} is not its revision {facts.revision}")
    check_nothing_deleted(kept, after)
    left = [name for name in after if name.endswith(".cleaned")]
    if left:
        raise ViolationError(f"{left} are left")


class CompactedLife(Life):
    """Rows of a few keys, some of them tombstones, and compaction among the other steps."""

    KEYS = 7
    STEPS: Mapping[str, int] = {
        "append": 12,
        "many": 4,
        "compact": 5,
        "flush": 1,
        "reopen": 1,
        "retain": 0,
        "delete": 0,
    }
    read = staticmethod(read_rows)
    check = staticmethod(check_rows)
    check_files = staticmethod(check_nothing_lost)

    @staticmethod
    def append_after(partition: Partition) -> tuple[int, Content]:
        """Append one row after a crash."""
        return partition.append(b"after", key=b"k0").offset, (b"k0", b"after")

    @staticmethod
    def work_after(partition: Partition, contents: Contents) -> Contents:
        """Compact; return what there is then, which means the same."""
        compact(partition, is_damaged=None in contents)
        cleaned = read_rows(partition)
        start = partition.log_start_offset
        check_fold(cleaned[start:], contents[start:])
        partition.check()
        return cleaned

    def run(self, steps: int) -> None:
        """Open, then do `steps` random things, in a later life at a later time."""
        for process in self.processes:
            process.now += 2 * RETENTION_MS * self.level
        super().run(steps)

    def step(self, kind: str, partition: Partition, process: Process) -> None:
        """Do one thing of STEPS to a partition of a process."""
        rng = self._rng
        if kind == "append":
            row = self._row(0)
            self.history.values.append(row)
            partition.append(row[1], key=row[0])
        elif kind == "many":
            rows = [self._row(ahead) for ahead in range(rng.randint(1, 20))]
            self.history.values.extend(rows)
            partition.append_many([row[1] for row in rows], keys=[row[0] for row in rows])
        elif kind == "compact":
            compact(partition, is_damaged=None in self.history.values)
            # Retention was applied first.
            start = partition.log_start_offset
            self.history.asked_start = max(self.history.asked_start, start)
        else:
            super().step(kind, partition, process)

    def _row(self, ahead: int) -> tuple[bytes, bytes | None]:
        rng = self._rng
        value = self._value(rng.randint(*self.profile.value_bytes), ahead=ahead)
        return b"k%d" % rng.randrange(self.KEYS), None if rng.random() < 0.2 else value


class CrowdedLife(CompactedLife):
    """The same with more keys than fit into memory, so that compaction takes rounds."""

    KEYS = 80
    STEPS: Mapping[str, int] = {**CompactedLife.STEPS, "many": 12}


class RetainedLife(CompactedLife):
    """The same where segments may be deleted besides."""

    STEPS: Mapping[str, int] = {**CompactedLife.STEPS, "retain": 1, "delete": 1}


def _profile(
    durability: str,
    segment_bytes: int,
    *,
    codec: str = "producer",
    life: type[Life] = CompactedLife,
    delay_ms: int = 0,
    index_interval_bytes: int = 256,
) -> Profile:
    policy = "compact,delete" if life is RetainedLife else "compact"
    config = TopicConfig(
        durability=durability,
        segment_bytes=segment_bytes,
        segment_index_bytes=240,
        index_interval_bytes=index_interval_bytes,
        cleanup_policy=policy,
        compression_type=codec,
        delete_retention_ms=RETENTION_MS,
        file_delete_delay_ms=delay_ms,
        retention_ms=-1,
        retention_bytes=3 * segment_bytes if life is RetainedLife else -1,
    )
    return Profile(config, (0, 60), (0, 0), 20, 12 << 10, life)


COMPACTED_PROFILES: Sequence[Profile] = (
    _profile("fsync", 700),
    _profile("os", 700),
    _profile("interval", 1500, delay_ms=60_000),
    _profile("fsync", 1500, life=RetainedLife),
    _profile("os", 700, life=RetainedLife, delay_ms=60_000),
    _profile("fsync", 1000, codec="gzip", index_interval_bytes=0),
    _profile("os", 1500, life=CrowdedLife),
)
