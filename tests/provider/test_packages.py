# SPDX-License-Identifier: Apache-2.0
"""Packages are installed from the index of the operator, and none of their code runs before."""

import base64
import hashlib
import io
import json
import math
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any, Final
from zipfile import ZipFile

import pytest

from tests.provider.conftest import NODE, PYTHON, SHELL
from waggle_fsstore import Environment, ProviderError, Runtime
from waggle_fsstore.domain.errors import RuntimeUnavailableError
from waggle_fsstore.domain.execution import Execution, Stop
from waggle_fsstore.provider import packages
from waggle_fsstore.provider.executor import LocalExecutor
from waggle_fsstore.provider.index_settings import IndexSettings, npm_settings, pip_settings
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.packages import Steps, check_names
from waggle_fsstore.provider.sandbox.limits import MIB, Limits
from waggle_fsstore.provider.sandbox.sandbox import Task

PASSWORD: Final = "hunter-2-hunter"  # noqa: S105  # Of no one.

# Runs if pip builds the package that it is in. The index notices, also from a download.
TRAP: Final = """
import pathlib, urllib.request
for path in ("{canary}", "/home/sandbox/canary"):
    try:
        pathlib.Path(path).touch()
    except OSError:
        pass
urllib.request.urlopen("{url}/canary")
"""
BACKEND: Final = '[build-system]\nrequires = []\nbuild-backend = "trap"\nbackend-path = ["."]\n'


