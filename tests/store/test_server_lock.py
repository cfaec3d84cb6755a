# SPDX-License-Identifier: Apache-2.0
"""Server locks: one server of a store has it, and when that ends, another one can."""

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
# One call of the system a line: both write into the same pipe, and print with
# PYTHONUNBUFFERED set writes word by word.
os.write(1, f"{'parent' if child else 'child'} {os.getpid()}\\n".encode())
sys.stdin.readline()
"""


@contextmanager
def held_by_another(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lock."""
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
    """Those of two servers."""
    locks = [ServerLock(root, "server.lock") for _ in range(2)]
    yield locks
    for lock in locks:
        lock.release()


def test_one_of_two(locks: list[ServerLock]) -> None:
    """Who has it is told so again; the other one gets it when it was let go."""
    one, other = locks
    assert [one.try_acquire(), other.try_acquire(), one.try_acquire()] == [True, False, True]
    one.release()
    assert [other.try_acquire(), one.try_acquire()] == [True, False]
    one.release()
    assert not one.try_acquire()


def test_of_many_threads(locks: list[ServerLock]) -> None:
    """However many ask at once, one lock has it."""
    answers = together(*[lock.try_acquire for lock in locks * 4])
    assert [set(answers[::2]), set(answers[1::2])] in ([{True}, {False}], [{False}, {True}])


def test_names_are_apart(root: Path) -> None:
    """Locks of different names have nothing to do with each other."""
    locks = [ServerLock(root, name) for name in ("server.lock", "http.lock")]
    assert [lock.try_acquire() for lock in locks] == [True, True]
    for lock in locks:
        lock.release()


def test_who_has_it(root: Path, locks: list[ServerLock]) -> None:
    """It says which process took it, also to those that do not have it."""
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


def test_a_process_that_is_killed(root: Path, locks: list[ServerLock]) -> None:
    """It holds up nobody, however it ends."""
    with held_by_another(root) as process:
        assert not locks[0].try_acquire()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert locks[0].try_acquire()


def test_a_process_that_is_stopped(root: Path, locks: list[ServerLock]) -> None:
    """It has the lock still: it may go on at any time."""
    with held_by_another(root) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert not locks[0].try_acquire()


def test_a_fork(root: Path, locks: list[ServerLock]) -> None:
    """The lock stays with the parent, and does not outlive it, though the child does."""
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


def test_a_file_that_was_taken_away(locks: list[ServerLock]) -> None:
    """Who holds what nobody sees has lost it, and gets it again only if nobody else did."""
    one, other = locks
    assert one.try_acquire()
    one.path.unlink()
    assert one.try_acquire()
    assert not other.try_acquire()
    one.path.unlink()
    assert other.try_acquire()
    assert not one.try_acquire()


def test_beside_the_store(root: Path, locks: list[ServerLock]) -> None:
    """It is no lock of the store: who has it holds up no change, and the other way round."""
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


def test_before_there_is_a_store(root: Path, locks: list[ServerLock]) -> None:
    """The first server has it before anything is stored, and the folder still becomes one."""
    assert not root.exists()
    assert locks[0].try_acquire()
    assert locks[0].path == root / ".waggle" / "server.lock"
    assert [path.name for path in root.iterdir()] == [".waggle"]
    with FileStore(root, durable=False) as store:
        store.save(make_environment(id="a"))
    assert not locks[1].try_acquire()


def test_no_place_for_a_store(tmp_path: Path) -> None:
    """A folder that is somebody else's is left as it is."""
    (tmp_path / "diary.txt").touch()
    with pytest.raises(UnsupportedFormatError):
        ServerLock(tmp_path, "server.lock").try_acquire()
    assert not (tmp_path / ".waggle").exists()


def test_what_is_no_file(root: Path) -> None:
    """A link or a folder in its place is an error, and what a link points to is not touched."""
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


def test_descriptors(locks: list[ServerLock]) -> None:
    """Who asks in vain keeps no file open, nor does who lets go."""
    before = open_descriptors()
    one, other = locks
    assert one.try_acquire()
    for _ in range(3):
        assert not other.try_acquire()
    assert open_descriptors() == before + 1
    one.release()
    one.release()
    assert open_descriptors() == before
