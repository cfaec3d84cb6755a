# SPDX-License-Identifier: Apache-2.0
"""Cancellation: ends a creation from another thread, whatever step it is in."""

import threading
from collections.abc import Callable

from waggle_fsstore.domain.errors import CreationCancelledError


class Cancellation:
    """Cancels the one creation that it is given to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_requested = False
        self._undo: Callable[[], object] | None = None

    @property
    def is_requested(self) -> bool:
        """Whether :meth:`request` was called."""
        return self._is_requested

    def request(self) -> None:
        """End the creation, and destroy the environment if it is stored already.

        The creation then raises :class:`CreationCancelledError`, and leaves neither a record
        nor a workspace. Does nothing for an environment that another call created. Raises what
        :meth:`EnvironmentService.destroy` raises, except that the environment is unknown.
        """
        with self._lock:
            self._is_requested = True
            undo = self._undo
        if undo is not None:
            undo()

    def arm(self, undo: Callable[[], object]) -> None:
        """Let :meth:`request` call ``undo`` from now on.

        Raises :class:`CreationCancelledError`, without calling it, after an earlier request.
        """
        with self._lock:
            self._undo = undo
        self.check()

    def check(self) -> None:
        """Raise :class:`CreationCancelledError` if the cancellation was requested."""
        if self._is_requested:
            raise CreationCancelledError
