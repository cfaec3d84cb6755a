# SPDX-License-Identifier: Apache-2.0
"""The MCP tools and the resource: what an AI agent can do with environments.

The tools are plain functions and run in threads: the store is synchronous, and must not block
the event loop that answers other clients.
"""

import logging
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial, wraps
from typing import Annotated, Any, Final, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, ToolAnnotations
from pydantic import Field

from waggle_fsstore import __version__
from waggle_fsstore.domain.audit import audit
from waggle_fsstore.domain.defaults import MAX_IDLE_TIMEOUT
from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import (
    EnvironmentNotFoundError,
    EnvironmentNotRunningError,
    StoreError,
    WaggleError,
)
from waggle_fsstore.server.models import (
    DestroyResult,
    EnvironmentInfo,
    EnvironmentList,
    History,
    RuntimeName,
    Unreadable,
)
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.service.error_text import reason_of
from waggle_fsstore.service.provider import WITH_PIP

_PAGE_SIZE: Final = 20
_MAX_PAGE_SIZE: Final = 1_000
_MAX_CLIENT_NAME_LENGTH: Final = 100
_WRITER_THREADS: Final = 40
_MAX_TIMEOUT_MINUTES: Final = MAX_IDLE_TIMEOUT // timedelta(minutes=1)

_DESCRIPTION: Final = (
    "A durable store for agent environments, one readable JSON file each, with an MCP server, "
    "a CLI and pytest fixtures included."
)
_INSTRUCTIONS: Final = (
    "An environment is a directory (its workspace) with a runtime ready to use: python, node or "
    "shell. Work in the workspace with your own tools; in a python environment the interpreter "
    "is .venv/bin/python. Restarting the server keeps each environment and its environment_id. An "
    "environment that is idle for longer than its timeout is removed with all its files. "
    "get_environment resets the idle timer; writing files does not. "
    "Destroy environments you no longer need: the number of live environments is limited."
)

_Id = Annotated[
    str, Field(description="The environment_id that create_environment returned.", strict=True)
]
_Limit = Annotated[
    int, Field(description="The maximum number to return.", ge=1, le=_MAX_PAGE_SIZE, strict=True)
]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_log: Final = logging.getLogger(__name__)


def make_server(service: EnvironmentService) -> MCPServer[Any]:
    """Return an MCP server whose tools work on a service."""
    server: MCPServer[Any] = MCPServer(
        "waggle",
        version=__version__,
        description=_DESCRIPTION,
        instructions=_INSTRUCTIONS,
        # This server sends no notifications of changes, so it must not offer subscriptions.
        subscriptions=False,
        middleware=[_refuse_prompts],
    )
    tools = Tools(service)
    # Separate threads for tools that write, because those may wait for the store lock: tools
    # that only read then never wait for a free thread.
    writers = CapacityLimiter(_WRITER_THREADS)
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    writes = partial(ToolAnnotations, read_only_hint=False, open_world_hint=False)
    server.add_tool(
        in_threads(writers, tools.create_environment),
        title="Create an environment",
        annotations=writes(destructive_hint=False, idempotent_hint=False),
    )
    server.add_tool(tools.list_environments, title="List environments", annotations=reads)
    server.add_tool(tools.get_environment, title="Get an environment", annotations=reads)
    server.add_tool(
        in_threads(writers, tools.destroy_environment),
        title="Destroy an environment",
        annotations=writes(destructive_hint=True, idempotent_hint=True),
    )
    server.add_tool(tools.environment_history, title="History of an environment", annotations=reads)
    server.resource(
        "waggle://environments/{environment_id}",
        name="environment",
        title="An environment",
        description="An environment, as get_environment returns it. Reading does not reset the "
        "idle timer.",
        mime_type="application/json",
    )(tools.read_environment)
    return server


