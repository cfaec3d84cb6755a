# SPDX-License-Identifier: Apache-2.0
"""Connections over HTTP: a request has to arrive in time, and their number is limited."""

import asyncio
import math
from operator import attrgetter
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

# How long a request may take to arrive, head and body, from its first byte on; a new
# connection has as long for its first request.
_REQUEST_TIMEOUT_S: Final = 30.0

# Most processes may have 1,024 descriptors: as many are left for the files of the store.
_MAX_CONNECTIONS: Final = 512


class Connection(H11Protocol):
    """A connection that is closed when its client does not send a request in time.

    Beyond ``_MAX_CONNECTIONS``, the one that has waited for a request the longest makes room
    for a new one: idle or half-open connections lock out no client.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Since when it has been waiting for a request, on the clock of the loop.
        self.waiting_since = math.inf
        self._timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self.waiting_since = self.loop.time()
        self._watch()
        if len(self.connections) > _MAX_CONNECTIONS:
            # All of them are of this class.
            longest: Any = min(self.connections, key=attrgetter("waiting_since"))
            (self if math.isinf(longest.waiting_since) else longest).close()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """See uvicorn, whose timeout for idle connections begins."""
        super().on_response_complete()
        if self._is_waiting():
            self.waiting_since = self.loop.time()

    def timeout_keep_alive_handler(self) -> None:
        """See uvicorn."""
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._unset_timeout()
        super().connection_lost(exc)

    def close(self) -> None:
        """Close the connection, which waits for a request."""
        self.waiting_since = math.inf
        self._unset_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # The client does not read either.
        else:
            self.transport.close()

    def _is_waiting(self) -> bool:
        """Return whether the client has to send a request, or the rest of one."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body

    def _watch(self) -> None:
        """Begin or end the timeout for the rest of a request, after some of it has arrived."""
        if not self._is_waiting():
            self.waiting_since = math.inf
            self._unset_timeout()
        elif self._timeout is None:
            self._timeout = self.loop.call_later(_REQUEST_TIMEOUT_S, self.close)

    def _unset_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
