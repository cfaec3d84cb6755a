# SPDX-License-Identifier: Apache-2.0
"""How a server ends: in time, with nothing lost and no environment destroyed."""

import json
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.server.client import call, refused, workspace_of
from tests.server.processes import TIMEOUT_S, HttpServer, Server, StdioServer, hold
from tests.store.locks import lock_held
from waggle_fsstore import FileStore, Status
from waggle_fsstore.config import Settings
from waggle_fsstore.server import http, lifecycle, log, shutdown
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.store.server_lock import ServerLock
from waggle_fsstore.testing import make_environment

SIGNALS = [signal.SIGTERM, signal.SIGINT]

#: How long a test waits for a server to end by itself. The server allows itself less: see
#: test_waits_fit_in_deadline.
END_TIMEOUT_S = TIMEOUT_S

# Sends itself a signal at some point of its start, where it then waits until it is closed.
SIGNAL_DURING_START = """
import os, signal, threading
from waggle_fsstore.server import lifecycle
from waggle_fsstore.service import environments
closing = threading.Event()
def close(self, real=lifecycle.ServiceHost.close):
    closing.set()
    real(self)
lifecycle.ServiceHost.close = close
def held(*arguments, real={point}, **options):
    os.kill(os.getpid(), signal.{name})
    closing.wait()
    return real(*arguments, **options)
{point} = held
"""


LOGS_WAIT_FOR_LOCK = """
import logging
from waggle_fsstore.store.fs.lock import StoreLock
def wait(*arguments, real=StoreLock._wait):
    if arguments[-1]:  # The timeout: without one it does not wait.
        logging.getLogger("test").warning("waiting for the lock")
    real(*arguments)
StoreLock._wait = wait
"""


# Has the system deliver all signals to a sleeping thread, which interrupts no other one.
SIGNALS_TO_ANOTHER_THREAD = """
import signal, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
"""


# The program that makes a venv does its work, and then never ends.
ENDLESS_VENV = """
from waggle_fsstore.provider import local
def venv_command(*arguments, real=local._venv_command):
    return ["/bin/sh", "-c", '"$@"; exec sleep 1000', "sh", *real(*arguments)]
local._venv_command = venv_command
"""

# A client gets the answer to its call, however slow the machine is.
LONG_GRACE = """
from waggle_fsstore.server import http
http._GRACE_S = 50
"""

# What hangs here hangs for ever, so the server gives up early. For how long it really waits, see
# test_waits_fit_in_deadline.
SHORT_WAITS = """
from waggle_fsstore.server import http, lifecycle
http._GRACE_S = lifecycle._CLOSE_TIMEOUT_S = 0.2
"""

# Closing hangs.
HANGING_CLOSE = """
import threading
from waggle_fsstore.server import shutdown
from waggle_fsstore.server.lifecycle import ServiceHost
shutdown._DEADLINE_S = 0.1
ServiceHost.close = lambda self: threading.Event().wait()
"""

# Sends itself a signal while it closes, after the last call was answered.
SIGNAL_DURING_CLOSE = """
import os
from waggle_fsstore.service.reaper import Reaper
def stop(self, *, timeout, real=Reaper.stop):
    os.kill(os.getpid(), {number})
    return real(self, timeout=timeout)
Reaper.stop = stop
"""


def _start(kind: type[Server], store: Path, *, code: str = "") -> Server:
    """Start a server, and wait until it serves."""
    server = kind(store, code=code)
    if isinstance(server, StdioServer):
        server.begin()
    server.wait_for("serving on ")
    return server


def _call(server: Server, tool: str, **arguments: object) -> dict[str, Any]:
    if isinstance(server, StdioServer):
        return server.call(tool, **arguments)
    assert isinstance(server, HttpServer)
    return call(server.url, tool, **arguments)


def _post(
    server: Server, pool: ThreadPoolExecutor, tool: str, **arguments: object
) -> Future[str] | None:
    """Call a tool without waiting; over HTTP, return its error message to come."""
    if isinstance(server, StdioServer):
        server.post(tool, **arguments)
        return None
    assert isinstance(server, HttpServer)
    return pool.submit(refused, server.url, tool, **arguments)


def assert_settled(store: Path) -> None:
    """Assert that opening the store needs no recovery."""
    last = max((store / "journal").glob("*.jsonl"))
    content = json.loads(last.read_bytes().strip().splitlines()[-1])
    with FileStore(store) as opened:
        info = opened.info()
        assert content["checkpoint"]["through"] == info.last_seq
        assert not info.is_recovery_due
        assert opened.recovery_findings == ()
        assert list(opened.check()) == []
    assert list((store / ".waggle" / "tmp").iterdir()) == []


def assert_ended(server: Server) -> None:
    """Assert that the server ended by itself, in order and in time, and logged it."""
    assert server.process.wait(END_TIMEOUT_S) == 0
    server.wait()
    assert server.log()[-1]["message"] == "stopped; no environment was destroyed"
    for entry in server.log():
        # uvicorn logs a cancelled call with a traceback.
        assert "traceback" not in entry or entry["logger"] == "uvicorn.error"


