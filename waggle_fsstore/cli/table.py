# SPDX-License-Identifier: Apache-2.0
"""Tables: tab-separated for programs, aligned and coloured on a terminal."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, zip_longest
from typing import Final, TypeVar

from waggle_fsstore.cli import output
from waggle_fsstore.domain.environment import Status

#: The header of a column whose cells end with a status, which is shown in its colour.
STATUS: Final = "STATUS"

Row = Sequence[str]

_EMPTY_FIELD: Final = "-"
_UNLIMITED_COLUMNS: Final = 1_000_000

_COLOURS: Final[dict[str, str]] = {
    Status.CREATING: "yellow",
    Status.RUNNING: "green",
    Status.DESTROYING: "yellow",
    Status.DESTROYED: "dim",
    Status.ERROR: "red",
}

_T = TypeVar("_T")


def write_table(
    header: Row, rows: Iterable[Row], *, page_size: int | None = None, widths: Sequence[int] = ()
) -> None:
    """Write the rows in pages of ``page_size`` as they come, or all at once.

    For programs (off a terminal) tabs separate the fields, which are neither cut nor wrapped;
    no field is empty or contains a tab. On a terminal the columns are aligned, even across
    pages unless a later field is wider. ``widths`` are the minimum widths of the columns, in
    terminal cells.
    """
    render = _TerminalTable(header, widths) if output.is_terminal() else _tab_separated
    escaped = ([output.printable(field) or _EMPTY_FIELD for field in row] for row in rows)
    in_batches(chain([header], escaped), page_size, lambda page: output.write(render(page)))


def in_batches(items: Iterable[_T], size: int | None, put: Callable[[list[_T]], object]) -> None:
    """Put ``size`` items at a time, or all at once, including those that came before an error."""
    batch: list[_T] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == size:
                full, batch = batch, []
                put(full)
    finally:
        if batch:
            put(batch)


def _tab_separated(rows: Iterable[Row]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


class _TerminalTable:
    """A table on a terminal, whose columns never get narrower."""

    def __init__(self, header: Row, widths: Sequence[int]) -> None:
        self._header = header
        self._widths = [width for _, width in zip_longest(header, widths, fillvalue=0)]

    def __call__(self, rows: Iterable[Row]) -> str:
        # Imported here because that takes as long as the rest of the program.
        from rich.cells import cell_len
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for row in rows:
            # Text, because Rich would look for markup in a plain string.
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
        # As wide as needed: an id that the terminal wraps can still be copied whole.
        console = Console(width=_UNLIMITED_COLUMNS)
        with console.capture() as capture:
            console.print(table)
        # The terminal would also wrap the spaces that fill the last column.
        return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())
