# SPDX-License-Identifier: Apache-2.0
"""Shutdown: the process ends within ten seconds of a signal, and what is stored is not lost."""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, NoReturn

from anyio import to_thread

from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.wiring import remove_temporary_workspaces

# How long closing may take before the process ends without it.
_DEADLINE_S: Final = 9.0

# The exit code of a server whose host was removed.
_REFUSED: Final = 4

# The longest time for which a signal may go unnoticed.
_WAKE_INTERVAL_S: Final = 0.5

_log: Final = logging.getLogger(__name__)


def run(host: ServiceHost, serve: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Open the host, serve, and close the host. SIGTERM and Ctrl-C end the process at any time.

    Raises what :meth:`ServiceHost.open` raises.
    """

    async def main() -> None:
        host.end = partial(schedule_stop, host, grace_s=0, exit_code=_REFUSED)
        _stop_on_signals(host)
        waking = asyncio.create_task(_wake_regularly())
        try:
            # In a thread, so that the loop can handle signals in the meantime.
            if await to_thread.run_sync(host.open):
                await serve()
        finally:
            waking.cancel()

    try:
        asyncio.run(main())
    finally:
        with exit_deadline():  # Signals are no longer handled here.
            host.close()


async def _wake_regularly() -> None:
    """Wake the loop, so that it notices a signal which did not wake it.

    That is so for a signal that arrives just as the loop goes to sleep, and on Windows.
    """
    while True:
        await asyncio.sleep(_WAKE_INTERVAL_S)


def _stop_on_signals(host: ServiceHost) -> None:
    loop = asyncio.get_running_loop()

    def handle(*_: object) -> None:
        # A closed loop means that the process is ending already.
        with suppress(RuntimeError):
            # The loop does the work: a signal handler may run between any two instructions.
            loop.call_soon_threadsafe(lambda: schedule_stop(host, grace_s=0))

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def schedule_stop(host: ServiceHost, *, grace_s: float, exit_code: int = 0) -> None:
    """End the process from a thread: calls get ``grace_s`` seconds, then the host is closed.

    Python can interrupt neither a thread in the middle of a call nor one that reads standard
    input, so the process exits without waiting for them. Nothing is lost: the store records
    what was in progress, and the next start of a server completes it.
    """
    threading.Thread(
        target=_stop, args=(host, grace_s, exit_code), name="stop", daemon=True
    ).start()


@contextmanager
def exit_deadline() -> Iterator[None]:
    """End the process if the block takes longer than ``_DEADLINE_S``."""
    timer = threading.Timer(_DEADLINE_S, _exit_at_deadline)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _stop(host: ServiceHost, grace_s: float, exit_code: int) -> NoReturn:
    with exit_deadline():
        host.interrupt()
        time.sleep(grace_s)
        try:
            host.close()
        except Exception:  # noqa: BLE001  # The process must end even then.
            _log.exception("closing failed; the next start of a server recovers the store")
        # os._exit skips what a process that returns from main does at its exit.
        remove_temporary_workspaces()
        logging.shutdown()
        os._exit(exit_code)


def _exit_at_deadline() -> NoReturn:
    _log.warning("closing did not end in time; the next start of a server completes it")
    logging.shutdown()
    os._exit(0)
