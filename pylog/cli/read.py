"""`read`: print a topic's records, those that are there or all that come."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import click

from pylog._native import Record
from pylog.cli import formats, options, progress, show
from pylog.cli.options import Kind, Place, PlaceType
from pylog.consumer.consumer import Consumer
from pylog.errors import CorruptRangeError, OffsetOutOfRangeError
from pylog.topics.topic import Topic

_READ_BYTES: Final = 1 << 20
_POLLED_RECORDS: Final = 10_000  # guessed: about a megabyte of output

_HELP = """Print the records of a topic: those that are there, one partition after the other.

By default each value is printed on a line of its own, as it is.  On a terminal, bytes that do not
print are escaped.  Damaged records are passed over and told of on standard error; then the exit
code is 1.

\b
-o, where to begin in each partition (twice: and where to end):
  beginning, end   the first record there is; what comes from now on
  42, -10          an offset; so many offsets before the end
  s@TIME, e@TIME   begin or end with the first record as late: milliseconds
                   since the epoch, a time as 2024-05-01T12:00 (local), or
                   how long ago, as -15m
-f, tokens of the format, as in kcat:
  %s %k %h         value, key, headers (name=value,...)
  %S %K %R         bytes of the value and of the key (-1 for null); of the
                   value, as 4 bytes
  %t %p %o %T      topic, partition, offset, timestamp in milliseconds
  \\n \\t \\xNN %%    as usual; nothing is added at the end of a record

Example: pylog read orders -o -10 -f '%p/%o %k: %s\\n'
"""


@dataclasses.dataclass(frozen=True, slots=True)
class _Piece:
    """Some records of one partition, and how many offsets they are of those to be read."""

    records: Iterable[Record]
    offsets: int


class _StartType(PlaceType):
    """A place to begin, or `e@TIME`, where to end."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: Any) -> Any:
        text = str(value)
        if text.startswith("e@"):
            return options.parse_time(text[2:])
        return super().convert(value, parameter, context)


@click.command("read", help=_HELP, short_help="Print the records of a topic.")
@click.argument("name", metavar="TOPIC")
@click.option(
    "-p",
    "--partition",
    "numbers",
    type=int,
    multiple=True,
    metavar="N",
    help="Only this one.  Can be repeated.",
)
@click.option("-o", "--offset", "places", type=_StartType(), multiple=True, help="See above.")
@click.option("-c", "--count", type=click.IntRange(0), metavar="N", help="Stop after N records.")
@click.option("-F", "--follow", is_flag=True, help="Go on, and print what comes.")
@click.option("-f", "--format", "text", metavar="FORMAT", help="See above.")
@click.option("-K", "delimiter", metavar="DELIM", help="Print key, DELIM and value, as -f would.")
@click.option("-J", "--json", "as_json", is_flag=True, help="A line of JSON for each record.")
@click.option("-Z", "shows_null", is_flag=True, help="With -f, print null as NULL.")
@options.directory
def read(
    *,
    name: str,
    numbers: tuple[int, ...],
    places: tuple[Place | int, ...],
    count: int | None,
    follow: bool,
    text: str | None,
    delimiter: str | None,
    as_json: bool,
    shows_null: bool,
    directory: str,
) -> int:
    """Print the records of a topic; returns the exit code."""
    starts = [place for place in places if isinstance(place, Place)]
    ends = [place for place in places if isinstance(place, int)]
    if len(starts) > 1 or len(ends) > 1 or (ends and follow):
        raise click.UsageError("-o: one beginning and one e@TIME, and no e@TIME with --follow")
    if sum((text is not None, delimiter is not None, as_json)) > 1:
        raise click.UsageError("-f, -K and -J each say what is printed: only one of them")
    if delimiter is not None:
        text = "%k" + delimiter.replace("%", "%%") + r"%s\n"
    start = starts[0] if starts else Place(Kind.BEGINNING)
    shown = _printing(text, as_json=as_json, shows_null=shows_null)
    damages: list[CorruptRangeError] = []
    with options.open_existing(directory) as log:
        topic = log.topic(name)
        for number in numbers:
            topic.partition(number)  # raises for one that is not there
        chosen = sorted(set(numbers)) or range(len(topic))
        if follow:
            with log.consumer() as consumer:
                pieces = _followed(consumer, topic, numbers, start, damages)
                _print(pieces, shown, count, flushes=True)
        else:
            spans = _spans(topic, chosen, start, ends[0] if ends else None)
            given = start.number if start.kind is Kind.OFFSET else None
            total = sum(len(span) for span in spans.values())
            with progress.shown(name, total, prints=True) as advance:
                pieces = _told(_stored(topic, spans, given, damages), advance, total)
                _print(pieces, shown, count, flushes=False)
    return 1 if damages else 0


