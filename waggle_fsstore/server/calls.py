# SPDX-License-Identifier: Apache-2.0
"""The calls of tools: made in threads, and cancelled when their client says so.

A client says so as its transport and its revision of the protocol define it:

- over standard input, by ``notifications/cancelled``; the end of the input is none;
- over HTTP since 2026-07-28, by closing the response stream, which a lost connection does too;
- over HTTP before that, by ``notifications/cancelled``, or by ending the session.
"""

import logging
import math
from collections.abc import Callable
from typing import Any, Final, TypeVar

from anyio import CancelScope, CapacityLimiter, get_cancelled_exc_class, to_thread
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from waggle_fsstore.domain.audit import audit
from waggle_fsstore.domain.errors import WaggleError
from waggle_fsstore.server.auth import caller_of, forwarded_actor_of, printable
from waggle_fsstore.service.cancellation import Cancellation

_T = TypeVar("_T")

Request = ServerRequestContext[Any, Any]

#: Hears of the end of a call: its tool, its outcome, and how many seconds it took.
OnEnd = Callable[[str, str, float], object]

_MAX_CLIENT_NAME_LENGTH: Final = 100
_CANCELLING_THREADS: Final = 8

_log: Final = logging.getLogger(__name__)


class Calls:
    """The calls in progress. :meth:`observe` is a middleware of the server.

    A server that ends cancels its requests too, which is no cancellation by the client:
    ``is_stopping`` returns whether it is ending. ``on_end`` hears of each call of a tool.
    """

    def __init__(
        self,
        is_stopping: Callable[[], bool] = lambda: False,
        on_end: OnEnd = lambda *_: None,
    ) -> None:
        self._is_stopping = is_stopping
        self.on_end = on_end
        # Over standard input, by request id.
        self._in_progress: dict[str, Cancellation] = {}
        # Separate threads: all others may wait for what is cancelled.
        self._cancelling = CapacityLimiter(_CANCELLING_THREADS)
        self._unlimited = CapacityLimiter(math.inf)

    async def make(
        self,
        request: Request,
        limiter: CapacityLimiter,
        call: Callable[[Cancellation], _T],
        *,
        is_cancellable: bool,
    ) -> _T:
        """Make a call in a thread of a limiter, and return its result."""
        cancellation = Cancellation()
        if not is_cancellable:
            return await to_thread.run_sync(call, cancellation, limiter=limiter)
        if request.request is not None:
            async with limiter:  # Held until the cancellation has ended the call.
                return await self._make_over_http(request, call, cancellation)
        key = str(request.request_id)
        self._in_progress[key] = cancellation
        try:
            return await to_thread.run_sync(call, cancellation, limiter=limiter)
        finally:
            # A client may have used the id twice.
            if self._in_progress.get(key) is cancellation:
                del self._in_progress[key]

    async def observe(self, ctx: Request, call_next: CallNext) -> HandlerResult:
        """Cancel a call, as a notification over standard input says; pass on all messages."""
        if ctx.method == "notifications/cancelled" and ctx.request is None:
            cancellation = self._in_progress.get(str((ctx.params or {}).get("requestId")))
            if cancellation is not None:
                await self._cancel(ctx, cancellation)
        return await call_next(ctx)

    async def _make_over_http(
        self,
        request: Request,
        call: Callable[[Cancellation], _T],
        cancellation: Cancellation,
    ) -> _T:
        try:
            return await to_thread.run_sync(
                call, cancellation, limiter=self._unlimited, abandon_on_cancel=True
            )
        except get_cancelled_exc_class():
            if not self._is_stopping():
                with CancelScope(shield=True):
                    await self._cancel(request, cancellation)
            raise

    async def _cancel(self, request: Request, cancellation: Cancellation) -> None:
        def cancel() -> None:
            try:
                with audit(actor=actor_of(request)):
                    cancellation.request()
            except (WaggleError, OSError) as error:
                _log.error("a cancelled call is not undone; the next sweep does that: %s", error)

        await to_thread.run_sync(cancel, limiter=self._cancelling)


def actor_of(request: Request) -> str:
    """Return the actor for the history: the client's name, shortened and printable.

    The name of the token comes first, if it has one. The client's name is the client's own claim.
    Of a call that another server passes on, it is the actor there.
    """
    if actor := forwarded_actor_of(request.request):
        return actor
    params = request.session.client_params
    name = params.client_info.name[:_MAX_CLIENT_NAME_LENGTH] if params else ""
    client = f"mcp:{printable(name)}" if name else "mcp"
    caller = caller_of(request.request)
    return f"{caller} {client}" if caller else client
