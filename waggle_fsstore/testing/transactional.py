# SPDX-License-Identifier: Apache-2.0
"""What every transactional repository keeps beyond the five methods."""

import threading
from collections.abc import Iterator
from typing import NoReturn

import pytest

from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import (
    CapacityError,
    ConflictError,
    EnvironmentAlreadyExistsError,
    EnvironmentNotFoundError,
    InvalidEnvironmentError,
    StoreClosedError,
)
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.testing.contract import RepositoryContract, run_together
from waggle_fsstore.testing.factories import make_environment

_LIVE = (Status.CREATING, Status.RUNNING, Status.DESTROYING)
_DEAD = (Status.DESTROYED, Status.ERROR)


class TransactionalContract(RepositoryContract):
    """Subclass it and give it one fixture: ``repository``, an empty store."""

    def test_create(self, repository: TransactionalRepository) -> None:
        """An absent one is stored as by save, with its revision returned."""
        environment = make_environment()
        assert repository.create(environment) == 1
        assert repository.find_by_id(environment.id) == environment

    def test_create_existing(self, repository: TransactionalRepository) -> None:
        """An id that is stored is refused, and its version stays."""
        environment = make_environment()
        repository.create(environment)
        with pytest.raises(EnvironmentAlreadyExistsError) as caught:
            repository.create(make_environment(id=environment.id))
        assert caught.value.environment_id == environment.id
        assert repository.find_by_id(environment.id) == environment

    def test_create_within_capacity(self, repository: TransactionalRepository) -> None:
        """Live ones count towards the capacity, those in error or destroyed do not."""
        for status in (*_LIVE, *_DEAD):
            repository.save(make_environment(status=status))
        with pytest.raises(CapacityError) as caught:
            repository.create(make_environment(), capacity=3)
        assert caught.value.capacity == 3
        assert repository.count() == 5
        repository.create(make_environment(), capacity=4)
        assert repository.count() == 6

    def test_existing_wins_over_capacity(self, repository: TransactionalRepository) -> None:
        """Where both apply, the caller hears that the id exists."""
        environment = make_environment()
        repository.create(environment)
        with pytest.raises(EnvironmentAlreadyExistsError):
            repository.create(environment, capacity=0)

    def test_capacity_is_never_overshot(self, repository: TransactionalRepository) -> None:
        """20 creates at once with room for 10 store exactly 10."""
        barrier = threading.Barrier(20)
        refused: list[CapacityError] = []

        def work(_: int) -> None:
            environment = make_environment()
            barrier.wait()
            try:
                repository.create(environment, capacity=10)
            except CapacityError as error:
                refused.append(error)

        run_together(20, work)
        assert repository.count() == 10
        assert len(refused) == 10

    def test_create_once(self, repository: TransactionalRepository) -> None:
        """Of 10 creates of one id at once, exactly one succeeds."""
        barrier = threading.Barrier(10)
        created: list[int] = []
        refused: list[EnvironmentAlreadyExistsError] = []

        def work(number: int) -> None:
            environment = make_environment(id="one", ssh_port=number)
            barrier.wait()
            try:
                repository.create(environment)
                created.append(number)
            except EnvironmentAlreadyExistsError as error:
                refused.append(error)

        run_together(10, work)
        assert len(refused) == 9
        assert [repository.find_by_id("one").ssh_port] == created

    def test_save_if_revision(self, repository: TransactionalRepository) -> None:
        """The expected revision is replaced; any other one is a conflict that changes nothing."""
        environment = make_environment()
        first = repository.save(environment)
        environment.status_reason = "second"
        second = repository.save(environment, if_revision=first)
        stale = make_environment(id=environment.id)
        with pytest.raises(ConflictError) as caught:
            repository.save(stale, if_revision=first)
        error = caught.value
        assert (error.environment_id, error.expected, error.actual) == (
            environment.id,
            first,
            second,
        )
        assert repository.find_by_id(environment.id) == environment

    def test_save_if_absent(self, repository: TransactionalRepository) -> None:
        """Revision 0 stands for absent."""
        environment = make_environment()
        with pytest.raises(ConflictError) as caught:
            repository.save(environment, if_revision=5)
        assert (caught.value.expected, caught.value.actual) == (5, 0)
        assert repository.count() == 0
        repository.save(environment, if_revision=0)
        with pytest.raises(ConflictError):
            repository.save(environment, if_revision=0)

    def test_save_if_revision_after_delete(self, repository: TransactionalRepository) -> None:
        """A deleted version is not replaced: nobody brings back what was destroyed."""
        environment = make_environment()
        revision = repository.save(environment)
        repository.delete(environment.id)
        with pytest.raises(ConflictError):
            repository.save(environment, if_revision=revision)
        assert repository.count() == 0

    def test_update(self, repository: TransactionalRepository) -> None:
        """The change is stored, and the stored copy returned with its revision."""
        environment = make_environment()
        repository.save(environment)

        def change(copy: Environment) -> str:
            copy.labels["seen"] = "yes"
            return "ignored"

        updated = repository.update(environment.id, change)
        assert updated.labels == {**environment.labels, "seen": "yes"}
        assert updated.revision == 2
        assert repository.find_by_id(environment.id) == updated
        assert repository.find_by_id(environment.id).revision == 2

    def test_update_shares_nothing(self, repository: TransactionalRepository) -> None:
        """Neither what ``change`` was given nor what ``update`` returned leads into the store."""
        repository.save(make_environment(id="a"))
        given: list[Environment] = []
        returned = repository.update("a", given.append)
        expected = repository.find_by_id("a")
        for leak in (*given, returned):
            leak.labels["leak"] = "yes"
            leak.extra["colour"].append("leak")
        assert repository.find_by_id("a") == expected

    def test_update_missing(self, repository: TransactionalRepository) -> None:
        """What is not stored is not updated, and ``change`` does not run."""
        with pytest.raises(EnvironmentNotFoundError):
            repository.update("missing", _never)

    def test_update_that_raises(self, repository: TransactionalRepository) -> None:
        """What ``change`` raises is passed on, and nothing is stored."""
        repository.save(make_environment(id="a"))
        with pytest.raises(ZeroDivisionError):
            repository.update("a", lambda copy: 1 // (copy.ssh_port - copy.ssh_port))
        assert repository.find_by_id("a").revision == 1
        repository.update("a", Environment.touch)

    def test_update_may_not_change_the_id(self, repository: TransactionalRepository) -> None:
        """An update cannot move a version to another id."""
        repository.save(make_environment(id="a"))
        with pytest.raises(InvalidEnvironmentError) as caught:
            repository.update("a", lambda copy: setattr(copy, "id", "b"))
        assert caught.value.field == "id"
        assert [found.id for found in repository.find_all()] == ["a"]

    def test_update_with_an_invalid_value(self, repository: TransactionalRepository) -> None:
        """The result of a change is checked like anything that is saved."""
        repository.save(make_environment(id="a"))
        with pytest.raises(InvalidEnvironmentError) as caught:
            repository.update("a", lambda copy: setattr(copy, "ssh_port", 70_000))
        assert caught.value.field == "ssh_port"
        assert repository.find_by_id("a").revision == 1

    def test_update_loses_no_change(self, repository: TransactionalRepository) -> None:
        """Of 200 updates in 8 threads each is in the result."""
        repository.save(make_environment(id="a", ssh_port=0))
        barrier = threading.Barrier(8)

        def work(_: int) -> None:
            barrier.wait()
            for _ in range(25):
                repository.update("a", lambda copy: setattr(copy, "ssh_port", copy.ssh_port + 1))

        run_together(8, work)
        assert repository.find_by_id("a").ssh_port == 200

    def test_update_runs_again_on_what_it_missed(self, repository: TransactionalRepository) -> None:
        """A version stored meanwhile is not overwritten: ``change`` runs again on it."""
        repository.save(make_environment(id="a", ssh_port=1))
        seen: list[int] = []

        def change(copy: Environment) -> None:
            seen.append(copy.ssh_port)
            if len(seen) == 1:
                other = threading.Thread(
                    target=repository.save, args=[make_environment(id="a", ssh_port=2)]
                )
                other.start()
                other.join()
            copy.status_reason = "changed"

        updated = repository.update("a", change)
        assert seen == [1, 2]
        assert (updated.ssh_port, updated.status_reason) == (2, "changed")

    def test_update_does_not_resurrect(self, repository: TransactionalRepository) -> None:
        """An environment that is deleted during its update stays deleted."""
        repository.save(make_environment(id="a"))

        def change(_: Environment) -> None:
            other = threading.Thread(target=repository.delete, args=["a"])
            other.start()
            other.join()

        with pytest.raises(EnvironmentNotFoundError):
            repository.update("a", change)
        assert repository.count() == 0

    def test_update_against_all_odds(self, repository: TransactionalRepository) -> None:
        """An update that conflicts again and again gets its turn in the end."""
        repository.save(make_environment(id="a", ssh_port=0))
        runs: list[int] = []
        writers: list[threading.Thread] = []

        def change(copy: Environment) -> None:
            runs.append(copy.ssh_port)
            writer = threading.Thread(
                target=repository.save, args=[make_environment(id="a", ssh_port=len(runs))]
            )
            writer.start()
            # The last run holds the lock: its writer has to wait until after it.
            writer.join(timeout=0.2)
            writers.append(writer)

        updated = repository.update("a", change)
        for writer in writers:
            writer.join()
        assert updated.ssh_port == runs[-1]
        assert repository.find_by_id("a").ssh_port == len(runs)

    @pytest.mark.parametrize("write", ["save", "create", "save_all", "delete", "update"])
    def test_update_refuses_to_write_inside(
        self, repository: TransactionalRepository, write: str
    ) -> None:
        """A write to the same store from inside ``change`` raises, and reading works."""
        repository.save(make_environment(id="a"))
        arguments: dict[str, list[object]] = {
            "save": [make_environment()],
            "create": [make_environment()],
            "save_all": [[make_environment()]],
            "delete": ["a"],
            "update": ["a", _never],
        }

        def change(copy: Environment) -> None:
            assert repository.find_by_id("a").id == copy.id
            assert len(repository.find_all()) == repository.count() == 1
            getattr(repository, write)(*arguments[write])

        with pytest.raises(RuntimeError, match="update"):
            repository.update("a", change)
        assert [found.revision for found in repository.find_all()] == [1]
        repository.save(make_environment(id="a"))

    def test_save_all(self, repository: TransactionalRepository) -> None:
        """Any iterable is stored, new and stored ids alike, and the revisions returned."""
        old = make_environment()
        repository.save(old)
        batch = [make_environment(), make_environment(id=old.id), make_environment()]
        assert repository.save_all(environment for environment in batch) == [2, 3, 4]
        assert repository.find_all() == sorted(batch, key=lambda environment: environment.id)

    def test_save_all_of_nothing(self, repository: TransactionalRepository) -> None:
        """An empty batch is fine."""
        assert repository.save_all([]) == []
        assert repository.count() == 0

    def test_save_all_with_a_repeated_id(self, repository: TransactionalRepository) -> None:
        """An id that comes twice is refused before anything is written."""
        batch = [make_environment(id="a"), make_environment(id="b"), make_environment(id="a")]
        with pytest.raises(ValueError, match="twice"):
            repository.save_all(batch)
        assert repository.count() == 0

    def test_save_all_with_an_invalid_one(self, repository: TransactionalRepository) -> None:
        """One invalid environment, and none is stored: neither before nor after it."""
        bad = make_environment()
        bad.ssh_port = -1
        too_large = make_environment()
        too_large.extra["x"] = "y" * (1 << 20)
        for refused in (bad, too_large):
            with pytest.raises(InvalidEnvironmentError):
                repository.save_all([make_environment(), refused, make_environment()])
        assert repository.count() == 0

    def test_save_all_from_an_iterable_that_raises(
        self, repository: TransactionalRepository
    ) -> None:
        """An iterable that fails half-way stores nothing."""

        def half() -> Iterator[Environment]:
            yield make_environment()
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            repository.save_all(half())
        assert repository.count() == 0

    def test_find_all_with_a_callback(self, repository: TransactionalRepository) -> None:
        """Where nothing is bad, the callback is not called."""
        environment = make_environment()
        repository.save(environment)
        assert repository.find_all(on_corrupt=_never) == [environment]

    def test_close(self, repository: TransactionalRepository) -> None:
        """After close, every call raises but close itself."""
        environment = make_environment(id="a")
        with repository as entered:
            assert entered is repository
            repository.save(environment)
        repository.close()
        calls = (
            lambda: repository.save(environment),
            lambda: repository.find_by_id("a"),
            lambda: repository.find_all(),
            lambda: repository.delete("a"),
            lambda: repository.count(),
            lambda: repository.create(make_environment()),
            lambda: repository.update("a", _never),
            lambda: repository.save_all([environment]),
        )
        for call in calls:
            with pytest.raises(StoreClosedError):
                call()


def _never(_: object) -> NoReturn:
    raise AssertionError("must not be called")
