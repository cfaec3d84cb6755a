# SPDX-License-Identifier: Apache-2.0
"""The installation of packages: a download without the workspace, then pip or npm without network.

The download has the network and the passwords of the operator, so it sees nothing that an agent
can write, and cannot start another program: a package that has to be built fails. The
installation runs as any program of the environment does. Both are sandboxes, so that no code of a
package runs on the host.
"""

import fcntl
import logging
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final, NamedTuple

from waggle_fsstore.domain.environment import Runtime
from waggle_fsstore.domain.execution import MAX_PACKAGES, Execution
from waggle_fsstore.domain.workspace_file import SANDBOX_HOME
from waggle_fsstore.provider.emptying import directories, remove_tree
from waggle_fsstore.provider.index_settings import IndexSettings, npm_settings, pip_settings
from waggle_fsstore.provider.layout import VENV
from waggle_fsstore.provider.sandbox.sandbox import Task
from waggle_fsstore.provider.sandbox.view import CODE_DIR, Programs
from waggle_fsstore.provider.workspace_dirs import PACKAGES, make_dir

_log: Final = logging.getLogger(__name__)

MAX_NAME_LENGTH: Final = 200

#: Where both programs find what was downloaded.
DOWNLOADS: Final = "/run/packages"

_FILES: Final = "files"
_WORK: Final = "work"
_TMP: Final = "tmp"

_WORD: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_CLAUSE: Final = r" ?(?:===|==|~=|!=|<=|>=|<|>) ?[A-Za-z0-9][A-Za-z0-9.*+!_-]*"
_NAMES: Final = {
    Runtime.PYTHON: re.compile(
        rf"{_WORD}(?:\[{_WORD}(?:, ?{_WORD})*\])?(?:{_CLAUSE}(?:, ?{_CLAUSE})*)?"
    ),
    Runtime.NODE: re.compile(
        r"(?:@[A-Za-z0-9][A-Za-z0-9._~-]*/)?[A-Za-z0-9][A-Za-z0-9._~-]*"
        r"(?:@[A-Za-z0-9^~<>=*][A-Za-z0-9^~<>=.*+| -]*)?"
    ),
}
# A name with such an end is a file for pip and npm.
_FILE_SUFFIX: Final = re.compile(r"\.(?:whl|zip|tar|tgz|t[blx]z|gz|bz2|xz|lz|lzma)", re.IGNORECASE)

