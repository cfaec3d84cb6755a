# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the local provider: each breaks one of its promises."""

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.planted import Patch, fault, nothing
from waggle_fsstore.domain.environment import Capabilities, Environment, Runtime
from waggle_fsstore.domain.errors import ProviderError, WorkspaceGoneError, WorkspacePathError
from waggle_fsstore.domain.execution import Execution
from waggle_fsstore.domain.workspace_file import FilePart
from waggle_fsstore.provider import (
    emptying,
    executor,
    files,
    host_id,
    index_settings,
    layout,
    local,
    packages,
    trash,
    workspace_dirs,
)
from waggle_fsstore.provider.executor import LocalExecutor
from waggle_fsstore.provider.files import WorkspaceFiles, _Walk
from waggle_fsstore.provider.index_settings import IndexSettings
from waggle_fsstore.provider.layout import Marker
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.packages import Steps
from waggle_fsstore.provider.process_groups import ProcessGroups
from waggle_fsstore.provider.sandbox import limits, seccomp, view
from waggle_fsstore.provider.sandbox.sandbox import Task
from waggle_fsstore.provider.trash import Entry, Trash

_HERE = "tests/provider"


@fault(f"{_HERE}/test_probe.py::test_probe_reports_incomplete_workspace")
def accept_incomplete_workspace(patch: Patch) -> None:
    patch.setattr(Marker, "read", lambda _: Marker("a", "shell"))


@fault(f"{_HERE}/test_remove.py::test_removal_is_one_rename")
def empty_workspace_before_return(patch: Patch) -> None:
    real = LocalProvider.remove

    def remove(self: LocalProvider, environment: Environment, *, keep: bool = False) -> None:
        real(self, environment, keep=keep)
        self._trash.empty()

    patch.setattr(LocalProvider, "remove", remove)


@fault(f"{_HERE}/test_remove.py::test_removal_by_killed_process_is_continued")
def forget_trash_of_killed_process(patch: Patch) -> None:
    patch.setattr(LocalProvider, "tidy", nothing)


@fault(f"{_HERE}/test_trash.py::test_partly_emptied_workspace_does_not_come_back")
def empty_kept_entry_under_its_name(patch: Patch) -> None:
    real = os.rename

    def rename(source: str, target: str, **options: Any) -> None:
        if ".drop." not in os.path.basename(target):
            real(source, target, **options)

    patch.setattr(os, "rename", rename)


@fault(f"{_HERE}/test_trash.py::test_kept_workspace_is_emptied_after_lived_time")
def restart_lived_time_with_each_server(patch: Patch) -> None:
    patch.setattr(trash, "_CLOCK", f".lived-{os.urandom(4).hex()}")
    patch.setattr(Trash, "live", nothing)


@fault(f"{_HERE}/test_trash.py::test_lost_clock_empties_nothing")
def trust_clock_of_trash(patch: Patch) -> None:
    def now_ms(self: Trash) -> int:
        try:
            return int((Path(self._path) / ".lived").read_text())
        except (OSError, ValueError):
            return 0

    patch.setattr(Trash, "_now_ms", now_ms)


@fault(f"{_HERE}/test_trash.py::test_limit_empties_oldest_first")
def empty_newest_first(patch: Patch) -> None:
    patch.setattr(Entry, "age", property(lambda self: (-self.since_ms, _reversed(self.key))))


def _reversed(key: str) -> str:
    return "".join(chr(255 - ord(letter)) for letter in key)


@fault(f"{_HERE}/test_trash.py::test_free_space_on_another_disk_deletes_nothing")
def free_space_on_any_disk(patch: Patch) -> None:
    patch.setattr(LocalProvider, "free_space", lambda self, _: self._trash.free_space())


@fault(f"{_HERE}/test_trash.py::test_destroyed_workspace_does_not_come_back")
def keep_every_removed_workspace(patch: Patch) -> None:
    real = Trash.put

    def put(self: Trash, workspace: str, entry: str, *, keep: bool) -> None:  # noqa: ARG001
        real(self, workspace, entry, keep=True)

    patch.setattr(Trash, "put", put)


@fault(f"{_HERE}/test_trash.py::test_destroy_drops_what_expired_before")
def keep_what_expired_before(patch: Patch) -> None:
    patch.setattr(Trash, "drop", nothing)


