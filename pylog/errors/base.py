"""The root of the exception tree, and how values are shown in its texts."""

from __future__ import annotations

from typing import Any, ClassVar

# Values in messages are cut here: they may be hostile and a log line must stay a line.  Guessed.
_MAX_VALUE_CHARACTERS = 120


def shown(value: object) -> str:
    """Return the repr of a value, cut so that a hostile one cannot flood a log."""
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else text[:_MAX_VALUE_CHARACTERS] + "..."


class PylogError(Exception):
    """Catch this to catch everything that pylog raises on purpose.

    OSError from the operating system and TypeError for a wrong argument type are not among them.
    Every error pickles and copies with all its attributes, so it can cross a process pool.
    """

    retriable: ClassVar[bool] = False

    # The attributes that rebuild the error when passed to its constructor, in its order.
    _fields: ClassVar[tuple[str, ...]] = ("message",)

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        # The builtins' own way calls the constructor with `args`, which here is the text alone.
        fields = tuple(getattr(self, name) for name in self._fields)
        return type(self), fields, self.__dict__
