# SPDX-License-Identifier: Apache-2.0
"""The tools: what an AI agent can do with environments.

All of them are plain functions, called in threads: the store is synchronous, and must not
hold up the answers to others.
"""

import logging
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any, Final

from anyio import CapacityLimiter
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
    RuntimeWord,
    Unreadable,
)
from waggle_fsstore.server.threads import in_threads_of
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.service.error_text import reason_of
from waggle_fsstore.service.provider import WITH_PIP

_PAGE: Final = 20
_MAX_PAGE: Final = 1_000
_MAX_CLIENT_NAME: Final = 100
_WRITERS: Final = 40
_HOUR: Final = MAX_IDLE_TIMEOUT // timedelta(minutes=1)

_INSTRUCTIONS: Final = (
    "Environments are workspaces with a runtime (python, node or shell) ready to be used. Work "
    "in the folder that workspace names, with your own tools; a python environment has its "
    "interpreter in .venv/bin/python there. They outlive this server and its restarts; "
    "environment_id is the handle that stays valid. One that is not used for as long as its "
    "timeout says is removed with all its files: get_environment counts as use, writing files "
    "does not. Destroy what is not needed any more: only so many may live at a time."
)

_Id = Annotated[str, Field(description="As create_environment returned it.", strict=True)]
_Limit = Annotated[int, Field(description="How many at most.", ge=1, le=_MAX_PAGE, strict=True)]

_log: Final = logging.getLogger(__name__)


def make_server(service: EnvironmentService) -> MCPServer[Any]:
    """An MCP server whose tools work on a service."""
    server: MCPServer[Any] = MCPServer(
        "waggle",
        version=__version__,
        instructions=_INSTRUCTIONS,
        # Nobody is told of changes, so nobody may be promised that.
        subscriptions=False,
        middleware=[_refuse_prompts],
    )
    tools = Tools(service)
    # What writes may wait for the store lock, and what only reads never does.
    writers = CapacityLimiter(_WRITERS)
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    server.add_tool(
        in_threads_of(writers, tools.create_environment),
        title="Create an environment",
        annotations=ToolAnnotations(
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=False,
            open_world_hint=False,
        ),
    )
    server.add_tool(tools.list_environments, title="List environments", annotations=reads)
    server.add_tool(tools.get_environment, title="Get an environment", annotations=reads)
    server.add_tool(
        in_threads_of(writers, tools.destroy_environment),
        title="Destroy an environment",
        annotations=ToolAnnotations(
            read_only_hint=False,
            destructive_hint=True,
            idempotent_hint=True,
            open_world_hint=False,
        ),
    )
    server.add_tool(tools.environment_history, title="History of an environment", annotations=reads)
    server.resource(
        "waggle://environments/{environment_id}",
        name="environment",
        title="An environment",
        description="One environment, as get_environment gives it; does not count as use.",
        mime_type="application/json",
    )(tools.read_environment)
    return server


class Tools:
    """The tools over one service. What each does stands in its docstring, for the agent."""

    def __init__(self, service: EnvironmentService) -> None:
        self._service = service

    def create_environment(
        self,
        ctx: Context[Any],
        runtime: Annotated[RuntimeWord, Field(description="What is to be ready in it.")],
        name: Annotated[
            str | None, Field(description="What to call it; made up if left out.", strict=True)
        ] = None,
        timeout_minutes: Annotated[
            int | None,
            Field(description="Idle minutes until it is removed.", ge=1, le=_HOUR, strict=True),
        ] = None,
        with_pip: Annotated[
            bool, Field(description="Whether a python environment gets pip; slower.", strict=True)
        ] = False,
    ) -> EnvironmentInfo:
        """Create an environment and wait until it is running."""
        timeout = None if timeout_minutes is None else timedelta(minutes=timeout_minutes)
        with _as_client(ctx):
            environment = self._service.create(
                runtime, name=name, timeout=timeout, labels=WITH_PIP if with_pip else None
            )
            _log_change("created", environment.id, ctx)
        return self._info(environment)

    def list_environments(
        self,
        limit: _Limit = _PAGE,
        after: Annotated[
            str | None, Field(description="'next' of the page before.", strict=True)
        ] = None,
    ) -> EnvironmentList:
        """List the environments, and what cannot be read."""
        unreadable: list[Exception] = []
        with _told():
            everyone = self._service.find_all(on_corrupt=unreadable.append)
        start = 0 if after is None else bisect_right(everyone, after, key=lambda one: one.id)
        page = everyone[start : start + limit]
        return EnvironmentList(
            environments=[self._info(one) for one in page],
            count=len(everyone),
            next=page[-1].id if start + limit < len(everyone) else None,
            unreadable=[Unreadable.of(error) for error in unreadable],
        )

    def get_environment(self, environment_id: _Id) -> EnvironmentInfo:
        """Get one environment. Counts as use: it puts off its removal."""
        with _told():
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
            str | None, Field(description="Why, for the history.", max_length=1_000, strict=True)
        ] = None,
    ) -> DestroyResult:
        """Destroy an environment and all of its files, in whatever status it is."""
        with _as_client(ctx, reason):
            self._service.destroy(environment_id)
            _log_change("destroyed", environment_id, ctx)
        return DestroyResult(
            status=Status.DESTROYED, message=f"environment {environment_id} is destroyed"
        )

    def environment_history(
        self,
        environment_id: _Id,
        limit: _Limit = _PAGE,
        after: Annotated[
            int, Field(description="Only events with a greater seq.", ge=0, strict=True)
        ] = 0,
    ) -> History:
        """Say what happened to an environment, when, by whom and why; also to a destroyed one."""
        with _told():
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
        """The resource of one environment."""
        try:
            environment = self._service.find_by_id(environment_id)
        except EnvironmentNotFoundError as error:
            raise ResourceNotFoundError(str(error)) from None
        except (WaggleError, OSError) as error:
            _note(error)
            raise ResourceError(reason_of(error)) from None
        return self._info(environment).model_dump_json(indent=2)

    def _info(self, environment: Environment) -> EnvironmentInfo:
        return EnvironmentInfo.of(environment, self._service.locate(environment))


async def _refuse_prompts(
    ctx: ServerRequestContext[Any, Any], call_next: CallNext
) -> HandlerResult:
    """There are none. The SDK takes a request for one as a failure of its own."""
    if ctx.method == "prompts/get":
        raise MCPError(INVALID_PARAMS, "there are no prompts")
    return await call_next(ctx)


@contextmanager
def _told() -> Iterator[None]:
    """Tell the client what went wrong, without paths; the log gets the rest."""
    try:
        yield
    except (WaggleError, OSError) as error:
        _note(error)
        raise ToolError(reason_of(error)) from None


@contextmanager
def _as_client(ctx: Context[Any], reason: str | None = None) -> Iterator[None]:
    """Make changes in the name of the client that called the tool."""
    with _told():
        try:
            author = audit(actor=_actor(ctx), reason=reason or None)
        except ValueError as error:
            raise ToolError(str(error)) from None
        with author:
            yield


def _log_change(what: str, environment_id: str, ctx: Context[Any]) -> None:
    fields = {"environment_id": environment_id, "client": _actor(ctx)}
    _log.info("an environment was %s", what, extra={"fields": fields})


def _note(error: Exception) -> None:
    if isinstance(error, (StoreError, OSError)):
        _log.error("%s", error)


def _actor(ctx: Context[Any]) -> str:
    """The name that the client gives itself, as far as the history can keep it."""
    params = ctx.request_context.session.client_params
    name = params.client_info.name[:_MAX_CLIENT_NAME] if params else ""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return f"mcp:{name}" if name else "mcp"
