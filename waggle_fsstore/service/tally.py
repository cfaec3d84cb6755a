# SPDX-License-Identifier: Apache-2.0
"""The tally: what a service has done since it began, in numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

from waggle_fsstore.domain.environment import Runtime
from waggle_fsstore.domain.errors import (
    CapacityError,
    CreationCancelledError,
    DestroyPendingError,
    EnvironmentNotFoundError,
    EnvironmentNotRunningError,
    IdempotencyKeyReusedError,
    NoFreePortError,
    OtherHostError,
    TooManyExecutionsError,
)
from waggle_fsstore.domain.execution import Execution, Stop


class Failure(StrEnum):
    """What failed, for reasons that are not the caller's."""

    #: A creation was refused: as many environments are live as may be.
    CAPACITY = "capacity"
    #: A creation was refused: all ports are taken.
    PORTS = "ports"
    #: A program was refused: as many run as may run at once.
    EXECUTIONS = "executions"
    CREATION = "creation"
    REMOVAL = "removal"
    EXECUTION = "execution"
    #: The process ended that was creating an environment.
    INTERRUPTED = "interrupted"
    #: An environment was running, and its workspace is gone.
    LOST = "lost"
    #: A pass over all environments could not do its work on one of them, or at all.
    SWEEP = "sweep"


_LIMITS: Final = {
    CapacityError: Failure.CAPACITY,
    NoFreePortError: Failure.PORTS,
    TooManyExecutionsError: Failure.EXECUTIONS,
}

# Mistakes of the caller, and what is decided elsewhere.
_NO_FAILURES: Final = (
    CreationCancelledError,
    DestroyPendingError,
    EnvironmentNotFoundError,
    EnvironmentNotRunningError,
    IdempotencyKeyReusedError,
    OtherHostError,
    ValueError,
)

#: How a program ended that was not stopped.
_ENDS: Final = ("ok", "failed")

#: All ways in which a program ends.
OUTCOMES: Final = (*_ENDS, *(stop.value for stop in Stop if stop))


class Tally:
    """Numbers that only grow, each since the service began.

    Counting takes no lock: the keys are plain texts, and CPython switches threads only at calls
    and jumps.
    """

    def __init__(self) -> None:
        self.created = 0
        #: With the creations that were cancelled.
        self.destroyed = 0
        self.expired = 0
        self.failures = {failure.value: 0 for failure in Failure}
        #: By language and outcome.
        self.executions: dict[tuple[str, ...], int] = {
            (one.value, end): 0 for one in Runtime for end in OUTCOMES
        }
        #: Of packages, by outcome.
        self.installations = dict.fromkeys(OUTCOMES, 0)

    def removed(self, *, has_expired: bool) -> None:
        """Count an environment that is gone."""
        if has_expired:
            self.expired += 1
        else:
            self.destroyed += 1

    def executed(self, language: Runtime, result: Execution) -> None:
        """Count a program."""
        key = language.value, _outcome(result)
        self.executions[key] += 1

    def installed(self, result: Execution) -> None:
        """Count an installation of packages."""
        outcome = _outcome(result)
        self.installations[outcome] += 1

    def failed(self, failure: Failure, times: int = 1) -> None:
        """Count failures of one kind."""
        key = failure.value
        self.failures[key] += times

    @contextmanager
    def failures_of(self, failure: Failure) -> Iterator[None]:
        """Count an error of the block, unless it is a mistake of the caller."""
        try:
            yield
        except _NO_FAILURES:
            raise
        except Exception as error:
            self.failed(_LIMITS.get(type(error), failure))
            raise


def _outcome(result: Execution) -> str:
    """Return how a program ended: why it was stopped, else whether it was successful."""
    return result.stopped.value or _ENDS[result.exit_code != 0]
