"""Damage: bits flipped, files cut, blocks lost, names gone.  What is intact stays readable.

Each damaged directory is opened.  Either that fails and not one byte was changed, or every record
is read as it was written or raises CorruptRangeError; only the batches that were hit may do so,
nothing is deleted, and the next append gets a new offset.

The everyday run samples (PYLOG_DAMAGE_SEED); PYLOG_EXHAUSTIVE=1 flips every bit and cuts at every
length.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import random
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from conftest import IS_EXHAUSTIVE, IS_ROOT
from crash_checks import (
    FAILURES,
    Contents,
    Process,
    ViolationError,
    check_nothing_deleted,
    quiet,
    read_all,
)
from crash_model import Disk, DiskFile, keep_all
from memory_files import MemoryFiles
from planted import DAMAGE_PLANTS, Plant

from pylog.config import TopicConfig
from pylog.engine.engine import Engine
from pylog.errors import CorruptionError, IncompatibleFormatError

SEED = int(os.environ.get("PYLOG_DAMAGE_SEED", "0"))
SAMPLES = 1500
CONFIG = TopicConfig(segment_bytes=2048, segment_index_bytes=4096, index_interval_bytes=256)
BLOCK = 512
Ranges = list[tuple[int, int]]  # bytes [start, end) of one file that were damaged


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with quiet():
        yield


@dataclasses.dataclass(frozen=True)
class Log:
    """An undamaged partition on disk, and what it holds."""

    disk: Disk
    values: list[bytes]
    is_clean: bool
    numbers: dict[str, int]  # of files, by name

    @property
    def active(self) -> str:
        return max(name for name in self.numbers if name.endswith(".log"))

    def damaged(self, name: str, contents: bytes | None) -> Disk:
        """Return the disk with other contents in one file; None removes it."""
        disk = self.disk.copy()
        number = self.numbers[name]
        if contents is None:
            for directory in disk.directories.values():
                if directory.durable.get(name) == number:
                    del directory.durable[name], directory.current[name]
        else:
            disk.files[number] = DiskFile(contents)
        return disk

    def hit(self, name: str, ranges: Ranges) -> set[int]:
        """Return the offsets of records in batches that the damage touched."""
        if not name.endswith(".log"):
            return set()
        found: set[int] = set()
        data = self.disk.files[self.numbers[name]].durable
        for start, end, first, following in batches(data):
            if any(start < stop and begin < end for begin, stop in ranges):
                found.update(range(first, following))
        return found


def batches(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield (position, end, first offset, next offset) of each batch of an undamaged file."""
    position = 0
    while data[position : position + 12].strip(b"\0"):
        first = int.from_bytes(data[position : position + 8], "big")
        end = position + 12 + int.from_bytes(data[position + 8 : position + 12], "big")
        last_delta = int.from_bytes(data[position + 23 : position + 27], "big")
        yield position, end, first, first + last_delta + 1
        position = end


@functools.cache
def log(*, is_clean: bool) -> Log:
    files = MemoryFiles(is_recording=True)
    partition = Process(files).partition(CONFIG)
    rng = random.Random(5)
    values: list[bytes] = []
    for number in range(18):
        size = rng.randrange(20, 300)
        if number % 4 == 3:
            many = [b"%d.%d." % (number, n) + rng.randbytes(40) for n in range(5)]
            partition.append_many(many)
            values += many
        else:
            values.append(b"%d." % number + rng.randbytes(size))
            partition.append(values[-1], key=b"key")
    if is_clean:
        partition.close()
    disk = files.disk_after().crash(keep_all, rng)
    directory = disk.directories[disk.directories[1].durable["topic-0"]].durable
    return Log(disk, values, is_clean, dict(directory))


LOGS = [pytest.param(True, id="clean"), pytest.param(False, id="crashed")]


def check_damaged(original: Log, disk: Disk, name: str, ranges: Ranges) -> None:
    """Open and check a damaged disk; raises ViolationError."""
    files = MemoryFiles(disk, boot=2)
    process = Process(files)
    before = files.contents()
    partition = process.partition(CONFIG)
    try:
        partition.marks()
    except (CorruptionError, IncompatibleFormatError, OSError):
        unchanged = files.contents() | {"topic-0/state": before.get("topic-0/state", b"")}
        if unchanged != before | {"topic-0/state": unchanged["topic-0/state"]}:
            raise ViolationError("opening failed and changed something") from None
        return
    found = read_all(partition)
    _check_found(original, found, name, original.hit(name, ranges))
    check_nothing_deleted(before, files.contents())
    _check_names(before, files.contents())
    partition.check()
    offset = partition.append(b"after").offset
    if offset < len(found) or partition.read(offset).__iter__().__next__().value != b"after":
        raise ViolationError(f"an append after the damage got offset {offset}")
    if read_all(partition)[: len(found)] != found:
        raise ViolationError("an append changed what is read")


