# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the command line."""

import os
import time
from threading import Thread
from typing import Any

from tests.cli import forked
from tests.planted import Patch, fault, nothing
from waggle_fsstore import config
from waggle_fsstore.cli import app, environments, output, pass_through, table, terminal, top
from waggle_fsstore.cli.environment_ids import ShortIds
from waggle_fsstore.domain.duration import parse_duration
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.provider import executor
from waggle_fsstore.provider.background import Background
from waggle_fsstore.provider.files import WorkspaceFiles
from waggle_fsstore.store import server_lock
from waggle_fsstore.store.fs.lock import try_lock
from waggle_fsstore.store.server_lock import ServerPresence

_BESIDE = "tests/cli/test_beside_server.py"


@fault(f"{_BESIDE}::test_verb_beside_server_is_refused[rm alpha]")
def change_records_beside_server(patch: Patch) -> None:
    patch.setattr(environments, "refuse_beside_server", nothing)


@fault(f"{_BESIDE}::test_ended_server_refuses_nothing")
def take_dead_server_for_running_one(patch: Patch) -> None:
    patch.setattr(server_lock, "is_held", lambda _: True)


@fault(f"{_BESIDE}::test_rm_removes_workspace")
def remove_record_only(patch: Patch) -> None:
    def remove(store: Any, environment_id: str, _: Any, *, force: bool) -> None:  # noqa: ARG001
        store.delete(environment_id)

    patch.setattr(environments, "_remove", remove)


@fault(f"{_BESIDE}::test_rm_empties_trash_before_it_ends")
def leave_removed_files_to_a_server(patch: Patch) -> None:
    patch.setattr(Background, "wait", nothing)


@fault("tests/store/test_server_lock.py::test_concurrent_looks_see_no_server")
def look_for_servers_with_exclusive_lock(patch: Patch) -> None:
    patch.setattr("waggle_fsstore.store.fs.lock._try_lock_shared", try_lock)


@fault("tests/store/test_server_lock.py::test_presence_is_visible_while_server_runs")
def keep_file_of_ended_server(patch: Patch) -> None:
    patch.setattr(ServerPresence, "_release", server_lock.ServerLock._release)


@fault("tests/store/test_server_lock.py::test_files_of_dead_servers_are_removed")
def keep_files_of_dead_servers(patch: Patch) -> None:
    patch.setattr(ServerPresence, "_remove_dead", nothing)


_WIRING = "tests/test_wiring.py"


@fault(f"{_WIRING}::test_unexpanded_location_is_refused[${{HOME}}/store]")
def take_unexpanded_variable_for_name(patch: Patch) -> None:
    patch.setattr(config, "_find_unexpanded", nothing)


@fault(f"{_WIRING}::test_unexpanded_location_is_refused[~no-such-user/store]")
def take_unknown_home_for_name(patch: Patch) -> None:
    patch.setattr(config, "local_path", os.path.expanduser)


@fault(f"{_WIRING}::test_store_in_snap_is_temporary")
def overlook_revision_of_snap(patch: Patch) -> None:
    patch.setattr(config, "_find_snap_revision", nothing)


@fault("tests/test_config.py::test_refused_interval_is_advised_valid_ones[1x]")
def advise_any_duration(patch: Patch) -> None:
    patch.setattr(config, "_interval", parse_duration)


_OUTPUT = "tests/cli/test_output.py"


@fault(f"{_OUTPUT}::test_short_id_is_prefix_of_one_id")
def shorten_ids_to_fixed_length(patch: Patch) -> None:
    patch.setattr(ShortIds, "of", lambda _, environment_id: environment_id[:8])


@fault(f"{_OUTPUT}::test_any_row_fits_any_terminal")
def leave_table_wider_than_terminal(patch: Patch) -> None:
    patch.setattr(table, "_fit", lambda _, widths, __: widths)


@fault("tests/cli/test_exit_codes.py::test_gone_reader_is_no_error[ls]")
def report_gone_reader_as_error(patch: Patch) -> None:
    patch.setattr(app, "BrokenPipeError", ZeroDivisionError, raising=False)


@fault("tests/cli/test_exit_codes.py::test_usage_errors_have_one_style[--bogus]")
def leave_usage_errors_to_click(patch: Patch) -> None:
    patch.setattr("click.UsageError", ZeroDivisionError)


@fault("tests/cli/test_exit_codes.py::test_help_to_full_disk_is_one_line[--help]")
def leave_errors_of_help_to_python(patch: Patch) -> None:
    patch.delattr(app._VerbGroup, "make_context")


