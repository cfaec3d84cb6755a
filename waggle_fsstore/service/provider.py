# SPDX-License-Identifier: Apache-2.0
"""What a provider promises: it makes environments real, and takes them away again."""

from collections.abc import Iterable
from typing import Final, Protocol

from waggle_fsstore.domain.environment import Capabilities, Environment

#: The labels of a python environment that is to have pip.
WITH_PIP: Final = {"pip": "yes"}


class Provider(Protocol):
    """Makes, checks and removes what an environment runs in, here called its workspace.

    It keeps no records: the store does, and the provider finds a workspace by the
    environment alone, also one that another process made, or that it made before it was
    killed. Every call may come from any thread, those about different environments at
    once, and about the same one too.

    What fails raises :class:`ProviderError`, whose ``reason`` names no paths.

    Execution and access to files are no part of this: a provider that offers them
    implements a protocol of their own beside this one, with the same environment as the
    first argument.
    """

    @property
    def name(self) -> str:
        """Its name, which environments carry as ``provider``."""
        ...

    def create(self, environment: Environment) -> Capabilities:
        """Make the workspace, ready to be used; returns what was found in it.

        Takes as long as it takes. When it raises, what it made so far may be left:
        :meth:`remove` clears it away. Raises :class:`RuntimeUnavailableError` for a runtime
        that is not installed here.
        """
        ...

    def probe(self, environment: Environment) -> Capabilities:
        """What can be used in the workspace now.

        Raises :class:`WorkspaceGoneError` if it is gone or broken for good, and only then:
        whoever hears that gives the environment up.
        """
        ...

    def locate(self, environment: Environment) -> str:
        """Where its user finds the workspace, such as the path of a folder.

        Says where it would be, whether or not it is there.
        """
        ...

    def remove(self, environment: Environment) -> None:
        """Remove the workspace, whole or half made; what is not there is removed already.

        Once this returns, nothing of it is left. Cut short, it can be repeated.
        """
        ...

    def find_strays(self, known: Iterable[str]) -> list[str]:
        """The names of workspaces that belong to none of these ids, sorted."""
        ...

    def check(self) -> None:
        """Raise :class:`ProviderError` if no workspace could be made now. Changes nothing.

        While it raises, no environment is judged, and none expires.
        """
        ...

    def close(self) -> None:
        """Cut short what is being created, which then raises; create no more."""
        ...
