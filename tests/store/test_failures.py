# SPDX-License-Identifier: Apache-2.0
"""A change of which any one call fails: it has happened or it has not, and nothing leaks."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.store.recorder import Call, open_descriptors, record
from waggle_fsstore import Environment, FileStore, OutcomeUnknownError, StoreError
from waggle_fsstore.store.fs import disk
from waggle_fsstore.testing import make_environment

OLD = make_environment(id="a", name="old")
NEW = make_environment(id="a", name="new")
OTHER = make_environment(id="b", name="other")
FRESH = make_environment(id="c", name="fresh")

#: What is done, and what the store holds when it was.
CHANGES: dict[str, tuple[Callable[[FileStore], object], list[Environment]]] = {
    "save": (lambda store: store.save(NEW), [NEW, OTHER]),
    "create": (lambda store: store.create(FRESH), [OLD, OTHER, FRESH]),
    "update": (
        lambda store: store.update("a", lambda copy: setattr(copy, "name", "up")),
        [
            make_environment(
                **{f: getattr(OLD, f) for f in OLD.__slots__ if f != "name"}, name="up"
            ),
            OTHER,
        ],
    ),
    "save_all": (lambda store: store.save_all([NEW, FRESH]), [NEW, OTHER, FRESH]),
    "delete": (lambda store: store.delete("a"), [OTHER]),
}
BEFORE = [OLD, OTHER]


class Fault:
    """Fails the call with a number, or that one and all of its name after it."""

    def __init__(self, number: int, failure: BaseException, *, lasting: bool, after: bool) -> None:
        self._number = number
        self._failure = failure
        self._lasting = lasting
        self._after = after
        self._name = ""
        self.hit = False

    @property
    def lets_clean_up(self) -> bool:
        """Whether nothing stood in the way of removing temporary files."""
        broken = self._lasting or self._name == "unlink"
        return not broken and isinstance(self._failure, OSError)

    def __call__(self, number: int, call: Call, perform: Callable[[], Any]) -> Any:
        if number == self._number:
            self._name = call.name
        elif not (self._lasting and self.hit and call.name == self._name):
            return perform()
        self.hit = True
        # A close that reports an error has closed all the same.
        # And what an interrupted open returned is lost to anybody.
        if (self._after and call.name != "open") or call.name == "close":
            perform()
        raise self._failure


def outcomes(change: str, make_fault: Callable[[int], Fault]) -> list[str]:
    """Fail each call of a change in turn, each in a store of its own; check and collect."""
    results = []
    for number in range(200):
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            fault = make_fault(number)
            results.append(outcome(change, Path(folder), fault, patch))
        if not fault.hit:
            return results
    raise AssertionError("the change never ends")


def outcome(change: str, folder: Path, fault: Fault, patch: pytest.MonkeyPatch) -> str:
    perform, expected = CHANGES[change]
    with FileStore(folder / "store") as store:
        store.save_all(BEFORE)
        descriptors = open_descriptors()
        with patch.context() as patched:
            record(patched, fault)
            try:
                perform(store)
                result = "done"
            except OutcomeUnknownError:
                result = "unknown"
            except OSError:
                result = "not done"
            except KeyboardInterrupt:
                result = "interrupted"
        assert open_descriptors() <= descriptors, "a descriptor leaked"
        found = store.find_all()
        if result == "done":
            assert found == expected
        elif result == "not done":
            assert found == BEFORE
        elif result == "interrupted":
            assert found in (BEFORE, expected)
        assert store.count() == len(found)
        leftover = os.listdir(folder / "store" / ".waggle" / "tmp")
        assert not leftover or not fault.lets_clean_up
        # The next change works, with a new revision, in this object and in a new one.
        store.save(NEW)
        with FileStore(folder / "store") as again:
            again.save(OTHER)
            assert again.find_by_id("a") == NEW
            revisions = [environment.revision for environment in again.find_all()]
            assert len(set(revisions)) == len(revisions)
            assert os.listdir(folder / "store" / ".waggle" / "tmp") == []
    return result


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EMFILE])
def test_change_fails_whole_if_one_call_fails(change: str, code: int) -> None:
    """After one failing system call the change has not happened, and the next one succeeds."""
    results = outcomes(
        change,
        lambda number: Fault(number, OSError(code, os.strerror(code)), lasting=False, after=False),
    )
    assert results[-1] == "done"
    is_served_by_reserve = change == "delete" and code in disk.NO_SPACE
    assert (results.count("not done") < 6) is is_served_by_reserve
    assert "unknown" not in results


@pytest.mark.parametrize("change", CHANGES)
def test_change_fails_whole_if_calls_keep_failing(change: str) -> None:
    """On a disk that stays broken an unknown outcome is reported, and nothing is half done."""
    results = outcomes(
        change,
        lambda number: Fault(number, OSError(errno.EIO, "broken"), lasting=True, after=False),
    )
    assert results[-1] == "done"
    assert set(results) <= {"done", "not done", "unknown"}
    assert "unknown" in results


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("after", [False, True])
def test_interrupted_change_is_done_or_undone(change: str, after: bool) -> None:  # pytest
    """After Ctrl-C before or after any call, the change has happened as a whole or not at all."""
    results = outcomes(
        change, lambda number: Fault(number, KeyboardInterrupt(), lasting=False, after=after)
    )
    assert results[-1] == "done"
    assert "unknown" not in results


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that writes one byte a call still gets the whole document."""
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, bytes(data)[:1], offset))
    store = FileStore(tmp_path / "store")
    store.save(OLD)
    assert store.find_by_id("a") == OLD


