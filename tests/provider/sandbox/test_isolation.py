# SPDX-License-Identifier: Apache-2.0
"""What programs may not see or own, for any places of the store."""

import os
from pathlib import Path

import pytest

from tests.isolation import needs_isolation
from tests.provider.sandbox import batch
from waggle_fsstore import Runtime
from waggle_fsstore.provider.emptying import remove_tree
from waggle_fsstore.provider.sandbox import ownership
from waggle_fsstore.provider.sandbox.sandbox import _Descriptors
from waggle_fsstore.provider.sandbox.user import sandbox_user
from waggle_fsstore.provider.sandbox.view import why_unsafe


def test_private_path_in_system_is_refused() -> None:
    """A store, workspaces or tokens below a directory that all programs see stop execution."""
    assert why_unsafe([], ["/srv/waggle/store"]) == ""
    assert "programs see all of /usr" in why_unsafe([], ["/usr/local/share/store"])
    assert "programs see all of" in why_unsafe([], ["/lib/store"])


def test_interpreter_beside_private_path_is_refused(tmp_path: Path) -> None:
    """An interpreter in a directory with the store in it cannot be shown."""
    assert why_unsafe([str(tmp_path / "python")], [str(tmp_path / "store")]) == ""
    assert why_unsafe([str(tmp_path)], [str(tmp_path / "store")])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_root_leaves_workspaces_of_other_user_alone(tmp_path: Path) -> None:
    """Root runs no programs in what belongs to a server of another user."""
    os.chown(tmp_path, 1234, 1234)
    with pytest.raises(LookupError, match="belong to another user"):
        sandbox_user(str(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_deep_tree_gets_new_owner(tmp_path: Path) -> None:
    """A tree of any depth is given to a user, with files of several links that were its own."""
    top = tmp_path / "home"
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(2_000):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    (top / "one").touch()
    os.link(top / "one", top / "two")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    os.link(elsewhere, top / "link")
    (top / "symlink").symlink_to(elsewhere)
    ownership.give([str(top)], (1234, 1234))
    assert elsewhere.stat().st_uid == 0
    for name in ("one", "two"):
        os.chown(top / name, 1234, 1234)
    ownership.give([str(top)], (5678, 5678))
    assert {(top / name).stat().st_uid for name in ("one", "two", "d")} == {5678}
    assert elsewhere.stat().st_uid == 0
    remove_tree(str(top))  # No other function could.


def test_failed_pipe_leaks_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that runs out of descriptors does not lose more of them with each call."""
    real, calls = os.pipe, []

    def pipe() -> tuple[int, int]:
        calls.append(1)
        if len(calls) % 2 == 0:
            raise OSError(24, "Too many open files")
        return real()

    monkeypatch.setattr(os, "pipe", pipe)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(OSError, match="Too many open files"):
            _Descriptors()
    assert len(os.listdir("/proc/self/fd")) == before


@needs_isolation
def test_measuring_changes_no_mode(tmp_path: Path) -> None:
    """A directory without any permission has the same mode after the server has measured it."""
    with batch.opened(tmp_path) as place:
        shell = batch.environment("a", Runtime.SHELL)
        place.provider.create(shell)
        place.execute(shell, "mkdir locked; echo x > locked/file; chmod 000 locked", Runtime.SHELL)
        place.execute(shell, "head -c 30000000 /dev/zero > big", Runtime.SHELL)
        result = place.execute(shell, "stat -c %a locked", Runtime.SHELL)
    assert result.stdout == "0\n"
