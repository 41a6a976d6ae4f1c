"""Bugs to plant into compaction, so that the tests show that they would find them; see planted.py.

COMPACTION_PLANTS are found by crash points of a compacted topic: compacted_lives.py.  MODEL_PLANTS
are found by what is left after many compactions, some of them stopped: test_compaction_model.py.
CALL_PLANTS are found by calls of the file system that fail: test_compaction_failing_calls.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from memory_files import MemoryFile
from planted import Patch, Plant, Without, collecting

from pylog.storage import attachment, cleaned_files, compacted, layout
from pylog.storage.attachment import Attachment
from pylog.storage.compacted import CompactedPartition
from pylog.storage.compaction import CleanedSegment

COMPACTION_PLANTS: list[Plant] = []
MODEL_PLANTS: list[Plant] = []
CALL_PLANTS: list[Plant] = []
_plant = collecting(COMPACTION_PLANTS)
_model_plant = collecting(MODEL_PLANTS)
_call_plant = collecting(CALL_PLANTS)


def _before_commit(patch: Patch, action: Any) -> None:
    """Do something just before each manifest that names cleaned files takes its place."""
    original = CompactedPartition._commit

    def commit(self: Any, attached: Attachment, group: Any, cleaned: CleanedSegment) -> bool:
        commit_locked = Attachment.commit_locked

        def acting(inner: Attachment, manifest: Any) -> None:
            facts = next(one for one in manifest.segments if one.revision == cleaned._revision)
            action(inner._directory, group, facts)
            commit_locked(inner, manifest)

        with patch.context() as inner_patch:
            inner_patch.setattr(Attachment, "commit_locked", acting)
            return original(self, attached, group, cleaned)

    patch.setattr(CompactedPartition, "_commit", commit)


def _filter_with(patch: Patch, **wrong: int) -> None:
    original = compacted.BatchFilter
    patch.setattr(
        compacted, "BatchFilter", lambda *args, **options: original(*args, **options | wrong)
    )


@_plant
def commits_cleaned_files_that_are_not_synced(patch: Patch) -> None:
    original = MemoryFile.sync

    def sync(self: MemoryFile) -> None:
        if not self.path.endswith(".cleaned"):
            original(self)

    patch.setattr(MemoryFile, "sync", sync)


@_plant
def commits_cleaned_files_whose_names_are_not_synced(patch: Patch) -> None:
    original = CleanedSegment.finish

    def finish(self: CleanedSegment) -> Any:
        self._directory = Without(self._directory, "sync")
        return original(self)

    patch.setattr(CleanedSegment, "finish", finish)


@_plant
def puts_cleaned_files_in_place_before_the_manifest_names_them(patch: Patch) -> None:
    _before_commit(
        patch, lambda directory, group, facts: cleaned_files.put_in_place(directory, facts)
    )


@_plant
def removes_the_sources_before_the_manifest_forgets_them(patch: Patch) -> None:
    def remove(directory: Any, group: Any, facts: Any) -> None:
        for source in group[1:]:
            directory.unlink(layout.log_name(source.base_offset))

    _before_commit(patch, remove)


@_plant
def gives_up_rows_for_newer_ones_that_are_not_synced(patch: Patch) -> None:
    original = CompactedPartition._round

    def round_(self: Any, *args: Any) -> int:
        with patch.context() as inner_patch:
            inner_patch.setattr(CompactedPartition, "_wait_durable", lambda *_: None)
            return original(self, *args)

    patch.setattr(CompactedPartition, "_round", round_)


@_plant
def trusts_what_another_revision_left(patch: Patch) -> None:
    def settle(directory: Any, segments: Any) -> None:
        for cleaned in directory.names():
            if cleaned.endswith(".cleaned"):
                directory.rename(cleaned, ".".join(cleaned.split(".")[:2]))

    for module in (attachment, compacted):
        patch.setattr(module, "settle", settle)


@_plant
def never_puts_in_place_what_a_dead_process_committed(patch: Patch) -> None:
    # Reading finds the files under either name; Kafka would not.
    for module in (attachment, compacted):
        patch.setattr(module, "settle", lambda *_: None)


@_model_plant
def cleans_the_newest_groups_first(patch: Patch) -> None:
    original = CompactedPartition._groups
    patch.setattr(CompactedPartition, "_groups", lambda *args: original(*args)[::-1])


@_model_plant
def says_what_is_clean_before_all_groups_are(patch: Patch) -> None:
    original = CompactedPartition._clean

    def clean(self: Any, attached: Attachment, group: Any, *args: Any) -> bool:
        end = group[-1].end_offset
        cleaned = self._manifest(attached).cleaned
        self._set_cleaned(attached, dataclasses.replace(cleaned, offset=max(end, cleaned.offset)))
        return original(self, attached, group, *args)

    patch.setattr(CompactedPartition, "_clean", clean)


@_model_plant
def says_that_all_is_clean_when_the_map_was_full(patch: Patch) -> None:
    original = CompactedPartition._set_cleaned

    def set_cleaned(self: Any, attached: Attachment, cleaned: Any) -> None:
        end = self._plan_round().dirty.end
        original(self, attached, dataclasses.replace(cleaned, offset=end))

    patch.setattr(CompactedPartition, "_set_cleaned", set_cleaned)


@_model_plant
def takes_the_clock_at_its_word_for_tombstones(patch: Patch) -> None:
    original = compacted.BatchFilter
    patch.setattr(
        compacted,
        "BatchFilter",
        lambda *args, **options: original(*args, **options | {"now": 2**62}),
    )


@_model_plant
def never_drops_a_tombstone(patch: Patch) -> None:
    _filter_with(patch, now=-1)


@_model_plant
def reads_cleaned_segments_as_if_they_had_no_gaps(patch: Patch) -> None:
    original = CleanedSegment.finish

    def finish(self: CleanedSegment) -> Any:
        return dataclasses.replace(original(self), is_compacted=False)

    patch.setattr(CleanedSegment, "finish", finish)


@_model_plant
def keeps_the_indexes_of_the_first_source(patch: Patch) -> None:
    original = CleanedSegment.finish

    def finish(self: CleanedSegment) -> Any:
        facts = original(self)
        return dataclasses.replace(
            facts, index_entries=self._sources[0].segment.facts.index_entries
        )

    patch.setattr(CleanedSegment, "finish", finish)


@_call_plant
def leaves_the_files_of_a_compaction_that_failed(patch: Patch) -> None:
    patch.setattr(CompactedPartition, "_settle", lambda *_: None)


@_call_plant
def takes_a_failed_sync_of_a_cleaned_file_for_a_good_one(patch: Patch) -> None:
    original = MemoryFile.sync

    def sync(self: MemoryFile) -> None:
        with contextlib.suppress(OSError if self.path.endswith(".cleaned") else ()):
            original(self)

    patch.setattr(MemoryFile, "sync", sync)
