# SPDX-License-Identifier: Apache-2.0
"""What is a store, and how a folder becomes one."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.store.recorder import Call, record
from waggle_fsstore import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    FileStore,
    StoreGoneError,
    UnsupportedFormatError,
)
from waggle_fsstore.store.read import documents
from waggle_fsstore.store.write import initialize
from waggle_fsstore.testing import make_environment


def tree(root: Path) -> dict[str, bytes | None]:
    """Every file and folder below a root, with its contents."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in root.rglob("*")
    }


def test_opening_and_reading_create_nothing(tmp_path: Path) -> None:
    """Only a write creates a store; a write that fails before it stores anything does not."""
    store = FileStore(tmp_path / "a" / "store")
    assert store.find_all() == []
    assert store.count() == 0
    for call in (store.find_by_id, store.delete):
        with pytest.raises(EnvironmentNotFoundError):
            call("missing")
    with pytest.raises(EnvironmentNotFoundError):
        store.update("missing", lambda _: None)
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_first_write_initializes_store(tmp_path: Path) -> None:
    """A store is a marker, documents, and a journal and internal files that git ignores."""
    root = tmp_path / "a" / "store"
    with FileStore(root) as store:
        store.save(make_environment(id="a"))
    assert sorted(tree(root)) == [
        ".gitignore",
        ".waggle",
        ".waggle/lock",
        ".waggle/reserve",
        ".waggle/state",
        ".waggle/tmp",
        "environments",
        "environments/a.json",
        "journal",
        "journal/0000000000000001.jsonl",
        "waggle.json",
    ]
    assert (root / "waggle.json").read_text() == '{"application": "waggle-fsstore", "format": 1}\n'
    assert (root / ".gitignore").read_text() == ".waggle/\njournal/\n"


def test_files_and_directories_are_private(tmp_path: Path) -> None:
    """Files are 0600 and directories 0700, whatever the umask allows."""
    old = os.umask(0)
    try:
        with FileStore(tmp_path / "a" / "store") as store:
            store.save_all([make_environment(id="a"), make_environment(id="b")])
            store.document_path("b").write_text("{")
            store.delete("b")
    finally:
        os.umask(old)
    for path in (tmp_path / "a").rglob("*"):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_empty_directory_keeps_inode_and_mode(tmp_path: Path) -> None:
    """An existing empty directory, such as a mount point, becomes a store in place."""
    root = tmp_path / "store"
    root.mkdir(mode=0o750)
    (root / "lost+found").mkdir()
    before = root.stat()
    FileStore(root).save(make_environment())
    after = root.stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_documents_from_git_are_adopted(tmp_path: Path) -> None:
    """A directory with documents alone is readable, and becomes a store at the first write."""
    with FileStore(tmp_path / "old") as old:
        old.save(make_environment(id="a"))
    restored = tmp_path / "restored"
    shutil.copytree(tmp_path / "old" / "environments", restored / "environments")
    with FileStore(restored) as store:
        assert store.count() == 1
        assert sorted(tree(restored)) == ["environments", "environments/a.json"]
        assert store.save(make_environment(id="b")) == 2
        assert (restored / "waggle.json").exists()


def test_marker_alone_is_store(tmp_path: Path) -> None:
    """Git keeps no empty directories: the marker alone makes a store."""
    with FileStore(tmp_path / "store") as store:
        store.save(make_environment(id="a"))
        store.delete("a")
    shutil.rmtree(tmp_path / "store" / "environments")
    shutil.rmtree(tmp_path / "store" / ".waggle")
    with FileStore(tmp_path / "store") as store:
        assert store.find_all() == []
        store.save(make_environment(id="b"))
        assert store.count() == 1


