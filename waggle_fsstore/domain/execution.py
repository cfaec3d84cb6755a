# SPDX-License-Identifier: Apache-2.0
"""Execution: a program that runs in an environment, and what came of it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

#: How many packages are installed at once.
MAX_PACKAGES: Final = 50


class Stop(StrEnum):
    """Why a program was stopped before its end."""

    NONE = ""
    TIMEOUT = "timeout"
    MEMORY = "memory"
    DISK = "disk"
    OUTPUT = "output"
    CANCELLED = "cancelled"
    #: The environment was removed while the program ran.
    DESTROYED = "destroyed"
    #: The server ended.
    SHUTDOWN = "shutdown"


class Stdio(NamedTuple):
    """Descriptors that replace the standard streams of a program; the caller closes them.

    Without ``stdin`` the program reads nothing. What it writes to a descriptor is not kept, and
    not limited. A terminal for all three, with ``is_terminal``, becomes its controlling one.
    """

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    is_terminal: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """What a program wrote and how it ended.

    - ``stdout``, ``stderr``: what it wrote, as text: bytes that are not UTF-8 are U+FFFD. Of long
      output, the beginning and the end, with the number of bytes left out between them.
    - ``exit_code``: as a shell reports it, so 128 and the number of the signal that ended it;
      -1 for a program that was stopped.
    - ``duration_ms``: how long it ran, in milliseconds.
    - ``stdout_bytes``, ``stderr_bytes``: how many bytes it wrote.
    - ``truncated``: whether some of them were left out.
    - ``stopped``: why it was stopped, if it was.
    """

    stdout: str
    stderr: str
    exit_code: int
    duration_ms: int
    stdout_bytes: int
    stderr_bytes: int
    truncated: bool
    stopped: Stop = Stop.NONE
