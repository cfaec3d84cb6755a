# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the local provider: each breaks one of its promises."""

import os
import shutil
from typing import Any

from tests.planted import Patch, fault
from waggle_fsstore.domain.environment import Capabilities, Environment
from waggle_fsstore.domain.errors import ProviderError, WorkspaceGoneError
from waggle_fsstore.provider import local, workspace_dirs
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.process_groups import ProcessGroups

_HERE = "tests/provider"


@fault(f"{_HERE}/test_probe.py::test_probe_reports_incomplete_workspace")
def accept_incomplete_workspace(patch: Patch) -> None:
    patch.setattr(local, "_marker", lambda _: "")


@fault(f"{_HERE}/test_remove.py::test_interrupted_removal_leaves_no_complete_workspace")
def skip_rename_before_removal(patch: Patch) -> None:
    def clear(self: LocalProvider, name: str) -> None:
        workspace_dirs.remove_entry(os.path.join(self._root, name))

    patch.setattr(LocalProvider, "_clear", clear)


@fault(f"{_HERE}/test_probe.py::test_file_in_place_of_workspace_is_refused")
def follow_links_in_workspaces(patch: Patch) -> None:
    patch.setattr(os, "lstat", os.stat)


@fault(f"{_HERE}/test_workspace_dirs.py::test_hostile_id_has_directory_below_root[..]")
def use_ids_as_directory_names(patch: Patch) -> None:
    patch.setattr(local, "dir_name", lambda environment_id: environment_id)


@fault(f"{_HERE}/test_create.py::test_existing_workspace_is_not_reused")
def reuse_existing_workspace(patch: Patch) -> None:
    patch.setattr(local, "make_dir", lambda path: os.makedirs(path, exist_ok=True))


@fault(f"{_HERE}/test_remove.py::test_remove_removes_locked_directories")
def skip_locked_directories(patch: Patch) -> None:
    patch.setattr(
        workspace_dirs, "remove_entry", lambda path: shutil.rmtree(path, ignore_errors=True)
    )
    patch.setattr(local, "remove_entry", lambda path: shutil.rmtree(path, ignore_errors=True))


@fault(f"{_HERE}/test_workspace_dirs.py::test_modes_ignore_umask")
def leave_modes_to_umask(patch: Patch) -> None:
    patch.setattr(local, "make_dir", os.mkdir)


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
