# SPDX-License-Identifier: Apache-2.0
"""What a probe reports of a workspace that is gone, incomplete or not what it should be."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.provider.conftest import (
    PYTHON,
    SHELL,
    as_plain_user,
    entries_of,
    environment,
    failure_of,
)
from waggle_fsstore import Environment, ProviderError, Runtime, WorkspaceGoneError
from waggle_fsstore.provider import local
from waggle_fsstore.provider.local import LocalProvider


def plant_link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "elsewhere", target_is_directory=True)


PLANTS: list[Callable[[Path], None]] = [plant_link, Path.touch, os.mkfifo]


def test_probe_reports_missing_workspace(provider: LocalProvider, root: Path) -> None:
    """A probe reports that the workspace is gone."""
    provider.create(SHELL)
    shutil.rmtree(root / "a")
    error = failure_of(provider.probe, SHELL)
    assert isinstance(error, WorkspaceGoneError)
    assert error.reason == "its workspace is gone"


@pytest.mark.parametrize("length", [None, 0, 10, -1])
def test_probe_reports_incomplete_workspace(
    provider: LocalProvider, root: Path, length: int | None
) -> None:
    """A workspace whose marker is missing or truncated is incomplete."""
    provider.create(SHELL)
    marker = root / "a" / ".waggle-workspace"
    if length is None:
        marker.unlink()
    else:
        marker.write_bytes(marker.read_bytes()[:length])
    error = failure_of(provider.probe, SHELL)
    assert isinstance(error, WorkspaceGoneError)
    assert error.reason == "its workspace is incomplete"


def test_marker_has_id_and_runtime(provider: LocalProvider, root: Path) -> None:
    """The marker has the id and the runtime of its environment in JSON."""
    provider.create(environment("A"))
    path = root / entries_of(root)[0] / ".waggle-workspace"
    assert json.loads(path.read_text()) == {"id": "A", "runtime": "shell"}


@pytest.mark.parametrize("other", [environment("b"), environment("a", Runtime.NODE)])
def test_probe_refuses_workspace_of_another_environment(
    provider: LocalProvider, root: Path, other: Environment
) -> None:
    """A workspace that was moved to another id, or has another runtime, is refused."""
    provider.create(SHELL)
    os.rename(root / "a", root / other.id)
    error = failure_of(provider.probe, other)
    assert isinstance(error, WorkspaceGoneError)
    assert error.reason == "its workspace was made for another environment"


@pytest.mark.parametrize("long", [False, True])
def test_probe_refuses_other_marker(provider: LocalProvider, root: Path, long: bool) -> None:
    """A marker that is not JSON, or is huge, belongs to another environment."""
    provider.create(SHELL)
    with (root / "a" / ".waggle-workspace").open("a") as file:
        file.truncate(2**40 if long else None)
        file.write("[")
    error = failure_of(provider.probe, SHELL)
    assert isinstance(error, WorkspaceGoneError)


def test_probe_refuses_pipe_and_link_as_marker(provider: LocalProvider, root: Path) -> None:
    """A probe neither waits for a pipe nor follows a link."""
    provider.create(SHELL)
    marker = root / "a" / ".waggle-workspace"
    marker.rename(root / "elsewhere")
    os.mkfifo(marker)
    failure_of(provider.probe, SHELL)
    marker.unlink()
    marker.symlink_to(root / "elsewhere")
    failure_of(provider.probe, SHELL)


def test_probe_reports_broken_venv(provider: LocalProvider, root: Path) -> None:
    """A probe reports that the Python of a venv is gone, or is not executable."""
    provider.create(PYTHON)
    python = root / "a" / ".venv" / "bin" / "python"
    python.unlink()
    python.write_text("")
    assert failure_of(provider.probe, PYTHON).reason == "its python is not executable"
    python.unlink()
    python.symlink_to("/nowhere/python")
    error = failure_of(provider.probe, PYTHON)
    assert isinstance(error, WorkspaceGoneError)
    assert error.reason == "its python is gone"
    shutil.rmtree(root / "a" / ".venv")
    assert failure_of(provider.probe, PYTHON).reason == "its python is gone"


def test_denied_probe_does_not_report_loss(provider: LocalProvider, root: Path) -> None:
    """A workspace that cannot be read now is not reported as gone."""
    provider.create(SHELL)
    root.chmod(0)
    error = as_plain_user(lambda: failure_of(provider.probe, SHELL))
    root.chmod(0o700)
    assert type(error) is ProviderError
    assert isinstance(error.__cause__, PermissionError)
    assert error.reason == "cannot read its workspace: Permission denied"


@pytest.mark.parametrize("plant", PLANTS)
def test_file_in_place_of_workspace_is_refused(
    provider: LocalProvider, root: Path, plant: Callable[[Path], None]
) -> None:
    """A link, file or pipe in place of a workspace is refused, and removed without following."""
    elsewhere = root.parent / "elsewhere"
    LocalProvider(root.parent).create(environment("elsewhere"))
    (elsewhere / ".waggle-workspace").write_text(local._marker(SHELL))
    root.mkdir()
    plant(root / "a")
    assert failure_of(provider.create, SHELL).reason == "its workspace exists already"
    assert failure_of(provider.probe, SHELL).reason == "its workspace is not a directory"
    provider.remove(SHELL)
    assert entries_of(root) == []
    assert entries_of(elsewhere) == [".waggle-workspace"]


def test_dangling_link_is_not_followed(provider: LocalProvider, root: Path) -> None:
    """A creation makes nothing at the target of a dangling link."""
    root.mkdir()
    plant_link(root / "a")
    failure_of(provider.create, SHELL)
    assert not (root.parent / "elsewhere").exists()
