# SPDX-License-Identifier: Apache-2.0
"""What the program prints: data to stdout, all else to stderr, nothing that acts on a terminal."""

import os
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

import typer

from waggle_fsstore.cli.exits import message_of
from waggle_fsstore.domain.duration import format_duration
from waggle_fsstore.domain.environment import Environment, Status

_HEADER: Final = ("ID", "NAME", "RUNTIME", "STATUS", "TIMEOUT", "LABELS")
_STATUS: Final = _HEADER.index("STATUS")
_NOTHING: Final = "-"
_UNLIMITED: Final = 1_000_000

_COLOURS: Final = {
    Status.CREATING: "yellow",
    Status.RUNNING: "green",
    Status.DESTROYING: "yellow",
    Status.DESTROYED: "dim",
    Status.ERROR: "red",
}

# What JSON lets through: DEL and the C1 codes, of which one is as good as "ESC [" to a
# terminal, and the marks that reorder the text around them.
_unsafe_in_json: Final = re.compile(
    "[\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    r"""The text with all that does not simply print, such as ESC, written as ``\x1b``.

    A backslash stays one: ordinary text is printed as it is.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write(data: str | bytes) -> None:
    """Write data to stdout, all of it: a full disk or a reader that left shows here."""
    if sys.stdout is None:  # It was closed by whoever started the program.
        return
    if isinstance(data, str):
        # A locale that lacks a letter of a name is no reason to fail.
        data = data.encode(sys.stdout.encoding, "backslashreplace")
    try:
        # With PYTHONUNBUFFERED, a write may take a part and say nothing.
        while data:
            data = data[sys.stdout.buffer.write(data) or 0 :]
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        error.filename = "standard output"
        _give_up_stdout()
        raise


def write_lines(lines: Iterable[str]) -> None:
    """Write each line, escaped."""
    write("".join(f"{printable(line)}\n" for line in lines))


def write_json(data: bytes) -> None:
    """Write a JSON text; what would act on a terminal as the escape that JSON has for it."""
    text = data.decode()
    write(_unsafe_in_json.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode())


def report(problem: str | Exception, *, details: Iterable[str] = ()) -> None:
    """Say on stderr what is wrong, in one line, with one more for each detail."""
    text = problem if isinstance(problem, str) else message_of(problem)
    lines = [f"Error: {printable(text)}", *(f"  {printable(detail)}" for detail in details)]
    typer.echo("\n".join(lines), err=True)


def write_table(environments: Iterable[Environment]) -> None:
    """Write one row for each environment.

    For programs (off a terminal) the fields are separated by tabs, and neither cut nor
    wrapped; no field holds a tab or is empty.
    """
    rows = [_row(environment) for environment in environments]
    if sys.stdout is not None and sys.stdout.isatty():
        write(_drawn(rows))
    else:
        write("".join("\t".join(row) + "\n" for row in (_HEADER, *rows)))


def _row(environment: Environment) -> Sequence[str]:
    labels = ",".join(f"{key}={value}" for key, value in sorted(environment.labels.items()))
    never = environment.timeout <= timedelta(0)
    fields = (
        environment.id,
        environment.name,
        environment.runtime,
        environment.status,
        "never" if never else format_duration(environment.timeout),
        labels,
    )
    return [printable(field) or _NOTHING for field in fields]


def _drawn(rows: Iterable[Sequence[str]]) -> str:
    # Here, because loading it takes as long as all the rest of the program.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="", pad_edge=False, padding=(0, 2, 0, 0))
    for column in _HEADER:
        table.add_column(column, no_wrap=True)
    for row in rows:
        # Text, because a plain string would be searched for markup.
        cells = [Text(field) for field in row]
        cells[_STATUS].stylize(_COLOURS[Status(row[_STATUS])])
        table.add_row(*cells)
    # As wide as it needs: an id that the terminal wraps can be copied, one cut in two cannot.
    console = Console(width=_UNLIMITED)
    with console.capture() as capture:
        console.print(table)
    # The blanks that fill the last column would wrap too.
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _give_up_stdout() -> None:
    """Let what could not be written go: Python would try again at exit, and complain."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
