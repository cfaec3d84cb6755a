# SPDX-License-Identifier: Apache-2.0
"""The MCP tools and the resources: what an AI agent can do with environments.

The tools are plain functions and run in threads: the store is synchronous, and must not block
the event loop that answers other clients. What agents read is in the code, not in docstrings,
which ``python -OO`` drops.
"""

import inspect
import logging
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.shared.exceptions import MCPError
from mcp.types import INTERNAL_ERROR, METHOD_NOT_FOUND, ToolAnnotations
from pydantic import ConfigDict

from waggle_fsstore import __version__
from waggle_fsstore.domain.audit import audit
from waggle_fsstore.domain.defaults import MAX_IDLE_TIMEOUT
from waggle_fsstore.domain.environment import Environment, Runtime, Status
from waggle_fsstore.domain.errors import (
    DestroyPendingError,
    EnvironmentNotFoundError,
    EnvironmentNotRunningError,
    StoreError,
    WaggleError,
)
from waggle_fsstore.server.arguments import Arguments, Choice, Cursor, Flag, Text, WholeNumber
from waggle_fsstore.server.call_log import logged_call
from waggle_fsstore.server.calls import Calls, Request, actor_of
from waggle_fsstore.server.models import (
    DestroyResult,
    EnvironmentInfo,
    EnvironmentList,
    History,
    Unreadable,
)
from waggle_fsstore.service.cancellation import Cancellation
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.service.error_text import reason_of
from waggle_fsstore.service.provider import WITH_PIP

_PAGE_SIZE: Final = 20
_MAX_PAGE_SIZE: Final = 1_000
_RESOURCE_PAGE_SIZE: Final = 100
_WRITER_THREADS: Final = 40
_READER_THREADS: Final = 40
_MAX_TIMEOUT_MINUTES: Final = MAX_IDLE_TIMEOUT // timedelta(minutes=1)

_DESCRIPTION: Final = (
    "A durable store for agent environments, one readable JSON file each, with an MCP server, "
    "a CLI and pytest fixtures included."
)
_INSTRUCTIONS: Final = (
    "An environment is a directory (its workspace) with a runtime ready to use: python, node or "
    "shell. Work in the workspace with your own tools; in a python environment the interpreter "
    "is .venv/bin/python. Restarting the server keeps each environment and its environment_id. An "
    "environment that is idle for longer than its timeout is removed with all its files; for a "
    "while restore_environment brings it back. "
    "get_environment resets the idle timer; writing files does not. "
    "Destroy environments you no longer need: the number of live environments is limited."
)

#: The title and the description of each tool.
_TEXTS: Final = {
    "create_environment": (
        "Create an environment",
        "Create an environment and wait until it is ready. Work in its 'workspace' directory.",
    ),
    "list_environments": (
        "List environments",
        "List environments by id, one page at a time. 'unreadable' lists damaged records.",
    ),
    "get_environment": (
        "Get an environment",
        "Get one environment, and reset its idle timer.",
    ),
    "destroy_environment": (
        "Destroy an environment",
        "Destroy an environment, in any status, and delete all its files.",
    ),
    "restore_environment": (
        "Restore an expired environment",
        "Bring back an environment that expired, with its files. A destroyed one stays gone.",
    ),
    "environment_history": (
        "History of an environment",
        "List the changes to an environment: time, actor, reason. Works after it is destroyed.",
    ),
}

_RESOURCE_URI: Final = "waggle://environments/"

_Id = Annotated[str, Text(description="The environment_id that create_environment returned.")]
_Limit = Annotated[
    int, WholeNumber(description="The maximum number to return.", low=1, high=_MAX_PAGE_SIZE)
]

_log: Final = logging.getLogger(__name__)


class Call(NamedTuple):
    """One call of a tool: the actor that made it, and how it can be cancelled."""

    actor: str
    cancellation: Cancellation


def make_server(
    service: EnvironmentService, is_stopping: Callable[[], bool] = lambda: False
) -> MCPServer[Any]:
    """Return an MCP server whose tools work on a service, see :class:`Calls`."""
    tools, calls = Tools(service), Calls(is_stopping)
    server: MCPServer[Any] = MCPServer(
        "waggle",
        version=__version__,
        description=_DESCRIPTION,
        instructions=_INSTRUCTIONS,
        tools=_tools(tools, calls),
        # This server sends no notifications of changes, so it must not offer subscriptions.
        subscriptions=False,
        middleware=[calls.observe, _without_prompts, tools.list_resources],
    )
    server.resource(
        f"{_RESOURCE_URI}{{environment_id}}",
        name="environment",
        title="An environment",
        description="An environment, as get_environment returns it. Reading does not reset the "
        "idle timer.",
        mime_type="application/json",
    )(tools.read_environment)
    return server


