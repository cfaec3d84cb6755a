# SPDX-License-Identifier: Apache-2.0
"""The contract of ``audit``: the actor and reason of each change."""

import threading

from waggle_fsstore.domain.audit import audit, current_author
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.event import EventKind
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.testing.factories import make_environment
from waggle_fsstore.testing.repository import run_together


class AuthorContract:
    """The part of :class:`HistoryContract` that is about ``audit``."""

    def test_default_author_outside_blocks(self, repository: TransactionalRepository) -> None:
        """A change outside all blocks has the default author, even in a new thread."""
        repository.save(make_environment(id="a"))
        with audit(actor="maja", reason="not inherited"):
            thread = threading.Thread(target=repository.delete, args=["a"])
            thread.start()
            thread.join()
        events = list(repository.history())
        assert [(event.actor, event.reason) for event in events] == [current_author()] * 2

    def test_innermost_block_gives_author(self, repository: TransactionalRepository) -> None:
        """Each change has the author of its innermost block, completed from the outer ones."""
        with audit(actor="outer", reason="first"):
            repository.save(make_environment(id="a"))
            with audit(reason="second"):
                repository.update("a", Environment.touch)
            with audit(actor="inner"):
                repository.save_all([make_environment(id="a")])
            repository.delete("a")
        assert [(event.actor, event.reason) for event in repository.history()] == [
            ("outer", "first"),
            ("outer", "second"),
            ("inner", "first"),
            ("outer", "first"),
        ]

    def test_author_of_any_text_is_unchanged(self, repository: TransactionalRepository) -> None:
        """Special characters and texts of maximum length come back unchanged."""
        texts = ["a" * 200, "\U0001f41d" * 200, ' "\\\n\r\x1b\x7f\u2028', "e\u0301 \ufeff"]
        for text in texts:
            with audit(actor=text, reason=text * 10):
                repository.save(make_environment())
        assert [(event.actor, event.reason) for event in repository.history()] == [
            (text, text * 10) for text in texts
        ]

    def test_event_has_author_of_its_thread(self, repository: TransactionalRepository) -> None:
        """When 8 threads change the store together, each event has the author of its own thread."""
        workers, rounds = 8, 5
        # With a timeout, so that a failing thread does not block the others for ever.
        barrier = threading.Barrier(workers, timeout=30)

        def work(number: int) -> None:
            name = f"worker-{number}"
            for _ in range(rounds):
                with audit(actor=name, reason=f"{name} created"):
                    barrier.wait()
                    repository.create(make_environment(id=name))
                with audit(actor=name, reason=f"{name} updated"):
                    barrier.wait()
                    repository.update(name, Environment.touch)
                with audit(actor=name, reason=f"{name} deleted"):
                    barrier.wait()
                    repository.delete(name)

        run_together(workers, work)
        events = list(repository.history())
        for event in events:
            assert event.actor == event.environment_id
            assert event.reason == f"{event.environment_id} {event.kind}"
        kinds = [EventKind.CREATED, EventKind.UPDATED, EventKind.DELETED] * rounds
        for number in range(workers):
            assert [event.kind for event in repository.history(f"worker-{number}")] == kinds
        assert len(events) == workers * len(kinds)
