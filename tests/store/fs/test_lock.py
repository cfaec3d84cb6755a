# SPDX-License-Identifier: Apache-2.0
"""The store lock excludes other threads and processes, and outlives none of them."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.store.interrupts import interrupted
from tests.store.locks import lock_held
from tests.store.recorder import open_descriptors
from waggle_fsstore import (
    Environment,
    FileStore,
    LockTimeoutError,
    MemoryStore,
    StoreClosedError,
    StoreError,
)
from waggle_fsstore.store.fs import lock
from waggle_fsstore.store.fs.in_place_file import InPlaceFile
from waggle_fsstore.store.fs.lock import StoreLock, read_holder
from waggle_fsstore.store.write.batch import Transaction
from waggle_fsstore.testing import make_environment

HOLD = """
import sys
from waggle_fsstore import FileStore
store = FileStore(sys.argv[1], durable=False)
def hold():
    print("held", flush=True)
    sys.stdin.readline()
store._writer._lock.run(hold)
"""


@contextmanager
def held_by_another_process(root: Path) -> Iterator[subprocess.Popen[str]]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        assert holder.stdout.readline() == "held\n"
        yield holder
    finally:
        holder.kill()
        holder.communicate()


@pytest.fixture
def root(root: Path) -> Path:
    """The path of a store with one document, "a"."""
    with FileStore(root, durable=False) as store:
        store.save(make_environment(id="a", name="old"))
    return root


def test_timeout_names_holder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait for another process ends in time, with an error that names the lock holder."""
    with held_by_another_process(root) as holder:
        store = FileStore(root, lock_timeout=0.05)
        slept: list[float] = []

        def sleep(seconds: float, real: Callable[[float], None] = time.sleep) -> None:
            slept.append(seconds)
            real(seconds)

        monkeypatch.setattr("waggle_fsstore.store.fs.lock.time.sleep", sleep)
        with pytest.raises(LockTimeoutError) as caught:
            store.save(make_environment(id="a", name="new"))
        assert sum(slept) < 0.1
        error = caught.value
        assert error.holder is not None
        assert error.holder.pid == holder.pid
        assert error.path == root / ".waggle" / "lock"
        assert f"process {holder.pid} on " in str(error)
        assert isinstance(error, TimeoutError)
        assert store.find_by_id("a").name == "old"
    store.save(make_environment(id="a", name="new"))
    assert store.find_by_id("a").name == "new"


def test_timeout_ends_where_time_is_frozen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait for another handle's lock ends although a test holds the clocks of Python."""
    with FileStore(root) as holder, FileStore(root, lock_timeout=0.01) as store, lock_held(holder):
        calls = iter(range(100))  # A wait for this clock fails.
        monkeypatch.setattr(time, "monotonic", lambda: next(calls) * 0.0)
        with pytest.raises(LockTimeoutError):
            store.save(make_environment(id="a"))


def test_timeout_applies_to_threads(root: Path) -> None:
    """A thread waits no longer for a thread than for a process."""
    store = FileStore(root, durable=False, lock_timeout=0.05)
    with lock_held(store):
        failures: list[BaseException] = []

        def save() -> None:
            try:
                store.save(make_environment())
            except LockTimeoutError as error:
                failures.append(error)

        thread = threading.Thread(target=save)
        thread.start()
        thread.join()
        assert len(failures) == 1
    store.save(make_environment())


def test_killed_holder_frees_lock(root: Path) -> None:
    """The lock of a killed process is free at once, without a clean-up."""
    with held_by_another_process(root) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        FileStore(root, lock_timeout=5).save(make_environment(id="a", name="new"))


def test_reads_do_not_wait_for_stopped_holder(root: Path) -> None:
    """A process that is stopped in the middle of a change delays no reader."""
    with held_by_another_process(root) as holder:
        holder.send_signal(signal.SIGSTOP)
        with FileStore(root, lock_timeout=0) as store:
            assert store.find_by_id("a").name == "old"
            assert len(store.find_all()) == store.count() == 1


def test_lock_file_is_permanent(root: Path) -> None:
    """Neither use nor close removes or replaces the lock file."""
    lock = root / ".waggle" / "lock"
    before = lock.stat().st_ino
    for _ in range(3):
        with FileStore(root, durable=False) as store:
            store.save(make_environment())
            store.delete("a" if _ == 0 else store.find_all()[0].id)
    assert lock.stat().st_ino == before


