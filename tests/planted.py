"""Bugs to plant, so that the tests show that they would find them.

Each is a function that patches the storage with pytest's `monkeypatch` and is named after the rule
it breaks.  Three lists say which checker must catch it: crash points, faults or damage.
Source: RELIABILITY section 4 (T25): one plant for each rule.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from memory_files import MemoryDirectory, MemoryFile

from pylog import _native
from pylog._native import Scanner, crc32c
from pylog.storage import epoch_checkpoint, layout, lifecycle, policy, recovery, scan, tail
from pylog.storage.attachment import Attachment
from pylog.storage.files import replace_file
from pylog.storage.sync import GroupCommit

Patch: TypeAlias = pytest.MonkeyPatch
Plant: TypeAlias = Callable[[Patch], None]

CRASH_PLANTS: list[Plant] = []
FAULT_PLANTS: list[Plant] = []
DAMAGE_PLANTS: list[Plant] = []


def collecting(plants: list[Plant]) -> Callable[[Plant], Plant]:
    """Return a decorator that puts a plant into a list."""

    def add(plant: Plant) -> Plant:
        plants.append(plant)
        return plant

    return add


class Without:
    """Stands for an object with some methods doing nothing, in all that it opens, too."""

    def __init__(self, whole: Any, *names: str) -> None:
        self._whole = whole
        self._names = names

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            return lambda *_, **__: None
        found = getattr(self._whole, name)
        if name == "open":
            files = [one.removeprefix("file.") for one in self._names if one.startswith("file.")]
            return lambda *args, **options: Without(found(*args, **options), *files)
        return found


def _replace_file_without(patch: Patch, *names: str) -> None:
    def replace(directory: Any, name: str, data: bytes, **options: bool) -> None:
        replace_file(Without(directory, *names), name, data, **options)

    for module in (lifecycle, recovery, epoch_checkpoint):
        patch.setattr(module, "replace_file", replace)


def _without(patch: Patch, module: Any, function: str, *names: str) -> None:
    """Let a function that takes a directory first find some methods doing nothing."""
    original = getattr(module, function)

    def patched(directory: Any, *args: Any, **options: Any) -> Any:
        return original(Without(directory, *names), *args, **options)

    patch.setattr(module, function, patched)


# ---------------------------------------------------------------- found by crash points


@collecting(CRASH_PLANTS)
def acknowledges_before_data_is_synced(patch: Patch) -> None:
    patch.setattr(Attachment, "_sync_segments", lambda *_: None)


@collecting(CRASH_PLANTS)
def rolls_without_syncing_the_old_segment(patch: Patch) -> None:
    original = lifecycle.roll_locked

    def roll(directory: Any, page: Any, manifest: Any, *, unsynced: Any) -> Any:
        skipped = [_Unsynced(segment) for segment in unsynced]
        return original(directory, page, manifest, unsynced=skipped)

    patch.setattr(lifecycle, "roll_locked", roll)


class _Unsynced(Without):
    """A segment whose file is never synced."""

    def file(self) -> Any:
        return Without(self._whole.file(), "sync_data")


@collecting(CRASH_PLANTS)
def makes_directories_without_syncing_the_parent(patch: Patch) -> None:
    original = MemoryDirectory.sync
    root = "/memory"
    patch.setattr(
        MemoryDirectory, "sync", lambda self: original(self) if self.path != root else None
    )


@collecting(CRASH_PLANTS)
def believes_a_directory_that_is_there_to_be_durable(patch: Patch) -> None:
    original = MemoryDirectory.make

    def make(self: MemoryDirectory) -> None:
        if not self.exists():
            original(self)

    patch.setattr(MemoryDirectory, "make", make)


@collecting(CRASH_PLANTS)
def replaces_files_without_file_sync(patch: Patch) -> None:
    _replace_file_without(patch, "file.sync")


@collecting(CRASH_PLANTS)
def replaces_files_without_directory_sync(patch: Patch) -> None:
    _replace_file_without(patch, "sync")


@collecting(CRASH_PLANTS)
def forgets_to_withdraw_the_clean_flag(patch: Patch) -> None:
    # The comparison of sizes would notice the stale flag; each guard must be able to fail alone.
    patch.setattr(recovery, "_sizes_agree", lambda *_: True)

    def begin_again(directory: Any, page: Any, manifest: Any) -> Any:
        page.publish(flags=0)
        return manifest

    patch.setattr(lifecycle, "begin_again_locked", begin_again)


@collecting(CRASH_PLANTS)
def recovers_without_syncing_what_it_keeps(patch: Patch) -> None:
    _without(patch, recovery, "_repair_log", "file.sync")


@collecting(CRASH_PLANTS)
def recovers_the_active_segment_only(patch: Patch) -> None:
    patch.setattr(recovery, "_unsynced_segments", lambda _: ())


@collecting(CRASH_PLANTS)
def takes_space_by_truncating_upwards(patch: Patch) -> None:
    def grow(log: Any, allocated: int, target: int, *_: Any, **__: Any) -> int:
        log.truncate(target)
        return target

    patch.setattr(tail, "_grow", grow)


@collecting(CRASH_PLANTS)
def recovers_without_checking_crcs(patch: Patch) -> None:
    patch.setattr(recovery, "Scanner", _CredulousScanner)


@collecting(CRASH_PLANTS)
def counts_records_that_are_not_there(patch: Patch) -> None:
    original = lifecycle.initial_marks

    def marks(opened: Any, **options: Any) -> dict[str, int]:
        found = original(opened, **options)
        return found | {"log_end_offset": found["log_end_offset"] + (found["position"] > 0)}

    patch.setattr(lifecycle, "initial_marks", marks)


@collecting(CRASH_PLANTS)
def cuts_without_saving_the_bytes(patch: Patch) -> None:
    patch.setattr(recovery, "save_cut", lambda *_: None)


@collecting(CRASH_PLANTS)
def moves_the_log_start_in_memory_only(patch: Patch) -> None:
    patch.setattr(lifecycle, "write_manifest", _without_new_starts(lifecycle.write_manifest))


def _without_new_starts(original: Any) -> Any:
    known: dict[int, int] = {}

    def write(directory: Any, manifest: Any) -> None:
        # A start that is named for the first time is kept from the disk; later ones are not missed.
        if manifest.log_start_offset and not known.get(manifest.log_start_offset):
            known[manifest.log_start_offset] = 1
            return
        original(directory, manifest)

    return write


@collecting(CRASH_PLANTS)
def removes_segments_before_the_manifest_forgets_them(patch: Patch) -> None:
    original = lifecycle.advance_start_locked

    def advance(
        directory: Any, page: Any, manifest: Any, active: Any, log_start_offset: int
    ) -> Any:
        kept = policy.segments_from(manifest.segments, log_start_offset)
        for facts in manifest.segments:
            if facts.base_offset < kept[0].base_offset:
                directory.unlink(layout.log_name(facts.base_offset))
        return original(directory, page, manifest, active, log_start_offset)

    patch.setattr(lifecycle, "advance_start_locked", advance)


# ---------------------------------------------------------------- found by faults


@collecting(FAULT_PLANTS)
def retries_a_failed_sync(patch: Patch) -> None:
    original = GroupCommit._lead

    def lead(self: Any, *args: Any) -> Any:
        sync = self._sync

        def twice() -> Any:
            try:
                return sync()
            except OSError:
                return sync()

        self._sync = twice
        try:
            return original(self, *args)
        finally:
            self._sync = sync

    patch.setattr(GroupCommit, "_lead", lead)


@collecting(FAULT_PLANTS)
def keeps_a_failed_sync_to_itself(patch: Patch) -> None:
    patch.setattr(GroupCommit, "_fail", lambda self: None)


@collecting(FAULT_PLANTS)
def syncs_again_without_writing_again(patch: Patch) -> None:
    patch.setattr(recovery, "write_again", lambda *_: None)
    original = recovery._walk_active

    def walk(directory: Any, *args: Any, **options: Any) -> Any:
        return original(Without(directory, "file.drop_cache"), *args, **options)

    patch.setattr(recovery, "_walk_active", walk)


@collecting(FAULT_PLANTS)
def takes_an_io_error_for_a_missing_manifest(patch: Patch) -> None:
    original = recovery.read_file

    def read(directory: Any, name: str, **options: Any) -> bytes | None:
        try:
            return original(directory, name, **options)
        except OSError:
            return b""

    patch.setattr(recovery, "read_file", read)


@collecting(FAULT_PLANTS)
def never_leaves_the_full_state(patch: Patch) -> None:
    original = Attachment.write

    def write(self: Any, *args: Any, **options: Any) -> Any:
        if self.page.marks().state == _native.FULL:
            raise tail.PartitionFullError("it was full before", error_number=28)
        return original(self, *args, **options)

    patch.setattr(Attachment, "write", write)


@collecting(FAULT_PLANTS)
def needs_space_to_open(patch: Patch) -> None:
    original = recovery.repair

    def repair(*args: Any) -> None:
        try:
            original(*args)
        except OSError as error:
            raise OSError(5, os.strerror(5), error.filename) from error

    patch.setattr(recovery, "repair", repair)


# ---------------------------------------------------------------- found by damage


@collecting(DAMAGE_PLANTS)
def reads_without_checking_crcs(patch: Patch) -> None:
    original = MemoryFile.pread

    def pread(self: MemoryFile, size: int, position: int) -> bytes:
        data = original(self, size, position)
        return _with_right_crcs(data) if self.path.endswith(".log") else data

    patch.setattr(MemoryFile, "pread", pread)


@collecting(DAMAGE_PLANTS)
def cuts_at_the_first_bad_batch(patch: Patch) -> None:
    patch.setattr(scan, "next_intact", lambda *_, **__: None)


@collecting(DAMAGE_PLANTS)
def deletes_a_manifest_it_cannot_parse(patch: Patch) -> None:
    def unlink(directory: Any, name: str) -> None:
        if name in directory.names():
            directory.unlink(name)

    patch.setattr(recovery, "set_aside", unlink)


class _CredulousScanner:
    """A Scanner that finds every CRC right."""

    def __init__(self, **options: Any) -> None:
        self._scanner = Scanner(**options)

    def feed(self, data: Any, *args: Any) -> int:
        return self._scanner.feed(_with_right_crcs(data), *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scanner, name)


def _with_right_crcs(data: Any) -> bytes:
    """Return whole batches with their CRCs made right, as if nobody looked at them."""
    fixed = bytearray(data)
    position = 0
    while position + 61 <= len(fixed):
        end = position + 12 + int.from_bytes(fixed[position + 8 : position + 12], "big")
        if not position + 61 <= end <= len(fixed):
            break
        struct.pack_into(">I", fixed, position + 17, crc32c(fixed[position + 21 : end]))
        position = end
    return bytes(fixed)
