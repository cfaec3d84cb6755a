# SPDX-License-Identifier: Apache-2.0
"""The executor of this machine: runs programs in the workspaces of the local provider."""

import configparser
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Final, Protocol

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.environment import Environment, Runtime
from waggle_fsstore.domain.errors import (
    ExecutionUnavailableError,
    ProviderError,
    RuntimeUnavailableError,
    TooManyExecutionsError,
)
from waggle_fsstore.domain.execution import Execution, Stdio, Stop
from waggle_fsstore.domain.workspace_file import SANDBOX_HOME
from waggle_fsstore.provider import layout
from waggle_fsstore.provider.layout import HOME, TMP, VENV
from waggle_fsstore.provider.packages import (
    check_names,
    install,
    new_cache,
    remove_abandoned,
    steps_for,
)
from waggle_fsstore.provider.sandbox import ownership
from waggle_fsstore.provider.sandbox.limits import DiskWatch, Limits
from waggle_fsstore.provider.sandbox.process import SetupError
from waggle_fsstore.provider.sandbox.sandbox import Task
from waggle_fsstore.provider.sandbox.slots import Slots
from waggle_fsstore.provider.sandbox.view import CODE_DIR, Programs
from waggle_fsstore.provider.workspace_dirs import dir_name

SANDBOX_TMP: Final = "/tmp"  # noqa: S108  # That of the sandbox.

# How long a failed check of the machine holds.
_CHECK_INTERVAL_S: Final = 60.0
_CHECK_TIMEOUT_S: Final = 30.0

# The workspaces whose size is remembered.
_MAX_KNOWN: Final = 10_000

# How long a call waits while as many programs run as may.
_SLOT_TIMEOUT_S: Final = 30.0

_CODE_NAMES: Final = {Runtime.PYTHON: "main.py", Runtime.NODE: "main.js", Runtime.SHELL: "main.sh"}

# Begins a session whose controlling terminal is standard input, and becomes the command after it.
_TAKE_TERMINAL: Final = "import os, sys; os.login_tty(0); os.execvp(sys.argv[1], sys.argv[1:])"

_log: Final = logging.getLogger(__name__)


class Runner(Protocol):
    """Runs one program: isolated, or not."""

    @property
    def programs(self) -> Programs:
        """The interpreters, by their paths for a program that it runs."""
        ...

    @property
    def user(self) -> tuple[int, int] | None:
        """The user and group that programs run as, ``None`` for those of this process."""
        ...

    def run(
        self, task: Task, limits: Limits, timeout_s: float, check: Callable[[], Stop]
    ) -> Execution:
        """See :meth:`Sandbox.run`."""
        ...


