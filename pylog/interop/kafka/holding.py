"""One runner at a time: a mirror or a source of a name runs in one process of a log.

Knows a byte of the log's lock file.  Must not know what is run.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Final

from pylog.errors import MirrorRunningError
from pylog.log import Log

# Of pylog.lock, above those of roles; see Engine.current_lock_file.
_FIRST_BYTE: Final = 2**62 + 2**61 + 2
_BYTES: Final = 2**61 - 3


@contextlib.contextmanager
def held(log: Log, kind: str, name: str) -> Iterator[None]:
    """Be the only one of this kind and name; the kernel lets go when the process dies.

    Raises MirrorRunningError at once when there is another, in this process too; ClosedError,
    OSError.
    """
    digest = hashlib.blake2b(f"{kind}\0{name}".encode(), digest_size=8).digest()
    byte = _FIRST_BYTE + int.from_bytes(digest, "big") % _BYTES
    file = log.replication.log.engine.lock_alone(byte, blocking=False)
    if file is None:
        raise MirrorRunningError(log.path, name)
    try:
        yield
    finally:
        file.close()
