# SPDX-License-Identifier: Apache-2.0
"""How a server ends: in time, with nothing lost and nothing destroyed."""

import json
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.server.client import call, refused
from tests.server.processes import LONG, HttpServer, Server, StdioServer, hold
from tests.store.locks import lock_held
from waggle_fsstore import FileStore, Status
from waggle_fsstore.config import Settings
from waggle_fsstore.server import http, json_log, lifecycle, shutdown
from waggle_fsstore.server.lifecycle import Serving
from waggle_fsstore.store.server_lock import ServerLock
from waggle_fsstore.testing import make_environment

SIGNALS = [signal.SIGTERM, signal.SIGINT]

#: How long a test waits for a server to end by itself, in seconds. It allows itself less: see
#: test_the_waits_add_up.
IN_TIME = LONG

# Sends itself a signal at some point of its start, and goes on when it is being closed.
DURING_START = """
import os, signal, threading
from waggle_fsstore.server import lifecycle
from waggle_fsstore.service import environments
closing = threading.Event()
def close(self, real=lifecycle.Serving.close):
    closing.set()
    real(self)
lifecycle.Serving.close = close
def held(*arguments, real={point}, **options):
    os.kill(os.getpid(), signal.{name})
    closing.wait()
    return real(*arguments, **options)
{point} = held
"""


SAYS_THAT_IT_WAITS = """
import logging
from waggle_fsstore.store.fs.lock import StoreLock
def wait(*arguments, real=StoreLock._wait):
    if arguments[-1]:  # Not where it would not wait.
        logging.getLogger("test").warning("it waits")
    real(*arguments)
StoreLock._wait = wait
"""


# Has the system give all signals to a thread that sleeps, which interrupts no other one.
SEEN_BY_ANOTHER_THREAD = """
import signal, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
"""


# A venv that is never done. The program that makes it runs as ever, and does not come to an end.
ENDLESS = """
from waggle_fsstore.provider import local
def venv_command(*arguments, real=local._venv_command):
    return ["/bin/sh", "-c", '"$@"; exec sleep 1000', "sh", *real(*arguments)]
local._venv_command = venv_command
"""

# However long it takes to tell a client what became of its call.
PATIENT_WITH_CALLS = """
from waggle_fsstore.server import http
http._GRACE = 50
"""

# Something in the end of it hangs.
HANGING = """
import threading
from waggle_fsstore.server import shutdown
from waggle_fsstore.server.lifecycle import Serving
shutdown._DEADLINE = 0.1
Serving.close = lambda self: threading.Event().wait()
"""

# While all is being closed, after the last call was answered.
DURING_CLOSE = """
import os
from waggle_fsstore.service.reaper import Reaper
def stop(self, *, timeout, real=Reaper.stop):
    os.kill(os.getpid(), {number})
    return real(self, timeout=timeout)
Reaper.stop = stop
"""


def _start(kind: type[Server], store: Path, *, code: str = "") -> Server:
    """Start one, and wait until it serves."""
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
    """Call a tool; over HTTP, what it will say when it refuses."""
    if isinstance(server, StdioServer):
        server.post(tool, **arguments)
        return None
    assert isinstance(server, HttpServer)
    return pool.submit(refused, server.url, tool, **arguments)


def assert_settled(store: Path) -> None:
    """Nobody who opens the store has anything to recover."""
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
    """It ended by itself, well, in time, and said so in its log."""
    assert server.process.wait(IN_TIME) == 0
    server.wait()
    assert server.log()[-1]["message"] == "stopped; no environment was destroyed"
    for entry in server.log():
        # That a call was given up is told by uvicorn, at length.
        assert "traceback" not in entry or entry["logger"] == "uvicorn.error"


