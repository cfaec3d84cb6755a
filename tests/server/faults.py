# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the server: each breaks one of its promises."""

import asyncio
import inspect
import logging
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

from mcp.client.streamable_http import streamable_http_client
from mcp.server.connection import Connection
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import create_model
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from tests.planted import Patch, fault, nothing
from tests.server import processes, test_workspace_tools
from waggle_fsstore import config, wiring
from waggle_fsstore.config import Settings
from waggle_fsstore.domain.access_token import AccessToken, ClusterToken
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import HostUnreachableError
from waggle_fsstore.domain.histogram import Histogram
from waggle_fsstore.server import (
    arguments,
    auth,
    call_log,
    connections,
    figures,
    forwarding,
    history,
    hosts,
    http,
    lifecycle,
    log,
    metrics,
    readiness,
    sessions,
    tool,
    tools,
    workspace_tools,
)
from waggle_fsstore.server.arguments import Arguments, Text, WholeNumber
from waggle_fsstore.server.auth import Authentication, Failures
from waggle_fsstore.server.calls import Calls, actor_of
from waggle_fsstore.server.connections import Connection as HttpConnection
from waggle_fsstore.server.exchange import Exchange
from waggle_fsstore.server.forwarding import Forwarder
from waggle_fsstore.server.hosts import AllowedHosts, Guard, Host
from waggle_fsstore.server.leadership import Leadership
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.server.metrics import CallDurations
from waggle_fsstore.server.readiness import Readiness
from waggle_fsstore.server.sessions import Session, Sessions
from waggle_fsstore.server.tool import Call
from waggle_fsstore.server.tools import Tools
from waggle_fsstore.server.workspace_tools import WorkspaceTools
from waggle_fsstore.service.cancellation import Cancellation
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.service.membership import SharedMembership
from waggle_fsstore.service.workspaces import Workspaces
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.server_lock import ServerLock
from waggle_fsstore.store.write.session import WriterSession
from waggle_fsstore.wiring import open_repository, open_service, server_lock

_ANY_TOKEN = AccessToken("", b"")

_SIGNAL_DURING_START = (
    "tests/server/test_shutdown.py::test_signal_during_start_ends_server_in_order"
)


def _in_processes(patch: Patch, code: str) -> None:
    """Plant the fault in the servers that a test starts: run the code before they do."""
    patch.setattr(processes, "START", code + processes.START)


# The tools


@fault("tests/server/test_errors.py::test_errors_reveal_no_path")
def show_raw_error_messages(patch: Patch) -> None:
    patch.setattr(tools, "reason_of", str)


@fault("tests/server/test_errors.py::test_bug_is_reported_without_details[RuntimeError]")
def show_messages_of_bugs(patch: Patch) -> None:
    @contextmanager
    def tool_errors() -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  # That is the fault.
            raise ToolError(str(error)) from None

    patch.setattr(tool, "tool_errors", tool_errors)
    patch.setattr(tools, "tool_errors", tool_errors)


@fault("tests/server/test_tools.py::test_list_reports_unreadable_documents")
def omit_unreadable_documents(patch: Patch) -> None:
    real = EnvironmentService.find_all

    def find_all(
        self: EnvironmentService, *, on_corrupt: Callable[[Exception], object] | None = None
    ) -> list[Environment]:
        return real(self, on_corrupt=on_corrupt and (lambda _: None))

    patch.setattr(EnvironmentService, "find_all", find_all)


@fault("tests/server/test_tools.py::test_list_after_last_id_is_empty")
def repeat_last_entry_on_next_page(patch: Patch) -> None:
    patch.setattr(tools, "bisect_right", bisect_left)


@fault("tests/server/test_tools.py::test_get_counts_as_use")
def ignore_get_as_use(patch: Patch) -> None:
    patch.setattr(EnvironmentService, "touch", lambda *_: None)


@fault("tests/server/test_tools.py::test_history_names_the_client[legacy]")
def drop_client_name(patch: Patch) -> None:
    patch.setattr(tool, "actor_of", lambda _: "mcp")


@fault("tests/server/test_tools.py::test_hostile_client_name_is_made_printable")
def keep_raw_client_name(patch: Patch) -> None:
    def actor(request: Any) -> str:
        params = request.session.client_params
        return f"mcp:{params.client_info.name}" if params else "mcp"

    patch.setattr(tool, "actor_of", actor)


@fault("tests/server/test_http.py::test_busy_writers_block_no_reader")
def run_writers_in_reader_threads(patch: Patch) -> None:
    patch.setattr(processes, "TIMEOUT_S", 5.0)
    _in_processes(
        patch,
        """
from anyio import to_thread
from waggle_fsstore.server import calls
async def make(self, request, limiter, call, *, is_cancellable):
    return await to_thread.run_sync(call, calls.Cancellation())
calls.Calls.make = make
""",
    )


# HTTP


@fault("tests/server/test_hosts.py::test_host_check_covers_every_other_path[/]")
def check_host_of_protocol_only(patch: Patch) -> None:
    real = Guard._refusal
    patch.setattr(
        Guard, "_refusal", lambda self, scope: scope["path"] == "/mcp" and real(self, scope)
    )


@fault("tests/server/test_hosts.py::test_probe_may_use_any_host[headers0-/readyz]")
def check_host_of_probes(patch: Patch) -> None:
    patch.setattr(hosts, "HEALTH_PATHS", ())