@fault(f"{_HERE}/test_trash.py::test_full_disk_does_not_stop_emptying")
def tidy_only_with_room_for_clock(patch: Patch) -> None:
    real = Trash.live

    def live(self: Trash, lived: timedelta) -> None:
        try:
            real(self, lived)
        except OSError:
            self._path = ""
            raise

    patch.setattr(Trash, "live", live)


@fault(f"{_HERE}/test_trash.py::test_trash_is_made_before_the_first_workspace")
def make_trash_at_first_removal(patch: Patch) -> None:
    real = workspace_dirs.make_root

    def make_root(path: str) -> None:
        real(path)
        Path(path, ".trash").rmdir()

    patch.setattr(local, "make_root", make_root)


@fault(f"{_HERE}/test_remove.py::test_workspace_that_cannot_be_moved_is_left[{errno.EXDEV}]")
def refuse_to_leave_workspace(patch: Patch) -> None:
    patch.setattr(local, "_UNMOVABLE", frozenset({errno.EBUSY}))


@fault(f"{_HERE}/test_layout.py::test_anything_in_place_of_marker_is_taken_over[directory]")
def open_anything_as_marker(patch: Patch) -> None:
    def read_start(path: str, size: int) -> bytes:
        with open(path, "rb") as file:
            return file.read(size)

    patch.setattr(layout, "read_start", read_start)


@fault(f"{_HERE}/test_layout.py::test_flat_venv_beside_home_of_agent_is_taken_over")
def take_home_of_agent_for_layout(patch: Patch) -> None:
    patch.setattr(layout, "_is_flat", lambda *_: False)


@fault(f"{_HERE}/test_trash.py::test_workspace_that_cannot_be_emptied_is_an_orphan")
def log_orphan_at_each_sweep(patch: Patch) -> None:
    real = Trash._note

    def note(self: Trash, entry: Entry, reason: str) -> None:
        self._stuck.clear()
        real(self, entry, reason)

    patch.setattr(Trash, "_note", note)


@fault(f"{_HERE}/test_mounts.py::test_workspace_with_mount_is_left_until_unmounted[home/data-True]")
def move_workspace_with_mount(patch: Patch) -> None:
    patch.setattr(local, "mount_points", lambda _: [])


@fault(f"{_HERE}/test_mounts.py::test_workspace_with_mount_is_left_until_unmounted[home-False]")
def remove_workspace_that_is_known_again(patch: Patch) -> None:
    real = Trash.move_unmounted
    patch.setattr(Trash, "move_unmounted", lambda self, _: real(self, ()))


@fault(f"{_HERE}/test_mounts.py::test_end_of_store_in_memory_enters_no_mount[home/data]")
def remove_files_mounted_in_temporary_workspaces(patch: Patch) -> None:
    patch.setattr(emptying, "remove_tree", lambda path: shutil.rmtree(path, ignore_errors=True))


@fault(f"{_HERE}/test_mounts.py::test_emptying_enters_no_mount")
def enter_directory_where_it_is(patch: Patch) -> None:
    def empty(self: Any) -> None:
        _remove_recursively(self._top)

    patch.setattr(emptying._Tree, "empty", empty)


def _remove_recursively(directory: int) -> None:
    for name in os.listdir(directory):
        try:
            os.unlink(name, dir_fd=directory)
        except IsADirectoryError:
            below = os.open(name, os.O_RDONLY, dir_fd=directory)
            _remove_recursively(below)
            os.close(below)
            os.rmdir(name, dir_fd=directory)


@fault(f"{_HERE}/test_emptying.py::test_deep_nesting_is_removed_with_few_descriptors")
def recurse_into_directories(patch: Patch) -> None:
    patch.setattr(emptying._Tree, "empty", lambda self: _remove_recursively(self._top))


@fault(f"{_HERE}/test_emptying.py::test_directory_swapped_for_link_is_not_entered")
def follow_links_when_emptying(patch: Patch) -> None:
    patch.setattr(emptying, "_DIRECTORY_FLAGS", os.O_RDONLY | os.O_DIRECTORY)


@fault(f"{_HERE}/test_probe.py::test_probe_tells_nothing_about_host[/nowhere-.venv/bin/python]")
def look_at_target_of_agents_link(patch: Patch) -> None:
    def look_below(directory: str, *names: str) -> os.stat_result:
        return os.stat(os.path.join(directory, *names))

    patch.setattr(layout, "look_below", look_below)


