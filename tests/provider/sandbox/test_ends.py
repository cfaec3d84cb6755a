# SPDX-License-Identifier: Apache-2.0
"""Nothing of a program is left when it, its environment, bubblewrap or the server ends."""

import ctypes
import multiprocessing
import os
import select
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic

import pytest

from tests.provider.sandbox import batch
from tests.provider.sandbox.batch import Place, environment, is_released
from tests.provider.sandbox.programs import ALIVE
from waggle_fsstore import ProviderError, Runtime, WorkspaceGoneError
from waggle_fsstore.domain.execution import Execution, Stop
from waggle_fsstore.provider.sandbox import bubblewrap, output, process
from waggle_fsstore.provider.sandbox.limits import MemoryWatch
from waggle_fsstore.provider.sandbox.slots import Slots

# Found out here, before a fault is planted.
pytestmark = pytest.mark.skipif(bool(batch.why_unavailable()), reason=batch.why_unavailable())

SHELL = environment("a", Runtime.SHELL)
PYTHON = environment("p")

# Says through its pipe that it runs, and starts daemons that ignore signals.
DAEMONS = (
    ALIVE[Runtime.SHELL]
    + """
trap '' TERM HUP INT
setsid sleep 1000 &
nohup setsid sh -c 'trap "" TERM; sleep 1000' >/dev/null 2>&1 &
echo started >&9
sleep 1000
"""
)
_WAIT_S = 20.0

# linux/prctl.h: this process becomes the parent of those below it that lose theirs.
_CHILD_SUBREAPER = 36
_AT_ONCE = 5
_GONE_S = 1.0

#: In the command line of a program that would run for long.
MARK = f"7777{os.getpid()}"

_forks = multiprocessing.get_context("fork")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with batch.opened(tmp_path / "root", slots=Slots(_AT_ONCE, _AT_ONCE)) as place:
        place.provider.create(SHELL)
        yield place


def wait_for(reading: int, count: int = 1) -> None:
    """Wait until programs say that they run."""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    text = b""
    while text.count(b"started\n") < count:
        assert poll.poll(_WAIT_S * 1000), text
        text += os.read(reading, 4096)


def serve(root: Path) -> None:
    """Run programs in all slots, until this process is killed."""
    slots = Slots(_AT_ONCE, _AT_ONCE)
    with batch.opened(root, slots=slots) as place, ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in range(_AT_ONCE):
            pool.submit(place.execute, SHELL, DAEMONS, Runtime.SHELL, timeout_s=300)


@contextmanager
def running(place: Place, reading: int, timeout_s: float = _WAIT_S) -> Iterator[Future[Execution]]:
    """Run a program with daemons in another thread; the block begins once it has started."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(place.execute, SHELL, DAEMONS, Runtime.SHELL, timeout_s=timeout_s)
        wait_for(reading)
        yield future


def children() -> list[int]:
    """Return the processes that this one has started and that are not reaped."""
    tasks = Path("/proc/self/task").iterdir()
    return [int(one) for task in tasks for one in (task / "children").read_text().split()]


def test_destroyed_environment_stops_its_program(place: Place) -> None:
    """A program whose environment is removed is stopped, and its files do not come back."""
    with place.watched(SHELL) as reading:
        with running(place, reading, timeout_s=3) as future:
            place.provider.remove(SHELL)
        assert future.result().stopped is Stop.DESTROYED
        assert is_released(reading)
    place.provider.wait_until_emptied()
    assert batch.left_in(place.provider.root) == []


def test_program_leaves_no_zombie_to_first_process(place: Place) -> None:
    """A server that is the first process of a container has no child left of a program.

    Now and then, bubblewrap takes the last exit code itself.
    """
    before = children()
    adopt = ctypes.CDLL(None).prctl
    assert adopt(_CHILD_SUBREAPER, 1) == 0
    try:
        for _ in range(20):
            assert place.execute(SHELL, "exit 3", Runtime.SHELL).exit_code == 3
        assert children() == before
    finally:
        adopt(_CHILD_SUBREAPER, 0)


def test_process_that_became_child_is_reaped() -> None:
    """The exit code of an ended child is taken, once; another process is left alone."""
    child = os.posix_spawn("/bin/true", ["true"], {})
    ended = os.pidfd_open(child)
    try:
        assert select.select([ended], [], [], _WAIT_S)[0]
        process._reap(ended)
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)
        process._reap(ended)
    finally:
        os.close(ended)


def test_closed_executor_stops_its_program(place: Place) -> None:
    """The end of a server ends its programs first."""
    with place.watched(SHELL) as reading:
        with running(place, reading) as future:
            place.executor.close()
        assert future.result().stopped is Stop.SHUTDOWN
        assert is_released(reading)


def test_killed_server_leaves_no_program(place: Place) -> None:
    """The kernel ends all programs, and the daemons that they started, with their server."""
    with place.watched(SHELL) as reading:
        server = _forks.Process(target=serve, args=(place.provider.root,))
        server.start()
        try:
            wait_for(reading, _AT_ONCE)
        finally:
            server.kill()
            server.join()
        assert is_released(reading)
    assert place.execute(SHELL, "ls", Runtime.SHELL).exit_code == 0


def serve_one(root: Path, ready: Connection) -> None:
    """Run one program, and say when that begins."""
    with batch.opened(root) as place:
        place.executor.why_unavailable()
        ready.send(None)
        place.execute(SHELL, f"sleep {MARK}", Runtime.SHELL, timeout_s=300)


def marked() -> list[int]:
    """Return the processes of the program of :func:`serve_one`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if MARK.encode() in path.read_bytes():
                found.append(int(path.parts[2]))
    return found


