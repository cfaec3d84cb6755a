# SPDX-License-Identifier: Apache-2.0
"""A server lock has one holder at a time, and is free once the holder ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service.fakes import together
from tests.store.locks import lock_held
from tests.store.recorder import open_descriptors
from waggle_fsstore import FileStore, LockTimeoutError, UnsupportedFormatError
from waggle_fsstore.store.server_lock import ServerLock
from waggle_fsstore.testing import make_environment

HOLD = """
import sys
from waggle_fsstore.store.server_lock import ServerLock
lock = ServerLock(sys.argv[1], "server.lock")
print(lock.try_acquire(), flush=True)
sys.stdin.readline()
"""

FORK = """
import os, sys
from waggle_fsstore.store.server_lock import ServerLock
lock = ServerLock(sys.argv[1], "server.lock")
assert lock.try_acquire()
child = os.fork()
if not child:
    assert not lock.try_acquire()
    lock.release()
# One system call per line: both write into the same pipe, and print writes word by word
# with PYTHONUNBUFFERED.
os.write(1, f"{'parent' if child else 'child'} {os.getpid()}\\n".encode())
sys.stdin.readline()
"""


@contextmanager
def held_by_another(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


@pytest.fixture
def locks(root: Path) -> Iterator[list[ServerLock]]:
    """The lock objects of two servers."""
    locks = [ServerLock(root, "server.lock") for _ in range(2)]
    yield locks
    for lock in locks:
        lock.release()


def test_one_of_two_locks_is_held(locks: list[ServerLock]) -> None:
    """The holder may ask again; the other object gets the lock once it is released."""
    one, other = locks
    assert [one.try_acquire(), other.try_acquire(), one.try_acquire()] == [True, False, True]
    one.release()
    assert [other.try_acquire(), one.try_acquire()] == [True, False]
    one.release()
    assert not one.try_acquire()


def test_threads_agree_on_one_holder(locks: list[ServerLock]) -> None:
    """Of two locks that many threads try at once, one is held."""
    answers = together(*[lock.try_acquire for lock in locks * 4])
    assert [set(answers[::2]), set(answers[1::2])] in ([{True}, {False}], [{False}, {True}])


def test_locks_of_other_names_are_independent(root: Path) -> None:
    """Locks of different names are independent."""
    locks = [ServerLock(root, name) for name in ("server.lock", "http.lock")]
    assert [lock.try_acquire() for lock in locks] == [True, True]
    for lock in locks:
        lock.release()


def test_holder_is_the_process_that_took_it(root: Path, locks: list[ServerLock]) -> None:
    """Every lock object names the process that took the lock last."""
    one, other = locks
    assert other.holder() is None
    with held_by_another(root) as process:
        assert not one.try_acquire()
        holder = one.holder()
        assert holder is not None
        assert holder.pid == process.pid
    assert one.try_acquire()
    holder = other.holder()
    assert holder is not None
    assert holder.pid == os.getpid()


def test_killed_process_frees_lock(root: Path, locks: list[ServerLock]) -> None:
    """The lock of a killed process is free."""
    with held_by_another(root) as process:
        assert not locks[0].try_acquire()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert locks[0].try_acquire()


def test_stopped_process_keeps_lock(root: Path, locks: list[ServerLock]) -> None:
    """A stopped process keeps its lock: it may continue at any time."""
    with held_by_another(root) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert not locks[0].try_acquire()


def test_lock_ends_with_parent_of_fork(root: Path, locks: list[ServerLock]) -> None:
    """The lock stays with the parent, and ends with it though its child lives on."""
    with subprocess.Popen(
        [sys.executable, "-c", FORK, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        said = dict(parent.stdout.readline().split() for _ in range(2))
        assert not locks[0].try_acquire()
        assert int(said["parent"]) == parent.pid
        parent.kill()
        parent.wait()
        assert locks[0].try_acquire()
        os.kill(int(said["child"]), signal.SIGKILL)


def test_removed_lock_file_is_noticed(locks: list[ServerLock]) -> None:
    """The holder of a removed lock file gets the lock again only if it is free."""
    one, other = locks
    assert one.try_acquire()
    one.path.unlink()
    assert one.try_acquire()
    assert not other.try_acquire()
    one.path.unlink()
    assert other.try_acquire()
    assert not one.try_acquire()


def test_server_lock_is_independent_of_store_lock(root: Path, locks: list[ServerLock]) -> None:
    """Neither the server lock nor the store lock delays the other."""
    assert locks[0].try_acquire()
    with FileStore(root, durable=False, lock_timeout=0) as store:
        store.save(make_environment(id="a"))
        assert store.count() == 1
        with lock_held(store):
            assert locks[0].try_acquire()
            locks[0].release()
            assert locks[1].try_acquire()
            with pytest.raises(LockTimeoutError), FileStore(root, lock_timeout=0) as another:
                another.save(make_environment(id="b"))


def test_lock_precedes_store(root: Path, locks: list[ServerLock]) -> None:
    """The first server locks a directory that becomes a store later."""
    assert not root.exists()
    assert locks[0].try_acquire()
    assert locks[0].path == root / ".waggle" / "server.lock"
    assert [path.name for path in root.iterdir()] == [".waggle"]
    with FileStore(root, durable=False) as store:
        store.save(make_environment(id="a"))
    assert not locks[1].try_acquire()


def test_foreign_directory_is_refused(tmp_path: Path) -> None:
    """A foreign directory is left as it is."""
    (tmp_path / "diary.txt").touch()
    with pytest.raises(UnsupportedFormatError):
        ServerLock(tmp_path, "server.lock").try_acquire()
    assert not (tmp_path / ".waggle").exists()


def test_irregular_lock_file_is_refused(root: Path) -> None:
    """A link or directory in place of the file is an error, and the target is untouched."""
    (root / ".waggle").mkdir(parents=True)
    target = root.parent / "target"
    target.write_text("mine")
    lock = ServerLock(root, "server.lock")
    lock.path.symlink_to(target)
    with pytest.raises(OSError, match=r"server\.lock"):
        lock.try_acquire()
    assert target.read_text() == "mine"
    lock.path.unlink()
    lock.path.mkdir()
    with pytest.raises(OSError, match=r"server\.lock"):
        lock.try_acquire()


def test_descriptors_are_released(locks: list[ServerLock]) -> None:
    """Neither a failed attempt nor a released lock keeps a file open."""
    before = open_descriptors()
    one, other = locks
    assert one.try_acquire()
    for _ in range(3):
        assert not other.try_acquire()
    assert open_descriptors() == before + 1
    one.release()
    one.release()
    assert open_descriptors() == before
