# SPDX-License-Identifier: Apache-2.0
"""Which store is opened: arguments, variables and defaults."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import platformdirs
import pytest

from waggle_fsstore import (
    FileStore,
    MemoryStore,
    SettingError,
    UnsupportedFormatError,
    open_repository,
    open_service,
)
from waggle_fsstore.config import Settings, store_location
from waggle_fsstore.testing import make_environment
from waggle_fsstore.wiring import server_lock


def path_of(location: str | os.PathLike[str] | None = None) -> Path:
    store = open_repository(location)
    assert isinstance(store, FileStore)
    return store.path


def test_a_path(tmp_path: Path) -> None:
    """A path, as text or as an object, is a FileStore, and opening it creates nothing."""
    assert path_of(str(tmp_path / "s")) == path_of(tmp_path / "s") == tmp_path / "s"
    assert not (tmp_path / "s").exists()


def test_the_home_folder(tmp_path: Path) -> None:
    """``~`` is the home folder."""
    assert path_of("~/s") == tmp_path / "home" / "s"


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is settled when the store is opened."""
    monkeypatch.chdir(tmp_path)
    store = open_repository("s")
    monkeypatch.chdir("/")
    store.save(make_environment(id="a"))
    assert (tmp_path / "s" / "environments" / "a.json").exists()


def test_a_drive_is_no_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Windows path is a path, not a URL with the scheme ``C``."""
    monkeypatch.chdir(tmp_path)
    assert path_of("C:\\x").name.endswith("x")


@pytest.mark.parametrize("form", ["file://{}", "file://localhost{}", "file:{}", "FILE://{}"])
def test_a_file_url(tmp_path: Path, form: str) -> None:
    """A ``file:`` URL is the path in it, with its escapes."""
    assert path_of(form.format(f"{tmp_path}/a%20b")) == tmp_path / "a b"


def test_memory() -> None:
    """``memory:`` is a MemoryStore."""
    assert isinstance(open_repository("memory:"), MemoryStore)
    assert isinstance(open_repository("memory://"), MemoryStore)


@pytest.mark.parametrize(
    "location",
    [
        "",
        "redis://localhost",
        "sqlite:x.db",
        "memory:name",
        "file:",
        "file://host/x",
        "file:///x?y",
    ],
)
def test_unknown_locations(location: str) -> None:
    """What is none of the known ones is an error that says which there are."""
    with pytest.raises(ValueError, match="file:"):
        open_repository(location)


@pytest.mark.parametrize("location", ["a\0b", "file:/a%00b"])
def test_a_nul_character(location: str) -> None:
    """No path holds one, and the error says so in words of its own."""
    with pytest.raises(ValueError, match="NUL character"):
        open_repository(location)


def test_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``WAGGLE_STORE_PATH`` wins over ``WAGGLE_DATA_DIR``, the argument over both."""
    monkeypatch.setenv("WAGGLE_DATA_DIR", str(tmp_path / "data"))
    assert path_of() == tmp_path / "data" / "store"
    monkeypatch.setenv("WAGGLE_STORE_PATH", str(tmp_path / "own"))
    assert path_of() == tmp_path / "own"
    assert path_of(tmp_path / "given") == tmp_path / "given"
    monkeypatch.setenv("WAGGLE_STORE_PATH", "memory:")
    assert isinstance(open_repository(), MemoryStore)


def test_empty_variables_count_as_unset() -> None:
    """A variable that is set to nothing says nothing."""
    default = os.path.join(platformdirs.user_data_dir("waggle", appauthor=False), "store")
    assert store_location({}) == default
    assert store_location({"WAGGLE_STORE_PATH": "", "WAGGLE_DATA_DIR": ""}) == default
    assert store_location({"WAGGLE_STORE_PATH": "", "WAGGLE_DATA_DIR": "/d"}) == "/d/store"


def test_the_default_is_a_file_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any setting, environments are kept in the user's data folder."""
    monkeypatch.delenv("WAGGLE_DATA_DIR")
    assert path_of().parts[-2:] == ("waggle", "store")
    assert path_of().is_relative_to(tmp_path)


def test_a_service_over_files(tmp_path: Path) -> None:
    """Its workspaces are beside the store, in a folder that is called like it."""
    with FileStore(tmp_path / "s", durable=False) as store:
        service = open_service(store, Settings.of({}))
        assert sorted(path.name for path in tmp_path.glob("[!.]*")) == []
        created = service.create("shell")
        assert service.locate(created) == str(tmp_path / "s-workspaces" / created.id)
        assert Path(service.locate(created)).is_dir()
        assert service.destroy(created.id)
        assert list((tmp_path / "s-workspaces").glob("[!.]*")) == []


TEMPORARY = """
from waggle_fsstore import MemoryStore, open_service
service = open_service(MemoryStore())
print(service.locate(service.create("shell")))
"""


def test_a_service_over_memory(tmp_path: Path) -> None:
    """Its workspaces are in a temporary folder, and end with the process."""
    done = subprocess.run(
        [sys.executable, "-c", TEMPORARY],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert Path(done.stdout.strip()).parent.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_the_settings_of_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those that are given, or else what the variables say."""
    monkeypatch.setenv("WAGGLE_DEFAULT_TIMEOUT_MIN", "7")
    monkeypatch.setenv("WAGGLE_SSH_PORT_BASE", "10500")
    with MemoryStore() as store:
        created = open_service(store).create("shell")
        assert created.timeout == timedelta(minutes=7)
        assert 10_500 <= created.ssh_port <= 11_000
        given = Settings.of({"WAGGLE_DEFAULT_TIMEOUT_MIN": "8"})
        assert open_service(store, given).create("shell").timeout == timedelta(minutes=8)
        monkeypatch.setenv("WAGGLE_MAX_ENVIRONMENTS", "many")
        with pytest.raises(SettingError):
            open_service(store)


def test_the_lock_of_a_server(tmp_path: Path) -> None:
    """It is of the store that is configured; one in memory has no other servers."""
    lock = server_lock("server.lock")
    assert lock is not None
    assert lock.path == tmp_path / "waggle-data" / "store" / ".waggle" / "server.lock"
    assert not (tmp_path / "waggle-data").exists()
    given = server_lock("server.lock", f"file:{tmp_path}/own")
    assert given is not None
    assert given.path.parent.parent == tmp_path / "own"
    assert server_lock("server.lock", "memory:") is None
    with pytest.raises(ValueError, match="redis"):
        server_lock("server.lock", "redis://localhost")


def test_the_lock_of_a_server_where_no_store_can_be(tmp_path: Path) -> None:
    """It is refused as the store is."""
    (tmp_path / "diary.txt").touch()
    lock = server_lock("server.lock", tmp_path)
    assert lock is not None
    with pytest.raises(UnsupportedFormatError):
        lock.try_acquire()
