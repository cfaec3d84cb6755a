# SPDX-License-Identifier: Apache-2.0
"""The MCP tools and the resources: what an AI agent can do with environments.

The tools are plain functions and run in threads: the store is synchronous, and must not block
the event loop that answers other clients. What agents read is in the code, not in docstrings,
which ``python -OO`` drops.
"""

from bisect import bisect_right
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Final
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp.types import INTERNAL_ERROR, METHOD_NOT_FOUND, ToolAnnotations

from waggle_fsstore import __version__
from waggle_fsstore.domain.defaults import (
    DEFAULT_EXEC_TIMEOUT,
    MAX_EXEC_TIMEOUT,
)
from waggle_fsstore.domain.environment import MAX_TIMEOUT, Environment, Runtime, Status
from waggle_fsstore.domain.errors import (
    DestroyPendingError,
    EnvironmentNotFoundError,
    EnvironmentNotRunningError,
    StoreError,
    WaggleError,
)
from waggle_fsstore.domain.workspace_file import SANDBOX_HOME
from waggle_fsstore.server.arguments import Choice, Cursor, Flag, Labels, Text, WholeNumber
from waggle_fsstore.server.calls import Calls, OnEnd, Request
from waggle_fsstore.server.forwarding import Forwarder
from waggle_fsstore.server.models import (
    BulkDestroyResult,
    DestroyResult,
    EnvironmentInfo,
    EnvironmentList,
    History,
    Unreadable,
)
from waggle_fsstore.server.texts import DESCRIPTION, INSTRUCTIONS, NO_EXECUTION, TEXTS
from waggle_fsstore.server.tool import Call, as_actor, log_failure, make_tool, tool_errors
from waggle_fsstore.server.workspace_tools import Id, WorkspaceTools
from waggle_fsstore.service.bulk_removal import Outcome
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.service.error_text import reason_of
from waggle_fsstore.service.provider import WITH_PIP

_PAGE_SIZE: Final = 20
_MAX_PAGE_SIZE: Final = 1_000
_RESOURCE_PAGE_SIZE: Final = 100
_WRITER_THREADS: Final = 40
_READER_THREADS: Final = 40
_FILE_THREADS: Final = 20
# Most of these wait for one of the few programs that run at once.
_PROGRAM_THREADS: Final = 100

_UNISOLATED: Final = "NOT ISOLATED: it can do all that the user of the server can. "

_RESOURCE_URI: Final = "waggle://environments/"

_Limit = Annotated[
    int, WholeNumber(description="The maximum number to return.", low=1, high=_MAX_PAGE_SIZE)
]
_TimeoutMinutes = Annotated[
    int | None,
    WholeNumber(
        description="Idle timeout in minutes. Default: 30, at most 60, or what the operator set.",
        low=1,
        high=MAX_TIMEOUT // timedelta(minutes=1),
    ),
]
_Never = Annotated[
    bool, Flag(description="No idle timeout: it never expires. Refused unless the operator allows.")
]


