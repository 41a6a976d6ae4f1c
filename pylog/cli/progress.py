"""Progress of long work: a bar where a person watches, nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Advance = Callable[[int, int | None], None]


@contextlib.contextmanager
def shown(
    what: str, total: int | None = None, *, is_bytes: bool = False, prints: bool = False
) -> Iterator[Advance]:
    """Yield what is to be told how far the work is: (done so far, total or None).

    Shown on standard error if that is a terminal, and taken away at the end.  prints: the work
    writes to standard output meanwhile, which says enough if that is a terminal, too.
    Raises MissingExtraError when it is one and rich is not installed.
    """
    if not sys.stderr.isatty() or (prints and sys.stdout.isatty()):
        yield lambda done, total: None
        return
    from pylog.cli import terminal

    with terminal.progress_bar(what, total, is_bytes=is_bytes) as advance:
        yield advance
