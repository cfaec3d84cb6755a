# SPDX-License-Identifier: Apache-2.0
"""The log of calls: one entry for each, without the values of its arguments."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from anyio import get_cancelled_exc_class
from mcp.server.mcpserver.exceptions import ToolError

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.errors import CreationCancelledError
from waggle_fsstore.server.calls import OnEnd, Request, actor_of

_MAX_ID_LENGTH: Final = 200

_log: Final = logging.getLogger(__name__)


class CallEntry:
    """What the entry of one call will say."""

    def __init__(self, tool: str, client: str) -> None:
        self.fields: dict[str, object] = {"tool": tool, "client": client}
        #: What the entry says unless the block raises.
        self.outcome = "ok"

    def of_environment(self, environment_id: object) -> None:
        """Say which environment the call is about, if it is about one."""
        if isinstance(environment_id, str):
            self.fields["environment_id"] = environment_id[:_MAX_ID_LENGTH]


@contextmanager
def logged_call(tool: str, request: Request, on_end: OnEnd) -> Iterator[CallEntry]:
    """Log a call at the end of the block: tool, client, environment, outcome, duration.

    The outcome is ``ok``, ``refused`` for an error that the client gets in words, ``cancelled``, or
    ``failed`` for any other error. ``on_end`` hears of it too.
    """
    entry = CallEntry(tool, actor_of(request))
    begun, outcome = monotonic(), "failed"
    try:
        yield entry
        outcome = entry.outcome
    except ToolError as error:
        is_cancelled = isinstance(error.__context__, CreationCancelledError)
        outcome = "cancelled" if is_cancelled else "refused"
        raise
    except get_cancelled_exc_class():
        outcome = "cancelled"
        raise
    finally:
        seconds = monotonic() - begun
        fields = {**entry.fields, "outcome": outcome, "duration_ms": round(seconds * 1000, 1)}
        _log.info("call of %s: %s", tool, outcome, extra={"fields": fields})
        try:
            on_end(tool, outcome, seconds)
        except Exception:  # noqa: BLE001  # The call itself has ended well or badly.
            _log.exception("the call of %s is missing in the metrics", tool)
