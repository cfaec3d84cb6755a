# SPDX-License-Identifier: Apache-2.0
"""Mounts in workspaces: what is mounted keeps its files, and is named."""

import ctypes
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.provider.conftest import SHELL, as_plain_user, entries_of, mode_of, trash_of
from waggle_fsstore import MemoryStore, ProviderError
from waggle_fsstore.provider import mounts
from waggle_fsstore.provider.emptying import remove_tree
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.mounts import mount_of, mount_points
from waggle_fsstore.wiring import open_service, remove_temporary_workspaces

_MS_BIND = 4096
_MNT_DETACH = 2

#: Mounts a directory at another one, until the end of the test.
Bind = Callable[[Path, Path], None]


@pytest.fixture
def bind(tmp_path: Path) -> Iterator[Bind]:
    if os.geteuid() != 0 or not Path("/proc/mounts").exists():
        pytest.skip("only root on Linux can mount")
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: Path, target: Path) -> None:
        target.mkdir(exist_ok=True)
        paths = os.fsencode(source), os.fsencode(target)
        if libc.mount(*paths, None, _MS_BIND, None) != 0:
            pytest.skip("root cannot mount in this container")

    yield mount
    # Where they are now: an emptying moves the directories above them.
    for path in reversed(mount_points(str(tmp_path))):
        unmount(Path(path))


def unmount(path: Path) -> None:
    assert ctypes.CDLL(None).umount2(os.fsencode(path), _MNT_DETACH) == 0


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A directory with a file that belongs to no environment."""
    directory = tmp_path / "precious"
    directory.mkdir()
    (directory / "file").write_text("precious")
    return directory


@pytest.mark.parametrize("place", ["home/data", "."])
def test_end_of_store_in_memory_enters_no_mount(
    bind: Bind,
    precious: Path,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The temporary workspaces are removed except for what is mounted there, which is logged."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    service = open_service(MemoryStore())
    workspace = Path(service.locate(service.create("shell"))).parent
    bind(precious, workspace / place)
    remove_temporary_workspaces()
    assert (precious / "file").read_text() == "precious"
    assert str(workspace.parent) in caplog.text


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("place", ["home/data", "home", "."])
def test_workspace_with_mount_is_left_until_unmounted(
    root: Path, precious: Path, bind: Bind, place: str, keep: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays where it is, is named and counted, and goes once nothing is mounted there."""
    provider = LocalProvider(root, trash_keep=timedelta(hours=1) if keep else timedelta(0))
    provider.create(SHELL)
    mounted = root / "a" / place
    bind(precious, mounted)
    provider.remove(SHELL, keep=keep)
    for _ in range(2):
        provider.tidy(timedelta(hours=2), [])
        provider._emptying.wait()
        assert (mounted / "file").read_text() == "precious"
        assert entries_of(root) == ["a"]
        assert provider.leftovers.orphans == 1
        assert provider.find_orphans([]) == []
    [record] = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert str(mounted) in record.getMessage()
    unmount(mounted)
    provider.tidy(timedelta(0), ["a"])
    assert entries_of(root) == ["a"]  # It belongs to an environment again.
    provider.tidy(timedelta(0), [])
    assert entries_of(root) == []
    provider.tidy(timedelta(hours=2), [])
    assert trash_of(provider) == []
    assert provider.leftovers.orphans == 0
    assert os.listdir(precious) == ["file"]
    provider.close()


def test_workspace_with_mount_is_restored_in_its_place(
    root: Path, precious: Path, bind: Bind
) -> None:
    """An expired workspace that could not be moved is restored where it is."""
    provider = LocalProvider(root)
    provider.create(SHELL)
    bind(precious, Path(provider.locate(SHELL), "data"))
    provider.remove(SHELL, keep=True)
    provider.restore(SHELL)
    assert trash_of(provider) == []
    provider.probe(SHELL)
    provider.close()


def test_emptying_enters_no_mount(tmp_path: Path, precious: Path, bind: Bind) -> None:
    """What is mounted in the trash later is not entered either, at any depth."""
    for place in ("tree/a/b", "tree"):
        target = tmp_path / place / "data"
        target.parent.mkdir(parents=True, exist_ok=True)
        (target.parent / "file").touch()
        bind(precious, target)
        with pytest.raises(OSError, match="busy"):
            remove_tree(str(tmp_path / "tree"))
        assert os.listdir(precious) == ["file"]


def test_locked_mount_keeps_its_mode(tmp_path: Path, precious: Path, bind: Bind) -> None:
    """A mount that cannot be written to is not made writable."""
    (tmp_path / "tree" / "a").mkdir(parents=True)
    precious.chmod(0o500)
    bind(precious, tmp_path / "tree" / "a" / "data")
    with pytest.raises(OSError, match="busy"):
        as_plain_user(lambda: remove_tree(str(tmp_path / "tree")))
    assert os.listdir(precious) == ["file"]
    assert mode_of(precious) == 0o500


def test_trash_with_mount_is_left(root: Path, precious: Path, bind: Bind) -> None:
    """What is mounted over an entry of the trash, or in it, keeps its files too."""
    provider = LocalProvider(root)
    provider.create(SHELL)
    provider.remove(SHELL, keep=True)
    [entry] = trash_of(provider)
    bind(precious, root / ".trash" / entry)
    provider.tidy(timedelta(days=9), [])
    assert trash_of(provider) == [entry]
    assert os.listdir(precious) == ["file"]
    assert provider.leftovers.orphans == 1
    provider.close()


def test_old_workspace_with_mount_is_not_taken_over(root: Path, precious: Path, bind: Bind) -> None:
    """A flat workspace with a mount stays as it is, and running."""
    bind_at = root / "a" / "data"
    bind_at.parent.mkdir(parents=True)
    (root / ".waggle-workspaces").touch()
    bind(precious, bind_at)
    with pytest.raises(ProviderError, match="cannot take over its workspace: Device or resource"):
        LocalProvider(root).adopt(SHELL)
    assert (bind_at / "file").exists()


def test_mount_points_are_those_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that begin alike are no parents, and escaped characters are decoded."""
    table = tmp_path / "mountinfo"
    points = ["/", "/data", "/data/a", "/data/a/x\\040y", "/data/ab", "/data/a\\134b"]
    table.write_text("".join(f"1 1 0:1 / {point} rw - ext4 x rw\n" for point in points))
    monkeypatch.setattr(mounts, "_MOUNTS", str(table))
    assert mount_points("/data/a") == ["/data/a", "/data/a/x y"]
    assert mount_points("/data/a/x y") == ["/data/a/x y"]
    assert mount_points("/other") == []
    assert [mount_of(path) for path in ("/data/b", "/data/a/z", "/other")] == [
        "/data",
        "/data/a",
        "/",
    ]
    monkeypatch.setattr(mounts, "_MOUNTS", str(tmp_path / "missing"))
    assert mount_points("/data/a") == []
    assert mount_of("/") == mount_of("/nowhere/at/all")


@pytest.mark.parametrize("apart", [True, False])
def test_store_on_another_mount_is_reported(
    tmp_path: Path, apart: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator is told if only one of the store and its workspaces is on a volume."""
    table = tmp_path / "mountinfo"
    store = tmp_path / "store"
    points = ["/", str(store)] if apart else ["/", str(tmp_path)]
    table.write_text("".join(f"1 1 0:1 / {point} rw - ext4 x rw\n" for point in points))
    monkeypatch.setattr(mounts, "_MOUNTS", str(table))
    LocalProvider(f"{store}-workspaces", store=str(store))
    assert ("on different mounts" in caplog.text) == apart
    assert (str(store) in caplog.text) == apart