class Tools:
    """The tools over one service. Their docstrings are the descriptions that agents read."""

    def __init__(self, service: EnvironmentService) -> None:
        self._service = service

    def create_environment(
        self,
        ctx: Context[Any],
        runtime: Annotated[RuntimeName, Field(description="The runtime to prepare.")],
        name: Annotated[
            str | None, Field(description="Default: the runtime and a short id.", strict=True)
        ] = None,
        timeout_minutes: Annotated[
            int | None,
            Field(
                description="Idle timeout in minutes. Default: 30, or what the operator set.",
                ge=1,
                le=_MAX_TIMEOUT_MINUTES,
                strict=True,
            ),
        ] = None,
        with_pip: Annotated[
            bool,
            Field(description="Install pip in a python environment; slower.", strict=True),
        ] = False,
    ) -> EnvironmentInfo:
        """Create an environment and wait until it is ready. Work in its 'workspace' directory."""
        timeout = None if timeout_minutes is None else timedelta(minutes=timeout_minutes)
        with _as_client(ctx):
            environment = self._service.create(
                runtime, name=name, timeout=timeout, labels=WITH_PIP if with_pip else None
            )
            _log_change("created", environment.id, ctx)
        return self._info(environment)

    def list_environments(
        self,
        limit: _Limit = _PAGE_SIZE,
        after: Annotated[
            str | None, Field(description="The value of 'next' on the previous page.", strict=True)
        ] = None,
    ) -> EnvironmentList:
        """List environments by id, one page at a time. 'unreadable' lists damaged records."""
        unreadable: list[Exception] = []
        with _tool_errors():
            environments = self._service.find_all(on_corrupt=unreadable.append)
        start = 0 if after is None else bisect_right(environments, after, key=lambda one: one.id)
        page = environments[start : start + limit]
        return EnvironmentList(
            environments=[self._info(one) for one in page],
            count=len(environments),
            next=page[-1].id if start + limit < len(environments) else None,
            unreadable=[Unreadable.of(error) for error in unreadable],
        )

    def get_environment(self, environment_id: _Id) -> EnvironmentInfo:
        """Get one environment, and reset its idle timer."""
        with _tool_errors():
            try:
                environment = self._service.touch(environment_id)
            except EnvironmentNotRunningError:
                environment = self._service.find_by_id(environment_id)
        return self._info(environment)

    def destroy_environment(
        self,
        ctx: Context[Any],
        environment_id: _Id,
        reason: Annotated[
            str | None,
            Field(description="Why; recorded in the history.", max_length=1_000, strict=True),
        ] = None,
    ) -> DestroyResult:
        """Destroy an environment, in any status, and delete all its files."""
        with _as_client(ctx, reason):
            self._service.destroy(environment_id)
            _log_change("destroyed", environment_id, ctx)
        return DestroyResult(
            status=Status.DESTROYED, message=f"environment {environment_id} is destroyed"
        )

    def environment_history(
        self,
        environment_id: _Id,
        limit: _Limit = _PAGE_SIZE,
        after: Annotated[
            int, Field(description="Return only events with a greater seq.", ge=0, strict=True)
        ] = 0,
    ) -> History:
        """List the changes to an environment: time, actor, reason. Works after it is destroyed."""
        with _tool_errors():
            try:
                events = self._service.history(environment_id, after=after)
            except ValueError:
                if not after:
                    raise
                raise ToolError(f"after: {after} is beyond the last change") from None
            history = History.of(environment_id, events, limit)
            if not history.count and not after:
                self._service.find_by_id(environment_id)
        return history

    def read_environment(self, environment_id: str) -> str:
        """Return the resource of one environment, as JSON."""
        try:
            environment = self._service.find_by_id(environment_id)
        except EnvironmentNotFoundError as error:
            raise ResourceNotFoundError(str(error)) from None
        except (WaggleError, OSError) as error:
            _log_failure(error)
            raise ResourceError(reason_of(error)) from None
        return self._info(environment).model_dump_json(indent=2)

    def _info(self, environment: Environment) -> EnvironmentInfo:
        return EnvironmentInfo.of(environment, self._service.locate(environment))


async def _refuse_prompts(
    ctx: ServerRequestContext[Any, Any], call_next: CallNext
) -> HandlerResult:
    """Answer that there are no prompts, where the SDK would report an internal error."""
    if ctx.method == "prompts/get":
        raise MCPError(INVALID_PARAMS, "there are no prompts")
    return await call_next(ctx)


def in_threads(limiter: CapacityLimiter, call: Callable[_P, _T]) -> Callable[_P, Awaitable[_T]]:
    """Return a coroutine function that makes the call in a thread of a limiter."""

    @wraps(call)
    async def call_in_thread(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await to_thread.run_sync(partial(call, *args, **kwargs), limiter=limiter)

    return call_in_thread


@contextmanager
def _tool_errors() -> Iterator[None]:
    """Turn expected errors into answers without paths; the full message goes to the log."""
    try:
        yield
    except (WaggleError, OSError) as error:
        _log_failure(error)
        raise ToolError(reason_of(error)) from None


@contextmanager
def _as_client(ctx: Context[Any], reason: str | None = None) -> Iterator[None]:
    """Record the client that called the tool as the author of the changes in the block."""
    with _tool_errors():
        try:
            author = audit(actor=_actor(ctx), reason=reason or None)
        except ValueError as error:
            raise ToolError(str(error)) from None
        with author:
            yield


def _log_change(verb: str, environment_id: str, ctx: Context[Any]) -> None:
    fields = {"environment_id": environment_id, "client": _actor(ctx)}
    _log.info("an environment was %s", verb, extra={"fields": fields})


def _log_failure(error: Exception) -> None:
    """Log an error that the operator must fix. The client's own mistakes are not logged."""
    if isinstance(error, (StoreError, OSError)):
        _log.error("%s", error)


def _actor(ctx: Context[Any]) -> str:
    """Return the actor for the history: the client's name, shortened and printable."""
    params = ctx.request_context.session.client_params
    name = params.client_info.name[:_MAX_CLIENT_NAME_LENGTH] if params else ""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return f"mcp:{name}" if name else "mcp"
