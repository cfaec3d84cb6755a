# SPDX-License-Identifier: Apache-2.0
"""The layout of workspaces, and how those of earlier versions and of backups get it."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.provider.conftest import PYTHON, SHELL, entries_of, failure_of
from waggle_fsstore import Environment, WorkspaceGoneError
from waggle_fsstore.provider import layout
from waggle_fsstore.provider.layout import Marker
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.workspace_dirs import write_new
from waggle_fsstore.service.provider import Provider

#: What changes files during a takeover.
STEPS = ("rename", "mkdir", "unlink", "symlink", "chmod")


class KilledError(BaseException):
    """The process is killed at this step."""


def make_flat(root: Path, environment: Environment = SHELL, *, marker: bool = True) -> Path:
    """Make a workspace as earlier versions did, with files of the agent, and return it."""
    root.mkdir()
    (root / ".waggle-workspaces").touch()
    flat = root / "a"
    (flat / "home").mkdir(parents=True)
    (flat / "file").write_text("precious")
    (flat / "home" / "file").write_text("precious")
    if environment.runtime == "python":
        command = ["python3", "-m", "venv", "--without-pip", str(flat / ".venv")]
        subprocess.run(command, check=True)
    if marker:
        text = json.dumps({"id": "a", "runtime": environment.runtime}) + "\n"
        (flat / ".waggle-workspace").write_text(text)
    return flat


def kill_at(patch: pytest.MonkeyPatch, number: int, *, done: bool) -> None:
    """Be killed before or after the n-th step."""
    count = 0

    def stepping(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == number and not done:
                raise KilledError
            result = real(*arguments, **options)
            if count == number:
                raise KilledError
            return result

        return step

    for name in STEPS:
        patch.setattr(os, name, stepping(getattr(os, name)))
    patch.setattr(layout, "write_new", stepping(write_new))


def kills() -> Iterator[tuple[int, bool]]:
    for number in range(1, 40):
        yield from ((number, False), (number, True))


@pytest.mark.parametrize("marker", [True, False])
@pytest.mark.parametrize("environment", [SHELL, PYTHON], ids=["shell", "python"])
def test_flat_workspace_is_taken_over(root: Path, environment: Environment, marker: bool) -> None:
    """A workspace of an earlier version keeps all files, also if the agent removed the marker."""
    make_flat(root, environment, marker=marker)
    provider = LocalProvider(root, has_workspaces=True)
    for _ in range(2):
        provider.adopt(environment)
    found = provider.probe(environment)
    home = Path(provider.locate(environment))
    assert (home / "file").read_text() == (home / "home" / "file").read_text() == "precious"
    assert not (home / ".waggle-workspace").exists()
    assert found.has_venv == (environment is PYTHON)
    assert sorted(os.listdir(root)) == [".waggle-root", "a"]


@pytest.mark.parametrize(
    "content",
    ["directory", "link", "pipe", "[" * 16_000, '{"id": "a", "runtime": "shell", "layout": 1e999}'],
    ids=["directory", "link", "pipe", "nested", "number"],
)
def test_anything_in_place_of_marker_is_taken_over(root: Path, content: str) -> None:
    """In a flat workspace the agent can put anything in the place of the marker."""
    flat = make_flat(root, marker=False)
    marker = flat / ".waggle-workspace"
    match content:
        case "directory":
            marker.mkdir()
        case "link":
            marker.symlink_to("/etc/passwd")
        case "pipe":
            os.mkfifo(marker)
        case _:
            marker.write_text(content)
    provider = LocalProvider(root)
    descriptors = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    provider.adopt(SHELL)
    provider.probe(SHELL)
    assert (flat / "home" / "file").read_text() == "precious"
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) == descriptors


def test_flat_venv_beside_home_of_agent_is_taken_over(root: Path) -> None:
    """Without a marker, a directory ``home`` of the agent is not taken for today's layout."""
    flat = make_flat(root, PYTHON, marker=False)
    (flat / "file").unlink()
    provider = LocalProvider(root)
    provider.adopt(PYTHON)
    provider.probe(PYTHON)
    assert (flat / "home" / "home" / "file").read_text() == "precious"


def test_scripts_of_venv_work_after_takeover(root: Path) -> None:
    """The venv still works, and so do its scripts, which name the path where it was made."""
    script = make_flat(root, PYTHON) / ".venv" / "bin" / "script"
    script.write_text(f"#!{script.with_name('python')}\nimport sys\nprint(sys.prefix)\n")
    script.chmod(0o700)
    provider = LocalProvider(root)
    provider.adopt(PYTHON)
    home = Path(provider.locate(PYTHON))
    moved = home / ".venv" / "bin"
    for command in ("script", "python -c 'import sys; print(sys.prefix)'"):
        shell = ["sh", "-c", f"{moved}/{command}"]
        done = subprocess.run(shell, capture_output=True, text=True, check=True)
        assert os.path.samefile(done.stdout.strip(), home / ".venv")


