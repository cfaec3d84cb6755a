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

from waggle_fsstore.cli.pass_through import READ_BYTES, write_all
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
        copying = threading.Thread(target=_copy, args=(keyboard, screen, ours), daemon=True)
        # At once: nobody may read what is still to be shown.
        cleanup.callback(termios.tcsetattr, keyboard, termios.TCSANOW, settings)
        tty.setraw(keyboard, termios.TCSANOW)
        copying.start()
        cleanup.callback(copying.join)
        cleanup.callback(os.close, theirs)
        yield Stdio(theirs, theirs, theirs, is_terminal=True)


def _copy_size(source: int, target: int) -> None:
    """Give a terminal the size of another one, of which its program is told."""
    size = fcntl.ioctl(source, termios.TIOCGWINSZ, bytes(_WINDOW_SIZE_BYTES))
    fcntl.ioctl(target, termios.TIOCSWINSZ, size)


def _copy(keyboard: int, screen: int, terminal: int) -> None:
    """Copy both ways until the program has closed its end of the terminal."""
    try:
        _copy_both_ways(keyboard, screen, terminal)
    except (OSError, EOFError):
        os.kill(os.getpid(), signal.SIGHUP)


def _copy_both_ways(keyboard: int, screen: int, terminal: int) -> None:
    # A program that does not read may still write, so no write to it may block.
    os.set_blocking(terminal, False)
    typed = b""
    while True:
        poll = select.poll()
        poll.register(terminal, select.POLLIN | (select.POLLOUT if typed else 0))
        if not typed:
            poll.register(keyboard, select.POLLIN)
        for descriptor, events in poll.poll():
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
            if typed and events & select.POLLOUT:
                typed = typed[os.write(terminal, typed) :]
