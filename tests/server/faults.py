# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the server: each breaks one of its promises."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import create_model
from starlette.types import Receive, Scope, Send

from tests.planted import Patch, fault
from tests.server import processes
from waggle_fsstore import wiring
from waggle_fsstore.config import Settings
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.server import http, json_log, lifecycle, readiness, tools
from waggle_fsstore.server.arguments import Arguments, Text, WholeNumber
from waggle_fsstore.server.calls import Calls
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.store.server_lock import ServerLock
from waggle_fsstore.store.write.session import WriterSession
from waggle_fsstore.wiring import open_repository, open_service, server_lock

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

    patch.setattr(tools, "_tool_errors", tool_errors)


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
    patch.setattr(tools, "_actor", lambda _: "mcp")


@fault("tests/server/test_tools.py::test_hostile_client_name_is_made_printable")
def keep_raw_client_name(patch: Patch) -> None:
    def actor(ctx: Context[Any]) -> str:
        params = ctx.request_context.session.client_params
        return f"mcp:{params.client_info.name}" if params else "mcp"

    patch.setattr(tools, "_actor", actor)


@fault("tests/server/test_http.py::test_busy_writers_block_no_reader")
def run_writers_in_reader_threads(patch: Patch) -> None:
    patch.setattr(processes, "TIMEOUT_S", 10.0)
    _in_processes(
        patch,
        """
from waggle_fsstore.server import tools
tools.in_threads = lambda _, call: call
""",
    )


# HTTP


@fault("tests/server/test_http.py::test_host_check_covers_every_path[/healthz]")
def check_host_of_protocol_only(patch: Patch) -> None:
    real = http._Guard.__call__

    async def guard(self: http._Guard, scope: Scope, receive: Receive, send: Send) -> None:
        await (
            real(self, scope, receive, send)
            if scope["path"] == "/mcp"
            else self._app(scope, receive, send)
        )

    patch.setattr(http._Guard, "__call__", guard)


@fault("tests/server/test_http.py::test_unwritable_store_is_not_ready[_file_in_place_of_tmp]")
def skip_store_check_in_readiness(patch: Patch) -> None:
    patch.setattr(readiness, "_store_status", lambda _: "ok")


@fault("tests/server/test_http.py::test_journal_damaged_while_serving_is_not_ready")
def skip_journal_check_in_readiness(patch: Patch) -> None:
    patch.setattr(WriterSession, "check_journal", lambda _: None)


@fault("tests/server/test_http.py::test_unusable_provider_is_not_ready")
def skip_provider_check_in_readiness(patch: Patch) -> None:
    patch.setattr(readiness, "_provider_status", lambda _: "ok")


@fault("tests/server/test_http.py::test_missing_workspaces_directory_is_not_ready")
def forget_that_workspaces_exist(patch: Patch) -> None:
    patch.setattr(wiring, "any", lambda _: False, raising=False)


@fault("tests/server/test_http.py::test_damaged_document_and_orphan_stay_ready")
def report_undecoded_file_names(patch: Patch) -> None:
    patch.setattr(readiness, "_as_text", list)


@fault("tests/server/test_http.py::test_descriptor_exhaustion_is_survived")
def retry_accept_without_pause(patch: Patch) -> None:
    _in_processes(
        patch,
        """
from waggle_fsstore.server import http
http._OUT_OF_RESOURCES = ()
""",
    )


@fault("tests/server/test_json_log.py::test_repeated_loop_errors_are_summarised")
def log_every_repeated_loop_error(patch: Patch) -> None:
    patch.setattr(json_log, "_REPEAT_INTERVAL_S", 0)


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


@fault("tests/server/test_starting.py::test_taken_port_is_refused")
def open_store_before_port(patch: Patch) -> None:
    def serve(settings: Settings, location: str) -> None:
        with ServiceHost(settings, location, is_http=True), http.listen(settings):
            pass

    patch.setattr(http, "serve", serve)


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
    patch.setattr("tests.server.test_shutdown.END_TIMEOUT_S", 10.0)


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
    "tests/server/test_crashes.py::test_kill_during_create_leaves_destroyable_error[write_new-shell]"
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


@fault("tests/server/test_cancelled_calls.py::test_lost_client_is_no_cancellation")
def cancel_calls_of_a_lost_client(patch: Patch) -> None:
    real = Calls.make

    async def make(self: Calls, request: Any, *arguments: Any, **options: Any) -> Any:
        return await real(self, replace(request, request=object()), *arguments, **options)

    patch.setattr(Calls, "make", make)


# Arguments


@fault("tests/server/test_tools.py::test_create_refuses_invalid_arguments")
def ignore_unknown_arguments(patch: Patch) -> None:
    real = Arguments.parse

    def parse(self: Arguments, sent: dict[str, object]) -> dict[str, Any]:
        known = {*self.known, "language"}
        return real(self, {name: value for name, value in sent.items() if name in known})

    patch.setattr(Arguments, "parse", parse)


@fault("tests/server/test_tools.py::test_values_of_one_meaning_are_taken")
def refuse_numbers_in_quotes(patch: Patch) -> None:
    real = WholeNumber._number
    patch.setattr(
        WholeNumber,
        "_number",
        lambda self, value: None if isinstance(value, str) else real(self, value),
    )


@fault("tests/server/test_tools.py::test_arguments_have_plain_types")
def declare_optional_arguments_as_nullable(patch: Patch) -> None:
    patch.setattr(Text, "schema", lambda _: {"anyOf": [{"type": "string"}, {"type": "null"}]})


@fault("tests/server/test_tools.py::test_texts_do_not_depend_on_docstrings")
def describe_results_by_docstring(patch: Patch) -> None:
    patch.setattr(tools, "DestroyResult", create_model("DestroyResult", __doc__="An outcome."))


@fault("tests/server/test_tools.py::test_live_environments_are_listed_as_resources")
def list_resources_without_pages(patch: Patch) -> None:
    patch.setattr(tools, "_RESOURCE_PAGE_SIZE", 1_000)


@fault("tests/server/test_tools.py::test_prompts_are_not_declared")
def declare_prompts(patch: Patch) -> None:
    async def declare(ctx: Any, call_next: Any) -> Any:
        return await call_next(ctx)

    patch.setattr(tools, "_without_prompts", declare)