@fault("tests/cli/test_verbs.py::test_rm_takes_unique_prefixes")
def remove_first_of_ambiguous_ids(patch: Patch) -> None:
    def first(store: Any, given: str) -> str:
        found = [one.id for one in store.find_all() if one.id.startswith(given)]
        return found[0] if found else given

    patch.setattr(environments, "full_id", first)


@fault("tests/cli/test_program.py::test_help_does_not_depend_on_docstrings")
def take_help_from_docstrings(patch: Patch) -> None:
    for command in app.app.commands.values():
        patch.setattr(command, "help", None)


@fault("tests/cli/test_json.py::test_verb_prints_json[count]")
def print_text_in_place_of_json(patch: Patch) -> None:
    patch.setattr(output, "write_object", lambda values: output.write(f"{values}\n"))


_WORKSPACES = "tests/cli/test_workspaces.py"


@fault(f"{_WORKSPACES}::test_exec_passes_output_on_as_it_comes")
def hold_output_back(patch: Patch) -> None:
    real = pass_through._Output.finish

    def start_late(self: pass_through._Output) -> None:
        Thread.start(self)
        real(self)

    patch.setattr(forked, "_TIMEOUT_S", 3)
    patch.setattr(pass_through._Output, "start", nothing)
    patch.setattr(pass_through._Output, "finish", start_late)


@fault(f"{_WORKSPACES}::test_exec_keeps_order_of_one_output")
def copy_streams_of_one_file_apart(patch: Patch) -> None:
    write = pass_through.write_all

    def write_late(descriptor: int, data: bytes) -> None:
        time.sleep(0.05)  # Else each line may be copied before the program writes the next one.
        write(descriptor, data)

    patch.setattr(pass_through, "write_all", write_late)
    patch.setattr(pass_through, "_are_same", lambda *_: False)


@fault(f"{_WORKSPACES}::test_exec_reads_standard_input_if_asked")
def give_input_unasked(patch: Patch) -> None:
    real = pass_through.passed_on
    patch.setattr(pass_through, "passed_on", lambda **_: real(has_stdin=True))


@fault(f"{_WORKSPACES}::test_exec_ends_all_with_signal")
def let_signals_end_command_line(patch: Patch) -> None:
    patch.setattr(pass_through, "_SIGNALS", ())


@fault(f"{_WORKSPACES}::test_exec_reports_full_disk")
def lose_output_silently(patch: Patch) -> None:
    patch.setattr(pass_through, "write_all", nothing)


@fault(f"{_WORKSPACES}::test_exec_ends_when_environment_is_removed")
def overlook_removal_by_others(patch: Patch) -> None:
    patch.setattr(forked, "_TIMEOUT_S", 3)
    patch.setattr(executor, "_identity", nothing)


@fault(f"{_WORKSPACES}::test_cp_copies_any_size_both_ways")
def write_each_part_at_the_start(patch: Patch) -> None:
    real = WorkspaceFiles.write

    def write(
        self: WorkspaceFiles, environment: Environment, path: str, content: bytes, **_: int
    ) -> int:
        return real(self, environment, path, content)

    patch.setattr(WorkspaceFiles, "write", write)


@fault(f"{_WORKSPACES}::test_shell_controls_jobs")
def leave_shell_without_terminal(patch: Patch) -> None:
    patch.setattr(forked, "_TIMEOUT_S", 3)
    command = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
    patch.setattr(executor, "_TAKE_TERMINAL", command)


@fault(f"{_WORKSPACES}::test_shell_has_size_of_terminal")
def overlook_size_of_terminal(patch: Patch) -> None:
    patch.setattr(forked, "_TIMEOUT_S", 3)
    patch.setattr(terminal, "_copy_size", nothing)


@fault(f"{_WORKSPACES}::test_shell_restores_terminal")
def leave_terminal_raw(patch: Patch) -> None:
    patch.setattr("termios.tcsetattr", nothing)


@fault("tests/cli/test_top.py::test_top_shows_environments_and_changes")
def leave_other_screen_open(patch: Patch) -> None:
    patch.setattr(forked, "_TIMEOUT_S", 2)
    patch.setattr(top, "_LEAVE", "")


@fault("tests/cli/test_top.py::test_top_fits_any_screen")
def draw_beyond_the_screen(patch: Patch) -> None:
    patch.setattr(table, "_fit", lambda _, widths, __: list(widths))


@fault("tests/cli/test_top.py::test_top_begins_again_after_an_older_state_was_put_back")
def end_with_the_state_that_is_gone(patch: Patch) -> None:
    patch.setattr(top, "HistoryLostError", ZeroDivisionError)