@fault("tests/server/test_hosts.py::test_allowed_host_is_answered[my-macbook.local:8080]")
def compare_hosts_as_they_are_written(patch: Patch) -> None:
    def parse(cls: type[Host], text: str) -> Host:
        name, _, port = text.rpartition(":") if text[-1:].isdigit() else (text, "", "")
        return cls(name, port)

    patch.setattr(Host, "parse", classmethod(parse))


@fault("tests/server/test_hosts.py::test_server_answers_to_the_address_it_listens_at[127.0.0.2:0]")
def allow_default_names_only(patch: Patch) -> None:
    real = AllowedHosts.__init__
    patch.setattr(
        AllowedHosts,
        "__init__",
        lambda self, settings: real(self, replace(settings, host="localhost")),
    )


@fault(
    "tests/server/test_hosts.py::test_web_page_of_allowed_origin_may_call[vscode-webview://1a2b]"
)
def answer_no_preflight(patch: Patch) -> None:
    patch.setattr(http, "CORSMiddleware", lambda app, **_: app)


@fault("tests/server/test_hosts.py::test_web_page_of_other_origin_may_not_ask")
def allow_web_pages_of_any_origin(patch: Patch) -> None:
    def middleware(app: ASGIApp, **options: Any) -> CORSMiddleware:
        return CORSMiddleware(app, **{**options, "allow_origins": ["*"]})

    patch.setattr(http, "CORSMiddleware", middleware)


@fault("tests/server/test_history.py::test_growth_is_that_of_a_day")
def count_growth_from_the_start(patch: Patch) -> None:
    patch.setattr(history, "_DAY_S", float("inf"))


@fault("tests/server/test_history.py::test_history_of_two_days_is_kept")
def remove_history_that_undelete_needs(patch: Patch) -> None:
    real = FileStore.prune_history

    def prune_history(self: FileStore, **options: Any) -> Any:
        return real(self, **{**options, "keep_since": None})

    patch.setattr(FileStore, "prune_history", prune_history)


@fault("tests/server/test_history.py::test_history_of_two_days_is_kept")
def keep_all_history(patch: Patch) -> None:
    real = FileStore.prune_history

    def prune_history(self: FileStore, **options: Any) -> Any:
        return real(self, **{**options, "keep_days": None})

    patch.setattr(FileStore, "prune_history", prune_history)


@fault("tests/server/test_history.py::test_growth_is_measured_in_little_memory")
def keep_the_size_of_each_probe(patch: Patch) -> None:
    patch.setattr(history, "_HOUR_S", 0.0)


@fault("tests/server/test_http.py::test_final_slash_makes_no_difference[/mcp/-405]")
def redirect_to_path_without_slash(patch: Patch) -> None:
    patch.setattr(http, "_without_final_slash", lambda app: app)


@fault("tests/server/test_http.py::test_answer_names_no_file[error0-full]")
def name_files_in_answers(patch: Patch) -> None:
    patch.setattr(readiness, "_code_of", str)


@fault("tests/server/test_http.py::test_unwritable_store_is_not_ready[_file_in_place_of_tmp]")
def skip_store_check_in_readiness(patch: Patch) -> None:
    patch.setattr(Readiness, "_check_store", nothing)


@fault("tests/server/test_http.py::test_journal_damaged_while_serving_is_not_ready")
def skip_journal_check_in_readiness(patch: Patch) -> None:
    patch.setattr(WriterSession, "check_journal", lambda _: None)


@fault("tests/server/test_http.py::test_unusable_provider_is_not_ready")
def skip_provider_check_in_readiness(patch: Patch) -> None:
    real = Readiness._code
    patch.setattr(
        Readiness,
        "_code",
        lambda self, name, check: real(self, name, nothing if name == "provider" else check),
    )


@fault("tests/server/test_http.py::test_missing_workspaces_directory_is_not_ready")
def forget_that_workspaces_exist(patch: Patch) -> None:
    patch.setattr(wiring, "any", lambda _: False, raising=False)