@fault(f"{_HERE}/test_probe.py::test_missing_interpreter_is_reported_until_it_is_back")
def ignore_interpreter_of_venv(patch: Patch) -> None:
    patch.setattr(local, "_interpreter_of", lambda _: "")
    real = Marker.read
    patch.setattr(Marker, "read", lambda path: _without_python(real(path)))


def _without_python(marker: Marker | None) -> Marker | None:
    return marker and marker._replace(python="")


@fault(f"{_HERE}/test_create.py::test_shell_environment_is_empty")
def keep_marker_where_agent_can_remove_it(patch: Patch) -> None:
    real = Marker.write
    patch.setattr(Marker, "write", lambda self, path: real(self, os.path.join(path, "home")))
    read = Marker.read
    patch.setattr(Marker, "read", lambda path: read(os.path.join(path, "home")))


@fault(f"{_HERE}/test_layout.py::test_takeover_killed_at_any_step_is_finished")
def take_over_without_staging(patch: Patch) -> None:
    def adopt(root: str, environment: Environment) -> None:
        place = os.path.join(root, environment.id)
        if not os.path.exists(os.path.join(place, "tmp")):
            for name in os.listdir(place):
                os.makedirs(os.path.join(place, "home"), exist_ok=True)
                if name != "home":
                    os.rename(os.path.join(place, name), os.path.join(place, "home", name))
            os.mkdir(os.path.join(place, "tmp"))
        Marker(environment.id, environment.runtime).write(place)

    patch.setattr(layout, "adopt", adopt)


@fault(f"{_HERE}/test_layout.py::test_workspace_without_marker_is_adopted[None]")
def refuse_workspace_without_marker(patch: Patch) -> None:
    patch.setattr(layout, "_has_home", lambda _: False)


@fault(f"{_HERE}/test_layout.py::test_earlier_version_takes_root_for_unmounted")
def keep_old_marker_of_root(patch: Patch) -> None:
    patch.setattr(local, "adopt_root", nothing)


@fault(f"{_HERE}/test_layout.py::test_scripts_of_venv_work_after_takeover")
def forget_old_path_of_venv(patch: Patch) -> None:
    patch.setattr(layout, "_keep_path_of_venv", nothing)


@fault(f"{_HERE}/test_probe.py::test_file_in_place_of_workspace_is_refused")
def follow_links_in_workspaces(patch: Patch) -> None:
    patch.setattr(os, "lstat", os.stat)


@fault(f"{_HERE}/test_workspace_dirs.py::test_hostile_id_has_directory_below_root[..]")
def use_ids_as_directory_names(patch: Patch) -> None:
    patch.setattr(local, "dir_name", lambda environment_id: environment_id)


@fault(f"{_HERE}/test_create.py::test_existing_workspace_is_not_reused")
def reuse_existing_workspace(patch: Patch) -> None:
    patch.setattr(layout, "make_dir", lambda path: os.makedirs(path, exist_ok=True))


@fault(f"{_HERE}/test_emptying.py::test_locked_directories_are_removed[0]")
def skip_locked_directories(patch: Patch) -> None:
    patch.setattr(emptying, "DIR_MODE", 0)


@fault(f"{_HERE}/test_workspace_dirs.py::test_modes_ignore_umask")
def leave_modes_to_umask(patch: Patch) -> None:
    patch.setattr(layout, "make_dir", os.mkdir)


@fault(f"{_HERE}/test_process_groups.py::test_program_inherits_no_variables")
def inherit_variables(patch: Patch) -> None:
    import subprocess

    start: Any = subprocess.Popen

    def inheriting(*args: Any, env: dict[str, str], **options: Any) -> Any:
        return start(*args, env={**os.environ, **env}, **options)

    patch.setattr(subprocess, "Popen", inheriting)


@fault(f"{_HERE}/test_probe.py::test_denied_probe_does_not_report_loss")
def report_io_error_as_workspace_gone(patch: Patch) -> None:
    probe = LocalProvider.probe

    def certain(self: LocalProvider, environment: Environment) -> Capabilities:
        try:
            return probe(self, environment)
        except ProviderError as error:
            raise WorkspaceGoneError(self.name, error.reason) from error

    patch.setattr(LocalProvider, "probe", certain)


@fault(f"{_HERE}/test_root.py::test_unmounted_root_blocks_all_changes[an empty directory-True]")
def treat_unmounted_root_as_empty(patch: Patch) -> None:
    patch.setattr(local, "why_no_root", lambda _: "")


