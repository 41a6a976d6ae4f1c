"""Progress of long work: a bar where a person watches, nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from pylog.errors import MissingExtraError

Advance = Callable[[int, int | None], None]


@contextlib.contextmanager
def shown(
    what: str, total: int | None = None, *, is_bytes: bool = False, prints: bool = False
) -> Iterator[Advance]:
    """Yield what is to be told how far the work is: (done so far, total or None).

    Shown on standard error if that is a terminal and rich is installed, and taken away at the end.
    prints: the work writes to standard output meanwhile, which says enough on a terminal.
    """
    if not sys.stderr.isatty() or (prints and sys.stdout.isatty()):
        yield _nobody_watches
        return
    try:
        from pylog.cli import terminal
    except MissingExtraError:
        yield _nobody_watches
        return
    with terminal.progress_bar(what, total, is_bytes=is_bytes) as advance:
        yield advance


def _nobody_watches(done: int, total: int | None) -> None:
    """Tell nobody."""
