"""The crashing file system itself: what is synced survives every damage, the rest may be lost."""

from __future__ import annotations

import errno
import random

import pytest
from crash_model import (
    DAMAGES,
    SECTOR,
    Damage,
    Disk,
    Slot,
    keep_all,
    lose_all,
    lose_data,
    lose_names,
    lose_one,
    lose_sizes,
)
from hypothesis import given
from hypothesis import strategies as st
from memory_files import MemoryDirectory, MemoryFile, MemoryFiles

from pylog.storage.files import replace_file

ALL_DAMAGES = [pytest.param(damage, id=damage.__name__) for damage in DAMAGES]


def recording() -> tuple[MemoryFiles, MemoryDirectory]:
    files = MemoryFiles(is_recording=True)
    return files, files.root()


def durable_file(root: MemoryDirectory, name: str, contents: bytes) -> MemoryFile:
    file = root.open(name, writable=True, create=True)
    file.pwrite(contents, 0)
    file.sync()
    root.sync()
    return file


def after_crash(files: MemoryFiles, damage: Damage, seed: int = 0) -> dict[str, bytes]:
    crashed = files.disk_after().crash(damage, random.Random(seed))
    return MemoryFiles(crashed, boot=2).contents()


def states(files: MemoryFiles, count: int = 200) -> list[dict[str, bytes]]:
    """Return the contents after `count` cuts of every kind."""
    return [after_crash(files, DAMAGES[n % len(DAMAGES)], seed=n) for n in range(count)]


# ---------------------------------------------------------------- files


def test_unsynced_file_may_be_missing_empty_or_whole() -> None:
    files, root = recording()
    root.open("a", writable=True, create=True).pwrite(b"x" * 100, 0)

    found = {state.get("a") for state in states(files)}

    assert found >= {None, b"", b"x" * 100}
    assert found <= {None, b"", b"x" * 100, bytes(100)}


@pytest.mark.parametrize("damage", ALL_DAMAGES)
def test_synced_file_in_synced_directory_survives(damage: Damage) -> None:
    files, root = recording()
    durable_file(root, "a", b"x" * 5000)

    assert after_crash(files, damage) == {"a": b"x" * 5000}


def test_sectors_are_lost_independently_of_each_other() -> None:
    files, root = recording()
    file = durable_file(root, "a", b"o" * 4 * SECTOR)
    file.pwrite(b"n" * 4 * SECTOR, 0)

    found = {bytes(state["a"][::SECTOR]) for state in states(files, 1000)}

    assert len(found) == 16, "each of four sectors old or new"
    for state in states(files):
        for sector in range(4):
            assert len(set(state["a"][sector * SECTOR : (sector + 1) * SECTOR])) == 1


def test_intermediate_version_of_a_sector_may_survive() -> None:
    files, root = recording()
    file = durable_file(root, "a", b"0")
    for version in (b"1", b"2", b"3"):
        file.pwrite(version, 0)

    assert {state["a"] for state in states(files)} == {b"0", b"1", b"2", b"3"}


def test_later_write_may_arrive_without_an_earlier_one() -> None:
    files, root = recording()
    file = durable_file(root, "a", bytes(2 * SECTOR))
    file.pwrite(b"1", 0)
    file.pwrite(b"2", SECTOR)

    assert (b"\0", b"2") in {(s["a"][:1], s["a"][SECTOR : SECTOR + 1]) for s in states(files)}


def test_fdatasync_makes_a_greater_size_durable() -> None:
    files, root = recording()
    file = durable_file(root, "a", b"x")
    file.pwrite(b"y" * 3000, 1)
    file.sync_data()

    assert all(state["a"] == b"x" + b"y" * 3000 for state in states(files))


def test_size_may_be_durable_without_the_data() -> None:
    files, root = recording()
    durable_file(root, "a", b"").pwrite(b"x" * 1000, 0)

    assert after_crash(files, lose_data)["a"] == bytes(1000)
    assert after_crash(files, lose_sizes)["a"] == b""


def test_truncated_tail_comes_back_unless_fsynced() -> None:
    files, root = recording()
    file = durable_file(root, "a", b"x" * 1000)
    file.truncate(10)
    assert {len(state["a"]) for state in states(files)} == {10, 1000}

    file.sync_data()
    assert {len(state["a"]) for state in states(files)} == {10, 1000}

    file.sync()
    assert {len(state["a"]) for state in states(files)} == {10}


def test_file_that_shrank_and_grew_reads_as_zeros_in_between() -> None:
    files, root = recording()
    file = durable_file(root, "a", b"x" * 100)
    file.truncate(10)
    file.truncate(60)

    assert file.pread(100, 0) == b"x" * 10 + bytes(50)
    assert after_crash(files, keep_all)["a"] == b"x" * 10 + bytes(50)
    assert after_crash(files, lose_all)["a"] == b"x" * 100


# ---------------------------------------------------------------- directories


def test_fsynced_file_is_lost_without_a_directory_sync() -> None:
    files, root = recording()
    file = root.open("a", writable=True, create=True)
    file.pwrite(b"x", 0)
    file.sync()

    assert after_crash(files, lose_names) == {}
    assert after_crash(files, keep_all) == {"a": b"x"}


