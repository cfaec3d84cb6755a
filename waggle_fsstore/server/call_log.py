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
from waggle_fsstore.server.calls import Request, actor_of

_MAX_ID_LENGTH: Final = 200

_log: Final = logging.getLogger(__name__)


class CallEntry:
    """What the entry of one call will say."""

    def __init__(self, tool: str, client: str) -> None:
        self.fields: dict[str, object] = {"tool": tool, "client": client}

    def of_environment(self, environment_id: object) -> None:
        """Say which environment the call is about, if it is about one."""
        if isinstance(environment_id, str):
            self.fields["environment_id"] = environment_id[:_MAX_ID_LENGTH]


@contextmanager
def logged_call(tool: str, request: Request) -> Iterator[CallEntry]:
    """Log a call at the end of the block: tool, client, environment, outcome, duration.

    The outcome is ``ok``, ``refused`` for an error that the client gets in words, ``cancelled``, or
    ``failed`` for any other error.
    """
    entry = CallEntry(tool, actor_of(request))
    begun, outcome = monotonic(), "failed"
    try:
        yield entry
        outcome = "ok"
    except ToolError as error:
        is_cancelled = isinstance(error.__context__, CreationCancelledError)
        outcome = "cancelled" if is_cancelled else "refused"
        raise
    except get_cancelled_exc_class():
        outcome = "cancelled"
        raise
    finally:
        milliseconds = round((monotonic() - begun) * 1000, 1)
        fields = {**entry.fields, "outcome": outcome, "duration_ms": milliseconds}
        _log.info("call of %s: %s", tool, outcome, extra={"fields": fields})
