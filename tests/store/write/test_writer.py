# SPDX-License-Identifier: Apache-2.0
"""Callers that wait for the lock together: one line, one flush, and to each his own."""

import errno
import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.store.locks import lock_held
from tests.store.recorder import Call, record
from waggle_fsstore import (
    ConflictError,
    Environment,
    EnvironmentAlreadyExistsError,
    FileStore,
    LockTimeoutError,
    audit,
)
from waggle_fsstore.store.write.batch import Transaction
from waggle_fsstore.store.write.group_commit import CommitQueue, Group
from waggle_fsstore.testing import make_environment

PATIENCE = 60


@pytest.fixture
def store(durable_store: FileStore) -> FileStore:
    """A durable store with one document, "a"."""
    durable_store.save(make_environment(id="a"))
    return durable_store


@contextmanager
def waiting(
    store: FileStore,
    *calls: Callable[[], object],
    leader: Callable[[Transaction], object] = lambda _: None,
) -> Iterator[list[Future[object]]]:
    """Let all calls wait in threads for one that holds the lock, and then is their leader."""
    inside, done = threading.Event(), threading.Event()

    def work(tx: Transaction) -> None:
        inside.set()
        assert done.wait(PATIENCE)
        leader(tx)

    with ThreadPoolExecutor(len(calls) + 1) as pool:
        holder: Future[object] = pool.submit(lambda: store._writer.run(work))
        assert inside.wait(PATIENCE)
        futures = [pool.submit(call) for call in calls]
        while len(store._writer._queue._waiting) < len(calls):
            pass
        done.set()
        yield [*futures, holder]


