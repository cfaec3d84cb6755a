# SPDX-License-Identifier: Apache-2.0
"""Tables: tab-separated for programs, fitted to the width of a terminal for people."""

import os
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, zip_longest
from typing import Final, TypeVar

import click

from waggle_fsstore.cli import output
from waggle_fsstore.domain.environment import Status

#: The header of a column whose cells end with a status, which is shown in its colour.
STATUS: Final = "STATUS"

no_trunc_option = click.option(
    "--no-trunc", is_flag=True, help="Shorten nothing on a terminal, however narrow it is."
)

Row = Sequence[str]

_EMPTY_FIELD: Final = "-"
_GAP: Final = "  "
_ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"

# The columns whose fields may be cut, and the cells that are always left of one. Of an id,
# only the whole of what is shown is a prefix.
_FREE_TEXT: Final = frozenset({"NAME", "LABELS", "ACTOR", "REASON"})
_MIN_CUT_CELLS: Final = 6

# Codes of ECMA-48, which a terminal interprets.
_RESET: Final = "\x1b[0m"
_COLOURS: Final[dict[str, str]] = {
    Status.CREATING: "\x1b[33m",
    Status.RUNNING: "\x1b[32m",
    Status.DESTROYING: "\x1b[33m",
    Status.DESTROYED: "\x1b[2m",
    Status.ERROR: "\x1b[31m",
}

_T = TypeVar("_T")


def write_table(
    header: Row,
    rows: Iterable[Row],
    *,
    page_size: int | None = None,
    widths: Sequence[int] = (),
    is_cut: bool = True,
) -> None:
    """Write the rows in pages of ``page_size`` as they come, or all at once.

    For programs (off a terminal) tabs separate the fields, which are never cut; no field is
    empty or contains a tab. On a terminal the columns are aligned, even across pages unless a
    later field is wider. If they are wider than the terminal, fields are cut, and columns at
    the end are left out, unless ``is_cut`` is false. ``widths`` are the minimum widths of the
    columns, in terminal cells.
    """
    is_terminal = output.is_terminal()
    render = _TerminalTable(header, widths, is_cut=is_cut) if is_terminal else _tab_separated
    escaped = ([output.printable(field) or _EMPTY_FIELD for field in row] for row in rows)
    in_batches(chain([header], escaped), page_size, lambda page: output.write(render(page)))


def table_lines(header: Row, rows: Iterable[Row]) -> list[str]:
    """Return the lines of a table that fits the terminal, the header first."""
    escaped = [[output.printable(field) or _EMPTY_FIELD for field in row] for row in rows]
    return _TerminalTable(header, (), is_cut=True)([header, *escaped]).splitlines()


def without_empty_columns(header: Row, rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    """Return header and rows without the columns that are empty in each row."""
    kept = [n for n in range(len(header)) if not rows or any(row[n] for row in rows)]
    return [header[n] for n in kept], [[row[n] for n in kept] for row in rows]


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
    """A table on a terminal, whose columns never get narrower unless they have to fit."""

    def __init__(self, header: Row, widths: Sequence[int], *, is_cut: bool) -> None:
        self._header = header
        self._widths = [width for _, width in zip_longest(header, widths, fillvalue=0)]
        self._columns = shutil.get_terminal_size().columns if is_cut else None
        self._is_coloured = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def __call__(self, rows: Sequence[Row]) -> str:
        widths = zip(self._widths, *(map(_cells, row) for row in rows), strict=True)
        self._widths = list(map(max, widths))
        fitted = self._widths
        if self._columns is not None:
            fitted = _fit(self._header, self._widths, self._columns)
        return "".join(self._line(row, fitted) for row in rows)

    def _line(self, row: Row, widths: Sequence[int]) -> str:
        drawn = []
        for column, field, width in zip(self._header, row, widths, strict=False):
            text = _cut(field, width)
            colour = _COLOURS.get(field.rpartition(" ")[2]) if column == STATUS else None
            shown = f"{colour}{text}{_RESET}" if colour and self._is_coloured else text
            drawn.append(shown + " " * (width - _cells(text)))
        # The terminal would wrap the spaces that fill the last column.
        return _GAP.join(drawn).rstrip(" ") + "\n"


def _fit(header: Row, widths: Sequence[int], columns: int) -> list[int]:
    """Return the widths with which a table has at most ``columns`` cells in a line.

    The widest of the columns with free text are cut. Where that is not enough, columns at the
    end are left out.
    """

    def cut(cap: int) -> list[int]:
        pairs = zip(header, widths, strict=False)
        return [min(width, cap) if name in _FREE_TEXT else width for name, width in pairs]

    count = len(widths)
    while count > 1 and _line_cells(cut(_MIN_CUT_CELLS)[:count]) > columns:
        count -= 1
    cap = max(columns, _MIN_CUT_CELLS)
    while cap > _MIN_CUT_CELLS and _line_cells(cut(cap)[:count]) > columns:
        cap -= 1
    return cut(cap)[:count]


def _line_cells(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _cut(text: str, cells: int) -> str:
    """Return a text that takes at most ``cells``; its missing end is an ellipsis."""
    if _cells(text) <= cells:
        return text
    while text and _cells(text) >= cells:
        text = text[:-1]
    return text.rstrip() + _ELLIPSIS


def _cells(text: str) -> int:
    """Return how many cells of a terminal a printable text takes (Unicode Annex 11)."""
    if text.isascii():
        return len(text)
    return sum(map(_cells_of_character, text))


def _cells_of_character(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):  # Drawn over the one before.
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
