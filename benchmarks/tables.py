# SPDX-License-Identifier: Apache-2.0
"""Markdown tables that are readable in a terminal too, and the format of their figures."""

from collections.abc import Iterable, Sequence

Row = Sequence[str]


def table(header: Row, rows: Iterable[Row]) -> str:
    """Return a Markdown table whose source is aligned too, with figures to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    # Markdown needs at least two characters below the header of a right-aligned column.
    widths = [max(2, *(len(line[column]) for line in lines)) for column in range(len(header))]
    is_figure = [
        column > 0 and all(line[column][:1].isdigit() for line in lines[1:])
        for column in range(len(header))
    ]
    rule = [
        "-" * (width - 1) + ":" if right else "-" * width
        for width, right in zip(widths, is_figure, strict=True)
    ]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_figure, strict=True)
        )
        + " |"
        for line in (lines[0], rule, *lines[1:])
    )


def factor(ratio: float) -> str:
    """Return a ratio with at most three significant digits."""
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:,.0f}"


def duration(seconds: float) -> str:
    """Return a time with three significant digits, in a suitable unit."""
    for unit, per_second in (("us", 1e6), ("ms", 1e3)):
        value = seconds * per_second
        if value < 999.5:
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{seconds:.2f} s"
