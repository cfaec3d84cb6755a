# SPDX-License-Identifier: Apache-2.0
"""One tool: a function whose arguments are checked, and whose calls are logged and audited."""

import inspect
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from anyio import CapacityLimiter, create_task_group, sleep
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.types import CallToolRequestParams, CallToolResult, ToolAnnotations
from pydantic import ConfigDict

from waggle_fsstore.domain.audit import audit
from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.errors import (
    HostUnreachableError,
    OtherHostError,
    StoreError,
    WaggleError,
)
from waggle_fsstore.server.arguments import Arguments
from waggle_fsstore.server.call_log import CallEntry, logged_call
from waggle_fsstore.server.calls import Calls, actor_of
from waggle_fsstore.server.forwarding import Forwarder
from waggle_fsstore.service.cancellation import Cancellation
from waggle_fsstore.service.error_text import reason_of

# How often a client hears that a long call is running. Some give up after ten silent seconds.
_PROGRESS_INTERVAL_S: Final = 3.0

_log: Final = logging.getLogger(__name__)


class Call(NamedTuple):
    """One call of a tool: the actor that made it, how it can be cancelled, and its log entry."""

    actor: str
    cancellation: Cancellation
    entry: CallEntry


class _AsSent(ArgModelBase):
    """Passes all arguments on as they were sent: :class:`Arguments` checks them."""

    model_config = ConfigDict(extra="allow")

    def model_dump_one_level(self) -> dict[str, Any]:
        """See the SDK."""
        return {"sent": self.model_extra}


def make_tool(
    calls: Calls,
    limiter: CapacityLimiter,
    function: Callable[..., object],
    texts: tuple[str, str],
    *,
    annotations: ToolAnnotations,
    is_cancellable: bool = False,
    forwarder: Forwarder | None = None,
) -> Tool:
    """Return the tool that makes calls of a function, in threads of a limiter.

    ``texts`` are its title and its description. The client of a call that can be cancelled hears
    of it every few seconds, if it asks for progress. ``forwarder`` makes the calls for
    environments of other hosts.
    """
    arguments = Arguments.of(function)
    title, description = texts
    result = inspect.signature(function).return_annotation

    async def run(ctx: Context[Any], sent: dict[str, object]) -> object:
        request = ctx.request_context
        with logged_call(arguments.tool, request, calls.on_end) as entry:
            try:
                values = arguments.parse(sent)
            except ValueError as error:
                raise ToolError(str(error)) from None
            entry.of_environment(values.get("environment_id"))
            actor = actor_of(request)
            call = calls.make(
                request,
                limiter,
                lambda cancellation: function(Call(actor, cancellation, entry), **values),
                is_cancellable=is_cancellable,
            )
            try:
                made = await (_with_progress(ctx, call) if is_cancellable else call)
            except ToolError as error:
                other = error.__context__
                if forwarder is None or not isinstance(other, OtherHostError):
                    raise
                params = CallToolRequestParams(name=arguments.tool, arguments=sent)
                forwarded = forwarder.forward(ctx, params, other, result)
                made = await _made_elsewhere(forwarded, entry, other)
            entry.of_environment(getattr(made, "environment_id", None))
            return made

    return Tool(
        fn=run,
        name=arguments.tool,
        title=title,
        description=description,
        parameters=arguments.schema(),
        fn_metadata=FuncMetadata(arg_model=_AsSent, output_model=result),
        is_async=True,
        context_kwarg="ctx",
        annotations=annotations,
    )


async def _made_elsewhere(
    call: Coroutine[Any, Any, CallToolResult], entry: CallEntry, error: OtherHostError
) -> CallToolResult:
    """Await a call that is made at another host, also if that answers with an error."""
    entry.fields["host"] = error.host
    with tool_errors():
        made = await call
    if made.is_error:
        entry.outcome = "refused"
    return made


async def _with_progress(ctx: Context[Any], call: Coroutine[Any, Any, object]) -> object:
    """Await a call, and report until then that it is running."""
    failure: Exception | None = None
    made = None
    async with create_task_group() as tasks:
        tasks.start_soon(_report_progress, ctx)
        try:
            made = await call
        except Exception as error:  # noqa: BLE001  # The group would wrap it.
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return made


async def _report_progress(ctx: Context[Any]) -> None:
    begun = monotonic()
    while True:
        await sleep(_PROGRESS_INTERVAL_S)
        seconds = round(monotonic() - begun)
        await ctx.report_progress(seconds, message=f"running for {seconds} s")


@contextmanager
def tool_errors() -> Iterator[None]:
    """Turn expected errors into answers without paths; the full message goes to the log."""
    try:
        yield
    except (WaggleError, OSError) as error:
        log_failure(error)
        raise ToolError(reason_of(error)) from None


@contextmanager
def as_actor(call: Call, reason: str | None = None) -> Iterator[None]:
    """Record the client that called the tool as the author of the changes in the block."""
    with tool_errors():
        try:
            author = audit(actor=call.actor, reason=reason or None)
        except ValueError as error:
            raise ToolError(str(error)) from None
        with author:
            yield


def log_failure(error: Exception) -> None:
    """Log an error that the operator must fix. The client's own mistakes are not logged."""
    if isinstance(error, (StoreError, HostUnreachableError, OSError)):
        _log.error("%s", error)
