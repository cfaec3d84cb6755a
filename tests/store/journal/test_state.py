# SPDX-License-Identifier: Apache-2.0
"""The state record and the numbering of changes."""

import fcntl
import shutil
from pathlib import Path

import pytest

from waggle_fsstore import CorruptDocumentError, FileStore, StoreError
from waggle_fsstore.domain import process
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.fs import linux, lock, safe_read
from waggle_fsstore.store.journal import state
from waggle_fsstore.store.journal.state import State, StateRecord, read_state
from waggle_fsstore.store.read import documents
from waggle_fsstore.testing import make_environment

SMALL = State("boot:1:2", 1, 3, 4, 8, 7)


def save(store: FileStore, environment_id: str = "a") -> int:
    return store.save(make_environment(id=environment_id))


def test_record_round_trips(tmp_path: Path) -> None:
    """The writer and a reader read what was written, in one line of fixed size."""
    path = tmp_path / "state"
    record = StateRecord(str(path))
    assert record.read() is None
    assert read_state(str(path)) is None
    for written in (SMALL, State("-", 0, 2**53, 2**31, 2**53, 2**53)):
        record.write(*written)
        assert record.read() == read_state(str(path)) == written
        assert path.stat().st_size == 384
        assert path.read_text().count("\n") == 1


def test_every_flipped_byte_invalidates_the_record(tmp_path: Path) -> None:
    """A record with one wrong byte is ignored."""
    path = tmp_path / "state"
    StateRecord(str(path)).write(*SMALL)
    good = path.read_bytes().rstrip()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 0x10
        path.write_bytes(bad)
        assert read_state(str(path)) in (None, SMALL)
        assert read_state(str(path)) is None or good[position : position + 1].isspace()


def test_missing_record_is_rebuilt_from_the_documents(store: FileStore) -> None:
    """Without the record, numbering continues above the highest revision of any document."""
    save(store)
    save(store, "b")
    store.close()
    (store.path / ".waggle" / "state").unlink()
    assert save(FileStore(store.path, durable=False)) == 3


def test_record_removed_under_an_open_store_is_replaced(store: FileStore) -> None:
    """Two open stores agree on the numbers even after the record was removed."""
    save(store)
    (store.path / ".waggle" / "state").unlink()
    other = FileStore(store.path, durable=False)
    assert [save(other), save(store), save(other)] == [2, 3, 4]


