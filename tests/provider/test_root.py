# SPDX-License-Identifier: Apache-2.0
"""The root directory of all workspaces: missing, unusable, and with orphans in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.provider.conftest import SHELL, as_plain_user, entries_of, environment, failure_of
from waggle_fsstore import WorkspaceGoneError
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.workspace_dirs import dir_name

NO_ROOT = (
    "the workspaces directory is missing or is a different one: mount its disk or, if it is lost, "
    "make a new directory with an empty file .waggle-root in it"
)


#: What can be in place of a root directory whose disk is not mounted.
UNMOUNTED: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _: None,
    "an empty directory": Path.mkdir,
    "a dangling link": lambda root: root.symlink_to("/nowhere"),
}


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("place", UNMOUNTED)
def test_unmounted_root_blocks_all_changes(
    provider: LocalProvider, root: Path, tmp_path: Path, place: str, is_new: bool
) -> None:
    """Without its root a provider that has workspaces makes, removes and gives up nothing."""
    provider.create(SHELL)
    root.rename(tmp_path / "elsewhere")
    UNMOUNTED[place](root)
    before = entries_of(tmp_path)
    if is_new:
        provider = LocalProvider(root, has_workspaces=True)
    for call in (provider.probe, provider.create, provider.remove):
        error = failure_of(call, SHELL)
        assert not isinstance(error, WorkspaceGoneError)
        assert error.reason == NO_ROOT
    assert failure_of(provider.check)
    assert entries_of(tmp_path) == before
    if root.is_symlink():
        root.unlink()
    elif root.exists():
        root.rmdir()
    (tmp_path / "elsewhere").rename(root)
    provider.check()
    provider.probe(SHELL)
    provider.remove(SHELL)
    assert entries_of(root) == []


def test_lost_root_can_be_replaced(root: Path) -> None:
    """A directory made as the reason says is a root directory, in which workspaces are gone."""
    provider = LocalProvider(root, has_workspaces=True)
    assert failure_of(provider.check).reason == NO_ROOT
    root.mkdir()
    assert failure_of(provider.check).reason == NO_ROOT
    (root / ".waggle-root").touch()
    provider.check()
    assert isinstance(failure_of(provider.probe, SHELL), WorkspaceGoneError)
    provider.create(SHELL)


def test_orphans_belong_to_no_known_id(provider: LocalProvider, root: Path) -> None:
    """An orphan belongs to no known id, also if it is partly removed."""
    for id_ in ("a", "B", "c", "D", "e"):
        provider.create(environment(id_))
    for name in ("c", dir_name("D"), "e"):
        (root / name).rename(root / f".removing-{name}-0")
    (root / "note.txt").touch()
    (root / "b").symlink_to("/nowhere")
    orphans = provider.find_orphans(iter(["a", "B", "c", "D"]))
    assert orphans == sorted(orphans)
    assert orphans[0].startswith(".removing-e-")
    assert orphans[1:] == ["b", "note.txt"]
    assert len(provider.find_orphans([])) == 7


def test_find_orphans_raises_if_root_is_a_file(provider: LocalProvider, root: Path) -> None:
    """A root that is a file is an error."""
    root.touch()
    error = failure_of(provider.find_orphans, [])
    assert isinstance(error.__cause__, NotADirectoryError)


def test_check_reports_file_in_path_of_root(tmp_path: Path) -> None:
    """If a file is in the way, a check and a creation report it."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/nowhere/at/all")
    for place in ("file", "file/below/it", "link", "link/below"):
        provider = LocalProvider(tmp_path / place)
        assert failure_of(provider.check).reason == "the workspaces path is not a directory"
        error = failure_of(provider.create, SHELL)
        assert error.reason == "cannot make its workspace: Not a directory"


@pytest.mark.parametrize("place", [".", "a/b"])
def test_check_reports_unwritable_root(tmp_path: Path, place: str) -> None:
    """A root directory that is not writable, or cannot be made, is reported."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    provider = LocalProvider(locked / place)
    error = as_plain_user(lambda: failure_of(provider.check))
    assert error.reason == "the workspaces directory is not writable"
    assert entries_of(locked) == []
    locked.chmod(0o700)
    provider.check()
