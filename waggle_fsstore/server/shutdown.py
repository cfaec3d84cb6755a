# SPDX-License-Identifier: Apache-2.0
"""The end: within ten seconds, whatever is still going on, and with nothing lost."""

import asyncio
import atexit
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn

from anyio import to_thread

from waggle_fsstore.server.lifecycle import Serving

# When the process ends, in any case (seconds).
_DEADLINE: Final = 9.0

# How long a signal may go unseen (seconds).
_WAKES_EVERY: Final = 0.5

_log: Final = logging.getLogger(__name__)


def run(serving: Serving, serve: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Open it, serve, and close it. SIGTERM and Ctrl-C have the process end, also at the start.

    Raises what :meth:`Serving.open` raises.
    """

    async def main() -> None:
        _stop_at_signals(serving)
        waking = asyncio.create_task(_wake_up_often())
        try:
            # In a thread, so that signals are seen meanwhile.
            if await to_thread.run_sync(serving.open):
                await serve()
        finally:
            waking.cancel()

    try:
        asyncio.run(main())
    finally:
        with deadline():  # No signal is listened to any more.
            serving.close()


async def _wake_up_often() -> None:
    """See signals also where none wakes the loop: it was just going to sleep, or is on Windows."""
    while True:
        await asyncio.sleep(_WAKES_EVERY)


def _stop_at_signals(serving: Serving) -> None:
    loop = asyncio.get_running_loop()

    def handle(*_: object) -> None:
        # When the loop is closed, the end has come already.
        with suppress(RuntimeError):
            # Not from here: a signal comes between any two instructions.
            loop.call_soon_threadsafe(lambda: stop_soon(serving, grace=0))

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def stop_soon(serving: Serving, *, grace: float) -> None:
    """Have the process end: calls have ``grace`` seconds to be answered, then all is closed.

    Python can interrupt neither a thread that is in a call nor one that reads standard
    input. So the process ends itself, and that is no loss: what is half done stands in the
    store, and the next start goes on with it.
    """
    threading.Thread(target=_stop, args=(serving, grace), name="stop", daemon=True).start()


@contextmanager
def deadline() -> Iterator[None]:
    """Have the process end if what is done in the block takes too long."""
    timer = threading.Timer(_DEADLINE, _give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _stop(serving: Serving, grace: float) -> NoReturn:
    with deadline():
        serving.cut_short()
        time.sleep(grace)
        try:
            serving.close()
        finally:
            atexit._run_exitfuncs()  # What a process does that ends by itself.
            os._exit(0)


def _give_up() -> NoReturn:
    _log.warning("not all could be closed in time; the next start goes on with what is left")
    logging.shutdown()
    os._exit(0)
