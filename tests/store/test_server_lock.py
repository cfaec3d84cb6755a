# SPDX-License-Identifier: Apache-2.0
"""Server locks: one server of a store has it, and when that ends, another one can."""

import fcntl
import os
import shutil
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
from waggle_fsstore.store.server_lock import ServerLock, ServerPresence, running_servers
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


def test_lock_has_one_holder(locks: list[ServerLock]) -> None:
    """A second call by the holder succeeds; the other server gets the lock after its release."""
    one, other = locks
    assert [one.try_acquire(), other.try_acquire(), one.try_acquire()] == [True, False, True]
    one.release()
    assert [other.try_acquire(), one.try_acquire()] == [True, False]
    one.release()
    assert not one.try_acquire()


def test_one_of_many_threads_gets_the_lock(locks: list[ServerLock]) -> None:
    """However many threads ask at once, one lock is acquired."""
    answers = together(*[lock.try_acquire for lock in locks * 4])
    assert [set(answers[::2]), set(answers[1::2])] in ([{True}, {False}], [{False}, {True}])


def test_locks_of_different_names_are_independent(root: Path) -> None:
    """Locks of different names do not affect each other."""
    locks = [ServerLock(root, name) for name in ("server.lock", "http.lock")]
    assert [lock.try_acquire() for lock in locks] == [True, True]
    for lock in locks:
        lock.release()


def test_holder_is_readable_by_others(root: Path, locks: list[ServerLock]) -> None:
    """The lock names the process that took it, also to the others."""
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


def test_killed_process_releases_lock(root: Path, locks: list[ServerLock]) -> None:
    """A process releases its lock however it ends."""
    with held_by_another(root) as process:
        assert not locks[0].try_acquire()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert locks[0].try_acquire()


def test_stopped_process_keeps_lock(root: Path, locks: list[ServerLock]) -> None:
    """A stopped process still holds its lock: it may continue at any time."""
    with held_by_another(root) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert not locks[0].try_acquire()


def test_fork_leaves_lock_with_parent(root: Path, locks: list[ServerLock]) -> None:
    """The lock stays with the parent, and ends with it even if the child lives on."""
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


def test_removed_lock_file_loses_lock(locks: list[ServerLock]) -> None:
    """Removing its file releases the lock; the holder regains it if no other process took it."""
    one, other = locks
    assert one.try_acquire()
    one.path.unlink()
    assert one.try_acquire()
    assert not other.try_acquire()
    one.path.unlink()
    assert other.try_acquire()
    assert not one.try_acquire()


def test_server_lock_does_not_block_changes(root: Path, locks: list[ServerLock]) -> None:
    """It is independent of the store's lock, in both directions."""
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


def test_lock_works_before_store_exists(root: Path, locks: list[ServerLock]) -> None:
    """The first server gets it before anything is stored; the directory still becomes a store."""
    assert not root.exists()
    assert locks[0].try_acquire()
    assert locks[0].path == root / ".waggle" / "server.lock"
    assert [path.name for path in root.iterdir()] == [".waggle"]
    with FileStore(root, durable=False) as store:
        store.save(make_environment(id="a"))
    assert not locks[1].try_acquire()


def test_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    """A directory with other files in it is refused, and left as it is."""
    (tmp_path / "diary.txt").touch()
    with pytest.raises(UnsupportedFormatError):
        ServerLock(tmp_path, "server.lock").try_acquire()
    assert not (tmp_path / ".waggle").exists()


def test_lock_path_that_is_no_file_raises(root: Path) -> None:
    """A link or a directory in its place is an error, and the target of a link is not touched."""
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


def test_failed_and_released_locks_keep_no_descriptor(locks: list[ServerLock]) -> None:
    """Neither a failed attempt nor a release leaves a file open."""
    before = open_descriptors()
    one, other = locks
    assert one.try_acquire()
    for _ in range(3):
        assert not other.try_acquire()
    assert open_descriptors() == before + 1
    one.release()
    one.release()
    assert open_descriptors() == before


# Presence


def test_presence_is_visible_while_server_runs(root: Path) -> None:
    """Each of several servers is seen until it ends; nothing is left of it then."""
    assert running_servers(root) == []
    assert not root.exists()
    servers = [ServerPresence(root), ServerPresence(root)]
    assert [server.try_acquire() for server in servers * 2] == [True] * 4
    assert [holder and holder.pid for holder in running_servers(root)] == [os.getpid()] * 2
    servers[0].release()
    assert len(running_servers(root)) == 1
    servers[1].release()
    assert os.listdir(root / ".waggle" / "servers") == []


def test_presence_returns_after_cleaning(root: Path) -> None:
    """A server whose file was removed, as by ``git clean``, shows itself again."""
    server = ServerPresence(root)
    assert server.try_acquire()
    shutil.rmtree(root / ".waggle")
    assert running_servers(root) == []
    assert server.try_acquire()
    assert len(running_servers(root)) == 1
    server.release()


def test_files_of_dead_servers_are_removed(root: Path) -> None:
    """The next server removes them, and no file of a server that runs."""
    servers = [ServerPresence(root), ServerPresence(root)]
    assert servers[0].try_acquire()
    dead = servers[0].path.with_name("dead")
    dead.touch()
    assert servers[1].try_acquire()
    assert not dead.exists()
    assert len(running_servers(root)) == 2
    for server in servers:
        server.release()


def test_concurrent_looks_see_no_server(root: Path) -> None:
    """Processes that look at the same time do not take each other for a server."""
    server = ServerPresence(root)
    assert server.try_acquire()
    dead = server.path.with_name("dead")
    dead.touch()
    os.mkfifo(server.path.with_name("pipe"))  # To open it would take for ever.
    with open(dead, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # As another process does for an instant.
        assert len(running_servers(root)) == 1
    server.release()


def test_presence_ends_with_parent_of_fork(root: Path) -> None:
    """A forked child neither shows a server nor removes the file of its parent."""
    server = ServerPresence(root)
    assert server.try_acquire()
    child = os.fork()
    if not child:
        server.release()
        os._exit(len(running_servers(root)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert server.path.exists()
    server.release()
    assert running_servers(root) == []