def _printing(
    text: str | None, *, as_json: bool, shows_null: bool
) -> Callable[[Iterable[Record]], bytes]:
    """Return what makes bytes of records."""
    is_for_terminal = show.is_terminal()
    if as_json:
        return lambda records: b"".join(map(formats.envelope, records))
    if text is None:
        return lambda records: formats.values_of(records, is_for_terminal=is_for_terminal)
    one = formats.record_format(text, is_for_terminal=is_for_terminal, shows_null=shows_null)
    return lambda records: b"".join(map(one, records))


def _print(
    pieces: Iterable[_Piece],
    shown: Callable[[Iterable[Record]], bytes],
    count: int | None,
    *,
    flushes: bool,
) -> None:
    """Write records to standard output until there are no more, or `count` were written."""
    left = count
    output = sys.stdout.buffer
    if left == 0:
        return
    for piece in pieces:
        records: Iterable[Record] = piece.records
        if left is not None:
            records = list(itertools.islice(records, left))
            left -= len(records)
        output.write(shown(records))
        if flushes:
            output.flush()
        if left == 0:
            return


# ------------------------------------------------------------------ what is there


def _spans(topic: Topic, numbers: Iterable[int], start: Place, end: int | None) -> dict[int, range]:
    """Return the offsets to read of each partition, as they are now."""
    spans = {}
    for number in numbers:
        partition = topic.partition(number)
        # The end first: what is appended meanwhile is not asked for.
        stop = partition.high_watermark if end is None else partition.first_offset(end)
        spans[number] = range(start.offset_in(partition), stop)
    return spans


def _stored(
    topic: Topic, spans: dict[int, range], given: int | None, damages: list[CorruptRangeError]
) -> Iterator[_Piece]:
    """Yield what lies in the spans; what is damaged is noted and passed over.

    given: an offset that has to be there, if it is one of theirs.
    """
    for number, span in spans.items():
        partition = topic.partition(number)
        offset = span.start
        if not span:
            partition.read(offset, 1)  # raises when it is out of range
        while offset < span.stop:
            try:
                records = partition.read(offset, _READ_BYTES, span.stop)
                found = list(records)
            except CorruptRangeError as error:
                _note(error, damages)
                yield _Piece([], error.last + 1 - offset)
                offset = error.last + 1
                continue
            except OffsetOutOfRangeError:
                if offset == given:
                    raise
                # Retention was faster.
                first = partition.log_start_offset
                yield _Piece([], first - offset)
                offset = first
                continue
            yield _Piece(found, records.next_offset - offset)
            offset = records.next_offset


def _told(pieces: Iterable[_Piece], advance: progress.Advance, total: int) -> Iterator[_Piece]:
    done = 0
    for piece in pieces:
        yield piece
        done += piece.offsets
        advance(done, total)


# ------------------------------------------------------------------ what comes


def _followed(
    consumer: Consumer,
    topic: Topic,
    numbers: tuple[int, ...],
    start: Place,
    damages: list[CorruptRangeError],
) -> Iterator[_Piece]:
    """Yield what there is and what comes, for ever; added partitions, too, if all are read."""
    if numbers:
        consumer.assign([(topic.name, number) for number in numbers])
    else:
        consumer.subscribe(topic.name)
    for one, number in consumer.assignment():
        offset = start.offset_in(topic.partition(number))
        topic.partition(number).read(offset)  # raises for one that is out of range
        consumer.seek(one, number, offset=offset)
    while True:
        try:
            records = consumer.poll(max_records=_POLLED_RECORDS)
        except CorruptRangeError as error:
            _note(error, damages)
            assert error.topic is not None and error.partition is not None
            consumer.seek(error.topic, error.partition, offset=error.last + 1)
        else:
            yield _Piece(records, len(records))


def _note(error: CorruptRangeError, damages: list[CorruptRangeError]) -> None:
    damages.append(error)
    sys.stdout.flush()
    show.complain(str(error))


COMMANDS: Final = (read,)
