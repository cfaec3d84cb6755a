# SPDX-License-Identifier: Apache-2.0
"""The contract of access to the files of environments, from outside of them."""

from typing import Protocol

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.workspace_file import FileEntry, FilePart


class Files(Protocol):
    """Reads and writes the files in the workspaces that a provider made.

    Paths are those that a program in the environment sees: relative to its home directory, or
    absolute in it. Links are followed as such a program would follow them, and lead nowhere
    else, also while one replaces directories by links. Every method may be called from any
    thread.

    Raises :class:`WorkspacePathError` for a path that leads out of the workspace, is missing, or
    is not of the kind asked for, and :class:`ProviderError` for a missing workspace.
    """

    def read(self, environment: Environment, path: str, *, offset: int, limit: int) -> FilePart:
        """Return up to ``limit`` bytes of a file, from an offset on."""
        ...

    def write(self, environment: Environment, path: str, content: bytes, *, offset: int = 0) -> int:
        """Write a file, with the directories on the way; return its size in bytes.

        The file ends with the content. What it had before ``offset`` stays, so that a large file
        can be written in parts. An existing file keeps its mode. Raises
        :class:`WorkspacePathError` for more than ``MAX_FILE_BYTES`` at once.
        """
        ...

    def entries(self, environment: Environment, path: str) -> list[FileEntry]:
        """Return the entries of a directory, by name. Links are listed and not followed."""
        ...
