"""`produce`: append what comes on standard input, a record a line."""

from __future__ import annotations

import dataclasses
import os
import select
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

import click

from pylog.cli import formats, options, progress, show
from pylog.errors import DurabilityUnknownError, NotAppendedError, PylogError
from pylog.topics.topic import Topic

# Appended at once, with one sync a partition: large enough that a sync costs little beside it.
_BLOCK_BYTES: Final = 4 << 20
_LINGER_SECONDS: Final = 0.005  # for more of a block, as a producer's linger_ms
_LONGEST_LINE: Final = 64 << 20  # what no record may exceed; see pylog.codecs

_HELP = """Append what comes on standard input to a topic, a record a line.

A line is appended soon after it came; when many come, thousands at once, with one sync.  When the
command ends with exit code 0, all of them are as durable as the topic promises.

Example: zcat events.gz | pylog produce clicks -K '\\t'
"""


@click.command("produce", help=_HELP, short_help="Append lines of standard input to a topic.")
@click.argument("name", metavar="TOPIC")
@click.option(
    "-K",
    "key_delimiter",
    metavar="DELIM",
    help="What stands before it is the key, behind it the value; without it there is no key."
    r"  \t, \0, \xNN and the like are understood, here and in -D.",
)
@click.option(
    "-D",
    "delimiter",
    metavar="DELIM",
    default=r"\n",
    show_default=True,
    help="What ends a record.",
)
@click.option("-k", "--key", metavar="KEY", help="The key of all records.")
@click.option(
    "-H",
    "--header",
    "headers",
    metavar="NAME=VALUE",
    multiple=True,
    help="A header of all records.  Can be repeated.",
)
@click.option("-p", "--partition", type=int, metavar="N", help="Where to; by default by the keys.")
@click.option(
    "-Z", "empty_is_null", is_flag=True, help="An empty value is null: with a key, a tombstone."
)
@options.directory
@options.as_json
def produce(
    *,
    name: str,
    key_delimiter: str | None,
    delimiter: str,
    key: str | None,
    headers: tuple[str, ...],
    partition: int | None,
    empty_is_null: bool,
    directory: str,
    as_json: bool,
) -> None:
    """Append lines to a topic."""
    if key is not None and key_delimiter is not None:
        raise click.UsageError("-k gives all records one key, -K each its own: only one of them")
    ends = formats.unescaped(delimiter)
    between = None if key_delimiter is None else formats.unescaped(key_delimiter)
    if not ends or between == b"":
        raise click.UsageError("a delimiter is at least one byte")
    shape = _Shape(between, _bytes_of(key), _pairs(headers), empty_is_null)
    if sys.stdin is None:
        raise options.UnusableError("standard input is closed")
    source = sys.stdin.fileno()
    size = _size(source)
    done = _Done()
    with options.open_existing(directory) as log:
        topic = log.topic(name)
        if partition is not None:
            topic.partition(partition)  # raises for one that is not there
        try:
            with progress.shown(name, size, is_bytes=True) as advance:
                for lines in _lines(source, ends):
                    done.records += _append(topic, shape, lines, partition)
                    done.bytes += sum(map(len, lines)) + len(lines) * len(ends)
                    advance(done.bytes, size)
        except (PylogError, options.UnusableError) as error:
            done.tell_of_those_before(error)
            raise
        finally:
            if as_json:
                show.print_json({"topic": name, "records": done.records})
    if sys.stderr.isatty() and not as_json:
        print(f"{name}: {show.counted(done.records, 'record')} appended", file=sys.stderr)


@dataclasses.dataclass(slots=True)
class _Done:
    """What was appended, and how many bytes of the input that is."""

    records: int = 0
    bytes: int = 0

    def tell_of_those_before(self, error: Exception) -> None:
        """Say what was appended before an error, in the call that raised it as well."""
        if isinstance(error, NotAppendedError):
            self.records += len(error.appended)
        # Of what was given last it is not known, then.
        certainly = " certainly" if isinstance(error, DurabilityUnknownError) else ""
        records = show.counted(self.records, "record")
        show.complain(f"{records}{certainly} appended before this:")


@dataclasses.dataclass(frozen=True, slots=True)
class _Shape:
    """What a line means.  between: what ends its key, None when it has none of its own."""

    between: bytes | None
    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    empty_is_null: bool

    def split(
        self, lines: list[bytes]
    ) -> tuple[Sequence[bytes | None], Sequence[bytes | None] | None]:
        """Return values and keys."""
        values: list[bytes | None] = []
        keys: list[bytes | None] = []
        if self.between is None:
            values += lines
            keys += [self.key] * len(lines)
        else:
            for line in lines:
                key, found, value = line.partition(self.between)
                keys.append(key if found else None)
                values.append(value if found else line)
        if self.empty_is_null:
            values = [value or None for value in values]
        has_keys = self.between is not None or self.key is not None
        return values, keys if has_keys else None


def _append(topic: Topic, shape: _Shape, lines: list[bytes], partition: int | None) -> int:
    """Append lines; return how many.  Raises what `Topic.append_many` raises."""
    values, keys = shape.split(lines)
    headers = [shape.headers] * len(lines) if shape.headers else None
    return len(topic.append_many(values, keys, headers, partition=partition))


# ------------------------------------------------------------------ lines


def _lines(source: int, end: bytes) -> Iterator[list[bytes]]:
    """Yield what comes on a descriptor as lines without their ends, many at once.

    Raises UnusableError for one that is longer than any record.
    """
    rest = b""
    for block in _blocks(source):
        *lines, rest = (rest + block).split(end)
        if lines:
            yield lines
        if len(rest) > _LONGEST_LINE:
            raise options.UnusableError(f"a line is longer than {_LONGEST_LINE:,} bytes")
    if rest:
        yield [rest]


def _blocks(source: int) -> Iterator[bytes]:
    """Yield what comes, each time what came within a few milliseconds."""
    # A terminal tells its end once: it is not asked again.
    while data := os.read(source, _BLOCK_BYTES):
        parts, size = [data], len(data)
        deadline = time.monotonic() + _LINGER_SECONDS
        while size < _BLOCK_BYTES and _is_ready(source, deadline - time.monotonic()):
            data = os.read(source, _BLOCK_BYTES - size)
            if not data:
                yield b"".join(parts)
                return
            parts.append(data)
            size += len(data)
        yield b"".join(parts)


def _is_ready(source: int, seconds: float) -> bool:
    return bool(select.select([source], [], [], max(seconds, 0.0))[0])


def _size(source: int) -> int | None:
    """Return how many bytes will come, None when that is not known."""
    status = os.fstat(source)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _bytes_of(text: str | None) -> bytes | None:
    """Return an argument as the bytes that the shell gave."""
    return None if text is None else os.fsencode(text)


def _pairs(headers: tuple[str, ...]) -> list[tuple[str, bytes | None]]:
    """Return headers that were given as NAME=VALUE.  Raises click.BadParameter."""
    pairs: list[tuple[str, bytes | None]] = []
    for header in headers:
        name, equals, value = header.partition("=")
        if not equals:
            raise click.BadParameter(f"{header!r}: expected NAME=VALUE", param_hint="-H")
        pairs.append((name, os.fsencode(value)))
    return pairs


COMMANDS: Final = (produce,)