def make_server(
    service: EnvironmentService,
    is_stopping: Callable[[], bool] = lambda: False,
    *,
    default_timeout: timedelta = DEFAULT_EXEC_TIMEOUT,
    max_timeout: timedelta = MAX_EXEC_TIMEOUT,
    forwarder: Forwarder | None = None,
    on_end: OnEnd = lambda *_: None,
) -> MCPServer[Any]:
    """Return an MCP server whose tools work on a service, see :class:`Calls`.

    It has the tools that run programs if that is possible now. Their timeouts are
    ``default_timeout`` and at most ``max_timeout``. ``forwarder`` makes the calls for environments
    of other hosts. ``on_end`` hears of each call of a tool.
    """
    tools, calls = Tools(service), Calls(is_stopping, on_end)
    inside = WorkspaceTools(service, default_timeout, max_timeout)
    can_execute = not service.workspaces.why_no_execution()
    server: MCPServer[Any] = MCPServer(
        "waggle",
        version=__version__,
        description=DESCRIPTION,
        instructions=INSTRUCTIONS if can_execute else f"{INSTRUCTIONS} {NO_EXECUTION}",
        tools=[*_tools(tools, calls), *_workspace_tools(service, inside, calls, forwarder)],
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


def _tool(
    calls: Calls,
    limiter: CapacityLimiter,
    function: Callable[..., object],
    *,
    annotations: ToolAnnotations,
    is_cancellable: bool = False,
    warning: str = "",
    forwarder: Forwarder | None = None,
) -> Tool:
    title, description = TEXTS[function.__name__]
    return make_tool(
        calls,
        limiter,
        function,
        (title, f"{warning}{description}"),
        annotations=annotations,
        is_cancellable=is_cancellable,
        forwarder=forwarder,
    )


def _workspace_tools(
    service: EnvironmentService,
    tools: WorkspaceTools,
    calls: Calls,
    forwarder: Forwarder | None,
) -> list[Tool]:
    """Return the tools that work inside environments, as far as that is possible here."""
    workspaces = service.workspaces
    threads = CapacityLimiter(_FILE_THREADS)
    programs = CapacityLimiter(_PROGRAM_THREADS)
    warning = _UNISOLATED if workspaces.kind == "unisolated" else ""
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    writes = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)
    installs = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=True)
    use = partial(_tool, calls, threads, forwarder=forwarder)
    run = partial(_tool, calls, programs, is_cancellable=True, warning=warning, forwarder=forwarder)
    found = [
        use(tools.write_file, annotations=writes),
        use(tools.read_file, annotations=reads),
        use(tools.list_files, annotations=reads),
    ]
    if not workspaces.why_no_execution():
        found.append(run(tools.execute, annotations=writes))
        if workspaces.may_install:
            found.append(run(tools.install_packages, annotations=installs))
    return found


