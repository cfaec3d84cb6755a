# SPDX-License-Identifier: Apache-2.0
"""The contract of providers, which make environments real and remove them again."""

from collections.abc import Iterable
from typing import Final, Protocol

from waggle_fsstore.domain.environment import Capabilities, Environment

#: The labels that give a python environment pip.
WITH_PIP: Final = {"pip": "yes"}


class Provider(Protocol):
    """Makes, checks and removes the workspaces of environments.

    It keeps no records: the store does. The provider finds a workspace by its environment
    alone, even if another process made it, or this one before it was killed. Every method
    may be called from any thread, concurrently for different environments and for the same
    one.

    A failure raises :class:`ProviderError`, whose ``reason`` contains no path.

    Execution and access to files are not part of this contract: a provider that offers them
    implements a second protocol beside this one, with the same environment as the first
    argument.
    """

    @property
    def name(self) -> str:
        """The name, which environments carry as ``provider``."""
        ...

    def create(self, environment: Environment) -> Capabilities:
        """Make the workspace, ready for use, and return what it offers.

        May take long. If it raises, a part of the workspace may be left, which
        :meth:`remove` removes. Raises :class:`RuntimeUnavailableError` if the runtime is not
        installed here.
        """
        ...

    def probe(self, environment: Environment) -> Capabilities:
        """Return what the workspace offers now.

        Raises :class:`WorkspaceGoneError` only if the workspace is gone or broken for good:
        the caller then gives the environment up.
        """
        ...

    def locate(self, environment: Environment) -> str:
        """Return where the user finds the workspace, such as the path of a directory.

        The workspace need not exist.
        """
        ...

    def remove(self, environment: Environment) -> None:
        """Remove the workspace, complete or not. A missing workspace is not an error.

        Once this returns, nothing of it is left. An interrupted call can be repeated.
        """
        ...

    def find_orphans(self, known: Iterable[str]) -> list[str]:
        """Return the names of workspaces that belong to none of the ``known`` ids, sorted."""
        ...

    def check(self) -> None:
        """Raise :class:`ProviderError` if no workspace could be made now. Changes nothing.

        While this raises, no environment becomes *error* and none expires.
        """
        ...

    def close(self) -> None:
        """Interrupt running calls of :meth:`create`, which then raise, and refuse new ones."""
        ...