def _tools(tools: "Tools", calls: Calls) -> list[Tool]:
    # Separate threads for tools that write, because those may wait for the store lock: tools
    # that only read then never wait for a free thread.
    hints = partial(ToolAnnotations, open_world_hint=False)
    read = partial(
        _tool, calls, CapacityLimiter(_READER_THREADS), annotations=hints(read_only_hint=True)
    )
    write = partial(_tool, calls, CapacityLimiter(_WRITER_THREADS))
    creates = hints(read_only_hint=False, destructive_hint=False, idempotent_hint=False)
    destroys = hints(read_only_hint=False, destructive_hint=True, idempotent_hint=True)
    return [
        write(tools.create_environment, annotations=creates, is_cancellable=True),
        read(tools.list_environments),
        read(tools.get_environment),
        write(tools.destroy_environment, annotations=destroys),
        write(tools.restore_environment, annotations=creates),
        read(tools.environment_history),
    ]


class _AsSent(ArgModelBase):
    """Passes all arguments on as they were sent: :class:`Arguments` checks them."""

    model_config = ConfigDict(extra="allow")

    def model_dump_one_level(self) -> dict[str, Any]:
        """See the SDK."""
        return {"sent": self.model_extra}


def _tool(
    calls: Calls,
    limiter: CapacityLimiter,
    function: Callable[..., object],
    *,
    annotations: ToolAnnotations,
    is_cancellable: bool = False,
) -> Tool:
    """Return the tool that makes calls of a function, in threads of a limiter."""
    arguments = Arguments.of(function)
    title, description = _TEXTS[arguments.tool]
    result = inspect.signature(function).return_annotation

    async def run(ctx: Context[Any], sent: dict[str, object]) -> object:
        request = ctx.request_context
        with logged_call(arguments.tool, request) as entry:
            try:
                values = arguments.parse(sent)
            except ValueError as error:
                raise ToolError(str(error)) from None
            entry.of_environment(values.get("environment_id"))
            made = await calls.make(
                request,
                limiter,
                lambda cancellation: function(Call(actor_of(request), cancellation), **values),
                is_cancellable=is_cancellable,
            )
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


