# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the command line."""

import os
from typing import Any

from tests.planted import Patch, fault, nothing
from waggle_fsstore import config
from waggle_fsstore.cli import environments
from waggle_fsstore.domain.duration import parse_duration
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
    def remove(store: Any, environment_id: str, *, force: bool) -> None:  # noqa: ARG001
        store.delete(environment_id)

    patch.setattr(environments, "_remove", remove)


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