def test_rename_is_atomic_and_lost_without_a_directory_sync() -> None:
    files, root = recording()
    durable_file(root, "a", b"old")
    durable_file(root, "b", b"new")
    root.rename("b", "a")

    found = [tuple(sorted(state.items())) for state in states(files)]

    assert set(found) == {(("a", b"new"),), (("a", b"old"), ("b", b"new"))}


def test_unlinked_file_comes_back_without_a_directory_sync() -> None:
    files, root = recording()
    durable_file(root, "a", b"x")
    root.unlink("a")
    assert {tuple(state) for state in states(files)} == {(), ("a",)}

    root.sync()
    assert states(files, 20) == [{}] * 20


def test_unlinked_file_is_usable_by_who_holds_it() -> None:
    _, root = recording()
    file = durable_file(root, "a", b"x")
    root.unlink("a")
    file.pwrite(b"y", 1)

    assert file.pread(10, 0) == b"xy"
    assert root.names() == []
    with pytest.raises(FileNotFoundError):
        root.open("a")


def test_files_of_a_lost_directory_are_lost() -> None:
    files, root = recording()
    inner = root.directory("inner")
    assert not inner.exists()
    inner.make()
    durable_file(inner, "a", b"x")

    assert all(state == {"inner/": b"", "inner/a": b"x"} for state in states(files))
    assert after_crash(files, lose_all)["inner/a"] == b"x"


def test_replaced_file_is_old_or_new_at_every_operation() -> None:
    files, root = recording()
    durable_file(root, "a", b"old")
    start = files.note()
    replace_file(root, "a", b"new")
    end = files.note()

    for count in range(start, end + 1):
        for number in range(100):
            disk = files.disk_after(count).crash(
                DAMAGES[number % len(DAMAGES)], random.Random(number)
            )
            found = MemoryFiles(disk).contents()["a"]
            assert found == b"new" if count == end else found in (b"old", b"new")


# ---------------------------------------------------------------- maps


def test_store_through_a_map_is_a_write_that_may_be_lost() -> None:
    files, root = recording()
    file = durable_file(root, "a", bytes(2048))
    view = file.map(8192, writable=True)
    view[600:603] = b"map"
    files.note()

    assert file.pread(3, 600) == b"map"
    assert after_crash(files, lose_all)["a"] == bytes(2048)
    assert after_crash(files, keep_all)["a"][600:603] == b"map"
    file.sync_data()
    assert after_crash(files, lose_all)["a"][600:603] == b"map"


def test_store_before_an_operation_is_recorded_before_it() -> None:
    files, root = recording()
    file = durable_file(root, "a", bytes(512))
    file.map(4096, writable=True)[0] = 1
    file.sync_data()

    assert after_crash(files, lose_all)["a"][0] == 1


def test_map_shows_what_is_written_and_what_grows_into_it() -> None:
    _, root = recording()
    file = root.open("a", writable=True, create=True)
    view = file.map(4096, writable=False)
    file.pwrite(b"seen", 100)

    assert bytes(view[100:104]) == b"seen"
    with pytest.raises(TypeError):
        view[0] = 1  # type: ignore[index]


def test_store_past_the_end_of_the_file_is_a_bus_error() -> None:
    files, root = recording()
    file = durable_file(root, "a", bytes(512))
    file.map(4096, writable=True)[512] = 1

    with pytest.raises(AssertionError, match="SIGBUS"):
        files.note()


def test_store_into_a_hole_is_a_bus_error() -> None:
    files, root = recording()
    file = root.open("a", writable=True, create=True)
    file.truncate(8192)
    file.fill_zeros(0, 4096)
    view = file.map(8192, writable=True)
    view[0] = 1
    files.note()

    view[4096] = 1
    with pytest.raises(AssertionError, match="SIGBUS"):
        files.note()


# ---------------------------------------------------------------- kills and failed syncs


def test_kill_loses_nothing_but_makes_nothing_durable() -> None:
    files, root = recording()
    durable_file(root, "a", b"old").pwrite(b"new", 0)
    killed = MemoryFiles(files.disk_after(), is_recording=True)

    assert killed.contents() == {"a": b"new"}
    assert after_crash(killed, lose_all) == {"a": b"old"}
    killed.root().open("a", writable=True).sync()
    assert after_crash(killed, lose_all) == {"a": b"new"}


def test_failed_sync_is_not_made_good_by_a_later_one() -> None:
    files, root = recording()
    file = durable_file(root, "a", b"old")
    file.pwrite(b"new", 0)
    files.fail("sync_data")
    with pytest.raises(OSError):
        file.sync_data()
    file.sync_data()
    file.sync()

    assert file.pread(3, 0) == b"new"
    assert after_crash(files, lose_all) == {"a": b"old"}
    file.pwrite(b"new", 0)
    file.sync_data()
    assert after_crash(files, lose_all) == {"a": b"new"}