class Tools:
    """The tools over one service. A parameter that is annotated as an argument is one."""

    def __init__(self, service: EnvironmentService) -> None:
        self._service = service

    def create_environment(
        self,
        call: Call,
        runtime: Annotated[
            Runtime,
            # An adapter for LangChain keeps an argument called runtime for itself.
            Choice(description="The runtime to prepare.", alias="language", values=Runtime),
        ],
        name: Annotated[
            str | None, Text(description="Default: the runtime and a short id.")
        ] = None,
        timeout_minutes: Annotated[
            int | None,
            WholeNumber(
                description="Idle timeout in minutes. Default: 30, or what the operator set.",
                low=1,
                high=_MAX_TIMEOUT_MINUTES,
            ),
        ] = None,
        with_pip: Annotated[
            bool, Flag(description="Install pip in a python environment; slower.")
        ] = False,
        idempotency_key: Annotated[
            str | None,
            Text(
                description="A random text, such as a UUID. If a call seems to fail, repeat it "
                "with the same key: it then returns the environment that the first call created, "
                "if it did."
            ),
        ] = None,
    ) -> EnvironmentInfo:
        """Create an environment."""
        timeout = None if timeout_minutes is None else timedelta(minutes=timeout_minutes)
        with _as_actor(call):
            environment = self._service.create(
                runtime,
                name=name,
                timeout=timeout,
                labels=WITH_PIP if with_pip else None,
                idempotency_key=idempotency_key,
                cancellation=call.cancellation,
            )
        return self._info(environment)

    def list_environments(
        self,
        _: Call,
        limit: _Limit = _PAGE_SIZE,
        after: Annotated[
            str | None, Text(description="The value of 'next' on the previous page.")
        ] = None,
    ) -> EnvironmentList:
        """Return one page of the environments."""
        unreadable: list[Exception] = []
        with _tool_errors():
            environments = self._service.find_all(on_corrupt=unreadable.append)
        page, following = _page(environments, after, limit)
        return EnvironmentList(
            environments=[self._info(one) for one in page],
            count=len(environments),
            next=following,
            unreadable=[Unreadable.of(error) for error in unreadable],
        )

    def get_environment(self, _: Call, environment_id: _Id) -> EnvironmentInfo:
        """Return an environment, which counts as use."""
        with _tool_errors():
            try:
                environment = self._service.touch(environment_id)
            except EnvironmentNotRunningError:
                environment = self._service.find_by_id(environment_id)
        return self._info(environment)

    def destroy_environment(
        self,
        call: Call,
        environment_id: _Id,
        reason: Annotated[
            str | None, Text(description="Why; recorded in the history.", max_length=1_000)
        ] = None,
    ) -> DestroyResult:
        """Destroy an environment."""
        with _as_actor(call, reason):
            try:
                self._service.destroy(environment_id)
            except DestroyPendingError as error:
                return DestroyResult(status=Status.DESTROYING, message=str(error))
        return DestroyResult(
            status=Status.DESTROYED, message=f"environment {environment_id} is destroyed"
        )

    def restore_environment(self, call: Call, environment_id: _Id) -> EnvironmentInfo:
        """Restore an expired environment."""
        with _as_actor(call):
            environment = self._service.undelete(environment_id)
        return self._info(environment)

    def environment_history(
        self,
        _: Call,
        environment_id: _Id,
        limit: _Limit = _PAGE_SIZE,
        after: Annotated[
            str, Cursor(description="Return only events after this one: its cursor, or its seq.")
        ] = "",
    ) -> History:
        """Return one page of the events of an environment, even of a destroyed one."""
        with _tool_errors():
            try:
                events = self._service.history(environment_id, after=after or 0)
            except StoreError:
                raise
            except ValueError as error:
                if not str(error).startswith("after: "):
                    raise  # A bug, whose text may name a path.
                raise ToolError(str(error)) from None
            history = History.of(environment_id, events, limit)
            if not history.count and not after.strip("0"):
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

    async def list_resources(self, ctx: Request, call_next: CallNext) -> HandlerResult:
        """List the live environments as resources, page by page; pass on all other messages."""
        result = await call_next(ctx)
        if ctx.method == "resources/list" and isinstance(result, dict):
            cursor = (ctx.params or {}).get("cursor")
            result["resources"], following = await to_thread.run_sync(self._resources, cursor)
            if following is not None:
                result["nextCursor"] = following
        return result

    def _resources(self, after: str | None) -> tuple[list[dict[str, str]], str | None]:
        try:
            environments = self._service.find_all(on_corrupt=lambda _: None)
        except (WaggleError, OSError) as error:
            _log_failure(error)
            raise MCPError(INTERNAL_ERROR, reason_of(error)) from None
        live = [one for one in environments if one.status.is_live]
        page, following = _page(live, after, _RESOURCE_PAGE_SIZE)
        return [
            {
                "uri": f"{_RESOURCE_URI}{quote(one.id, safe='')}",
                "name": one.name,
                "description": f"A {one.runtime} environment, {one.status}.",
                "mimeType": "application/json",
            }
            for one in page
        ], following

    def _info(self, environment: Environment) -> EnvironmentInfo:
        host = self._service.membership.name_of(environment)
        return EnvironmentInfo.of(environment, self._service.locate(environment), host)


async def _without_prompts(ctx: Request, call_next: CallNext) -> HandlerResult:
    """Neither declare nor serve prompts, as the SDK always does: there are none."""
    if ctx.method.startswith("prompts/"):
        raise MCPError(METHOD_NOT_FOUND, "Method not found", ctx.method)
    result = await call_next(ctx)
    if ctx.method in ("initialize", "server/discover") and isinstance(result, dict):
        result["capabilities"].pop("prompts", None)
    return result


def _page(
    environments: list[Environment], after: str | None, limit: int
) -> tuple[list[Environment], str | None]:
    """Return up to ``limit`` environments after an id, and the id for the next page, if any."""
    start = 0 if after is None else bisect_right(environments, after, key=lambda one: one.id)
    page = environments[start : start + limit]
    return page, page[-1].id if start + limit < len(environments) else None


@contextmanager
def _tool_errors() -> Iterator[None]:
    """Turn expected errors into answers without paths; the full message goes to the log."""
    try:
        yield
    except (WaggleError, OSError) as error:
        _log_failure(error)
        raise ToolError(reason_of(error)) from None


@contextmanager
def _as_actor(call: Call, reason: str | None = None) -> Iterator[None]:
    """Record the client that called the tool as the author of the changes in the block."""
    with _tool_errors():
        try:
            author = audit(actor=call.actor, reason=reason or None)
        except ValueError as error:
            raise ToolError(str(error)) from None
        with author:
            yield


def _log_failure(error: Exception) -> None:
    """Log an error that the operator must fix. The client's own mistakes are not logged."""
    if isinstance(error, (StoreError, OSError)):
        _log.error("%s", error)