@pytest.mark.skipif(not batch.IS_FULL, reason="needs WAGGLE_TEST_ATTACKS=full")
def test_server_killed_during_setup_leaves_no_program(place: Place) -> None:
    """A server that is killed while it sets up a sandbox leaves no program that runs on."""
    survivors = []
    for delay_ms in range(0, 120, 2):
        ours, theirs = multiprocessing.Pipe()
        server = _forks.Process(target=serve_one, args=(place.provider.root, theirs))
        server.start()
        ours.recv()
        server.join(delay_ms / 1000)  # The moment of the kill, which is the subject here.
        server.kill()
        server.join()
        deadline = monotonic() + _GONE_S
        while marked() and monotonic() < deadline:
            server.join(0.01)
        for pid in marked():
            survivors.append((delay_ms, pid))
            os.kill(pid, signal.SIGKILL)
    assert survivors == []


@pytest.mark.parametrize("target", [(MemoryWatch, "check"), (output.Streams, "read")])
def test_failed_watch_leaves_no_program(
    place: Place, target: tuple[type, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in the server, at any time of a run, ends the program before it is raised."""
    place.executor.why_unavailable()
    before = set(children())
    real: Callable[..., object] = getattr(*target)
    is_started = False

    def fail(*arguments: object) -> object:
        if is_started:
            raise RuntimeError("planted")
        return real(*arguments)

    with place.watched(SHELL) as reading:
        monkeypatch.setattr(*target, fail)
        with running(place, reading) as future:
            is_started = True
        with pytest.raises(RuntimeError, match="planted"):
            future.result()
        assert is_released(reading)
    assert set(children()) <= before


@pytest.mark.parametrize("call", ["pidfd_open", "write"])
def test_failed_start_leaves_no_program(
    place: Place, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception while the sandbox waits for its start leaves no process and no descriptor."""
    place.executor.why_unavailable()
    before = set(children()), len(os.listdir("/proc/self/fd"))
    real: Callable[..., object] = getattr(os, call)

    def fail(*arguments: object) -> object:
        if call == "write" and arguments[1] not in (b"\n", b"go\n"):
            return real(*arguments)
        raise OSError(24, "planted")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises((OSError, ProviderError)):
        place.execute(SHELL, "sleep 1000", Runtime.SHELL, timeout_s=_WAIT_S)
    monkeypatch.undo()
    assert (set(children()), len(os.listdir("/proc/self/fd"))) == before


def test_killed_bubblewrap_leaves_no_program(place: Place) -> None:
    """Where another process kills bubblewrap, the caller gets an error, and nothing is left."""
    place.executor.why_unavailable()
    before = set(children())
    with place.watched(SHELL) as reading:
        with running(place, reading, timeout_s=3) as future:
            for child in set(children()) - before:
                os.kill(child, signal.SIGKILL)
        assert isinstance(future.exception(), ProviderError)
        assert is_released(reading)


def test_output_after_end_is_complete(place: Place) -> None:
    """All that a program wrote before it ended is returned."""
    result = place.execute(SHELL, "seq 100000; seq 3 >&2; kill -9 $$", Runtime.SHELL)
    assert (result.exit_code, result.stderr) == (137, "1\n2\n3\n")
    assert result.stdout == "".join(f"{number}\n" for number in range(1, 100_001))


@pytest.mark.parametrize(
    ("mode", "reason"), [(None, "install the extra"), (0o4755, "setuid"), (0o2755, "setuid")]
)
def test_unfit_bubblewrap_is_explained(
    tmp_path: Path, mode: int | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where bubblewrap is missing, or would run as root, the operator learns why nothing runs."""
    program = tmp_path / "bwrap"
    if mode is not None:
        shutil.copy("/bin/true", program)
        program.chmod(mode)
    monkeypatch.setattr(bubblewrap, "_SYSTEM_PROGRAM", str(program))
    monkeypatch.setattr(bubblewrap, "find_spec", lambda _: None)
    with batch.opened(tmp_path / "root") as place:
        assert reason in place.executor.why_unavailable()


# What an agent can leave behind for the server to run: all of it writes a file on the host.
PLANTED = """
import os, pathlib, sys
code = "import pathlib; pathlib.Path({ran!r}).touch()"
home = pathlib.Path("/home/sandbox")
packages = next(home.glob(".venv/lib/python*/site-packages"))
for name in "sitecustomize.py", "usercustomize.py", "venv.py", "json.py", "pip.py", "ensurepip.py":
    for directory in home, packages:
        (directory / name).write_text(code)
(packages / "planted.pth").write_text(code)
bin = home / ".venv/bin"
for name in "python", "python3", "pip", "node", "npm", "sh", "git", "bwrap", "setpriv":
    path = bin / name
    path.unlink(missing_ok=True)
    path.write_text("#!/bin/sh\\n: >{ran}\\n")
    path.chmod(0o755)
(home / ".npmrc").write_text("git=/home/sandbox/.venv/bin/git")
"""


def test_planted_code_is_not_run_by_server(tmp_path: Path) -> None:
    """The server runs nothing that a program leaves in its workspace."""
    ran = tmp_path / "ran"
    with batch.opened(tmp_path / "root") as place:
        place.provider.create(PYTHON)
        assert (
            place.execute(
                PYTHON, PLANTED.replace("{ran!r}", repr(str(ran))).replace("{ran}", str(ran))
            ).stderr
            == ""
        )
    with batch.opened(tmp_path / "root") as place:
        place.provider.check()
        place.provider.adopt(PYTHON)
        assert place.provider.probe(PYTHON).python_command
        assert place.provider.find_orphans([PYTHON.id]) == []
        place.execute(PYTHON, "print(1)")  # Runs what it planted, inside.
        place.provider.remove(PYTHON, keep=True)
        place.provider.restore(PYTHON)
        place.provider.probe(PYTHON)
    assert not ran.exists()


@pytest.mark.parametrize("link", [".venv", ".venv/bin", ".venv/bin/python", ".venv/bin/pip", "."])
def test_probe_reveals_no_file_of_host(tmp_path: Path, link: str) -> None:
    """What a probe says does not depend on where a link of the agent points to."""
    host = tmp_path / "host"
    (host / "bin").mkdir(parents=True)
    for path in (host / "bin" / "python", host / "python", host / "pip"):
        shutil.copy("/bin/true", path)
    answers = []
    for number, target in enumerate([host, tmp_path / "missing", host / "python", "/bin/true"]):
        with batch.opened(tmp_path / f"root-{number}") as place:
            place.provider.create(PYTHON)
            code = f"rm -rf '{link}'; ln -s '{target}' '{link}'"
            place.execute(PYTHON, code, Runtime.SHELL)
            answers.append(answer_of(place))
    assert answers == answers[:1] * len(answers)


def answer_of(place: Place) -> object:
    try:
        found = place.provider.probe(PYTHON)
        return replace(found, detected_at=datetime.min.replace(tzinfo=UTC), path="")
    except (ProviderError, WorkspaceGoneError) as error:
        return str(error)