@pytest.mark.parametrize("kind", [HttpServer, StdioServer])
@pytest.mark.parametrize("number", SIGNALS)
def test_signal_ends_server_in_order(
    tmp_path: Path, kind: type[Server], number: signal.Signals
) -> None:
    """The environments stay, with their last use, and the store needs no recovery."""
    store = tmp_path / "store"
    with _start(kind, store) as server:
        created = _call(server, "create_environment", runtime="shell")
        environment_id = created["environment_id"]
        used = _call(server, "get_environment", environment_id=environment_id)
        server.process.send_signal(number)
        assert_ended(server)
    assert_settled(store)
    assert workspace_of(store, environment_id).is_dir()
    with FileStore(store) as opened:
        [stored] = opened.find_all()
        assert (stored.id, stored.status) == (environment_id, Status.RUNNING)
        assert used["last_used"].startswith(f"{stored.last_used:%Y-%m-%dT%H:%M:%S.%f}")


@pytest.mark.parametrize("kind", [HttpServer, StdioServer])
@pytest.mark.parametrize("number", SIGNALS)
def test_signal_interrupts_venv_creation(
    tmp_path: Path, kind: type[Server], number: signal.Signals
) -> None:
    """The creation fails and is stored as such; other environments stay."""
    store = tmp_path / "store"
    with (
        _start(kind, store, code=ENDLESS_VENV + LONG_GRACE) as server,
        ThreadPoolExecutor() as pool,
        FileStore(store) as opened,
    ):
        kept = _call(server, "create_environment", runtime="shell")
        answer = _post(server, pool, "create_environment", runtime="python", with_pip=True)
        events = opened.watch(after=0, timeout=TIMEOUT_S)
        started = next(
            event
            for event in events
            if event.status is Status.CREATING and event.environment_id != kept["environment_id"]
        )
        server.process.send_signal(number)
        assert_ended(server)
        if answer is not None:
            # The grace period suffices for the answer.
            assert answer.result(TIMEOUT_S) in {
                "the provider was closed",
                "the creation of its venv was interrupted",
            }
        found = {one.id: one for one in opened.find_all()}
    assert_settled(store)
    assert found.keys() == {kept["environment_id"], started.environment_id}
    assert found[kept["environment_id"]].is_running
    assert found[started.environment_id].status is Status.ERROR
    assert found[started.environment_id].status_reason.startswith("could not be created: ")


@pytest.mark.parametrize("kind", [HttpServer, StdioServer])
def test_signals_end_server_despite_hanging_call(tmp_path: Path, kind: type[Server]) -> None:
    """Any number of signals ends it in time, and the next start cleans up."""
    store = tmp_path / "store"
    code = SHORT_WAITS + hold("layout.write_new", is_released_by_input=False)
    with _start(kind, store, code=code) as server, ThreadPoolExecutor() as pool:
        _post(server, pool, "create_environment", runtime="shell")
        server.wait_for("held")
        for number in [*SIGNALS, *SIGNALS, *SIGNALS]:
            server.process.send_signal(number)
        assert_ended(server)
        assert "a call did not end in time" in server.stderr()
    assert_settled(store)
    with _start(kind, store) as server:
        [found] = _call(server, "list_environments")["environments"]
        assert found["status"] == "error"
        assert (
            found["status_reason"] == "could not be created: the process that was creating it ended"
        )


def test_waits_fit_in_deadline() -> None:
    """All waits of the shutdown add up to less than its deadline, which is below ten seconds."""
    waits = http._GRACE_S + 1 + 2 * lifecycle._CLOSE_TIMEOUT_S + log._FLUSH_TIMEOUT_S
    assert waits < shutdown._DEADLINE_S < 10


@pytest.mark.parametrize("kind", [HttpServer, StdioServer])
def test_hanging_close_ends_at_deadline(tmp_path: Path, kind: type[Server]) -> None:
    """At the deadline the process ends, and logs it; nothing is lost."""
    store = tmp_path / "store"
    with _start(kind, store, code=HANGING_CLOSE) as server:
        created = _call(server, "create_environment", runtime="shell")
        server.process.terminate()
        assert server.process.wait(END_TIMEOUT_S) == 0
        server.wait()
        assert server.log()[-1]["message"].startswith("closing did not end in time; ")
    with FileStore(store) as opened:
        assert [one.id for one in opened.find_all()] == [created["environment_id"]]
        assert opened.find_by_id(created["environment_id"]).is_running


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_after_end_of_input_is_harmless(tmp_path: Path, number: signal.Signals) -> None:
    """A client may close the input and then send a signal."""
    store = tmp_path / "store"
    code = SIGNAL_DURING_CLOSE.format(number=number.value)
    with _start(StdioServer, store, code=code) as server:
        _call(server, "create_environment", runtime="shell")
        server.close_input()
        assert_ended(server)
    assert_settled(store)


