# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the server: each breaks one thing that it promises."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from starlette.types import Receive, Scope, Send

from tests.planted import Patch, fault
from tests.server import processes
from waggle_fsstore import wiring
from waggle_fsstore.config import Settings
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.server import http, json_log, lifecycle, readiness, tools
from waggle_fsstore.server.lifecycle import Serving
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.store.server_lock import ServerLock
from waggle_fsstore.store.write.session import Position
from waggle_fsstore.wiring import open_repository, open_service, server_lock

_DURING_THE_START = "tests/server/test_shutdown.py::test_a_signal_during_the_start"


def _in_processes(patch: Patch, code: str) -> None:
    """Plant it in the servers that a test starts."""
    patch.setattr(processes, "START", code + processes.START)


# The tools


@fault("tests/server/test_errors.py::test_no_error_tells_where_the_store_is")
def errors_told_as_they_are(patch: Patch) -> None:
    patch.setattr(tools, "reason_of", str)


@fault("tests/server/test_errors.py::test_what_nobody_expects[RuntimeError]")
def bugs_told_as_they_are(patch: Patch) -> None:
    @contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  # That is the fault.
            raise ToolError(str(error)) from None

    patch.setattr(tools, "_told", told)


@fault("tests/server/test_tools.py::test_unreadable_documents_are_listed")
def unreadable_documents_left_out(patch: Patch) -> None:
    real = EnvironmentService.find_all

    def find_all(
        self: EnvironmentService, *, on_corrupt: Callable[[Exception], object] | None = None
    ) -> list[Environment]:
        return real(self, on_corrupt=on_corrupt and (lambda _: None))

    patch.setattr(EnvironmentService, "find_all", find_all)


@fault("tests/server/test_tools.py::test_after_the_last_one")
def pages_that_overlap(patch: Patch) -> None:
    patch.setattr(tools, "bisect_right", bisect_left)


@fault("tests/server/test_tools.py::test_get_counts_as_use")
def get_that_is_no_use(patch: Patch) -> None:
    patch.setattr(EnvironmentService, "touch", lambda *_: None)


@fault("tests/server/test_tools.py::test_history_names_the_client[legacy]")
def clients_without_a_name(patch: Patch) -> None:
    patch.setattr(tools, "_actor", lambda _: "mcp")


@fault("tests/server/test_tools.py::test_hostile_client_names")
def client_names_as_they_are(patch: Patch) -> None:
    def actor(ctx: Context[Any]) -> str:
        params = ctx.request_context.session.client_params
        return f"mcp:{params.client_info.name}" if params else "mcp"

    patch.setattr(tools, "_actor", actor)


@fault("tests/server/test_http.py::test_answers_while_all_threads_are_busy")
def readers_behind_writers(patch: Patch) -> None:
    patch.setattr(processes, "LONG", 10.0)
    _in_processes(
        patch,
        """
from waggle_fsstore.server import tools
tools.in_threads_of = lambda _, call: call
""",
    )


# HTTP


@fault("tests/server/test_http.py::test_the_check_stands_before_everything[/healthz]")
def only_the_protocol_is_guarded(patch: Patch) -> None:
    real = http._Guard.__call__

    async def guard(self: http._Guard, scope: Scope, receive: Receive, send: Send) -> None:
        await (
            real(self, scope, receive, send)
            if scope["path"] == "/mcp"
            else self._app(scope, receive, send)
        )

    patch.setattr(http._Guard, "__call__", guard)


@fault("tests/server/test_http.py::test_a_store_that_cannot_be_written[_tmp_in_the_way]")
def ready_without_a_look_at_the_store(patch: Patch) -> None:
    patch.setattr(readiness, "_store", lambda _: "ok")


@fault("tests/server/test_http.py::test_a_journal_that_is_damaged_while_it_serves")
def ready_until_the_next_crash(patch: Patch) -> None:
    patch.setattr(Position, "refuse_damage", lambda _: None)


@fault("tests/server/test_http.py::test_a_provider_that_cannot_work")
def ready_without_a_look_at_the_provider(patch: Patch) -> None:
    patch.setattr(readiness, "_provider", lambda _: "ok")


@fault("tests/server/test_http.py::test_a_folder_of_workspaces_that_is_not_there")
def workspaces_that_nobody_knows_of(patch: Patch) -> None:
    patch.setattr(wiring, "any", lambda _: False, raising=False)


@fault("tests/server/test_http.py::test_what_does_not_make_it_unready")
def names_that_are_no_text(patch: Patch) -> None:
    patch.setattr(readiness, "_as_text", list)


