# SPDX-License-Identifier: Apache-2.0
"""The choice of store and provider: arguments, variables and defaults."""

import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import platformdirs
import pytest

from waggle_fsstore import (
    FileStore,
    MemoryStore,
    ProviderError,
    SettingError,
    UnsupportedFormatError,
    open_repository,
    open_service,
)
from waggle_fsstore.config import Settings, store_location, why_temporary
from waggle_fsstore.domain.environment import Status
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.sandbox.limits import Limits
from waggle_fsstore.testing import make_environment
from waggle_fsstore.wiring import executor_of, server_lock


def path_of(location: str | os.PathLike[str] | None = None) -> Path:
    store = open_repository(location)
    assert isinstance(store, FileStore)
    return store.path


def test_path_opens_file_store(tmp_path: Path) -> None:
    """A path, as text or as an object, is a FileStore, and opening it creates nothing."""
    assert path_of(str(tmp_path / "s")) == path_of(tmp_path / "s") == tmp_path / "s"
    assert not (tmp_path / "s").exists()


def test_tilde_is_the_home_directory() -> None:
    """``~`` is the home directory."""
    assert path_of("~/s") == Path(os.environ["HOME"]) / "s"


def test_relative_path_is_resolved_at_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later change of the working directory has no effect."""
    monkeypatch.chdir(tmp_path)
    store = open_repository("s")
    monkeypatch.chdir("/")
    store.save(make_environment(id="a"))
    assert (tmp_path / "s" / "environments" / "a.json").exists()


def test_drive_letter_is_no_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Windows path is a path, not a URL with the scheme ``C``."""
    monkeypatch.chdir(tmp_path)
    assert path_of("C:\\x").name.endswith("x")


@pytest.mark.parametrize("form", ["file://{}", "file://localhost{}", "file:{}", "FILE://{}"])
def test_file_url_opens_its_path(tmp_path: Path, form: str) -> None:
    """A ``file:`` URL is the path in it, with its escapes decoded."""
    assert path_of(form.format(f"{tmp_path}/a%20b")) == tmp_path / "a b"


def test_memory_location_opens_memory_store() -> None:
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
def test_unknown_location_is_refused(location: str) -> None:
    """The error lists the known kinds of location."""
    with pytest.raises(ValueError, match="file:"):
        open_repository(location)


@pytest.mark.parametrize("location", ["a\0b", "file:/a%00b"])
def test_nul_character_is_refused(location: str) -> None:
    """No path contains one, and the error says so."""
    with pytest.raises(ValueError, match="NUL character"):
        open_repository(location)


UNEXPANDED = [
    *("${HOME}/store", "$HOME/store", "/srv/$USER/store", "${env:HOME}/store", "$env:HOME/x"),
    *("${workspaceFolder}/store", "$(pwd)/store", "%USERPROFILE%\\store", "${HOME", "$HOME"),
    *("~no-such-user/store", "'/srv/store'", '"/srv/store"'),
]


@pytest.mark.parametrize("text", UNEXPANDED)
def test_unexpanded_location_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only a shell replaces is no path; the error names the variable that has it."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for location in (text, *([] if text[0] in "~'\"" else [f"file:{text}"])):
        with pytest.raises(ValueError, match=r"^(?!WAGGLE)"):
            open_repository(location)
    for variable in ("WAGGLE_DATA_DIR", "WAGGLE_STORE_PATH"):
        monkeypatch.setenv(variable, text)
        with pytest.raises(SettingError) as caught:
            open_repository()
        assert caught.value.variable == variable
        with pytest.raises(SettingError, match=f"^{variable}: "):
            server_lock("server.lock")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["a$b", "100%", "50%-60%", "$", "a~", "it's", "'a'b", "x{y}"])
def test_unusual_path_is_a_path(name: str, tmp_path: Path) -> None:
    """A name that no shell would have replaced is taken as it is."""
    assert path_of(str(tmp_path / name)) == tmp_path / name


def test_url_or_path_object_has_any_name(tmp_path: Path) -> None:
    """A directory with such a name can still be given, escaped in a URL or as a Path."""
    assert path_of(f"file://{tmp_path}/%24HOME") == tmp_path / "$HOME"
    assert path_of(tmp_path / "$HOME") == tmp_path / "$HOME"


def test_url_with_home_directory_is_refused() -> None:
    """A URL is no path: its ``~`` would become the name of a directory."""
    with pytest.raises(ValueError, match="write file:///path"):
        open_repository("file:~/store")