def test_write_without_progress_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that writes nothing and reports nothing is an error, not an endless loop."""
    store = FileStore(tmp_path / "store")
    store.save(OLD)
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(OSError, match="nothing could be written"):
        store.save(NEW)
    monkeypatch.undo()
    assert store.find_all() == [OLD]


def test_errors_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error reported for a descriptor names the file too."""
    store = FileStore(tmp_path / "store")
    store.save(OLD)
    flushes: list[Call] = []

    def spoil(_: int, call: Call, perform: Callable[[], Any]) -> Any:
        if call.name == "fdatasync":
            flushes.append(call)
        if len(flushes) == 1:
            flushes.append(call)
            raise OSError(errno.ENOSPC, "No space left on device")
        return perform()

    record(monkeypatch, spoil)
    with pytest.raises(OSError, match="No space left") as caught:
        store.save(NEW)
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(caught.value.filename)


def test_segment_with_failed_fsync_is_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next fsync would wrongly report success, so nothing more is written to that segment."""
    store = FileStore(tmp_path / "store")
    store.save(OLD)
    first = tmp_path / "store" / "journal" / "0000000000000001.jsonl"
    before = first.read_bytes().rstrip()
    failed: list[Call] = []

    def spoil(_: int, call: Call, perform: Callable[[], Any]) -> Any:
        if call.name == "fdatasync" and not failed:
            failed.append(call)
            raise OSError(errno.EIO, "Input/output error")
        return perform()

    record(monkeypatch, spoil)
    with pytest.raises(OSError, match="Input/output error"):
        store.save(NEW)
    assert store.find_all() == [OLD]
    store.save(NEW)
    assert first.read_bytes() == before + b"\n"
    assert len(list(first.parent.iterdir())) == 2
    assert [event.kind for event in store.history()] == ["created", "updated"]


def test_file_system_without_directory_fsync_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a directory cannot be synced, saving works and a warning says what that means."""

    def spoil(_: int, call: Call, perform: Callable[[], Any]) -> Any:
        if call.name == "fsync":
            raise OSError(errno.EINVAL, "Invalid argument")
        return perform()

    store = FileStore(tmp_path / "store")
    record(monkeypatch, spoil)
    with pytest.warns(RuntimeWarning, match="power cut"):
        store.save(NEW)
    assert store.find_by_id("a") == NEW


