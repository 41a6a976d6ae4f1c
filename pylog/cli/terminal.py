"""What is drawn for a person: tables with lines and colours, progress bars.  The only user of rich.

Importing it raises MissingExtraError when rich is not installed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from pylog.errors import MissingExtraError

try:
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Table
    from rich.text import Text
except ImportError:
    raise MissingExtraError("rich", "cli") from None

_NAME: Final = "bold cyan"
_ANY_WIDTH: Final = 10_000  # wider than any terminal, so that what a table needs is not cut to one

# (done so far, total or None): tells a progress bar how far the work is.
Advance = Callable[[int, int | None], None]


def print_table(
    columns: Sequence[str], cells: Sequence[Sequence[str]], is_number: Sequence[bool]
) -> None:
    """Print cells below the names of their columns; columns of numbers stand at the right.

    Where the terminal is too narrow for it, each row is printed as a list of its own: a number that
    is broken into two lines is read as two.
    """
    console = Console(file=sys.stdout, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style=_NAME)
    for at, (name, right) in enumerate(zip(columns, is_number, strict=True)):
        table.add_column(
            Text(name),
            justify="right" if right else "left",
            min_width=len(name),
            no_wrap=not any(" " in row[at] for row in cells),
            overflow="fold",
        )
    for row in cells:
        # As Text: what stands in brackets is no markup.
        table.add_row(*(Text(cell) for cell in row))
    needed = Measurement.get(console, console.options.update_width(_ANY_WIDTH), table).minimum
    if not cells or needed <= console.width:
        console.print(table)
        return
    for row in cells:
        sheet = Table.grid("", "", padding=(0, 2, 0, 0))
        for name, cell in zip(columns, row, strict=True):
            sheet.add_row(Text(name, style=_NAME), Text(cell, overflow="fold"))
        console.print(sheet, "")


@contextlib.contextmanager
def progress_bar(what: str, total: int | None, *, is_bytes: bool) -> Iterator[Advance]:
    """Show on standard error how far a work is, and take it away at its end.

    total: None when it is not known.
    """
    amount: tuple[ProgressColumn, ...] = (MofNCompleteColumn(),)
    if is_bytes:
        amount = (DownloadColumn(binary_units=True), TransferSpeedColumn())
    text = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), text, BarColumn(), *amount, TimeRemainingColumn())
    console = Console(file=sys.stderr)
    # Standard output stays what it is: it may be a pipe.
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as progress:
        task = progress.add_task(what, total=total)

        def advance(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        yield advance