def test_removed_lock_file_is_noticed(root: Path) -> None:
    """After ``git clean`` removed ``.waggle``, an open store and a new one exclude each other."""
    store = FileStore(root, durable=False)
    store.save(make_environment())
    shutil.rmtree(root / ".waggle")
    store.save(make_environment())
    with held_by_another_process(root):
        impatient = FileStore(root, durable=False, lock_timeout=0)
        for other in (store, impatient):
            other._writer._lock.timeout = 0
            with pytest.raises(LockTimeoutError):
                other.save(make_environment())


def test_open_store_follows_its_path(root: Path) -> None:
    """An open store locks the store that is at its path now."""
    store = FileStore(root, durable=False, lock_timeout=0)
    store.save(make_environment())
    root.rename(root.with_name("moved"))
    shutil.copytree(root.with_name("moved"), root)
    with held_by_another_process(root), pytest.raises(LockTimeoutError):
        store.save(make_environment(id="b"))
    store.save(make_environment(id="b"))
    assert (root / "environments" / "b.json").exists()
    assert not (root.with_name("moved") / "environments" / "b.json").exists()


def test_child_can_use_inherited_store(root: Path) -> None:
    """A forked child opens the lock file again, and the parent keeps its lock."""
    store = FileStore(root, durable=False, lock_timeout=0)
    store.save(make_environment(id="before"))
    with lock_held(store):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store.save(make_environment(id="child"))
            except LockTimeoutError:
                code = 0  # The parent holds it, and the exit of the child must not free it.
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(LockTimeoutError):
            FileStore(root, durable=False, lock_timeout=0).save(make_environment())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store.save(make_environment(id="child"))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert store.find_by_id("child").id == "child"
    store.save(make_environment(id="child"))


class Notes:
    """The descriptions of lock holders that one store writes, with a clock that a test sets."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.store = FileStore(root)
        self.clock_ahead_ns = 0
        self.has_fine_times = False
        self.written = 0
        self._patch = patch
        patch.setattr(lock, "file_clock", self._clock)
        patch.setattr(lock, "is_fine_time", lambda _: self.has_fine_times)
        patch.setattr(lock, "describe_holder", self._describe)
        patch.setattr(lock, "has_change_times", lambda _: True)
        self.save()

    def save(self) -> str:
        """Save, and return the name of the process that another one sees while it lasts."""
        seen = []

        def work(tx: Transaction) -> None:
            seen.append(read_holder(f"{self.store.path}/.waggle/lock"))
            tx.put(make_environment(id="a"), tx.get_or_none("a"))

        self.store._writer.run(work)
        return seen[0].host if seen[0] else ""

    def _clock(self) -> int:
        return os.stat(f"{self.store.path}/.waggle/lock").st_mtime_ns + self.clock_ahead_ns

    def _describe(self) -> bytes:
        self.written += 1
        return f"\n1 1 own-{self.written}\n".encode().ljust(400)


@pytest.fixture
def notes(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notes]:
    notes = Notes(root, monkeypatch)
    yield notes
    notes.store.close()


def test_holder_is_described_once_a_second(notes: Notes) -> None:
    """A process that holds the lock again and again writes its name once, and then each second."""
    notes.clock_ahead_ns = 10_000_000
    notes.save()
    before = notes.written
    notes.save()
    notes.save()
    assert notes.written == before
    notes.clock_ahead_ns = 1_000_000_000
    notes.save()
    assert notes.written == before + 1


def test_description_of_other_holder_is_replaced(notes: Notes) -> None:
    """A process that waits is told who holds the lock now, not who held it before."""
    notes.clock_ahead_ns = 10_000_000
    notes.save()
    path = notes.store.path / ".waggle" / "lock"
    other = b"\n2 2 other\n".ljust(400)
    path.write_bytes(other)
    assert notes.save() == f"own-{notes.written}"


def test_description_of_other_holder_is_replaced_after_interrupt(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C before a holder has described itself does not make another description its own."""
    notes.clock_ahead_ns = 10_000_000
    notes.save()
    path = notes.store.path / ".waggle" / "lock"
    path.write_bytes(b"\n2 2 other\n".ljust(400))

    def interrupt() -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lock, "describe_holder", interrupt)
        with pytest.raises(KeyboardInterrupt):
            notes.save()
    assert notes.save() == f"own-{notes.written}"


