"""What the tests of tables share: ways to follow, and what a table must come to."""

from __future__ import annotations

from pylog import Topic

FOLLOW = ("read", "background", "never")


def fold(topic: Topic) -> dict[bytes, bytes]:
    """Return what a plain loop over all records makes of the topic."""
    state: dict[bytes, bytes] = {}
    for record in topic.read():
        if record.key is not None and record.value is None:
            state.pop(record.key, None)
        elif record.key is not None and record.value is not None:
            state[record.key] = record.value
    return state
