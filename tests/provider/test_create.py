# SPDX-License-Identifier: Apache-2.0
"""What the local provider creates: workspaces with a runtime for each kind of environment."""

import errno
import json
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from tests.provider.conftest import (
    HOSTILE_IDS,
    PYTHON,
    SHELL,
    entries_of,
    environment,
    failure_of,
    mode_of,
    needs_node,
)
from waggle_fsstore import ProviderError, Runtime
from waggle_fsstore.provider import layout, local
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.workspace_dirs import dir_name
from waggle_fsstore.service.provider import Provider


def test_local_provider_implements_protocol(provider: LocalProvider) -> None:
    """The local provider has all methods of the protocol."""
    kept: Provider = provider
    assert kept.name == "local-2"


def test_root_is_made_by_first_create(provider: LocalProvider, root: Path) -> None:
    """Only a creation makes the root directory, neither the constructor nor another method."""
    provider.check()
    provider.locate(SHELL)
    provider.remove(SHELL)
    assert provider.find_orphans([]) == []
    failure_of(provider.probe, SHELL)
    provider.close()
    assert not root.exists()


def test_python_environment_has_venv_without_pip(provider: LocalProvider, root: Path) -> None:
    """A python environment has a venv that works, without pip."""
    found = provider.create(PYTHON)
    venv = root / "a" / "home" / ".venv"
    python = shutil.which(found.python_command, path=found.path)
    assert python == str(venv / "bin" / "python")
    code = "import sys; print(sys.prefix)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{venv}\n"
    assert found.path.split(os.pathsep)[0] == str(venv / "bin")
    assert found.has_venv
    assert found.pip_command == ""
    assert not (venv / "bin" / "pip").exists()


def test_python_environment_with_label_has_pip(provider: LocalProvider, root: Path) -> None:
    """A python environment that asks for pip has its own, and nothing else."""
    found = provider.create(environment(runtime=Runtime.PYTHON, pip="yes"))
    pip = shutil.which(found.pip_command, path=found.path)
    assert pip is not None
    done = subprocess.run([pip, "--version"], capture_output=True, text=True, check=True)
    assert str(root / "a") in done.stdout
    assert entries_of(root / "a" / "home") == [".venv"]


@pytest.mark.parametrize("answer", ["no", "", "YES"])
def test_other_label_value_makes_no_pip(answer: str) -> None:
    """Any label value except yes makes no pip, which takes a hundred times as long."""
    assert not local._wants_pip(environment(pip=answer))


@needs_node
def test_node_environment_is_private_package(provider: LocalProvider, root: Path) -> None:
    """A node environment is a private npm package."""
    found = provider.create(environment("Any Id / at all", Runtime.NODE))
    assert shutil.which(found.node_command, path=found.path) == shutil.which("node")
    package = json.loads(
        Path(provider.locate(environment("Any Id / at all")), "package.json").read_text()
    )
    assert package.pop("name")
    assert package == {"private": True}
    assert mode_of(root) == 0o700


@pytest.mark.parametrize("id_", [*HOSTILE_IDS, "node_modules", "http", "favicon.ico", "x" * 100])
def test_package_name_is_valid_for_any_id(id_: str) -> None:
    """The name of the package is one that npm accepts, for any id."""
    name = json.loads(local._package(f"/root/{dir_name(id_)}"))["name"]
    assert re.fullmatch(r"waggle-[a-z0-9_-]{1,200}", name)


def test_shell_environment_is_empty(provider: LocalProvider, root: Path) -> None:
    """A shell environment is an empty directory: the marker is where no agent removes it."""
    found = provider.create(SHELL)
    assert shutil.which("sh", path=found.path)
    assert not found.has_venv
    assert os.listdir(provider.locate(SHELL)) == []
    assert entries_of(root / "a") == [".waggle-workspace", "home", "tmp"]


@pytest.mark.parametrize("runtime", Runtime)
def test_create_and_probe_return_same_capabilities(
    provider: LocalProvider, runtime: Runtime
) -> None:
    """A probe returns the same as the creation, also through another provider object."""
    if runtime is Runtime.NODE and shutil.which("node") is None:
        pytest.skip("node is not installed")
    created = provider.create(environment(runtime=runtime))
    probed = LocalProvider(provider.root).probe(environment(runtime=runtime))
    assert probed.detected_at >= created.detected_at
    assert replace(created, detected_at=probed.detected_at) == probed
    assert created.is_root == (os.geteuid() == 0)


def test_existing_workspace_is_not_reused(provider: LocalProvider, root: Path) -> None:
    """A creation leaves the files of an existing workspace alone."""
    provider.create(SHELL)
    (root / "a" / "home" / "mine").write_text("precious")
    error = failure_of(provider.create, SHELL)
    assert error.reason == "its workspace exists already"
    assert isinstance(error.__cause__, FileExistsError)
    assert (root / "a" / "home" / "mine").read_text() == "precious"
    provider.probe(SHELL)


def test_one_of_concurrent_creations_succeeds(root: Path) -> None:
    """Of any number of concurrent creations of one environment, exactly one succeeds."""
    count = 8
    barrier = Barrier(count)

    def create(_: int) -> bool:
        provider = LocalProvider(root)
        barrier.wait()
        try:
            provider.create(SHELL)
        except ProviderError:
            return False
        return True

    with ThreadPoolExecutor(count) as pool:
        assert sum(pool.map(create, range(count))) == 1
    LocalProvider(root).probe(SHELL)


def test_concurrent_creations_of_different_environments_succeed(root: Path) -> None:
    """Concurrent creations of different environments succeed, even the very first ones."""
    count = 8
    barrier = Barrier(count)
    provider = LocalProvider(root / "deep" / "down")

    def create(number: int) -> None:
        barrier.wait()
        provider.create(environment(str(number)))

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(create, range(count)))
    assert provider.find_orphans(map(str, range(count))) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_os_error_is_reported_without_path(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """An error of the operating system is reported without its path, and is the cause."""

    def fail(path: str, *_: object) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "mkdir", fail)
    error = failure_of(provider.create, SHELL)
    assert error.reason == f"cannot make its workspace: {os.strerror(number)}"
    assert isinstance(error.__cause__, OSError)
    assert error.__cause__.errno == number


def test_full_disk_leaves_removable_workspace(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made before the disk was full is incomplete, and can be removed."""

    def fail(path: str, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(layout, "write_new", fail)
    failure_of(provider.create, SHELL)
    assert failure_of(provider.probe, SHELL).reason == "its workspace is incomplete"
    provider.remove(SHELL)
    assert entries_of(root) == []


def test_error_without_strerror_is_reported_by_type() -> None:
    """If the text of an error may contain a path, its type is reported."""
    assert local._reason(OSError("/some/path is bad")) == "OSError"
