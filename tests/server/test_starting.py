# SPDX-License-Identifier: Apache-2.0
"""How a server starts, and what a refused start leaves untouched."""

import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.cli_runner import run
from tests.server.client import call
from tests.server.processes import HttpServer, listing
from waggle_fsstore import (
    FileStore,
    ServerRunningError,
    SettingError,
    StoreGoneError,
    UnsupportedFormatError,
)
from waggle_fsstore.config import ExecutionSettings, Settings
from waggle_fsstore.domain.access_token import AccessToken
from waggle_fsstore.provider.sandbox.bubblewrap import Bubblewrap
from waggle_fsstore.server import http, stdio
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.store.server_lock import ServerLock, ServerPresence, running_servers
from waggle_fsstore.testing import make_environment

FREE_PORT = Settings.from_env({"WAGGLE_LISTEN_ADDR": "127.0.0.1:0"})


@pytest.fixture
def taken() -> Iterator[str]:
    """Yield an address at which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WAGGLE_LISTEN_ADDR", "8080"),
        ("WAGGLE_LISTEN_ADDR", "127.0.0.1"),
        ("WAGGLE_LISTEN_ADDR", "127.0.0.1:"),
        ("WAGGLE_LISTEN_ADDR", "127.0.0.1:http"),
        ("WAGGLE_LISTEN_ADDR", "127.0.0.1:65536"),
        ("WAGGLE_LISTEN_ADDR", "127.0.0.1:-1"),
        ("WAGGLE_LISTEN_ADDR", f"127.0.0.1:{'9' * 5000}"),
        ("WAGGLE_LISTEN_ADDR", "::1:8080"),
        ("WAGGLE_MAX_ENVIRONMENTS", "0"),
        ("WAGGLE_MAX_ENVIRONMENTS", "-1"),
        ("WAGGLE_MAX_ENVIRONMENTS", "1_0"),
        ("WAGGLE_MAX_ENVIRONMENTS", "many"),
        ("WAGGLE_MAX_ENVIRONMENTS", "1000001"),
        ("WAGGLE_DEFAULT_TIMEOUT_MIN", "0"),
        ("WAGGLE_DEFAULT_TIMEOUT_MIN", "61"),
        ("WAGGLE_DEFAULT_TIMEOUT_MIN", "1.5"),
        ("WAGGLE_REAPER_INTERVAL", "60"),
        ("WAGGLE_REAPER_INTERVAL", "0"),
        ("WAGGLE_REAPER_INTERVAL", "1ms"),
        ("WAGGLE_REAPER_INTERVAL", "25h"),
        ("WAGGLE_REAPER_INTERVAL", "-1m"),
        ("WAGGLE_SSH_PORT_BASE", "0"),
        ("WAGGLE_SSH_PORT_BASE", "ssh"),
        ("WAGGLE_SSH_PORT_MAX", "65536"),
        ("WAGGLE_SSH_PORT_MAX", "9999"),
        ("WAGGLE_ALLOWED_HOSTS", "http://waggle.local"),
        ("WAGGLE_ALLOWED_HOSTS", "*"),
        ("WAGGLE_ALLOWED_HOSTS", "a b"),
        ("WAGGLE_STORE_PATH", "s3://bucket/store"),
        ("WAGGLE_STORE_PATH", "file://other/store"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--stdio"]], ids=["http", "stdio"])
def test_invalid_setting_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, flags: list[str]
) -> None:
    """One line names the variable, the exit code is 2, and nothing is written to the disk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAGGLE_LISTEN_ADDR", "127.0.0.1:0")
    monkeypatch.setenv(variable, value)
    result = run("serve", *flags)
    assert result.exit_code == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith(f"Error: {variable}: ")
    assert len(line) < 300
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("location", ["s3://bucket/store", "file://other/store", ""])
def test_invalid_location_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, location: str
) -> None:
    """The error names the option, the exit code is 2, and nothing is written to the disk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAGGLE_LISTEN_ADDR", "127.0.0.1:0")
    result = run("--store", location, "serve")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: --store: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:0", "waggle.local:0"])
def test_open_address_requires_allowed_hosts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    """An address that other machines reach is refused unless allowed hosts are configured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAGGLE_LISTEN_ADDR", address)
    result = run("serve")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: WAGGLE_ALLOWED_HOSTS: must list the host names ")
    assert list(tmp_path.iterdir()) == []
    allowed = {"WAGGLE_LISTEN_ADDR": address, "WAGGLE_ALLOWED_HOSTS": "waggle.local"}
    assert Settings.from_env(allowed).allowed_hosts == ("waggle.local",)


