# SPDX-License-Identifier: Apache-2.0
"""The removal of several environments, of which no failure stops the others."""

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from waggle_fsstore.domain.audit import as_reason
from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import (
    DestroyPendingError,
    EnvironmentNotFoundError,
    WaggleError,
)
from waggle_fsstore.service import transitions
from waggle_fsstore.service.error_text import reason_of

_log: Final = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What became of one environment: its status now, and a line about it without paths."""

    environment_id: str
    status: Status
    message: str


class _Destroy(Protocol):
    """Destroys one environment, see :meth:`EnvironmentService.destroy`."""

    def __call__(self, environment_id: str, *, only_if: Callable[[Environment], bool]) -> bool: ...


def destroy_each(
    environments: Iterable[Environment],
    labels: Mapping[str, str],
    destroy: _Destroy,
    find: Callable[[str], Environment],
) -> list[Outcome]:
    """Destroy each environment that still has the labels, and return what became of each."""
    text = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    with transitions.with_reason(as_reason(f"destroy was called for all with {text}")):
        return [_destroy_one(one, labels, destroy, find) for one in environments]


def _destroy_one(
    environment: Environment,
    labels: Mapping[str, str],
    destroy: _Destroy,
    find: Callable[[str], Environment],
) -> Outcome:
    gone = Outcome(environment.id, Status.DESTROYED, "it is destroyed")
    try:
        if destroy(environment.id, only_if=lambda stored: stored.has_labels(labels)):
            return gone
        message = "it is kept: its labels have changed"
    except EnvironmentNotFoundError:
        return gone  # Another thread or process was faster.
    except DestroyPendingError as error:
        message = str(error)
    except Exception as error:  # noqa: BLE001  # No failure may affect the other environments.
        _log.error("environment %s is not destroyed: %s", environment.id, error)
        message = reason_of(error)
    status = environment.status
    with suppress(WaggleError, OSError):
        status = find(environment.id).status
    return Outcome(environment.id, status, message)
