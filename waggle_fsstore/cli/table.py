# SPDX-License-Identifier: Apache-2.0
"""Tables: a row for each of anything, with tabs for programs, on a terminal drawn."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, zip_longest
from typing import Final, TypeVar

from waggle_fsstore.cli import output
from waggle_fsstore.domain.environment import Status

#: The header of a column in which the last word of a cell is a status, and has its colour.
STATUS: Final = "STATUS"

Row = Sequence[str]

_NOTHING: Final = "-"
_UNLIMITED: Final = 1_000_000

_COLOURS: Final[dict[str, str]] = {
    Status.CREATING: "yellow",
    Status.RUNNING: "green",
    Status.DESTROYING: "yellow",
    Status.DESTROYED: "dim",
    Status.ERROR: "red",
}

_T = TypeVar("_T")


def write_table(
    header: Row, rows: Iterable[Row], *, together: int | None = None, widths: Sequence[int] = ()
) -> None:
    """Write the rows as they come, so many of them ``together``, or all.

    For programs (off a terminal) the fields are separated by tabs, and neither cut nor
    wrapped; no field holds a tab or is empty. On a terminal they stand under each other,
    those of later batches too unless they are wider; ``widths`` are the least ones.
    """
    form = _Drawing(header, widths) if output.is_terminal() else _tabbed
    escaped = ([output.printable(field) or _NOTHING for field in row] for row in rows)
    in_batches(chain([header], escaped), together, lambda batch: output.write(form(batch)))


def in_batches(
    items: Iterable[_T], together: int | None, put: Callable[[list[_T]], object]
) -> None:
    """Put so many items together, or all; those before an error too."""
    batch: list[_T] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == together:
                full, batch = batch, []
                put(full)
    finally:
        if batch:
            put(batch)


def _tabbed(rows: Iterable[Row]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


class _Drawing:
    """A table on a terminal, whose columns never get narrower."""

    def __init__(self, header: Row, widths: Sequence[int]) -> None:
        self._header = header
        self._widths = [width for _, width in zip_longest(header, widths, fillvalue=0)]

    def __call__(self, rows: Iterable[Row]) -> str:
        # Here, because loading it takes as long as all the rest of the program.
        from rich.cells import cell_len
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for row in rows:
            # Text, because a plain string would be searched for markup.
            cells = [Text(field) for field in row]
            for cell, column in zip(cells, self._header, strict=True):
                if column == STATUS:
                    cell.stylize(_COLOURS.get(cell.plain.rpartition(" ")[2], ""))
            widths = zip(self._widths, map(cell_len, row), strict=True)
            self._widths = [max(pair) for pair in widths]
            table.add_row(*cells)
        for drawn, width in zip(table.columns, self._widths, strict=True):
            drawn.no_wrap = True
            drawn.min_width = width
        # As wide as it needs: an id that the terminal wraps can be copied, one cut in two cannot.
        console = Console(width=_UNLIMITED)
        with console.capture() as capture:
            console.print(table)
        # The blanks that fill the last column would wrap too.
        return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())
