"""What several commands take: which log, how to print, where in a topic, settings."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import re
from typing import Any, Final, Literal

import click

from pylog._native import system_clock
from pylog.config import SETTINGS, TopicConfig
from pylog.engine.moments import milliseconds_of
from pylog.log import Log
from pylog.log import open as open_log
from pylog.storage.cleaner_config import CleanerConfig
from pylog.storage.partition import Partition

# Before the command.  What is said there is the default of the one behind it.
default_directory = click.option(
    "-d",
    "--directory",
    envvar="PYLOG_DIRECTORY",
    show_envvar=True,
    default="data",
    show_default=True,
    metavar="DIR",
    help="The log.",
)
directory = click.option(
    "-d", "--directory", metavar="DIR", help="The log, by default $PYLOG_DIRECTORY or ./data."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
yes = click.option("--yes", is_flag=True, help="Do it.  Without it, only say what would be done.")

_MILLISECONDS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_AGO: Final = re.compile(r"-(\d+)(ms|s|m|h|d)")


class UnusableError(ValueError):
    """Raised for what a command cannot work with; its text is for the user."""


def open_existing(path: str) -> Log:
    """Open a log that is there, to look at it or to use it.

    Nothing is compacted in the background: a command ends too soon for that.
    Raises UnusableError when there is none, and what `pylog.open` raises.
    """
    try:
        return open_log(path, create=False, cleaner=CleanerConfig(cleaner_enable=False))
    except FileNotFoundError:
        raise UnusableError(
            f"there is no log in {path!r}: name one with -d or PYLOG_DIRECTORY,"
            " or make it with `pylog create TOPIC`"
        ) from None


# ------------------------------------------------------------------ where in a topic


class Kind(enum.Enum):
    """What a place is counted from."""

    BEGINNING = "beginning"
    END = "end"
    OFFSET = "offset"
    BEFORE_END = "records before the end"
    TIME = "time"


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where to begin in each partition of a topic.  number: an offset, a count, or milliseconds."""

    kind: Kind
    number: int = 0

    def offset_in(self, partition: Partition) -> int:
        """Return the offset in one partition; an offset that was given is returned as it is.

        Raises what `Partition.first_offset` raises.
        """
        if self.kind is Kind.BEGINNING:
            return partition.log_start_offset
        if self.kind is Kind.END:
            return partition.high_watermark
        if self.kind is Kind.BEFORE_END:
            return max(partition.high_watermark - self.number, partition.log_start_offset)
        if self.kind is Kind.TIME:
            return partition.first_offset(self.number)
        return self.number

    @property
    def target(self) -> Literal["earliest", "latest"] | int | datetime.datetime:
        """The same for `Groups.reset_offsets`, which has no word for BEFORE_END."""
        if self.kind is Kind.TIME:
            return datetime.datetime.fromtimestamp(self.number / 1000, datetime.UTC)
        if self.kind is Kind.OFFSET:
            return self.number
        assert self.kind is not Kind.BEFORE_END
        return "earliest" if self.kind is Kind.BEGINNING else "latest"


_WORDS: Final = {
    "beginning": Place(Kind.BEGINNING),
    "earliest": Place(Kind.BEGINNING),
    "end": Place(Kind.END),
    "latest": Place(Kind.END),
}


class PlaceType(click.ParamType[Place]):
    """`beginning`, `end`, an offset, `-N` before the end, or `s@TIME`; kcat's words."""

    name = "WHERE"

    def convert(self, value: Any, parameter: click.Parameter | None, context: Any) -> Place:
        """Return the place; fails with what is allowed."""
        if isinstance(value, Place):
            return value
        text = str(value)
        if text in _WORDS:
            return _WORDS[text]
        if re.fullmatch(r"-?\d+", text, re.ASCII):
            number = int(text)
            is_back = text.startswith("-")
            return Place(Kind.BEFORE_END if is_back else Kind.OFFSET, abs(number))
        if text.startswith("s@"):
            return Place(Kind.TIME, parse_time(text[2:]))
        return self.fail(f"{text!r}: expected beginning, end, an offset, -N or s@TIME")


def parse_time(text: str) -> int:
    """Return a point in time in milliseconds since the epoch.

    text: such milliseconds; a date and time as in ISO 8601, local unless it says otherwise; or how
    long ago, as in "-15m", with ms, s, m, h or d.  Raises click.BadParameter.
    """
    ago = _AGO.fullmatch(text)
    if ago:
        return max(system_clock() - int(ago[1]) * _MILLISECONDS[ago[2]], 0)
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return milliseconds_of(datetime.datetime.fromisoformat(text).astimezone())
    except ValueError:
        raise click.BadParameter(
            f"{text!r}: expected milliseconds, a time as 2024-05-01T12:00, or how long ago as -15m"
        ) from None


def time_text(milliseconds: int) -> str:
    """Return a point in time as a person reads it, in local time, to the second."""
    when = datetime.datetime.fromtimestamp(milliseconds / 1000).astimezone()
    return when.isoformat(sep=" ", timespec="seconds")


# ------------------------------------------------------------------ settings


def parse_settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return settings of a topic that were given as NAME=VALUE, by pylog's names or Kafka's.

    Raises click.BadParameter, UnknownSettingError, InvalidConfigurationError.
    """
    given = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r}: expected NAME=VALUE", param_hint="--config")
        given[SETTINGS[name].kafka_name if name in SETTINGS else name] = value
    config = TopicConfig.from_kafka(given)
    return {
        setting.name: getattr(config, setting.name)
        for setting in SETTINGS.values()
        if setting.kafka_name in given
    }