def test_takeover_killed_at_any_step_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a takeover is killed, the next one finishes it, and no file is ever lost."""
    for number, done in kills():
        root = tmp_path / f"{number}-{done}"
        make_flat(root)
        (root / "a" / ".venv").mkdir()
        try:
            with monkeypatch.context() as patch:
                kill_at(patch, number, done=done)
                LocalProvider(root).adopt(SHELL)
        except KilledError:
            assert len(list(root.rglob("file"))) == 2
        else:
            assert number > 5
            break
        provider = LocalProvider(root, has_workspaces=True)
        provider.check()
        provider.adopt(SHELL)
        provider.probe(SHELL)
        assert Path(provider.locate(SHELL), "home", "file").read_text() == "precious"
        assert sorted(os.listdir(root)) == [".waggle-root", "a"]
        assert sorted(os.listdir(root / "a")) == [".venv", ".waggle-workspace", "home", "tmp"]
    else:
        pytest.fail("the takeover has more steps than expected")


def test_remains_of_killed_takeover_are_removed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A takeover that was killed halfway leaves nothing that a removal overlooks."""
    make_flat(root)
    with monkeypatch.context() as patch:
        patch.setattr(Marker, "write", failing_with(KilledError()))
        with pytest.raises(KilledError):
            LocalProvider(root).adopt(SHELL)
    provider = LocalProvider(root)
    assert provider.find_orphans([]) == [".adopting-a"]
    assert provider.find_orphans(["a"]) == []
    provider.remove(SHELL, keep=True)
    assert entries_of(root) == []
    provider.restore(SHELL)
    provider.adopt(SHELL)
    provider.probe(SHELL)
    assert Path(provider.locate(SHELL), "file").read_text() == "precious"


def failing_with(error: BaseException) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


@pytest.mark.parametrize("content", [None, "", '{"id": "a"', "[]", "x" * 20_000])
def test_workspace_without_marker_is_adopted(provider: LocalProvider, content: str | None) -> None:
    """A workspace that a backup restored without its marker, or with half of it, is complete."""
    provider.create(SHELL)
    Path(provider.locate(SHELL), "file").write_text("precious")
    marker = provider.root / "a" / ".waggle-workspace"
    (provider.root / "a" / "tmp").rmdir()
    marker.unlink() if content is None else marker.write_text(content)
    assert failure_of(provider.probe, SHELL).reason == "its workspace is incomplete"
    provider.adopt(SHELL)
    provider.probe(SHELL)
    assert Path(provider.locate(SHELL), "file").read_text() == "precious"
    assert (provider.root / "a" / "tmp").is_dir()


def test_workspace_of_another_environment_is_not_adopted(provider: LocalProvider) -> None:
    """A marker of another environment, or of a newer layout, stays as it is."""
    provider.create(SHELL)
    for marker in (Marker("b", "shell"), Marker("b", "shell", layout=1), Marker("a", "node")):
        marker.write(str(provider.root / "a"))
        provider.adopt(SHELL)
        assert Marker.read(str(provider.root / "a")) == marker
        assert isinstance(failure_of(provider.probe, SHELL), WorkspaceGoneError)
    newer = Marker("a", "shell", layout=3)
    newer.write(str(provider.root / "a"))
    provider.adopt(SHELL)
    assert type(failure_of(provider.probe, SHELL)).__name__ == "ProviderError"


def test_agent_cannot_remove_marker(provider: LocalProvider) -> None:
    """Neither an empty home nor a clean of all its files makes a workspace incomplete."""
    provider.create(SHELL)
    home = Path(provider.locate(SHELL))
    assert os.listdir(home) == []  # As git clone URL . wants it.
    (home / ".hidden").touch()
    subprocess.run(["sh", "-c", "rm -rf .[!.]* *"], cwd=home, check=True)
    provider.probe(SHELL)


def test_earlier_version_is_another_provider(root: Path) -> None:
    """An earlier version, which is called "local", removes nothing of any other provider."""
    provider: Provider = LocalProvider(root)
    assert provider.name != "local"
    assert provider.former_names == {"local"}


def test_earlier_version_takes_root_for_unmounted(root: Path) -> None:
    """An earlier version looks for another marker in the root, and changes nothing without it."""
    make_flat(root)
    LocalProvider(root).adopt(SHELL)
    assert not os.path.lexists(root / ".waggle-workspaces")
    (root / ".waggle-root").unlink()
    (root / ".waggle-workspaces").touch()  # Made by an earlier version after all.
    provider = LocalProvider(root, has_workspaces=True)
    provider.check()
    provider.adopt(SHELL)
    assert sorted(os.listdir(root)) == [".waggle-root", "a"]


def test_conflicting_takeover_is_reported(root: Path) -> None:
    """If a workspace came back while it was taken over, both are kept."""
    make_flat(root)
    staged = root / ".adopting-a" / "home"
    staged.mkdir(parents=True)
    (staged / "other").touch()
    provider = LocalProvider(root)
    error = failure_of(provider.adopt, SHELL)
    assert error.reason == "cannot take over its workspace: Directory not empty"
    assert (root / "a" / "file").read_text() == "precious"
    assert (staged / "other").exists()
