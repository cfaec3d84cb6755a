# SPDX-License-Identifier: Apache-2.0
"""MemoryStore: environments in a dict. The reference model that every store is tested against."""

import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import (
    CapacityError,
    ConflictError,
    EnvironmentAlreadyExistsError,
    EnvironmentNotFoundError,
    StoreClosedError,
)
from waggle_fsstore.store import codec, incoming
from waggle_fsstore.store.forking import after_fork


class MemoryStore:
    """Environments in memory, for tests and as a fallback; gone with the process.

    The contract is :class:`~waggle_fsstore.TransactionalRepository`. What a FileStore
    refuses to keep, it refuses too.
    """

    def __init__(self) -> None:
        # Reentrant, because a function passed to update() may read.
        self._lock = threading.RLock()
        self._environments: dict[str, Environment] = {}
        self._last = 0
        self._closed = False
        after_fork(self)

    def find_by_id(self, environment_id: str) -> Environment:
        """See :meth:`TransactionalRepository.find_by_id`."""
        with self._lock:
            return self._find(environment_id).copy()

    def find_all(
        self,
        *,
        on_corrupt: Callable[[Exception], object] | None = None,  # noqa: ARG002  # nothing is
    ) -> list[Environment]:
        """See :meth:`TransactionalRepository.find_all`."""
        with self._lock:
            self._refuse_closed()
            return [self._environments[key].copy() for key in sorted(self._environments)]

    def count(self) -> int:
        """See :meth:`TransactionalRepository.count`."""
        with self._lock:
            self._refuse_closed()
            return len(self._environments)

    def save(self, environment: Environment, *, if_revision: int | None = None) -> int:
        """See :meth:`TransactionalRepository.save`."""
        environment = incoming.checked(environment)
        with self._lock:
            self._refuse_write()
            stored = self._environments.get(environment.id)
            actual = stored.revision if stored else 0
            if if_revision is not None and if_revision != actual:
                raise ConflictError(environment.id, if_revision, actual)
            return self._store([environment])[0]

    def create(self, environment: Environment, *, capacity: int | None = None) -> int:
        """See :meth:`TransactionalRepository.create`."""
        environment = incoming.checked(environment)
        with self._lock:
            self._refuse_write()
            if environment.id in self._environments:
                raise EnvironmentAlreadyExistsError(environment.id)
            if capacity is not None:
                live = sum(other.status.is_live for other in self._environments.values())
                if live >= capacity:
                    raise CapacityError(capacity)
            return self._store([environment])[0]

    def update(self, environment_id: str, change: Callable[[Environment], object]) -> Environment:
        """See :meth:`TransactionalRepository.update`."""
        incoming.refuse_inside(id(self))
        for _ in range(incoming.OPTIMISTIC_TRIES):
            found = self.find_by_id(environment_id)
            changed = incoming.apply(id(self), change, found)
            with self._lock:
                if self._find(environment_id).revision == found.revision:
                    changed.revision = self._store([changed])[0]
                    return changed.copy()
        with self._lock:
            changed = incoming.apply(id(self), change, self._find(environment_id))
            changed.revision = self._store([changed])[0]
            return changed.copy()

    def save_all(self, environments: Iterable[Environment]) -> list[int]:
        """See :meth:`TransactionalRepository.save_all`."""
        batch = incoming.batch(environments)
        with self._lock:
            self._refuse_write()
            return self._store(batch)

    def delete(self, environment_id: str) -> None:
        """See :meth:`TransactionalRepository.delete`."""
        with self._lock:
            self._refuse_write()
            self._find(environment_id)
            del self._environments[environment_id]
            self._last += 1

    def close(self) -> None:
        """See :meth:`TransactionalRepository.close`. What was kept is gone."""
        incoming.refuse_inside(id(self))
        with self._lock:
            self._closed = True
            self._environments.clear()

    def __enter__(self) -> Self:
        self._refuse_closed()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def forget_after_fork(self) -> None:
        """In a child: another thread of the parent may have held the lock."""
        self._lock = threading.RLock()

    def _find(self, environment_id: str) -> Environment:
        self._refuse_closed()
        try:
            return self._environments[environment_id]
        except (KeyError, TypeError):
            raise EnvironmentNotFoundError(environment_id) from None

    def _store(self, environments: list[Environment]) -> list[int]:
        """Keep these copies, all or none. The lock is held."""
        revisions = [self._last + 1 + index for index in range(len(environments))]
        for environment, revision in zip(environments, revisions, strict=True):
            codec.encode(environment, revision)  # Refuses what fits in no document.
            environment.revision = revision
        # The number first, then all at once: an interrupt leaves nothing half done.
        self._last += len(environments)
        self._environments.update({environment.id: environment for environment in environments})
        return revisions

    def _refuse_write(self) -> None:
        incoming.refuse_inside(id(self))
        self._refuse_closed()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreClosedError
