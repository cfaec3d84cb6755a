# SPDX-License-Identifier: Apache-2.0
"""The state record and the numbering of changes."""

import shutil
from pathlib import Path

import pytest

from waggle_fsstore import CorruptDocumentError, FileStore, StoreError
from waggle_fsstore.domain import process
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.fs import linux, safe_read
from waggle_fsstore.store.journal import state
from waggle_fsstore.store.journal.state import State, StateRecord, read_state
from waggle_fsstore.store.read import documents
from waggle_fsstore.testing import make_environment

SMALL = State("boot:1:2", 1, 3, 4, 8, 7)


def save(store: FileStore, environment_id: str = "a") -> int:
    return store.save(make_environment(id=environment_id))


def test_round_trip(tmp_path: Path) -> None:
    """What was written is read, by the writer and by a reader; it is one line of fixed size."""
    path = tmp_path / "state"
    record = StateRecord(str(path))
    assert record.read() is None
    assert read_state(str(path)) is None
    for written in (SMALL, State("-", 0, 2**53, 2**31, 2**53, 2**53)):
        record.write(written)
        assert record.read() == read_state(str(path)) == written
        assert path.stat().st_size == 384
        assert path.read_text().count("\n") == 1


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    """A record with any wrong byte in it counts for nothing."""
    path = tmp_path / "state"
    StateRecord(str(path)).write(SMALL)
    good = path.read_bytes().rstrip()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 0x10
        path.write_bytes(bad)
        assert read_state(str(path)) in (None, SMALL)
        assert read_state(str(path)) is None or good[position : position + 1].isspace()


def test_missing_record(store: FileStore) -> None:
    """Without the record, numbering goes on above the highest revision of any document."""
    save(store)
    save(store, "b")
    store.close()
    (store.path / ".waggle" / "state").unlink()
    assert save(FileStore(store.path, durable=False)) == 3


def test_record_removed_under_a_live_store(store: FileStore) -> None:
    """Two open stores agree on the numbers also when the record was removed under one."""
    save(store)
    (store.path / ".waggle" / "state").unlink()
    other = FileStore(store.path, durable=False)
    assert [save(other), save(store), save(other)] == [2, 3, 4]


def test_another_boot(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart of the machine an old record counts no more than the documents."""
    for _ in range(3):
        save(store)
    record = StateRecord(str(store.path / ".waggle" / "state"))
    now = record.read()
    assert now is not None
    record.write(now._replace(committed=1, published=1))  # What a power cut may leave of it.
    monkeypatch.setattr(state, "boot_id", lambda: "another-boot")
    assert save(FileStore(store.path, durable=False), "b") == 4


def test_another_mount(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that was pulled and mounted again has an old record, and another mount id."""
    for _ in range(3):
        save(store)
    record = StateRecord(str(store.path / ".waggle" / "state"))
    now = record.read()
    assert now is not None
    record.write(now._replace(committed=1, published=1))
    mount = linux.mount_id(str(store.path))
    monkeypatch.setattr(state, "mount_id", lambda _: mount + 1)
    assert save(FileStore(store.path, durable=False), "b") == 4


def test_mounts_have_ids_of_their_own() -> None:
    """Where the system tells mounts apart, two of them have two ids, and one has one."""
    mounts = [linux.mount_id(path) for path in ("/", "/proc", "/")]
    if mounts[0] == 0:
        pytest.skip("needs Linux 6.8")
    assert mounts[0] == mounts[2] != mounts[1]


def test_an_unreadable_document(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not stop the writing of others, also where the numbers are counted anew."""
    store.save_all([make_environment(id="a"), make_environment(id="b")])
    real = safe_read.read_regular

    def read(path: str, limit: int) -> bytes:
        if path.endswith("b.json"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, limit)

    monkeypatch.setattr(documents, "read_regular", read)
    (store.path / ".waggle" / "state").unlink()
    assert save(FileStore(store.path, durable=False)) == 3


def test_an_unreadable_record(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may read the documents can count them."""
    save(store)

    def refuse(path: str, _: int) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(state, "read_regular", refuse)
    assert store.count() == 1


def test_another_boot_after_a_delete(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal knows of deleted revisions that no document shows."""
    save(store)
    save(store, "b")
    store.delete("b")
    monkeypatch.setattr(state, "boot_id", lambda: "another-boot")
    assert save(FileStore(store.path, durable=False), "b") == 4


def test_a_copy_of_a_store(store: FileStore) -> None:
    """A copy does not trust a record that was copied before the documents were."""
    save(store)
    copied = store.path.with_name("copy")
    shutil.copytree(store.path, copied)
    for _ in range(3):
        save(store)
    shutil.copytree(store.path / "environments", copied / "environments", dirs_exist_ok=True)
    assert save(FileStore(copied, durable=False), "b") == 5


def test_a_system_without_boot_ids(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing names a boot, each open counts anew, and then follows the others."""
    monkeypatch.setattr(process, "_BOOT_ID", "/nonexistent/boot_id")
    save(store)
    other = FileStore(store.path, durable=False)
    assert [save(other), save(store), save(other)] == [2, 3, 4]


def test_a_document_copied_in_by_hand(store: FileStore) -> None:
    """A version is numbered above the one it replaces, wherever that came from."""
    save(store)
    donor = store.document_path("a").read_text()
    store.document_path("b").write_text(
        donor.replace('"id": "a"', '"id": "b"').replace('"revision": 1', '"revision": 500')
    )
    assert save(store) == 2
    assert save(store, "b") == 502  # After 501, the change by hand.
    store.delete("b")
    assert save(store, "b") == 504


@pytest.mark.parametrize("revision", [2**52 + 1, 2**53 - 1])
def test_a_revision_that_no_store_reaches(store: FileStore, revision: int) -> None:
    """A revision set by hand cannot use up all those that are left to the other documents."""
    save(store)
    path = store.document_path("a")
    path.write_text(path.read_text().replace('"revision": 1', f'"revision": {revision}'))
    with pytest.raises(CorruptDocumentError, match="revision"):
        save(store)
    assert save(store, "b") == 2
    (store.path / ".waggle" / "state").unlink()
    assert save(FileStore(store.path, durable=False), "b") == 3
    store.delete("a")
    assert save(store) == 5


def test_the_last_revision(store: FileStore) -> None:
    """A store that has counted to the end says so, and overwrites nothing."""
    save(store)
    path = store.document_path("a")
    path.write_bytes(codec.encode(make_environment(id="a"), 2**53 - 1))
    with pytest.raises(StoreError, match="no revision above"):
        save(store)
    assert save(store, "b") == 2


def test_a_corrupt_document_that_is_deleted(store: FileStore) -> None:
    """Its revision, as far as it can be read, does not come again, state record or not."""
    store.save_all([make_environment(id="a"), make_environment(id="b")])
    path = store.document_path("b")
    path.write_text(path.read_text().replace('"name"', '"eman"').replace('sion": 2', 'sion": 9'))
    store.delete("b")
    assert save(store, "b") == 11


def test_several_mounts_of_one_store(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that see the store in different mounts do not make each other count anew."""
    save(store)
    with monkeypatch.context() as patch:
        patch.setattr("waggle_fsstore.store.write.session.mounted_id", lambda _: "another-mount")
        other = FileStore(store.path, durable=False)
        save(other)
    assert [save(store), save(other), save(store), save(other)] == [3, 4, 5, 6]


def test_newer_documents_are_counted(store: FileStore) -> None:
    """Numbers start above the revision of a document that only a newer program can read."""
    save(store)
    store.document_path("b").write_text('{"schema": 2, "revision": 40}')
    (store.path / ".waggle" / "state").unlink()
    assert save(FileStore(store.path, durable=False)) == 41
