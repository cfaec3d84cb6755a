# SPDX-License-Identifier: Apache-2.0
"""Output: data to stdout, everything else to stderr, with nothing that controls a terminal."""

import os
import re
import select
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import click

from waggle_fsstore.cli.exit_codes import message_of
from waggle_fsstore.store.format.canonical_json import compact

#: The option ``--json`` of a verb that has one result.
json_option = click.option("--json", is_flag=True, help="Print the result as JSON.")

# Characters that JSON allows unescaped: DEL and the C1 codes, one of which means "ESC [" to
# a terminal, and the marks that reorder the text around them.
_unsafe_in_json: Final = re.compile(
    "[\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    r"""Return the text with every unprintable character, such as ESC, written as ``\x1b``.

    Backslashes are left alone, so printable text is returned as it is.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write(data: str | bytes) -> None:
    """Write all of the data to stdout, and flush it.

    Raises ``OSError`` for a full disk, and ``BrokenPipeError`` if the reader is gone.
    """
    if sys.stdout is None:  # The program was started with stdout closed.
        return
    if isinstance(data, str):
        # A locale that lacks a character of a name is no reason to fail.
        data = data.encode(sys.stdout.encoding, "backslashreplace")
    try:
        # With PYTHONUNBUFFERED, a write may take only a part of the data.
        while data:
            data = data[sys.stdout.buffer.write(data) or 0 :]
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        error.filename = "standard output"
        discard_stdout()
        raise


def write_lines(lines: Iterable[str]) -> None:
    """Write each line, escaped."""
    write("".join(f"{printable(line)}\n" for line in lines))


def write_json(data: bytes) -> None:
    """Write a JSON text, with characters that control a terminal as JSON escapes."""
    text = data.decode()
    write(_unsafe_in_json.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode())


def write_object(values: dict[str, Any]) -> None:
    """Write a JSON object in one line. A path that is not UTF-8 is written with escapes."""
    texts = {
        name: os.fsencode(value).decode(errors="backslashreplace")
        for name, value in values.items()
        if isinstance(value, os.PathLike)
    }
    write_json(compact({**values, **texts}) + b"\n")


def report_error(problem: str | Exception, *, details: Iterable[str] = ()) -> None:
    """Write an error to stderr: one line, and one more for each detail."""
    text = problem if isinstance(problem, str) else message_of(problem)
    lines = [f"Error: {printable(text)}", *(f"  {printable(detail)}" for detail in details)]
    with suppress(OSError):  # Where stderr cannot be written, the exit code is all that is left.
        click.echo("\n".join(lines), err=True)


def print_status(text: str) -> None:
    """Write one line of information to stderr."""
    click.echo(printable(text), err=True)


def is_terminal() -> bool:
    """Return whether stdout is a terminal: then people read it, otherwise programs."""
    return sys.stdout is not None and sys.stdout.isatty()


def on_broken_pipe(act: Callable[[], object]) -> None:
    """Call ``act`` in a thread once the reader of stdout is gone.

    A program that only waits, without writing, would not notice the closed pipe.
    """
    # Windows has no poll; there the next write fails.
    if sys.stdout is None or not hasattr(select, "poll"):
        return
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # For no event: errors are always reported.

    def wait() -> None:
        poll.poll()
        act()

    threading.Thread(target=wait, daemon=True).start()


def discard_stdout() -> None:
    """Discard unwritten data: at exit, Python would try to write it again, and complain."""
    with suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