def test_dropped_cache_shows_what_a_failed_sync_left_on_disk() -> None:
    files, root = recording()
    file = durable_file(root, "a", b"old")
    file.pwrite(b"new", 0)
    files.fail("sync_data")
    with pytest.raises(OSError):
        file.sync_data()
    file.drop_cache(0)

    assert file.pread(3, 0) == b"old"


# ---------------------------------------------------------------- locks


def test_locks_belong_to_the_open_file_and_go_when_it_is_closed() -> None:
    _, root = recording()
    one = root.open("a", writable=True, create=True)
    two = root.open("a", writable=True)

    assert one.lock(7, exclusive=True, blocking=False)
    assert not two.lock(7, exclusive=False, blocking=False)
    assert two.lock(8, exclusive=True, blocking=False)
    assert one.lock(7, exclusive=False, blocking=True)
    assert two.lock(7, exclusive=False, blocking=False)
    assert not two.lock(7, exclusive=True, blocking=False)
    one.close()
    assert two.lock(7, exclusive=True, blocking=False)


def test_lock_that_would_wait_for_ever_fails_the_test() -> None:
    _, root = recording()
    one = root.open("a", writable=True, create=True)
    one.lock(0, exclusive=True, blocking=True)

    with pytest.raises(AssertionError, match="for ever"):
        root.open("a").lock(0, exclusive=False, blocking=True)


# ---------------------------------------------------------------- faults and space


def test_nth_call_fails_once_or_for_ever() -> None:
    files, root = recording()
    file = durable_file(root, "a", b"x")
    files.fail("pread", nth=1, code=errno.EIO)
    file.pread(1, 0)
    with pytest.raises(OSError) as caught:
        file.pread(1, 0)
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == file.path
    file.pread(1, 0)

    files.fail(nth=0, code=errno.EMFILE, is_lasting=True)
    for _ in range(2):
        with pytest.raises(OSError):
            root.open("a")
    files.heal()
    root.open("a")


def test_failed_write_leaves_the_part_that_was_asked_for() -> None:
    files, root = recording()
    file = root.open("a", writable=True, create=True)
    files.fail("pwrite", code=errno.ENOSPC, short_bytes=3)

    with pytest.raises(OSError):
        file.pwrite(b"abcdef", 0)
    assert file.pread(10, 0) == b"abc"


def test_full_disk_takes_what_fits_and_overwrites_what_is_there() -> None:
    files, root = recording()
    file = durable_file(root, "a", b"x")
    files.free_bytes = 4096

    with pytest.raises(OSError) as caught:
        file.pwrite(bytes(10_000), 0)
    assert caught.value.errno == errno.ENOSPC
    assert file.size() == 8192
    file.pwrite(b"fits", 8000)
    with pytest.raises(OSError):
        root.open("b", writable=True, create=True)


def test_calls_are_counted_by_kind() -> None:
    files, root = recording()
    files.calls = []
    durable_file(root, "a", b"x")

    assert files.calls == ["create", "pwrite", "sync", "directory_sync"]


# ---------------------------------------------------------------- properties

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3000), st.integers(1, 900)),
        st.tuples(st.just("truncate"), st.integers(0, 3000), st.just(0)),
        st.tuples(st.sampled_from(["sync", "sync_data", "fail", "drop"]), st.just(0), st.just(0)),
    ),
    max_size=12,
)


@given(STEPS)
def test_disk_follows_the_page_cache_whatever_is_done(steps: list[tuple[str, int, int]]) -> None:
    files, root = recording()
    file = durable_file(root, "a", b"")
    for number, (kind, position, size) in enumerate(steps, start=1):
        match kind:
            case "write":
                file.pwrite(bytes([number]) * size, position)
            case "truncate":
                file.truncate(position)
            case "fail":
                files.fail("sync_data")
                with pytest.raises(OSError):
                    file.sync_data()
            case "drop":
                file.drop_cache(0)
            case _:
                getattr(file, kind)()
        disk = files.disk_after()
        assert MemoryFiles(disk).contents() == files.contents()
        assert disk.slots() or after_crash(files, lose_all) == files.contents()
        if not any(one.stuck for one in disk.files.values()):
            assert after_crash(files, keep_all) == files.contents()


def test_damages_choose_within_bounds() -> None:
    slots = [Slot(1, sector, 0, 1 + sector % 3) for sector in range(20)]
    rng = random.Random(1)
    for damage in DAMAGES:
        for some in ([], slots[:1], slots):
            for _ in range(20):
                chosen = damage(some, rng)
                assert len(chosen) == len(some)
                assert all(0 <= c <= s.count for c, s in zip(chosen, some, strict=True))
    assert sum(c != s.count for c, s in zip(lose_one(slots, rng), slots, strict=True)) == 1


def test_copies_of_a_disk_are_independent() -> None:
    files, root = recording()
    file = durable_file(root, "a", b"x")
    file.pwrite(b"y", 0)
    disk: Disk = files.disk_after()
    copied = disk.copy()
    for number in copied.files:
        copied.files[number].sync(is_full=True)

    assert disk.slots()
    assert not copied.slots()
