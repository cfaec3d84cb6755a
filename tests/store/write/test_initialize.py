# SPDX-License-Identifier: Apache-2.0
"""What is a store, and how a folder becomes one."""

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
    UnsupportedFormatError,
)
from waggle_fsstore.testing import make_environment


def tree(root: Path) -> dict[str, bytes | None]:
    """Every file and folder below a root, with its contents."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in root.rglob("*")
    }


def test_opening_and_reading_create_nothing(tmp_path: Path) -> None:
    """Only a write makes a store; what finds nothing to do is no write."""
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


def test_the_first_write_founds_the_store(tmp_path: Path) -> None:
    """A store is a marker, the documents, and what is nobody's business."""
    root = tmp_path / "a" / "store"
    with FileStore(root) as store:
        store.save(make_environment(id="a"))
    assert sorted(tree(root)) == [
        ".gitignore",
        ".waggle",
        ".waggle/lock",
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


def test_everything_is_private(tmp_path: Path) -> None:
    """Files are 0600 and folders 0700, whatever the umask allows."""
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


def test_an_empty_folder_becomes_a_store_as_it_is(tmp_path: Path) -> None:
    """A folder made beforehand, a mount point for one, keeps its identity and its mode."""
    root = tmp_path / "store"
    root.mkdir(mode=0o750)
    (root / "lost+found").mkdir()
    before = root.stat()
    FileStore(root).save(make_environment())
    after = root.stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_a_folder_restored_from_git_is_adopted(tmp_path: Path) -> None:
    """Documents alone are readable, and become a store at the first write."""
    with FileStore(tmp_path / "old") as old:
        old.save(make_environment(id="a"))
    restored = tmp_path / "restored"
    shutil.copytree(tmp_path / "old" / "environments", restored / "environments")
    with FileStore(restored) as store:
        assert store.count() == 1
        assert sorted(tree(restored)) == ["environments", "environments/a.json"]
        assert store.save(make_environment(id="b")) == 2
        assert (restored / "waggle.json").exists()


def test_a_store_without_documents_restored_from_git(tmp_path: Path) -> None:
    """Git keeps no empty folders: the marker alone is a store."""
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
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, name: str) -> None:
    """A folder with other contents is not littered with a store."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / name).mkdir()
    with pytest.raises(UnsupportedFormatError, match="holds other files") as caught:
        FileStore(tmp_path / "home")
    assert caught.value.path == tmp_path / "home"
    assert sorted(tree(tmp_path / "home")) == [name]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_place_where_no_folder_can_be_made() -> None:
    """It is told, and not tried for ever."""
    with FileStore("/proc/waggle/store") as store, pytest.raises(FileNotFoundError):
        store.save(make_environment())


def test_a_folder_that_fills_after_opening_is_refused(tmp_path: Path) -> None:
    """The folder is looked at again before anything is made in it."""
    store = FileStore(tmp_path / "home")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "notes.txt").write_text("mine")
    with pytest.raises(UnsupportedFormatError):
        store.save(make_environment())
    with pytest.raises(UnsupportedFormatError):
        store.count()
    assert sorted(tree(tmp_path / "home")) == ["notes.txt"]


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
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


def test_a_broken_marker_is_named(tmp_path: Path) -> None:
    """A marker that cannot be read says which file it is."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "waggle.json").write_text("")
    with pytest.raises(CorruptDocumentError) as caught:
        FileStore(tmp_path / "store")
    assert caught.value.path == tmp_path / "store" / "waggle.json"


def test_a_file_is_no_store(tmp_path: Path) -> None:
    """A path to a file says so."""
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        FileStore(tmp_path / "file")


@pytest.mark.parametrize("name", ["environments", ".waggle"])
def test_a_linked_folder_is_refused(tmp_path: Path, name: str) -> None:
    """A link inside the store would lead out of its root."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / name).symlink_to(outside)
    with pytest.raises(NotADirectoryError) as caught:
        FileStore(tmp_path / "store").save(make_environment())
    assert name in str(caught.value.filename)
    assert list(outside.iterdir()) == []


def test_a_linked_root_is_resolved_once(tmp_path: Path) -> None:
    """The root itself may be a link; where it leads is settled when the store is opened."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "link").symlink_to("one")
    store = FileStore(tmp_path / "link")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("two")
    store.save(make_environment())
    assert store.path == tmp_path / "one"
    assert list((tmp_path / "two").iterdir()) == []


def test_a_start_that_was_cut_short_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a founding leaves that dies at any call is founded by the next one."""
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


def test_a_removed_root_is_founded_anew(tmp_path: Path) -> None:
    """A store whose folder was removed starts again with the next write."""
    store = FileStore(tmp_path / "store", durable=False)
    store.save(make_environment(id="a"))
    shutil.rmtree(tmp_path / "store")
    assert store.count() == 0
    store.save(make_environment(id="b"))
    assert [environment.id for environment in store.find_all()] == ["b"]
    shutil.rmtree(tmp_path / "store" / "environments")
    store.save(make_environment(id="c"))
    # The journal knows what was in the folder.
    assert [environment.id for environment in store.find_all()] == ["b", "c"]


def test_left_over_files_are_cleared(tmp_path: Path) -> None:
    """A dead writer's temporary file goes; one of another pattern stays."""
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


def test_what_cannot_be_cleared_stops_nothing(tmp_path: Path) -> None:
    """A folder with the name of a temporary file is in nobody's way."""
    with FileStore(tmp_path / "store") as store:
        store.save(make_environment(id="a"))
    (tmp_path / "store" / ".waggle" / "tmp" / "x.tmp").mkdir()
    with FileStore(tmp_path / "store") as store:
        store.save(make_environment(id="b"))


@pytest.mark.parametrize("umask", [0o077, 0o177, 0o277, 0o777])
def test_a_strange_umask(tmp_path: Path, umask: int) -> None:
    """A umask may take rights from others, but not from the store itself."""
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


def test_an_empty_path() -> None:
    """No path is not the current folder."""
    with pytest.raises(ValueError, match="empty"):
        FileStore("")


def test_root_leaves_the_owner_what_is_theirs(tmp_path: Path) -> None:
    """What root makes in a store belongs to whoever owns the store."""
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


def test_root_without_the_right_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where root may not change owners, in a container for one, the store works all the same."""
    real = os.stat

    def stat_of_another(path: Any, **keywords: Any) -> Any:
        status = real(path, **keywords)
        if stat.S_ISREG(status.st_mode):
            return status
        return os.stat_result((*status[:4], 1234, 1234, *status[6:10]))

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr("waggle_fsstore.store.fs.disk.os.geteuid", lambda: 0)
        patch.setattr("waggle_fsstore.store.fs.disk.os.chown", refuse)
        patch.setattr("waggle_fsstore.store.fs.disk.os.stat", stat_of_another)
        store = FileStore(tmp_path / "store", durable=False)
        store.save(make_environment(id="a"))
        assert store.count() == 1