def test_rename_across_file_systems_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename that would cross file systems fails; it never becomes a copy."""
    store = FileStore(tmp_path / "store")
    store.save(OLD)

    def spoil(_: int, call: Call, perform: Callable[[], Any]) -> Any:
        if call.name == "replace" and call.files[1] == "a.json":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return perform()

    recorder = record(monkeypatch, spoil)
    with pytest.raises(OSError, match="cross-device"):
        store.save(NEW)
    assert [call.files for call in recorder.calls if call.name == "pwrite"].count(("a.json",)) == 0
    assert store.find_all() == [OLD]


def test_second_interrupt_leaves_no_partial_batch(tmp_path: Path) -> None:
    """A second Ctrl-C while a batch is rolled back leaves no half of it."""
    for number in range(100):
        store = FileStore(tmp_path / str(number), durable=False)
        store.save_all(BEFORE)
        hits: list[int] = []

        def spoil(
            count: int,
            call: Call,
            perform: Callable[[], Any],
            hits: list[int] = hits,
            at: int = number,
        ) -> Any:
            first = call.name == "replace" and call.files[1] == "c.json"
            if (not hits and first) or (len(hits) == 1 and count > hits[0] + at):
                hits.append(count)
                raise KeyboardInterrupt
            return perform()

        with pytest.MonkeyPatch.context() as patch:
            record(patch, spoil)
            with pytest.raises(KeyboardInterrupt):
                store.save_all([NEW, OTHER, FRESH])
        assert store.find_all() == BEFORE
        if len(hits) == 1:
            break
    assert number > 5


def test_rollback_keeps_changes_of_other_writers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ``git clean`` during a save, changes that another writer confirmed stay."""
    store = FileStore(tmp_path / "store", durable=False)
    other = FileStore(tmp_path / "store", durable=False)
    store.save(OTHER)

    def spoil(_: int, call: Call, perform: Callable[[], Any]) -> Any:
        if call.name == "replace" and call.files[1] == "a.json":
            monkeypatch.undo()
            shutil.rmtree(tmp_path / "store" / ".waggle")
            other.save(OLD)
        return perform()

    record(monkeypatch, spoil)
    with pytest.raises(FileNotFoundError):
        store.save(NEW)
    assert store.find_all() == BEFORE


def test_lost_lock_stops_change_before_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another process may be writing by now, nothing is renamed."""
    store = FileStore(tmp_path / "store", durable=False)
    store.save_all(BEFORE)

    def spoil(_: int, call: Call, perform: Callable[[], Any]) -> Any:
        result = perform()
        if call == Call("close", ("TEMP",)):
            shutil.rmtree(tmp_path / "store" / ".waggle")
        return result

    record(monkeypatch, spoil)
    with pytest.raises(StoreError, match="try again"):
        store.save(NEW)
    monkeypatch.undo()
    assert store.find_all() == BEFORE
    store.save(NEW)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_file_system_without_allocation_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Reserving blocks is optional: without it, saving works."""

    def spoil(_: int, call: Call, perform: Callable[[], Any]) -> Any:
        if call.name == "posix_fallocate":
            raise OSError(code, os.strerror(code))
        return perform()

    record(monkeypatch, spoil)
    store = FileStore(tmp_path / "store", durable=False)
    store.save(OLD)
    assert store.find_all() == [OLD]


def test_closed_standard_streams_are_not_reused(tmp_path: Path) -> None:
    """No file of the store takes a closed stream's descriptor: messages would end up in it."""
    program = """
import os, sys
from waggle_fsstore import FileStore, Environment, Runtime
for number in range(3):
    os.close(number)
store = FileStore(sys.argv[1])
real = os.pwrite
def noisy(descriptor, data, offset):
    for number in range(3):
        try:
            os.write(number, b"a stray message")
        except OSError:
            pass
    return real(descriptor, data, offset)
os.pwrite = noisy
store.save(Environment(id="a", name="n", runtime=Runtime.SHELL))
store.save(Environment(id="a", name="m", runtime=Runtime.SHELL))
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "store")], check=True)
    with FileStore(tmp_path / "store") as store:
        assert store.find_by_id("a").name == "m"
    for path in (tmp_path / "store").rglob("*"):
        assert path.is_dir() or b"stray" not in path.read_bytes()
