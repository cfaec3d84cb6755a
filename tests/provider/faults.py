# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the embedded provider: each breaks one thing that it promises."""

import os
import shutil
from typing import Any

from tests.planted import Patch, fault
from waggle_fsstore.domain.environment import Capabilities, Environment
from waggle_fsstore.domain.errors import ProviderError, WorkspaceGoneError
from waggle_fsstore.provider import local, workspace_dirs
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.process_groups import ProcessGroups

_HERE = "tests/provider/test_local.py"


@fault(f"{_HERE}::test_a_half_made_workspace")
def half_made_taken_for_whole(patch: Patch) -> None:
    patch.setattr(local, "_marker", lambda _: "")


@fault(f"{_HERE}::test_a_removal_that_is_cut_short_leaves_nothing_that_looks_whole")
def removed_where_it_stands(patch: Patch) -> None:
    def clear(self: LocalProvider, name: str) -> None:
        workspace_dirs.remove_entry(os.path.join(self._root, name))

    patch.setattr(LocalProvider, "_clear", clear)


@fault(f"{_HERE}::test_what_stands_in_the_place_of_a_workspace")
def links_followed(patch: Patch) -> None:
    patch.setattr(os, "lstat", os.stat)


@fault(f"{_HERE}::test_hostile_ids[..]")
def ids_taken_for_names(patch: Patch) -> None:
    patch.setattr(local, "dir_name", lambda environment_id: environment_id)


@fault(f"{_HERE}::test_a_workspace_that_is_there_is_not_reused")
def what_is_there_reused(patch: Patch) -> None:
    patch.setattr(local, "make_dir", lambda path: os.makedirs(path, exist_ok=True))


@fault(f"{_HERE}::test_locked_folders_are_removed")
def what_is_locked_left(patch: Patch) -> None:
    patch.setattr(
        workspace_dirs, "remove_entry", lambda path: shutil.rmtree(path, ignore_errors=True)
    )
    patch.setattr(local, "remove_entry", lambda path: shutil.rmtree(path, ignore_errors=True))


@fault(f"{_HERE}::test_modes_do_not_depend_on_the_umask")
def modes_left_to_the_umask(patch: Patch) -> None:
    patch.setattr(local, "make_dir", os.mkdir)


@fault(f"{_HERE}::test_nothing_is_inherited")
def variables_inherited(patch: Patch) -> None:
    import subprocess

    start: Any = subprocess.Popen

    def inheriting(*args: Any, env: dict[str, str], **options: Any) -> Any:
        return start(*args, env={**os.environ, **env}, **options)

    patch.setattr(subprocess, "Popen", inheriting)


@fault(f"{_HERE}::test_a_probe_that_is_denied_tells_no_loss")
def doubt_told_as_loss(patch: Patch) -> None:
    probe = LocalProvider.probe

    def certain(self: LocalProvider, environment: Environment) -> Capabilities:
        try:
            return probe(self, environment)
        except ProviderError as error:
            raise WorkspaceGoneError(self.name, error.reason) from error

    patch.setattr(LocalProvider, "probe", certain)


@fault(f"{_HERE}::test_a_root_that_is_not_mounted[an empty folder-True]")
def unmounted_taken_for_gone(patch: Patch) -> None:
    patch.setattr(local, "why_no_root", lambda _: "")


@fault(f"{_HERE}::test_a_root_that_is_not_mounted[nothing-False]")
def a_new_root_in_the_place_of_one(patch: Patch) -> None:
    patch.setattr(LocalProvider, "_check_root", lambda _: None)


@fault(f"{_HERE}::test_a_forked_child_ends_no_program")
def programs_that_a_child_inherits(patch: Patch) -> None:
    patch.setattr(ProcessGroups, "forget_after_fork", lambda _: None)
