"""What ends with an `async with` block.

Knows that there is something to close.  Must not know what.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """An asynchronous context manager that gives itself, and closes itself at the end."""

    async def close(self) -> None:
        """End."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
