# SPDX-License-Identifier: Apache-2.0
"""Repeated creations: the environment of the first call with an idempotency key.

A key belongs to one environment of the store, from the moment it is stored until its creation
fails or its removal begins. Then the next call with the key creates another environment.
"""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

from waggle_fsstore.domain.environment import Environment, Runtime, Status
from waggle_fsstore.domain.errors import (
    EnvironmentNotFoundError,
    IdempotencyKeyReusedError,
)
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.service import transitions
from waggle_fsstore.service.cancellation import Cancellation
from waggle_fsstore.service.reconcile import fail_interrupted_creation

# How often to look whether another thread or process is done.
_POLL_INTERVAL_S: Final = 0.02


def digest(
    runtime: Runtime, name: str | None, timeout: timedelta | None, labels: dict[str, str] | None
) -> str:
    """Return a digest of the arguments of a call, which leaves out those that were not given.

    So a later version that adds an argument finds the environments of earlier calls.
    """
    arguments = {
        "runtime": runtime.value,
        "name": name,
        "timeout": None if timeout is None else timeout // timedelta(microseconds=1),
        "labels": labels or None,
    }
    given = {key: value for key, value in arguments.items() if value is not None}
    text = json.dumps(given, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def find_key_of(repository: TransactionalRepository, new: Environment) -> str | None:
    """Return the id of the environment with the same idempotency key; ``None`` without one.

    This spares a repeated call the lock, a free port and room on the disk. Of concurrent calls,
    :meth:`TransactionalRepository.create` lets one through.
    """
    if new.idempotency is None:
        return None
    stored = repository.find_all(on_corrupt=lambda _: None)
    return next((one.id for one in stored if one.has_key_of(new)), None)


def await_creation(
    repository: TransactionalRepository,
    environment_id: str,
    new: Environment,
    cancellation: Cancellation,
    owns: Callable[[Environment], bool],
) -> Environment | None:
    """Return the environment with the key of ``new``, once no process is creating it.

    ``None`` if the key is free again, also because the process that was creating it ended:
    that can be told of those that this host ``owns``.
    Raises :class:`IdempotencyKeyReusedError` for other arguments, and
    :class:`CreationCancelledError`.
    """
    while True:
        cancellation.check()
        try:
            found = repository.find_by_id(environment_id)
        except EnvironmentNotFoundError:
            return None
        if not found.has_key_of(new) or new.idempotency is None:
            return None
        if found.idempotency != new.idempotency:
            raise IdempotencyKeyReusedError(new.idempotency.key, environment_id)
        if found.status is not Status.CREATING:
            return found
        if owns(found):
            with suppress(EnvironmentNotFoundError, transitions.PreconditionFailedError):
                fail_interrupted_creation(repository, found)
                continue
        time.sleep(_POLL_INTERVAL_S)
