# SPDX-License-Identifier: Apache-2.0
"""The environments that threads of this process are creating or removing now."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.process import is_gone, this_process


class InProgress:
    """The ids of the environments that threads of this process are creating or removing."""

    def __init__(self) -> None:
        self._threads: Counter[str] = Counter()
        self._changed = threading.Condition()
        register_at_fork(self)

    @contextmanager
    def hold(self, environment_id: str, *, deadline: float = 0.0) -> Iterator[None]:
        """Hold an environment for the block, once no other thread holds it.

        After ``deadline``, a time of :func:`~waggle_fsstore.domain.clock.monotonic`, the block
        runs anyway, concurrently with that of the other thread.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: environment_id not in self._threads, max(0.0, deadline - monotonic())
            )
            self._threads[environment_id] += 1
        try:
            yield
        finally:
            with self._changed:
                self._threads[environment_id] -= 1
                if not self._threads[environment_id]:
                    del self._threads[environment_id]
                self._changed.notify_all()

    def includes(self, environment: Environment) -> bool:
        """Return whether a thread of any process is creating or removing an environment."""
        if environment.owner is not None and environment.owner == this_process():
            return environment.id in self._threads
        return is_owned_elsewhere(environment)

    def reset_after_fork(self) -> None:
        """Forget the threads of the parent, which do not exist in a forked child."""
        self._threads = Counter()
        self._changed = threading.Condition()

    def wait_until_empty(self, timeout: float) -> bool:
        """Wait ``timeout`` seconds until no environment is held; return whether that happened."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._threads, timeout)


def is_owned_elsewhere(environment: Environment) -> bool:
    """Return whether the owner is another process, which may be alive."""
    owner = environment.owner
    return owner is not None and owner != this_process() and not is_gone(owner)


#: One for each process, because several of its services can share a store.
IN_PROGRESS: Final = InProgress()
