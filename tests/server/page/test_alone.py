# SPDX-License-Identifier: Apache-2.0
"""The verb ui: a page without a server, which takes no lock and is for this machine only."""

import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli.cli_runner import run
from tests.cli.forked import Forked, forked
from tests.server.page.browser import Browser, Document
from waggle_fsstore import FileStore
from waggle_fsstore.config import Settings
from waggle_fsstore.server.page.alone import application
from waggle_fsstore.server.page.source import Source
from waggle_fsstore.store.server_lock import ServerLock, running_servers
from waggle_fsstore.testing import make_environment


@contextmanager
def _ui(root: Path, *arguments: str) -> Iterator[tuple[Forked, str]]:
    """Yield the program and the URL that it prints."""
    with forked("--store", str(root), "ui", *arguments) as program:
        url = program.read_line().decode().strip()
        assert url.startswith("http://127.0.0.1:")
        yield program, url


def _get(url: str) -> Document:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  # Our own server.
        return Document(answer.read().decode())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ui_shows_the_store_until_a_signal(
    store: FileStore, root: Path, number: signal.Signals
) -> None:
    """It prints its URL, shows what is stored, and ends in order, with a stream open too."""
    store.create(make_environment(id="one", name="Bees"))
    with _ui(root) as (program, url):
        page = _get(url)
        assert "Bees" in page.text
        assert "none: this page reads the store by itself" in page.text
        with urllib.request.urlopen(f"{url}stream", timeout=30) as stream:  # noqa: S310
            assert stream.readline() == b"retry: 3000\n"
            program.send_signal(number)
            assert program.end() == 0


def test_ui_takes_no_lock_and_removes_nothing(store: FileStore, root: Path) -> None:
    """A server can start beside it; an environment that has expired is still stored."""
    long_ago = datetime(2026, 1, 2, tzinfo=UTC)
    store.create(
        make_environment(id="one", status="running", created_at=long_ago, last_used=long_ago)
    )
    before = {str(it): it.read_bytes() for it in root.rglob("*") if it.is_file()}
    with _ui(root, "--port", "0") as (_, url):
        assert "now" in _get(url).text
        assert {str(it): it.read_bytes() for it in root.rglob("*") if it.is_file()} == before
        assert running_servers(root) == []
        for name in ("server.lock", "http.lock"):
            lock = ServerLock(root, name)
            assert lock.try_acquire()
            lock.release()
        assert run("--store", str(root), "rm", "one").exit_code == 0
        assert "No environment." in _get(url).text


@pytest.mark.parametrize("address", ["0.0.0.0:8080", "192.0.2.1:80", "[::]:8080"])
def test_ui_refuses_addresses_beyond_loopback(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """It neither listens there nor elsewhere, and says what to do."""
    store.create(make_environment(id="one"))
    monkeypatch.setenv("WAGGLE_LISTEN_ADDR", address)
    monkeypatch.setenv("WAGGLE_ALLOW_ANONYMOUS", "1")
    monkeypatch.setenv("WAGGLE_ALLOWED_HOSTS", "waggle.example")
    result = run("--store", str(root), "ui")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is not a loopback address: 'ui' serves this machine only" in result.stderr


def test_ui_needs_a_store(tmp_path: Path) -> None:
    """A name that may be misspelt makes no store, and one in memory has nothing to show."""
    assert run("--store", str(tmp_path / "none"), "ui").exit_code == 1
    assert run("--store", "memory:", "ui").exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_ui_has_the_checks_of_a_server(store: FileStore) -> None:
    """Host names, origins and tokens are checked as those of a server, and it has no /mcp."""
    source = Source(store)
    browser = Browser(application(source, Settings.from_env({})))
    assert browser.ask("").status == 200
    assert browser.ask("mcp", "POST").status == 404
    assert browser.with_headers(Host="evil.example").ask("").status == 421
    assert browser.with_headers(Origin="http://evil.example").ask("").status == 403
    settings = Settings.from_env({"WAGGLE_AUTH_TOKEN": "0123456789abcdef"})
    assert Browser(application(source, settings)).ask("").status == 303
