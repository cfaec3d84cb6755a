# SPDX-License-Identifier: Apache-2.0
"""The contract of providers, which make environments real and remove them again."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol

from waggle_fsstore.domain.environment import Capabilities, Environment
from waggle_fsstore.domain.errors import WorkspaceGoneError

#: The labels that give a python environment pip.
WITH_PIP: Final = {"pip": "yes"}


class Leftovers(NamedTuple):
    """What is left of environments that were removed.

    - ``orphans``: the number of workspaces that could not be removed; the log has the reasons.
    - ``trash_bytes``: how much the workspaces take that are kept for a while.
    """

    orphans: int
    trash_bytes: int


class Provider(Protocol):
    """Makes, checks and removes the workspaces of environments.

    It keeps no records: the store does. The provider finds a workspace by its environment
    alone, even if another process made it, or this one before it was killed. Every method
    may be called from any thread, concurrently for different environments and for the same
    one. A class that names this one as its base inherits the methods of a provider that keeps
    nothing of what it removed.

    A failure raises :class:`ProviderError`, whose ``reason`` contains no path.

    Execution and access to files are not part of this contract: a provider that offers them
    implements a second protocol beside this one, with the same environment as the first
    argument.
    """

    @property
    def name(self) -> str:
        """The name, which environments carry as ``provider``."""
        ...

    @property
    def former_names(self) -> frozenset[str]:
        """Names under which earlier versions stored environments that are this provider's."""
        return frozenset()

    def create(self, environment: Environment) -> Capabilities:
        """Make the workspace, ready for use, and return what it offers.

        May take long. If it raises, a part of the workspace may be left, which
        :meth:`remove` removes. Raises :class:`RuntimeUnavailableError` if the runtime is not
        installed here.
        """
        ...

    def probe(self, environment: Environment) -> Capabilities:
        """Return what the workspace offers now.

        Raises :class:`WorkspaceGoneError` only if the workspace is gone or broken: the
        environment then cannot be used, until a later probe finds it whole again. Runs nothing
        of the workspace and follows no link in it.
        """
        ...

    def locate(self, environment: Environment) -> str:
        """Return where the user finds the workspace, such as the path of a directory.

        The workspace need not exist.
        """
        ...

    def adopt(self, environment: Environment) -> None:  # noqa: ARG002  # A default.
        """Bring a workspace that an earlier version made, or a backup restored, up to date.

        Called before the first :meth:`probe` of a server, for environments that were once
        running. Does nothing for a workspace that is up to date, missing or of another
        environment. An interrupted call can be repeated.
        """
        return

    def remove(self, environment: Environment, *, keep: bool = False) -> None:
        """Remove the workspace, complete or not. A missing workspace is not an error.

        Takes no longer for a large one. Once this returns, the environment has no workspace
        any more. What it had is kept for a while, for :meth:`restore`, or else deleted in the
        background. What cannot be deleted is reported to the operator, and tried again. An
        interrupted call can be repeated.
        """
        ...

    def has_files(self, environment: Environment) -> bool:  # noqa: ARG002  # A default.
        """Return whether there is anything of a workspace, in place or kept."""
        return False

    def restore(self, environment: Environment) -> None:  # noqa: ARG002  # A default.
        """Bring back the workspace that was removed last and kept.

        One that is in its place stays there. Raises :class:`WorkspaceGoneError` if there is
        neither. An interrupted call can be repeated.
        """
        raise WorkspaceGoneError(self.name, "its files are gone")

    def tidy(self, lived: timedelta, known: Iterable[str]) -> None:  # noqa: ARG002  # A default.
        """Continue in the background to delete what was removed and is not kept any longer.

        ``lived`` is for how long a server has run since the last call; only that time counts.
        What belongs to a ``known`` id is never deleted. Returns at once.
        """
        return

    def free_space(self, environment: Environment) -> bool:  # noqa: ARG002  # A default.
        """Make room on a full disk for an environment that is about to be removed.

        Deletes the oldest workspace that is kept, or else that of the environment, and waits
        until it is deleted. Returns false if there is neither, or it is on another disk than
        the store.
        """
        return False

    @property
    def leftovers(self) -> Leftovers:
        """What is left of removed environments, as far as this process knows."""
        return Leftovers(0, 0)

    def kept_since(self) -> datetime | None:
        """Return when the oldest workspace that is kept was removed, ``None`` without any."""
        return None

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