def test_description_in_same_tick_is_replaced(notes: Notes) -> None:
    """The times of the file do not tell two holders apart that wrote in the same tick."""
    notes.save()
    path = notes.store.path / ".waggle" / "lock"
    status = path.stat()
    path.write_bytes(b"\n2 2 other\n".ljust(400))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert notes.save() == f"own-{notes.written}"


def test_description_with_fine_time_is_known_at_once(notes: Notes) -> None:
    """Where each change after a look has its own time, no tick has to pass."""
    notes.has_fine_times = True
    notes.save()
    before = notes.written
    notes.save()
    assert notes.written == before


def test_description_on_whole_second_is_replaced(notes: Notes) -> None:
    """A file system may store whole seconds only, and then two holders easily share one."""
    notes.clock_ahead_ns = 10_000_000
    held = notes.store._writer._lock
    held._file.modified = 5_000_000_001
    assert held._time_of_description() == 5_000_000_001
    held._file.modified = 5_000_000_000
    assert held._time_of_description() == 0


def test_description_is_replaced_where_files_have_no_change_times(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may show the times of an earlier moment."""
    monkeypatch.setattr(lock, "has_change_times", lambda _: False)
    notes.store.close()
    notes.store = FileStore(notes.store.path)
    notes.clock_ahead_ns = 10_000_000
    before = notes.written
    notes.save()
    notes.save()
    assert notes.written >= before + 2


def test_parent_and_child_exclude_each_other(root: Path) -> None:
    """A child with an inherited store does not share the lock of its parent."""
    store = FileStore(root, durable=False, lock_timeout=0)
    store.save(make_environment())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with lock_held(store):
            os.write(writer, b"held")
            time.sleep(60)
        os._exit(1)
    assert os.read(reader, 4) == b"held"
    try:
        with pytest.raises(LockTimeoutError) as caught:
            store.save(make_environment())
        assert caught.value.holder is not None
        assert caught.value.holder.pid == child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
    store.save(make_environment())


def test_fork_during_change_stores_nothing(root: Path) -> None:
    """A child that is forked in the middle of a change cannot finish it."""
    store = FileStore(root, durable=False)
    before = store.save(make_environment(id="a"))
    parent = os.getpid()
    children: list[int] = []

    def work(change: Transaction) -> int:
        children.append(os.fork())
        return change.put(make_environment(id=f"by {os.getpid() == parent}"), None)

    error = ""
    try:
        store._writer.run(work)
    except StoreError as refusal:
        error = str(refusal)
    finally:
        if os.getpid() != parent:
            os._exit(0 if "forked" in error else 1)
    assert os.waitpid(children[0], 0)[1] == 0
    assert [event.environment_id for event in store.history(after=before)] == ["by True"]


def test_descriptors_are_not_inherited(root: Path) -> None:
    """A program that is started by a user of the store has none of its files open."""
    store = FileStore(root, durable=False)
    store.save(make_environment())
    output = subprocess.run(
        ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, check=True, close_fds=False
    ).stdout
    assert ".waggle" not in output


def test_descriptors_are_released(root: Path) -> None:
    """Neither a closed store nor a dropped one keeps a descriptor."""
    before = open_descriptors()
    for _ in range(5):
        store = FileStore(root, durable=False)
        store.save(make_environment())
        store.close()
        store.close()
        dropped = FileStore(root, durable=False)
        dropped.save(make_environment())
        del store, dropped
    assert open_descriptors() <= before


def test_close_waits_for_change(root: Path) -> None:
    """Close returns after the change in progress is finished."""
    store = FileStore(root, durable=False)
    order: list[str] = []
    with lock_held(store):

        def close() -> None:
            store.close()
            order.append("closed")

        closer = threading.Thread(target=close)
        closer.start()
        while not store._writer._lock.closed:
            pass
        order.append("changed")
    closer.join()
    assert order == ["changed", "closed"]


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), 1e300])
def test_infinite_timeout_is_refused(tmp_path: Path, timeout: float) -> None:
    """A lock timeout is a finite number of seconds."""
    with pytest.raises(ValueError, match="lock_timeout"):
        FileStore(tmp_path / "store", lock_timeout=timeout)


def test_unreadable_holder_is_unknown(root: Path) -> None:
    """A lock file without a readable holder still gives a clear error."""
    lock = StoreLock(str(root / ".waggle" / "lock"), timeout=0)
    with held_by_another_process(root):
        (root / ".waggle" / "lock").write_text("garbage")
        with pytest.raises(LockTimeoutError, match="an unknown process") as caught:
            lock.run(list)
        assert caught.value.holder is None


def test_write_in_signal_handler_is_refused(root: Path) -> None:
    """A signal handler cannot write in the middle of a write of the same thread."""
    store = FileStore(root, durable=False)
    with lock_held(store), pytest.raises(RuntimeError, match="in the middle of a change"):
        store.save(make_environment())
    store.save(make_environment())


@pytest.mark.parametrize("change", ["save", "update", "delete"])
def test_interrupt_at_any_instruction_frees_lock(root: Path, change: str) -> None:
    """Ctrl-C between any two instructions leaves the lock free, for all processes."""
    store = FileStore(root, durable=False, lock_timeout=0)
    other = FileStore(root, durable=False, lock_timeout=0)
    work: dict[str, Callable[[], object]] = {
        "save": lambda: store.save(make_environment(id="a")),
        "update": lambda: store.update("a", Environment.touch),
        "delete": lambda: store.delete("a"),
    }
    files = (
        "domain/cleanup.py",
        "store/fs/lock.py",
        "store/write/group_commit.py",
        "store/write/writer.py",
        "store/write/inputs.py",
    )
    number = 0
    while True:
        number += 1
        if not interrupted(work[change], files, number):
            break
        other.save(make_environment(id="a"))
        store.save(make_environment(id="a"))
        assert store.count() == other.count() == 1
    assert number > 100


class HandlerError(RuntimeError):
    """What a signal handler raises."""


def test_error_of_signal_handler_is_raised(root: Path) -> None:
    """A RuntimeError of a signal handler comes out, even one of a kind that the lock expects."""
    store = FileStore(root, durable=False, lock_timeout=0)
    files = ("/threading.py", "store/fs/lock.py")
    number = 1
    while interrupted(lambda: store.save(make_environment(id="a")), files, number, HandlerError):
        number += 1
    assert number > 100
    assert store.find_by_id("a").revision == store.save(make_environment(id="a")) - 1


def test_changing_inode_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the lock file is another one at each look, a change says so and does not loop."""
    with FileStore(root, durable=False) as store:
        store.save(make_environment(id="a"))
    looks = iter(range(10_000))

    def is_in_place(_: InPlaceFile) -> bool:
        next(looks)
        return False

    monkeypatch.setattr(InPlaceFile, "is_in_place", is_in_place)
    with FileStore(root, durable=False, lock_timeout=0) as store:
        with pytest.raises(OSError, match="inode number") as caught:
            store.save(make_environment(id="b"))
        assert caught.value.filename == str(root / ".waggle" / "lock")
        assert [found.id for found in store.find_all()] == ["a"]


def test_waiting_thread_is_refused_by_close(root: Path) -> None:
    """A thread that waits while the store is closed is refused, and reopens nothing."""
    before = open_descriptors()
    store = FileStore(root, durable=False)
    refused: list[BaseException] = []

    def save() -> None:
        try:
            store._writer.run(lambda _: None, solo=True)
        except StoreClosedError as error:
            refused.append(error)

    def work(_: Transaction) -> None:
        waiting.start()
        closing.start()
        while not store._writer._lock.closed:
            pass

    waiting = threading.Thread(target=save)
    closing = threading.Thread(target=store.close)
    store._writer.run(work)
    waiting.join()
    closing.join()
    assert len(refused) == 1
    assert open_descriptors() <= before


def test_close_times_out(root: Path) -> None:
    """When close times out, the lock holder closes the files."""
    before = open_descriptors()
    store = FileStore(root, durable=False, lock_timeout=0)

    def work(_: Transaction) -> None:
        closing = threading.Thread(target=store.close)
        closing.start()
        closing.join()

    store._writer.run(work)
    assert open_descriptors() <= before
    with pytest.raises(StoreClosedError):
        store.count()


def test_undecodable_host_name_is_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name that is not valid text is written with replacements."""
    monkeypatch.setattr("waggle_fsstore.store.fs.lock._HOST", "caf\udce9")
    FileStore(root, durable=False).save(make_environment())


def test_memory_store_works_after_fork() -> None:
    """A child can use an inherited MemoryStore while a thread of the parent holds its lock."""
    store = MemoryStore()
    store.save(make_environment(id="a"))
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with store._lock:
            inside.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if store.count() == 1 else 1)
    done.set()
    holder.join()
    assert os.waitpid(child, 0)[1] == 0
