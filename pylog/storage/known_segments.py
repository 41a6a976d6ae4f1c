"""The segments of a partition as this process knows them, kept up with what others change.

Knows when its snapshot is too old and where a newer one is read: the manifest, or, while repairs
wait for space, what recovery finds.  Must not know who changes the segments, and how.

Locks: none.  A newer snapshot takes the place of the older one by one assignment.
"""

from __future__ import annotations

from collections.abc import Callable

from pylog._native import Marks
from pylog.config import TopicConfig
from pylog.storage import lifecycle, policy, recovery
from pylog.storage.descriptors import Descriptors
from pylog.storage.files import Directory
from pylog.storage.manifest import Manifest, SegmentFacts
from pylog.storage.segment import ReplacedError
from pylog.storage.segments import NO_SEGMENTS, SegmentSet, segments_of


class KnownSegments:
    """The newest snapshot that this process has: `current`, empty before the first one."""

    def __init__(
        self,
        directory: Directory,
        *,
        descriptors: Descriptors,
        config: Callable[[], TopicConfig],
        marks: Callable[[], Marks],
        deleted: Callable[[], Exception],
    ) -> None:
        """marks: returns those of now.  deleted: what to raise when the topic is no more."""
        self._marks = marks
        self._deleted = deleted
        self._directory = directory
        self._descriptors = descriptors
        self._config = config
        self.current: SegmentSet = NO_SEGMENTS

    def as_of(self, marks: Marks) -> SegmentSet:
        """Return a snapshot that is at least as new as `marks`.

        Reads the manifest when another process changed it; otherwise no system call.
        """
        current = self.current
        return current if current.generation >= marks.generation else self._reload(marks)

    def _is_replaced(self, facts: SegmentFacts) -> bool:
        """Return whether what is published now names other files, or none; see cleaned_files.py.

        Called while descriptors are locked: takes nothing that has to be let go of.
        """
        current, marks = self.current, self._marks()
        if marks.flags & lifecycle.IS_DELETED:
            # The files may be those of a topic that was made anew.
            raise self._deleted()
        if current.generation >= marks.generation:
            return not current.names(facts)
        return facts.identity not in (one.identity for one in self._load(marks).segments)

    def _reload(self, marks: Marks) -> SegmentSet:
        """Read the manifest anew; the result is at least as new as `marks`."""
        return self.take(self._load(marks))

    def _load(self, marks: Marks) -> Manifest:
        if marks.flags & lifecycle.NEEDS_REPAIR:
            # The manifest on disk is not the one that the marks were made from: derive it again.
            opened = recovery.examine(
                self._directory,
                index_interval_bytes=self._config().index_interval_bytes,
                same_boot=True,
            )
            manifest = opened.manifest
        else:
            manifest = recovery.load_manifest(self._directory)
        if self._marks().flags & lifecycle.IS_DELETED:
            raise self._deleted()
        assert manifest is not None, "a partition with a generation has a manifest"
        return manifest

    def take(self, manifest: Manifest) -> SegmentSet:
        """Return the snapshot that `manifest` names, the current one if none is newer.

        Files of segments that went or were cleaned are let go of.
        """
        segments = segments_of(
            manifest,
            self.current,
            self._directory,
            descriptors=self._descriptors,
            index_bytes=policy.rounded_up(self._config().segment_index_bytes),
            is_replaced=self._is_replaced,
        )
        previous = self.current
        # Another thread may have read a newer manifest meanwhile.
        if segments.generation >= previous.generation:
            self.current = segments
            kept = {id(segment) for segment in segments.segments}
            for segment in previous.segments:
                if id(segment) not in kept:
                    segment.forget_files()
        return segments

    def sync(self, marks: Marks, end_offset: int) -> None:
        """Sync the segments that hold offsets in [durable offset, end_offset).

        Raises CorruptRangeError for one whose file is missing, OSError.
        """
        while True:
            try:
                segments = self.as_of(marks)
                for segment in segments.segments[segments.floor(marks.durable_offset) :]:
                    if segment.base_offset < end_offset:
                        segment.file().sync_data()
                return
            except ReplacedError:
                # Deleted or cleaned meanwhile: nothing of it is missed.
                marks = self._marks()

    def forget_files(self) -> None:
        """Let go of all files; who reads one now keeps it until then."""
        for segment in self.current.segments:
            segment.forget_files()
