# SPDX-License-Identifier: Apache-2.0
"""What the program prints: data to stdout, all else to stderr, nothing that acts on a terminal."""

import os
import re
import select
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import typer

from waggle_fsstore.cli.exit_codes import message_of

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
        give_up()
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


def note(text: str) -> None:
    """Say on stderr what is good to know, in one line."""
    typer.echo(printable(text), err=True)


def is_terminal() -> bool:
    """Whether stdout is one: then people read it, else programs."""
    return sys.stdout is not None and sys.stdout.isatty()


def when_the_reader_leaves(act: Callable[[], object]) -> None:
    """Act, in a thread, once nobody reads stdout any more: who only waits would never know."""
    # Windows has none, and there the next write tells.
    if sys.stdout is None or not hasattr(select, "poll"):
        return
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # For nothing, but errors are always told.

    def wait() -> None:
        poll.poll()
        act()

    threading.Thread(target=wait, daemon=True).start()


def give_up() -> None:
    """Let go what could not be written: Python would try again at exit, and complain."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
