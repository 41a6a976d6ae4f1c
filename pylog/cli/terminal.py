"""What is drawn for a person: tables with lines and colours, progress bars.  The only user of rich.

Importing it raises MissingExtraError when rich is not installed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from pylog.errors import MissingExtraError

try:
    from rich import box
    from rich.console import Console
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

# (done so far, total or None): tells a progress bar how far the work is.
Advance = Callable[[int, int | None], None]


def print_table(
    columns: Sequence[str], cells: Sequence[Sequence[str]], is_number: Sequence[bool]
) -> None:
    """Print cells below the names of their columns; columns of numbers stand at the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold cyan")
    for name, right in zip(columns, is_number, strict=True):
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in cells:
        # As Text: what stands in brackets is no markup.
        table.add_row(*(Text(cell) for cell in row))
    Console(file=sys.stdout, highlight=False).print(table)


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