def _tools(tools: "Tools", calls: Calls) -> list[Tool]:
    # Separate threads for tools that write, because those may wait for the store lock: tools
    # that only read then never wait for a free thread.
    hints = partial(ToolAnnotations, open_world_hint=False)
    read = partial(
        _tool, calls, CapacityLimiter(_READER_THREADS), annotations=hints(read_only_hint=True)
    )
    write = partial(_tool, calls, CapacityLimiter(_WRITER_THREADS))
    creates = hints(read_only_hint=False, destructive_hint=False, idempotent_hint=False)
    changes = hints(read_only_hint=False, destructive_hint=False, idempotent_hint=True)
    destroys = hints(read_only_hint=False, destructive_hint=True, idempotent_hint=True)
    return [
        write(tools.create_environment, annotations=creates, is_cancellable=True),
        read(tools.list_environments),
        read(tools.get_environment),
        write(tools.extend_environment, annotations=changes),
        write(tools.destroy_environment, annotations=destroys),
        write(tools.destroy_environments, annotations=destroys),
        write(tools.restore_environment, annotations=creates),
        read(tools.environment_history),
    ]


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
        timeout_minutes: _TimeoutMinutes = None,
        never: _Never = False,
        labels: Annotated[
            dict[str, str] | None,
            Labels(description="Texts by which to find and destroy environments together."),
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
        timeout = _timeout(timeout_minutes, never=never)
        labels = _with_pip(labels or {}, with_pip=with_pip)
        with as_actor(call):
            environment = self._service.create(
                runtime,
                name=name,
                timeout=timeout,
                labels=labels,
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
        labels: Annotated[
            dict[str, str] | None, Labels(description="Only those that have all of these labels.")
        ] = None,
    ) -> EnvironmentList:
        """Return one page of the environments."""
        unreadable: list[Exception] = []
        with tool_errors():
            environments = self._service.find_all(labels=labels, on_corrupt=unreadable.append)
        page, following = _page(environments, after, limit)
        return EnvironmentList(
            environments=[self._info(one) for one in page],
            count=len(environments),
            next=following,
            unreadable=[Unreadable.of(error) for error in unreadable],
        )

    def get_environment(self, _: Call, environment_id: Id) -> EnvironmentInfo:
        """Return an environment, which counts as use."""
        with tool_errors():
            try:
                environment = self._service.touch(environment_id)
            except EnvironmentNotRunningError:
                environment = self._service.find_by_id(environment_id)
        return self._info(environment)

    def extend_environment(
        self,
        call: Call,
        environment_id: Id,
        timeout_minutes: _TimeoutMinutes = None,
        never: _Never = False,
    ) -> EnvironmentInfo:
        """Change the idle timeout of an environment, which counts as use."""
        timeout = _timeout(timeout_minutes, never=never)
        if timeout is None:
            raise ToolError("timeout_minutes is required, or never=true")
        with as_actor(call):
            environment = self._service.extend(environment_id, timeout)
        return self._info(environment)

    def destroy_environment(
        self,
        call: Call,
        environment_id: Id,
        reason: Annotated[
            str | None, Text(description="Why; recorded in the history.", max_length=1_000)
        ] = None,
    ) -> DestroyResult:
        """Destroy an environment."""
        with as_actor(call, reason):
            try:
                self._service.destroy(environment_id)
            except DestroyPendingError as error:
                return DestroyResult(status=Status.DESTROYING, message=str(error))
        return DestroyResult(
            status=Status.DESTROYED, message=f"environment {environment_id} is destroyed"
        )

    def destroy_environments(
        self,
        call: Call,
        labels: Annotated[
            dict[str, str], Labels(description="All that have all of these labels.", min_count=1)
        ],
        dry_run: Annotated[
            bool, Flag(description="Only say which ones would be destroyed, and how many.")
        ] = True,
        count: Annotated[
            int | None,
            WholeNumber(
                description="The count of the dry run; required with dry_run=false. If their "
                "number is another one now, none is destroyed.",
                low=0,
            ),
        ] = None,
    ) -> BulkDestroyResult:
        """Destroy all environments with some labels."""
        with as_actor(call):
            if not dry_run and count is not None:
                outcomes = self._service.destroy_all(labels, count=count)
                return BulkDestroyResult.of(outcomes, dry_run=False)
            found = self._service.find_all(labels=labels, on_corrupt=lambda _: None)
        if not dry_run:
            raise ToolError(
                f"count is required: the number of environments with these labels is {len(found)}"
            )
        outcomes = [Outcome(one.id, one.status, "it would be destroyed") for one in found]
        return BulkDestroyResult.of(outcomes, dry_run=True)

    def restore_environment(self, call: Call, environment_id: Id) -> EnvironmentInfo:
        """Restore an expired environment."""
        with as_actor(call):
            environment = self._service.undelete(environment_id)
        return self._info(environment)

    def environment_history(
        self,
        _: Call,
        environment_id: Id,
        limit: _Limit = _PAGE_SIZE,
        after: Annotated[
            str, Cursor(description="Return only events after this one: its cursor, or its seq.")
        ] = "",
    ) -> History:
        """Return one page of the events of an environment, even of a destroyed one."""
        with tool_errors():
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
            log_failure(error)
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
            log_failure(error)
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
        workspace = self._service.locate(environment)
        if workspace and self._service.workspaces.kind == "isolated":
            workspace = SANDBOX_HOME
        return EnvironmentInfo.of(environment, workspace, host)


async def _without_prompts(ctx: Request, call_next: CallNext) -> HandlerResult:
    """Neither declare nor serve prompts, as the SDK always does: there are none."""
    if ctx.method.startswith("prompts/"):
        raise MCPError(METHOD_NOT_FOUND, "Method not found", ctx.method)
    result = await call_next(ctx)
    if ctx.method in ("initialize", "server/discover") and isinstance(result, dict):
        result["capabilities"].pop("prompts", None)
    return result


def _timeout(minutes: int | None, *, never: bool) -> timedelta | None:
    """Return the idle timeout that is asked for, zero for never, ``None`` for the default."""
    if never and minutes is not None:
        raise ToolError("timeout_minutes and never exclude each other: give one of them")
    if never:
        return timedelta(0)
    return None if minutes is None else timedelta(minutes=minutes)


def _with_pip(labels: dict[str, str], *, with_pip: bool) -> dict[str, str]:
    """Return the labels, and those that say to install pip, whose keys no client may use."""
    for key in WITH_PIP.keys() & labels.keys():
        raise ToolError(f"labels: the key {key!r} is reserved: use with_pip")
    return {**labels, **WITH_PIP} if with_pip else labels


def _page(
    environments: list[Environment], after: str | None, limit: int
) -> tuple[list[Environment], str | None]:
    """Return up to ``limit`` environments after an id, and the id for the next page, if any."""
    start = 0 if after is None else bisect_right(environments, after, key=lambda one: one.id)
    page = environments[start : start + limit]
    return page, page[-1].id if start + limit < len(environments) else None