@pytest.mark.parametrize("kind", [HttpServer, StdioServer])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal(tmp_path: Path, kind: type[Server], number: signal.Signals) -> None:
    """The environments stay, with their last use, and the store is left in order."""
    store = tmp_path / "store"
    with _start(kind, store) as server:
        created = _call(server, "create_environment", runtime="shell")
        environment_id = created["environment_id"]
        used = _call(server, "get_environment", environment_id=environment_id)
        server.process.send_signal(number)
        assert_ended(server)
    assert_settled(store)
    assert Path(created["workspace"]).is_dir()
    with FileStore(store) as opened:
        [stored] = opened.find_all()
        assert (stored.id, stored.status) == (environment_id, Status.RUNNING)
        assert used["last_used"].startswith(f"{stored.last_used:%Y-%m-%dT%H:%M:%S.%f}")


@pytest.mark.parametrize("kind", [HttpServer, StdioServer])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_a_venv_is_made(
    tmp_path: Path, kind: type[Server], number: signal.Signals
) -> None:
    """The creation is cut short, and what came of it is stored; the others stay."""
    store = tmp_path / "store"
    with (
        _start(kind, store, code=ENDLESS + PATIENT_WITH_CALLS) as server,
        ThreadPoolExecutor() as pool,
        FileStore(store) as opened,
    ):
        kept = _call(server, "create_environment", runtime="shell")
        answer = _post(server, pool, "create_environment", runtime="python", with_pip=True)
        events = opened.watch(after=0, timeout=LONG)
        started = next(
            event
            for event in events
            if event.status is Status.CREATING and event.environment_id != kept["environment_id"]
        )
        server.process.send_signal(number)
        assert_ended(server)
        if answer is not None:
            # There is time to be told.
            assert answer.result(LONG) in {
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
def test_signals_while_a_call_goes_on_and_on(tmp_path: Path, kind: type[Server]) -> None:
    """It ends in time all the same, however often it is told to; the next start goes on."""
    store = tmp_path / "store"
    code = hold("write_new", is_released_by_input=False)
    with _start(kind, store, code=code) as server, ThreadPoolExecutor() as pool:
        _post(server, pool, "create_environment", runtime="shell")
        server.wait_for("held")
        for number in [*SIGNALS, *SIGNALS, *SIGNALS]:
            server.process.send_signal(number)
        assert_ended(server)
        assert "a call goes on" in server.said()
    assert_settled(store)
    with _start(kind, store) as server:
        [found] = _call(server, "list_environments")["environments"]
        assert found["status"] == "error"
        assert (
            found["status_reason"] == "could not be created: the process that was creating it ended"
        )


def test_the_waits_add_up() -> None:
    """All that a server waits for at its end takes less time than it has, which is ten seconds."""
    waits = http._GRACE + 1 + 2 * lifecycle._PATIENCE + json_log._PATIENCE
    assert waits < shutdown._DEADLINE < 10


@pytest.mark.parametrize("kind", [HttpServer, StdioServer])
def test_an_end_that_hangs(tmp_path: Path, kind: type[Server]) -> None:
    """When its time is up the server ends all the same, and says so; nothing is lost."""
    store = tmp_path / "store"
    with _start(kind, store, code=HANGING) as server:
        created = _call(server, "create_environment", runtime="shell")
        server.process.terminate()
        assert server.process.wait(IN_TIME) == 0
        server.wait()
        assert server.log()[-1]["message"].startswith("not all could be closed in time; ")
    with FileStore(store) as opened:
        assert [one.id for one in opened.find_all()] == [created["environment_id"]]
        assert opened.find_by_id(created["environment_id"]).is_running


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_after_the_input_was_closed(tmp_path: Path, number: signal.Signals) -> None:
    """A client closes the input, and sends a signal if that takes too long: no harm."""
    store = tmp_path / "store"
    code = DURING_CLOSE.format(number=number.value)
    with _start(StdioServer, store, code=code) as server:
        _call(server, "create_environment", runtime="shell")
        server.close_input()
        assert_ended(server)
    assert_settled(store)


def test_the_input_is_closed_while_a_call_goes_on(tmp_path: Path) -> None:
    """A client closes the input, waits, and sends SIGTERM: it ends in time."""
    store = tmp_path / "store"
    with _start(StdioServer, store, code=hold("write_new", is_released_by_input=False)) as server:
        assert isinstance(server, StdioServer)
        server.post("create_environment", runtime="shell")
        server.wait_for("held")
        server.close_input()
        server.process.terminate()
        assert_ended(server)
    assert_settled(store)


POINTS = [
    "serving.Serving.open",
    "serving.open_repository",
    "serving.open_service",
    "serving.Reaper.start",
    "serving.EnvironmentService.reconcile",
    "environments.finish_interrupted",
]


@pytest.mark.parametrize(
    ("kind", "number"), [(HttpServer, signal.SIGTERM), (StdioServer, signal.SIGINT)]
)
@pytest.mark.parametrize("point", POINTS)
def test_a_signal_during_the_start(
    tmp_path: Path, kind: type[Server], number: signal.Signals, point: str
) -> None:
    """It ends as a server that serves does; what was not begun is left to the next start."""
    store = tmp_path / "store"
    with FileStore(store) as opened:
        opened.save_all(make_environment(id=name, status="creating") for name in "abc")
    with kind(store, code=DURING_START.format(point=point, name=number.name)) as server:
        assert_ended(server)
        assert "serving on" not in server.said()
    assert_settled(store)
    with FileStore(store) as opened:
        statuses = [one.status for one in opened.find_all()]
    begun = [Status.ERROR] if point == "environments.finish_interrupted" else []
    assert statuses == [*begun, *[Status.CREATING] * (3 - len(begun))]
    assert ServerLock(store, "server.lock").try_acquire()


@pytest.mark.parametrize("kind", [HttpServer, StdioServer])
@pytest.mark.parametrize("is_serving", [True, False])
def test_a_signal_that_wakes_nobody(tmp_path: Path, kind: type[Server], is_serving: bool) -> None:
    """Where it comes just as the main thread goes to sleep, it is seen a moment later."""
    code = SEEN_BY_ANOTHER_THREAD
    if not is_serving:
        code += DURING_START.format(point="serving.open_service", name="SIGTERM")
    with kind(tmp_path / "store", code=code) as server:
        if is_serving:
            server.wait_for("serving on")
            server.process.terminate()
        assert_ended(server)


@pytest.mark.parametrize("kind", [HttpServer, StdioServer])
def test_signals_while_the_start_goes_on_and_on(tmp_path: Path, kind: type[Server]) -> None:
    """It ends in time all the same, however often it is told to; the next start goes on."""
    store = tmp_path / "store"
    with FileStore(store) as opened:
        opened.save(make_environment(id="a", status="destroying", owner=None))
    with kind(store, code=hold("removal_name", is_released_by_input=False)) as server:
        server.wait_for("held")
        for number in [*SIGNALS, *SIGNALS, *SIGNALS]:
            server.process.send_signal(number)
        assert_ended(server)
        assert "a sweep goes on" in server.said()
    assert_settled(store)
    with _start(kind, store) as server:
        assert _call(server, "list_environments")["count"] == 0


@pytest.mark.parametrize("kind", [HttpServer, StdioServer])
def test_a_signal_while_another_one_holds_the_lock(tmp_path: Path, kind: type[Server]) -> None:
    """A start that waits for the store lock is not waited for."""
    store = tmp_path / "store"
    with FileStore(store) as opened:
        opened.save(make_environment(id="a", status="creating"))
        with lock_held(opened), kind(store, code=SAYS_THAT_IT_WAITS) as server:
            server.wait_for("it waits")
            server.process.terminate()
            assert server.process.wait(IN_TIME) == 0
            server.wait()
            assert "stopped; no environment was destroyed" in server.said()
    assert_settled(store)


def test_closed_before_it_is_open(tmp_path: Path) -> None:
    """Nothing is opened any more."""
    serving = Serving(Settings.of({}), str(tmp_path / "store"))
    serving.close()
    assert not serving.open()
    assert list(tmp_path.iterdir()) == []
