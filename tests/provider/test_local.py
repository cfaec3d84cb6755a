# SPDX-License-Identifier: Apache-2.0
"""The embedded provider."""

import errno
import json
import logging
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.provider.conftest import Waiting, as_plain_user, environment, failure_of
from waggle_fsstore import (
    Environment,
    ProviderError,
    Runtime,
    RuntimeUnavailableError,
    WorkspaceGoneError,
)
from waggle_fsstore.domain.validation import is_id
from waggle_fsstore.provider import host_tools, local, process_groups, workspace_dirs
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.workspace_dirs import dir_name, removal_name
from waggle_fsstore.service.provider import Provider

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

HOSTILE = [
    *("..", ".", "a/b", "../../etc", "/", "A", "con", "com1", "~", "-a", ".removing-a-0", "\n"),
    *("\U0001f41d", "\u0001" * 200, "x" * 200, "x" * 101, "é" * 100, "a.json", "a\\b", "a:b"),
]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def files_below(root: Path) -> list[str]:
    found = {path.name for path in root.iterdir()} if root.exists() else set()
    return sorted(found - {".waggle-workspaces"})


def is_running(group: int) -> bool:
    """Whether any process of a group is left, be it a zombie."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# What is made.


def test_is_a_provider(provider: LocalProvider) -> None:
    """It has what the protocol asks for."""
    kept: Provider = provider
    assert kept.name == "local"


def test_nothing_is_made_before_the_first_create(provider: LocalProvider, root: Path) -> None:
    """Neither the constructor nor a question makes the root folder."""
    provider.check()
    provider.locate(environment())
    provider.remove(environment())
    assert provider.find_orphans([]) == []
    failure_of(lambda: provider.probe(environment()), provider)
    provider.close()
    assert not root.exists()


def test_python(provider: LocalProvider, root: Path) -> None:
    """A python environment has a venv that runs, without pip."""
    found = provider.create(environment(runtime=Runtime.PYTHON))
    venv = root / "a" / ".venv"
    python = shutil.which(found.python_command, path=found.path)
    assert python == str(venv / "bin" / "python")
    code = "import sys; print(sys.prefix)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{venv}\n"
    assert found.path.split(os.pathsep)[0] == str(venv / "bin")
    assert found.has_venv
    assert found.pip_command == ""
    assert not (venv / "bin" / "pip").exists()


def test_python_with_pip(provider: LocalProvider, root: Path) -> None:
    """A python environment that asks for pip has one of its own, and nothing else."""
    found = provider.create(environment(runtime=Runtime.PYTHON, pip="yes"))
    pip = shutil.which(found.pip_command, path=found.path)
    assert pip is not None
    done = subprocess.run([pip, "--version"], capture_output=True, text=True, check=True)
    assert str(root / "a") in done.stdout
    assert files_below(root / "a") == [".venv", ".waggle-workspace"]


@pytest.mark.parametrize("answer", ["no", "", "YES"])
def test_only_yes_asks_for_pip(answer: str) -> None:
    """Any other label than yes makes no pip, which takes a hundred times as long."""
    assert not local._wants_pip(environment(pip=answer))


@needs_node
def test_node(provider: LocalProvider, root: Path) -> None:
    """A node environment is a private package."""
    found = provider.create(environment("Any Id / at all", Runtime.NODE))
    assert shutil.which(found.node_command, path=found.path) == shutil.which("node")
    package = json.loads(
        Path(provider.locate(environment("Any Id / at all")), "package.json").read_text()
    )
    assert package.pop("name")
    assert package == {"private": True}
    assert mode_of(root) == 0o700


@pytest.mark.parametrize("id_", [*HOSTILE, "node_modules", "http", "favicon.ico", "x" * 100])
def test_package_names(id_: str) -> None:
    """The name of a package is one that npm accepts, whatever the id."""
    name = json.loads(local._package(f"/root/{dir_name(id_)}"))["name"]
    assert re.fullmatch(r"waggle-[a-z0-9_-]{1,200}", name)


def test_shell(provider: LocalProvider, root: Path) -> None:
    """A shell environment is a folder with nothing in it but the marker."""
    found = provider.create(environment())
    assert shutil.which("sh", path=found.path)
    assert not found.has_venv
    assert files_below(root / "a") == [".waggle-workspace"]


@pytest.mark.parametrize("runtime", Runtime)
def test_create_and_probe_find_the_same(provider: LocalProvider, runtime: Runtime) -> None:
    """What a creation returns is what a probe finds, by another provider object too."""
    if runtime is Runtime.NODE and shutil.which("node") is None:
        pytest.skip("node is not installed")
    created = provider.create(environment(runtime=runtime))
    root = os.path.dirname(provider.locate(environment()))
    probed = LocalProvider(root).probe(environment(runtime=runtime))
    assert probed.detected_at >= created.detected_at
    for field in set(type(created).__slots__) - {"detected_at"}:
        assert getattr(created, field) == getattr(probed, field)
    assert created.is_root == (os.geteuid() == 0)


@pytest.mark.parametrize("mask", [0, 0o777])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, mask: int) -> None:
    """Folders and files are private whatever the umask of the server is."""
    provider = LocalProvider(tmp_path / "data" / "root")
    with umask(mask):
        provider.create(environment(runtime=Runtime.PYTHON))
    workspace = tmp_path / "data" / "root" / "a"
    for folder in (tmp_path / "data", tmp_path / "data" / "root", workspace, workspace / ".venv"):
        assert mode_of(folder) == 0o700
    assert mode_of(workspace / ".waggle-workspace") == 0o600
    assert mode_of(workspace / ".venv" / "pyvenv.cfg") == 0o600


@needs_node
def test_the_package_file_is_private(provider: LocalProvider, root: Path) -> None:
    """The package file is private too, and stays writable."""
    with umask(0):
        provider.create(environment(runtime=Runtime.NODE))
    assert mode_of(root / "a" / "package.json") == 0o600


def test_a_root_that_exists_keeps_its_mode(provider: LocalProvider, root: Path) -> None:
    """Who made the root folder chose its mode."""
    root.mkdir()
    root.chmod(0o755)
    provider.create(environment())
    assert mode_of(root) == 0o755
    assert mode_of(root / "a") == 0o700


def test_nothing_inherited_is_needed(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server with an empty environment makes and probes environments."""
    for variable in list(os.environ):
        monkeypatch.delenv(variable)
    found = provider.create(environment(runtime=Runtime.PYTHON))
    path = (
        f"{provider.locate(environment())}/.venv/bin:{os.defpath}:/usr/local/bin:/opt/homebrew/bin"
    )
    assert found.path == path


