# SPDX-License-Identifier: Apache-2.0
"""Emptying: any depth, few descriptors, no link followed, no mount entered."""

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.provider.conftest import as_plain_user, mode_of
from waggle_fsstore.provider.emptying import StoppedError, disk_usage, remove_tree

# Beyond the recursion limit of Python, the limit of descriptors, and the length of paths.
DEPTH = 1_200
NAME = "d" * 10

trees = st.recursive(
    st.sampled_from(["file", "link", "pipe"]),
    lambda below: st.dictionaries(st.sampled_from("abcde"), below, max_size=4),
    max_leaves=30,
)


@contextmanager
def few_descriptors() -> Iterator[None]:
    """Leave room for eight more descriptors."""
    used = max(map(int, os.listdir("/proc/self/fd")), default=0) if os.path.exists("/proc") else 60
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def make_deep(path: Path, depth: int) -> None:
    """Make nested directories, each with a file, deeper than any path can name."""
    path.mkdir()
    current = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(NAME, dir_fd=current)
        below = os.open(NAME, os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=current))
    os.close(current)


def plant(path: Path, tree: object) -> None:
    """Make a tree of directories, files, links to the parent, and pipes."""
    if isinstance(tree, dict):
        path.mkdir()
        for name, below in tree.items():
            plant(path / name, below)
    elif tree == "link":
        path.symlink_to(path.parent)
    elif tree == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("x" * 5_000)


def test_deep_nesting_is_removed_with_few_descriptors(tmp_path: Path) -> None:
    """1,200 nested directories are measured and removed with eight descriptors."""
    make_deep(tmp_path / "deep", DEPTH)
    try:
        with few_descriptors():
            disk_usage(str(tmp_path / "deep"))
            remove_tree(str(tmp_path / "deep"))
        assert os.listdir(tmp_path) == []
    finally:
        # pytest, which recurses, could not remove what a failure leaves.
        subprocess.run(["rm", "-rf", tmp_path / "deep"], check=True)


@settings(max_examples=30)
@given(trees)
def test_any_tree_is_removed(tmp_path_factory: pytest.TempPathFactory, tree: object) -> None:
    """Any tree is removed as a whole, and nothing beside it."""
    directory = tmp_path_factory.mktemp("any")
    (directory / "kept").mkdir()
    plant(directory / "tree", tree)
    remove_tree(str(directory / "tree"))
    remove_tree(str(directory / "tree"))
    assert os.listdir(directory) == ["kept"]


def test_removal_follows_no_link(tmp_path: Path) -> None:
    """The targets of links are kept as they are, whatever the modes are."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    locked = tmp_path / "tree" / "locked"
    locked.mkdir(parents=True)
    (locked / "dir").symlink_to(outside)
    (locked / "self").symlink_to(locked)
    (tmp_path / "tree" / "link").symlink_to(outside)
    locked.chmod(0o500)
    as_plain_user(lambda: remove_tree(str(tmp_path / "tree")))
    assert os.listdir(tmp_path) == ["outside"]
    assert mode_of(outside) == 0o500


@pytest.mark.parametrize("mode", [0o500, 0o400, 0o300, 0])
def test_locked_directories_are_removed(tmp_path: Path, mode: int) -> None:
    """Directories that even their user cannot write to or read are removed."""
    deep = tmp_path / "tree" / "x" / "y"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    for directory in (deep, deep.parent, deep.parent.parent):
        directory.chmod(mode)
    as_plain_user(lambda: remove_tree(str(tmp_path / "tree")))
    assert os.listdir(tmp_path) == []


def test_directory_swapped_for_link_is_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that replaces a directory by a link at the last moment loses no other file."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (tmp_path / "tree" / "a").mkdir(parents=True)
    real = os.open
    swapped: list[str] = []

    def swap(path: str, flags: int, *args: int, dir_fd: int | None = None) -> int:
        if dir_fd is not None and not swapped:
            swapped.append(path)
            os.rename(path, f"{path}-away", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
            os.symlink(precious, path, dir_fd=dir_fd)
        return real(path, flags, *args, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", swap)
        with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
            remove_tree(str(tmp_path / "tree"))
    assert swapped
    remove_tree(str(tmp_path / "tree"))
    assert sorted(os.listdir(tmp_path)) == ["precious"]
    assert os.listdir(precious) == ["file"]


def test_failure_does_not_stop_removal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be removed is reported after everything else is removed."""
    for name in "abc":
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / name).touch()
    real = os.unlink

    def refuse(path: str, *, dir_fd: int | None = None) -> None:
        if path == "b":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PermissionError):
        remove_tree(str(tmp_path / "tree"))
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == ["b"]


def test_tree_that_is_written_meanwhile_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that still writes delays the removal, and does not prevent it."""
    (tmp_path / "tree").mkdir()
    real = os.rmdir
    writes = iter(range(3))

    def write_first(path: str, *, dir_fd: int | None = None) -> None:
        for number in writes:
            (tmp_path / "tree" / str(number)).mkdir()
            break
        real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", write_first)
    remove_tree(str(tmp_path / "tree"))
    assert os.listdir(tmp_path) == []


def test_removal_can_be_stopped_and_continued(tmp_path: Path) -> None:
    """A removal that is told to stop ends soon, and the next one finishes it."""
    plant(tmp_path / "tree", {"a": {"b": "file"}, "c": "file"})
    answers = iter([False, True])
    with pytest.raises(StoppedError):
        remove_tree(str(tmp_path / "tree"), lambda: next(answers))
    assert os.path.exists(tmp_path / "tree")
    remove_tree(str(tmp_path / "tree"))
    assert os.listdir(tmp_path) == []


def test_disk_usage_is_that_of_all_files(tmp_path: Path) -> None:
    """The size is that on the disk, of directories too, and never that of a link's target."""
    plant(tmp_path / "tree", {"a": {"b": "file", "c": {"d": "file"}}, "e": "link"})
    (tmp_path / "big").write_bytes(b"x" * 1_000_000)
    (tmp_path / "tree" / "big").symlink_to(tmp_path / "big")
    # What is small counts as much as its inode.
    expected = sum(
        max(os.lstat(os.path.join(directory, name)).st_blocks * 512, 4096 * (name != "."))
        for directory, below, files in os.walk(tmp_path / "tree")
        for name in [".", *files, *(one for one in below if Path(directory, one).is_symlink())]
    )
    assert disk_usage(str(tmp_path / "tree")) == expected
    assert disk_usage(str(tmp_path / "missing")) == 0