def test_missing_home_directory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home directory there is no default store, and the error names the variable."""

    def fail(*_: object, **__: object) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("WAGGLE_DATA_DIR")
    monkeypatch.setattr("platformdirs.user_data_dir", fail)
    with pytest.raises(SettingError, match=r"^WAGGLE_STORE_PATH: is not set, and .*: set it to"):
        open_repository()
    assert isinstance(open_repository("memory:"), MemoryStore)
    monkeypatch.setenv("WAGGLE_STORE_PATH", "~/store")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(SettingError, match=r"^WAGGLE_STORE_PATH: '~/store' names no home"):
        open_repository()


def test_store_in_snap_is_temporary(tmp_path: Path) -> None:
    """A snap has a data directory for each revision, and one that lasts."""
    assert "revision 165 of the snap code" in why_temporary("/home/a/snap/code/165/.local/store")
    assert "revision x1" in why_temporary("/home/a/snap/code/x1/store")
    for path in ("/home/a/snap/code/common/store", "/home/a/snapshot/1/store", str(tmp_path)):
        assert why_temporary(path) == ""


def test_store_path_precedes_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``WAGGLE_STORE_PATH`` wins over ``WAGGLE_DATA_DIR``, the argument over both."""
    monkeypatch.setenv("WAGGLE_DATA_DIR", str(tmp_path / "data"))
    assert path_of() == tmp_path / "data" / "store"
    monkeypatch.setenv("WAGGLE_STORE_PATH", str(tmp_path / "own"))
    assert path_of() == tmp_path / "own"
    assert path_of(tmp_path / "given") == tmp_path / "given"
    monkeypatch.setenv("WAGGLE_STORE_PATH", "memory:")
    assert isinstance(open_repository(), MemoryStore)


def test_empty_location_variables_count_as_unset() -> None:
    """An empty variable sets nothing."""
    default = os.path.join(platformdirs.user_data_dir("waggle", appauthor=False), "store")
    assert store_location({}) == default
    assert store_location({"WAGGLE_STORE_PATH": "", "WAGGLE_DATA_DIR": ""}) == default
    assert store_location({"WAGGLE_STORE_PATH": " ", "WAGGLE_DATA_DIR": "/d "}) == "/d/store"
    assert store_location({"WAGGLE_STORE_PATH": "/s\r\n"}) == "/s"


def test_default_store_is_in_user_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any setting, environments are stored in the user's data directory."""
    monkeypatch.delenv("WAGGLE_DATA_DIR")
    assert path_of().parts[-2:] == ("waggle", "store")
    assert path_of().is_relative_to(os.environ["XDG_DATA_HOME"])


def test_workspaces_are_beside_the_store(tmp_path: Path) -> None:
    """They are in a directory with the name of the store and a suffix."""
    with FileStore(tmp_path / "s", durable=False) as store:
        service = open_service(store, Settings.from_env({}))
        assert sorted(path.name for path in tmp_path.glob("[!.]*")) == []
        created = service.create("shell")
        assert service.locate(created) == str(tmp_path / "s-workspaces" / created.id / "home")
        assert Path(service.locate(created)).is_dir()
        assert service.destroy(created.id)
        assert list((tmp_path / "s-workspaces").glob("[!.]*")) == []


TEMPORARY = """
from waggle_fsstore import MemoryStore, open_service
service = open_service(MemoryStore())
print(service.locate(service.create("shell")))
"""