@fault("tests/server/test_http.py::test_descriptor_exhaustion_is_survived")
def retry_accept_without_pause(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from waggle_fsstore.server import http
http._OUT_OF_RESOURCES = ()
""",
    )


@fault("tests/server/test_log.py::test_repeated_loop_errors_are_summarised")
def log_every_repeated_loop_error(patch: Patch) -> None:
    patch.setattr(log, "_REPEAT_INTERVAL_S", 0)


# Metrics


@fault("tests/server/test_metrics.py::test_figures_are_counted_once_in_fifteen_seconds")
def count_figures_at_each_scrape(patch: Patch) -> None:
    patch.setattr(figures, "MAX_AGE_S", 0.0)


@fault("tests/server/test_metrics.py::test_page_and_metrics_count_together")
def count_figures_for_each_reader(patch: Patch) -> None:
    patch.setattr(figures, "MAX_AGE_S", 0.0)


@fault("tests/server/test_metrics.py::test_figures_are_counted_in_a_thread")
def count_figures_in_event_loop(patch: Patch) -> None:
    async def run_sync(function: Callable[[], object], **_: object) -> object:
        return function()

    patch.setattr(http, "to_thread", SimpleNamespace(run_sync=run_sync))


@fault("tests/server/test_metrics.py::test_environments_of_other_hosts_are_those_of_the_store")
def count_environments_of_all_hosts_as_own(patch: Patch) -> None:
    patch.setattr(SharedMembership, "owns", lambda *_: True)


@fault("tests/server/test_metrics.py::test_servers_of_one_process_count_separately")
def share_durations_of_calls(patch: Patch) -> None:
    shared: dict[tuple[str, ...], Histogram] = {}
    patch.setattr(CallDurations, "__init__", lambda self: setattr(self, "found", shared))


@fault("tests/server/test_metrics.py::test_metrics_that_fail_break_no_call")
def raise_errors_of_metrics(patch: Patch) -> None:
    patch.setattr(call_log, "Exception", KeyboardInterrupt, raising=False)


@fault("tests/server/test_metrics.py::test_metrics_need_a_token")
def show_metrics_to_everyone(patch: Patch) -> None:
    patch.setattr(auth, "HEALTH_PATHS", (*hosts.HEALTH_PATHS, "/metrics"))


@fault("tests/server/test_metrics.py::test_metrics_answer_to_allowed_hosts_only")
def show_metrics_by_any_host_name(patch: Patch) -> None:
    patch.setattr(hosts, "HEALTH_PATHS", (*hosts.HEALTH_PATHS, "/metrics"))


@fault("tests/server/test_metrics.py::test_metrics_name_no_environment_and_no_client")
def label_durations_with_client(patch: Patch) -> None:
    real = call_log.logged_call

    def logged_call(name: str, request: Any, on_end: Callable[..., object]) -> Any:
        return real(name, request, lambda _, *rest: on_end(actor_of(request), *rest))

    patch.setattr(tool, "logged_call", logged_call)


@fault("tests/server/test_metrics.py::test_metrics_answer_without_a_store")
def raise_errors_of_figures(patch: Patch) -> None:
    patch.setattr(figures, "WaggleError", ZeroDivisionError)


@fault("tests/server/test_metrics.py::test_metrics_say_what_was_done")
def measure_no_saves(patch: Patch) -> None:
    patch.setattr(Histogram, "add", nothing)


@fault("tests/server/test_metrics.py::test_metrics_are_those_of_the_table")
def describe_metrics_in_other_words(patch: Patch) -> None:
    real = metrics._gauge
    patch.setattr(metrics, "_gauge", lambda name, meaning, *rest: real(name, f"{meaning}!", *rest))


# Starting


@fault("tests/server/test_starting.py::test_second_http_server_is_refused")
def skip_http_lock(patch: Patch) -> None:
    def lock(name: str, location: str | None) -> ServerLock | None:
        return None if name == "http.lock" else server_lock(name, location)

    patch.setattr(lifecycle, "server_lock", lock)


@fault("tests/server/test_starting.py::test_second_http_server_is_refused")
def open_store_before_lock(patch: Patch) -> None:
    def lock(name: str, location: str | None) -> ServerLock | None:
        open_service(open_repository(location)).reconcile()
        return server_lock(name, location)

    patch.setattr(lifecycle, "server_lock", lock)


@fault("tests/server/test_starting.py::test_each_server_shows_that_it_runs")
def hide_servers_that_do_not_lead(patch: Patch) -> None:
    def announce(self: ServiceHost, _: int = 0) -> None:
        if self._leader is not None and self._leader.try_acquire() and self._presence:
            self._presence.try_acquire()

    patch.setattr(ServiceHost, "_announce", announce)


@fault("tests/server/test_starting.py::test_taken_port_is_refused")
def open_store_before_port(patch: Patch) -> None:
    def serve(settings: Settings, location: str) -> None:
        with ServiceHost(settings, location, is_http=True), http.listen(settings):
            pass

    patch.setattr(http, "serve", serve)


@fault("tests/server/test_starting.py::test_server_begins_no_store_beside_workspaces")
def begin_store_beside_workspaces(patch: Patch) -> None:
    patch.setattr(lifecycle, "require_store", nothing)


@fault("tests/server/test_starting.py::test_failed_start_releases_locks")
def keep_locks_after_failed_start(patch: Patch) -> None:
    patch.setattr(lifecycle, "_release", lambda *_: None)


@fault("tests/server/test_starting.py::test_first_server_leads")
def let_every_server_lead(patch: Patch) -> None:
    patch.setattr(ServiceHost, "try_to_lead", lambda _: True)


# Stopping


@fault("tests/server/test_starting.py::test_closing_twice_destroys_nothing")
def destroy_environments_on_close(patch: Patch) -> None:
    real = ServiceHost.close

    def close(self: ServiceHost) -> None:
        if not self._is_closed:
            for environment in self.service.find_all():
                self.service.destroy(environment.id)
        real(self)

    patch.setattr(ServiceHost, "close", close)


@fault("tests/server/test_shutdown.py::test_signal_without_wakeup_is_noticed[False-StdioServer]")
def never_wake_for_signals(patch: Patch) -> None:
    code = "from waggle_fsstore.server import shutdown; shutdown._WAKE_INTERVAL_S = 1000\n"
    _in_processes(patch, code)
    patch.setattr("tests.server.test_shutdown.END_TIMEOUT_S", 5)


@fault("tests/server/test_shutdown.py::test_signal_after_end_of_input_is_harmless[15]")
def raise_on_signal_to_closed_loop(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from contextlib import nullcontext
from waggle_fsstore.server import shutdown
shutdown.suppress = nullcontext
""",
    )


@fault(f"{_SIGNAL_DURING_START}[lifecycle.open_service-HttpServer-15]")
def ignore_signals_during_start(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from waggle_fsstore.server import shutdown
shutdown._stop_on_signals = lambda _: None
""",
    )


@fault(f"{_SIGNAL_DURING_START}[environments.finish_interrupted-StdioServer-2]")
def ignore_interrupt_during_reconcile(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from waggle_fsstore.service.environments import EnvironmentService
def reconcile(self, *, is_stopping, real=EnvironmentService.reconcile):
    return real(self)
EnvironmentService.reconcile = reconcile
""",
    )