def test_end_of_input_and_signal_end_hanging_call(tmp_path: Path) -> None:
    """A client that closes the input, waits and sends SIGTERM ends the server in time."""
    store = tmp_path / "store"
    code = SHORT_WAITS + hold("layout.write_new", is_released_by_input=False)
    with _start(StdioServer, store, code=code) as server:
        assert isinstance(server, StdioServer)
        server.post("create_environment", runtime="shell")
        server.wait_for("held")
        server.close_input()
        server.process.terminate()
        assert_ended(server)
    assert_settled(store)


POINTS = [
    "lifecycle.ServiceHost.open",
    "lifecycle.open_repository",
    "lifecycle.open_service",
    "lifecycle.Reaper.start",
    "lifecycle.EnvironmentService.reconcile",
    "environments.finish_interrupted",
]


@pytest.mark.parametrize(
    ("kind", "number"), [(HttpServer, signal.SIGTERM), (StdioServer, signal.SIGINT)]
)
@pytest.mark.parametrize("point", POINTS)
def test_signal_during_start_ends_server_in_order(
    tmp_path: Path, kind: type[Server], number: signal.Signals, point: str
) -> None:
    """Work that was not begun is left to the next start."""
    store = tmp_path / "store"
    with FileStore(store) as opened:
        opened.save_all(
            make_environment(id=name, status="creating", capabilities=None) for name in "abc"
        )
    with kind(store, code=SIGNAL_DURING_START.format(point=point, name=number.name)) as server:
        assert_ended(server)
        assert "serving on" not in server.stderr()
    assert_settled(store)
    with FileStore(store) as opened:
        statuses = [one.status for one in opened.find_all()]
    begun = [Status.ERROR] if point == "environments.finish_interrupted" else []
    assert statuses == [*begun, *[Status.CREATING] * (3 - len(begun))]
    assert ServerLock(store, "server.lock").try_acquire()


@pytest.mark.parametrize("kind", [HttpServer, StdioServer])
@pytest.mark.parametrize("is_serving", [True, False])
def test_signal_without_wakeup_is_noticed(
    tmp_path: Path, kind: type[Server], is_serving: bool
) -> None:
    """A signal that arrives just as the main thread goes to sleep is noticed soon."""
    code = SIGNALS_TO_ANOTHER_THREAD
    if not is_serving:
        code += SIGNAL_DURING_START.format(point="lifecycle.open_service", name="SIGTERM")
    with kind(tmp_path / "store", code=code) as server:
        if is_serving:
            server.wait_for("serving on")
            server.process.terminate()
        assert_ended(server)


@pytest.mark.parametrize("kind", [HttpServer, StdioServer])
def test_signals_end_server_despite_hanging_start(tmp_path: Path, kind: type[Server]) -> None:
    """Any number of signals ends it in time, and the next start completes the work."""
    store = tmp_path / "store"
    with FileStore(store) as opened:
        opened.save(make_environment(id="a", status="destroying", owner=None))
    (tmp_path / "store-workspaces").mkdir()
    (tmp_path / "store-workspaces" / ".waggle-root").touch()
    code = SHORT_WAITS + hold("local.mount_points", is_released_by_input=False)
    with kind(store, code=code) as server:
        server.wait_for("held")
        for number in [*SIGNALS, *SIGNALS, *SIGNALS]:
            server.process.send_signal(number)
        assert_ended(server)
        assert "a sweep did not end in time" in server.stderr()
    assert_settled(store)
    with _start(kind, store) as server:
        assert _call(server, "list_environments")["count"] == 0


@pytest.mark.parametrize("kind", [HttpServer, StdioServer])
def test_signal_ends_start_that_waits_for_lock(tmp_path: Path, kind: type[Server]) -> None:
    """A start that waits for the store lock is ended in time."""
    store = tmp_path / "store"
    with FileStore(store) as opened:
        opened.save(make_environment(id="a", status="creating", capabilities=None))
        with lock_held(opened), kind(store, code=SHORT_WAITS + LOGS_WAIT_FOR_LOCK) as server:
            server.wait_for("waiting for the lock")
            server.process.terminate()
            assert server.process.wait(END_TIMEOUT_S) == 0
            server.wait()
            assert "stopped; no environment was destroyed" in server.stderr()
    assert_settled(store)


def test_signal_removes_temporary_workspaces(tmp_path: Path) -> None:
    """The workspaces of a store in memory go although no exit handlers run."""
    with StdioServer("memory:", TMPDIR=str(tmp_path)) as server:
        server.begin().call("create_environment", runtime="shell")
        assert list(tmp_path.glob("waggle-*/*/home"))
        server.process.terminate()
        assert_ended(server)
    assert list(tmp_path.iterdir()) == []


def test_closed_host_does_not_open(tmp_path: Path) -> None:
    """A host that was closed opens nothing."""
    host = ServiceHost(Settings.from_env({}), str(tmp_path / "store"))
    host.close()
    assert not host.open()
    assert list(tmp_path.iterdir()) == []
