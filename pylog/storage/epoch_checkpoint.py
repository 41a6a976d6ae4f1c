"""The file that says which leader epoch began at which offset.

Knows how it is read and replaced.  Must not know when epochs begin.  It is a cache of what the
batches say themselves, and of epochs that began and wrote none; and it is on disk before a batch
carries an epoch, so that a scan of the last segment finds all that it may not say yet.

Locks: writing is done with the page lock held, or by somebody who is alone.
"""

from __future__ import annotations

import logging

from pylog.errors import CorruptFileError
from pylog.storage import layout
from pylog.storage.epochs import LeaderEpochs
from pylog.storage.files import Directory, read_file, replace_file
from pylog.storage.manifest import MAX_MANIFEST_BYTES

logger = logging.getLogger("pylog")


def load_epochs(directory: Directory) -> LeaderEpochs:
    """Return the leader epochs on disk, none when they cannot be parsed.  Raises OSError."""
    name = layout.LEADER_EPOCH_CHECKPOINT
    data = read_file(directory, name, max_bytes=MAX_MANIFEST_BYTES)
    try:
        return LeaderEpochs(
            layout.parse_leader_epochs(data or b"", path=f"{directory.path}/{name}")
        )
    except CorruptFileError as error:
        # A cache of what the batches say themselves: recovery and appends write it anew.
        logger.error("%s; leader epochs are taken from the batches", error)
        return LeaderEpochs(())


def save_epochs(directory: Directory, epochs: LeaderEpochs, *, sync_directory: bool = True) -> None:
    """Replace the leader epochs on disk, durably; see `replace_file`.  Raises OSError."""
    data = layout.encode_leader_epochs(epochs.entries)
    replace_file(directory, layout.LEADER_EPOCH_CHECKPOINT, data, sync_directory=sync_directory)


def advance_epochs(directory: Directory, log_start_offset: int) -> None:
    """Let the leader epochs begin with the log.  Source: Kafka LeaderEpochFileCache.

    A file that is left as it was says nothing wrong of what the log still holds, so an error is
    only reported.
    """
    try:
        epochs = load_epochs(directory)
        advanced = epochs.truncate_from_start(log_start_offset)
        if advanced is not epochs:
            save_epochs(directory, advanced, sync_directory=False)
    except OSError as error:
        logger.warning("%s: leader epochs are left as they were: %s", directory.path, error)