def test_nothing_is_inherited(
    provider: LocalProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that makes a venv sees no variable of the server, and reads no input."""
    # What Python (where no locale is set) and shells set by themselves does not count.
    own = {"LC_CTYPE", "PWD", "OLDPWD", "SHLVL", "_"}
    code = f"import os, sys; print(sorted({{*os.environ}} - {own}), sys.stdin.read())"
    seen = tmp_path / "seen"
    command = ["/bin/sh", "-c", 'exec "$0" -I -c "$1" >"$2"', sys.executable, code, str(seen)]
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setattr(local, "_venv_command", lambda *_: command)
    failure_of(lambda: provider.create(environment(runtime=Runtime.PYTHON)), provider)
    assert seen.read_text() == "['PATH', 'TMPDIR'] \n"


def test_search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the search path of the server, what means the same everywhere is used."""
    monkeypatch.setenv("PATH", ":.:bin:/usr/bin:/\udcff:/bin")
    assert host_tools.search_path() == "/usr/bin:/bin"
    monkeypatch.setenv("PATH", "")
    assert host_tools.search_path().split(":")[-1] == "/opt/homebrew/bin"


# Runtimes that are missing.


@pytest.mark.parametrize(("runtime", "program"), [(Runtime.NODE, "node"), (Runtime.SHELL, "sh")])
def test_missing_program(
    provider: LocalProvider,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime: Runtime,
    program: str,
) -> None:
    """Without its program a runtime is unavailable, and nothing is made."""
    monkeypatch.setenv("PATH", "/nowhere")
    error = failure_of(lambda: provider.create(environment(runtime=runtime)), provider)
    assert isinstance(error, RuntimeUnavailableError)
    assert error.runtime == runtime
    assert error.reason == f"the program {program} is not on the search path"
    assert not root.exists()


def test_a_program_can_be_installed_later(
    provider: LocalProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A creation looks for programs anew, so no restart is needed after an installation."""
    monkeypatch.setenv("PATH", str(tmp_path))
    failure_of(lambda: provider.create(environment()), provider)
    (tmp_path / "sh").symlink_to("/bin/sh")
    provider.create(environment())


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_missing_module(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """Without the module that makes it, as on Debian, python is unavailable."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(local, "find_spec", lambda name: None if name == module else object())
    asked = environment(runtime=Runtime.PYTHON, pip="yes")
    error = failure_of(lambda: provider.create(asked), provider)
    assert isinstance(error, RuntimeUnavailableError)
    assert module in error.reason


@pytest.mark.parametrize("executable", ["", None, "/nowhere/python"])
def test_missing_python(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch, executable: str | None
) -> None:
    """Where the Python of the server cannot be told or is gone, python is unavailable."""
    monkeypatch.setattr(sys, "executable", executable)
    error = failure_of(lambda: provider.create(environment(runtime=Runtime.PYTHON)), provider)
    assert isinstance(error, RuntimeUnavailableError)
    assert error.reason == "the Python of the server is gone"


# Names.


@pytest.mark.parametrize("id_", HOSTILE)
def test_hostile_ids(provider: LocalProvider, root: Path, id_: str) -> None:
    """Any id has a folder of its own in the root folder, which comes and goes."""
    provider.create(environment("a"))
    provider.create(environment(id_))
    assert Path(provider.locate(environment(id_))).parent == root
    assert len(files_below(root)) == 2
    provider.probe(environment(id_))
    assert provider.find_orphans(["a", id_]) == []
    provider.remove(environment(id_))
    assert files_below(root) == ["a"]


ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200).filter(is_id)
short_ids = st.text("aA.-_~/\0\N{KELVIN SIGN}k", min_size=1, max_size=4).filter(is_id)


@given(st.lists(ids | short_ids, unique=True, min_size=2, max_size=5))
def test_folders_are_children_of_the_root_and_distinct(some: list[str]) -> None:
    """Distinct ids have distinct folders right below the root, also where case is ignored."""
    provider = LocalProvider("/root")
    paths = [provider.locate(environment(id_)) for id_ in some]
    assert all(os.path.dirname(os.path.normpath(path)) == "/root" for path in paths)
    assert all(len(os.path.basename(path).encode()) <= 100 for path in paths)
    assert len({path.casefold() for path in paths}) == len(some)


@pytest.mark.parametrize("id_", ["a", "0a2ae22e-cf09-4ed5-9a57-04d2cd548ca0", "x_y", "x" * 100])
def test_plain_ids_are_their_own_name(id_: str) -> None:
    """A user finds the folder of a plain id at once."""
    assert dir_name(id_) == id_


def test_hashed_names_stay() -> None:
    """The name of a folder is the same in every version, or environments would be lost."""
    assert dir_name("a/b") == "~575aa62220a2c597f5def8d269b6acac"


def test_locate_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative root is the one of the time of the construction."""
    monkeypatch.chdir(tmp_path)
    provider = LocalProvider("root")
    monkeypatch.chdir("/")
    assert provider.locate(environment()) == str(tmp_path / "root" / "a")


# Probing.


def test_a_workspace_that_is_gone(provider: LocalProvider, root: Path) -> None:
    """A probe tells that a workspace is gone."""
    provider.create(environment())
    shutil.rmtree(root / "a")
    error = failure_of(lambda: provider.probe(environment()), provider)
    assert isinstance(error, WorkspaceGoneError)
    assert error.reason == "its workspace is gone"


@pytest.mark.parametrize("length", [None, 0, 10, -1])
def test_a_half_made_workspace(provider: LocalProvider, root: Path, length: int | None) -> None:
    """A workspace whose marker is missing or cut is half made."""
    provider.create(environment())
    marker = root / "a" / ".waggle-workspace"
    if length is None:
        marker.unlink()
    else:
        marker.write_bytes(marker.read_bytes()[:length])
    error = failure_of(lambda: provider.probe(environment()), provider)
    assert isinstance(error, WorkspaceGoneError)
    assert error.reason == "its workspace is incomplete"


NO_ROOT = (
    "the workspaces directory is missing or is a different one: mount its disk or, if it is lost, "
    "make a new directory with an empty file .waggle-workspaces in it"
)

#: What can be in the place of a root folder whose disk is not mounted.
UNMOUNTED: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _: None,
    "an empty folder": Path.mkdir,
    "a link that leads nowhere": lambda root: root.symlink_to("/nowhere"),
}


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("place", UNMOUNTED)
def test_a_root_that_is_not_mounted(
    provider: LocalProvider, root: Path, tmp_path: Path, place: str, is_new: bool
) -> None:
    """Without it nothing is given up, made or removed, by who made workspaces or knows of some."""
    provider.create(environment())
    root.rename(tmp_path / "elsewhere")
    UNMOUNTED[place](root)
    before = files_below(tmp_path)
    if is_new:
        provider = LocalProvider(root, has_workspaces=True)
    for call in (provider.probe, provider.create, provider.remove):
        error = failure_of(lambda call=call: call(environment()), provider)  # type: ignore[misc]
        assert not isinstance(error, WorkspaceGoneError)
        assert error.reason == NO_ROOT
    assert failure_of(provider.check, provider)
    assert files_below(tmp_path) == before
    if root.is_symlink():
        root.unlink()
    elif root.exists():
        root.rmdir()
    (tmp_path / "elsewhere").rename(root)
    provider.check()
    provider.probe(environment())
    provider.remove(environment())
    assert files_below(root) == []


def test_a_root_that_is_lost(root: Path) -> None:
    """What is made by hand as the reason says is a root folder, in which workspaces are gone."""
    provider = LocalProvider(root, has_workspaces=True)
    assert failure_of(provider.check, provider).reason == NO_ROOT
    root.mkdir()
    assert failure_of(provider.check, provider).reason == NO_ROOT
    (root / ".waggle-workspaces").touch()
    provider.check()
    assert isinstance(
        failure_of(lambda: provider.probe(environment()), provider), WorkspaceGoneError
    )
    provider.create(environment())


def test_the_marker(provider: LocalProvider, root: Path) -> None:
    """The marker says in JSON whose workspace it is in."""
    provider.create(environment("A"))
    path = root / files_below(root)[0] / ".waggle-workspace"
    assert json.loads(path.read_text()) == {"id": "A", "runtime": "shell"}


@pytest.mark.parametrize("other", [environment("b"), environment("a", Runtime.NODE)])
def test_a_workspace_of_another_environment(
    provider: LocalProvider, root: Path, other: Environment
) -> None:
    """A workspace that a hand moved to another environment, or another runtime, is refused."""
    provider.create(environment())
    os.rename(root / "a", root / other.id)
    error = failure_of(lambda: provider.probe(other), provider)
    assert isinstance(error, WorkspaceGoneError)
    assert error.reason == "its workspace was made for another environment"


@pytest.mark.parametrize("long", [False, True])
def test_a_marker_of_other_contents(provider: LocalProvider, root: Path, long: bool) -> None:
    """A marker that is no JSON, or is huge, is that of another environment."""
    provider.create(environment())
    with (root / "a" / ".waggle-workspace").open("a") as file:
        file.truncate(2**40 if long else None)
        file.write("[")
    error = failure_of(lambda: provider.probe(environment()), provider)
    assert isinstance(error, WorkspaceGoneError)


def test_a_marker_that_is_a_pipe_or_a_link(provider: LocalProvider, root: Path) -> None:
    """A probe neither waits for a pipe nor follows a link."""
    provider.create(environment())
    marker = root / "a" / ".waggle-workspace"
    marker.rename(root / "elsewhere")
    os.mkfifo(marker)
    failure_of(lambda: provider.probe(environment()), provider)
    marker.unlink()
    marker.symlink_to(root / "elsewhere")
    failure_of(lambda: provider.probe(environment()), provider)


def test_a_broken_python(provider: LocalProvider, root: Path) -> None:
    """A probe tells that the Python of a venv is gone, or is no program."""
    asked = environment(runtime=Runtime.PYTHON)
    provider.create(asked)
    python = root / "a" / ".venv" / "bin" / "python"
    python.unlink()
    python.write_text("")
    assert failure_of(lambda: provider.probe(asked), provider).reason == (
        "its python is not executable"
    )
    python.unlink()
    python.symlink_to("/nowhere/python")
    error = failure_of(lambda: provider.probe(asked), provider)
    assert isinstance(error, WorkspaceGoneError)
    assert error.reason == "its python is gone"
    shutil.rmtree(root / "a" / ".venv")
    assert failure_of(lambda: provider.probe(asked), provider).reason == "its python is gone"


def test_a_program_that_was_uninstalled(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing program is no broken workspace: it can be installed again."""
    provider.create(environment())
    monkeypatch.setenv("PATH", "/nowhere")
    error = failure_of(lambda: LocalProvider(root).probe(environment()), provider)
    assert type(error) is ProviderError
    assert error.reason == "the program sh is no longer on the search path"


def test_probes_are_light(provider: LocalProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many probes start no program, and search the machine once, until that is outdated."""
    searches = []

    def search() -> host_tools.HostTools:
        searches.append(1)
        return host_tools.find_host_tools()

    monkeypatch.setattr(local, "find_host_tools", search)
    asked = environment(runtime=Runtime.PYTHON)
    provider.create(asked)
    monkeypatch.setattr(subprocess, "Popen", None)
    for _ in range(100):
        provider.probe(asked)
    assert len(searches) == 1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    provider.probe(asked)
    assert len(searches) == 2


def test_a_probe_that_is_denied_tells_no_loss(provider: LocalProvider, root: Path) -> None:
    """What cannot be looked at now is not said to be gone."""
    provider.create(environment())
    root.chmod(0)
    error = as_plain_user(lambda: failure_of(lambda: provider.probe(environment()), provider))
    root.chmod(0o700)
    assert type(error) is ProviderError
    assert isinstance(error.__cause__, PermissionError)
    assert error.reason == "cannot read its workspace: Permission denied"


# What stands in the way.


def plant_link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "elsewhere", target_is_directory=True)


PLANTS: list[Callable[[Path], None]] = [plant_link, Path.touch, os.mkfifo]


@pytest.mark.parametrize("plant", PLANTS)
def test_what_stands_in_the_place_of_a_workspace(
    provider: LocalProvider, root: Path, plant: Callable[[Path], None]
) -> None:
    """A link or a file in the place of a workspace is refused, and removed without following."""
    elsewhere = root.parent / "elsewhere"
    LocalProvider(root.parent).create(environment("elsewhere"))
    (elsewhere / ".waggle-workspace").write_text(local._marker(environment()))
    root.mkdir()
    plant(root / "a")
    assert failure_of(lambda: provider.create(environment()), provider).reason == (
        "its workspace exists already"
    )
    assert failure_of(lambda: provider.probe(environment()), provider).reason == (
        "its workspace is not a directory"
    )
    provider.remove(environment())
    assert files_below(root) == []
    assert files_below(elsewhere) == [".waggle-workspace"]


def test_a_dangling_link_is_not_followed(provider: LocalProvider, root: Path) -> None:
    """A link to nothing makes nothing where it points to."""
    root.mkdir()
    plant_link(root / "a")
    failure_of(lambda: provider.create(environment()), provider)
    assert not (root.parent / "elsewhere").exists()


def test_a_workspace_that_is_there_is_not_reused(provider: LocalProvider, root: Path) -> None:
    """A creation touches nobody's files."""
    provider.create(environment())
    (root / "a" / "mine").write_text("precious")
    error = failure_of(lambda: provider.create(environment()), provider)
    assert error.reason == "its workspace exists already"
    assert isinstance(error.__cause__, FileExistsError)
    assert (root / "a" / "mine").read_text() == "precious"
    provider.probe(environment())


def test_of_concurrent_creations_one_wins(root: Path) -> None:
    """However many create the same at once, exactly one does."""
    count = 8
    barrier = Barrier(count)

    def create(_: int) -> bool:
        provider = LocalProvider(root)
        barrier.wait()
        try:
            provider.create(environment())
        except ProviderError:
            return False
        return True

    with ThreadPoolExecutor(count) as pool:
        assert sum(pool.map(create, range(count))) == 1
    LocalProvider(root).probe(environment())


def test_different_ones_can_be_created_at_once(root: Path) -> None:
    """Creations of different environments do not disturb each other, not even the first."""
    count = 8
    barrier = Barrier(count)
    provider = LocalProvider(root / "deep" / "down")

    def create(number: int) -> None:
        barrier.wait()
        provider.create(environment(str(number)))

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(create, range(count)))
    assert provider.find_orphans(map(str, range(count))) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_place_where_no_folder_can_be_made() -> None:
    """It is told, and not tried for ever."""
    provider = LocalProvider("/proc/waggle/workspaces")
    with pytest.raises(ProviderError, match="No such file or directory"):
        provider.create(environment())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_disk_errors(provider: LocalProvider, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """What the operating system reports is told without its path, and is the cause."""

    def fail(path: str, *_: object) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "mkdir", fail)
    error = failure_of(lambda: provider.create(environment()), provider)
    assert error.reason == f"cannot make its workspace: {os.strerror(number)}"
    assert isinstance(error.__cause__, OSError)
    assert error.__cause__.errno == number


def test_a_disk_that_is_full_in_the_middle(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made before the disk was full is half made, and can be removed."""

    def fail(path: str, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(local, "write_new", fail)
    failure_of(lambda: provider.create(environment()), provider)
    assert failure_of(lambda: provider.probe(environment()), provider).reason == (
        "its workspace is incomplete"
    )
    provider.remove(environment())
    assert files_below(root) == []


def test_an_error_without_a_text_is_told_by_its_type() -> None:
    """Where the text of an error might hold a path, its type is told."""
    assert local._reason(OSError("/some/path is bad")) == "OSError"


# The program that makes a venv.


def test_a_venv_that_cannot_be_made(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the program wrote goes to the log, and not to the client."""
    command = ["/bin/sh", "-c", "echo no /secret >&2; exit 3"]
    monkeypatch.setattr(local, "_venv_command", lambda *_: command)
    with caplog.at_level(logging.WARNING, "waggle_fsstore.provider.local"):
        error = failure_of(lambda: provider.create(environment(runtime=Runtime.PYTHON)), provider)
    assert error.reason == "its venv could not be created"
    assert isinstance(error.__cause__, subprocess.CalledProcessError)
    assert "no /secret" in caplog.text
    assert "exit status 3" in caplog.text


def test_a_program_that_cannot_be_started(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that the system cannot start is an error of the system."""
    monkeypatch.setattr(local, "_venv_command", lambda *_: ["/nowhere/python"])
    error = failure_of(lambda: provider.create(environment(runtime=Runtime.PYTHON)), provider)
    assert isinstance(error.__cause__, FileNotFoundError)


def test_a_venv_that_takes_too_long(
    provider: LocalProvider, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that takes too long is ended."""
    groups = []
    communicate = subprocess.Popen.communicate

    def impatient(self: subprocess.Popen[bytes], *, timeout: float) -> tuple[bytes, bytes]:
        groups.append(waiting.wait_for_start())
        return communicate(self, timeout=timeout / 1e6)

    monkeypatch.setattr(subprocess.Popen, "communicate", impatient)
    error = failure_of(lambda: provider.create(environment(runtime=Runtime.PYTHON)), provider)
    assert not is_running(groups[0])
    assert error.reason == "its venv was not created within 300 s"
    assert isinstance(error.__cause__, subprocess.TimeoutExpired)


def test_an_interrupt_ends_the_program(
    provider: LocalProvider, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt leaves neither a program nor a zombie, and comes through as what it is."""
    groups = []

    def interrupted(*_: object, **__: object) -> None:
        groups.append(waiting.wait_for_start())
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        provider.create(environment(runtime=Runtime.PYTHON))
    assert not is_running(groups[0])


@pytest.mark.parametrize("kind", ["waiting", "stubborn"])
def test_close_cuts_short_what_is_created(
    provider: LocalProvider, kind: str, request: pytest.FixtureRequest
) -> None:
    """A creation that is under way when the provider is closed raises, and leaves no program."""
    program: Waiting = request.getfixturevalue(kind)
    asked = environment(runtime=Runtime.PYTHON)
    with ThreadPoolExecutor(1) as pool:
        creation = pool.submit(failure_of, lambda: provider.create(asked), provider)
        group = program.wait_for_start()
        provider.close()
        assert not is_running(group)
        assert creation.result().reason == "the provider was closed"
    assert failure_of(lambda: provider.probe(asked), provider).reason == (
        "its workspace is incomplete"
    )
    provider.remove(asked)


def test_a_forked_child_ends_no_program(provider: LocalProvider, waiting: Waiting) -> None:
    """What the parent is creating is none of its business, also when it closes the provider."""
    asked = environment(runtime=Runtime.PYTHON)
    with ThreadPoolExecutor(1) as pool:
        creation = pool.submit(failure_of, lambda: provider.create(asked), provider)
        group = waiting.wait_for_start()
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(60)  # It must not hang either.
                process_groups._stop = lambda groups: os._exit(len(list(groups)))
                provider.close()
            finally:
                os._exit(100)
        status, is_well = os.waitpid(child, 0)[1], is_running(group)
        provider.close()
        assert (status, is_well) == (0, True)
        assert creation.result().reason == "the provider was closed"


def test_after_close(provider: LocalProvider, root: Path) -> None:
    """A closed provider creates nothing any more, and still probes and removes."""
    provider.create(environment())
    provider.close()
    provider.close()
    for runtime in Runtime:
        error = failure_of(lambda r=runtime: provider.create(environment("b", r)), provider)  # type: ignore[misc]
        assert error.reason == "the provider was closed"
    assert failure_of(provider.check, provider).reason == "the provider was closed"
    provider.probe(environment())
    assert provider.find_orphans([]) == ["a"]
    provider.remove(environment())
    assert files_below(root) == []


@pytest.mark.parametrize("runtime", [Runtime.SHELL, Runtime.PYTHON])
def test_a_close_in_the_middle(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    """A close that comes before the program starts, or where there is none, counts too."""

    def make_and_close(path: str) -> None:
        os.mkdir(path)
        provider.close()

    monkeypatch.setattr(local, "make_dir", make_and_close)
    error = failure_of(lambda: provider.create(environment(runtime=runtime)), provider)
    assert error.reason == "the provider was closed"


CREATE = """
import sys
from waggle_fsstore import Environment
from waggle_fsstore.provider import local
local._venv_command = lambda *_: sys.argv[2:]
environment = Environment(id="a", name="n", runtime="python")
local.LocalProvider(sys.argv[1]).create(environment)
"""


def test_a_server_that_is_killed(provider: LocalProvider, root: Path, waiting: Waiting) -> None:
    """What a killed server was about to make is half made, and can be removed."""
    command = [sys.executable, "-c", CREATE, str(root), *waiting.command]
    with subprocess.Popen(command) as server:
        waiting.wait_for_start()
        server.kill()
    asked = environment(runtime=Runtime.PYTHON)
    error = failure_of(lambda: provider.probe(asked), provider)
    assert error.reason == "its workspace is incomplete"
    provider.remove(asked)
    assert files_below(root) == []
    waiting.release()


# Removing.


def test_removing_is_idempotent(provider: LocalProvider, root: Path) -> None:
    """What is not there is removed already."""
    provider.create(environment())
    provider.create(environment("b"))
    provider.remove(environment())
    provider.remove(environment())
    assert files_below(root) == ["b"]
    provider.create(environment())


def test_removing_follows_no_link(provider: LocalProvider, root: Path) -> None:
    """What links in a workspace point to stays, in a locked folder too."""
    outside = root.parent / "outside"
    outside.mkdir(mode=0o500)
    (root.parent / "file").touch()
    provider.create(environment())
    locked = root / "a" / "locked"
    locked.mkdir()
    (locked / "folder").symlink_to(outside)
    (locked / "file").symlink_to(root.parent / "file")
    (locked / "self").symlink_to(locked)
    locked.chmod(0o500)
    as_plain_user(lambda: provider.remove(environment()))
    assert files_below(root) == []
    assert mode_of(outside) == 0o500
    assert (root.parent / "file").exists()


@pytest.mark.parametrize("mode", [0o500, 0o400, 0o300, 0])
def test_locked_folders_are_removed(provider: LocalProvider, root: Path, mode: int) -> None:
    """Folders that even their user may not write to or look into are removed."""
    provider.create(environment())
    deep = root / "a" / "x" / "y"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    for folder in (deep, deep.parent, root / "a"):
        folder.chmod(mode)
    as_plain_user(lambda: provider.remove(environment()))
    assert files_below(root) == []


def test_what_is_nested_too_deeply_is_told(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Python gives up because of the depth of folders, a client hears a reason."""

    def fail(*_: object, **__: object) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    provider.create(environment())
    monkeypatch.setattr(local, "_REMOVE_PAUSES_S", (0.0,))
    monkeypatch.setattr(shutil, "rmtree", fail)
    error = failure_of(lambda: provider.remove(environment()), provider)
    assert error.reason == "cannot remove its workspace: RecursionError"


def test_leftovers_of_killed_removals_are_removed(provider: LocalProvider, root: Path) -> None:
    """What a killed removal left is removed with the next one, and nobody else's."""
    for id_ in ("a", "a-b"):
        provider.create(environment(id_))
        (root / id_).rename(root / removal_name(id_))
    provider.create(environment("b"))
    provider.remove(environment("a"))
    left = files_below(root)
    assert len(left) == 2
    assert left[0].startswith(".removing-a-b-")
    assert left[1] == "b"


def test_a_removal_that_is_cut_short_leaves_nothing_that_looks_whole(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half removed workspace does not stand under its name, and can be removed further."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    provider.create(environment())
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            provider.remove(environment())
    assert len(files_below(root)) == 1
    assert failure_of(lambda: provider.probe(environment()), provider).reason == (
        "its workspace is gone"
    )
    provider.remove(environment())
    assert files_below(root) == []


def test_what_is_written_meanwhile_is_removed_too(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A creation of a killed server that still writes does not get in the way of a removal."""
    rmtree = shutil.rmtree
    calls = []

    def disturbed(path: str, *, ignore_errors: bool = False) -> None:
        calls.append(path)
        if len(calls) <= 3:
            os.makedirs(root / "a" / ".venv", exist_ok=True)
            Path(path, f"new-{len(calls)}").touch()
            if not ignore_errors:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        else:
            rmtree(path, ignore_errors=ignore_errors)

    provider.create(environment())
    monkeypatch.setattr(shutil, "rmtree", disturbed)
    provider.remove(environment())
    assert files_below(root) == []


def test_who_goes_on_writing_is_told(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removal gives up in the end, and says so; what is left is no stray."""
    remove_entry = workspace_dirs.remove_entry

    def disturbed(path: str) -> None:
        remove_entry(path)
        os.makedirs(root / "a")

    provider.create(environment())
    monkeypatch.setattr(local, "_REMOVE_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(local, "remove_entry", disturbed)
    error = failure_of(lambda: provider.remove(environment()), provider)
    assert error.reason == "cannot remove its workspace: a program keeps writing to it"
    assert provider.find_orphans(["a"]) == []


def test_what_cannot_be_removed_is_told(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root folder that may not be written to keeps its workspaces, and the reason is told."""
    provider.create(environment())
    root.chmod(0o500)
    monkeypatch.setattr(local, "_REMOVE_PAUSES_S", (0.0, 0.0))
    error = as_plain_user(lambda: failure_of(lambda: provider.remove(environment()), provider))
    assert error.reason == "cannot remove its workspace: Permission denied"
    assert isinstance(error.__cause__, PermissionError)
    root.chmod(0o700)
    provider.remove(environment())


def test_concurrent_removals(root: Path) -> None:
    """However many remove the same at once, none raises, and nothing is left."""
    count = 4
    barrier = Barrier(count)
    LocalProvider(root).create(environment())
    for number in range(200):
        folder = root / "a" / str(number % 20) / str(number)
        folder.mkdir(parents=True)
        (folder / "file").touch()

    def remove(_: int) -> list[str]:
        barrier.wait()
        LocalProvider(root).remove(environment())
        return files_below(root)

    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(remove, range(count))) == [[]] * count


def test_removing_what_is_being_created(
    provider: LocalProvider, root: Path, waiting: Waiting
) -> None:
    """A removal ends a creation of the same environment, which then makes nothing anew."""
    asked = environment(runtime=Runtime.PYTHON)
    with ThreadPoolExecutor(1) as pool:
        creation = pool.submit(failure_of, lambda: provider.create(asked), provider)
        group = waiting.wait_for_start()
        provider.remove(asked)
        assert not is_running(group)
        assert creation.result().reason == "the creation of its venv was interrupted"
    assert files_below(root) == []


# Strays.


def test_strays(provider: LocalProvider, root: Path) -> None:
    """What belongs to no known id is a stray, also half removed; what belongs to one is none."""
    for id_ in ("a", "B", "c", "D", "e"):
        provider.create(environment(id_))
    for name in ("c", dir_name("D"), "e"):
        (root / name).rename(root / removal_name(name))
    (root / "note.txt").touch()
    (root / "b").symlink_to("/nowhere")
    strays = provider.find_orphans(iter(["a", "B", "c", "D"]))
    assert strays == sorted(strays)
    assert strays[0].startswith(".removing-e-")
    assert strays[1:] == ["b", "note.txt"]
    assert len(provider.find_orphans([])) == 7


def test_a_root_that_cannot_be_listed(provider: LocalProvider, root: Path) -> None:
    """A root that is a file has no strays to tell: it is an error."""
    root.touch()
    error = failure_of(lambda: provider.find_orphans([]), provider)
    assert isinstance(error.__cause__, NotADirectoryError)


# Check.


def test_check_of_a_file(tmp_path: Path) -> None:
    """Where a file is in the way, a check and a creation tell so."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/nowhere/at/all")
    for place in ("file", "file/below/it", "link", "link/below"):
        provider = LocalProvider(tmp_path / place)
        assert failure_of(provider.check, provider).reason == (
            "the workspaces path is not a directory"
        )
        error = failure_of(lambda one=provider: one.create(environment()), provider)  # type: ignore[misc]
        assert error.reason == "cannot make its workspace: Not a directory"


@pytest.mark.parametrize("place", [".", "a/b"])
def test_check_of_a_folder_that_cannot_be_written_to(tmp_path: Path, place: str) -> None:
    """A root folder that cannot be written to, or not be made, is told."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    provider = LocalProvider(locked / place)
    error = as_plain_user(lambda: failure_of(provider.check, provider))
    assert error.reason == "the workspaces directory is not writable"
    assert files_below(locked) == []
    locked.chmod(0o700)
    provider.check()