@pytest.mark.parametrize("name", ["notes.txt", ".git", "environment", "WAGGLE.txt"])
def test_foreign_directory_is_refused(tmp_path: Path, name: str) -> None:
    """A directory with other contents is refused and left as it is."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / name).mkdir()
    with pytest.raises(UnsupportedFormatError, match="holds other files") as caught:
        FileStore(tmp_path / "home")
    assert caught.value.path == tmp_path / "home"
    assert sorted(tree(tmp_path / "home")) == [name]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_impossible_path_raises() -> None:
    """A path where no directory can be made raises instead of retrying."""
    with FileStore("/proc/waggle/store") as store, pytest.raises(FileNotFoundError):
        store.save(make_environment())


def test_directory_that_fills_after_opening_is_refused(tmp_path: Path) -> None:
    """The directory is checked again before anything is made in it."""
    store = FileStore(tmp_path / "home")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "notes.txt").write_text("mine")
    with pytest.raises(UnsupportedFormatError):
        store.save(make_environment())
    with pytest.raises(UnsupportedFormatError):
        store.count()
    assert sorted(tree(tmp_path / "home")) == ["notes.txt"]


def test_newer_store_is_refused(tmp_path: Path) -> None:
    """A store of a newer format is neither read nor written."""
    with FileStore(tmp_path / "store") as store:
        store.save(make_environment())
    (tmp_path / "store" / "waggle.json").write_text(
        '{"application": "waggle-fsstore", "format": 2}'
    )
    before = tree(tmp_path / "store")
    with pytest.raises(UnsupportedFormatError) as caught:
        FileStore(tmp_path / "store")
    assert (caught.value.found, caught.value.supported) == (2, 1)
    assert caught.value.path == tmp_path / "store" / "waggle.json"
    assert tree(tmp_path / "store") == before


def test_corrupt_marker_error_names_file(tmp_path: Path) -> None:
    """The error for an unreadable marker names the file."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "waggle.json").write_text("")
    with pytest.raises(CorruptDocumentError) as caught:
        FileStore(tmp_path / "store")
    assert caught.value.path == tmp_path / "store" / "waggle.json"


def test_file_as_root_raises(tmp_path: Path) -> None:
    """A path to a file raises NotADirectoryError."""
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        FileStore(tmp_path / "file")


@pytest.mark.parametrize("name", ["environments", ".waggle"])
def test_linked_directory_is_refused(tmp_path: Path, name: str) -> None:
    """A symbolic link inside the store, which would lead out of its root, is refused."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / name).symlink_to(outside)
    with pytest.raises(NotADirectoryError) as caught:
        FileStore(tmp_path / "store").save(make_environment())
    assert name in str(caught.value.filename)
    assert list(outside.iterdir()) == []


def test_linked_root_is_resolved_once(tmp_path: Path) -> None:
    """The root may be a symbolic link, which is resolved when the store is opened."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "link").symlink_to("one")
    store = FileStore(tmp_path / "link")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("two")
    store.save(make_environment())
    assert store.path == tmp_path / "one"
    assert list((tmp_path / "two").iterdir()) == []


def test_interrupted_initialization_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An initialization that dies at any call is completed by the next one."""
    with monkeypatch.context() as patch:
        calls = record(patch)
        FileStore(tmp_path / "whole" / "store").save(make_environment())
        total = len(calls.calls)
    assert total > 20
    for number in range(total):
        root = tmp_path / f"cut-{number}" / "store"
        child = os.fork()
        if child == 0:

            def die(count: int, _: Call, perform: Callable[[], Any], last: int = number) -> Any:
                if count == last:
                    os._exit(9)  # As kill -9: nothing is cleaned up.
                return perform()

            record(monkeypatch, die)
            FileStore(root).save(make_environment(id="a"))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        with FileStore(root) as store:
            assert store.count() in (0, 1)
            store.save(make_environment(id="b"))
            assert store.find_by_id("b").id == "b"
        names = set(tree(root))
        assert {"waggle.json", ".gitignore", "environments/b.json"} <= names
        assert not [name for name in names if name.endswith(".tmp")]


def test_removed_root_is_initialized_when_opened_again(tmp_path: Path) -> None:
    """A store whose directory was removed begins again only with another object."""
    store = FileStore(tmp_path / "store", durable=False)
    store.save(make_environment(id="a"))
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(StoreGoneError):
        store.save(make_environment(id="a"))
    store = FileStore(tmp_path / "store", durable=False)
    assert store.count() == 0
    store.save(make_environment(id="b"))
    assert [environment.id for environment in store.find_all()] == ["b"]
    shutil.rmtree(tmp_path / "store" / "environments")
    store.save(make_environment(id="c"))
    # The journal knows what was in the folder.
    assert [environment.id for environment in store.find_all()] == ["b", "c"]


def test_orphaned_temp_files_are_removed(tmp_path: Path) -> None:
    """The temp file of a writer that died is removed; a file of another pattern stays."""
    with FileStore(tmp_path / "store") as store:
        store.save(make_environment(id="a"))
    folder = tmp_path / "store" / ".waggle" / "tmp"
    (folder / "0123456789abcdef.tmp").write_text("half a docu")
    (folder / "mine.txt").write_text("keep")
    with FileStore(tmp_path / "store") as store:
        store.count()
        assert len(list(folder.iterdir())) == 2, "a reader changes nothing"
        store.save(make_environment(id="b"))
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_unremovable_temp_entry_is_ignored(tmp_path: Path) -> None:
    """A directory with the name of a temp file does not stop a write."""
    with FileStore(tmp_path / "store") as store:
        store.save(make_environment(id="a"))
    (tmp_path / "store" / ".waggle" / "tmp" / "x.tmp").mkdir()
    with FileStore(tmp_path / "store") as store:
        store.save(make_environment(id="b"))


@pytest.mark.parametrize("umask", [0o077, 0o177, 0o277, 0o777])
def test_umask_keeps_owner_rights(tmp_path: Path, umask: int) -> None:
    """A umask cannot take the store's own rights."""
    old = os.umask(umask)
    try:
        FileStore(tmp_path / "store").save(make_environment(id="a"))
    finally:
        os.umask(old)
    for name in ("environments", ".waggle", ".waggle/tmp"):
        assert stat.S_IMODE((tmp_path / "store" / name).stat().st_mode) == 0o700
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(files) > 4
    # Root would not notice.
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_empty_path_is_refused() -> None:
    """An empty path does not mean the current directory."""
    with pytest.raises(ValueError, match="empty"):
        FileStore("")