@fault("tests/server/test_shutdown.py::test_signal_ends_server_in_order[15-StdioServer]")
def leave_store_open(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from waggle_fsstore.store.file_store import FileStore
FileStore.close = lambda self: None
""",
    )


@fault("tests/server/test_shutdown.py::test_signal_removes_temporary_workspaces")
def leave_temporary_workspaces(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from waggle_fsstore.server import shutdown
shutdown.remove_temporary_workspaces = lambda: None
""",
    )


@fault("tests/server/test_shutdown.py::test_signals_end_server_despite_hanging_call[StdioServer]")
def wait_for_calls_before_exit(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from waggle_fsstore.server import shutdown
shutdown.schedule_stop = lambda host, grace_s: host.close()
""",
    )
    patch.setattr("tests.server.test_shutdown.END_TIMEOUT_S", 5.0)


@fault("tests/server/test_stdio.py::test_prints_go_to_log")
def print_warnings_past_the_log(patch: Patch) -> None:
    _in_processes(
        patch,
        """
import logging
logging.captureWarnings = lambda _: None
""",
    )


@fault(
    "tests/server/test_crashes.py::test_kill_during_create_leaves_destroyable_error[layout.write_new-shell]"
)
def skip_reconcile_at_start(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.service.reconcile import Reconciliation
EnvironmentService.reconcile = lambda self, is_stopping: Reconciliation()
""",
    )


# Sessions


@fault("tests/server/test_sessions.py::test_session_outlives_its_server[2025-11-25]")
def accept_only_own_sessions(patch: Patch) -> None:
    own: set[str] = set()
    begin, parse = Session.begin, Session.parse

    def remember(connection: Connection) -> Session:
        session = begin(connection)
        own.add(str(session))
        return session

    patch.setattr(Session, "begin", remember)
    patch.setattr(Session, "parse", lambda text: parse(text) if text in own else None)
    real = ServiceHost.close

    def close(self: ServiceHost) -> None:
        own.clear()
        real(self)

    patch.setattr(ServiceHost, "close", close)


@fault("tests/server/test_sessions.py::test_session_outlives_its_server[2025-06-18]")
def leave_client_name_out_of_session(patch: Patch) -> None:
    real = Session.__str__
    patch.setattr(Session, "__str__", lambda self: real(self._replace(name="")))


@fault("tests/server/test_sessions.py::test_abandoned_sessions_cost_nothing")
def keep_every_session(patch: Patch) -> None:
    kept: list[Connection] = []
    real = Session.begin

    def begin(connection: Connection) -> Session:
        kept.append(connection)
        return real(connection)

    patch.setattr(Session, "begin", begin)


@fault("tests/server/test_sessions.py::test_ended_session_is_refused")
def forget_ended_sessions(patch: Patch) -> None:
    patch.setattr(Sessions, "_delete", lambda *_: Response())


@fault("tests/server/test_sessions.py::test_cancellation_finds_its_request[number]")
def ignore_cancellation(patch: Patch) -> None:
    patch.setattr(Sessions, "_notice", nothing)


@fault("tests/server/test_sessions.py::test_cancellation_concerns_one_session")
def find_requests_of_any_session(patch: Patch) -> None:
    real = Session.parse

    def parse(text: str) -> Session | None:
        session = real(text)
        return session and session._replace(nonce="x" * 22)

    patch.setattr(Session, "parse", parse)