def _check_found(original: Log, found: Contents, name: str, hit: set[int]) -> None:
    expected = original.values
    may_be_cut = name == original.active and not original.is_clean
    if len(found) > len(expected):
        raise ViolationError(f"{len(found)} records of {len(expected)}")
    missing = set(range(len(found), len(expected)))
    if missing and not (may_be_cut and missing <= hit):
        raise ViolationError(f"{len(missing)} records are gone, hit were {sorted(hit)}")
    for offset, value in enumerate(found):
        if value is None:
            if offset not in hit:
                raise ViolationError(f"record {offset} is unreadable, hit were {sorted(hit)}")
        elif value != expected[offset]:
            raise ViolationError(f"record {offset} is not what was written")


def _check_names(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    for path, data in before.items():
        if path not in after:
            raise ViolationError(f"{path} was deleted")
        is_text = path.endswith("manifest") and data != after[path]
        if is_text and b"crc32c" not in data[-16:] and data not in after.values():
            raise ViolationError(f"{path} was damaged and is gone")


def check_all(damages: Iterable[tuple[str, Callable[[], None]]]) -> tuple[int, list[str]]:
    count, violations = 0, []
    for title, check in damages:
        count += 1
        try:
            check()
        except FAILURES as error:
            violations.append(f"{title}: {type(error).__name__}: {error}")
            if len(violations) >= 8:
                break
    return count, violations


def each_file(original: Log) -> Iterator[tuple[str, bytes]]:
    for name, number in sorted(original.numbers.items()):
        yield name, original.disk.files[number].durable


def changed(
    original: Log, name: str, data: bytes, ranges: Ranges, title: str
) -> tuple[str, Callable[[], None]]:
    disk = original.damaged(name, data)
    return f"{name} {title}", lambda: check_damaged(original, disk, name, ranges)


# ---------------------------------------------------------------- damage of every kind


def flips(
    original: Log, samples: int | None, suffix: str = ""
) -> Iterator[tuple[str, Callable[[], None]]]:
    """One bit each, of the files whose names end in `suffix`; all bits when `samples` is None."""
    files = [(name, data) for name, data in each_file(original) if name.endswith(suffix)]
    bits = [(name, data, bit) for name, data in files for bit in range(8 * len(data))]
    if samples is not None:
        # The shared page is not trusted after a boot: its bits are worth few samples.
        bits = [one for one in bits if one[0] != "state"]
        bits = random.Random(SEED).sample(bits, samples)
    for name, data, bit in bits:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield changed(original, name, bytes(flipped), [(bit // 8, bit // 8 + 1)], f"bit {bit}")


def cuts(original: Log, step: int) -> Iterator[tuple[str, Callable[[], None]]]:
    for name, data in each_file(original):
        for size in range(SEED % step, len(data), step):
            yield changed(original, name, data[:size], [(size, len(data))], f"cut at {size}")


def blocks(original: Log) -> Iterator[tuple[str, Callable[[], None]]]:
    """Blocks zeroed, and swapped with each other block of the file; zeros at the end."""
    for name, data in each_file(original):
        for zeros in (1, 61, 4096):
            yield changed(original, name, data + bytes(zeros), [], f"{zeros} zeros more")
        starts = range(0, len(data), BLOCK)
        for start in starts:
            end = min(start + BLOCK, len(data))
            zeroed = data[:start] + bytes(end - start) + data[end:]
            yield changed(original, name, zeroed, [(start, end)], f"zeroed at {start}")
            for other in range(start + BLOCK, len(data) - BLOCK + 1, BLOCK):
                swapped = bytearray(data)
                swapped[start:end] = data[other : other + BLOCK]
                swapped[other : other + BLOCK] = data[start:end]
                # A batch that stands before its predecessors hides those that lie in between.
                hit = [(start, other + BLOCK)]
                yield changed(original, name, bytes(swapped), hit, f"{start} and {other} swapped")


def report(kind: str, count: int, violations: list[str]) -> None:
    print(f"seed {SEED}: {count} {kind}, {len(violations)} violations")
    assert not violations, "\n".join(violations)


@pytest.mark.slow
@pytest.mark.timeout(3600 if IS_EXHAUSTIVE else 600)
@pytest.mark.parametrize("is_clean", LOGS)
def test_flipped_bit_is_found_or_harmless(is_clean: bool) -> None:
    samples = None if IS_EXHAUSTIVE else SAMPLES
    report("flipped bits", *check_all(flips(log(is_clean=is_clean), samples)))


def test_every_flipped_bit_of_an_index_is_found_or_harmless() -> None:
    # A sign bit made an entry pass for "no entry", and records were skipped in silence.
    report("flipped bits", *check_all(flips(log(is_clean=True), None, suffix="index")))


@pytest.mark.slow
@pytest.mark.timeout(3600 if IS_EXHAUSTIVE else 600)
@pytest.mark.parametrize("is_clean", LOGS)
def test_cut_file_loses_only_what_was_cut_off(is_clean: bool) -> None:
    report("cuts", *check_all(cuts(log(is_clean=is_clean), 1 if IS_EXHAUSTIVE else 9)))


@pytest.mark.slow
@pytest.mark.parametrize("is_clean", LOGS)
def test_lost_and_swapped_blocks_leave_other_batches_readable(is_clean: bool) -> None:
    report("blocks", *check_all(blocks(log(is_clean=is_clean))))


@pytest.mark.parametrize("is_clean", LOGS)
def test_missing_file_loses_only_its_own_records(is_clean: bool) -> None:
    original = log(is_clean=is_clean)
    damages = [
        (
            f"{name} missing",
            functools.partial(
                check_damaged, original, original.damaged(name, None), name, [(0, len(data))]
            ),
        )
        for name, data in each_file(original)
    ]
    report("missing files", *check_all(damages))


@pytest.mark.parametrize("is_clean", LOGS)
def test_foreign_files_are_left_alone(is_clean: bool) -> None:
    original = log(is_clean=is_clean)
    files = MemoryFiles(original.disk, boot=2)
    directory = files.root().directory("topic-0")
    foreign = ["notes.txt", "1.log", "00000000000000000003.log.swp", "0" * 19 + "9.logs", "-", "é"]
    for name in foreign:
        directory.open(name, writable=True, create=True).pwrite(b"foreign " + name.encode(), 0)
    directory.directory("00000000000000000004.log.d").make()
    partition = Process(files).partition(CONFIG)

    assert read_all(partition) == original.values
    partition.append(b"after")
    for name in foreign:
        assert directory.open(name).pread(100, 0) == b"foreign " + name.encode()


# ---------------------------------------------------------------- real directories


def written(path: Path) -> list[bytes]:
    """Write a small log through a real file system; returns its values."""
    values = [b"%d." % number + bytes(300) for number in range(12)]
    engine = Engine(str(path))
    engine.open(create=True)
    partition = engine.partition("topic", 0, topic_id=uuid.UUID(int=7), config=CONFIG)
    for value in values:
        partition.append(value)
    engine.close()
    return values


def snapshot(path: Path) -> dict[str, bytes | str]:
    return {
        str(one.relative_to(path)): os.readlink(one) if one.is_symlink() else one.read_bytes()
        for one in sorted(path.rglob("*"))
        if one.is_symlink() or (one.is_file() and one.name not in ("state", "pylog.lock"))
    }


def reopened(path: Path) -> Engine:
    engine = Engine(str(path))
    engine.open(create=False)
    return engine


@pytest.mark.parametrize("suffix", [".log", ".index", ".timeindex"])
@pytest.mark.parametrize("which", [0, -1])
def test_symbolic_link_in_place_of_a_segment_is_not_followed(
    tmp_path: Path, suffix: str, which: int
) -> None:
    path = tmp_path / "data"
    written(path)
    victim = sorted((path / "topic-0").glob(f"*{suffix}"))[which]
    outside = tmp_path / "outside"
    outside.write_bytes(victim.read_bytes())
    victim.unlink()
    victim.symlink_to(outside)
    before = outside.read_bytes()

    engine = reopened(path)
    partition = engine.partition("topic", 0, topic_id=uuid.UUID(int=7), config=CONFIG)
    caught = None
    try:
        for _ in range(20):
            list(partition.records())
            partition.append(bytes(300))
    except (OSError, CorruptionError) as error:
        caught = error
    engine.close()

    # The indexes of a sealed segment may never be needed; its log is.
    assert caught is not None or suffix != ".log"
    assert outside.read_bytes() == before
    assert victim.is_symlink()


@pytest.mark.skipif(IS_ROOT, reason="root may open everything")
def test_directory_without_permission_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "data"
    values = written(path)
    before = snapshot(path)
    (path / "topic-0").chmod(0)
    engine = reopened(path)
    partition = engine.partition("topic", 0, topic_id=uuid.UUID(int=7), config=CONFIG)
    with pytest.raises(PermissionError):
        partition.append(b"never")
    (path / "topic-0").chmod(0o700)

    assert snapshot(path) == before
    assert [record.value for record in partition.records()] == values
    engine.close()


# ---------------------------------------------------------------- planted bugs


def find_any_violation() -> list[str]:
    for is_clean in (True, False):
        original = log(is_clean=is_clean)
        for damages in (flips(original, 300), cuts(original, 61), blocks(original)):
            _, violations = check_all(damages)
            if violations:
                return violations
    return []


@pytest.mark.parametrize("plant", DAMAGE_PLANTS, ids=lambda plant: plant.__name__)
def test_damage_finds_a_planted_bug(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    log(is_clean=True), log(is_clean=False)
    plant(monkeypatch)
    found = find_any_violation()
    print(f"{plant.__name__}: {found[:1]}")

    assert found
    assert "ViolationError" in found[0], "the plant is out of date"