def test_files_made_by_root_belong_to_store_owner(tmp_path: Path) -> None:
    """Files that root makes in a store belong to the owner of the store."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    root = tmp_path / "store"
    with FileStore(root) as store:
        store.save_all([make_environment(id="a"), make_environment(id="bad")])
        shutil.rmtree(root / ".waggle")
        (root / "waggle.json").unlink()
        for path in (root, *root.rglob("*")):
            os.chown(path, 65534, 65534)
    with FileStore(root) as store:
        store.document_path("bad").write_text("{")
        store.save_all([make_environment(id="a"), make_environment(id="b")])
        store.delete("bad")
    owners = {str(path): path.lstat().st_uid for path in root.rglob("*")}
    assert set(owners.values()) == {65534}, owners


def test_root_without_chown_still_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where root may not change owners, as in some containers, the store still works."""

    def owned_by(owner: int, real: Callable[..., os.stat_result]) -> Callable[..., Any]:
        def stat_of_owner(path: Any, **keywords: Any) -> os.stat_result:
            status = real(path, **keywords)
            if owner != 0 and stat.S_ISREG(status.st_mode):
                return status
            times = {
                name: getattr(status, name)
                for name in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")
            }
            return os.stat_result((*status[:4], owner, owner, *status[6:10]), times)

        return stat_of_owner

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        for look in ("fstat", "lstat"):
            name = f"waggle_fsstore.store.fs.disk.os.{look}"
            patch.setattr(name, owned_by(0, getattr(os, look)))
        patch.setattr("waggle_fsstore.store.fs.disk.os.chown", refuse)
        patch.setattr("waggle_fsstore.store.fs.disk.os.stat", owned_by(1234, os.stat))
        store = FileStore(tmp_path / "store", durable=False)
        store.save(make_environment(id="a"))
        assert store.count() == 1


def test_file_system_without_modes_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no mode can be set, the store is made with a warning, and works."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "fchmod", refuse)
    with FileStore(tmp_path / "store", durable=False) as store:
        with pytest.warns(RuntimeWarning, match="keeps no modes"):
            store.save(make_environment(id="a"))
        monkeypatch.setattr(documents, "S_IMODE", lambda _: 0o755)
        store.save(make_environment(id="a", name="second"))
        assert store.find_by_id("a").name == "second"


@pytest.mark.parametrize(
    ("name", "is_new"),
    [
        ("environments", True),
        (".waggle", True),
        ("environments", False),
        ("journal", False),
        (".waggle", False),
        (".waggle/tmp", False),
    ],
)
def test_mount_inside_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_new: bool
) -> None:
    """A directory of the store that is a separate mount is refused before anything is written."""
    root = tmp_path / "store"
    if is_new:
        (root / name).mkdir(parents=True, mode=0o700)
    else:
        with FileStore(root) as store:
            store.save(make_environment(id="a"))
    before = tree(root)
    monkeypatch.setattr(initialize, "mount_id", lambda path: int(path == str(root / name)))
    with FileStore(root) as store:
        with pytest.raises(OSError, match="separate mount") as caught:
            store.save(make_environment(id="b"))
        assert (caught.value.errno, caught.value.filename) == (errno.EXDEV, str(root / name))
        assert store.count() == (0 if is_new else 1)
    assert {**tree(root), ".waggle/lock": b""} == {**before, ".waggle/lock": b""}
