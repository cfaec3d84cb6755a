# SPDX-License-Identifier: Apache-2.0
"""Grouping: the callers that wait for the lock together, and share a line of the journal."""

import threading
from collections.abc import Callable
from copy import copy
from typing import Any

from waggle_fsstore.domain.audit import Author
from waggle_fsstore.store.write.batch import Transaction, WriteBatch


class Group:
    """The callers that share a line: it is settled for all of them in one step."""

    def __init__(self) -> None:
        self.is_settled = False
        self.failure: Exception | None = None
        self.has_several = False
        #: Whether it failed at the document of one of them, so that the others need not fail.
        self.is_one_to_blame = False


class Call:
    """What one caller wants done, and how that went."""

    def __init__(
        self, work: Callable[[Transaction], Any], author: Author, *, is_alone: bool
    ) -> None:
        self.group: Group | None = None
        self.error: Exception | None = None
        self.value: Any = None
        #: Whether it is to be done by its own thread, and with no other.
        self.is_alone = is_alone
        self._work = work
        self._author = author
        # Who acquires it decides: a leader to do the work, or the caller to give up.
        self.claim = threading.Lock()

    def is_settled(self) -> bool:
        """Whether it is done, or has failed, and nobody will do it again."""
        return self.group is not None and self.group.is_settled

    def join(self, group: Group, batch: WriteBatch) -> None:
        """Do the work, and add what it changes to the batch."""
        self.group = group
        mark = batch.savepoint()
        change = Transaction(batch, self._author)
        self.error = self.value = None
        try:
            self.value = self._work(change)
            self.error = change.error_after_commit
        except Exception as error:  # noqa: BLE001  # It is for another thread, perhaps.
            batch.rollback_to(mark)
            self.error = error

    def result(self, *, is_leader: bool) -> Any:
        """What the work returned or raised, or why the whole group failed."""
        failure = self.error
        if self.group is not None and self.group.failure is not None:
            failure = self.group.failure
        if failure is None:
            return self.value
        # Two threads that raise one object would mix up its traceback.
        raise failure if is_leader else copy(failure)
