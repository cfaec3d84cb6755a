# SPDX-License-Identifier: Apache-2.0
"""What is done in the workspaces of environments: programs, packages and files.

All of it counts as use. A program that fails is a result: it changes no status.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.audit import current_author
from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.defaults import DEFAULT_EXEC_TIMEOUT
from waggle_fsstore.domain.environment import Environment, Runtime
from waggle_fsstore.domain.errors import (
    ExecutionUnavailableError,
    WorkspaceGoneError,
)
from waggle_fsstore.domain.execution import Execution, Stdio, Stop
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.domain.workspace_file import FileEntry, FilePart
from waggle_fsstore.service import transitions
from waggle_fsstore.service.executor import Executor
from waggle_fsstore.service.files import Files
from waggle_fsstore.service.membership import Membership
from waggle_fsstore.service.provider import Provider
from waggle_fsstore.service.tally import Failure, Tally
from waggle_fsstore.service.touch_buffer import IN_USE, Use

# What runs is not idle: its use is noted this often.
_USE_INTERVAL_S: Final = 30.0

_INSTALL_TIMEOUT: Final = timedelta(minutes=5)


class Workspaces:
    """The workspaces of the environments of this host.

    ``executor`` and ``files`` are ``None`` where programs cannot be run, or files not be reached.
    ``touch`` records a use of a running environment, and returns that; ``record`` adds to what the
    history will say of its use, also of one that is gone.
    """

    def __init__(
        self,
        repository: TransactionalRepository,
        provider: Provider,
        membership: Membership,
        touch: Callable[[str], Environment],
        record: Callable[[str, Use], object],
        tally: Tally,
        executor: Executor | None = None,
        files: Files | None = None,
    ) -> None:
        self._repository = repository
        self._provider = provider
        self._membership = membership
        self._touch = touch
        self._record = record
        self._tally = tally
        self._executor = executor
        self._files = files
        # The programs that run now.
        self._running = 0
        self._changed = threading.Condition()
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """Forget the programs in a forked child: they belong to the parent."""
        self._running = 0
        self._changed = threading.Condition()

    def why_no_execution(self) -> str:
        """Return why no program can be run, "" if one can."""
        if self._executor is None:
            return "execution is switched off (WAGGLE_EXECUTION)"
        return self._executor.why_unavailable()

    @property
    def kind(self) -> str:
        """How programs are run: ``isolated``, ``unisolated``, or ``off`` if they cannot be."""
        if self._executor is None or self.why_no_execution():
            return "off"
        return "isolated" if self._executor.is_isolated else "unisolated"

    @property
    def may_install(self) -> bool:
        """Whether packages can be installed."""
        return self._executor is not None and self._executor.may_install

    def execute(
        self,
        environment_id: str,
        code: str,
        *,
        language: Runtime | None = None,
        timeout: timedelta = DEFAULT_EXEC_TIMEOUT,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Execution:
        """Run code in an environment, by default in the language of its runtime.

        The program and all that it started are stopped after ``timeout``, and once
        ``is_cancelled`` returns true. Raises :class:`EnvironmentNotFoundError`,
        :class:`EnvironmentNotRunningError`, and what :class:`Executor` raises.
        """
        executor = self._require_executor()

        def execute(environment: Environment) -> Execution:
            result = executor.execute(
                environment,
                code,
                language or environment.runtime,
                timeout=timeout,
                stop=self._stop(environment_id, is_cancelled),
            )
            self._tally.executed(language or environment.runtime, result)
            return result

        with self._tally.failures_of(Failure.EXECUTION):
            return self._run(environment_id, execute)

    def run(
        self,
        environment_id: str,
        command: Sequence[str],
        *,
        timeout: timedelta = DEFAULT_EXEC_TIMEOUT,
        stdio: Stdio = Stdio(),  # noqa: B008  # Immutable.
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Execution:
        """Run a command in an environment, as :meth:`execute` runs code.

        ``stdio`` replaces its standard streams.
        """
        executor = self._require_executor()
        return self._run(
            environment_id,
            lambda environment: executor.run(
                environment,
                command,
                timeout=timeout,
                stop=self._stop(environment_id, is_cancelled),
                stdio=stdio,
            ),
        )

    def install(
        self,
        environment_id: str,
        packages: Sequence[str],
        *,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Execution:
        """Install packages for the runtime of an environment, which is stored as a change.

        Raises what :meth:`execute` raises, and ``ValueError`` for a name that is no package.
        """
        executor = self._require_executor()
        with (
            self._tally.failures_of(Failure.EXECUTION),
            self._in_use(environment_id) as environment,
            self._at_work(),
        ):
            result = executor.install(
                environment,
                packages,
                timeout=_INSTALL_TIMEOUT,
                stop=self._stop(environment_id, is_cancelled),
            )
            self._tally.installed(result)
            outcome = result.stopped or f"exit code {result.exit_code}"
            reason = f"installed {' '.join(packages)}: {outcome}"
            transitions.note(self._repository, environment_id, reason)
        return result

    def read(self, environment_id: str, path: str, *, offset: int, limit: int) -> FilePart:
        """Read a part of a file; see :class:`Files`."""
        with self._in_use(environment_id) as environment:
            return self._require_files().read(environment, path, offset=offset, limit=limit)

    def write(self, environment_id: str, path: str, content: bytes, *, offset: int = 0) -> int:
        """Write a file, and return its size in bytes; see :class:`Files`."""
        with self._in_use(environment_id) as environment:
            return self._require_files().write(environment, path, content, offset=offset)

    def entries(self, environment_id: str, path: str) -> list[FileEntry]:
        """Return the entries of a directory; see :class:`Files`."""
        with self._in_use(environment_id) as environment:
            return self._require_files().entries(environment, path)

    def close(self) -> None:
        """Stop all programs, and start no more."""
        if self._executor is not None:
            self._executor.close()

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait ``timeout`` seconds until no program runs; return whether that happened."""
        with self._changed:
            return self._changed.wait_for(lambda: self._running == 0, timeout)

    def _run(self, environment_id: str, call: Callable[[Environment], Execution]) -> Execution:
        """Run a program by a call, and record who ran it and how it ended."""
        actor = current_author().actor
        with self._in_use(environment_id) as environment, self._at_work():
            # Before it runs, because the environment may be removed before its end.
            self._record(environment_id, Use((actor,), 1))
            try:
                result = call(environment)
            except BaseException:
                self._record(environment_id, Use((), -1))  # It was not run.
                raise
            outcome = result.stopped or f"exit code {result.exit_code}"
            self._record(environment_id, Use((), 0, outcome))
        return result

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._changed:
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def _in_use(self, environment_id: str) -> Iterator[Environment]:
        """Let the block work in a running environment of this host, which is a use of it."""
        environment = self._repository.find_by_id(environment_id)
        transitions.require_running(environment)
        transitions.require_provider(environment, self._provider)
        self._membership.require(environment, self._provider.name)
        environment = self._touch(environment_id)
        try:
            yield environment
        except WorkspaceGoneError:
            # Destroyed in the meantime? Then that is the error.
            transitions.require_running(self._repository.find_by_id(environment_id))
            raise

    def _stop(self, environment_id: str, is_cancelled: Callable[[], bool]) -> Callable[[], Stop]:
        noted_at = monotonic()

        def stop() -> Stop:
            nonlocal noted_at
            if monotonic() - noted_at >= _USE_INTERVAL_S:
                noted_at = monotonic()
                # Without a look at the store: nothing else is watched in the meantime.
                self._record(environment_id, IN_USE)
            return Stop.CANCELLED if is_cancelled() else Stop.NONE

        return stop

    def _require_executor(self) -> Executor:
        if reason := self.why_no_execution():
            raise ExecutionUnavailableError(self._provider.name, reason)
        assert self._executor is not None  # noqa: S101  # For the type checker.
        return self._executor

    def _require_files(self) -> Files:
        if self._files is None:
            raise ExecutionUnavailableError(self._provider.name, "its files cannot be reached")
        return self._files
