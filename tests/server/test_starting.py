# SPDX-License-Identifier: Apache-2.0
"""How a server starts, and what it leaves untouched if it may not."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.cli_runner import run
from tests.server.client import call
from tests.server.processes import HttpServer, listing
from waggle_fsstore import (
    FileStore,
    ServerRunningError,
    SettingError,
    UnsupportedFormatError,
)
from waggle_fsstore.config import Settings
from waggle_fsstore.server import http, stdio
from waggle_fsstore.server.lifecycle import Serving
from waggle_fsstore.store.server_lock import ServerLock
from waggle_fsstore.testing import make_environment

ANYWHERE = Settings.of({"WAGGLE_LISTEN_ADDR": "127.0.0.1:0"})


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that another program listens at."""
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
def test_a_bad_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, flags: list[str]
) -> None:
    """It is named in one line, the program ends with 2, and there is nothing on the disk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("waggle_fsstore.server.json_log.configure", lambda: None)
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
def test_a_bad_location(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, location: str) -> None:
    """The option is named, the program ends with 2, and there is nothing on the disk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("waggle_fsstore.server.json_log.configure", lambda: None)
    monkeypatch.setenv("WAGGLE_LISTEN_ADDR", "127.0.0.1:0")
    result = run("--store", location, "serve")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: --store: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:0", "waggle.local:0"])