# Some systems have Python without pip; the module ensurepip has it as a wheel then.
_PIP: Final = b"""\
import glob, importlib.util, os, runpy, sys, sysconfig

if importlib.util.find_spec("pip") is None:
    import ensurepip

    bundled = os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")
    for directory in (sysconfig.get_config_var("WHEEL_PKG_DIR"), bundled):
        sys.path[:0] = glob.glob(os.path.join(directory or bundled, "pip-*.whl"))
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
_PIP_NAME: Final = "pip.py"

_NPM_OPTIONS: Final = (
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--no-update-notifier",
    "--logs-max=0",
)
# What pip and npm write in a download if they cannot start another program.
_NOT_STARTED: Final = ("Operation not permitted", "EPERM")
_ONLY_WHOLE: Final = "A package that has to be built, or comes from git, cannot be installed."

# What is shorter occurs by chance.
_MIN_SECRET_LENGTH: Final = 6

_NO_GIT: Final = {"npm_config_git": "/bin/false"}


class Steps(NamedTuple):
    """The two programs that install packages, and the settings of the first."""

    download: Task
    installation: Task
    settings: IndexSettings


def check_names(runtime: Runtime, packages: Sequence[str]) -> None:
    """Raise ``ValueError`` unless all are names of packages, with or without a version."""
    if not 1 <= len(packages) <= MAX_PACKAGES:
        raise ValueError(f"from 1 to {MAX_PACKAGES} packages can be installed at once")
    for name in packages:
        is_name = len(name) <= MAX_NAME_LENGTH and _NAMES[runtime].fullmatch(name)
        if not is_name or _FILE_SUFFIX.fullmatch(os.path.splitext(name)[1]):
            raise ValueError(
                f"{name!r:.100} is no package: give a name, with a version if needed, and no "
                "option, URL or path"
            )


def install(steps: Steps, timeout_s: float, run: Callable[[Task, float], Execution]) -> Execution:
    """Run both steps, each by ``run`` with the seconds it may take, and return what came of them.

    The second is left out if the first fails.
    """
    downloaded = steps.settings.redacted(run(steps.download, timeout_s))
    if downloaded.stopped:
        return _noted(downloaded, "The download was stopped: nothing was installed.")
    if downloaded.exit_code != 0:
        has_tried = any(text in downloaded.stderr for text in _NOT_STARTED)
        return _noted(downloaded, _ONLY_WHOLE) if has_tried else downloaded
    if _has_secret(steps.download.mounts.get(DOWNLOADS, ""), steps.settings.secrets):
        note = "What was downloaded has a password of the index in it: nothing was installed."
        return replace(_noted(downloaded, note), exit_code=1)
    rest_s = max(0.0, timeout_s - downloaded.duration_ms / 1000)
    installed = run(steps.installation, rest_s)
    if installed.stopped:
        installed = _noted(installed, "The installation was stopped: it may be incomplete.")
    return Execution(
        stdout=downloaded.stdout + installed.stdout,
        stderr=downloaded.stderr + installed.stderr,
        exit_code=installed.exit_code,
        duration_ms=downloaded.duration_ms + installed.duration_ms,
        stdout_bytes=downloaded.stdout_bytes + installed.stdout_bytes,
        stderr_bytes=downloaded.stderr_bytes + installed.stderr_bytes,
        truncated=downloaded.truncated or installed.truncated,
        stopped=installed.stopped,
    )


def python_steps(
    names: Sequence[str], programs: Programs, cache: str, settings: IndexSettings
) -> Steps:
    """Return the steps that install packages into the venv of an environment."""
    pip = [programs.python, "-I", f"{CODE_DIR}/{_PIP_NAME}"]
    common = ["--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    common += ["--no-cache-dir", "--progress-bar", "off"]
    files = f"{DOWNLOADS}/{_FILES}"
    download = [*pip, "download", *common, "--dest", files, "--", *names]
    target = f"{SANDBOX_HOME}/{VENV}/bin/python"
    # Isolated from the configuration of the agent, which could name another target.
    offline = [*pip, "--isolated", "--python", target, "install", *common]
    offline += ["--no-index", "--find-links", files, "--", *names]
    code = {_PIP_NAME: _PIP}
    return Steps(
        _download(download, cache, settings, code, {}),
        Task(
            offline,
            mounts={},
            readable={DOWNLOADS: cache},
            code=code,
            # So that no module in the workspace has the name of one that pip needs.
            variables={"PYTHONPATH": ""},
        ),
        settings,
    )


def node_steps(
    names: Sequence[str], programs: Programs, cache: str, settings: IndexSettings
) -> Steps:
    """Return the steps that install packages into ``node_modules`` of an environment."""
    npm = [programs.npm, "install", *_NPM_OPTIONS, "--cache", f"{DOWNLOADS}/{_FILES}"]
    download = [*npm, "--no-save", "--prefix", f"{DOWNLOADS}/{_WORK}", "--", *names]
    # The cache knows each package by the URL of its registry.
    registries = [f"--{option}={url}" for option, url in settings.registries.items()]
    return Steps(
        _download(download, cache, settings, {}, _NO_GIT),
        Task(
            [*npm, "--offline", *registries, "--", *names],
            # npm writes to its cache; it is removed afterwards.
            mounts={DOWNLOADS: cache},
            variables=_NO_GIT,
        ),
        settings,
    )


def steps_for(
    runtime: Runtime, names: Sequence[str], programs: Programs, cache: str, root: str
) -> Steps:
    """Return the steps for a runtime, with the settings of the operator as they are now."""
    if runtime is Runtime.PYTHON:
        return python_steps(names, programs, cache, pip_settings(os.environ, root))
    return node_steps(names, programs, cache, npm_settings(os.environ))


def _download(
    command: Sequence[str],
    cache: str,
    settings: IndexSettings,
    code: Mapping[str, bytes],
    variables: Mapping[str, str],
) -> Task:
    return Task(
        command,
        mounts={DOWNLOADS: cache},
        readable={path: path for path in settings.directories},
        code={**settings.files, **code},
        variables={**settings.variables, "TMPDIR": f"{DOWNLOADS}/{_TMP}", **variables},
        is_download=True,
    )


def _has_secret(cache: str, secrets: Sequence[str]) -> bool:
    """Return whether a file that was downloaded has a secret in it, which the agent would see."""
    wanted = [secret.encode() for secret in secrets if len(secret) >= _MIN_SECRET_LENGTH]
    for directory, below in directories(cache) if wanted else ():
        for name in os.listdir(directory):
            if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                below.append(name)
                continue
            with suppress(OSError), open(_opened(name, directory), "rb") as file:
                content = file.read()
                if any(secret in content for secret in wanted):
                    return True
    return False


def _opened(name: str, directory: int) -> int:
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)


def _noted(result: Execution, note: str) -> Execution:
    return replace(result, stderr=f"{result.stderr}\n{note}\n".lstrip("\n"))


@contextmanager
def new_cache(root: str) -> Iterator[str]:
    """Make a directory below ``root`` for the downloads of one installation; remove it afterwards.

    It belongs to the installation while that holds a lock, which the kernel releases if the
    server is killed.
    """
    parent = os.path.join(root, PACKAGES)
    with suppress(FileExistsError):
        make_dir(parent)
    with _locked(parent, fcntl.LOCK_EX):
        _remove_abandoned(parent)
        cache = tempfile.mkdtemp(dir=parent)
        held = _lock(cache, fcntl.LOCK_SH)
    try:
        for name in (_FILES, _WORK, _TMP):
            make_dir(os.path.join(cache, name))
        yield cache
    finally:
        try:
            remove_tree(cache)
        except OSError as error:
            _log.warning("cannot remove %s, the next installation will: %s", cache, error)
        finally:
            os.close(held)


def remove_abandoned(root: str) -> None:
    """Remove what installations of killed servers have downloaded."""
    parent = os.path.join(root, PACKAGES)
    with suppress(FileNotFoundError), _locked(parent, fcntl.LOCK_EX):
        _remove_abandoned(parent)


def _remove_abandoned(parent: str) -> None:
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        with suppress(OSError), _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            remove_tree(path)


@contextmanager
def _locked(directory: str, kind: int) -> Iterator[None]:
    descriptor = _lock(directory, kind)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(directory: str, kind: int) -> int:
    """Lock a directory until the returned descriptor is closed."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, kind)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
