# SPDX-License-Identifier: Apache-2.0
"""Recovery: what a crash, a copy or a hand left is brought up to what the journal says."""

import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.store.journals import FIRST_SEGMENT
from tests.store.locks import lock_held
from waggle_fsstore import (
    ConflictError,
    EnvironmentNotFoundError,
    FileStore,
    JournalDamagedError,
    Severity,
)
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.journal import lines, state
from waggle_fsstore.store.write import recovery, session
from waggle_fsstore.testing import make_environment

COPIES = int(os.environ.get("WAGGLE_TEST_COPIES", "8"))
STRIDE = int(os.environ.get("WAGGLE_TEST_STRIDE", "23"))


@pytest.fixture
def root(root: Path) -> Path:
    """A store as its only process left it when it died: a, b (twice), c that was deleted."""
    store = FileStore(root)
    store.save(make_environment(id="a", name="a1"))
    store.save_all([make_environment(id=name, name=f"{name}1") for name in "bc"])
    store.save(make_environment(id="b", name="b2"))
    store.delete("c")
    return root


@pytest.fixture
def reboot(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make the system report a new boot, each time that it is called."""
    boots = iter(range(100))

    def reboot_once() -> None:
        name = f"boot-{next(boots)}"
        monkeypatch.setattr(state, "boot_id", lambda: name)

    return reboot_once


def names(store: FileStore) -> list[str]:
    return [environment.name for environment in store.find_all()]


def lost_and_found(root: Path) -> list[str]:
    folder = root / ".waggle" / "lost+found"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


LOSSES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _: None,
    "missing": lambda path: path.unlink(),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "cut and zeroed": lambda path: path.write_bytes(path.read_bytes()[:100] + bytes(900)),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_document_lost_in_power_cut_is_restored(
    root: Path, reboot: Callable[[], None], loss: str
) -> None:
    """A document that was never synced is published again from the journal, byte for byte."""
    before = (root / "environments" / "b.json").read_bytes()
    LOSSES[loss](root / "environments" / "b.json")
    reboot()
    with FileStore(root) as store:
        assert names(store) == ["a1", "b2"]
        assert (root / "environments" / "b.json").read_bytes() == before
        assert store.save(make_environment(id="b")) == 6
    assert lost_and_found(root) == []


def test_outdated_version_is_replaced(root: Path, reboot: Callable[[], None]) -> None:
    """A version that the journal knows to be outdated is replaced without a copy in lost+found."""
    first = next(event for event in FileStore(root).history("b"))
    assert first.environment is not None
    (root / "environments" / "b.json").write_bytes(codec.encode(first.environment, 2))
    reboot()
    assert names(FileStore(root)) == ["a1", "b2"]
    assert lost_and_found(root) == []


def test_unknown_version_is_saved_to_lost_and_found(root: Path, reboot: Callable[[], None]) -> None:
    """A manual edit older than the journal is replaced, and its copy goes to lost+found."""
    path = root / "environments" / "b.json"
    text = path.read_text().replace('"revision": 4', '"revision": 3').replace("b2", "by hand")
    path.write_text(text)
    reboot()
    store = FileStore(root)
    assert names(store) == ["a1", "b2"]
    (kept,) = lost_and_found(root)
    assert (root / ".waggle" / "lost+found" / kept).read_text() == text
    [finding] = store.recovery_findings
    assert finding.path == path
    assert kept in finding.remedy


@pytest.mark.parametrize("revision", [4, 5, 77])
def test_recovery_never_regresses(root: Path, reboot: Callable[[], None], revision: int) -> None:
    """A document of the same or a higher revision stays as it is."""
    path = root / "environments" / "b.json"
    path.write_text(
        path.read_text().replace('"revision": 4', f'"revision": {revision}').replace("b2", "hand")
    )
    reboot()
    with FileStore(root) as store:
        assert names(store) == ["a1", "hand"]
        with pytest.raises(ConflictError):
            store.save(make_environment(id="b"), if_revision=4)


ERRORS = [errno.EACCES, errno.EIO]

#: Ways in which a manual edit makes a document unusable.
EDITS: dict[str, Callable[[Path], object]] = {
    "typo": lambda path: path.write_text(path.read_text().replace('"b2"', "'b2")),
    "cut and changed": lambda path: path.write_bytes(b"x" + path.read_bytes()[1:100]),
    "wrong value": lambda path: path.write_text(path.read_text().replace("python", "cobol")),
    "another id": lambda path: path.write_bytes((path.parent / "a.json").read_bytes()),
    "too large": lambda path: path.write_bytes(path.read_bytes().ljust(1 << 20) + b" "),
    "not text": lambda path: path.write_bytes(b"\xff\xfe" + path.read_bytes()),
}


@pytest.mark.parametrize("kind", ["updated", "deleted"])
@pytest.mark.parametrize("edit", EDITS)
def test_corrupt_document_is_kept_and_reported(
    root: Path, reboot: Callable[[], None], edit: str, kind: str
) -> None:
    """Recovery moves an edit that it cannot use to lost+found, and a finding names both files."""
    path = root / "environments" / "b.json"
    before = path.read_bytes()
    EDITS[edit](path)
    path.chmod(0o640)
    edited = path.read_bytes()
    if kind == "deleted":
        with FileStore(root, durable=False) as store:
            path.rename(root / "edited")
            path.write_bytes(before)
            store.delete("b")
            (root / "edited").rename(path)
    reboot()
    with FileStore(root) as store:
        assert names(store) == ["a1", "b2"][: 2 if kind == "updated" else 1]
        [finding] = store.recovery_findings
        assert [*store.check()].count(finding) == 1
    [kept] = lost_and_found(root)
    assert (root / ".waggle" / "lost+found" / kept).read_bytes() == edited
    assert (finding.path, finding.is_repaired) == (path, True)
    assert kept in finding.remedy
    if kind == "updated":
        assert path.read_bytes() == before
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("code", ERRORS)
def test_unreadable_document_is_moved_without_reading(
    root: Path,
    reboot: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
) -> None:
    """A document that another user saved, or on a bad sector, is kept, reported and logged."""
    path = root / "environments" / "b.json"
    path.write_text("unreadable")
    inode = path.stat().st_ino
    fail_to_read(monkeypatch, inode, code)
    reboot()
    with FileStore(root) as store:
        assert names(store) == ["a1", "b2"]
        [finding] = store.recovery_findings
    [kept] = lost_and_found(root)
    assert (root / ".waggle" / "lost+found" / kept).stat().st_ino == inode
    assert os.strerror(code) in finding.problem
    assert str(finding) in caplog.text


def test_failed_recovery_has_reported_what_it_moved(
    root: Path,
    reboot: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where an error ends a recovery, the next one completes it, and all findings are known."""
    for name in "ab":
        (root / "environments" / f"{name}.json").write_text("edited")
    reboot()
    real, published = recovery._publish, []

    def publish(*given: Any, **options: Any) -> None:
        published.append(given)
        if len(published) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(*given, **options)

    monkeypatch.setattr(recovery, "_publish", publish)
    with FileStore(root) as store:
        store.delete("a")
        assert names(store) == ["b2"]
        found = store.recovery_findings
    kept = lost_and_found(root)
    assert len(kept) == len(found) == 2
    assert all(any(name in finding.remedy for finding in found) for name in kept)
    assert [record.getMessage() for record in caplog.records] == [str(one) for one in found]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_lack_of_resources_ends_recovery(
    root: Path, reboot: Callable[[], None], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A document that could not be read for want of descriptors or memory is left alone."""
    path = root / "environments" / "b.json"
    path.write_text("{typo")
    inode = path.stat().st_ino
    reboot()
    with monkeypatch.context() as patch:
        fail_to_read(patch, inode, code)
        store = FileStore(root)
        with pytest.raises(OSError, match=os.strerror(code)):
            store.save(make_environment(id="d"))
    assert path.stat().st_ino == inode
    assert lost_and_found(root) == []
    store.save(make_environment(id="d", name="d1"))
    assert names(store) == ["a1", "b2", "d1"]
    assert len(lost_and_found(root)) == 1


def test_rewriting_after_failed_sync_keeps_manual_edit(root: Path) -> None:
    """Documents that are rewritten because a sync failed do not replace an edit with a typo."""
    store = FileStore(root)
    path = root / "environments" / "b.json"
    path.write_text("{typo")
    record = state.read_state(str(state_of(root)))
    assert record is not None
    file = state.StateRecord(str(state_of(root)))
    file.write(*record._replace(durable=state.SUSPECT))
    file.close()
    store.save(make_environment(id="d", name="d1"))
    store.close()
    [kept] = lost_and_found(root)
    assert (root / ".waggle" / "lost+found" / kept).read_text() == "{typo"
    assert names(FileStore(root)) == ["a1", "b2", "d1"]


def test_repair_reports_what_its_recovery_moved(root: Path) -> None:
    """A repair that recovers, because the state record is bad, names what it moved."""
    store = FileStore(root)
    path = root / "environments" / "b.json"
    path.write_text("{typo")
    state_of(root).write_text("bad")
    found = [finding for finding in store.repair() if finding.path == path]
    assert [finding.is_repaired for finding in found] == [True]
    assert lost_and_found(root)[0] in found[0].remedy
    assert names(store) == ["a1", "b2"]


def fail_to_read(patch: pytest.MonkeyPatch, inode: int, code: int) -> None:
    """Let every read of a file fail, under each of its names."""
    real = os.open

    def open_file(path: str, *given: Any, **options: Any) -> int:
        if os.path.lexists(path) and os.lstat(path).st_ino == inode:
            raise OSError(code, os.strerror(code), path)
        return real(path, *given, **options)

    patch.setattr(os, "open", open_file)


def test_lost_delete_is_repeated(root: Path, reboot: Callable[[], None]) -> None:
    """A delete whose removal the disk lost is done again."""
    deleted = [event.environment for event in FileStore(root).history("c")][-1]
    assert deleted is not None
    (root / "environments" / "c.json").write_bytes(codec.encode(deleted, 3))
    reboot()
    with FileStore(root) as store, pytest.raises(EnvironmentNotFoundError):
        store.find_by_id("c")
    assert lost_and_found(root) == []


def test_temp_files_are_never_published(root: Path, reboot: Callable[[], None]) -> None:
    """Documents are published from their lines, because a temp file may have lost its contents."""
    (root / ".waggle" / "tmp" / "0123456789abcdef.tmp").write_bytes(bytes(900))
    (root / "environments" / "b.json").unlink()
    reboot()
    assert names(FileStore(root)) == ["a1", "b2"]
    assert os.listdir(root / ".waggle" / "tmp") == []


def test_checkpoint_does_not_count_in_copy(root: Path, tmp_path: Path) -> None:
    """In a copy a checkpoint proves nothing: its documents may have been copied before it."""
    shutil.copytree(root / "environments", tmp_path / "copy" / "environments")
    with FileStore(root) as store:
        store.save(make_environment(id="a", name="a2"))
    shutil.copytree(
        root,
        tmp_path / "copy",
        dirs_exist_ok=True,
        ignore=lambda folder, _: ["a.json"] if folder.endswith("environments") else [],
    )
    assert names(FileStore(tmp_path / "copy")) == ["a2", "b2"]


def test_unpublishable_document_is_reported(root: Path, reboot: Callable[[], None]) -> None:
    """A directory in the way of a document and a torn last line are reported and stop nothing."""
    (root / "environments" / "b.json").unlink()
    (root / "environments" / "b.json").mkdir()
    segment = root / "journal" / FIRST_SEGMENT
    data = segment.read_bytes().rstrip()
    segment.write_bytes((data + b"\n" + data[-400:]).ljust(65536))
    reboot()
    with FileStore(root) as store:
        blocked, torn = store.recovery_findings
        assert (blocked.severity, blocked.path.name) == (Severity.ERROR, "b.json")
        assert (torn.severity, torn.path, torn.is_repaired) == (Severity.WARNING, segment, True)
        store.save(make_environment(id="c", name="c2"))
        assert [found.name for found in store.find_all(on_corrupt=lambda _: None)] == ["a1", "c2"]


def test_recovery_is_idempotent(root: Path, reboot: Callable[[], None]) -> None:
    """A second recovery changes nothing."""
    (root / "environments" / "a.json").unlink()
    reboot()
    FileStore(root)
    before = {path: path.stat().st_mtime_ns for path in (root / "environments").iterdir()}
    reboot()
    FileStore(root)
    assert before == {path: path.stat().st_mtime_ns for path in (root / "environments").iterdir()}


def test_checkpoint_ends_redo_range(root: Path, reboot: Callable[[], None]) -> None:
    """A document that the operator removed after a clean close stays removed."""
    with FileStore(root) as store:
        store.save(make_environment(id="a", name="a2"))
    (root / "environments" / "b.json").unlink()
    reboot()
    assert names(FileStore(root)) == ["a2"]


@pytest.mark.parametrize("folder", [".waggle", "journal", "environments", ".waggle journal"])
def test_open_store_survives_removed_directories(root: Path, folder: str) -> None:
    """After git clean the open store continues, and no number is used twice."""
    with FileStore(root) as store:
        assert store.save(make_environment(id="a", name="a2")) == 6
        for name in folder.split():
            shutil.rmtree(root / name)
        assert store.save(make_environment(id="d", name="d1")) == 7
        assert names(store) == ["a2", "b2", "d1"]
        other = FileStore(root)
        assert other.save(make_environment(id="e", name="e1")) == 8
        assert store.save(make_environment(id="f", name="f1")) == 9
        assert names(store) == names(other) == ["a2", "b2", "d1", "e1", "f1"]


def test_open_store_ignores_moved_journal(root: Path) -> None:
    """Later changes are in the store's own journal, not in the one that was moved away."""
    with FileStore(root) as store:
        store.save(make_environment(id="a", name="a2"))
        (root / "journal").rename(root.with_name("moved"))
        assert store.save(make_environment(id="d", name="d1")) == 7
        assert [event.environment_id for event in store.history()] == ["d"]
        assert names(store) == ["a2", "b2", "d1"]


def test_store_from_git_begins_new_journal(root: Path, tmp_path: Path) -> None:
    """Documents and marker alone are a store, whose journal begins above all revisions."""
    shutil.copytree(root / "environments", tmp_path / "cloned" / "environments")
    shutil.copy(root / "waggle.json", tmp_path / "cloned")
    with FileStore(tmp_path / "cloned") as store:
        assert names(store) == ["a1", "b2"]
        assert sorted(path.name for path in store.path.iterdir()) == ["environments", "waggle.json"]
        assert store.save(make_environment(id="a")) == 5
        assert [event.seq for event in store.history()] == [5]
    assert names(FileStore(tmp_path / "cloned"))[1:] == ["b2"]


def test_concurrent_opens_recover_once(root: Path, reboot: Callable[[], None]) -> None:
    """Of several processes that open the store after a crash one recovers, and all see the same."""
    shutil.rmtree(root / "environments")
    (root / "environments").mkdir()
    reboot()
    barrier = threading.Barrier(8)
    seen: list[list[str]] = []

    def work() -> None:
        barrier.wait()
        with FileStore(root) as store:
            seen.append(names(store))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [["a1", "b2"]] * 8


def test_reader_without_lock_sees_recovered_documents(
    root: Path, reboot: Callable[[], None]
) -> None:
    """An open that cannot recover shows what recovery would publish, until it is published."""
    holder = FileStore(root)
    holder.save(make_environment(id="d", name="d1"))
    with lock_held(holder):
        (root / "environments" / "b.json").unlink()
        (root / "environments" / "a.json").write_bytes(b"")
        reboot()
        reader = FileStore(root, lock_timeout=0)
        assert names(reader) == ["a1", "b2", "d1"]
        assert reader.count() == 3
        assert reader.find_by_id("b").name == "b2"
        assert reader.find_by_id("a").name == "a1"
        with pytest.raises(EnvironmentNotFoundError):
            reader.find_by_id("c")
        assert [event.seq for event in reader.history()] == [1, 2, 3, 4, 5, 6]
        assert not (root / "environments" / "b.json").exists()
    assert FileStore(root).find_by_id("b").name == "b2"
    assert (root / "environments" / "b.json").exists()
    assert names(reader) == ["a1", "b2", "d1"]


def test_durable_open_syncs_unsynced_store(tmp_path: Path) -> None:
    """The first durable open syncs a store that was written without syncs."""
    unflushed = FileStore(tmp_path / "store", durable=False)
    unflushed.save(make_environment(id="a", name="a1"))
    segment = tmp_path / "store" / "journal" / FIRST_SEGMENT
    assert segment.read_bytes().count(b'"checkpoint"') == 1
    FileStore(tmp_path / "store")
    assert segment.read_bytes().count(b'"checkpoint"') == 2
    found = state.read_state(str(tmp_path / "store" / ".waggle" / "state"))
    assert found is not None
    assert found.durable == 1


def test_removed_marker_and_state_are_rewritten(root: Path) -> None:
    """The next write makes the marker and the state record again."""
    (root / "waggle.json").unlink()
    (root / ".waggle" / "state").unlink()
    store = FileStore(root)
    assert store.save(make_environment(id="d", name="d1")) == 6
    assert names(store) == ["a1", "b2", "d1"]


def content(root: Path) -> bytes:
    """The lines of the live segment, without the room after them."""
    return (root / "journal" / FIRST_SEGMENT).read_bytes().rstrip() + b"\n"


def prefixes(data: bytes) -> dict[int, list[str]]:
    """What the documents are after each line, by where it ends."""
    found: dict[str, str] = {}
    result: dict[int, list[str]] = {0: []}
    for start, end in lines.split(data):
        line = lines.decode(data[start : end - 1])
        assert line is not None
        for change in line.get("changes", []):
            found.pop(change["id"], None)
            if change["kind"] != "deleted":
                found[change["id"]] = change["document"]["name"]
        result[end] = [found[name] for name in sorted(found)]
    return result


def with_journal(root: Path, data: bytes) -> FileStore:
    """The store as it opens on another machine with no documents and this journal."""
    for name in ("environments", ".waggle", "journal"):
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir()
    (root / "journal" / FIRST_SEGMENT).write_bytes(data.ljust(8192))
    return FileStore(root, durable=False)


def test_journal_cut_at_every_byte_keeps_whole_lines(root: Path) -> None:
    """Of a torn journal all whole lines count, and writing continues in a new segment."""
    data = content(root)
    after = prefixes(data)
    cuts = {end + n for end in after for n in range(-3, 20) if 0 <= end + n <= len(data)}
    for cut in sorted({*range(0, len(data), STRIDE), *cuts}):
        whole = max(end for end in after if end <= cut)
        with with_journal(root, data[:cut]) as store:
            assert names(store) == after[whole], cut
            last = max((event.seq for event in store.history()), default=0)
            assert store.save(make_environment(id="z", name="z")) > last
            assert names(store) == [*after[whole], "z"]


def test_journal_flipped_at_every_byte_is_detected(root: Path) -> None:
    """A bad last line is a torn tail; any other stops writes, by name, and leaves reads working."""
    data = content(root)
    after = prefixes(data)
    ends = list(after)
    borders = {end + n for end in ends for n in range(-3, 20) if 0 <= end + n < len(data)}
    for place in sorted({*range(0, len(data), STRIDE), *borders}):
        bad = bytearray(data)
        bad[place] ^= 0x04
        store = with_journal(root, bytes(bad))
        if place >= ends[-2]:
            assert names(store) == after[ends[-2]], place
            store.save(make_environment(id="z"))
        else:
            line = data[:place].count(b"\n") + 1
            with pytest.raises(JournalDamagedError, match="fsck --repair") as caught:
                store.save(make_environment(id="z"))
            assert caught.value.path == root / "journal" / FIRST_SEGMENT
            assert caught.value.line == line
            # All good lines count, as far as readers are concerned.
            assert names(store), place
        store.close()


def test_repeated_and_stale_lines_are_ignored(root: Path) -> None:
    """A line that comes again, or an older one after a newer one, changes nothing."""
    data = content(root)
    *_, second, last = data.splitlines(keepends=True)
    for again in (last, second, second + last):
        with with_journal(root, data + again) as store:
            assert names(store) == ["a1", "b2"]
            assert [event.seq for event in store.history()] == [1, 2, 3, 4, 5]
            assert store.save(make_environment(id="b", name="b3")) == 6
            assert names(store) == ["a1", "b3"]


def test_copy_of_live_store_is_current(tmp_path: Path) -> None:
    """A copy made during writes opens with each document at least as new as when the copy began."""
    store = FileStore(tmp_path / "store", durable=False)
    environments = [make_environment(id=f"env-{n}", extra={"n": 0}) for n in range(20)]
    store.save_all(environments)
    stopped = threading.Event()

    def write() -> None:
        number = 0
        while not stopped.is_set():
            number += 1
            environment = environments[number * 7 % 20]
            environment.extra = {"n": number, "padding": "x" * (number * 97 % 3000)}
            store.save(environment)
            if number % 50 == 0:
                store.save_all(environments)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(COPIES):
            before = {found.id: found.revision for found in store.find_all()}
            copied = tmp_path / f"copy-{number}"
            # It may complain of files that vanish under it: those are in the journal.
            subprocess.run(["cp", "-a", store.path, copied], capture_output=True, check=False)
            with FileStore(copied, durable=False) as other:
                after = {found.id: found.revision for found in other.find_all()}
                assert after.keys() == before.keys()
                assert all(after[name] >= before[name] for name in before)
                revision = other.save(environments[0])
                assert revision > max(after.values())
            shutil.rmtree(copied)
    finally:
        stopped.set()
        writer.join()


TORN: dict[str, Callable[[bytes], bytes]] = {
    "its end was there": lambda line: b" " * 200 + line[200:],
    "its last bytes were there": lambda line: line[-2:].rjust(len(line)),
    "its middle was not": lambda line: line[:60] + b" " * 512 + line[572:],
    "a byte is wrong": lambda line: line.replace(b"b2", b"b7"),
}


@pytest.mark.parametrize("where", ["a copy", "in place", "a marker touched", "a new marker"])
@pytest.mark.parametrize("how", TORN)
def test_line_copied_while_it_was_written(
    root: Path, tmp_path: Path, reboot: Callable[[], None], how: str, where: str
) -> None:
    """A partly blank line is left out and reported in a copy; in an original it is damage."""
    if where == "a copy":
        root = shutil.copytree(root, tmp_path / "copy")
    elif where == "a marker touched":
        (root / "waggle.json").chmod(0o640)
    elif where == "a new marker":
        shutil.copy(root / "waggle.json", tmp_path / "marker")
        (tmp_path / "marker").replace(root / "waggle.json")
    path = root / "journal" / FIRST_SEGMENT
    whole = path.read_bytes()
    [line] = [line for line in whole.splitlines(keepends=True) if b'"name":"b2"' in line]
    data = whole.replace(line, TORN[how](line))
    assert len(data) == len(whole) != data.count(b" ")
    path.write_bytes(data)
    reboot()
    with FileStore(root) as store:
        if where != "a copy" or how == "a byte is wrong":
            with pytest.raises(JournalDamagedError):
                store.save(make_environment(id="d"))
            return
        assert names(store) == ["a1", "b2"]
        [finding] = store.recovery_findings
        assert (finding.severity, finding.path, finding.is_repaired) == (
            Severity.WARNING,
            path,
            True,
        )
        [kept] = lost_and_found(root)
        assert (root / ".waggle" / "lost+found" / kept).read_bytes() == data
        assert store.save(make_environment(id="d")) == 6
        assert [event.seq for event in store.history()] == [1, 2, 3, 5, 6]
    with FileStore(root) as store:
        assert store.recovery_findings == ()
        assert names(store)[:2] == ["a1", "b2"]


def test_unpublished_line_of_dead_writer_is_published(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that was appended but not published is carried into a new segment and published."""
    line = lines.encode(
        lines.CHANGES,
        [
            {
                "seq": 6,
                "at": "2026-01-01T00:00:00.000000Z",
                "actor": "ghost",
                "reason": "",
                "kind": "deleted",
                "id": "a",
                "was": None,
                "document": None,
            }
        ],
    )
    end = len(content(root))
    segment = root / "journal" / FIRST_SEGMENT
    data = segment.read_bytes()
    segment.write_bytes(data[:end] + line + data[end + len(line) :])
    replayed: list[object] = []
    real = recovery.replay

    def replay(*given: Any) -> Any:
        replayed.append(given)
        return real(*given)

    monkeypatch.setattr(session, "replay", replay)
    with FileStore(root) as store:
        assert names(store) == ["b2"]  # By opening it alone.
        store.save(make_environment(id="d", name="d1"))
        assert names(store) == ["b2", "d1"]
        assert next(event.actor for event in store.history(after=5)) == "ghost"
        assert [event.seq for event in store.history()] == [1, 2, 3, 4, 5, 6, 7]
    assert len(replayed) == 1
    assert (root / "journal" / "0000000000000006.jsonl").exists()


def state_of(root: Path) -> Path:
    return root / ".waggle" / "state"


def test_old_state_record_is_overruled(root: Path) -> None:
    """A backup copied over the store brings an old state record: newer segments overrule it."""
    store = FileStore(root, durable=False)
    old = state_of(root).read_bytes()
    for number in range(40):
        store.save(make_environment(id=f"env-{number % 3}", extra={"padding": "x" * 9000}))
    assert len(list((root / "journal").iterdir())) > 2
    store.close()
    state_of(root).write_bytes(old)
    again = FileStore(root, durable=False)
    assert again.save(make_environment(id="z")) == 46
    assert [event.seq for event in again.history()] == list(range(1, 47))


def test_shorter_journal_put_back_leaves_no_gap(root: Path) -> None:
    """An open store does not write after the gap that an older copy of the segment leaves."""
    segment = root / "journal" / FIRST_SEGMENT
    store = FileStore(root, durable=False)
    old = segment.read_bytes()
    store.save(make_environment(id="d"))
    segment.write_bytes(old)
    store.save(make_environment(id="e"))
    with FileStore(root, durable=False) as again:
        assert "e" in {environment.id for environment in again.find_all()}
        seqs = [event.seq for event in again.history()]
        assert seqs == sorted(set(seqs))


def test_hard_linked_copy_leaves_original_alone(root: Path, tmp_path: Path) -> None:
    """A write to a copy that shares its files does not change the original."""
    subprocess.run(["cp", "-al", root, tmp_path / "linked"], check=True)
    before = (root / "journal" / FIRST_SEGMENT).read_bytes().rstrip()
    with FileStore(tmp_path / "linked") as linked:
        linked.delete("a")
        assert names(linked) == ["b2"]
    assert (root / "journal" / FIRST_SEGMENT).read_bytes().rstrip() == before
    with FileStore(root) as store:
        assert names(store) == ["a1", "b2"]
        assert store.save(make_environment(id="d", name="d1")) > 5
        assert names(store) == ["a1", "b2", "d1"]


@pytest.mark.parametrize("data", [b"", b" " * 8192])
def test_empty_live_segment_is_replaced(root: Path, data: bytes) -> None:
    """An empty segment, which a crash of an unsynced store leaves, is replaced by a new one."""
    with with_journal(root, data) as store:
        store.save(make_environment(id="z", name="z"))
        assert names(store) == ["z"]
    assert names(FileStore(root)) == ["z"]


def test_unreadable_live_segment_is_kept(root: Path) -> None:
    """A journal that an editor saved in another encoding is replaced, and its file is kept."""
    data = content(root).decode().encode("utf-16")
    with with_journal(root, data) as store:
        store.save(make_environment(id="z", name="z"))
        assert names(store) == ["z"]
        [finding] = store.recovery_findings
    [kept] = lost_and_found(root)
    assert (root / ".waggle" / "lost+found" / kept).read_bytes().startswith(data)
    assert kept in finding.remedy


def test_missing_documents_directory_is_restored(root: Path) -> None:
    """Where git removed the directory with the last document, the journal restores both."""
    shutil.rmtree(root / "environments")
    with FileStore(root) as store:
        assert names(store) == ["a1", "b2"]


def test_missing_temp_directory_is_made_again(root: Path) -> None:
    """One save fails, and the next one makes the directory of temp files again."""
    store = FileStore(root)
    store.save(make_environment(id="d"))
    shutil.rmtree(root / ".waggle" / "tmp")
    with pytest.raises(FileNotFoundError):
        store.save(make_environment(id="e"))
    store.save(make_environment(id="e"))


def test_search_for_checkpoint_is_linear() -> None:
    """The search for the last checkpoint takes no longer in a document full of such keys."""
    line = lines.encode(
        lines.CHANGES, [{"document": {"n": [{"checkpoint": n} for n in range(99)]}}]
    )
    wanted = lines.encode(lines.CHECKPOINT, {"through": 7})
    found = []

    class Counting(bytes):
        def rfind(self, *given: Any) -> int:
            found.append(given)
            return super().rfind(*given)

    assert lines.last_checkpoint(Counting(wanted + line * 3)) == {"through": 7}
    assert len(found) <= 2 * 4


def test_failed_sync_is_left_to_next_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A durable open that dies before its sync leaves the sync to the next one."""
    FileStore(tmp_path / "store", durable=False).save(make_environment(id="a"))
    flushed: list[int] = []

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session, "sync_all", die)
        with pytest.raises(KeyboardInterrupt):
            FileStore(tmp_path / "store")
    monkeypatch.setattr(session, "sync_all", lambda *_: flushed.append(1))
    FileStore(tmp_path / "store")
    FileStore(tmp_path / "store")
    assert flushed == [1]
