"""The files of a cleaned segment: written beside the old ones, found, and put in their place.

Knows names and when they change.  Must not know what is in the files, nor who decides.

A segment is known by its base offset, but compaction gives it other bytes.  So each cleaning of it
is a *revision*, a number that the manifest holds with the segment's facts:

    written     <base>.log.<revision>.cleaned, its indexes likewise; synced, and their names too
    committed   a manifest that names this revision replaces the old one
    published   the page's generation is that manifest's
    in place    renamed to <base>.log and so on, over the old files, whose readers keep them

That is the order of it, and a crash between any two steps leaves files of which the manifest on
disk tells what counts.  A file called .cleaned whose revision is named counts, whatever stands
under Kafka's name beside it; one whose revision is not named never will.  `settle` makes either
true in the names, as often as it is called.

Why a reader never takes the file of one revision for that of another
    A segment object of revision r opens a file so:  1. if r > 0, by the name that says r;  2. if
    that does not exist, by Kafka's name;  3. after that it asks whether a manifest that has been
    published by now still names r.  Only if so it believes what it opened.
    - What step 1 finds is r's: a revision is used once for a base offset, and its files are not
      changed once it is committed, which it was before anybody could know of it.
    - If step 1 finds nothing, r was put in place before that (it is not removed: step 3 finds it
      named, and a revision that is not named any more never is again), or r is 0.  So Kafka's name
      stood for r or for a later revision when step 2 opened it.
    - If it was a later one, that was in place at step 2, so it had been published before, so step
      3 sees a manifest that names it or a still later one, and not r.
    - Indexes follow the same steps one by one, so log and index of an object are of one revision.
    What is open stays: a rename over a file or its removal takes nothing from who has it open.
    Step 3 must come last.  Asking before opening proves nothing about what is opened after.

Locks: everything but opening is done with the page lock held, or by somebody who is alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from pylog.storage import layout
from pylog.storage.files import Directory, File
from pylog.storage.manifest import SegmentFacts


def open_revision(directory: Directory, name: str, revision: int, *, writable: bool) -> File:
    """Open a file of a segment by the name that it has now: steps 1 and 2 of the rule above.

    name: Kafka's.  Raises FileNotFoundError when there is neither, OSError.
    """
    if revision > 0:
        with contextlib.suppress(FileNotFoundError):
            return directory.open(layout.cleaned_name(name, revision), writable=writable)
    return directory.open(name, writable=writable)


def put_in_place(directory: Directory, facts: SegmentFacts) -> None:
    """Rename the files of a committed and published revision to Kafka's names.  Raises OSError.

    May be repeated.  The `.log` goes last: while its new name is not there, neither index is asked
    for by who scans a directory without a manifest.
    """
    for name in reversed(layout.segment_names(facts.base_offset)):
        # Another process may have been faster.
        with contextlib.suppress(FileNotFoundError):
            directory.rename(layout.cleaned_name(name, facts.revision), name)


def settle(directory: Directory, segments: Iterable[SegmentFacts]) -> None:
    """Put in place what counts of the files called .cleaned, and remove the rest.

    segments: of the manifest that is published.  Nobody is cleaning, and by the page lock or by
    being alone nobody replaces the manifest meanwhile.  Raises OSError.
    """
    counting = {facts.identity for facts in segments}
    waiting = [name for name in directory.names() if layout.parse_cleaned_name(name)]
    if waiting:
        # Whoever replaced the manifest may have died before that was on disk; a power cut could
        # then bring the old one back, without the files that it names.
        directory.sync()
    for cleaned in waiting:
        parsed = layout.parse_cleaned_name(cleaned)
        assert parsed is not None
        name, *identity = parsed
        with contextlib.suppress(FileNotFoundError):
            if tuple(identity) in counting:
                directory.rename(cleaned, name)
            else:
                directory.unlink(cleaned)
