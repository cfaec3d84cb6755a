# SPDX-License-Identifier: Apache-2.0
"""The contract of executors, which run programs in environments, isolated from the host."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol

from waggle_fsstore.domain.environment import Environment, Runtime
from waggle_fsstore.domain.execution import Execution, Stdio, Stop


class Executor(Protocol):
    """Runs programs in the workspaces that a provider made.

    A program sees its own workspace as its home directory, and no other one. Once a call
    returns or raises, nothing that it started is running. Every method may be called from any
    thread, concurrently for the same environment too.

    An executor changes no status of an environment: a program that fails is a result. Raises
    :class:`ProviderError` if the program could not be started,
    :class:`ExecutionUnavailableError` if none can be, and :class:`TooManyExecutionsError`.
    """

    @property
    def is_isolated(self) -> bool:
        """Whether programs are kept from everything but their workspace."""
        ...

    @property
    def may_install(self) -> bool:
        """Whether packages can be installed: their download needs the network."""
        ...

    def why_unavailable(self) -> str:
        """Return why no program can be run here, "" if one can."""
        ...

    def execute(
        self,
        environment: Environment,
        code: str,
        language: Runtime,
        *,
        timeout: timedelta,
        stop: Callable[[], Stop],
    ) -> Execution:
        """Run code in an environment, and return what came of it.

        The program is stopped after ``timeout``, and as soon as ``stop``, which is called
        often, returns a reason.
        """
        ...

    def run(
        self,
        environment: Environment,
        command: Sequence[str],
        *,
        timeout: timedelta,
        stop: Callable[[], Stop],
        stdio: Stdio,
    ) -> Execution:
        """Run a command, a program on the search path and its arguments, as :meth:`execute`."""
        ...

    def install(
        self,
        environment: Environment,
        packages: Sequence[str],
        *,
        timeout: timedelta,
        stop: Callable[[], Stop],
    ) -> Execution:
        """Install packages for the runtime of an environment; the result is the installer's.

        Raises ``ValueError`` for a name that is no package, and :class:`ProviderError` for a
        runtime that has no packages.
        """
        ...

    def close(self) -> None:
        """Stop all programs, and start no more. Safe to repeat."""
        ...
