# SPDX-License-Identifier: Apache-2.0
"""The end: within ten seconds, whatever is still going on, and with nothing lost."""

import logging
import os
import threading
import time
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


def _stop(serving: Serving, grace: float) -> NoReturn:
    last = threading.Timer(_DEADLINE, _give_up)
    last.daemon = True
    last.start()
    serving.cut_short()
    time.sleep(grace)
    try:
        serving.close()
    finally:
        _exit()


def _give_up() -> None:
    _log.warning("not all could be closed in time; the next start goes on with what is left")
    _exit()


def _exit() -> NoReturn:
    logging.shutdown()
    os._exit(0)