@fault("tests/server/test_sessions.py::test_lost_connection_is_no_cancellation")
def cancel_on_lost_connection(patch: Patch) -> None:
    real = Exchange.run

    async def run(self: Exchange, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        async def watch() -> None:
            while (await self._request.receive())["type"] != "http.disconnect":
                pass
            self.cancel()

        watching = asyncio.create_task(watch())
        answer = await real(self, work)
        watching.cancel()
        return answer

    patch.setattr(Exchange, "run", run)


@fault("tests/server/test_sessions.py::test_long_call_is_answered_by_a_stream")
def leave_long_calls_silent(patch: Patch) -> None:
    async def ping(_: Exchange) -> None:
        pass

    patch.setattr(Exchange, "_ping", ping)


# Authentication


@fault("tests/server/test_auth.py::test_other_credentials_are_refused[None]")
def accept_requests_without_header(patch: Patch) -> None:
    real = Authentication._find
    patch.setattr(
        Authentication, "_find", lambda self, secret: real(self, secret) if secret else _ANY_TOKEN
    )


@fault("tests/server/test_auth.py::test_other_credentials_are_refused[Bearer maja]")
def accept_any_token(patch: Patch) -> None:
    patch.setattr(Authentication, "_find", lambda _, secret: _ANY_TOKEN if secret else None)


@fault(
    "tests/server/test_auth.py::test_other_credentials_are_refused[Basic one-token-of-the-server]"
)
def accept_any_scheme(patch: Patch) -> None:
    def secret(headers: Headers) -> str:
        return headers.get("authorization", "").rpartition(" ")[2]

    patch.setattr(auth, "_secret", secret)


@fault("tests/server/test_auth.py::test_health_needs_no_token[/readyz]")
def check_token_of_probes(patch: Patch) -> None:
    patch.setattr(auth, "HEALTH_PATHS", ())


@fault("tests/server/test_auth.py::test_token_check_covers_every_other_path[GET-/docs]")
def check_token_of_protocol_only(patch: Patch) -> None:
    real = Authentication.__call__

    async def call(self: Authentication, scope: Any, receive: Any, send: Any) -> None:
        is_protocol = scope.get("path") == "/mcp"
        await (partial(real, self) if is_protocol else self._app)(scope, receive, send)

    patch.setattr(Authentication, "__call__", call)


@fault("tests/server/test_auth.py::test_preflight_needs_no_token")
def check_token_of_preflight(patch: Patch) -> None:
    _put_authentication_outside(patch)


@fault("tests/server/test_auth.py::test_web_page_can_read_refusal")
def refuse_web_pages_without_their_headers(patch: Patch) -> None:
    _put_authentication_outside(patch)


def _put_authentication_outside(patch: Patch) -> None:
    """Have the check of tokens around that of origins by the browser."""

    def middleware(app: Authentication, **options: Any) -> ASGIApp:
        return Authentication(CORSMiddleware(app._app, **options), app._tokens)

    patch.setattr(http, "CORSMiddleware", middleware)


@fault("tests/server/test_auth.py::test_refusal_reads_no_body")
def read_body_before_refusal(patch: Patch) -> None:
    real = Authentication.__call__

    async def call(self: Authentication, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await receive()
        await real(self, scope, receive, send)

    patch.setattr(Authentication, "__call__", call)


@fault("tests/server/test_auth.py::test_history_names_the_token[legacy]")
def leave_token_out_of_actor(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from waggle_fsstore.server import calls
calls.caller_of = lambda _: ""
""",
    )


@fault("tests/server/test_auth.py::test_session_of_another_token_is_refused")
def skip_caller_of_sessions(patch: Patch) -> None:
    patch.setattr(sessions, "caller_of", lambda _: "")


@fault("tests/server/test_auth.py::test_altered_session_id_reaches_no_other_session")
def know_sessions_by_nonce_alone(patch: Patch) -> None:
    patch.setattr(Sessions, "_session", _session_by_nonce)


def _session_by_nonce(self: Sessions, request: Request) -> Session | Response:
    session = Session.parse(request.headers["mcp-session-id"])
    is_ended = session is None or any(session.nonce in key for key in self._ended)
    return Response(status_code=404) if session is None or is_ended else session


@fault("tests/server/test_auth.py::test_failures_are_limited")
def never_limit_failures(patch: Patch) -> None:
    patch.setattr(Failures, "add", lambda *_: 0)


@fault("tests/server/test_auth.py::test_failures_are_limited")
def limit_right_tokens(patch: Patch) -> None:
    real = Authentication._find

    def find(self: Authentication, secret: str) -> AccessToken | None:
        known = real(self, secret)
        return None if any(len(it) == 10 for it in self.failures._times.values()) else known

    patch.setattr(Authentication, "_find", find)


@fault("tests/server/test_auth.py::test_header_does_not_change_the_address")
def believe_header_about_address(patch: Patch) -> None:
    _in_processes(
        patch,
        """
import uvicorn
real = uvicorn.Config.__init__
uvicorn.Config.__init__ = lambda *args, **options: real(*args, **{**options, "proxy_headers": True})
""",
    )


@fault("tests/server/test_auth.py::test_remembered_failures_are_bounded")
def remember_every_address(patch: Patch) -> None:
    class Unbounded(OrderedDict[Any, Any]):
        def popitem(self, last: bool = True) -> Any:
            """Keep all."""

    patch.setattr(auth, "OrderedDict", Unbounded)


@fault("tests/server/test_auth.py::test_token_is_never_shown")
def show_token_in_repr(patch: Patch) -> None:
    patch.setattr(
        AccessToken, "__repr__", lambda self: f"AccessToken({self.name}, {self.digest!r})"
    )


@fault("tests/server/test_auth.py::test_bad_token_is_refused_unseen[aaaaaaaaaaaaaaa]")
def show_token_in_error(patch: Patch) -> None:
    def token(text: str) -> tuple[AccessToken, ...]:
        try:
            return (AccessToken.parse(text),)
        except ValueError as error:
            raise ValueError(f"is {text!r}, which {error}") from None

    patch.setattr(config, "_token", token)


@fault("tests/server/test_auth.py::test_open_tokens_file_is_refused[416]")
def read_tokens_that_others_can_read(patch: Patch) -> None:
    patch.setattr(config, "_OTHERS", 0)


@fault("tests/server/test_auth.py::test_open_address_requires_token[0.0.0.0:0]")
def listen_everywhere_without_token(patch: Patch) -> None:
    real = http.listen
    patch.setattr(http, "listen", lambda settings: real(replace(settings, allow_anonymous=True)))
    patch.setattr(http, "run", nothing)


# Calls for other hosts


@fault("tests/server/test_forwarding.py::test_forwarded_call_is_not_forwarded")
def forward_forwarded_calls(patch: Patch) -> None:
    passed: list[object] = []

    def is_forwarded(request: object) -> bool:
        passed.append(request)
        return len(passed) > 5  # Else the test would not end.

    patch.setattr(forwarding, "is_forwarded", is_forwarded)


@fault("tests/server/test_forwarding.py::test_other_callers_name_no_actor[the-token-of-maja-0]")
def trust_actor_of_any_token(patch: Patch) -> None:
    real = Authentication.__init__

    def init(self: Authentication, app: ASGIApp, *arguments: Any, **options: Any) -> None:
        async def trust(scope: Any, receive: Any, send: Any) -> None:
            actor = auth._actor(Headers(scope=scope)) if scope["type"] == "http" else ""
            await app({**scope, auth._ACTOR: actor}, receive, send)

        real(self, trust, *arguments, **options)

    patch.setattr(Authentication, "__init__", init)


@fault("tests/server/test_forwarding.py::test_error_shows_no_address_and_no_token")
def show_url_in_error(patch: Patch) -> None:
    real = Forwarder.forward

    async def forward(self: Forwarder, ctx: Any, params: Any, other: Any, kind: Any) -> Any:
        try:
            return await real(self, ctx, params, other, kind)
        except HostUnreachableError as error:
            reason = f"{other.url}: {error.reason}"
            raise HostUnreachableError(error.environment_id, error.host, reason) from None

    patch.setattr(Forwarder, "forward", forward)


@fault("tests/server/test_forwarding.py::test_cancellation_reaches_other_host[auto]")
def drop_cancellation_of_forwarded_call(patch: Patch) -> None:
    real = Forwarder._call

    async def call(self: Forwarder, *arguments: Any) -> Any:
        return await asyncio.shield(asyncio.ensure_future(real(self, *arguments)))

    patch.setattr(Forwarder, "_call", call)
    patch.setattr("tests.server.test_forwarding.TIMEOUT_S", 4)


@fault("tests/server/test_forwarding.py::test_cluster_token_is_accepted_beside_others")
def accept_no_cluster_token(patch: Patch) -> None:
    patch.setattr(Authentication, "_is_of_cluster", lambda *_: False)


@fault("tests/server/test_forwarding.py::test_cluster_token_is_accepted_beside_others")
def close_loopback_with_cluster_token(patch: Patch) -> None:
    patch.setattr(
        Settings, "requires_token", property(lambda self: self.tokens or self.cluster_token)
    )


@fault("tests/server/test_forwarding.py::test_cluster_token_alone_closes_open_address")
def open_address_with_cluster_token(patch: Patch) -> None:
    patch.setattr(Settings, "requires_token", property(lambda self: bool(self.tokens)))
    real = http.listen
    patch.setattr(http, "listen", lambda settings: real(replace(settings, allow_anonymous=True)))


@fault("tests/server/test_forwarding.py::test_cluster_token_is_never_shown")
def show_cluster_token_in_repr(patch: Patch) -> None:
    patch.setattr(ClusterToken, "__repr__", lambda self: f"ClusterToken({self.secret})")


@fault("tests/server/test_forwarding.py::test_cluster_token_of_a_caller_is_refused")
def let_caller_have_cluster_token(patch: Patch) -> None:
    patch.setattr(ClusterToken, "received", _ANY_TOKEN)


@fault("tests/server/test_forwarding.py::test_other_host_names_the_caller")
def keep_caller_from_other_host(patch: Patch) -> None:
    patch.setattr(forwarding, "actor_of", lambda _: "")


@fault(
    "tests/server/test_forwarding.py::test_strange_answer_is_a_typed_error"
    "[-the connection was lost; the call may have been executed]"
)
def repeat_forwarded_call(patch: Patch) -> None:
    real = Forwarder._call

    async def call(self: Forwarder, *arguments: Any) -> Any:
        try:
            return await real(self, *arguments)
        except Exception:  # noqa: BLE001  # Any kind of error.
            return await real(self, *arguments)

    patch.setattr(Forwarder, "_call", call)


@fault("tests/server/test_forwarding.py::test_error_shows_no_address_and_no_token")
def log_token_of_cluster(patch: Patch) -> None:
    real = Forwarder._call

    async def call(self: Forwarder, ctx: Any, url: str, headers: Any, params: Any) -> Any:
        logging.getLogger("waggle_fsstore").debug("%s %s", url, headers)
        return await real(self, ctx, url, headers, params)

    patch.setattr(Forwarder, "_call", call)


@fault("tests/server/test_forwarding.py::test_progress_and_large_output_are_passed_on")
def take_small_answers_only(patch: Patch) -> None:
    def small(url: str, *, http_client: Any, **_: object) -> Any:
        return streamable_http_client(url, http_client=http_client)

    patch.setattr(forwarding, "streamable_http_client", small)


@fault("tests/server/test_forwarding.py::test_progress_and_large_output_are_passed_on")
def keep_progress_of_other_host(patch: Patch) -> None:
    real = Forwarder._call

    async def call(self: Forwarder, _: Any, *arguments: Any) -> Any:
        async def report(*_: object, **__: object) -> None:
            pass

        silent: Any = SimpleNamespace(report_progress=report)
        return await real(self, silent, *arguments)

    patch.setattr(Forwarder, "_call", call)
    patch.setattr("tests.server.test_forwarding.TIMEOUT_S", 4)


@fault("tests/server/test_forwarding.py::test_server_answers_to_name_in_its_url")
def refuse_name_in_own_url(patch: Patch) -> None:
    patch.setattr(hosts, "configured_hosts", lambda settings: settings.allowed_hosts)


# Connections


@fault("tests/server/test_connections.py::test_half_open_connection_is_closed[first-a head]")
def wait_forever_for_requests(patch: Patch) -> None:
    patch.setattr(HttpConnection, "_watch", nothing)
    patch.setattr("tests.server.test_connections.TIMEOUT_S", 1)


@fault("tests/server/test_connections.py::test_slow_request_gets_no_more_time")
def extend_timeout_with_each_byte(patch: Patch) -> None:
    real = HttpConnection._watch

    def watch(self: HttpConnection) -> None:
        self._unset_timeout()
        real(self)
        if self._timeout is not None:  # On a loaded machine, the next byte may come late.
            self._timeout.cancel()
            self._timeout = self.loop.call_later(60, self.close)

    patch.setattr(HttpConnection, "_watch", watch)
    patch.setattr("tests.server.test_connections.TIMEOUT_S", 1)


@fault("tests/server/test_connections.py::test_longest_idle_connection_makes_room")
def close_newest_connection(patch: Patch) -> None:
    patch.setattr(connections, "attrgetter", lambda _: lambda one: -one.waiting_since)
    patch.setattr("tests.server.test_connections.TIMEOUT_S", 1)


@fault("tests/server/test_connections.py::test_busy_connections_stay")
def close_busy_connections(patch: Patch) -> None:
    patch.setattr(HttpConnection, "_is_waiting", lambda _: True)


@fault("tests/server/test_connections.py::test_idle_connection_outlasts_its_client")
def close_idle_connections_early(patch: Patch) -> None:
    patch.setattr(http, "_KEEP_ALIVE_S", 5)


# Calls


@fault("tests/server/test_cancelled_calls.py::test_notification_cancels_creation")
def ignore_cancellation_by_notification(patch: Patch) -> None:
    patch.setattr("tests.service.fakes.TIMEOUT_S", 1.0)
    patch.setattr(Calls, "observe", lambda _, ctx, call_next: call_next(ctx))


@fault("tests/server/test_cancelled_calls.py::test_notification_cancels_only_its_call")
def cancel_all_calls_of_a_client(patch: Patch) -> None:
    real = Calls.observe

    async def observe(self: Calls, ctx: Any, call_next: Any) -> Any:
        if ctx.method == "notifications/cancelled":
            for cancellation in self._in_progress.values():
                cancellation.request()
        return await real(self, ctx, call_next)

    patch.setattr(Calls, "observe", observe)


@fault("tests/server/test_cancelled_calls.py::test_closed_stream_cancels_creation")
def finish_creation_after_its_stream_is_closed(patch: Patch) -> None:
    async def cancel(*_: object) -> None:
        """Cancel nothing."""

    patch.setattr("tests.service.fakes.TIMEOUT_S", 1.0)
    patch.setattr(Calls, "_cancel", cancel)


@fault("tests/server/test_cancelled_calls.py::test_end_of_server_is_no_cancellation")
def cancel_calls_at_end_of_server(patch: Patch) -> None:
    real = Calls.__init__
    patch.setattr(Calls, "__init__", lambda self, _: real(self, lambda: False))


@fault("tests/server/test_cancelled_calls.py::test_lost_client_is_no_cancellation")
def cancel_calls_of_a_lost_client(patch: Patch) -> None:
    patch.setattr("tests.service.fakes.TIMEOUT_S", 5.0)
    real = Calls.make

    async def make(self: Calls, request: Any, *arguments: Any, **options: Any) -> Any:
        return await real(self, replace(request, request=object()), *arguments, **options)

    patch.setattr(Calls, "make", make)


# Arguments


@fault("tests/server/test_arguments.py::test_huge_number_is_refused_for_every_argument")
def print_huge_numbers(patch: Patch) -> None:
    """A number of any length is shown as its digits, which Python refuses to make."""
    patch.setattr(arguments, "_MAX_DIGITS", 10**4)


@fault("tests/server/test_tools.py::test_create_refuses_invalid_arguments")
def ignore_unknown_arguments(patch: Patch) -> None:
    real = Arguments.parse

    def parse(self: Arguments, sent: dict[str, object]) -> dict[str, Any]:
        known = {*self.known, "language"}
        return real(self, {name: value for name, value in sent.items() if name in known})

    patch.setattr(Arguments, "parse", parse)


@fault("tests/server/test_tools.py::test_values_of_one_meaning_are_taken")
def refuse_numbers_in_quotes(patch: Patch) -> None:
    real = WholeNumber.parse

    def parse(self: WholeNumber, value: object) -> int:
        return real(self, None if isinstance(value, str) else value)

    patch.setattr(WholeNumber, "parse", parse)


@fault("tests/server/test_tools.py::test_arguments_have_plain_types")
def declare_optional_arguments_as_nullable(patch: Patch) -> None:
    patch.setattr(Text, "schema", lambda _: {"anyOf": [{"type": "string"}, {"type": "null"}]})


@fault("tests/server/test_tools.py::test_texts_do_not_depend_on_docstrings")
def describe_results_by_docstring(patch: Patch) -> None:
    described = create_model("DestroyResult", __doc__="An outcome.")
    patch.setitem(tools.Tools.destroy_environment.__annotations__, "return", described)


@fault("tests/server/test_tools.py::test_live_environments_are_listed_as_resources")
def list_resources_without_pages(patch: Patch) -> None:
    patch.setattr(tools, "_RESOURCE_PAGE_SIZE", 1_000)


@fault("tests/server/test_tools.py::test_prompts_are_not_declared")
def declare_prompts(patch: Patch) -> None:
    async def declare(ctx: Any, call_next: Any) -> Any:
        return await call_next(ctx)

    patch.setattr(tools, "_without_prompts", declare)


# Leadership


@fault("tests/server/test_leadership.py::test_follower_replaces_silent_leader")
def wait_for_stalled_leader(patch: Patch) -> None:
    patch.setattr(Leadership, "_is_silent", lambda *_: False)


@fault("tests/server/test_leadership.py::test_suspension_of_follower_is_not_silence")
def count_suspension_as_silence(patch: Patch) -> None:
    def is_silent(self: Leadership, lock: ServerLock) -> bool:
        if lock.last_beat() != self._beat:
            self._beat, self._looked_at = lock.last_beat(), self._uptime()
        return self._uptime() - self._looked_at >= self._patience.total_seconds()

    patch.setattr(Leadership, "_is_silent", is_silent)


@fault("tests/server/test_leadership.py::test_leader_beats")
def lead_without_beats(patch: Patch) -> None:
    patch.setattr(ServerLock, "beat", lambda _: None)


@fault("tests/server/test_leadership.py::test_readiness_reports_stalled_leader")
def report_stalled_leader_as_ok(patch: Patch) -> None:
    patch.setattr(ServiceHost, "is_substitute", False)


@fault("tests/server/test_stdio.py::test_nonsense_is_answered_by_errors")
def drop_lines_that_are_no_message(patch: Patch) -> None:
    patch.setattr("tests.server.processes.TIMEOUT_S", 5.0)
    _in_processes(
        patch,
        """
from waggle_fsstore.server import stdio
stdio._error = lambda _: None
""",
    )


@fault("tests/server/test_call_log.py::test_each_call_has_one_entry")
def log_the_call_with_its_arguments(patch: Patch) -> None:
    parse = arguments.Arguments.parse

    def parse_and_log(self: arguments.Arguments, sent: dict[str, object]) -> dict[str, Any]:
        logging.getLogger("waggle_fsstore").info("call with %s", sent)
        return parse(self, sent)

    patch.setattr(arguments.Arguments, "parse", parse_and_log)


@fault("tests/server/test_log.py::test_text_is_for_people")
def show_control_characters(patch: Patch) -> None:
    patch.setattr(log, "_printable", str)


# Work inside environments

_INSIDE = "tests/server/test_workspace_tools.py"


@fault(f"{_INSIDE}::test_cancelled_execution_is_stopped")
def ignore_client_that_gives_up(patch: Patch) -> None:
    patch.setattr(test_workspace_tools, "ENDLESS", "touch started; echo 1 > child; sleep 2")
    patch.setattr(Cancellation, "is_requested", False)


@fault(f"{_INSIDE}::test_log_has_digest_and_no_code")
def log_code_of_programs(patch: Patch) -> None:
    real = WorkspaceTools.execute

    def execute(self: WorkspaceTools, call: Call, environment_id: str, code: str) -> Any:
        call.entry.fields["code"] = code
        return real(self, call, environment_id, code)

    patch.setattr(WorkspaceTools, "execute", _like(execute, real))


def _like(function: Any, real: Any) -> Any:
    function.__signature__ = inspect.signature(real)
    return function


@fault(f"{_INSIDE}::test_longer_timeout_is_shortened")
def let_clients_choose_any_timeout(patch: Patch) -> None:
    patch.setattr(workspace_tools, "min", max, raising=False)


@fault(f"{_INSIDE}::test_parts_of_text_cut_no_character")
def cut_characters_between_parts(patch: Patch) -> None:
    patch.setattr(workspace_tools, "_MAX_CUT_BYTES", 0)


@fault(f"{_INSIDE}::test_server_without_execution_keeps_file_tools")
def list_tools_that_cannot_work(patch: Patch) -> None:
    patch.setattr(Workspaces, "why_no_execution", lambda _: "")


@fault(f"{_INSIDE}::test_network_decides_about_packages")
def offer_packages_without_network(patch: Patch) -> None:
    patch.setattr(Workspaces, "may_install", True)


@fault(f"{_INSIDE}::test_unisolated_execution_is_announced")
def hide_missing_isolation(patch: Patch) -> None:
    patch.setattr(tools, "_UNISOLATED", "")


@fault(f"{_INSIDE}::test_long_call_reports_progress")
def keep_silent_about_long_calls(patch: Patch) -> None:
    async def keep_silent(_: object) -> None: ...

    patch.setattr(tool, "_report_progress", keep_silent)


@fault("tests/server/test_starting.py::test_execution_that_needs_token_is_refused")
def allow_everything_on_loopback(patch: Patch) -> None:
    patch.setattr(http, "_check_power", nothing)


@fault("tests/server/test_starting.py::test_required_isolation_stops_start")
def start_without_required_isolation(patch: Patch) -> None:
    patch.setattr(ServiceHost, "_check_execution", nothing)


# Labels

_LABELS = "tests/server/test_labels.py"


@fault(f"{_LABELS}::test_list_has_only_those_with_labels")
def list_environments_with_any_labels(patch: Patch) -> None:
    patch.setattr(Environment, "has_labels", lambda *_: True)


@fault(f"{_LABELS}::test_dry_run_says_what_would_be_destroyed")
def destroy_in_dry_run(patch: Patch) -> None:
    real = Tools.destroy_environments

    def destroy_environments(
        self: Tools, call: Call, labels: Any, dry_run: bool = True, count: int | None = None
    ) -> Any:
        return real(self, call, labels, dry_run and count is None, count)

    patch.setattr(Tools, "destroy_environments", _like(destroy_environments, real))


@fault(f"{_LABELS}::test_label_of_pip_is_reserved")
def let_clients_set_label_of_pip(patch: Patch) -> None:
    patch.setattr(tools, "_with_pip", lambda labels, **_: labels)


@fault(f"{_LABELS}::test_labels_of_one_meaning_are_taken[a=1,b=2-labels2]")
def refuse_labels_in_a_text(patch: Patch) -> None:
    patch.setattr(arguments, "_pairs", nothing)


@fault(f"{_LABELS}::test_invalid_labels_are_refused[sent17-labels must have 0 to 20 labels]")
def take_any_number_of_labels(patch: Patch) -> None:
    patch.setattr(arguments, "MAX_LABELS", 1_000)


@fault(f"{_LABELS}::test_operator_may_allow_longer_timeouts")
def ignore_maximum_of_operator(patch: Patch) -> None:
    patch.setattr(config, "_max_timeout", lambda _: timedelta(hours=1))
