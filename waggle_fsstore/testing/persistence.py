# SPDX-License-Identifier: Apache-2.0
"""The contract of every store that outlives its process."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from waggle_fsstore.domain.audit import audit
from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import (
    ConflictError,
    EnvironmentAlreadyExistsError,
    EnvironmentNotFoundError,
    StoreClosedError,
)
from waggle_fsstore.domain.event import Event
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.testing.factories import make_environment
from waggle_fsstore.testing.repository import run_together
from waggle_fsstore.testing.watch import TIMEOUT_S

Open = Callable[[], TransactionalRepository]


class PersistenceContract:
    """Subclass it and define one fixture: ``open_store``.

    It returns a function that opens the same store again; that is empty at first. Several
    may be open at the same time.
    """

    def test_saved_environment_survives_reopening(self, open_store: Open) -> None:
        """A saved environment is found after the store is opened again, with its revision."""
        environment = make_environment()
        with open_store() as store:
            revision = store.save(environment)
        with open_store() as store:
            assert store.find_by_id(environment.id) == environment
            assert store.find_by_id(environment.id).revision == revision
            assert store.count() == 1

    def test_saved_environment_survives_missing_close(self, open_store: Open) -> None:
        """A store that was never closed has lost nothing."""
        environment = make_environment()
        open_store().save(environment)
        assert open_store().find_all() == [environment]

    def test_deletion_survives_reopening(self, open_store: Open) -> None:
        """A deleted environment stays deleted after the store is opened again."""
        with open_store() as store:
            store.save(make_environment(id="a"))
            store.delete("a")
        with open_store() as store, pytest.raises(EnvironmentNotFoundError):
            store.find_by_id("a")

    def test_revisions_rise_across_reopening(self, open_store: Open) -> None:
        """No revision is used again after reopening, not even that of a deleted version."""
        revisions = []
        for _ in range(4):
            with open_store() as store:
                revisions.append(store.save(make_environment(id="a")))
                store.delete("a")
        assert revisions == sorted(set(revisions))

    def test_other_handle_sees_each_change(self, open_store: Open) -> None:
        """Two handles of a store see each other's changes at once."""
        one, two = open_store(), open_store()
        environment = make_environment(id="a")
        one.save(environment)
        assert two.find_by_id("a") == environment
        two.update("a", lambda copy: copy.labels.update(seen="two"))
        assert one.find_by_id("a").labels["seen"] == "two"
        one.delete("a")
        assert two.count() == 0
        with pytest.raises(EnvironmentNotFoundError):
            two.delete("a")

    def test_revisions_are_shared_between_handles(self, open_store: Open) -> None:
        """A revision from one handle has the same meaning in another one."""
        one, two = open_store(), open_store()
        revision = one.create(make_environment(id="a"))
        with pytest.raises(EnvironmentAlreadyExistsError):
            two.create(make_environment(id="a"))
        two.save(make_environment(id="a"), if_revision=revision)
        with pytest.raises(ConflictError):
            one.save(make_environment(id="a"), if_revision=revision)

    def test_updates_of_several_handles_are_all_kept(self, open_store: Open) -> None:
        """No concurrent update of 4 handles is lost, and no revision is used twice."""
        stores = [open_store() for _ in range(4)]
        stores[0].save(make_environment(id="a", ssh_port=0))
        barrier = threading.Barrier(4)
        revisions: list[int] = []

        def work(number: int) -> None:
            barrier.wait()
            for _ in range(25):
                updated = stores[number].update(
                    "a", lambda copy: setattr(copy, "ssh_port", copy.ssh_port + 1)
                )
                revisions.append(updated.revision)

        run_together(4, work)
        assert stores[0].find_by_id("a").ssh_port == 100
        assert sorted(revisions) == list(range(2, 102))

    def test_update_runs_again_after_write_of_other_handle(self, open_store: Open) -> None:
        """A write by another handle during an update makes ``change`` run again."""
        one, two = open_store(), open_store()
        one.save(make_environment(id="a", ssh_port=1))
        seen: list[int] = []

        def change(copy: Environment) -> None:
            if not seen:
                writer = threading.Thread(
                    target=two.save, args=[make_environment(id="a", ssh_port=2)]
                )
                writer.start()
                writer.join()
            seen.append(copy.ssh_port)

        one.update("a", change)
        assert seen == [1, 2]

    def test_closed_handle_leaves_other_open(self, open_store: Open) -> None:
        """Closing one handle leaves the other usable."""
        one, two = open_store(), open_store()
        one.save(make_environment(id="a"))
        one.close()
        two.save(make_environment(id="b"))
        assert two.count() == 2
        with pytest.raises(StoreClosedError):
            one.count()

    def test_concurrent_first_writes_all_succeed(self, open_store: Open) -> None:
        """Eight handles whose first writes initialize the store concurrently all succeed."""
        barrier = threading.Barrier(8)

        def work(number: int) -> None:
            store = open_store()
            barrier.wait()
            store.save(make_environment(id=f"env-{number}"))

        run_together(8, work)
        assert open_store().count() == 8

    def test_history_survives_reopening(self, open_store: Open) -> None:
        """The history is available after the store is opened again, with every field unchanged."""
        with open_store() as store:
            _change_all(store)
            expected = list(store.history())
            revisions = [event.environment and event.environment.revision for event in expected]
        for _ in range(2):
            with open_store() as store:
                events = list(store.history())
                assert events == expected
                assert revisions == [
                    event.environment and event.environment.revision for event in events
                ]
                assert list(store.history("b", after=2)) == expected[3:4]
                assert list(store.watch(after=0, timeout=0)) == expected
        with open_store() as store:
            store.save(make_environment(id="a"))
            *before, event = store.history()
            assert before == expected
            assert event.previous_status == Status.ERROR

    def test_history_survives_missing_close(self, open_store: Open) -> None:
        """A store that was never closed has lost none of its history."""
        store = open_store()
        _change_all(store)
        assert list(open_store().history()) == list(store.history())

    def test_history_includes_changes_of_other_handle(self, open_store: Open) -> None:
        """Each handle shows the changes of the other at once, with their authors."""
        one, two = open_store(), open_store()
        assert list(two.history()) == []
        with audit(actor="one", reason="made"):
            one.save(make_environment(id="a"))
        assert [event.actor for event in two.history()] == ["one"]
        with audit(actor="two", reason="gone"):
            two.delete("a")
        assert list(one.history()) == list(two.history())
        assert [(event.actor, event.reason) for event in one.history("a")] == [
            ("one", "made"),
            ("two", "gone"),
        ]

    def test_watch_sees_each_change_of_other_handle(self, open_store: Open) -> None:
        """A waiting watch yields each change of another handle before the next change."""
        one, two = open_store(), open_store()
        seen: list[Event] = []
        arrived = threading.Semaphore(0)

        def follow(watch: Iterator[Event]) -> None:
            for _ in range(10):
                seen.append(next(watch))
                arrived.release()

        with ThreadPoolExecutor(1) as pool:
            # Started before the store has any files.
            follower = pool.submit(follow, one.watch(timeout=TIMEOUT_S))
            for number in range(10):
                two.save(make_environment(id=f"env-{number}"))
                assert arrived.acquire(timeout=TIMEOUT_S)
            follower.result(TIMEOUT_S)
        assert seen == list(two.history())

    def test_watches_of_all_handles_see_same_events(self, open_store: Open) -> None:
        """Watches of 3 handles each see all concurrent changes of all handles, in one order."""
        stores = [open_store() for _ in range(3)]
        watches = [store.watch(timeout=TIMEOUT_S) for store in stores]
        barrier = threading.Barrier(3, timeout=TIMEOUT_S)

        def work(number: int) -> None:
            barrier.wait()
            for _ in range(20):
                stores[number].save(make_environment(id=f"env-{number}"))

        run_together(3, work)
        for watch in watches:
            assert [next(watch) for _ in range(60)] == list(stores[0].history())

    def test_close_ends_only_watches_of_its_handle(self, open_store: Open) -> None:
        """Closing a handle ends its watch, and leaves that of another handle running."""
        one, two = open_store(), open_store()
        watches = [store.watch(timeout=TIMEOUT_S) for store in (one, two)]
        one.close()
        two.save(make_environment(id="a"))
        with pytest.raises(StoreClosedError):
            next(watches[0])
        assert next(watches[1]).environment_id == "a"


def _change_all(store: TransactionalRepository) -> None:
    """Make a change of each kind, each by another author."""
    with audit(actor="maja", reason="created"):
        store.create(make_environment(id="a", status=Status.CREATING))
    with audit(actor="willi", reason="two \U0001f41d"):
        store.save_all([make_environment(id="b"), make_environment(id="a", status=Status.ERROR)])
    with audit(actor="reaper", reason=""):
        store.delete("b")
