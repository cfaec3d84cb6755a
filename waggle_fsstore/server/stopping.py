# SPDX-License-Identifier: Apache-2.0
"""The end: within ten seconds, whatever is still going on, and with nothing lost."""

import atexit
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from waggle_fsstore.server.serving import Serving

# When the process ends, in any case (seconds).
_DEADLINE: Final = 9.0

_log: Final = logging.getLogger(__name__)


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