@fault(f"{_HERE}/test_root.py::test_unmounted_root_blocks_all_changes[nothing-False]")
def skip_root_check(patch: Patch) -> None:
    patch.setattr(LocalProvider, "_check_root", lambda _: None)


@fault(f"{_HERE}/test_process_groups.py::test_forked_child_stops_no_program")
def keep_programs_after_fork(patch: Patch) -> None:
    patch.setattr(ProcessGroups, "reset_after_fork", lambda _: None)


@fault("tests/test_wiring.py::test_missing_root_is_gone_only_beside_its_store[False]")
def treat_every_missing_root_as_gone(patch: Patch) -> None:
    patch.setattr(LocalProvider, "_is_root_gone", lambda self: not os.path.lexists(self._root))


@fault("tests/provider/test_mounts.py::test_store_on_another_mount_is_reported[True]")
def ignore_mount_of_store(patch: Patch) -> None:
    patch.setattr(local, "mount_of", lambda _: "")


# The identity of a host

_HOST_ID = "tests/provider/test_host_id.py"


@fault(f"{_HOST_ID}::test_id_is_synced_before_it_is_used[False]")
def keep_host_id_in_memory(patch: Patch) -> None:
    patch.setattr(host_id, "_sync", nothing)


@fault(f"{_HOST_ID}::test_id_that_another_process_made_first_counts")
def replace_host_id_of_other_process(patch: Patch) -> None:
    patch.setattr(os, "link", os.rename)
    patch.setattr(os, "unlink", nothing)


@fault(f"{_HOST_ID}::test_files_of_host_are_no_workspaces")
def take_host_id_for_workspace(patch: Patch) -> None:
    patch.setattr(workspace_dirs, "HOST_ID", ".other")
    patch.setattr(workspace_dirs, "SERVERS", ".other")


@fault(f"{_HOST_ID}::test_id_is_synced_before_it_is_used[True]")
def leave_new_directories_unsynced(patch: Patch) -> None:
    patch.setattr(host_id, "_sync_directories", nothing)


# The files of workspaces

_FILES = "tests/provider/test_files.py"


@fault(f"{_FILES}::test_directory_swapped_for_link_leads_nowhere")
def follow_links_to_directories_of_workspace(patch: Patch) -> None:
    patch.setattr(files, "_DIRECTORY_FLAGS", os.O_RDONLY | os.O_DIRECTORY)


@fault(f"{_FILES}::test_file_swapped_for_link_leads_nowhere")
def follow_links_to_files_of_workspace(patch: Patch) -> None:
    patch.setattr(files, "_FILE_FLAGS", os.O_NONBLOCK)


