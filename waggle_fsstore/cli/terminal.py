# SPDX-License-Identifier: Apache-2.0
"""A pseudo-terminal for a program, which shows what it writes on the terminal of this one."""

import fcntl
import os
import pty
import select
import signal
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from waggle_fsstore.cli.pass_through import (
    LOOK_INTERVAL_MS,
    MAX_REST_BYTES,
    READ_BYTES,
    write_all,
)
from waggle_fsstore.domain.execution import Stdio

_WINDOW_SIZE_BYTES: Final = 8  # struct winsize


@contextmanager
def pseudo_terminal(keyboard: int, screen: int) -> Iterator[Stdio]:
    """Yield a terminal for a program, connected to the one of this process while the block runs.

    That one is in raw mode: each key, Ctrl-C too, is for the program. When it is lost, this
    process gets SIGHUP.
    """
    settings = termios.tcgetattr(keyboard)
    with ExitStack() as cleanup:
        ours, theirs = pty.openpty()
        cleanup.callback(os.close, ours)
        termios.tcsetattr(theirs, termios.TCSANOW, settings)
        resize = partial(_copy_size, keyboard, ours)
        resize()
        before = signal.signal(signal.SIGWINCH, lambda *_: resize())
        cleanup.callback(signal.signal, signal.SIGWINCH, before)
        ended = threading.Event()
        copying = threading.Thread(target=_copy, args=(keyboard, screen, ours, ended), daemon=True)
        # At once, because a terminal that is stopped shows nothing more.
        cleanup.callback(termios.tcsetattr, keyboard, termios.TCSANOW, settings)
        tty.setraw(keyboard, termios.TCSANOW)
        copying.start()
        cleanup.callback(copying.join)
        cleanup.callback(os.close, theirs)
        cleanup.callback(ended.set)
        yield Stdio(theirs, theirs, theirs, is_terminal=True)


def _copy_size(source: int, target: int) -> None:
    """Give a terminal the size of another one; the kernel reports it to the program."""
    size = fcntl.ioctl(source, termios.TIOCGWINSZ, bytes(_WINDOW_SIZE_BYTES))
    fcntl.ioctl(target, termios.TIOCSWINSZ, size)


def _copy(keyboard: int, screen: int, terminal: int, ended: threading.Event) -> None:
    """Copy both ways until the program has ended, and all is shown."""
    try:
        _copy_both_ways(keyboard, screen, terminal, ended)
    except (OSError, EOFError):
        os.kill(os.getpid(), signal.SIGHUP)


def _copy_both_ways(keyboard: int, screen: int, terminal: int, ended: threading.Event) -> None:
    # A program that does not read may still write, so no write to it may block.
    os.set_blocking(terminal, False)
    typed = b""
    rest = MAX_REST_BYTES
    while rest > 0:
        is_rest = ended.is_set()  # Before the look, which then finds all of it.
        poll = select.poll()
        poll.register(terminal, select.POLLIN | (select.POLLOUT if typed and not is_rest else 0))
        if not (typed or is_rest):
            poll.register(keyboard, select.POLLIN)
        ready = poll.poll(LOOK_INTERVAL_MS)
        if is_rest and not ready:
            return
        for descriptor, events in ready:
            if descriptor == keyboard:
                typed = os.read(keyboard, READ_BYTES)
                if not typed:
                    raise EOFError
            elif events & ~select.POLLOUT:
                try:
                    shown = os.read(terminal, READ_BYTES)
                except OSError:  # All have closed the other end.
                    return
                write_all(screen, shown)
                rest -= len(shown) if is_rest else 0
            if typed and events & select.POLLOUT:
                typed = typed[os.write(terminal, typed) :]
