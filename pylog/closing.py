"""What ends with a `with` block.

Knows that there is something to close.  Must not know what.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """A context manager that gives itself, and closes itself at the end."""

    def close(self) -> None:
        """End."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