@fault(f"{_FILES}::test_directory_swapped_for_link_leads_nowhere")
def check_path_before_opening(patch: Patch) -> None:
    def read(self: WorkspaceFiles, environment: Environment, path: str, **_: int) -> FilePart:
        home = os.path.join(self._root, environment.id, "home")
        descriptor = os.open(home, os.O_RDONLY)
        try:
            first = os.fsencode(path.partition("/")[0])
            status = os.stat(first, dir_fd=descriptor, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise WorkspacePathError(path, "leads out of the workspace")
            content = Path(home, path).read_bytes()
        finally:
            os.close(descriptor)
        return FilePart(content, len(content))

    patch.setattr(WorkspaceFiles, "read", read)


@fault(f"{_FILES}::test_link_in_workspace_is_followed")
def take_absolute_link_for_one_that_leads_out(patch: Patch) -> None:
    patch.setattr(files, "_MOUNTS", {})


@fault(f"{_FILES}::test_link_out_of_workspace_is_refused")
def walk_up_from_home(patch: Patch) -> None:
    patch.setattr(_Walk, "_leads_out", lambda self: self._start(self._top, []))


@fault(f"{_FILES}::test_moved_directory_does_not_lead_up")
def walk_up_by_entry_of_directory(patch: Patch) -> None:
    real = _Walk._start

    def start(self: _Walk, top: str, names: list[bytes]) -> None:
        if self._passed and names == self._passed[:-1]:
            above = os.open("..", os.O_RDONLY, dir_fd=self._directory())
            self.close()
            self._reached = above
            self._passed.pop()
        else:
            real(self, top, names)

    patch.setattr(_Walk, "_start", start)


@fault(f"{_FILES}::test_chain_of_links_is_limited")
def follow_any_number_of_links(patch: Patch) -> None:
    patch.setattr(files, "_MAX_LINKS", 1_000)


@fault(f"{_FILES}::test_file_swapped_for_pipe_does_not_block")
def wait_for_writer_of_pipe(patch: Patch) -> None:
    patch.setattr(files, "_FILE_FLAGS", os.O_NOFOLLOW)


@fault(f"{_FILES}::test_special_file_is_refused_at_once")
def read_what_is_no_file(patch: Patch) -> None:
    patch.setattr(_Walk, "_check_regular", nothing)


@fault(f"{_FILES}::TestWorkspaceFiles::test_too_large_write_changes_nothing")
def ignore_size_limit_of_files(patch: Patch) -> None:
    patch.setattr(files, "MAX_FILE_BYTES", 1 << 40)


@fault(f"{_FILES}::test_write_ignores_umask")
def leave_modes_of_files_to_umask(patch: Patch) -> None:
    patch.setattr(files, "_hand_over", nothing)


@fault(f"{_FILES}::test_write_beyond_limit_of_workspace_is_refused")
def forget_limit_of_workspace(patch: Patch) -> None:
    patch.setattr(WorkspaceFiles, "_take_room", nothing)


@fault(f"{_FILES}::test_room_that_programs_have_taken_is_taken")
def overlook_what_programs_wrote(patch: Patch) -> None:
    patch.setattr(limits._Disk, "has_lost", lambda *_: False)


@fault(f"{_FILES}::test_new_files_belong_to_owner")
def keep_new_directories_for_server(patch: Patch) -> None:
    real = _Walk._make_directory
    patch.setattr(_Walk, "_make_directory", lambda self, name, _: real(self, name, nothing))


@fault(f"{_FILES}::test_overwritten_file_keeps_mode_and_links")
def replace_file_when_writing(patch: Patch) -> None:
    real = _Walk._mode_of

    def mode_of(self: _Walk, name: bytes) -> int:
        if self._hand_over is not None and not self._ahead:
            os.unlink(name, dir_fd=self._directory())
        return real(self, name)

    patch.setattr(_Walk, "_mode_of", mode_of)


@fault(f"{_FILES}::test_access_leaks_no_descriptor")
def leave_directory_of_walk_open(patch: Patch) -> None:
    patch.setattr(_Walk, "close", nothing)


@fault(f"{_FILES}::test_deep_path_needs_few_descriptors")
def keep_each_directory_of_walk_open(patch: Patch) -> None:
    real = _Walk._enter

    def enter(self: _Walk, name: bytes) -> None:
        os.dup(self._directory())
        real(self, name)

    patch.setattr(_Walk, "_enter", enter)


# Packages

_PACKAGES = "tests/provider/test_packages.py"


@fault(f"{_PACKAGES}::test_password_of_index_is_visible_nowhere")
def show_index_settings_inside(patch: Patch) -> None:
    def change(steps: Steps) -> Steps:
        variables = {**steps.installation.variables, **steps.settings.variables}
        return steps._replace(installation=steps.installation._replace(variables=variables))

    _change_steps(patch, change)


@fault(f"{_PACKAGES}::test_download_sees_no_workspace_and_cannot_fork")
def download_beside_workspace(patch: Patch) -> None:
    real = LocalExecutor._run

    def run(
        self: LocalExecutor, environment: Environment, task: Task, timeout_s: float, stop: Any
    ) -> Execution:
        if task.is_download:
            home = os.path.join(self._root, environment.id, "home")
            task = task._replace(mounts={**task.mounts, "/home/sandbox": home})
        return real(self, environment, task, timeout_s, stop)

    patch.setattr(LocalExecutor, "_run", run)


@fault(f"{_PACKAGES}::test_source_distribution_is_refused")
def allow_sdists(patch: Patch) -> None:
    def change(steps: Steps) -> Steps:
        command = [one for one in steps.download.command if one not in ("--only-binary", ":all:")]
        return steps._replace(download=steps.download._replace(command=command))

    _change_steps(patch, change)


@fault(f"{_PACKAGES}::test_dependency_by_url_runs_no_code")
def let_download_fork(patch: Patch) -> None:
    real = seccomp.filter_for
    patch.setattr(seccomp, "filter_for", lambda machine, **_: real(machine))


@fault(f"{_PACKAGES}::test_installation_has_no_network")
def install_with_network(patch: Patch) -> None:
    real = view.inner_arguments

    def inner_arguments(*arguments: Any, **_: bool) -> list[str]:
        return real(*arguments, has_network=True)

    patch.setattr(view, "inner_arguments", inner_arguments)


@fault(f"{_PACKAGES}::test_configuration_of_agent_has_no_influence")
def heed_pip_configuration_of_agent(patch: Patch) -> None:
    def change(steps: Steps) -> Steps:
        command = [one for one in steps.installation.command if one != "--isolated"]
        return steps._replace(installation=steps.installation._replace(command=command))

    _change_steps(patch, change)


@fault(f"{_PACKAGES}::test_missing_package_is_reported_by_pip")
def keep_cache(patch: Patch) -> None:
    patch.setattr(packages, "remove_tree", nothing)


@fault(f"{_PACKAGES}::test_cache_of_running_installation_is_kept")
def remove_cache_of_running_installation(patch: Patch) -> None:
    patch.setattr(fcntl, "flock", nothing)


@fault(f"{_PACKAGES}::test_cache_of_killed_server_is_removed[installation]")
def keep_cache_of_killed_server(patch: Patch) -> None:
    patch.setattr(packages, "_remove_abandoned", nothing)


@fault(f"{_PACKAGES}::test_cache_of_killed_server_is_removed[start]")
def keep_cache_of_killed_server_at_start(patch: Patch) -> None:
    patch.setattr(executor, "remove_abandoned", nothing)


@fault(f"{_PACKAGES}::test_cache_is_removed_after_installation")
def take_downloads_for_workspace(patch: Patch) -> None:
    patch.setattr(workspace_dirs, "PACKAGES", ".other")


@fault(f"{_PACKAGES}::test_bad_package_name_starts_nothing")
def accept_any_package_name(patch: Patch) -> None:
    patch.setattr(packages, "check_names", nothing)
    patch.setattr(executor, "check_names", nothing)


@fault(f"{_PACKAGES}::test_name_of_no_package_is_refused[python-a\\n]")
def match_start_of_package_name(patch: Patch) -> None:
    class Start:
        fullmatch = staticmethod(packages._NAMES[Runtime.PYTHON].match)

    patch.setitem(packages._NAMES, Runtime.PYTHON, Start)


@fault(f"{_PACKAGES}::test_password_is_not_in_result[npmrc]")
def leave_passwords_to_installers(patch: Patch) -> None:
    patch.setattr(IndexSettings, "redacted", lambda _, result: result)


@fault(f"{_PACKAGES}::test_stopped_installation_says_what_is_left[timeout]")
def report_stopped_installation_as_whole(patch: Patch) -> None:
    patch.setattr(packages, "_noted", lambda result, _: result)


@fault(f"{_PACKAGES}::test_scripts_of_npm_packages_do_not_run")
def run_scripts_of_npm_packages(patch: Patch) -> None:
    def change(steps: Steps) -> Steps:
        command = [one for one in steps.installation.command if one != "--ignore-scripts"]
        return steps._replace(installation=steps.installation._replace(command=command))

    _change_steps(patch, change)


@fault(f"{_PACKAGES}::test_broken_configuration_of_pip_is_an_error")
def skip_broken_configuration_of_pip(patch: Patch) -> None:
    patch.setattr(index_settings, "_pip_files", lambda _: [])


def _change_steps(patch: Patch, change: Callable[[Steps], Steps]) -> None:
    real = packages.steps_for
    patch.setattr(executor, "steps_for", lambda *arguments: change(real(*arguments)))


@fault("tests/provider/test_trash.py::test_trash_says_since_when_files_are_kept")
def forget_since_when_files_are_kept(patch: Patch) -> None:
    patch.setattr(Trash, "kept_since", lambda _: None)


@fault("tests/provider/test_trash.py::test_missing_disk_says_nothing_about_kept_files")
def take_missing_disk_for_empty_trash(patch: Patch) -> None:
    patch.setattr(LocalProvider, "kept_since", lambda self: self._trash.kept_since())


@fault("tests/provider/test_packages.py::test_login_of_registry_is_visible_nowhere")
def show_login_of_registry_to_installation(patch: Patch) -> None:
    patch.setattr(index_settings, "_without_login", lambda url: (url, ""))
    patch.setattr(packages, "_has_secret", lambda *_: False)


@fault("tests/provider/test_packages.py::test_download_with_password_is_not_shown")
def install_download_with_password(patch: Patch) -> None:
    patch.setattr(packages, "_has_secret", lambda *_: False)