class Index:
    """An index of Python packages, and a registry of npm, over HTTP on this machine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.paths: list[str] = []
        self.logins: set[str] = set()
        index = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                index.paths.append(self.path)
                index.logins.add(self.headers.get("Authorization", ""))
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(Handler, directory=str(directory))
        )
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.canary = directory / "canary"

    @property
    def is_trap_closed(self) -> bool:
        """Whether no code of a package has run."""
        return "/canary" not in self.paths and not self.canary.exists()

    def add_wheel(self, name: str, *requires: str, directory: Path | None = None) -> None:
        """Add a wheel with one module, which has its name."""
        directory = directory or self.directory / "simple" / name
        directory.mkdir(parents=True, exist_ok=True)
        information = f"{name}-1.0.dist-info"
        lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0"]
        lines += [f"Requires-Dist: {one}" for one in requires]
        tags = "Wheel-Version: 1.0\nGenerator: none\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        files = {
            f"{name}.py": f"NAME = {name!r}\n",
            f"{information}/METADATA": "\n".join(lines) + "\n",
            f"{information}/WHEEL": tags,
        }
        files[f"{information}/RECORD"] = "".join(f"{path},,\n" for path in files)
        with ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            for path, text in files.items():
                wheel.writestr(path, text)

    def add_sdist(self, directory: str, name: str) -> None:
        """Add a source distribution, which has a trap in all that could be run to build it."""
        trap = TRAP.format(canary=self.canary, url=self.url)
        files = {"setup.py": trap, "trap.py": trap, "pyproject.toml": BACKEND}
        files["PKG-INFO"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        content = archive({f"{name}-1.0/{path}": text for path, text in files.items()})
        (self.directory / directory).mkdir(parents=True, exist_ok=True)
        (self.directory / directory / f"{name}-1.0.tar.gz").write_bytes(content)

    def add_npm(self, name: str, **fields: object) -> None:
        """Add a package of npm with one module, which exports its name."""
        about = {"name": name, "version": "1.0.0", **fields}
        content = archive(
            {
                "package/package.json": json.dumps(about),
                "package/index.js": f"module.exports = {name!r}\n",
            }
        )
        (self.directory / f"{name}.tgz").write_bytes(content)
        digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
        distribution = {"tarball": f"{self.url}/{name}.tgz", "integrity": f"sha512-{digest}"}
        versions = {"1.0.0": {**about, "dist": distribution}}
        metadata = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": versions}
        (self.directory / name).write_text(json.dumps(metadata))


def archive(files: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path, text in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The variables of the operator, without those of this machine."""
    for name in os.environ:
        if name.lower().startswith(("pip_", "npm_config_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("npm_config_userconfig", os.devnull)
    monkeypatch.setenv("npm_config_globalconfig", os.devnull)
    return monkeypatch


@pytest.fixture
def index(tmp_path: Path, settings: pytest.MonkeyPatch) -> Iterator[Index]:
    """The index that the operator has set."""
    (tmp_path / "index" / "simple").mkdir(parents=True)
    index = Index(tmp_path / "index")
    settings.setenv("PIP_INDEX_URL", f"{index.url}/simple/")
    settings.setenv("npm_config_registry", f"{index.url}/")
    thread = Thread(target=index.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield index
    index.server.shutdown()
    thread.join()
    index.server.server_close()


@pytest.fixture
def home(isolated: LocalExecutor, root: Path) -> Path:
    """The files of a Python environment."""
    LocalProvider(root, executor=isolated).create(PYTHON)
    return root / "a" / "home"


@pytest.fixture
def node_home(isolated: LocalExecutor, root: Path) -> Path:
    """The files of a node environment."""
    if reason := isolated.why_unavailable():
        pytest.skip(reason)
    if not isolated._require_runner().programs.npm:
        pytest.skip("npm is not installed")
    LocalProvider(root, executor=isolated).create(NODE)
    return root / "a" / "home"


def not_stopped() -> Stop:
    return Stop.NONE


def install(executor: LocalExecutor, *names: str, environment: Environment = PYTHON) -> Execution:
    return executor.install(environment, names, timeout=timedelta(seconds=60), stop=not_stopped)


def output_of(executor: LocalExecutor, code: str, environment: Environment = PYTHON) -> str:
    result = executor.execute(
        environment,
        code,
        environment.runtime,
        timeout=timedelta(seconds=30),
        stop=not_stopped,
    )
    assert result.exit_code == 0, result
    return result.stdout


def replace_pip(monkeypatch: pytest.MonkeyPatch, command: str, code: str) -> None:
    """Let code run in place of a command of pip."""
    lines = ["import sys", f"if {command!r} in sys.argv:"]
    lines += [f"    {line}" for line in [*code.splitlines(), "sys.exit(3)"]]
    monkeypatch.setattr(packages, "_PIP", "\n".join(lines).encode() + b"\n" + packages._PIP)


# Python


def test_package_is_installed_with_dependency(
    isolated: LocalExecutor, home: Path, index: Index
) -> None:
    """A package from an index over HTTP can be imported, and so can what it needs."""
    index.add_wheel("worker", "hive>=1")
    index.add_wheel("hive")
    result = install(isolated, "worker==1.0")
    assert result.exit_code == 0, result
    assert "Successfully downloaded" in result.stdout
    assert "Successfully installed hive-1.0 worker-1.0" in result.stdout
    assert output_of(isolated, "import worker, hive; print(hive.NAME)") == "hive\n"
    assert (home / ".venv/lib").exists()


def test_package_of_local_directory_is_installed(
    isolated: LocalExecutor,
    home: Path,
    index: Index,
    tmp_path: Path,
    settings: pytest.MonkeyPatch,
) -> None:
    """A directory of wheels on this machine is an index too, by its path or as a URL."""
    worker, drone = tmp_path / "worker", tmp_path / "drone"
    index.add_wheel("worker", directory=worker)
    index.add_wheel("drone", directory=drone)
    settings.setenv("PIP_FIND_LINKS", f"{worker} {drone.as_uri()}")
    settings.setenv("PIP_NO_INDEX", "1")
    assert install(isolated, "worker", "drone").exit_code == 0
    assert output_of(isolated, "import drone; print(drone.NAME)") == "drone\n"
    assert index.paths == []
    assert home.is_dir()


def test_bundled_pip_installs_packages(
    isolated: LocalExecutor, home: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Python has no pip, the wheel of its module ensurepip is used."""
    if find_spec("ensurepip") is None:
        pytest.skip("this Python has no bundled pip")
    code = packages._PIP.replace(b'("pip") is None', b'("pip") is not None')
    assert code != packages._PIP
    code = code.replace(b"runpy.run", b"print(sys.path[0])\nrunpy.run")
    monkeypatch.setattr(packages, "_PIP", code)
    index.add_wheel("worker")
    result = install(isolated, "worker")
    assert (result.exit_code, result.stdout.count("/pip-")) == (0, 2), result
    assert list((home / ".venv").glob("lib/*/site-packages/worker.py"))


def test_missing_package_is_reported_by_pip(
    isolated: LocalExecutor, home: Path, index: Index
) -> None:
    """The result has the words of pip and its exit code, and nothing is left of the download."""
    result = install(isolated, "nowhere")
    assert (result.exit_code, result.stopped) == (1, Stop.NONE)
    assert "No matching distribution found for nowhere" in result.stderr
    assert index.paths == ["/simple/nowhere/"]
    assert list((home.parent.parent / ".packages").iterdir()) == []


def test_source_distribution_is_refused(isolated: LocalExecutor, home: Path, index: Index) -> None:
    """A package without a wheel does not exist for pip, and nothing of it runs."""
    index.add_sdist("simple/sourced", "sourced")
    result = install(isolated, "sourced")
    assert result.exit_code == 1
    assert "No matching distribution found for sourced" in result.stderr
    assert index.is_trap_closed
    assert not (home / "canary").exists()


def test_dependency_by_url_runs_no_code(isolated: LocalExecutor, home: Path, index: Index) -> None:
    """A wheel can make pip fetch a source distribution, but not build it."""
    index.add_wheel("lure", f"caught @ {index.url}/caught-1.0.tar.gz")
    index.add_sdist(".", "caught")
    result = install(isolated, "lure")
    assert result.exit_code not in (0, -1)
    assert result.stderr.endswith("has to be built, or comes from git, cannot be installed.\n")
    assert "/caught-1.0.tar.gz" in index.paths
    assert index.is_trap_closed
    assert not (home / "canary").exists()


# What the agent sees


def test_password_of_index_is_visible_nowhere(
    isolated: LocalExecutor, home: Path, index: Index, settings: pytest.MonkeyPatch
) -> None:
    """The installation, in which the agent's Python runs, sees no password of the operator."""
    index.add_wheel("worker")
    settings.setenv("PIP_INDEX_URL", f"{index.url}/simple/".replace("//", f"//bee:{PASSWORD}@", 1))
    programs = home / ".venv" / "bin"
    base = os.readlink(programs / "python")
    for name in ("python", "python3"):
        (programs / name).unlink()
    (programs / "python3").symlink_to(base)
    (programs / "python").write_text(
        "#!/bin/sh\n"
        "{ env; tr '\\0' '\\n' </proc/1/environ; cat /proc/*/environ /proc/*/cmdline; } "
        ">/home/sandbox/seen 2>/dev/null\n"
        "grep -rs . /etc/pip.conf /run /home/sandbox/.config /tmp >>/home/sandbox/seen\n"
        'exec /home/sandbox/.venv/bin/python3 "$@"\n'
    )
    (programs / "python").chmod(0o755)
    result = install(isolated, "worker")
    assert result.exit_code == 0, result
    assert base64.b64encode(f"bee:{PASSWORD}".encode()).decode() in " ".join(index.logins)
    seen = (home / "seen").read_bytes()
    assert b"PATH=" in seen
    assert PASSWORD.encode() not in seen
    assert PASSWORD not in result.stdout + result.stderr


@pytest.mark.parametrize("where", ["variable", "npmrc"])
def test_password_is_not_in_result(
    where: str, tmp_path: Path, settings: pytest.MonkeyPatch
) -> None:
    """No output of an installer gives the result a password or token of the operator."""
    (tmp_path / "npmrc").write_text("//index/:_authToken = ${TOKEN}\n")
    settings.setenv("TOKEN", PASSWORD)
    settings.setenv("PIP_INDEX_URL", f"https://bee:{PASSWORD}@index/simple")
    settings.setenv("npm_config_userconfig", str(tmp_path / "npmrc"))
    found = (
        pip_settings(os.environ, "/nowhere") if where == "variable" else npm_settings(os.environ)
    )
    result = found.redacted(execution(stdout=f"a {PASSWORD} b", stderr=f"https://x:{PASSWORD}@"))
    assert (result.stdout, result.stderr) == ("a **** b", "https://x:****@")


def test_configuration_of_agent_has_no_influence(
    isolated: LocalExecutor, home: Path, index: Index
) -> None:
    """What an agent configures leads the download nowhere, and the installation to no target."""
    index.add_wheel("worker")
    lines = f"[global]\nindex-url = {index.url}/agent/\ntarget = /home/sandbox/elsewhere\n"
    for path in (".config/pip/pip.conf", ".pip/pip.conf", "pip.conf"):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(lines)
    for name in ("pip", "json", "sitecustomize"):
        (home / f"{name}.py").write_text("raise SystemExit('the agent')\n")
    result = install(isolated, "worker")
    assert result.exit_code == 0, result
    assert index.paths
    assert not [path for path in index.paths if path.startswith("/agent")]
    assert list((home / ".venv").glob("lib/*/site-packages/worker.py"))


LOOK: Final = """\
import os, socket, subprocess
print(os.listdir("/home/sandbox"), os.path.exists("/tmp"))
socket.create_connection(("127.0.0.1", {port})).close()
print("connected")
for start in (os.fork, lambda: subprocess.run(["/bin/true"])):
    try:
        start()
    except PermissionError:
        print("denied")
"""


def test_download_sees_no_workspace_and_cannot_fork(
    isolated: LocalExecutor, home: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that has the network has nothing of the agent, and starts no other program."""
    (home / "mine").touch()
    replace_pip(monkeypatch, "download", LOOK.format(port=index.server.server_port))
    result = install(isolated, "worker")
    assert result.exit_code == 3, result
    assert result.stdout == "[] False\nconnected\ndenied\ndenied\n"


def test_installation_has_no_network(
    isolated: LocalExecutor, home: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that has the workspace cannot reach the index."""
    index.add_wheel("worker")
    code = LOOK.format(port=index.server.server_port)
    replace_pip(monkeypatch, "--isolated", code)
    (home / "mine").touch()
    result = install(isolated, "worker")
    assert "'mine'" in result.stdout
    assert "ConnectionRefusedError" in result.stderr


# The cache


def test_cache_is_removed_after_installation(
    isolated: LocalExecutor, home: Path, root: Path, index: Index
) -> None:
    """Nothing that was downloaded stays, and its directory is no workspace."""
    index.add_wheel("worker")
    assert install(isolated, "worker").exit_code == 0
    assert list((root / ".packages").iterdir()) == []
    assert LocalProvider(root).find_orphans(["a"]) == []
    assert home.is_dir()


@pytest.mark.parametrize("by", ["installation", "start"])
def test_cache_of_killed_server_is_removed(
    by: str, isolated: LocalExecutor, home: Path, root: Path, index: Index
) -> None:
    """What a crash left is removed by the next installation, or the start of a server."""
    abandoned = root / ".packages" / "abandoned"
    abandoned.mkdir(parents=True)
    (abandoned / "worker.whl").touch()
    if by == "start":
        isolated._runner, isolated._checked_at = None, -math.inf
        assert isolated.why_unavailable() == ""
    else:
        install(isolated, "nowhere")
    assert not abandoned.exists()
    assert home.is_dir()
    assert index.url


def test_cache_of_running_installation_is_kept(root: Path) -> None:
    """Another installation, which may be one of another server, removes only its own files."""
    root.mkdir()
    with packages.new_cache(str(root)) as first:
        with packages.new_cache(str(root)) as second:
            assert first != second
            packages.remove_abandoned(str(root))
            assert os.path.isdir(second)
        assert os.path.isdir(first)
        assert not os.path.exists(second)
    with suppress(FileNotFoundError):
        assert os.listdir(root / ".packages") == []


def test_limit_of_disk_holds_for_download(
    root: Path, home: Path, isolated: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that takes too much room is stopped, and nothing is installed."""
    isolated._limits = Limits(disk_bytes=4 * MIB)
    code = "import os, time\nfile = open('/run/packages/files/large', 'wb')\n"
    code += "file.write(bytes(64 << 20))\nfile.flush()\nos.fsync(file.fileno())\ntime.sleep(60)"
    replace_pip(monkeypatch, "download", code)
    result = install(isolated, "worker")
    assert (result.stopped, result.exit_code) == (Stop.DISK, -1)
    assert result.stderr.endswith("The download was stopped: nothing was installed.\n")
    assert list((root / ".packages").iterdir()) == []
    assert home.is_dir()


# Names, and results


GOOD: Final = {
    Runtime.PYTHON: [
        *("six", "zope.interface", "requests[socks,security]", "a==1.*", "a >=1, <2", "A_b~=1.0"),
        *("x!=1.0+local.1", "a===1!2.0", "x" * 200),
    ],
    Runtime.NODE: [
        *("left-pad", "@scope/name", "a@1.2.3", "@scope/a@^1.0.0", "a@latest", "a@>=1 <2 || 3.x"),
    ],
}
BAD: Final = {
    Runtime.PYTHON: [
        *("", "-r", "--index-url=x", "a b", "a;b", "a\n", "a\nb", "./a", "/a", "..", "a/b"),
        *("a @ b", "a,b", "a|b"),
        *("a@file:///x", "https://x/a.whl", "git+https://x/a", "a.whl", "a-1.0.tar.gz", "a.ZIP"),
        *("a; python_version>'3'", "a[b", "a==", "é", "x" * 201, "a==1 --pre", "$(id)"),
    ],
    Runtime.NODE: [
        *("", "-g", "--prefix=x", "a b", "a;b", "a\n", "./a", "/a", "..", "a/b", "@a", "@a/b/c"),
        *("a@npm:b", "a@file:x", "a@https://x", "git+ssh://x", "a.tgz", "a@b.tgz", "~/a", "a@"),
        *("github:a/b", "a@x/y", "é", "x" * 201),
    ],
}


@pytest.mark.parametrize(
    ("runtime", "name"), [(runtime, name) for runtime, names in BAD.items() for name in names]
)
def test_name_of_no_package_is_refused(runtime: Runtime, name: str) -> None:
    """Options, URLs, paths and all else that is no name is refused, and named."""
    with pytest.raises(ValueError, match="is no package") as caught:
        check_names(runtime, ["six", name])
    assert repr(name)[:100] in str(caught.value)


@pytest.mark.parametrize(
    ("runtime", "name"), [(runtime, name) for runtime, names in GOOD.items() for name in names]
)
def test_name_with_version_is_accepted(runtime: Runtime, name: str) -> None:
    """A name may have a version, a range of versions, extras or a scope."""
    check_names(runtime, [name])


@pytest.mark.parametrize("count", [0, 51])
def test_number_of_packages_is_limited(count: int) -> None:
    """One installation has from 1 to 50 packages."""
    with pytest.raises(ValueError, match="from 1 to 50"):
        check_names(Runtime.PYTHON, ["six"] * count)


def test_bad_package_name_starts_nothing(isolated: LocalExecutor, home: Path, index: Index) -> None:
    """With a name that is none, nothing is downloaded."""
    with pytest.raises(ValueError, match="'--pre' is no package"):
        install(isolated, "worker", "--pre")
    assert index.paths == []
    assert home.is_dir()


def test_shell_environment_has_no_packages(isolated: LocalExecutor) -> None:
    """There is nothing to install packages with, so it is an error of the caller."""
    with pytest.raises(ProviderError, match="a shell environment has no package manager"):
        install(isolated, "worker", environment=SHELL)


def test_missing_npm_is_reported(isolated: LocalExecutor) -> None:
    """A machine with node may have no npm."""
    runner: Any = isolated._require_runner()
    isolated._runner = runner._replace(programs=runner.programs._replace(npm=""))
    with pytest.raises(RuntimeUnavailableError, match="npm is not installed"):
        install(isolated, "worker", environment=NODE)


def execution(
    exit_code: int = 0, stopped: Stop = Stop.NONE, stdout: str = "out\n", stderr: str = "err\n"
) -> Execution:
    return Execution(
        stdout=stdout,
        stderr=stderr,
        exit_code=exit_code,
        duration_ms=700,
        stdout_bytes=4,
        stderr_bytes=4,
        truncated=False,
        stopped=stopped,
    )


def result_of(*results: Execution) -> tuple[Execution, list[float]]:
    """Return what comes of an installation whose steps have these results, and their timeouts."""
    waiting, timeouts = list(results), []

    def run(_: Task, timeout_s: float) -> Execution:
        timeouts.append(timeout_s)
        return waiting.pop(0)

    task = Task([], {})
    settings = IndexSettings({}, {}, (), {}, ())
    return packages.install(Steps(task, task, settings), 10, run), timeouts


def test_result_has_output_of_both_steps() -> None:
    """The result is about the whole installation, and the second step has the time that is left."""
    result, timeouts = result_of(execution(), execution(exit_code=2))
    assert (result.stdout, result.stderr, result.exit_code) == ("out\nout\n", "err\nerr\n", 2)
    assert (result.duration_ms, result.stdout_bytes, result.stderr_bytes) == (1400, 8, 8)
    assert timeouts == [10, pytest.approx(9.3)]


@pytest.mark.parametrize("stopped", [Stop.TIMEOUT, Stop.CANCELLED, Stop.DESTROYED, Stop.DISK])
def test_stopped_installation_says_what_is_left(stopped: Stop) -> None:
    """A caller learns whether packages may be there in part."""
    early, timeouts = result_of(execution(-1, stopped))
    late, _ = result_of(execution(), execution(-1, stopped))
    assert (early.stopped, late.stopped, len(timeouts)) == (stopped, stopped, 1)
    assert early.stderr == "err\n\nThe download was stopped: nothing was installed.\n"
    assert late.stderr.endswith("\nThe installation was stopped: it may be incomplete.\n")


# Settings of the operator


@pytest.mark.parametrize("environment", [PYTHON, NODE], ids=["python", "node"])
def test_unreachable_index_is_reported(
    environment: Environment,
    isolated: LocalExecutor,
    root: Path,
    index: Index,
    settings: pytest.MonkeyPatch,
) -> None:
    """The installer itself says that it reaches nothing."""
    if environment is NODE and not isolated._require_runner().programs.npm:
        pytest.skip("npm is not installed")
    LocalProvider(root, executor=isolated).create(environment)
    settings.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple/")
    settings.setenv("npm_config_registry", "http://127.0.0.1:1/")
    result = install(isolated, "worker", environment=environment)
    assert result.exit_code == 1
    assert "No matching distribution" in result.stderr or "ECONNREFUSED" in result.stderr
    assert index.paths == []


def test_unreachable_index_is_given_up_soon(settings: pytest.MonkeyPatch) -> None:
    """Without other settings of the operator, there is one attempt of five seconds."""
    pip, npm = pip_settings(os.environ, "/nowhere"), npm_settings(os.environ)
    assert (pip.variables["PIP_RETRIES"], pip.variables["PIP_TIMEOUT"]) == ("0", "5")
    assert npm.variables["npm_config_fetch_retries"] == "0"
    assert npm.variables["npm_config_fetch_timeout"] == "5000"
    settings.setenv("PIP_DEFAULT_TIMEOUT", "60")
    settings.setenv("PIP_RETRIES", "3")
    settings.setenv("NPM_CONFIG_FETCH_RETRIES", "2")
    pip, npm = pip_settings(os.environ, "/nowhere"), npm_settings(os.environ)
    assert (pip.variables["PIP_RETRIES"], pip.variables["PIP_DEFAULT_TIMEOUT"]) == ("3", "60")
    assert "PIP_TIMEOUT" not in pip.variables
    assert npm.variables["npm_config_fetch_retries"] == "2"


@pytest.fixture
def operator(tmp_path: Path, settings: pytest.MonkeyPatch) -> Path:
    """The home directory of the operator."""
    settings.delenv("PIP_CONFIG_FILE")
    settings.delenv("npm_config_userconfig")
    settings.delenv("XDG_CONFIG_HOME", raising=False)
    settings.setenv("HOME", str(tmp_path))
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    return tmp_path


def test_configuration_files_of_operator_count(
    operator: Path, settings: pytest.MonkeyPatch
) -> None:
    """Their options about indexes do, also one for installations; a variable overrides them."""
    (operator / "ca.pem").write_text("CA")
    links = operator / "links"
    links.mkdir()
    (operator / ".config/pip/pip.conf").write_text(
        "[global]\nindex_url = https://one\nuser = true\n"
        f"[install]\nextra-index-url = https://two\nfind-links =\n  {links}\n  {operator}\n"
        f"[download]\ncert = {operator}/ca.pem\n"
    )
    found = pip_settings(os.environ, str(links.parent / "root"))
    assert found.variables["PIP_INDEX_URL"] == "https://one"
    assert found.variables["PIP_EXTRA_INDEX_URL"] == "https://two"
    assert found.variables["PIP_CONFIG_FILE"] == os.devnull
    assert "PIP_USER" not in found.variables
    place = found.variables["PIP_CERT"].removeprefix("/run/waggle/")
    assert found.files[place] == b"CA"
    assert str(links) in found.directories
    assert str(operator) not in found.directories  # It has the workspaces in it.
    settings.setenv("PIP_INDEX_URL", "https://three")
    found = pip_settings(os.environ, "/nowhere")
    assert found.variables["PIP_INDEX_URL"] == "https://three"


def test_broken_configuration_of_pip_is_an_error(
    operator: Path, isolated: LocalExecutor, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The index of the operator may be in it, and another one would be the wrong one.

    The log names the file, and has none of its lines: there may be a password in them.
    """
    (operator / ".config/pip/pip.conf").write_text(f"index-url = https://bee:{PASSWORD}@one\n")
    with pytest.raises(ProviderError, match="a configuration file of pip"):
        install(isolated, "worker")
    assert ".config/pip/pip.conf" in caplog.text
    assert PASSWORD not in caplog.text
    assert home.is_dir()


def test_npmrc_of_operator_counts(operator: Path) -> None:
    """The download has it with its tokens, the installation has the URLs of its registries."""
    (operator / "ca.pem").write_text("CA")
    (operator / ".npmrc").write_text(
        "registry=https://bee:secret@one/\n@scope:registry=https://two/\n//two/:_authToken=secret\n"
        f"fetch-timeout=9\ncafile={operator}/ca.pem\n"
    )
    found = npm_settings(os.environ)
    assert found.variables["npm_config_userconfig"] == "/run/waggle/userconfig"
    assert b":_authToken=secret" in found.files["userconfig"]
    assert found.registries == {"registry": "https://one/", "@scope:registry": "https://two/"}
    assert "npm_config_fetch_timeout" not in found.variables
    place = found.variables["npm_config_cafile"].removeprefix("/run/waggle/")
    assert found.files[place] == b"CA"


# Node


def test_npm_package_is_installed_with_dependency(
    isolated: LocalExecutor, node_home: Path, index: Index
) -> None:
    """A package of the registry can be required, and the agent's .npmrc names no other one."""
    index.add_npm("worker", dependencies={"hive": "^1.0.0"})
    index.add_npm("hive")
    (node_home / ".npmrc").write_text(f"registry={index.url}/agent/\ngit=/home/sandbox/git\n")
    result = install(isolated, "worker@1", environment=NODE)
    assert result.exit_code == 0, result
    assert output_of(isolated, "console.log(require('hive'))", NODE) == "hive\n"
    assert json.loads((node_home / "package.json").read_text())["dependencies"]
    assert not [path for path in index.paths if path.startswith("/agent")]
    assert list((node_home.parent.parent / ".packages").iterdir()) == []


def test_scripts_of_npm_packages_do_not_run(
    isolated: LocalExecutor, node_home: Path, index: Index
) -> None:
    """Neither step runs what a package wants to be run when it is installed."""
    script = "touch /home/sandbox/canary"
    index.add_npm("worker", scripts={"install": script, "postinstall": script})
    assert install(isolated, "worker", environment=NODE).exit_code == 0
    assert not (node_home / "canary").exists()


def test_missing_npm_package_is_reported(
    isolated: LocalExecutor, node_home: Path, index: Index
) -> None:
    """The result has the words of npm and its exit code."""
    result = install(isolated, "nowhere", environment=NODE)
    assert result.exit_code == 1
    assert "E404" in result.stderr
    assert index.paths == ["/nowhere"]
    assert node_home.is_dir()


@pytest.mark.parametrize("where", ["variable", "npmrc"])
def test_login_of_registry_is_visible_nowhere(
    isolated: LocalExecutor,
    node_home: Path,
    index: Index,
    settings: pytest.MonkeyPatch,
    tmp_path: Path,
    where: str,
) -> None:
    """The agent's node, which npm starts in the installation, finds no password of a registry."""
    index.add_npm("worker")
    url = f"{index.url}/".replace("//", f"//bee:{PASSWORD}@", 1)
    if where == "variable":
        settings.setenv("npm_config_registry", url)
    else:
        settings.delenv("npm_config_registry")
        (tmp_path / "npmrc").write_text(f"registry={url}\n")
        settings.setenv("npm_config_userconfig", str(tmp_path / "npmrc"))
    programs = node_home / ".local" / "bin"
    programs.mkdir(parents=True)
    (programs / "node").write_text(
        "#!/bin/sh\n{ env; grep -rsa . /run; } >/home/sandbox/seen 2>/dev/null\n"
        'exec /usr/bin/env -S PATH=/usr/local/bin:/usr/bin:/bin node "$@"\n'
    )
    for path in (programs.parent, programs):
        path.chmod(0o755)
    (programs / "node").chmod(0o755)
    result = install(isolated, "worker", environment=NODE)
    assert result.exit_code == 0, result
    assert base64.b64encode(f"bee:{PASSWORD}".encode()).decode() in " ".join(index.logins)
    assert output_of(isolated, "console.log(require('worker'))", NODE) == "worker\n"
    seen = (node_home / "seen").read_bytes()
    assert b"PATH=" in seen
    assert PASSWORD.encode() not in seen


def test_download_with_password_is_not_shown(
    isolated: LocalExecutor, node_home: Path, index: Index, settings: pytest.MonkeyPatch
) -> None:
    """A registry that names its password in what it sends gets that nowhere near the agent."""
    index.add_npm("worker", homepage=f"http://bee:{PASSWORD}@registry/")
    settings.setenv("npm_config_registry", f"{index.url}/".replace("//", f"//bee:{PASSWORD}@", 1))
    result = install(isolated, "worker", environment=NODE)
    assert result.exit_code == 1
    assert "has a password of the index in it: nothing was installed" in result.stderr
    assert not (node_home / "node_modules").exists()