def test_record_of_another_boot_is_ignored(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a reboot, numbering continues above the journal, not above an old record."""
    for _ in range(3):
        save(store)
    record = StateRecord(str(store.path / ".waggle" / "state"))
    now = record.read()
    assert now is not None
    record.write(*now._replace(committed=1, published=1))  # As a power cut may leave it.
    monkeypatch.setattr(state, "boot_id", lambda: "another-boot")
    assert save(FileStore(store.path, durable=False), "b") == 4


def test_record_of_another_mount_is_ignored(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of a disk that was unplugged and mounted again may be old and is ignored."""
    for _ in range(3):
        save(store)
    record = StateRecord(str(store.path / ".waggle" / "state"))
    now = record.read()
    assert now is not None
    store.close()
    record.write(*now._replace(committed=1, published=1))
    mount = linux.mount_id(str(store.path))
    monkeypatch.setattr(state, "mount_id", lambda _: mount + 1)
    assert save(FileStore(store.path, durable=False), "b") == 4


def test_record_in_use_is_valid_in_other_mounts(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a writer is alive, opening the store through another mount replays nothing."""
    save(store)
    save(store, "b")
    store.document_path("b").unlink()
    monkeypatch.setattr(state, "mount_id", lambda _: 7)
    assert FileStore(store.path, durable=False).count() == 1
    store.close()
    assert FileStore(store.path, durable=False).count() == 2


def test_use_of_a_file_is_seen_until_it_is_closed(tmp_path: Path) -> None:
    """A process that looks sees those that use a file, and not others that look."""
    path = str(tmp_path / "file")
    assert not lock.is_in_use(path)
    with open(path, "w+b") as one, open(path, "rb") as other:
        assert not lock.is_in_use(path)
        lock.show_use(other.fileno())
        lock.show_use(one.fileno())
        assert lock.is_in_use(path) or not hasattr(fcntl, "F_OFD_GETLK")
        other.close()
        assert lock.is_in_use(path) or not hasattr(fcntl, "F_OFD_GETLK")
    assert not lock.is_in_use(path)


def test_mount_ids_are_unique() -> None:
    """Two mounts have different ids, and one mount always has the same."""
    mounts = [linux.mount_id(path) for path in ("/", "/proc", "/")]
    if mounts[0] == 0:
        pytest.skip("needs Linux 6.8")
    assert mounts[0] == mounts[2] != mounts[1]


def test_unreadable_document_does_not_block_others(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other documents can be saved, even when the last number is taken from the documents."""
    store.save_all([make_environment(id="a"), make_environment(id="b")])
    real = safe_read.read_regular

    def read(path: str, limit: int) -> bytes:
        if path.endswith("b.json"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, limit)

    monkeypatch.setattr(documents, "read_regular", read)
    (store.path / ".waggle" / "state").unlink()
    assert save(FileStore(store.path, durable=False)) == 3


def test_unreadable_record_does_not_block_reads(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that may read the documents but not the record can count them."""
    save(store)

    def refuse(path: str, _: int) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(state, "read_regular", refuse)
    assert store.count() == 1


def test_deleted_revisions_are_known_after_reboot(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers of deleted revisions, which no document has, come from the journal."""
    save(store)
    save(store, "b")
    store.delete("b")
    monkeypatch.setattr(state, "boot_id", lambda: "another-boot")
    assert save(FileStore(store.path, durable=False), "b") == 4


def test_record_of_a_copied_store_is_ignored(store: FileStore) -> None:
    """A copy does not trust a record that was copied before the documents."""
    save(store)
    copied = store.path.with_name("copy")
    shutil.copytree(store.path, copied)
    for _ in range(3):
        save(store)
    shutil.copytree(store.path / "environments", copied / "environments", dirs_exist_ok=True)
    assert save(FileStore(copied, durable=False), "b") == 5


def test_record_is_not_shared_without_boot_ids(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without boot ids each open rebuilds the numbers, and then follows other writers."""
    monkeypatch.setattr(process, "_BOOT_ID", "/nonexistent/boot_id")
    save(store)
    other = FileStore(store.path, durable=False)
    assert [save(other), save(store), save(other)] == [2, 3, 4]


def test_manually_copied_document_raises_the_numbers(store: FileStore) -> None:
    """A version is numbered above the one that it replaces, even a manual copy."""
    save(store)
    donor = store.document_path("a").read_text()
    store.document_path("b").write_text(
        donor.replace('"id": "a"', '"id": "b"').replace('"revision": 1', '"revision": 500')
    )
    assert save(store) == 2
    assert save(store, "b") == 502  # After 501, the manual edit.
    store.delete("b")
    assert save(store, "b") == 504


@pytest.mark.parametrize("revision", [2**52 + 1, 2**53 - 1])
def test_absurd_revision_is_corrupt(store: FileStore, revision: int) -> None:
    """A manual edit of a revision cannot use up the numbers of all other documents."""
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


def test_store_out_of_revisions_refuses_to_save(store: FileStore) -> None:
    """A store without a higher revision raises an error and overwrites nothing."""
    save(store)
    path = store.document_path("a")
    path.write_bytes(codec.encode(make_environment(id="a"), 2**53 - 1))
    with pytest.raises(StoreError, match="is used up"):
        save(store)
    assert save(store, "b") == 2


def test_revision_of_deleted_corrupt_document_is_not_reused(store: FileStore) -> None:
    """The revision of a corrupt document is not given again after a delete, if it is readable."""
    store.save_all([make_environment(id="a"), make_environment(id="b")])
    path = store.document_path("b")
    path.write_text(path.read_text().replace('"name"', '"eman"').replace('sion": 2', 'sion": 9'))
    store.delete("b")
    assert save(store, "b") == 11


def test_processes_with_different_mounts_share_the_numbers(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that see the store in different mounts continue each other's numbers."""
    save(store)
    with monkeypatch.context() as patch:
        patch.setattr("waggle_fsstore.store.write.session.mounted_id", lambda _: "another-mount")
        other = FileStore(store.path, durable=False)
        save(other)
    assert [save(store), save(other), save(store), save(other)] == [3, 4, 5, 6]


def test_revisions_of_newer_formats_are_counted(store: FileStore) -> None:
    """Numbers start above the revision of a document that only a newer program can read."""
    save(store)
    store.document_path("b").write_text('{"schema": 2, "revision": 40}')
    (store.path / ".waggle" / "state").unlink()
    assert save(FileStore(store.path, durable=False)) == 41
