# SPDX-License-Identifier: Apache-2.0
"""What a probe reports of a workspace that is gone, incomplete or not what it should be."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.provider.conftest import (
    PYTHON,
    SHELL,
    as_plain_user,
    entries_of,
    environment,
    failure_of,
    trash_of,
)
from waggle_fsstore import Environment, ProviderError, Runtime, WorkspaceGoneError
from waggle_fsstore.provider.layout import Marker
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


@pytest.mark.parametrize("length", [None, 0, 10, -2])
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
    """The marker has the id and the runtime of its environment, and the layout, in JSON."""
    provider.create(environment("A"))
    path = root / entries_of(root)[0] / ".waggle-workspace"
    expected = {"id": "A", "runtime": "shell", "python": "", "layout": 2}
    assert json.loads(path.read_text()) == expected


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


def test_probe_reports_broken_venv(provider: LocalProvider) -> None:
    """A probe reports that the Python of a venv is gone, or is not executable."""
    provider.create(PYTHON)
    python = Path(provider.locate(PYTHON), ".venv", "bin", "python")
    python.unlink()
    python.write_text("")
    assert failure_of(provider.probe, PYTHON).reason == "its python is not executable"
    for remove in (python.unlink, partial(shutil.rmtree, python.parent.parent)):
        remove()
        error = failure_of(provider.probe, PYTHON)
        assert isinstance(error, WorkspaceGoneError)
        assert error.reason == "its python is gone"


@pytest.mark.parametrize("place", [".venv", ".venv/bin", ".venv/bin/python", ".venv/bin/pip"])
@pytest.mark.parametrize("target", ["/etc/passwd", "/bin/sh", "/nowhere", "/", "..", "python"])
def test_probe_tells_nothing_about_host(provider: LocalProvider, place: str, target: str) -> None:
    """A probe answers the same whatever a link of the agent points to, also if to nothing."""
    home = Path(provider.locate(SHELL))
    provider.create(SHELL)
    (home / ".venv" / "bin").mkdir(parents=True)
    (home / ".venv" / "bin" / "python").symlink_to("/usr/bin/python3")
    link = home / place
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    Marker("a", "python", python=sys.executable).write(str(home.parent))
    found = provider.probe(PYTHON)
    assert found.python_command == "python"
    assert found.pip_command == ("pip" if place != ".venv/bin/python" else "")


def test_link_in_place_of_home_is_refused(provider: LocalProvider, tmp_path: Path) -> None:
    """A link in place of the directory of files is no workspace, wherever it points to."""
    provider.create(SHELL)
    home = Path(provider.locate(SHELL))
    home.rmdir()
    for target in (tmp_path, tmp_path / "nowhere"):
        home.symlink_to(target)
        assert failure_of(provider.probe, SHELL).reason == "its files are gone"
        home.unlink()


def test_missing_interpreter_is_reported_until_it_is_back(
    provider: LocalProvider, tmp_path: Path
) -> None:
    """The interpreter that the server linked to is what counts, also when it comes back."""
    interpreter = tmp_path / "python3"
    interpreter.symlink_to(sys.executable)
    provider.create(PYTHON)
    Marker("a", "python", python=str(interpreter)).write(str(provider.root / "a"))
    provider.probe(PYTHON)
    interpreter.rename(tmp_path / "away")
    assert isinstance(failure_of(provider.probe, PYTHON), WorkspaceGoneError)
    (tmp_path / "away").rename(interpreter)
    assert provider.probe(PYTHON).has_venv


def test_marker_names_interpreter_of_new_venv(provider: LocalProvider) -> None:
    """The marker has the absolute path to which the server linked the venv."""
    provider.create(PYTHON)
    marker = Marker.read(str(provider.root / "a"))
    assert marker is not None
    assert os.path.isabs(marker.python)
    assert os.path.samefile(marker.python, sys.executable)


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
    Marker("a", "shell").write(str(elsewhere))
    root.mkdir()
    plant(root / "a")
    assert failure_of(provider.create, SHELL).reason == "its workspace exists already"
    assert failure_of(provider.probe, SHELL).reason == "its workspace is not a directory"
    provider.remove(SHELL)
    assert entries_of(root) == []
    assert trash_of(provider) == []
    assert entries_of(elsewhere) == [".waggle-workspace", "home", "tmp"]


def test_dangling_link_is_not_followed(provider: LocalProvider, root: Path) -> None:
    """A creation makes nothing at the target of a dangling link."""
    root.mkdir()
    plant_link(root / "a")
    failure_of(provider.create, SHELL)
    assert not (root.parent / "elsewhere").exists()