@fault("tests/server/test_http.py::test_more_connections_than_descriptors")
def accepting_all_the_time(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from waggle_fsstore.server import http
http._NO_MORE = ()
""",
    )


@fault("tests/server/test_json_log.py::test_what_an_event_loop_says_again")
def the_same_told_again_and_again(patch: Patch) -> None:
    patch.setattr(json_log, "_SILENCE", 0)


# Starting


@fault("tests/server/test_starting.py::test_a_store_that_is_served_already")
def two_servers_over_http(patch: Patch) -> None:
    def lock(name: str, location: str | None) -> ServerLock | None:
        return None if name == "http.lock" else server_lock(name, location)

    patch.setattr(lifecycle, "server_lock", lock)


@fault("tests/server/test_starting.py::test_a_store_that_is_served_already")
def store_opened_before_the_lock(patch: Patch) -> None:
    def lock(name: str, location: str | None) -> ServerLock | None:
        open_service(open_repository(location)).reconcile()
        return server_lock(name, location)

    patch.setattr(lifecycle, "server_lock", lock)


@fault("tests/server/test_starting.py::test_a_port_that_is_taken")
def store_opened_before_the_port(patch: Patch) -> None:
    def serve(settings: Settings, location: str) -> None:
        with Serving(settings, location, is_http=True), http.listen(settings):
            pass

    patch.setattr(http, "serve", serve)


@fault("tests/server/test_starting.py::test_a_start_that_fails_frees_the_store")
def failed_start_keeps_the_lock(patch: Patch) -> None:
    patch.setattr(lifecycle, "_release", lambda *_: None)


@fault("tests/server/test_starting.py::test_the_first_one_leads")
def everybody_leads(patch: Patch) -> None:
    patch.setattr(Serving, "try_to_lead", lambda _: True)


# Stopping


@fault("tests/server/test_starting.py::test_a_host_closes_once")
def closing_destroys(patch: Patch) -> None:
    real = Serving.close

    def close(self: Serving) -> None:
        if not self._is_closed:
            for environment in self.service.find_all():
                self.service.destroy(environment.id)
        real(self)

    patch.setattr(Serving, "close", close)


@fault("tests/server/test_shutdown.py::test_a_signal_that_wakes_nobody[False-StdioServer]")
def signals_seen_when_something_else_happens(patch: Patch) -> None:
    code = "from waggle_fsstore.server import shutdown; shutdown._WAKES_EVERY = 1000\n"
    _in_processes(patch, code)
    patch.setattr("tests.server.test_shutdown.IN_TIME", 5)


@fault("tests/server/test_shutdown.py::test_a_signal_after_the_input_was_closed[15]")
def signals_to_a_closed_loop(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from contextlib import nullcontext
from waggle_fsstore.server import shutdown
shutdown.suppress = nullcontext
""",
    )


@fault(f"{_DURING_THE_START}[serving.open_service-HttpServer-15]")
def a_start_that_no_signal_ends(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from waggle_fsstore.server import shutdown
shutdown._stop_at_signals = lambda _: None
""",
    )


@fault(f"{_DURING_THE_START}[environments.finish_interrupted-StdioServer-2]")
def reconciling_that_nothing_stops(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from waggle_fsstore.service.environments import EnvironmentService
def reconcile(self, *, is_stopping, real=EnvironmentService.reconcile):
    return real(self)
EnvironmentService.reconcile = reconcile
""",
    )


@fault("tests/server/test_shutdown.py::test_a_signal[15-StdioServer]")
def stores_left_open(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from waggle_fsstore.store.file_store import FileStore
FileStore.close = lambda self: None
""",
    )


@fault("tests/server/test_shutdown.py::test_signals_while_a_call_goes_on_and_on[StdioServer]")
def calls_waited_for(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from waggle_fsstore.server import shutdown
shutdown.stop_soon = lambda serving, grace: serving.close()
""",
    )
    patch.setattr("tests.server.test_shutdown.IN_TIME", 10.0)


@fault("tests/server/test_stdio.py::test_a_stray_print")
def warnings_beside_the_log(patch: Patch) -> None:
    _in_processes(
        patch,
        """
import logging
logging.captureWarnings = lambda _: None
""",
    )


@fault("tests/server/test_crashes.py::test_killed_while_it_creates[write_new-shell]")
def starts_without_reconciling(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.service.reconcile import Reconciliation
EnvironmentService.reconcile = lambda self, is_stopping: Reconciliation()
""",
    )