def test_an_address_that_others_reach(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    """It is refused until somebody says by which names they call."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("waggle_fsstore.server.json_log.configure", lambda: None)
    monkeypatch.setenv("WAGGLE_LISTEN_ADDR", address)
    result = run("serve")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: WAGGLE_ALLOWED_HOSTS: must say by which names ")
    assert list(tmp_path.iterdir()) == []
    allowed = {"WAGGLE_LISTEN_ADDR": address, "WAGGLE_ALLOWED_HOSTS": "waggle.local"}
    assert Settings.of(allowed).allowed_hosts == ("waggle.local",)


@pytest.mark.parametrize(
    "host",
    ["192.0.2.1", "nowhere.invalid", "a..b", "x" * 64, "x" * 300, "[fd00:::1]", "a b"],
)
def test_an_address_that_is_none(tmp_path: Path, host: str) -> None:
    """Whatever is wrong with it, it is told as a setting, before anything is made."""
    settings = Settings.of(
        {"WAGGLE_LISTEN_ADDR": f"{host}:0", "WAGGLE_ALLOWED_HOSTS": "waggle.local"}
    )
    with pytest.raises(SettingError, match=r"^WAGGLE_LISTEN_ADDR: cannot listen on "):
        http.serve(settings, str(tmp_path / "store"))
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken(tmp_path: Path, taken: str) -> None:
    """It is told as a setting, and nothing is made at all, not even the folder."""
    with pytest.raises(SettingError) as caught:
        http.serve(Settings.of({"WAGGLE_LISTEN_ADDR": taken}), str(tmp_path / "store"))
    assert str(caught.value) == (
        f"WAGGLE_LISTEN_ADDR: cannot listen on {taken}: Address already in use; "
        "stop what listens there, or set this"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_served_already(root: Path) -> None:
    """The second server is refused, names the first, and has changed nothing."""
    with Serving(ANYWHERE, str(root), is_http=True) as host:
        # Something that a careless second server would set right.
        host.repository.save(make_environment(id="a", status="creating"))
        before = listing(root.parent)
        with pytest.raises(ServerRunningError, match=f"by process {os.getpid()} on ") as caught:
            Serving(ANYWHERE, str(root), is_http=True).open()
        assert listing(root.parent) == before
        assert caught.value.holder is not None
    with Serving(ANYWHERE, str(root), is_http=True):
        pass


def test_a_store_that_is_served_by_another_process(tmp_path: Path) -> None:
    """The exit code says that there is a conflict, and no file of either server is touched."""
    store = tmp_path / "store"
    with HttpServer(store) as first:
        created = call(first.url, "create_environment", runtime="shell")
        before = listing(tmp_path)
        with HttpServer(store) as second:
            assert second.wait() == 4
            assert f"the store is already served by process {first.pid} on " in second.said()
            assert len(second.errors) == 1
        with HttpServer(tmp_path / "other", WAGGLE_LISTEN_ADDR=first.address) as third:
            assert third.wait() == 2
            assert f"WAGGLE_LISTEN_ADDR: cannot listen on {first.address}" in third.said()
        assert listing(tmp_path) == before
        assert call(first.url, "list_environments")["environments"] == [created]


@pytest.mark.parametrize("name", ["http", "stdio"])
def test_a_folder_of_somebody_else(tmp_path: Path, name: str) -> None:
    """It is refused as it stands, and nothing is put beside it."""
    foreign = tmp_path / "project"
    foreign.mkdir()
    (foreign / "main.py").write_text("print()")
    before = listing(tmp_path)
    serve = {"http": http.serve, "stdio": stdio.serve}[name]
    with pytest.raises(UnsupportedFormatError):
        serve(ANYWHERE, str(foreign))
    assert listing(tmp_path) == before


@pytest.mark.parametrize("name", ["http", "stdio"])
def test_a_store_that_is_newer(root: Path, name: str) -> None:
    """It is refused as it stands."""
    with FileStore(root, durable=False) as store:
        store.save(make_environment())
    marker = root / "waggle.json"
    marker.write_text(marker.read_text().replace('"format": 1', '"format": 2'))
    before = listing(root.parent)
    serve = {"http": http.serve, "stdio": stdio.serve}[name]
    with pytest.raises(UnsupportedFormatError):
        serve(ANYWHERE, str(root))
    assert listing(root.parent) == before


def test_a_store_in_memory(tmp_path: Path) -> None:
    """It can be served, by several at once, and leaves nothing in the folder that it ran in."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with HttpServer("memory:", TMPDIR=str(temporary)) as server:
        created = call(server.url, "create_environment", runtime="shell")
        assert Path(created["workspace"]).is_relative_to(temporary)
        status, text = server.get("/readyz")
        assert (status, json.loads(text)["status"]) == (200, "ready")
        server.process.terminate()
        assert server.wait() == 0
    assert not Path(created["workspace"]).exists()


def test_a_start_that_fails_frees_the_store(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one can have it."""

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("waggle_fsstore.server.lifecycle.open_service", fail)
        with pytest.raises(OSError, match="Input/output error") as caught:
            Serving(ANYWHERE, str(root), is_http=True).open()
    with Serving(ANYWHERE, str(root), is_http=True) as host:
        assert host.try_to_lead()
    assert caught.tb  # Which keeps what was half made from being thrown away.


# Who leads


def test_the_first_one_leads(root: Path) -> None:
    """One at a time does, the lock file tells which process, and the next one follows."""
    lock = ServerLock(root, "server.lock")
    with Serving(ANYWHERE, str(root)) as second:
        with Serving(ANYWHERE, str(root), is_http=True) as third:
            assert (second.try_to_lead(), third.try_to_lead()) == (True, False)
        holder = lock.holder()
        assert holder is not None
        assert holder.pid == os.getpid()
        with Serving(ANYWHERE, str(root), is_http=True) as third:
            second.close()
            assert third.try_to_lead()
            assert not lock.try_acquire()
    assert lock.try_acquire()
    lock.release()


def test_a_host_closes_once(root: Path) -> None:
    """Closing again does nothing, and destroys nothing."""
    with Serving(ANYWHERE, str(root)) as host:
        made = host.service.create("shell")
        host.close()
        host.close()
    with FileStore(root) as store:
        assert [one.id for one in store.find_all()] == [made.id]
        assert store.find_by_id(made.id).is_running
    assert Path(f"{root}-workspaces", made.id).is_dir()