def test_waiting_threads_share_one_sync(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight saves that wait together are one line and one sync, and each has its revision."""
    calls = [lambda n=n: store.save(make_environment(id=f"env-{n}")) for n in range(8)]
    recorder = record(monkeypatch)
    with waiting(store, *calls) as futures:
        revisions = [future.result(PATIENCE) for future in futures[:8]]
    monkeypatch.undo()
    assert sorted(revisions) == list(range(2, 10))  # type: ignore[type-var]
    assert sum(call.name == "fdatasync" for call in recorder.calls) == 1
    for number, revision in enumerate(revisions):
        assert store.find_by_id(f"env-{number}").revision == revision
    segment = next((store.path / "journal").iterdir())
    assert sum(b'"changes"' in line for line in segment.read_bytes().splitlines()) == 2


def test_calls_of_one_line_keep_their_authors(store: FileStore) -> None:
    """Each change in a shared line is recorded with the author of its own call."""

    def save(number: int) -> int:
        with audit(actor=f"actor-{number}", reason=f"reason-{number}"):
            return store.save(make_environment(id=f"env-{number}"))

    with waiting(store, *[lambda n=n: save(n) for n in range(4)]) as futures:
        for future in futures:
            future.result(PATIENCE)
    for event in store.history(after=1):
        number = event.environment_id.removeprefix("env-")
        assert (event.actor, event.reason) == (f"actor-{number}", f"reason-{number}")


def test_failed_call_fails_alone(store: FileStore) -> None:
    """A conflict of one caller does not fail the others, which see the changes made before."""
    with waiting(
        store,
        lambda: store.create(make_environment(id="b", name="first")),
        lambda: store.create(make_environment(id="b", name="second")),
        lambda: store.save(make_environment(id="a"), if_revision=7),
        lambda: store.delete("a"),
    ) as futures:
        errors = [future.exception(PATIENCE) for future in futures]
    assert sorted(type(error).__name__ for error in errors[:2]) == [
        "EnvironmentAlreadyExistsError",
        "NoneType",
    ]
    assert isinstance(errors[2], ConflictError)
    assert errors[3:] == [None, None]
    assert [environment.id for environment in store.find_all()] == ["b"]


def test_environment_created_and_deleted_in_one_line_leaves_history_only(store: FileStore) -> None:
    """A create, and a delete that waits for it, share a line that changes no document."""
    new = make_environment(id="b")

    def delete() -> None:
        store._writer.run(lambda tx: tx.delete(tx.get("b")))

    with waiting(store, delete, leader=lambda tx: tx.put(new, None)) as futures:
        for future in futures:
            future.result(PATIENCE)
    assert [environment.id for environment in store.find_all()] == ["a"]
    assert [event.kind for event in store.history("b")] == ["created", "deleted"]


def test_idempotency_key_is_stored_once_in_one_line(store: FileStore) -> None:
    """Of two creates with the same key that share a line, one is refused with the other's id."""
    first = make_environment(id="b")
    second = make_environment(id="c", idempotency=first.idempotency)
    calls = [lambda new=new: store.create(new) for new in (first, second)]
    with waiting(store, *calls) as futures:
        errors = [future.exception(PATIENCE) for future in futures]
    [stored] = {one.id for one in store.find_all()} - {"a"}
    [refused] = [error for error in errors if error is not None]
    assert isinstance(refused, EnvironmentAlreadyExistsError)
    assert refused.environment_id == stored


def test_failed_sync_fails_every_call(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the sync fails, nothing is saved, and each caller gets an error object of its own."""
    flushes: list[Call] = []

    def spoil(_: int, call: Call, perform: Callable[[], Any]) -> Any:
        if call.name == "fdatasync":
            flushes.append(call)
            if len(flushes) == 1:
                raise OSError(errno.EIO, "Input/output error")
        return perform()

    record(monkeypatch, spoil)
    calls = [lambda n=n: store.save(make_environment(id=f"env-{n}")) for n in range(3)]
    with waiting(store, *calls) as futures:
        errors = [future.exception(PATIENCE) for future in futures]
    monkeypatch.undo()
    assert all(isinstance(error, OSError) and error.errno == errno.EIO for error in errors)
    assert len({id(error) for error in errors}) == 4
    assert [environment.id for environment in store.find_all()] == ["a"]
    assert [event.seq for event in store.history()] == [1]
    store.save(make_environment(id="b"))


def test_interrupted_leader_loses_no_other_call(store: FileStore) -> None:
    """Ctrl-C in the thread that commits for all loses none of the other calls."""

    def interrupt(_: Transaction) -> None:
        raise KeyboardInterrupt

    calls = [lambda n=n: store.save(make_environment(id=f"env-{n}")) for n in range(3)]
    with waiting(store, *calls, leader=interrupt) as futures:
        assert sorted(future.result(PATIENCE) for future in futures[:3]) == [2, 3, 4]  # type: ignore[type-var]
        assert isinstance(futures[3].exception(PATIENCE), KeyboardInterrupt)
    assert store.count() == 4


def test_committed_call_is_never_run_again(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that is done, and whose thread has yet to return, is ignored by the next leader."""
    arrived, go = threading.Event(), threading.Event()
    real = CommitQueue._remove

    def remove(self: CommitQueue, call: Any) -> None:
        if threading.current_thread() is slow and not arrived.is_set():
            arrived.set()
            assert go.wait(PATIENCE)
        real(self, call)

    def count_up(environment: Environment) -> None:
        environment.ssh_port += 1

    monkeypatch.setattr(CommitQueue, "_remove", remove)
    before = store.find_by_id("a").ssh_port
    slow = threading.Thread(target=store.save, args=[make_environment(id="b", ssh_port=1)])
    with lock_held(store):  # Else it would lead at once, and never wait.
        slow.start()
        while not store._writer._queue._waiting:
            os.sched_yield()
    assert arrived.wait(PATIENCE)
    store.update("a", count_up)
    go.set()
    slow.join()
    assert store.find_by_id("a").ssh_port == before + 1
    assert [event.environment_id for event in store.history()] == ["a", "b", "a"]


def test_timed_out_call_changes_nothing(store: FileStore) -> None:
    """A save that timed out does not happen later."""
    impatient = FileStore(store.path, lock_timeout=0.01)
    inside, done = threading.Event(), threading.Event()

    def work(_: Transaction) -> None:
        inside.set()
        assert done.wait(PATIENCE)

    holder = threading.Thread(target=impatient._writer.run, args=[work])
    holder.start()
    assert inside.wait(PATIENCE)
    with pytest.raises(LockTimeoutError):
        impatient.save(make_environment(id="late"))
    done.set()
    holder.join()
    impatient.close()
    assert [environment.id for environment in store.find_all()] == ["a"]


def test_delete_and_create_of_corrupt_document_both_succeed(store: FileStore) -> None:
    """Deleting a corrupt document and creating it again, both waiting, lose neither of them."""
    store.document_path("a").write_text("{")
    with waiting(
        store,
        lambda: store.delete("a"),
        lambda: store.save(make_environment(id="b")),
    ) as futures:
        for future in futures:
            future.result(PATIENCE)
    store.create(make_environment(id="a"))
    assert [path.read_text() for path in (store.path / ".waggle" / "lost+found").iterdir()] == ["{"]
    with pytest.raises(EnvironmentAlreadyExistsError):
        store.create(make_environment(id="a"))


def test_bad_document_fails_only_its_own_call(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document that cannot be replaced fails its own caller, not those that share the line."""

    def spoil(_: int, call: Call, perform: Callable[[], Any]) -> Any:
        if call.name == "replace" and call.files[1] == "bad.json":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return perform()

    record(monkeypatch, spoil)
    calls = [lambda n=n: store.save(make_environment(id=n)) for n in ("x", "bad", "y", "z")]
    with waiting(store, *calls) as futures:
        errors = [future.exception(PATIENCE) for future in futures]
    assert [type(error).__name__ for error in errors] == [
        "NoneType",
        "PermissionError",
        *["NoneType"] * 3,
    ]
    assert [environment.id for environment in store.find_all()] == ["a", "x", "y", "z"]
    assert {event.environment_id for event in store.history()} == {"a", "x", "y", "z"}


def test_calls_leave_no_reference_cycle(store: FileStore) -> None:
    """What a call holds is freed when it returns, without a garbage collection."""
    gc.collect()
    gc.disable()
    try:
        store.save(make_environment(id="b"))
        left = [one for one in gc.get_objects() if isinstance(one, Group)]
    finally:
        gc.enable()
    assert left == []


@pytest.mark.parametrize("number", range(1, 40))
def test_interrupt_during_rollback_keeps_journal_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Ctrl-C at any call of a rollback leaves a journal that is whole."""
    store = FileStore(tmp_path / "store")
    store.save(make_environment(id="a", name="old"))
    seen: list[int] = []

    def spoil(_: int, call: Call, perform: Callable[[], Any]) -> Any:
        if call.name == "fdatasync" and not seen:
            seen.append(0)
            raise OSError(errno.EIO, "Input/output error")
        if seen:
            seen.append(0)
            result = perform()
            if len(seen) == number:
                raise KeyboardInterrupt
            return result
        return perform()

    with monkeypatch.context() as patch:
        record(patch, spoil)
        with pytest.raises((OSError, KeyboardInterrupt)):
            store.save(make_environment(id="a", name="new"))
    assert store.find_by_id("a").name == "old"
    store.save(make_environment(id="b"))
    store.close()
    (tmp_path / "store" / ".waggle" / "state").unlink()
    with FileStore(tmp_path / "store") as again:
        assert again.find_by_id("a").name == "old"
        assert [event.environment_id for event in again.history()] == ["a", "b"]
        assert list(again.check()) == []