class LocalExecutor:
    """Runs programs in the workspaces below ``root``, as :class:`Executor` says.

    ``find_runner`` returns what runs them; it raises ``LookupError`` with the reason if there is
    nothing here that could.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        find_runner: Callable[[], Runner],
        *,
        provider: str,
        is_isolated: bool = True,
        limits: Limits = Limits(),  # noqa: B008  # Immutable.
        slots: Slots | None = None,
        may_install: bool = True,
    ) -> None:
        self._root = os.path.abspath(root)
        self._find_runner = find_runner
        self._provider = provider
        self.is_isolated: Final = is_isolated
        self.may_install: Final = may_install
        self._limits = limits
        self._slots = slots or Slots(4)
        self._lock = threading.Lock()
        self._runner: Runner | None = None
        self._reason = ""
        self._checked_at = -_CHECK_INTERVAL_S
        self._is_closed = False
        # By environment: many small programs must not write what one large one may not.
        self._disks: dict[str, DiskWatch] = {}
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """Replace the lock in a forked child: a thread of the parent may have held it."""
        self._lock = threading.Lock()

    def why_unavailable(self) -> str:
        """Return why nothing can be run here, "" if something can. Runs a program to find out."""
        with self._lock:
            is_due = monotonic() - self._checked_at >= _CHECK_INTERVAL_S
            if self._runner is None and is_due:
                self._reason = self._check()
                self._checked_at = monotonic()
            return self._reason

    @property
    def limits(self) -> Limits:
        """What one program may use."""
        return self._limits

    def execute(
        self,
        environment: Environment,
        code: str,
        language: Runtime,
        *,
        timeout: timedelta,
        stop: Callable[[], Stop],
    ) -> Execution:
        """Run code; see :class:`Executor`. It is in a file that the program can read."""
        name = _CODE_NAMES[language]
        command = [self._interpreter(environment, language), f"{CODE_DIR}/{name}"]
        return self.run(
            environment,
            command,
            timeout=timeout,
            stop=stop,
            code={name: code.encode(errors="replace")},
        )

    def run(
        self,
        environment: Environment,
        command: Sequence[str],
        *,
        timeout: timedelta,
        stop: Callable[[], Stop],
        stdio: Stdio = Stdio(),  # noqa: B008  # Immutable.
        code: Mapping[str, bytes] | None = None,
    ) -> Execution:
        """Run a command in the workspace of an environment; see :class:`Executor`."""
        if stdio.is_terminal:
            command = [self.python, "-ISc", _TAKE_TERMINAL, *command]
        task = Task(command, {}, code=code or {}, stdio=stdio)
        with self._slot(environment, stop):
            return self._run(environment, task, timeout.total_seconds(), stop)

    def install(
        self,
        environment: Environment,
        packages: Sequence[str],
        *,
        timeout: timedelta,
        stop: Callable[[], Stop],
    ) -> Execution:
        """Install packages; see :class:`Executor`. They are downloaded apart from the workspace."""
        runtime = environment.runtime
        if runtime is Runtime.SHELL:
            raise ProviderError(self._provider, "a shell environment has no package manager")
        check_names(runtime, packages)
        programs = self._require_runner().programs
        if runtime is Runtime.NODE and not programs.npm:
            raise RuntimeUnavailableError(self._provider, "npm is not installed here", runtime)
        with self._slot(environment, stop), self._new_cache() as cache:
            try:
                steps = steps_for(runtime, packages, programs, cache, self._root)
            except configparser.Error as error:
                # Its text may have lines of the file, with a password.
                path = getattr(error, "source", "")
                _log.error("the configuration file of pip %s is not valid: correct it", path)
                reason = "a configuration file of pip on this server is not valid"
                raise ProviderError(self._provider, reason) from None
            return install(
                steps,
                timeout.total_seconds(),
                lambda task, timeout_s: self._run(environment, task, timeout_s, stop),
            )

    def run_in_place(
        self,
        environment: Environment,
        command: Sequence[str],
        *,
        timeout: timedelta,
        stop: Callable[[], Stop],
    ) -> Execution:
        """Run a command in a workspace that may not be complete yet."""
        return self._run(environment, Task(command, {}), timeout.total_seconds(), stop)

    def _run(
        self, environment: Environment, task: Task, timeout_s: float, stop: Callable[[], Stop]
    ) -> Execution:
        """Run a task in the workspace of an environment, a download without that."""
        runner = self._require_runner()
        directory = os.path.join(self._root, dir_name(environment.id))
        home = os.path.join(directory, HOME)
        workspace = {SANDBOX_HOME: home, SANDBOX_TMP: os.path.join(directory, TMP)}
        mounts = {**({} if task.is_download else workspace), **task.mounts}
        try:
            if runner.user is not None:
                ownership.give(mounts.values(), runner.user)
            place = _identity(home)
            disk = self._disk_of(environment, tuple(mounts.values()), is_kept=not task.is_download)
        except OSError as error:
            reason = f"cannot use its workspace: {error.strerror}"
            raise ProviderError(self._provider, reason) from error

        def check() -> Stop:
            if self._is_closed:
                return Stop.SHUTDOWN
            if _identity(home) != place:
                return Stop.DESTROYED
            return stop() or disk.check()

        try:
            return runner.run(task._replace(mounts=mounts), self._limits, timeout_s, check)
        except SetupError as error:
            _log.error("a sandbox could not be set up: %s", error)
            if stopped := check():
                return _stopped_early(stopped)
            raise ProviderError(self._provider, "its sandbox could not be set up") from error

    def _disk_of(
        self, environment: Environment, directories: tuple[str, ...], *, is_kept: bool
    ) -> DiskWatch:
        """Return the watch over directories: the one of the last call, if it is kept."""
        known = self._disks.get(environment.id) if is_kept else None
        if known is None:
            known = DiskWatch(directories, self._limits.disk_bytes)
            if is_kept:
                if len(self._disks) >= _MAX_KNOWN:
                    self._disks.clear()
                self._disks[environment.id] = known
        return known

    def close(self) -> None:
        """Stop all programs, and start no more."""
        self._is_closed = True

    @property
    def python(self) -> str:
        """The interpreter that a venv is made with, by its path for a program."""
        return self._require_runner().programs.python

    @contextmanager
    def _slot(self, environment: Environment, stop: Callable[[], Stop]) -> Iterator[None]:
        """Run the block while one program more may run in a workspace that is complete."""
        layout.require(self._root, environment, self._provider)
        with self._slots.hold(environment.id, _SLOT_TIMEOUT_S, lambda: not stop()) as reason:
            if reason:
                raise TooManyExecutionsError(self._provider, reason)
            yield

    @contextmanager
    def _new_cache(self) -> Iterator[str]:
        with ExitStack() as cleanup:
            try:
                cache = cleanup.enter_context(new_cache(self._root))
            except OSError as error:
                reason = f"cannot make a directory for downloads: {error.strerror}"
                raise ProviderError(self._provider, reason) from error
            yield cache

    def _interpreter(self, environment: Environment, language: Runtime) -> str:
        programs = self._require_runner().programs
        if language is Runtime.PYTHON and environment.runtime is Runtime.PYTHON:
            return f"{SANDBOX_HOME}/{VENV}/bin/python"
        found = {
            Runtime.PYTHON: programs.python,
            Runtime.NODE: programs.node,
            Runtime.SHELL: programs.shell,
        }[language]
        if not found:
            reason = f"the program for {language} is not installed here"
            raise RuntimeUnavailableError(self._provider, reason, language)
        return found

    def _require_runner(self) -> Runner:
        if reason := self.why_unavailable():
            raise ExecutionUnavailableError(self._provider, reason)
        if self._is_closed:
            raise ExecutionUnavailableError(self._provider, "the server is ending")
        assert self._runner is not None  # noqa: S101  # For the type checker.
        return self._runner

    def _check(self) -> str:
        """Find a runner, and return why there is none, "" if there is."""
        try:
            remove_abandoned(self._root)
        except OSError as error:
            _log.warning("cannot remove the downloads of a killed server: %s", error)
        try:
            runner = self._find_runner()
            programs = runner.programs
            for command in ([programs.shell, "-c", ":"], [programs.python, "-c", ""]):
                result = runner.run(
                    Task(command, {}), self._limits, _CHECK_TIMEOUT_S, lambda: Stop.NONE
                )
                if result.exit_code != 0:
                    raise SetupError(result.stderr or f"{command[0]}: {result.stopped}")
        except LookupError as error:
            return str(error.args[0])
        except (SetupError, OSError) as error:
            _log.warning("programs cannot be isolated here: %s", error)
            return _explanation_of(str(error))
        self._runner = runner
        return ""


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _stopped_early(stopped: Stop) -> Execution:
    return Execution(
        stdout="",
        stderr="",
        exit_code=-1,
        duration_ms=0,
        stdout_bytes=0,
        stderr_bytes=0,
        truncated=False,
        stopped=stopped,
    )


# What bubblewrap writes, and what that means for an operator.
_EXPLANATIONS: Final = (
    (
        "Creating new namespace failed: Operation not permitted",
        "root may not make namespaces, as in a container: run the server as another user",
    ),
    ("Creating new namespace failed", "user namespaces are disabled (user.max_user_namespaces)"),
    ("No permissions to creat", "user namespaces are not permitted: seccomp of a container?"),
    ("Can't mount proc", "/proc is masked, as in a container: it needs an unmasked /proc"),
    ("pivot_root: Operation not permitted", "pivot_root is not permitted: seccomp of a container?"),
    ("Failed to make / slave", "mounts are not permitted: AppArmor of a container?"),
    ("setting up uid map", "AppArmor restricts user namespaces: install the package bubblewrap"),
    ("RTM_NEWADDR", "AppArmor restricts user namespaces: install the package bubblewrap"),
    ("Permission denied", "the user of programs may not read an interpreter or the workspaces"),
)


def _explanation_of(text: str) -> str:
    found = [meaning for start, meaning in _EXPLANATIONS if start in text]
    return found[0] if found else "bubblewrap cannot set up a sandbox here; the log says why"
