# SPDX-License-Identifier: Apache-2.0
"""What every store keeps that outlives its process."""

import threading
from collections.abc import Callable

import pytest

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import (
    ConflictError,
    EnvironmentAlreadyExistsError,
    EnvironmentNotFoundError,
    StoreClosedError,
)
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.testing.contract import run_together
from waggle_fsstore.testing.factories import make_environment

Open = Callable[[], TransactionalRepository]


class PersistenceContract:
    """Subclass it and give it one fixture: ``open_store``.

    It returns a function that opens the same store, at first an empty one, once more;
    several may be open at once.
    """

    def test_found_after_reopening(self, open_store: Open) -> None:
        """What was saved is there for the next one that opens the store, with its revision."""
        environment = make_environment()
        with open_store() as store:
            revision = store.save(environment)
        with open_store() as store:
            assert store.find_by_id(environment.id) == environment
            assert store.find_by_id(environment.id).revision == revision
            assert store.count() == 1

    def test_found_without_closing(self, open_store: Open) -> None:
        """A store that was never closed has lost nothing."""
        environment = make_environment()
        open_store().save(environment)
        assert open_store().find_all() == [environment]

    def test_deleted_after_reopening(self, open_store: Open) -> None:
        """What was deleted stays deleted."""
        with open_store() as store:
            store.save(make_environment(id="a"))
            store.delete("a")
        with open_store() as store, pytest.raises(EnvironmentNotFoundError):
            store.find_by_id("a")

    def test_revisions_rise_across_reopening(self, open_store: Open) -> None:
        """No revision comes again after reopening, also not that of a deleted version."""
        revisions = []
        for _ in range(4):
            with open_store() as store:
                revisions.append(store.save(make_environment(id="a")))
                store.delete("a")
        assert revisions == sorted(set(revisions))

    def test_another_handle_sees_each_change(self, open_store: Open) -> None:
        """Two open stores see each other's changes at once, in both directions."""
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

    def test_conflicts_between_handles(self, open_store: Open) -> None:
        """A revision from one handle means the same to the other."""
        one, two = open_store(), open_store()
        revision = one.create(make_environment(id="a"))
        with pytest.raises(EnvironmentAlreadyExistsError):
            two.create(make_environment(id="a"))
        two.save(make_environment(id="a"), if_revision=revision)
        with pytest.raises(ConflictError):
            one.save(make_environment(id="a"), if_revision=revision)

    def test_updates_from_several_handles(self, open_store: Open) -> None:
        """Of the updates of 4 handles at once none is lost, and no revision comes twice."""
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

    def test_update_sees_the_other_handle(self, open_store: Open) -> None:
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

    def test_one_closed_handle(self, open_store: Open) -> None:
        """Closing one handle leaves the other usable."""
        one, two = open_store(), open_store()
        one.save(make_environment(id="a"))
        one.close()
        two.save(make_environment(id="b"))
        assert two.count() == 2
        with pytest.raises(StoreClosedError):
            one.count()

    def test_two_first_writes_at_once(self, open_store: Open) -> None:
        """Eight handles whose first write founds the store together all succeed."""
        barrier = threading.Barrier(8)

        def work(number: int) -> None:
            store = open_store()
            barrier.wait()
            store.save(make_environment(id=f"env-{number}"))

        run_together(8, work)
        assert open_store().count() == 8
