# SPDX-License-Identifier: Apache-2.0
"""What this process is creating or removing right now, one thread for each environment."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.process import is_gone, this_process


class InHand:
    """The environments that threads of this process work on."""

    def __init__(self) -> None:
        self._threads: Counter[str] = Counter()
        self._changed = threading.Condition()
        register_at_fork(self)

    @contextmanager
    def hold(self, environment_id: str, *, deadline: float = 0.0) -> Iterator[None]:
        """Work on an environment, as soon as no other thread does, or else at the deadline.

        That is a time of ``time.monotonic``. Whoever comes then works beside another one.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: environment_id not in self._threads,
                max(0.0, deadline - time.monotonic()),
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

    def is_in_progress(self, environment: Environment) -> bool:
        """Whether somebody is creating or removing it, a thread of this process or another."""
        if environment.owner is not None and environment.owner == this_process():
            return environment.id in self._threads
        return is_with_others(environment)

    def reset_after_fork(self) -> None:
        """In a child: the threads are the parent's."""
        self._threads = Counter()
        self._changed = threading.Condition()

    def wait_until_idle(self, patience: float) -> bool:
        """Wait until nothing is in hand, for some seconds at most; whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._threads, patience)


def is_with_others(environment: Environment) -> bool:
    """Whether another process is creating or removing an environment."""
    owner = environment.owner
    return owner is not None and owner != this_process() and not is_gone(owner)


#: Of the whole process: its services can share a store.
IN_HAND: Final = InHand()