def test_workspaces_of_memory_store_are_temporary(tmp_path: Path) -> None:
    """They are in a temporary directory, which is removed when the process ends."""
    done = subprocess.run(
        [sys.executable, "-c", TEMPORARY],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert Path(done.stdout.strip()).parents[2] == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_service_takes_settings_or_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are those given as an argument, by default those of the variables."""
    monkeypatch.setenv("WAGGLE_DEFAULT_TIMEOUT_MIN", "7")
    monkeypatch.setenv("WAGGLE_SSH_PORT_BASE", "10500")
    with MemoryStore() as store:
        created = open_service(store).create("shell")
        assert created.timeout == timedelta(minutes=7)
        assert 10_500 <= created.ssh_port <= 11_000
        given = Settings.from_env({"WAGGLE_DEFAULT_TIMEOUT_MIN": "8"})
        assert open_service(store, given).create("shell").timeout == timedelta(minutes=8)
        monkeypatch.setenv("WAGGLE_MAX_ENVIRONMENTS", "many")
        with pytest.raises(SettingError):
            open_service(store)


def test_server_lock_is_in_the_store(tmp_path: Path) -> None:
    """The lock belongs to the configured store; a store in memory has none."""
    lock = server_lock("server.lock")
    assert lock is not None
    data = Path(os.environ["WAGGLE_DATA_DIR"])
    assert lock.path == data / "store" / ".waggle" / "server.lock"
    assert not data.exists()
    given = server_lock("server.lock", f"file:{tmp_path}/own")
    assert given is not None
    assert given.path.parent.parent == tmp_path / "own"
    assert server_lock("server.lock", "memory:") is None
    with pytest.raises(ValueError, match="redis"):
        server_lock("server.lock", "redis://localhost")


def test_server_lock_refuses_foreign_directory(tmp_path: Path) -> None:
    """A foreign directory is refused as it is for a store."""
    (tmp_path / "diary.txt").touch()
    lock = server_lock("server.lock", tmp_path)
    assert lock is not None
    with pytest.raises(UnsupportedFormatError):
        lock.try_acquire()


def test_workspaces_are_where_the_setting_says(tmp_path: Path) -> None:
    """Another directory can hold them, also one in the directory of the store."""
    with FileStore(tmp_path / "s", durable=False) as store:
        for place in (tmp_path / "other", tmp_path / "s" / "workspaces"):
            service = open_service(store, Settings(workspaces=str(place)))
            created = service.create("shell")
            assert Path(service.locate(created)).is_relative_to(place)
            service.destroy(created.id)
            service.close()
        for place in (tmp_path / "s", tmp_path / "s" / ".waggle", tmp_path / "s/environments/x"):
            with pytest.raises(SettingError, match="WAGGLE_WORKSPACES"):
                open_service(store, Settings(workspaces=str(place)))


@pytest.mark.parametrize("is_beside", [True, False])
def test_missing_root_is_gone_only_beside_its_store(tmp_path: Path, is_beside: bool) -> None:
    """What a container lost can be destroyed; elsewhere the disk may not be mounted."""
    (tmp_path / "disk").mkdir()
    root = tmp_path / ("s-workspaces" if is_beside else "disk/workspaces")
    settings = Settings(workspaces="" if is_beside else str(root))
    with FileStore(tmp_path / "s", durable=False) as store:
        with open_service(store, settings) as service:
            created = service.create("shell")
        shutil.rmtree(root)
        with open_service(store, settings) as service:
            if is_beside:
                assert service.destroy(created.id)
                assert store.count() == 0
            else:
                with pytest.raises(ProviderError, match="mount its disk"):
                    service.destroy(created.id)
            root.mkdir()  # As an unmounted disk leaves it.
            with open_service(store, settings) as other:
                assert other.sweep().expired == []


def test_workspaces_of_former_provider_are_awaited(tmp_path: Path) -> None:
    """A running environment of an earlier version shows that the root directory is missing."""
    settings = Settings(workspaces=str(tmp_path / "disk" / "workspaces"))
    with FileStore(tmp_path / "s", durable=False) as store:
        store.save(make_environment(id="a", provider="local", status=Status.RUNNING))
        with (
            open_service(store, settings) as service,
            pytest.raises(ProviderError, match="mount its disk"),
        ):
            service.provider.check()


def test_files_of_error_are_awaited_while_their_disk_is_unmounted(tmp_path: Path) -> None:
    """An environment in error does not count as one without files, and so does not expire."""
    root = tmp_path / "disk" / "workspaces"
    settings = Settings(workspaces=str(root))
    with FileStore(tmp_path / "s", durable=False) as store:
        with open_service(store, settings) as service:
            created = service.create("shell")
        store.update(created.id, lambda stored: stored.transition_to(Status.ERROR))
        root.rename(tmp_path / "unmounted")
        root.mkdir()
        with open_service(store, settings) as service:
            assert isinstance(service.provider, LocalProvider)
            with pytest.raises(ProviderError, match="mount its disk"):
                service.provider.has_files(created)
            assert service.sweep().expired == []


def test_limits_of_programs_are_those_of_settings() -> None:
    """Each limit has a setting, whose default is the one that the docs name."""
    default = executor_of("/w", "", Settings.from_env({}).execution)
    assert default is not None
    assert default.limits == Limits(
        memory_bytes=512 << 20,
        processes=128,
        open_files=1024,
        file_bytes=256 << 20,
        disk_bytes=1 << 30,
        output_bytes=1 << 20,
        total_output_bytes=256 << 20,
        cpu_seconds=600,
    )
    variables = {
        "WAGGLE_DEFAULT_MEMORY_MB": "64",
        "WAGGLE_MAX_PROCESSES": "7",
        "WAGGLE_MAX_OPEN_FILES": "8",
        "WAGGLE_MAX_FILE_SIZE": "1MB",
        "WAGGLE_MAX_WORKSPACE_SIZE": "2MB",
        "WAGGLE_MAX_OUTPUT": "100KB",
        "WAGGLE_MAX_EXEC_TIMEOUT": "10s",
        "WAGGLE_MAX_EXECUTIONS": "3",
        "WAGGLE_MAX_EXECUTIONS_EACH": "2",
    }
    changed = executor_of("/w", "", Settings.from_env(variables).execution)
    assert changed is not None
    assert changed.limits == Limits(
        memory_bytes=64 << 20,
        processes=7,
        open_files=8,
        file_bytes=1_000_000,
        disk_bytes=2_000_000,
        output_bytes=100_000,
        cpu_seconds=20,
    )
    assert (changed._slots._per_environment, changed._slots._total) == (2, 3)
    assert executor_of("/w", "", Settings.from_env({"WAGGLE_EXECUTION": "off"}).execution) is None