@pytest.mark.parametrize(
    "host",
    ["192.0.2.1", "nowhere.invalid", "a..b", "x" * 64, "x" * 300, "[fd00:::1]", "a b"],
)
def test_unusable_address_is_refused(tmp_path: Path, host: str) -> None:
    """Any unusable address is reported as a setting, before anything is created."""
    settings = Settings.from_env(
        {
            "WAGGLE_LISTEN_ADDR": f"{host}:0",
            "WAGGLE_ALLOWED_HOSTS": "waggle.local",
            "WAGGLE_AUTH_TOKEN": "0123456789abcdef",
        }
    )
    with pytest.raises(SettingError, match=r"^WAGGLE_LISTEN_ADDR: cannot listen on "):
        http.serve(settings, str(tmp_path / "store"))
    assert list(tmp_path.iterdir()) == []


def test_taken_port_is_refused(tmp_path: Path, taken: str) -> None:
    """The port is reported as a setting, and nothing is created, not even the directory."""
    with pytest.raises(SettingError) as caught:
        http.serve(Settings.from_env({"WAGGLE_LISTEN_ADDR": taken}), str(tmp_path / "store"))
    assert str(caught.value) == (
        f"WAGGLE_LISTEN_ADDR: cannot listen on {taken}: Address already in use; "
        "stop the program that uses this address, or choose another one"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_mounted", [True, False])
def test_server_begins_no_store_beside_workspaces(root: Path, is_mounted: bool) -> None:
    """Where only the workspaces are left, the disk of the store may not be mounted."""
    workspaces = root.with_name(f"{root.name}-workspaces")
    workspaces.mkdir()
    (workspaces / ".waggle-workspaces").touch()
    if is_mounted:
        root.mkdir()
    before = listing(root.parent)
    for is_http in (True, False):
        with pytest.raises(StoreGoneError, match="serve --init") as caught:
            ServiceHost(FREE_PORT, str(root), is_http=is_http).open()
        assert (caught.value.path, str(workspaces) in str(caught.value)) == (root, True)
    assert listing(root.parent) == before
    result = run("--store", str(root), "serve", "--stdio")
    assert (result.exit_code, listing(root.parent)) == (1, before)
    assert "serve --init" in result.stderr
    with ServiceHost(FREE_PORT, str(root), may_init=True) as host:
        host.repository.save(make_environment(id="a", provider=None))
    with ServiceHost(FREE_PORT, str(root)) as host:
        assert host.repository.count() == 1


def test_second_http_server_is_refused(root: Path) -> None:
    """The second server names the first one, and changes nothing."""
    with ServiceHost(FREE_PORT, str(root), is_http=True) as host:
        # An environment that a second server would reconcile if it were not refused.
        host.repository.save(make_environment(id="a", status="creating", capabilities=None))
        before = listing(root.parent)
        with pytest.raises(ServerRunningError, match=f"by process {os.getpid()} on ") as caught:
            ServiceHost(FREE_PORT, str(root), is_http=True).open()
        assert listing(root.parent) == before
        assert caught.value.holder is not None
    with ServiceHost(FREE_PORT, str(root), is_http=True):
        pass


def test_second_http_process_is_refused(tmp_path: Path) -> None:
    """The exit code says that there is a conflict, and no file of either server is touched."""
    store = tmp_path / "store"
    with HttpServer(store) as first:
        created = call(first.url, "create_environment", runtime="shell")
        before = listing(tmp_path)
        with HttpServer(store) as second:
            assert second.wait() == 4
            assert f"the store is already served by process {first.pid} on " in second.stderr()
            assert len(second.errors) == 1
        with HttpServer(tmp_path / "other", WAGGLE_LISTEN_ADDR=first.address) as third:
            assert third.wait() == 2
            assert f"WAGGLE_LISTEN_ADDR: cannot listen on {first.address}" in third.stderr()
        assert listing(tmp_path) == before
        assert call(first.url, "list_environments")["environments"] == [created]


@pytest.mark.parametrize("name", ["http", "stdio"])
def test_foreign_directory_is_refused(tmp_path: Path, name: str) -> None:
    """A directory with other files is left alone, and nothing is put beside it."""
    foreign = tmp_path / "project"
    foreign.mkdir()
    (foreign / "main.py").write_text("print()")
    before = listing(tmp_path)
    serve = {"http": http.serve, "stdio": stdio.serve}[name]
    with pytest.raises(UnsupportedFormatError):
        serve(FREE_PORT, str(foreign))
    assert listing(tmp_path) == before


@pytest.mark.parametrize("name", ["http", "stdio"])
def test_newer_store_is_refused(root: Path, name: str) -> None:
    """A store of a newer format is left alone."""
    with FileStore(root, durable=False) as store:
        store.save(make_environment())
    marker = root / "waggle.json"
    marker.write_text(marker.read_text().replace('"format": 1', '"format": 2'))
    before = listing(root.parent)
    serve = {"http": http.serve, "stdio": stdio.serve}[name]
    with pytest.raises(UnsupportedFormatError):
        serve(FREE_PORT, str(root))
    assert listing(root.parent) == before


@pytest.mark.parametrize(
    "execution",
    [ExecutionSettings(mode="unisolated"), ExecutionSettings(network="host")],
    ids=["unisolated", "network"],
)
def test_execution_that_needs_token_is_refused(execution: ExecutionSettings) -> None:
    """Where any caller could act as the user of the server, a token is required on loopback too."""
    needed = pytest.raises(SettingError, match="WAGGLE_AUTH_TOKEN: must be a token, because of")
    with needed, http.listen(replace(FREE_PORT, execution=execution)):
        pass
    tokens = (AccessToken.parse("0123456789abcdef"),)
    http.listen(replace(FREE_PORT, execution=execution, tokens=tokens)).close()


def test_required_isolation_stops_start(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that must isolate programs does not start where it cannot, and holds no lock."""
    monkeypatch.setattr("waggle_fsstore.provider.sandbox.find.find_bubblewrap", _no_bubblewrap)
    settings = replace(FREE_PORT, execution=ExecutionSettings(mode="isolated"))
    for _ in range(2):
        host = ServiceHost(settings, str(root), is_http=True)
        with pytest.raises(SettingError, match=r"^WAGGLE_EXECUTION: .*no bubblewrap"):
            host.open()
    with ServiceHost(FREE_PORT, str(root), is_http=True) as host:
        assert host.service.workspaces.kind == "off"


def _no_bubblewrap() -> Bubblewrap:
    raise LookupError("no bubblewrap")


def test_memory_store_is_served_without_traces(tmp_path: Path) -> None:
    """The workspaces are in a temporary directory, which is removed at the end."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with HttpServer("memory:", TMPDIR=str(temporary)) as server:
        created = call(server.url, "create_environment", runtime="shell")
        assert list(temporary.glob(f"waggle-*/{created['environment_id']}/home"))
        status, text = server.get("/readyz")
        assert (status, json.loads(text)["status"]) == (200, "ready")
        server.process.terminate()
        assert server.wait() == 0
    assert list(temporary.iterdir()) == []


def test_failed_start_releases_locks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server can serve the store afterwards."""

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("waggle_fsstore.server.lifecycle.open_service", fail)
        with pytest.raises(OSError, match="Input/output error") as caught:
            ServiceHost(FREE_PORT, str(root), is_http=True).open()
    with ServiceHost(FREE_PORT, str(root), is_http=True) as host:
        assert host.try_to_lead()
    assert caught.tb  # The traceback keeps the half-open objects alive.


# Leadership


def test_first_server_leads(root: Path) -> None:
    """One server leads at a time, the lock file names its process, and another one follows."""
    lock = ServerLock(root, "server.lock")
    with ServiceHost(FREE_PORT, str(root)) as second:
        with ServiceHost(FREE_PORT, str(root), is_http=True) as third:
            assert (second.try_to_lead(), third.try_to_lead()) == (True, False)
        holder = lock.holder()
        assert holder is not None
        assert holder.pid == os.getpid()
        with ServiceHost(FREE_PORT, str(root), is_http=True) as third:
            second.close()
            assert third.try_to_lead()
            assert not lock.try_acquire()
    assert lock.try_acquire()
    lock.release()


def test_each_server_shows_that_it_runs(root: Path) -> None:
    """Leading or not, over HTTP or not, other processes see it until it is closed."""
    with ServiceHost(FREE_PORT, str(root)) as first:
        with ServiceHost(FREE_PORT, str(root)), ServiceHost(FREE_PORT, str(root), is_http=True):
            assert len(running_servers(root)) == 3
        shutil.rmtree(root / ".waggle" / "servers")
        first.try_to_lead()
        assert len(running_servers(root)) == 1
    assert running_servers(root) == []


def test_server_starts_where_it_cannot_show_itself(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk is no reason not to serve, because a server is what frees it."""

    def fail(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "file")

    monkeypatch.setattr(ServerPresence, "try_acquire", fail)
    with ServiceHost(FREE_PORT, str(root)) as host:
        assert host.try_to_lead()
    assert "cannot see that this server runs" in caplog.text


def test_closing_twice_destroys_nothing(root: Path) -> None:
    """Closing again does nothing, and no environment is destroyed."""
    with ServiceHost(FREE_PORT, str(root)) as host:
        made = host.service.create("shell")
        host.close()
        host.close()
    with FileStore(root) as store:
        assert [one.id for one in store.find_all()] == [made.id]
        assert store.find_by_id(made.id).is_running
    assert Path(f"{root}-workspaces", made.id).is_dir()
